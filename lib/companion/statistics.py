"""Spread, intervals and corrections that more than one room needs; what a verdict is stands in `claims`."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from companion.papers import study as study_of

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
    half = _half_width(sd, n)
    return Estimate(n, float(mean), float(sd), float(mean - half), float(mean + half))


def _half_width(sd, n, picked_from=1):
    """Of the t interval of a mean, at 1 - 0.05 / picked_from."""
    return stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / picked_from, n - 1) * sd / math.sqrt(n)


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


# Until both papers' tables give `EFFECTS` for `claims.judge`: the old verdicts.
VERDICTS = ("reproduced", "not reproduced", "inconclusive", NOT_RUN)


@dataclass(frozen=True)
class Effect(Estimate):
    """Estimate of paired differences, with Cohen's d_z (mean / sd) and Wilcoxon's signed-rank p (two-sided)."""

    dz: float
    p: float


def effect(differences, picked_from=1):
    """`Effect` of paired differences, one for each unit of analysis.

    picked_from: number of effects of which this may be picked as the worst; its upper end is then that of the interval
    at 1 - 0.05 / picked_from (Bonferroni).
    """
    d = np.asarray(differences, dtype=np.float64)
    e = estimate(d)
    high = e.mean + _half_width(e.sd, e.n, picked_from) if e.n > 1 else e.high
    dz = e.mean / e.sd if e.sd and math.isfinite(e.sd) else math.nan
    p = float(stats.wilcoxon(d).pvalue) if len(d) > 1 and d.any() else math.nan
    return Effect(e.n, e.mean, e.sd, e.low, high, dz, p)


def weakest(parts):
    """(name, `Effect`) of the part that decides a claim about several effects, all of which must be above zero.

    parts: dict name -> paired differences. The claim holds where every lower end is above zero: each may be taken at
    95 %, since all have to pass (intersection-union test, Berger 1982). It fails where an upper end is below zero;
    there one worst part is enough, so upper ends allow for the number of parts (see `effect`). ("", None) where a part
    was not run: the worst of some is not the worst of all.
    """
    effects = {name: effect(differences, len(parts)) for name, differences in parts.items()}
    if not all(e.n for e in effects.values()):
        return "", None
    failed = [name for name, e in effects.items() if e.high < 0]
    name = min(failed or effects, key=lambda name: (np.nan_to_num(effects[name].low, nan=-np.inf), effects[name].mean))
    return name, effects[name]


def verdict(found):
    """Verdict on a claim that an effect is above zero: an `Estimate` (None: not run) -> one of `VERDICTS`.

    reproduced: the whole 95 % interval lies above zero; not reproduced: it lies below; inconclusive: it spans zero,
    or there are too few units for an interval.
    """
    if found is None or found.n == 0:
        return NOT_RUN
    if found.low > 0:
        return "reproduced"
    if found.high < 0:
        return "not reproduced"
    return "inconclusive"


def claim_row(claim, evidence, parts, published, units):
    """One line of a table of claims (dict): sentence, evidence, effect, interval and verdict.

    parts: paired differences, or a dict of them by part of the claim (see `weakest`). published: the same of the
    published values. units: what is paired ("subjects", "seeds"), the name of a column.
    """
    part, found = weakest({name: d.dropna() for name, d in _parts(parts).items()})
    found = found or effect(())
    numbers = {"effect": "mean", "low": "low", "high": "high", "dz": "dz"}
    return {
        "id": claim.id, "claim": claim.sentence, "where": claim.where, "evidence": evidence.title,
        "profile": evidence.profile if evidence else "",
        **{name: getattr(found, field) for name, field in numbers.items()},
        "weakest": part, "as published": _smallest_mean(_parts(published)),
        units: found.n, "verdict": verdict(found), "complete": bool(evidence) and found.n >= _planned(evidence, units),
    }  # fmt: skip


def _planned(evidence, units):
    """How many seeds or subjects each run of a profile has at least."""
    return len(study_of(evidence.study).PROFILE_SETTINGS[evidence.profile][units])


def judged(table):
    """The rows of a table of claims that count: {(claim, problem): row}, in the order of the table.

    table: of a study's `claims`, of several profiles, the largest first. A claim is judged on the largest profile that
    has run it with all its seeds or subjects, else on the first that has run it at all; one never run keeps one row.
    """
    chosen = {}
    for claim, row in table.iterrows():
        problem = row.problem if "problem" in row else ""
        kept = chosen.get((claim, problem))
        if kept is None or _worth(row) > _worth(kept):
            chosen[claim, problem] = row
    order = list(dict.fromkeys(table.index))
    known = {claim for claim, problem in chosen if problem != NOT_RUN}
    kept = [key for key in chosen if key[1] != NOT_RUN or key[0] not in known]
    return {key: chosen[key] for key in sorted(kept, key=lambda key: order.index(key[0]))}


def _worth(row):
    return (row.verdict != NOT_RUN) + bool(row.complete)


def _parts(quantity):
    return quantity if isinstance(quantity, dict) else {"": quantity}


def _smallest_mean(parts):
    """Of the parts that have a value; NaN where none has."""
    return min((d.mean() for d in parts.values() if d.notna().any()), default=math.nan)


@dataclass(frozen=True)
class OldClaim:
    """As `claims.Claim` was."""

    id: str
    short: str
    where: str
    sentence: str
    quantity: str
    page: str
    unit: str
