"""Nothing is lost: killed engines, a full disk, lost permissions, two engines on one store, a record cut in half."""

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import PATIENCE, digests, environment, living, run, wait_for, written

TOTALS = {"quick": 15, "small": 60, "full": 180}  # runs of the paper


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return written(tmp_path_factory.mktemp("path"), seconds=0.1)


def bytes_of(store):
    return {path.name: path.read_bytes() for path in store.rglob("[0-9a-f]*.json")}


@pytest.mark.parametrize(("kills", "profile"), [(2, "quick"), pytest.param(30, "full", marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_no_finished_run_and_leave_no_worker(
    paper, tmp_path, record_property, kills, profile
):
    rng, store = random.Random(0), tmp_path / "runs"
    for kill in range(kills):
        before = bytes_of(store)
        process = run(paper, store, "--profile", profile, "--workers", "2")
        if profile == "quick" or rng.random() < 0.7:  # in the midst of runs, otherwise while it starts
            wait_for(store, process, len(before) + rng.randint(1, 4))
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, process.communicate()[1]
        if kill % 2:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
        else:
            process.kill()  # the parent alone
        process.communicate()
        assert living(process.pid) == []
        after = bytes_of(store)
        assert {name: after.get(name) for name in before} == before
        digests(store)
    assert run(paper, store, "--profile", profile).wait(timeout=PATIENCE) == 0
    assert len(digests(store)) == TOTALS[profile]
    if profile == "full":
        untouched = run(paper, tmp_path / "untouched", "--profile", profile, "--workers", "2")
        assert untouched.wait(timeout=PATIENCE) == 0
        assert digests(store) == digests(tmp_path / "untouched")
    record_property("kills", kills)  # benchmarks/tested.py counts them


@pytest.mark.slow
def test_two_engines_on_one_store_write_one_record_for_each_run(paper, tmp_path):
    store = tmp_path / "runs"
    engines = [run(paper, store, "--profile", "small", "--workers", "2") for _ in range(2)]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in engines]
    assert [process.returncode for process in engines] == [0, 0], errors
    assert len(digests(store)) == TOTALS["small"]


@pytest.mark.slow
def test_a_record_that_was_cut_in_half_is_made_again(paper, tmp_path):
    store = tmp_path / "runs"
    assert run(paper, store).wait(timeout=PATIENCE) == 0
    before, path = digests(store), sorted(store.rglob("*.json"))[3]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process = run(paper, store)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, errors
    assert path.name in errors
    assert "1 runs executed" in errors
    assert digests(store) == before


# A disk of 100 kB, which is full after some runs; one that becomes read-only in the midst of them; a folder that does,
# for a root without the right to write everywhere
FULL = """
mount -t tmpfs -o size=100k none disk || exit 77
"$@" 2> first; echo $? > status
cp -r disk/runs before; mount -o remount,size=9m disk
"""
READ_ONLY = """
mount -t tmpfs -o size=9m none disk || exit 77
"$@" 2> first & process=$!
while kill -0 $process && [[ $(find disk -name '[0-9a-f]*.json' | wc -l) -lt 5 ]]; do sleep 0.05; done
until mount -o remount,ro disk; do :; done
wait $process; echo $? > status
cp -r disk/runs before; mount -o remount,rw disk
"""
NO_RIGHT = """
command -v setpriv || exit 77
setpriv --bounding-set=-dac_override "$@" 2> first & process=$!
while kill -0 $process && [[ $(find disk -name '[0-9a-f]*.json' | wc -l) -lt 5 ]]; do sleep 0.05; done
chmod a-w disk/runs/slow2020/small
wait $process; echo $? > status
chmod u+w disk/runs/slow2020/small; cp -r disk/runs before
"""
AGAIN = '"$@" 2> second; code=$?; cp -r disk/runs after; exit $code'


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs Linux's name spaces")
@pytest.mark.parametrize(
    ("script", "cause"),
    [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system"), (NO_RIGHT, "Permission denied")],
    ids=["full", "ro", "no right"],
)
def test_a_store_that_fails_in_the_midst_is_one_line_and_the_same_command_goes_on(paper, tmp_path, script, cause):
    (tmp_path / "disk").mkdir()
    words = [sys.executable, *shlex.split("-m companion run slow2020 --profile small --workers 2 --store disk/runs")]
    inside = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script + AGAIN, "bash", *words]
    done = subprocess.run(inside, cwd=tmp_path, env=environment(paper), capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this user may mount nothing")
    assert done.returncode == 0, (tmp_path / "second").read_text()
    errors = (tmp_path / "first").read_text()
    assert (tmp_path / "status").read_text().strip() == "2"
    (line,) = [line for line in errors.splitlines() if line and "run/s" not in line and "s/run" not in line]
    assert line.startswith("sparsemtl: cannot write disk/runs")
    assert cause in line
    before, after = bytes_of(tmp_path / "before"), bytes_of(tmp_path / "after")
    assert 0 < len(before) < TOTALS["small"] == len(digests(tmp_path / "after"))
    digests(tmp_path / "before")
    assert {name: after[name] for name in before} == before
