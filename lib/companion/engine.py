"""Executes run specs: a run with a valid record is skipped, the others run here, on local processes or on a cluster.

A paper's module `run` has a function `run(spec, root, device)` that returns a result dict. Its entry "timings", which
differs from run to run, and "precision", which the device may choose, go into the record's `run`. The module may also
have `begun(spec)`, whether a checkpoint of the run exists, and `finished(spec)`, called when its record is safe and the
checkpoint can go; and `run_all(specs, root, device)`, the results of runs whose `together(spec)`, a string, is the
same: made side by side in less time, each to the bit that of `run`.
"""

import contextlib
import math
import os
import platform
import re
import sys
import threading
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sparsemtl.errors import RecordError, SparseMTLError, SpecError, one_line
from sparsemtl.sparsity.layers import exact_convolutions
from tqdm import tqdm

from companion.fingerprint import code_fingerprint, revision
from companion.papers import label, part
from companion.records import RunRecord, Store, UnreadableRecord, check_writable, compact_numbers

PACKAGES = ("sparsemtl", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "mne", "moabb")


def run(spec, root=None, device="cpu"):
    """Execute one spec and return its `RunRecord`, which is not written anywhere.

    On a CPU it uses one thread and deterministic kernels: the same spec and code give the same bits in any process.
    root: folder of the data sets (default: SPARSEMTL_DATA). Raises the run's `SparseMTLError`.
    """
    before = ask_paper("begun", spec)
    (record,) = _made([spec], root, device)
    if not before:  # otherwise the checkpoint belongs to a run whose record is still to be written
        ask_paper("finished", spec)
    return record


def ask_paper(name, spec):
    """What the paper's function `begun`, `finished` or `together` says of a run; None if it has no such function."""
    return getattr(part(spec.study, "run"), name, lambda spec: None)(spec)


def _made(specs, root, device):
    """Records of specs that run together, or of one."""
    paper = part(specs[0].study, "run")
    started, clock = datetime.now(UTC), time.perf_counter()
    where = environment(device)  # before the run: the code that runs, not what is edited meanwhile
    with reproducible(device):
        results = paper.run_all(specs, root, device) if specs[1:] else [paper.run(specs[0], root=root, device=device)]
    when = [moment.isoformat(timespec="seconds") for moment in (started, datetime.now(UTC))]
    took, records = (time.perf_counter() - clock) / len(specs), []
    for spec, result in zip(specs, map(compact_numbers, results), strict=True):
        extra = {name: found for name in ("timings", "precision") if (found := result.pop(name, None))}
        seconds = round(took, 3) + extra.get("timings", {}).get("resumed_seconds", 0)
        facts = {"started": when[0], "ended": when[1], "seconds": seconds} | where | extra
        records.append(RunRecord(spec, result, facts))
    return records


@contextlib.contextmanager
def reproducible(device):
    """Context in which the same spec and code compute the same numbers on a CPU: one thread, deterministic kernels.

    On a GPU numbers may differ from run to run, but float32 is not rounded to TensorFloat-32.
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


@cache
def environment(device):
    """Where a record is made (dict): device, threads, machine, Python, packages, revision and code."""
    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": 1 if device == "cpu" else torch.get_num_threads(),
        # on a CPU the last bits depend on the instructions that it has
        "machine": f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} cores",
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "revision": revision(),
        "code": code_fingerprint(),
    }


def origin(device):
    """What a result may depend on besides its spec and the data: code, device and packages (dict)."""
    return {name: environment(device)[name] for name in ("code", "device", "packages")}


def versions(names):
    """Versions of those packages that are installed (dict)."""
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Outcome(NamedTuple):
    """Result of `execute`."""

    records: dict  # by hash, old and new
    failures: list  # a line for each failed run
    executed: int  # number of runs


def execute(specs, store=None, workers=1, root=None, device="cpu", progress=True, scheduler=None):
    """Run every spec that has no valid record in `store`; each record is written as soon as its run ends (`Outcome`).

    Quick runs of other code, packages or devices are made again: they show that what is installed works. workers:
    local processes; 1 runs in this process. root: folder of the data sets. device: "cpu" or "cuda". scheduler: Dask
    scheduler to send the runs to instead, see `companion.cluster`. A run that fails is noted and the others go on.
    Raises `SpecError` or `RecordError` before anything runs, and later for a record that cannot be written.
    """
    check_device(device, here=scheduler is None)
    store, failures, specs = store or Store(), [], list(dict.fromkeys(specs))
    here = origin(device) if scheduler is None or device == "cpu" else {}  # a GPU elsewhere is unknown
    records = {spec.hash: record for spec in specs if (record := _usable(store, spec, here))}
    missing = [spec for spec in specs if spec.hash not in records]
    for folder in {store.path(spec).parent for spec in missing}:  # before hours of work rather than after
        check_writable(folder)
    with contextlib.closing(made(missing, workers, root, device, progress, scheduler)) as ended:
        for spec, record, failure in ended:
            if failure is not None:
                failures.append(f"{label(spec)}: {failure}")
                continue
            store.write(record)
            records[spec.hash] = record
            if scheduler is None:  # a worker elsewhere has its own checkpoint
                ask_paper("finished", spec)
    return Outcome(records, failures, len(missing) - len(failures))


def made(specs, workers=1, root=None, device="cpu", progress=True, scheduler=None):
    """Yield (spec, record, None) or (spec, None, what went wrong) as runs end; parameters as for `execute`."""
    if workers < 1:
        raise SpecError(f"workers is {workers}: at least 1 is needed")
    if not specs:
        return
    specs = sorted(specs, key=lambda spec: spec.seed)  # stopped early, a table has few seeds rather than holes
    results = _results
    if scheduler is not None:
        from companion.cluster import results
    bar = tqdm(total=len(specs), unit="run", disable=not progress, dynamic_ncols=True)
    with bar, contextlib.closing(results(specs, scheduler or workers, root, device)) as ended:
        for result in ended:
            yield result
            bar.update()
            bar.set_postfix_str(label(result[0]), refresh=False)


def _usable(store, spec, here):
    """The store's record of a run if it counts, else None. here: `origin` that a quick run must have."""
    try:
        record = store.read(spec)
    except UnreadableRecord:
        raise
    except RecordError as error:
        print(f"{error}\nrunning {label(spec)} again", file=sys.stderr)
        return None
    return record if spec.profile != "quick" or (record and here.items() <= record.run.items()) else None


def _results(specs, workers, root, device):
    """Yield (spec, record, failure) as runs end, in this process or in local ones."""
    groups = {}
    for spec in specs:
        groups.setdefault(ask_paper("together", spec) or spec, []).append(spec)
    most = math.ceil(len(specs) / workers)  # so that each worker has some, even of one group
    groups = [group[i : i + most] for group in groups.values() for i in range(0, len(group), most)]
    if workers == 1 or len(groups) < 2:
        for group in groups:
            yield from attempts(group, root, device)
        return
    jobs = (delayed(attempts)(group, root, device) for group in groups)
    how = {"n_jobs": min(workers, len(groups)), "initializer": _end_with, "initargs": (os.getpid(),)}
    try:
        for ended in Parallel(return_as="generator_unordered", **how)(jobs):
            yield from ended
    except TerminatedWorkerError:
        raise SparseMTLError(
            "a worker process was killed (out of memory?): finished records are kept; run again with fewer workers"
        ) from None


def attempts(specs, root, device):
    """Of specs that run together (spec, record, None), or (spec, None, what went wrong in one line), as a list."""
    try:
        return [(record.spec, record, None) for record in _made(specs, root, device)]
    except Exception as error:  # a fault of one of them, or of the library: the others go on
        if specs[1:]:
            return [each for spec in specs for each in attempts([spec], root, device)]
        fault = str(error) if isinstance(error, SparseMTLError) else f"{type(error).__name__}: {one_line(error, 300)}"
        return [(specs[0], None, fault)]


def _end_with(parent):
    """End this worker when the process that started it is gone: after a kill nobody would take its result."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
