"""Spread, paired effects and verdicts: the only place where the project decides what evidence is enough."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

CONFIDENCE = 0.95
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not run")


@dataclass(frozen=True)
class Estimate:
    """Mean of n values with their standard deviation and the 95 % t interval of the mean (NaN where n < 2)."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect(Estimate):
    """Estimate of paired differences, with Cohen's d_z (mean / sd) and Wilcoxon's signed-rank p (two-sided)."""

    dz: float
    p: float


def estimate(values):
    """`Estimate` of a sequence of finite numbers, the units of analysis (subjects, or seeds)."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    mean = values.mean() if n else math.nan
    if n < 2:
        return Estimate(n, float(mean), math.nan, math.nan, math.nan)
    sd = values.std(ddof=1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd / math.sqrt(n)
    return Estimate(n, float(mean), float(sd), float(mean - half), float(mean + half))


def effect(differences):
    """`Effect` of paired differences, one for each unit of analysis."""
    d = np.asarray(differences, dtype=np.float64)
    e = estimate(d)
    dz = e.mean / e.sd if e.sd and math.isfinite(e.sd) else math.nan
    p = float(stats.wilcoxon(d).pvalue) if len(d) > 1 and d.any() else math.nan
    return Effect(e.n, e.mean, e.sd, e.low, e.high, dz, p)


def holm(p_values):
    """Holm's step-down correction (1979) of a family of p-values; NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    out, known = np.full_like(p, math.nan), np.isfinite(p)
    if known.any():
        out[known] = multipletests(p[known], method="holm")[1]
    return out


def verdict(found):
    """Verdict on a claim that an effect is above zero: an `Estimate` (None: not run) -> one of `VERDICTS`.

    reproduced: the whole 95 % interval lies above zero; not reproduced: it lies below; inconclusive: it spans zero,
    or there are too few units for an interval.
    """
    if found is None or found.n == 0:
        return "not run"
    if found.low > 0:
        return "reproduced"
    if found.high < 0:
        return "not reproduced"
    return "inconclusive"


def against_published(found, published, sd=0.0):
    """(difference, difference in units of the spread, word) of our `Estimate` (None: not run) and a published value.

    The spread is the root of the squared standard deviations, ours and the published one (sd); where one seed or
    subject gives ours none, the published one stands for it. Up to two spreads count as agreement.
    """
    if found is None or not found.n:
        return math.nan, math.nan, "not run"
    difference = found.mean - published
    spread = math.hypot(sd if math.isnan(found.sd) else found.sd, sd)
    units = difference / spread if spread else math.nan
    word = "agrees" if abs(units) <= 2 else "no spread" if math.isnan(units) else None
    return difference, units, word or ("higher" if difference > 0 else "lower")


def claim_row(claim, evidence, found, units, runs):
    """One line of a table of claims (dict): sentence, evidence, effect, interval and verdict.

    found: `Effect` or None where nothing was run. units: what is paired ("subjects", "seeds"), the name of a column.
    runs: number of records behind it.
    """
    ran = found is not None and found.n > 0
    numbers = {"effect": "mean", "low": "low", "high": "high", "dz": "dz"}
    return {
        "id": claim.id, "claim": claim.sentence, "where": claim.where, "evidence": evidence.title,
        "profile": evidence.profile if evidence else "", "runs": runs if ran else 0,
        **{name: getattr(found, field) if ran else math.nan for name, field in numbers.items()},
        units: found.n if ran else 0, "verdict": verdict(found),
    }  # fmt: skip


def chance_interval(n_trials, n_classes):
    """(low, high): accuracies that guessing among equal classes gives in 95 of 100 experiments of `n_trials`."""
    low, high = stats.binom.interval(CONFIDENCE, n_trials, 1 / n_classes)
    return low / n_trials, high / n_trials
