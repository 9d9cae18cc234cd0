"""Records made again are compared by their digests, and else by the spread of their seeds."""

import math

import pytest
from companion import verify as v


@pytest.fixture
def made(make_record, tiny_spec):
    def make(seed, accuracy, f1=0.5, subject=1, **result):
        metrics = {"metrics": {"accuracy": accuracy, "f1": f1}}
        return make_record(tiny_spec(seed=seed, subject=subject), metrics | result)

    return make


def test_the_spread_is_pooled_over_runs_that_differ_in_their_seed(made):
    runs = [(0, 0.5, 1), (1, 0.6, 1), (0, 0.9, 2), (1, 0.9, 2), (2, 0.6, 2), (0, 0.1, 3)]
    records = [made(seed, accuracy, subject=subject) for seed, accuracy, subject in runs]
    # squares about the means: 2 * 0.05^2, and 2 * 0.1^2 + 0.2^2; degrees of freedom: 1 and 2; one seed tells nothing
    found = v.spread_over_seeds(records)
    assert found == {"accuracy": (pytest.approx(math.sqrt((0.005 + 0.06) / 3)), 3), "f1": (0.0, 3)}
    assert v.spread_over_seeds(records[-1:]) == {}


@pytest.mark.parametrize(
    ("spread", "accuracy", "f1", "word", "metric"),
    [(0.1, 0.87, 0.5, v.WITHIN, "accuracy"),  # two metrics, 10 degrees of freedom: 2.634 * sqrt(2) * 0.1 = 0.3725
     (0.1, 0.88, 0.1, v.OUTSIDE, "f1"), (0.1, 0.88, 0.5, v.OUTSIDE, "accuracy"),
     (0.1, 0.1, 0.51, v.OUTSIDE, "accuracy"), (0.1, 0.5, 0.5, v.EQUAL, ""), (0.0, 0.6, 0.5, v.ALONE, "accuracy")],
)  # fmt: skip
def test_the_metric_that_is_furthest_off_decides(made, spread, accuracy, f1, word, metric):
    before, again = made(0, 0.5), made(0, accuracy, f1, history=[1.0])
    found = v.compare(before, again, {"accuracy": (spread, 10), "f1": (spread, 10)})
    assert (found.word, found.metric) == (word, metric)
    assert v.compare(before, before, {}).word == v.SAME


def test_a_draw_is_repeated_by_its_seed_whatever_the_order(make_record, tiny_spec):
    records = [make_record(tiny_spec(seed=k)) for k in range(20)]
    drawn = v.draw(records, 5, 3)
    assert (len({r.hash for r in drawn}), len(v.draw(records, 50, 3))) == (5, 20)
    assert v.draw(records[::-1], 5, 3) == drawn != v.draw(records, 5, 4)
