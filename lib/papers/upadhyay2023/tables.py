"""Tables of the vision study and what they say, from records alone."""

import math

import numpy as np
import pandas as pd
from companion.statistics import NOT_RUN, estimate, mean_sd
from companion.style import listed

from papers.upadhyay2023.claims import (  # isort: skip
    EFFECTS, SAVERS, TWIN_OF, cell, frame, gains, mean_of, runs_of, sees, select, short,
)  # fmt: skip
from papers.upadhyay2023.study import (  # isort: skip
    ALL, ALL_NYU, BLIND, CELEBA_SETS, DECAYS, FLIPPED, GOAL, LEVEL_OF, LEVELS, NYU_SETS, PROTOCOLS, SCORES, SWITCHES,
    TASKS, published, scientific, switch_levels,
)  # fmt: skip

__all__ = ["EFFECTS"]  # that the machinery reads from here

DATA_NAMES = {"nyuv2": "NYU-v2", "celebamask": "CelebAMask-HQ"}
TABLE_OF = {1: ("nyuv2", "group"), 2: ("celebamask", "group"), 3: ("nyuv2", "parameter")}  # its data, what is counted
OTHER_METRICS = {
    "seg_miou": "mIoU", "seg_acc": "pixel accuracy", "normal_mean": "angle, mean °", "normal_median": "angle, median °",
    "normal_within_11.25": "within 11.25°", "normal_within_22.5": "within 22.5°", "normal_within_30": "within 30°",
    "depth_mae_m": "MAE, metres", "male_f1": "F1, male", "smile_f1": "F1, smile",
}  # fmt: skip
SAVED = "saved (median of turns), %"
IS_BLIND = " (blind)"  # behind a score that does not beat the blind control by two standard errors


def blind_records(evidence, data, resolution="input"):
    """Result of the blind control at the image's resolution ("input") or the released code's ("features"), or None."""
    found = [r for r in evidence.records if r.spec.method == BLIND and r.spec.params["resolution"] == resolution]
    return next((r.result for r in found if TWIN_OF.get(r.spec.data, r.spec.data) == data), None)


def eyes(evidence):
    """Published scores beside the blind control (DataFrame): each cell's distance from it, in published spreads.

    evidence: with the blind control at the paper's size. Positive distances are better than blind.
    """
    rows = {}
    for number in (1, 2):
        result = blind_records(evidence, TABLE_OF[number][0])
        for row in published(number):
            for name, label, sign in (SCORES[task] for task in row["tasks"].split("+")):
                mean, spread = row[f"{name}_mean"], row[f"{name}_std"]
                blind = result["metrics"][name] if result else math.nan
                rows[DATA_NAMES[TABLE_OF[number][0]], row["tasks"], scientific(row["lambda"]), label] = {
                    "published": mean, "sd": spread, "blind": blind, "better than blind": sign * (mean - blind),
                    "in spreads": sign * (mean - blind) / spread,
                }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["data", "tasks", "λ", "metric"])


def eyes_sentence(evidence, near=0.02):
    """How many published dense and sparse cells of multi-task networks are at the blind level (sentence)."""
    better = eyes(evidence)["better than blind"].dropna()
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

    Ours is the network at the target sparsity nearest to the published one. Mean ± sd over seeds; both kinds of
    sparsity in percent; "(blind)" behind a score that does not beat the blind control. The last rows are that control.
    """
    (data, count), rows, frames = TABLE_OF[number], {}, [(e, runs_of(e, protocol)) for e in evidences]
    tasks = [task for task in TASKS if any(f"{SCORES[task][0]}_mean" in row for row in published(number))]
    for row in published(number):
        names, at = row["tasks"], {"level": GOAL if number == 3 else LEVEL_OF[row["lambda"]], "count": count}
        at["penalty"] = "l1" if number == 3 else "group_lasso"
        line, index = {SCORES[task][1]: "" for task in tasks}, (names, scientific(row["lambda"]))
        inside = {t: SCORES[t] for t in tasks if t in names.split("+")}
        said = {label: f"{row[f'{c}_mean']:.4f} ± {row[f'{c}_std']:.4f}" for c, label, _ in inside.values()}
        zeros = {"groups zero, %": row["group_sparsity_pct"], "weights zero, %": row["param_sparsity_pct"]}
        rows[*index, "published"] = line | said | {k: f"{v:g}" for k, v in zeros.items()} | {"seeds": "5"}
        for evidence, table in frames:
            ours, zero = {}, [cell(table, names, kind, data, **at) for kind in ("group", "parameter")]
            for task, (column, label, _) in inside.items():
                blind = len(zero[0]) and not sees(table, names, task, data, **at)
                ours[label] = mean_sd(cell(table, names, column, data, **at), 4) + IS_BLIND * bool(blind)
            ours |= {k: mean_sd(100 * v, 1) for k, v in zip(zeros, zero, strict=True)}
            rows[*index, evidence.title] = line | ours | {"seeds": str(len(zero[0]) or NOT_RUN)}
    for evidence, _ in frames:
        if result := blind_records(evidence, data):
            scores = {SCORES[t][1]: f"{result['metrics'][SCORES[t][0]]:.4f}" for t in tasks}
            rows["blind control", "", evidence.title] = scores
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis(["tasks", "λ", "source"])


def other_metrics(evidence, data="nyuv2", protocol="paper"):
    """Means over seeds of what the literature reports beside the paper's metrics (DataFrame), and blind predictors."""
    table = runs_of(evidence, protocol, data=data)
    table = table[table.level.notna() & (table["count"] == "group")] if len(table) else table
    names = [n for n in [s[0] for s in SCORES.values()] + list(OTHER_METRICS) if len(table) and n in table]
    names = [n for n in names if table[n].notna().any()]
    if not names:
        return pd.DataFrame()
    means = table.groupby(["tasks", "level"])[names].mean()
    sets = CELEBA_SETS if data == "celebamask" else NYU_SETS
    means = means.loc[[key for s in sets for key in means.index if key[0] == s]].rename(index=_share, level="level")
    for kind, words in (("blind", "blind: one value for each position"), ("constant", "one value for all positions")):
        means.loc[(words, ""), :] = table[[f"{kind}_{n}" for n in names]].mean().to_numpy()
    labels = {s[0]: s[1][:-2] for s in SCORES.values()} | OTHER_METRICS
    return means.rename_axis(["tasks", "groups zero (target)"]).rename(columns=labels)


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
        rows[_share(level)] = line | {
            "over dense, %": mean_sd(100 * found, 1),
            "λ held, 1e-3": held,
            "seeds": len(found),
        }
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
    columns |= {"flops_kept": "FLOPs kept, %", "parameters_kept": "parameters kept, %", "group": "groups zero, %"}
    means = table.groupby("level")[list(columns)].mean().rename(columns=columns)
    means[[name for name in means if name.endswith("%")]] *= 100
    means.insert(0, "seeds", table.groupby("level").seed.count())
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
        line = {f"train loss, {TASKS[t]}": np.mean([end["train"][t] for end in ends]) for t in names}
        line |= {SCORES[t][1]: chosen[SCORES[t][0]].mean() for t in names}
        line["norm of weights"] = np.mean([end["weight_norm"] for end in ends])
        line["decay in the gradient, %"] = 100 * np.mean([end["decay_share"] for end in ends])
        seen = [TASKS[t] for t in names if sees(chosen, tasks, t, "nyuv2", level=0.0)]
        rows[tasks, short(strength)] = line | {"sees": listed(seen) if seen else "nothing", "seeds": len(chosen)}
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
                "change from": moved.low, "change to": moved.high, "seeds": e.n,
                "groups zero, %": 100 * cell(chosen, tasks, "group", data, level=GOAL).mean()}  # fmt: skip
        for kind, level in (("dense", 0.0), ("sparse", GOAL)):
            for column, label, _ in (SCORES[t] for t in tasks.split("+")):
                line[f"{kind} {label}"] = cell(chosen, tasks, column, data, level=level).mean()
        rows[f"{protocol}, {flip}" if flip else protocol] = line
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")


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
