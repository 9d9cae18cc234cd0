"""Spread, intervals and corrections that more than one room needs; what a verdict is stands in `claims`."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

CONFIDENCE = 0.95
NOT_RUN = "not run"


@dataclass(frozen=True)
class Estimate:
    """Mean of n values with their standard deviation and the 95 % t interval of the mean (NaN if n < 2)."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


def estimate(values):
    """`Estimate` of a sequence of finite numbers, the units of analysis (people or seeds)."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    mean = values.mean() if n else math.nan
    if n < 2:
        return Estimate(n, float(mean), math.nan, math.nan, math.nan)
    sd = values.std(ddof=1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd / math.sqrt(n)
    return Estimate(n, float(mean), float(sd), float(mean - half), float(mean + half))


def mean_sd(values, digits=3):
    """Mean ± standard deviation as text, for one value without the latter; "not run" for no value."""
    e = estimate(values)
    if not e.n:
        return NOT_RUN
    return f"{e.mean:.{digits}f}" + (f" ± {e.sd:.{digits}f}" if e.n > 1 else "")


def interval(mean, low, high, digits=1):
    """An effect with its interval as text, "+4.3 [+2.8, +5.7]"; without one if it is unknown."""
    ends = f" [{low + 0.0:+.{digits}f}, {high + 0.0:+.{digits}f}]" if math.isfinite(low) else ""
    return f"{mean + 0.0:+.{digits}f}{ends}"


def repeat_limit(sd, freedom, among=1):
    """Largest difference of two runs that seeds explain, at 95 %: t(freedom) sqrt(2) sd.

    sd: over seeds, pooled with `freedom` degrees of freedom. among: so many, of which the worst is shown (Bonferroni).
    """
    return stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / among, freedom) * math.sqrt(2) * sd


def holm(p_values):
    """Holm's step-down correction (1979) of a family of p-values (array); NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    out, known = np.full_like(p, math.nan), np.isfinite(p)
    if known.any():
        out[known] = multipletests(p[known], method="holm")[1]
    return out


def chance_interval(n_trials, n_classes, commonest=0.0):
    """(low, high): accuracies that 95 of 100 guessers reach on `n_trials`, whether or not they know the shares.

    low: the lower end for one that guesses every class equally often; high: the upper end for one that always names
    the commonest class, whose share is `commonest` (where it is not above 1 / n_classes: all are equally frequent).
    """
    ends = [stats.binom.interval(CONFIDENCE, n_trials, p) for p in (1 / n_classes, max(commonest, 1 / n_classes))]
    return float(ends[0][0] / n_trials), float(ends[1][1] / n_trials)
