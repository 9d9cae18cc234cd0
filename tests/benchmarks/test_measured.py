"""Benchmark records: what is written is read back, ratios are those of another computation, changes are found."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import Benchmark, Mark, committed_benchmarks, read
from sparsemtl.errors import RecordError

TIMES = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9)


def made(slow=(2.0, 4.0, 3.0), fast=(1.0, 1.0, 2.0), word="at least", wanted=2.0, **more):
    sides = {
        "slow": {"unit": "s", "values": list(slow)}, "fast": {"unit": "s", "values": list(fast)},
        "all": {"unit": "FLOPs", "values": [300.0]}, "few": {"unit": "FLOPs", "values": [100.0]},
    }  # fmt: skip
    mark = Mark("slow over fast", "slow", "fast", word, wanted, **more)
    return Benchmark("made-up", sides, (mark,), {"case": 1}, {"device": "cpu", "threads": 1})


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = made(over=("all", "few"))
    path = record.write(tmp_path / "benchmarks")
    assert path.name == "made-up-cpu.json"
    assert read(path) == record
    assert committed_benchmarks(tmp_path) == {("made-up", "cpu"): record}


@given(TIMES)
def test_the_ratio_and_its_quartiles_are_of_the_turns(times):
    record = made(slow=times, fast=times[::-1])
    ratio, low, high = record.ratio(record.marks[0])
    paired = np.array(times) / np.array(times[::-1])
    assert (low, ratio, high) == pytest.approx(tuple(np.percentile(paired, (25, 50, 75))))
    assert low <= ratio <= high


def test_sides_that_do_not_pair_are_compared_by_their_medians_and_gains_can_be_divided():
    record = made(slow=(2.0, 4.0, 3.0), fast=(1.0, 3.0))
    assert record.ratio(record.marks[0]) == (1.5, 1.5, 1.5)
    record = made(over=("all", "few"))  # a gain in time over the gain in operations
    assert record.ratio(record.marks[0])[0] == pytest.approx(2.0 / 3.0)


@pytest.mark.parametrize(
    ("word", "wanted", "met"),
    [("at least", 1.9, True), ("at least", 2.1, False), ("at most", 2.1, True), ("at most", 1.9, False)],
)
def test_a_mark_is_met_on_its_own_side(word, wanted, met):
    record = made(word=word, wanted=wanted)
    assert record.met(record.marks[0]) is met


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"sides": {key: {"unit": "s", "values": [1.0]} for key in ("slow", "fast")}}, {"marks": []},
     {"details": {"case": 2}}, {"environment": {}}],
)  # fmt: skip
def test_a_value_changed_by_hand_is_found(tmp_path, change):
    path = made().write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError, match=rf"{path.name}: the digest does not belong to its content"):
        read(path)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 7}', '{"schema": 1}', '{"schema": 1, "marks": [{"what": "x"}]}']
)
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "bad-cpu.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"bad-cpu\.json: (damaged|schema 7, this code reads)"):
        read(path)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(RecordError, match="'about' is neither"):
        made(word="about")
    with pytest.raises(RecordError, match="no side 'gone'"):
        made(over=("gone", "few"))
