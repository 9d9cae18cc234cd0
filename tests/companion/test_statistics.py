"""Intervals and corrections, against SciPy's own procedures and by hand."""

import math

import numpy as np
import pytest
from companion.statistics import chance_interval, estimate, holm, interval, mean_sd, repeat_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=2, max_size=9))
def test_estimate_agrees_with_scipys_t_interval(values):
    found = estimate(values)
    expected = (len(values), math.fsum(values) / len(values), np.std(values, ddof=1))
    assert (found.n, found.mean, found.sd) == pytest.approx(expected, abs=1e-12)
    if found.sd > 1e-6:
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize(("values", "shown"), [([], "not run"), ([0.5], "0.500"), ([0.5, 0.7], "0.600 ± 0.141")])
def test_too_few_values_have_no_interval_and_show_no_spread(values, shown):
    found, few = estimate(values), len(values) < 2
    assert (found.n, mean_sd(values)) == (len(values), shown)
    assert np.isnan([found.sd, found.low, found.high, found.mean]).tolist() == [few, few, few, not values]


def test_an_effect_is_shown_with_its_interval_if_that_is_known():
    shown = [interval(4.26, 2.8, 5.7), interval(-0.04, math.nan, math.nan, digits=2)]
    assert shown == ["+4.3 [+2.8, +5.7]", "-0.04"]


def test_holm_by_hand():
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.04 * 1, then made monotone
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.01, math.nan, 0.9]), [0.02, math.nan, 0.9])
    assert holm([0.5, 0.6]).tolist() == [1, 1]
    assert np.isnan(holm([math.nan])).all()
    assert holm([]).shape == (0,)


def test_a_guesser_who_knows_the_commonest_class_may_go_higher():
    rng, truth = np.random.default_rng(0), [0.4, 0.35, 0.13, 0.12]
    labels = rng.choice(4, size=(2000, 60), p=truth)
    uniform, knowing = ((labels == rng.choice(4, size=labels.shape)).mean(1), (labels == 0).mean(1))
    low, high = chance_interval(60, 4, commonest=0.4)
    assert low == chance_interval(60, 4)[0]
    assert max(np.mean(uniform < low), np.mean(knowing > high)) <= 0.03
    assert np.mean(knowing > chance_interval(60, 4)[1]) > 0.5
    assert chance_interval(60, 4, commonest=0.2) == chance_interval(60, 4)


@pytest.mark.parametrize(("n", "classes"), [(42, 2), (84, 4), (252, 2), (5, 2)])
def test_chance_interval_holds_95_percent_of_guessers_and_hardly_more(n, classes):
    low, high = chance_interval(n, classes)
    pmf = [math.comb(n, k) * (1 / classes) ** k * (1 - 1 / classes) ** (n - k) for k in range(n + 1)]
    a, b = round(low * n), round(high * n)
    assert low < 1 / classes < high
    assert sum(pmf[a : b + 1]) >= 0.95
    assert min(sum(pmf[: a + 1]), sum(pmf[b:])) > 0.025


@pytest.mark.parametrize(("freedom", "among"), [(2, 1), (7, 1), (40, 1), (7, 3)])
def test_one_in_twenty_repeats_is_further_off_than_the_limit(freedom, among):
    """Simulated: spreads estimated from few seeds, and two more runs for each of some metrics."""
    rng, trials = np.random.default_rng(0), 20000
    sd = rng.normal(size=(trials, among, freedom + 1)).std(-1, ddof=1)
    apart = np.abs(np.diff(rng.normal(size=(trials, among, 2)))[..., 0])
    alarms = (apart > repeat_limit(sd, freedom, among)).any(1).mean()
    assert alarms == pytest.approx(0.05, abs=0.006)
    assert repeat_limit(2.0, 9) == pytest.approx(2 * math.sqrt(2) * stats.t.ppf(0.975, 9))
