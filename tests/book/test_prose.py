"""No number on a page was typed that a record or a published table knows."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from companion.claims import judge_paper
from companion.evidence import committed_evidences
from papers.shin2023 import study as shin2023
from papers.shin2023 import tables as eeg
from papers.upadhyay2023 import study as upadhyay2023
from papers.upadhyay2023 import tables as vision

ROOT = Path(__file__).parents[2]
# Decimal numbers that stand alone: no version (1.0.4, Python 3.11), no arXiv id or DOI, no part of a name, no exponent
LITERAL = re.compile(r"(?<![\w./:-])(?<!Python )\d+\.\d+(?![\w/]|\.\d|e[+-]?\d)")
CODE = r"^(`{3,}|~{3,}) *(?:python$|\{(?:code-cell|literalinclude|math|bibliography)\}?).*?^\1 *$"
NO_PROSE = re.compile(rf"\A---\n.*?^---\n|{CODE}", re.DOTALL | re.MULTILINE)
# What tells one cell of a table from another, the units that it is a mean of, and the columns with results
CELLS = {
    shin2023: (eeg, ["problem", "task", "method", "sparsity", "trunk", "labels"], "person", ["accuracy", "f1"]),
    upadhyay2023: (
        vision, ["protocol", "flipped", "data", "tasks", "level", "lam", "penalty", "count"], "seed",
        ["group", "parameter", *(name for name, _, _ in vision.SCORES.values())]),
}  # fmt: skip


def pages(root):
    """(place, text) of all prose below a checkout."""
    for path in [*sorted((root / "book").glob("*.md")), root / "README.md"]:
        if path.exists():
            yield path.relative_to(root), NO_PROSE.sub("", path.read_text(encoding="utf-8"))
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "markdown":
                yield f"{path.relative_to(root)}, cell {i}", "".join(cell["source"])


def rounded(value):
    """How a page would write a number: 2 to 4 decimals, or in percent with 1 or 2; at least two digits that tell."""
    forms = {f"{abs(value):.{k}f}" for k in (2, 3, 4)} | {f"{abs(100 * value):.{k}f}" for k in (1, 2)}
    return {form for form in forms if len(form.replace(".", "").strip("0")) > 1}


def repeated(root, results):
    """Places where the prose of a checkout repeats one of `results` ({how it is written: what it is})."""
    found = []
    for place, text in pages(root):
        numbers = [n for n in LITERAL.findall(text) if not re.fullmatch(r"\d{4}\.\d{4,5}", n)]  # arXiv
        found += [f"{place}: {number} is {results[number]}" for number in numbers if number in results]
    return found


def known_results(root):
    """{how it is written: what it is} of everything that the records below a folder and the papers say."""
    known = {}

    def add(what, values):
        for value in values:
            for form in rounded(value) if pd.notna(value) else ():
                known.setdefault(form, what)

    for study, (tables, keys, unit, columns) in CELLS.items():
        evidences = committed_evidences(study, root)
        for j in judge_paper(study.NAME, evidences):
            add(f"the effect on {j.claim.id}", [j.mean, j.low, j.high])
        for table in (tables.frame(evidence.records) for evidence in evidences if evidence):
            units = table.groupby([*keys, unit], dropna=False)[[c for c in columns if c in table]].mean()
            cells = units.groupby(keys, dropna=False).agg(["mean", "std"])
            add(f"a cell of {study.NAME}", cells.to_numpy().ravel())
    for key, value in shin2023.PUBLISHED.items():
        add(f"published by Shin et al. for {key}", [value])
    for row in [row for number in (1, 2, 3, "text") for row in upadhyay2023.published(number)]:
        for name, value in row.items():
            shown = f"{value:g}" if isinstance(value, float) else ""
            if name != "lambda" and len(shown.replace(".", "").strip("0")) > 2:
                known.setdefault(shown, f"published by Upadhyay et al. ({name})")
                add(f"published by Upadhyay et al. ({name})", [value])
    # A page may state what was chosen; of the largest EEG grid nothing new is.
    specs = shin2023.all_specs("quick") + shin2023.specs("small", seeds=(0,))
    specs += [spec for profile in ("full", "quick", "small") for spec in upadhyay2023.all_specs(profile)]
    chosen = json.dumps([[spec.to_dict() for spec in specs[::20]], upadhyay2023.LAMBDAS])
    stated = {f"{float(number):g}" for number in re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", chosen)}
    return {form: what for form, what in known.items() if form not in stated}


@pytest.fixture(scope="module")
def results():
    return known_results(ROOT / "results")


def test_the_prose_repeats_no_result(results):
    assert {"0.645", "64.5", "0.7077", "43.05"} <= set(results)  # published by both papers
    assert {f"a cell of {study.NAME}" for study in CELLS} <= set(results.values())
    found = repeated(ROOT, results)
    assert not found, "show it from the records instead: " + "; ".join(found)


def checkout(folder, page, paragraph="", code=""):
    """The folder, with one page, and one notebook that has a paragraph and code."""
    cells = [{"cell_type": "markdown", "source": [paragraph]}, {"cell_type": "code", "source": [code]}]
    texts = {"book/page.md": f"---\ntitle: 0.645\n---\n{page}\n", "notebooks/n.ipynb": json.dumps({"cells": cells})}
    for path, text in texts.items():
        (folder / path).parent.mkdir()
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def test_a_typed_result_is_found_on_a_page_and_in_a_notebook(tmp_path):
    results = {"0.1234": "an effect", "64.5": "published", "0.645": "published"}
    found = repeated(checkout(tmp_path, "We found +0.1234 there.", "Imagery reaches\n64.5 %.", "x = 0.645"), results)
    assert found == ["book/page.md: 0.1234 is an effect", "notebooks/n.ipynb, cell 0: 64.5 is published"]


def test_what_a_page_may_state_is_no_result(tmp_path, results):
    names = "arXiv 2312.05828, version 1.0.4, Python 3.11, doi:10.1109/0.645"
    values = "a sparsity of 0.4 and λ = 1e-5 or 0.00001, the year 2023, 95 % intervals, 64 channels"
    code = "```{code-cell} ipython3\nx = 0.645\n```"
    assert repeated(checkout(tmp_path, f"{names}\n{values}\n\n{code}"), results) == []
