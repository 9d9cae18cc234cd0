"""Imports go one way, papers -> companion -> sparsemtl, and whoever only reads records does without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from companion import papers

LIB = Path(__file__).parents[1] / "lib"
ALLOWED = {"sparsemtl": {"sparsemtl"}, "companion": {"companion", "sparsemtl"}}
SHIM = "sparsemtl/__main__.py"  # the old command, which calls the new one
TORCH_FREE = [
    *(f"companion.{name}" for name in ("statistics", "claims", "evidence", "page", "style", "scorecard", "records")),
    *("companion.__main__", "companion.papers", "companion.queue"),
    *(f"papers.{name}.{part}" for name in papers.names() for part in ("study", "tables", "figures")),
]


def imported(path):
    """Dotted names that a file imports, wherever in it; `import_module("a.b")` counts."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            yield from (word.value for word in node.args[:1] if isinstance(word, ast.Constant))


def forbidden(name, package):
    """Whether a module of `package` ("companion", "papers.shin2023", ...) must not import `name`."""
    parts = name.split(".")
    if parts[0] not in ("sparsemtl", "companion", "papers"):
        return False
    if package.startswith("papers."):
        return parts[0] == "papers" and ".".join(parts[:2]) != package
    return parts[0] not in ALLOWED[package]


def modules():
    """(file, its package) of the whole library."""
    for path in sorted(LIB.rglob("*.py")):
        first, second = path.relative_to(LIB).parts[:2]
        yield path, f"papers.{second}" if first == "papers" else first


def test_imports_go_one_way():
    back = [
        f"{name} imports {other}"
        for path, package in modules()
        if (name := path.relative_to(LIB).as_posix()) != SHIM
        for other in imported(path)
        if forbidden(other, package) and (name, other) != ("companion/papers.py", "papers")
    ]
    assert back == []


@pytest.fixture(scope="module")
def bringing_torch():
    """Modules of `TORCH_FREE` after whose import torch is loaded, each seen in one process that forks for it."""
    code = """
import os, sys
from importlib import import_module
import matplotlib.pyplot, numpy, pandas, scipy.stats, seaborn, statsmodels.stats.multitest  # once, for all that fork
for name in sys.argv[1:]:
    if os.fork() == 0:
        import_module(name)
        os._exit(7 if "torch" in sys.modules else 0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    print(name, status)
"""
    done = subprocess.run([sys.executable, "-c", code, *TORCH_FREE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize("name", TORCH_FREE)
def test_who_only_reads_records_imports_no_torch(name, bringing_torch):
    status, errors = bringing_torch
    assert status[name] == "0", errors or "imports torch"
