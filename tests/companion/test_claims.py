"""The verdict on a claim: one word for each interval, and the numbers beside it against scipy and statsmodels."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from companion import claims
from companion.claims import Claim, Effects, judge, judge_paper, units_to_decide, word
from companion.evidence import Evidence
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

CLAIM = Claim("a", "A over B", "Table 1", "A beats B.", "page", "points", "people", 0.02, 0.03)
UNKNOWN = replace(CLAIM, published=None)


def test_a_claim_is_the_papers_and_shows_shares_in_its_unit():
    shares = (0.5, -0.0123, 0.0, -0.00001, None, math.nan)
    assert [CLAIM.shown(share) for share in shares] == ["+50.0", "-1.2", "+0.0", "-0.0", "–", "–"]
    assert not CLAIM.control
    assert judge(CLAIM, Effects(pd.Series([0.01, 0.03]))).interval() == "+2.0 [-10.7, +14.7]"
    assert judge(CLAIM, None).interval() == "not run"


@pytest.mark.parametrize(
    ("low", "high", "published", "expected"),
    [(0.01, 0.03, 0.03, "reproduced"), (0.01, 0.0299, 0.03, "reproduced, smaller"),  # e at most high
     (0.0, 0.05, 0.03, "undecided"), (0.0, 0.0299, 0.03, "no such effect"),  # low must lie above zero
     (-0.01, 0.03, 0.03, "undecided"), (-0.01, 0.0199, None, "no such effect"),  # high must lie below e, or d
     (-0.01, 0.02, None, "undecided"), (0.001, 0.002, None, "reproduced"),
     (-0.01, 0.0, 0.03, "no such effect"), (-0.01, -0.001, 0.03, "contradicted"),  # high must lie below zero
     (-0.01, 0.05, -0.02, "undecided"), (math.nan, math.nan, 0.03, "undecided")],
)  # fmt: skip
def test_boundaries(low, high, published, expected):
    assert word(low, high, published, 0.02) == expected


@given(st.lists(st.floats(-0.2, 0.2).map(lambda v: round(v, 3)), min_size=2, max_size=12))
def test_interval_and_p_are_those_of_scipys_t_test(values):
    found = judge(CLAIM, Effects(pd.Series(values)))
    if np.std(values) > 1e-9:
        test = stats.ttest_1samp(values, 0)
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)), abs=1e-12)
        assert found.p == pytest.approx(test.pvalue)
    assert found.verdict == word(found.low, found.high, 0.03, 0.02)


@pytest.mark.parametrize(
    ("values", "not_tested", "verdict", "numbers"),
    [([math.nan], "", "not run", [0, math.nan, math.nan, math.nan]),
     ([0.5, math.nan], "", "undecided", [1, 0.5, math.nan, math.nan]),  # one unit decides nothing
     ([0.5] * 3, "", "reproduced", [3, 0.5, 0.5, 0]), ([0.0] * 3, "", "no such effect", [3, 0, 0, 1]),
     ([0.5] * 3, "20 % sparsity, the claim says 70 %", "not tested", [3, 0.5, 0.5, 0])],
)  # fmt: skip
def test_what_no_t_test_decides(values, not_tested, verdict, numbers):
    found = judge(UNKNOWN, Effects(pd.Series(values), not_tested=not_tested))
    assert found.verdict == verdict
    assert [found.n, found.mean, found.low, found.p] == pytest.approx(numbers, nan_ok=True)
    assert (found.n_to_decide is None) == (found.n < 2)


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.3, 0.8, 2.0, 5.0])
def test_the_number_of_units_that_decides_is_the_smallest_with_enough_power(ratio):
    n = units_to_decide(1.0, ratio)
    power = [TTestPower().power(ratio, n + k, alpha=0.05) for k in (-1, 0)]  # two-sided; the other tail is nothing
    assert power[1] >= 0.8 - 1e-6
    assert n == 2 or power[0] < 0.8


@pytest.mark.parametrize(("sd", "size", "n"), [(math.nan, 0.1, None), (1, 0, None), (0, 0.1, 2), (1e9, 1e-9, None)])
def test_no_spread_no_plan(sd, size, n):
    assert units_to_decide(sd, size) == n


@pytest.mark.parametrize("wrong", [{"unit": "volts"}, {"units": "subjects"}, {"smallest": 0.0}])
def test_a_claim_that_could_not_be_judged_is_refused(wrong):
    with pytest.raises(ValueError, match="claim a"):
        replace(CLAIM, **wrong)


@pytest.fixture
def paper(monkeypatch, make_record):
    """(claims, {id: {profile: differences}}) -> the judged claims of a made-up paper."""

    def make(listed, found, profiles=("full", "small")):
        effects = {c.id: lambda e, c=c: Effects(pd.Series(found[c.id][e.profile], dtype=float)) for c in listed}
        monkeypatch.setattr(claims, "study_of", lambda name: SimpleNamespace(CLAIMS=listed))
        monkeypatch.setattr(claims, "part", lambda name, what: SimpleNamespace(EFFECTS=effects))
        return judge_paper("toy", [Evidence("toy", "committed", p, (make_record(),), 1) for p in profiles])

    return make


def test_holm_is_over_the_claims_of_a_paper_and_apart_over_its_controls(paper):
    listed = [replace(CLAIM, id=name, control=name == "control") for name in ("a", "b", "c", "control")]
    values = {"a": [0.02, 0.03, 0.05], "b": [0.01, 0.05, 0.01], "c": [], "control": [0.1, 0.3, 0.1]}
    judged = paper(listed, {name: {"full": v} for name, v in values.items()}, ("full",))
    p, corrected = [j.p for j in judged], [j.holm for j in judged]
    expected = [*multipletests(p[:2], method="holm")[1], math.nan, p[3]]
    assert corrected == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("full", "small", "chosen"), [(5, 5, "full"), (0, 5, "small"), (5, 2, "full")])
def test_a_claim_is_judged_where_it_has_most_units_and_not_run_without_any(paper, full, small, chosen):
    values = {"a": {"full": np.linspace(0.1, 0.2, full), "small": np.linspace(-0.2, -0.1, small)}}
    (found,) = paper([CLAIM], values)
    assert (found.profile, found.verdict) == (chosen, "reproduced" if chosen == "full" else "contradicted")
    assert found.data == "simulated-eeg"
    assert [j.verdict for j in paper([CLAIM, replace(CLAIM, control=True)], values, ())] == ["not run", "not run"]
