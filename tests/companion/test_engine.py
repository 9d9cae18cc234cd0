"""The engine runs what is missing, once, and the same spec gives the same bits wherever it runs."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from commands import PATIENCE, living
from companion import engine, fingerprint
from companion.__main__ import main
from companion.engine import execute, run
from companion.records import Store
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023
from sparsemtl.errors import DataError, RecordError, SparseMTLError, SpecError


@pytest.fixture
def calls(monkeypatch):
    """Runs are replaced by a function that notes its calls, and fails for the seeds in `calls.fail`."""
    calls = SimpleNamespace(specs=[], fail={}, threads=[])

    def runner(spec, root=None, device="cpu"):
        calls.specs.append(spec)
        calls.threads.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        if spec.seed in calls.fail:
            raise calls.fail[spec.seed]
        return {"value": spec.seed / 3, "root": root}

    monkeypatch.setitem(sys.modules, "a_runner", SimpleNamespace(run=runner))
    monkeypatch.setattr(engine, "part", lambda study, what: sys.modules["a_runner"])
    return calls


def test_each_spec_runs_once_and_what_has_a_record_is_skipped(calls, tiny_spec, tmp_path):
    store, specs = Store(tmp_path), [tiny_spec(seed=s) for s in (1, 0, 1)]
    first = execute(specs, store, root="here", progress=False)
    assert [s.seed for s in calls.specs] == [0, 1]
    assert (first.executed, first.failures, set(first.records)) == (2, [], {s.hash for s in specs})
    assert first.records[specs[0].hash].result == {"value": 0.333333, "root": "here"}
    again = execute([*specs, tiny_spec(seed=2)], store, progress=False)
    assert [s.seed for s in calls.specs] == [0, 1, 2]
    assert again.executed == 1
    assert len(again.records) == 3
    assert again.records[specs[0].hash] == first.records[specs[0].hash]


def test_a_damaged_record_is_reported_and_run_again(calls, tiny_spec, tmp_path, capsys):
    store, spec = Store(tmp_path), tiny_spec()
    good = execute([spec], store, progress=False).records[spec.hash]
    path = store.path(spec)
    value = json.loads(path.read_text())
    value["result"]["value"] = 0.9
    path.write_text(json.dumps(value))
    outcome = execute([spec], store, progress=False)
    assert outcome.executed == 1
    assert len(calls.specs) == 2
    assert store.read(spec).result == good.result
    said = capsys.readouterr().err
    assert str(path) in said
    assert spec.label() in said


def test_a_record_that_may_be_whole_stops_the_call_and_stays(calls, tiny_spec, tmp_path):
    store, spec = Store(tmp_path), tiny_spec()
    execute([spec], store, progress=False)
    path = store.path(spec)
    path.write_text(newer := path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(RecordError, match="update sparsemtl"):
        execute([spec, tiny_spec(seed=1)], store, progress=False)
    assert path.read_text() == newer
    assert len(calls.specs) == 1


def test_failing_runs_are_named_and_the_others_go_on(calls, tiny_spec, tmp_path):
    store, specs = Store(tmp_path), [tiny_spec(seed=s) for s in range(4)]
    calls.fail = {1: DataError("S003R04.edf is truncated"), 2: RuntimeError("a shape\nthat does not fit")}
    outcome = execute(specs, store, progress=False)
    assert outcome.failures == [
        f"{specs[1].label()}: S003R04.edf is truncated",
        f"{specs[2].label()}: RuntimeError: a shape that does not fit",
    ]
    assert set(outcome.records) == {specs[0].hash, specs[3].hash} == {r.hash for r in store.all()[0]}
    with pytest.raises(RuntimeError):  # who calls for one run sees it as it is
        run(specs[2])
    calls.fail = {0: DataError("no such folder")}
    assert execute(specs, store, progress=False).executed == 2
    switched = upadhyay2023.specs("quick", ("seg",), (0.0,), seeds=(0,), stem="deep")[0]
    assert execute([switched], store, progress=False).failures == [f"{switched.label()} stem=deep: no such folder"]


def test_a_revision_says_whether_the_library_was_changed_since(tmp_path, monkeypatch):
    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package = tmp_path / "lib" / "companion"
    package.mkdir(parents=True)
    (package / "engine.py").write_text("one = 1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    monkeypatch.setattr(fingerprint, "__file__", str(package / "engine.py"))
    found = fingerprint.revision.__wrapped__
    assert found() == head
    (tmp_path / "a page.md").write_text("no part of the library")
    assert found() == head
    (package / "engine.py").write_text("one = 2\n")
    assert found() == head + "+"
    inside = tmp_path / ".venv" / "lib" / "companion" / "engine.py"  # a copy that git does not track
    inside.parent.mkdir(parents=True)
    inside.write_text("one = 1\n")
    monkeypatch.setattr(fingerprint, "__file__", str(inside))
    assert found() == "unknown"


@pytest.mark.parametrize("what", ["code", "packages", "device"])
@pytest.mark.parametrize(("profile", "anew"), [("quick", 2), ("small", 0), ("full", 0)])
def test_quick_runs_made_elsewhere_are_made_anew(calls, tiny_spec, tmp_path, monkeypatch, profile, anew, what):
    store, specs = Store(tmp_path), [replace(tiny_spec(seed=s), profile=profile) for s in range(2)]
    assert execute(specs, store, progress=False).executed == 2
    assert execute(specs, store, progress=False).executed == 0
    here = engine.environment("cpu")
    monkeypatch.setattr(engine, "environment", lambda device: here | {what: "another"})
    assert execute(specs, store, progress=False).executed == anew


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"workers": 0}, SpecError, "workers is 0"),
        ({"workers": -1}, SpecError, "workers is -1"),
        ({"device": "gpu"}, SpecError, "unknown device 'gpu'"),
        ({"device": "cpu:0"}, SpecError, "unknown device 'cpu:0': choose cpu or cuda"),
        ({"device": "cuda:99"}, SpecError, "no device 'cuda:99' on this machine"),
        ({"store": Store("/proc/nowhere")}, RecordError, "cannot write /proc/nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(calls, tiny_spec, tmp_path, choice, error, message):
    with pytest.raises(error, match=message) as caught:
        execute([tiny_spec()], **{"store": Store(tmp_path), "progress": False} | choice)
    assert "\n" not in str(caught.value)
    assert calls.specs == []


def test_a_killed_worker_is_a_message_with_a_way_out(tiny_spec, tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise engine.TerminatedWorkerError("a worker died")

    monkeypatch.setattr(engine, "Parallel", lambda **k: killed)
    with pytest.raises(SparseMTLError, match="fewer workers"):
        execute([tiny_spec(), tiny_spec(seed=1)], Store(tmp_path), workers=2, progress=False)


def test_the_cpu_runs_on_one_thread_and_the_settings_come_back(calls, tiny_spec):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(2)
    try:
        record = run(tiny_spec())
        calls.fail = {5: DataError("no")}
        with pytest.raises(DataError):
            run(tiny_spec(seed=5))
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, before[1])
    finally:
        torch.set_num_threads(before[0])
    assert calls.threads == [(1, True), (1, True)]
    assert record.run["threads"] == 1


@pytest.mark.slow
def test_no_run_imports_what_the_fingerprint_leaves_out():
    code = """
import sys
from companion.papers import names, part
for name in names():
    part(name, "run")
print(*[m for m in sys.modules if m.startswith("papers.")])
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"papers.upadhyay2023.run", "papers.shin2023.run"} <= set(loaded)
    left_out = {name.removesuffix(".py") for name in fingerprint.DOWNSTREAM} - {
        "claims"
    }  # plain data, imported by study
    assert not [name for name in loaded if name.rpartition(".")[2] in left_out]


# Real runs, the smallest there are


@pytest.fixture(scope="module")
def tiny_runs(tiny_spec, tmp_path_factory):
    """Specs and the records that this process makes of them."""
    specs = [tiny_spec("or"), tiny_spec("rigl", 0.8), tiny_spec("csp-lda", 0.0), tiny_spec("snip-single", seed=1)]
    store = Store(tmp_path_factory.mktemp("runs"))
    return specs, execute(specs, store, progress=False)


def digests(records):
    return {r.hash: r.digest for r in records}


def test_the_same_spec_twice_gives_the_same_bits(tiny_runs):
    specs, outcome = tiny_runs
    assert outcome.failures == []
    torch.rand(7)  # the state that an earlier run left must not matter
    assert digests(map(run, reversed(specs))) == digests(outcome.records.values())


@pytest.mark.slow
def test_two_workers_which_are_new_processes_give_the_same_bits_and_report_failures(tiny_runs, tiny_spec, tmp_path):
    specs, outcome = tiny_runs
    networks = [s for s in specs if s.method != "csp-lda"]
    expected = digests(outcome.records[s.hash] for s in networks)
    pool = execute([*networks, tiny_spec("random", folds=99)], Store(tmp_path), workers=2, progress=False)
    assert (pool.executed, len(pool.failures)) == (3, 1)
    assert "too few MI trials for 99 folds" in pool.failures[0]
    assert digests(pool.records.values()) == digests(Store(tmp_path).all()[0]) == expected


# Ctrl-C on the command line, as a terminal sends it: to the whole process group


INTERRUPTED = ("dense-single", "random", "lottery")  # enough that some are left to run when the signal comes
GRID = ["run", "shin2023", "--table", "table1", "--subject", "1", "--seed", "0", "--method", *INTERRUPTED]
TOTAL = sum(
    (s.params["subject"], s.seed) == (1, 0) and s.method in INTERRUPTED for s in shin2023.TABLES["table1"]("quick")
)


@pytest.fixture(scope="module")
def first():
    """First record of the grid, made by this process; it also fills the cache."""
    return run(shin2023.specs("quick", methods=("dense-single",), subjects=(1,), seeds=(0,))[0])


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "sent"), [("1", signal.SIGINT), ("2", signal.SIGINT), ("2", signal.SIGTERM)])
def test_ctrl_c_ends_in_one_line_and_the_same_command_resumes(tmp_path, workers, sent, first, capsys):
    store, give_up = Store(tmp_path / "runs"), time.monotonic() + PATIENCE
    words = [*GRID, "--store", str(store.folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "companion", *words, "--workers", workers],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a shell's background jobs ignore Ctrl-C, and their children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not store.all()[0] and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.02)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # a terminal's Ctrl-C reaches the workers too
    else:
        process.send_signal(sent)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert out == ""
    bar = f"/{TOTAL} ["
    assert [line for line in err.splitlines() if line and bar not in line] == [
        "sparsemtl: stopped; finished records are kept, the same command resumes"
    ]
    assert living(process.pid) == []
    finished, problems = store.all()
    assert problems == []
    assert 1 <= len(finished) < TOTAL
    assert [p for p in store.folder.rglob("*") if p.is_file() and p.suffix != ".json"] == []

    assert main(words) == 0
    assert f"{TOTAL - len(finished)} runs executed, {TOTAL} records in all" in capsys.readouterr().err
    whole = store.all()[0]
    assert len(whole) == TOTAL
    assert all(record in whole for record in finished)
    assert digests(whole)[first.hash] == first.digest  # another process made it, or this one again
