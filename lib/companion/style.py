"""One visual language for both papers: a colour for each task and method, safe for colour-blind readers."""

import math

import matplotlib.pyplot as plt
import seaborn as sns

from companion.statistics import NOT_RUN

# Okabe and Ito's palette and what lies between its colours; one task, one colour, on every page
TASK_COLOURS = {
    "mi": "#0072B2", "me": "#D55E00", "both": "#009E73",
    "seg": "#56B4E9", "normal": "#E69F00", "depth": "#7B3294", "male": "#5A7D00", "smile": "#A6611A",
}  # fmt: skip
HIGHLIGHT, MUTED = "#CC79A7", "#8A8A8A"
LINES = ("-", "--", "-.", ":")  # for those who see no colour
VERDICT_STYLE = {  # colour and marker
    "reproduced": ("#009E73", "^"), "not reproduced": ("#D55E00", "v"), "inconclusive": ("#8A8A8A", "o"),
    NOT_RUN: ("#8A8A8A", ""),
}  # fmt: skip


def use_style():
    """Set the look of every figure of the book: transparent ground, so that light and dark pages both work."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind")
    plt.rcParams.update(
        {"figure.dpi": 110, "savefig.bbox": "tight", "figure.constrained_layout.use": True, "axes.grid": True,
         "axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.3, "legend.frameon": False}
    )  # fmt: skip


def method_style(methods, highlight):
    """Line style by method (dict of keyword arguments): the highlighted ones thick, all told apart by marker too."""
    colours = [*sns.color_palette("colorblind", 10).as_hex(), "#000000", "#5D3A9B", "#4D4D4D", "#B8860B"]
    markers = "osDv^<>pPX*hd8"
    return {
        method: {"color": colour, "marker": marker, "lw": 2.8, "ms": 7, "zorder": 3}
        if method in highlight
        else {"color": colour, "marker": marker, "lw": 1.1, "ms": 4, "zorder": 2}
        for method, colour, marker in zip(methods, colours, markers, strict=False)
    }


def percent(share, digits=0):
    """A share as the book writes it: 0.4 is "40 %"; a dash for NaN."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "–"


def empty_figure(what):
    """A figure that says that what it would show was not run."""
    fig, ax = plt.subplots(figsize=(6, 1.2))
    ax.axis("off")
    ax.text(0.5, 0.5, f"{what}: {NOT_RUN}", ha="center", va="center", fontsize=13)
    return fig


def listed(parts, word="and"):
    """The parts as a list in words: "a, b and c"."""
    *most, last = map(str, parts)
    return f"{', '.join(most)} {word} {last}" if most else last
