"""Arrays that are costly to make, kept on disk under a key that covers everything that made them."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
from sparsemtl.errors import DataError

SIZES = "sizes.json"  # in a sealed folder: the length of each file


def cache_dir():
    """Folder for derived data: SPARSEMTL_CACHE, or sparsemtl below the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SPARSEMTL_CACHE") or home / "sparsemtl")


def sha256_of(value):
    """Return the sha256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def cached(name, key, make):
    """Return the arrays of `make()`, read from disk if they were made before with the same `key`.

    name: a word for the file name. key: JSON-able; whatever changes the arrays must be in it (source checksums,
    parameters, version of the making code). make: () -> dict[str, ndarray] without object arrays.
    A damaged cache file is made again; a folder that cannot be written raises `DataError`. No arrays are not kept.
    """
    path = cache_dir() / f"{name}-{sha256_of(key)[:24]}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile):  # absent or damaged
        pass
    if arrays := make():
        _keep(path, lambda file: np.savez(file, **arrays))
    return arrays


def seal(folder):
    """Write down the files of a folder in the cache, so that `is_whole` can say whether they are all still there."""
    (folder / SIZES).write_text(json.dumps(_sizes(folder)), encoding="utf-8")


def is_whole(folder):
    """Whether a folder still has all files that `seal` found, each of the length it had; others may lie beside them."""
    try:
        return json.loads((folder / SIZES).read_text(encoding="utf-8")).items() <= _sizes(folder).items()
    except (OSError, ValueError, AttributeError):
        return False


def _sizes(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SIZES)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def note(name, request, key):
    """Keep under which key of `cached` the answer to a request lies (both JSON-able); see `noted`."""
    if noted(name, request) != json.loads(json.dumps(key)):
        _keep(_note(name, request), lambda file: file.write(json.dumps(key).encode()))


def noted(name, request):
    """The key last noted for a request, None where there is none: for a machine that cannot work it out by itself."""
    try:
        return json.loads(_note(name, request).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _note(name, request):
    return cache_dir() / f"{name}-{sha256_of(request)[:24]}.json"


def _keep(path, write):
    """A file of the cache that appears whole; write: function (binary file)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                write(file)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write the cache file {path} ({error.strerror}): free space there, or set SPARSEMTL_CACHE "
            "to a folder that can be written"
        ) from error
