"""From records to the effects that decide the claims of the vision study."""

import math

import numpy as np
import pandas as pd
from companion.claims import Effects
from companion.style import listed, percent

from papers.upadhyay2023.study import (  # isort: skip
    ALL, ALL_NYU, BLIND, CELEBA_SETS, GOAL, L1_SETS, LAMBDAS, NYU_SETS, RANGE, SCORES, TASKS, flipped, scientific,
    unpacked,
)  # fmt: skip

TWIN_OF = {"rooms": "nyuv2", "faces": "celebamask"}
SAVERS = {"zeros": "dense kernels on zeros", "compact": "dead channels removed"}  # forms of the backbone, beside dense
STAGES = {"early": ("conv1", "layer1"), "middle": ("layer2", "layer3"), "late": ("layer4",)}
NONE = pd.Series(dtype=float)


def frame(records):
    """One row for each trained network (DataFrame): what was run, its test metrics, sparsity, dead channels, times.

    level: the target sparsity, 0 for dense networks, NaN for those of a given lambda; lam: NaN for those with a target.
    """
    rows = []
    for r in (r for r in records if r.spec.method != BLIND):
        p, result, times = r.spec.params, r.result, r.run.get("timings", {})
        level = p["target"] or (math.nan if p["lam"] else 0.0)
        row = {
            "protocol": r.spec.method, "flipped": ", ".join(f"{k}={short(v)}" for k, v in flipped(r.spec).items()),
            "data": TWIN_OF.get(r.spec.data, r.spec.data), "tasks": p["tasks"], "seed": r.spec.seed, "level": level,
            "lam": math.nan if p["target"] else p["lam"], "penalty": p["penalty"], "count": p["count"],
            "width": p["width"], "usual": True,
        } | result["metrics"]  # fmt: skip
        for kind in ("blind", "constant"):
            row |= {f"{kind}_{name}": value for name, value in result[kind].items()}
        for name, (gain, error) in result["gain"].items():
            row |= {f"gain_{name}": gain, f"error_{name}": error}
        row["images"], row["channels"], row["layers"] = result["images"], result["channels"], result["layers"]
        row["history"], row["lam_held"] = result["history"], result["history"]["lambda"][-1]
        row["missed"] = result.get("target", {}).get("missed", "")
        row["group"] = result["sparsity"]["group"]
        # l1 zeroes single weights: there, as in the published table, all zeros count
        row["parameter"] = result["sparsity"]["zero" if p["penalty"] == "l1" else "parameter"]
        for stage, names in STAGES.items():
            alive, total = np.sum([c for layer, c in result["channels"].items() if layer.startswith(names)], axis=0)
            row[f"dead_{stage}"] = 1 - alive / total
        for what in ("flops", "parameters"):
            row[f"{what}_kept"] = result["backbone"]["compact"][what] / result["backbone"]["zeros"][what]
        turns = {name: np.array(times[f"{name}_ms"]) for name in ("dense", *SAVERS) if f"{name}_ms" in times}
        row |= {f"{name}_ms": np.median(taken) for name, taken in turns.items()}
        row |= {f"{name}_saved": np.median(1 - turns[name] / turns["dense"]) for name in SAVERS if name in turns}
        rows.append(row)
    table = pd.DataFrame(rows)
    if len(table):  # networks of another width are no rows of the other tables
        table["usual"] = table.width == table.groupby("data").width.transform(lambda w: w.mode().max())
    return table


def short(value):
    """Value of a switch as tables show it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def select(table, protocol="paper", **where):
    """Rows of a protocol with no switch flipped (or `flipped` as given) and these values."""
    if table.empty:
        return table
    where = {"flipped": "", "protocol": protocol, "usual": True} | where
    return table[np.logical_and.reduce([table[k] == v for k, v in where.items()])]


def runs_of(evidence, protocol="paper", **where):
    """`select` of the `frame` of an evidence."""
    return select(frame(evidence.records), protocol, **where)


def cell(table, tasks, column, data=None, penalty="group_lasso", count="group", **at):
    """Values of one cell by seed (Series), empty if nothing was run. at: level=0.7 or lam=1e-4; data: as tasks tell."""
    if table.empty or column not in table:
        return NONE
    data = data or ("celebamask" if {"male", "smile"} & set(tasks.split("+")) else "nyuv2")
    (name, value), dense = next(iter(at.items())), 0.0 in at.values()
    found = table[(table.tasks == tasks) & (table[name] == value) & (table.data == data)]
    if not dense:  # a network without penalty is dense under every penalty
        found = found[(found.penalty == penalty) & (found["count"] == count)]
    return found.drop_duplicates("seed").set_index("seed")[column]


def gains(table, new, old):
    """Relative improvement of `new` over `old` by task: {task: Series by seed}; each a dict for `cell`."""
    found = {}
    for task in [t for t in new["tasks"].split("+") if t in old["tasks"].split("+")]:
        column, _, sign = SCORES[task]
        a, b = cell(table, column=column, **new), cell(table, column=column, **old)
        found[task] = (sign * (a - b) / b.abs()).dropna()
    return found


def mean_of(parts):
    """Mean of several Series, for the seeds that all of them have."""
    parts = list(parts)
    return (sum(parts) / len(parts)).dropna() if parts else NONE


def resampled(table, new, old, resamples=500):
    """95 % interval of the mean relative improvement for these very seeds, by resampling the test images; or None."""
    means, rng = [], np.random.default_rng(0)
    for task in [t for t in new["tasks"].split("+") if t in old["tasks"].split("+")]:
        column, _, sign = SCORES[task]
        a, b = cell(table, column="images", **new), cell(table, column="images", **old)
        for seed in a.index.intersection(b.index):
            x, y = unpacked(a[seed][column]), unpacked(b[seed][column])
            known = np.isfinite(x) & np.isfinite(y)
            counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), resamples)[:, known]
            means.append(sign * (counts @ x[known] / (counts @ y[known]) - 1))
    return tuple(np.percentile(np.mean(means, axis=0), [2.5, 97.5])) if means else None


# Effects of the claims, by seed, above zero if the claim holds. Metrics of different units are made comparable as
# relative improvements and averaged over the tasks.


def sparse_over_dense(evidence, data="nyuv2", protocol="paper"):
    """The model of all tasks at 70 % over the dense one; each task, and other task sets, as parts."""
    table, tasks = runs_of(evidence, protocol), ALL[data]
    new, old = ({"tasks": tasks, "level": level, "data": data} for level in (GOAL, 0.0))
    by_task, zero = gains(table, new, old), cell(table, tasks, "group", data, level=GOAL)
    sets = [s for s in (NYU_SETS if data == "nyuv2" else CELEBA_SETS) if "+" in s and s != tasks]
    others = {s: mean_of(gains(table, new | {"tasks": s}, old | {"tasks": s}).values()) for s in sets}
    missed = len(zero) and not RANGE[0] <= zero.mean() <= RANGE[1]
    reason = f"{percent(zero.mean(), 1)} of the groups are zero, not 60 to 80 %" if missed else ""
    parts = {TASKS[t]: g for t, g in by_task.items()} | {s: g for s, g in others.items() if len(g)}
    return Effects(mean_of(by_task.values()), parts, sight(table, tasks, data), reason, resampled(table, new, old))


def single_over_multi(evidence, protocol="paper"):
    """Dense single-task models over the dense three-task model, mean of the tasks."""
    table, parts = runs_of(evidence, protocol), {}
    for task in ALL_NYU.split("+"):
        new, old = ({"tasks": tasks, "level": 0.0, "data": "nyuv2"} for tasks in (task, ALL_NYU))
        parts[TASKS[task]] = gains(table, new, old)[task]
    return Effects(mean_of(parts.values()), parts, sight(table, ALL_NYU))


def rise(evidence, protocol="paper"):
    """Trend of the scores over the four lambdas up to 1e-5: the fitted change from the first to the last.

    Weights of a linear contrast (-3, -1, 1, 3), relative to the dense score. The fall from 1e-5 on is a part.
    """
    table, parts, limits = runs_of(evidence, protocol), {}, ""
    for name, lams, sign in (("rise to 1e-5", LAMBDAS[:4], 1), ("fall from 1e-5", LAMBDAS[3:], -1)):
        trends = []
        for column, _, better in (SCORES[task] for task in ALL_NYU.split("+")):
            scores = [cell(table, ALL_NYU, column, lam=lam) for lam in lams]
            fitted = sum(w * s for w, s in zip((-0.9, -0.3, 0.3, 0.9), scores, strict=True))
            trends.append(sign * better * fitted / cell(table, ALL_NYU, column, lam=0.0).abs())
        parts[name] = mean_of(trends)
    if len(zero := cell(table, ALL_NYU, "group", lam=1e-5)):
        limits = f"At λ = 1e-5 our networks lose {percent(zero.mean(), 1)} of their groups; the paper's lose 70 %."
    return Effects(parts["rise to 1e-5"], parts, limits)


def all_zero(evidence, protocol="paper"):
    """Share of zero groups minus 0.99, at the less sparse of lambda 1e-3 and 1e-2."""
    table = runs_of(evidence, protocol)
    parts = {f"λ = {scientific(lam)}": cell(table, ALL_NYU, "group", lam=lam) - 0.99 for lam in (1e-3, 1e-2)}
    return Effects(pd.concat(parts, axis=1).dropna().min(axis=1), parts)


def groups_over_l1(evidence, protocol="paper"):
    """Group lasso over l1 with 70 % of the weights zero, three-task model; other sets as parts."""
    table, parts, arms, unequal = runs_of(evidence, protocol), {}, ("group_lasso", "l1"), ""
    for tasks in reversed(L1_SETS):
        new, old = ({"tasks": tasks, "level": GOAL, "count": "parameter", "penalty": arm} for arm in arms)
        found = gains(table, new, old)
        parts |= {tasks: mean_of(found.values())} | (
            {TASKS[t]: g for t, g in found.items()} if tasks == ALL_NYU else {}
        )
    zero = [cell(table, ALL_NYU, "parameter", None, arm, "parameter", level=GOAL).mean() for arm in arms]
    if np.ptp(zero) > 0.05:
        unequal = f"weights zero: {percent(zero[0], 1)} by groups, {percent(zero[1], 1)} by l1"
    return Effects(parts[ALL_NYU], parts, sight(table, ALL_NYU), unequal)


def middle_over_early(evidence, protocol="paper"):
    """Share of dead channels in middle layers minus that in early ones, three-task model at 70 %."""
    table = runs_of(evidence, protocol)
    parts = {f"{stage} layers": cell(table, ALL_NYU, f"dead_{stage}", level=GOAL) for stage in STAGES}
    return Effects((parts["middle layers"] - parts["early layers"]).dropna(), parts)


def time_saved(evidence, protocol="paper"):
    """Share of a dense network's time that its kernels save on the zeros of the three-task model at 70 %."""
    table = runs_of(evidence, protocol)
    parts = {label: cell(table, ALL_NYU, f"{name}_saved", level=GOAL) for name, label in SAVERS.items()}
    return Effects(parts[SAVERS["zeros"]], parts)


def dense_sees(evidence, protocol="paper"):
    """The dense three-task model over the blind control, relative to the control, mean of the tasks."""
    table, parts = runs_of(evidence, protocol), {}
    for task in ALL_NYU.split("+"):
        gain, blind = (cell(table, ALL_NYU, f"{kind}_{SCORES[task][0]}", level=0.0) for kind in ("gain", "blind"))
        parts[TASKS[task]] = (gain / blind.abs()).dropna()
    return Effects(mean_of(parts.values()), parts, sight(table, ALL_NYU))


def decay_blinds(evidence):
    """The dense three-task model without decay over that with coupled decay of 0.1, mean of the tasks."""
    table, parts = frame(evidence.records), {}
    plain, coupled = select(table), select(table, flipped="dense_decay=0.1")
    for task in ALL_NYU.split("+"):
        column, _, sign = SCORES[task]
        a, b = (cell(t, ALL_NYU, column, level=0.0) for t in (plain, coupled))
        parts[TASKS[task]] = (sign * (a - b) / b.abs()).dropna()
    return Effects(mean_of(parts.values()), parts, sight(coupled, ALL_NYU))


EFFECTS = {
    "upadhyay-sparse-beats-dense-nyu": sparse_over_dense,
    "upadhyay-sparse-beats-dense-celeba": lambda evidence: sparse_over_dense(evidence, "celebamask"),
    "upadhyay-dense-multitask-worse": single_over_multi,
    "upadhyay-best-at-1e-5": rise,
    "upadhyay-all-zero": all_zero,
    "upadhyay-groups-beat-l1": groups_over_l1,
    "upadhyay-early-dense": middle_over_early,
    "upadhyay-faster": time_saved,
    "upadhyay-dense-sees": dense_sees,
    "upadhyay-decay-blinds": decay_blinds,
    "upadhyay-as-released": lambda evidence: sparse_over_dense(evidence, protocol="released"),
    "upadhyay-one-optimiser": lambda evidence: sparse_over_dense(evidence, protocol="corrected"),
}


def sees(table, tasks, task, data=None, **at):
    """Whether networks beat the blind control on a task by two standard errors over test images (mean of the seeds)."""
    gain, error = (cell(table, tasks, f"{kind}_{SCORES[task][0]}", data, **at) for kind in ("gain", "error"))
    return bool(len(gain)) and gain.mean() > 2 * error.mean()


def sight(table, tasks=ALL_NYU, data=None, level=0.0):
    """On which tasks the dense network of a table does not beat the blind control (sentence; "" without runs)."""
    names = tasks.split("+")
    if not len(cell(table, tasks, "group", data, level=level)):
        return ""
    unseen = [TASKS[t] for t in names if not sees(table, tasks, t, data, level=level)]
    verb, which = ("does not beat", unseen) if unseen else ("beats", [TASKS[t] for t in names])
    return f"The dense network {verb} the blind control by two standard errors on {listed(which)}."
