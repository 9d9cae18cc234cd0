"""Records are written whole or not at all, and a record that was changed or damaged is never used."""

import copy
import errno
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from companion import records
from companion.records import (
    REQUIRED_RUN,
    Store,
    UnreadableRecord,
    check_writable,
    committed,
    compact_numbers,
    merge,
    read_jsonl,
    set_hash,
    validate,
    write_jsonl,
)
from sparsemtl.errors import RecordError

RESULT = {"metrics": {"mi_accuracy": 0.625, "me_f1": 0.5}, "history": [1.5, 1.25], "classes": ["left", "right"]}


@pytest.fixture
def record(make_record):
    return make_record(result=copy.deepcopy(RESULT))


@pytest.fixture
def three(make_record, tiny_spec):
    return [make_record(tiny_spec(seed=seed), {"value": seed / 4}) for seed in (2, 0, 1)]


def leaves(value, path=()):
    """Paths of all scalars in a JSON value."""
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, (*path, k))]
    if isinstance(value, list):
        return [leaf for k, v in enumerate(value) for leaf in leaves(v, (*path, k))]
    return [path]


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_layout_and_digest_agree_with_the_description(record):
    value = json.loads(json.dumps(record.to_dict()))
    assert set(value) == {"schema", "hash", "spec", "result", "digest", "run"}
    text = json.dumps(value["result"], sort_keys=True, separators=(",", ":"))
    assert value["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert value["hash"] == record.spec.hash
    back = validate(value)
    assert (back.spec, back.result, back.run) == (record.spec, record.result, record.run)


def test_any_value_of_spec_or_result_that_was_changed_is_caught(record):
    whole = record.to_dict()
    paths = [path for path in leaves(whole) if path[0] in ("schema", "hash", "spec", "result", "digest")]
    assert len(paths) > 20
    for path in paths:
        value = copy.deepcopy(whole)
        place = value
        for key in path[:-1]:
            place = place[key]
        old = place[path[-1]]
        place[path[-1]] = old + 1 if isinstance(old, int | float) else old + "0"
        with pytest.raises(RecordError, match=r"^results line 7: ") as caught:
            validate(value, "results line 7")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("result", "metrics", "mi_accuracy"), 0.9, "the digest does not belong to its result"),
        (("spec", "seed"), 5, "does not belong to its spec"),
        (("hash",), "0" * 16, "hash 0000000000000000 does not belong"),
        (("schema",), 2, "schema 2, this code reads 1; update sparsemtl"),
        (("result", "metrics", "mi_accuracy"), math.nan, "not JSON compliant"),
        (("result",), [1], "its result cannot be"),
        (("run",), 7, "its run cannot be 7"),
        (("spec",), "or", "its spec cannot be 'or'"),
        (("run", "packages"), [], "its packages cannot be"),
        (("run", "seconds"), None, "its seconds cannot be None"),
        (("run", "threads"), "one", "its threads cannot be"),
        (("spec", "profile"), "huge", "unknown profile 'huge'"),
        (("spec", "params"), None, "params is None"),
        (("spec", "study"), "../elsewhere", "study is"),
    ],
)
def test_what_is_wrong_is_said(record, path, value, message):
    whole = record.to_dict()
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RecordError, match=message):
        validate(whole)


@pytest.mark.parametrize(("part", "name"), [*((None, n) for n in records.PARTS), *(("run", n) for n in REQUIRED_RUN)])
def test_a_missing_part_is_named(record, part, name):
    value = json.loads(json.dumps(record.to_dict()))
    del (value[part] if part else value)[name]
    with pytest.raises(RecordError, match=f"lacks {name}"):
        validate(value)


def test_the_store_is_where_the_environment_says(record, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_RUNS", str(tmp_path / "here"))
    Store().write(record)
    assert Store().read(record.spec) == record
    assert files(tmp_path / "here") == [f"shin2023/quick/{record.hash}.json"]
    assert Store(tmp_path / "there").all() == ([], [])


def test_a_set_is_named_by_the_hashes_and_digests_of_its_records_in_any_order(three):
    lines = "\n".join(sorted(f"{r.hash} {r.digest}" for r in three))
    for some in (three, three[::-1], [*three, three[0]]):
        assert set_hash(some) == hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert set_hash(three[:2]) != set_hash(three)


def test_a_store_that_cannot_be_written_is_named(record, tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "runs")
    for action in (lambda: check_writable(store.folder), lambda: store.write(record)):
        with pytest.raises(RecordError, match=f"cannot write {tmp_path}"):
            action()
    assert store.read(record.spec) is None
    check_writable(tmp_path / "new")
    assert files(tmp_path / "new") == []


def test_lines_that_are_no_records_may_be_left_out_by_name(three, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", three)
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text[:-40])
    problems = []
    assert len(read_jsonl(tmp_path / "a.jsonl", problems)) == 2
    assert len(problems) == 1
    assert "a.jsonl line 3: damaged" in problems[0]


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


def test_a_record_that_may_be_whole_is_not_said_to_be_damaged(record, tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write(record)
    path = store.path(record.spec)
    newer = json.loads(path.read_text()) | {"schema": records.SCHEMA + 1}
    with monkeypatch.context() as patch:

        def busy(*args, **kwargs):
            raise OSError(errno.EMFILE, "Too many open files")

        patch.setattr(Path, "read_text", busy)
        with pytest.raises(UnreadableRecord, match=r"cannot be read \(Too many open files\): mend that, or delete it"):
            store.read(record.spec)
    path.write_text(json.dumps(newer))
    with pytest.raises(UnreadableRecord, match=f"schema {records.SCHEMA + 1}, .* update sparsemtl"):
        store.read(record.spec)


@pytest.mark.parametrize("depth", [700, 100_000])  # too deep for Python code, and for the parser
def test_values_nested_beyond_all_use_are_damage(record, tmp_path, depth):
    store = Store(tmp_path)
    store.write(record)
    path = store.path(record.spec)
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


def test_a_damaged_line_is_named_by_file_and_number(three, tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, three)
    lines = path.read_text().splitlines()
    for bad in (lines[1][:-5], lines[1].replace('"value":', '"value":1'), "NaN", "\0"):
        path.write_text("\n".join([lines[0], "", bad, lines[2]]))
        with pytest.raises(RecordError, match=r"a\.jsonl line 3: "):
            read_jsonl(path)


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
    assert kept == three
    assert len(conflicts) == 1
    for word in (three[0].hash, "cpu", "another machine"):
        assert word in conflicts[0]
    assert merge() == ([], [])


def test_numbers_by_hand():
    assert compact_numbers(1 / 3) == 0.333333
    assert compact_numbers(2e5 / 3) == 66666.7
    assert compact_numbers(-123456789.0) == -123457000.0
    assert compact_numbers({1: np.float32(0.1), "i": np.int64(12345678), "t": (True, None, "a")}) == {
        "1": 0.1, "i": 12345678, "t": [True, None, "a"]
    }  # fmt: skip
    assert compact_numbers([np.eye(2), torch.ones(1, dtype=torch.int64)]) == [[[1.0, 0.0], [0.0, 1.0]], [1]]


@pytest.mark.parametrize(
    "value", [math.nan, -math.inf, np.float32("inf"), np.array([0, np.nan]), torch.tensor(math.nan)]
)
def test_a_result_that_is_not_finite_is_refused(value):
    with pytest.raises(RecordError, match="diverged"):
        compact_numbers({"metrics": [{"loss": value}]})
