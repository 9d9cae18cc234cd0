"""From records to the effects that decide the claims of the vision study."""

import math

import numpy as np
import pandas as pd
from companion.claims import Effects
from companion.style import listed, percent

from papers.upadhyay2023.study import (  # isort: skip
    ALL, ALL_NYU, BLIND, CELEBA_SETS, GOAL, L1_SETS, LAMBDAS, NYU_SETS, RANGE, SCORES, TASKS, flipped, scientific,
    short, unpacked,
)  # fmt: skip

TWIN_OF = {"rooms": "nyuv2", "faces": "celebamask"}
SAVERS = {"zeros": "dense kernels on zeros", "compact": "dead channels removed"}  # forms of the backbone, beside dense
STAGES = {"early": ("conv1", "layer1"), "middle": ("layer2", "layer3"), "late": ("layer4",)}
NONE = pd.Series(dtype=float)
RESAMPLES = 500  # of the test images, for an interval


def frame(records):
    """One row for each trained network (DataFrame): what was run, its test metrics, sparsity, dead channels, times.

    level: the target, 0 for dense networks, NaN where lambda is given; lam: NaN with a target. usual: of the width
    that most networks on its data have.
    """
    rows = []
    for r in (r for r in records if r.spec.method != BLIND):
        p, result, times = r.spec.params, r.result, r.run["timings"]
        row = {
            "protocol": r.spec.method, "flipped": ", ".join(f"{k}={short(v)}" for k, v in flipped(r.spec).items()),
            "data": TWIN_OF.get(r.spec.data, r.spec.data), "seed": r.spec.seed,
            "level": p["target"] or (math.nan if p["lam"] else 0.0), "lam": math.nan if p["target"] else p["lam"],
            "lam_held": result["history"]["lambda"][-1], "group": result["sparsity"]["group"],
            # l1 zeroes single weights: there, as in the published table, all zeros count
            "parameter": result["sparsity"]["zero" if p["penalty"] == "l1" else "parameter"],
        } | result["metrics"]  # fmt: skip
        row |= {name: p[name] for name in ("tasks", "penalty", "count", "width")}
        row |= {name: result[name] for name in ("images", "channels", "layers", "history")}
        row |= {f"{kind}_{name}": value for kind in ("blind", "constant") for name, value in result[kind].items()}
        for name, (gain, error) in result["gain"].items():
            row |= {f"gain_{name}": gain, f"error_{name}": error}
        for stage, names in STAGES.items():
            alive, total = np.sum([c for layer, c in result["channels"].items() if layer.startswith(names)], axis=0)
            row[f"dead_{stage}"] = 1 - alive / total
        # the fastest turn: what else the machine does can only add to a time
        row |= {f"{name}_ms": np.min(times.get(f"{name}_ms", math.nan)) for name in ("dense", *SAVERS, "tiny")}
        row |= {f"{name}_saved": 1 - row[f"{name}_ms"] / row["dense_ms"] for name in SAVERS}
        rows.append(row | {"tiny_times": row["tiny_ms"] / row["dense_ms"]})
    table = pd.DataFrame(rows)
    commonest = table.groupby("data").width.transform(lambda w: w.mode().max()) if rows else ()
    return table.assign(usual=table.width == commonest) if rows else table


def cell(table, tasks, column, data=None, **at):
    """Values of one cell by seed (Series), empty if nothing was run.

    at: level=0.7 or lam=1e-4, and what is not as usual: protocol, flipped, penalty, count. data: as tasks tell.
    """
    if column not in table:
        return NONE
    data = data or ("celebamask" if {"male", "smile"} & set(tasks.split("+")) else "nyuv2")
    wanted = {"usual": True, "protocol": "paper", "flipped": "", "tasks": tasks, "data": data}
    if 0.0 not in (at.get("level"), at.get("lam")):  # a network without penalty is dense under every penalty
        wanted |= {"penalty": "group_lasso", "count": "group"}
    else:
        at = {k: v for k, v in at.items() if k not in ("penalty", "count")}
    found = table[np.logical_and.reduce([table[k] == v for k, v in (wanted | at).items()])]
    return found.drop_duplicates("seed").set_index("seed")[column]


def scores_of(tasks, *also):
    """(task, column, label, sign) of each task of a set (list), see `SCORES`; of those that are in `also` as well."""
    return [(t, *SCORES[t]) for t in tasks.split("+") if all(t in other.split("+") for other in also)]


def gains(table, new, old):
    """Relative improvement of `new` over `old`: {task, as pages name it: Series by seed}; each a dict for `cell`."""
    found = {}
    for task, column, _, sign in scores_of(new["tasks"], old["tasks"]):
        a, b = (cell(table, column=column, **at) for at in (new, old))
        found[TASKS[task]] = (sign * (a - b) / b.abs()).dropna()
    return found


def mean_of(parts):
    """Mean of several Series (dict), for the seeds that all of them have."""
    return (sum(parts.values()) / len(parts)).dropna() if parts else NONE


def resampled(table, new, old):
    """95 % interval of the mean relative improvement for these very seeds, by resampling the test images; or None."""
    means, rng = [], np.random.default_rng(0)
    for _, column, _, sign in scores_of(new["tasks"], old["tasks"]):
        a, b = (cell(table, column="images", **at) for at in (new, old))
        for seed in a.index.intersection(b.index):
            x, y = unpacked(a[seed][column]), unpacked(b[seed][column])
            known = np.isfinite(x) & np.isfinite(y)
            counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), RESAMPLES)[:, known]
            means.append(sign * (counts @ x[known] / (counts @ y[known]) - 1))
    return tuple(np.percentile(np.mean(means, axis=0), [2.5, 97.5])) if means else None


# Effects of the claims, by seed, above zero if the claim holds. Metrics of different units are made comparable as
# relative improvements and averaged over the tasks.


def sparse_over_dense(evidence, data="nyuv2", protocol="paper"):
    """The model of all tasks at 70 % over the dense one; each task, and other task sets, as parts."""
    table, tasks = frame(evidence.records), ALL[data]
    new, old = ({"tasks": tasks, "level": level, "data": data, "protocol": protocol} for level in (GOAL, 0.0))
    by_task, zero = gains(table, new, old), cell(table, column="group", **new)
    sets = [s for s in (NYU_SETS if data == "nyuv2" else CELEBA_SETS) if "+" in s and s != tasks]
    others = {s: mean_of(gains(table, new | {"tasks": s}, old | {"tasks": s})) for s in sets}
    parts = by_task | {s: g for s, g in others.items() if len(g)}
    mean, asked = percent(zero.mean(), 1), f"{100 * RANGE[0]:.0f} to {percent(RANGE[1])}"
    missed = len(zero) and not RANGE[0] <= zero.mean() <= RANGE[1]
    reason = f"{mean} of the groups are zero, not {asked}" if missed else ""
    off = [f"{percent(v, 1)} for seed {seed}" for seed, v in zero[~zero.between(*RANGE)].items()]
    limits = sight(table, **old) + (f" Groups zero: {mean}, but {listed(off)}." if off else "")
    return Effects(mean_of(by_task), parts, limits, reason, resampled(table, new, old))


def single_over_multi(evidence):
    """Dense single-task models over the dense three-task model, mean of the tasks."""
    table, multi, found = frame(evidence.records), {"tasks": ALL_NYU, "level": 0.0}, {}
    for task in ALL_NYU.split("+"):
        found |= gains(table, multi | {"tasks": task}, multi)
    single = [t for t in ALL_NYU.split("+") if len(found[TASKS[t]])]
    unseen = [TASKS[t] for t in single if not sees(table, t, t, level=0.0)]
    limits = f"A single-task network does not see: {listed(unseen)}. " if unseen else ""
    return Effects(mean_of(found), found, limits + sight(table))


def rise(evidence):
    """Trend of the scores over the four lambdas up to 1e-5: the fitted change from the first to the last.

    Weights of a linear contrast (-3, -1, 1, 3), relative to the dense score. The fall from 1e-5 on is a part.
    """
    table, parts = frame(evidence.records), {}
    for name, lams, sign in (("rise to 1e-5", LAMBDAS[:4], 1), ("fall from 1e-5", LAMBDAS[3:], -1)):
        trends = {}
        for task, column, _, better in scores_of(ALL_NYU):
            scores = [cell(table, ALL_NYU, column, lam=lam) for lam in lams]
            fitted = sum(w * s for w, s in zip((-0.9, -0.3, 0.3, 0.9), scores, strict=True))
            trends[task] = sign * better * fitted / cell(table, ALL_NYU, column, lam=0.0).abs()
        parts[name] = mean_of(trends)
    zero = cell(table, ALL_NYU, "group", lam=1e-5)
    lost = percent(zero.mean(), 1)
    limits = f"At λ = 1e-5 our networks lose {lost} of their groups; the paper's lose {percent(GOAL)}."
    return Effects(parts["rise to 1e-5"], parts, limits if len(zero) else "")


def all_zero(evidence):
    """Share of zero groups minus 0.99, at the less sparse of lambda 1e-3 and 1e-2."""
    table = frame(evidence.records)
    parts = {f"λ = {scientific(lam)}": cell(table, ALL_NYU, "group", lam=lam) - 0.99 for lam in (1e-3, 1e-2)}
    zero = cell(table, ALL_NYU, "group", lam=1e-2)
    limits = f"The same λ may be weaker in a narrow network: 1e-2 zeroes {percent(zero.mean(), 1)} of our groups."
    return Effects(pd.concat(parts, axis=1).dropna().min(axis=1), parts, limits if len(zero) else "")


def groups_over_l1(evidence):
    """Group lasso over l1 with 70 % of the weights zero, three-task model; other sets as parts."""
    table, parts = frame(evidence.records), {}
    arms = [{"level": GOAL, "count": "parameter", "penalty": penalty} for penalty in ("group_lasso", "l1")]
    for tasks in reversed(L1_SETS):
        found = gains(table, *({"tasks": tasks} | arm for arm in arms))
        parts |= {tasks: mean_of(found)} | (found if tasks == ALL_NYU else {})
    zero = [cell(table, ALL_NYU, "parameter", **arm).mean() for arm in arms]
    said = f"Weights zero: {percent(zero[0], 1)} by groups, {percent(zero[1], 1)} by l1."
    unequal = said if np.ptp(zero) > 0.05 else ""
    return Effects(parts[ALL_NYU], parts, f"{said} {sight(table)}" if np.isfinite(zero).all() else "", unequal)


def middle_over_early(evidence):
    """Share of dead channels in middle layers minus that in early ones, three-task model at 70 %."""
    table = frame(evidence.records)
    parts = {f"{stage} layers": cell(table, ALL_NYU, f"dead_{stage}", level=GOAL) for stage in STAGES}
    return Effects((parts["middle layers"] - parts["early layers"]).dropna(), parts)


def time_saved(evidence):
    """Share of a dense network's time that its kernels save on the zeros of the three-task model at 70 %."""
    table = frame(evidence.records)
    parts = {label: cell(table, ALL_NYU, f"{name}_saved", level=GOAL) for name, label in SAVERS.items()}
    return Effects(parts[SAVERS["zeros"]], parts, limits=tiny_weights(table))


def tiny_weights(table):
    """A sentence on what weights below 1e-38 cost, which training leaves in a sparse network; "" if unknown."""
    times = cell(table, ALL_NYU, "tiny_times", level=GOAL).dropna()
    cost = f"the network takes {times.mean():.1f} times as long as a dense one"
    return f"Training leaves weights below 1e-38; unless a CPU flushes them to zero, {cost}." if len(times) else ""


def dense_sees(evidence):
    """The dense three-task model over the blind control, relative to the control, mean of the tasks."""
    table, found = frame(evidence.records), {}
    for task, column, *_ in scores_of(ALL_NYU):
        gain, blind = (cell(table, ALL_NYU, f"{kind}_{column}", level=0.0) for kind in ("gain", "blind"))
        found[TASKS[task]] = (gain / blind.abs()).dropna()
    return Effects(mean_of(found), found, sight(table))


def decay_blinds(evidence):
    """The dense three-task model without decay over that with coupled decay of 0.1, mean of the tasks."""
    table, plain = frame(evidence.records), {"tasks": ALL_NYU, "level": 0.0}
    coupled = plain | {"flipped": "dense_decay=0.1"}
    found = gains(table, plain, coupled)
    return Effects(mean_of(found), found, sight(table, name="The dense network with coupled decay", **coupled))


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


def sees(table, tasks, task, **at):
    """Whether networks beat the blind control on a task by two standard errors over test images (mean of the seeds)."""
    gain, error = (cell(table, tasks, f"{kind}_{SCORES[task][0]}", **at) for kind in ("gain", "error"))
    return bool(len(gain)) and gain.mean() > 2 * error.mean()


def seen(table, tasks, **at):
    """The tasks on which networks beat the blind control, in words."""
    return listed([TASKS[t] for t in tasks.split("+") if sees(table, tasks, t, **at)] or ["nothing"])


def sight(table, tasks=ALL_NYU, level=0.0, name="The dense network", **at):
    """On which tasks a network does not beat the blind control (sentences; "" without runs)."""
    at |= {"tasks": tasks, "level": level}
    if not len(cell(table, column="group", **at)):
        return ""
    unseen = [t for t in tasks.split("+") if not sees(table, task=t, **at)]
    where = listed(TASKS[t] for t in unseen or tasks.split("+"))
    verb = "does not beat" if unseen else "beats"
    said = f"{name} {verb} the blind control by two standard errors over images on {where}."
    if "depth" in unseen:
        ours, blind = (cell(table, column=f"{kind}depth_mae_m", **at).mean() for kind in ("", "blind_"))
        said += f" (Depth is relative there; in metres the network is off by {ours:.2f}, the control by {blind:.2f}.)"
    return said
