"""Tables, effects and figures of the vision study, from records made up so that the answers are known."""

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from companion.claims import judge
from companion.evidence import Evidence
from made_up import BLIND, LAYERS, made_up_record, value_of
from papers.upadhyay2023 import claims, figures, study, tables


@pytest.fixture(scope="module")
def fake(make_record):
    return lambda spec: made_up_record(spec, make_record)


@pytest.fixture(scope="module")
def full(fake):
    """Every run of three of the seeds of the profile `full`."""
    specs = [s for s in study.all_specs("full") if s.seed < 3]
    return Evidence(study.NAME, "committed", "full", tuple(map(fake, specs)), len(specs))


EMPTY = Evidence(study.NAME, "committed", "quick", (), 10)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def with_metrics(full, make_record, change):
    """The evidence with other metrics: change(spec, metrics) -> metrics."""

    def other(r):
        return make_record(r.spec, r.result | {"metrics": change(r.spec, r.result["metrics"])}, **r.run)

    return replace(full, records=tuple(map(other, full.records)))


@pytest.mark.parametrize(("number", "zero"), [(1, "groups zero, %"), (2, "groups zero, %"), (3, "weights zero, %")])
def test_tables_put_ours_below_the_published_row(full, number, zero):
    table, rows = tables.paper_table(number, [full, EMPTY]), study.published(number)
    arms = {", l1": "l1", ", groups": "group_lasso"} if number == 3 else {"": "group_lasso"}
    assert len(table) == (1 + 2 * len(arms)) * len(rows) + 1
    key = rows[-1]["tasks"], study.scientific(rows[-1]["lambda"])
    said = rows[-1]["param_sparsity_pct" if number == 3 else "group_sparsity_pct"]
    assert table.loc[(*key, "published"), zero] == f"{said:g}"
    data, count = tables.TABLE_OF[number]
    task = key[0].split("+")[0]
    label = study.SCORES[task][1]
    for words, penalty in arms.items():
        assert table.loc[(*key, f"quick{words}"), zero] == "not run"
        how = {"penalty": penalty, "count": count, "seeds": (0, 1, 2)}
        values = [value_of(s, task) for s in study.at_levels("full", key[:1], (study.GOAL,), data, **how)]
        ours = table.loc[(*key, f"full{words}"), label].removesuffix(tables.IS_BLIND)
        assert ours == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert table.loc[("blind control", "", "full"), label] == f"{BLIND:.4f}"


def test_scores_that_do_not_beat_the_blind_control_by_two_standard_errors_are_marked(full):
    """All made-up errors are 0.01; a made-up depth of about 0.5 is worse than the blind 0.3, others are better."""
    table = tables.paper_table(1, [full]).xs("full", level="source")
    dense = table.loc[(study.ALL_NYU, "0")]
    assert dense[study.SCORES["depth"][1]].endswith(tables.IS_BLIND)
    assert not dense[study.SCORES["seg"][1]].endswith(tables.IS_BLIND)
    assert "depth" in claims.dense_sees(full).limits


def test_segmentation_alone_is_not_mixed_over_the_data_sets(full):
    found = claims.cell(claims.frame(full.records), "seg", "seg_iou", level=0.0)
    assert len(found) == 3


def test_without_records_every_claim_is_not_run_and_every_sentence_says_so():
    for claim in study.CLAIMS:
        assert judge(claim, tables.EFFECTS[claim.id](EMPTY)).verdict == "not run"
    for say in (tables.eyes_sentence, tables.times_sentence, tables.decay_sentence, tables.gap_sentence,
                tables.protocol_sentence):  # fmt: skip
        assert "not run" in say(EMPTY)


def test_sparse_over_dense_is_the_mean_relative_change_over_the_tasks(full):
    effects = claims.sparse_over_dense(full)
    for seed in range(3):
        dense, sparse = (
            study.at_levels("full", (study.ALL_NYU,), (level,), seeds=(seed,))[0] for level in (0.0, study.GOAL)
        )
        changes = [
            study.SCORES[t][2] * (value_of(sparse, t) / value_of(dense, t) - 1) for t in ("seg", "normal", "depth")
        ]
        assert effects.pooled[seed] == pytest.approx(np.mean(changes))
    assert not effects.not_tested
    assert effects.within[0] <= effects.pooled.mean() + 1e-3
    assert effects.within[1] >= effects.pooled.mean() - 1e-3
    assert set(effects.parts) > {"segmentation", "seg+depth"}


def test_seventy_per_cent_out_of_range_is_not_tested(full, make_record):
    def denser(r):
        if not r.spec.params.get("target"):
            return r
        return make_record(r.spec, r.result | {"sparsity": dict.fromkeys(("group", "parameter", "zero"), 0.5)}, **r.run)

    some = replace(full, records=tuple(map(denser, full.records)))
    claim = next(c for c in study.CLAIMS if c.id == "upadhyay-sparse-beats-dense-nyu")
    assert judge(claim, tables.EFFECTS[claim.id](some)).verdict == "not tested"
    assert "50.0 %" in tables.EFFECTS[claim.id](some).not_tested


def test_effects_of_known_records(full):
    found = {c.id.removeprefix("upadhyay-"): tables.EFFECTS[c.id](full) for c in study.CLAIMS}
    signs = {name: e.pooled.mean() > 0 for name, e in found.items()}
    assert all(signs[name] for name in ("dense-multitask-worse", "groups-beat-l1", "faster", "early-dense", "all-zero"))
    assert found["all-zero"].pooled.tolist() == pytest.approx([0.01] * 3)
    assert found["early-dense"].pooled.tolist() == pytest.approx([0.75] * 3)  # 2 of 8 channels live
    assert found["faster"].pooled.tolist() == pytest.approx([0.175] * 3)
    assert signs["decay-blinds"]


def test_the_trend_up_to_1e_5_is_the_fitted_change(full, make_record):
    """Scores that rise by 1 % of the dense one with each lambda, and fall by 2 % from 1e-5 on."""
    steps = dict(zip(study.LAMBDAS, (0, 1, 2, 3, 1, -1, -3), strict=True))

    def change(spec, metrics):
        if spec.method == study.BLIND or spec.params["target"]:
            return metrics
        return {k: 0.5 * (1 + (-1 if "depth" in k else 1) * 0.01 * steps[spec.params["lam"]]) for k in metrics}

    effects = claims.rise(with_metrics(full, make_record, change))
    assert effects.pooled.tolist() == pytest.approx([0.03] * 3)
    assert effects.parts["fall from 1e-5"].tolist() == pytest.approx([0.06] * 3)


def test_published_dense_cells_are_at_the_blind_level_and_sparse_ones_above(full, make_record):
    """With the blind control of the notes."""
    blind = {"seg_iou": 0.205, "normal_cs": 0.680, "depth_mae": 0.164}

    def change(spec, metrics):
        return metrics | {k: v for k, v in blind.items() if k in metrics} if spec.method == study.BLIND else metrics

    known = with_metrics(full, make_record, change)
    table = tables.eyes(known, (1,))
    several = table[table.index.get_level_values("tasks").str.contains("+", regex=False)]
    dense = several.xs("0", level="λ")["better by"]
    sparse = several.xs("1e-5", level="λ")["better by"]
    assert dense.max() < 0.03
    assert sparse.min() > 0.02
    row = table.loc[(study.ALL_NYU, "1e-5", study.SCORES["depth"][1])]
    assert row["in spreads"] == pytest.approx((0.164 - 0.1336) / 0.0029)
    assert "dense" in tables.eyes_sentence(known)


def test_protocols_show_every_switch_and_what_it_changes(full):
    nyu, faces = tables.protocols(full), tables.protocols(full, "celebamask")
    flips = [name.split(", ")[1].split("=")[0] for name in nyu.index if "," in name]
    assert flips == list(study.FLIPPED)
    assert list(faces.index) == ["paper", "paper, double_sigmoid=True"]
    assert nyu.notna().all(axis=None)  # also of switches that change one of the two networks
    assert nyu.loc["paper", "change"] == 0
    assert nyu.loc["paper, dense_decay=0.1", "change"] > 0
    assert "dense_decay=0.1" in tables.gap_sentence(full)
    said = tables.protocol_sentence(full)
    assert all(f"{nyu.loc[name, 'sparse over dense, %']:+.0f} [" in said for name in study.PROTOCOLS)
    words = tables.protocols_in_words(full)
    assert list(words.index) == list(nyu.index)
    assert words.loc["corrected", "seeds"] == f"{nyu.seeds['corrected']}"
    assert words.loc["corrected", "change"].startswith(f"{nyu.change['corrected']:+.1f} [")
    assert set(tables.switches().name) == set(study.SWITCHES)


def test_decay_by_strength(full):
    table = tables.decay(full)
    steps = ["none", "coupled, 0.0001", "coupled, 0.001", "coupled, 0.01", "coupled, 0.1"]
    others = ["coupled, 0.1, backbone alone", "as released", "decoupled"]
    assert list(table.loc[study.ALL_NYU].index) == steps + others
    assert table.loc[(study.ALL_NYU, "coupled, 0.1"), "decay in the gradient, %"] == 50
    assert all(f"({name})" in tables.decay_sentence(full) for name in steps + others)


def test_savings_and_blind_predictors_are_in_the_tables(full):
    times = tables.times(full)
    assert times.loc["70 %", "dense kernels on zeros: saved (fastest turn), %"] == pytest.approx(17.5)
    assert times.loc["70 %", "dead channels removed: saved (fastest turn), %"] == pytest.approx(50)
    others = tables.other_metrics(full)
    assert others.iloc[-2].to_numpy() == pytest.approx(BLIND)
    assert (others.iloc[-1] == 0.25).all()
    levels = tables.by_level(full)
    assert list(levels.index) == ["0 %", "20 %", "50 %", "70 %", "90 %"]


def test_figures_draw_the_numbers(full):
    for first in study.PROTOCOLS:  # whose networks may have another stem
        records = sorted(full.records, key=lambda r: r.spec.method != first)
        assert len(figures.channels(replace(full, records=tuple(records))).axes[0].patches) == 2 * len(LAYERS)
    lines = figures.sparsity(full).axes[1].lines
    shown = [name for line in lines for name in re.split(", | and ", line.get_label())]
    assert shown == list(map(study.scientific, study.LAMBDAS))  # equal courses share a line
    assert len(lines) == 3
    np.testing.assert_allclose(lines[-1].get_ydata(), [0, 1])
    points = [c.lines[0].get_ydata()[0] for c in figures.sight(full, full).axes[0].containers]
    assert points[0] == 0.2171
    table = claims.frame(full.records)
    for height, protocol in ((points[2], "released"), (points[4], "paper")):
        shown = claims.cell(table, study.ALL_NYU, "seg_iou", level=0.0, protocol=protocol)
        assert height == pytest.approx(shown.mean())
    slopes = figures.slopes(full)
    assert len(figures.performance(full).axes) == len(slopes.axes) / 2 == 3
    looks = {(line.get_label(), line.get_color(), line.get_marker()) for ax in slopes.axes for line in ax.lines}
    assert len(looks) == len(study.NYU_SETS) + 1  # one look for each set in all panels, and the blind control
    assert [t.get_text() for t in slopes.legends[0].get_texts()] == [*study.NYU_SETS, "sees no image"]
    assert figures.inference_time(full).axes[0].get_ylim()[0] == 0
    for draw in (figures.control_path, figures.decay_course, figures.protocol_effects, figures.lambda_by_width):
        assert draw(full).axes
    usual = [r for r in full.records if r.spec.params.get("width") == table.width.max()]
    some = replace(full, records=tuple(r for r in usual if r.spec.params["lam"] != 1e-4))
    assert "not run" in figures.lambda_by_width(some).axes[0].texts[0].get_text()
    heights = np.array(figures.performance(some).axes[0].containers[0].lines[0].get_ydata(), float)
    assert list(np.isnan(heights)) == [lam == 1e-4 for lam in study.LAMBDAS]  # the line breaks at what is missing
    for draw in (figures.channels, figures.sparsity, figures.performance, figures.inference_time):
        assert "not run" in draw(EMPTY).axes[0].texts[0].get_text()


def test_gallery_and_kinds_of_sparsity_show_arrays():
    rng = np.random.default_rng(0)
    dense = {"a": rng.normal(size=(16, 16, 3, 3)), "b": rng.normal(size=(8, 8, 1, 1))}
    loose = {k: w * (rng.random(w.shape) < 0.5) for k, w in dense.items()}
    grouped = {k: w * (np.arange(w.shape[1]) % 2)[:, None, None] for k, w in dense.items()}
    figure = figures.kinds_of_sparsity(dense, loose, grouped)
    shares = [ax.get_images()[0].get_array().mask.mean() for ax in figure.axes]
    assert shares == pytest.approx([0.5, 0.5, 0.5], abs=0.1)
    channel = figure.axes[2].get_images()[0].get_array().mask
    assert (channel.all(0) | ~channel.any(0)).all()  # whole columns
    truth = {"seg": np.zeros((2, 8, 8)), "normal": np.ones((2, 8, 8, 3)), "depth": np.ones((2, 8, 8, 1)),
             "male": np.array([0, 1])}  # fmt: skip
    drawn = figures.gallery(np.zeros((2, 8, 8, 3), np.uint8), truth, truth | {"male": np.full(2, 0.5)})
    assert len(drawn.axes) == 2 * 7
    assert "yes" in drawn.axes[7].get_xlabel()
