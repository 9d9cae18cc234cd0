"""What is still to be run for the published tables, in order of worth, with an estimate of the time."""

from collections import defaultdict
from statistics import median

PROFILES = {"full": "a GPU", "small": "a CPU core"}  # and where a default holds
SECONDS = 60.0  # of a run of which nothing is known
HEAD = """# What is still to be run

Made by `sparsemtl queue`; nothing here is typed by hand. Hours are those of one run after the other; workers
share them."""


def queue(studies, records):
    """Markdown page of the runs that `records` lack: a table for each study (module) and profile.

    A run that several tables need counts for the first of them. Its time is the median of records of the same study,
    profile and task set (or method, backbone and problem), else of the study and profile, else the study's
    `DEFAULT_SECONDS`; the page says on which device.
    """
    lines = [HEAD]
    done, seconds = {r.hash for r in records}, _measured(records)
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
                missing = [s for s in specs if s.hash not in done]
                guesses = [_guess(study, s, seconds) for s in missing]
                hours += sum(g for g, _ in guesses) / 3600
                if any(not basis.endswith((" cpu", PROFILES["small"])) for _, basis in guesses):
                    device = " --device cuda"
                basis = ", ".join(sorted({basis for _, basis in guesses})) or "complete"
                lines.append(
                    f"| {name} | {len(missing)} | {len(specs)} | {sum(g for g, _ in guesses) / 3600:.1f} | {basis} |"
                )
            lines.append(f"| all | {len(seen - done)} | {len(seen)} | {hours:.1f} | |")
            command = f"run {study.NAME} --profile {profile} --table TABLE{device}"
            lines += ["", f"    .venv/bin/sparsemtl {command}"]
    return "\n".join(lines)


def _keys(spec):
    p = spec.params
    kind = p["tasks"] if "tasks" in p else (spec.method, p.get("backbone"), p.get("problem"))
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
            taken, device = seconds[key]
            return taken, f"{which} runs on {device}"
    default = getattr(study, "DEFAULT_SECONDS", {}).get(spec.profile, SECONDS)
    return default, f"a default for {PROFILES[spec.profile]}"
