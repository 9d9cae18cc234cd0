"""A paper is one folder, a data set one loader: the toys of tests/toy need no edit elsewhere and get their results."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from companion import claims, engine, papers
from companion.__main__ import main
from companion.data import LOADERS, load
from companion.evidence import local_evidence

TESTS = Path(__file__).parent
FILES = ("study", "run", "tables")
pytestmark = pytest.mark.usefixtures("repository")  # in which the toy paper is found, and runs are kept


def test_a_small_folder_on_the_path_is_a_paper():
    ours = {path.parent.name for path in (TESTS.parent / "lib/papers").glob("*/study.py")}
    assert set(papers.names()) == {"toy2020", *ours}
    assert sum(len(p.read_text().splitlines()) for p in (TESTS / "toy" / "papers").rglob("*.py")) <= 60


def test_its_table_and_its_verdict():
    whole = local_evidence(papers.study("toy2020"), "quick", workers=1, table="all")
    assert (whole.complete, whole.expected) == (True, 15)
    evidence = local_evidence(papers.study("toy2020"), "quick", workers=1)
    assert papers.part("toy2020", "tables").table1(evidence).shape == (5, 2)
    (judged,) = claims.judge_paper("toy2020", [evidence])
    assert judged.mean == pytest.approx(1.0)  # the same draws, shifted by one
    assert (judged.n, judged.verdict) == (5, claims.REPRODUCED)


@pytest.fixture
def stripes(monkeypatch, tmp_path):
    """Folder of the toy data set, whose one entry is in `LOADERS`; it is small as well."""
    monkeypatch.setitem(LOADERS, "stripes", "stripes:load_stripes")
    import_module("stripes").write_stripes(tmp_path / "stripes")
    assert len((TESTS / "toy" / "stripes.py").read_text().splitlines()) <= 40
    return tmp_path


def test_a_data_set_is_a_loader_and_an_entry(stripes, capsys):
    assert main(["data", "stripes", "--data-dir", str(stripes)]) == 0
    assert "stripes" in capsys.readouterr().out
    found = load("stripes", stripes)
    assert (found.classes, len(found), found.targets["seg"].unique().tolist()) == (("dark", "light"), 12, [0, 1])
    assert torch.equal(found.images.float().mean(1) > 120, found.targets["seg"].bool())


@pytest.mark.slow
def test_a_paper_runs_on_a_new_data_set(stripes):
    study = papers.study("upadhyay2023")
    (known,) = study.specs("quick", ("seg",), seeds=(0,), n=12, size=24, epochs=2, batch=4)
    record = engine.run(replace(known, data="stripes"), root=stripes)
    assert record.result["data"]["fingerprint"] == load("stripes", stripes, n=12, size=24).fingerprint


@pytest.mark.parametrize("paper", ["toy2020", *papers.names()])
def test_the_checklist_of_contributing_names_what_every_paper_has(paper):
    text = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    checklist = text.partition("## Add a paper")[2].partition("\n## ")[0]
    for what in FILES:
        for name in re.findall(rf"`{what}\.(?!py`)(\w+)`", checklist):
            assert hasattr(papers.part(paper, what), name), f"{paper}.{what} has no {name}"
    assert {what for what in FILES if f"`{what}." in checklist} == set(FILES)
