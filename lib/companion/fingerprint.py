"""Which code runs: the commit of the checkout, and a checksum over the sources that results depend on."""

import hashlib
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from companion.papers import names

# Modules that only read records: a change in them changes no result, so they are not in the fingerprint.
DOWNSTREAM = (
    "__main__.py", "choose.py", "claims.py", "cluster.py", "crate.py", "evidence.py", "figures.py",
    "lookup.py", "page.py", "queue.py", "scorecard.py", "statistics.py", "style.py", "tables.py", "verify.py",
)  # fmt: skip


@cache
def revision():
    """Git commit of the code, with "+" if the library was changed since; "unknown" outside a checkout."""
    lib = Path(__file__).parents[1]

    def git(*words):
        words = ["git", "--no-optional-locks", "-C", lib, *words]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", "companion/engine.py")  # fails if installed inside another project
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "--", ".").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def code_fingerprint():
    """SHA-256 (16 hex digits) over the source files behind a result, without `DOWNSTREAM`."""
    digest = hashlib.sha256()
    for package in ("sparsemtl", "companion", *(f"papers.{name}" for name in names())):
        folder = Path(find_spec(package).submodule_search_locations[0])
        for path in sorted(folder.rglob("*.py")):
            if path.name not in DOWNSTREAM:
                name = f"{package}/{path.relative_to(folder).as_posix()}"
                digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
