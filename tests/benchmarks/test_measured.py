"""Benchmark records are read back as written, with ratios as another computation has them; programs have records."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import scaling
import training
from companion.data import load
from efficiency import TITLES
from hypothesis import given
from hypothesis import strategies as st
from measured import Benchmark, Mark, committed_benchmarks, read
from sparsemtl.errors import RecordError

ROOT = Path(__file__).parents[2]
RECORDS = committed_benchmarks(ROOT / "results")
PROGRAMS = sorted((ROOT / "benchmarks").glob("*.py"))
LIBRARIES = {"harness", "measured", "efficiency", "realtime", "streaming", "export", "gpu_run"}  # without a record
TIMES = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9)


def made(slow=(2.0, 4.0, 3.0), fast=(1.0, 1.0, 2.0), word="at least", wanted=2.0, **more):
    sides = {"slow": ("s", slow), "fast": ("s", fast), "all": ("FLOPs", [300.0]), "few": ("FLOPs", [100.0])}
    sides = {name: {"unit": unit, "values": list(values)} for name, (unit, values) in sides.items()}
    mark = Mark("slow over fast", "slow", "fast", word, wanted, **more)
    return Benchmark("made-up", sides, (mark,), {"case": 1}, {"device": "cpu", "threads": 1})


def ratio(**kept):
    record = made(**kept)
    return record.ratio(record.marks[0])


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    record = made(over=("all", "few"))
    assert read(record.write(tmp_path / "benchmarks")) == record
    assert committed_benchmarks(tmp_path) == {("made-up", "cpu"): record}


@given(TIMES)
def test_the_ratio_and_its_quartiles_are_of_the_turns(times):
    middle, low, high = ratio(slow=times, fast=times[::-1])
    paired = np.array(times) / np.array(times[::-1])
    assert (low, middle, high) == pytest.approx(tuple(np.percentile(paired, (25, 50, 75))))


def test_sides_that_do_not_pair_are_compared_by_their_medians_and_gains_can_be_divided():
    assert ratio(slow=(2.0, 4.0, 3.0), fast=(1.0, 3.0)) == (1.5, 1.5, 1.5)
    assert ratio(over=("all", "few"))[0] == pytest.approx(2.0 / 3.0)  # a gain in time over the gain in operations


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
    with pytest.raises(RecordError, match=rf"{path.name}: the digest"):
        read(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 7}', '{"schema": 1, "marks": [{"what": "x"}]}'])
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "bad-cpu.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=path.name):
        read(path)


@pytest.mark.parametrize(("named", "wrong"), [("'about'", {"word": "about"}), ("'gone'", {"over": ("gone", "few")})])
def test_what_cannot_be_compared_is_refused(named, wrong):
    with pytest.raises(RecordError, match=named):
        made(**wrong)


def test_programs_and_benchmarks_of_the_pages_have_a_record():
    assert {path.stem for path in PROGRAMS} - LIBRARIES == {r.environment["script"] for r in RECORDS.values()}
    assert {(name, "cpu") for name in TITLES} <= RECORDS.keys()


@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda record: record.name)
def test_a_record_counts_something_and_a_missed_mark_comes_with_what_is_behind_it(record):
    assert all(value > 0 for side in record.sides.values() for value in side["values"])
    if not all(map(record.met, record.marks)):
        assert record.details.keys() & {"profile", "survived", "below"}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_names_what_the_library_has(program):
    """They run by hand, hours apart: a name that has changed would be seen only then."""
    nodes, names = list(ast.walk(ast.parse(program.read_text(encoding="utf-8")))), {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.startswith(("sparsemtl", "companion", "papers")):
            exec(ast.unparse(node), names)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            assert hasattr(names[node.value.id], node.attr), ast.unparse(node)


def test_programs_take_steps_of_the_runs_of_today():
    small = {"width": 4, "head_width": 4, "batch": 2, "size": 32}
    run = training.training(load("rooms", size=32, n=16), "cpu", **small)
    training.our_step(run, training.batches(run))
    assert training.operations(run) > 0
    assert scaling.dense_step("seg", 32, "cpu")() is None
