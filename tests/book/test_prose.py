"""No number on a page was typed that a record or a published table knows."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from companion.evidence import committed_evidence, committed_evidences
from companion.statistics import estimate
from papers.shin2023 import study as shin2023
from papers.shin2023 import tables as eeg
from papers.upadhyay2023 import study as upadhyay2023
from papers.upadhyay2023 import tables as vision

ROOT = Path(__file__).parents[2]
# Decimal numbers that stand alone: no version (1.0.4, Python 3.11), no arXiv id or DOI, no part of a name, no exponent
LITERAL = re.compile(r"(?<![\w./:-])(?<!Python )\d+\.\d+(?![\w/]|\.\d|e[+-]?\d)")
ARXIV = re.compile(r"\d{4}\.\d{4,5}")
CODE = re.compile(
    r"^(`{3,}|~{3,}) *\{(?:code-cell|literalinclude|math|bibliography)\}?.*?^\1 *$", re.DOTALL | re.MULTILINE
)
FRONT = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)


def pages(root):
    """(place, text) of all prose below a checkout."""
    for path in [*sorted((root / "book").glob("*.md")), root / "README.md"]:
        if path.exists():
            yield path.relative_to(root), CODE.sub("", FRONT.sub("", path.read_text(encoding="utf-8")))
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
        numbers = [n for n in LITERAL.findall(text) if not ARXIV.fullmatch(n)]
        found += [f"{place}: {number} is {results[number]}" for number in numbers if number in results]
    return found


def numbers_of(table):
    """Every finite float of a DataFrame."""
    floats = table.select_dtypes("float").to_numpy().ravel()
    return [float(v) for v in floats if pd.notna(v)]


def known_results(evidences):
    """{how it is written: what it is} of everything that the records behind `evidences` and the papers say."""
    told = {}

    def add(what, values):
        for value in values:
            for form in rounded(value):
                told.setdefault(form, what)

    for evidence in evidences["shin2023"]:
        add("an effect on a claim of Shin et al.", numbers_of(eeg.claims([evidence])))
        table = eeg.frame(evidence.records)
        for problem in shin2023.PROBLEMS if len(table) else ():
            chosen = eeg.select(table, problem)
            if chosen.empty:
                continue
            for metric in eeg.METRICS:
                for key, values in eeg.per_subject(chosen, metric).groupby(["task", "method", "sparsity"]):
                    e = asdict(estimate(values))
                    add(f"{metric} of {key}, {problem}", [e["mean"], e["sd"]])
    for evidence in evidences["upadhyay2023"]:
        add("an effect on a claim of Upadhyay et al.", numbers_of(vision.claims([evidence])))
        table = vision.frame(evidence.records)
        columns = [c for c in ("group", "parameter", *(s[0] for s in vision.SCORES.values())) if c in table]
        if columns:
            means = table.groupby(["protocol", "flipped", "data", "tasks", "lam", "penalty"])[columns].mean()
            add("a cell of the vision tables", numbers_of(means))
    for key, value in shin2023.PUBLISHED.items():
        add(f"published by Shin et al. for {key}", [value])
    for row in [row for number in (1, 2, 3, "text") for row in upadhyay2023.published(number)]:
        for name, value in row.items():
            shown = f"{value:g}" if isinstance(value, float) else ""
            if name != "lambda" and len(shown.replace(".", "").strip("0")) > 2:
                told.setdefault(shown, f"published by Upadhyay et al. ({name})")
                add(f"published by Upadhyay et al. ({name})", [value])
    stated = {f"{v:g}" for s in specs() for v in numeric(s.to_dict())} | {f"{v:g}" for v in upadhyay2023.LAMBDAS}
    return {form: what for form, what in told.items() if form not in stated}


def specs():
    """Specs whose numbers a page may state, as they are choices."""
    return [s for study in (shin2023, upadhyay2023) for profile in ("quick", "small", "full")
            for s in study.all_specs(profile)[::50]]  # fmt: skip


def numeric(value):
    """All numbers in a JSON value."""
    if isinstance(value, dict | list):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numeric(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.fixture(scope="module")
def results():
    found = {study.NAME: committed_evidences(study, ROOT / "results") for study in (shin2023, upadhyay2023)}
    others = committed_evidence(shin2023, ROOT / "results", "backbones")
    found[shin2023.NAME] += eeg.by_backbone(found[shin2023.NAME], others).values()
    return known_results(found)


def test_the_prose_repeats_no_result(results):
    found = repeated(ROOT, results)
    assert not found, "show it from the records instead: " + "; ".join(found)


def test_there_are_results_of_records_and_of_both_papers(results):
    assert len(results) > 500
    assert {"0.645", "64.5", "0.7077", "43.05"} <= set(results)
    cell = committed_evidences(shin2023, ROOT / "results")[0]
    effects = eeg.claims([cell]).effect
    assert all(rounded(value) & set(results) for value in effects if abs(value) > 0.01)


def test_a_typed_result_is_found_on_a_page_and_in_a_notebook(tmp_path, results):
    ours = next(form for form, what in results.items() if what.startswith("an effect") and len(form) == 5)
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    page = tmp_path / "book/page.md"
    page.write_text(f"---\ntitle: 0.645\n---\nWe found +{ours} there.\n", encoding="utf-8")
    assert repeated(tmp_path, results) == [f"book/page.md: {ours} is {results[ours]}"]
    cells = [{"cell_type": "markdown", "source": ["Imagery reaches\n", "64.5 % in the paper."]},
             {"cell_type": "code", "source": ["x = 0.645"]}]  # fmt: skip
    (tmp_path / "notebooks/n.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page.unlink()
    assert repeated(tmp_path, results) == [f"notebooks/n.ipynb, cell 0: 64.5 is {results['64.5']}"]


@pytest.mark.parametrize(
    "text",
    [
        "arXiv 2312.05828, version 1.0.4, Python 3.11, doi:10.1109/0.645",
        "a sparsity of 0.4 and λ = 1e-5 or 0.00001",
        "```{code-cell} ipython3\nx = 0.645\n```",
        "the year 2023, 95 % intervals, 64 channels",
    ],
)
def test_what_a_page_may_state_is_no_result(tmp_path, results, text):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/page.md").write_text(text + "\n", encoding="utf-8")
    assert repeated(tmp_path, results) == []
