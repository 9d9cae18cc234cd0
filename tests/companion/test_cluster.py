"""Runs on a Dask cluster: the same records, none lost when a worker or the scheduler dies, no worker of other code."""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from commands import PATIENCE, digests, ended, environment, run, wait_for, written
from companion import cluster
from companion.__main__ import main

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return written(tmp_path_factory.mktemp("path"))


@pytest.fixture
def dask(paper, tmp_path):
    """A scheduler in a process of its own, on loopback, with its `address`; `worker(folder, name)` starts one."""
    processes, file = [], tmp_path / "scheduler.json"

    def start(folder, what, *words):
        options = ("--host", "127.0.0.1", "--no-dashboard", *words)
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes.append(subprocess.Popen(command, env=environment(folder), **quiet))
        return processes[-1]

    def worker(folder, name):
        words = ("--nthreads", "1", "--no-nanny", "--name", name, "--local-directory", str(tmp_path))
        return start(folder, "worker", address, *words)

    scheduler = start(paper, "scheduler", "--port", "0", "--scheduler-file", str(file))
    deadline = time.monotonic() + PATIENCE
    while not (file.exists() and file.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.1)
    address = json.loads(file.read_text())["address"]
    yield SimpleNamespace(scheduler=scheduler, address=address, worker=worker)
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_killed_worker_loses_no_run_and_the_records_are_those_of_the_local_engine(paper, dask, tmp_path):
    first, _ = dask.worker(paper, "first"), dask.worker(paper, "second")
    here = run(paper, tmp_path / "here", "--profile", "small")
    there = run(paper, tmp_path / "there", "--profile", "small", "--scheduler", dask.address)
    wait_for(tmp_path / "there", there, 4)
    first.send_signal(signal.SIGKILL)
    assert "60 runs executed, 60 records in all" in ended(there)
    ended(here)
    assert digests(tmp_path / "there") == digests(tmp_path / "here")


@pytest.mark.slow
def test_when_the_scheduler_dies_the_finished_records_are_there(paper, dask, tmp_path):
    dask.worker(paper, "only")
    process = run(paper, tmp_path / "runs", "--profile", "small", "--scheduler", dask.address)
    wait_for(tmp_path / "runs", process, 3)
    dask.scheduler.kill()
    (said,) = [line for line in ended(process, 2).splitlines() if line.startswith("sparsemtl:")]
    assert "is lost: finished records are kept" in said
    assert 3 <= len(digests(tmp_path / "runs")) < 60


@pytest.mark.slow
def test_a_worker_of_other_code_is_refused_by_name_before_it_computes(paper, dask, tmp_path):
    written(tmp_path / "other", more="\n# another version\n")
    dask.worker(tmp_path / "other", "stranger")
    errors = ended(run(paper, tmp_path / "runs", "--scheduler", dask.address), 2)
    assert "stranger is another version: code" in errors
    assert list((tmp_path / "runs").rglob("*.json")) == []


@pytest.mark.slow
def test_a_cluster_of_this_machine_ends_with_the_command(paper, tmp_path):
    ended(run(paper, tmp_path / "runs", "--scheduler", "local:2"))
    assert len(digests(tmp_path / "runs")) == 15
    without = run(paper, tmp_path / "gpu", "--scheduler", "local:1", "--device", "cuda")
    assert "has a GPU: start one" in ended(without, 2)


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
