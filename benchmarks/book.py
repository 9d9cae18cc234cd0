"""How long `make book` takes: in a fresh clone with empty caches (installation included), and with nothing changed.

Only what is committed counts. Takes ten minutes or so.
"""

import json
import os
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

from harness import Mark, arguments, counts, report, seconds

COLD, WARM = "fresh clone, empty caches", "nothing changed"
ROOT = Path(__file__).parents[1]


def main():
    """Measure and write `book-cpu.json`."""
    args = arguments(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:
        clone, caches = Path(folder) / "clone", Path(folder) / "caches"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        caches.mkdir()
        taken = {COLD: [build(clone, caches)], WARM: [build(clone, caches) for _ in range(args.repeats)]}
        notebooks = executed(clone)
    limits = {"ten minutes": 600, "half a minute": 30}
    marks = [
        Mark("ten minutes over a cold build", "ten minutes", COLD, "at least", 1.0),
        Mark("half a minute over a warm build", "half a minute", WARM, "at least", 1.0),
    ]
    report("book", seconds(taken) | counts("s", limits), marks, args, {"seconds by notebook": notebooks})


def build(clone, caches):
    """Seconds that `make book` takes."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SPARSEMTL_", "VIRTUAL_ENV", "PYTHON"))}
    clean |= {"XDG_CACHE_HOME": str(caches), "SPARSEMTL_CACHE": str(caches / "sparsemtl")}
    start = time.perf_counter()
    subprocess.run(["make", "book"], cwd=clone, env=clean, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def executed(clone):
    """Seconds that each notebook took, from the cache of executed notebooks."""
    with sqlite3.connect(clone / "_build" / ".jupyter_cache" / "global.db") as database:
        rows = database.execute("select uri, data from nbcache").fetchall()
    return {Path(uri).stem: json.loads(data).get("execution_seconds") for uri, data in rows}


if __name__ == "__main__":
    main()
