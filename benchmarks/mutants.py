"""Whether the tests notice small faults (mutants; DeMillo, Lipton and Sayward 1978) in the modules that decide results.

    python benchmarks/mutants.py [--mutants 6] [--seed 0] [--only statistics.py]

A mutant is a module with one fault: another comparison, operation, number, condition or returned value. It is killed
if the module's own tests fail, or take ten times as long. As many are drawn at random in each module; one that changes
nothing that can be observed survives as well, so not every survivor is a gap. The files stay as they are. Verdicts stay
in `_build/mutants.json`, so that a run that was cut, or one with more mutants, goes on from there.
"""

import ast
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
from harness import Mark, arguments, counts, report

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "_build" / "mutants.json"
OURS = ("sparsemtl", "companion", "papers", "measured")
# Imported once, before tests are forked
THEIRS = ("hypothesis", "pandas", "scipy.stats", "statsmodels.stats.multitest")
SPARSITY = ("compact", "masks", "measure", "prox", "saliency")
TESTS = {f"sparsemtl/sparsity/{name}.py": f"sparsemtl/sparsity/test_{name}.py" for name in SPARSITY} | {
    "sparsemtl/sparsity/layers.py": "sparsemtl/sparsity/test_compact.py",
    "sparsemtl/sparsity/steps.py": "sparsemtl/sparsity/test_compact.py",
    "sparsemtl/sparsity/prox_cpu.py": "sparsemtl/sparsity/test_prox.py",
    **{f"companion/{name}.py": f"companion/test_{name}.py" for name in ("records", "statistics", "claims")},
}
SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


def faults(node):
    """Nodes that may take the place of one (iterator)."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        yield type(node)(**vars(node) | {"op": SWAPPED[type(node.op)]()})
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [SWAPPED[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield type(node)(**vars(node) | {"test": ast.UnaryOp(ast.Not(), node.test)})
    elif isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != "None":
        yield ast.Return(ast.Constant(None))


class Fault(ast.NodeTransformer):
    """Makes the fault at one place of a tree, and notes all places: (line, what was there, what is there)."""

    def __init__(self, place=None):
        self.place, self.places = place, []

    def visit(self, node):
        """The node, or what takes its place."""
        node = self.generic_visit(node)
        for fault in faults(node):
            self.places.append((node.lineno, *(ast.unparse(n).splitlines()[0] for n in (node, fault))))
            if len(self.places) - 1 == self.place:
                return ast.copy_location(fault, node)
        return node


def places(module):
    """All places for a fault in a module of lib (list), see `Fault`."""
    fault = Fault()
    fault.visit(ast.parse((ROOT / "lib" / module).read_text(encoding="utf-8")))
    return fault.places


class Faulty(SourceFileLoader):
    """Finds and loads one module with a fault; it stands first in `sys.meta_path`."""

    def __init__(self, module, place):
        super().__init__(module.removesuffix(".py").replace("/", "."), str(ROOT / "lib" / module))
        self.place = place

    def find_spec(self, name, path=None, target=None):
        """The spec of this module alone."""
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, name):
        """The code with the fault; what Python keeps in __pycache__ is neither read nor written."""
        tree = Fault(self.place).visit(ast.parse(Path(self.path).read_text(encoding="utf-8")))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


def passes(module, place, seconds):
    """Whether the tests of a module pass with a fault in it, within some seconds; place None: without a fault."""
    if (child := os.fork()) == 0:
        signal.alarm(seconds)  # its default is to end the process
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        sys.meta_path.insert(0, Faulty(module, place))
        if module.endswith("prox_cpu.py"):  # numba's cache knows a loop by its file, not by the fault
            os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        os.chdir(ROOT)
        options = ("-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not realdata")
        os._exit(pytest.main([*options, f"tests/{TESTS[module]}"]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def drawn(modules, each, seed):
    """[(module, place)]: so many places of each module, in turns; with more, the first ones stay."""
    orders = {}
    for module in modules:
        orders[module] = list(range(len(places(module))))
        random.Random(f"{seed} {module}").shuffle(orders[module])
    return [(module, order[i]) for i in range(each) for module, order in orders.items() if i < len(order)]


def verdict(module, place, limit):
    """[whether the tests pass, seconds] with a fault, kept for as long as the module and its tests stay."""
    texts = [(ROOT / name).read_bytes() for name in (f"lib/{module}", f"tests/{TESTS[module]}")]
    name = f"{module} {place} {sha256(b''.join(texts)).hexdigest()[:16]}"
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    if name not in kept:
        start = time.monotonic()
        kept[name] = [passes(module, place, limit), time.monotonic() - start]
        if place is not None or kept[name][0]:  # tests that fail without a fault may be mended elsewhere
            KEPT.parent.mkdir(exist_ok=True)
            KEPT.write_text(json.dumps(kept, indent=1))
    return kept[name]


def main():
    """Draw faults, run the tests of their modules, and write `mutants-cpu.json`."""
    args = arguments(__doc__.splitlines()[0], threads=1, repeats=1, mutants=6, seed=0, only="all")
    chosen = [module for module in TESTS if args.only in f"all {module}"]
    limit, made, killed, survived, seconds = {}, Counter(), Counter(), [], 0
    for name in THEIRS:
        import_module(name)
    for module, place in drawn(chosen, args.mutants, args.seed):
        if module not in limit:
            passed, took = verdict(module, None, 3600)
            if not passed:
                sys.exit(f"the tests of {module} fail without a fault: mend that first")
            limit[module] = 30 + round(10 * took)
        said = "{} line {}: {} -> {}".format(module, *places(module)[place])
        alive, took = verdict(module, place, limit[module])
        survived += [said] if alive else []
        made[module] += 1
        killed[module] += not alive
        seconds += took
        print("survived:" if alive else "killed:", said, flush=True)
    details = {"by module": {m: [killed[m], made[m]] for m in made}, "survived": sorted(survived), "seconds": seconds}
    details["places"] = sum(len(places(module)) for module in chosen)
    sides = counts("mutants", {"killed": killed.total(), "made": made.total()})
    report("mutants", sides, [Mark("mutants killed", "killed", "made", "at least", 0.85)], args, details)


if __name__ == "__main__":
    main()
