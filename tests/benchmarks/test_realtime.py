"""The page on real time says what its decisions say."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import realtime
from measured import Benchmark


@pytest.fixture
def decisions():
    times = [0.1 * k for k in range(1, 101)]
    left = [0.9 if t < 5 else 0.2 for t in times]
    rows = {"time_s": times, "left_hand": left, "right_hand": [1 - p for p in left], "compute_ms": [2.0] * 99 + [150.0]}
    return pd.DataFrame(rows | {"late_ms": [3.0] * 99 + [151.0], "late": [False] * 99 + [True]})


def test_the_sentence_on_pace_counts_what_was_late(decisions):
    said = realtime.kept_pace(decisions, 0.1)
    assert said.startswith("100 decisions, one in 100 ms: 1 came after the next was due. A decision took 2.0 ms")
    assert said.endswith("2.0 % of the time between two.")


def test_a_cue_is_judged_by_the_decision_at_the_end_of_its_window(decisions):
    cues = [(1.0, "left_hand"), (2.0, "left_hand"), (5.0, "right_hand"), (9.0, "right_hand")]  # the last has no end
    said = realtime.said_after_cues(decisions, cues)
    assert said.startswith("2 of 3 movements are named")  # at 4.5, 5.5 and 8.5 s
    assert "guessing names 1.5 of them" in said
    assert realtime.said_after_cues(decisions, cues[1:3]).startswith("1 of 2 movements is named")


def test_the_groups_that_networks_have_lost_are_a_range():
    kinds = [{"dense": {"weights": 9}, "compacted 40 %": {"weights": 5, "zero groups": z}} for z in (0.5, 0.375)]
    record = Benchmark("latency", {}, (), {"networks": dict(zip("ab", kinds, strict=True))})
    assert realtime.removed([record]) == "Lost by compacted 40 %: 37.5 % to 50.0 % of the groups."
    assert "not run" in realtime.removed([])


def test_the_figure_draws_a_line_for_each_class_and_every_decision(decisions):
    top, bottom = realtime.decisions_figure(decisions, [(1.0, "left_hand")]).axes
    assert [t.get_text() for t in top.get_legend().get_texts()] == ["left hand", "right hand"]
    assert len(bottom.get_lines()[0].get_xdata()) == len(decisions)
    plt.close("all")
