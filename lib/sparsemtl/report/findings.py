"""What figures show, in plain sentences that follow from the records; "not run" where there are none."""

import numpy as np

from sparsemtl.report import shin2023 as eeg
from sparsemtl.report import upadhyay2023 as vision
from sparsemtl.report.evidence import NOT_RUN
from sparsemtl.report.statistics import chance_interval
from sparsemtl.report.style import percent
from sparsemtl.studies.shin2023 import (
    BACKBONES,
    METHODS,
    PROBLEMS,
    PROPOSED,
    PUBLISHED_SPARSITY,
    SPARSITIES,
    TASKS,
    rivals,
)
from sparsemtl.studies.upadhyay2023 import ALL_NYU, FIG3_SETS, LAMBDAS, SPARSE
from sparsemtl.studies.upadhyay2023 import TASKS as PICTURE_TASKS

# EEG


def accuracy_against_sparsity(records, problem):
    """Where the proposed masks stand against dense, the other pruning methods and the classical line."""
    table = eeg.select(eeg.frame(records), problem)
    if table.empty:
        return f"{PROBLEMS[problem]}: {NOT_RUN}."
    means = eeg.per_subject(table).groupby(["method", "sparsity"]).mean()
    ours = {s: means.get((PROPOSED, s), np.nan) for s in SPARSITIES[1:]}
    others = rivals()
    above = [m for m in others if means.get((m, PUBLISHED_SPARSITY), np.nan) > ours[PUBLISHED_SPARSITY]]
    here, levels = percent(PUBLISHED_SPARSITY), _listed([f"{value:.3f} at {percent(s)}" for s, value in ours.items()])
    return (
        f"Mean of both tasks: the proposed masks reach {levels}, the dense multi-task network "
        f"{means.get(('dense-multi', 0.0), np.nan):.3f}, CSP + LDA {means.get(('csp-lda', 0.0), np.nan):.3f}. At "
        f"{here}, {len(above)} of {len(others)} other pruning methods are above the proposed masks."
    )


def variation_over_subjects(records, problem):
    """How many subjects are decoded better than guessing, and how much of the spread is the person's."""
    table = eeg.select(eeg.frame(records), problem)
    chosen = table[(table.method == PROPOSED) & (table.sparsity == PUBLISHED_SPARSITY)] if len(table) else table
    if chosen.empty:
        return f"{PROBLEMS[problem]}: {NOT_RUN}."
    people = chosen.groupby(["task", "subject"]).agg({"accuracy": "mean", "trials": "first", "classes": "first"})
    parts = []
    for task, name in TASKS.items():
        rows = people.loc[task]
        above = sum(r.accuracy > chance_interval(r.trials, int(r.classes))[1] for r in rows.itertuples())
        parts.append(f"{name}: {above} of {len(rows)} people above the 95 % range of guessing")
    spread = eeg.spread(records, problem).xs(METHODS[PROPOSED].label, level="method")
    ratio = (spread["between subjects"] / spread["between seeds"]).mean()
    told = f"Proposed masks at {percent(PUBLISHED_SPARSITY)}, {'; '.join(parts)}."
    return f"{told} People differ {ratio:.1f} times as much as seeds do."


def vote_agreement(records):
    """In how many layers the two tasks' votes differ by more than noise."""
    table = eeg.agreement(records)
    if table.empty:
        return f"Votes: {NOT_RUN}."
    apart, largest = table.index[table.low > 0], table["mean"].idxmax()
    return (
        f"In {len(apart)} of {len(table)} shared layers the tasks' votes differ by more than the noise of the scores "
        f"(interval above zero); the largest difference in IoU is {table['mean'][largest]:.3f}, in {largest}."
    )


def densities(records):
    """How much more the OR keeps than each vote."""
    votes = eeg.vote_frame(records)
    votes = votes[votes.sparsity == PUBLISHED_SPARSITY] if len(votes) else votes
    if votes.empty:
        return f"Votes: {NOT_RUN}."
    kept = votes.groupby("layer", sort=False)[["mi", "me", "or"]].mean()
    gain = kept["or"] / kept[["mi", "me"]].mean(axis=1) - 1
    more = f"{percent(gain.min())} to {percent(gain.max())} more weights of a shared layer"
    return f"When each vote prunes {percent(PUBLISHED_SPARSITY)}, the OR keeps {more} than the votes do on average."


def scalp_maps(records):
    """Electrodes where most spatial weights are kept, by kind."""
    maps = eeg.electrode_maps(records)
    if maps.empty:
        return f"Votes: {NOT_RUN}."
    told = [f"{label}: {_listed(maps[kind].nlargest(3).index)}" for kind, label in eeg.KINDS.items()]
    return f"Electrodes with most kept weights, {'; '.join(told)}."


def backbones(table):
    """Whether the claims fare alike with every backbone. table: of `shin2023.backbone_claims`."""
    tests = [rows for _, rows in table.groupby(["id", "problem"], sort=False)] if len(table) else []
    ran = [rows for rows in tests if len(rows) == len(BACKBONES) and rows.effect.notna().all()]
    if not ran:
        return f"Backbones: {NOT_RUN}."
    same = sum(rows.verdict.nunique() == 1 for rows in ran)
    sided = sum(np.sign(rows.effect).nunique() == 1 for rows in ran)
    told = (
        f"{len(ran)} tests were run with all {len(BACKBONES)} backbones: {same} end in the same verdict with each, and "
        f"in {sided} the effect lies on the same side of zero with each."
    )
    parts = []
    for rows in ran:
        claim, problem, _ = rows.index[0]
        held = rows.index.get_level_values("backbone")[rows.verdict == "reproduced"]
        if len(held):
            parts.append(f"{eeg.SHORT[claim]} ({PROBLEMS[problem]}) with {_listed(held)}")
    return f"{told} Reproduced: {'; '.join(parts) or 'none with any backbone'}."


# Vision


def performance(evidence, protocol="paper"):
    """The best lambda of each task of the three-task model, and what the paper says."""
    table = vision.three_tasks(evidence, protocol)
    if table.empty:
        return f"Three-task model: {NOT_RUN}."
    ran, best = sorted(table.lam.unique()), []
    for task in ALL_NYU.split("+"):
        column, _, sign = vision.SCORES[task]
        best.append(f"{PICTURE_TASKS[task]} at {(sign * table.groupby('lam')[column].mean()).idxmax():g}")
    told = f"{len(ran)} of {len(LAMBDAS)} λ were run; the best are: {'; '.join(best)}."
    return f"{told} The paper names {SPARSE:g}."


def sparsity(evidence, protocol="paper"):
    """How the share of zero groups grows with lambda."""
    table = vision.three_tasks(evidence, protocol)
    if table.empty:
        return f"Three-task model: {NOT_RUN}."
    zero = table.groupby("lam").group.mean()
    return f"Groups zero: {_listed([f'{percent(share, 1)} at λ = {lam:g}' for lam, share in zero.items()])}."


def times(evidence, protocol="paper"):
    """What zeros save by themselves, and what removing them saves, at the sparsest lambda that was run."""
    table = vision.times(evidence, protocol)
    if table.empty:
        return f"Times: {NOT_RUN}."
    last = table.iloc[-1]
    zeros, compact = (f"{round(last[f'{name}: saved, %'])} %" for name in vision.SAVERS.values())
    return (
        f"At λ = {table.index[-1]}, with {last['groups zero, %']:.1f} % of the groups zero, the zeros alone save "
        f"{zeros} of a dense network's time, and removing the dead channels {compact}."
    )


def channels(evidence, protocol="paper"):
    """Share of dead channels by stage, for each task set of Fig. 3."""
    table, parts = vision.select(vision.frame(evidence.records), protocol), []
    for tasks in FIG3_SETS:
        dead = [vision.cell(table, tasks, SPARSE, f"dead_{stage}").mean() for stage in vision.STAGES]
        told = NOT_RUN if np.isnan(dead).any() else _listed([percent(d, 1) for d in dead])
        parts.append(f"{tasks}: {told}")
    return f"Dead channels in {_listed(vision.STAGES)} stages, {'; '.join(parts)}."


def protocol_effects(evidence, data="nyuv2"):
    """In how many variants sparse beats dense."""
    gains = vision.protocols(evidence, data)["sparse over dense", "%"].dropna()
    if gains.empty:
        return f"Protocols: {NOT_RUN}."
    return (
        f"λ = {SPARSE:g} is ahead of λ = 0 in {(gains > 0).sum()} of {len(gains)} variants that were run; the effects "
        f"go from {gains.min():+.1f} % to {gains.max():+.1f} %."
    )


def _listed(parts):
    *most, last = map(str, parts)
    return f"{', '.join(most)} and {last}" if most else last
