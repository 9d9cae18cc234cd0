"""The plan of the vision study; its effects, tables and figures from records made up so that the answers are known."""

import hashlib
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from companion.claims import judge
from companion.evidence import Evidence
from made_up import BLIND, LAYERS, made_up_record
from papers.upadhyay2023 import claims, figures, study, tables
from sparsemtl.errors import SpecError


def test_the_published_tables_and_switches_are_as_they_were_transcribed():
    files = sorted(study.PUBLISHED.iterdir())
    assert [path.name for path in files] == ["switches.json", "table1.csv", "table2.csv", "table3.csv", "text.csv"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert digest.startswith("5007d53b1badf68b")


def test_corrected_is_paper_with_the_same_decoupled_decay_on_both_sides():
    differ = {name for name, s in study.SWITCHES.items() if s.paper != s.corrected}
    assert differ == {"weight_decay", "head_decay"}
    assert study.SWITCHES["dense_decay"].corrected is None


@pytest.mark.parametrize("profile", ["quick", "small", "full"])
def test_every_published_cell_has_runs(profile):
    for number in (1, 2, 3):
        cells = {(s.params["tasks"], s.params["target"] or 0.0) for s in study.TABLES[f"table{number}"](profile)}
        goal = {row["lambda"]: study.GOAL for row in study.published(3)} if number == 3 else study.LEVEL_OF
        assert cells == {(row["tasks"], goal[row["lambda"]]) for row in study.published(number)}
    assert {s.params["lam"] for s in study.TABLES["fig4"](profile)} == set(study.LAMBDAS)
    everything = study.all_specs(profile)
    assert len({s.hash for s in everything}) == len(everything)


@pytest.mark.parametrize("profile", ["small", "full"])
def test_main_contrasts_have_five_seeds_on_both_sides(profile):
    specs = study.TABLES["main"](profile)
    sides = {(s.method, str(study.flipped(s)), s.params["tasks"], s.params["target"]) for s in specs}
    assert len(specs) == 5 * len(sides)
    for protocol in study.PROTOCOLS:
        assert {(protocol, "{}", study.ALL_NYU, level) for level in (None, study.GOAL)} <= sides


@pytest.mark.parametrize("protocol", study.PROTOCOLS)
def test_both_sides_of_a_comparison_have_the_same_recipe(protocol):
    dense, sparse = study.at_levels("small", (study.ALL_NYU,), (0, 0.7), protocol=protocol, seeds=(0,))
    assert {k for k in dense.params if dense.params[k] != sparse.params[k]} == {"lam", "target"}


def test_published_numbers_are_those_of_the_paper():
    assert not any("seg_iou_mean" in row for row in study.published(1) if row["tasks"] == "depth")
    assert {row["tasks"] for row in study.published(3)} == set(study.L1_SETS)
    (claimed,) = [c.published for c in study.CLAIMS if c.id == "upadhyay-sparse-beats-dense-nyu"]
    assert claimed == pytest.approx((0.3394 / 0.2171 + 0.7857 / 0.6948 - 0.1336 / 0.1657 - 1) / 3)


@pytest.mark.parametrize("name", list(study.SWITCHES))
def test_a_switch_flips_alone(name):
    data, value = study.SWITCHES[name].only or "nyuv2", study.SWITCHES[name].released
    (plain,) = study.specs("small", (study.ALL[data],), (0.0,), data, seeds=(0,))
    (other,) = study.specs("small", (study.ALL[data],), (0.0,), data, seeds=(0,), **{name: value})
    assert {k for k in plain.params if plain.params[k] != other.params[k]} == {name}
    assert study.flipped(other) == {name: value}
    assert study.flipped(plain) == {}


MISTAKES = {
    "unknown profile": {"profile": "tiny"}, "unknown task 'edges'": {"tasks": ("edges",)},
    "lam is nan": {"lambdas": (float("nan"),)}, "target is 1.0": {"target": 1.0}, "fixed length": {"patience": 5},
    "unknown protocol": {"protocol": "draft"}, "unknown data": {"data": "cityscapes"},
    "unknown parameter 'colour'": {"colour": "red"},
}  # fmt: skip


@pytest.mark.parametrize("said", MISTAKES)
def test_mistakes_are_named(said):
    with pytest.raises(SpecError, match=said):
        study.specs(**{"profile": "small", "tasks": ("seg",)} | MISTAKES[said])


@pytest.fixture(scope="module")
def full(make_record):
    """Every run of three of the seeds of the profile `full`."""
    specs = [s for s in study.all_specs("full") if s.seed < 3]
    return Evidence(study.NAME, "committed", "full", tuple(made_up_record(s, make_record) for s in specs), len(specs))


EMPTY = Evidence(study.NAME, "committed", "quick", (), 10)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def changed(full, make_record):
    """The evidence with other results: change(record) -> what is other in its result (dict)."""

    def make(change):
        others = (make_record(r.spec, r.result | change(r), **r.run) for r in full.records)
        return replace(full, records=tuple(others))

    return make


def over(new, old):
    """Relative gain over the three tasks of NYU-v2; made-up depth is one minus what the two other scores are."""
    return (2 * (new - old) / old + (new - old) / (1 - old)) / 3


# Claim -> effect of seed 1. Dense: 0.461, with coupled decay 0.411, alone 0.501, with lambda 0.481, at 70 % 0.581
EFFECTS = {
    "sparse-beats-dense-nyu": over(0.581, 0.461), "one-optimiser": over(0.581, 0.461),
    "as-released": over(0.581, 0.411), "sparse-beats-dense-celeba": 0.12 / 0.461, "best-at-1e-5": over(0.479, 0.461),
    "dense-multitask-worse": over(0.501, 0.461), "groups-beat-l1": over(0.581, 0.481),
    "decay-blinds": over(0.461, 0.411), "dense-sees": (0.161 + 0.161 - 0.239) / 0.3 / 3, "all-zero": 0.01,
    "early-dense": 0.75, "faster": 0.175,
}  # fmt: skip


@pytest.mark.parametrize("claim", study.CLAIMS, ids=lambda claim: claim.short)
def test_effects_of_known_records(full, claim):
    effects = tables.EFFECTS[claim.id](full)
    assert effects.pooled[1] == pytest.approx(EFFECTS[claim.id.removeprefix("upadhyay-")])
    assert list(effects.pooled.index) == [0, 1, 2]
    assert not effects.not_tested
    if effects.within:
        assert effects.within == pytest.approx([effects.pooled.mean()] * 2, abs=1e-3)  # all images are alike


def test_what_sparsity_changes_in_each_task_set(full):
    row = tables.by_set(full, 1).loc[study.ALL_NYU, "70 %"]
    assert row[tables.EFFECT[0]] == pytest.approx(100 * over(0.581, 0.461), abs=0.1)
    assert row.published == pytest.approx(100 * study.CLAIMS[0].published)
    assert row["dense sees"] == "2 of 3 tasks"  # made-up depth is worse than the blind control
    assert "see nothing: depth." in tables.by_set_sentence(full, 1)


@pytest.mark.parametrize(("number", "zero"), [(1, "groups zero, %"), (2, "groups zero, %"), (3, "weights zero, %")])
def test_tables_put_ours_below_the_published_row(full, number, zero):
    table, row = tables.paper_table(number, [full, EMPTY]), study.published(number)[-1]
    key, iou = (row["tasks"], study.scientific(row["lambda"])), study.SCORES["seg"][1]
    said = row["param_sparsity_pct" if number == 3 else "group_sparsity_pct"]
    assert table.loc[(*key, "published"), zero] == f"{said:g}"
    scores = {", l1": "0.4810 ± 0.0010", ", groups": "0.5810 ± 0.0010"}
    for words, score in scores.items() if number == 3 else [("", scores[", groups"])]:
        assert table.loc[(*key, f"full, 70 %{words}"), iou] == score
        assert table.loc[(*key, f"quick, 70 %{words}"), zero] == "not run"
    assert table.loc[("blind control", "", "full"), iou] == f"{BLIND:.4f}"


def test_scores_that_do_not_beat_the_blind_control_by_two_standard_errors_are_marked(full):
    """All made-up errors are 0.01; a made-up depth of about 0.5 is worse than the blind 0.3, others are better."""
    dense = tables.paper_table(1, [full]).loc[(study.ALL_NYU, "0", "full, 0 %")]
    blind = [dense[study.SCORES[task][1]].endswith(tables.IS_BLIND) for task in ("seg", "normal", "depth")]
    assert blind == [False, False, True]
    assert "depth" in claims.dense_sees(full).limits


def test_without_records_every_claim_is_not_run_and_sentences_and_figures_say_so():
    assert {judge(claim, tables.EFFECTS[claim.id](EMPTY)).verdict for claim in study.CLAIMS} == {"not run"}
    for say in (tables.eyes_sentence, tables.times_sentence, tables.decay_sentence, tables.gap_sentence,
                tables.protocol_sentence):  # fmt: skip
        assert "not run" in say(EMPTY)
    for draw in (figures.channels, figures.sparsity, figures.performance, figures.inference_time):
        assert "not run" in draw(EMPTY).axes[0].texts[0].get_text()


def test_seventy_per_cent_out_of_range_is_not_tested(changed):
    half = {"sparsity": dict.fromkeys(("group", "parameter", "zero"), 0.5)}
    some = changed(lambda r: half if r.spec.params.get("target") else {})
    claim = next(c for c in study.CLAIMS if c.id == "upadhyay-sparse-beats-dense-nyu")
    judged = judge(claim, tables.EFFECTS[claim.id](some))
    assert judged.verdict == "not tested"
    assert "50.0 %" in judged.effects.not_tested


def test_the_trend_up_to_1e_5_is_the_fitted_change(changed):
    """Scores that rise by 1 % of the dense one with each lambda, and fall by 2 % from 1e-5 on."""
    steps = dict(zip(study.LAMBDAS, (0, 1, 2, 3, 1, -1, -3), strict=True))

    def change(r):
        if r.spec.method == study.BLIND or r.spec.params["target"]:
            return {}
        step = 0.01 * steps[r.spec.params["lam"]]
        return {"metrics": {k: 0.5 * (1 - step if "depth" in k else 1 + step) for k in r.result["metrics"]}}

    effects = claims.rise(changed(change))
    assert effects.pooled.tolist() == pytest.approx([0.03] * 3)
    assert effects.parts["fall from 1e-5"].tolist() == pytest.approx([0.06] * 3)


def test_published_dense_cells_are_at_the_blind_level_and_sparse_ones_above(changed):
    """With the blind control of the notes."""
    blind = {"metrics": {"seg_iou": 0.205, "normal_cs": 0.680, "depth_mae": 0.164}}
    known = changed(lambda r: blind if r.spec.method == study.BLIND else {})
    table = tables.eyes(known, (1,))
    several = table[table.index.get_level_values("tasks").str.contains("+", regex=False)]["better by"]
    assert several.xs("0", level="λ").max() < 0.03
    assert several.xs("1e-5", level="λ").min() > 0.02
    row = table.loc[(study.ALL_NYU, "1e-5", study.SCORES["depth"][1])]
    assert row["in spreads"] == pytest.approx((0.164 - 0.1336) / 0.0029)
    assert "dense" in tables.eyes_sentence(known)


def test_protocols_show_every_switch_and_what_it_changes(full):
    nyu, faces = tables.protocols(full), tables.protocols(full, "celebamask")
    assert [name.split(", ")[1].split("=")[0] for name in nyu.index if "," in name] == list(study.FLIPPED)
    assert list(faces.index) == ["paper", "paper, double_sigmoid=True"]
    assert nyu.notna().all(axis=None)  # also of switches that change one of the two networks
    assert nyu.loc["paper", "change"] == 0
    wanted = 100 * (over(0.581, 0.411) - over(0.581, 0.461))
    assert nyu.loc["paper, dense_decay=0.1", "change"] == pytest.approx(wanted, rel=1e-3)
    assert "dense_decay=0.1" in tables.gap_sentence(full)
    assert f"{nyu.loc['released', 'sparse over dense, %']:+.0f} [" in tables.protocol_sentence(full)
    assert list(tables.protocols_in_words(full).index) == list(nyu.index)
    assert set(tables.switches().name) == set(study.SWITCHES)


def test_decay_by_strength(full):
    table = tables.decay(full).loc[study.ALL_NYU]
    assert list(table.index) == list(tables.DECAYED)
    assert table.loc["coupled, 0.1", "decay in the gradient, %"] == 50
    assert all(f"({name})" in tables.decay_sentence(full) for name in table.index)


def test_savings_and_blind_predictors_are_in_the_tables(full):
    saved = tables.times(full).loc["70 %"].filter(like="saved")
    assert saved.tolist() == pytest.approx([17.5, 50])
    others = tables.other_metrics(full)
    assert others.iloc[-2].tolist() == pytest.approx([BLIND] * others.shape[1])
    assert others.iloc[-1].tolist() == pytest.approx([0.25] * others.shape[1])
    assert list(tables.by_level(full).index) == ["0 %", "20 %", "50 %", "70 %", "90 %"]


@pytest.mark.parametrize("first", study.PROTOCOLS)
def test_channels_are_drawn_whichever_stem_comes_first(full, first):
    records = sorted(full.records, key=lambda r: r.spec.method != first)
    assert len(figures.channels(replace(full, records=tuple(records))).axes[0].patches) == 2 * len(LAYERS)


def test_figures_draw_the_numbers(full):
    lines = figures.sparsity(full).axes[1].lines
    shown = [name for line in lines for name in re.split(", | and ", line.get_label())]
    assert shown == list(map(study.scientific, study.LAMBDAS))
    assert [line.get_ydata()[1] for line in lines] == pytest.approx([0, 0.15, 1])  # equal courses share a line
    points = [c.lines[0].get_ydata()[0] for c in figures.sight(full, full).axes[0].containers]
    assert points == pytest.approx([0.2171, 0.3394, 0.411, 0.581, 0.461, 0.581])  # published, released, paper
    slopes = figures.slopes(full)
    looks = {(line.get_label(), line.get_color(), line.get_marker()) for ax in slopes.axes for line in ax.lines}
    assert len(looks) == len(study.NYU_SETS) + 1  # one look for each set in all panels, and the blind control
    for draw in (figures.control_path, figures.decay_course, figures.protocol_effects, figures.lambda_by_width,
                 figures.inference_time):  # fmt: skip
        assert draw(full).axes


def test_a_line_breaks_at_what_is_missing(full):
    widest = max(r.spec.params.get("width", 0) for r in full.records)
    kept = [r for r in full.records if r.spec.params.get("width") == widest and r.spec.params["lam"] != 1e-4]
    some = replace(full, records=tuple(kept))
    assert "not run" in figures.lambda_by_width(some).axes[0].texts[0].get_text()
    heights = np.array(figures.performance(some).axes[0].containers[0].lines[0].get_ydata(), float)
    assert list(np.isnan(heights)) == [lam == 1e-4 for lam in study.LAMBDAS]


def test_gallery_and_kinds_of_sparsity_show_arrays():
    dense = {"a": np.random.default_rng(0).normal(size=(16, 16, 3, 3))}
    grouped = {"a": dense["a"] * (np.arange(16) % 2)[:, None, None]}
    masks = [ax.get_images()[0].get_array().mask for ax in figures.kinds_of_sparsity(dense, grouped, grouped).axes]
    assert [mask.mean() for mask in masks] == pytest.approx([0.5] * 3)
    assert (masks[2].all(0) | ~masks[2].any(0)).all()  # whole columns
    truth = {"seg": np.zeros((2, 8, 8)), "normal": np.ones((2, 8, 8, 3)), "depth": np.ones((2, 8, 8, 1))}
    truth |= {"male": np.array([0, 1])}
    drawn = figures.gallery(np.zeros((2, 8, 8, 3), np.uint8), truth, truth | {"male": np.full(2, 0.5)})
    assert len(drawn.axes) == 2 * 7
    assert "yes" in drawn.axes[7].get_xlabel()
