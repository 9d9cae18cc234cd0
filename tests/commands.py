"""Commands of the tests, in this process or others; and the toy paper with runs that take a moment."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from companion.__main__ import main
from companion.records import Store

TOY = Path(__file__).parent / "toy" / "papers" / "toy2020"
PATIENCE = 900  # seconds, on a busy machine
STARTED = []  # processes of `run`


def written(folder, seconds=0.4, more=""):
    """Write the paper slow2020 below a folder for PYTHONPATH. more: lines that make it another version."""
    target = folder / "papers" / "slow2020"
    target.mkdir(parents=True)
    for path in TOY.glob("*.py"):
        text = path.read_text().replace("toy2020", "slow2020").replace("import numpy", "import time\nimport numpy")
        text = text.replace("    draws = np", f"    time.sleep({seconds})\n    draws = np") + more
        (target / path.name).write_text(text)
    return folder


def environment(folder):
    """Variables for a process that shall find the paper."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(folder, store, *words):
    """A process of `sparsemtl run slow2020`, in a process group of its own."""
    command = [sys.executable, "-m", "companion", "run", "slow2020", "--store", str(store), *words]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    how["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore Ctrl-C
    STARTED.append(subprocess.Popen(command, env=environment(folder), **how))
    return STARTED[-1]


def ended(process, status=0):
    """What a process of `run` said on stderr; it ends with this status."""
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == status, errors
    return errors


def end_all():
    """End what `run` started and what is still there, with its workers: a test that gave up waiting leaves nothing."""
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    STARTED.clear()


def digests(store):
    """Digest by hash of the records of a store, none of which is damaged or there twice."""
    records, problems = Store(store).all()
    found = {record.hash: record.digest for record in records}
    assert (problems, len(found)) == ([], len(records))
    return found


def wait_for(store, process, count):
    """Until a store has so many records, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while len(list(store.rglob("[0-9a-f]*.json"))) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def living(group):
    """Processes of a group that are still there half a minute after its leader ended."""
    deadline = time.monotonic() + 30
    while (left := list(_members(group))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _members(group):
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):  # it ended meanwhile
            state, _, pgrp = stat.read_text().rpartition(") ")[2].split()[:3]
            if pgrp == str(group) and state not in "ZX":
                yield stat.parent.name


def call(capsys, *words):
    """(exit status, lines on stdout, lines on stderr without the progress bar) of a command in this process."""
    status = main(list(words))
    said = capsys.readouterr()
    return status, said.out.splitlines(), [s for s in said.err.splitlines() if s and not re.search(r"\d/\d+ \[", s)]
