"""What the pages on efficiency, real time and the tests say follows from their records, and is "not run" without."""

import efficiency
import numpy as np
import pandas as pd
import pytest
import realtime
import tested
from companion.evidence import Evidence
from measured import Benchmark, Mark, committed_benchmarks
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023

MACHINE = {"device": "cpu", "processor": "made up", "threads": 2}


def record(name, sides, marks=(), unit="s", **details):
    sides = {label: {"unit": unit, "values": values} for label, values in sides.items()}
    return Benchmark(name, sides, marks, details, MACHINE)


@pytest.fixture
def prox():
    marks = (Mark("gain", "slow", "fast", "at least", 5.0), Mark("cost", "fast", "floor", "at most", 1.5))
    profile = {"fast": [{"operation": "sum", "share": 0.75}, {"operation": "copy", "share": 0.2}]}
    sides = {"slow": [4.0] * 3, "fast": [1.0] * 3, "floor": [0.8] * 3}
    return {("prox", "cpu"): record("prox", sides, marks, profile=profile)}


@pytest.fixture
def scaling():
    sides = {f"pixels={n}": [2e-4 * n**1.7] for n in (64, 96, 128)} | {f"subjects={n}": [0.5 * n] for n in (1, 2, 3)}
    sets = (*upadhyay2023.NYU_SETS, *upadhyay2023.CELEBA_SETS)
    flops = {data: dict.fromkeys(sets, 1e9) for data in upadhyay2023.ALL}
    return {("scaling", "cpu"): record("scaling", sides, **{"FLOPs a picture": flops})}


def test_every_mark_has_its_outcome_and_what_was_not_run_says_so(prox):
    table = efficiency.verdicts(prox)
    ours = table.loc[efficiency.TITLES["prox"]]
    assert ours[["mark", "outcome"]].to_numpy().tolist() == [["gain", "missed"], ["cost", "met"], ["all", "not run"]]
    assert list(ours.ratio[:2]) == pytest.approx([4.0, 1.25])
    assert set(table.drop(efficiency.TITLES["prox"]).outcome) == {"not run"}
    assert "on a CPU 1 of 2 marks" in efficiency.reached(prox)
    assert len(efficiency.bars(prox, "prox").axes[0].get_yticklabels()) == 3


def test_a_missed_mark_says_by_how_much_and_where_the_time_goes(prox):
    (told,) = efficiency.missed(prox)
    assert "by 20.0 %: gain" in told
    assert "sum 75 %" in told


def test_growth_is_the_exponent_of_the_power_law(scaling):
    assert efficiency.growth(scaling).exponent.tolist() == pytest.approx([1.7, 1.0])  # pixels, subjects


def test_a_plan_is_operations_over_speed(scaling, make_record):
    """A picture takes 1e9 operations to train on, a third of it to validate; some switches use fewer pictures."""
    specs = upadhyay2023.specs("small", ("seg",), (0.0, 1e-5), seeds=(0,))
    counts = ({"train": 100, "val": 30, "test": 70}, {"train": 30, "val": 9, "test": 70})
    vision = [make_record(s, {"data": {"pictures": n}}) for s, n in zip(specs, counts, strict=True)]
    eeg = [make_record(shin2023.specs("small", methods=("or",))[0], {}, seconds=36.0)]
    records = {upadhyay2023.NAME: vision, shin2023.NAME: eeg}
    evidences = [Evidence(study, "committed", "small", tuple(own), 2) for study, own in records.items()]
    hours = efficiency.plan(scaling, evidences, tflops=2.0, share=0.5).hours
    runs = upadhyay2023.TABLES["fig4"]("full")
    assert hours["vision, fig4"] == pytest.approx(len(runs) * runs[0].params["epochs"] * (100 + 30 / 3) / 1000 / 3600)
    assert np.isnan(hours["vision, table2"])  # nothing tells how many faces there are
    assert hours["EEG, Table 1"] == pytest.approx(0.01 * len(shin2023.table1_specs("full")))


def test_without_records_every_page_says_not_run():
    for draw in (efficiency.bars, efficiency.tails):
        assert "not run" in draw({}, "latency").axes[0].texts[0].get_text()
    assert "not run" in tested.story([])
    assert "not run" in realtime.removed([])
    assert efficiency.growth({}).empty
    assert efficiency.plan({}, [], 1.0, 1.0).empty


def test_late_decisions_are_counted_and_a_cue_is_judged_by_the_decision_at_the_end_of_its_window():
    times = np.arange(1, 101) / 10
    left, cues = np.where(times < 5, 0.9, 0.2), [(1.0, "left_hand"), (2.0, "left_hand"), (5.0, "right_hand")]
    decisions = pd.DataFrame({"time_s": times, "left_hand": left, "right_hand": 1 - left, "compute_ms": 2.0})
    decisions = decisions.assign(late_ms=3.0, late=times > 9.9)
    assert "100 decisions, one in 100 ms: 1 came after" in realtime.kept_pace(decisions, 0.1)
    cues += [(9.0, "right_hand")]  # it has no end
    assert "2 of 3 movements" in realtime.said_after_cues(decisions, cues)  # at 4.5, 5.5 and 8.5 s
    top, _ = realtime.decisions_figure(decisions, cues).axes
    assert len(top.lines[0].get_xdata()) == 100


REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_bad_input" name="a" time="1.5"/>
<testcase classname="tests.test_bad_input" name="b" time="0.0"><skipped/></testcase>
<testcase classname="tests.companion.test_faults" name="c" time="60.0"><properties>
<property name="kills" value="30"/><property name="other" value="7"/></properties></testcase>
</testsuite></testsuites>"""


def test_reports_are_counted_without_what_was_skipped_and_goals_are_met_missed_or_not_run(tmp_path):
    (tmp_path / "a.xml").write_text(REPORT)
    counts = tested.counted(tmp_path / "a.xml")
    assert counts == {"tests": 2, "skipped": 1, "seconds": 61.5, "refused": 1, "kills": 30}
    marks = [(Mark("part of whole", "part", "whole", "at least", goal),) for goal in (0.97, 0.5)]
    folders, more = {"one": counts, "two": counts}, {"by module": {"companion/a.py": [4, 7]}, "survived": ["x"]}
    records = [record("tested", {"part": [96.0], "whole": [100.0]}, marks[0], "lines", folders=folders),
               record("mutants", {"part": [4], "whole": [7]}, marks[1], "mutants", **more)]  # fmt: skip
    found = tested.verdicts(records)[["found", "outcome"]].fillna("").to_numpy().tolist()
    assert found == [["96 of 100, 96.0 %", "missed"], ["not run", ""], ["4 of 7, 57.1 %", "met"]]
    said = tested.story(records)
    assert all(words in said for words in ("**4 tests**", "**2 bad inputs**", "**60 kills**", "1 of 2 goals"))
    assert tested.survivors(records)["why it survives"].tolist() == [tested.GAP]


def test_every_test_file_is_in_one_folder_of_the_report():
    paths = [path for paths in tested.folders().values() for path in paths]
    files = [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    assert sorted(files) == sorted((tested.ROOT / "tests").rglob("test_*.py"))


def test_no_argument_on_a_survivor_is_left_over():
    committed = committed_benchmarks(tested.ROOT / "results")["mutants", "cpu"]
    assert set(tested.ARGUED) <= set(committed.details["survived"])
