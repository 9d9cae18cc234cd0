"""The landing page in one screen: a card for each paper, all effects in one figure, what surprises, where to go."""

import html

from companion import scorecard
from companion.page import show_figure
from companion.papers import part, study
from companion.statistics import NOT_RUN
from companion.style import use_style

BUTTONS = (
    ("Scorecard", "../notebooks/scorecard.html"), ("Re-run", "rerun.html"), ("Cite", "cite.html"),
    ("All results: CSV", "../_static/results.csv"), ("Parquet", "../_static/results.parquet"),
)  # fmt: skip


def front(results=None):
    """The landing page below its heading (HTML). results: folder of records; None for the repository's."""
    use_style()
    evidences = scorecard.evidence_of_all(results)
    judged = scorecard.judged_of_all(evidences)
    cards = "".join(_card(name, found) for name, found in judged.items())
    figure = show_figure(scorecard.forest(judged, 10.1, 0.165), "front", scorecard.CAPTION).data
    own = {name: getattr(part(name, "tables"), "surprise", lambda evidences: "")(evidences[name]) for name in judged}
    others = {name: found for name, found in judged.items() if not own[name]}
    found = [f"“{j.claim.sentence[:-1]}”: {scorecard.in_words(j)}." for j in scorecard.surprises(others, most=1)]
    found += [f"{_short(name)}: {said}" for name, said in own.items() if said]
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in found)
    surprises = f'<h2>What surprises</h2><ul class="surprises">{items}</ul>' if found else ""
    buttons = "".join(f'<a href="{address}">{text}</a>' for text, address in BUTTONS)
    return (
        f'<div class="front"><p class="buttons">{buttons}</p><div class="cards">{cards}</div>{surprises}{figure}'
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
        f"<h2>{html.escape(scorecard.title(name))}{link}</h2>"
        f"<p><strong>It claims.</strong> {html.escape(getattr(module, 'ABOUT', ''))}</p>"
        f"<p><strong>We found.</strong> {scorecard.in_words(headline)}. {scorecard.summary(judged)}</p>{limits}"
        "</section>"
    )


def _short(name):
    """The first author of a paper."""
    return scorecard.title(name).split()[0]


def _trust(judged, evidences):
    """Why to believe it and why not, with the share of the planned runs that the verdicts have (HTML)."""
    words = []
    for name, found in sorted(judged.items()):
        for profile in sorted({j.profile for j in found if j.verdict != NOT_RUN}):
            evidence = next(e for e in evidences[name] if e.profile == profile)
            share = f"{len(evidence.records):,} of {evidence.expected:,}"
            runs = "" if evidence.complete else f", {share} planned runs"
            words.append(f"{_short(name)}: {study(name).PROFILE_WORDS[profile]}{runs}")
        if all(j.verdict == NOT_RUN for j in found):
            words.append(f"{_short(name)}: its networks were not trained here yet")
    return (
        "<strong>Why believe it.</strong> Plans came before runs, and what changed later is listed; every number opens "
        "its runs; one command repeats them.<br><strong>Why not.</strong> "
        + html.escape("; ".join(words)).replace("`", "")
        + "."
    )
