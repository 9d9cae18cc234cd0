"""All claims of all papers at a glance: verdict bars, effects, what surprises, a table; and the landing page."""

import html
import json
import math
from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt

from companion import claims as rules
from companion.claims import Effects, judge, judge_paper
from companion.evidence import committed_evidences
from companion.page import NONE, VERSION, marked, show_figure
from companion.papers import names, part, study
from companion.records import repository_root
from companion.style import INK, MUTED, VERDICT_STYLE, listed, use_style

HELD = (rules.REPRODUCED, rules.SMALLER)
FAILED = (rules.CONTRADICTED, rules.NO_EFFECT)
UNIT = {"points": "points", "percent": "%"}
CAPTION = (
    "95 % intervals; right of zero: as claimed. Triangles: reproduced (green), contradicted (red). "
    "Orange square: no such effect. Grey: undecided. Diamond: published. Italic: our controls."
)
HEADS = ("claim", "published", "ours, 95 % interval", "units", "verdict", "limited by", "evidence")
BUTTONS = (
    ("Scorecard", "../notebooks/scorecard.html"), ("Re-run", "rerun.html"), ("Cite", "cite.html"),
    ("All results: CSV", "../_static/results.csv"), ("Parquet", "../_static/results.parquet"),
)  # fmt: skip
AXIS = {"points": "points of accuracy, of a share or a correlation", "percent": "% of the other network's score"}


def evidence_of_all(results=None):
    """The committed evidence by paper: {name: [Evidence, the largest profile first]}; results: folder of records."""
    return {name: committed_evidences(study(name), results, "all") for name in names()}


def judged_of_all(evidences):
    """Every claim and control by paper: {name: [Judged]}; evidences as of `evidence_of_all`."""
    return {name: judge_paper(name, found) for name, found in evidences.items()}


def title(name):
    """A paper as the pages name it: "Shin et al. 2023"."""
    return getattr(study(name), "TITLE", name)


def heading(notebook):
    """The heading of a notebook's page, up to a colon: "Shin, Table 1"; its name if there is no such notebook."""
    path = repository_root() / "notebooks" / f"{notebook}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    return "".join(cells[0]["source"]).partition("\n")[0].strip("# ").partition(":")[0] if cells else notebook


def in_words(j):
    """Verdict and effect: "✔ reproduced: +2.1 [+0.4, +3.8] points over 6 people; published +3.0"."""
    if not j.n or j.verdict == rules.NOT_TESTED:
        return marked(j.verdict)
    published = f"; published {j.claim.shown(j.claim.published)}" if j.claim.published is not None else ""
    return f"{marked(j.verdict)}: {j.interval()} {UNIT[j.claim.unit]} over {j.n} {j.claim.units}{published}"


def summary(judged):
    """The verdicts on the claims of one paper in words: "Of 8 claims 3 reproduced, 5 undecided."."""
    counts = Counter(j.verdict for j in judged if not j.claim.control)
    return f"Of {sum(counts.values())} claims: {listed(f'{counts[w]} {w}' for w in rules.WORDS if counts[w])}."


def takeaway(judged):
    """What became of the claims and the controls of all papers, in a sentence each."""
    words = [f"**{title(name)}**: {summary(found)}" for name, found in judged.items()]
    controls = [j for found in judged.values() for j in found if j.claim.control and j.n]
    others = [f"{j.claim.short} ({j.verdict})" for j in controls if j.verdict not in HELD]
    if controls:
        words.append(f"Of {len(controls)} controls {len(controls) - len(others)} hold.")
        words += [f"The others: {listed(others)}."] if others else []
    return " ".join(words)


def behind_all(judged, evidences):
    """The evidence that some verdict rests on (list)."""
    rests = {(name, j.profile) for name, found in judged.items() for j in found}
    return [e for found in evidences.values() for e in found if (e.study, e.profile) in rests]


def surprises(judged, most=3):
    """What a reader of the papers would not expect (list of `Judged`): controls that fail first, then claims."""
    failed = [j for found in judged.values() for j in found if j.verdict in FAILED]
    return sorted(failed, key=lambda j: (not j.claim.control, FAILED.index(j.verdict), j.holm))[:most]


def bars(judged):
    """A bar of verdicts for each paper (HTML); its words and numbers are in it."""
    lines = ""
    for name, found in judged.items():
        counts = Counter(j.verdict for j in found if not j.claim.control)
        bar = '<span style="flex-grow: {0}; --verdict: {1}">{0} {2}</span>'
        cells = [bar.format(counts[w], VERDICT_STYLE[w][0], marked(w)) for w in rules.WORDS if counts[w]]
        lines += f'<p class="verdicts"><strong>{html.escape(title(name))}</strong> {"".join(cells)}</p>'
    return lines


def forest(judged, width=10.0, row=0.25):
    """Effects with their 95 % intervals, a linear panel for each unit: points left, percent right (figure)."""
    panels = []
    for unit in UNIT:
        rows = []  # (label, its look, judged or None)
        for name, found in judged.items():
            mine = sorted((j for j in found if j.claim.unit == unit), key=lambda j: not j.claim.control)
            rows += [(title(name), {"fontweight": "bold"}, None)] if mine else []
            rows += [(j.claim.short, {"fontstyle": "italic"} if j.claim.control else {}, j) for j in mine]
        panels += [(unit, rows[::-1])] if rows else []
    height = row * max(len(rows) for _, rows in panels) + 0.55
    fig, axes = plt.subplots(1, len(panels), figsize=(width, height), squeeze=False)
    for ax, (unit, rows) in zip(axes[0], panels, strict=True):
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        for y, (text, (_, look, j)) in enumerate(zip(ax.get_yticklabels(), rows, strict=True)):
            text.set(**look)
            if j:
                _one(ax, y, j)
        ax.set(ylim=(-0.6, len(rows) - 0.4), xlabel=AXIS[unit])
        ax.tick_params("y", length=0)
        ax.grid(axis="y", visible=False)
    return fig


def _one(ax, y, j):
    colour, marker, _ = VERDICT_STYLE[j.verdict]
    if not j.n:
        ax.text(0, y, f" {j.verdict}", va="center", fontsize=9, color=MUTED)
        return
    if math.isfinite(j.low):
        ax.plot([100 * j.low, 100 * j.high], [y, y], color=colour, lw=2.2)
    ax.plot(100 * j.mean, y, marker, ms=6, color=colour, mfc=colour if math.isfinite(j.low) else "none")
    if j.claim.published is not None:
        ax.plot(100 * j.claim.published, y, "d", ms=6, color=MUTED, mfc="none")


def table(judged, evidences, page):
    """Every claim in one table of a `Page`, with a fold-out each; `scorecard.js` filters it by paper and verdict."""
    rows = []
    for name, found in judged.items():
        behind = {e.profile: e for e in evidences[name]}
        nothing = replace(evidences[name][0], records=())
        rows += [_row(name, j, page.opens(behind[j.profile] if j.n else nothing)) for j in found]
    head = "".join(f'<th scope="col">{h}</th>' for h in HEADS)
    whole = f'<table class="results scorecard"><thead><tr>{head}</tr></thead>{"".join(rows)}</table>'
    return page.put(whole, "claims", "Every claim and control.", behind_all(judged, evidences))


def _row(name, j, opens):
    c, e = j.claim, j.effects
    cells = (
        c.shown(c.published),
        f"{j.interval()} {UNIT[c.unit]}" if j.n else NONE,
        f"{j.n} {c.units}" if j.n else NONE,
        f'<span style="--verdict: {VERDICT_STYLE[j.verdict][0]}">{marked(j.verdict)}</span>',
        html.escape(e.not_tested or e.limits or NONE),
        f'<a href="{c.page}.html">{html.escape(heading(c.page))}</a>',
    )
    cells = "".join(f'<td data-label="{h}"{opens}>{v}</td>' for h, v in zip(HEADS[1:], cells, strict=True))
    fold = "".join(f"<p>{html.escape(line)}</p>" for line in _fold(name, j))
    first = f"{'control: ' * c.control}{html.escape(c.sentence)}<details><summary>more</summary>{fold}</details>"
    row = f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return f'<tbody id="{c.id}" data-paper="{title(name)}" data-verdict="{j.verdict}">{row}</tbody>'


def _fold(name, j):
    """What is folded in below a claim: definition, parts, what would decide it (lines of text)."""
    c = j.claim
    yield f"{title(name)}, {c.where}. Effect in {AXIS[c.unit]}, paired over {c.units}."
    yield f"Smallest effect of interest: {c.shown(c.smallest)}. Published: {c.shown(c.published)}."
    if j.n:
        yield f"Runs: profile {j.profile}, {j.data}. p = {j.p:.2g}; after Holm over the paper's claims {j.holm:.2g}."
    if j.effects.within:
        yield f"For these very {c.units}: [{', '.join(map(c.shown, j.effects.within))}]."
    if j.verdict == rules.UNDECIDED:
        yield f"Largest effect still possible: {c.shown(j.high)}."
        n = j.n_to_decide
        yield f"About {n} {c.units} would decide, if they vary as these do." if n else "The spread is unknown."
    for each, values in j.effects.parts.items():
        found = judge(c, Effects(values))
        yield f"{each}: {marked(found.verdict)}, {found.interval()}"
    yield f"To cite: claim {c.id}, scorecard.html#{c.id}, version {VERSION}."


def front(results=None):
    """The landing page below its heading (HTML). results: folder of records; None for the repository's."""
    use_style()
    evidences = evidence_of_all(results)
    judged = judged_of_all(evidences)
    cards = "".join(_card(name, found) for name, found in judged.items())
    figure = show_figure(forest(judged, 10.1, 0.165), "front", CAPTION).data
    own = {name: getattr(part(name, "tables"), "surprise", lambda evidences: "")(evidences[name]) for name in judged}
    others = {name: found for name, found in judged.items() if not own[name]}
    found = [f"“{j.claim.sentence[:-1]}”: {in_words(j)}." for j in surprises(others, most=1)]
    found += [f"{_short(name)}: {said}" for name, said in own.items() if said]
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in found)
    surprising = f'<h2>What surprises</h2><ul class="surprises">{items}</ul>' if found else ""
    buttons = "".join(f'<a href="{address}">{text}</a>' for text, address in BUTTONS)
    return (
        f'<div class="front"><p class="buttons">{buttons}</p><div class="cards">{cards}</div>{surprising}{figure}'
        f"<p>{_trust(judged, evidences)}</p></div>"
    )


def _card(name, judged):
    """What a paper claims, what we found on its headline claim, what limits that (HTML)."""
    module = study(name)
    headline = next((j for j in judged if j.claim.id == getattr(module, "HEADLINE", "")), judged[0])
    arxiv = getattr(module, "ARXIV", "")
    link = f' <a href="https://arxiv.org/abs/{arxiv}">arXiv {arxiv}</a>' if arxiv else ""
    limit = headline.effects.not_tested or headline.effects.limits
    # the first sentence: what follows in brackets is on the page of the claim
    limits = f"<p><strong>Limit.</strong> {html.escape(limit.partition(' (')[0])}</p>" if limit else ""
    return (
        f'<section><img src="../_static/{name}.svg" alt="Sketch of the method" width="84" height="84">'
        f"<h2>{html.escape(title(name))}{link}</h2>"
        f"<p><strong>It claims.</strong> {html.escape(getattr(module, 'ABOUT', ''))}</p>"
        f"<p><strong>We found.</strong> {in_words(headline)}. {summary(judged)}</p>{limits}"
        "</section>"
    )


def _short(name):
    """The first author of a paper."""
    return title(name).split()[0]


def _trust(judged, evidences):
    """Why to believe it and why not, with the share of the planned runs that the verdicts have (HTML)."""
    words = []
    for name, found in sorted(judged.items()):
        used = {j.profile for j in found if j.verdict != rules.NOT_RUN}
        for e in (e for e in evidences[name] if e.profile in used):
            runs = "" if e.complete else f", {len(e.records):,} of {e.expected:,} planned runs"
            words.append(f"{_short(name)}: {study(name).PROFILE_WORDS[e.profile]}{runs}")
        if not used:
            words.append(f"{_short(name)}: its networks were not trained here yet")
    limits = html.escape("; ".join(words)).replace("`", "")
    return (
        "<strong>Why believe it.</strong> Plans came before runs, and what changed later is listed; every number opens "
        f"its runs; one command repeats them.<br><strong>Why not.</strong> {limits}."
    )
