"""What is still to be run for the published tables, in order of worth, with an estimate of the time."""

from collections import defaultdict
from statistics import median

PROFILES = {"full": "one GPU, runs one after the other", "small": "one CPU core; divide by the number of workers"}
SECONDS = 60.0  # of a run of which nothing is known


def queue(studies, records):
    """Markdown page of the runs that `records` lack: a table for each study (module) and profile.

    A run that several tables need counts for the first of them. Its time is the median of records of the same study,
    profile and task set (or method and backbone), else of the study and profile, else the study's `DEFAULT_SECONDS`.
    """
    lines = ["# What is still to be run", "", "Made by `python -m sparsemtl queue`; nothing here is typed by hand."]
    done, seconds = {r.hash for r in records}, _measured(records)
    for study in studies:
        for profile, where in PROFILES.items():
            lines += ["", f"## {study.NAME}, profile {profile} ({where})", ""]
            lines += ["| table | missing | of | hours | estimate from |", "| --- | --- | --- | --- | --- |"]
            seen, hours = set(), 0.0
            for name, make in study.TABLES.items():
                specs = [s for s in dict.fromkeys(make(profile)) if s.hash not in seen]
                if not specs:  # all of them belong to a table above
                    continue
                seen |= {s.hash for s in specs}
                missing = [s for s in specs if s.hash not in done]
                guesses = [_guess(study, s, seconds) for s in missing]
                hours += sum(g for g, _ in guesses) / 3600
                basis = ", ".join(sorted({basis for _, basis in guesses})) or "complete"
                lines.append(
                    f"| {name} | {len(missing)} | {len(specs)} | {sum(g for g, _ in guesses) / 3600:.1f} | {basis} |"
                )
            lines.append(f"| all | {len(seen - done)} | {len(seen)} | {hours:.1f} | |")
            lines += ["", f"    python -m sparsemtl run {study.NAME} --profile {profile} --table TABLE"]
    return "\n".join(lines)


def _keys(spec):
    p = spec.params
    kind = p["tasks"] if "tasks" in p else (spec.method, p.get("backbone"))
    return (spec.study, spec.profile, kind, spec.data), (spec.study, spec.profile)


def _measured(records):
    """Median seconds of the records of each key."""
    found = defaultdict(list)
    for record in records:
        for key in _keys(record.spec):
            found[key].append(record.run["seconds"])
    return {key: median(values) for key, values in found.items()}


def _guess(study, spec, seconds):
    exact, rough = _keys(spec)
    if exact in seconds:
        return seconds[exact], "like runs"
    if rough in seconds:
        return seconds[rough], "other runs"
    return getattr(study, "DEFAULT_SECONDS", {}).get(spec.profile, SECONDS), "a default"
