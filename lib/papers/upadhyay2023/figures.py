"""Figures of the vision study, from records and from arrays that `run.predictions` returns."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from companion.statistics import NOT_RUN, estimate
from companion.style import HIGHLIGHT, MUTED, TASK_COLOURS, empty_figure, listed, percent
from papers.upadhyay2023.claims import SAVERS, cell, frame, scores_of

from papers.upadhyay2023.study import (  # isort: skip
    ALL, ALL_NYU, FIG3_SETS, GOAL, LAMBDAS, LEVELS, START, TASKS, published, scientific,
)  # fmt: skip
from papers.upadhyay2023.tables import DATA, DECAYED, EFFECT, TABLE_OF, blind_metrics, held_by_width, protocols

DEAD, ALIVE, RUST = "#D9D9D9", "#0072B2", "#D55E00"
VOID = 255  # class of pixels without a label
PAIR = {"figsize": (11, 3.8), "ncols": 2}
STYLES, MARKS = ("-", "--", "-.", ":", (0, (1, 4)), (0, (6, 1, 1, 1)), (0, (3, 3))), "osDv^P<"


def sight(paper_size, ours):
    """Dense and sparse on NYU-v2: published beside the blind control of `paper_size`, ours beside that of our runs."""
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    rows, table = {row["lambda"]: row for row in published(1) if row["tasks"] == ALL_NYU}, frame(ours.records)
    metrics = blind_metrics(paper_size, "nyuv2") or {}
    for ax, (task, column, label, _) in zip(axes, scores_of(ALL_NYU), strict=True):
        said = [(rows[lam][f"{column}_mean"], rows[lam][f"{column}_std"]) for lam in (0.0, START)]
        pairs = {"published": (*said, metrics.get(column, np.nan))}
        for protocol, name in (("released", "ours, as\nreleased"), ("paper", "ours, as\nwritten")):
            found = [estimate(cell(table, ALL_NYU, column, level=k, protocol=protocol)) for k in (0.0, GOAL)]
            blind = cell(table, ALL_NYU, f"blind_{column}", level=0.0, protocol=protocol).mean()
            points = ((e.mean, e.sd if e.n > 1 else 0.0) for e in found)
            pairs[name if found[0].n else f"{name}:\n{NOT_RUN}"] = (*points, blind)
        for x, (name, (dense, sparse, blind)) in zip((0, 2, 4), pairs.items(), strict=True):
            look = {"fmt": "o", "ms": 8, "capsize": 3, "color": TASK_COLOURS[task] if x else MUTED}
            ax.errorbar(x, *dense, mfc="white", **look)
            ax.errorbar(x + 1, *sparse, **look)
            ax.plot((x - 0.4, x + 1.4), [blind] * 2, color=HIGHLIGHT, lw=2)
            ax.text(x + 0.5, -0.03, name, ha="center", va="top", transform=ax.get_xaxis_transform())
        ax.set(title=TASKS[task], ylabel=label, xlim=(-0.6, 5.6), xticks=())
    dot = {"color": MUTED, "marker": "o", "ls": "", "ms": 8}
    keys = {"dense": dot | {"mfc": "white"}, "sparse": dot, "sees no image": {"color": HIGHLIGHT, "lw": 2}}
    handles = [axes[0].plot([], [], **look)[0] for look in keys.values()]
    fig.legend(handles, keys, loc="outside lower center", ncols=3)
    return fig


def slopes(evidence, number=1):
    """Table 1 or 2 as slopes from dense to 70 % sparse: a line for each task set, published beside ours."""
    data, _ = TABLE_OF[number]
    table, rows = frame(evidence.records), {(row["tasks"], row["lambda"]): row for row in published(number)}
    look = {"xticks": [0, 1], "xticklabels": ["dense", "sparse"], "xlim": (-0.2, 1.2)}
    fig, axes = plt.subplots(2, 3, figsize=(10, 6), sharey="col", subplot_kw=look)
    for (above, below), (task, column, label, _) in zip(axes.T, scores_of(ALL[data]), strict=True):
        above.set(title=TASKS[task], ylabel=f"published\n{label}")
        below.set_ylabel(f"ours\n{label}")
        for n, tasks in enumerate(dict.fromkeys(t for t, _ in rows)):  # all in every panel, for the legend's sake
            said = [rows[tasks, lam].get(f"{column}_mean", np.nan) for lam in (0.0, START)]
            ours = [cell(table, tasks, column, data, level=level).mean() for level in (0.0, GOAL)]
            for ax, values in ((above, said), (below, ours)):
                ax.plot([0, 1], values, MARKS[n] + "-", color=plt.get_cmap("cividis")(n / 7.5), label=tasks)
        if blind := blind_metrics(evidence, data):
            below.axhline(blind[column], color=HIGHLIGHT, ls=":", label="sees no image")
    fig.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def channels(evidence):
    """Fig. 3: input channels of every convolution of the backbone, before and after, a panel a task set."""
    table = frame(evidence.records)
    runs = {s: list(cell(table, s, "channels", "nyuv2", level=GOAL)) for s in FIG3_SETS}
    if not any(runs.values()):
        return empty_figure(f"Fig. 3, {evidence.origin}")
    layers = next(layers for s in FIG3_SETS for layers in cell(table, s, "layers", "nyuv2", level=GOAL))
    fig, axes = plt.subplots(2, 2, figsize=(11, 6), sharex=True, sharey=True)
    for ax, (tasks, found) in zip(axes.flat, runs.items(), strict=True):
        ax.set_title(tasks if found else f"{tasks}: {NOT_RUN}", fontsize="medium")
        counts = np.array([[run[layer] for layer in layers] for run in found], dtype=float).reshape(-1, len(layers), 2)
        for k, (colour, label) in enumerate({DEAD: "before", ALIVE: "after (mean over seeds)"}.items()):
            ax.bar(range(len(layers)), counts[..., 1 - k].sum(0) / max(1, len(found)), 1, color=colour, label=label)
        step = max(1, len(layers) // 8)
        ax.set_xticks(range(0, len(layers), step), layers[::step], rotation=40, ha="right", fontsize="x-small")
    fig.supylabel("input channels", fontsize="medium")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _line(ax, table, column, at, scale=1.0, said=(), **style):
    """Mean ± sd over seeds of a column of the three-task model by "lam" or "level"; said: published, by lambda."""
    values, look = (LAMBDAS, {"marker": "*", "ls": "", "ms": 13}) if at == "lam" else (LEVELS, {})
    found = [estimate(scale * cell(table, ALL_NYU, column, **{at: v})) for v in values]  # NaN breaks the line
    ax.errorbar(range(len(found)), [e.mean for e in found], [e.sd for e in found], capsize=3, marker="o", ms=5, **style)
    if said:
        ax.plot([values.index(v) for v in said], list(said.values()), color=HIGHLIGHT, label="published", **look)
    ax.set_xticks(range(len(values)), map(scientific if at == "lam" else percent, values), rotation=40, ha="right")
    ax.set_xlabel("λ" if at == "lam" else "groups zero (target)")


def performance(evidence, at="lam"):
    """Fig. 4a: each task of the three-task model against lambda, or against the target sparsity (at="level")."""
    table = frame(evidence.records)
    if table.empty:
        return empty_figure(f"Fig. 4a, {evidence.origin}")
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.8))
    for ax, (task, column, label, _) in zip(axes, scores_of(ALL_NYU), strict=True):
        said = {row["lambda"]: row[f"{column}_mean"] for row in published(1) if row["tasks"] == ALL_NYU}
        _line(ax, table, column, at, said=said if at == "lam" else (), color=TASK_COLOURS[task], label="ours")
        ax.axhline(cell(table, ALL_NYU, f"blind_{column}", level=0.0).mean(), color=MUTED, ls=":", label="blind")
        ax.set(title=TASKS[task], ylabel=label)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def explore(evidence):
    """Interactive: a quantity of the three-task model to choose against lambda, a point a seed."""
    import altair

    columns = {column: f"{TASKS[task]}: {label}" for task, column, label, _ in scores_of(ALL_NYU)}
    columns |= {"group": "groups zero, share", "zeros_ms": "time of a batch, ms"}
    table = frame(evidence.records)
    shown = pd.DataFrame(
        {"λ": scientific(lam), "seed": seed, "what": label, "value": value}
        for column, label in columns.items()
        for lam in LAMBDAS
        for seed, value in cell(table, ALL_NYU, column, lam=lam).items()
    )
    if shown.empty:
        return empty_figure("λ")
    names = list(columns.values())
    chosen = altair.param("chosen", value=names[0], bind=altair.binding_select(options=names, name="show "))
    return (
        altair.Chart(shown, width=620, height=300)
        .mark_point(filled=True, size=70)
        .encode(
            x=altair.X("λ:O", sort=list(map(scientific, LAMBDAS))).axis(labelAngle=0),
            y=altair.Y("value:Q", title=None).scale(zero=False),
            tooltip=["λ", "seed", "value"],
        )
        .transform_filter("datum.what == chosen")
        .add_params(chosen)
    )


def _courses(axes, names, runs, title):
    """Histories by epoch, a panel for each of `names` {entry: label}; equal `runs` {label: histories} as one line."""
    courses = {}
    for label, histories in runs.items():
        if len(histories):
            lines = [np.mean([h[name] for h in histories], axis=0) for name in names]
            courses.setdefault(np.round(lines, 3).tobytes(), (lines, []))[1].append(label)
    for k, (lines, labels) in enumerate(courses.values()):
        look = {"color": plt.get_cmap("cividis")(k / max(1, len(courses) - 1) * 0.9), "ls": STYLES[k % len(STYLES)]}
        for ax, line in zip(axes, lines, strict=True):
            ax.plot(range(1, len(line) + 1), line, label=listed(labels), **look)
    for ax, label in zip(axes, names.values(), strict=True):
        ax.set(xlabel="epoch", ylabel=label)
    look = {"title": title, "title_fontsize": "medium", "loc": "outside lower right", "ncols": 4}
    axes[-1].figure.legend(*axes[-1].get_legend_handles_labels(), **look)


def sparsity(evidence):
    """Fig. 4b and c: share of zero groups and of weights in them against lambda, and its course over the epochs."""
    table = frame(evidence.records)
    if table.empty:
        return empty_figure(f"Fig. 4b, {evidence.origin}")
    fig, (left, right) = plt.subplots(**PAIR, sharey=True)
    said = {row["lambda"]: row["value"] / 100 for row in published("text") if row["figure"] == "4b"}
    said |= {row["lambda"]: row["group_sparsity_pct"] / 100 for row in published(1) if row["tasks"] == ALL_NYU}
    _line(left, table, "group", "lam", said=said, label="groups", color=ALIVE)
    _line(left, table, "parameter", "lam", label="weights in zero groups", color=RUST, ls="--")
    left.set(ylabel="zero, share", ylim=(-0.03, 1.05))
    left.legend(fontsize="small")
    runs = {scientific(lam): cell(table, ALL_NYU, "history", lam=lam) for lam in LAMBDAS}
    _courses([right], {"group_sparsity": ""}, runs, "λ")
    return fig


def inference_time(evidence):
    """Fig. 4d: time of the backbone against sparsity, on its zeros (as published) and compacted, over a dense one's."""
    table = frame(evidence.records)
    if table.empty:
        return empty_figure(f"Fig. 4d, {evidence.origin}")
    fig, ax = plt.subplots(figsize=(6.5, 4))
    for (name, label), look in zip(SAVERS.items(), ({"color": MUTED}, {"color": ALIVE, "ls": "--"}), strict=True):
        _line(ax, table.assign(share=1 - table[f"{name}_saved"]), "share", "level", 100, label=label, **look)
    ax.axhline(100, color=MUTED, ls=":", lw=1, label="dense")
    ax.set(ylabel="time of the backbone, % of dense", ylim=(0, None))
    ax.legend()
    return fig


def control_path(evidence):
    """Group sparsity and lambda by epoch of the three-task model at each target sparsity (mean over seeds)."""
    table, (fig, axes) = frame(evidence.records), plt.subplots(**PAIR)
    runs = {percent(level): cell(table, ALL_NYU, "history", level=level) for level in LEVELS[1:]}
    _courses(axes, {"group_sparsity": "groups zero", "lambda": "λ"}, runs, "target")
    axes[1].set_yscale("log")
    return fig


def decay_course(evidence):
    """Dense networks by weight decay: decay's share of the gradient, norm of the weights, train loss (first seed)."""
    table, (fig, axes) = frame(evidence.records), plt.subplots(1, 3, figsize=(11, 3.6))
    first = {words: cell(table, ALL_NYU, "history", level=0.0, **at)[:1] for words, at in DECAYED.items()}
    runs = {words: [h | {"loss": [np.mean(list(v.values())) for v in h["train"]]} for h in histories]
            for words, histories in first.items()}  # fmt: skip
    names = {"decay_share": "share of decay in the gradient", "weight_norm": "norm of the weights"}
    _courses(axes, names | {"loss": "mean train loss"}, runs, "weight decay")
    axes[1].set_yscale("log")
    return fig


def protocol_effects(evidence):
    """70 % sparse over dense, mean over the tasks, in each protocol and with each switch flipped; 95 % intervals."""
    words = {"paper": "paper: as written", "released": "released: as in code", "corrected": "corrected: equal decay"}
    found = {title: protocols(evidence, data).dropna(subset=EFFECT[0])[::-1] for data, title in DATA.items()}
    found = {title: table for title, table in found.items() if len(table)}
    if not found:
        return empty_figure("Sparse over dense by protocol")
    fig, axes = plt.subplots(1, len(found), figsize=(11, 3.6), squeeze=False)
    for ax, (title, table) in zip(axes[0], found.items(), strict=True):
        mean, low, high = (table[column] for column in EFFECT)
        ax.errorbar(mean, range(len(table)), xerr=[mean - low, high - mean], fmt="o", capsize=3)
        ax.set_yticks(range(len(table)), [words.get(name, name) for name in table.index], fontsize="small")
        ax.axvline(0, color=MUTED, lw=1)
        ax.set(title=f"{title}, three tasks", xlabel=EFFECT[0])
    return fig


def lambda_by_width(evidence):
    """The lambda that 70 % of the groups took, by width of the backbone, a point a seed."""
    widths, held = held_by_width(evidence)
    if len(set(widths)) < 2:
        return empty_figure("Other widths")
    fig, ax = plt.subplots(figsize=(5, 3.6))
    ax.loglog(widths, held, "o", color=ALIVE)
    ax.set(xlabel="width of the backbone", ylabel="λ held")
    return fig


def kinds_of_sparsity(dense, unstructured, grouped):
    """Fig. 1: one layer's weights, filters x input channels, each kernel a small square; zeros are grey.

    Convolutions {name: array} of networks trained without penalty, with l1 and with the group lasso. The blocks are the
    dense network's layer with its smallest kernels set to zero, as many as l1 zeroed: the paper trains no such network.
    """
    convs = {name: w for name, w in grouped.items() if w.shape[-1] == 3 and w.shape[1] > 3}
    name = min(convs, key=lambda n: abs((convs[n] == 0).mean() - 0.5))
    block, loose = dense[name].copy(), unstructured[name]
    norms = np.sqrt((block**2).sum((2, 3)))
    block[norms <= np.quantile(norms, (loose == 0).mean())] = 0
    panels = {"unstructured\n(trained with l1)": loose, "blocks: whole kernels\n(cut by size)": block}
    panels["channel-wise\n(trained with the group lasso)"] = convs[name]
    fig, axes = plt.subplots(1, 3, figsize=(11, 4.2), sharey=True)
    for ax, (kind, weight) in zip(axes, panels.items(), strict=True):
        weight = weight[:16, :16]
        filters, inputs, k, _ = weight.shape
        image = np.ma.masked_equal(np.abs(weight).transpose(0, 2, 1, 3).reshape(filters * k, inputs * k), 0)
        ax.imshow(image, cmap=plt.get_cmap("cividis").with_extremes(bad=DEAD), aspect="equal")
        ax.set(title=f"{kind}\n{(weight == 0).mean():.0%} zero", xlabel="input channel")
        for axis, count in ((ax.xaxis, inputs), (ax.yaxis, filters)):
            axis.set_ticks(np.arange(1, count) * k - 0.5, labels=[])
        ax.grid(True, color="white", lw=0.8, alpha=1)
    axes[0].set_ylabel("filter")
    fig.suptitle(name.removesuffix(".weight"))
    return fig


def gallery(images, truth, found):
    """Images, and truth beside prediction for each task, a row an image; as `run.predictions` returns them."""
    dense = [t for t in truth if truth[t].ndim > 1]
    lines, columns = len(images), 1 + 2 * len(dense)
    look = {"figsize": (1.3 * columns, 1.5 * lines), "subplot_kw": {"xticks": [], "yticks": []}}
    fig, axes = plt.subplots(lines, columns, squeeze=False, **look)
    for row, (left, *maps) in enumerate(axes):
        left.imshow(images[row])
        words = [f"{t}: {'yes' if truth[t][row] else 'no'}, found {found[t][row]:.0%}" for t in truth if t not in dense]
        left.set_xlabel("\n".join(words), fontsize="x-small")
        left.set_title("" if row else "image", fontsize="small")
        panels = product(dense, {"truth": truth, "prediction": found}.items())
        for ax, (task, (what, values)) in zip(maps, panels, strict=True):
            _show(ax, task, values[task][row], truth[task][row])
            ax.set_title("" if row else f"{TASKS[task]}\n{what}", fontsize="small")
    return fig


def _show(ax, task, values, truth):
    """One map: classes in colours (no label: white), normals as colours of their axes, depth on the truth's scale."""
    if task == "seg":
        ax.imshow(np.ma.masked_equal(values, VOID) % 20, cmap="tab20", vmin=0, vmax=19, interpolation="nearest")
    elif task == "normal":
        unit = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9)
        ax.imshow((0.5 - 0.5 * unit).clip(0, 1))
    else:
        ax.imshow(values[..., 0], cmap="viridis", vmin=0, vmax=float(truth.max()))
