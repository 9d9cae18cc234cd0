"""Figures of the vision study, from records and from arrays that `run.predictions` returns."""

import matplotlib.pyplot as plt
import numpy as np
from companion.evidence import NOT_RUN
from companion.statistics import estimate
from companion.style import HIGHLIGHT, MUTED, TASK_COLOURS, empty_figure
from papers.upadhyay2023.claims import SAVERS, cell, frame, runs_of

from papers.upadhyay2023.study import (  # isort: skip
    ALL, ALL_NYU, DECAYS, FIG3_SETS, GOAL, LAMBDAS, LEVELS, SCORES, START, TASKS, published, scientific,
)  # fmt: skip
from papers.upadhyay2023.tables import TABLE_OF, blind_records, decayed, protocols

DEAD, ALIVE, RUST = "#D9D9D9", "#0072B2", "#D55E00"
VOID = 255  # class of pixels without a label


def sight(paper_size, ours, protocol="paper"):
    """Published dense and sparse, blind, and ours on the three tasks of NYU-v2 (the chapter's first figure).

    paper_size, ours: `Evidence` with the blind control at the paper's size, and with our runs and theirs.
    """
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    rows = {row["lambda"]: row for row in published(1) if row["tasks"] == ALL_NYU}
    table = runs_of(ours, protocol)
    for ax, task in zip(axes, ALL_NYU.split("+"), strict=True):
        column, label, _ = SCORES[task]
        for x, (lam, word) in enumerate({0.0: "published\ndense", START: "published\nsparse"}.items()):
            ax.bar(x, rows[lam][f"{column}_mean"], yerr=rows[lam][f"{column}_std"], color=MUTED, capsize=3)
            ax.text(x, 0, word, ha="center", va="bottom", fontsize="small", color="white")
        for x, (level, word) in enumerate({0.0: "our\ndense", GOAL: "our 70 %\nsparse"}.items(), 2):
            e = estimate(cell(table, ALL_NYU, column, level=level))
            ax.bar(x, e.mean if e.n else 0, yerr=e.sd if e.n > 1 else 0, color=TASK_COLOURS[task], capsize=3)
            ax.text(x, 0, word if e.n else NOT_RUN, ha="center", va="bottom", fontsize="small")
        for evidence, span in ((paper_size, (-0.5, 1.5)), (ours, (1.5, 3.5))):
            if result := blind_records(evidence, "nyuv2"):
                ax.plot(span, [result["metrics"][column]] * 2, color=HIGHLIGHT, lw=2, label="blind")
        ax.set(title=TASKS[task], ylabel=label, xticks=[])
    axes[0].plot([], [], color=HIGHLIGHT, lw=2, label="sees no image")
    fig.legend(*[h[-1:] for h in axes[0].get_legend_handles_labels()], loc="outside lower center")
    return fig


def slopes(evidence, number=1, protocol="paper"):
    """Table 1 or 2 as slopes from dense to 70 % sparse: a line for each task set, published beside ours."""
    data, _ = TABLE_OF[number]
    tasks, table = ALL[data].split("+"), runs_of(evidence, protocol)
    fig, axes = plt.subplots(2, len(tasks), figsize=(10, 5.5), sharey="col", squeeze=False)
    rows = {(row["tasks"], row["lambda"]): row for row in published(number)}
    for k, task in enumerate(tasks):
        column, label, _ = SCORES[task]
        for ax in axes[:, k]:
            ax.set(xticks=[0, 1], xticklabels=["dense", "sparse"], xlim=(-0.2, 1.2))
        axes[0, k].set(title=TASKS[task], ylabel=f"published\n{label}")
        axes[1, k].set_ylabel(f"ours\n{label}")
        for n, tasks_of in enumerate(s for s in dict.fromkeys(t for t, _ in rows) if task in s.split("+")):
            said = [rows[tasks_of, lam][f"{column}_mean"] for lam in (0.0, START)]
            ours = [cell(table, tasks_of, column, data, level=level).mean() for level in (0.0, GOAL)]
            for ax, values in ((axes[0, k], said), (axes[1, k], ours)):
                ax.plot([0, 1], values, "osDv^"[n % 5] + "-", color=plt.get_cmap("cividis")(n / 4.5), label=tasks_of)
        if result := blind_records(evidence, data):
            axes[1, k].axhline(result["metrics"][column], color=HIGHLIGHT, ls=":", label="blind")
        axes[1, k].legend(fontsize="xx-small")
    return fig


def channels(evidence, protocol="paper"):
    """Fig. 3: input channels of every convolution of the backbone, before and after, a panel a task set."""
    table = runs_of(evidence, protocol)
    runs = {s: list(cell(table, s, "channels", "nyuv2", level=GOAL)) for s in FIG3_SETS}
    if not any(runs.values()):
        return empty_figure(f"Fig. 3, {evidence.origin}")
    layers = table.layers.iloc[0]
    fig, axes = plt.subplots(2, 2, figsize=(11, 6), sharex=True, sharey=True)
    for ax, (tasks, found) in zip(axes.flat, runs.items(), strict=True):
        ax.set_title(tasks if found else f"{tasks}: {NOT_RUN}", fontsize="medium")
        if found:
            counts = np.array([[run[layer] for layer in layers] for run in found], dtype=float).mean(0)
            ax.bar(range(len(layers)), counts[:, 1], width=1, color=DEAD, label="before")
            ax.bar(range(len(layers)), counts[:, 0], width=1, color=ALIVE, label="after (mean over seeds)")
        step = max(1, len(layers) // 8)
        ax.set_xticks(range(0, len(layers), step), layers[::step], rotation=40, ha="right", fontsize="x-small")
    for ax in axes[:, 0]:
        ax.set_ylabel("input channels")
    drawn = next(ax for ax in axes.flat if ax.patches)
    fig.legend(*drawn.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _line(ax, table, column, at, values, scale=1.0, **style):
    """Mean ± sd over seeds of a column of the three-task model at each value of "lam" or "level" that was run."""
    found = {i: estimate(scale * cell(table, ALL_NYU, column, **{at: v}).dropna()) for i, v in enumerate(values)}
    found = {i: e for i, e in found.items() if e.n}
    spread = [e.sd if e.n > 1 else 0 for e in found.values()]
    ax.errorbar(list(found), [e.mean for e in found.values()], spread, capsize=3, marker="o", ms=5, **style)
    names = map(scientific, values) if at == "lam" else [f"{100 * v:.0f} %" for v in values]
    ax.set_xticks(range(len(values)), names, rotation=40, ha="right")
    ax.set_xlabel("λ" if at == "lam" else "groups zero (target)")


def performance(evidence, protocol="paper", at="lam"):
    """Fig. 4a: each task of the three-task model against lambda, or against the target sparsity (at="level")."""
    table, values = runs_of(evidence, protocol), LAMBDAS if at == "lam" else LEVELS
    if table.empty:
        return empty_figure(f"Fig. 4a, {evidence.origin}")
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.8))
    for ax, task in zip(axes, ALL_NYU.split("+"), strict=True):
        column, label, _ = SCORES[task]
        _line(ax, table, column, at, values, color=TASK_COLOURS[task], label="ours")
        said = {row["lambda"]: row[f"{column}_mean"] for row in published(1) if row["tasks"] == ALL_NYU}
        if at == "lam":
            ax.plot(
                [LAMBDAS.index(lam) for lam in said],
                list(said.values()),
                "*",
                ms=13,
                color=HIGHLIGHT,
                label="published",
            )
        ax.axhline(cell(table, ALL_NYU, f"blind_{column}", level=0.0).mean(), color=MUTED, ls=":", label="blind")
        ax.set(title=TASKS[task], ylabel=label)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def sparsity(evidence, protocol="paper"):
    """Fig. 4b and c: share of zero groups and of weights in them against lambda, and its course over the epochs."""
    table, (fig, axes) = runs_of(evidence, protocol), plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    if table.empty:
        plt.close(fig)
        return empty_figure(f"Fig. 4b, {evidence.origin}")
    _line(axes[0], table, "group", "lam", LAMBDAS, 100, label="groups", color=ALIVE)
    _line(axes[0], table, "parameter", "lam", LAMBDAS, 100, label="weights in zero groups", color=RUST, ls="--")
    said = {row["lambda"]: row["value"] for row in published("text") if row["figure"] == "4b"}
    said |= {row["lambda"]: row["group_sparsity_pct"] for row in published(1) if row["tasks"] == ALL_NYU}
    axes[0].plot(
        [LAMBDAS.index(lam) for lam in said],
        list(said.values()),
        "*",
        ms=13,
        color=HIGHLIGHT,
        label="groups, published",
    )
    axes[0].set(ylabel="zero, %", ylim=(-3, 105))
    for k, lam in enumerate(LAMBDAS):
        if runs := [h["group_sparsity"] for h in cell(table, ALL_NYU, "history", lam=lam)]:
            line = 100 * np.mean([run[: min(map(len, runs))] for run in runs], axis=0)
            look = {"color": plt.get_cmap("cividis")(k / 6.5), "marker": "osDv^<>"[k], "markevery": 0.1, "ms": 5}
            axes[1].plot(range(1, len(line) + 1), line, label=f"λ = {scientific(lam)}", **look)
    axes[1].set(xlabel="epoch")
    for ax in axes:
        ax.legend(fontsize="small")
    return fig


def inference_time(evidence, protocol="paper"):
    """Fig. 4d: time of the backbone against sparsity, on its zeros (as published) and compacted, over a dense one's."""
    table = runs_of(evidence, protocol)
    if table.empty or "dense_ms" not in table:
        return empty_figure(f"Fig. 4d, {evidence.origin}")
    fig, ax = plt.subplots(figsize=(6.5, 4))
    for (name, label), look in zip(SAVERS.items(), ({"color": MUTED}, {"color": ALIVE, "ls": "--"}), strict=True):
        _line(ax, table.assign(share=1 - table[f"{name}_saved"]), "share", "level", LEVELS, 100, label=label, **look)
    ax.axhline(100, color=MUTED, ls=":", lw=1, label="dense")
    ax.set(ylabel="time of the backbone, % of dense", ylim=(0, None))
    ax.legend()
    return fig


def control_path(evidence, protocol="paper"):
    """Group sparsity and lambda by epoch of the three-task model at each target sparsity (mean over seeds)."""
    table, (fig, axes) = runs_of(evidence, protocol), plt.subplots(1, 2, figsize=(11, 3.6))
    for k, level in enumerate(LEVELS[1:]):
        runs = list(cell(table, ALL_NYU, "history", level=level))
        for ax, name in zip(axes, ("group_sparsity", "lambda"), strict=True):
            if runs:
                look = {"color": plt.get_cmap("cividis")(k / 4), "ls": ("-", "--", "-.", ":")[k]}
                ax.plot(np.mean([h[name] for h in runs], axis=0), label=f"{100 * level:.0f} %", **look)
            ax.set(xlabel="epoch", ylabel={"lambda": "λ"}.get(name, "groups zero"))
    axes[1].set_yscale("log")
    axes[0].legend(title="target")
    return fig


def decay_course(evidence, tasks=ALL_NYU):
    """Coupled decay by epoch: share of the gradient that is decay, norm of the weights, train loss (first seed)."""
    table, (fig, axes) = frame(evidence.records), plt.subplots(1, 3, figsize=(11, 3.6))
    for k, strength in enumerate(DECAYS):
        runs = list(decayed(table, strength, tasks).get("history", ()))
        for ax, name in zip(axes, ("decay_share", "weight_norm", "train"), strict=True):
            if runs:
                values = [sum(v.values()) / len(v) if name == "train" else v for v in runs[0][name]]
                look = {"color": plt.get_cmap("cividis")(k / 5), "ls": ("-", "--", "-.", ":", (0, (1, 4)))[k]}
                ax.plot(values, label=f"{strength:g}", **look)
    for ax, label in zip(
        axes, ("share of decay in the gradient", "norm of the weights", "mean train loss"), strict=True
    ):
        ax.set(xlabel="epoch", ylabel=label)
    axes[1].set_yscale("log")
    axes[2].legend(title="coupled decay", fontsize="small")
    return fig


def protocol_effects(evidence):
    """70 % sparse over dense, mean over the tasks, in each protocol and with each switch flipped; 95 % intervals."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.5), width_ratios=(3, 2))
    for ax, data, title in zip(axes, ALL, ("NYU-v2, three tasks", "CelebAMask-HQ, three tasks"), strict=True):
        table = protocols(evidence, data).dropna(subset="sparse over dense, %")[::-1]
        ax.set_title(title)
        if table.empty:
            ax.text(0.5, 0.5, NOT_RUN, ha="center", va="center", color=MUTED)
            ax.set_axis_off()
            continue
        means = table["sparse over dense, %"]
        ax.errorbar(
            means, range(len(means)), xerr=[means - table["95 % from"], table["to"] - means], fmt="o", capsize=3
        )
        ax.set_yticks(range(len(means)), means.index, fontsize="small")
        ax.axvline(0, color=MUTED, lw=1)
        ax.set_xlabel("sparse over dense, %")
    return fig


def lambda_by_width(evidence):
    """The lambda that 70 % of the groups took, by width of the backbone, a point a seed."""
    table = frame(evidence.records)
    fig, ax = plt.subplots(figsize=(5, 3.6))
    if len(table):
        chosen = table[(table.tasks == ALL_NYU) & (table.level == GOAL) & (table["count"] == "group")]
        chosen = chosen[(chosen.flipped == "") & (chosen.protocol == "paper")]
        ax.loglog(chosen.width, chosen.lam_held, "o", color=ALIVE)
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
    panels = {"unstructured (trained with l1)": loose, "blocks: whole kernels (cut by size)": block}
    panels["channel-wise (trained with the group lasso)"] = convs[name]
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


def gallery(images, truth, found, title=""):
    """Images, and truth beside prediction for each task, a row an image; as `run.predictions` returns them."""
    dense = [t for t in truth if truth[t].ndim > 1]
    size = (1.8 * (1 + 2 * len(dense)), 2 * len(images))
    fig, axes = plt.subplots(len(images), 1 + 2 * len(dense), figsize=size, squeeze=False)
    for row, line in enumerate(axes):
        line[0].imshow(images[row])
        words = [f"{t}: {'yes' if truth[t][row] else 'no'}, found {found[t][row]:.0%}" for t in truth if t not in dense]
        line[0].set_xlabel("\n".join(words), fontsize="x-small")
        line[0].set_title("" if row else "image", fontsize="small")
        for k, task in enumerate(dense):
            for ax, values, what in ((line[1 + 2 * k], truth, "truth"), (line[2 + 2 * k], found, "prediction")):
                _show(ax, task, values[task][row], truth[task][row])
                ax.set_title("" if row else f"{TASKS[task]}\n{what}", fontsize="small")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    fig.suptitle(title)
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
