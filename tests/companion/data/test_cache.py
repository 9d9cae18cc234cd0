"""Derived arrays are made once for each request, and again if the file is damaged."""

import os

import numpy as np
import pytest
from companion.data.cache import cache_dir, cached, cached_folder
from hypothesis import given, settings
from hypothesis import strategies as st

ARRAYS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "names": np.array(["C3", "Cz"]), "empty": np.zeros((0, 2))}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return dict(ARRAYS)


def same(arrays, proof=""):
    assert str(arrays.pop("proof")) == proof
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


def test_the_second_call_reads_what_the_first_made(folder):
    make = Maker()
    for _ in range(2):
        same(cached("epochs", {"subject": 1}, make))
    assert make.calls == 1
    assert [p.name.split("-")[0] for p in folder.iterdir()] == ["epochs"]


def test_another_proof_replaces_the_file_and_no_proof_takes_any(folder):
    make = Maker()
    for proof, kept, calls in (("a", "a", 1), ("a", "a", 1), (None, "a", 1), ("b", "b", 2), (None, "b", 2)):
        same(cached("epochs", 1, make, proof), kept)
        assert make.calls == calls
    assert len(list(folder.iterdir())) == 1


@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "cut", "text"]), st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_never_gives_other_arrays(tmp_path_factory, where, damage, bit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEMTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        cached("epochs", 1, Maker())
        (path,) = cache_dir().iterdir()
        content = bytearray(path.read_bytes())
        at = int(where * len(content))
        if damage == "flip":
            content[at] ^= 1 << bit
        elif damage == "cut":
            del content[at:]
        else:
            content[at : at + 99] = b"x" * 99
        path.write_bytes(content)
        same(cached("epochs", 1, Maker()))
        assert list(cache_dir().iterdir()) == [path]


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("SPARSEMTL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "sparsemtl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "sparsemtl"
    temporary = tmp_path / f"sparsemtl-{os.getuid()}"
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # a home that cannot be written
        assert cache_dir() == temporary
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user without an entry
    assert cache_dir() == temporary


def test_a_folder_is_made_once_and_again_if_a_file_is_cut_or_lost(folder):
    made = []

    def make(part):
        made.append(part)
        (part / "a").mkdir()
        (part / "a" / "file").write_text("text")

    def same():
        assert (cached_folder("name", make) / "a" / "file").read_text() == "text"

    same()
    (folder / "name" / "another").touch()
    same()
    assert len(made) == 1
    (folder / "name" / "a" / "file").write_text("tex")
    same()
    (folder / "name" / "a" / "file").unlink()
    same()
    assert len(made) == 3
    assert os.listdir(folder) == ["name"]


def test_a_folder_whose_making_fails_leaves_nothing_and_the_first_of_two_is_kept(folder):
    def fail(part):
        (part / "file").touch()
        raise KeyboardInterrupt

    def overtaken(part):
        (folder / "raced").mkdir()
        (folder / "raced" / "theirs").touch()

    with pytest.raises(KeyboardInterrupt):
        cached_folder("other", fail)
    cached_folder("raced", overtaken)
    assert os.listdir(folder) == ["raced"]
    assert os.listdir(folder / "raced") == ["theirs"]
