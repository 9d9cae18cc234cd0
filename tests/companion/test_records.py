"""Records are written whole or not at all, and a record that was changed or damaged is never used."""

import hashlib
import json
import math
from functools import reduce
from operator import getitem

import numpy as np
import pytest
import torch
from companion import records
from companion.records import Store, UnreadableRecord, committed, merge, read_jsonl, validate, write_jsonl
from sparsemtl.errors import RecordError

RESULT = {"metrics": {"mi_accuracy": 0.625, "me_f1": 0.5}, "history": [1.5, 1.25], "classes": ["left", "right"]}


@pytest.fixture
def record(make_record):
    return make_record(result=RESULT)


@pytest.fixture
def three(make_record, tiny_spec):
    return [make_record(tiny_spec(seed=seed), {"value": seed / 4}) for seed in (2, 0, 1)]


@pytest.fixture
def kept(record, tmp_path):
    store = Store(tmp_path)
    store.write(record)
    return store, store.path(record.spec)


def leaves(value, path=()):
    """Path -> value of all scalars in a JSON value."""
    if not isinstance(value, dict | list):
        return {path: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {place: leaf for key, part in pairs for place, leaf in leaves(part, (*path, key)).items()}


def changed(record, path, value):
    """The record as a dict with another value at one place."""
    whole = json.loads(json.dumps(record.to_dict()))
    reduce(getitem, path[:-1], whole)[path[-1]] = value
    return whole


def test_layout_and_digest_agree_with_the_description(record):
    value = json.loads(json.dumps(record.to_dict()))
    assert set(value) == {"schema", "hash", "spec", "result", "digest", "run"}
    text = json.dumps(value["result"], sort_keys=True, separators=(",", ":"))
    assert (value["digest"], value["hash"]) == (hashlib.sha256(text.encode()).hexdigest(), record.spec.hash)
    assert validate(value) == record


def test_any_value_of_spec_or_result_that_was_changed_is_caught(record):
    found = {path: old for path, old in leaves(record.to_dict()).items() if path[0] != "run"}
    assert len(found) > 20
    for path, old in found.items():
        other = old + 1 if isinstance(old, int | float) else old + "0"
        with pytest.raises(RecordError, match=r"^results line 7: .*$"):
            validate(changed(record, path, other), "results line 7")
    with pytest.raises(RecordError, match="the digest does not belong to its result"):
        validate(changed(record, ("result", "history", 0), 1.75))
    with pytest.raises(RecordError, match="not JSON compliant"):  # though Python's reader takes it
        validate(changed(record, ("result", "history", 0), math.nan))


OF_ANOTHER_KIND = {
    ("result",): [1], ("run", "packages"): [], ("run", "seconds"): None, ("run", "threads"): "one",
    ("spec", "study"): "../elsewhere",
}  # fmt: skip


@pytest.mark.parametrize("path", OF_ANOTHER_KIND)
def test_a_value_of_another_kind_is_named(record, path):
    with pytest.raises(RecordError, match=f"{path[-1]} (cannot be|is) "):
        validate(changed(record, path, OF_ANOTHER_KIND[path]))


@pytest.mark.parametrize("path", [(name,) for name in records.PARTS] + [("run", name) for name in records.REQUIRED_RUN])
def test_a_missing_part_is_named(record, path):
    value = changed(record, path, None)
    del reduce(getitem, path[:-1], value)[path[-1]]
    with pytest.raises(RecordError, match=f"lacks {path[-1]}"):
        validate(value)


def test_the_store_is_where_the_environment_says(record, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_RUNS", str(tmp_path / "here"))
    Store().write(record)
    assert Store().read(record.spec) == record
    assert (tmp_path / f"here/shin2023/quick/{record.hash}.json").is_file()
    assert Store(tmp_path / "there").all() == ([], [])


def test_a_set_is_named_by_the_hashes_and_digests_of_its_records_in_any_order(three):
    lines = "\n".join(sorted(f"{r.hash} {r.digest}" for r in three))
    for some in (three, three[::-1], [*three, three[0]]):
        assert records.set_hash(some) == hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert records.set_hash(three[:2]) != records.set_hash(three)


def test_a_store_that_cannot_be_written_is_named(record, tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "runs")
    for action in (lambda: records.check_writable(store.folder), lambda: store.write(record)):
        with pytest.raises(RecordError, match=f"cannot write {tmp_path}"):
            action()
    assert store.read(record.spec) is None
    records.check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_damaged_file_is_named_and_the_others_are_read(three, tmp_path):
    store = Store(tmp_path)
    for record in three:
        store.write(record)
    bad = store.path(three[1].spec)
    whole = bad.read_bytes().rstrip()
    for damage in (b"\xff\xfe\x00", b"[1]", b'{"schema": 1}', *(whole[:n] for n in range(0, len(whole), 7))):
        bad.write_bytes(damage)
        with pytest.raises(RecordError, match=str(bad)):
            store.read(three[1].spec)
        found, problems = store.all()
        assert {r.hash for r in found} == {three[0].hash, three[2].hash}
        assert [str(bad) in line and "\n" not in line for line in problems] == [True]


def test_a_record_that_may_be_whole_is_not_said_to_be_damaged(kept, record):
    store, path = kept
    path.write_text(json.dumps(record.to_dict() | {"schema": 2}))
    with pytest.raises(UnreadableRecord, match=r"schema 2, .* update sparsemtl"):
        store.read(record.spec)
    path.unlink()
    path.mkdir()
    with pytest.raises(UnreadableRecord, match=r"cannot be read \("):
        store.read(record.spec)


@pytest.mark.parametrize("depth", [700, 100_000])  # too deep for Python code, and for the parser
def test_values_nested_beyond_all_use_are_damage(kept, record, depth):
    store, path = kept
    whole, deep = path.read_text(), '{"a": ' * depth + "0" + "}" * depth
    path.write_text(whole.replace('"options": {', f'"options": {{"a": {deep}, ', 1))
    assert path.read_text() != whole
    with pytest.raises(RecordError, match=r"damaged|does not belong to its spec"):  # Python 3.12 bears more
        store.read(record.spec)


def test_a_record_under_another_name_is_not_taken_for_it(three, tmp_path):
    store = Store(tmp_path)
    store.write(three[0])
    store.path(three[0].spec).rename(store.path(three[1].spec))
    with pytest.raises(RecordError, match=f"holds run {three[0].hash}"):
        store.read(three[1].spec)


def test_records_travel_as_lines_and_come_back_byte_for_byte(three, tmp_path):
    assert write_jsonl(tmp_path / "a.jsonl", [*three, three[0]]) == 3
    back = read_jsonl(tmp_path / "a.jsonl")
    assert sorted(back, key=lambda r: r.hash) == sorted(three, key=lambda r: r.hash)
    write_jsonl(tmp_path / "b.jsonl", reversed(back))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_damaged_line_is_named_by_file_and_number_or_left_out_by_name(three, tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, three)
    lines = path.read_text().splitlines()
    for bad in (lines[1][:-5], lines[1].replace('"value":', '"value":1'), "NaN", "\0"):
        path.write_text("\n".join([lines[0], "", bad, lines[2]]))
        with pytest.raises(RecordError, match=r"a\.jsonl line 3: ") as caught:
            read_jsonl(path)
        problems = []
        assert len(read_jsonl(path, problems)) == 2
        assert problems == [str(caught.value)]


def test_committed_records_that_change_are_read_again(three, tmp_path):
    path = tmp_path / "shin2023/small/a.jsonl"
    write_jsonl(path, three[:2])
    assert len(committed(tmp_path)) == 2
    write_jsonl(path, three)
    assert {r.hash for r in committed(tmp_path)} == {r.hash for r in three}
    path.write_text(path.read_text().replace('"value":', '"other":'))
    with pytest.raises(RecordError, match=r"a\.jsonl line 1: .*digest does not belong"):
        committed(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecordError, match=r"a\.jsonl: cannot be read"):
        committed(tmp_path)


def test_merging_keeps_the_first_and_tells_of_the_other(three, make_record):
    other = make_record(three[0].spec, {"value": 0.75}, device="another machine")
    again = make_record(three[1].spec, three[1].result, started="2025-01-01T00:00:00+00:00")
    kept, conflicts = merge(three, [other, again])
    assert (kept, len(conflicts)) == (three, 1)
    assert all(word in conflicts[0] for word in (three[0].hash, "cpu", "another machine"))
    assert merge() == ([], [])


def test_numbers_by_hand():
    assert records.compact_numbers([1 / 3, 2e5 / 3, -123456789.0]) == [0.333333, 66666.7, -123457000.0]
    assert records.compact_numbers({1: np.float32(0.1), "i": np.int64(12345678), "t": (True, None, "a")}) == {
        "1": 0.1, "i": 12345678, "t": [True, None, "a"]
    }  # fmt: skip
    assert records.compact_numbers([np.eye(2), torch.ones(1, dtype=torch.int64)]) == [[[1.0, 0.0], [0.0, 1.0]], [1]]


@pytest.mark.parametrize("value", [-math.inf, np.float32("inf"), np.array([0, np.nan]), torch.tensor(math.nan)])
def test_a_result_that_is_not_finite_is_refused(value):
    with pytest.raises(RecordError, match="diverged"):
        records.compact_numbers({"metrics": [{"loss": value}]})
