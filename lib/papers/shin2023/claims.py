"""What the records say on each claim: contrasts of accuracy, paired over people (no torch)."""

# ruff: isort: skip_file
import math
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from companion.claims import Effects
from companion.style import percent
from papers.shin2023.study import (
    CLAIMS, CLASSICAL, DEVELOPMENT, EXACT, METHODS, PROBLEMS, PROPOSED, PUBLISHED_SPARSITY, RIVALS, SHARES, SPARSITIES,
    TASKS, TRUNKS,
)  # fmt: skip
from scipy.stats import spearmanr

SINGLE, MULTI = ("dense-single", 0.0), ("dense-multi", 0.0)
AT_40, LEVELS = (PROPOSED, PUBLISHED_SPARSITY), SPARSITIES[1:]
EQUAL = dict.fromkeys(TASKS, 1 / len(TASKS))  # weights of the tasks
DRAWS = 2000  # of the bootstrap


def of_kind(records, kind="main"):
    """The records that are evidence of one kind (list): "main", "trunk" (another trunk), "truth" or "development"."""

    def kind_of(spec):
        if spec.data == DEVELOPMENT:
            return "development"
        if "shared" in spec.params:
            return "truth"
        return "main" if spec.params["trunk"] == next(iter(TRUNKS)) else "trunk"

    return [r for r in records if kind_of(r.spec) == kind]


def tasks_of(record):
    """The tasks of a record, MI first."""
    return [task for task in TASKS if task in record.result["labels"]]


def hits(record, task):
    """Whether each trial of a task was classified correctly (bool array, in the order of the recordings)."""
    labels, predicted = record.result["labels"][task], record.result["predicted"][task]
    return np.frombuffer(predicted.encode(), np.uint8) == np.frombuffer(labels.encode(), np.uint8)


def dense_of(method, sparsity):
    """(method, sparsity) of a cell's runs: a method without masks is always dense; at 0 one with masks is too."""
    if METHODS[method].sparse and not sparsity:
        return SINGLE if method == "snip-single" else MULTI
    return method, sparsity if METHODS[method].sparse else 0.0


def cells_of(records):
    """(problem, person) -> (task, method, sparsity, labels) -> seed -> `hits`, for records of one kind."""
    found = {}
    for r in records:
        p = r.spec.params
        for task in tasks_of(r):
            cells = found.setdefault((p["problem"], p["subject"]), {})
            cells.setdefault((task, r.spec.method, p["sparsity"], p["labels"]), {})[r.spec.seed] = hits(r, task)
    return found


def differences(cells, weights, tasks=EQUAL):
    """(problem, person) -> task -> weighted sum of hits, float (seeds, trials), over the seeds that all cells have.

    cells: of `cells_of`; whoever lacks one is left out. weights: (method, sparsity), and labels if they are not the
    true ones -> number. tasks: task -> number.
    """
    wanted, out = {}, {}
    for (method, sparsity, *labels), weight in weights.items():
        for task, share in tasks.items():
            key = (task, *dense_of(method, sparsity), *(labels or ["true"]))
            wanted[key] = wanted.get(key, 0) + weight * share
    for who, own in cells.items():
        seeds = sorted(set.intersection(*(set(own.get(key, ())) for key in wanted)))
        for key, weight in wanted.items() if seeds else ():
            hit = np.array([own[key][seed] for seed in seeds], dtype=float)
            sums = out.setdefault(who, {})
            sums[key[0]] = sums.get(key[0], 0) + weight * hit
    return out


def minus(first, *others, levels=LEVELS):
    """Weights of one method minus the mean of others, mean over the levels of sparsity."""
    share = 1 / len(levels)
    return {(first, s): share for s in levels} | {(m, s): -share / len(others) for m, s in product(others, levels)}


def by_person(found):
    """Mean over problems of the tasks' summed `differences`, by person (Series)."""
    return averaged({who: sum(d.mean() for d in tasks.values()) for who, tasks in found.items()}).pooled


def averaged(found, names=(), limits=""):
    """`Effects` of {(part, person, ...): number}: mean over what else is in a key, then over parts; names: of parts."""
    values = pd.Series(found, dtype=float).dropna()
    if values.empty:
        return Effects(values)
    if values.index.nlevels > 2:
        values = values.groupby(level=[0, 1]).mean()
    parts = {names[part]: values[part] for part in values.index.unique(0) if part in names}
    return Effects(values.groupby(level=1).mean(), parts, limits)


def contrast(records, weights, parts=(), limits=None, not_tested="", shift=0.0, tasks=EQUAL):
    """`Effects` of weights for `differences`, plus a shift; parts: name -> weights, for the fold-out.

    limits: of the answer; None for how far the dense network decodes.
    """
    cells = cells_of(records)
    found = differences(cells, weights, tasks)
    shown = {name: {k: v for k, v in found.items() if k[0] == p} for p, name in PROBLEMS.items()}
    if tasks == EQUAL:
        shown |= {name: {k: {t: 2 * d[t]} for k, d in found.items()} for t, name in TASKS.items()}
    shown = {name: by_person(own) + shift for name, own in shown.items()}
    shown |= {name: by_person(differences(cells, own, tasks)) for name, own in dict(parts).items()}
    within = tuple(end + shift for end in resampled(found)) if found else None
    limits = above_chance(records) if limits is None else limits
    return Effects(by_person(found) + shift, {k: v for k, v in shown.items() if len(v)}, limits, not_tested, within)


def resampled(found, seed=0):
    """95 % interval (low, high) of the mean effect for these very people: their trials and seeds are drawn again."""
    rng, people = np.random.default_rng(seed), {}
    for (_, person), tasks in sorted(found.items()):
        drawn = 0
        for d in tasks.values():
            seeds, trials = (rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n for n in d.shape)
            drawn = drawn + ((seeds @ d) * trials).sum(1)
        people.setdefault(person, []).append(drawn)
    ends = np.quantile(np.mean([np.mean(d, axis=0) for d in people.values()], axis=0), (0.025, 0.975))
    return tuple(map(float, ends))


def above_chance(records):
    """How far the dense multi-task network decodes, which bounds what masks can do (a sentence)."""
    found = by_person(differences(cells_of(records), {MULTI: 1}))
    said = f"Pruning can cost at most {100 * (found.mean() - 0.5):.1f} points: the dense network's lead over chance."
    return said if len(found) else ""


def missed_sparsity(records, tolerance=0.01):
    """(method, sparsity) of cells whose realised sparsity is further than `tolerance` from the one asked -> how far."""
    off = {}
    for r in (r for r in records if r.spec.params["sparsity"]):
        key = r.spec.method, r.spec.params["sparsity"]
        off[key] = max(off.get(key, 0), abs(r.result["sparsity"]["whole"] - key[1]))
    return {key: far for key, far in off.items() if far > tolerance}


def best_method(records, levels=LEVELS):
    """Proposed at an exact budget minus the mean of the other pruning methods, mean over the levels of sparsity.

    A rival that misses a level by more than a point is left out there, and named.
    """
    missed, weights = missed_sparsity(records), {}
    for s in levels:
        rivals = [m for m in RIVALS if (m, s) not in missed]
        for key, weight in minus(EXACT, *rivals, levels=(s,)).items() if rivals else ():
            weights[key] = weights.get(key, 0) + weight / len(levels)
    parts = {f"over {METHODS[m].label}": minus(EXACT, m, levels=levels) for m in RIVALS}
    parts |= {f"at {percent(s)}": minus(EXACT, *RIVALS, levels=(s,)) for s in levels}
    parts["the OR itself, at equal nominal sparsity"] = minus(PROPOSED, *RIVALS, levels=levels)
    out = [f"{METHODS[m].label} at {percent(s)} ({100 * far:.1f} points off)" for (m, s), far in missed.items()
           if m in RIVALS and s in levels]  # fmt: skip
    limits = above_chance(records) + (f" Left out for its sparsity: {', '.join(out)}." if out else "")
    own = [f"{100 * missed[EXACT, s]:.1f} points at {percent(s)}" for s in levels if (EXACT, s) in missed]
    why = f"the proposed masks miss the nominal sparsity by {', '.join(own)}" if own else ""
    return contrast(records, weights, parts, limits, why)


def better_classical(records):
    """The classical decoder with the higher mean accuracy over people, problems and tasks."""
    cells = cells_of(records)
    means = {c: by_person(differences(cells, {(c, 0.0): 1})).mean() for c in CLASSICAL}
    return max(CLASSICAL, key=lambda c: -math.inf if math.isnan(means[c]) else means[c])


def over_classical(records):
    """Dense single-task minus the better classical decoder."""
    pairs = product((SINGLE, MULTI), CLASSICAL)
    parts = {f"{METHODS[n[0]].label} over {METHODS[c].label}": {n: 1, (c, 0.0): -1} for n, c in pairs}
    return contrast(records, {SINGLE: 1, (better_classical(records), 0.0): -1}, parts, limits="")


def less_overfitting(records):
    """Test cross-entropy of dense multi-task minus that of the proposed at 40 %, as a share of the former.

    Both are read at the lowest training loss that both networks reach, from the curve that each record keeps.
    """
    found, (dense, sparse) = {}, (curves_of(records, cell) for cell in (MULTI, AT_40))
    for run in (run for run in dense if run in sparse):
        level = max(min(curves[run]["train"]) for curves in (dense, sparse))
        found[run] = 1 - test_loss_at(sparse[run], level) / test_loss_at(dense[run], level)
    return averaged(found, PROBLEMS, above_chance(records))


def curves_of(records, cell):
    """(problem, person, seed) -> losses along the training, for the runs of a (method, sparsity) on true labels."""
    return {
        (r.spec.params["problem"], r.spec.params["subject"], r.spec.seed): r.result["curve"]
        for r in records
        if (r.spec.method, r.spec.params["sparsity"], r.spec.params["labels"]) == (*cell, "true")
    }


def test_loss_at(curve, level):
    """Test cross-entropy (float) when the training loss first falls to `level`, linear between the epochs kept."""
    return float(np.interp(-level, -np.minimum.accumulate(curve["train"]), curve["test"]))


def recovered(records):
    """Do scores follow the true sources of simulated people? name -> (share, person) -> rank correlation of electrodes.

    private: of the tasks' difference in score with that of their private sources (NaN if all sources are common).
    common: of the weights that both votes keep with the sources common to both (NaN if there are none).
    """
    found = {"private": {}, "common": {}}
    for r in records:
        if "votes" in r.result and (true := r.result["data"].get("truth")):
            kept, true = (pd.DataFrame(dict(maps)) for maps in (r.result["votes"]["electrodes"], true))
            pairs = {"private": (kept.mi_score - kept.me_score, true.mi - true.me), "common": (kept.both, true.common)}
            for name, (a, b) in pairs.items():
                rho = spearmanr(a, b).statistic if min(a.nunique(), b.nunique()) > 1 else math.nan
                found[name][r.spec.params["shared"], r.spec.params["subject"]] = rho
    return found


def votes_find_sources(records):
    """Rank correlation over electrodes of the tasks' difference in score with that of their private sources."""
    return averaged(recovered(records)["private"], {share: f"{percent(share)} shared" for share in SHARES})


_MOST, _OTHERS = LEVELS[-1], [s for s in SPARSITIES if s != PUBLISHED_SPARSITY]
QUANTITIES = {  # of the records of one kind
    "shin-multitask": partial(contrast, weights={MULTI: 1, SINGLE: -1}, limits=""),
    "shin-sparse-beats-dense": partial(
        contrast, weights={AT_40: 1, MULTI: -1}, parts={"exact budget": {(EXACT, AT_40[1]): 1, MULTI: -1}}
    ),
    "shin-overfitting": less_overfitting,
    "shin-best-method": best_method,
    "shin-robust": partial(
        contrast, weights={(PROPOSED, _MOST): 1, MULTI: -1},
        parts={f"change of {METHODS[m].label}": {(m, _MOST): 1, (m, 0.0): -1} for m in (PROPOSED, EXACT, *RIVALS)},
        shift=next(c.smallest for c in CLAIMS if c.id == "shin-robust"),  # the points that it has to spare
    ),
    "shin-best-at-40": partial(
        contrast, weights={AT_40: 1} | {(PROPOSED, s): -1 / len(_OTHERS) for s in _OTHERS},
        parts={f"over {percent(s)}": {AT_40: 1, (PROPOSED, s): -1} for s in _OTHERS},
    ),
    "shin-me-above-mi": partial(
        contrast, weights={(PROPOSED, s): 1 / len(SPARSITIES) for s in SPARSITIES}, tasks={"me": 1, "mi": -1},
        parts={f"at {percent(s)}": {(PROPOSED, s): 1} for s in SPARSITIES}, limits="",
    ),
    "shin-control-labels": partial(contrast, weights={MULTI: 1, (*MULTI, "shuffled"): -1}, limits=""),
    "shin-control-classical": over_classical,
    "shin-control-random": partial(
        contrast, weights=minus(EXACT, "random"),
        parts={f"at {percent(s)}": minus(EXACT, "random", levels=(s,)) for s in LEVELS},
    ),
    "shin-control-truth": votes_find_sources,
}  # fmt: skip


def _effects(claim, evidence):
    return QUANTITIES[claim](of_kind(evidence.records, "truth" if claim == "shin-control-truth" else "main"))


EFFECTS = {claim: partial(_effects, claim) for claim in QUANTITIES}
