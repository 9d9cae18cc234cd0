"""Arrays and folders that are costly to make, kept on disk and checked when they are read."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from sparsemtl.errors import DataError, one_line

from companion.files import beside, write_whole

SIZES = "sizes.json"  # in a folder of the cache: the length of each file
WAY_OUT = "free space there, or set SPARSEMTL_CACHE to a folder that can be written"


def cache_dir():
    """Folder of derived data: SPARSEMTL_CACHE, or `sparsemtl` below the user's cache folder, or a temporary one."""
    if given := os.environ.get("SPARSEMTL_CACHE"):
        return Path(given)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sparsemtl")
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if folder.is_absolute() and os.access(nearest, os.W_OK | os.X_OK):
        return folder
    return Path(tempfile.gettempdir(), f"sparsemtl-{os.getuid()}")  # without a home that can be written


def sha256_of(value):
    """Return the sha256 (hex) of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def cached(name, key, make, proof=None):
    """Return the arrays of `make()` and "proof", read from disk if they were made before.

    name: start of the file's name. key: JSON-able, what is asked for; it names the file. make: () -> {str: ndarray}.
    proof: str, what the arrays are made from: a file with another proof is made again; None: any file serves.
    """
    path = cache_dir() / f"{name}-{sha256_of(key)[:24]}.npz"
    absent_or_damaged = ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile
    with contextlib.suppress(*absent_or_damaged), np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
        # The archive checks what it lists; a damaged list may lack an array.
        if str(arrays.pop("contents")) == _contents(arrays) and proof in (None, str(arrays["proof"])):
            return arrays
    arrays = {**make(), "proof": np.array(proof or "")}
    with write_whole(path, binary=True, error=DataError, way_out=WAY_OUT) as file:
        np.savez(file, contents=np.array(_contents(arrays)), **arrays)
    return arrays


def _contents(arrays):
    return json.dumps(sorted([name, array.dtype.str, array.shape] for name, array in arrays.items()))


def cached_folder(name, make):
    """Folder of the cache with the files that `make(folder)` writes; made again if one is lost or changed length."""
    folder = cache_dir() / name
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no list, or a damaged one
        if json.loads((folder / SIZES).read_text(encoding="utf-8")).items() <= _sizes(folder).items():
            return folder
    part = beside(folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        part.mkdir(parents=True)
        make(part)
        (part / SIZES).write_text(json.dumps(_sizes(part)), encoding="utf-8")
        if not folder.exists():  # else another process made it meanwhile
            part.rename(folder)
    except OSError as fault:
        raise DataError(f"cannot write {folder} ({fault.strerror or one_line(fault)}): {WAY_OUT}") from fault
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _sizes(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SIZES)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
