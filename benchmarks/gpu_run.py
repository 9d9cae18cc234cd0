"""All that a GPU can show in a few minutes, most valuable first; a cut loses the step that runs, at most one run.

    python benchmarks/gpu_run.py OUT [--minutes 12]

First the smoke tests of both papers (stop if one fails), then the GPU sides of the benchmarks, then as many vision runs
of the profile `full` as fit. OUT/steps.jsonl says after each step how it ended and what it wrote.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from companion.files import write_whole
from companion.papers import study

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {"prox": (), "compaction": (), "eeg_batch": (), "training": ()}  # with their arguments, --repeats 5
VISION = "upadhyay2023"


@dataclass(frozen=True)
class Step:
    """One command. limit: seconds after which it is stopped; must: whether the rest is left out if it fails."""

    name: str
    command: tuple
    limit: float
    must: bool = False


def plan(out, device="cuda", profile="full"):
    """Steps in order (list of `Step`)."""
    python, store = sys.executable, str(out / "runs")
    test = (python, "-m", "pytest", "-x", "-m", "gpu", str(ROOT / "tests" / "test_gpu.py"))
    steps = [Step("smoke", test, 120, must=True)]
    for name, more in BENCHMARKS.items():
        words = (str(ROOT / "benchmarks" / f"{name}.py"), "--device", device, "--out", str(out / "benchmarks"), *more)
        steps.append(Step(name, (python, *words, "--repeats", "5"), 60))
    run = (python, "-m", "companion", "run", VISION, "--profile", profile, "--device", device, "--store", store)
    return steps + [Step(table, (*run, "--table", table), float("inf")) for table in study(VISION).TABLES]


def perform(steps, out, seconds):
    """Run steps until the seconds are over; writes OUT/steps.jsonl after each, returns its entries (list of dict)."""
    out.mkdir(parents=True, exist_ok=True)
    end, done = time.monotonic() + seconds, []
    path = os.pathsep.join(filter(None, (str(ROOT / "lib"), os.environ.get("PYTHONPATH"))))
    for step in steps:
        left = min(step.limit, end - time.monotonic())
        if left <= 0:
            break
        before, start = _files(out), time.monotonic()
        with open(out / f"{step.name}.log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(step.command, env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=log)
            status = _ended(process, left)
        wrote = sorted(name for name, state in _files(out).items() if before.get(name) != state)
        taken = round(time.monotonic() - start, 1)
        done.append({"step": step.name, "status": status, "seconds": taken, "wrote": wrote})
        print(f"{step.name}: {status} after {taken} s, {len(wrote)} files", flush=True)
        with write_whole(out / "steps.jsonl") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in done)
        if step.must and status != 0:
            break
    return done


def _ended(process, seconds):
    """Exit status, or "stopped" after a polite signal: the engine then keeps what is finished, and its workers end."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return "stopped"


def _files(out):
    """{name below OUT: (time, size)} of what was written, the logs left out."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".log" and path.name != "steps.jsonl")
    return {path.relative_to(out).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def main(argv=None):
    """Perform the plan; the exit status is 2 if the smoke tests fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for records, benchmarks and logs")
    parser.add_argument("--minutes", type=float, default=12, help="time in all (default: 12)")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to rehearse")
    parser.add_argument("--profile", default="full", help="of the vision runs (default: full)")
    args = parser.parse_args(argv)
    done = perform(plan(args.out, args.device, args.profile), args.out, 60 * args.minutes)
    return 0 if done and done[0]["status"] == 0 else 2


if __name__ == "__main__":
    sys.exit(main())
