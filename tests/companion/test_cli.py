"""The command line reads well, and a mistake is one line with a way out and exit status 2."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from commands import call
from companion import papers
from companion.__main__ import main
from companion.records import Store, set_hash, write_jsonl
from companion.spec import RunSpec
from sparsemtl.errors import DataError

COMMANDS = ("list", "run", "verify", "show", "diff", "export", "import", "queue", "crate", "data")


@pytest.fixture(autouse=True)
def study(repository):
    """The toy paper, in a repository that is an empty folder."""
    return repository


def failing(monkeypatch, error, when):
    run = papers.part("toy2020", "run").run

    def fail(spec, root=None, device="cpu"):
        if when(spec):
            raise error
        return run(spec)

    monkeypatch.setattr(papers.part("toy2020", "run"), "run", fail)


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)])
def test_every_command_has_help(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: sparsemtl", *words]))


def test_list_run_and_show_mean_the_same_run(capsys):
    choice = ("toy2020", "--seed", "3", "--param", "shift=1.0")
    status, (line,), err = call(capsys, "list", *choice)
    name, state, _ = line.split(maxsplit=2)
    assert (status, state) == (0, "missing")
    assert err == ["1 runs, 0 with a record in results or runs"]
    assert call(capsys, "run", *choice) == (0, [], ["1 runs executed, 1 records in all"])
    assert call(capsys, "run", *choice)[2] == ["0 runs executed, 1 records in all"]
    _, (line,), err = call(capsys, "list", *choice)
    assert line.split()[:2] == [name, "done"]
    assert err[0].endswith(f"record set {set_hash(Store().all()[0])}")
    status, out, err = call(capsys, "show", name[:6], "--json")
    assert (status, err) == (0, [])
    assert json.loads("\n".join(out)) == Store().all()[0][0].to_dict()


def test_list_says_committed_and_damaged(capsys, study, make_record):
    specs = study.specs("quick")
    write_jsonl("results/toy2020/quick/a.jsonl", [make_record(specs[0])])
    Store().write(make_record(specs[1]))
    Store().path(specs[1]).write_text("{")
    states = [line.split()[1] for line in call(capsys, "list", "toy2020", "--table", "table1")[1]]
    assert states == ["committed", "damaged", *["missing"] * 8]


def test_a_failed_run_is_named_once_a_cause_and_the_others_are_kept(capsys, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, DataError("a.edf is truncated: fetch it again"), lambda spec: spec.params["shift"] > 0)
        status, out, err = call(capsys, "run", "toy2020")
    assert (status, out, len(err)) == (2, [], 2)
    assert err[0] == "10 runs executed, 10 records in all"
    assert err[1].startswith("sparsemtl: failed: toy2020 quick mean seed=0")
    assert err[1].endswith("and 4 more: a.edf is truncated: fetch it again")
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
    call(capsys, "export", "toy2020", "results/toy2020/quick/a.jsonl")
    run = papers.part("toy2020", "run").run

    def shifted(spec, root=None, device="cpu"):
        return {"metrics": {"centre": run(spec)["metrics"]["centre"] + now * (spec.seed == 1)}}

    monkeypatch.setattr(papers.part("toy2020", "run"), "run", shifted)
    before = sorted(os.listdir("runs/toy2020/quick"))
    ended, out, err = call(capsys, "verify", "toy2020", "--profile", "quick", "--draw", "99", "--draw-seed", "7")
    assert (ended, len(out)) == (status, 15)
    assert err[0] == "15 of 15 committed records, --draw-seed 7"
    assert sum("to the bit" in line for line in out) == (15 if now == 0 else 12)
    assert sorted(os.listdir("runs/toy2020/quick")) == before
    assert call(capsys, "verify", "toy2020", "--draw", "0")[2] == ["sparsemtl: --draw is 0: it must be 1 or more"]
    assert "no record of toy2020 at the profile full" in call(capsys, "verify", "toy2020", "--profile", "full")[2][0]


def test_data_says_what_is_in_a_set(capsys):
    status, out, err = call(capsys, "data", "simulated-eeg")
    assert (status, err) == (0, [])
    for word in ("64 channels", "160 Hz", "left_hand, right_hand", "trials", "recordings", "fingerprint"):
        assert word in "\n".join(out)


def test_a_whole_number_that_is_set_is_the_grids_number(capsys):
    grid = call(capsys, "list", "toy2020", "--param", "shift=0.0")[1]
    assert call(capsys, "list", "toy2020", "--param", "shift=0")[1] == grid
    set_to_zero = call(capsys, "list", "toy2020", "--method", "mean", "--param", "shift=1.0", "--set", "shift=0")[1]
    assert set(set_to_zero) < set(grid)


# Processes of their own


@pytest.mark.slow
@pytest.mark.parametrize("module", ["companion", "sparsemtl"])
def test_the_old_command_works_and_names_the_new_one(module):
    done = subprocess.run([sys.executable, "-m", module, "list", "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    *before, last = done.stderr.splitlines()
    assert last.startswith("sparsemtl: unknown study 'nothing'")
    assert len(before) == (module == "sparsemtl")


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error():
    words = f"{shlex.quote(sys.executable)} -m companion list shin2023 --profile full"
    words = ["bash", "-c", f"{words} | head -1; echo ${{PIPESTATUS[0]}}"]
    first = subprocess.run(words, capture_output=True, text=True)
    assert first.stderr == ""
    assert first.stdout.splitlines()[1:] == ["0"]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
def test_a_full_disk_under_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "companion", "list", "shin2023"]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("sparsemtl: the output cannot be written")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("study_name", ["toy2020", "other2024"])
def test_show_says_that_this_code_does_not_know_a_method(capsys, make_record, study_name):
    record = make_record(RunSpec(study_name, "small", "normal", "novel", 0, {}))
    Store().write(record)
    status, out, err = call(capsys, "show", record.hash)
    assert (status, err) == (0, [])
    assert f"run it again: not with this code, which does not know the method novel of {study_name}" in out


def test_a_range_of_people_takes_those_that_the_grid_has(capsys):
    assert main(["list", "shin2023", "--profile", "small", "--table", "trunks", "--people", "1-2", "42"]) == 0
    out, err = capsys.readouterr()
    assert {line.split("subject=")[1].split()[0] for line in out.splitlines() if "subject=" in line} == {"1", "42"}
    assert "left out: 2" in err
