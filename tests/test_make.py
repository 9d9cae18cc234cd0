"""The Makefile in other places and with other tools: what it would do, without installing or building anything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("make", "bash", "sh", "find", "sort", "xargs", "cksum", "tr", "getconf", "awk", "sed", "env", "echo", "rm")
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs GNU make")


@pytest.fixture(params=["plain", "my checkout é"])
def checkout(request, tmp_path):
    """The Makefile and the least that it looks at, in a folder of this name."""
    folder = tmp_path / request.param
    (folder / "lib/sparsemtl").mkdir(parents=True)
    (folder / "lib/sparsemtl/__init__.py").write_text("")
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, folder)
    return folder


def program(folder, version, then):
    """A program in a new folder that says that it is this Python."""
    path = folder / "pythons" / f"python{version}"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}.1" && exit\n{then}\n')
    path.chmod(0o755)
    return path


def make(folder, target, python=sys.executable, *options, **variables):
    words = ["make", "-C", str(folder), *options, target, f"PYTHON={python}"]
    done = subprocess.run(words, capture_output=True, env=os.environ | {"LC_ALL": "C"} | variables, check=False)
    return done.returncode, *(out.decode("utf-8", "surrogateescape") for out in (done.stdout, done.stderr))


def planned(folder, target="test", python=sys.executable, **variables):
    """(would it make the environment, stamp or book that it would make) of a dry run."""
    status, out, errors = make(folder, target, python, "-n", **variables)
    assert status == 0, errors
    names = re.findall(r"^touch (\S+)$", out, re.MULTILINE)
    return "-m venv" in out, names[-1] if names else None


def install(folder):
    """Make the stamp of an installation, as `make` would after it."""
    new, stamp = planned(folder)
    assert new
    (folder / stamp).parent.mkdir(exist_ok=True)
    (folder / stamp).touch()
    assert not planned(folder)[0]


def test_a_python_that_is_too_old_is_refused_in_one_line_and_poisons_nothing(checkout, tmp_path):
    install(checkout)
    before = sorted((checkout / ".venv").iterdir())
    status, _, errors = make(checkout, "test", program(tmp_path, "3.10", "exit 1"))
    (said,) = (line for line in errors.splitlines() if not line.startswith("make"))
    assert (status, "python3.10 is not Python 3.11 or newer: name one" in said) == (2, True)
    assert sorted((checkout / ".venv").iterdir()) == before
    assert not planned(checkout)[0]


def test_another_python_a_copy_and_a_moved_checkout_get_an_environment_of_their_own(checkout, tmp_path):
    install(checkout)
    assert planned(checkout, python=program(tmp_path, "3.99", f"exec '{sys.executable}' \"$@\""))[0]
    assert planned(Path(shutil.copytree(checkout, tmp_path / "copy")))[0]
    assert not planned(checkout)[0]
    assert planned(checkout.rename(tmp_path / "moved"))[0]


def test_the_book_is_named_by_its_content_without_sha256sum(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in filter(shutil.which, TOOLS):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))

    def book():
        return planned(checkout, "book", PATH=str(tmp_path / "bin"))[1]

    new, names = checkout / "lib/sparsemtl/new é.py", [book()]
    for content in ("", "x"):
        new.write_text(content)
        names.append(book())
    assert re.fullmatch(r"_build/book-\d+", names[0])
    assert len(set(names)) == 3
    (checkout / "lib/sparsemtl/__init__.py").touch()
    assert book() == names[-1]


def test_the_library_is_found_by_a_relative_path_in_c_encoding_and_after_a_move(checkout, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    (site,) = (checkout / ".venv" / "lib").glob("python*/site-packages")
    (site / "__editable__.sparsemtl-0.pth").write_text(str(checkout / "lib"), encoding="utf-8")  # as the installer does
    planned_lines = make(checkout, "test", sys.executable, "-n")[1].splitlines()
    (line,) = (line for line in planned_lines if "sparsemtl*.pth" in line)
    env = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", line], cwd=checkout, env=env, check=True)
    moved = checkout.rename(checkout.parent / f"moved {checkout.name}")
    code = "import sparsemtl; print(ascii(sparsemtl.__file__))"
    done = subprocess.run([moved / ".venv/bin/python", "-c", code], cwd=tmp_path, env=env, capture_output=True)
    assert ascii(f"moved {checkout.name}")[1:-1] in done.stdout.decode(), done.stderr
