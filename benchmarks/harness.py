"""Times two or more ways to do the same, in one run on one machine, and writes down what came out.

The sides take turns, so that whatever else the machine does falls on all of them. Ratios are of medians.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles

import torch

SCHEMA = 1
FOLDER = Path(__file__).parents[1] / "results" / "benchmarks"
PACKAGES = ("torch", "torchvision", "numba", "numpy")


def arguments(text, **more):
    """Command line of a benchmark: --device, --threads, --repeats, --out; more: name -> default of others."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch (default: all cores)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each side (default: 9)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the record (default: results/benchmarks)")
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def take_turns(sides, args, prepare=None):
    """{side: seconds of each turn} of functions without arguments; prepare: called before each turn, not timed."""
    seconds = {name: [] for name in sides}
    for turn in range(args.repeats + 1):  # the first turn warms up
        for name, function in sides.items():
            if prepare:
                prepare()
            _wait(args.device)
            start = time.perf_counter()
            function()
            _wait(args.device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


def report(name, seconds, marks, args, details=None):
    """Print each side and each ratio, and write the record.

    marks: list of (slower side, faster side, "at least" or "at most", ratio to reach).
    """
    for side, values in seconds.items():
        low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
        print(f"{side:45} {1e3 * median(values):10.3f} ms   (quartiles {1e3 * low:.3f} to {1e3 * high:.3f})")
    for a, b, word, wanted in marks:
        ratio = median(seconds[a]) / median(seconds[b])
        met = ratio >= wanted if word == "at least" else ratio <= wanted
        print(f"{a} / {b}: {ratio:.2f} ({word} {wanted:g}: {'met' if met else 'MISSED'})")
    content = {
        "name": name,
        "seconds": {side: [float(f"{v:.5g}") for v in values] for side, values in seconds.items()},
        "marks": [dict(zip(("side", "against", "word", "ratio"), mark, strict=True)) for mark in marks],
        "details": details or {},
        "environment": environment(args),
    }
    path = args.out / f"{name}-{'cpu' if args.device == 'cpu' else 'gpu'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(
        json.dumps(content | {"schema": SCHEMA, "digest": digest(content)}, indent=1, sort_keys=True) + "\n"
    )
    part.replace(path)
    print(f"written to {path}", file=sys.stderr)


def digest(content):
    """SHA-256 of the canonical JSON of a record without its schema and digest."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def environment(args):
    """Where and when (dict)."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": "cpu" if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "python": platform.python_version(),
        "packages": found,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
