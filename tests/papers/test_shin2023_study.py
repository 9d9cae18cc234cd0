"""Which runs make the table of Shin et al. 2023, and what the paper published and claims."""

import csv
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from companion.spec import PROFILES
from papers.shin2023 import study as shin2023
from papers.shin2023 import tables as report
from papers.shin2023.run import CLASSICAL
from papers.shin2023.study import METHODS, SPARSITIES, all_specs, control_specs, specs, trunk_options
from sparsemtl.errors import SpecError
from sparsemtl.training.pruning import PROCEDURES

DENSE = ("csp-lda", "dense-single", "dense-multi")
REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "shin2023.csv"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_grid_holds_each_run_once(profile):
    settings = shin2023.PROFILE_SETTINGS[profile]
    found = specs(profile)
    rows = [(m, 0.0) for m in DENSE] + [(m, s) for m in METHODS if m not in DENSE for s in (0.2, 0.4, 0.8)]
    wanted = set(product(settings["problems"], settings["seeds"], settings["subjects"], rows))
    got = [(s.params["problem"], s.seed, s.params["subject"], (s.method, s.params["sparsity"])) for s in found]
    assert len(got) == len(wanted)
    assert set(got) == wanted
    assert {(s.study, s.profile, s.data) for s in found} == {("shin2023", profile, settings["data"])}
    assert len({s.hash for s in all_specs(profile)}) == len(all_specs(profile))


def test_the_profiles_are_what_the_design_says():
    assert {p: shin2023.PROFILE_SETTINGS[p]["data"] for p in PROFILES} == {
        "quick": "simulated-eeg", "small": "eegmmidb", "full": "eegmmidb"
    }  # fmt: skip
    small = shin2023.PROFILE_SETTINGS["small"]
    assert small["subjects"] == (1, 3, 6, 7, 15, 42)
    assert len(small["seeds"]) >= 3
    assert len(shin2023.PROFILE_SETTINGS["full"]["seeds"]) == 5
    assert SPARSITIES == (0.0, 0.2, 0.4, 0.8)


def test_every_method_has_a_procedure_and_a_published_name():
    assert set(METHODS) == set(PROCEDURES) | {CLASSICAL}
    assert {m for m, info in METHODS.items() if not info.sparse} == set(DENSE)


def test_choices_narrow_the_grid_and_parameters_reach_every_spec():
    (one,) = specs("small", "four-class", ("or",), (42,), (2,), (0.4,), epochs=3, backbone="shallow")
    p = one.params
    assert (one.method, one.seed, p["subject"], p["problem"], p["sparsity"]) == ("or", 2, 42, "four-class", 0.4)
    assert (p["epochs"], p["backbone"], p["allow_missing_runs"]) == (3, "shallow", True)
    assert dict(p["trunk"]) == trunk_options("shallow", 80.0)
    (dense,) = specs("quick", methods=("dense-multi",), subjects=(1,), seeds=(0,), sparsities=(0.2, 0.4))
    assert dense.params["sparsity"] == 0.0
    assert specs("quick", methods=("or",), sparsities=(0.0,)) == []  # at 0 it is the dense network


def test_the_version_of_the_code_is_part_of_every_name(monkeypatch):
    before = {s.hash for s in all_specs("quick")}
    monkeypatch.setattr(shin2023, "VERSION", shin2023.VERSION + 1)
    assert before.isdisjoint(s.hash for s in all_specs("quick"))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_other_backbones_run_on_the_folds_of_the_first(profile):
    """Dense and proposed in full, the rivals where the profile says; people, seeds and training as in Table 1."""
    settings, found = shin2023.PROFILE_SETTINGS[profile], shin2023.backbone_specs(profile)
    some = settings["backbones"]
    rows = [("dense-single", 0.0), ("dense-multi", 0.0), *product(["or"], SPARSITIES[1:])]
    rows += product([m for m in METHODS if m not in (*DENSE, "or", "budget")], some["rivals"])
    wanted = set(product(("shallow", "deep4"), settings["problems"], some["seeds"], settings["subjects"], rows))
    got = {(s.params["backbone"], s.params["problem"], s.seed, s.params["subject"], (s.method, s.params["sparsity"]))
           for s in found}  # fmt: skip
    assert (len(found), got) == (len(wanted), wanted)
    assert set(some["seeds"]) <= set(settings["seeds"])
    table1 = {s.hash for s in shin2023.table1_specs(profile)}
    for spec in found:
        assert spec.params["trunk"]["dropout"] == 0.25
        as_first = spec.params | {"backbone": "eegnet", "trunk": trunk_options("eegnet", spec.params["sfreq"])}
        assert replace(spec, params=as_first).hash in table1


def test_what_the_profiles_leave_out_of_the_other_backbones():
    small, full = (shin2023.PROFILE_SETTINGS[p] for p in ("small", "full"))
    assert (full["backbones"]["seeds"], full["backbones"]["rivals"]) == (full["seeds"], SPARSITIES[1:])
    assert 0.8 in small["backbones"]["rivals"]  # what the claim of robustness needs


def test_the_control_shuffles_the_labels_of_the_dense_and_the_proposed_network():
    found = control_specs("quick")
    assert {s.params["labels"] for s in found} == {"shuffled"}
    assert {(s.method, s.params["sparsity"]) for s in found} == {("dense-multi", 0.0), ("or", 0.4)}
    assert {s.params["labels"] for s in specs("quick")} == {"true"}
    assert set(found) <= set(all_specs("quick"))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"profile": "huge"}, "unknown profile 'huge'"),
        ({"methods": ("or", "snap")}, "unknown method 'snap': choose one of csp-lda"),
        ({"sparsities": (0.2, 1.0)}, "sparsity is 1.0: it must be at least 0 and less than 1"),
        ({"sparsities": (-0.1,)}, "sparsity is -0.1"),
        ({"sparsities": (float("nan"),)}, "sparsity is nan"),
    ],
)
def test_bad_choices_are_named(choice, message):
    with pytest.raises(SpecError, match=message):
        specs(**{"profile": "quick"} | choice)


@pytest.mark.parametrize("profile", ["small", "full"])
def test_the_printed_download_fetches_whom_a_profile_needs(profile):
    page = (Path(__file__).parents[2] / "book/rerun.md").read_text(encoding="utf-8")
    (subjects,) = re.findall(r"data eegmmidb --subject ([\d ]+) --download", page)
    assert tuple(map(int, subjects.split())) == shin2023.PROFILE_SETTINGS[profile]["subjects"]


@pytest.mark.parametrize("table", shin2023.TABLES)
def test_a_profile_that_is_none_is_named_by_every_table(table):
    with pytest.raises(SpecError, match="unknown profile 'huge': choose one of quick"):
        shin2023.TABLES[table]("huge")


@pytest.mark.parametrize("backbone", ["eegnet", "shallow", "deep4"])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_trunk_can_be_built_at_every_sampling_rate(backbone, profile):
    from sparsemtl.models.eeg import DualTaskNet

    p = shin2023.PROFILE_SETTINGS[profile]["params"]
    n_times = round((p["tmax"] - p["tmin"]) * p["sfreq"])
    DualTaskNet(21, n_times, 2, sfreq=p["sfreq"], backbone=backbone, **trunk_options(backbone, p["sfreq"]))


def test_each_claim_has_its_own_id_and_a_quantity_that_exists():
    ids = [c.id for c in shin2023.CLAIMS]
    assert len(set(ids)) == len(ids)
    for claim in shin2023.CLAIMS:
        assert callable(getattr(report, claim.quantity))
        assert claim.sentence.endswith(".")


@pytest.mark.skipif(
    not REFERENCE.exists(), reason="the transcription of the paper's numbers is not beside the checkout"
)
def test_the_published_cells_are_those_of_the_transcription():
    rows = list(csv.DictReader(REFERENCE.open()))
    cells = {(r["task"].lower(), m): float(r[m]) for r in rows for m in ("accuracy", "f1")}
    assert dict(shin2023.PUBLISHED) == cells
    assert {float(r["sparsity"]) for r in rows} == {shin2023.PUBLISHED_SPARSITY}
