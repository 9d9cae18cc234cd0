"""Runs on a Dask cluster: the same records, none lost when a worker or the scheduler dies, no worker of other code."""

import json
import signal
import subprocess
import sys
import time

import pytest
from commands import PATIENCE, digests, environment, run, wait_for, written
from companion import cluster
from companion.__main__ import main

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return written(tmp_path_factory.mktemp("path"))


class Cluster:
    """A scheduler and workers in processes of their own, on loopback."""

    def __init__(self, folder):
        self.file, self.processes = folder / "scheduler.json", []
        self.scheduler = self._start(folder, "scheduler", "--scheduler-file", str(self.file))
        deadline = time.monotonic() + PATIENCE
        while not (self.file.exists() and self.file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]

    def worker(self, folder, name):
        words = ("--nthreads", "1", "--no-nanny", "--name", name, "--local-directory", str(self.file.parent))
        return self._start(folder, "worker", self.address, *words)

    def _start(self, folder, what, *words):
        port = ("--port", "0") if what == "scheduler" else ()
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--host", "127.0.0.1", *port, "--no-dashboard"]
        command += words
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(subprocess.Popen(command, env=environment(folder), **quiet))
        return self.processes[-1]

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def dask(paper, tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.stop()


@pytest.mark.slow
def test_a_killed_worker_loses_no_run_and_the_records_are_those_of_the_local_engine(paper, dask, tmp_path):
    first, _ = dask.worker(paper, "first"), dask.worker(paper, "second")
    here = run(paper, tmp_path / "here", "--profile", "small")
    there = run(paper, tmp_path / "there", "--profile", "small", "--scheduler", dask.address)
    wait_for(tmp_path / "there", there, 4)
    first.send_signal(signal.SIGKILL)
    errors = there.communicate(timeout=PATIENCE)[1]
    assert there.returncode == 0, errors
    assert "60 runs executed, 60 records in all" in errors
    assert here.wait(timeout=PATIENCE) == 0
    assert len(digests(tmp_path / "there")) == 60
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


@pytest.mark.slow
def test_when_the_scheduler_dies_the_finished_records_are_there(paper, dask, tmp_path):
    dask.worker(paper, "only")
    process = run(paper, tmp_path / "runs", "--profile", "small", "--scheduler", dask.address)
    wait_for(tmp_path / "runs", process, 3)
    dask.scheduler.kill()
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2, errors
    said = [line for line in errors.splitlines() if line.startswith("sparsemtl:")]
    assert len(said) == 1
    assert "is lost: finished records are kept" in said[0]
    assert 3 <= len(digests(tmp_path / "runs")) < 60


@pytest.mark.slow
def test_a_worker_of_other_code_is_refused_by_name_before_it_computes(paper, dask, tmp_path):
    written(tmp_path / "other", more="\n# another version\n")
    dask.worker(tmp_path / "other", "stranger")
    process = run(paper, tmp_path / "runs", "--scheduler", dask.address)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2, errors
    assert "stranger is another version: code" in errors
    assert "code" in errors
    assert list((tmp_path / "runs").rglob("*.json")) == []


@pytest.mark.slow
def test_a_cluster_of_this_machine_ends_with_the_command(paper, tmp_path):
    process = run(paper, tmp_path / "runs", "--scheduler", "local:2")
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, errors
    assert len(digests(tmp_path / "runs")) == 15
    process = run(paper, tmp_path / "gpu", "--scheduler", "local:1", "--device", "cuda")
    errors = process.communicate(timeout=PATIENCE)[1]
    assert (process.returncode, "has a GPU: start one" in errors) == (2, True), errors


@pytest.mark.slow
def test_a_cluster_of_this_machine_listens_on_loopback_alone():
    with cluster._client("local:1") as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        ports = [port for process in ours for port in process.net_connections("inet") if port.status == "LISTEN"]
    assert {port.laddr.ip for port in ports} == {"127.0.0.1"}


def test_a_scheduler_that_does_not_answer_is_one_line(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "WAIT", 0.5)
    assert main(["run", "toy2020", "--store", str(tmp_path), "--scheduler", "tcp://127.0.0.1:9"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sparsemtl")]
    assert "no scheduler answers at tcp://127.0.0.1:9" in line


def test_a_worker_differs_by_version_or_by_what_it_lacks():
    ours = {"Python": "3.11", "code": "a", "torch": "2.11.0"}
    assert cluster._differing(ours, dict(ours)) == ""
    assert cluster._differing(ours, ours | {"torch": "2.10.0"}) == "torch 2.10.0 (here 2.11.0)"
    assert cluster._differing(ours, {"Python": "3.11", "code": "a"}) == "torch missing (here 2.11.0)"
