import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

pytest.importorskip("sphinx_book_theme")
import launch
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
# A page with cells
"""


def test_one_setting_gives_the_address_or_stops_the_build():
    named, configured = {"GITHUB_REPOSITORY": "owner/name.x"}, "https://github.com/a/b"
    assert launch.repository_url({}, "") == launch.repository_url({"GITHUB_REPOSITORY": ""}, None) == ""
    assert launch.repository_url({}, f"{configured}/") == configured
    for other in ("", configured):
        assert launch.repository_url(named, other) == "https://github.com/owner/name.x"
    with pytest.raises(ExtensionError, match="GITHUB_REPOSITORY is 'name'"):
        launch.repository_url({"GITHUB_REPOSITORY": "name"})


def test_a_notebook_gets_buttons_that_lead_to_it_and_a_page_in_markdown_gets_none(tmp_path):
    options = {"launch_buttons": CONFIG["launch_buttons"], "repository_branch": CONFIG["repository"]["branch"]}
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'book/_ext')!r})\n"
        "extensions = ['myst_nb', 'launch']\nnb_execution_mode = 'off'\nhtml_theme = 'sphinx_book_theme'\n"
        f"html_theme_options = {options!r}\nroot_doc = 'index'\n"
    )
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "index.md").write_text(PAGE + "\n```{toctree}\nnotebooks/one\n```\n")
    cells = [nbformat.v4.new_markdown_cell("# A notebook")]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, tmp_path / "notebooks/one.ipynb")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
    command = [sys.executable, "-m", "sphinx", "-q", str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, env=environ | {"GITHUB_REPOSITORY": "owner/name"}, check=True)

    def launched(page):
        html = (tmp_path / f"out/{page}.html").read_text(encoding="utf-8")
        return re.findall(r'href="(https://[^"]*(?:binder|colab)[^"]*)"', html)

    assert launched("notebooks/one") == [
        "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/notebooks/one.ipynb",
        "https://colab.research.google.com/github/owner/name/blob/main/notebooks/one.ipynb",
    ]
    assert launched("index") == []


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
