"""The grid of the vision study: every published cell has its runs, and a switch changes one thing."""

import hashlib
from pathlib import Path

import pytest
from companion.__main__ import main
from hypothesis import given
from hypothesis import strategies as st
from papers.upadhyay2023 import study as study
from sparsemtl.errors import SpecError

# of the tables transcribed from the paper, checked against it when they were written
PUBLISHED = {
    "table1": "028d2628b888a255",
    "table2": "c48e844c99b8728d",
    "table3": "b347399d54931942",
    "text": "9f1882fd3a172eef",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_tables_are_as_they_were_transcribed(name):
    path = Path(study.__file__).parent / "published" / f"upadhyay2023_{name}.csv"
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == PUBLISHED[name]


def test_what_the_protocols_switch():
    given = {name: (s.paper, s.released, s.corrected) for name, s in study.SWITCHES.items()}
    assert given == {
        "stem": ("plain", "deep", "plain"),
        "resolution": ("input", "features", "input"),
        "spare_class": (False, True, False),
        "normal_head": ("linear", "tanh", "linear"),
        "depth": ("metres", "relative", "metres"),
        "weight_decay": (0.0, 0.1, 0.1),
        "dense_decay": (None, 0.1, None),
        "restarts": (False, True, False),
        "uncertainty": ("learned", "fixed", "learned"),
        "penalty_gradient": (False, True, False),
        "double_sigmoid": (False, True, False),
        "threshold": (0.5, 0.4, 0.5),
        "split": ("60-20-20", "70-15-15", "60-20-20"),
        "share": (1.0, 0.3333333333333333, 1.0),
        "passes": ("once", "per-task", "once"),
        "stopping": ("joint", "per-task", "joint"),
    }


@pytest.mark.parametrize("profile", ["quick", "small", "full"])
def test_every_published_cell_has_runs(profile):
    tables = {1: study.table1_specs(profile), 2: study.table2_specs(profile), 3: study.table3_specs(profile)}
    for number, specs in tables.items():
        penalty = "l1" if number == 3 else "group_lasso"
        cells = {(s.params["tasks"], s.params["lam"]) for s in specs if s.params["penalty"] == penalty}
        assert cells == {(row["tasks"], row["lambda"]) for row in study.published(number)}
    assert {s.params["lam"] for s in study.fig4_specs(profile)} == set(study.LAMBDAS)
    everything = study.all_specs(profile)
    assert len({s.hash for s in everything}) == len(everything)
    assert set(everything) >= {s for make in study.TABLES.values() for s in make(profile)}


def test_profiles_have_the_seeds_that_were_promised():
    three = [s for s in study.table1_specs("small") if s.params["tasks"] == study.ALL_NYU and s.params["lam"] == 0]
    assert len(three) >= 2
    assert {s.seed for s in study.table2_specs("full")} == set(range(5))


def test_published_numbers_are_those_of_the_paper():
    rows = {(row["tasks"], row["lambda"]): row for row in study.published(1)}
    assert len(rows) == 21
    assert rows["seg+normal+depth", 1e-5]["group_sparsity_pct"] == 69.72
    assert "seg_iou_mean" not in rows["depth", 0.0]
    assert {row["tasks"] for row in study.published(3)} == set(study.L1_SETS)
    assert {row["value"] for row in study.published("text") if row["figure"] == "4d"} == {0.32, 0.74}


def test_lambdas_are_written_as_in_the_paper():
    assert [study.scientific(lam) for lam in study.LAMBDAS] == ["0", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3", "1e-2"]


@given(st.integers(1, 999999), st.integers(-30, 3))
def test_a_lambda_of_six_digits_can_be_read_back(digits, exponent):
    lam = float(f"{digits}e{exponent}")
    assert float(study.scientific(lam)) == lam


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


def test_protocols_have_their_own_values():
    for protocol in study.PROTOCOLS:
        spec = study.specs("small", ("seg",), (0.0,), protocol=protocol)[0]
        assert study.flipped(spec) == {}
        assert spec.params["stem"] == ("deep" if protocol == "released" else "plain")
        assert "split" not in spec.params  # nothing of the faces names a run on rooms


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: study.specs("tiny", ("seg",), (0.0,)), "unknown profile"),
        (lambda: study.specs("small", ("edges",), (0.0,)), "unknown task 'edges'"),
        (lambda: study.specs("small", ("seg",), (-1.0,)), "lam is -1"),
        (lambda: study.specs("small", ("seg",), (float("nan"),)), "lam is nan"),
        (lambda: study.specs("small", ("seg",), (0.0,), protocol="draft"), "unknown protocol"),
        (lambda: study.specs("small", ("seg",), (0.0,), "cityscapes"), "unknown data"),
        (lambda: study.specs("small", ("seg",), (0.0,), colour="red"), "unknown parameter 'colour'"),
    ],
)
def test_mistakes_are_named(call, said):
    with pytest.raises(SpecError, match=said):
        call()


def test_the_command_line_chooses_tables_and_flips_switches(capsys, tmp_path):
    words = ["list", study.NAME, "--profile", "small", "--store", str(tmp_path)]
    assert main([*words, "--table", "fig4", "--param", "lam=1e-5", "seed=0"]) == 0
    plain = capsys.readouterr().out
    wanted = study.specs("small", (study.ALL_NYU,), (1e-5,), seeds=(0,))
    assert [line.split()[0] for line in plain.splitlines()] == [s.hash for s in wanted]
    assert main([*words, "--table", "fig4", "--param", "lam=1e-5", "seed=0", "--set", "uncertainty=fixed"]) == 0
    other = study.specs("small", (study.ALL_NYU,), (1e-5,), seeds=(0,), uncertainty="fixed")
    assert capsys.readouterr().out.split()[0] == other[0].hash
    for mistake in (["--table", "fig9"], ["--param", "lam=0.3"], ["--set", "colour=red"], ["--subject", "1"]):
        assert main([*words, *mistake]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "unknown" in said[0]
