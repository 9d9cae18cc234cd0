"""Tables and figures of the EEG study, from records alone."""

from itertools import product

import numpy as np
import pandas as pd

from sparsemtl.report.statistics import chance_interval, effect, estimate, holm
from sparsemtl.studies.shin2023 import METHODS, PROPOSED, PUBLISHED, PUBLISHED_SPARSITY, SPARSITIES, TASKS

METRICS = {"accuracy": "accuracy", "f1": "macro F1", "kappa": "Cohen's kappa"}


def frame(records):
    """One row for each record and task (DataFrame): who, what, how sparse, how good."""
    rows = []
    for r in records:
        p, result = r.spec.params, r.result
        base = {
            "hash": r.hash, "method": r.spec.method, "sparsity": p["sparsity"], "subject": p["subject"],
            "problem": p["problem"], "seed": r.spec.seed, "backbone": p["backbone"], "labels": p["labels"],
            "classes": len(result["data"]["classes"]),
        } | {f"realised_{k}": v for k, v in result.get("sparsity", {}).items()}  # fmt: skip
        for task in TASKS:
            metrics = {k.removeprefix(f"{task}_"): v for k, v in result["metrics"].items() if k.startswith(task)}
            trials = int(np.sum(result["data"]["trials"][task]))
            rows.append(base | {"task": task, "trials": trials} | metrics)
    return pd.DataFrame(rows)


def select(table, problem, labels="true"):
    """Rows of one problem, on true or shuffled labels."""
    if table.empty:
        return table
    return table[(table.problem == problem) & (table.labels == labels)]


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
    for method, info in METHODS.items():
        for sparsity in SPARSITIES if info.sparse else (0.0,):
            if sparsity > 0 or not info.sparse:
                yield method, sparsity


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
        row = {("sparsity", "realised"): _percent(realised.get((method, sparsity), np.nan))}
        for task, metric in columns:
            e = estimate(cell(values[metric], task, method, sparsity)) if values else None
            row[(TASKS[task], METRICS[metric])] = f"{e.mean:.3f} ± {e.sd:.3f}" if e and e.n else "not run"
            if (task, metric) in PUBLISHED:
                here = method == PROPOSED and sparsity == PUBLISHED_SPARSITY
                row[(TASKS[task], f"published {METRICS[metric]}")] = f"{PUBLISHED[task, metric]:g}" if here else ""
        rows.append(row)
        index.append((METHODS[method].label, _percent(sparsity)))
    out = pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=["method", "nominal sparsity"]))
    out.columns = pd.MultiIndex.from_tuples(out.columns)
    return out


def _percent(share):
    return f"{100 * share:.0f} %" if np.isfinite(share) else "–"


def published_beside_ours(records, problem):
    """The published cells beside ours (DataFrame): mean, sd, interval over subjects, difference in units of the sd."""
    table, rows = select(frame(records), problem), []
    for (task, metric), published in PUBLISHED.items():
        e = estimate(cell(per_subject(table, metric), task, PROPOSED, PUBLISHED_SPARSITY)) if len(table) else None
        ran = e is not None and e.n > 0
        rows.append(
            {
                "task": TASKS[task], "metric": METRICS[metric], "published": published,
                "ours": e.mean if ran else np.nan, "sd": e.sd if ran else np.nan,
                "interval": f"{e.low:.3f} to {e.high:.3f}" if ran else "not run",
                "difference / sd": (e.mean - published) / e.sd if ran else np.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index(["task", "metric"])


def chance(records):
    """Chance level beside a run on shuffled labels (DataFrame): one row for each problem, method and task.

    `guessing` is the 95 % range of a guesser with as many test trials as the average subject gave.
    """
    table, rows = frame(records), []
    if table.empty:
        return pd.DataFrame(columns=["chance", "guessing", "shuffled labels", "lands on it"])
    shuffled = table[table.labels == "shuffled"]
    for (problem, method, task), group in shuffled.groupby(["problem", "method", "task"]):
        n, classes = group.trials.groupby(group.subject).first().sum(), group.classes.iloc[0]
        low, high = chance_interval(n, classes)
        mean = np.average(group.groupby("subject").accuracy.mean(), weights=group.groupby("subject").trials.first())
        rows.append(
            {
                "problem": problem, "method": METHODS[method].label, "task": TASKS[task], "chance": 1 / classes,
                "guessing": f"{low:.3f} to {high:.3f}", "shuffled labels": mean,
                "lands on it": "yes" if low <= mean <= high else "no",
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index(["problem", "method", "task"])


def comparisons(records, problem, sparsity=PUBLISHED_SPARSITY, metric="accuracy"):
    """Proposed method minus each other one at the same sparsity, paired over subjects (DataFrame).

    Mean difference, 95 % interval, d_z, Wilcoxon's p and p after Holm's correction over all rows.
    """
    table, rows = select(frame(records), problem), []
    if table.empty:
        return pd.DataFrame()
    values = per_subject(table, metric)
    for task, method in product(TASKS, METHODS):
        if method == PROPOSED:
            continue
        other = cell(values, task, method, sparsity if METHODS[method].sparse else 0.0)
        found = effect((cell(values, task, PROPOSED, sparsity) - other).dropna())
        if found.n:
            rows.append({"task": TASKS[task], "against": METHODS[method].label, **vars(found)})
    out = pd.DataFrame(rows).set_index(["task", "against"])
    out["p (Holm)"] = holm(out.p)
    return out


# Quantities of the claims: accuracy differences by subject (Series), above zero where the claim holds.


def _both(values, method, sparsity):
    """Mean of both tasks' accuracies by subject."""
    return sum(cell(values, task, method, sparsity) for task in TASKS) / len(TASKS)


def _rivals():
    return [m for m, info in METHODS.items() if info.sparse and m not in (PROPOSED, "budget")]


def multitask_gain(values):
    """Dense multi-task minus dense single-task, mean of the tasks."""
    return _both(values, "dense-multi", 0.0) - _both(values, "dense-single", 0.0)


def sparse_gain(values):
    """Proposed at 40 % minus dense multi-task, mean of the tasks."""
    return _both(values, PROPOSED, PUBLISHED_SPARSITY) - _both(values, "dense-multi", 0.0)


def lead_over_rivals(values):
    """Proposed minus the best rival at the sparsity where that lead is smallest; the rival is the best on average."""
    leads = []
    for sparsity in SPARSITIES[1:]:
        best = max(_rivals(), key=lambda m: _both(values, m, sparsity).mean())
        leads.append(_both(values, PROPOSED, sparsity) - _both(values, best, sparsity))
    return min(leads, key=lambda lead: lead.mean())


def robustness(values):
    """Change of the proposed from dense to 80 % minus the mean change of the rivals."""
    last = SPARSITIES[-1]
    rivals = [_both(values, m, last) - _both(values, m, 0.0) for m in _rivals()]
    return _both(values, PROPOSED, last) - _both(values, PROPOSED, 0.0) - sum(rivals) / len(rivals)


def best_at_40(values):
    """Proposed at 40 % minus the best of its other sparsities, dense included."""
    others = [s for s in SPARSITIES if s != PUBLISHED_SPARSITY]
    best = max(others, key=lambda s: _both(values, PROPOSED, s).mean())
    return _both(values, PROPOSED, PUBLISHED_SPARSITY) - _both(values, PROPOSED, best)


def execution_above_imagery(values):
    """Execution minus imagery for the proposed, mean over all sparsities."""
    gaps = [cell(values, "me", PROPOSED, s) - cell(values, "mi", PROPOSED, s) for s in SPARSITIES]
    return sum(gaps) / len(gaps)
