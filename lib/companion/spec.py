"""RunSpec: the full description of one run; the hash of its canonical JSON is the run's name."""

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sparsemtl.errors import SpecError

PROFILES = ("quick", "small", "full")
OWN = ("study", "profile", "data", "method", "seed")  # fields of a spec beside its parameters


def canonical_json(value):
    """The one JSON text of a value: sorted keys, no spaces, no NaN; equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def whole(least):
    """Rule for `check_values`: a whole number, `least` or more."""
    return f"a whole number of {least} or more", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least


def number(words, test):
    """Rule for `check_values`: a finite number that passes a test."""
    return words, lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and test(v)


def one_of(*values):
    """Rule for `check_values`: one of these values, of the same kind (1 is not True)."""
    words = " or ".join(repr(v) for v in values)
    return words, lambda v: any(type(v) is type(known) and v == known for known in values)


def check_values(params, rules):
    """Raise `SpecError` for the first parameter that breaks its rule. rules: name -> (what it must be, its test)."""
    for name, (words, passes) in rules.items():
        if name in params and not passes(params[name]):
            raise SpecError(f"{name} is {reprlib.repr(params[name])}: it must be {words}")  # short, however deep


def check_profile(name):
    """The name of a profile; `SpecError` for another one."""
    if name not in PROFILES:
        raise SpecError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    return name


def _frozen(value):
    """A JSON value with read-only mappings and tuples for its objects and arrays."""
    if isinstance(value, dict):
        return MappingProxyType({k: _frozen(v) for k, v in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _plain(value):
    """Inverse of `_frozen`."""
    if isinstance(value, dict | MappingProxyType):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, eq=False)
class RunSpec:
    """Everything that decides a run's result, and nothing else (device and paths are not in it).

    Two specs are equal when their canonical JSON is, which keeps integral floats and ints apart. Raises `SpecError` for
    a value that has no canonical JSON, or a name that could not be a file's.
    """

    study: str  # such as "shin2023"
    profile: str  # one of `PROFILES`
    data: str  # name of a data set, see `companion.data`
    method: str  # one of the study
    seed: int  # 0 or more
    params: Mapping = field(default_factory=dict)  # str -> JSON value, read-only all the way down
    hash: str = field(init=False, repr=False)  # name of the run: 16 hex digits of the SHA-256 of its canonical JSON

    def __post_init__(self):
        for name in ("study", "data", "method"):  # the study names a folder: no way out of the store
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
                raise SpecError(f"{name} is {value!r}: a name of letters, digits, '-', '_' and '.' is needed")
        if not isinstance(self.params, dict | MappingProxyType):
            raise SpecError(f"params is {self.params!r}: a mapping of names to values is needed")
        check_profile(self.profile)
        check_values({"seed": self.seed}, {"seed": whole(0)})
        try:  # made once: a grid has tens of thousands of specs
            plain = self.to_dict()
            text = canonical_json(plain)
        except (TypeError, ValueError) as error:
            raise SpecError(f"a parameter of this run has no JSON form ({error})") from error
        object.__setattr__(self, "params", _frozen(plain["params"]))
        object.__setattr__(self, "hash", hashlib.sha256(text.encode()).hexdigest()[:16])

    def __eq__(self, other):
        return type(other) is RunSpec and self.hash == other.hash

    def __hash__(self):
        return hash(self.hash)

    def __reduce__(self):  # a mapping proxy does not pickle, and specs travel to worker processes
        return (RunSpec.from_dict, (self.to_dict(),))

    def to_dict(self):
        """Plain dict, ready for JSON."""
        return {name: getattr(self, name) for name in OWN} | {"params": _plain(self.params)}

    def flat(self):
        """As `to_dict`, with the parameters beside the other fields."""
        return {name: getattr(self, name) for name in OWN} | _plain(self.params)

    @classmethod
    def from_dict(cls, value):
        """Inverse of `to_dict`; raises `SpecError` for missing or unknown fields."""
        try:
            return cls(**value)
        except TypeError as error:
            raise SpecError(f"not a run specification: {error}") from error

    def label(self):
        """One line for progress bars and error messages."""
        shown = ("subject", "problem", "sparsity", "labels", "trunk", "tasks", "penalty", "lam", "target")
        params = " ".join(f"{k}={v}" for k, v in self.params.items() if k in shown)
        return f"{self.study} {self.profile} {self.method} seed={self.seed} {params}".strip()
