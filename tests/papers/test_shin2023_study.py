"""The plan of the EEG study: its grid, and what it refuses."""

from collections import Counter

import pytest
from companion.data.eeg import SETS
from companion.spec import canonical_json, check_values
from papers.shin2023 import study
from sparsemtl.errors import SpecError


@pytest.mark.parametrize("profile", ["quick", "small"])
def test_every_run_of_the_grid_is_there_once_and_keeps_the_rules(profile):
    specs = study.all_specs(profile)
    assert len({spec.hash for spec in specs}) == len(specs)
    for spec in specs:
        check_values(spec.params, study.RULES)
        assert study.METHODS[spec.method].sparse == (spec.params["sparsity"] > 0)


def test_table_1_has_every_method_and_level_for_each_person_problem_and_seed():
    cases = Counter((s.params["subject"], s.params["problem"], s.seed) for s in study.specs("small"))
    assert set(cases.values()) == {4 + 3 * 11}  # methods without masks; three levels of those with them
    assert len(cases) == 6 * 2 * 10


def test_nobody_on_whom_the_training_was_chosen_is_tested():
    assert set(study.DEVELOPMENT_PEOPLE) == set(SETS[study.DEVELOPMENT].people)
    small, full = (set(study.PROFILE_SETTINGS[profile]["people"]) for profile in ("small", "full"))
    assert small <= full <= set(SETS["eegmmidb"].people) - {*study.DEVELOPMENT_PEOPLE, *study.DEVIATING}


def test_the_training_is_the_same_for_all_methods():
    trained = [s.to_dict()["params"] for s in study.specs("small") if s.method not in study.CLASSICAL]
    assert {canonical_json({k: p[k] for k in study.RECIPE}) for p in trained} == {canonical_json(dict(study.RECIPE))}


def test_another_trunk_brings_its_own_arguments_unless_they_are_given():
    base = dict(study.RECIPE)
    assert study.settled(base, {"trunk": "eegnet"})["options"] == study.OTHER_TRUNKS["eegnet"]["options"]
    assert study.settled(base, {"trunk": "eegnet", "options": {}})["options"] == {}
    assert study.settled(base, {"lr": 0.1}) == base | {"lr": 0.1}


@pytest.mark.parametrize(
    ("given", "names"),
    [({"methods": ("snap",)}, "snap"), ({"sparsities": (1.0,)}, "sparsity"), ({"lr": -1.0}, "lr")],
)
def test_what_is_unknown_or_impossible_is_named(given, names):
    with pytest.raises(SpecError, match=names):
        study.specs("quick", **given)
