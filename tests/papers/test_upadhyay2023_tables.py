"""Tables, verdicts and figures of the vision study, from records made up so that the answers are known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from companion.__main__ import main
from companion.evidence import Evidence, committed_evidences
from companion.queue import queue
from companion.records import write_jsonl
from companion.statistics import verdict, weakest
from made_up import LAYERS, made_up_record, value_of
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import figures as figures
from papers.upadhyay2023 import study as study
from papers.upadhyay2023 import tables as report
from sparsemtl.models.dense import MultiTaskNet, backbone_convs


@pytest.fixture(scope="module")
def fake(make_record):
    return lambda spec: made_up_record(spec, make_record)


@pytest.fixture(scope="module")
def full(fake):
    """Every run of three of the seeds of the profile `full`."""
    records = tuple(fake(s) for s in study.all_specs("full") if s.seed < 3)
    return Evidence(study.NAME, "committed", "full", records, len(study.all_specs("full")))


EMPTY = Evidence(study.NAME, "committed", "full", (), 10)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_tables_put_ours_below_the_published_row(full, number):
    table = report.paper_table(number, [full, EMPTY])
    rows = study.published(number)
    assert len(table) == 3 * len(rows)
    row = rows[-1]
    key = (row["tasks"], study.scientific(row["lambda"]))
    assert table.loc[(*key, "published"), "groups zero, %"] == f"{row['group_sparsity_pct']:g}"
    assert table.loc[(*key, "committed: not run"), "seeds"] == "not run"
    ours = table.loc[(*key, full.title)]
    task = row["tasks"].split("+")[0]
    chosen = [r for r in full.records if (r.spec.params["tasks"], r.spec.params["lam"]) == (row["tasks"], row["lambda"])
              and r.spec.method == "paper" and not study.flipped(r.spec)
              and (r.spec.params["penalty"] == "l1") == (number == 3)
              and ("male" in r.result["metrics"] or "share" in r.spec.params) == (number == 2)]  # fmt: skip
    values = [value_of(r.spec, task) for r in chosen]
    assert ours["seeds"] == "3"
    assert ours[report.SCORES[task][1]] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_published_cell_has_ours_beside_it(full, number):
    table = report.cells(number, full)
    rows = study.published(number)
    assert len(table) == sum(row["tasks"].count("+") + 1 for row in rows)
    for row in rows:
        for task in row["tasks"].split("+"):
            column, label, _ = report.SCORES[task]
            line = table.loc[row["tasks"], study.scientific(row["lambda"]), label]
            assert (line.published, line["published sd"]) == (row[f"{column}_mean"], row[f"{column}_std"])
            assert line.seeds == 3
            assert line.difference == pytest.approx(line.ours - line.published)
            spread = np.hypot(line.sd, line["published sd"])
            assert line["difference / spread"] == pytest.approx(line.difference / spread)
    assert (report.cells(number, EMPTY)["against published"] == "not run").all()


def test_segmentation_alone_is_not_mixed_over_the_data_sets(full):
    found = report.cell(report.select(report.frame(full.records)), "seg", 0.0, "seg_iou")
    assert len(found) == 3


def test_claims_follow_from_the_effects(full):
    table = report.claims([full])
    assert (table.seeds == 3).all()
    expected = [f"upadhyay-{name}" for name in ("sparse-beats-dense-nyu", "dense-multitask-worse", "best-at-1e-5")]
    expected += [f"upadhyay-{name}" for name in ("all-zero", "groups-beat-l1", "faster")]
    assert (table.verdict.loc[expected] == "reproduced").all()
    assert table.verdict["upadhyay-early-dense"] == "not reproduced"  # half of the early ones are dead here
    text = report.findings([full])
    assert text.count("\n- ") == len(study.CLAIMS)
    assert "**reproduced**" in text


@pytest.mark.parametrize(
    ("name", "column", "lam", "value", "part"),
    [
        ("all_zero", "group", 1e-2, 0.5, "at λ = 1e-2"),
        ("all_zero", "group", 1e-3, 0.5, "at λ = 1e-3"),
        ("early_dense_middle_sparse", "dead_early", 1e-5, 0.3, "early layers dense"),
        ("early_dense_middle_sparse", "dead_middle", 1e-5, 0.0, "middle layers sparse"),
        ("best_at_sparse", "seg_iou", 1e-7, 9.0, "over λ = 1e-7"),
    ],
)
def test_a_claim_about_several_things_fails_by_one_of_them(full, name, column, lam, value, part):
    table = report.select(report.frame(full.records))
    table["dead_early"], table["dead_middle"] = 0.01 + table.seed * 1e-4, 0.5 + table.seed / 99
    table["group"] = table.group - 1e-4 * table.seed
    assert verdict(weakest(getattr(report, name)(table))[1]) == "reproduced"
    table.loc[(table.lam == lam) & (table.tasks == study.ALL_NYU), column] = value
    decides, found = weakest(getattr(report, name)(table))
    assert decides == part
    assert verdict(found) == "not reproduced"


def test_the_published_tables_bear_out_the_claims_but_one():
    row = report.claims([EMPTY])["as published"]
    assert row["upadhyay-best-at-1e-5"] == pytest.approx(-0.0095, abs=1e-4)  # beaten by 1e-6 in the paper's Table 1
    told = row.drop("upadhyay-best-at-1e-5").dropna()
    assert set(told.index) == {f"upadhyay-{name}" for name in (
        "sparse-beats-dense-nyu", "sparse-beats-dense-celeba", "dense-multitask-worse", "groups-beat-l1",
        "all-zero")}  # fmt: skip
    assert told["upadhyay-all-zero"] == pytest.approx(0.01)  # the text prints 100 %
    assert (told > 0).all()


def test_times_without_a_dense_twin_are_not_shown(full):
    old = [
        type(r)(r.spec, r.result, r.run | {"timings": {"zeros_ms": [1.0], "compact_ms": [1.0]}}) for r in full.records
    ]
    evidence = Evidence("upadhyay2023", "committed", "full", tuple(old), 9)
    assert report.times(evidence).empty
    assert report.claims([evidence]).verdict["upadhyay-faster"] == "not run"


def test_times_stand_beside_the_sparsity_of_the_networks_that_were_timed(full):
    def old(r):
        if (r.spec.params["lam"], r.spec.seed) != (1e-4, 0):
            return r
        sparsity = r.result["sparsity"] | {"group": 0.2}
        return type(r)(r.spec, r.result | {"sparsity": sparsity}, r.run | {"timings": {}})

    times = report.times(Evidence("upadhyay2023", "committed", "full", tuple(map(old, full.records)), 9))
    row = times.loc["1e-4"]
    assert (row.seeds, row["of them timed"]) == (3, 2)
    assert row["groups zero, %"] == pytest.approx(50)  # of the networks that were timed
    assert row["dead channels removed: saved (median of turns), %"] == pytest.approx(50)
    assert row["FLOPs kept, %"] == times.loc["1e-5", "FLOPs kept, %"]


def test_gains_are_relative_and_know_which_way_is_better(full):
    table = report.select(report.frame(full.records))
    sparse, dense = (report.cell(table, "depth", lam, "depth_mae") for lam in (study.SPARSE, 0.0))
    assert (sparse < dense).all()
    gain = report.gain(table, ("depth", study.SPARSE), ("depth", 0.0))
    np.testing.assert_allclose(gain, (dense - sparse) / dense)


def test_nothing_run_says_so():
    assert (report.claims([EMPTY]).verdict == "not run").all()
    assert "**not run**" in report.findings([EMPTY])
    assert report.other_metrics(EMPTY).empty
    assert report.times(EMPTY).empty
    assert report.conclusions(EMPTY).isna().all(axis=None)
    assert len(report.protocols(EMPTY)) == 15
    assert report.protocols(EMPTY).isna().all(axis=None)
    for draw in (figures.channels, figures.performance, figures.sparsity, figures.sparsity_by_epoch,
                 figures.inference_time, figures.protocol_effects):  # fmt: skip
        figure = draw(EMPTY)
        assert "not run" in figure.axes[0].texts[0].get_text()


def test_constants_and_savings_stand_beside_ours(full):
    table = report.other_metrics(full)
    assert (table.iloc[-1] == 0.25).all()
    times = report.times(full)
    assert times.loc["1e-5", "dense kernels on zeros: saved (median of turns), %"] == pytest.approx(5)
    assert times.loc["1e-5", "dead channels removed: saved (median of turns), %"] == pytest.approx(50)
    assert times.loc["1e-5", "published saving, ms"] == "0.74"


def test_protocols_show_every_switch(full):
    nyu, faces = report.protocols(full), report.protocols(full, "celebamask")
    flips = {name.split(", ")[1].split("=")[0] for name in [*nyu.index, *faces.index] if "," in name}
    assert flips == {name for name, s in study.SWITCHES.items() if s.paper != s.released}
    assert list(nyu.index[:3]) == list(study.PROTOCOLS)
    assert nyu.notna().all(axis=None)  # also of switches that matter at one lambda only
    assert faces.notna().all(axis=None)
    assert (nyu["λ = 1e-5", "groups zero, %"] == 50).all()
    scores = [label for _, label, _ in (report.SCORES[t] for t in study.ALL_NYU.split("+"))]
    for switch, lam in (("dense_decay=0.1", "λ = 1e-5"), ("penalty_gradient=True", "λ = 0")):
        for score in scores:
            assert nyu.loc[f"paper, {switch}", (lam, score)] == nyu.loc["paper", (lam, score)]
    assert nyu.loc["paper", ("sparse over dense", "%")] > 0
    assert set(report.switches().name) == set(study.SWITCHES)
    assert (report.conclusions(full)["sparse over dense, %"] > 0).all()


def test_the_protocols_page_has_the_runs_for_its_conclusions(full):
    """Of the multi-task sets it has the one of all tasks only."""
    alone = full.of(study.protocol_specs(full.profile))
    found = report.conclusions(alone)
    assert found.notna().all(axis=None)
    table = report.frame(alone.records)
    for protocol in study.PROTOCOLS:
        chosen = report.select(table, protocol, seed=0)
        gains = [report.gain(chosen, (t, 0.0), (study.ALL_NYU, 0.0)).mean() for t in ("seg", "normal", "depth")]
        assert found.loc[protocol, "single over multi (dense), %"] == pytest.approx(100 * np.mean(gains))


def test_figures_draw_the_numbers(full):
    panels = figures.performance(full).axes
    assert len(panels) == 3
    lines = figures.sparsity_by_epoch(full).axes[0].lines
    assert len(lines) == len(study.LAMBDAS)
    np.testing.assert_allclose(lines[-1].get_ydata(), [0, 100])
    bars = figures.channels(full).axes[0].patches
    assert len(bars) == 2 * len(LAYERS)
    assert figures.inference_time(full).axes[0].get_ylim()[0] == 0
    assert len(figures.protocol_effects(full).axes) == 2
    assert figures.sparsity(full).axes[0].lines
    assert figures.block_diagram().axes[0].texts


def test_gallery_and_kinds_of_sparsity_come_from_real_tensors():
    torch.manual_seed(0)
    nets = [MultiTaskNet(("depth",), width=8, layers=(1, 1, 1, 1), head_width=8, rates=(1, 2, 3)) for _ in range(3)]
    with torch.no_grad():
        for weight in backbone_convs(nets[1]).values():
            weight[torch.rand_like(weight) < 0.5] = 0
        for weight in backbone_convs(nets[2]).values():
            weight[:, ::2] = 0
    figure = figures.kinds_of_sparsity(*nets)
    shares = [ax.get_images()[0].get_array().mask.mean() for ax in figure.axes]
    assert shares == pytest.approx([0.5, 0.5, 0.5], abs=0.1)
    channel = figure.axes[2].get_images()[0].get_array().mask
    assert (channel.all(0) | ~channel.any(0)).all()  # whole columns
    truth = {"seg": torch.zeros(2, 8, 8, dtype=torch.uint8), "normal": torch.ones(2, 3, 8, 8),
             "depth": torch.ones(2, 1, 8, 8), "male": torch.tensor([0, 1])}  # fmt: skip
    found = truth | {"male": torch.zeros(2)}
    drawn = figures.gallery(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), truth, found)
    assert len(drawn.axes) == 2 * 7
    assert "male: yes, said 50%" in drawn.axes[7].get_xlabel()


def test_committed_profiles_are_not_mixed(full, fake, tmp_path):
    small = [fake(s) for s in study.specs("small", ("seg",), (0.0,))]
    write_jsonl(tmp_path / study.NAME / "full" / "a.jsonl", full.records[:2])
    write_jsonl(tmp_path / study.NAME / "small" / "a.jsonl", small)
    found = committed_evidences(study, tmp_path)
    assert [(e.profile, len(e.records)) for e in found] == [("full", 2), ("small", 1)]
    assert committed_evidences(study, tmp_path / "nothing")[0].title == "committed: not run"


def test_queue_counts_what_is_missing_once(fake, tmp_path, capsys):
    done = [fake(s) for s in study.TABLES["three-tasks"]("full")]
    page = queue([study, shin2023], done)
    lines = {
        line.split("|")[1].strip(): line.split("|")[2:5]
        for line in page.split("## ")[1].splitlines()[4:]
        if "|" in line
    }
    assert [cell.strip() for cell in lines["three-tasks"]] == ["0", "15", "0.0"]
    assert int(lines["table1"][0]) == 105 - 15
    assert float(lines["table1"][2]) == pytest.approx(90 * 60 / 3600)  # made-up records take a minute
    assert int(lines["all"][1]) == len(study.all_specs("full"))
    assert main(["queue", "--store", str(tmp_path), "--results", str(tmp_path)]) == 0
    assert "## upadhyay2023, profile full" in capsys.readouterr().out
