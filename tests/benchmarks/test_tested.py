"""The page on the tests says what pytest's reports and the records of the tests say, and "not run" without them."""

import tested
from measured import Benchmark, Mark, committed_benchmarks

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_bad_input" name="a" time="1.5"/>
<testcase classname="tests.test_bad_input" name="b" time="0.0"><skipped/></testcase>
<testcase classname="tests.companion.test_faults" name="c" time="60.0"><properties>
<property name="kills" value="30"/><property name="other" value="7"/></properties></testcase>
</testsuite></testsuites>"""


def record(**folders):
    sides = {"lines run": 96.0, "lines": 100.0}
    sides = {name: {"unit": "lines", "values": [value]} for name, value in sides.items()}
    marks = (Mark("lines run of all", "lines run", "lines", "at least", 0.97),)
    return Benchmark("tested", sides, marks, {"folders": folders})


def test_a_report_is_counted_without_what_was_skipped(tmp_path):
    (tmp_path / "a.xml").write_text(REPORT)
    counts = tested.counted(tmp_path / "a.xml")
    assert counts == {"tests": 2, "skipped": 1, "seconds": 61.5, "refused": 1, "kills": 30}
    table = tested.by_folder([record(companion=counts)])
    del counts["seconds"]
    assert table.loc["companion"].to_dict() == counts | {"minutes": 61.5 / 60}


def test_every_test_file_is_in_one_folder_of_the_report():
    paths = [path for paths in tested.folders().values() for path in paths]
    files = [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    assert sorted(files) == sorted((tested.ROOT / "tests").rglob("test_*.py"))


def test_goals_are_met_missed_or_not_run():
    table = tested.verdicts([record()])
    assert list(table.outcome.fillna("")) == ["missed", "", ""]
    assert list(table.found) == ["96 of 100, 96.0 %", "not run", "not run"]
    assert "not run" in tested.story([])
    assert tested.by_folder([]).empty
    assert tested.by_module([]).empty
    sides = {name: {"unit": "mutants", "values": [n]} for name, n in {"killed": 4, "made": 7}.items()}
    modules = {"sparsemtl/a/b.py": [1, 3], "companion/a.py": [3, 4]}
    mutants = Benchmark("mutants", sides, (Mark("m", *sides, "at least", 0.5),), {"by module": modules})
    assert tested.by_module([record(), mutants]).loc["companion/a.py"].to_dict() == {"killed": 3, "made": 4}
    row = tested.verdicts([mutants]).loc["mutants in lib/companion and lib/sparsemtl that they kill"]
    assert row.to_dict() == {"found": "4 of 7, 57.1 %", "goal": "50 %", "outcome": "met"}
    assert tested.survivors([record()]).empty
    counts = {"tests": 12, "skipped": 0, "seconds": 1.0, "refused": 5, "kills": 0}
    said = tested.story([record(one=counts, two=counts)])
    for words in ("**24 tests**", "**10 bad inputs**", "kills: not run", "0 of 1 goals"):
        assert words in said
    assert "1 of 2 goals is met" in tested.story([record(one=counts), mutants])


def test_a_survivor_is_argued_or_a_gap_and_no_argument_is_left_over():
    said = next(iter(tested.ARGUED))
    table = tested.survivors([Benchmark("mutants", {}, (), {"survived": [said, "a.py line 1: 0 -> 1"]})])
    assert table["why it survives"].to_dict() == {said: tested.ARGUED[said], "a.py line 1: 0 -> 1": tested.GAP}
    committed = committed_benchmarks(tested.ROOT / "results")["mutants", "cpu"]
    assert set(tested.ARGUED) <= set(committed.details["survived"])
