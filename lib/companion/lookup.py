"""Finds what a citation or a hash names, describes a record, and says why two of them differ."""

import re
from pathlib import Path

from sparsemtl.errors import RecordError

from companion.choose import options_of
from companion.papers import label, names, study
from companion.records import BROUGHT_HERE, committed, files_in, parse, read_record, read_text, set_hash


def find(start, place):
    """Records whose hash starts with `start` (list). place: a store, a folder of committed records, or one file.

    Only files and lines that name such a hash are parsed. Raises `RecordError` for a damaged one of them.
    """
    place, found = Path(place), []
    if not re.fullmatch("[0-9a-f]{1,16}", start):
        return []
    for path in [place] if place.is_file() else [*files_in(place, ".json"), *files_in(place, ".jsonl")]:
        if path.suffix == ".json":
            found += [read_record(path)] if path.name.startswith(start) else []
            continue
        for i, line in enumerate(read_text(path).splitlines(), 1):
            if f'"hash":"{start}' in line:
                found.append(parse(line, f"{path} line {i}", BROUGHT_HERE))
    hashes = [record.hash for record in found]
    if twice := [name for name in hashes if hashes.count(name) > 1]:
        raise RecordError(f"run {twice[0]} is in two files of {place}: keep it once")
    return [record for record in found if record.hash.startswith(start)]


def find_set(name, results):
    """Words for `sparsemtl list` that choose the committed records of a record set, or None.

    name: see `records.set_hash`. Looked for among all runs and the tables of each study and profile.
    """
    known = {record.hash: record for record in committed(results)} if len(name) == 16 else {}
    for paper, profile in sorted({(r.spec.study, r.spec.profile) for r in known.values() if r.spec.study in names()}):
        for table, make in {"": study(paper).all_specs, **study(paper).TABLES}.items():
            if set_hash([known[spec.hash] for spec in make(profile) if spec.hash in known]) == name:
                return " ".join([paper, "--profile", profile, *(("--table", table) if table else ())])
    return None


def described(record, where):
    """A record in lines (str); long lists stay in the JSON. where: places in which it was found."""
    run = {k: v for k, v in record.run.items() if k not in ("packages", "timings")} | record.run["packages"]
    found = {name: record.result.get(name, {}) for name in ("metrics", "sparsity")}
    data = {"fingerprint": record.result.get("data", {}).get("fingerprint", "unknown")}
    parts = {"spec": record.spec.to_dict(), **found, "data": data, "run (not under the digest)": run}
    lines = [f"run {record.hash}: {label(record.spec)}", f"digest of the result: {record.digest}"]
    lines += [f"found in: {' and '.join(where)}", f"run it again: {_again(record)}"]
    for name, values in parts.items():
        lines += [f"{name}:"] + [f"  {key}: {value}" for key, value in values.items()] if values else []
    return "\n".join(lines) + "\n"


def _again(record):
    """The command that makes a record again, if this code knows how."""
    spec = record.spec
    planned = study(spec.study).all_specs(spec.profile) if spec.study in names() else []
    if spec.method not in {other.method for other in planned}:
        return f"not with this code, which does not know the method {spec.method} of {spec.study}"
    return f"sparsemtl run {spec.study} {options_of(spec, planned)}{record.device_option}"


def differences(a, b):
    """Why two records differ, in lines; what the digest does not cover is named last."""
    spec, data = [_flat(a), _flat(b)], [r.result.get("data", {}) for r in (a, b)]
    lines = _unlike("spec: ", *spec, {**spec[0], **spec[1]})
    lines += _unlike("data: ", *data, ("fingerprint",))
    lines += _unlike("run: ", a.run, b.run, ("code", "device", "threads", "machine", "python", "precision"))
    packages = [r.run["packages"] for r in (a, b)]
    lines += _unlike("package ", *packages, packages[0] | packages[1])
    if a.digest == b.digest:
        head = "the results are the same to the bit" + ("; how they were made differs:" if lines else "")
    else:
        parts = [name for name in {**a.result, **b.result} if a.result.get(name) != b.result.get(name)]
        head = f"the results differ in {', '.join(parts)}" + (", because of:" if lines else "")
        lines = lines or ["nothing recorded explains it: spec, data, code, packages and device are the same"]
    end = "not compared: times, and when and by whom the code was committed (the digest does not cover `run`)"
    return [head, *lines, end]


def _flat(record):
    """Spec of a record with its parameters beside the other fields."""
    spec = record.spec.to_dict()
    params = spec.pop("params")
    return spec | params


def _unlike(what, one, other, keys):
    return [
        f"{what}{key} is {one.get(key, 'absent')} and {other.get(key, 'absent')}"
        for key in keys
        if one.get(key) != other.get(key)
    ]
