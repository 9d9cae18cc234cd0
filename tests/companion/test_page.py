"""Tables as a page shows them, and the evidence under them."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from companion.__main__ import main
from companion.evidence import Evidence
from companion.page import ANCHOR, AUTHOR, MARKS, NONE, TITLE, Page, show_table
from companion.records import set_hash, write_jsonl
from companion.statistics import VERDICTS

TABLE = pd.DataFrame({"accuracy": [0.12345, np.nan]}, index=pd.Index(["or", "rigl"], name="method"))


@pytest.fixture
def evidence(make_record, tiny_spec):
    records = tuple(make_record(tiny_spec("or", 0.4, seed), {"value": seed}) for seed in (0, 1, 2))
    return Evidence("shin2023", "committed", "quick", records, 3)


def soup(shown):
    return BeautifulSoup(shown.data, "html.parser")


def csv_of(link):
    kind, _, content = link["href"].partition(";base64,")
    assert kind.startswith("data:text/csv")
    return base64.b64decode(content).decode()


def test_each_column_has_its_heading_and_gaps_are_told(evidence):
    page = soup(Page("shin2023_table1").table(TABLE, "methods", "Methods & more", evidence))
    table = page.find("table")
    assert page.div["id"] == f"{ANCHOR}methods"
    assert table.caption.text == "Methods & more"
    assert [th.text for th in table.thead.find_all("th")] == ["method", "accuracy"]
    assert [td.text for td in table.tbody.find_all("td")] == ["or", "0.123", "rigl", NONE]


def test_headings_of_two_levels_keep_the_names_of_the_index_in_the_last():
    columns = pd.MultiIndex.from_tuples([("motor imagery", "accuracy"), ("motor imagery", "macro F1")])
    table = pd.DataFrame([[1, 2]], index=pd.Index(["or"], name="method"), columns=columns)
    head = BeautifulSoup(show_table(table).to_html(), "html.parser").thead
    assert [th.text for th in head.find_all("tr")[-1].find_all("th")] == ["method", "accuracy", "macro F1"]


def test_the_html_of_a_table_is_the_same_in_every_build(evidence):
    first, second = (Page("shin2023_table1").table(TABLE, "methods", "", evidence).data for _ in range(2))
    assert first == second


@pytest.mark.parametrize("word", VERDICTS)
def test_a_verdict_has_a_shape_of_its_own(word):
    html = show_table(pd.DataFrame({"verdict": [word], "against published": ["higher"]})).to_html()
    assert f">{MARKS[word]} {word}<" in html
    assert ">▲ higher<" in html
    assert len(set(MARKS.values())) == len(MARKS)


@pytest.mark.parametrize(
    ("value", "kind"),
    [("1e-6", None), ("0.212 ± 0.004", None), ("seg+normal+depth", None), ("EEGNet 21 x 240, dense, torch", "words"),
     ("independent: compacted", "words"), ("in one batch, small", "words"), ("many words " * 4, "long"), (0.5, None)],
)  # fmt: skip
def test_text_may_break_into_lines_and_a_number_may_not(value, kind):
    (cell,) = BeautifulSoup(show_table(pd.DataFrame({"x": [value]})).to_html(), "html.parser").tbody.find_all("td")
    assert ({"long", "words"} & set(cell.get("class", []))) == ({kind} if kind else set())


def test_the_fold_out_names_every_run_and_its_origin(evidence):
    page = soup(Page("shin2023_table1").table(TABLE, "methods", "Methods", evidence))
    fold = page.find("details", class_="evidence")
    assert fold.summary.text == "Evidence: 3 runs"
    table, runs = (csv_of(link) for link in fold.find_all("a", download=True))
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(table), index_col=0), TABLE)
    listed = pd.read_csv(io.StringIO(runs), index_col="run")
    assert set(listed.index) == {r.hash for r in evidence.records}
    for record in evidence.records:
        row = listed.loc[record.hash]
        assert (row.device, row.code, row.seconds) == ("cpu", record.run["code"][:12], 60.0)
        assert row.digest == record.digest[:12]
        assert f"seed={record.spec.seed}" in row.what
    assert {td.text for td in fold.find("details").find_all("td")} >= {r.hash for r in evidence.records}


def test_the_commands_of_the_fold_out_make_these_runs(evidence, capsys):
    page = soup(Page("shin2023_table1").table(TABLE, "methods", "", evidence.only(problem="left-right")))
    run, papermill = page.find("pre").text.splitlines()
    assert papermill == ".venv/bin/papermill notebooks/shin2023_table1.ipynb out.ipynb -p profile quick"
    words = run.split()
    assert words[:4] == [".venv/bin/python", "-m", "sparsemtl", "run"]
    assert main(["list", *words[4:]]) == 0
    assert "problem=left-right" in capsys.readouterr().out


def test_runs_of_a_gpu_are_made_again_on_one(evidence, make_record):
    records = tuple(make_record(r.spec, r.result, device="NVIDIA H200") for r in evidence.records)
    page = soup(Page("shin2023_table1").table(TABLE, "methods", "", replace(evidence, records=records)))
    run, papermill = page.find("pre").text.splitlines()
    assert run.endswith(" --device cuda")
    assert papermill.endswith(" -p profile quick -p device cuda")


def test_choices_of_runs_add_up(evidence):
    narrowed = replace(evidence, options="--table table1").only(problem="left-right").only(subject=1)
    assert narrowed.options.split() == ["--table", "table1", "--param", "problem=left-right", "--param", "subject=1"]


def test_title_and_author_of_a_citation_are_those_of_the_repository():
    cited = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text())
    assert (cited["title"], cited["authors"][0]["name"]) == (TITLE, AUTHOR)


def test_other_parameters_of_the_notebook_are_in_its_command(evidence):
    page = soup(Page("upadhyay2023_table1", {"protocol": "released"}).table(TABLE, "table", "", evidence))
    assert page.find("pre").text == (
        ".venv/bin/papermill notebooks/upadhyay2023_table1.ipynb out.ipynb -p profile quick -p protocol released"
    )


def test_a_citation_has_the_anchor_and_the_set_of_records(evidence):
    page = soup(Page("shin2023_table1").table(TABLE, "methods", "Methods", evidence))
    bibtex, key = page.find_all("pre")[-1].text, set_hash(evidence.records)
    assert bibtex.startswith(f"@misc{{sparsemtl-shin2023-table1-methods-{key[:8]},")
    assert f"notebooks/shin2023\\_table1.html\\#{ANCHOR}methods; 3 run records, set {key}" in bibtex
    assert not re.search(r"(?<!\\)[#$%&_]", bibtex.split("\n", 1)[1])  # TeX would read a command
    assert bibtex.count("{") == bibtex.count("}")
    assert "year   = {2024}" in bibtex


def test_runs_are_listed_once_a_page(evidence):
    page = Page("shin2023_table1")
    page.table(TABLE, "first", "", evidence)
    again = soup(page.table(TABLE, "second", "", evidence))
    assert again.find("details").find("details") is None
    assert again.find("a", href=f"#{ANCHOR}first")


def test_evidence_that_is_not_there_says_how_to_make_it():
    nothing = Evidence("shin2023", "committed", "full", (), 9)
    page = soup(Page("shin2023_table1").table(pd.DataFrame(), "methods", "", nothing))
    assert "not run" in page.find("table").text
    assert page.find("summary").text == "Evidence: 0 runs"
    assert "sparsemtl run shin2023 --profile full" in page.find("pre").text
    assert "@misc" not in page.text


def test_a_finding_is_text_not_markup(evidence):
    page = soup(Page("shin2023_sparsity").finding("a < b & c", "two-classes", evidence))
    assert page.find("p", class_="finding").text == "What it shows: a < b & c"
    assert page.find("summary").text == "Evidence: 3 runs"


def test_the_set_of_records_has_one_name_in_any_order_and_another_after_a_change(evidence, make_record):
    records = list(evidence.records)
    assert set_hash(records) == set_hash(records[::-1]) == set_hash(records + records[:1])
    changed = make_record(records[0].spec, {"value": 0.25})
    assert set_hash([changed, *records[1:]]) != set_hash(records)


def test_list_prints_the_set_that_a_page_cites(evidence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from papers.shin2023 import study as shin2023

    records = [type(evidence.records[0])(s, {"value": 1}, evidence.records[0].run) for s in shin2023.specs("quick")[:4]]
    write_jsonl(tmp_path / "results/shin2023/quick/a.jsonl", records)
    main(["list", "shin2023", "--hash", *(r.hash for r in records)])
    assert re.search(r"record set (\w+)", capsys.readouterr().err)[1] == set_hash(records)
