"""Figures of the EEG study, from records alone; each function returns a matplotlib figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from companion.statistics import NOT_RUN, chance_interval, estimate
from companion.style import HIGHLIGHT, LINES, MUTED, TASK_COLOURS, empty_figure, method_style
from matplotlib.ticker import PercentFormatter
from papers.shin2023.study import (
    BACKBONES,
    CLAIMS,
    METHODS,
    PROBLEMS,
    PROPOSED,
    PUBLISHED,
    PUBLISHED_SPARSITY,
    SPARSITIES,
    TASKS,
)
from papers.shin2023.tables import (
    KINDS,
    SOURCES,
    VOTE_COLUMNS,
    accuracy_by_subject,
    cell,
    electrode_maps,
    frame,
    per_subject,
    select,
    vote_frame,
)


def accuracy_against_sparsity(records, problem, title=""):
    """Accuracy of every method against nominal sparsity, a panel a task; the proposed one with its 95 % interval."""
    table = select(frame(records), problem)
    if table.empty:
        return empty_figure(PROBLEMS.get(problem, problem))
    values, classes = per_subject(table), table.classes.iloc[0]
    sparse = [m for m, info in METHODS.items() if info.sparse]
    styles = method_style(sparse, (PROPOSED,))
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), sharey=True)
    for ax, task in zip(axes, TASKS, strict=True):
        for method in sparse:
            found = [estimate(cell(values, task, method, s)) for s in SPARSITIES]
            ax.plot(SPARSITIES, [e.mean for e in found], label=METHODS[method].label, **styles[method])
            if method == PROPOSED:
                low, high = ([getattr(e, end) for e in found] for end in ("low", "high"))
                ax.fill_between(SPARSITIES, low, high, color=styles[method]["color"], alpha=0.15, lw=0)
        classical = estimate(cell(values, task, "csp-lda", 0.0))
        ax.axhline(classical.mean, color=MUTED, ls="-.", lw=1.2, label=METHODS["csp-lda"].label)
        ax.axhline(1 / classes, color=MUTED, ls=":", lw=1.2, label="chance")
        ax.plot(
            PUBLISHED_SPARSITY, PUBLISHED[task, "accuracy"], "*", ms=14, color=HIGHLIGHT, label="published", zorder=4
        )
        ax.set(title=TASKS[task], xlabel="nominal sparsity", xticks=SPARSITIES)
        ax.set_ylim(max(0, ax.get_ylim()[0]), min(1, ax.get_ylim()[1]))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set_ylabel("accuracy on unseen trials")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    fig.suptitle(title)
    return fig


def variation_over_subjects(records, problem, title=""):
    """Each subject's accuracy, dense against proposed at 40 %, with the range that guessing gives."""
    table = select(frame(records), problem)
    if table.empty:
        return empty_figure(PROBLEMS.get(problem, problem))
    values, classes = per_subject(table), table.classes.iloc[0]
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4), sharey=True)
    for ax, task in zip(axes, TASKS, strict=True):
        people = table[table.task == task].groupby("subject")[["trials", "commonest"]].first()
        trials = people.trials
        for x, (subject, n, commonest) in enumerate(people.itertuples()):
            low, high = chance_interval(n, classes, commonest)
            ax.fill_between(
                [x - 0.4, x + 0.4], low, high, color=MUTED, alpha=0.2, lw=0, label="guessing, 95 %" if x == 0 else None
            )
            dense = cell(values, task, "dense-multi", 0.0).get(subject, np.nan)
            sparse = cell(values, task, PROPOSED, PUBLISHED_SPARSITY).get(subject, np.nan)
            ax.plot([x, x], [dense, sparse], color=TASK_COLOURS[task], lw=1)
            ax.plot(
                x, dense, "o", mfc="none", mec=TASK_COLOURS[task], ms=8, label="dense, multi-task" if x == 0 else None
            )
            ax.plot(x, sparse, "o", color=TASK_COLOURS[task], ms=8, label="proposed, 40 %" if x == 0 else None)
        ax.axhline(1 / classes, color=MUTED, ls=":", lw=1.2)
        labels = [f"S{subject:03d}\n{n} trials" for subject, n in trials.items()]
        ax.set(title=TASKS[task], xticks=range(len(trials)))
        ax.set_xticklabels(labels, fontsize="small")
        ax.legend(fontsize="small")
    axes[0].set_ylabel("accuracy on unseen trials")
    fig.suptitle(title)
    return fig


def all_methods_by_subject(records, problem, title=""):
    """Heat map of accuracy, method by subject, at 40 % (dense methods at 0), a panel a task."""
    table = accuracy_by_subject(records, problem)
    if table.empty:
        return empty_figure(PROBLEMS.get(problem, problem))
    classes = next(len(r.result["data"]["classes"]) for r in records if r.spec.params["problem"] == problem)
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 5), sharey=True)
    for ax, task in zip(axes, TASKS.values(), strict=True):
        grid = table.loc[task]
        image = ax.imshow(grid, cmap="cividis", vmin=1 / classes - 0.1, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(grid.to_numpy()):
            ink, said = "black" if value > 0.7 else "white", f"{value:.2f}" if np.isfinite(value) else NOT_RUN
            ax.text(j, i, said, ha="center", va="center", fontsize=8, color=ink)
        ax.set(title=task, xticks=range(grid.shape[1]), yticks=range(len(grid)))
        ax.set_xticklabels(grid.columns)
        ax.set_yticklabels(grid.index)
        ax.grid(False)
    fig.colorbar(image, ax=axes, label="accuracy")
    fig.suptitle(title)
    return fig


def vote_agreement(records, title=""):
    """IoU of the two tasks' votes in each shared layer, beside its nulls, a panel a sparsity."""
    votes = vote_frame(records)
    if votes.empty:
        return empty_figure("votes")
    layers = list(votes.layer.unique())
    sparsities = sorted(votes.sparsity.unique())
    fig, axes = plt.subplots(1, len(sparsities), figsize=(3.6 * len(sparsities), 4.2), sharey=True, squeeze=False)
    styles = method_style(VOTE_COLUMNS, ("iou", "half"))
    for ax, sparsity in zip(axes[0], sparsities, strict=True):
        chosen = votes[votes.sparsity == sparsity].groupby("layer")[list(VOTE_COLUMNS)].mean().loc[layers]
        for name, label in VOTE_COLUMNS.items():
            line = ":" if name == "chance" else "-"
            ax.plot(range(len(layers)), chosen[name], ls=line, label=label, **styles[name])
        ax.set(title=f"each vote prunes {sparsity:.0%}", xticks=range(len(layers)), ylim=(0, 1.02))
        ax.set_xticklabels(layers, rotation=30, ha="right")
    axes[0][0].set_ylabel("IoU of the kept weights")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    fig.suptitle(title)
    return fig


def densities(records, title=""):
    """Share of weights that MI, ME and their OR keep in each shared layer, a panel a sparsity."""
    votes = vote_frame(records)
    if votes.empty:
        return empty_figure("votes")
    layers, sparsities = list(votes.layer.unique()), sorted(votes.sparsity.unique())
    fig, axes = plt.subplots(1, len(sparsities), figsize=(3.6 * len(sparsities), 3.8), sharey=True, squeeze=False)
    for ax, sparsity in zip(axes[0], sparsities, strict=True):
        chosen = votes[votes.sparsity == sparsity].groupby("layer")[["mi", "me", "or"]].mean().loc[layers]
        bars = zip(("mi", "me", "or"), ("mi", "me", "both"), ("", "//", ".."), (-0.27, 0, 0.27), strict=True)
        for name, colour, hatch, shift in bars:
            x = np.arange(len(layers)) + shift
            ax.bar(x, chosen[name], 0.25, color=TASK_COLOURS[colour], hatch=hatch, ec="white", label=name.upper())
        ax.axhline(1 - sparsity, color=MUTED, ls=":", lw=1.2, label="each vote, over all layers")
        ax.set(title=f"each vote prunes {sparsity:.0%}", xticks=range(len(layers)), ylim=(0, 1.02))
        ax.set_xticklabels(layers, rotation=30, ha="right")
    axes[0][0].set_ylabel("share of weights kept")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    fig.suptitle(title)
    return fig


def scalp_maps(records, title="", truth=False):
    """Scalp maps of the spatial weights that both, MI only and ME only keep; with `truth`, the true sources below.

    A map of weights shows each electrode relative to the mean electrode; one of sources, relative to the largest.
    """
    import mne

    maps = electrode_maps(records, truth)
    if maps.empty:
        return empty_figure("scalp maps")
    info = mne.create_info(list(maps.index), 100.0, "eeg")
    info.set_montage(mne.channels.make_standard_montage("colin27_1005"), match_case=False)
    kept = {name: maps[kind] / (maps[kind].mean() or 1) for kind, name in KINDS.items()}
    span = max(abs(values - 1).max() for values in kept.values()) or 1
    rows = [(kept, {"cmap": "RdBu_r", "vlim": (1 - span, 1 + span)}, "relative to the mean electrode")]
    if truth:
        sources = {name: maps[f"true_{s}"] / maps[f"true_{s}"].max() for s, name in SOURCES.items()}
        rows.append((sources, {"cmap": "Reds", "vlim": (0, 1)}, "relative to the largest"))
    fig, axes = plt.subplots(len(rows), len(KINDS), figsize=(9, 3.1 * len(rows)), squeeze=False)
    for line, (panels, look, unit) in zip(axes, rows, strict=True):
        for ax, (name, values) in zip(line, panels.items(), strict=True):
            image, _ = mne.viz.plot_topomap(values.to_numpy(), info, axes=ax, show=False, contours=4, **look)
            ax.set_title(name, fontsize="medium")
        fig.colorbar(image, ax=line, shrink=0.7, label=unit)
    fig.suptitle(title)
    return fig


def training_history(records, problem, title=""):
    """Training loss by epoch, mean over runs, of the dense and the proposed network."""
    fig, ax = plt.subplots(figsize=(6, 3.6))
    shown = (("dense-multi", 0.0), *((PROPOSED, s) for s in SPARSITIES[1:]))
    for (method, sparsity), style in zip(shown, LINES, strict=True):
        runs = [
            r.result["history"]
            for r in records
            if (r.spec.method, r.spec.params["sparsity"]) == (method, sparsity)
            and r.spec.params["problem"] == problem and r.spec.params["labels"] == "true"
        ]  # fmt: skip
        if runs:
            ax.plot(np.mean(runs, axis=0), ls=style, label=f"{METHODS[method].label}, {sparsity:.0%}")
    if not ax.lines:
        plt.close(fig)
        return empty_figure("training")
    ax.set(xlabel="epoch", ylabel="training loss (sum of both tasks)", title=title)
    ax.legend(fontsize="small")
    return fig


def backbone_effects(table, problem, title=""):
    """Effect of each claim with its 95 % interval, a mark for each backbone. table: of `report.backbone_claims`."""
    rows = table[table.index.get_level_values("problem") == problem].droplevel("problem") if len(table) else table
    known = [c for c in CLAIMS if len(rows) and rows.effect.get(c.id, pd.Series(dtype=float)).notna().any()]
    if not known:
        return empty_figure(PROBLEMS.get(problem, problem))
    styles = method_style(BACKBONES.values(), ())
    fig, ax = plt.subplots(figsize=(10.5, 0.75 * len(known) + 1.4))
    for y, claim in enumerate(known):
        for shift, (name, look) in zip((-0.22, 0, 0.22), styles.items(), strict=True):
            if (claim.id, name) in rows.index:
                row = rows.loc[(claim.id, name)]
                ax.plot([100 * row.low, 100 * row.high], [y + shift] * 2, color=look["color"], lw=2)
                ax.plot(100 * row.effect, y + shift, look["marker"], ms=8, color=look["color"])
    for name, look in styles.items():
        ax.plot([], [], look["marker"], color=look["color"], label=name)
    ax.axvline(0, color=MUTED, lw=1)
    ax.set_yticks(range(len(known)), [claim.short for claim in known])
    ax.set(xlabel="points of accuracy (right of zero: as claimed)", ylim=(len(known) - 0.4, -0.6), title=title)
    fig.legend(loc="outside lower center", ncols=len(BACKBONES), fontsize="small")
    return fig
