"""Derived arrays are made once for each request, and again if the file is damaged."""

import os

import numpy as np
import pytest
from companion.data.cache import cache_dir, cached, cached_folder
from hypothesis import given, settings
from hypothesis import strategies as st

ARRAYS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "names": np.array(["C3", "Cz"]), "empty": np.zeros((0, 2))}


def proof_of(asked, calls):
    """Proof of what the cache gives, which must be `ARRAYS`; each time that they are made, `calls` gets longer."""
    arrays = cached("epochs", {"subject": 1}, lambda: calls.append(1) or dict(ARRAYS), asked)
    proof = str(arrays.pop("proof"))
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    return proof


def test_arrays_are_made_once_until_another_proof_is_asked_for():
    calls, steps = [], [(None, "", 1), (None, "", 1), ("a", "a", 2), ("a", "a", 2), (None, "a", 2), ("b", "b", 3)]
    for asked, proof, made in steps:
        assert (proof_of(asked, calls), len(calls)) == (proof, made)
    assert [p.name.split("-")[0] for p in cache_dir().iterdir()] == ["epochs"]


@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "cut", "text"]), st.integers(0, 7))
@settings(max_examples=150)
def test_a_damaged_file_never_gives_other_arrays(where, damage, bit):
    for old in cache_dir().glob("*"):
        old.unlink()
    proof_of(None, [])
    (path,) = cache_dir().iterdir()
    content = path.read_bytes()
    at = int(where * len(content))
    rest = {"flip": bytes([content[at] ^ 1 << bit]) + content[at + 1 :], "cut": b"", "text": b"x" * 99}
    path.write_bytes(content[:at] + rest[damage])
    proof_of(None, [])
    assert list(cache_dir().iterdir()) == [path]


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("SPARSEMTL_CACHE")
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


def test_a_folder_is_made_once_and_again_if_a_file_is_cut_or_lost():
    made, file = [], cache_dir() / "name" / "file"

    def make(part):
        made.append(part)
        (part / "file").write_text("text")

    changes = (lambda: None, (file.parent / "another").touch, lambda: file.write_text("tex"), file.unlink)
    for change, times in zip(changes, (1, 1, 2, 3), strict=True):
        cached_folder("name", make)
        change()
        assert (cached_folder("name", make), file.read_text(), len(made)) == (file.parent, "text", times)
    assert os.listdir(cache_dir()) == ["name"]


def test_a_folder_whose_making_fails_leaves_nothing_and_the_first_of_two_is_kept():
    def fail(part):
        (part / "file").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("other", fail)
    cached_folder("raced", lambda part: (cache_dir() / "raced" / "theirs").mkdir(parents=True))
    assert [path.relative_to(cache_dir()).as_posix() for path in cache_dir().rglob("*")] == ["raced", "raced/theirs"]
