"""Tables and figures of the EEG study, from records alone."""

from dataclasses import replace
from itertools import product
from types import MappingProxyType

import numpy as np
import pandas as pd
from companion.statistics import (
    NOT_RUN,
    against_published,
    chance_interval,
    claim_row,
    effect,
    estimate,
    holm,
    mean_sd,
    verdict,
)
from companion.style import percent
from papers.shin2023.study import (
    BACKBONES,
    CLAIMS,
    METHODS,
    PROBLEMS,
    PROPOSED,
    PUBLISHED,
    PUBLISHED_SPARSITY,
    SPARSITIES,
    TASKS,
    rivals,
    sparsities_of,
)
from scipy.stats import spearmanr
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.saliency import prunable

GAP = " gap"  # after a task's name: accuracy on the trials trained on, minus that on unseen ones
SHORT = {claim.id: claim.short for claim in CLAIMS}
METRICS = {"accuracy": "accuracy", "f1": "macro F1", "kappa": "Cohen's kappa"}


def frame(records):
    """One row for each record and task (DataFrame): who, what, how sparse, how good."""
    rows = []
    for r in records:
        p, result = r.spec.params, r.result
        base = {
            "hash": r.hash, "method": r.spec.method, "sparsity": p["sparsity"], "subject": p["subject"],
            "problem": p["problem"], "seed": r.spec.seed, "backbone": p["backbone"], "labels": p["labels"],
            "classes": len(result["data"]["classes"]), "weights": result.get("weights", {}).get("whole", np.nan),
        } | {f"realised_{k}": v for k, v in result.get("sparsity", {}).items()}  # fmt: skip
        for task in TASKS:
            metrics = {k.removeprefix(f"{task}_"): v for k, v in result["metrics"].items() if k.startswith(task)}
            trials = np.array(result["data"]["trials"][task])
            counts = {"trials": trials.sum(), "commonest": trials.max() / trials.sum()}
            counts["recordings"] = len(result["data"]["runs"][task])
            confusion = np.sum(result["confusion"][task], axis=0)  # of all folds, a row for each true class
            metrics["balanced"] = np.mean(confusion.diagonal() / confusion.sum(axis=1))
            rows.append(base | {"task": task} | counts | metrics)
    return pd.DataFrame(rows)


def select(table, problem):
    """Rows of one problem, on true labels."""
    if table.empty:
        return table
    return table[(table.problem == problem) & (table.labels == "true")]


def per_subject(table, metric="accuracy"):
    """Mean over seeds: Series indexed by task, method, sparsity, subject."""
    return table.groupby(["task", "method", "sparsity", "subject"])[metric].mean()


def cell(values, task, method, sparsity):
    """Values of one cell by subject (Series); sparsity 0 of a sparse method is the dense network."""
    if sparsity == 0 and METHODS[method].sparse:
        method = "dense-single" if method == "snip-single" else "dense-multi"
    try:
        return values.loc[(task, method, sparsity)]
    except KeyError:
        return pd.Series(dtype=float)


def grid():
    """(method, sparsity) of every row of Table 1, in its order."""
    return [(method, sparsity) for method in METHODS for sparsity in sparsities_of(method)]


def table1(records, problem):
    """Table 1: a row for each method and sparsity; for each task accuracy and F1, mean and sd over subjects.

    Returns a DataFrame of text; cells without a record say "not run". The published cells stand in their own
    columns, on the row that they belong to.
    """
    table = select(frame(records), problem)
    columns = [(task, metric) for task in TASKS for metric in ("accuracy", "f1")]
    values = {m: per_subject(table, m) for m in ("accuracy", "f1")} if len(table) else {}
    realised = table.groupby(["method", "sparsity"])["realised_whole"].mean() if "realised_whole" in table else {}
    rows, index = [], []
    for method, sparsity in grid():
        row = {("sparsity", "realised"): percent(realised.get((method, sparsity), np.nan))}
        for task, metric in columns:
            ours = cell(values[metric], task, method, sparsity) if values else ()
            row[(TASKS[task], METRICS[metric])] = mean_sd(ours)
            if (task, metric) in PUBLISHED:
                here = method == PROPOSED and sparsity == PUBLISHED_SPARSITY
                row[(TASKS[task], f"published {METRICS[metric]}")] = f"{PUBLISHED[task, metric]:g}" if here else ""
        rows.append(row)
        index.append((METHODS[method].label, percent(sparsity)))
    out = pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=["method", "nominal sparsity"]))
    out.columns = pd.MultiIndex.from_tuples(out.columns)
    return out


def published_beside_ours(records, problem):
    """The published cells beside ours (DataFrame): mean, sd and interval over subjects, see `against_published`."""
    table, rows = select(frame(records), problem), []
    for (task, metric), published in PUBLISHED.items():
        e = estimate(cell(per_subject(table, metric), task, PROPOSED, PUBLISHED_SPARSITY) if len(table) else ())
        difference, units, word = against_published(e, published)
        rows.append(
            {
                "task": TASKS[task], "metric": METRICS[metric], "published": published,
                "ours": e.mean, "against published": word, "95 % from": e.low, "to": e.high, "sd": e.sd,
                "difference": difference, "in standard errors": units,
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index(["task", "metric"])


def chance(records):
    """Chance level beside a run on shuffled labels (DataFrame): one row for each problem, method and task.

    `guessing` is the 95 % range of guessers with as many test trials as all subjects gave together, see
    `chance_interval`; `commonest class` is that class's mean share of a subject's trials.
    """
    table, rows = frame(records), []
    shuffled = table[table.labels == "shuffled"] if len(table) else table
    if shuffled.empty:
        return pd.DataFrame(columns=["chance", "commonest class", "guessing", "shuffled labels", "lands on it"])
    for (problem, method, task), group in shuffled.groupby(["problem", "method", "task"]):
        people = group.groupby("subject").agg({"accuracy": "mean", "trials": "first", "commonest": "first"})
        mean, commonest = (np.average(people[name], weights=people.trials) for name in ("accuracy", "commonest"))
        classes = group.classes.iloc[0]
        low, high = chance_interval(people.trials.sum(), classes, commonest)
        rows.append(
            {
                "problem": problem, "method": METHODS[method].label, "task": TASKS[task], "chance": 1 / classes,
                "commonest class": commonest, "guessing": f"{low:.3f} to {high:.3f}", "shuffled labels": mean,
                "lands on it": "yes" if low <= mean <= high else "no",
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index(["problem", "method", "task"])


def comparisons(records, problem):
    """Accuracy of the proposed method minus each other one at 40 %, paired over subjects (DataFrame).

    Mean difference, 95 % interval, d_z, Wilcoxon's p and p after Holm's correction over all rows.
    """
    table, rows = select(frame(records), problem), []
    if table.empty:
        return pd.DataFrame()
    values = per_subject(table)
    for task, method in product(TASKS, METHODS):
        if method == PROPOSED:
            continue
        other = cell(values, task, method, PUBLISHED_SPARSITY if METHODS[method].sparse else 0.0)
        found = effect((cell(values, task, PROPOSED, PUBLISHED_SPARSITY) - other).dropna())
        if found.n:
            rows.append({"task": TASKS[task], "against": METHODS[method].label, **vars(found)})
    if not rows:
        return pd.DataFrame()
    out = pd.DataFrame(rows).set_index(["task", "against"])
    out["p (Holm)"] = holm(out.p)
    return out


# Quantities of the claims: accuracy differences by subject (Series), above zero where the claim holds; a dict of them
# where the claim speaks of several. They are made of the values of one of the `VIEWS`.


def _both(values, method, sparsity, of=""):
    """Mean of both tasks' accuracies by subject, or of another value of a task."""
    return sum(cell(values, task + of, method, sparsity) for task in TASKS) / len(TASKS)


def multitask_gain(values):
    """Dense multi-task minus dense single-task, mean of the tasks."""
    return _both(values, "dense-multi", 0.0) - _both(values, "dense-single", 0.0)


def sparse_gain(values):
    """Proposed at 40 % minus dense multi-task, mean of the tasks."""
    return _both(values, PROPOSED, PUBLISHED_SPARSITY) - _both(values, "dense-multi", 0.0)


def less_overfitting(values):
    """Accuracy on training minus on unseen trials, dense multi-task minus proposed at 40 %, mean of the tasks."""
    return _both(values, "dense-multi", 0.0, GAP) - _both(values, PROPOSED, PUBLISHED_SPARSITY, GAP)


def lead_over_rivals(values):
    """Proposed minus each other pruning method at each sparsity, mean of the tasks; the weakest part decides."""
    return {
        f"{METHODS[m].label}, {percent(s)}": _both(values, PROPOSED, s) - _both(values, m, s)
        for s, m in product(SPARSITIES[1:], rivals())
    }


def robustness(values, without=None):
    """Change of the proposed from dense to 80 % minus the mean change of the rivals."""
    changes = [_change(values, m) for m in rivals() if m != without]
    return _change(values, PROPOSED) - sum(changes) / len(changes)


def _change(values, method):
    """From dense to the highest sparsity."""
    return _both(values, method, SPARSITIES[-1]) - _both(values, method, 0.0)


def best_at_40(values):
    """Proposed at 40 % minus each of its other sparsities, dense included; the weakest part decides."""
    here = _both(values, PROPOSED, PUBLISHED_SPARSITY)
    others = [s for s in SPARSITIES if s != PUBLISHED_SPARSITY]
    return {f"over {percent(s)}": here - _both(values, PROPOSED, s) for s in others}


def execution_above_imagery(values):
    """Execution minus imagery for the proposed at each sparsity; the weakest part decides."""
    return {f"at {percent(s)}": cell(values, "me", PROPOSED, s) - cell(values, "mi", PROPOSED, s) for s in SPARSITIES}


def _published_values():
    """The published accuracies in the form of `per_subject`."""
    values = {(t, PROPOSED, PUBLISHED_SPARSITY, 0): v for (t, metric), v in PUBLISHED.items() if metric == "accuracy"}
    return pd.Series(values).rename_axis(["task", "method", "sparsity", "subject"]).sort_index()


def _values(table, metric="accuracy"):
    """`per_subject` of a metric by task, and of the tasks' gaps (see `GAP`), which are always of accuracy."""
    gap = table.get("train_accuracy", np.nan) - table.accuracy
    gaps = per_subject(table.assign(gap=gap, task=table.task + GAP), "gap")
    return pd.concat([per_subject(table, metric), gaps]).sort_index()


def _exact_budget(table):
    """The exact-budget masks in the place of the proposed ones, as large as their rivals' where all tasks share."""
    return _values(table[table.method != PROPOSED].replace({"method": {"budget": PROPOSED}}))


def _complete(table):
    """Values of the subjects who lack no recording: their tasks and classes have the same numbers of trials."""
    fewest = table.groupby("subject").recordings.min()
    return _values(table[table.subject.isin(fewest.index[fewest == table.recordings.max()])])


# What the claims can be asked of, in words: accuracy as the paper reports it, or with one choice made otherwise
AS_JUDGED = "as judged"
VIEWS = MappingProxyType(
    {
        AS_JUDGED: _values,
        "the exact budget": _exact_budget,
        "balanced accuracy": lambda table: _values(table, "balanced"),
        "complete subjects alone": _complete,
    }
)


def claims(evidences, ids=None, view=AS_JUDGED):
    """One row for each claim, problem and origin of evidence (DataFrame): effect, interval and verdict.

    evidences: list of `Evidence`. The effect is a mean difference of accuracy, paired over subjects after averaging
    over seeds and, where the claim names both tasks, over tasks. ids: of the claims wanted, None for all. view: one of
    `VIEWS`.
    """
    rows, said = [], _published_values()
    for evidence in evidences:
        table = frame(evidence.records)
        for problem in [p for p in PROBLEMS if p in set(table.problem)] if len(table) else [None]:
            chosen = select(table, problem)
            values = VIEWS[view](chosen) if len(chosen) else said[:0]
            for claim in [c for c in CLAIMS if ids is None or c.id in ids]:
                quantity = globals()[claim.quantity]
                row = claim_row(claim, evidence, quantity(values), quantity(said), "subjects")
                rows.append({"problem": problem or NOT_RUN} | row)
    return pd.DataFrame(rows).set_index("id")


def overfitting(records, problem):
    """Accuracy on training and on unseen trials, means of subjects and tasks, and how far they are apart (DataFrame).

    less than dense by: how much smaller that gap is than the dense network's, with its interval over subjects.
    """
    table, rows = select(frame(records), problem), {}
    if table.empty or "train_accuracy" not in table:
        return pd.DataFrame()
    values, train, dense = _values(table), per_subject(table, "train_accuracy"), ("dense-multi", 0.0)
    for method, sparsity in (dense, *((PROPOSED, s) for s in SPARSITIES[1:])):
        gap = _both(values, method, sparsity, GAP)
        numbers = {"training": _both(train, method, sparsity), "unseen": _both(values, method, sparsity), "gap": gap}
        less = effect((_both(values, *dense, GAP) - gap).dropna() if method == PROPOSED else ())
        rows[METHODS[method].label, percent(sparsity)] = {
            **{what: found.mean() for what, found in numbers.items()},
            "less than dense by": less.mean, "low": less.low, "high": less.high,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "nominal sparsity"])


def sensitivity(evidences):
    """The claims with one choice made otherwise (DataFrame by claim, problem and view, as `claims`).

    evidences: one a profile, see `evidence.comparable`. The first is judged, and is looked at in all `VIEWS`; each
    other is one view more, as the size of a profile is a choice too.
    """
    first, *others = evidences
    tables = {view: claims([first], view=view) for view in VIEWS}
    tables |= {f"the profile {e.profile}": claims([e]) for e in others}
    return _side_by_side("view", tables)


def robustness_by_rival(evidence):
    """What the claim of robustness rests on (DataFrame by problem and method, accuracies in percent).

    change: from dense to the highest sparsity, mean over subjects. effect, low, high, verdict: of the claim with this
    rival left out; of the proposed method's row, with none left out.
    """
    rows, table = {}, frame(evidence.records)
    for problem in [p for p in PROBLEMS if len(table) and p in set(table.problem)]:
        values = per_subject(select(table, problem))
        for method in (PROPOSED, *rivals()):
            claim = effect(robustness(values, method).dropna())
            if claim.n:
                numbers = {"change": _change(values, method).mean(), "effect": claim.mean}
                numbers |= {"low": claim.low, "high": claim.high}
                in_percent = {name: 100 * value for name, value in numbers.items()}
                rows[problem, METHODS[method].label] = in_percent | {"verdict": verdict(claim)}
    out = pd.DataFrame.from_dict(rows, orient="index")
    return out.rename_axis(["problem", "left out"]) if rows else out


def _side_by_side(kind, tables):
    """Tables of `claims` by name as one, by claim, problem and `kind` of table, without what was not run."""
    found = pd.concat(tables, names=[kind])
    ran = found[found.problem.isin(PROBLEMS)].reset_index().set_index(["id", "problem", kind])
    return ran.loc[[key for key in product([c.id for c in CLAIMS], PROBLEMS, tables) if key in ran.index]]


def findings(evidence):
    """The claims and what became of them, in words that follow from the verdicts (Markdown list)."""
    lines = [f"From {len(evidence.records)} runs ({evidence.title}):", ""]
    table = claims([evidence])
    for claim in CLAIMS:
        lines.append(f"- *{claim.sentence}*")
        for row in table.loc[[claim.id]].itertuples():
            part = f"; weakest part: {row.weakest}" if row.weakest else ""
            interval = f"{row.low:+.3f} to {row.high:+.3f}" if row.subjects > 1 else "one subject"
            numbers = f", {row.effect:+.3f} ({interval}{part})" if row.subjects else ""
            lines.append(f"  - {PROBLEMS.get(row.problem, 'all problems')}: **{row.verdict}**{numbers}")
    return "\n".join(lines)


def by_backbone(main, others):
    """Evidence of one profile for each backbone: {backbone: `Evidence`}, the default one first.

    main: evidences of Table 1; that of the profile of `others`, the `Evidence` of the other backbones, is taken.
    """
    first, *rest = BACKBONES
    mine = next((e for e in main if e.profile == others.profile), replace(others, records=()))
    return {first: mine} | {name: others.only(backbone=name) for name in rest}


def backbone_table(evidences, problem):
    """Accuracy by backbone, dense and proposed (DataFrame): mean and sd over subjects as text.

    evidences: as `by_backbone` gives them. on training trials: accuracy there, mean of tasks and runs, which says
    whether a network has learned at all. weights kept: of a multi-task network, mean over runs.
    """
    shown = [("dense-single", 0.0), ("dense-multi", 0.0), *((PROPOSED, s) for s in SPARSITIES[1:])]
    rows = {}
    for name, evidence in evidences.items():
        table = select(frame(evidence.records), problem)
        for method, sparsity in shown:
            rows[BACKBONES[name], METHODS[method].label, percent(sparsity)] = _backbone_row(table, method, sparsity)
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index = pd.MultiIndex.from_tuples(rows, names=["backbone", "method", "nominal sparsity"])
    return out


def _backbone_row(table, method, sparsity):
    chosen = table[(table.method == method) & (table.sparsity == sparsity)] if len(table) else table
    if chosen.empty:
        return dict.fromkeys(TASKS.values(), NOT_RUN)
    kept, values = (chosen.weights * (1 - chosen.realised_whole)).mean(), per_subject(chosen)
    return {TASKS[task]: mean_sd(cell(values, task, method, sparsity)) for task in TASKS} | {
        "on training trials": chosen.train_accuracy.mean(),
        "weights kept": None if method == "dense-single" else f"{kept:.0f}",
    }


def backbone_claims(evidences):
    """The claims with each backbone (DataFrame by claim, problem and backbone): effect, interval, verdict.

    evidences: as `by_backbone` gives them. The columns are those of `claims`.
    """
    return _side_by_side("backbone", {BACKBONES[name]: claims([e]) for name, e in evidences.items()})


def told_apart(table):
    """`backbone_claims` or `sensitivity` for a page (DataFrame): a line a claim, problem and kind; in percent."""
    kind, numbers = table.index.names[-1], ["effect", "low", "high"]
    shown = table[["verdict", *numbers, "weakest", "subjects"]].reset_index()
    shown[numbers] *= 100
    return shown.assign(claim=shown.pop("id").map(SHORT)).set_index(["claim", "problem", kind])


def vote_frame(records):
    """One row for each record of the proposed method and shared layer (DataFrame): densities, IoU and its nulls."""
    rows = [
        {"sparsity": r.spec.params["sparsity"], "subject": r.spec.params["subject"], "seed": r.spec.seed,
         "problem": r.spec.params["problem"], "layer": _layer_name(layer), **numbers}
        for r in records
        if _shows_votes(r)
        for layer, numbers in r.result["votes"]["layers"].items()
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    if len(table):  # JSON sorts its keys: back to the order in which the signal passes the layers
        table = table.sort_values("layer", key=lambda names: names.map(_layer_order(records)), kind="stable")
    return table


def _shows_votes(record):
    return "votes" in record.result and record.spec.params["labels"] == "true"


def published_votes(records):
    """Rows of `vote_frame` at the sparsity of the published cells."""
    votes = vote_frame(records)
    return votes[votes.sparsity == PUBLISHED_SPARSITY] if len(votes) else votes


def _layer_order(records):
    """Position of each shared layer in the network, by its name in the tables."""
    first = next(r for r in records if "votes" in r.result)
    p, data = first.spec.params, first.result["data"]
    net = DualTaskNet(
        len(data["channels"]), data["n_times"], len(data["classes"]), backbone=p["backbone"], **p.get("trunk", {})
    )
    return {_layer_name(name): i for i, name in enumerate(prunable(net))}


def _layer_name(parameter):
    return parameter.removeprefix("shared.").removesuffix(".weight")


VOTE_COLUMNS = {
    "iou": "MI against ME, all trials",
    "half": "MI against ME, half the trials each",
    "half_one_head": "the same, heads that start alike",
    "null_mi": "MI against MI, other half",
    "null_me": "ME against ME, other half",
    "null_me_one_head": "the same, MI's head at the start",
    "reinit": "MI against MI, other initial weights",
    "chance": "independent votes",
}


HEADS = {"start apart": "", "start alike": "_one_head"}  # how the two heads begin: ending of the columns


def vote_table(records):
    """Mean IoU of the votes by layer beside its nulls, and the votes' densities (DataFrame)."""
    votes = published_votes(records)
    if votes.empty:
        return pd.DataFrame(columns=list(VOTE_COLUMNS.values()))
    names = {"mi": "kept by MI", "me": "kept by ME", "or": "kept by OR"} | VOTE_COLUMNS
    return votes.groupby("layer", sort=False)[list(names)].mean().rename(columns=names)


def agreement(records):
    """How far the votes differ by more than noise (DataFrame by heads and layer; see `HEADS`).

    IoU of one task on its two halves minus IoU of the two tasks on halves, paired over subjects: zero means that the
    tasks disagree no more than one task does with itself. Heads that start from different random weights are one
    reason to disagree; only what is left with heads that start alike can be about the tasks.
    """
    votes, rows = published_votes(records), {}
    if votes.empty:
        return pd.DataFrame()
    for heads, which in HEADS.items():
        gap = (votes.null_mi + votes[f"null_me{which}"]) / 2 - votes[f"half{which}"]
        by_subject = gap.groupby([votes.layer, votes.subject], sort=False).mean()
        rows |= {(heads, layer): vars(effect(by_subject.loc[layer])) for layer in votes.layer.unique()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["heads", "layer"])


KINDS = {"both": "kept by both", "mi_only": "kept by MI only", "me_only": "kept by ME only"}
SOURCES = {"common": "sources common to both", "mi": "sources of MI only", "me": "sources of ME only"}


def electrode_maps(records, truth=False):
    """Per electrode, mean over records of the spatial weights of each kind (DataFrame: electrode x kind).

    truth: of the simulated people whose true sources are known, with the sources' projections as `true_*` columns.
    """
    maps = []
    for r in records:
        known = r.result["data"].get("truth")
        if _shows_votes(r) and r.spec.params["sparsity"] == PUBLISHED_SPARSITY and not (truth and known is None):
            columns = dict(r.result["votes"]["electrodes"])
            columns |= {f"true_{source}": known[source] for source in SOURCES} if truth else {}
            maps.append(pd.DataFrame(columns, index=r.result["data"]["channels"]))
    return sum(maps) / len(maps) if maps else pd.DataFrame()


def recovery(records):
    """On simulated data: do the kept spatial weights lie where the true sources project? (DataFrame)

    Rank correlation over electrodes between what is kept of each kind and the true projection of each kind of
    source, mean over subjects with its 95 % interval. The last row asks the same of the difference between the tasks'
    scores.
    """
    by_subject = _recovered(records)
    found = {key: vars(estimate(values)) for key, values in by_subject.items()}
    if not found:
        return pd.DataFrame()
    table = pd.DataFrame(found.values(), index=pd.MultiIndex.from_tuples(found, names=["kept", "true"]))
    return table[["n", "mean", "low", "high"]].rename(columns={"mean": "rank correlation"})


def _recovered(records):
    """Rank correlations of `recovery`: {(kept, true): Series by subject}."""
    rows = []
    for r in records:
        truth = r.result["data"].get("truth")
        if truth is None or not _shows_votes(r) or r.spec.params["sparsity"] != PUBLISHED_SPARSITY:
            continue
        kept = {k: np.array(v) for k, v in r.result["votes"]["electrodes"].items()}
        true = {k: np.array(v) for k, v in truth.items()}
        pairs = {(KINDS[k], SOURCES[s]): (kept[k], true[s]) for k, s in product(KINDS, SOURCES)}
        pairs["score of MI minus ME", "MI minus ME"] = (kept["mi_score"] - kept["me_score"], true["mi"] - true["me"])
        rho = {key: spearmanr(a, b).statistic for key, (a, b) in pairs.items()}
        rows.append(pd.Series(rho, name=r.spec.params["subject"]))
    if not rows:
        return {}
    return dict(pd.DataFrame(rows).groupby(level=0).mean().items())


def recovery_sentence(records):
    """What `recovery` shows, in words that follow from its intervals (Markdown).

    A kind is recovered where its weights follow the projection of its own sources, and follow it more closely than
    that of either other kind: three intervals above zero, paired over subjects.
    """
    rho = _recovered(records)
    if not rho:
        return f"Recovery of the truth: {NOT_RUN} (it needs simulated recordings)."
    follows = hits = 0
    for k, own in zip(KINDS, SOURCES, strict=True):
        mine = rho[KINDS[k], SOURCES[own]]
        others = [mine - rho[KINDS[k], SOURCES[s]] for s in SOURCES if s != own]
        follows += estimate(mine).low > 0
        hits += all(estimate(d).low > 0 for d in (mine, *others))
    told = {len(KINDS): "recovers", 0: "is not shown to recover"}.get(hits, "recovers only partly")
    return (
        f"Of the {len(KINDS)} kinds of kept weights, {follows} follow the projection of their own sources with an "
        f"interval above zero, and {hits} follow it more closely than that of the other kinds: at initialisation, the "
        f"vote **{told}** the shared and private parts of these simulated recordings."
    )


def realised_sparsity(records):
    """Realised sparsity by method and nominal sparsity (DataFrame): whole network, shared part, each head."""
    table = frame(records)
    columns = {f"realised_{k}": k for k in ("whole", "shared", "mi", "me")}
    if table.empty or "realised_whole" not in table:
        return pd.DataFrame(columns=list(columns.values()))
    table = table[(table.labels == "true") & (table.sparsity > 0)]
    means = table.groupby(["method", "sparsity"])[list(columns)].mean().rename(columns=columns)
    order = [(m, s) for m, s in grid() if (m, s) in means.index]
    means = means.loc[order]
    means.index = pd.MultiIndex.from_tuples(
        [(METHODS[m].label, percent(s)) for m, s in order], names=["method", "nominal sparsity"]
    )
    return means


def spread(records, problem):
    """Sd of accuracy between subjects and, within subjects, between seeds (DataFrame: method x task).

    Subjects are means over seeds, and both hold the noise of a person's few test trials.
    """
    table = select(frame(records), problem)
    if table.empty:
        return pd.DataFrame()
    rows = []
    for method, task in product(("csp-lda", "dense-single", "dense-multi", PROPOSED), TASKS):
        sparsity = PUBLISHED_SPARSITY if METHODS[method].sparse else 0.0
        chosen = table[(table.method == method) & (table.task == task) & (table.sparsity == sparsity)]
        by_subject = chosen.groupby("subject").accuracy
        rows.append(
            {
                "method": METHODS[method].label, "task": TASKS[task], "between subjects": by_subject.mean().std(),
                "between seeds": np.sqrt(by_subject.var().mean()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index(["method", "task"])


def accuracy_by_subject(records, problem):
    """Accuracy of every method, sparse ones at 40 %, for each subject (DataFrame: task and method x subject)."""
    table = select(frame(records), problem)
    if table.empty:
        return table
    values = per_subject(table)
    rows = {
        (TASKS[task], info.label): cell(values, task, m, PUBLISHED_SPARSITY if info.sparse else 0.0)
        for task, (m, info) in product(TASKS, METHODS.items())
    }
    found = pd.DataFrame(rows).reindex(sorted(table.subject.unique())).T.rename_axis(["task", "method"])
    return found.rename(columns="S{:03d}".format)


def recordings(records):
    """Recordings and trials of each subject and problem (DataFrame)."""
    rows = {}
    for r in records:
        p, data = r.spec.params, r.result["data"]
        rows[PROBLEMS[p["problem"]], f"S{p['subject']:03d}"] = {
            f"{TASKS[task]}: {what}": value
            for task in TASKS
            for what, value in (
                ("runs", ", ".join(map(str, data["runs"][task]))),
                ("trials", sum(data["trials"][task])),
            )
        }
    table = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    return table.rename_axis(["problem", "subject"]) if rows else table
