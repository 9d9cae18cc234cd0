"""Derived arrays are made once for each key, and again where the file is damaged."""

import errno
import os

import numpy as np
import pytest
from companion.data import LOADERS, cache, load
from companion.data.cache import cache_dir, cached
from hypothesis import given
from hypothesis import strategies as st
from sparsemtl.errors import DataError, SpecError

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
        return ARRAYS


def same(arrays):
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


def test_the_second_call_reads_what_the_first_made(folder):
    make = Maker()
    for _ in range(2):
        same(cached("epochs", {"subject": 1}, make))
    assert make.calls == 1
    assert [p.name.split("-")[0] for p in folder.iterdir()] == ["epochs"]


def test_the_order_of_the_key_does_not_matter_and_its_values_do(folder):
    make = Maker()
    cached("epochs", {"a": 1, "b": [2]}, make)
    cached("epochs", {"b": [2], "a": 1}, make)
    assert make.calls == 1
    for name, key in [("epochs", {"a": 1, "b": [3]}), ("epochs", {"a": 1.0, "b": [2]}), ("other", {"a": 1, "b": [2]})]:
        cached(name, key, make)
    assert make.calls == 4
    assert len(list(folder.iterdir())) == 4


KEYS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=3)


@given(KEYS, KEYS)
def test_two_keys_share_a_file_only_when_they_are_equal(one, other):
    names = set()

    def spy(path, **options):
        names.add(str(path))
        raise FileNotFoundError

    def stop():
        raise StopIteration

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache.np, "load", spy)
        for key in (one, other):
            with pytest.raises(StopIteration):
                cached("k", key, stop)
    assert len(names) == (1 if one == other else 2)


@pytest.mark.parametrize("damage", ["empty", "half", "text", "flip", "header"])
def test_a_damaged_file_is_made_again(folder, damage):
    make = Maker()
    cached("epochs", 1, make)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"\x93NUMPY") + 130] ^= 1
    damaged = {"empty": b"", "half": whole[: len(whole) // 2], "text": b"x" * 99, "flip": bytes(flipped)}
    path.write_bytes(damaged.get(damage, b"PK" + bytes(50) + whole[52:]))
    same(cached("epochs", 1, make))
    assert make.calls == 2
    assert path.read_bytes() == whole
    assert list(folder.iterdir()) == [path]


def test_objects_are_never_unpickled(folder):
    cached("epochs", 1, Maker())
    (path,) = folder.iterdir()
    with open(path, "wb") as file:
        np.savez(file, x=np.array([{"a": 1}], dtype=object))
    same(cached("epochs", 1, Maker()))


@pytest.mark.parametrize("place", ["", "/below"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSEMTL_CACHE", f"{tmp_path}/file{place}")
    with pytest.raises(DataError, match=f"{tmp_path}/file{place}/epochs-.*set SPARSEMTL_CACHE") as caught:
        cached("epochs", 1, Maker())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", ["savez", "replace"])
def test_a_full_disk_leaves_nothing_behind(folder, monkeypatch, step):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"savez": (cache.np, "savez", full), "replace": (cache.Path, "replace", full)}[step])
    with pytest.raises(DataError, match="No space left on device"):
        cached("epochs", 1, Maker())
    assert list(folder.iterdir()) == []
    monkeypatch.undo()


def test_an_error_while_making_leaves_nothing_behind(folder):
    def broken():
        raise DataError("S001R04.edf is truncated")

    with pytest.raises(DataError, match="truncated"):
        cached("epochs", 1, broken)
    assert not folder.exists()


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSEMTL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "sparsemtl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "sparsemtl"


def test_load_names_what_it_knows():
    with pytest.raises(SpecError, match="unknown data set 'eegmmdb': choose one of eegmmidb, ofner2017"):
        load("eegmmdb")
    assert set(LOADERS) == {
        "eegmmidb", "ofner2017", "jeong2020", "simulated-eeg", "nyuv2", "rooms", "celebamask", "faces"
    }  # fmt: skip
