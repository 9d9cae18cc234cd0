"""Which runs the published tables lack, in order of worth, with an estimate of the time."""

from collections import defaultdict
from itertools import product
from statistics import median

PROFILES = {"full": "a GPU", "small": "a CPU core"}  # and the device of a default time
SECONDS = 60.0  # of a run about which nothing is known
HEAD = """# Runs that are missing

Made by `sparsemtl queue`, from the records. Hours are those of one run after the other; workers share them."""


def queue(studies, records):
    """Markdown page of the runs that `records` lack: a table for each study (module) and profile.

    A run that several tables need counts for the first of them. Its time is the median of records of the same study,
    profile and task set (or method and problem), else of the study and profile, else the study's `DEFAULT_SECONDS`.
    """
    lines, done, known = [HEAD], {r.hash for r in records}, _measured(records)
    for study, profile in product(studies, PROFILES):
        lines += ["", f"## {study.NAME}, profile {profile}", ""]
        lines += ["| table | missing | of | hours | estimate from |", "| --- | --- | --- | --- | --- |"]
        seen, every = set(), []
        for name, make in study.TABLES.items():
            specs = dict.fromkeys(s for s in make(profile) if s not in seen)
            seen |= specs.keys()
            guesses = [_guess(study, s, known) for s in specs if s.hash not in done]
            every += guesses
            basis = ", ".join(sorted({basis for _, basis in guesses})) or "complete"
            if specs:  # otherwise all of them belong to a table above
                lines.append(f"| {name} | {len(guesses)} | {len(specs)} | {_hours(guesses)} | {basis} |")
        lines.append(f"| all | {len(every)} | {len(seen)} | {_hours(every)} | |")
        device = "" if all(basis.endswith((" cpu", PROFILES["small"])) for _, basis in every) else " --device cuda"
        lines += ["", f"    .venv/bin/sparsemtl run {study.NAME} --profile {profile} --table TABLE{device}"]
    return "\n".join(lines)


def _hours(guesses):
    return f"{sum(seconds for seconds, _ in guesses) / 3600:.1f}"


def _keys(spec):
    p = spec.params
    kind = p["tasks"] if "tasks" in p else (spec.method, str(p.get("trunk")), p.get("problem"))
    return (spec.study, spec.profile, kind, spec.data), (spec.study, spec.profile)


def _measured(records):
    """(median seconds, devices) of the records of each key."""
    runs = defaultdict(list)
    for record in records:
        for key in _keys(record.spec):
            runs[key].append((record.run["seconds"], record.run["device"]))
    return {k: (median(t for t, _ in v), " and ".join(sorted({d for _, d in v}))) for k, v in runs.items()}


def _guess(study, spec, known):
    """(seconds, on what the guess rests) of a run."""
    for key, which in zip(_keys(spec), ("like", "other"), strict=True):
        if key in known:
            return known[key][0], f"{which} runs on {known[key][1]}"
    default = getattr(study, "DEFAULT_SECONDS", {}).get(spec.profile, SECONDS)
    return default, f"a default for {PROFILES[spec.profile]}"
