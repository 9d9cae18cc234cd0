"""The command line reads well, a mistake is one line with a way out and exit status 2, and records travel by it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call
from companion import papers
from companion.__main__ import main
from companion.records import Store, read_jsonl, set_hash, write_jsonl
from companion.spec import RunSpec
from sparsemtl.errors import DataError

FILE = "results/toy2020/quick/a.jsonl"


@pytest.fixture(autouse=True)
def study(repository):
    return repository


@pytest.fixture
def three(study, make_record):
    return [make_record(spec, {"metrics": {"centre": 1.0 * spec.seed}}) for spec in study.all_specs("quick")[:3]]


def failing(monkeypatch, error, when):
    run = papers.part("toy2020", "run").run

    def fail(spec, root=None, device="cpu"):
        if when(spec):
            raise error
        return run(spec)

    monkeypatch.setattr(papers.part("toy2020", "run"), "run", fail)


def test_every_command_has_help(capsys):
    commands = ("list", "run", "verify", "show", "diff", "export", "import", "queue", "crate", "data")
    for words in ((), *((name,) for name in commands)):
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--help"])
        assert capsys.readouterr().out.startswith(" ".join(["usage: sparsemtl", *words]))


def test_list_run_and_show_mean_the_same_run(capsys):
    choice = ("toy2020", "--seed", "3", "--param", "shift=1.0")
    status, (line,), err = call(capsys, "list", *choice)
    name, state, _ = line.split(maxsplit=2)
    assert (status, state, err) == (0, "missing", ["1 runs, 0 with a record in results or runs"])
    assert call(capsys, "run", *choice) == (0, [], ["1 runs executed, 1 records in all"])
    assert call(capsys, "run", *choice)[2] == ["0 runs executed, 1 records in all"]
    _, (line,), err = call(capsys, "list", *choice)
    assert line.split()[:2] == [name, "done"]
    assert err[0].endswith(f"record set {set_hash(Store().all()[0])}")
    status, out, err = call(capsys, "show", name[:6], "--json")
    assert (status, json.loads("\n".join(out)), err) == (0, Store().all()[0][0].to_dict(), [])


def test_a_failed_run_is_named_once_a_cause_and_the_others_are_kept(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, DataError("a.edf is truncated"), lambda spec: spec.params["shift"] > 0)
        status, out, (executed, failed) = call(capsys, "run", "toy2020")
    assert (status, out, executed) == (2, [], "10 runs executed, 10 records in all")
    assert failed.startswith("sparsemtl: failed: toy2020 quick mean seed=0")
    assert failed.endswith("and 4 more: a.edf is truncated")
    assert call(capsys, "run", "toy2020")[2] == ["5 runs executed, 15 records in all"]


def test_ctrl_c_is_one_line_and_status_130(capsys, monkeypatch):
    failing(monkeypatch, KeyboardInterrupt(), lambda spec: spec.seed == 2)
    status, out, err = call(capsys, "run", "toy2020")
    assert (status, out, len(err)) == (130, [], 1)
    assert "the same command resumes" in err[0]
    assert {r.spec.seed for r in Store("runs").all()[0]} == {0, 1}


@pytest.mark.parametrize(("now", "status"), [(0.0, 0), (0.05, 0), (50.0, 2)])
def test_verify_runs_records_again_and_compares_with_the_spread_of_seeds(capsys, monkeypatch, study, now, status):
    call(capsys, "run", "toy2020")
    call(capsys, "export", "toy2020", FILE)
    run = papers.part("toy2020", "run").run

    def shifted(spec, root=None, device="cpu"):
        return {"metrics": {"centre": run(spec)["metrics"]["centre"] + now * (spec.seed == 1)}}

    monkeypatch.setattr(papers.part("toy2020", "run"), "run", shifted)
    before = sorted(os.listdir("runs/toy2020/quick"))
    ended, out, err = call(capsys, "verify", "toy2020", "--profile", "quick", "--draw", "99", "--draw-seed", "7")
    assert (ended, len(out), err[0]) == (status, 15, "15 of 15 committed records, --draw-seed 7")
    assert sum("to the bit" in line for line in out) == (15 if now == 0 else 12)
    assert sorted(os.listdir("runs/toy2020/quick")) == before
    assert call(capsys, "verify", "toy2020", "--draw", "0")[2] == ["sparsemtl: --draw is 0: it must be 1 or more"]
    assert "no record of toy2020 at the profile full" in call(capsys, "verify", "toy2020", "--profile", "full")[2][0]


def test_data_says_what_is_in_a_set(capsys):
    status, out, err = call(capsys, "data", "simulated-eeg")
    assert (status, err) == (0, [])
    words = ("64 channels", "160 Hz", "left_hand, right_hand", "trials", "recordings", "fingerprint")
    assert all(word in "\n".join(out) for word in words)


def test_a_whole_number_that_is_set_is_the_grids_number(capsys):
    grid = call(capsys, "list", "toy2020", "--param", "shift=0.0")[1]
    assert call(capsys, "list", "toy2020", "--param", "shift=0")[1] == grid
    assert set(call(capsys, "list", "toy2020", "--param", "shift=1.0", "--set", "shift=0")[1]) < set(grid)


@pytest.mark.parametrize("study_name", ["toy2020", "other2024"])
def test_show_says_that_this_code_does_not_know_a_method(capsys, make_record, study_name):
    Store().write(record := make_record(RunSpec(study_name, "small", "normal", "novel", 0, {})))
    status, out, err = call(capsys, "show", record.hash)
    assert (status, err) == (0, [])
    assert f"run it again: not with this code, which does not know the method novel of {study_name}" in out


def test_a_range_of_people_takes_those_that_the_grid_has(capsys):
    _, out, err = call(capsys, "list", "shin2023", "--profile", "small", "--table", "trunks", "--people", "1-2", "42")
    assert {line.split("subject=")[1].split()[0] for line in out} == {"1", "42"}
    assert "left out: 2" in err[0]


def test_export_and_import_carry_records_from_store_to_store_and_take_the_lines_that_are_whole(capsys):
    call(capsys, "run", "toy2020")
    assert call(capsys, "export", "toy2020", "a.jsonl")[::2] == (0, ["15 records written to a.jsonl"])
    for taken in (15, 0):
        expected = f"{taken} of 15 records taken into other"
        assert call(capsys, "import", "a.jsonl", "--store", "other")[::2] == (0, [expected])
    call(capsys, "export", "toy2020", "b.jsonl", "--store", "other", "--profile", "quick")
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    call(capsys, "export", "toy2020", "c.jsonl", "--seed", "0", "3", "--table", "table1")
    assert len(read_jsonl("c.jsonl")) == 4
    os.truncate("a.jsonl", os.path.getsize("a.jsonl") - 30)
    status, _, (left_out, taken) = call(capsys, "import", "a.jsonl", "--store", "third")
    assert (status, taken) == (2, "14 of 14 records taken into third")
    assert "left out: a.jsonl line 15: damaged" in left_out


def test_import_says_conflicts_and_replaces_what_is_damaged(capsys, three, make_record):
    ours, store = three[0], Store("runs")
    theirs = make_record(ours.spec, {"value": 2.0}, device="H100")
    store.write(ours)
    write_jsonl("a.jsonl", [theirs])
    status, _, (conflict, taken) = call(capsys, "import", "a.jsonl")
    assert (status, taken, store.read(ours.spec)) == (0, "0 of 1 records taken into runs", ours)
    assert "H100" in conflict
    store.path(ours.spec).write_text("{")
    assert call(capsys, "import", "a.jsonl")[2] == ["1 of 1 records taken into runs"]
    assert store.read(ours.spec) == theirs


def test_an_export_keeps_the_other_records_of_its_file_and_says_what_it_replaces(capsys, three, make_record):
    write_jsonl("a.jsonl", three[:2])
    Store("runs").write(again := make_record(three[0].spec, {"metrics": {"centre": 9.0}}, device="NVIDIA H200"))
    said, written = call(capsys, "export", "toy2020", "a.jsonl")[2]
    assert all(word in said for word in (f"run {again.hash}", "NVIDIA H200"))
    assert written == "2 records written to a.jsonl, 1 of them were there"
    assert {r.digest for r in read_jsonl("a.jsonl")} == {again.digest, three[1].digest}


def test_what_is_damaged_is_left_out_and_named(capsys, three):
    store = Store("runs")
    for record in three[:2]:
        store.write(record)
    store.path(three[1].spec).write_text("{")
    status, _, err = call(capsys, "export", "toy2020", "a.jsonl")
    assert (status, read_jsonl("a.jsonl")) == (0, three[:1])
    assert err[0].startswith(f"sparsemtl: left out: {store.path(three[1].spec)}: damaged")
    assert "damaged" in call(capsys, "show", three[1].hash)[2][0]
    write_jsonl(FILE, three[:1])
    states = [line.split()[1] for line in call(capsys, "list", "toy2020", "--table", "table1")[1]]
    assert states == ["committed", "damaged", *["missing"] * 8]
    write_jsonl(FILE.replace("a.jsonl", "b.jsonl"), three[:2])
    for words in (("show", three[0].hash), ("list", "toy2020")):  # no page may average over both
        status, _, (said,) = call(capsys, *words)
        assert status == 2
        assert f"run {three[0].hash} is in" in said


@pytest.mark.parametrize("given", [(), ("--set", "draws=3"), ("--set", "draws=4", "shift=0.25")])
def test_the_command_that_show_prints_makes_the_run_again(capsys, given):
    choice = ("--seed", "2", "--method", "mean", "--param", "shift=1.0")
    call(capsys, "run", "toy2020", *choice, *given, "--store", "some")
    (record,) = Store("some").all()[0]
    _, out, _ = call(capsys, "show", record.hash, "--store", "some")
    (command,) = [line.partition(": ")[2] for line in out if line.startswith("run it again")]
    assert call(capsys, *shlex.split(command)[1:], "--store", "other")[2] == ["1 runs executed, 1 records in all"]
    assert [r.digest for r in Store("other").all()[0]] == [record.digest]


def test_show_says_where_a_number_comes_from(capsys, three, make_record):
    write_jsonl(FILE, three[:1])
    Store().write(three[0])
    _, out, err = call(capsys, "show", three[0].hash)
    assert err == []
    assert {
        "  centre: 0.0", f"digest of the result: {three[0].digest}", "  seed: 0", "  device: cpu",
        "  code: 0123456789abcdef", "  torch: 2.11.0", "found in: results and runs",
    } <= set(out)  # fmt: skip
    Store().write(make_record(three[0].spec, {"metrics": {"centre": 7.0}}))
    _, out, err = call(capsys, "show", three[0].hash)
    assert "has 2 results" in err[0]
    found = [line.strip() for line in out if "found in" in line or "centre" in line]
    assert found == ["found in: results", "centre: 0.0", "found in: runs", "centre: 7.0"]


@pytest.mark.parametrize("words", [(), ("--table", "table1")])
def test_show_knows_the_record_set_that_a_page_cites(capsys, study, make_record, words):
    write_jsonl(FILE, [make_record(s) for s in study.all_specs("quick")[:7]])
    _, listed, err = call(capsys, "list", "toy2020", *words)
    name = err[0].split()[-1]
    status, (first, *out), _ = call(capsys, "show", name)
    assert (status, first.partition(":")[0]) == (0, f"record set {name}")
    shown, committed = ({s.split()[0] for s in lines if s.split()[1] == "committed"} for lines in (out, listed))
    assert shown == committed


def test_the_working_folder_does_not_decide_which_records_count(capsys, three, monkeypatch, tmp_path):
    Store("runs").write(three[0])
    write_jsonl(FILE, three[1:2])
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for variable in ("", "runs"):  # relative to the repository
        monkeypatch.setenv("SPARSEMTL_RUNS", variable)
        assert [call(capsys, "show", record.hash)[0] for record in three[:2]] == [0, 0]
    assert call(capsys, "queue", "--out", "QUEUE.md")[:2] == (0, [])
    assert Path("QUEUE.md").read_text().splitlines() == call(capsys, "queue")[1]
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    assert "there is no folder" in call(capsys, "list", "toy2020")[2][0]
    assert call(capsys, "queue")[0] == 2


def test_diff_says_why_two_records_differ(capsys, study, make_record):
    spec, next_spec = study.specs("quick")[:2]
    result = {"metrics": {"a": 0.5, "b": [1, 2]}, "data": {"fingerprint": "f" * 64}}
    other = result | {"metrics": {"a": 0.5, "b": [1, 3]}}
    Store("runs").write(ours := make_record(spec, result))
    Store("theirs").write(make_record(spec, other, device="NVIDIA H200", packages={"torch": "2.10.0"}))
    status, (first, *causes), _ = call(capsys, "diff", f"runs:{ours.hash[:8]}", f"theirs:{ours.hash[:8]}")
    assert status == 0
    assert "differ in metrics, because of:" in first
    assert causes[:-1] == ["run: device is cpu and NVIDIA H200", "package torch is 2.11.0 and 2.10.0"]
    Store("runs").write(again := make_record(next_spec, result))
    out = call(capsys, "diff", ours.hash, again.hash)[1]
    assert "the same to the bit" in out[0]
    assert "spec: shift is 0.0 and 1.0" in out


@pytest.mark.slow
def test_the_old_command_names_the_new_one():
    done = subprocess.run([sys.executable, "-m", "sparsemtl", "list", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert ["now the command `sparsemtl`" in line for line in done.stderr.splitlines()] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status", "said"), [("| head -1", 0, ""), ("> /dev/full", 2, "sparsemtl: the output cannot be written")]
)
def test_a_reader_that_leaves_early_is_no_error_and_a_full_disk_is_one_line(end, status, said):
    if "full" in end and not os.path.exists("/dev/full"):
        pytest.skip("needs Linux's device that is always full")
    script = f'"$0" -m companion list shin2023 --profile full {end}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script, sys.executable], capture_output=True, text=True)
    *_, last = ["", *done.stderr.splitlines()]
    assert (done.returncode, last.partition(",")[0], "Traceback" in done.stderr) == (status, said, False)
