import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import sparsemtl
import yaml
from offline import remote_loads
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
DIRECT = [Requirement(text) for group in GROUPS for text in group]
CONDA_NAMES = {"pytorch": "torch"}


def locked(python):
    """{name: version} of requirements.lock for this version of Python on Linux."""
    target = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    found = {}
    for line in (line for line in lines if line[:1] not in "# "):
        assert "--hash=sha256:" in line, f"no hash: {line}"
        pin = Requirement(line.split("--hash")[0].strip())
        if pin.marker is None or Marker(str(pin.marker)).evaluate(target):
            assert canonicalize_name(pin.name) not in found, f"two versions of {pin.name}"
            found[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_meets_every_direct_dependency(python):
    pins = locked(python)
    for requirement in DIRECT:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_environment_yml_has_the_versions_of_the_lock():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    conda = dict(entry.split("=") for entry in entries if isinstance(entry, str) and "=" in entry)
    python = conda.pop("python")
    pins = {CONDA_NAMES.get(name, name): version for name, version in conda.items()}
    pins |= dict(entry.split("==") for entry in from_pip)
    lock = locked(python)
    assert pins == {r.name: lock[canonicalize_name(r.name)] for r in DIRECT}


def test_no_registry_address_and_no_path_of_one_machine_in_any_file():
    """In none that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    hosts = "pypi[.]org|pythonhosted[.]org|npmjs[.]|anaconda[.]org|download[.]pytorch|debian[.]org"
    machine_path = r"(?<![\w.:/~-])/(?:home|root|work|Users|opt|srv|mnt|tmp)/\w"
    wrong = re.compile(rf"(?i:{hosts}|index[-_]url\b|find[-_]links\b)|{machine_path}")
    for path in (ROOT / name for name in listed.stdout.split("\0") if name):
        if path.is_file() and path.suffix not in (".png", ".ico"):
            found = wrong.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_parameters_and_no_outputs(path):
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    (tagged,) = (cell for cell in code if "parameters" in cell["metadata"].get("tags", []))
    defaults = {}
    exec("".join(tagged["source"]), defaults)
    assert defaults["profile"] in (None, "quick")  # None: the committed records


def test_every_page_and_notebook_is_in_the_table_of_contents():
    pages = [*NOTEBOOKS, *(ROOT / "book").rglob("*.md")]
    listed = re.findall(r"\b(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text())
    assert sorted(listed) == sorted(page.relative_to(ROOT).with_suffix("").as_posix() for page in pages)


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == sparsemtl.__version__ == PROJECT["version"]


def test_the_build_finds_what_a_page_loads_from_another_host(tmp_path):
    (tmp_path / "page.html").write_text("""
        <script async\n src="https://host/1.js"></script> <link rel="stylesheet" href="//host/2.css">
        <link rel="preconnect" href="https://host/3"> <img alt='' src='http://host/4.png'>
        <style>@import 'https://host/5.css';</style> <p style="background: url('https://host/6.png')">
        <a href="https://host/">a link is not loaded</a> <link rel="canonical" href="https://host/">
        <script src="../_static/x.js"></script> <img src="data:image/png;base64,//8=">""")
    found = [line.removeprefix("page.html: ").partition("//host/")[2] for line in remote_loads(tmp_path)]
    assert found == ["1.js", "2.css", "3", "4.png", "5.css", "6.png"]
