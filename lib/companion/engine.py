"""Executes run specs: what has a valid record is skipped, the rest runs in turn or on local processes."""

import contextlib
import ctypes
import hashlib
import math
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sparsemtl.errors import RecordError, SparseMTLError, SpecError
from sparsemtl.sparsity.compact import exact_convolutions
from tqdm import tqdm

from companion.papers import label, names, part
from companion.records import RunRecord, Store, UnreadableRecord, compact_numbers

# A paper's `run.run`: (spec, root, device) -> result dict; what it holds as "timings", which no two runs share, and as
# "precision", which the device may have chosen, goes into the record's `run`. Imported when first needed. Beside it
# there may be `batches`, (specs, device) -> lists of specs that are cheaper together, and `run_many`, (list, root,
# device) -> their results, an error for one that failed; and `begun`, spec -> whether something is kept from which its
# run would go on, with `finished`, which is told each spec for which nothing has to be kept any more.


PARTS = ("sparsemtl", "companion", "papers")
DOWNSTREAM = (
    "__main__.py", "benchmarks.py", "claims.py", "crate.py", "evidence.py", "figures.py", "findings.py", "page.py",
    "queue.py", "scorecard.py", "statistics.py", "style.py", "tables.py", "verify.py",
)  # fmt: skip
PACKAGES = ("sparsemtl", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "mne", "moabb")


def run(spec, root=None, device="cpu"):
    """Execute one spec and return its `RunRecord` (not yet written anywhere).

    On the CPU it uses one thread and deterministic kernels, so that the same spec and code give the same result
    to the bit, in this process or another, alone or in a batch of `execute`. root: folder of the data sets (default:
    SPARSEMTL_DATA).
    """
    begun = _begun(spec)
    record = _run_batch([spec], root, device)[0]
    if isinstance(record, SparseMTLError):
        raise record
    if not begun:  # else it belongs to a run whose record is to be written
        _tell_finished(spec)
    return record


def _begun(spec):
    module = _runner(spec.study)
    return hasattr(module, "begun") and module.begun(spec)


def _tell_finished(spec):
    module = _runner(spec.study)
    if hasattr(module, "finished"):
        module.finished(spec)


def _run_batch(specs, root, device):
    """Records of specs of one study that run together, for each that failed its `SparseMTLError` instead.

    Seconds of a record: an equal share of the time that the batch took from `started` to `ended`, and what it had
    taken before it was cut off and resumed.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    made = environment(device)  # before the run and its imports: the code that runs, not what was edited meanwhile
    with reproducible(device), memory_kept():
        results = _results_of(specs, root, device)
    seconds = round((time.perf_counter() - clock) / len(specs), 3)
    when = {"started": _stamp(started), "ended": _stamp(datetime.now(UTC)), "seconds": seconds}
    return [_record(spec, result, when | made) for spec, result in zip(specs, results, strict=True)]


def _results_of(specs, root, device):
    try:
        module = _runner(specs[0].study)
        if len(specs) > 1:
            return module.run_many(specs, root=root, device=device)
        return [module.run(specs[0], root=root, device=device)]
    except SparseMTLError as error:
        return [error for _ in specs]


def _record(spec, result, run):
    if isinstance(result, SparseMTLError):
        return result
    try:
        result = compact_numbers(result)
    except RecordError as error:
        return error
    if precision := result.pop("precision", None):
        run = run | {"precision": precision}
    if timings := result.pop("timings", None):
        run = run | {"seconds": run["seconds"] + timings.get("resumed_seconds", 0), "timings": timings}
    return RunRecord(spec, result, run)


def _runner(study):
    """Module that runs the specs of a study; `SpecError` for an unknown one."""
    return part(study, "run")


@contextlib.contextmanager
def reproducible(device):
    """Context in which the same spec and code compute the same numbers on a CPU: one thread, deterministic kernels.

    On a GPU numbers may differ from run to run, but float32 is float32 there too: no TensorFloat-32 in convolutions.
    SpecError for a device that is not there.
    """
    _check_device(device)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    try:
        if device == "cpu":  # float sums depend on the number of threads
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # writes every tensor twice, to find faults
        with exact_convolutions():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fill


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@contextlib.contextmanager
def memory_kept():
    """Context in which memory that is freed stays with the process, and goes back at the end (glibc; else as usual).

    A step of training frees and asks for the same large tensors again. As a rule malloc gives each of them back to the
    kernel, which then has to map and to clear new pages.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that older ones take
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # what glibc's own thresholds grow to
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)


def _check_device(device):
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", str(device))
    if not found:
        raise SpecError(f"unknown device {device!r}: choose cpu or cuda")
    if device != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise SpecError(f"no device {device!r} on this machine: choose cpu")


def _stamp(moment):
    return moment.isoformat(timespec="seconds")


@cache
def environment(device):
    """What a record says of where it was made: device, threads, machine, packages, revision and code (dict)."""
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
    """What a result may depend on beside its spec and the data: code, device and packages (dict)."""
    made = environment(device)
    return {name: made[name] for name in ("code", "device", "packages")}


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:  # the GPU machine has no mne and no moabb
        return None


@cache
def revision():
    """Git commit of the code, with "+" where the library differs from it; "unknown" outside a checkout."""
    here = Path(__file__).parents[1]

    def git(*words):
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout

    try:
        git(
            "ls-files", "--error-unmatch", "companion/engine.py"
        )  # installed inside another project's folder, it is not tracked
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "--", ".").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def code_fingerprint():
    """SHA-256 (16 hex digits) over the source files behind a result: says which code ran even without git.

    What only reads records (`DOWNSTREAM`) is left out: another figure makes no other run.
    """
    lib, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in PARTS for path in (lib / package).rglob("*.py")):
        if path.name in DOWNSTREAM:
            continue
        digest.update(path.relative_to(lib).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@dataclass
class Outcome:
    """What `execute` did: records by hash (old and new), and one line for each run that failed."""

    records: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)
    executed: int = 0


def execute(specs, store=None, workers=1, root=None, device="cpu", progress=True):
    """Run every spec that has no valid record in `store`; each record is written as soon as its run ends.

    Quick runs of other code, packages or devices are made anew: they exist to show that what is here works.

    specs: iterable of RunSpec (duplicates run once). workers: local processes; 1 runs in this process.
    Specs that their study's runner does together end together, and each record takes an equal share of the seconds.
    A run that fails is noted in `Outcome.failures` and the others go on.
    Ctrl-C leaves every finished record in place; the same call resumes where it was. Before anything runs,
    `SpecError` for no workers or a device that is not there, `RecordError` for a store that cannot be written or a
    record that cannot be read but may be whole; later, as soon as a record cannot be written.
    """
    if workers < 1:
        raise SpecError(f"workers is {workers}: at least 1 is needed")
    _check_device(device)
    store, outcome = store or Store(), Outcome()
    missing = []
    for spec in dict.fromkeys(specs):
        record = _usable(store, spec, device)
        if record is None:
            missing.append(spec)
        else:
            outcome.records[spec.hash] = record
    store.check_writable(missing)
    missing.sort(key=lambda spec: spec.seed)  # stopped early, the table has few seeds rather than holes
    batches = _batches(missing, workers, device)
    bar = tqdm(total=len(missing), unit="run", disable=not (progress and missing), dynamic_ncols=True)
    with bar:
        for spec, record, failure in _results(batches, store, workers, root, device):
            bar.update()
            bar.set_postfix_str(label(spec), refresh=False)
            if failure is None:
                outcome.records[spec.hash] = record
                outcome.executed += 1
            else:
                outcome.failures.append(f"{label(spec)}: {failure}")
    return outcome


def _usable(store, spec, device):
    """The store's record of a run, or None where there is none that counts."""
    try:
        record = store.read(spec)
    except UnreadableRecord:
        raise
    except RecordError as error:
        print(f"{error}\nrunning {label(spec)} again", file=sys.stderr)
        return None
    here = origin(device)
    made_elsewhere = record and {name: record.run.get(name) for name in here} != here
    return None if made_elsewhere and spec.profile == "quick" else record


def _batches(specs, workers, device):
    """The specs in lists of those that run together, in order of seed; none longer than a worker's even share."""
    studies, lists = {}, []
    for spec in specs:
        studies.setdefault(spec.study, []).append(spec)
    for study, own in studies.items():
        module = _runner(study) if study in names() else None  # of an unknown one every run says so
        lists += module.batches(own, device) if hasattr(module, "batches") else [[spec] for spec in own]
    most = math.ceil(len(specs) / workers)
    lists = [whole[i : i + most] for whole in lists for i in range(0, len(whole), most)]
    return sorted(lists, key=lambda batch: batch[0].seed)


def _results(batches, store, workers, root, device):
    """Yield (spec, record, failure) as batches end; joblib's backend may be set from outside, to Dask for example."""
    jobs = (delayed(_run_and_write)(batch, store, root, device) for batch in batches)
    try:
        workers = max(1, min(workers, len(batches)))
        for done in Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="2 * n_jobs")(jobs):
            yield from done
    except TerminatedWorkerError:
        raise SparseMTLError(
            "a worker process was killed (out of memory?): finished records are kept; run again with fewer workers"
        ) from None


def _run_and_write(specs, store, root, device):
    """(spec, record, None) of each spec of a batch, or (spec, None, what went wrong)."""
    begun = () if store.lasting else [spec for spec in specs if _begun(spec)]
    try:
        records = _run_batch(specs, root, device)
    except Exception as error:  # a fault of the library, or a value that nobody thought of: the others go on
        if len(specs) > 1:
            return [done for spec in specs for done in _run_and_write([spec], store, root, device)]
        records = [SparseMTLError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]
    done = []
    for spec, record in zip(specs, records, strict=True):
        if isinstance(record, SparseMTLError):
            done.append((spec, None, str(record)))
            continue
        store.write(record)
        if spec not in begun:
            _tell_finished(spec)
        done.append((spec, record, None))
    return done
