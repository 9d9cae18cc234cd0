"""The programs in benchmarks/ and the records that the pages show belong together."""

from pathlib import Path

import pytest
from sparsemtl.benchmark import committed_benchmarks
from sparsemtl.report.efficiency import ON_GPU, TITLES

ROOT = Path(__file__).parents[1]
RECORDS = committed_benchmarks(ROOT / "results")


@pytest.mark.parametrize("name", TITLES)
def test_every_benchmark_of_the_pages_has_a_record_and_its_program(name):
    record = RECORDS[name, "cpu"]
    assert record.name == name
    assert (ROOT / "benchmarks" / f"{record.environment['script']}.py").is_file()
    assert {side["unit"] for side in record.sides.values()} <= {"s", "ms", "FLOPs", "bytes"}
    assert all(value > 0 for side in record.sides.values() for value in side["values"])


def test_every_program_has_a_record():
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"harness"}
    assert programs == {record.environment["script"] for record in RECORDS.values()}
    assert set(ON_GPU) <= set(TITLES)


def test_a_missed_mark_comes_with_a_profile():
    for record in RECORDS.values():
        if not all(map(record.met, record.marks)):
            assert record.details["profile"], record.name
