"""Intervals and corrections, against SciPy's own procedures and by hand."""

import math

import numpy as np
import pytest
from companion.statistics import (
    against_published,
    bootstrap_interval,
    chance_interval,
    estimate,
    holm,
    repeat_limit,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

SAMPLES = st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=2, max_size=9)


@settings(max_examples=40, deadline=None)
@given(SAMPLES)
def test_estimate_agrees_with_scipys_t_interval(values):
    found = estimate(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(math.fsum(values) / len(values), abs=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if found.sd > 1e-6:
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((low, high))


def test_estimate_by_hand():
    found = estimate([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.302653, sd = 1
    assert (found.mean, found.sd) == (2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_few_values_have_no_interval(values):
    found = estimate(values)
    assert found.n == len(values)
    assert np.isnan([found.sd, found.low, found.high]).all()
    assert np.isnan(found.mean) == (not values)


def test_holm_by_hand():
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.04 * 1, then made monotone
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.01, math.nan, 0.9]), [0.02, math.nan, 0.9])
    assert holm([0.5, 0.6]).tolist() == [1, 1]
    assert np.isnan(holm([math.nan])).all()
    assert holm([]).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_agrees_with_its_definition(p):
    order, running, expected = np.argsort(p, kind="stable"), 0.0, np.empty(len(p))
    for rank, i in enumerate(order):
        running = max(running, min(1, (len(p) - rank) * p[i]))
        expected[i] = running
    np.testing.assert_allclose(holm(p), expected, atol=1e-12)


def test_a_guesser_who_knows_the_commonest_class_may_go_higher():
    rng, truth = np.random.default_rng(0), [0.4, 0.35, 0.13, 0.12]
    labels = rng.choice(4, size=(2000, 60), p=truth)
    uniform, knowing = ((labels == rng.choice(4, size=labels.shape)).mean(1), (labels == 0).mean(1))
    low, high = chance_interval(60, 4, commonest=0.4)
    assert low == chance_interval(60, 4)[0]
    assert np.mean(uniform < low) <= 0.03
    assert np.mean(knowing > high) <= 0.03
    assert np.mean(knowing > chance_interval(60, 4)[1]) > 0.5
    assert chance_interval(60, 4, commonest=0.2) == chance_interval(60, 4)


@pytest.mark.parametrize(("n", "classes"), [(42, 2), (84, 4), (252, 2), (5, 2)])
def test_chance_interval_holds_95_percent_of_guessers_and_hardly_more(n, classes):
    low, high = chance_interval(n, classes)
    pmf = [math.comb(n, k) * (1 / classes) ** k * (1 - 1 / classes) ** (n - k) for k in range(n + 1)]
    a, b = round(low * n), round(high * n)
    assert low < 1 / classes < high
    assert sum(pmf[a : b + 1]) >= 0.95
    assert sum(pmf[: a + 1]) > 0.025
    assert sum(pmf[b:]) > 0.025


@pytest.mark.parametrize(
    ("values", "published", "sd", "difference", "units", "mark"),
    [
        ([0.5, 0.7], 0.6, 0.0, 0.0, 0.0, "agrees"),
        ([0.5, 0.7], 0.1, 0.0, 0.5, 0.5 / math.sqrt(0.02), "higher"),
        ([0.5, 0.6, 0.7], 0.36, None, 0.24, 0.24 * math.sqrt(300), "not told apart"),  # the interval is 0.352 to 0.848
        ([0.5, 0.6, 0.7], 0.34, None, 0.26, 0.26 * math.sqrt(300), "higher"),
        ([0.6], 0.9, None, -0.3, math.nan, "no spread"),
        ([0.5, 0.7], 0.9, 0.1, -0.3, -0.3 / math.sqrt(0.03), "agrees"),
        ([0.6], 0.9, 0.1, -0.3, -0.3 / math.sqrt(0.02), "lower"),
        ([0.6], 0.9, 0.0, -0.3, math.nan, "no spread"),
        ([], 0.9, 0.1, math.nan, math.nan, "not run"),
    ],
)
def test_a_cell_stands_against_the_published_one_in_units_of_both_spreads(
    values, published, sd, difference, units, mark
):
    found = against_published(estimate(values), published, sd)
    assert found[:2] == pytest.approx((difference, units), nan_ok=True)
    assert found[2] == mark


@pytest.mark.parametrize(("freedom", "among"), [(2, 1), (7, 1), (40, 1), (7, 3)])
def test_one_in_twenty_repeats_is_further_off_than_the_limit(freedom, among):
    """Simulated: spreads estimated from few seeds, and two more runs for each of some metrics."""
    rng, trials = np.random.default_rng(0), 20000
    sd = rng.normal(size=(trials, among, freedom + 1)).std(-1, ddof=1)
    apart = np.abs(np.diff(rng.normal(size=(trials, among, 2)))[..., 0])
    alarms = (apart > repeat_limit(sd, freedom, among)).any(1).mean()
    assert alarms == pytest.approx(0.05, abs=0.006)


def test_the_bootstrap_of_one_group_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).normal(0.1, 1, 60)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=2).confidence_interval
    assert bootstrap_interval([values], 20000) == pytest.approx(tuple(theirs), abs=0.02)


def test_groups_stay_and_only_their_values_are_drawn_again():
    """Closed form: K^2 times the variance of the mean of K group means is the sum of their own variances."""
    rng = np.random.default_rng(0)
    groups = [rng.normal(shift, 1, 200) for shift in (-5, 0, 5)]
    low, high = bootstrap_interval(groups, 20000)
    sd = math.sqrt(sum(g.var() / len(g) for g in groups)) / 3
    assert (high - low) / 2 == pytest.approx(1.96 * sd, rel=0.05)
    assert bootstrap_interval(groups, seed=3) == bootstrap_interval(groups, seed=3)
