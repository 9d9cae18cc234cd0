"""Figures and sentences of the page on real time, from a replayed recording and the committed latencies."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from companion.evidence import NOT_RUN
from companion.style import LINES, MUTED, are, percent
from streaming import SETTINGS

END = SETTINGS["tmax"]  # seconds after a cue: the end of the window trained on


RUNTIMES = ("torch", "ONNX Runtime")


def sizes(records):
    """Weights, those that are not zero, and operations of each network of the latency benchmark (DataFrame)."""
    networks = records[0].details["networks"] if records else {}
    rows = {(case, name): facts for case, kinds in networks.items() for name, facts in kinds.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["network", "kind"]) if rows else table


def removed(records):
    """Which share of their groups the compacted networks have lost, in a sentence."""
    lost = sizes(records).get("zero groups", pd.Series(dtype=float)).dropna()
    if lost.empty:
        return f"Groups lost: {NOT_RUN}."
    spans = [
        f"{kind}: {percent(own.min(), 1)} to {percent(own.max(), 1)} of the groups"
        for kind, own in lost.groupby(level="kind")
    ]
    return f"Lost by {'; by '.join(spans)}."


def masks_against_removal(records):
    """How long a decision takes with masks, and without dead channels, as a share of the dense network's, in words."""
    if not records:
        return f"One decision: {NOT_RUN}."
    record, taken = records[0], {"masks": {}, "compacted": {}}
    for case, kinds in record.details["networks"].items():
        for name, runtime in product(kinds, RUNTIMES):
            kind = name.partition(" ")[0]
            if kind in taken:
                share = record.median(f"{case}, {name}, {runtime}") / record.median(f"{case}, dense, {runtime}")
                taken[kind][f"{case}, {name}, {runtime}"] = share
    masks, removed = (pd.Series(taken[kind]) for kind in taken)
    return (
        f"A decision takes {masks.min():.2f} to {masks.max():.2f} of the dense network's time with masks, and "
        f"{removed.min():.2f} to {removed.max():.2f} of it without dead channels (least: {removed.idxmin()})."
    )


def decisions_figure(decisions, cues):
    """Probability of each class over the recording's time, with the cues, and how long each decision took."""
    classes = [c for c in decisions if c not in ("time_s", "compute_ms", "late_ms", "late")]
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, height_ratios=(3, 1.4))
    for name, colour, style in zip(classes, plt.rcParams["axes.prop_cycle"].by_key()["color"], LINES, strict=False):
        top.plot(decisions.time_s, decisions[name], color=colour, ls=style, label=name.replace("_", " "))
        for at in (at for at, label in cues if label == name):
            top.axvline(at, color=colour, ls=style, lw=1)
            top.axvspan(at + END - 0.25, at + END + 0.25, color=colour, alpha=0.15, lw=0)
    top.set(ylabel="probability", ylim=(-0.02, 1.02), xlim=(decisions.time_s.min(), decisions.time_s.max()))
    top.legend(loc="upper left", bbox_to_anchor=(1, 1))
    bottom.plot(decisions.time_s, decisions.compute_ms, ".", color=MUTED, label="to compute")
    if decisions.late_ms.notna().any():
        bottom.plot(decisions.time_s, decisions.late_ms, "x", color="#0072B2", ms=4, label="after the sample")
    bottom.set(yscale="log", xlabel="seconds of the recording", ylabel="milliseconds")
    bottom.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def kept_pace(decisions, every):
    """Whether the stream kept its pace, in a sentence."""
    compute, late = np.percentile(decisions.compute_ms, [50, 99]), int(decisions.late.sum())
    share = percent(compute[0] / every / 1000, 1)
    return (
        f"{len(decisions)} decisions, one in {1000 * every:.0f} ms: {late} came after the next was due. A decision "
        f"took {compute[0]:.1f} ms (median; 99 % within {compute[1]:.1f} ms), {share} of the time between two."
    )


def said_after_cues(decisions, cues):
    """How often the decision on the whole window after a cue names the cue's class, in a sentence."""
    ends = [(at + END, label) for at, label in cues if at + END <= decisions.time_s.max()]
    classes = [c for c in decisions if c not in ("time_s", "compute_ms", "late_ms", "late")]
    hits = 0
    for end, label in ends:
        row = decisions.iloc[(decisions.time_s - end).abs().argmin()]
        hits += max(classes, key=lambda name: row[name]) == label
    return (
        f"{hits} of {len(ends)} movements {are(hits)} named at the end of the window after the cue; "
        f"guessing names {len(ends) / len(classes):g} of them on average. So few say nothing about accuracy: that is "
        "what the tables are for."
    )
