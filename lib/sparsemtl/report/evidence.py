"""Records for a page: the committed ones, and those of this machine, side by side and never mixed."""

import os
from dataclasses import dataclass, replace

import pandas as pd

from sparsemtl.engine import execute
from sparsemtl.errors import RecordError
from sparsemtl.records import Store, committed, repository_root
from sparsemtl.spec import PROFILES

NOT_RUN = "not run"


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
    def main(self):
        """The records that tables and claims rest on: all but the controls with a known truth."""
        return tuple(r for r in self.records if "control" not in r.spec.params)

    def only(self, **params):
        """The part of the evidence whose specs have these parameters (problem="left-right", ...)."""
        chosen = tuple(r for r in self.main if all(r.spec.params.get(k) == v for k, v in params.items()))
        without = {"control": "null"} if len(self.main) < len(self.records) else {}
        options = " ".join([self.options, "--param", *(f"{k}={v}" for k, v in (params | without).items())]).strip()
        return replace(self, records=chosen, options=options)

    def of(self, specs, options=""):
        """The part of the evidence that these specs name, which become what is expected. options: see the class."""
        names = {spec.hash for spec in specs}
        chosen = tuple(r for r in self.records if r.hash in names)
        return replace(self, records=chosen, expected=len(names), options=options)

    @property
    def controls(self):
        """The part of the evidence with a known truth."""
        chosen = tuple(r for r in self.records if "control" in r.spec.params)
        return replace(self, records=chosen, options=f"{self.options} --param control=truth")

    @property
    def title(self):
        """Heading of a table or figure made of these records."""
        if not self:
            return f"{self.origin}: {NOT_RUN}"
        return f"{self.origin}: profile {self.profile}, {_joined(r.spec.data for r in self.main or self.records)}"

    def summary(self):
        """One row that says what the numbers rest on: data, device, seeds, runs, hours, code revision (DataFrame)."""
        records, main = self.records, self.main
        subjects = [r.spec.params["subject"] for r in main if "subject" in r.spec.params]
        controls = f" ({len(records) - len(main)} with a known truth)" if len(records) > len(main) else ""
        row = {
            "origin": self.origin,
            "profile": self.profile,
            "data": _joined(r.spec.data for r in main),
            **({"subjects": _joined(subjects)} if subjects else {}),
            "seeds": _joined(r.spec.seed for r in main),
            "runs": f"{len(records)} of {self.expected}{controls}",
            "device": _joined(r.run["device"] for r in records),
            "hours": f"{sum(r.run['seconds'] for r in records) / 3600:.2f}",
            "code": _revisions(records),
        }
        return pd.DataFrame([row]).set_index("origin")


def provenance(records):
    """Where each record comes from (DataFrame by hash): what was run, seed, data, device, code, seconds, digest.

    Fingerprints and digests are cut to 12 hex digits; `python -m sparsemtl show HASH` prints them whole.
    """
    rows = {
        r.hash: {
            "what": r.spec.label().removeprefix(f"{r.spec.study} {r.spec.profile} "), "data": r.spec.data,
            "data fingerprint": r.result.get("data", {}).get("fingerprint", "")[:12], "device": r.run["device"],
            "code": r.run.get("code", r.run["revision"])[:12], "seconds": r.run["seconds"], "digest": r.digest[:12],
        }
        for r in records
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run").sort_values("what", kind="stable")


def _revisions(records):
    """The code that ran, by fingerprint; by number where that changed often while the records grew."""
    codes = {r.run.get("code", r.run["revision"])[:8] for r in records}
    return _joined(codes) if len(codes) <= 2 else f"{len(codes)} revisions"


def _joined(values):
    return ", ".join(map(str, sorted(set(values)))) or NOT_RUN


def committed_evidence(study, results=None):
    """The evidence that a page with room for one profile shows: the first of `committed_evidences`."""
    return committed_evidences(study, results)[0]


def committed_evidences(study, results=None):
    """Evidence from the repository's `results/`, one a profile, the largest first; a single empty one where none is.

    Of a study that is one table (no `TABLES`), a profile that still lacks runs comes after those that are complete:
    its records can be kept while they grow, and no page shows holes or fewer people for them.
    """
    records = [r for r in committed(results or repository_root() / "results") if r.spec.study == study.NAME]
    found = []
    for profile in reversed([p for p in PROFILES if any(r.spec.profile == p for r in records)] or PROFILES[-1:]):
        chosen = tuple(r for r in records if r.spec.profile == profile)
        found.append(Evidence(study.NAME, "committed", profile, chosen, len(study.all_specs(profile))))
    if hasattr(study, "TABLES"):
        return found
    return sorted(found, key=lambda evidence: len(evidence.records) < evidence.expected)  # stable


def local_evidence(study, profile, specs=None, data_dir=None, workers=None, device="cpu", store=None, options=""):
    """Evidence of this machine: runs whatever `profile` still lacks, then returns all of it.

    Quick runs of other code are made anew: they exist to show that this code works.

    specs: the runs wanted (default: all of the study's). workers: processes (default: one for each core).
    store: folder of records (default: SPARSEMTL_RUNS or `runs` in the repository). options: see `Evidence`.
    Raises `RecordError` naming the first run that failed, after the others have finished.
    """
    specs = study.all_specs(profile) if specs is None else specs
    outcome = execute(specs, Store(store), workers or os.cpu_count(), data_dir, device, same_code=profile == "quick")
    if outcome.failures:
        raise RecordError(f"{len(outcome.failures)} runs failed; the first: {outcome.failures[0]}")
    return Evidence(study.NAME, "this machine", profile, tuple(outcome.records.values()), len(set(specs)), options)
