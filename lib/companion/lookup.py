"""Finds what a citation or a hash names, describes a record, and says why two of them differ."""

import json
import re
from collections import defaultdict
from itertools import combinations
from pathlib import Path

from sparsemtl.errors import RecordError

from companion.choose import options_of
from companion.papers import label, names, study
from companion.records import BROUGHT_HERE, committed, files_in, parse, read_record, read_text, set_hash

FEW = 4  # parameters with at most so many values divide a table into parts that pages cite


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

    name: see `records.set_hash`. Looked for among the tables of each study and profile, whole and by the values of one
    or two parameters.
    """
    if len(name) != 16:
        return None
    known = {record.hash: record for record in committed(results)}
    for paper, profile in sorted({(r.spec.study, r.spec.profile) for r in known.values() if r.spec.study in names()}):
        for words, specs in _parts(study(paper), profile):
            if set_hash([known[spec.hash] for spec in specs if spec.hash in known]) == name:
                return f"{paper} --profile {profile} {words}".strip()
    return None


def _parts(module, profile):
    """(words of the command line, specs) of all runs, of each table, and of the parts of it."""
    yield "", module.all_specs(profile)
    for table, make in module.TABLES.items():
        specs, values = list(dict.fromkeys(make(profile))), defaultdict(lambda: defaultdict(set))
        yield f"--table {table}", specs
        for spec in specs:
            for key, value in spec.params.items():
                values[key][json.dumps(value, default=dict)].add(spec)
        parts = [(k, v) for k, found in values.items() if 1 < len(found) <= FEW for v in found]
        for pairs in [(part,) for part in parts] + [two for two in combinations(parts, 2) if two[0][0] != two[1][0]]:
            words = " ".join(f"{k}={v}" for k, v in pairs)
            yield f"--table {table} --param {words}", set.intersection(*(values[k][v] for k, v in pairs))


def described(record, where):
    """A record in lines (str); long lists stay in the JSON. where: places in which it was found."""
    result, data = record.result, ("fingerprint", "runs", "trials", "pictures")
    parts = {
        "spec": record.spec.to_dict(),
        "metrics": result.get("metrics", {}),
        "sparsity": result.get("sparsity", {}),
    }
    parts["data"] = {k: v for k, v in result.get("data", {}).items() if k in data}
    other = {k: v for k, v in record.run.items() if k not in ("packages", "timings")} | record.run["packages"]
    lines = [f"run {record.hash}: {label(record.spec)}", f"digest of the result: {record.digest}"]
    lines += [f"found in: {' and '.join(where)}", f"run it again: {_again(record)}"]
    for name, values in (parts | {"run (not under the digest)": other}).items():
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
    ours, theirs = ({**vars(r.spec), **r.spec.params, "params": None, "hash": None} for r in (a, b))
    lines = _unlike("spec: ", ours, theirs, {**ours, **theirs})
    data = [r.result.get("data", {}).get("fingerprint", "unknown") for r in (a, b)]
    if data[0] != data[1]:
        lines.append(f"data: other data were read ({data[0][:12]} and {data[1][:12]})")
    lines += _unlike("run: ", a.run, b.run, ("code", "device", "threads", "machine", "python", "precision"))
    packages = [r.run["packages"] for r in (a, b)]
    lines += _unlike("package ", *packages, packages[0] | packages[1])
    changed = {name: _differing(a.result.get(name), b.result.get(name)) for name in {**a.result, **b.result}}
    if a.digest == b.digest:
        head = "the results are the same to the bit" + ("; how they were made differs:" if lines else "")
    else:
        head = f"the results differ in {', '.join(f'{name} ({n} values)' for name, n in changed.items() if n)}"
        head += ", because of:" if lines else ""
        lines = lines or ["nothing recorded explains it: spec, data, code, packages and device are the same"]
    end = "not compared: times, and when and by whom the code was committed (the digest does not cover `run`)"
    return [head, *lines, end]


def _unlike(what, one, other, keys):
    return [
        f"{what}{key} is {one.get(key, 'absent')} and {other.get(key, 'absent')}"
        for key in keys
        if one.get(key) != other.get(key)
    ]


def _differing(one, other):
    """Number of values in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return sum(_differing(one.get(k), other.get(k)) for k in {**one, **other})
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return sum(map(_differing, one, other))
    return int(one != other)
