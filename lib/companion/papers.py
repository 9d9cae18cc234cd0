"""The papers that this companion knows: each is a folder of `papers`, found here and nowhere else.

A paper's folder holds `study` (grid, published values, claims; imports no torch), `run` (one run), `tables` and
`figures` (what its pages show).
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from sparsemtl.errors import SpecError


def names():
    """Names of all papers, sorted (tuple); `papers` is a namespace package, so a folder on the path may add some."""
    return _found(tuple(import_module("papers").__path__))


@cache  # a table asks once for each of thousands of records
def _found(folders):
    return tuple(sorted(found.name for found in iter_modules(folders) if found.ispkg))


def part(name, what):
    """Module `what` ("study", "run", "tables", "figures") of a paper; `SpecError` for an unknown name."""
    if name not in names():
        raise SpecError(f"unknown study {name!r}: choose one of {', '.join(names())}")
    return import_module(f"papers.{name}.{what}")


def study(name):
    """Module `study` of a paper; `SpecError` for an unknown name."""
    return part(name, "study")


def label(spec):
    """`RunSpec.label`, and what a study's switches change of its method; of an unknown study the first alone."""
    module = study(spec.study) if spec.study in names() else None
    flips = module.flipped(spec) if hasattr(module, "flipped") else {}
    return " ".join([spec.label(), *(f"{name}={value}" for name, value in flips.items())])
