"""The engine runs what is missing, once, and the same spec gives the same bits wherever it runs."""

import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from commands import digests
from companion import engine, fingerprint
from companion.engine import execute, run
from companion.records import Store
from papers.upadhyay2023 import study as upadhyay2023
from sparsemtl.errors import DataError, RecordError, SparseMTLError, SpecError


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Runs, by `calls.execute`, are those of a function that notes its calls and fails for seeds in `calls.fail`."""
    to_store = partial(execute, store=Store(tmp_path), progress=False)
    calls = SimpleNamespace(specs=[], fail={}, threads=[], execute=to_store)

    def runner(spec, root=None, device="cpu"):
        calls.specs.append(spec)
        calls.threads.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        if spec.seed in calls.fail:
            raise calls.fail[spec.seed]
        return {"value": spec.seed / 3, "root": root}

    monkeypatch.setattr(engine, "part", lambda study, what: SimpleNamespace(run=runner))
    return calls


def test_each_spec_runs_once_and_what_has_a_record_is_skipped(calls, tiny_spec):
    specs = [tiny_spec(seed=s) for s in (1, 0, 1)]
    first = calls.execute(specs, root="here")
    assert (first.executed, first.failures, set(first.records)) == (2, [], {s.hash for s in specs})
    assert first.records[specs[0].hash].result == {"value": 0.333333, "root": "here"}
    again = calls.execute([*specs, tiny_spec(seed=2)])
    assert [s.seed for s in calls.specs] == [0, 1, 2]
    assert (again.executed, len(again.records)) == (1, 3)
    assert again.records[specs[0].hash] == first.records[specs[0].hash]


def test_a_damaged_record_is_made_again_but_one_that_may_be_whole_stops_the_call(calls, tiny_spec, tmp_path, capsys):
    spec, store = tiny_spec(), Store(tmp_path)
    good, path = calls.execute([spec]).records[spec.hash], store.path(spec)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert calls.execute([spec]).executed == 1
    assert store.read(spec).result == good.result
    said = capsys.readouterr().err
    assert all(word in said for word in (str(path), spec.label()))
    path.write_text(newer := whole.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(RecordError, match="update sparsemtl"):
        calls.execute([spec, tiny_spec(seed=1)])
    assert path.read_text() == newer
    assert len(calls.specs) == 2


def test_failing_runs_are_named_and_the_others_go_on(calls, tiny_spec, tmp_path):
    specs = [tiny_spec(seed=s) for s in range(4)]
    calls.fail = {1: DataError("a.edf is cut"), 2: RuntimeError("a shape\nthat does not fit")}
    outcome, names = calls.execute(specs), [spec.label() for spec in specs]
    assert outcome.failures == [f"{names[1]}: a.edf is cut", f"{names[2]}: RuntimeError: a shape that does not fit"]
    assert set(outcome.records) == {specs[0].hash, specs[3].hash} == {r.hash for r in Store(tmp_path).all()[0]}
    with pytest.raises(RuntimeError):  # who calls for one run sees it as it is
        run(specs[2])
    calls.fail = {0: DataError("no such folder")}
    assert calls.execute(specs).executed == 2
    switched = upadhyay2023.specs("quick", ("seg",), (0.0,), seeds=(0,), stem="deep")[0]
    assert calls.execute([switched]).failures == [f"{switched.label()} stem=deep: no such folder"]


def test_a_revision_says_whether_the_library_was_changed_since(tmp_path, monkeypatch):
    def code(folder, text):
        path = tmp_path / folder / "lib" / "companion" / "engine.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        monkeypatch.setattr(fingerprint, "__file__", str(path))

    found = fingerprint.revision.__wrapped__
    code("", "one = 1\n")
    commit = "git init -q; git add -A; git -c user.name=a -c user.email=a@b commit -qm first; git rev-parse HEAD"
    head = subprocess.run(["bash", "-c", commit], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    (tmp_path / "a page.md").write_text("no part of the library")
    assert found() == head
    code("", "one = 2\n")
    assert found() == head + "+"
    code(".venv", "one = 1\n")  # a copy that git does not track
    assert found() == "unknown"


@pytest.mark.parametrize("what", ["code", "packages", "device"])
@pytest.mark.parametrize(("profile", "anew"), [("quick", 2), ("small", 0), ("full", 0)])
def test_quick_runs_made_elsewhere_are_made_anew(calls, tiny_spec, monkeypatch, profile, anew, what):
    specs = [tiny_spec(seed=s, profile=profile) for s in range(2)]
    assert [calls.execute(specs).executed, calls.execute(specs).executed] == [2, 0]
    here = engine.environment("cpu")
    monkeypatch.setattr(engine, "environment", lambda device: here | {what: "another"})
    assert calls.execute(specs).executed == anew


CANNOT = {
    "workers is -1": {"workers": -1}, "unknown device 'cpu:0': choose cpu or cuda": {"device": "cpu:0"},
    "no device 'cuda:99'": {"device": "cuda:99"}, "cannot write /proc/nowhere": {"store": Store("/proc/nowhere")},
}  # fmt: skip


@pytest.mark.parametrize("message", CANNOT)
def test_what_cannot_work_is_said_before_anything_runs(calls, tiny_spec, message):
    with pytest.raises((SpecError, RecordError), match=message):
        calls.execute([tiny_spec()], **CANNOT[message])
    assert calls.specs == []


def test_a_killed_worker_is_a_message_with_a_way_out(calls, tiny_spec, monkeypatch):
    killed = Mock(side_effect=engine.TerminatedWorkerError("a worker died"))
    monkeypatch.setattr(engine, "Parallel", lambda **k: killed)
    with pytest.raises(SparseMTLError, match="fewer workers"):
        calls.execute([tiny_spec(), tiny_spec(seed=1)], workers=2)


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
    assert (calls.threads, record.run["threads"]) == ([(1, True), (1, True)], 1)


@pytest.mark.slow
def test_no_run_imports_what_the_fingerprint_leaves_out():
    code = "import sys; from companion import papers as p; [p.part(n, 'run') for n in p.names()]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("papers.")}
    assert {"papers.upadhyay2023.run", "papers.shin2023.run"} <= loaded
    left_out = {name.removesuffix(".py") for name in fingerprint.DOWNSTREAM} - {"claims"}  # data that study imports
    assert not [name for name in loaded if name.rpartition(".")[2] in left_out]


@pytest.fixture(scope="module")
def tiny_runs(tiny_spec, tmp_path_factory):
    """Specs and the records that this process makes of them."""
    specs = [tiny_spec("or"), tiny_spec("rigl", 0.8), tiny_spec("csp-lda", 0.0), tiny_spec("snip-single", seed=1)]
    return specs, execute(specs, Store(tmp_path_factory.mktemp("runs")), progress=False)


def test_the_same_spec_twice_gives_the_same_bits(tiny_runs):
    specs, outcome = tiny_runs
    assert outcome.failures == []
    torch.rand(7)  # the state that an earlier run left must not matter
    assert [run(spec).digest for spec in reversed(specs)] == [outcome.records[s.hash].digest for s in reversed(specs)]


@pytest.mark.slow
def test_two_workers_which_are_new_processes_give_the_same_bits_and_report_failures(tiny_runs, tiny_spec, tmp_path):
    specs, outcome = tiny_runs
    networks = [s for s in specs if s.method != "csp-lda"]
    pool = execute([*networks, tiny_spec("random", folds=99)], Store(tmp_path), workers=2, progress=False)
    assert (pool.executed, len(pool.failures)) == (3, 1)
    assert "too few MI trials for 99 folds" in pool.failures[0]
    assert digests(tmp_path) == {s.hash: outcome.records[s.hash].digest for s in networks}
