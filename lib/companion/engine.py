"""Executes run specs: a run with a valid record is skipped, the others run here, on local processes or on a cluster.

A paper's module `run` has a function `run(spec, root, device)` that returns a result dict. Its entry "timings", which
differs from run to run, and "precision", which the device may choose, go into the record's `run`. The module may also
have `begun(spec)`, whether a checkpoint of the run exists, and `finished(spec)`, called when its record is safe.
"""

import contextlib
import os
import platform
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sparsemtl.errors import RecordError, SparseMTLError, SpecError, one_line
from sparsemtl.sparsity.layers import exact_convolutions
from tqdm import tqdm

from companion.evidence import Evidence
from companion.fingerprint import code_fingerprint, revision
from companion.papers import label, part
from companion.records import RunRecord, Store, UnreadableRecord, compact_numbers

PACKAGES = ("sparsemtl", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "mne", "moabb")


def run(spec, root=None, device="cpu"):
    """Execute one spec and return its `RunRecord`, which is not written anywhere.

    On a CPU it uses one thread and deterministic kernels: the same spec and code give the same bits in any process.
    root: folder of the data sets (default: SPARSEMTL_DATA). Raises the run's `SparseMTLError`.
    """
    begun = _begun(spec)
    record = _made(spec, root, device)
    if not begun:  # otherwise the checkpoint belongs to a run whose record is still to be written
        finish(spec)
    return record


def _runner(study):
    return part(study, "run")


def _begun(spec):
    module = _runner(spec.study)
    return hasattr(module, "begun") and module.begun(spec)


def finish(spec):
    """Tell the paper that the record of `spec` is safe: its checkpoint can go."""
    module = _runner(spec.study)
    if hasattr(module, "finished"):
        module.finished(spec)


def _made(spec, root, device):
    started, clock = datetime.now(UTC), time.perf_counter()
    made = environment(device)  # before the run: the code that runs, not what is edited meanwhile
    with reproducible(device):
        result = compact_numbers(_runner(spec.study).run(spec, root=root, device=device))
    seconds = round(time.perf_counter() - clock, 3)
    timings, precision = result.pop("timings", {}), result.pop("precision", None)
    when = {"started": _stamp(started), "ended": _stamp(datetime.now(UTC))}
    when["seconds"] = seconds + timings.get("resumed_seconds", 0)
    extra = {"timings": timings, "precision": precision}
    return RunRecord(spec, result, when | made | {k: v for k, v in extra.items() if v})


@contextlib.contextmanager
def reproducible(device):
    """Context in which the same spec and code compute the same numbers on a CPU: one thread, deterministic kernels.

    On a GPU numbers may differ from run to run, but float32 is float32: convolutions use no TensorFloat-32.
    Raises `SpecError` for a device that this machine lacks.
    """
    check_device(device)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    try:
        if device == "cpu":  # float sums depend on the number of threads
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that writes tensors twice
        with exact_convolutions():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def check_device(device, here=True):
    """Raise `SpecError` for a device that is unknown or, if it is to be used `here`, not in this machine."""
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", str(device))
    if not found:
        raise SpecError(f"unknown device {device!r}: choose cpu or cuda")
    if here and device != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise SpecError(f"no device {device!r} on this machine: choose cpu")


def _stamp(moment):
    return moment.isoformat(timespec="seconds")


@cache
def environment(device):
    """Where a record is made (dict): device, threads, machine, Python, packages, revision and code."""
    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": 1 if device == "cpu" else torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "revision": revision(),
        "code": code_fingerprint(),
    }


def origin(device):
    """What a result may depend on besides its spec and the data: code, device and packages (dict)."""
    made = environment(device)
    return {name: made[name] for name in ("code", "device", "packages")}


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:  # mne and moabb are optional
        return None


@dataclass
class Outcome:
    """Result of `execute`: records by hash (old and new), one line for each failed run, number of runs executed."""

    records: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)
    executed: int = 0


def execute(specs, store=None, workers=1, root=None, device="cpu", progress=True, scheduler=None):
    """Run every spec that has no valid record in `store`; each record is written as soon as its run ends.

    Quick runs of other code, packages or devices are made again: they show that what is installed works.

    Parameters
    ----------
    specs : iterable of RunSpec
        Duplicates run once.
    store : Store, optional
        Where records are read and written.
    workers : int
        Local processes; 1 runs in this process.
    root, device : str
        Folder of the data sets, "cpu" or "cuda".
    scheduler : str, optional
        Dask scheduler to send the runs to, see `companion.cluster`; `workers` is then not used.

    Returns
    -------
    Outcome
        A run that fails is noted in `failures` and the others go on.

    Raises
    ------
    SpecError, RecordError
        Before anything runs: no workers, no such device, a store that cannot be written, or a record that cannot be
        read but may be whole. Later: a record that cannot be written.
    """
    if workers < 1:
        raise SpecError(f"workers is {workers}: at least 1 is needed")
    check_device(device, here=scheduler is None)
    store, outcome, missing = store or Store(), Outcome(), []
    for spec in dict.fromkeys(specs):
        if record := _usable(store, spec, device if scheduler is None or device == "cpu" else None):
            outcome.records[spec.hash] = record
        else:
            missing.append(spec)
    store.check_writable(missing)
    missing.sort(key=lambda spec: spec.seed)  # stopped early, a table has few seeds rather than holes
    keep = set() if store.lasting else set(filter(_begun, missing))  # checkpoints of runs that have no record yet
    if scheduler is not None and missing:
        from companion.cluster import results

        made = results(missing, scheduler, root, device)
    else:
        made = _results(missing, workers, root, device)
    bar = tqdm(total=len(missing), unit="run", disable=not (progress and missing), dynamic_ncols=True)
    with bar, contextlib.closing(made):
        for spec, record, failure in made:
            if failure is None:
                store.write(record)
                if scheduler is None and spec not in keep:
                    finish(spec)
                outcome.records[spec.hash] = record
                outcome.executed += 1
            else:
                outcome.failures.append(f"{label(spec)}: {failure}")
            bar.update()
            bar.set_postfix_str(label(spec), refresh=False)
    return outcome


def _usable(store, spec, device):
    """The store's record of a run if it counts, else None. device: None if it is another machine's."""
    try:
        record = store.read(spec)
    except UnreadableRecord:
        raise
    except RecordError as error:
        print(f"{error}\nrunning {label(spec)} again", file=sys.stderr)
        return None
    if record is None or device is None or spec.profile != "quick":
        return record
    here = origin(device)
    return record if {name: record.run.get(name) for name in here} == here else None


def _results(specs, workers, root, device):
    """Yield (spec, record, failure) as runs end, in this process or in local ones."""
    if workers == 1 or len(specs) < 2:
        yield from (attempt(spec, root, device) for spec in specs)
        return
    jobs = (delayed(_attempt_in_worker)(os.getpid(), spec, root, device) for spec in specs)
    try:
        n_jobs = min(workers, len(specs))
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="2 * n_jobs")(jobs)
    except TerminatedWorkerError:
        raise SparseMTLError(
            "a worker process was killed (out of memory?): finished records are kept; run again with fewer workers"
        ) from None


def attempt(spec, root, device):
    """(spec, record, None) of one run, or (spec, None, what went wrong in one line)."""
    try:
        return spec, _made(spec, root, device), None
    except SparseMTLError as error:
        return spec, None, str(error)
    except Exception as error:  # a fault of the library: the other runs go on
        return spec, None, f"{type(error).__name__}: {one_line(error, 300)}"


def _attempt_in_worker(parent, spec, root, device):
    _end_with(parent)
    return attempt(spec, root, device)


@cache
def _end_with(parent):
    """End this worker when the process that started it is gone: after a kill nobody would take its result."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_missing(
    study, profile, specs=None, data_dir=None, workers=None, device="cpu", store=None, options="", table=None
):
    """`Evidence` of this machine: runs whatever `profile` lacks (see `execute`), then returns all of it.

    specs: the runs wanted, and options, their words for the command line (see `Evidence`); default: those of `table`
    or of the study's `MAIN` table. workers: processes (default: one for each core, on a GPU one). store: folder of
    records (default: SPARSEMTL_RUNS, or `runs` in the repository).
    Raises `RecordError` that names the first run that failed, after the others have finished.
    """
    if specs is None and (table := table or study.MAIN):
        specs, options = study.TABLES[table](profile), f"--table {table}"
    specs = study.all_specs(profile) if specs is None else specs
    workers = workers or (os.cpu_count() if device == "cpu" else 1)
    outcome = execute(specs, Store(store), workers, data_dir, device)
    if outcome.failures:
        raise RecordError(f"{len(outcome.failures)} runs failed; the first: {outcome.failures[0]}")
    return Evidence(study.NAME, "this machine", profile, tuple(outcome.records.values()), len(set(specs)), options)
