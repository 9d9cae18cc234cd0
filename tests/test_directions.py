"""Imports go one way, papers -> companion -> sparsemtl, and bring no more than is needed: no torch, no network."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from companion import papers

LIB = Path(__file__).parents[1] / "lib"
ABOVE = {"sparsemtl": ("companion", "papers"), "companion": ("papers",)}
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
    if package.startswith("papers."):
        return name.startswith("papers") and not f"{name}.".startswith(f"{package}.")
    return name.split(".")[0] in ABOVE[package]


def test_imports_go_one_way():
    back = []
    for path in LIB.rglob("*.py"):
        name, (first, second) = path.relative_to(LIB).as_posix(), path.relative_to(LIB).parts[:2]
        package = f"papers.{second}" if first == "papers" else first
        back += [(name, other) for other in imported(path) if name != SHIM and forbidden(other, package)]
    assert set(back) == {("companion/papers.py", "papers")}  # which finds them


# The first argument names packages that cannot be imported, the others what is; to open a connection fails as well.
IMPORTS = """
import importlib, socket, sys
socket.socket.connect = socket.create_connection = socket.getaddrinfo = None
sys.modules.update(dict.fromkeys(sys.argv[1].split()))
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def lines(code, *words):
    """What a Python process says that runs `code` with these arguments and ends well."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_who_only_reads_records_imports_neither_torch_nor_sklearn():
    code = """
import os, sys
from importlib import import_module
import matplotlib.pyplot, numpy, pandas, scipy.stats, seaborn, statsmodels.stats.multitest  # once, for all that fork
for name in sys.argv[1:]:
    if os.fork() == 0:
        import_module(name)
        os._exit(7 if {"torch", "sklearn"} & sys.modules.keys() else 0)
    print(name, os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert lines(code, *TORCH_FREE) == [f"{name} 0" for name in TORCH_FREE]


def test_the_library_imports_without_the_optional_packages():
    paths = [p.relative_to(LIB).with_suffix("") for p in (LIB / "sparsemtl").rglob("*.py") if p.stem != "__init__"]
    lines(IMPORTS, "mne moabb braindecode torchmetrics dask", *(".".join(path.parts) for path in paths))


@pytest.mark.slow
def test_an_import_opens_no_connection():
    parts = [f"papers.{name}.{part}" for name in papers.names() for part in ("study", "run", "tables", "figures")]
    lines(IMPORTS, "", "companion.__main__", "companion.engine", "companion.data", "companion.page", *parts)
