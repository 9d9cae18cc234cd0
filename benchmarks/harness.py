"""What every benchmark does alike: its command line, sides that take turns, a record of its own kind.

A benchmark compares sides within one run on one machine: all sides warm up, then each takes its turn in every round, so
that what disturbs the machine falls on all of them. A ratio is the median over the turns. Run one from the
top of the repository:

    python benchmarks/NAME.py [--threads N] [--repeats N] [--device cuda] [--out FOLDER]
"""

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from companion.engine import versions
from companion.records import check_writable
from measured import Benchmark, Mark
from sparsemtl.errors import RecordError
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

__all__ = ["Mark", "arguments", "counts", "report", "seconds", "take_turns", "where_time_goes"]

FOLDER = Path(__file__).parents[1] / "results" / "benchmarks"
PACKAGES = ("sparsemtl", "torch", "torchvision", "numba", "numpy", "onnxruntime", "torch-pruning", "braindecode")


def arguments(text, **more):
    """Command line of a benchmark: --device, --threads, --repeats, --out.

    more: name -> default of others, or of these: threads (all cores), repeats (9).
    """
    more = {"threads": os.cpu_count(), "repeats": 9} | more
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record (default: results/benchmarks)")
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"(default: {default})")
    args = parser.parse_args()
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"no device {args.device!r} on this machine: choose cpu")
    try:
        check_writable(args.out)
    except RecordError as error:
        parser.error(str(error))
    args.command = " ".join(f"--{name} {getattr(args, name)}" for name in more)
    torch.set_num_threads(args.threads)
    return args


def take_turns(sides, args, prepare=None):
    """{side: seconds of each turn} of functions without arguments; prepare: called before each turn, not timed."""
    taken = {name: [] for name in sides}
    for turn in range(args.repeats + 1):  # the first turn warms up
        for name, function in sides.items():
            if prepare:
                prepare()
            wait(args.device)
            start = time.perf_counter()
            function()
            wait(args.device)
            if turn:
                taken[name].append(time.perf_counter() - start)
    return taken


def wait(device):
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(taken):
    """Sides in seconds, from {label: seconds of each turn}."""
    return {label: {"unit": "s", "values": list(values)} for label, values in taken.items()}


def counts(unit, values):
    """Sides that are counted, not timed: {label: number} in a unit ("FLOPs", "bytes")."""
    return {label: {"unit": unit, "values": [float(value)]} for label, value in values.items()}


def report(name, sides, marks, args, details=None):
    """Print each side and each mark, and write the record. sides: from `seconds` and `counts`. marks: of `Mark`."""
    found = Benchmark(name, sides, tuple(marks), details or {}, environment(args))
    for label, side in sides.items():
        low, high = found.quartiles(label)
        print(f"{label:50} {found.median(label):12.5g} {side['unit']:8} (quartiles {low:.5g} to {high:.5g})")
    for mark in marks:
        ratio, low, high = found.ratio(mark)
        outcome = "met" if found.met(mark) else "MISSED"
        print(f"{mark.what}: {ratio:.3g} ({low:.3g} to {high:.3g}; {mark.word} {mark.wanted:g}: {outcome})")
    print(f"written to {found.write(args.out)}", file=sys.stderr)


def where_time_goes(function, device="cpu", rows=8):
    """[{"operation", "share"}]: the operations that took most of the time of one call, after a call that warms up."""
    function()
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=kinds) as seen:
        function()
        wait(device)
    of = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    events = sorted(seen.key_averages(), key=lambda event: getattr(event, of), reverse=True)
    if device != "cpu":  # a kernel's time is told of the operation that started it too
        events = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    whole = sum(getattr(event, of) for event in events)
    return [{"operation": event.key, "share": getattr(event, of) / whole} for event in events[:rows]]


def environment(args):
    """Where and when (dict)."""
    return {
        "script": Path(sys.argv[0]).stem,
        "arguments": args.command,
        "device": "cpu" if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor():
    """Name, family and model: clouds give processors of several kinds one name."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in lines}
    if "model name" not in facts:
        return platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"
