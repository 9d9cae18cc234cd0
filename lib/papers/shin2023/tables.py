"""Tables of the EEG study, each with the sentence that it supports, from records alone (no torch)."""

# ruff: isort: skip_file
import math
from collections import Counter
from itertools import product

import numpy as np
import pandas as pd
from companion.claims import Effects, judge
from companion.statistics import NOT_RUN, estimate, holm, mean_sd
from companion.style import listed, percent, table_of
from papers.shin2023.claims import (
    AT_40, EFFECTS, LEVELS, MULTI, QUANTITIES, SINGLE, averaged, better_classical, by_person, cells_of, dense_of,
    differences, minus, of_kind, over_classical, recovered, tasks_of,
)  # fmt: skip
from papers.shin2023.study import (
    CLAIMS, CLASSICAL, EXACT, METHODS, PROBLEMS, PROPOSED, PUBLISHED, RIVALS, SECOND, SHARES, SPARSITIES, TASKS,
    TRUNKS, development_runs, sparsities_of, table1_specs,
)  # fmt: skip
from scipy.stats import binom

__all__ = ["EFFECTS"]  # what judges the claims
METRICS = {"accuracy": "accuracy", "f1": "macro F1"}
NEAR = 0.03  # a network further below the classical decoder is named first
VOTE_COLUMNS = {
    "iou": "MI against ME, all trials", "half": "MI against ME, half the trials each",
    "half_one_head": "the same, heads that start alike", "null_mi": "MI against MI, other half",
    "null_me": "ME against ME, other half", "null_me_one_head": "the same, MI's head at the start",
    "reinit": "MI against MI, other initial weights", "chance": "independent votes",
}  # fmt: skip
CONTROLS = {"shuffled": "labels shuffled within recordings", "recording": "the recording decoded"}
HEADS = {"start apart": "", "start alike": "_one_head"}  # how the two heads begin: ending of the columns
NAMES = {m: info.label for m, info in METHODS.items()} | PROBLEMS | TASKS | {s: percent(s) for s in SPARSITIES}
REALISED = [f"realised_{part}" for part in ("whole", "shared", *TASKS)]
COLUMNS = [
    "method", "sparsity", *REALISED, "trunk", "problem", "person", "seed", "task", "labels", "trials", "classes",
    "commonest", *METRICS, "loss", "train_accuracy", "train_loss",
]  # fmt: skip
CELLS = {(info.label, percent(s)): (m, s) for m, info in METHODS.items() for s in sparsities_of(m)}  # rows of Table 1
TRUTHS = {  # quantity in simulated people -> weights of a contrast, and what is added to it
    "tangent space above chance": ({("tangent-space", 0.0): 1}, -0.5),
    "multi-task minus single-task": ({MULTI: 1, SINGLE: -1}, 0.0),
    "OR at 40 % minus dense": ({AT_40: 1, MULTI: -1}, 0.0),
    "exact budget minus random, 40 %": ({(EXACT, AT_40[1]): 1, ("random", AT_40[1]): -1}, 0.0),
}
KINDS = {"both": "kept by both", "mi_only": "kept by MI only", "me_only": "kept by ME only"}


def frame(records):
    """One row for each record and task (DataFrame): who, what, how sparse, how good."""
    rows = []
    for r in records:
        base = {"method": r.spec.method, "person": r.spec.params["subject"], "seed": r.spec.seed, **r.spec.params}
        base |= {f"realised_{part}": share for part, share in r.result.get("sparsity", {}).items()}
        for task in tasks_of(r):
            labels = Counter(r.result["labels"][task])
            counts = {"task": task, "trials": labels.total(), "classes": len(labels)}
            counts["commonest"] = max(labels.values()) / labels.total()
            metrics = {k.removeprefix(f"{task}_"): v for k, v in r.result["metrics"].items() if k.startswith(task)}
            rows.append(base | counts | metrics)
    return pd.DataFrame(rows, columns=COLUMNS, dtype=None if rows else float)


def select(records, problem=None, labels="true"):
    """`frame` of the main records of one problem (None: all) and sort of labels."""
    chosen = [r for r in of_kind(records) if problem in (None, r.spec.params["problem"])]
    return frame([r for r in chosen if r.spec.params["labels"] == labels])


def cell(table, task, method, sparsity, metric="accuracy"):
    """Mean over seeds of a metric in one cell of `frame`, by person (Series)."""
    method, sparsity = dense_of(method, sparsity)
    chosen = table[(table.task == task) & (table.method == method) & (table.sparsity == sparsity)]
    return chosen.groupby("person")[metric].mean()


def _effects(found, *names, effect="effect", scale=100):
    """`table_of` the mean and 95 % interval of differences by person, in points; found: key -> differences (Series)."""
    rows = {}
    for key, e in ((key, estimate(values)) for key, values in found.items() if len(values)):
        rows[key] = {effect: scale * e.mean, "95 % from": scale * e.low, "to": scale * e.high, "people": e.n}
    return table_of(rows, *names)


def table1(records, problem):
    """Table 1: accuracy and F1 by method, sparsity and task, mean and sd over people, or "not run" (DataFrame)."""
    table, rows = select(records, problem), {}
    for name, (method, sparsity) in CELLS.items():
        chosen = table[(table.method == method) & (table.sparsity == sparsity)]
        rows[name] = {"realised": percent(chosen.realised_whole.mean())} | {
            f"{TASKS[task]}: {METRICS[metric]}": mean_sd(cell(table, task, method, sparsity, metric))
            for task, metric in PUBLISHED
        }
    return table_of(rows, "method", "nominal sparsity")


def published_of(table):
    """The published cells of `table1`, with its index and columns; NaN elsewhere (DataFrame)."""
    found = pd.DataFrame(math.nan, index=table.index, columns=table.columns)
    for (task, metric), value in PUBLISHED.items():
        found.loc[(METHODS[PROPOSED].label, percent(AT_40[1])), f"{TASKS[task]}: {METRICS[metric]}"] = value
    return found


def runs_of_cells(evidence, problem):
    """(row, column) of `table1` -> the part of an `Evidence` behind that cell."""
    main = evidence.of(table1_specs(evidence.profile), "--table table1")
    found = {row: main.only(method=m, problem=problem, sparsity=s, labels="true") for row, (m, s) in CELLS.items()}
    return lambda row, column: found[row]


def table1_sentence(records):
    """What Table 1 shows."""
    tables = [select(records, problem) for problem in PROBLEMS]
    means = {(t, at): np.mean([cell(table, t, *at).mean() for table in tables]) for t in TASKS for at in (AT_40, MULTI)}
    if any(map(math.isnan, means.values())):
        return f"The proposed network at 40 % sparsity: {NOT_RUN}."
    parts = [
        f"{percent(means[t, AT_40], 1)} in {TASKS[t]} (dense: {percent(means[t, MULTI], 1)}, published: "
        f"{percent(PUBLISHED[t, 'accuracy'], 1)})"
        for t in TASKS
    ]
    real = np.mean([t[(t.method == PROPOSED) & (t.sparsity == AT_40[1])].realised_whole.mean() for t in tables])
    return (
        f"At 40 % sparsity of each vote ({percent(real)} of all weights) the proposed network reaches {listed(parts)}, "
        "mean over both problems."
    )


def takeaway(records, sentence):
    """A sentence for the top of a page; if the network loses to the better classical decoder by `NEAR`, that first."""
    main = of_kind(records)
    found = over_classical(main).pooled
    if not len(found) or found.mean() >= -NEAR:
        return sentence
    best, points = METHODS[better_classical(main)].label, f"{-100 * found.mean():.1f} points"
    return f"The dense single-task network is {points} below {best}, a classical decoder. {sentence}"


def against_each(records):
    """Proposed (exact budget) minus each method, at equal realised sparsity (DataFrame, points).

    Mean over tasks, problems and sparsities, paired over people; methods without masks are dense. p: of a t test.
    """
    cells = cells_of(of_kind(records))
    found = {NAMES[m]: by_person(differences(cells, minus(EXACT, m))) for m in METHODS if m != EXACT}
    table = _effects(found, "against")
    p = [judge(CLAIMS[0], Effects(found[label])).p for label in table.index]
    return table.assign(**{"p": p, "p (Holm)": holm(p)})


def each_sentence(table):
    """What `against_each` shows."""
    rivals = table[table.index.isin([METHODS[m].label for m in RIVALS])]
    if rivals.empty:
        return f"The comparison at equal sparsity: {NOT_RUN}."
    better, worse = rivals.index[rivals["95 % from"] > 0], rivals.index[rivals["to"] < 0]
    parts = [f"above {len(better)} of {len(rivals)} other pruning methods"]
    parts.append(f"below {len(worse)}" + (f" ({listed(worse)})" if len(worse) else ""))
    survive = f"{(rivals['p (Holm)'] < 0.05).sum()} of these {len(rivals)} differences remain after Holm's correction"
    return f"At equal sparsity the proposed masks are {listed(parts)}, by intervals that exclude zero. {survive}."


def _by_cell(records, columns, cells):
    """Means of columns {of `frame`: name} by (method, sparsity), over tasks, problems, people and seeds (DataFrame)."""
    means = select(records).groupby(["method", "sparsity"])[[*columns]].mean().reindex(cells).dropna(how="all")
    return means.rename(columns=columns, index=NAMES).rename_axis(["method", "nominal sparsity"])


def realised_sparsity(records):
    """Realised sparsity by method and nominal sparsity (DataFrame): whole network, shared part, each head."""
    return _by_cell(records, {k: k.removeprefix("realised_") for k in REALISED}, [*product(METHODS, LEVELS)])


def overfitting(records):
    """Losses and accuracies of dense and proposed networks, mean over tasks, problems and people (DataFrame)."""
    columns = {
        "train_loss": "training loss", "loss": "loss on unseen trials", "train_accuracy": "training accuracy",
        "accuracy": "accuracy on unseen trials",
    }  # fmt: skip
    return _by_cell(records, columns, [MULTI, *((PROPOSED, s) for s in LEVELS)])


def controls(records):
    """Controls beside chance (DataFrame): labels shuffled within recordings, and the recording decoded.

    The interval is over runs, one for each person and seed. Guessers would vary less: in a person whose movements
    decode, a few labels that agree with the true ones by luck move all folds together.
    """
    rows = {}
    for labels, control in CONTROLS.items():
        table = select(records, labels=labels)
        for (problem, method, task), group in table[table.classes > 1].groupby(["problem", "method", "task"]):
            above, chance = estimate(group.accuracy - 1 / group.classes), (1 / group.classes).mean()
            rows[control, PROBLEMS[problem], METHODS[method].label, TASKS[task]] = {
                "accuracy": group.accuracy.mean(), "95 %": f"{chance + above.low:.3f} to {chance + above.high:.3f}",
                "chance within": "yes" if above.low <= 0 <= above.high else "no",
            }  # fmt: skip
    return table_of(rows, "control", "problem", "method", "task")


def controls_sentence(table):
    """What `controls` shows."""
    parts = []
    for control, rows in table.groupby(level="control", sort=False) if len(table) else ():
        count, mean = (rows["chance within"] == "yes").sum(), percent(rows.accuracy.mean(), 1)
        parts.append(f"With {control}, chance is within {count} of {len(rows)} intervals (mean accuracy {mean}).")
    return " ".join(parts) or f"The controls: {NOT_RUN}."


def decodable(records):
    """Who is decodable (DataFrame by problem and person): accuracies of a classical decoder and the dense network.

    p (Holm): one-sided binomial test of tangent space, the better decoder of the development people, over both tasks'
    trials at the mean over seeds, with Holm's correction over all rows.
    """
    table, who = select(records), ["problem", "person"]
    means = table.groupby([*who, "method", "task"])[["accuracy", "trials", "commonest"]].mean()
    one = means[means.index.get_level_values("method") == CLASSICAL[-1]]
    trials = one.trials.groupby(who).sum()
    right, commonest = ((one[name] * one.trials).groupby(who).sum() for name in ("accuracy", "commonest"))
    columns = [*product((CLASSICAL[-1], SINGLE[0]), TASKS)]
    shown = means.accuracy.unstack(["method", "task"]).reindex(trials.index, columns=columns)
    shown.columns = [f"{task.upper()}: {METHODS[method].label}" for method, task in columns]
    return shown.assign(**{"p (Holm)": holm(binom.sf(right.round() - 1, trials, commonest / trials))})


def sure(table):
    """(problem, person) of the decodable people of `decodable` (set)."""
    return set(table.index[table["p (Holm)"] < 0.05])


def decodable_sentence(table):
    """What `decodable` shows."""
    if table.empty:
        return f"Who is decodable: {NOT_RUN}."
    found = table["p (Holm)"].lt(0.05).groupby(level="problem")
    counts = found.agg(["sum", "size"]).reindex([p for p in PROBLEMS if p in found.groups])
    parts = [f"{n} of {total} people ({PROBLEMS[p]})" for p, n, total in counts.itertuples()]
    shares = table.drop(columns="p (Holm)").stack()
    problem, person, what = shares.idxmin()
    lowest = f"{100 * shares.min():.1f} % (S{person:03d}, {PROBLEMS[problem]}, {what})"
    return f"A classical decoder beats chance in {listed(parts)}. The lowest accuracy is {lowest}."


def claims_otherwise(records):
    """The paper's claims with one choice made otherwise (DataFrame by claim and view): effect, interval, verdict."""
    main, able, found = of_kind(records), sure(decodable(records)), {}
    counts = [{len(own) for own in r.result["data"]["recordings"].values()} for r in main]
    most = max(set().union(*counts), default=0)
    views = {
        "as judged": main,
        "decodable people alone": [r for r in main if (r.spec.params["problem"], r.spec.params["subject"]) in able],
        "people with all recordings": [r for r, own in zip(main, counts, strict=True) if own == {most}],
    }
    views |= {name: [r for r in main if r.spec.params["problem"] == p] for p, name in PROBLEMS.items()}
    views[TRUNKS[SECOND]] = of_kind(records, "trunk")
    for claim, (view, chosen) in product([c for c in CLAIMS if not c.control], views.items()):
        part = {"levels": AT_40[1:]} if claim.id == "shin-best-method" and view == TRUNKS[SECOND] else {}
        found[claim.short, view] = judge(claim, QUANTITIES[claim.id](chosen, **part))
    table = _effects({key: judged.effects.pooled for key, judged in found.items()}, "claim", "view")
    table.insert(0, "verdict", [found[key].verdict for key in table.index])
    return table


def otherwise_sentence(table):
    """Which verdicts of `claims_otherwise` change with a choice."""
    if table.empty:
        return f"The claims, asked otherwise: {NOT_RUN}."
    other = table.verdict[table.verdict != table.verdict.groupby(level="claim").transform("first")]
    changed = [f"“{claim}” is {verdict} with {view}" for (claim, view), verdict in other.items()]
    asked = f"Each claim was asked in up to {table.index.unique('view').size} ways"
    return f"{asked}; changed by it: {'; '.join(changed) or 'none'}."


def recordings(records):
    """Recordings and trials of each person and problem (DataFrame)."""
    rows = {}
    for r in of_kind(records):
        row = rows.setdefault((PROBLEMS[r.spec.params["problem"]], f"S{r.spec.params['subject']:03d}"), {})
        for task in tasks_of(r):
            row[f"{TASKS[task]}: recordings"] = ", ".join(map(str, r.result["data"]["recordings"][task]))
            row[f"{TASKS[task]}: trials"] = len(r.result["labels"][task])
    return table_of(dict(sorted(rows.items())), "problem", "person")


def vote_frame(records):
    """One row for each record with votes and shared layer, in the network's order (DataFrame)."""
    rows = [
        {"person": r.spec.params["subject"], "layer": layer, **numbers}
        for r in of_kind(records)
        for layer, numbers in r.result.get("votes", {"layers": ()})["layers"]
    ]
    return pd.DataFrame(rows)


def agreement(records):
    """How far the votes differ by more than noise (DataFrame by heads and layer; see `HEADS`).

    IoU of one task on its two halves minus IoU of the two tasks on halves, paired over people: zero if the tasks
    disagree no more than one task does with itself. Heads that start from different random weights are one reason to
    disagree; only a difference with heads that start alike can be about the tasks.
    """
    votes, found = vote_frame(records), {}
    for (heads, ending), layer in product(HEADS.items(), votes.layer.unique() if len(votes) else ()):
        own = votes[votes.layer == layer]
        gap = (own.null_mi + own[f"null_me{ending}"]) / 2 - own[f"half{ending}"]
        found[heads, layer] = gap.groupby(own.person).mean()
    return _effects(found, "heads", "layer", effect="difference", scale=1)


def agreement_sentence(table):
    """What `agreement` shows."""
    if table.empty:
        return f"The tasks' votes: {NOT_RUN}."
    groups = table["95 % from"].gt(0).groupby(level="heads", sort=False)
    parts = [f"{own.sum()} of {len(own)} layers if the heads {heads}" for heads, own in groups]
    return f"The tasks' votes differ by more than noise in {listed(parts)}."


def electrode_maps(records, kind="main"):
    """Mean over records of the spatial weights of each kind by electrode, with true sources as `true_*` (DataFrame)."""
    maps = []
    for r in (r for r in of_kind(records, kind) if "votes" in r.result):
        votes, true = r.result["votes"], r.result["data"].get("truth") or {}
        columns = votes["electrodes"] | {f"true_{k}": v for k, v in true.items()}
        maps.append(pd.DataFrame(dict(columns), index=votes["channels"]))
    return sum(maps) / len(maps) if maps else pd.DataFrame()


def truth_by_share(records):
    """What changes with the share of common sources in simulated people: points, correlations times 100 (DataFrame)."""
    truth, found = of_kind(records, "truth"), {}
    for (quantity, (weights, shift)), share in product(TRUTHS.items(), SHARES):
        own = cells_of([r for r in truth if r.spec.params["shared"] == share])
        found[quantity, percent(share)] = by_person(differences(own, weights)) + shift
    for name, values in recovered(truth).items():
        for share, own in averaged(values, {s: percent(s) for s in SHARES}).parts.items():
            found[f"votes follow {name} sources (correlation x 100)", share] = own
    return _effects(found, "quantity", "common sources")


def truth_sentence(table):
    """When sharing and masks help, by `truth_by_share`."""
    if table.empty:
        return f"The known truth: {NOT_RUN}."
    parts = []
    for quantity in [q for q in list(TRUTHS)[1:] if q in table.index]:
        rows = table.loc[quantity]
        signs = {"positive": rows.index[rows["95 % from"] > 0], "negative": rows.index[rows["to"] < 0]}
        found = [f"{word} at {listed(shares)}" for word, shares in signs.items() if len(shares)]
        parts.append(f"{quantity} is {listed(found) if found else 'not separable from zero'}")
    return f"By the share of common sources, {'; '.join(parts)}."


def development(records):
    """Mean accuracy of each setting on the development people (DataFrame), and of classical decoders on its data."""
    found = {r.hash: r.result["metrics"]["mi_accuracy"] for r in of_kind(records, "development")}
    rows = [(name, NAMES[s.method], found[s.hash]) for name, s in development_runs() if s.hash in found]
    table = pd.DataFrame(rows, columns=["setting", "method", "accuracy"])
    table = table.pivot_table("accuracy", "setting", "method", sort=False).rename_axis(columns=None)
    return table.sort_values(METHODS[SINGLE[0]].label, ascending=False, kind="stable") if rows else table


def development_sentence(table):
    """What `development` shows."""
    network, classical = METHODS[SINGLE[0]].label, METHODS[CLASSICAL[-1]].label
    if network not in table:
        return f"The choice of the training: {NOT_RUN}."
    reached, best = table[network].get("the recipe", math.nan), table[network].max()
    other = percent(table.get(classical, pd.Series(dtype=float)).max(), 1)
    return (
        f"The recipe reaches {percent(reached, 1)} on the development people (best of {len(table)} settings: "
        f"{percent(best, 1)}); {classical} reaches {other} at best."
    )
