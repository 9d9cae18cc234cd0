"""Figures of the EEG study, from records and tables alone; each function returns a matplotlib figure."""

import matplotlib.pyplot as plt
import numpy as np
from companion.statistics import chance_interval, estimate
from companion.style import HIGHLIGHT, LINES, MUTED, TASK_COLOURS, empty_figure, method_style, percent
from matplotlib.ticker import PercentFormatter
from papers.shin2023.claims import AT_40, LEVELS, MULTI, of_kind
from papers.shin2023.study import CLASSICAL, METHODS, PROBLEMS, PROPOSED, PUBLISHED, SPARSITIES, TASKS
from papers.shin2023.tables import KINDS, VOTE_COLUMNS, cell, select, vote_frame


def accuracy_against_sparsity(records, problem):
    """Accuracy of every method against realised sparsity, a panel a task; the proposed one with its 95 % interval."""
    table = select(records, problem)
    if "realised_whole" not in table:
        return empty_figure(PROBLEMS.get(problem, problem))
    sparse = [m for m, info in METHODS.items() if info.sparse]
    styles, realised = method_style(sparse, (PROPOSED,)), table.groupby(["method", "sparsity"]).realised_whole.mean()
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), sharey=True)
    for ax, task in zip(axes, TASKS, strict=True):
        for method in sparse:
            found = [estimate(cell(table, task, method, s)) for s in SPARSITIES]
            x = [realised.get((method, s), np.nan) if s else 0.0 for s in SPARSITIES]
            ax.plot(x, [e.mean for e in found], label=METHODS[method].label, **styles[method])
            if method == PROPOSED:
                ends = ([getattr(e, end) for e in found] for end in ("low", "high"))
                ax.fill_between(x, *ends, color=styles[method]["color"], alpha=0.15, lw=0)
        for method, line in zip(CLASSICAL, LINES[1:], strict=False):
            mean = cell(table, task, method, 0.0).mean()
            ax.axhline(mean, color=MUTED, ls=line, lw=1.2, label=METHODS[method].label)
        ax.axhline(1 / table.classes.iloc[0], color=MUTED, ls=":", lw=1.2, label="chance")
        where = realised.get(AT_40, AT_40[1])
        ax.plot(where, PUBLISHED[task, "accuracy"], "*", ms=14, color=HIGHLIGHT, label="published", zorder=4)
        ax.set(title=TASKS[task], xlabel="realised sparsity")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set_ylabel("accuracy on unseen trials")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    return fig


def people(records, problem):
    """Each person's accuracy by classical decoder, dense and proposed network, with the range of guessing."""
    table = select(records, problem)
    if table.empty:
        return empty_figure(PROBLEMS.get(problem, problem))
    shown = {(CLASSICAL[-1], 0.0): "s", MULTI: "o", AT_40: "^"}
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4), sharey=True)
    for ax, task in zip(axes, TASKS, strict=True):
        own = table[table.task == task].groupby("person")[["trials", "classes", "commonest"]].first()
        ends = [chance_interval(int(r.trials), int(r.classes), r.commonest) for r in own.itertuples()]
        x, (low, high) = np.arange(len(own)), zip(*ends, strict=True)
        ax.bar(x, np.subtract(high, low), 0.8, low, color=MUTED, alpha=0.2, label="guessing, 95 %")
        for shift, ((method, sparsity), mark) in zip((-0.2, 0, 0.2), shown.items(), strict=True):
            values = cell(table, task, method, sparsity).reindex(own.index)
            name = METHODS[method].label + (f", {percent(sparsity)}" if sparsity else "")
            colour = MUTED if method in CLASSICAL else TASK_COLOURS[task]
            face = "none" if (method, sparsity) == MULTI else colour
            ax.plot(x + shift, values, mark, ms=7, color=colour, mfc=face, label=name)
        ax.set_title(TASKS[task])
        ax.set_xticks(x, [f"S{person:03d}\n{n} trials" for person, n in own.trials.items()], fontsize="small")
        ax.legend(fontsize="small")
    axes[0].set_ylabel("accuracy on unseen trials")
    return fig


def vote_agreement(records):
    """IoU of the two tasks' votes in each shared layer beside its nulls, and the share that each vote keeps."""
    votes = vote_frame(records)
    if votes.empty:
        return empty_figure("votes")
    layers, styles = list(votes.layer.unique()), method_style(VOTE_COLUMNS, ("iou", "half"))
    means = votes.groupby("layer")[[*VOTE_COLUMNS, "mi", "me", "or"]].mean().loc[layers]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True)
    for name, label in VOTE_COLUMNS.items():
        left.plot(range(len(layers)), means[name], ls=":" if name == "chance" else "-", label=label, **styles[name])
    for name, colour, hatch, shift in (("mi", "mi", "", -0.27), ("me", "me", "//", 0), ("or", "both", "..", 0.27)):
        x = np.arange(len(layers)) + shift
        right.bar(x, means[name], 0.25, color=TASK_COLOURS[colour], hatch=hatch, ec="white", label=name.upper())
    for ax, what in ((left, "IoU of the kept weights"), (right, "share of weights kept")):
        ax.set(ylabel=what, ylim=(0, 1.02), xlim=(-0.5, len(layers) - 0.5))
        ax.set_xticks(range(len(layers)), layers)
        ax.legend(fontsize="x-small", loc="lower left")
    return fig


def scalp_maps(maps):
    """Scalp maps of `electrode_maps`: spatial weights that both, MI only and ME only keep; below, true sources."""
    import mne

    if maps.empty:
        return empty_figure("scalp maps")
    info = mne.create_info(list(maps.index), 100.0, "eeg")
    info.set_montage(mne.channels.make_standard_montage("colin27_1005"), match_case=False)
    kept = {name: maps[kind] / (maps[kind].mean() or 1) for kind, name in KINDS.items()}
    span = max(abs(values - 1).max() for values in kept.values()) or 1
    rows = [(kept, {"cmap": "RdBu_r", "vlim": (1 - span, 1 + span)}, "relative to the mean electrode")]
    if "true_common" in maps:
        names = {"common": "sources common to both", "mi": "sources of MI only", "me": "sources of ME only"}
        sources = {name: maps[f"true_{s}"] / (maps[f"true_{s}"].max() or 1) for s, name in names.items()}
        rows.append((sources, {"cmap": "Reds", "vlim": (0, 1)}, "relative to the largest"))
    fig, axes = plt.subplots(len(rows), len(KINDS), figsize=(9, 3.1 * len(rows)), squeeze=False)
    for line, (panels, look, unit) in zip(axes, rows, strict=True):
        for ax, (name, values) in zip(line, panels.items(), strict=True):
            image, _ = mne.viz.plot_topomap(values.to_numpy(), info, axes=ax, show=False, contours=4, **look)
            ax.set_title(name, fontsize="medium")
        fig.colorbar(image, ax=line, shrink=0.7, label=unit)
    return fig


def training_curves(records):
    """Cross-entropy on unseen trials against that on training trials, as training goes on (mean over runs)."""
    fig, ax = plt.subplots(figsize=(6, 4))
    for cell_, style in zip((MULTI, *((PROPOSED, s) for s in LEVELS)), LINES, strict=True):
        runs = [
            r.result["curve"] for r in of_kind(records)
            if (r.spec.method, r.spec.params["sparsity"]) == cell_ and r.spec.params["labels"] == "true"
        ]  # fmt: skip
        if runs:
            train, test = (np.mean([run[part] for run in runs], axis=0) for part in ("train", "test"))
            ax.plot(train, test, ls=style, marker=".", label=f"{METHODS[cell_[0]].label}, {percent(cell_[1])}")
    if not ax.lines:
        plt.close(fig)
        return empty_figure("training")
    ax.invert_xaxis()
    ax.axhline(np.log(2), color=MUTED, ls=":", lw=1, label="chance, two classes")
    ax.set(xlabel="training loss (falls to the right)", ylabel="loss on unseen trials")
    ax.legend(fontsize="small")
    return fig


def effects(table):
    """Effects of a table with two index levels as points with intervals, a panel for each name of the first level."""
    if table.empty:
        return empty_figure("effects")
    names = table.index.unique(0)
    lines = -(-len(names) // 3)
    fig, axes = plt.subplots(lines, 3, figsize=(10.5, 2.4 * lines), squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        rows = table.loc[name]
        y = np.arange(len(rows))[::-1]
        ax.hlines(y, rows["95 % from"], rows["to"], color=TASK_COLOURS["both"], lw=2)
        ax.plot(rows.effect, y, "o", color=TASK_COLOURS["both"])
        ax.axvline(0, color=MUTED, lw=1)
        ax.set_yticks(y, rows.index, fontsize="small")
        ax.set_title(name, fontsize="small")
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    fig.supxlabel("points, with 95 % interval", fontsize="small")
    return fig


def development(table):
    """Accuracy of every setting tried on the development people, beside the best of each classical decoder."""
    network = METHODS["dense-single"].label
    if network not in table:
        return empty_figure("development")
    rows = table.dropna(subset=[network])
    fig, ax = plt.subplots(figsize=(10.5, 0.2 * len(rows) + 1.4))
    y = np.arange(len(rows))[::-1]
    ax.scatter(
        rows[network], y, c=[HIGHLIGHT if n == "the recipe" else TASK_COLOURS["mi"] for n in rows.index], zorder=3
    )
    for method, line in zip(CLASSICAL, LINES[1:], strict=False):
        if METHODS[method].label in table:
            best = table[METHODS[method].label].max()
            ax.axvline(best, color=MUTED, ls=line, label=f"{METHODS[method].label}, best")
    ax.axvline(0.5, color=MUTED, ls=":", label="chance")
    ax.set_yticks(y, rows.index, fontsize="x-small")
    ax.set(xlabel="accuracy on unseen trials, mean over people")
    ax.legend(fontsize="small", loc="lower left")
    return fig
