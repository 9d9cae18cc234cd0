"""What figures show, in plain sentences that follow from the records; "not run" where there are none."""

import numpy as np
from companion.evidence import NOT_RUN
from companion.style import listed, percent
from papers.upadhyay2023 import tables as vision
from papers.upadhyay2023.study import (
    ALL_NYU,
    CELEBA_SETS,
    FIG3_SETS,
    L1_LAMBDA,
    L1_SETS,
    LAMBDAS,
    NYU_SETS,
    PROTOCOLS,
    SPARSE,
    SWITCHES,
    published,
    scientific,
    switch_lambdas,
)
from papers.upadhyay2023.study import TASKS as PICTURE_TASKS


def how_sparse(evidence, data="nyuv2", protocol="paper"):
    """Share of zero groups in the multi-task models that stand for the sparse ones, ours and the published."""
    table = vision.select(vision.frame(evidence.records), protocol)
    number = {what: number for number, what in vision.TABLE_OF.items()}["group_lasso", data]
    said = {
        row["tasks"]: row["group_sparsity_pct"] / 100
        for row in published(number)
        if row["lambda"] == SPARSE and "+" in row["tasks"]
    }
    ours = [vision.cell(table, tasks, SPARSE, "group", data=data).mean() for tasks in said]
    name, ran = vision.DATA_NAMES[data], [share for share in ours if not np.isnan(share)]
    told = f"{_range(ran)} of the groups are zero" if ran else NOT_RUN
    return f"{name}, multi-task models at λ = {scientific(SPARSE)}: {told}; published: {_range(said.values())}."


def gains_by_set(evidence, data="nyuv2", protocol="paper"):
    """Sparse over dense for each multi-task set, whose mean is the claim."""
    table = vision.select(vision.frame(evidence.records), protocol)
    sets = [s for s in (NYU_SETS if data == "nyuv2" else CELEBA_SETS) if "+" in s]
    told = []
    for tasks in sets:
        g = vision.gain(table, (tasks, SPARSE), (tasks, 0.0)).mean()
        told.append(f"{tasks} {NOT_RUN if np.isnan(g) else f'{100 * g:+.1f} %'}")
    return f"{vision.DATA_NAMES[data]}, λ = {scientific(SPARSE)} over λ = 0: {', '.join(told)}."


def constant_answers(evidence, protocol="paper"):
    """How many outputs for attributes give every face the same answer, at each lambda of Table 2."""
    table, told = vision.select(vision.frame(evidence.records), protocol, data="celebamask"), []
    for lam in (0.0, SPARSE):
        alike = [
            (row[f"{task}_acc"], row[f"{task}_f1"]) == (row[f"constant_{task}_acc"], row[f"constant_{task}_f1"])
            for _, row in (table[table.lam == lam].iterrows() if len(table) else ())
            for task in ("male", "smile")
            if task in row.tasks.split("+")
        ]
        told.append(f"{f'{sum(alike)} of {len(alike)}' if alike else NOT_RUN} at λ = {scientific(lam)}")
    return f"Outputs for attributes that answer every picture alike, as the constant predictor does: {listed(told)}."


def _range(shares):
    return f"{percent(min(shares), 1)} to {percent(max(shares), 1)}"


def training_length(evidence, data="nyuv2", protocol="paper"):
    """How many trainings of a table ended at the limit of epochs, and were still at their best there."""
    table = vision.select(vision.frame(evidence.records), protocol, data=data)
    if table.empty:
        return f"Trainings: {NOT_RUN}."
    cut, best, limit = table.epochs == table.limit, table.best_epoch == table.limit - 1, sorted(table.limit.unique())
    told = f"{cut.sum()} of {len(table)} trainings ran to the limit of {listed(limit)} epochs"
    return f"{told}, and {best.sum()} had their lowest validation loss in the last one."


def l1_against_groups(evidence, protocol="paper"):
    """Share of zero weights under both penalties, which the paper compares at about the same share."""
    table, parts = vision.select(vision.frame(evidence.records), protocol), []
    for tasks in L1_SETS:
        pair = [vision.cell(table, tasks, *which).mean() for which in (
            (L1_LAMBDA, "parameter", "l1"), (SPARSE, "parameter"))]  # fmt: skip
        told = NOT_RUN if np.isnan(pair).any() else f"{percent(pair[0], 1)} by l1, {percent(pair[1], 1)} by groups"
        parts.append(f"{tasks}: {told}")
    return f"Weights zero, {'; '.join(parts)}."


def performance(evidence, protocol="paper"):
    """The best lambda of each task of the three-task model."""
    table = vision.three_tasks(evidence, protocol)
    if table.empty:
        return f"Three-task model: {NOT_RUN}."
    ran, best = sorted(table.lam.unique()), []
    for task in ALL_NYU.split("+"):
        column, _, sign = vision.SCORES[task]
        lam = (sign * table.groupby("lam")[column].mean()).idxmax()
        best.append(f"{PICTURE_TASKS[task]} at {scientific(lam)}")
    return f"{len(ran)} of {len(LAMBDAS)} λ were run; the best are: {'; '.join(best)}."


def sparsity(evidence, protocol="paper"):
    """How the share of zero groups grows with lambda, in the tested networks and at the end of their trainings."""
    table = vision.three_tasks(evidence, protocol)
    if table.empty:
        return f"Three-task model: {NOT_RUN}."
    means = table.groupby("lam")[["group", "group_at_end"]].mean().rename(index=scientific)
    tested, end = (listed([f"{percent(share, 1)} at λ = {lam}" for lam, share in means[c].items()]) for c in means)
    return (
        f"Groups zero in the networks that are tested, the best by validation: {tested}. After the last epoch: {end}."
    )


def times(evidence, protocol="paper"):
    """What zeros save by themselves, and what removing them saves, at the sparsest lambda that was run."""
    table = vision.times(evidence, protocol)
    if table.empty:
        return f"Times: {NOT_RUN}."
    last = table.iloc[-1]
    zeros, compact = (f"{round(last[f'{name}: {vision.SAVED}'])} %" for name in vision.SAVERS.values())
    return (
        f"At λ = {table.index[-1]}, with {last['groups zero, %']:.1f} % of the groups zero in the networks that were "
        f"timed ({last['of them timed']:.0f} of {last['seeds']:.0f}), the zeros alone save "
        f"{zeros} of a dense network's time, and removing the dead channels {compact}."
    )


def channels(evidence, protocol="paper"):
    """Share of dead channels by stage, for each task set of Fig. 3."""
    table, parts = vision.select(vision.frame(evidence.records), protocol), []
    for tasks in FIG3_SETS:
        dead = [vision.cell(table, tasks, SPARSE, f"dead_{stage}").mean() for stage in vision.STAGES]
        told = NOT_RUN if np.isnan(dead).any() else listed([percent(d, 1) for d in dead])
        parts.append(f"{tasks}: {told}")
    return f"Dead channels in {listed(vision.STAGES)} stages, {'; '.join(parts)}."


def protocol_effects(evidence, data="nyuv2"):
    """In how many variants sparse beats dense, and which switch alone changes that most."""
    table, name, sparse = vision.protocols(evidence, data), vision.DATA_NAMES[data], f"λ = {scientific(SPARSE)}"
    gains = table["sparse over dense", "%"].dropna()
    if gains.empty:
        return f"{name}: {NOT_RUN}."
    zero = table.loc[gains.index, (sparse, "groups zero, %")]
    told = (
        f"{name}, the model of all tasks: {sparse} is ahead of λ = 0 in {(gains > 0).sum()} of {len(gains)} variants "
        f"that were run (of {len(table)}); the effects go from {gains.min():+.1f} % to {gains.max():+.1f} %, with "
        f"{zero.min():.1f} % to {zero.max():.1f} % of the groups zero."
    )
    own, alone = PROTOCOLS[0], gains.drop(list(PROTOCOLS), errors="ignore")  # a switch is flipped from the first
    if alone.empty or own not in gains:
        return told
    furthest = (alone - gains[own]).abs().idxmax()
    name = furthest.removeprefix(f"{own}, ").partition("=")[0]
    lams = [f"λ = {scientific(lam)}" for lam in switch_lambdas(name)]
    which = f"{SWITCHES[name].label}; it changes {'both models' if len(lams) > 1 else f'the model of {lams[0]} alone'}"
    away = f"Furthest from the {gains[own]:+.1f} % of “{own}” leads one switch alone, “{furthest}” ({which})"
    return f"{told} {away}: {gains[furthest]:+.1f} %. Each has one seed."
