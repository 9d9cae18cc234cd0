"""Errors that a user can act on: each message is one line that names the thing and the way out."""

from importlib.util import find_spec


class SparseMTLError(Exception):
    """Base of every error that a user's input or machine causes; the command line prints it and exits with 2."""


class DataError(SparseMTLError):
    """A missing, damaged or unfit data file, or a value in it."""


class SpecError(SparseMTLError, ValueError):
    """An unknown name or a value out of range in a run specification or a call."""


class RecordError(SparseMTLError):
    """A run record that cannot be read, written or trusted."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """An exception's message without line breaks, cut to `most` characters; its kind where it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def needs(what: str, extra: str, *packages: str) -> None:
    """Raise `SpecError` where a package is missing that `what` needs; `extra` of this library brings it."""
    if absent := [name for name in packages if find_spec(name) is None]:
        raise SpecError(f"{what}: no package {absent[0]}; pip install 'sparsemtl[{extra}]'")
