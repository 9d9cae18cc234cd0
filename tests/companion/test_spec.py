"""A run's name: the same for the same description, another for any other."""

import hashlib
import json
import pickle
import re
from dataclasses import FrozenInstanceError

import pytest
from companion.spec import RunSpec, canonical_json
from hypothesis import assume, given
from hypothesis import strategies as st
from sparsemtl.errors import SpecError

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.text(max_size=3)
NESTED = st.recursive(SCALARS | KEYS, lambda v: st.lists(v) | st.dictionaries(KEYS, v, max_size=2), max_leaves=4)
PARAMS = st.dictionaries(KEYS, NESTED, max_size=3)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,6}", fullmatch=True)
PROFILES = st.sampled_from(["quick", "small", "full"])
SPECS = st.builds(RunSpec, NAMES, PROFILES, NAMES, NAMES, st.integers(0, 10**6), PARAMS)


def example(**changed):
    fields = {"study": "shin2023", "profile": "quick", "data": "simulated-eeg", "method": "or", "seed": 3}
    return RunSpec(**{**fields, "params": {"sparsity": 0.4, "trunk": {"kernel": 8}, "taps": [1, 2]}, **changed})


def test_the_name_is_the_start_of_the_sha256_of_a_text_that_anyone_can_write_down():
    text = '{"data":"simulated-eeg","method":"or","params":{"sparsity":0.4,"taps":[1,2],"trunk":{"kernel":8}},'
    text += '"profile":"quick","seed":3,"study":"shin2023"}'
    assert canonical_json(example().to_dict()) == text
    assert example().hash == hashlib.sha256(text.encode()).hexdigest()[:16]


@given(SPECS)
def test_a_spec_survives_a_journey(spec):
    journey = json.loads(json.dumps(spec.to_dict()))
    for copy in (RunSpec.from_dict(dict(reversed(journey.items()))), pickle.loads(pickle.dumps(spec))):
        assert copy == spec
        assert (copy.hash, hash(copy), copy.to_dict()) == (spec.hash, hash(spec), spec.to_dict())


@given(SPECS, SPECS, st.sampled_from(sorted(example().to_dict())))
def test_another_value_of_any_field_is_another_run(spec, other, field):
    assume(canonical_json(spec.to_dict()[field]) != canonical_json(other.to_dict()[field]))
    changed = RunSpec.from_dict(spec.to_dict() | {field: other.to_dict()[field]})
    assert changed.hash != spec.hash
    assert changed != spec


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0.0, -0.0), (0.5, 0.50)])
def test_equality_follows_the_name(one, other):
    a, b = example(params={"x": one}), example(params={"x": other})
    assert (a == b) == (a.hash == b.hash) == (json.dumps(one) == json.dumps(other))
    assert len({a, b}) == (1 if a == b else 2)


def test_a_spec_cannot_be_changed_and_does_not_change_with_what_made_it():
    params = {"sparsity": 0.4, "trunk": {"kernel": 8}, "taps": [1, 2]}
    spec = example(params=params)
    with pytest.raises(FrozenInstanceError):
        spec.seed = 4
    for part, key in ((spec.params, "sparsity"), (spec.params["trunk"], "kernel"), (spec.params["taps"], 0)):
        with pytest.raises(TypeError):
            part[key] = 9
    params["trunk"]["kernel"] = 9
    params["taps"].append(3)
    spec.to_dict()["params"]["trunk"]["kernel"] = 9
    assert spec == example()


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": True}, {"study": "../etc"}, {"method": None}, {"params": [1]}])
def test_a_bad_value_is_named(bad):
    ((name, value),) = bad.items()
    with pytest.raises(SpecError, match=f"{name} is {re.escape(repr(value))}"):
        example(**bad)
    with pytest.raises(SpecError, match="no JSON form"):
        example(params={name: object()})
