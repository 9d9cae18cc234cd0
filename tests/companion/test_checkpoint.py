"""A checkpoint that this run cannot go on from is not taken; one that may be whole stays (damage: test_security)."""

import pytest
import torch
from companion import checkpoint
from sparsemtl.errors import DataError

ORIGIN = {"data": "a", "code": "b", "device": "cpu", "packages": {"torch": "2"}}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "run.pt", {"origin": ORIGIN, "lam": 0.5, "weights": torch.ones(2)})
    return tmp_path / "run.pt"


@pytest.mark.parametrize("what", [None, *ORIGIN])
def test_a_checkpoint_of_other_data_code_or_device_is_not_taken(path, what, capsys):
    state = checkpoint.load(path, ORIGIN | ({what: "other"} if what else {}))
    said = f"{path} is of other" in capsys.readouterr().err
    assert (state is None, said, path.exists()) == (bool(what), bool(what), True)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_a_checkpoint_that_cannot_be_read_just_now_is_kept(path, error, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises((DataError, MemoryError)):
        checkpoint.load(path, ORIGIN)
    assert path.exists()
