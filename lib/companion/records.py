"""Run records: what one run found, under what conditions; written whole or not at all, checked when read.

A record is one JSON object:
    schema    version of this layout
    hash      name of the run: `RunSpec.hash` of `spec`
    spec      the run's specification
    result    what was computed; on a CPU the same spec and code give the same bytes
    digest    SHA-256 of the canonical JSON of `result`: a value changed by hand does not pass
    run       when, where and how long: start, end, seconds, device, threads, packages, code revision
A working store keeps one file for each run; records travel as JSON lines (`export`, `import`).
"""

import hashlib
import json
import math
import os
import reprlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from sparsemtl.errors import RecordError, one_line

from companion.files import write_whole
from companion.spec import RunSpec, canonical_json

SCHEMA = 1
DIGITS = 6  # significant digits kept of a float: below the spread of any metric, and compact
# What a record, and `run` in it, must say, and of which kind
PARTS = {"hash": str, "spec": dict, "result": dict, "digest": str, "run": dict}
REQUIRED_RUN = {"started": str, "ended": str, "seconds": (int, float), "device": str, "threads": int, "python": str,
                "packages": dict, "revision": str}  # fmt: skip
ROOT = next((f for f in Path(__file__).resolve().parents if (f / "_toc.yml").exists()), Path.cwd())
WRITE = "free space there or choose another folder; records that were finished are kept"
MADE_HERE = "delete it and run the same command again to re-make it"
BROUGHT_HERE = "take the file again from where it came (`git checkout`, or another copy)"


class UnreadableRecord(RecordError):
    """A record that may be whole, but that this machine or this code cannot read now: nothing may take its place."""


@dataclass(frozen=True)
class RunRecord:
    """One run's record; `spec`, `result` and `run` as in the module's description."""

    spec: RunSpec
    result: dict
    run: dict

    @property
    def hash(self):
        """Name of the run."""
        return self.spec.hash

    @property
    def digest(self):
        """SHA-256 (hex) of the canonical JSON of the result."""
        return hashlib.sha256(canonical_json(self.result).encode()).hexdigest()

    @property
    def device_option(self):
        """What a command that makes this record again says of the device, " --device cuda" or nothing."""
        return "" if self.run["device"] == "cpu" else " --device cuda"

    def to_dict(self):
        """Plain dict in the layout described above."""
        own = {"spec": self.spec.to_dict(), "result": self.result, "run": self.run}
        return {"schema": SCHEMA, "hash": self.hash, "digest": self.digest, **own}


def compact_numbers(value):
    """The value with arrays and tensors as lists and floats rounded to `DIGITS` significant digits.

    Raises `RecordError` for NaN or infinity: a run that diverged must say so by name, not by a missing number.
    """
    if isinstance(value, dict):
        return {str(k): compact_numbers(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return compact_numbers(value.tolist())
    if isinstance(value, list | tuple):
        return [compact_numbers(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError(f"the result holds {value}: the run diverged (lower its learning rate)")
        return float(np.format_float_scientific(value, precision=DIGITS - 1))
    return value


def validate(value, where="record", remedy=MADE_HERE):
    """Return the `RunRecord` of a plain dict, or raise `RecordError` that names `where`, what is wrong and a remedy."""
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UnreadableRecord(f"{where}: schema {schema}, this code reads {SCHEMA}; update sparsemtl to read it")
    try:
        if schema != SCHEMA:
            raise ValueError(f"schema {schema!r}, this code reads {SCHEMA}")
        for part, kinds in ((value, PARTS), (value.get("run"), REQUIRED_RUN)):
            for name, kind in kinds.items():
                if name not in part:
                    raise ValueError(f"lacks {name}")
                if not isinstance(part[name], kind):
                    raise ValueError(f"its {name} cannot be {reprlib.repr(part[name])}")
        record = RunRecord(RunSpec.from_dict(value["spec"]), value["result"], value["run"])
        if record.digest != value["digest"]:
            raise ValueError(f"run {record.hash}: the digest does not belong to its result (a value was changed)")
        if record.hash != value["hash"]:
            raise ValueError(f"hash {value['hash']} does not belong to its spec (that has {record.hash})")
        return record
    except ValueError as error:  # a `SpecError` too; Python's JSON reader takes NaN and Infinity
        raise RecordError(f"{where}: {error}; {remedy}") from error


def check_writable(folder):
    """Raise `RecordError` if no file can be written in `folder`, which is made if it is absent."""
    probe = Path(folder) / f".writable.{os.getpid()}"
    with write_whole(probe, way_out=WRITE):
        pass
    probe.unlink(missing_ok=True)


def repository_root():
    """The checkout that this library is part of; outside of one the working folder."""
    return ROOT


def files_in(folder, suffix):
    """Files FOLDER/STUDY/PROFILE/*SUFFIX, sorted; none if the folder is absent, `RecordError` if it is unreadable."""

    def unreadable(error):
        if not isinstance(error, FileNotFoundError):  # no store yet
            raise RecordError(f"{error.filename}: cannot be read ({error.strerror}): mend that, or name another")

    walk = os.walk(folder, onerror=unreadable, followlinks=True)
    found = (Path(place, name) for place, _, names in walk for name in names if not name.startswith("."))
    return sorted(path for path in found if path.suffix == suffix and len(path.relative_to(folder).parts) == 3)


def read_text(path):
    """Text of a file; `UnreadableRecord` if it cannot be read, `RecordError` if it holds no text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableRecord(f"{path}: cannot be read ({error.strerror}): mend that, or delete it") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: damaged ({error}): delete it, or take another copy") from error


class Store:
    """Folder of records, one `HASH.json` each, to which many processes may write; SPARSEMTL_RUNS if none is given."""

    def __init__(self, folder=None):
        default = repository_root() / (os.environ.get("SPARSEMTL_RUNS") or "runs")  # relative to one place, always
        self.folder = Path(folder or os.path.relpath(default))

    def path(self, spec):
        """Path of the record of `spec`, whether it exists or not."""
        return self.folder / spec.study / spec.profile / f"{spec.hash}.json"

    def write(self, record):
        """Write one record: first under a temporary name, then renamed."""
        with write_whole(self.path(record.spec), way_out=WRITE) as file:
            file.write(json.dumps(record.to_dict(), sort_keys=True, allow_nan=False) + "\n")

    def read(self, spec):
        """The record of `spec`, or None; `RecordError` for an invalid one, `UnreadableRecord` if it may be whole."""
        path = self.path(spec)
        try:
            record = read_record(path)
        except UnreadableRecord as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise
        if record.hash != spec.hash:
            raise RecordError(f"{path}: holds run {record.hash}; {MADE_HERE}")
        return record

    def all(self):
        """(records, problems): every valid record of the store, and one line for each invalid file."""
        records, problems = [], []
        for path in files_in(self.folder, ".json"):
            try:
                records.append(read_record(path))
            except RecordError as error:
                problems.append(str(error))
        return records, problems


def read_record(path):
    """The record in a file of a store; errors as `Store.read`."""
    return parse(read_text(path), path, MADE_HERE)


def parse(text, where, remedy):
    """The record in a JSON text; `RecordError` that names where it is from and a remedy."""
    try:
        return validate(json.loads(text), where, remedy)
    except (ValueError, RecursionError) as error:  # too deep for the parser, or for what looks at the values
        raise RecordError(f"{where}: damaged ({one_line(error)}); {remedy}") from error


def write_jsonl(path, records):
    """Write records as JSON lines, sorted by hash, so that equal sets give equal files; returns their number."""
    unique = {record.hash: record for record in records}
    with write_whole(path, way_out=WRITE) as file:
        for name in sorted(unique):
            file.write(canonical_json(unique[name].to_dict()) + "\n")
    return len(unique)


def read_jsonl(path, problems=None, start=""):
    """Every record of a JSON-lines file; raises `RecordError` that names file, line and cause.

    problems: list that takes a text for each line that is no record instead. start: only records with such a hash.
    """
    records = []
    for i, line in enumerate(read_text(path).splitlines(), 1):
        wanted = f'"hash":"{start}' in line if start else line.strip()
        try:
            records += [parse(line, f"{path} line {i}", BROUGHT_HERE)] if wanted else []
        except RecordError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return records


def committed(results="results", study="*"):
    """Records that the repository ships: every `results/STUDY/PROFILE/*.jsonl`; none if the folder is absent.

    study: read this one alone. Raises `RecordError` for a damaged file, and for a run that has two records: no page may
    average over both.
    """
    found = {}
    for path in (path for path in files_in(results, ".jsonl") if study in ("*", path.parts[-3])):
        stat = path.stat() if path.exists() else None  # a link that leads nowhere: the reader says so
        for record in _read_once(path, stat and (stat.st_mtime_ns, stat.st_size)):
            first, kept = found.setdefault(record.hash, (path, record))
            if kept is not record:
                raise RecordError(f"run {record.hash} is in {first} and in {path}: keep it once")
    return [record for _, record in found.values()]


@cache
def _read_once(path, state):
    """Records of a file, read and checked once for as long as its time and size (`state`) stay: pages ask often."""
    return read_jsonl(path)


def set_hash(records):
    """Name of a set of records, whatever their order: 16 hex digits of the SHA-256 of lines "HASH DIGEST"."""
    lines = sorted({f"{record.hash} {record.digest}" for record in records})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def merge(*groups):
    """(records, conflicts): one record for each hash, the first if results differ, and a line for each left out."""
    merged, conflicts = {}, []
    for record in (record for group in groups for record in group):
        kept = merged.setdefault(record.hash, record)
        if kept.digest != record.digest:
            first, second = (f"the one of {r.run['started']} on {r.run['device']}" for r in (kept, record))
            run = f"run {record.hash} ({record.spec.label()})"
            conflicts.append(f"{run} has two results: kept {first}, left out {second}")
    return list(merged.values()), conflicts
