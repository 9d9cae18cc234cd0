"""A mutant differs from its module in one place, its tests see it, and the file stays as it is."""

import ast

import mutants
import pytest
from mutants import ROOT, TESTS, Fault, drawn, passes, places, verdict

CODE = """
def f(a, n=3):
    "Says 1."
    while not a < n:
        return a + 1 if a and True else -n
"""
FAULTS = {
    "n=4": "3 -> 4", "while not not a": "while not a < n: -> while not not a < n:", "a <= n": "a < n -> a <= n",
    "a - 1": "a + 1 -> a - 1", "a + 2": "1 -> 2",
    "a or True": "a and True -> a or True", "a and False": "True -> False",
    "else n": "-n -> n", "return None": "return a + 1 if a and True else -n -> return None",
}  # fmt: skip


def faulty(place):
    fault = Fault(place)
    return ast.unparse(ast.fix_missing_locations(fault.visit(ast.parse(CODE)))), fault.places


def test_each_fault_is_one_change_of_what_the_code_does():
    whole, found = faulty(None)
    assert whole == ast.unparse(ast.parse(CODE))
    made = [faulty(place)[0] for place in range(len(found))]
    assert len({whole, *made}) == len(made) + 1
    said = [f"{old} -> {new}" for _, old, new in found]
    assert all(piece in made[said.index(words)] for piece, words in FAULTS.items())
    assert all('"""Says 1."""' in text for text in made)
    assert {line for line, *_ in found} == {2, 4, 5}


def test_every_module_that_decides_results_has_places_and_tests():
    sparsity = (ROOT / "lib/sparsemtl/sparsity").glob("[a-z]*.py")
    assert {path.relative_to(ROOT / "lib").as_posix() for path in sparsity} <= set(TESTS)
    assert all(len(places(module)) > 20 and (ROOT / "tests" / tests).is_file() for module, tests in TESTS.items())


def test_a_verdict_is_kept_but_not_that_tests_fail_without_a_fault(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(mutants, "KEPT", tmp_path / "kept.json")
    monkeypatch.setattr(mutants, "passes", lambda module, place, limit: asked.append(place))
    for place in (3, 3, None, None, 4):
        assert verdict("companion/claims.py", place, 60)[0] is None
    assert asked == [3, None, None, 4]
    few, more = drawn(TESTS, 2, 0), drawn(TESTS, 5, 0)
    assert more[: len(few)] == few  # so that a draw of more goes on from those kept


@pytest.mark.slow
def test_the_tests_pass_without_a_fault_and_fail_with_one():
    module = "companion/statistics.py"
    before = (ROOT / "lib" / module).read_bytes()
    (minus,) = (i for i, (_, old, new) in enumerate(places(module)) if (old, new) == ("mean - half", "mean + half"))
    assert passes(module, None, 600)
    assert not passes(module, minus, 600)
    assert (ROOT / "lib" / module).read_bytes() == before
