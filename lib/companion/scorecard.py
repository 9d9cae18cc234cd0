"""Every claim of both papers on one page: effect, interval, verdict, and what they rest on."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sparsemtl.errors import RecordError

from companion.evidence import NOT_RUN, committed_evidences
from companion.papers import part
from companion.papers import study as study_of
from companion.statistics import CONFIDENCE, VERDICTS, judged
from companion.style import MUTED, VERDICT_STYLE

PAPERS = {"shin2023": "Shin et al. 2023", "upadhyay2023": "Upadhyay et al. 2023"}


def evidence_of_all(results=None):
    """The committed evidence of both studies: {study: [Evidence of a profile, the largest first]}.

    results: folder of records; None for the repository's. Raises `RecordError` where there is no such folder.
    """
    if results is not None and not Path(results).is_dir():
        raise RecordError(f"there is no folder {results}: results must name one of records, or be None")
    return {name: committed_evidences(study_of(name), results) for name in PAPERS}


def scorecard(evidences):
    """One row for each claim, and each problem that it was tested on (DataFrame).

    evidences: as `evidence_of_all` gives them. A claim is judged on one profile, see `judged`. effect, low, high: mean
    paired difference and its 95 % interval, in percent of what the column `of` says (NaN where nothing was run, or one
    unit gives no interval); of a claim with several parts those of the weakest. as published: the same quantity of the
    published values, as far as they are known.
    """
    rows = []
    for study, found in evidences.items():
        report = part(study, "tables")
        source = study_of(study)
        told, problems = {c.id: c for c in source.CLAIMS}, getattr(source, "PROBLEMS", {})
        for (claim, problem), row in judged(report.claims(found)).items():
            n = row.subjects if "subjects" in row else row.seeds
            units = ("subject" if "subjects" in row else "seed") + "s" * (n != 1)
            quantity = getattr(report, told[claim].quantity).__doc__.splitlines()[0]
            rows.append(
                {
                    "claim": row.claim, "short": told[claim].short, "tested on": problems.get(problem, problem),
                    "verdict": row.verdict, "effect": 100 * row.effect, "low": 100 * row.low, "high": 100 * row.high,
                    "weakest part": row.weakest, "as published": 100 * row["as published"], "of": told[claim].unit,
                    "paired over": f"{n} {units}", "profile": row.profile, "page": told[claim].page,
                    "paper": PAPERS[study], "made in": row["where"], "quantity": quantity,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def behind(card, evidences):
    """The evidence that some verdict of the scorecard rests on (list); all of it where nothing was run."""
    rests = set(zip(card.paper, card.profile, strict=True))
    every = [e for found in evidences.values() for e in found]
    return [e for e in every if (PAPERS[e.study], e.profile) in rests] or every


def story(table):
    """The scorecard in one paragraph that follows from its verdicts (Markdown)."""
    counts = table.verdict.value_counts()
    parts = [f"**{counts[word]}** {word}" for word in VERDICTS if counts.get(word)]
    ran = table[table.verdict != NOT_RUN]
    lines = [f"Of {len(table)} tests of {table.claim.nunique()} claims: {', '.join(parts)}."]
    for (paper, profile), rows_of in ran.groupby(["paper", "profile"]):
        rest = "rests" if len(rows_of) == 1 else "rest"
        told = next(study_of(study).PROFILE_WORDS[profile] for study, name in PAPERS.items() if name == paper)
        lines.append(f"Of {paper}, {len(rows_of)} {rest} on runs of the profile `{profile}`: {told}.")
    if len(ran) and (alone := ran[ran.low.isna()]).size:
        have = "has" if len(alone) == 1 else "have"
        unit = "seed" if alone["paired over"].str.contains("seed").all() else "seed or subject"
        lines.append(f"{len(alone)} {have} one {unit}, which gives no interval: inconclusive whatever the effect.")
    if n := ran.low.notna().sum():
        chance = n * (1 - CONFIDENCE) / 2
        lines.append(f"Without any effect, up to {chance:.1f} of the {n} with an interval would be *reproduced*.")
    for claim, said in table.loc[table["as published"] < 0, ["claim", "as published"]].itertuples(index=False):
        lines.append(f"*{claim}* By the same measure the published tables themselves are against it: {said:+.2f} %.")
    return " ".join(lines)


def effects(table):
    """All effects with their 95 % intervals on one axis, in percent; the shape of a mark tells the verdict (figure)."""
    rows = table.iloc[::-1].reset_index(drop=True)
    fig, ax = plt.subplots(figsize=(10.5, 0.42 * len(rows) + 1.4))
    for y, row in rows.iterrows():
        colour, marker = VERDICT_STYLE[row.verdict]
        if row.verdict == NOT_RUN:
            ax.text(0, y, NOT_RUN, ha="center", va="center", fontsize="small", color=MUTED)
            continue
        if np.isfinite(row.low):
            ax.plot([row.low, row.high], [y, y], color=colour, lw=2)
        ax.plot(row.effect, y, marker, ms=8, color=colour, mfc=colour if np.isfinite(row.low) else "white")
        ax.plot(row["as published"], y, "d", ms=6, color=MUTED, mfc="none")
    for word in VERDICTS:
        colour, marker = VERDICT_STYLE[word]
        if word != NOT_RUN:
            ax.plot([], [], marker, color=colour, label=word)
    ax.plot([], [], "o", color=MUTED, mfc="white", label="no interval: one seed or subject")
    ax.plot([], [], "d", color=MUTED, mfc="none", label="as published")
    ax.axvline(0, color=MUTED, lw=1)
    ax.set_xscale("symlog", linthresh=10, linscale=2)  # intervals from two seeds are an order of magnitude longer
    reach = np.nanmax(np.abs(rows[["effect", "low", "high", "as published"]].to_numpy(float)), initial=10) * 1.3
    ax.set_xlim(-reach, reach)
    ticks = [t for t in (-1000, -100, -10, -5, 0, 5, 10, 100, 1000) if abs(t) <= reach]
    ax.set_xticks(ticks, [f"{t:+g}" if t else "0" for t in ticks])
    ax.set_yticks(range(len(rows)), [_name(*names) for names in zip(rows.short, rows["tested on"], strict=True)])
    ax.set(xlabel="effect, % (right of zero: as claimed; linear up to 10, logarithmic beyond)", ylim=(-1, len(rows)))
    fig.legend(loc="outside lower center", ncols=4, fontsize="small")
    return fig


def _name(short, tested_on):
    return f"{short} ({tested_on})" if tested_on not in ("", NOT_RUN) else short
