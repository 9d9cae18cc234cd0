"""The prose of the book: plain words, short sentences, and no number typed that a record or a published table knows."""

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
ARXIV = r"\d{4}\.\d{4,5}"
PAGES = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
BANNED = r"\b(told|lies|anew|at hand|there is none|those that|to be had|tells? apart)\b|\bstands? (on|in|behind)\b"
MOST = 30  # words of a sentence
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


def texts(path):
    """(place, text) of a page in Markdown, or of each cell of a notebook that is in Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield path.name, text
    else:
        for i, cell in enumerate(json.loads(text)["cells"]):
            if cell["cell_type"] == "markdown":
                yield f"{path.name}, cell {i}", "".join(cell["source"])


def parts(text):
    """Paragraphs, list items, headings, glossary entries and cells of tables, without code, addresses and roles."""
    text = re.sub(r"^```\{glossary\}$.*?^```$", lambda m: m[0][13:-3].replace("\n    ", "\n"), text, flags=re.M | re.S)
    text = re.sub(r"\A---\n.*?\n---\n|^```.*?^```|^    .*?$|^:.*?$|^\(.*\)=$", "", text, flags=re.M | re.S)
    text = re.sub(r" \| |^\|", "\n\n", text, flags=re.M)
    text = re.sub(r"\{[\w:]+\}`([^`<]*?)(<[^>]*>)?`|`[^`]*`", r"\1", text)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=[-#*\d])", text) if part.strip()]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_words_are_plain_and_sentences_short(path):
    for part in (part for _, text in texts(path) for part in parts(text)):
        assert not re.search(BANNED, part, re.I), part
        assert [s for s in re.split(r"(?<=[.:;?!])\s", part) if len(s.split()) > MOST] == []


def rounded(value):
    """How a page would write a number: 2 to 4 decimals, or in percent with 1 or 2; at least two digits that tell."""
    forms = {f"{abs(value):.{k}f}" for k in (2, 3, 4)} | {f"{abs(100 * value):.{k}f}" for k in (1, 2)}
    return {form for form in forms if len(form.replace(".", "").strip("0")) > 1}


def repeated(paths, results):
    """Places where the prose of some pages repeats one of `results` ({how it is written: what it is})."""
    found = []
    for place, text in (found for path in paths for found in texts(path)):
        for number in LITERAL.findall(NO_PROSE.sub("", text)):
            if number in results and not re.fullmatch(ARXIV, number):
                found.append(f"{place}: {number} is {results[number]}")
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
        for table in filter(len, (tables.frame(evidence.records) for evidence in evidences)):
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
    found = repeated([*PAGES, ROOT / "README.md"], results)
    assert not found, "show it from the records instead: " + "; ".join(found)


def written(folder, page, paragraph="", code=""):
    """Files with a page, and with a notebook that has a paragraph and code."""
    cells = [{"cell_type": "markdown", "source": [paragraph]}, {"cell_type": "code", "source": [code]}]
    (folder / "page.md").write_text(f"---\ntitle: 0.645\n---\n{page}\n", encoding="utf-8")
    (folder / "n.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return folder / "page.md", folder / "n.ipynb"


def test_a_typed_result_is_found_on_a_page_and_in_a_notebook(tmp_path):
    results = {"0.1234": "an effect", "64.5": "published", "0.645": "published"}
    found = repeated(written(tmp_path, "We found +0.1234 there.", "Imagery reaches\n64.5 %.", "x = 0.645"), results)
    assert found == ["page.md: 0.1234 is an effect", "n.ipynb, cell 0: 64.5 is published"]


def test_what_a_page_may_state_is_no_result(tmp_path, results):
    names = "arXiv 2312.05828, version 1.0.4, Python 3.11, doi:10.1109/0.645"
    values = "a sparsity of 0.4 and λ = 1e-5 or 0.00001, the year 2023, 95 % intervals, 64 channels"
    code = "```{code-cell} ipython3\nx = 0.645\n```"
    assert repeated(written(tmp_path, f"{names}\n{values}\n\n{code}"), results) == []
