"""Tables of the vision study and what they say, from records alone."""

import math
from itertools import product

import numpy as np
from companion.claims import judge
from companion.statistics import NOT_RUN, estimate, interval, mean_sd
from companion.style import listed, percent, table_of
from scipy.stats import linregress

from papers.upadhyay2023.claims import (  # isort: skip
    EFFECTS, SAVERS, TWIN_OF, cell, frame, gains, mean_of, scores_of, seen, sees, tiny_weights,
)  # fmt: skip
from papers.upadhyay2023.study import (  # isort: skip
    ALL, ALL_NYU, BLIND, CLAIMS, DECAYS, FLIPPED, GOAL, LEVEL_OF, LEVELS, NYU_SETS, PROTOCOLS, SCORES, SWITCHES,
    SWITCH_LEVELS, published, published_gain, scientific, short,
)  # fmt: skip

__all__ = ["EFFECTS"]  # that the machinery reads from here

TABLE_OF = {1: ("nyuv2", "group"), 2: ("celebamask", "group"), 3: ("nyuv2", "parameter")}  # its data, what is counted
OTHER_METRICS = {
    "seg_miou": "mIoU", "seg_acc": "pixel accuracy", "normal_mean": "angle, mean °", "normal_median": "angle, median °",
    "normal_within_30": "within 30°", "depth_mae_m": "MAE, metres",
}  # fmt: skip
DATA = {"nyuv2": "NYU-v2", "celebamask": "CelebAMask-HQ"}  # as the pages name them
NEAR = 0.02  # a score that beats the blind control by less is at its level
SAVED = "saved (fastest turn), %"
IS_BLIND = " (blind)"  # behind a score that does not beat the blind control by two standard errors
# Dense networks by their weight decay: words -> choice for `cell`
DECAYED = {"none": {}}
DECAYED |= {f"coupled, {d:g}": {"flipped": f"dense_decay={d:g}, head_decay={d:g}"} for d in DECAYS[1:]}
DECAYED |= {f"coupled, {DECAYS[-1]:g}, backbone alone": {"flipped": f"dense_decay={DECAYS[-1]:g}"},
            "as released": {"protocol": "released"}, "decoupled": {"protocol": "corrected"}}  # fmt: skip
EFFECT, CHANGE = ["sparse over dense, %", "95 % from", "to"], ["change", "change from", "change to"]


def _scored(table, tasks, task, **at):
    """Mean ± sd over seeds of the paper's metric of a task (text), marked if it does not beat the blind control."""
    values = cell(table, tasks, SCORES[task][0], **at)
    return mean_sd(values, 4) + IS_BLIND * (len(values) > 0 and not sees(table, tasks, task, **at))


def blind_metrics(evidence, data):
    """Metrics of the blind control at the image's resolution (dict), or None."""
    found = [r for r in evidence.records if r.spec.method == BLIND and r.spec.params["resolution"] == "input"]
    return next((r.result["metrics"] for r in found if TWIN_OF.get(r.spec.data, r.spec.data) == data), None)


def eyes(evidence, numbers=(1, 2)):
    """Published scores beside the blind control at the paper's size (DataFrame): how much better, also in spreads."""
    rows = {}
    for number, row in [(n, row) for n in numbers for row in published(n)]:
        metrics = blind_metrics(evidence, TABLE_OF[number][0]) or {}
        for _, name, label, sign in scores_of(row["tasks"]):
            said, blind = row[f"{name}_mean"], metrics.get(name, math.nan)
            better = {"better by": sign * (said - blind), "in spreads": sign * (said - blind) / row[f"{name}_std"]}
            rows[row["tasks"], scientific(row["lambda"]), label] = {"published": said, "blind": blind} | better
    return table_of(rows, "tasks", "λ", "metric")


def eyes_sentence(evidence, blind="blind"):
    """How many published dense and sparse cells of multi-task networks are at the level of the `blind` (sentence)."""
    better = eyes(evidence)["better by"].dropna()
    if better.empty:
        return f"The blind control: {NOT_RUN}."
    better = better[better.index.get_level_values("tasks").str.contains("+", regex=False)]
    kind = np.where(better.index.get_level_values("λ") == "0", "dense", "sparse")
    words = [f"{(own < NEAR).sum()} of {len(own)} {name} ones" for name, own in better.groupby(kind)]
    sets = [name for data, name in DATA.items() if blind_metrics(evidence, data)]
    return f"Published multi-task scores on {listed(sets)} that beat {blind} by less than {NEAR:g}: {listed(words)}."


def paper_table(number, evidences):
    """Table 1, 2 or 3: under each published row, ours from each of `evidences` (DataFrame of text).

    Ours is the network at the target sparsity nearest to the published one; in Table 3 there are two, by l1 and by
    groups. Mean ± sd over seeds, and the share of zero groups (of zero weights in Table 3); last, the blind control.
    """
    (data, count), rows, frames = TABLE_OF[number], {}, {e.profile: frame(e.records) for e in evidences}
    zero_label, said_zero = f"{'groups' if count == 'group' else 'weights'} zero, %", f"{count[:5]}_sparsity_pct"
    columns = dict.fromkeys((label for _, _, label, _ in scores_of(ALL[data])), "")
    arms = {", l1": "l1", ", groups": "group_lasso"} if number == 3 else {"": "group_lasso"}
    for row in published(number):
        names, index, inside = row["tasks"], (row["tasks"], scientific(row["lambda"])), scores_of(row["tasks"])
        at = {"data": data, "count": count, "level": GOAL if number == 3 else LEVEL_OF[row["lambda"]]}
        said = {label: f"{row[f'{c}_mean']:.4f} ± {row[f'{c}_std']:.4f}" for _, c, label, _ in inside}
        rows[*index, "published"] = columns | said | {zero_label: f"{row[said_zero]:g}"}
        for profile, words, penalty in ((profile, *arm) for profile in frames for arm in arms.items()):
            table, at["penalty"] = frames[profile], penalty
            ours = {label: _scored(table, names, task, **at) for task, _, label, _ in inside}
            zero = mean_sd(100 * cell(table, names, count, **at), 1)
            rows[*index, f"{profile}, {percent(at['level'])}{words}"] = columns | ours | {zero_label: zero}
    for evidence in evidences:
        if metrics := blind_metrics(evidence, data):
            scores = {label: f"{metrics[name]:.4f}" for _, name, label, _ in scores_of(ALL[data])}
            rows["blind control", "", evidence.profile] = scores
    return table_of(rows, "tasks", "λ", "source").fillna("")


def by_set(evidence, number):
    """Sparse over dense, mean of the tasks, for each task set of Table 1 or 2 and sparsity (DataFrame of percent)."""
    table, data, rows = frame(evidence.records), TABLE_OF[number][0], {}
    for tasks, lam in ((row["tasks"], row["lambda"]) for row in published(number) if row["lambda"]):
        new, old = ({"tasks": tasks, "data": data, "level": level} for level in (LEVEL_OF[lam], 0.0))
        ours, names = estimate(100 * mean_of(gains(table, new, old))), tasks.split("+")
        numbers = dict(zip(EFFECT, (ours.mean, ours.low, ours.high), strict=True))
        numbers["published"] = 100 * published_gain(number, (tasks, 0.0), [(tasks, lam)])
        sight = sum(sees(table, task=task, **old) for task in names)
        rows[tasks, percent(LEVEL_OF[lam])] = numbers | {
            "seeds": ours.n,
            "dense sees": f"{sight} of {len(names)} tasks",
        }
    return table_of(rows, "tasks", "groups zero")


def by_set_sentence(evidence, number):
    """How many task sets get worse or better with sparsity, of those whose dense network sees (sentence)."""
    found, words = by_set(evidence, number).query("seeds > 1"), []
    blind = found["dense sees"].str.startswith("0")
    for level, own in found[~blind].groupby("groups zero"):
        worse, better = (own[EFFECT[2]] < 0).sum(), (own[EFFECT[1]] > 0).sum()
        said = f"published means: {(own.published < 0).sum()} and {(own.published > 0).sum()}"
        words.append(f"with {level} of the groups zero {worse} of {len(own)} lose and {better} gain ({said})")
    if not words:
        return f"The task sets: {NOT_RUN}."
    out = found.index[blind].unique("tasks")
    left = f" Not counted, as their dense networks see nothing: {listed(out)}." if len(out) else ""
    return f"Of the task sets, by 95 % intervals over seeds: {'; '.join(words)}.{left}"


def other_metrics(evidence):
    """Means over seeds of what the literature reports beside the paper's metrics (DataFrame), also of blind ones."""
    table, rows = frame(evidence.records), {}
    kinds = {"": "", "blind_": "blind: one value for each position", "constant_": "one value for all positions"}
    levels = [level for level in LEVELS if len(cell(table, ALL_NYU, "group", level=level))]
    for (kind, words), level in product(kinds.items(), levels):
        means = [cell(table, ALL_NYU, kind + name, level=level).mean() for name in OTHER_METRICS]
        rows[words or f"{percent(level)} zero"] = means
    return table_of(rows, "network", columns=list(OTHER_METRICS.values())).dropna(axis=1, how="all")


def by_level(evidence, levels=LEVELS):
    """The three-task model of NYU-v2 at each target sparsity (DataFrame): sparsity reached, scores, gain, lambda."""
    table, rows = frame(evidence.records), {}
    for level in levels:
        at = {"tasks": ALL_NYU, "level": level}
        line = {"groups zero, %": mean_sd(100 * cell(table, column="group", **at), 1)}
        line |= {label: _scored(table, task=task, **at) for task, _, label, _ in scores_of(ALL_NYU)}
        line["over dense, %"] = mean_sd(100 * mean_of(gains(table, at, at | {"level": 0.0})), 1)
        rows[percent(level)] = line | {"λ held, 1e-3": mean_sd(1e3 * cell(table, column="lam_held", **at), 3)}
    return table_of(rows, "target")


def times(evidence):
    """Fig. 4d in numbers (DataFrame by target sparsity): milliseconds a batch and the share of them that is saved."""
    table = frame(evidence.records)
    columns = {"dense_ms": "dense, ms"} | {f"{k}_ms": f"{name}, ms" for k, name in SAVERS.items()}
    columns |= {f"{k}_saved": f"{name}: {SAVED}" for k, name in SAVERS.items()} | {"group": "groups zero, %"}
    found = {percent(k): {c: cell(table, ALL_NYU, c, level=k).mean() for c in columns} for k in LEVELS}
    means = table_of(found, "target").dropna(subset="group").rename(columns=columns)
    return means * [100 if name.endswith("%") else 1 for name in means]


def times_sentence(evidence):
    """What zeros save by themselves, and what removing them saves, at the sparsest target that was run."""
    table = times(evidence)
    if table.empty:
        return f"Times: {NOT_RUN}."
    last, tiny = table.iloc[-1], tiny_weights(frame(evidence.records))
    zeros, compact = (f"{100 - last[f'{name}: {SAVED}']:.0f} %" for name in SAVERS.values())
    return (
        f"With {last['groups zero, %']:.1f} % of the groups zero, the backbone takes {zeros} of a dense one's time; "
        f"without the dead channels it takes {compact}." + (f" {tiny}" if tiny else "")
    )


def decay(evidence):
    """Dense networks by weight decay (DataFrame): losses, scores, norms, share of the gradient, sight."""
    table, rows = frame(evidence.records), {}
    for tasks, (words, choice) in product((ALL_NYU, *NYU_SETS[:3]), DECAYED.items()):
        at = {"tasks": tasks, "level": 0.0} | choice
        ends = [{k: v[-1] for k, v in history.items()} for history in cell(table, column="history", **at)]
        if ends:
            gain = {c: cell(table, column=f"gain_{c}", **at) / cell(table, column=f"blind_{c}", **at).mean()
                    for _, c, *_ in scores_of(tasks)}  # fmt: skip
            rows[tasks, words] = {
                "train loss": np.mean([np.mean(list(end["train"].values())) for end in ends]),
                "norm of weights": np.mean([end["weight_norm"] for end in ends]),
                "decay in the gradient, %": 100 * np.mean([end["decay_share"] for end in ends]),
                "over blind, %": 100 * mean_of(gain).mean(), "sees": seen(table, **at),
            }  # fmt: skip
    return table_of(rows, "tasks", "decay")


def decay_sentence(evidence):
    """How far the dense three-task network is from the blind control, by its weight decay (sentences)."""
    table = decay(evidence)
    own = table.loc[ALL_NYU] if not table.empty and ALL_NYU in table.index else table
    if len(own) < 2:
        return f"Weight decay: {NOT_RUN}."
    words = [f"{gain:+.1f} % ({name})" for name, gain in own["over blind, %"].items()]
    blind = list(own.index[own.sees == "nothing"])
    said = f" It sees nothing with decay {listed(blind, 'or')}." if blind else ""
    return f"The dense three-task network against the blind control, by its weight decay: {'; '.join(words)}.{said}"


def held_by_width(evidence):
    """Widths of the backbone, and the lambda that 70 % of the groups took (arrays, a value for each seed)."""
    table = frame(evidence.records)
    widths = table.assign(usual=True).groupby("width") if len(table) else ()
    points = [(width, lam) for width, own in widths for lam in cell(own, ALL_NYU, "lam_held", level=GOAL)]
    return np.array(points, dtype=float).reshape(-1, 2).T


def width_sentence(evidence):
    """How the lambda of one sparsity changes with the width of the backbone (sentence)."""
    widths, held = held_by_width(evidence)
    if len(set(widths)) < 2:
        return f"Other widths: {NOT_RUN}."
    fit = linregress(np.log(widths), np.log(held))
    power = f"{fit.slope:.1f} (standard error {fit.stderr:.1f})"
    return (
        f"From {widths.min():g} to {widths.max():g} channels the λ that zeroes {percent(GOAL)} of the groups goes as "
        f"the width to the power {power}."
    )


def switches():
    """Every difference between text and released code, and what each protocol does (DataFrame)."""
    rows = {}
    for name, s in SWITCHES.items():
        rows[s.label] = {"item": s.item, "name": name} | {p: short(getattr(s, p)) for p in PROTOCOLS}
    return table_of(rows, "difference")


def _sides(name, data):
    """Sparse and dense networks of a row of `protocols`: word -> choice for `cell`. A switch may leave one alone."""
    protocol, _, flip = name.partition(", ")
    levels = SWITCH_LEVELS.get(flip.partition("=")[0], ())
    at = {"tasks": ALL[data], "data": data, "protocol": protocol}
    return {word: at | {"level": k, "flipped": flip * (k in levels)} for word, k in (("sparse", GOAL), ("dense", 0.0))}


def protocols(evidence, data="nyuv2"):
    """70 % sparse over dense under each protocol, and with each switch flipped alone (DataFrame, percent).

    change: how much further the effect is than under `paper`, paired over the seeds of both, with its 95 % interval.
    """
    table, rows, faces = frame(evidence.records), {}, data == "celebamask"
    names = list(PROTOCOLS[:1] if faces else PROTOCOLS)
    names += [f"paper, {n}={short(SWITCHES[n].released)}" for n in (("double_sigmoid",) if faces else FLIPPED)]
    found = {name: mean_of(gains(table, *_sides(name, data).values())) for name in names}
    for name, values in found.items():
        both = [estimate(100 * values), estimate(100 * (values - found["paper"]).dropna())]
        numbers = [number for e in both for number in (e.mean, e.low, e.high)]
        rows[name] = {"seeds": both[0].n} | dict(zip(EFFECT + CHANGE, numbers, strict=True))
    return table_of(rows, "protocol")


def protocols_in_words(evidence, data="nyuv2"):
    """`protocols` as text: the effect and what a switch changes, in percent with 95 % intervals, and the seeds."""
    table, rows = frame(evidence.records), {}
    for name, row in protocols(evidence, data).query("seeds > 0").iterrows():
        moved = "" if name == "paper" else interval(*row[CHANGE])
        sight = {word: seen(table, **at) for word, at in _sides(name, data).items()}
        both = sight["dense"] if len(set(sight.values())) == 1 else "; ".join(f"{w}: {s}" for w, s in sight.items())
        rows[name] = {"seeds": f"{row['seeds']:.0f}", EFFECT[0]: interval(*row[EFFECT]), CHANGE[0]: moved, "sees": both}
    return table_of(rows, "protocol")


def shown(evidences):
    """(evidence with most trained networks, evidence of the paper's size for its blind control) of several profiles."""
    ours = max(evidences, key=lambda e: sum(r.spec.method != BLIND for r in e.records))
    return ours, next((e for e in evidences if e.profile == "full"), ours)


def surprise(evidences):
    """What the blind control and the protocols show, for the landing page (sentences, "" if not run)."""
    ours, paper_size = shown(evidences)
    said = eyes_sentence(paper_size, blind="a fixed answer for every image")
    return " ".join(sentence for sentence in (said, protocol_sentence(ours, brief=True)) if NOT_RUN not in sentence)


def claim_sentence(evidence, claim):
    """The verdict on a claim with its effect and interval (sentence)."""
    judged = judge(next(c for c in CLAIMS if c.id == claim), EFFECTS[claim](evidence))
    unit = {"percent": "%", "points": "points"}[judged.claim.unit]
    limits, word = judged.effects.not_tested or judged.effects.limits, judged.verdict.capitalize()
    found = f": {judged.interval()} {unit}" if judged.n else ""
    return f"“{judged.claim.sentence[:-1]}”: **{word}**{found}. {limits}"


def takeaway(evidence, paper_size):
    """The plain answer of the chapter (sentences): who sees, and what sparsity changes."""
    limits = EFFECTS["upadhyay-sparse-beats-dense-nyu"](evidence).limits
    return f"{eyes_sentence(paper_size)} **{protocol_sentence(evidence)}** {limits}"


def protocol_sentence(evidence, brief=False):
    """What 70 % sparsity changes under each protocol; unless brief, also which networks see nothing (sentence)."""
    table, found, words = frame(evidence.records), protocols(evidence), []
    coupled = f"dense_decay={SWITCHES['dense_decay'].released}"
    settings = {"paper": "as the text says", f"paper, {coupled}": "if the dense one gets the released decay"}
    settings |= {} if brief else {"corrected": "with equal decay"}
    settings |= {"released": "as released"}
    for name in (name for name in settings if found.seeds.get(name, 0)):
        sides = _sides(name, "nyuv2")
        zero = percent(cell(table, column="group", **sides["sparse"]).mean())
        blind = [word for word, at in sides.items() if seen(table, **at) == "nothing"]
        blind = f"; {listed(blind)} networks see nothing on average" if blind else ""
        more = "" if brief else f" ({zero} of the groups zero{blind})"
        words.append(f"{interval(*found.loc[name, EFFECT], digits=0)} % {settings[name]}{more}")
    return f"Our sparse networks against dense ones: {listed(words) if words else NOT_RUN}."


def gap_sentence(evidence):
    """Of the difference between `released` and `paper`, what the switch that moves most does alone (sentence)."""
    found = protocols(evidence)
    table, effect = found["change"].dropna(), found[EFFECT[0]]
    alone = table[[name for name in table.index if "," in name]]
    if "released" not in table or alone.empty:
        return f"The gap between the protocols: {NOT_RUN}."
    most, fewest = alone.abs().idxmax(), found.seeds[alone.index].min()
    return (
        f"With the released settings sparse over dense moves by {table['released']:+.1f} points. Of {len(SWITCHES)} "
        f"switches {len(alone)} ran alone, with at least {fewest} seeds. “{most.removeprefix('paper, ')}” moves it "
        f"most, by {alone[most]:+.1f}, from {effect['paper']:+.1f} to {effect[most]:+.1f} %."
    )
