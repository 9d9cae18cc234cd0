"""Records for a page: the committed ones, and those of this machine, side by side and never mixed."""

import os
from collections import Counter
from dataclasses import dataclass, replace

import pandas as pd
from sparsemtl.errors import RecordError

from companion.papers import label
from companion.records import Store, committed, repository_root
from companion.spec import PROFILES, canonical_json
from companion.statistics import NOT_RUN

BIN = ".venv/bin/"  # where `make` puts the commands that pages print
EVIDENCE = tuple(p for p in PROFILES if p != "quick")  # profiles whose numbers say something about people or rooms


@dataclass(frozen=True)
class Evidence:
    """Records of one study of one origin and one profile, with the specs that the profile asks for."""

    study: str
    origin: str  # "committed" or "this machine"
    profile: str
    records: tuple
    expected: int
    options: str = ""  # words of the command line that choose these runs of the profile

    def __bool__(self):
        return bool(self.records)

    @property
    def complete(self):
        """Whether no run is missing."""
        return len(self.records) == self.expected

    def only(self, **params):
        """The part of the evidence whose specs have these parameters, method or seed (problem="left-right", ...)."""
        chosen = tuple(r for r in self.records if params.items() <= {**vars(r.spec), **r.spec.params}.items())
        options = " ".join([self.options, "--param", *(f"{k}={v}" for k, v in params.items())]).strip()
        return replace(self, records=chosen, options=options)

    def of(self, specs, options=""):
        """The part of the evidence that these specs name, which become what is expected. options: see the class."""
        names = {spec.hash for spec in specs}
        chosen = tuple(r for r in self.records if r.hash in names)
        return replace(self, records=chosen, expected=len(names), options=options)

    @property
    def command(self):
        """The command that makes these runs."""
        device = next(filter(None, (r.device_option for r in self.records)), "")
        return " ".join(f"{BIN}sparsemtl run {self.study} --profile {self.profile} {self.options}".split()) + device

    @property
    def data(self):
        """Names of the data sets, joined."""
        return _joined(r.spec.data for r in self.records)

    @property
    def seconds(self):
        """Time of all runs together."""
        return sum(r.run["seconds"] for r in self.records)

    def summary(self):
        """One row that says what the numbers rest on: data, people, seeds, runs, device, hours (DataFrame)."""
        people = {(r.spec.data, r.spec.params["subject"]) for r in self.records if "subject" in r.spec.params}
        by_data = sorted(Counter(data for data, _ in people).items())
        row = {
            "data": self.data,
            "people": ", ".join(f"{n} {data}" for data, n in by_data) if len(by_data) > 1 else len(people) or "–",
            "seeds": _joined(r.spec.seed for r in self.records),
            "runs": f"{len(self.records)}" + ("" if "--param" in self.options else f" of {self.expected}"),
            "device": _joined(r.run["device"] for r in self.records),
            "hours": f"{self.seconds / 3600:.2f}",
        }
        return pd.DataFrame([row], pd.Index([f"{self.profile} {self.options}".strip()], name="profile"))


def provenance(records):
    """What each record is and where it comes from (DataFrame by hash); `sparsemtl show HASH` prints it whole."""
    alike = {}  # runs with one label get the parameters beside it in which they differ
    for r in records:
        alike.setdefault((label(r.spec), r.spec.data), []).append(dict(r.spec.params))
    rows = {}
    for r in records:
        group = alike[label(r.spec), r.spec.data]
        more = [f"{k}={v}" for k, v in r.spec.params.items() if any(p.get(k) != v for p in group)]
        rows[r.hash] = {
            "what": " ".join([label(r.spec).removeprefix(f"{r.spec.study} {r.spec.profile} "), *more]),
            "data": r.spec.data, "data fingerprint": r.result.get("data", {}).get("fingerprint", "")[:12],
            "device": r.run["device"], "code": r.run.get("code", r.run["revision"])[:12],
            "seconds": r.run["seconds"], "digest": r.digest[:12],
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run").sort_values("what", kind="stable")


def flat(records):
    """All runs as one table (DataFrame), a row each: hash, spec with its parameters, metrics, sparsity, device."""
    rows = []
    for r in sorted(records, key=lambda r: r.hash):
        found = {f"{part}.{k}": v for part in ("metrics", "sparsity") for k, v in r.result.get(part, {}).items()}
        row = {"hash": r.hash, **r.spec.flat(), **found, "device": r.run["device"], "digest": r.digest}
        rows.append({k: v if isinstance(v, str | int | float) else canonical_json(v) for k, v in row.items()})
    return pd.DataFrame(rows)


def _joined(values):
    return ", ".join(map(str, sorted(set(values)))) or NOT_RUN


def committed_evidence(study, results=None, table=None):
    """The evidence that a page with room for one profile shows: the largest complete one, else the largest begun."""
    found = committed_evidences(study, results, table)
    return next((e for e in found if e.complete), next(filter(None, found), found[0]))


def committed_evidences(study, results=None, table=None):
    """Evidence from the repository's `results/`, one a profile, the largest first; a single empty one if none is there.

    table: one of the study's `TABLES`; "all" for all of them; None for its `MAIN` one. Runs with values set otherwise
    (`run --set`) are in none of them, nor is the profile `quick`, whose data are simulated. Of one table a profile that
    still lacks runs comes after those that are complete, so that no page shows holes while records grow.
    """
    make, options = _planned(study, table)
    records = tuple(committed(results or repository_root() / "results", study.NAME))
    begun = {r.spec.profile for r in records}  # to list the runs of another profile takes seconds
    profiles = [p for p in reversed(EVIDENCE) if p in begun] or EVIDENCE[:1]
    found = [Evidence(study.NAME, "committed", p, records, 0).of(make(p), options) for p in profiles]
    return sorted(found, key=lambda e: not e.complete) if options else found  # a stable order


def _planned(study, table):
    """(function of the profile that lists the specs of a table, words for the command line)."""
    table = table or study.MAIN or "all"
    return (study.all_specs, "") if table == "all" else (study.TABLES[table], f"--table {table}")


def local_evidence(study, profile, specs=None, data_dir=None, workers=None, device="cpu", table=None):
    """`Evidence` of this machine: runs whatever `profile` lacks (see `engine.execute`), then returns all of it.

    specs: the runs wanted; default: those of `table`, as `committed_evidences` takes it. workers: processes (default:
    one for each core, on a GPU one). Raises `RecordError` that names the first run that failed, after the others.
    """
    from companion.engine import execute  # brings torch, which no page needs that only reads records

    make, options = (lambda profile: specs, "") if specs is not None else _planned(study, table)
    workers = workers or (os.cpu_count() if device == "cpu" else 1)
    outcome = execute(make(profile), Store(), workers, data_dir, device)
    if outcome.failures:
        raise RecordError(f"{len(outcome.failures)} runs failed; the first: {outcome.failures[0]}")
    found = tuple(outcome.records.values())
    return Evidence(study.NAME, "this machine", profile, found, len(found), options)
