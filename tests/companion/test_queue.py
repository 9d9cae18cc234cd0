from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from companion.queue import queue
from companion.records import committed
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def study(tiny_spec):
    """Three runs in a table, and a second table that shares one of them and has one more."""
    specs = [tiny_spec(seed=s, profile="small") for s in range(4)]
    tables = {"first": lambda profile: specs[:3] * (profile == "small"),
              "second": lambda profile: specs[2:] * (profile == "small")}  # fmt: skip
    return SimpleNamespace(NAME="made-up", TABLES=tables, DEFAULT_SECONDS={"small": 1800.0}, specs=specs)


def rows(study, records):
    lines = [line.strip("| ").split(" | ") for line in queue([study], records).splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in lines}


def test_a_run_counts_for_the_first_table_that_needs_it(study):
    found, default = rows(study, []), "a default for a CPU core"
    assert (found["first"], found["second"]) == (["3", "3", "1.5", default], ["1", "1", "0.5", default])
    assert found["all"][:3] == ["4", "4", "2.0"]


def test_what_was_run_tells_how_long_the_rest_takes_and_where(study, make_record):
    records = [make_record(s, seconds=t, device=d) for s, t, d in zip(study.specs[:2], (3600, 7200), "ba", strict=True)]
    found, like = rows(study, records), "like runs on a and b"
    assert (found["first"], found["second"]) == (["1", "3", "1.5", like], ["1", "1", "1.5", like])
    other = [make_record(replace(s, data="other"), seconds=720, device="c") for s in study.specs]
    assert rows(study, other)["first"] == ["3", "3", "0.6", "other runs on c"]
    whole = rows(study, list(map(make_record, study.specs)))
    assert (whole["first"], whole["all"][:3]) == (["0", "3", "0.0", "complete"], ["0", "4", "0.0"])


def test_runs_that_want_a_gpu_say_so_in_their_command(study, make_record):
    command = f"    .venv/bin/sparsemtl run {study.NAME} --profile small --table TABLE"
    on_cpu, on_gpu = ([make_record(study.specs[0], device=d)] for d in ("cpu", "NVIDIA H200"))
    for records, device in (([], ""), (on_cpu, ""), (on_gpu, " --device cuda")):
        assert f"{command}{device}" in queue([study], records).splitlines()
    vision = [line for line in queue([upadhyay2023], []).splitlines() if "--profile" in line]
    assert [line.endswith(" --device cuda") for line in vision] == [True, False]


def test_the_committed_queue_is_that_of_the_committed_records():
    page = (RESULTS / "QUEUE.md").read_text(encoding="utf-8")
    again = "run `sparsemtl queue --store none --out results/QUEUE.md`"
    assert page == queue([shin2023, upadhyay2023], committed(RESULTS)) + "\n", again
