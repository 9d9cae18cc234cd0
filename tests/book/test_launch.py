import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("sphinx_book_theme")
import launch
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
NOTEBOOK = {
    "cells": [{"cell_type": "markdown", "metadata": {}, "source": ["# A notebook"]}],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 4,
}  # fmt: skip
PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
# A page with cells
"""


@pytest.mark.parametrize(
    ("environ", "configured", "url"),
    [
        ({}, "", ""),
        ({"GITHUB_REPOSITORY": ""}, None, ""),
        ({}, "https://github.com/owner/name/", "https://github.com/owner/name"),
        ({"GITHUB_REPOSITORY": "owner/name.x"}, "", "https://github.com/owner/name.x"),
        ({"GITHUB_REPOSITORY": "a/b"}, "https://github.com/owner/name", "https://github.com/a/b"),
    ],
)
def test_one_setting_gives_the_address(environ, configured, url):
    assert launch.repository_url(environ, configured) == url


def test_a_value_that_is_no_repository_stops_the_build_with_its_name():
    with pytest.raises(ExtensionError, match="GITHUB_REPOSITORY is 'name'"):
        launch.repository_url({"GITHUB_REPOSITORY": "name"})


def built(folder, repository):
    """HTML of a notebook and of a page with cells, built with the book's theme options."""
    options = {"launch_buttons": CONFIG["launch_buttons"], "repository_branch": CONFIG["repository"]["branch"]}
    conf = (
        f"import sys\nsys.path.insert(0, {str(ROOT / 'book/_ext')!r})\n"
        "extensions = ['myst_nb', 'launch']\nnb_execution_mode = 'off'\nhtml_theme = 'sphinx_book_theme'\n"
        f"html_theme_options = {options!r}\nroot_doc = 'index'\n"
    )
    (folder / "notebooks").mkdir(parents=True)
    (folder / "conf.py").write_text(conf, encoding="utf-8")
    (folder / "index.md").write_text(PAGE + "\n```{toctree}\nnotebooks/one\n```\n", encoding="utf-8")
    (folder / "notebooks/one.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
    environ |= {"GITHUB_REPOSITORY": repository} if repository else {}
    command = [sys.executable, "-m", "sphinx", "-q", str(folder), str(folder / "out")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(folder / f"out/{name}.html").read_text(encoding="utf-8") for name in ("notebooks/one", "index")]


def launched(page):
    return re.findall(r'href="(https://[^"]*(?:binder|colab)[^"]*)"', page)


def test_a_notebook_gets_buttons_that_lead_to_it_and_a_page_in_markdown_gets_none(tmp_path):
    notebook, page = built(tmp_path / "known", "owner/name")
    assert launched(notebook) == [
        "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/notebooks/one.ipynb",
        "https://colab.research.google.com/github/owner/name/blob/main/notebooks/one.ipynb",
    ]
    assert launched(page) == []


def test_without_an_address_there_are_no_buttons():
    assert launch.theme_options({"launch_buttons": {}, "repository_url": ""}, {}) == {}


def test_binder_installs_what_environment_yml_pins_and_then_the_library():
    environment, build = ROOT / ".binder/environment.yml", ROOT / ".binder/postBuild"
    assert environment.is_symlink()  # no second list of versions
    assert environment.resolve() == ROOT / "environment.yml"
    assert os.access(build, os.X_OK)
    installs = re.findall(r"pip install (.*)", build.read_text(encoding="utf-8"))
    assert installs == ["--quiet --no-deps --no-build-isolation --editable ."]
    names = {line.split("=")[0].strip() for line in environment.read_text().replace("- ", "").splitlines()}
    assert {"hatchling", "editables", "ipykernel"} <= names  # what the two need besides the library's own packages
