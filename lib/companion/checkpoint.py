"""Checkpoints: the state of a training that was cut off, so that the same run goes on from there."""

import contextlib
import sys

import torch
from sparsemtl.errors import DataError, one_line

from companion.data.cache import WAY_OUT, cache_dir
from companion.files import write_whole


def path_of(spec):
    """File of the checkpoint of a run, in the cache folder."""
    return cache_dir() / "checkpoints" / f"{spec.hash}.pt"


def save(path, state):
    """Write a dict of tensors and plain values, whose "origin" says what made it (see `load`); or raise `DataError`."""
    try:
        with write_whole(path, binary=True, error=DataError, way_out=WAY_OUT) as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's writer on a full disk
        raise DataError(f"cannot write {path} ({one_line(error, 80)}): {WAY_OUT}") from error


def load(path, origin):
    """State of a checkpoint, or None if this run cannot go on from one. Nothing in the file is executed.

    A damaged file is moved aside, a file of another origin (data, code, device, packages) is left to be overwritten;
    standard error says so. Raises `DataError` if the file exists but cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): repair it or delete it") from error
    except MemoryError:
        raise  # not the file's fault
    except Exception:  # whatever else a damaged file makes torch raise
        with contextlib.suppress(OSError):
            path.replace(path.with_suffix(".damaged"))
        what = "damaged"
    else:
        if isinstance(state, dict) and state.get("origin") == origin:
            return state
        what = "of other data, code or device"
    print(f"{path} is {what}: training starts from the beginning", file=sys.stderr)
    return None


def discard(path):
    """Delete a checkpoint; one that cannot be deleted does no harm."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
