"""The grid of the vision study: every published cell has its runs, and a switch changes one thing."""

import hashlib
from pathlib import Path

import pytest
from papers.upadhyay2023 import study as study
from sparsemtl.errors import SpecError

# of what was transcribed from the paper and from the notes on its code, checked when it was written
PUBLISHED = {
    "table1.csv": "028d2628b888a255",
    "table2.csv": "c48e844c99b8728d",
    "table3.csv": "b347399d54931942",
    "text.csv": "9f1882fd3a172eef",
    "switches.json": "66f800c3fe1dce25",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_tables_are_as_they_were_transcribed(name):
    path = Path(study.__file__).parent / "published" / name
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == PUBLISHED[name]


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


def test_both_sides_of_a_comparison_have_the_same_recipe():
    for protocol in study.PROTOCOLS:
        dense, sparse = (
            study.at_levels("small", (study.ALL_NYU,), (k,), protocol=protocol, seeds=(0,))[0] for k in (0, 0.7)
        )
        assert {k for k in dense.params if dense.params[k] != sparse.params[k]} == {"lam", "target"}


def test_published_numbers_are_those_of_the_paper():
    rows = {(row["tasks"], row["lambda"]): row for row in study.published(1)}
    assert "seg_iou_mean" not in rows["depth", 0.0]
    assert {row["tasks"] for row in study.published(3)} == set(study.L1_SETS)
    claims = {c.id: c.published for c in study.CLAIMS}
    told = [rows[study.ALL_NYU, lam] for lam in (1e-5, 0.0)]
    changes = [told[0]["seg_iou_mean"] / told[1]["seg_iou_mean"], told[0]["normal_cs_mean"] / told[1]["normal_cs_mean"],
               2 - told[0]["depth_mae_mean"] / told[1]["depth_mae_mean"]]  # fmt: skip
    assert claims["upadhyay-sparse-beats-dense-nyu"] == pytest.approx(sum(changes) / 3 - 1)


@pytest.mark.parametrize("name", list(study.SWITCHES))
def test_a_switch_flips_alone(name):
    switch = study.SWITCHES[name]
    data = switch.only or "nyuv2"
    tasks = study.ALL_CELEBA if data == "celebamask" else study.ALL_NYU
    plain = study.specs("small", (tasks,), (0.0,), data, seeds=(0,))[0]
    other = study.specs("small", (tasks,), (0.0,), data, seeds=(0,), **{name: switch.released})[0]
    assert {k for k in plain.params if plain.params[k] != other.params[k]} == {name}
    assert study.flipped(other) == {name: switch.released}
    assert study.flipped(plain) == {}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: study.specs("tiny", ("seg",), (0.0,)), "unknown profile"),
        (lambda: study.specs("small", ("edges",), (0.0,)), "unknown task 'edges'"),
        (lambda: study.specs("small", ("seg",), (float("nan"),)), "lam is nan"),
        (lambda: study.specs("small", ("seg",), target=1.0), "target is 1.0"),
        (lambda: study.specs("small", ("seg",), patience=5), "fixed length"),
        (lambda: study.specs("small", ("seg",), (0.0,), protocol="draft"), "unknown protocol"),
        (lambda: study.specs("small", ("seg",), (0.0,), "cityscapes"), "unknown data"),
        (lambda: study.specs("small", ("seg",), (0.0,), colour="red"), "unknown parameter 'colour'"),
    ],
)
def test_mistakes_are_named(call, said):
    with pytest.raises(SpecError, match=said):
        call()
