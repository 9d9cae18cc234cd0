"""Records travel between stores and files, and each can be found again: export, import, show, diff, queue."""

import shlex

import pytest
from commands import call
from companion.records import Store, read_jsonl, write_jsonl

FILE = "results/toy2020/quick/a.jsonl"


@pytest.fixture(autouse=True)
def study(repository):
    """The toy paper, in a repository that is an empty folder."""
    return repository


@pytest.fixture
def three(study, make_record):
    """Records of the first three runs."""
    return [make_record(spec, {"metrics": {"centre": 1.0 * spec.seed}}) for spec in study.all_specs("quick")[:3]]


def test_export_and_import_carry_records_from_store_to_store(capsys):
    call(capsys, "run", "toy2020")
    assert call(capsys, "export", "toy2020", "a.jsonl")[::2] == (0, ["15 records written to a.jsonl"])
    assert call(capsys, "import", "a.jsonl", "--store", "other")[::2] == (0, ["15 of 15 records taken into other"])
    assert call(capsys, "import", "a.jsonl", "--store", "other")[::2] == (0, ["0 of 15 records taken into other"])
    call(capsys, "export", "toy2020", "b.jsonl", "--store", "other", "--profile", "quick")
    with open("a.jsonl", "rb") as a, open("b.jsonl", "rb") as b:
        assert a.read() == b.read()
    call(capsys, "export", "toy2020", "c.jsonl", "--seed", "0", "3", "--table", "table1")
    assert len(read_jsonl("c.jsonl")) == 4


def test_import_says_conflicts_and_replaces_what_is_damaged(capsys, study, make_record):
    spec = study.all_specs("quick")[0]
    ours, theirs = make_record(spec, {"value": 1.0}), make_record(spec, {"value": 2.0}, device="H100")
    store = Store("runs")
    store.write(ours)
    write_jsonl("a.jsonl", [theirs])
    status, _, err = call(capsys, "import", "a.jsonl")
    assert (status, err[-1]) == (0, "0 of 1 records taken into runs")
    assert "H100" in err[0]
    assert store.read(spec) == ours
    store.path(spec).write_text("{")
    assert call(capsys, "import", "a.jsonl")[2][-1] == "1 of 1 records taken into runs"
    assert store.read(spec) == theirs


def test_an_import_takes_the_lines_that_are_records(capsys, three):
    write_jsonl("a.jsonl", three)
    with open("a.jsonl", "r+") as file:
        file.truncate(len(file.read()) - 30)
    status, _, err = call(capsys, "import", "a.jsonl")
    assert status == 2
    assert "left out: a.jsonl line 3: damaged" in err[0]
    assert len(Store("runs").all()[0]) == 2


def test_an_export_keeps_the_other_records_of_its_file_and_says_what_it_replaces(capsys, three, make_record):
    write_jsonl("a.jsonl", three[:2])
    Store("runs").write(again := make_record(three[0].spec, {"metrics": {"centre": 9.0}}, device="NVIDIA H200"))
    said, written = call(capsys, "export", "toy2020", "a.jsonl")[2]
    assert f"run {again.hash}" in said
    assert "NVIDIA H200" in said
    assert written == "2 records written to a.jsonl, 1 of them were there"
    assert {r.digest for r in read_jsonl("a.jsonl")} == {again.digest, three[1].digest}


def test_what_is_damaged_is_left_out_and_named(capsys, three):
    store = Store("runs")
    for record in three[:2]:
        store.write(record)
    store.path(three[1].spec).write_text("{")
    status, _, err = call(capsys, "export", "toy2020", "a.jsonl")
    assert status == 0
    assert err[0].startswith(f"sparsemtl: left out: {store.path(three[1].spec)}: damaged")
    assert read_jsonl("a.jsonl") == three[:1]
    assert "damaged" in call(capsys, "show", three[1].hash)[2][0]
    write_jsonl(FILE, three[:1])
    write_jsonl(FILE.replace("a.jsonl", "b.jsonl"), three[:2])
    for words in (("show", three[0].hash), ("list", "toy2020")):  # no page may average over both
        status, _, err = call(capsys, *words)
        assert (status, len(err)) == (2, 1)
        assert f"run {three[0].hash} is in" in err[0]


def test_the_command_that_show_prints_makes_the_run_again(capsys):
    for given in ((), ("--set", "draws=3"), ("--set", "draws=4", "shift=0.25")):
        choice = ("--seed", "2", "--method", "mean", "--param", "shift=1.0")
        call(capsys, "run", "toy2020", *choice, *given, "--store", "some")
        (record,) = Store("some").all()[0]
        _, out, _ = call(capsys, "show", record.hash, "--store", "some")
        (command,) = [line.partition(": ")[2] for line in out if line.startswith("run it again")]
        words = shlex.split(command)[1:]
        assert call(capsys, *words, "--store", "other")[2] == ["1 runs executed, 1 records in all"]
        assert [r.digest for r in Store("other").all()[0]] == [record.digest]
        for path in (*Store("other").folder.rglob("*.json"), *Store("some").folder.rglob("*.json")):
            path.unlink()


def test_show_says_where_a_number_comes_from(capsys, three, make_record):
    write_jsonl(FILE, three[:1])
    Store().write(three[0])
    _, out, err = call(capsys, "show", three[0].hash)
    assert err == []
    for line in (
        "  centre: 0.0", f"digest of the result: {three[0].digest}", "  seed: 0", "  device: cpu",
        "  code: 0123456789abcdef", "  torch: 2.11.0", "found in: results and runs",
    ):  # fmt: skip
        assert line in out
    Store().write(make_record(three[0].spec, {"metrics": {"centre": 7.0}}))
    _, out, err = call(capsys, "show", three[0].hash)
    assert "has 2 results" in err[0]
    assert [line.strip() for line in out if "found in" in line or "centre" in line] == [
        "found in: results", "centre: 0.0", "found in: runs", "centre: 7.0",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [(), ("--table", "table1")])
def test_show_knows_the_record_set_that_a_page_cites(capsys, study, make_record, words):
    write_jsonl(FILE, [make_record(s) for s in study.all_specs("quick")[:7]])
    _, listed, err = call(capsys, "list", "toy2020", *words)
    name = err[0].split()[-1]
    status, out, _ = call(capsys, "show", name)
    assert status == 0
    assert out[0].startswith(f"record set {name}")
    committed = [{line.split()[0] for line in lines if line.split()[1] == "committed"} for lines in (out[1:], listed)]
    assert committed[0] == committed[1]


def test_the_working_folder_does_not_decide_which_records_count(capsys, three, monkeypatch, tmp_path):
    Store("runs").write(three[0])
    write_jsonl(FILE, three[1:2])
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for variable in (None, "runs"):  # relative to the repository
        if variable:
            monkeypatch.setenv("SPARSEMTL_RUNS", variable)
        for record in three[:2]:
            assert call(capsys, "show", record.hash)[0] == 0
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    assert "there is no folder" in call(capsys, "list", "toy2020")[2][0]
    assert call(capsys, "queue")[0] == 2


def test_diff_says_why_two_records_differ(capsys, study, make_record):
    spec, next_spec = study.specs("quick")[:2]
    result = {"metrics": {"a": 0.5, "b": [1, 2]}, "data": {"fingerprint": "f" * 64}}
    other = {"metrics": {"a": 0.5, "b": [1, 3]}, "data": {"fingerprint": "f" * 64}}
    Store("runs").write(ours := make_record(spec, result))
    Store("theirs").write(make_record(spec, other, device="NVIDIA H200", packages={"torch": "2.10.0"}))
    status, out, _ = call(capsys, "diff", f"runs:{ours.hash[:8]}", f"theirs:{ours.hash[:8]}")
    assert status == 0
    assert "differ in metrics, because of:" in out[0]
    assert any("device is cpu and NVIDIA H200" in line for line in out)
    assert any("torch is 2.11.0 and 2.10.0" in line for line in out)
    assert not any(line.startswith(("spec", "data")) for line in out)
    Store("runs").write(again := make_record(next_spec, result))
    out = call(capsys, "diff", ours.hash, again.hash)[1]
    assert "the same to the bit" in out[0]
    assert "spec: shift is 0.0 and 1.0" in out


def test_a_queue_goes_into_a_file(capsys, three):
    write_jsonl(FILE, three)
    assert call(capsys, "queue", "--out", "QUEUE.md")[:2] == (0, [])
    with open("QUEUE.md") as file:
        assert file.read().splitlines() == call(capsys, "queue")[1]
