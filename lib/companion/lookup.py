"""Finds what a citation or a hash names, and says why two records differ."""

import json
import re
from itertools import combinations
from pathlib import Path

from sparsemtl.errors import RecordError

from companion.records import BROUGHT_HERE, files_in, name_of_set, parse, read_record
from companion.spec import PROFILES

LINE = re.compile(r'\{"digest":"([0-9a-f]{64})","hash":"([0-9a-f]{16})"')  # how `write_jsonl` begins a line
FEW = 4  # parameters with at most so many values divide a table into parts that pages cite


def find(start, place):
    """Records whose hash starts with `start`: list of (record, place).

    place: a store, a folder of committed records, or one file. Only files and lines that name such a hash are parsed.
    Raises `RecordError` for a damaged one of them.
    """
    place, found, file_of = Path(place), [], {}
    if not re.fullmatch("[0-9a-f]{1,16}", start):
        return []
    for path in [place] if place.is_file() else [*files_in(place, ".json"), *files_in(place, ".jsonl")]:
        if path.suffix == ".json":
            found += [read_record(path)] if path.name.startswith(start) else []
            continue
        for i, line in enumerate(_lines(path), 1):
            if f'"hash":"{start}' in line:
                found.append(parse(line, f"{path} line {i}", BROUGHT_HERE))
                name = found[-1].hash
                if name in file_of:
                    raise RecordError(f"run {name} is in {file_of[name]} and in {path}: keep it once")
                file_of[name] = path
    return [(record, place) for record in found if record.hash.startswith(start)]


def _lines(path):
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from error


def find_set(name, results, studies):
    """Words for `sparsemtl list` that choose the committed records of a record set, or None.

    name: see `records.set_hash`. Looked for among the tables of each study and profile, whole and by the values of one
    or two parameters.
    """
    if len(name) != 16:
        return None
    digests, known = {}, set()
    for path in files_in(results, ".jsonl"):
        digests |= {found[2]: found[1] for line in _lines(path) if (found := LINE.match(line))}
        known.add(path.parts[-3:-1])
    for study in studies:
        for profile in (profile for profile in PROFILES if (study.NAME, profile) in known):
            for words, specs in _parts(study, profile):
                lines = [f"{spec.hash} {digests[spec.hash]}" for spec in specs if spec.hash in digests]
                if lines and name_of_set(lines) == name:
                    return f"{study.NAME} --profile {profile} {words}".strip()
    return None


def _parts(study, profile):
    """(words of the command line, specs) of all runs, of each table, and of the parts of it."""
    yield "", study.all_specs(profile)
    for table, make in study.TABLES.items():
        specs = list(dict.fromkeys(make(profile)))
        yield f"--table {table}", specs
        values = {}
        for spec in specs:
            for key, value in spec.params.items():
                values.setdefault(key, {}).setdefault(json.dumps(value, default=dict), []).append(spec)
        pairs = [(k, v) for k, found in values.items() if 1 < len(found) <= FEW for v in found]
        for size in (1, 2):
            for chosen in combinations(pairs, size):
                if len({k for k, _ in chosen}) == size:
                    kept = set.intersection(*(set(values[k][v]) for k, v in chosen))
                    yield f"--table {table} --param {' '.join(f'{k}={v}' for k, v in chosen)}", kept


def differences(a, b):
    """Why two records differ, in lines; what the digest does not cover is named last."""
    lines = []
    ours, theirs = (r.spec.to_dict() for r in (a, b))
    params = [ours.pop("params"), theirs.pop("params")]
    for one, other in ((ours, theirs), params):
        keys = [k for k in {**one, **other} if one.get(k) != other.get(k)]
        lines += [f"spec: {k} is {_word(one, k)} and {_word(other, k)}" for k in keys]
    data = [r.result.get("data", {}).get("fingerprint", "unknown") for r in (a, b)]
    if data[0] != data[1]:
        lines.append(f"data: other data were read ({data[0][:12]} and {data[1][:12]})")
    packages = [r.run["packages"] for r in (a, b)]
    for what, one, other in (("", a.run, b.run), ("package ", *packages)):
        for key in ("code", "device", "threads", "machine", "python", "precision") if not what else {**one, **other}:
            if one.get(key) != other.get(key):
                lines.append(f"{what or 'run: '}{key} is {_word(one, key)} and {_word(other, key)}")
    if a.digest == b.digest:
        lines.insert(0, "the results are the same to the bit" + ("; how they were made differs:" if lines else ""))
    else:
        same = {name: _differing(a.result.get(name), b.result.get(name)) for name in {**a.result, **b.result}}
        changed = [f"{name} ({n} values)" for name, n in same.items() if n]
        lines.insert(0, f"the results differ in {', '.join(changed)}" + (", because of:" if lines else ""))
        if len(lines) == 1:
            lines.append("nothing recorded explains it: spec, data, code, packages and device are the same")
    return [
        *lines,
        "not compared: times, and when and by whom the code was committed (the digest does not cover `run`)",
    ]


def _word(values, key):
    return values.get(key, "absent")


def _differing(one, other):
    """Number of values in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return sum(_differing(one.get(k), other.get(k)) for k in {**one, **other})
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return sum(map(_differing, one, other))
    return int(one != other)
