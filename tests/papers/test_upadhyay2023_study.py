"""The grid of the vision study: every published cell has its runs, and a switch changes one thing."""

import hashlib

import pytest
from papers.upadhyay2023 import study
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
    specs = study.main_specs(profile)
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
