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
    (folder / "lib" / "sparsemtl").mkdir(parents=True)
    (folder / "lib" / "sparsemtl" / "__init__.py").write_text("")
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def python(tmp_path):
    """Version -> a program that says that it is this Python, and does what it is asked to with this one."""

    def make(version):
        path = tmp_path / "pythons" / f"python{version}"
        path.parent.mkdir(exist_ok=True)
        old = "exit 1" if version == "3.10" else f"exec '{sys.executable}' \"$@\""
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}.1" && exit\n{old}\n')
        path.chmod(0o755)
        return path

    return make


def make(folder, target, python=sys.executable, *options, **variables):
    """A run of make in C's encoding."""
    words = ["make", "-C", str(folder), *options, target, f"PYTHON={python}"]
    return subprocess.run(words, capture_output=True, env=os.environ | {"LC_ALL": "C"} | variables, check=False)


def planned(folder, target="test", python=sys.executable, **variables):
    """(would it make the environment, stamp or book that it would make) of a dry run."""
    done = make(folder, target, python, "-n", **variables)
    text = done.stdout.decode("utf-8", "surrogateescape")
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^touch (\S+)$", text, re.MULTILINE)
    return "-m venv" in text, names[-1] if names else None


def installed(folder, python=sys.executable):
    """Make the stamp of an installation, as `make` would after it."""
    new, stamp = planned(folder, python=python)
    assert new
    (folder / stamp).parent.mkdir(exist_ok=True)
    (folder / stamp).touch()
    assert not planned(folder, python=python)[0]
    return stamp


def test_a_python_that_is_too_old_is_refused_in_one_line_and_poisons_nothing(checkout, python):
    stamp = installed(checkout)
    before = sorted((checkout / ".venv").iterdir())
    done = make(checkout, "test", python("3.10"))
    assert done.returncode == 2
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "python3.10 is not Python 3.11 or newer: name one" in said[0]
    assert sorted((checkout / ".venv").iterdir()) == before
    assert not planned(checkout)[0], f"{stamp} counts no more"


def test_another_python_a_copy_and_a_moved_checkout_get_an_environment_of_their_own(checkout, python, tmp_path):
    installed(checkout)
    assert planned(checkout, python=python("3.99"))[0]
    copy = Path(shutil.copytree(checkout, tmp_path / "copy"))
    assert planned(copy)[0]
    assert not planned(checkout)[0]
    assert planned(checkout.rename(tmp_path / "moved"))[0]


def test_the_book_is_named_by_its_content_without_sha256sum(checkout, tmp_path):
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (bin_ / tool).symlink_to(found)
    assert not shutil.which("sha256sum", path=bin_)
    names = [planned(checkout, "book", PATH=str(bin_))[1]]
    assert re.fullmatch(r"_build/book-\d+", names[0])
    (checkout / "lib" / "sparsemtl" / "new é.py").write_text("")
    names.append(planned(checkout, "book", PATH=str(bin_))[1])
    (checkout / "lib" / "sparsemtl" / "new é.py").write_text("x")
    names.append(planned(checkout, "book", PATH=str(bin_))[1])
    assert len(set(names)) == 3
    (checkout / "lib" / "sparsemtl" / "__init__.py").touch()
    assert planned(checkout, "book", PATH=str(bin_))[1] == names[-1]


def test_the_library_is_found_by_a_relative_path_in_c_encoding_and_after_a_move(checkout, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    (site,) = (checkout / ".venv" / "lib").glob("python*/site-packages")
    (site / "__editable__.sparsemtl-0.pth").write_text(str(checkout / "lib"), encoding="utf-8")  # as the installer does
    recipe = make(checkout, "test", sys.executable, "-n").stdout.decode("utf-8", "surrogateescape").splitlines()
    (line,) = (line for line in recipe if "sparsemtl*.pth" in line)
    env = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", line], cwd=checkout, env=env, check=True)
    moved = checkout.rename(checkout.parent / f"moved {checkout.name}")
    code = "import sparsemtl; print(ascii(sparsemtl.__file__))"
    done = subprocess.run([moved / ".venv/bin/python", "-c", code], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert ascii(f"moved {checkout.name}")[1:-1] in done.stdout.decode()
