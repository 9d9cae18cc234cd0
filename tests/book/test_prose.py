"""No number on a page was typed that a record or a published table knows."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from companion.claims import judge_paper
from companion.evidence import committed_evidences
from companion.records import write_jsonl
from made_up import made_up_record, value_of
from papers.shin2023 import study as shin2023
from papers.shin2023 import tables as eeg
from papers.upadhyay2023 import study as upadhyay2023
from papers.upadhyay2023 import tables as vision

ROOT = Path(__file__).parents[2]
# Decimal numbers that stand alone: no version (1.0.4, Python 3.11), no arXiv id or DOI, no part of a name, no exponent
LITERAL = re.compile(r"(?<![\w./:-])(?<!Python )\d+\.\d+(?![\w/]|\.\d|e[+-]?\d)")
ARXIV = re.compile(r"\d{4}\.\d{4,5}")
CODE = re.compile(
    r"^(`{3,}|~{3,}) *(?:python$|\{(?:code-cell|literalinclude|math|bibliography)\}?).*?^\1 *$",
    re.DOTALL | re.MULTILINE,
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


def known_results(root):
    """{how it is written: what it is} of everything that the records below a folder and the papers say."""
    known = {}

    def add(what, values):
        for value in values:
            for form in rounded(value) if pd.notna(value) else ():
                known.setdefault(form, what)

    for study in (shin2023, upadhyay2023):
        evidences = committed_evidences(study, root)
        for j in judge_paper(study.NAME, evidences):
            add(f"the effect on {j.claim.id}", [j.mean, j.low, j.high])
        for evidence in evidences:
            tables = eeg if study is shin2023 else vision
            table = tables.frame(evidence.records)
            if study is shin2023 and len(table):
                by = table.groupby(["problem", "task", "method", "sparsity", "trunk", "labels", "person"])
                means = (
                    by[["accuracy", "f1"]].mean().groupby(["problem", "task", "method", "sparsity", "trunk", "labels"])
                )
                add("a cell of the EEG tables", [*means.mean().to_numpy().ravel(), *means.std().to_numpy().ravel()])
            elif len(table):
                columns = [c for c in ("group", "parameter", *(s[0] for s in vision.SCORES.values())) if c in table]
                keys = ["protocol", "flipped", "data", "tasks", "level", "lam", "penalty", "count"]
                means = table.groupby(keys, dropna=False)[columns].mean()
                add("a cell of the vision tables", means.to_numpy().ravel())
    for key, value in shin2023.PUBLISHED.items():
        add(f"published by Shin et al. for {key}", [value])
    for row in [row for number in (1, 2, 3, "text") for row in upadhyay2023.published(number)]:
        for name, value in row.items():
            shown = f"{value:g}" if isinstance(value, float) else ""
            if name != "lambda" and len(shown.replace(".", "").strip("0")) > 2:
                known.setdefault(shown, f"published by Upadhyay et al. ({name})")
                add(f"published by Upadhyay et al. ({name})", [value])
    stated = {f"{v:g}" for s in specs() for v in numeric(s.to_dict())} | {f"{v:g}" for v in upadhyay2023.LAMBDAS}
    return {form: what for form, what in known.items() if form not in stated}


def specs():
    """Specs whose numbers a page may state, as they are choices; of the largest EEG grid none, as it repeats them."""
    found = shin2023.all_specs("quick") + shin2023.specs("small", seeds=(0,)) + upadhyay2023.all_specs("full")
    return (found + upadhyay2023.all_specs("quick") + upadhyay2023.all_specs("small"))[::20]


def numeric(value):
    """All numbers in a JSON value."""
    if isinstance(value, dict | list):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numeric(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.fixture(scope="module")
def results():
    return known_results(ROOT / "results")


def test_the_prose_repeats_no_result(results):
    assert {"0.645", "64.5", "0.7077", "43.05"} <= set(results)  # of both papers
    found = repeated(ROOT, results)
    assert not found, "show it from the records instead: " + "; ".join(found)


def test_what_records_say_is_known(tmp_path, make_record):
    specs = upadhyay2023.at_levels("small", (upadhyay2023.ALL_NYU,), (0.0, upadhyay2023.GOAL))
    folder = tmp_path / "upadhyay2023/small"
    folder.mkdir(parents=True)
    write_jsonl(folder / "made-up.jsonl", [made_up_record(s, make_record) for s in specs])
    mean = sum(value_of(s, "seg") for s in specs if s.params["target"]) / (len(specs) / 2)
    assert known_results(tmp_path)[f"{mean:.4f}"] == "a cell of the vision tables"


def test_a_typed_result_is_found_on_a_page_and_in_a_notebook(tmp_path):
    ours, results = "0.1234", {"0.1234": "an effect", "64.5": "published"}
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
