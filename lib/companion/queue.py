"""Which runs the published tables lack, in order of worth, with an estimate of the time."""

from collections import defaultdict
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
    lines, done, seconds = [HEAD], {r.hash for r in records}, _measured(records)
    for study in studies:
        for profile in PROFILES:
            lines += ["", f"## {study.NAME}, profile {profile}", ""]
            lines += ["| table | missing | of | hours | estimate from |", "| --- | --- | --- | --- | --- |"]
            seen, hours, device = set(), 0.0, ""
            for name, make in study.TABLES.items():
                specs = [s for s in dict.fromkeys(make(profile)) if s.hash not in seen]
                if not specs:  # all of them belong to a table above
                    continue
                seen |= {s.hash for s in specs}
                guesses = [_guess(study, s, seconds) for s in specs if s.hash not in done]
                needed = sum(g for g, _ in guesses) / 3600
                hours += needed
                if any(not basis.endswith((" cpu", PROFILES["small"])) for _, basis in guesses):
                    device = " --device cuda"
                basis = ", ".join(sorted({basis for _, basis in guesses})) or "complete"
                lines.append(f"| {name} | {len(guesses)} | {len(specs)} | {needed:.1f} | {basis} |")
            lines.append(f"| all | {len(seen - done)} | {len(seen)} | {hours:.1f} | |")
            lines += ["", f"    .venv/bin/sparsemtl run {study.NAME} --profile {profile} --table TABLE{device}"]
    return "\n".join(lines)


def _keys(spec):
    p = spec.params
    kind = p["tasks"] if "tasks" in p else (spec.method, str(p.get("trunk")), p.get("problem"))
    return (spec.study, spec.profile, kind, spec.data), (spec.study, spec.profile)


def _measured(records):
    """(median seconds, devices) of the records of each key."""
    found = defaultdict(list)
    for record in records:
        for key in _keys(record.spec):
            found[key].append(record.run)
    return {
        key: (median(r["seconds"] for r in runs), " and ".join(sorted({r["device"] for r in runs})))
        for key, runs in found.items()
    }


def _guess(study, spec, seconds):
    for key, which in zip(_keys(spec), ("like", "other"), strict=True):
        if key in seconds:
            return seconds[key][0], f"{which} runs on {seconds[key][1]}"
    default = getattr(study, "DEFAULT_SECONDS", {}).get(spec.profile, SECONDS)
    return default, f"a default for {PROFILES[spec.profile]}"
