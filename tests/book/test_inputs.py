"""Only what depends on a change is executed again."""

from pathlib import Path
from types import SimpleNamespace

import inputs
import nbformat
import pytest
from jupyter_cache import get_cache
from myst_nb.core.read import myst_nb_reader_plugin

PAGES = ["book/index", "notebooks/scorecard", "notebooks/shin2023_table1", "notebooks/upadhyay2023_fig4"]


def cache_of(checkout):
    return get_cache(str(checkout / "_build/.jupyter_cache"))


def keep(checkout):
    """Put the execution of every page into the cache."""
    for page in PAGES:
        cache_of(checkout).cache_notebook_file(checkout / f"{page}.ipynb", check_validity=False)


@pytest.fixture
def checkout(tmp_path):
    names = ("lib/a.py", "requirements.lock", "results/shin2023/a.jsonl", "results/upadhyay2023/a.jsonl")
    papers = ("lib/papers/shin2023/study.py", "lib/papers/upadhyay2023/study.py")
    for path in (tmp_path / name for name in (*names, *papers)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        cell = nbformat.v4.new_code_cell(f"print({page!r})", execution_count=1)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{page}.ipynb")
    keep(tmp_path)
    return tmp_path


def build(checkout, exception=None):
    """Pages that a build reads again."""
    config = SimpleNamespace(nb_execution_cache_path="", nb_execution_mode="off")
    app = SimpleNamespace(srcdir=str(checkout), outdir=str(checkout / "_build/html"), config=config)
    stale = inputs._outdated(app, SimpleNamespace(found_docs=set(PAGES)), set(), set(), set())
    inputs._note(app, exception)
    return stale


@pytest.mark.parametrize(
    ("changed", "again"),
    [("lib/a.py", PAGES), ("requirements.lock", PAGES), ("results/shin2023/a.jsonl", PAGES[:3]),
     ("results/upadhyay2023/new.jsonl", [*PAGES[:2], PAGES[3]]), ("results/benchmarks/prox-cpu.json", PAGES[:2]),
     ("lib/__pycache__/a.pyc", [])],
)  # fmt: skip
def test_a_change_reaches_what_depends_on_it(checkout, changed, again):
    build(checkout)
    keep(checkout)  # the first build has emptied the cache
    path = checkout / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("other")
    assert build(checkout) == again
    kept = {Path(record.uri).stem for record in cache_of(checkout).list_cache_records()}
    assert kept == {Path(page).stem for page in PAGES if page not in again}
    assert build(checkout) == []


def test_a_build_that_failed_does_not_count(checkout):
    build(checkout)
    (checkout / "lib/a.py").write_text("other")
    assert build(checkout, RuntimeError("stopped")) == PAGES
    assert build(checkout) == PAGES


def test_what_the_cache_lacks_is_executed_ahead(checkout):
    cache = cache_of(checkout)
    paths = [checkout / "notebooks/scorecard.ipynb", checkout / "book/index.md", checkout / "book/prose.md"]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")]), paths[0])
    (checkout / "book/index.ipynb").unlink()
    paths[1].write_text("---\nfile_format: mystnb\n---\n\n# Page\n\n```{code-cell}\nprint(7 * 7)\n```\n")
    paths[2].write_text("# Page\n")
    pages = ["book/index", "book/prose", "notebooks/scorecard"]
    inputs.execute(checkout / "_build/.jupyter_cache", checkout, pages, 60)
    for notebook, said in ((nbformat.read(paths[0], 4), "42\n"), (myst_nb_reader_plugin(paths[1]), "49\n")):
        found = cache.match_cache_notebook(notebook)
        code = [cell for cell in cache.get_cache_bundle(found.pk).nb.cells if cell.cell_type == "code"]
        assert code[0].outputs[0].text == said
