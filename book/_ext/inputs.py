"""Sphinx extension: executes again what depends on something that changed, and nothing else.

Executed pages are kept by their own code alone. What else goes into a page are the library, the locked packages and
the committed records: pages that are named after a study read that study's, all others may read any. Notebooks are
executed side by side before the pages are read, as MyST-NB would execute them one after another.
"""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from myst_nb.core.read import is_myst_markdown_notebook

NOTED = "inputs.json"  # beside the cache: {page: digest of its inputs when it was last built}
READERS = {".ipynb": "nbformat", ".md": "myst_nb_md"}  # of pages that may hold code


def digest_of(paths):
    """SHA-256 over names and contents of the files below some paths."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def digests(root, pages):
    """{page: digest of its inputs} in a checkout."""
    code = [root / "lib", root / "benchmarks", root / "requirements.lock"]
    whole, known = digest_of([*code, root / "results"]), {}
    for study in (folder.name for folder in (root / "lib/papers").iterdir() if folder.is_dir()):
        known[study] = digest_of([*code, root / "results" / study])
    return {page: known.get(Path(page).name.split("_")[0], whole) for page in pages}


def forget(cache_folder, root, pages):
    """Remove what the cache holds of some pages."""
    cache = get_cache(str(cache_folder))
    stale = {str(root / page) for page in pages}
    for record in cache.list_cache_records():
        if str(Path(record.uri).with_suffix("")) in stale:
            cache.remove_cache(record.pk)


def execute(cache_folder, root, pages, timeout):
    """Execute the notebooks and the Markdown pages with code that the cache lacks, one a core.

    One that fails is left to MyST-NB, which says so. timeout: seconds for a cell.
    """
    cache, lacking = get_cache(str(cache_folder)), []
    for path in (root / f"{page}{suffix}" for page in pages for suffix in READERS):
        if path.is_file() and (path.suffix != ".md" or is_myst_markdown_notebook(path.read_text(encoding="utf-8"))):
            pk = cache.add_nb_to_project(str(path), read_data={"type": "plugin", "name": READERS[path.suffix]}).pk
            lacking += [] if cache.get_cached_project_nb(pk) else [pk]

    def run(pk):
        executor = load_executor("local-serial", cache, logging.getLogger(__name__))
        executor.run_and_cache(filter_pks=[pk], timeout=timeout)

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores slow each other down
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a kernel is a process; the next one begins when one ends
        list(pool.map(run, lacking))


def _outdated(app, env, added, changed, removed):
    noted, cache = _places(app)
    before = json.loads(noted.read_text()) if noted.exists() else {}
    app.inputs = digests(Path(app.srcdir), sorted(env.found_docs))
    stale = [page for page, digest in app.inputs.items() if before.get(page) != digest]
    if cache.exists():
        forget(cache, Path(app.srcdir), stale)
    if app.config.nb_execution_mode == "cache":
        execute(cache, Path(app.srcdir), sorted(env.found_docs), app.config.nb_execution_timeout)
    return stale


def _note(app, exception):
    if exception is None and hasattr(app, "inputs"):
        noted = _places(app)[0]
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(app.inputs, indent=1, sort_keys=True))


def _places(app):
    cache = Path(app.config.nb_execution_cache_path or Path(app.outdir).parent / ".jupyter_cache")
    return cache.parent / NOTED, cache


def setup(app):
    """Look for changed inputs before pages are read, note them when the book is built."""
    app.connect("env-get-outdated", _outdated)
    app.connect("build-finished", _note)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
