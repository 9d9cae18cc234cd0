"""Checkpoints: the state of a training that was cut off, so that the same run goes on from there."""

import contextlib
import sys

import torch
from sparsemtl.errors import DataError

from companion.data.cache import cache_dir
from companion.files import write_whole

WAY_OUT = "free space there, or set SPARSEMTL_CACHE to a folder that can be written"


def path_of(spec):
    """File of the checkpoint of a run, in the cache folder."""
    return cache_dir() / "checkpoints" / f"{spec.hash}.pt"


def save(path, state):
    """Write a checkpoint; the old one stays whole if that fails.

    Parameters
    ----------
    path : Path
        File, see `path_of`.
    state : dict
        Tensors, numbers, strings, lists and dicts alone. Its entry "origin" says what made it: see `load`.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    try:
        with write_whole(path, binary=True, error=DataError, way_out=WAY_OUT) as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's writer on a full disk
        raise DataError(f"cannot write {path} ({' '.join(str(error).split())[:80]}): {WAY_OUT}") from error


def load(path, origin):
    """State of a checkpoint, or None if this run cannot go on from one.

    A damaged file is moved aside, a file of another origin is left to be overwritten; standard error says so. Nothing
    in the file is executed (`weights_only`).

    Parameters
    ----------
    path : Path
        File, see `path_of`.
    origin : object
        What the checkpoint must share with the run: data, code, device, packages.

    Raises
    ------
    DataError
        If the file exists but cannot be read.
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
