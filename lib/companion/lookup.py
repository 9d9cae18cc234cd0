"""Finds what a citation or a hash names, describes a record, and says why two of them differ."""

import re
from pathlib import Path

from sparsemtl.errors import RecordError

from companion.choose import options_of
from companion.papers import label, names, study
from companion.records import committed, files_in, read_jsonl, read_record, set_hash


def find(start, place):
    """Records whose hash starts with `start` (list), the only ones parsed. place: a store, a folder or a file."""
    place, found = Path(place), []
    if not re.fullmatch("[0-9a-f]{1,16}", start):
        return []
    for path in [place] if place.is_file() else [*files_in(place, ".json"), *files_in(place, ".jsonl")]:
        if path.suffix != ".json":
            found += read_jsonl(path, start=start)
        elif path.name.startswith(start):
            found.append(read_record(path))
    hashes = [record.hash for record in found]
    if twice := [name for name in hashes if hashes.count(name) > 1]:
        raise RecordError(f"run {twice[0]} is in two files of {place}: keep it once")
    return [record for record in found if record.hash.startswith(start)]


def find_set(name, results):
    """Words for `sparsemtl list` that choose the committed records whose `set_hash` is `name`, or None."""
    known = {record.hash: record for record in committed(results)} if len(name) == 16 else {}
    for paper, profile in sorted({(r.spec.study, r.spec.profile) for r in known.values() if r.spec.study in names()}):
        for table, make in {"": study(paper).all_specs, **study(paper).TABLES}.items():
            if set_hash([known[spec.hash] for spec in make(profile) if spec.hash in known]) == name:
                return " ".join([paper, "--profile", profile, *(("--table", table) if table else ())])
    return None


def described(record, where):
    """A record in lines (str); long lists stay in the JSON. where: places in which it was found."""
    spec = record.spec
    planned = study(spec.study).all_specs(spec.profile) if spec.study in names() else []
    again = f"sparsemtl run {spec.study} {options_of(spec, planned)}{record.device_option}"
    if spec.method not in {other.method for other in planned}:
        again = f"not with this code, which does not know the method {spec.method} of {spec.study}"
    run = {k: v for k, v in record.run.items() if k not in ("packages", "timings")} | record.run["packages"]
    found = {name: record.result.get(name, {}) for name in ("metrics", "sparsity")}
    data = {"fingerprint": record.result.get("data", {}).get("fingerprint", "unknown")}
    parts = {"spec": spec.to_dict(), **found, "data": data, "run (not under the digest)": run}
    lines = [f"run {record.hash}: {label(spec)}", f"digest of the result: {record.digest}"]
    lines += [f"found in: {' and '.join(where)}", f"run it again: {again}"]
    for name, values in parts.items():
        lines += [f"{name}:"] + [f"  {key}: {value}" for key, value in values.items()] if values else []
    return "\n".join(lines) + "\n"


def differences(a, b):
    """Why two records differ, in lines; what the digest does not cover is named last."""
    lines = _unlike("spec: ", a.spec.flat(), b.spec.flat())
    lines += _unlike("data: ", *(r.result.get("data", {}) for r in (a, b)), ("fingerprint",))
    lines += _unlike("run: ", a.run, b.run, ("code", "device", "threads", "machine", "python", "precision"))
    lines += _unlike("package ", a.run["packages"], b.run["packages"])
    if a.digest == b.digest:
        head = "the results are the same to the bit" + ("; how they were made differs:" if lines else "")
    else:
        parts = [name for name in {**a.result, **b.result} if a.result.get(name) != b.result.get(name)]
        head = f"the results differ in {', '.join(parts)}" + (", because of:" if lines else "")
        lines = lines or ["nothing recorded explains it: spec, data, code, packages and device are the same"]
    end = "not compared: times, and when and by whom the code was committed (the digest does not cover `run`)"
    return [head, *lines, end]


def _unlike(what, one, other, keys=()):
    unlike = [key for key in keys or one | other if one.get(key) != other.get(key)]
    return [f"{what}{key} is {one.get(key, 'absent')} and {other.get(key, 'absent')}" for key in unlike]
