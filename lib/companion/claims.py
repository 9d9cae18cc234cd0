"""Claims of a paper, the effects that decide them, and the one rule that turns an interval into a word.

With the 95 % t interval [low, high] over units of an effect that is positive if the claim holds, the published size e
and the smallest effect of interest d (after Lakens 2017; LeBel et al. 2019, doi 10.15626/MP.2018.843):

    reproduced             low > 0, and e is unknown or at most high
    reproduced, smaller    low > 0 and high < e
    contradicted           high < 0
    no such effect         low <= 0 <= high < e (if e is unknown: high < d)
    undecided              anything else, and fewer than two units
    not run                no records
    not tested             the condition that the claim speaks of is not met
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace

import pandas as pd
from scipy import stats

from companion.papers import part
from companion.papers import study as study_of
from companion.statistics import NOT_RUN, estimate, holm, interval

REPRODUCED, SMALLER, CONTRADICTED = "reproduced", "reproduced, smaller", "contradicted"
NO_EFFECT, UNDECIDED, NOT_TESTED = "no such effect", "undecided", "not tested"
WORDS = (REPRODUCED, SMALLER, CONTRADICTED, NO_EFFECT, UNDECIDED, NOT_TESTED, NOT_RUN)
POWER = 0.8  # chance with which a true effect of the size sought shall be seen
MOST_UNITS = 100_000  # more people or seeds are no plan


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, or a control of ours, as planned before the runs that judge it."""

    id: str  # stays: the anchor of its row
    short: str  # name in a figure, at most five words
    where: str  # place in the paper
    sentence: str
    page: str  # notebook that shows the evidence
    unit: str  # "points": 0.02 is 2 points of accuracy; "percent": 0.02 is 2 % of the other score
    units: str  # what is paired: "people" or "seeds"
    smallest: float  # smallest effect of interest d, a share
    published: float | None = None  # published size e, a share
    control: bool = False

    def __post_init__(self):
        if self.unit not in ("points", "percent") or self.units not in ("people", "seeds") or not self.smallest > 0:
            raise ValueError(f"claim {self.id}: unit {self.unit!r}, units {self.units!r}, smallest {self.smallest!r}")

    def shown(self, share):
        """A share in the claim's unit: 0.021 is "+2.1"; an en dash for None or NaN."""
        return "–" if share is None or math.isnan(share) else f"{100 * share + 0.0:+.1f}"


@dataclass(frozen=True)
class Effects:
    """What the records say on a claim; all differences are shares, positive if the claim holds."""

    pooled: pd.Series  # one difference for each unit, problems and tasks averaged
    parts: dict = field(default_factory=dict)  # name -> Series, for the fold-out
    limits: str = ""  # one computed sentence on what limits the answer
    not_tested: str = ""  # reason, if the claim's condition was not met
    within: tuple | None = None  # (low, high) for these very units, from resampled trials or seeds


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict; the numbers are shares, NaN if unknown."""

    claim: Claim
    effects: Effects
    verdict: str  # one of WORDS
    n: int
    mean: float
    low: float
    high: float
    p: float  # two-sided t test of a zero effect
    n_to_decide: int | None  # see `units_to_decide`
    holm: float = math.nan  # p, corrected over the claims of the paper
    profile: str = ""
    data: str = ""

    def interval(self):
        """The effect with its interval, "+2.1 [+0.4, +3.8]"; without units the verdict."""
        if not self.n:
            return self.verdict
        said = interval(100 * self.mean, 100 * self.low, 100 * self.high)
        return said if self.n > 1 else f"{said} (one unit: no interval)"


def word(low, high, published, smallest):
    """The verdict (str) on an interval by the table of this module; NaN gives "undecided"."""
    if low > 0:
        return SMALLER if published is not None and high < published else REPRODUCED
    if high < 0:
        return CONTRADICTED
    return NO_EFFECT if high < (smallest if published is None else published) else UNDECIDED


def units_to_decide(sd, size):
    """Smallest number of units that would decide, if they vary as those measured (int or None).

    The 95 % interval then excludes zero if the true effect is `size`, and `size` if it is zero, each in 80 of 100
    repeats (power of the two-sided one-sample t test by the noncentral t; Cohen 1988, ch. 2). None if sd, the standard
    deviation over units, is unknown, size is not positive, or more than `MOST_UNITS` would be needed.
    """
    if not size > 0 or not math.isfinite(sd):
        return None

    def enough(n):
        bound, shift = stats.t.ppf(0.975, n - 1), size / sd * math.sqrt(n) if sd else math.inf
        return shift > 100 * bound or stats.nct.sf(bound, n - 1, shift) >= POWER

    n = bisect_left(range(MOST_UNITS + 1), True, lo=2, key=enough)
    return n if n <= MOST_UNITS else None


def judge(claim, effects):
    """The verdict on a claim (`Judged`); effects: `Effects`, or None if nothing was run."""
    effects = effects or Effects(pd.Series(dtype=float))
    values = effects.pooled.dropna().to_numpy(float)
    e = estimate(values)
    verdict = NOT_TESTED if effects.not_tested else NOT_RUN if not e.n else ""
    p = math.nan
    if e.n > 1:
        p = float(stats.ttest_1samp(values, 0).pvalue) if e.sd > 0 else float(e.mean == 0)
    size = claim.published if claim.published and claim.published > 0 else claim.smallest
    return Judged(
        claim, effects, verdict or word(e.low, e.high, claim.published, claim.smallest),
        e.n, e.mean, e.low, e.high, p, units_to_decide(e.sd, size),
    )  # fmt: skip


def judge_best(name, claim, evidences):
    """A claim judged on the profile with most units, of equals on the first (`Judged`). evidences: largest first."""
    effects = part(name, "tables").EFFECTS[claim.id]
    judged = [replace(judge(claim, effects(e)), profile=e.profile, data=e.data) for e in evidences if e]
    return max(judged, key=lambda j: j.n, default=judge(claim, None))


def judge_paper(name, evidences):
    """Every claim of a paper (list), see `judge_best`; Holm's correction is over the claims, and over the controls."""
    judged = [judge_best(name, claim, evidences) for claim in study_of(name).CLAIMS]
    p = pd.Series([math.nan if j.verdict == NOT_TESTED else j.p for j in judged], dtype=float)
    corrected = p.groupby([j.claim.control for j in judged]).transform(holm)
    return [replace(j, holm=float(value)) for j, value in zip(judged, corrected, strict=True)]
