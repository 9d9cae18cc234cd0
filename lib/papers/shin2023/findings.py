"""What figures show, in plain sentences that follow from the records; "not run" where there are none."""

import numpy as np
from companion.evidence import NOT_RUN
from companion.statistics import VERDICTS, chance_interval
from companion.style import listed, percent
from papers.shin2023 import tables as eeg
from papers.shin2023.study import (
    BACKBONES,
    METHODS,
    PROBLEMS,
    PROPOSED,
    PUBLISHED_SPARSITY,
    SPARSITIES,
    TASKS,
    rivals,
)

FITTED = 0.99  # share of its own trials from which on a network has learnt them by heart


def accuracy_against_sparsity(records, problem):
    """Where the proposed masks stand against dense, the other pruning methods and the classical line."""
    table = eeg.select(eeg.frame(records), problem)
    if table.empty:
        return f"{PROBLEMS[problem]}: {NOT_RUN}."
    means = eeg.per_subject(table).groupby(["method", "sparsity"]).mean()
    ours = {s: means.get((PROPOSED, s), np.nan) for s in SPARSITIES[1:]}
    here, levels = ours[PUBLISHED_SPARSITY], listed([f"{_score(value)} at {percent(s)}" for s, value in ours.items()])
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
    told = [f"{label}: {listed(maps[kind].nlargest(3).index)}" for kind, label in eeg.KINDS.items()]
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
        f"On the profile `{listed(table.profile.unique())}`, {len(ran)} tests were run with all {len(BACKBONES)} "
        f"backbones: {len(same)} end in the same verdict with each{_counted(same)}, and in {sided} the effect lies on "
        "the same side of zero with each."
    )
    parts = []
    for rows in ran:
        claim, problem, _ = rows.index[0]
        held = rows.index.get_level_values("backbone")[rows.verdict == "reproduced"]
        if len(held):
            parts.append(f"{eeg.SHORT[claim]} ({PROBLEMS[problem]}) with {listed(held)}")
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
            parts.append(f"“{name}” is {judged.verdict} {eeg.AS_JUDGED}, but {listed(other)}.")
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
        told = listed([f"{name} {change:+.1f}" for name, change in better.items()]) if len(better) else "none"
        lose = "loses" if len(better) == 1 else "lose"
        parts.append(
            f"{PROBLEMS[problem]}: from dense to {percent(SPARSITIES[-1])} the proposed network changes by "
            f"{rows.change[own]:+.1f} points; of {len(others)} other pruning methods {len(better)} {lose} less "
            f"({told})."
        )
        turned, judged = others[others.verdict != rows.verdict[own]], rows.verdict[own]
        if len(turned):
            verdicts, names = listed(sorted(set(turned.verdict))), listed(turned.index, "or")
            parts.append(f"With {names} left out the verdict is {verdicts}, not {judged}.")
    return " ".join(parts) or f"Robustness: {NOT_RUN}."
