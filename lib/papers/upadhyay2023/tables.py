"""Tables of the vision study, from records alone."""

import math

import numpy as np
import pandas as pd
from companion.statistics import NOT_RUN, against_published, claim_row, estimate, judged, mean_sd
from papers.upadhyay2023.study import (
    ALL_CELEBA,
    ALL_NYU,
    CELEBA_SETS,
    CLAIMS,
    L1_LAMBDA,
    L1_SETS,
    LAMBDAS,
    NYU_SETS,
    PROTOCOLS,
    SPARSE,
    SWITCHES,
    TABLE_LAMBDAS,
    TASKS,
    flipped,
    protocol_specs,
    published,
    scientific,
    switch_lambdas,
)

DATA_NAMES = {"nyuv2": "NYU-v2", "celebamask": "CelebAMask-HQ"}
TWIN_OF = {"rooms": "nyuv2", "faces": "celebamask"}
TABLE_OF = {1: ("group_lasso", "nyuv2"), 2: ("group_lasso", "celebamask"), 3: ("l1", "nyuv2")}  # its penalty, its data
# The paper's metric of each task: its name here and in the published tables, on the page, and whether more is better
SCORES = {
    "seg": ("seg_iou", "IoU ↑", 1),
    "normal": ("normal_cs", "cosine similarity ↑", 1),
    "depth": ("depth_mae", "MAE, relative ↓", -1),
    "male": ("male_acc", "accuracy, male ↑", 1),
    "smile": ("smile_acc", "accuracy, smile ↑", 1),
}
OTHER_METRICS = {
    "seg_miou": "mIoU", "seg_acc": "pixel accuracy", "normal_mean": "angle, mean °", "normal_median": "angle, median °",
    "normal_within_11.25": "within 11.25°", "normal_within_22.5": "within 22.5°", "normal_within_30": "within 30°",
    "depth_mae_m": "MAE, metres", "male_f1": "F1, male", "smile_f1": "F1, smile",
}  # fmt: skip
SAVED = "saved (median of turns), %"
SAVERS = {"zeros": "dense kernels on zeros", "compact": "dead channels removed"}  # forms of the backbone, beside dense
DENSE = 0.05  # a stage with more dead channels than this share is sparse
STAGES = {"early": ("conv1", "layer1"), "middle": ("layer2", "layer3"), "late": ("layer4",)}


def frame(records):
    """One row for each record (DataFrame): what was run, its test metrics, sparsity, dead channels, times."""
    rows = []
    for r in records:
        p, result, times = r.spec.params, r.result, r.run.get("timings", {})
        row = {
            "protocol": r.spec.method, "flipped": _told(flipped(r.spec)),
            "data": TWIN_OF.get(r.spec.data, r.spec.data), "tasks": p["tasks"], "lam": p["lam"],
            "penalty": p["penalty"], "seed": r.spec.seed,
        } | result["metrics"] | {f"constant_{k}": v for k, v in result["constant"].items()}  # fmt: skip
        row["channels"], row["by_epoch"] = result["channels"], result["history"]["group_sparsity"]
        row["group"] = result["sparsity"]["group"]  # of the network that is tested, the best by validation loss
        row["group_at_end"] = row["by_epoch"][-1]
        # l1 zeroes single weights: there, as in the published table, all zeros count
        row["parameter"] = result["sparsity"]["zero" if p["penalty"] == "l1" else "parameter"]
        for stage, names in STAGES.items():
            alive, total = np.sum([c for layer, c in result["channels"].items() if layer.startswith(names)], axis=0)
            row[f"dead_{stage}"] = 1 - alive / total
        row |= {"epochs": result["epochs"]["run"], "best_epoch": result["epochs"]["sum"], "limit": p["epochs"]}
        row["flops_kept"] = result["backbone"]["compact"]["flops"] / result["backbone"]["zeros"]["flops"]
        row["parameters_kept"] = result["backbone"]["compact"]["parameters"] / result["backbone"]["zeros"]["parameters"]
        if "dense_ms" in times:  # records made before the three took turns have no such time
            turns = {name: np.array(times[f"{name}_ms"]) for name in ("dense", *SAVERS)}
            row |= {f"{name}_ms": np.median(taken) for name, taken in turns.items()}
            row |= {f"{name}_saved": np.median(1 - turns[name] / turns["dense"]) for name in SAVERS}
        rows.append(row)
    return pd.DataFrame(rows)


def _told(flips):
    return ", ".join(f"{name}={_short(value)}" for name, value in flips.items())


def _short(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def select(table, protocol="paper", **where):
    """Rows of a protocol with no switch flipped (or `flipped` as given) and these values."""
    if table.empty:
        return table
    where = {"flipped": "", "protocol": protocol} | where
    return table[np.logical_and.reduce([table[k] == v for k, v in where.items()])]


def three_tasks(evidence, protocol="paper"):
    """Rows of the three-task model on NYU-v2 under the group lasso: the runs of Fig. 4."""
    return select(frame(evidence.records), protocol, tasks=ALL_NYU, penalty="group_lasso")


def paper_table(number, evidences, protocol="paper"):
    """Table 1, 2 or 3: under each published row, ours from each of `evidences` (DataFrame of text).

    Mean ± sd over seeds; both kinds of sparsity in percent. Rows of ours without a record say "not run".
    """
    rows, frames = {}, [(e, select(frame(e.records), protocol)) for e in evidences]
    tasks = [task for task in TASKS if any(f"{SCORES[task][0]}_mean" in row for row in published(number))]
    for row in published(number):
        names, lam = row["tasks"], row["lambda"]
        inside = [task for task in tasks if task in names.split("+")]
        line = dict.fromkeys((SCORES[task][1] for task in tasks), "")
        index = (names, scientific(lam))
        rows[*index, "published"] = (
            line
            | {SCORES[t][1]: f"{row[SCORES[t][0] + '_mean']:.4f} ± {row[SCORES[t][0] + '_std']:.4f}" for t in inside}
            | {"groups zero, %": f"{row['group_sparsity_pct']:g}", "weights zero, %": f"{row['param_sparsity_pct']:g}"}
            | {"seeds": "5"}
        )
        for evidence, table in frames:
            scores = [SCORES[t][0] for t in inside]
            ours = {c: cell(table, names, lam, c, *TABLE_OF[number]) for c in (*scores, "group", "parameter")}
            rows[*index, evidence.title] = (
                line
                | {SCORES[t][1]: mean_sd(ours[SCORES[t][0]], 4) for t in inside}
                | {"groups zero, %": mean_sd(100 * ours["group"], 1)}
                | {"weights zero, %": mean_sd(100 * ours["parameter"], 1)}
                | {"seeds": str(len(ours["group"]) or NOT_RUN)}
            )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["tasks", "λ", "source"])


def cells(number, evidence, protocol="paper"):
    """Every published cell of Table 1, 2 or 3 beside ours (DataFrame): metrics by seed, see `against_published`."""
    table, rows = select(frame(evidence.records), protocol), {}
    for row in published(number):
        for task in row["tasks"].split("+"):
            column, label, _ = SCORES[task]
            ours = cell(table, row["tasks"], row["lambda"], column, *TABLE_OF[number])
            e, said = estimate(ours), (row[f"{column}_mean"], row[f"{column}_std"])
            difference, units, word = against_published(e, *said)
            rows[row["tasks"], scientific(row["lambda"]), label] = {
                "published": said[0], "published sd": said[1], "ours": e.mean, "sd": e.sd, "against published": word,
                "seeds": e.n, "difference": difference, "difference / spread": units,
            }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["tasks", "λ", "metric"])


def other_metrics(evidence, data="nyuv2", protocol="paper"):
    """What the literature reports beside the paper's metrics (DataFrame of means over seeds), and the constants.

    The last rows are predictors that look at no picture: the commonest class of the training part, its mean normal
    and its median depth.
    """
    table = select(frame(evidence.records), protocol, data=data)
    names = [n for n in [s[0] for s in SCORES.values()] + list(OTHER_METRICS) if len(table) and n in table]
    if not names or table[names].isna().all(axis=None):
        return pd.DataFrame()
    names = [n for n in names if table[n].notna().any()]
    sets = CELEBA_SETS if data == "celebamask" else NYU_SETS
    means = table.groupby(["tasks", "penalty", "lam"])[names].mean()
    order = [k for s in sets for k in means.index if k[0] == s]
    constant = table[[f"constant_{n}" for n in names]].mean().rename(lambda n: n.removeprefix("constant_"))
    means = means.loc[order].rename(index=scientific, level="lam")
    means.loc[("constant predictor", "", ""), :] = constant
    labels = {s[0]: s[1][:-2] for s in SCORES.values()} | OTHER_METRICS
    return means.rename_axis(["tasks", "penalty", "λ"]).rename(columns=labels)


# Quantities of the claims, by seed (Series), above zero where the claim holds; a dict of them where the claim speaks of
# several. Metrics of different units are made comparable as relative improvements and averaged over the tasks.


def cell(table, tasks, lam, column, penalty="group_lasso", data=None):
    """Values of one cell by seed (Series), empty where nothing was run. data: None for what the tasks tell."""
    if table.empty or column not in table:
        return pd.Series(dtype=float)
    data = data or ("celebamask" if "male" in tasks or "smile" in tasks else "nyuv2")
    found = table[(table.tasks == tasks) & (table.lam == lam) & (table.penalty == penalty) & (table.data == data)]
    return found.drop_duplicates("seed").set_index("seed")[column]


def gain(table, new, old):
    """Relative improvement of `new` over `old`, each a (task set, lambda[, penalty]), mean over the tasks of both."""
    parts = []
    for task in [t for t in new[0].split("+") if t in old[0].split("+")]:
        column, _, sign = SCORES[task]
        a, b = (cell(table, which[0], which[1], column, *which[2:]) for which in (new, old))
        parts.append(sign * (a - b) / b.abs())
    return _mean(parts)


def _mean(parts):
    return sum(parts) / len(parts)


def sparse_gain_nyu(table):
    """Lambda 1e-5 over 0, mean of the multi-task sets of NYU-v2."""
    return _mean([gain(table, (s, SPARSE), (s, 0.0)) for s in NYU_SETS if "+" in s])


def sparse_gain_celeba(table):
    """Lambda 1e-5 over 0, mean of the multi-task sets of CelebAMask-HQ."""
    return _mean([gain(table, (s, SPARSE), (s, 0.0)) for s in CELEBA_SETS if "male" in s and "+" in s])


def dense_single_gain(table):
    """Single-task over multi-task models, all dense, mean of the multi-task sets and their tasks."""
    return _singles_over(table, [s for s in NYU_SETS if "+" in s])


def _singles_over(table, sets):
    return _mean([gain(table, (t, 0.0), (s, 0.0)) for s in sets for t in s.split("+")])


def best_at_sparse(table):
    """Lambda 1e-5 over each of the other lambdas, three-task model; the weakest part decides."""
    return {
        f"over λ = {scientific(lam)}": gain(table, (ALL_NYU, SPARSE), (ALL_NYU, lam))
        for lam in LAMBDAS
        if lam != SPARSE
    }


def all_zero(table):
    """Share of zero groups at lambda 1e-3 and 1e-2 minus 0.99, three-task model; the weakest part decides."""
    return {f"at λ = {scientific(lam)}": cell(table, ALL_NYU, lam, "group") - 0.99 for lam in LAMBDAS if lam >= 1e-3}


def groups_over_l1(table):
    """Group lasso at 1e-5 over l1 at 1e-3, mean of the sets of Table 3."""
    return _mean([gain(table, (s, SPARSE), (s, L1_LAMBDA, "l1")) for s in L1_SETS])


def early_dense_middle_sparse(table):
    """Dead channels, three-task model at 1e-5: 5 % minus early, middle layers minus 5 %; the weakest part decides."""
    early, middle = (cell(table, ALL_NYU, SPARSE, f"dead_{stage}") for stage in ("early", "middle"))
    return {"early layers dense": DENSE - early, "middle layers sparse": middle - DENSE}


def time_saved(table):
    """Share of a dense network's time that its kernels save on the zeros of lambda 1e-5, three-task model."""
    return cell(table, ALL_NYU, SPARSE, "zeros_saved")


def _published_frame():
    """The published tables in the form of `frame`, as one seed; of Fig. 4b what the text prints."""
    three = {"data": "nyuv2", "penalty": "group_lasso", "tasks": ALL_NYU, "seed": 0}
    rows = [
        three | {"lam": said["lambda"], "group": said["value"] / 100}
        for said in published("text")
        if said["figure"] == "4b" and said["lambda"] not in TABLE_LAMBDAS
    ]
    for number, (penalty, data) in TABLE_OF.items():
        for said in published(number):
            scores = {column: said[f"{column}_mean"] for column, *_ in SCORES.values() if f"{column}_mean" in said}
            scores["group"] = said["group_sparsity_pct"] / 100
            rows.append(
                three | {"data": data, "penalty": penalty, "tasks": said["tasks"], "lam": said["lambda"]} | scores
            )
    return pd.DataFrame(rows)


def claims(evidences, protocol="paper", ids=None):
    """One row for each claim and origin of evidence (DataFrame): effect paired over seeds, interval and verdict.

    ids: of the claims wanted, None for all.
    """
    rows, said = [], _published_frame()
    for evidence in evidences:
        table = select(frame(evidence.records), protocol)
        for claim in [c for c in CLAIMS if ids is None or c.id in ids]:
            quantity = globals()[claim.quantity]
            rows.append(claim_row(claim, evidence, quantity(table), quantity(said), "seeds"))
    return pd.DataFrame(rows).set_index("id")


def findings(evidences, protocol="paper"):
    """The claims and what became of them, in words that follow from the verdicts (Markdown list).

    evidences: list of `Evidence` of several profiles, the largest first; see `judged`.
    """
    rows = judged(claims(evidences, protocol)).values()
    rests = [e for e in evidences if e.profile in {row.profile for row in rows}] or evidences
    lines = [f"From {' and '.join(f'{len(e.records)} runs ({e.title})' for e in rests)}:", ""]
    for row in rows:
        part = f"; weakest part: {row.weakest}" if row.weakest else ""
        interval = f" ({f'{row.low:+.3f} to {row.high:+.3f}' if row.seeds > 1 else 'one seed'}{part})"
        number = f": {row.effect:+.3f}{interval}" if row.seeds else ""
        profile = f" (profile {row.profile})" if row.profile and len(rests) > 1 else ""
        lines.append(f"- *{row.claim}* **{row.verdict}**{number}{profile}.")
    return "\n".join(lines)


def times(evidence, protocol="paper"):
    """Fig. 4d in numbers (DataFrame by lambda): milliseconds a batch and the share of them that is saved.

    A run times its dense twin, its own zeros and the compacted network in turns, so that its shares are comparable.
    """
    table = three_tasks(evidence, protocol)
    if table.empty or "dense_ms" not in table:
        return pd.DataFrame()
    seeds = table.groupby("lam").seed.count()
    table = table[table.dense_ms.notna()]  # older records have no dense twin
    columns = {"dense_ms": "dense, ms"} | {f"{k}_ms": f"{name}, ms" for k, name in SAVERS.items()}
    columns |= {f"{k}_saved": f"{name}: {SAVED}" for k, name in SAVERS.items()}
    columns |= {"flops_kept": "FLOPs kept, %", "parameters_kept": "parameters kept, %", "group": "groups zero, %"}
    by_lambda = table.groupby("lam")
    means = by_lambda[list(columns)].mean().rename(columns=columns)
    means.insert(0, "seeds", seeds)
    means.insert(1, "of them timed", by_lambda.group.count())
    shares = [name for name in means if name.endswith("%")]
    means[shares] *= 100
    said = {row["lambda"]: row["value"] for row in published("text") if row["figure"] == "4d"}
    means["published saving, ms"] = [f"{said[lam]:g}" if lam in said else "" for lam in means.index]
    return means.rename_axis("λ").rename(index=scientific)


def switches():
    """Every difference between text and released code, and what each protocol does (DataFrame)."""
    rows = {
        s.label: {"item": s.item, "name": name} | {p: _short(getattr(s, p)) for p in PROTOCOLS}
        for name, s in SWITCHES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("difference")


def protocols(evidence, data="nyuv2"):
    """Dense and sparse model of all tasks under each protocol, and with each switch flipped alone (DataFrame).

    Every variant that the page asks for, run or not. Seed 0. The mean relative improvement of sparse over dense in
    percent, metrics at lambda 0 and 1e-5, and the share of zero groups at 1e-5 in percent.
    """
    tasks, table = ALL_CELEBA if data == "celebamask" else ALL_NYU, frame(evidence.records)
    rows = {}
    for protocol, flip, switch in _variants(evidence.profile, tasks):
        flips = {lam: flip if lam in switch_lambdas(switch) else "" for lam in (0.0, SPARSE)}
        chosen = pd.concat([select(table, protocol, flipped=f, lam=lam, seed=0) for lam, f in flips.items()])
        scores = {("sparse over dense", "%"): 100 * gain(chosen, (tasks, SPARSE), (tasks, 0.0)).mean()}
        scores |= {
            (f"λ = {scientific(lam)}", SCORES[t][1]): cell(chosen, tasks, lam, SCORES[t][0]).mean()
            for lam in flips
            for t in tasks.split("+")
        }
        scores[f"λ = {scientific(SPARSE)}", "groups zero, %"] = 100 * cell(chosen, tasks, SPARSE, "group").mean()
        rows[f"{protocol}, {flip}" if flip else protocol] = scores
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")
    out.columns = pd.MultiIndex.from_tuples(out.columns)
    return out


def _variants(profile, tasks):
    """(protocol, flipped, switch) of this task set on the protocols page, those first where nothing is flipped ("")."""
    found = {}
    for spec in protocol_specs(profile):
        if spec.params["tasks"] == tasks:
            flips = flipped(spec)
            found[spec.method, _told(flips)] = next(iter(flips), "")
    return sorted(((*key, switch) for key, switch in found.items()), key=lambda variant: variant[1] != "")


def conclusions(evidence):
    """What each protocol would conclude on NYU-v2, seed 0 (DataFrame): two of the claims as relative gains in percent.

    "sparse over dense" is the three-task model at lambda 1e-5 over 0; "single over multi" the dense single-task
    models over the dense three-task model.
    """
    table, rows = frame(evidence.records), {}
    for protocol in PROTOCOLS:
        chosen = select(table, protocol, seed=0)
        found = {
            "sparse over dense, %": gain(chosen, (ALL_NYU, SPARSE), (ALL_NYU, 0.0)),
            "single over multi (dense), %": _singles_over(chosen, [ALL_NYU]),
        }
        rows[protocol] = {name: 100 * g.mean() if len(g) else math.nan for name, g in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")
