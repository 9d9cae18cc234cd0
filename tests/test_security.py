"""What comes from outside is data, never a program: archives, records, caches, checkpoints, data roots, downloads."""

import ast
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from companion import checkpoint
from companion.data import cache
from sparsemtl.errors import DataError

ROOT = Path(__file__).parents[1]


class Program:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    torch.save({"origin": 1, "net": Program(tmp_path / "written")}, tmp_path / "a.pt")
    assert checkpoint.load(tmp_path / "a.pt", 1) is None
    assert "damaged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.damaged"]


def test_a_poisoned_cache_is_made_again_without_running_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path))
    cache.cached("name", 1, lambda: {"x": np.arange(3)})
    (path,) = tmp_path.glob("name-*.npz")
    np.savez(path, x=np.array([Program(tmp_path / "written")], dtype=object))
    assert cache.cached("name", 1, lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]
    path.write_bytes(pickle.dumps(Program(tmp_path / "written")))
    assert cache.cached("name", 1, lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]
    assert not (tmp_path / "written").exists()


FORBIDDEN = ("pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "joblib.load", "shelve.open", "os.system")


@pytest.mark.parametrize("folder", ["lib", "benchmarks", "examples"])
def test_nothing_unpickles_or_evaluates(folder):
    nodes = [n for path in (ROOT / folder).rglob("*.py") for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name, words = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
        wrong = name in FORBIDDEN or words.get("verify") == "False" or words.get("shell") == "True"
        wrong |= name == "torch.load" and words.get("weights_only") != "True"
        wrong |= name in ("np.load", "numpy.load") and words.get("allow_pickle", "False") != "False"
        wrong |= name.endswith(("tar.extract", ".extractall")) and words.get("filter") != "'data'"
        assert not wrong, ast.unparse(call)


def test_a_data_root_that_links_elsewhere_is_only_read_and_a_link_shows_no_other_file(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))
    stripes, there = import_module("stripes"), tmp_path / "there"
    stripes.write_stripes(there / "stripes")
    (tmp_path / "root").symlink_to(there)
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    assert len(stripes.load_stripes(tmp_path / "root")) == 12
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before
    (tmp_path / "secret").write_text("password")
    (there / "stripes/images/3.png").unlink()
    (there / "stripes/images/3.png").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"3\.png") as caught:
        stripes.load_stripes(tmp_path / "root")
    assert "password" not in str(caught.value)
