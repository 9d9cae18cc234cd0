"""Nothing is lost: killed engines, two engines on one store, a record cut in half."""

import random
import signal
import time

import pytest
from commands import PATIENCE, living, run, wait_for, written
from companion.records import Store

pytestmark = pytest.mark.slow
KILLS, TOTAL = 30, 180


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return written(tmp_path_factory.mktemp("path"), seconds=0.1)


def bytes_of(store):
    return {path.name: path.read_bytes() for path in store.rglob("[0-9a-f]*.json")}


def whole(store):
    records, problems = Store(store).all()
    assert problems == []
    assert len({record.hash for record in records}) == len(records)
    return {record.hash: record.digest for record in records}


def test_kills_at_random_moments_lose_no_finished_run_and_leave_no_worker(paper, tmp_path):
    rng, store, kills = random.Random(0), tmp_path / "runs", 0
    while kills < KILLS:
        before = bytes_of(store)
        process = run(paper, store, "--profile", "full", "--workers", "2")
        if rng.random() < 0.7:  # in the midst of runs, otherwise while it starts
            wait_for(store, process, len(before) + rng.randint(1, 4))
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)  # the parent alone
        process.communicate()
        kills += 1
        assert living(process.pid) == []
        after = bytes_of(store)
        assert {name: after.get(name) for name in before} == before
        whole(store)
    assert run(paper, store, "--profile", "full").wait(timeout=PATIENCE) == 0
    untouched = run(paper, tmp_path / "untouched", "--profile", "full", "--workers", "2")
    assert untouched.wait(timeout=PATIENCE) == 0
    assert len(whole(store)) == TOTAL
    assert whole(store) == whole(tmp_path / "untouched")


def test_two_engines_on_one_store_write_one_record_for_each_run(paper, tmp_path):
    store = tmp_path / "runs"
    engines = [run(paper, store, "--profile", "small", "--workers", "2") for _ in range(2)]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in engines]
    assert [process.returncode for process in engines] == [0, 0], errors
    assert len(whole(store)) == 60


def test_a_record_that_was_cut_in_half_is_made_again(paper, tmp_path):
    store = tmp_path / "runs"
    assert run(paper, store).wait(timeout=PATIENCE) == 0
    digests, path = whole(store), sorted(store.rglob("*.json"))[3]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process = run(paper, store)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, errors
    assert path.name in errors
    assert "1 runs executed" in errors
    assert whole(store) == digests
