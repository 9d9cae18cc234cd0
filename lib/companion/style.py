"""One visual language for the book: a colour for each task, grey for rivals, and pictures as SVG in the page's ink."""

import html
import io
import math
import re

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.text import Text

from companion.statistics import NOT_RUN

# Okabe and Ito's palette and what lies between its colours; one task, one colour, on every page
TASK_COLOURS = {
    "mi": "#0072B2", "me": "#D55E00", "both": "#009E73",
    "seg": "#56B4E9", "normal": "#E69F00", "depth": "#7B3294", "male": "#5A7D00", "smile": "#A6611A",
}  # fmt: skip
HIGHLIGHT, MUTED = "#CC79A7", "#8A8A8A"
INK = "#1b1e23"  # of text and axes; in the book the colour of the page's text takes its place
LINES = ("-", "--", "-.", ":")  # for those who see no colour
VERDICT_STYLE = {  # colour, marker, shape beside the word: no verdict is known by its colour alone
    "reproduced": ("#009E73", "^", "✔"), "reproduced, smaller": ("#56B4E9", "^", "◑"),
    "contradicted": ("#D55E00", "v", "✘"), "no such effect": ("#E69F00", "s", "∅"), "undecided": (MUTED, "o", "◌"),
    "not tested": (MUTED, "x", "⊘"), NOT_RUN: (MUTED, "", "○"),
}  # fmt: skip
LEAST = 9  # points of the smallest text: 12 pixels on a desktop; on a phone, where figures shrink, 9
WIDTH = 8.0  # inches of 96 pixels: as wide as the text
WIDEST = 9.1  # inches of a figure: shrunk to a sheet of A4 less its margins, 180 mm, 9 points are 7
_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12}
LOOK = {"background": "transparent", "view": {"stroke": None}, "axis": _TEXT | {"gridOpacity": 0.3}, "legend": _TEXT,
        "header": _TEXT}  # fmt: skip  # of interactive charts


def use_style():
    """Set the look of every figure: transparent ground, text of 10 points, of which a desktop shows 13 pixels."""
    sns.set_theme(style="ticks", palette="colorblind")
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color",
            "grid.color")  # fmt: skip
    plt.rcParams.update(
        {"figure.dpi": 96, "figure.figsize": (WIDTH, 4), "figure.constrained_layout.use": True, "axes.grid": True,
         "axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.1, "legend.frameon": False,
         "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
         "legend.fontsize": 9, "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"]}
        | dict.fromkeys(inks, INK)
    )  # fmt: skip


def svg(fig, name, alt):
    """A matplotlib figure as SVG to put into a page (str): `WIDEST` at most, text as text; closes the figure."""
    fig.set_size_inches(min(fig.get_figwidth(), WIDEST), fig.get_figheight())
    for text in fig.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), LEAST))
    file = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "savefig.bbox": None}):
        fig.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(fig)
    return _inline(file.getvalue(), name, alt)


def still(spec, name, alt):
    """A Vega-Lite chart as SVG to put into a page (str)."""
    import vl_convert

    return _inline(vl_convert.vegalite_to_svg(spec), name, alt)


def _inline(text, name, alt):
    """Ids of its own, the page's ink in the place of ours, no style sheet that would reach the rest of the page."""
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.IGNORECASE)
    head, rest = text.split(">", 1)
    width = float(re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+)', head)[1]) * (4 / 3 if 'pt"' in head else 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    look = f"width: {width:.0f}px; min-width: {0.76 * width:.0f}px; stroke-linejoin: round"
    head += f' role="img" aria-label="{html.escape(alt)}" style="{look}">'
    return head + re.sub(r"\n\s*", "\n", rest)


def label_ends(ax, labels, gap=0.045):
    """Write each line's label at its right end; labels: {line: text}. gap: least distance, a share of the height."""
    low, high = ax.get_ylim()
    ends, last = sorted((line.get_ydata()[-1], i, line) for i, line in enumerate(labels)), -math.inf
    for y, _, line in ends:
        last = max(y, last + gap * (high - low))
        colour = INK if line.get_color() == MUTED else line.get_color()
        x, text = line.get_xdata()[-1], "\N{NO-BREAK SPACE}" * 2 + labels[line]
        ax.annotate(text, (x, y), (x, last), color=colour, va="center", fontsize=9, annotation_clip=False)


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


def are(count):
    """The verb of so many things."""
    return "is" if count == 1 else "are"


def table_of(rows, *names, **options):
    """DataFrame of {key: row}, the parts of a key under these names as its index; empty without rows."""
    table = pd.DataFrame.from_dict(rows, orient="index", **options)
    return table.rename_axis(list(names)) if rows else table
