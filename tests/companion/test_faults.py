"""Nothing is lost: engines killed or stopped, a full disk, lost rights, two engines on one store."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import digests, ended, environment, living, run, wait_for, written

TOTALS = {"quick": 15, "small": 60, "full": 180}  # runs of the paper


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return written(tmp_path_factory.mktemp("path"), seconds=0.1)


def bytes_of(store):
    return {path.name: path.read_bytes() for path in store.rglob("[0-9a-f]*.json")}


@pytest.mark.parametrize(("kills", "profile"), [(2, "quick"), pytest.param(30, "full", marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_no_run_and_leave_no_worker(paper, tmp_path, record_property, kills, profile):
    rng, store = random.Random(0), tmp_path / "runs"
    for kill in range(kills):
        before = bytes_of(store)
        process = run(paper, store, "--profile", profile, "--workers", "2")
        if profile == "quick" or rng.random() < 0.7:  # in the midst of runs, otherwise while it starts
            wait_for(store, process, len(before) + rng.randint(1, 4))
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, process.communicate()[1]
        (os.killpg if kill % 2 else os.kill)(process.pid, signal.SIGKILL)  # with its workers, or the parent alone
        process.communicate()
        assert living(process.pid) == []
        assert before.items() <= bytes_of(store).items()
        digests(store)
    ended(run(paper, store, "--profile", profile))
    assert len(digests(store)) == TOTALS[profile]
    if profile == "full":
        ended(run(paper, tmp_path / "untouched", "--profile", profile, "--workers", "2"))
        assert digests(store) == digests(tmp_path / "untouched")
    record_property("kills", kills)  # benchmarks/tested.py counts them


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "sent"), [("1", signal.SIGINT), ("2", signal.SIGINT), ("2", signal.SIGTERM)])
def test_ctrl_c_ends_in_one_line_and_the_same_command_resumes(paper, tmp_path, workers, sent):
    store, total = tmp_path / "runs", TOTALS["small"]
    process = run(paper, store, "--profile", "small", "--workers", workers)
    wait_for(store, process, 1)
    (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)  # a terminal's Ctrl-C reaches the workers too
    assert [line for line in ended(process, 130).splitlines() if line and f"/{total} [" not in line] == [
        "sparsemtl: stopped; finished records are kept, the same command resumes"
    ]
    assert living(process.pid) == []
    before = bytes_of(store)
    assert 1 <= len(before) < total
    assert {path.suffix for path in store.rglob("*") if path.is_file()} == {".json"}
    resumed = ended(run(paper, store, "--profile", "small"))
    assert f"{total - len(before)} runs executed, {total} records in all" in resumed
    assert before.items() <= bytes_of(store).items()


@pytest.mark.slow
def test_two_engines_on_one_store_write_one_record_for_each_run(paper, tmp_path):
    store = tmp_path / "runs"
    for engine in [run(paper, store, "--profile", "small", "--workers", "2") for _ in range(2)]:
        ended(engine)
    assert len(digests(store)) == TOTALS["small"]


# How a store is made, the fault in the midst of runs, how that is mended, what the error says. A disk of 100 kB is full
# after some runs; another becomes read-only, or a folder does, for a root without the right to write everywhere.
FAULTS = {
    "full": ("mount -t tmpfs -o size=100k none disk", ":", "mount -o remount,size=9m disk", "No space left on device"),
    "ro": ("mount -t tmpfs -o size=9m none disk", "until mount -o remount,ro disk; do :; done",
           "mount -o remount,rw disk", "Read-only file system"),
    "no right": ("limited='setpriv --bounding-set=-dac_override'; command -v setpriv",
                 "chmod a-w disk/runs/slow2020/small", "chmod u+w disk/runs/slow2020/small", "Permission denied"),
}  # fmt: skip
SCRIPT = """
eval "$1" || exit 77; fault=$2; mend=$3; shift 3
$limited "$@" 2> first & process=$!
while kill -0 $process && [[ $(find disk -name '[0-9a-f]*.json' | wc -l) -lt 5 ]]; do sleep 0.05; done
eval "$fault"; wait $process; echo $? > status
eval "$mend"; cp -r disk/runs before
"$@" 2> second; code=$?; cp -r disk/runs after; exit $code
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs Linux's name spaces")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_fails_in_the_midst_is_one_line_and_the_same_command_goes_on(paper, tmp_path, fault):
    (tmp_path / "disk").mkdir()
    *steps, cause = FAULTS[fault]
    words = [sys.executable, *shlex.split("-m companion run slow2020 --profile small --workers 2 --store disk/runs")]
    inside = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "bash", *steps, *words]
    done = subprocess.run(inside, cwd=tmp_path, env=environment(paper), capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this user may mount nothing")
    assert done.returncode == 0, (tmp_path / "second").read_text()
    assert (tmp_path / "status").read_text().strip() == "2"
    errors = (tmp_path / "first").read_text().splitlines()
    (line,) = [line for line in errors if line and "run/s" not in line and "s/run" not in line]
    assert re.match(f"sparsemtl: cannot write disk/runs.*{cause}", line)
    before, after = bytes_of(tmp_path / "before"), bytes_of(tmp_path / "after")
    assert 0 < len(digests(tmp_path / "before")) < TOTALS["small"] == len(digests(tmp_path / "after"))
    assert before.items() <= after.items()
