"""A file appears whole or not at all; a checkpoint that a run cannot go on from is not taken (code in it: security)."""

import errno
import os
from unittest.mock import Mock

import pytest
import torch
from companion import checkpoint
from companion.files import write_whole
from hypothesis import given
from hypothesis import strategies as st
from sparsemtl.errors import DataError, RecordError

FULL = OSError(errno.ENOSPC, "No space left on device")
ORIGIN = {"data": "a", "code": "b", "device": "cpu", "packages": {"torch": "2"}}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), st.binary())
def test_what_was_written_is_read(tmp_path_factory, text, data):
    folder = tmp_path_factory.mktemp("files") / "new" / "below"
    with write_whole(folder / "text") as file:
        file.write(text)
    with write_whole(folder / "bytes", binary=True) as file:
        file.write(data)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"text": text.encode(), "bytes": data}


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ValueError(), FULL])
def test_an_exception_leaves_the_old_file(tmp_path, old, fault):
    if old:
        (tmp_path / "file").write_text(old)
    expected = RecordError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(expected), write_whole(tmp_path / "file") as file:  # noqa: PT012
        file.write("new")
        raise fault
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == ({"file": old} if old else {})


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_named_in_one_line(tmp_path, monkeypatch, call):
    monkeypatch.setattr(os, call, Mock(side_effect=FULL))
    message = rf"^cannot write {tmp_path}/file \(No space left on device\): delete films$"
    writing = write_whole(tmp_path / "file", error=DataError, way_out="delete films")
    with pytest.raises(DataError, match=message), writing:
        pass
    assert os.listdir(tmp_path) == []


def test_links_are_followed_pipes_written_and_folders_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with write_whole(tmp_path / "link") as file:
        file.write("text")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "file").read_text()) == (True, "text")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with write_whole(tmp_path / "pipe") as file:
        file.write("text")
    assert os.read(reader, 99) == b"text"
    os.close(reader)
    for folder in (tmp_path, "", "/", "."):
        with pytest.raises(RecordError), write_whole(folder):
            pass
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "pipe"]


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path / "run.pt", {"origin": ORIGIN, "lam": 0.5, "weights": torch.ones(2)})
    return tmp_path / "run.pt"


@pytest.mark.parametrize("what", [None, *ORIGIN])
def test_a_checkpoint_of_other_data_code_or_device_is_not_taken(saved, what, capsys):
    state = checkpoint.load(saved, ORIGIN | ({what: "other"} if what else {}))
    said = f"{saved} is of other" in capsys.readouterr().err
    assert (state is None, said, saved.exists()) == (bool(what), bool(what), True)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_a_checkpoint_that_cannot_be_read_just_now_is_kept(saved, error, monkeypatch):
    monkeypatch.setattr(torch, "load", Mock(side_effect=error))
    with pytest.raises((DataError, MemoryError)):
        checkpoint.load(saved, ORIGIN)
    assert saved.exists()
