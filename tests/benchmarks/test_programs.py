"""The programs in benchmarks/ and the records that the pages show belong together."""

import ast
from importlib import import_module
from pathlib import Path

import pytest
from efficiency import ON_GPU, TITLES
from measured import committed_benchmarks

ROOT = Path(__file__).parents[2]
RECORDS = committed_benchmarks(ROOT / "results")


@pytest.mark.parametrize("name", TITLES)
def test_every_benchmark_of_the_pages_has_a_record_and_its_program(name):
    record = RECORDS[name, "cpu"]
    assert record.name == name
    assert (ROOT / "benchmarks" / f"{record.environment['script']}.py").is_file()
    assert {side["unit"] for side in record.sides.values()} <= {"s", "ms", "FLOPs", "bytes"}
    assert all(value > 0 for side in record.sides.values() for value in side["values"])


def test_every_program_has_a_record():
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - LIBRARIES
    assert programs == {record.environment["script"] for record in RECORDS.values()}
    assert set(ON_GPU) <= set(TITLES)


OURS = ("sparsemtl", "companion", "papers")
LIBRARIES = {
    "harness",
    "measured",
    "efficiency",
    "realtime",
    "streaming",
    "export",
    "gpu_run",
}  # no benchmark of their own


def of_the_library(program):
    """(module, name) of everything that a program takes from the library: imported from it, or an attribute of it."""
    tree = ast.parse(program.read_text(encoding="utf-8"))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(OURS):
            for alias in node.names:
                yield node.module, alias.name
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


@pytest.mark.parametrize("program", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_program_names_what_the_library_has(program):
    """They run by hand, hours apart: a name that has changed would be seen only then."""
    for module, name in of_the_library(ROOT / "benchmarks" / program):
        try:
            found = import_module(module)
        except ModuleNotFoundError:  # a class or a function
            parent, _, last = module.rpartition(".")
            found = getattr(import_module(parent), last)
        if not hasattr(found, name):
            import_module(f"{module}.{name}")


def test_a_missed_mark_comes_with_what_is_behind_it():
    for record in RECORDS.values():
        if not all(map(record.met, record.marks)):
            assert record.details.keys() & {"profile", "survived", "below"}, record.name
