"""Tables of the vision study and what they say, from records alone."""

import math

import numpy as np
import pandas as pd
from companion.claims import judge
from companion.statistics import NOT_RUN, estimate, mean_sd
from companion.style import listed

from papers.upadhyay2023.claims import (  # isort: skip
    EFFECTS, SAVERS, TWIN_OF, cell, frame, gains, mean_of, runs_of, sees, select, short, sight,
)  # fmt: skip
from papers.upadhyay2023.study import (  # isort: skip
    ALL, ALL_NYU, BLIND, CLAIMS, DECAYS, FLIPPED, GOAL, LEVEL_OF, LEVELS, NYU_SETS, PROTOCOLS, SCORES, SWITCHES,
    TASKS, published, scientific, switch_levels,
)  # fmt: skip

__all__ = ["EFFECTS"]  # that the machinery reads from here

DATA_NAMES = {"nyuv2": "NYU-v2", "celebamask": "CelebAMask-HQ"}
TABLE_OF = {1: ("nyuv2", "group"), 2: ("celebamask", "group"), 3: ("nyuv2", "parameter")}  # its data, what is counted
OTHER_METRICS = {
    "seg_miou": "mIoU", "seg_acc": "pixel accuracy", "normal_mean": "angle, mean °", "normal_median": "angle, median °",
    "normal_within_30": "within 30°", "depth_mae_m": "MAE, metres", "male_f1": "F1, male", "smile_f1": "F1, smile",
}  # fmt: skip
SAVED = "saved (median of turns), %"
IS_BLIND = " (blind)"  # behind a score that does not beat the blind control by two standard errors


def blind_records(evidence, data, resolution="input"):
    """Result of the blind control at the image's resolution ("input") or the released code's ("features"), or None."""
    found = [r for r in evidence.records if r.spec.method == BLIND and r.spec.params["resolution"] == resolution]
    return next((r.result for r in found if TWIN_OF.get(r.spec.data, r.spec.data) == data), None)


def eyes(evidence, numbers=(1, 2)):
    """Published scores of tables beside the blind control (DataFrame): distance from it, also in published spreads.

    evidence: with the blind control at the paper's size. Positive distances are better than blind.
    """
    rows = {}
    for number in numbers:
        result = blind_records(evidence, TABLE_OF[number][0])
        for row in published(number):
            for name, label, sign in (SCORES[task] for task in row["tasks"].split("+")):
                mean, spread = row[f"{name}_mean"], row[f"{name}_std"]
                blind = result["metrics"][name] if result else math.nan
                rows[row["tasks"], scientific(row["lambda"]), label] = {
                    "published": mean, "blind": blind, "better by": sign * (mean - blind),
                    "in spreads": sign * (mean - blind) / spread,
                }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["tasks", "λ", "metric"])


def eyes_sentence(evidence, near=0.02):
    """How many published dense and sparse cells of multi-task networks are at the blind level (sentence)."""
    better = eyes(evidence)["better by"].dropna()
    if better.empty:
        return f"The blind control: {NOT_RUN}."
    several = better.index.get_level_values("tasks").str.contains("+", regex=False)
    dense, words = better.index.get_level_values("λ") == "0", []
    for name, which in (("dense", several & dense), ("sparse", several & ~dense)):
        words.append(f"{(better[which] < near).sum()} of {which.sum()} {name} ones")
    return f"Of the published multi-task scores, {listed(words)} are less than {near:g} better than blind."


# The paper's tables


def paper_table(number, evidences, protocol="paper"):
    """Table 1, 2 or 3: under each published row, ours from each of `evidences` (DataFrame of text).

    Ours is the network at the target sparsity nearest to the published one. Mean ± sd over seeds, and the share of zero
    groups (of zero weights in Table 3); "(blind)" behind a score that does not beat the blind control, which is the
    last rows.
    """
    (data, count), rows, frames = TABLE_OF[number], {}, [(e, runs_of(e, protocol)) for e in evidences]
    zero_label, said_zero = f"{'groups' if count == 'group' else 'weights'} zero, %", f"{count[:5]}_sparsity_pct"
    tasks = [task for task in TASKS if any(f"{SCORES[task][0]}_mean" in row for row in published(number))]
    for row in published(number):
        names, at = row["tasks"], {"level": GOAL if number == 3 else LEVEL_OF[row["lambda"]], "count": count}
        at["penalty"] = "l1" if number == 3 else "group_lasso"
        line, index = {SCORES[task][1]: "" for task in tasks}, (names, scientific(row["lambda"]))
        inside = {t: SCORES[t] for t in tasks if t in names.split("+")}
        said = {label: f"{row[f'{c}_mean']:.4f} ± {row[f'{c}_std']:.4f}" for c, label, _ in inside.values()}
        rows[*index, "published"] = line | said | {zero_label: f"{row[said_zero]:g}"}
        for evidence, table in frames:
            ours, zero = {}, cell(table, names, count, data, **at)
            for task, (column, label, _) in inside.items():
                blind = len(zero) and not sees(table, names, task, data, **at)
                ours[label] = mean_sd(cell(table, names, column, data, **at), 4) + IS_BLIND * bool(blind)
            rows[*index, evidence.profile] = line | ours | {zero_label: mean_sd(100 * zero, 1)}
    for evidence, _ in frames:
        if result := blind_records(evidence, data):
            scores = {SCORES[t][1]: f"{result['metrics'][SCORES[t][0]]:.4f}" for t in tasks}
            rows["blind control", "", evidence.profile] = scores
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis(["tasks", "λ", "source"])


def other_metrics(evidence, data="nyuv2", protocol="paper"):
    """Means over seeds of what the literature reports beside the paper's metrics (DataFrame): the model of all tasks.

    The last rows are the blind predictors: one value for each position, and one for all of them.
    """
    table, tasks, rows = runs_of(evidence, protocol), ALL[data], {}
    names = [n for n in OTHER_METRICS if len(table) and n in table and n.partition("_")[0] in tasks.split("+")]
    for level in LEVELS:
        if len(cell(table, tasks, "group", data, level=level)):
            rows[f"{_share(level)} zero"] = [cell(table, tasks, n, data, level=level).mean() for n in names]
    for kind, words in (("blind", "blind: one value for each position"), ("constant", "one value for all positions")):
        if rows:
            rows[words] = [cell(table, tasks, f"{kind}_{n}", data, level=level).mean() for n in names]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[OTHER_METRICS[n] for n in names]).rename_axis(
        "network"
    )


def _share(level):
    return f"{100 * level:.0f} %"


def by_level(evidence, data="nyuv2", protocol="paper", levels=LEVELS):
    """The model of all tasks at each target sparsity (DataFrame): sparsity reached, scores, gain over dense, lambda."""
    table, tasks, rows = runs_of(evidence, protocol), ALL[data], {}
    for level in levels:
        found = mean_of(gains(table, {"tasks": tasks, "level": level}, {"tasks": tasks, "level": 0.0}).values())
        line = {"groups zero, %": mean_sd(100 * cell(table, tasks, "group", level=level), 1)}
        for task in tasks.split("+"):
            blind = len(found) and not sees(table, tasks, task, level=level)
            line[SCORES[task][1]] = mean_sd(cell(table, tasks, SCORES[task][0], level=level), 4) + IS_BLIND * bool(
                blind
            )
        held = mean_sd(1e3 * cell(table, tasks, "lam_held", level=level), 3)
        rows[_share(level)] = line | {"over dense, %": mean_sd(100 * found, 1), "λ held, 1e-3": held}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")


def times(evidence, protocol="paper"):
    """Fig. 4d in numbers (DataFrame by target sparsity): milliseconds a batch and the share of them that is saved.

    A run times its dense twin, its own zeros and the compacted network in turns, so that its shares are comparable.
    """
    table = runs_of(evidence, protocol, tasks=ALL_NYU)
    table = table[table.level.notna() & (table["count"] == "group")] if "dense_ms" in table else pd.DataFrame()
    if table.empty:
        return table
    columns = {"dense_ms": "dense, ms"} | {f"{k}_ms": f"{name}, ms" for k, name in SAVERS.items()}
    columns |= {f"{k}_saved": f"{name}: {SAVED}" for k, name in SAVERS.items()}
    columns |= {"group": "groups zero, %"}
    means = table.groupby("level")[list(columns)].mean().rename(columns=columns)
    means[[name for name in means if name.endswith("%")]] *= 100
    return means.rename_axis("target").rename(index=_share)


def times_sentence(evidence, protocol="paper"):
    """What zeros save by themselves, and what removing them saves, at the sparsest target that was run."""
    table = times(evidence, protocol)
    if table.empty:
        return f"Times: {NOT_RUN}."
    last = table.iloc[-1]
    zeros, compact = (f"{last[f'{name}: {SAVED}']:.0f} %" for name in SAVERS.values())
    return (
        f"With {last['groups zero, %']:.1f} % of the groups zero, the zeros alone save {zeros} of a dense network's "
        f"time; removing the dead channels saves {compact}."
    )


# Decay, protocols and switches


def decayed(table, strength, tasks=ALL_NYU):
    """Rows of the dense networks of a task set under one strength of coupled decay."""
    flip = f"dense_decay={short(strength)}, head_decay={short(strength)}" if strength else ""
    return select(table, flipped=flip, tasks=tasks, level=0.0, data="nyuv2")


def decay(evidence):
    """Dense networks by strength of coupled decay (DataFrame): losses, scores, norms, share of the gradient, sight."""
    table, rows = frame(evidence.records), {}
    for tasks, strength in ((s, d) for s in NYU_SETS[-1:] + NYU_SETS[:3] for d in DECAYS):
        chosen, names = decayed(table, strength, tasks), tasks.split("+")
        if not len(chosen):
            continue
        ends = [{k: v[-1] for k, v in history.items()} for history in chosen.history]
        line = {"train loss": np.mean([np.mean(list(end["train"].values())) for end in ends])}
        line["norm of weights"] = np.mean([end["weight_norm"] for end in ends])
        line["decay in the gradient, %"] = 100 * np.mean([end["decay_share"] for end in ends])
        seen = [TASKS[t] for t in names if sees(chosen, tasks, t, "nyuv2", level=0.0)]
        gain = mean_of(
            [chosen.set_index("seed")[f"gain_{SCORES[t][0]}"] / chosen[f"blind_{SCORES[t][0]}"].mean() for t in names]
        )
        rows[tasks, short(strength)] = line | {
            "over blind, %": 100 * gain.mean(),
            "sees": listed(seen) if seen else "nothing",
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["tasks", "coupled decay"]) if rows else table


def decay_sentence(evidence):
    """From which coupled decay on the three-task network misses a task, and all of them."""
    table = decay(evidence)
    if table.empty or ALL_NYU not in table.index.get_level_values(0):
        return f"Coupled decay: {NOT_RUN}."
    seen, words = table.loc[ALL_NYU, "sees"], []
    all_tasks = listed([TASKS[t] for t in ALL_NYU.split("+")])
    for what, which in (("at least one task", seen != all_tasks), ("every task", seen == "nothing")):
        first = next(iter(seen.index[which]), None)
        words.append(
            f"{what} is lost from a decay of {first} on" if first else f"{what} is lost at no decay that was run"
        )
    return f"The dense three-task network under coupled decay: {listed(words)}."


def switches():
    """Every difference between text and released code, and what each protocol does (DataFrame)."""
    rows = {
        s.label: {"item": s.item, "name": n} | {p: short(getattr(s, p)) for p in PROTOCOLS} for n, s in SWITCHES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("difference")


def protocols(evidence, data="nyuv2"):
    """70 % sparse over dense under each protocol, and with each switch flipped alone (DataFrame, percent).

    change: how much further the effect is than under `paper`, paired over seeds, with its 95 % interval.
    """
    table, tasks, rows = frame(evidence.records), ALL[data], {}
    flips = FLIPPED if data == "nyuv2" else ("double_sigmoid",)
    variants = [(p, "", None) for p in (PROTOCOLS if data == "nyuv2" else PROTOCOLS[:1])]
    variants += [("paper", f"{name}={short(SWITCHES[name].released)}", name) for name in flips]
    new, old = ({"tasks": tasks, "level": level, "data": data} for level in (GOAL, 0.0))
    plain = mean_of(gains(select(table), new, old).values())
    for protocol, flip, name in variants:
        at = [select(table, protocol, flipped=flip * (k in switch_levels(name)), level=k) for k in (0.0, GOAL)]
        chosen = pd.concat(at)
        found = mean_of(gains(chosen, new, old).values())
        e, moved = estimate(100 * found), estimate(100 * (found - plain).dropna())
        line = {"sparse over dense, %": e.mean, "95 % from": e.low, "to": e.high, "change": moved.mean,
                "change from": moved.low, "change to": moved.high}  # fmt: skip
        rows[f"{protocol}, {flip}" if flip else protocol] = line
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")


def shown(evidences):
    """(evidence with most trained networks, evidence of the paper's size for its blind control) of several profiles."""
    ours = max(evidences, key=lambda e: sum(r.spec.method != BLIND for r in e.records))
    return ours, next((e for e in evidences if e.profile == "full"), ours)


def claim_sentence(evidence, claim):
    """The verdict on a claim with its effect and interval (sentence)."""
    judged = judge(next(c for c in CLAIMS if c.id == claim), EFFECTS[claim](evidence))
    unit = {"percent": "%", "points": "points"}[judged.claim.unit]
    limits, word = judged.effects.not_tested or judged.effects.limits, judged.verdict.capitalize()
    return f"{judged.claim.sentence} **{word}**: {judged.interval()} {unit}. {limits}"


def takeaway(evidence, paper_size):
    """The plain answer of the chapter (sentence): who sees, and what sparsity changes."""
    e = estimate(100 * EFFECTS["upadhyay-sparse-beats-dense-nyu"](evidence).pooled)
    scores = f"score {e.mean:+.1f} % against dense ones" if e.n else f"are {NOT_RUN}"
    return f"{eyes_sentence(paper_size)} **Our 70 % sparse networks {scores}.** {sight(runs_of(evidence))}"


def gap_sentence(evidence):
    """Of the difference between `released` and `paper`, what the switch that moves most does alone (sentence)."""
    table = protocols(evidence)["change"].dropna()
    alone = table[[name for name in table.index if "," in name]]
    if "released" not in table or alone.empty:
        return f"The gap between the protocols: {NOT_RUN}."
    most = alone.abs().idxmax()
    return (
        f"With the released settings sparse over dense moves by {table['released']:+.1f} points; the switch that moves "
        f"it most alone, “{most.removeprefix('paper, ')}”, moves it by {alone[most]:+.1f}."
    )
