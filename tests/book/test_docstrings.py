import doctest
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import docstrings
import pytest
import sparsemtl

core = pytest.importorskip("docutils.core")

ROOT = Path(__file__).parents[2]


def text_of(lines):
    """What a reader sees of rST, as docutils renders it; any complaint of docutils fails."""
    settings = {"report_level": 2, "halt_level": 2, "warning_stream": False}
    return core.publish_doctree("\n".join(lines), settings_overrides=settings).astext()


@pytest.mark.parametrize(
    "formula",
    ["|w * dL/dw| and ||x||_2", "m_ and x_ * y_", "sum_g sqrt(n_g) * ||theta_g||_2", "keep **trunk and *args"],
)
def test_a_formula_shows_as_it_stands(formula):
    assert text_of(docstrings.as_rst([formula])) == formula


@pytest.mark.parametrize("gap", [[], [""]])
def test_columns_stay_columns(gap):
    lines = ["A record is one object:", *gap, "    hash    its name", "    spec    what * was run", "Then more."]
    assert text_of(docstrings.as_rst(lines)).split("\n\n") == [
        "A record is one object:", "hash    its name\nspec    what * was run", "Then more.",
    ]  # fmt: skip


def test_every_module_text_of_the_library_is_valid():
    found = [m.name for m in pkgutil.walk_packages(sparsemtl.__path__, "sparsemtl.") if "__main__" not in m.name]
    assert len(found) > 15
    for name in found:
        text_of(docstrings.as_rst(inspect.getdoc(import_module(name)).splitlines()))


def test_the_examples_of_the_api_page_run():
    options = {"module_relative": False, "optionflags": doctest.NORMALIZE_WHITESPACE}
    failed, run = doctest.testfile(str(ROOT / "book/api.md"), **options)
    assert (failed, run > 50) == (0, True)


def public_functions():
    """Names of what the modules of the library define and offer."""
    for module in pkgutil.walk_packages(sparsemtl.__path__, "sparsemtl."):
        if not module.name.endswith(("__main__", "_cpu", "layers", "steps")):
            for name, value in vars(import_module(module.name)).items():
                ours = getattr(value, "__module__", None) == module.name and not name.startswith("_")
                if ours and (inspect.isroutine(value) or inspect.isclass(value)):
                    yield name, value


def test_the_api_page_uses_every_public_function_and_class():
    code = "\n".join(e.source for e in doctest.DocTestParser().get_examples((ROOT / "book/api.md").read_text()))
    unused = [value for name, value in public_functions() if not re.search(rf"\b{name}\b", code)]
    assert {value.__module__ for value in unused} <= {"sparsemtl.training.pruning"}  # its page runs one of PROCEDURES


def test_every_public_function_says_what_types_it_takes_and_gives():
    for name, function in public_functions():
        if inspect.isroutine(function):
            signature = inspect.signature(function)
            types = [signature.return_annotation, *(p.annotation for p in signature.parameters.values())]
            assert inspect.Signature.empty not in types, name
