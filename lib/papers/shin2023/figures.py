"""Figures of the EEG study, from records and tables alone; each function returns a matplotlib figure."""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from companion.statistics import chance_interval, estimate
from companion.style import HIGHLIGHT, INK, LINES, MUTED, TASK_COLOURS, empty_figure, label_ends, percent
from matplotlib.ticker import PercentFormatter
from papers.shin2023.claims import AT_40, LEVELS, MULTI, curves_of, of_kind
from papers.shin2023.study import CLASSICAL, EXACT, METHODS, PROBLEMS, PROPOSED, PUBLISHED, RIVALS, SPARSITIES, TASKS
from papers.shin2023.tables import KINDS, NAMES, VOTE_COLUMNS, cell, select, vote_frame


def accuracy_against_sparsity(records, problem):
    """Accuracy against realised sparsity, a panel a task: proposed with its 95 % interval, all rivals as one band."""
    table = select(records, problem)
    if table.realised_whole.isna().all():
        return empty_figure(PROBLEMS[problem])
    realised = table.groupby(["method", "sparsity"]).realised_whole.mean()
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.4), sharey=True)
    lines = [_panel(ax, table, realised, task) for ax, task in zip(axes, TASKS, strict=True)]
    for ax, labels in zip(axes, lines, strict=True):  # once both panels have their height
        label_ends(ax, labels)
    axes[0].set_ylabel("accuracy on unseen trials")
    return fig


def _panel(ax, table, realised, task):
    """Draw one task; returns the label of each line."""
    labels, x = {}, list(SPARSITIES)
    found = {m: [estimate(cell(table, task, m, s)) for s in x] for m in (*RIVALS, PROPOSED, EXACT)}
    rivals = pd.DataFrame({m: [e.mean for e in found[m]] for m in RIVALS}).agg(["min", "max"], axis=1)
    ax.fill_between(x, rivals["min"], rivals["max"], color=MUTED, alpha=0.25, lw=0)
    (line,) = ax.plot(x, rivals.mean(axis=1), color=MUTED, lw=0)
    labels[line] = f"{len(RIVALS)} other pruning methods"
    for method, colour, mark in ((PROPOSED, TASK_COLOURS[task], "o"), (EXACT, HIGHLIGHT, "s")):
        at = [realised.get((method, s), np.nan) if s else 0.0 for s in x]
        (line,) = ax.plot(at, [e.mean for e in found[method]], color=colour, marker=mark, lw=2.4, ms=6, zorder=3)
        labels[line] = METHODS[method].label
        if method == PROPOSED:
            ends = ([getattr(e, end) for e in found[method]] for end in ("low", "high"))
            ax.fill_between(at, *ends, color=colour, alpha=0.15, lw=0)
    levels = {METHODS[m].label: cell(table, task, m, 0.0).mean() for m in CLASSICAL}
    for (name, mean), style in zip((levels | {"chance": 1 / table.classes.iloc[0]}).items(), LINES[1:], strict=False):
        (line,) = ax.plot([0, x[-1]], [mean, mean], color=MUTED, ls=style, lw=1.2)
        labels[line] = name
    where = realised.get(AT_40, AT_40[1]), PUBLISHED[task, "accuracy"]
    ax.plot(*where, "d", ms=8, color=INK, mfc="none", zorder=4)
    ax.annotate("published", where, (7, 3), textcoords="offset points", fontsize=9)
    ax.set(title=TASKS[task], xlabel="realised sparsity")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return labels


def explore(records):
    """Interactive: mean accuracy of every method against realised sparsity, for a task and a problem to choose."""
    import altair

    table = select(records)
    if table.realised_whole.isna().all():
        return empty_figure("accuracy against sparsity")
    names, methods = ["problem", "task", "method"], [m for m in METHODS if METHODS[m].sparse or m == MULTI[0]]
    table = table[table.method.isin(methods)]
    cells = table.groupby([*names, "sparsity"])[["realised_whole", "accuracy"]].mean().reset_index()
    shown = cells[names].map(NAMES.get)
    shown = shown.assign(sparsity=cells.realised_whole.round(3), accuracy=cells.accuracy.round(4))
    chosen = [
        altair.param(name, value=options[0], bind=altair.binding_select(options=options, name=f"{name} "))
        for name, options in {"task": list(TASKS.values()), "problem": list(PROBLEMS.values())}.items()
    ]
    method = altair.selection_point(fields=["method"], bind="legend")
    return (
        altair.Chart(shown, width=560, height=330)
        .mark_line(point=True)
        .encode(
            x=altair.X("sparsity", title="realised sparsity").axis(format="%"),
            y=altair.Y("accuracy", title="accuracy on unseen trials").scale(zero=False),
            color=altair.Color("method", title="method (click)").scale(scheme="tableau20"),
            opacity=altair.when(method).then(altair.value(1)).otherwise(altair.value(0.12)),
            tooltip=["method", "sparsity", "accuracy"],
        )
        .transform_filter("datum.task == task && datum.problem == problem")
        .add_params(method, *chosen)
    )


def _scalp(ax, values, channels, **look):
    """Draw a scalp map of values by electrode."""
    import mne

    info = mne.create_info(list(channels), 100.0, "eeg")
    info.set_montage(mne.channels.make_standard_montage("colin27_1005"), match_case=False)
    return mne.viz.plot_topomap(values, info, axes=ax, show=False, contours=4, **look)[0]


def trial(data, task="me"):
    """First trial of (filtered) `MotorData` over the motor cortex; by class, how far each electrode's power is off."""
    trials = getattr(data, task)
    power = np.array([(trials.x[trials.y == k] ** 2).mean((0, 2)) for k in range(len(data.classes))])
    change = 100 * (power / power.mean(0) - 1)
    fig, (left, *maps) = plt.subplots(1, 1 + len(power), figsize=(10.5, 3), width_ratios=(2.2, *[1] * len(power)))
    shown, step = ("C4", "Cz", "C3"), 6 * trials.x[0].std()
    for k, name in enumerate(shown):
        signal = trials.x[0, data.channels.index(name)]
        left.plot(np.arange(len(signal)) / data.sfreq, signal + k * step, color=TASK_COLOURS[task], lw=1)
    left.set_yticks([k * step for k in range(len(shown))], shown)
    left.set(xlabel="seconds", title=f"one trial: {data.classes[trials.y[0]]}".replace("_", " "))
    for ax, values, name in zip(maps, change, data.classes, strict=True):
        image = _scalp(ax, values, data.channels, cmap="RdBu_r", vlim=(-abs(change).max(), abs(change).max()))
        ax.set_title(f"power: {name}".replace("_", " "))
    fig.colorbar(image, ax=maps, shrink=0.7, label="% off the mean")
    return fig


def people(records, problem):
    """Each person's accuracy by classical decoder, dense and proposed network, with the range of guessing."""
    table = select(records, problem)
    if table.empty:
        return empty_figure(PROBLEMS[problem])
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
    layers, colours = list(votes.layer.unique()), {"iou": TASK_COLOURS["both"], "half": HIGHLIGHT}
    means = votes.groupby("layer")[[*VOTE_COLUMNS, "mi", "me", "or"]].mean().loc[layers]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True)
    for (name, label), mark in zip(VOTE_COLUMNS.items(), "osDv^<>p", strict=True):
        look = {"color": colours.get(name, MUTED), "lw": 2.6 if name in colours else 1, "marker": mark}
        left.plot(range(len(layers)), means[name], ls=":" if name == "chance" else "-", label=label, **look)
    for name, colour, hatch, shift in (("mi", "mi", "", -0.27), ("me", "me", "//", 0), ("or", "both", "..", 0.27)):
        x = np.arange(len(layers)) + shift
        right.bar(x, means[name], 0.25, color=TASK_COLOURS[colour], hatch=hatch, ec="white", label=name.upper())
    for ax, what in ((left, "IoU of the kept weights"), (right, "share of weights kept")):
        ax.set(ylabel=what, ylim=(0, 1.02), xlim=(-0.5, len(layers) - 0.5))
        ax.set_xticks(range(len(layers)), layers)
    left.legend(fontsize="x-small", loc="lower left")
    right.legend(fontsize="x-small", loc="upper right", ncols=3)  # above the bars
    return fig


def scalp_maps(maps):
    """Scalp maps of `electrode_maps`: spatial weights that both, MI only and ME only keep; below, true sources."""
    if maps.empty:
        return empty_figure("scalp maps")
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
            image = _scalp(ax, values.to_numpy(), maps.index, **look)
            ax.set_title(name, fontsize="medium")
        fig.colorbar(image, ax=line, shrink=0.7, label=unit)
    return fig


def training_curves(records):
    """Cross-entropy on unseen trials against that on training trials, as training goes on (mean over runs)."""
    main = of_kind(records)
    runs = {at: curves_of(main, at).values() for at in (MULTI, *((PROPOSED, s) for s in LEVELS))}
    if not any(runs.values()):
        return empty_figure("training")
    fig, ax = plt.subplots(figsize=(6, 4))
    for ((method, sparsity), curves), style in zip(runs.items(), LINES, strict=True):
        if curves:
            train, test = (np.mean([curve[part] for curve in curves], axis=0) for part in ("train", "test"))
            ax.plot(train, test, ls=style, marker=".", label=f"{METHODS[method].label}, {percent(sparsity)}")
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
        ax.set_title(fill(name, 28), fontsize="small", loc="right")  # long labels leave little width on the right
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
    ax.scatter(rows[network], y, c=np.where(rows.index == "the recipe", HIGHLIGHT, TASK_COLOURS["mi"]), zorder=3)
    for name, line in zip((METHODS[method].label for method in CLASSICAL), LINES[1:], strict=False):
        if name in table:
            ax.axvline(table[name].max(), color=MUTED, ls=line, label=f"{name}, best")
    ax.axvline(0.5, color=MUTED, ls=":", label="chance")
    ax.set_yticks(y, rows.index, fontsize="x-small")
    ax.set(xlabel="accuracy on unseen trials, mean over people")
    ax.legend(fontsize="small", loc="lower left")
    return fig
