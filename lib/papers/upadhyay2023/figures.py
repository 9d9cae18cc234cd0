"""Figures of the vision study, from records, trained weights and predictions."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from companion.evidence import NOT_RUN
from companion.statistics import estimate
from companion.style import HIGHLIGHT, MUTED, TASK_COLOURS, empty_figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from papers.upadhyay2023.study import (
    ALL_NYU,
    FIG3_SETS,
    LAMBDAS,
    SPARSE,
    TASKS,
    published,
    scientific,
)
from papers.upadhyay2023.tables import SAVERS, SCORES, cell, frame, protocols, select, three_tasks
from sparsemtl.models.dense import DENSE_TASKS, backbone_convs
from sparsemtl.training.losses import VOID

DEAD, ALIVE = "#D9D9D9", "#0072B2"


def kinds_of_sparsity(dense, unstructured, grouped):
    """Fig. 1: one layer's weights, filters x input channels, each kernel a small square; zeros are grey.

    Networks trained without penalty, with l1 and with the group lasso. The block pattern is the dense network's layer
    with its smallest kernels set to zero, in the share that l1 zeroed of the weights: the paper trains no such network.
    """
    convs = {name: w for name, w in backbone_convs(grouped).items() if w.shape[-1] == 3 and w.shape[1] > 3}
    share = {name: (w == 0).float().mean().item() for name, w in convs.items()}
    name = min(share, key=lambda n: abs(share[n] - 0.5))
    block = backbone_convs(dense)[name].detach().clone()
    loose = backbone_convs(unstructured)[name].detach()
    norms = block.flatten(2).norm(dim=2)
    block[norms <= torch.quantile(norms, (loose == 0).float().mean())] = 0
    panels = {"unstructured (trained with l1)": loose, "blocks: whole kernels (cut by size)": block}
    panels["channel-wise (trained with the group lasso)"] = convs[name].detach()
    fig, axes = plt.subplots(1, 3, figsize=(11, 4.2), sharey=True)
    for ax, (kind, weight) in zip(axes, panels.items(), strict=True):
        weight = weight[:16, :16].cpu()
        filters, channels, k, _ = weight.shape
        picture = np.ma.masked_equal(weight.abs().permute(0, 2, 1, 3).reshape(filters * k, channels * k).numpy(), 0)
        ax.imshow(picture, cmap=plt.get_cmap("cividis").with_extremes(bad=DEAD), aspect="equal")
        ax.set(title=f"{kind}\n{(weight == 0).float().mean():.0%} zero", xlabel="input channel")
        for axis, count in ((ax.xaxis, channels), (ax.yaxis, filters)):
            axis.set_ticks(np.arange(1, count) * k - 0.5, labels=[])
        ax.grid(True, color="white", lw=0.8, alpha=1)
    axes[0].set_ylabel("filter")
    fig.suptitle(name.removesuffix(".weight"))
    return fig


def block_diagram():
    """Fig. 2: one shared backbone under the penalty, a head and a loss for each task, one weighted sum."""
    fig, ax = plt.subplots(figsize=(10.5, 3.8))
    ax.set(xlim=(0, 10.5), ylim=(0, 3.8))
    ax.axis("off")

    def box(x, y, w, h, text, colour):
        ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.06", fc=colour, ec="none", alpha=0.9))
        ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=9, color="black")

    def arrow(start, end, **style):
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=MUTED, **style))

    box(0.2, 1.5, 1.2, 0.8, "picture\n3 x H x W", "#CCCCCC")
    box(2.0, 1.1, 2.0, 1.6, "dilated ResNet\nshared by all tasks\n$\\theta_b$: groups are\ninput channels", "#9EC9E8")
    box(2.0, 0.1, 2.0, 0.5, "$\\lambda\\,\\sum_g \\sqrt{n_g}\\,\\|\\theta_g\\|_2$", "#F2C9DF")
    arrow((1.5, 1.9), (1.93, 1.9))
    arrow((3.0, 0.68), (3.0, 1.02))
    heads = {
        "segmentation\nDeepLab head": "cross entropy", "surface normals\nDeepLab head": "1 - cosine",
        "depth\nDeepLab head": "squared error", "male, smile\nconvolution, 2 linear": "binary cross entropy",
    }  # fmt: skip
    for y, (head, loss), task in zip(
        (3.0, 2.1, 1.2, 0.3), heads.items(), ("seg", "normal", "depth", "male"), strict=True
    ):
        box(5.0, y, 1.9, 0.6, head, TASK_COLOURS[task] + "88")
        box(7.4, y, 1.4, 0.6, loss, "#E6E6E6")
        arrow((4.08, 1.9), (4.93, y + 0.3))
        arrow((6.98, y + 0.3), (7.33, y + 0.3))
        arrow((8.88, y + 0.3), (9.25, 1.9))
    box(9.35, 1.5, 1.0, 0.8, "weighted\nsum", "#CCCCCC")
    return fig


def channels(evidence, protocol="paper"):
    """Fig. 3: input channels of every convolution of the backbone, before and after, a panel a task set."""
    table = select(frame(evidence.records), protocol)
    runs = {s: list(cell(table, s, SPARSE, "channels")) for s in FIG3_SETS}
    if not any(runs.values()):
        return empty_figure(f"Fig. 3, {evidence.origin}")
    fig, axes = plt.subplots(2, 2, figsize=(11, 6), sharex=True, sharey=True)
    for ax, (tasks, found) in zip(axes.flat, runs.items(), strict=True):
        ax.set_title(tasks if found else f"{tasks}: {NOT_RUN}", fontsize="medium")
        if not found:
            continue
        layers = list(found[0])
        counts = np.array([[run[layer] for layer in layers] for run in found], dtype=float).mean(0)
        x = np.arange(len(layers))
        ax.bar(x, counts[:, 1], width=1, color=DEAD, label="before")
        ax.bar(x, counts[:, 0], width=1, color=ALIVE, label="after (mean over seeds)")
        step = max(1, len(layers) // 8)
        ax.set_xticks(x[::step], [layers[i] for i in x[::step]], rotation=40, ha="right", fontsize="x-small")
    for ax in axes[:, 0]:
        ax.set_ylabel("input channels")
    drawn = next(ax for ax in axes.flat if ax.patches)
    fig.legend(*drawn.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    fig.suptitle(evidence.title)
    return fig


def _against_lambda(ax, table, column, **style):
    """Mean ± sd over seeds of a column at each lambda that was run; x are positions on the paper's grid."""
    found = {i: estimate(cell(table, ALL_NYU, lam, column).dropna()) for i, lam in enumerate(LAMBDAS)}
    found = {i: e for i, e in found.items() if e.n}
    spread = [e.sd if e.n > 1 else 0 for e in found.values()]
    ax.errorbar(list(found), [e.mean for e in found.values()], spread, capsize=3, marker="o", ms=5, **style)


def _lambda_axis(ax):
    ax.set_xticks(range(len(LAMBDAS)), map(scientific, LAMBDAS), rotation=40, ha="right")
    ax.set_xlabel("λ")


def _stars(ax, points, label="published"):
    ax.plot([LAMBDAS.index(lam) for lam in points], list(points.values()), "*", ms=13, color=HIGHLIGHT, label=label)


def _three_task_table(column):
    """{lambda: value} of a column of the published three-task rows of Table 1."""
    return {row["lambda"]: row[column] for row in published(1) if row["tasks"] == ALL_NYU}


def performance(evidence, protocol="paper"):
    """Fig. 4a: test metric of each task of the three-task model against lambda, with what a constant would get."""
    table = three_tasks(evidence, protocol)
    if table.empty:
        return empty_figure(f"Fig. 4a, {evidence.origin}")
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.8))
    for ax, task in zip(axes, ALL_NYU.split("+"), strict=True):
        column, label, _ = SCORES[task]
        _against_lambda(ax, table, column, color=TASK_COLOURS[task], label="ours")
        _stars(ax, _three_task_table(f"{column}_mean"))
        ax.axhline(table[f"constant_{column}"].mean(), color=MUTED, ls=":", label="constant predictor")
        ax.set(title=TASKS[task], ylabel=label)
        _lambda_axis(ax)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    fig.suptitle(evidence.title)
    return fig


def sparsity(evidence, protocol="paper"):
    """Fig. 4b: share of zero groups, and of weights in them, of the three-task model against lambda."""
    table = three_tasks(evidence, protocol)
    if table.empty:
        return empty_figure(f"Fig. 4b, {evidence.origin}")
    fig, ax = plt.subplots(figsize=(6.5, 4))
    for column, label, look in (
        ("group", "groups", {"color": "#0072B2"}),
        ("parameter", "weights in zero groups", {"color": "#D55E00", "ls": "--"}),
    ):
        _against_lambda(ax, table.assign(**{column: 100 * table[column]}), column, label=label, **look)
    told = {row["lambda"]: row["value"] for row in published("text") if row["figure"] == "4b"}
    _stars(ax, told | _three_task_table("group_sparsity_pct"), "groups, published")
    ax.set(ylabel="zero, %", ylim=(-3, 105), title=evidence.title)
    _lambda_axis(ax)
    ax.legend()
    return fig


def sparsity_by_epoch(evidence, protocol="paper"):
    """Fig. 4c: share of zero groups after each epoch of the three-task model, a line a lambda (mean over seeds)."""
    table, (fig, ax) = three_tasks(evidence, protocol), plt.subplots(figsize=(6.5, 4))
    colours = plt.get_cmap("cividis")(np.linspace(0, 0.95, len(LAMBDAS)))
    for lam, colour, marker in zip(LAMBDAS, colours, "osDv^<>", strict=True):
        runs = list(cell(table, ALL_NYU, lam, "by_epoch"))
        if runs:  # early stopping gives lines of different length: the mean ends with the shortest
            line = 100 * np.mean([run[: min(map(len, runs))] for run in runs], axis=0)
            look = {"color": colour, "marker": marker, "markevery": 0.1, "ms": 5}
            ax.plot(range(1, len(line) + 1), line, **look, label=f"λ = {scientific(lam)}")
    if not ax.lines:
        plt.close(fig)
        return empty_figure(f"Fig. 4c, {evidence.origin}")
    ax.set(xlabel="epoch", ylabel="groups zero, %", ylim=(-3, 105), title=evidence.title)
    ax.legend(fontsize="small")
    return fig


def inference_time(evidence, protocol="paper"):
    """Fig. 4d: time of the backbone against lambda, on its zeros (as published) and compacted, over a dense twin's."""
    table = three_tasks(evidence, protocol)
    if table.empty or "dense_ms" not in table:
        return empty_figure(f"Fig. 4d, {evidence.origin}")
    table, (fig, ax) = table.copy(), plt.subplots(figsize=(6.5, 4))
    looks = ({"color": MUTED}, {"color": "#0072B2", "ls": "--"})
    for (name, label), look in zip(SAVERS.items(), looks, strict=True):
        table[name] = 100 * (1 - table[f"{name}_saved"])
        _against_lambda(ax, table, name, label=label, **look)
    ax.axhline(100, color=MUTED, ls=":", lw=1, label="dense")
    ax.set(ylabel="time of the backbone, % of dense", title=evidence.title, ylim=(0, None))
    _lambda_axis(ax)
    ax.legend()
    return fig


def protocol_effects(evidence):
    """Sparse over dense, mean relative improvement over the tasks, in each protocol and with each switch flipped."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 5.5), width_ratios=(3, 2))
    for ax, data, title in zip(axes, ("nyuv2", "celebamask"), ("NYU-v2, three tasks", "CelebAMask-HQ"), strict=True):
        gains = protocols(evidence, data)["sparse over dense", "%"].dropna()[::-1]
        ax.set_title(title)
        if gains.empty:
            ax.text(0.5, 0.5, NOT_RUN, ha="center", va="center", color=MUTED)
            ax.set_axis_off()
            continue
        ax.barh(range(len(gains)), gains, color=[HIGHLIGHT if "," not in n else "#0072B2" for n in gains.index])
        ax.set_yticks(range(len(gains)), gains.index, fontsize="small")
        ax.axvline(0, color=MUTED, lw=1)
        ax.set_xlabel("λ = 1e-5 over λ = 0, %")
    fig.suptitle(evidence.title)
    return fig


def gallery(images, truth, found, title=""):
    """Pictures, and truth beside prediction for each task: a row a picture; yes-or-no tasks stand in words.

    Arguments as `papers.upadhyay2023.run.predictions` returns them.
    """
    dense = [t for t in truth if t in DENSE_TASKS]
    fig, axes = plt.subplots(
        len(images), 1 + 2 * len(dense), figsize=(1.8 * (1 + 2 * len(dense)), 2 * len(images)), squeeze=False
    )
    for row, line in enumerate(axes):
        line[0].imshow(images[row].permute(1, 2, 0).numpy())
        words = [
            f"{t}: {'yes' if truth[t][row] else 'no'}, said {found[t][row].sigmoid():.0%}"
            for t in truth
            if t not in dense
        ]
        line[0].set_xlabel("\n".join(words), fontsize="x-small")
        line[0].set_title("picture" if row == 0 else "", fontsize="small")
        for k, task in enumerate(dense):
            for ax, values, what in ((line[1 + 2 * k], truth, "truth"), (line[2 + 2 * k], found, "prediction")):
                _show(ax, task, values[task][row], truth[task][row])
                ax.set_title(f"{TASKS[task]}\n{what}" if row == 0 else "", fontsize="small")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    fig.suptitle(title)
    return fig


def _show(ax, task, values, truth):
    """One map: classes in colours (no label: white), normals as colours of their axes, depth on the truth's scale."""
    if task == "seg":
        classes = np.ma.masked_equal(values.numpy(), VOID)
        ax.imshow(classes % 20, cmap="tab20", vmin=0, vmax=19, interpolation="nearest")
    elif task == "normal":
        unit = torch.nn.functional.normalize(values.float(), dim=0)
        ax.imshow((0.5 - 0.5 * unit).permute(1, 2, 0).clamp(0, 1).numpy())
    else:
        ax.imshow(values[0].numpy(), cmap="viridis", vmin=0, vmax=float(truth.max()))
