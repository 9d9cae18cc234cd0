"""What the page on efficiency says follows from its records."""

from pathlib import Path

import efficiency
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from companion.evidence import Evidence
from companion.page import Page
from measured import Benchmark, Mark
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023

ROOT = Path(__file__).parents[2]
MACHINE = {"script": "prox", "arguments": "--threads 2 --repeats 3", "device": "cpu", "processor": "made up",
           "cores": 2, "threads": 2, "python": "3.11",
           "packages": {"torch": "2"}, "ended": "2026-01-01T00:00:00+00:00"}  # fmt: skip


def seconds(**sides):
    return {label: {"unit": "s", "values": values} for label, values in sides.items()}


@pytest.fixture
def prox():
    marks = (Mark("gain", "slow", "fast", "at least", 5.0), Mark("cost", "fast", "floor", "at most", 1.5))
    profile = {"fast": [{"operation": "sum", "share": 0.75}, {"operation": "copy", "share": 0.2}]}
    sides = seconds(slow=[4.0, 4.0, 4.0], fast=[1.0, 1.0, 1.0], floor=[0.8, 0.8, 0.8])
    return Benchmark("prox", sides, marks, {"profile": profile}, MACHINE)


@pytest.fixture
def scaling():
    sides = {}
    for n in (64, 96, 128):
        sides[f"pixels={n}"] = {"unit": "s", "values": [2e-4 * n**1.7]}
    for n in (1, 2, 3):
        sides[f"subjects={n}"] = {"unit": "s", "values": [0.5 * n]}
    sides |= seconds(**{"EEG step, small": [0.01], "EEG step, full": [0.03]})
    flops = {d: dict.fromkeys(s, 1e9) for d, s in
             (("nyuv2", upadhyay2023.NYU_SETS), ("celebamask", upadhyay2023.CELEBA_SETS))}  # fmt: skip
    return Benchmark("scaling", sides, (), {"FLOPs a picture": flops}, MACHINE)


def test_every_mark_has_its_outcome_and_what_was_not_run_says_so(prox):
    table = efficiency.verdicts({("prox", "cpu"): prox}).reset_index()
    ours = table[table.benchmark == efficiency.TITLES["prox"]]
    assert list(ours.mark) == ["gain", "cost", "all"]
    assert list(ours.outcome) == ["missed", "met", "not run"]
    assert list(ours.on) == ["CPU", "CPU", "GPU"]
    assert list(ours.ratio[:2]) == pytest.approx([4.0, 1.25])
    told = efficiency.reached({("prox", "cpu"): prox})
    assert told == "So far on a CPU 1 of 2 marks is reached and on a GPU nothing was measured yet."
    assert set(table[table.benchmark != efficiency.TITLES["prox"]].outcome) == {"not run"}


def test_a_missed_mark_says_by_how_much_and_where_the_time_goes(prox):
    told = efficiency.missed({("prox", "cpu"): prox})
    assert told == ["Missed on the CPU by 20.0 %: gain (4, at least 5). Time goes to sum 75 %, copy 20 %."]
    assert efficiency.spent({"fas": [{"operation": "add", "share": 1.0}]}, prox.marks[0]) == ""  # another side
    met = Benchmark("prox", prox.sides, prox.marks[1:], {}, MACHINE)
    assert efficiency.missed({("prox", "cpu"): met}) == ["Every mark of these records is reached."]


def test_the_comparison_with_braindecode_says_both_speeds_and_the_goals():
    sides = seconds(theirs=[6.2] * 3, ours=[1.0] * 3, deep_theirs=[1.0] * 3, deep_ours=[2.5] * 3)
    pairs = (("theirs", "ours"), ("deep_theirs", "deep_ours"))
    marks = tuple(Mark(a, a, b, "at least", 5.0) for a, b in pairs)
    details = {"power": {"networks": 50}, "shallow": {"networks": 5}}
    found = {("eeg_classifier", "cpu"): Benchmark("eeg_classifier", sides, marks, details, MACHINE)}
    said = efficiency.classifier(found)
    assert "50 networks of the recipe **6.2 times** as fast and 5 Shallow ConvNets **2.5 times** slower." in said
    assert said.endswith("1 of 2 goals (5 times as fast) is met.")
    assert efficiency.story(found).endswith(said)
    caption = BeautifulSoup(efficiency.told(Page("efficiency"), found, "eeg_classifier").data, "html.parser").caption
    assert caption.text == "EEG networks by braindecode's EEGClassifier and by a run: all sides"


def test_sides_are_in_units_that_can_be_read():
    values = list(np.linspace(1e-3, 2e-3, 101))
    sides = seconds(quick=values, slow=[3.0]) | {"work": {"unit": "FLOPs", "values": [2.5e12]}}
    table = efficiency.sides(Benchmark("made-up", sides, (), {}, MACHINE))
    assert list(table.unit) == ["ms", "s", "TFLOPs"]
    assert list(table["median"]) == pytest.approx([1.5, 3.0, 2.5])
    assert table["99th percentile"]["quick"] == pytest.approx(1.99)


def test_growth_is_the_exponent_of_the_power_law(scaling):
    table = efficiency.growth({("scaling", "cpu"): scaling})
    assert table.exponent[efficiency.AXES["pixels"]] == pytest.approx(1.7)
    assert table.exponent[efficiency.AXES["subjects"]] == pytest.approx(1.0)
    assert efficiency.AXES["seeds"] not in table.index


def test_a_plan_is_operations_over_speed(scaling, make_record):
    spec = upadhyay2023.specs("small", ("seg",), (0.0,))[0]
    pictures = {"data": {"pictures": {"train": 100, "val": 30, "test": 70}}}
    fewer = {"data": {"pictures": {"train": 30, "val": 9, "test": 70}}}  # by a switch
    other = upadhyay2023.specs("small", ("seg",), (1e-5,))[0]
    records = (make_record(spec, pictures), make_record(other, fewer))
    vision = Evidence(upadhyay2023.NAME, "committed", "small", records, 2)
    eeg = shin2023.specs("small", subjects=(1,), seeds=(0,), methods=("or",), sparsities=(0.4,), problem="left-right")
    evidences = [vision, Evidence(shin2023.NAME, "committed", "small", (make_record(eeg[0], {}),), 1)]
    table = efficiency.plan({("scaling", "cpu"): scaling}, evidences, tflops=2.0, share=0.5)
    runs = upadhyay2023.TABLES["fig4"]("full")
    epochs = runs[0].params["epochs"]
    row = table.loc["vision, fig4"]
    assert row.runs == len(runs)
    assert row.hours == pytest.approx(len(runs) * 1e9 * (100 + 30 / 3) * epochs / 1e12 / 3600)
    assert np.isnan(table.hours["vision, table2"])  # nothing tells how many faces there are
    seconds = evidences[1].records[0].run["seconds"]
    assert table.hours["EEG, Table 1"] == pytest.approx(seconds * len(shin2023.table1_specs("full")) / 3600)


def test_without_records_the_page_says_not_run():
    page = Page("efficiency")
    for name in efficiency.TITLES:
        assert "not run" in BeautifulSoup(efficiency.told(page, {}, name).data, "html.parser").text
        assert "not run" in efficiency.bars({}, name).axes[0].texts[0].get_text()
    assert efficiency.growth({}).empty
    assert efficiency.plan({}, [], 1.0, 1.0).empty
    plt.close("all")


def test_tails_are_shares_of_calls_in_milliseconds():
    sides = seconds(**{"net, dense, torch": list(np.linspace(1e-3, 2e-3, 200))})
    sides |= {"net, dense, ONNX Runtime": {"unit": "ms", "values": [0.5] * 200}}
    sides |= {"net, 40%, torch": {"unit": "ms", "values": [0.5] * 200}} | seconds(once=[1.0])
    (axis,) = efficiency.tails(
        {("latency", "cpu"): Benchmark("latency", sides, (), {}, MACHINE)}, "latency", leave=("40%",)
    ).axes
    curves = {line.get_label(): line for line in axis.get_lines()[:2]}
    assert list(curves) == ["dense, torch", "dense, ONNX Runtime"]
    x, y = curves["dense, torch"].get_data()
    assert x[y <= 0.5][0] == pytest.approx(1.5, abs=0.01)
    assert curves["dense, torch"].get_color() == curves["dense, ONNX Runtime"].get_color()
    assert "not run" in efficiency.tails({}, "latency").axes[0].texts[0].get_text()
    plt.close("all")


def test_figures_draw_every_timed_side(prox, scaling):
    figure = efficiency.bars({("prox", "cpu"): prox}, "prox")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["slow", "fast", "floor"]
    lines = efficiency.growth_figure({("scaling", "cpu"): scaling}).axes[0].get_lines()
    assert list(lines[0].get_ydata()) == pytest.approx([1.0, 1.5**1.7, 2**1.7])
    plt.close("all")
