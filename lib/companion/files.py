"""The one way to write a file: it appears under its name when it is complete, or not at all."""

import contextlib
import os
import secrets
from pathlib import Path

from sparsemtl.errors import RecordError, one_line

WAY_OUT = "free space there, or choose another folder"


@contextlib.contextmanager
def write_whole(path, binary=False, error=RecordError, way_out=WAY_OUT):
    """Open a file, of UTF-8 text or `binary`, that replaces `path` when the block ends without an exception.

    A full disk, an exception or a kill leaves the old file as it was. Its folder is made if it is missing. Links are
    followed; a pipe or a terminal is written to directly. If it cannot be written, `error` (a `SparseMTLError`) is
    raised, whose message ends in `way_out`: what the user can do.
    """
    target = Path(os.path.realpath(path))
    direct = target.exists() and not target.is_file() and not target.is_dir()
    part = target if direct else beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with open(part, "wb" if binary else "w", encoding=None if binary else "utf-8") as file:
            yield file
            file.flush()
            if not direct:
                os.fsync(file.fileno())
        if not direct:
            part.replace(target)
    except OSError as fault:
        raise error(f"cannot write {path} ({fault.strerror or one_line(fault)}): {way_out}") from fault
    finally:
        if not direct:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def beside(target):
    """Name of the unfinished file or folder; its length does not depend on the target's name."""
    return target.parent / f".{secrets.token_hex(8)}.part"
