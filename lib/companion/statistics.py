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


def bootstrap_interval(groups, n=2000, seed=0):
    """95 % percentile bootstrap interval of the mean of group means, for these very groups (Efron 1979).

    The values of each group (the trials of a person, say) are drawn again with replacement; the groups stay.

    Parameters
    ----------
    groups : list of 1-d arrays
        One array of values for each group; a single group gives the ordinary bootstrap of a mean.
    n, seed : int
        Number of draws, and seed of the generator.

    Returns
    -------
    (float, float)
        Lower and upper end.
    """
    rng = np.random.default_rng(seed)
    groups = [np.asarray(group, dtype=np.float64) for group in groups]
    means = np.mean([group[rng.integers(len(group), size=(n, len(group)))].mean(1) for group in groups], axis=0)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def repeat_limit(sd, freedom, among=1):
    """Largest difference of two runs that seeds explain: t(freedom) sqrt(2) sd, at 95 %.

    Parameters
    ----------
    sd : float
        Standard deviation over seeds, pooled with `freedom` degrees of freedom.
    freedom : int
        Degrees of freedom of sd.
    among : int
        Number of metrics of which the worst is looked at (Bonferroni).
    """
    return stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / among, freedom) * math.sqrt(2) * sd


def holm(p_values):
    """Holm's step-down correction (1979) of a family of p-values (array); NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    out, known = np.full_like(p, math.nan), np.isfinite(p)
    if known.any():
        out[known] = multipletests(p[known], method="holm")[1]
    return out


def against_published(found, published, sd=None):
    """(difference, difference in units of the spread, word) of our `Estimate` and a published value.

    sd: the published standard deviation. The spread is then the root of both squared standard deviations; where one
    seed gives ours none, the published one stands for it; up to two spreads count as agreement. Without a published
    sd the spread is the standard error of our mean, and a value in our 95 % interval is "not told apart": a wide
    interval holds many values, which is no agreement.
    """
    if not found.n:
        return math.nan, math.nan, NOT_RUN
    difference = found.mean - published
    if sd is None:
        spread = found.sd / math.sqrt(found.n)
        near, word = found.low <= published <= found.high, "not told apart"
    else:
        spread = math.hypot(sd if math.isnan(found.sd) else found.sd, sd)
        near, word = abs(difference) <= 2 * spread, "agrees"
    if not spread > 0:
        return difference, math.nan, "no spread"
    return difference, difference / spread, word if near else "higher" if difference > 0 else "lower"


def chance_interval(n_trials, n_classes, commonest=0.0):
    """(low, high): accuracies that 95 of 100 guessers reach on `n_trials`, whether or not they know the shares.

    low: the lower end for one that guesses every class equally often; high: the upper end for one that always names
    the commonest class, whose share is `commonest` (where it is not above 1 / n_classes: all are equally frequent).
    """
    ends = [stats.binom.interval(CONFIDENCE, n_trials, p) for p in (1 / n_classes, max(commonest, 1 / n_classes))]
    return float(ends[0][0] / n_trials), float(ends[1][1] / n_trials)
