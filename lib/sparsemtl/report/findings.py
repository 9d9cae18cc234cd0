"""What figures show, in plain sentences that follow from the records; "not run" where there are none."""

import numpy as np

from sparsemtl.report import shin2023 as eeg
from sparsemtl.report import upadhyay2023 as vision
from sparsemtl.report.evidence import NOT_RUN
from sparsemtl.report.statistics import VERDICTS, chance_interval
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
from sparsemtl.studies.upadhyay2023 import (
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
from sparsemtl.studies.upadhyay2023 import TASKS as PICTURE_TASKS

# EEG

FITTED = 0.99  # share of its own trials from which on a network has learnt them by heart


def accuracy_against_sparsity(records, problem):
    """Where the proposed masks stand against dense, the other pruning methods and the classical line."""
    table = eeg.select(eeg.frame(records), problem)
    if table.empty:
        return f"{PROBLEMS[problem]}: {NOT_RUN}."
    means = eeg.per_subject(table).groupby(["method", "sparsity"]).mean()
    ours = {s: means.get((PROPOSED, s), np.nan) for s in SPARSITIES[1:]}
    here, levels = ours[PUBLISHED_SPARSITY], _listed([f"{_score(value)} at {percent(s)}" for s, value in ours.items()])
    dense, classical = (_score(means.get((method, 0.0), np.nan)) for method in ("dense-multi", "csp-lda"))
    others = [means[m, PUBLISHED_SPARSITY] for m in rivals() if (m, PUBLISHED_SPARSITY) in means]
    told = (
        f"Mean of both tasks: the proposed masks reach {levels}, the dense multi-task network {dense}, CSP + LDA "
        f"{classical}."
    )
    if not others or np.isnan(here):
        return f"{told} Against other pruning methods: {NOT_RUN}."
    above = f"{sum(other > here for other in others)} of {len(others)} other pruning methods"
    return f"{told} At {percent(PUBLISHED_SPARSITY)}, {above} are above the proposed masks."


def _score(value):
    return NOT_RUN if np.isnan(value) else f"{value:.3f}"


def variation_over_subjects(records, problem):
    """How many subjects are decoded better than guessing, and how far subjects and seeds are apart."""
    table = eeg.select(eeg.frame(records), problem)
    chosen = table[(table.method == PROPOSED) & (table.sparsity == PUBLISHED_SPARSITY)] if len(table) else table
    if chosen.empty:
        return f"{PROBLEMS[problem]}: {NOT_RUN}."
    people = chosen.groupby(["task", "subject"])[["accuracy", "trials", "classes", "commonest"]].mean()
    parts = []
    for task, name in TASKS.items():
        rows = people.loc[task]
        above = sum(r.accuracy > chance_interval(r.trials, r.classes, r.commonest)[1] for r in rows.itertuples())
        parts.append(f"{name}: {above} of {len(rows)} people above the 95 % range of guessing")
    spread = eeg.spread(records, problem).xs(METHODS[PROPOSED].label, level="method")
    ratio = (spread["between subjects"] / spread["between seeds"]).mean()
    told = f"Proposed masks at {percent(PUBLISHED_SPARSITY)}, {'; '.join(parts)}."
    if np.isnan(ratio):
        return told
    return f"{told} The spread between people is {ratio:.1f} times that between seeds of one person."


def vote_agreement(records):
    """In how many layers the two tasks' votes differ by more than noise."""
    table = eeg.agreement(records)
    if table.empty:
        return f"Votes: {NOT_RUN}."
    parts = []
    for heads in eeg.HEADS:
        gaps = table.loc[heads]
        largest = gaps["mean"].idxmax()
        parts.append(
            f"where the heads {heads}, in {(gaps.low > 0).sum()} of {len(gaps)} shared layers (largest difference in "
            f"IoU: {gaps['mean'][largest]:.3f}, {largest})"
        )
    return f"The tasks' votes differ by more than the noise of the scores {'; '.join(parts)}."


def densities(records):
    """How much more the OR keeps than each vote."""
    votes = eeg.published_votes(records)
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
    same = [rows.verdict.iloc[0] for rows in ran if rows.verdict.nunique() == 1]
    sided = sum(np.sign(rows.effect).nunique() == 1 for rows in ran)
    told = (
        f"On the profile `{_listed(table.profile.unique())}`, {len(ran)} tests were run with all {len(BACKBONES)} "
        f"backbones: {len(same)} end in the same verdict with each{_counted(same)}, and in {sided} the effect lies on "
        "the same side of zero with each."
    )
    parts = []
    for rows in ran:
        claim, problem, _ = rows.index[0]
        held = rows.index.get_level_values("backbone")[rows.verdict == "reproduced"]
        if len(held):
            parts.append(f"{eeg.SHORT[claim]} ({PROBLEMS[problem]}) with {_listed(held)}")
    return f"{told} Reproduced: {'; '.join(parts) or 'none with any backbone'}."


def sensitivity(table):
    """Whether the verdicts hang on choices of the analysis. table: of `shin2023.sensitivity`."""
    if table.empty:
        return f"Other choices: {NOT_RUN}."
    tests = [rows.droplevel(["id", "problem"]) for _, rows in table.groupby(["id", "problem"], sort=False)]
    names = [f"{eeg.SHORT[claim]} ({PROBLEMS[problem]})" for claim, problem in table.index.droplevel("view").unique()]
    same, parts = [], []
    for name, rows in zip(names, tests, strict=True):
        judged = rows.loc[eeg.AS_JUDGED]
        other = [
            f"{row.verdict} with {row.Index}{'' if row.subjects == judged.subjects else f' ({row.subjects} of them)'}"
            for row in rows.itertuples()
            if row.verdict != judged.verdict
        ]
        if other:
            parts.append(f"“{name}” is {judged.verdict} {eeg.AS_JUDGED}, but {_listed(other)}.")
        else:
            same.append(judged.verdict)
    if parts:
        parts.append("With so many judgements, some change by chance.")
    told = f"{len(same)} end in the same verdict in all{_counted(same)}"
    ways = table.index.unique("view")
    return " ".join([f"Each of {len(tests)} tests was made in {len(ways)} ways: {told}.", *parts])


def _counted(verdicts):
    """How often each verdict was given, in brackets; nothing where there is none."""
    counts = [f"{verdicts.count(word)} {word}" for word in VERDICTS if word in verdicts]
    return f" ({', '.join(counts)})" if counts else ""


def overfitting(tables):
    """What a gap between training and unseen trials can say. tables: {problem: `report.shin2023.overfitting`}."""
    parts = []
    for problem, table in tables.items():
        if table.empty:
            continue
        least, (method, sparsity) = table.training.min(), table.training.idxmin()
        fit = f"{PROBLEMS[problem]}: every network answers at least {100 * least:.1f} % of its own trials rightly"
        if least >= FITTED:
            parts.append(f"{fit}, so that its gap is what it lacks on unseen ones and says no more than accuracy does.")
        else:
            parts.append(f"{fit} ({method} at {sparsity}); where one fits its own less, a smaller gap proves nothing.")
    return " ".join(parts) or f"Overfitting: {NOT_RUN}."


def robustness(table):
    """Which rivals the claim of robustness rests on. table: of `report.shin2023.robustness_by_rival`."""
    parts, own = [], METHODS[PROPOSED].label
    for problem in [p for p in PROBLEMS if (p, own) in table.index]:  # without its row a rival was not run
        rows = table.loc[problem]
        others = rows.drop(own)
        better = others[others.change > rows.change[own]].change.sort_values(ascending=False)
        told = _listed([f"{name} {change:+.1f}" for name, change in better.items()]) if len(better) else "none"
        lose = "loses" if len(better) == 1 else "lose"
        parts.append(
            f"{PROBLEMS[problem]}: from dense to {percent(SPARSITIES[-1])} the proposed network changes by "
            f"{rows.change[own]:+.1f} points; of {len(others)} other pruning methods {len(better)} {lose} less "
            f"({told})."
        )
        turned, judged = others[others.verdict != rows.verdict[own]], rows.verdict[own]
        if len(turned):
            verdicts, names = _listed(sorted(set(turned.verdict))), _listed(turned.index, "or")
            parts.append(f"With {names} left out the verdict is {verdicts}, not {judged}.")
    return " ".join(parts) or f"Robustness: {NOT_RUN}."


# Vision


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
    return f"Outputs for attributes that answer every picture alike, as the constant predictor does: {_listed(told)}."


def _range(shares):
    return f"{percent(min(shares), 1)} to {percent(max(shares), 1)}"


def training_length(evidence, data="nyuv2", protocol="paper"):
    """How many trainings of a table ended at the limit of epochs, and were still at their best there."""
    table = vision.select(vision.frame(evidence.records), protocol, data=data)
    if table.empty:
        return f"Trainings: {NOT_RUN}."
    cut, best, limit = table.epochs == table.limit, table.best_epoch == table.limit - 1, sorted(table.limit.unique())
    told = f"{cut.sum()} of {len(table)} trainings ran to the limit of {_listed(limit)} epochs"
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
    tested, end = (_listed([f"{percent(share, 1)} at λ = {lam}" for lam, share in means[c].items()]) for c in means)
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
        told = NOT_RUN if np.isnan(dead).any() else _listed([percent(d, 1) for d in dead])
        parts.append(f"{tasks}: {told}")
    return f"Dead channels in {_listed(vision.STAGES)} stages, {'; '.join(parts)}."


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


def _listed(parts, word="and"):
    *most, last = map(str, parts)
    return f"{', '.join(most)} {word} {last}" if most else last
