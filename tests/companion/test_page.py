"""What a notebook shows: tables, figures, and the data by which a cell finds its runs."""

import base64
import io
import json
import re
from types import SimpleNamespace

import altair
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from companion import page as pages
from companion.claims import WORDS, Claim, Effects
from companion.evidence import Evidence
from companion.page import ANCHOR, MARKS, NONE, Page, show_table
from companion.records import set_hash
from companion.style import INK, use_style
from measured import Benchmark

TABLE = pd.DataFrame({"accuracy": [0.12345, np.nan]}, index=pd.Index(["or", "rigl"], name="method"))


@pytest.fixture
def evidence(make_record, tiny_spec):
    records = tuple(make_record(tiny_spec(m, 0.4, seed), {"value": seed}) for m in ("or", "rigl") for seed in (0, 1, 2))
    return Evidence("shin2023", "committed", "small", records, 6, "--table table1")


@pytest.fixture
def page():
    return Page("shin2023_table1", title="Shin, Table 1")


def soup(*shown):
    return BeautifulSoup("".join(each.data for each in shown), "html.parser")


def stored(foot):
    """The data for cells.js."""
    return json.loads(soup(foot).find("script", class_="runs").string)


def test_a_table_has_a_heading_for_each_column_and_a_sign_for_a_gap(page, evidence):
    shown = soup(
        page.table(TABLE, "methods", "Methods & more", evidence, labels={"or": "proposed", "method": "Method"})
    )
    assert shown.div["id"] == f"{ANCHOR}methods"
    assert shown.table.caption.text == "Methods & more"
    assert [th.text for th in shown.thead.find_all("th")] == ["Method", "accuracy"]
    assert [cell.text for cell in shown.tbody.find_all(["th", "td"])] == ["proposed", "0.123", "rigl", NONE]
    assert {td["data-label"] for td in shown.find_all("td")} == {"accuracy"}


def test_columns_may_have_digits_of_their_own(page):
    shown = soup(page.table(pd.DataFrame({"effect": [1.25], "p": [0.0246]}), "t", "", digits={"effect": 1}))
    assert [cell.text for cell in shown.find_all("td")] == ["1.2", "0.025"]


def test_the_table_can_be_taken_away_as_csv_with_its_keys(page, evidence):
    link = soup(page.table(TABLE, "methods", "", evidence, labels={"or": "proposed"})).find("a", download=True)
    content = base64.b64decode(link["href"].partition(";base64,")[2]).decode()
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(content), index_col=0), TABLE)


@pytest.mark.parametrize("word", WORDS)
def test_a_verdict_has_a_shape_of_its_own(word):
    shown = soup(show_table(pd.DataFrame({"verdict": [word]})))
    assert shown.td.text == f"{MARKS[word]} {word}"
    assert len({MARKS[w] for w in WORDS}) == len(WORDS)


def test_a_cell_leads_to_its_runs_its_command_and_the_published_value(page, evidence):
    published = pd.DataFrame({"accuracy": [0.645, np.nan]}, index=TABLE.index)
    table = page.table(
        TABLE, "t", "", evidence, runs=lambda row, column: evidence.only(method=row), published=published
    )
    data = stored(page.foot())
    names = list(data["runs"])
    ours, rival = soup(table).find_all("td")
    assert (ours["data-published"], rival.get("data-published")) == ("0.645", None)
    for cell, method in ((ours, "or"), (rival, "rigl")):
        behind, mine = data["sets"][int(cell["data-set"])], [r for r in evidence.records if r.spec.method == method]
        assert [names[i] for i in behind["runs"]] == [r.hash for r in mine]
        assert behind["key"] == set_hash(mine)
        assert f"run shin2023 --profile small --table table1 --param method={method}" in behind["command"]
    whole = data["sets"][int(soup(table).find(class_="links")["data-set"])]
    assert len(whole["runs"]) == 6
    for record in evidence.records:
        row = data["runs"][record.hash]
        assert (row["device"], row["data"], row["digest"]) == ("cpu", "simulated-eeg", record.digest[:12])


def test_the_foot_is_one_panel_with_every_run_and_a_citation_that_names_version_and_set(page, evidence):
    page.table(TABLE, "a", "", evidence)
    page.table(TABLE, "b", "", evidence.only(method="or"))
    foot = page.foot()
    shown = soup(foot)
    assert len(shown.find_all("details")) == 1
    link = shown.find("a", download="shin2023_table1-runs.csv")
    runs = pd.read_csv(io.StringIO(base64.b64decode(link["href"].partition(";base64,")[2]).decode()), index_col="run")
    assert set(runs.index) == {r.hash for r in evidence.records}
    cite = shown.find_all("pre")[-1].text
    assert "@misc{sparsemtl-shin2023-table1," in cite
    assert f"; 6 run records, set {set_hash(evidence.records)}" in cite
    part = set_hash(evidence.only(method="or").records)
    assert stored(foot)["sets"][1]["note"] == f"3 run records, set {part}"
    assert f"Version {pages.VERSION}" in cite
    assert not re.search("@[A-Z]{2}", cite)


def test_a_page_of_other_parameters_gives_the_command_that_makes_it_again(evidence):
    page = Page("shin2023_table1", parameters={"protocol": "corrected"})
    page.table(TABLE, "a", "", evidence)
    (commands, _) = soup(page.foot()).find_all("pre")
    assert commands.text.split("\n") == [
        ".venv/bin/papermill notebooks/shin2023_table1.ipynb out.ipynb -p profile small -p protocol corrected"
    ]


def test_without_runs_the_page_says_so_and_still_has_its_command(page):
    nothing = Evidence("shin2023", "committed", "small", (), 5, "--table table1")
    shown = soup(page.table(pd.DataFrame(), "t", "", nothing), page.foot())
    assert shown.td.text.endswith("not run")
    assert "sparsemtl run shin2023 --profile small --table table1" in shown.find("pre").text


def test_a_benchmark_is_behind_a_table_with_its_machine_and_command(page):
    packages = {"torch": "2.11.0"}
    where = {"device": "cpu", "processor": "P", "cores": 2, "threads": 1, "python": "3.11", "packages": packages,
             "script": "prox", "arguments": "--turns 3", "ended": "2026-01-02T00:00:00"}  # fmt: skip
    measured = Benchmark("prox", {"a": {"unit": "s", "values": [1.0]}}, (), {}, where)
    page.table(TABLE, "t", "", [measured])
    foot = page.foot()
    (behind,) = stored(foot)["sets"][:1]
    assert behind["key"] == measured.digest[:16]
    assert "python benchmarks/prox.py --turns 3" in behind["command"]
    assert "2 cores" in soup(foot).details.text
    assert f"; 1 benchmark record, digest {measured.digest[:8]}}}" in soup(foot).find_all("pre")[-1].text


def test_text_from_records_cannot_become_markup(page, make_record):
    evil = "<script>alert(1)</script>"
    record = make_record(result={"metrics": {evil: 0.5}}, device=evil, revision=evil, code=evil)
    evidence = Evidence("shin2023", "committed", "quick", (record,), 1)
    table = pd.DataFrame({"<b>x</b>": [evil]})
    shown = soup(page.takeaway("a < b, **sure**"), page.table(table, "t", "<i>", evidence), page.foot())
    assert not shown.find_all(["b", "i"])
    assert shown.strong.text == "sure"
    assert len(shown.find_all("script")) == 1


def test_a_figure_is_drawn_in_the_pages_ink_at_its_own_width_with_ids_of_its_own(page):
    use_style()
    fig, ax = plt.subplots(figsize=(6, 2))
    ax.plot([0, 1], label="a < b")
    ax.legend()
    figure = soup(page.figure(fig, "lines", "What it shows", alt="Two lines"))
    picture = figure.svg
    assert (picture["role"], picture["aria-label"]) == ("img", "Two lines")
    assert "width: 576px" in picture["style"]
    assert all(e["id"].startswith("lines-") for e in picture.find_all(id=True))
    assert not picture.find_all(["style", "metadata"])
    assert INK not in str(picture)
    assert "a < b" in picture.text
    assert not plt.get_fignums()


def test_an_interactive_chart_has_a_still_twin_that_shows_the_same(page, evidence):
    data = pd.DataFrame({"sparsity": [0, 40], "accuracy": [0.5, 0.6]})
    shown = soup(page.chart(altair.Chart(data).mark_line().encode(x="sparsity", y="accuracy"), "c", "", evidence))
    spec = json.loads(shown.find("script", class_="vega").string)
    assert spec["encoding"]["x"]["field"] == "sparsity"
    assert "accuracy" in shown.find(class_="still").svg.text


def test_the_claims_of_a_page_are_those_that_name_it(page, evidence, monkeypatch):
    mine = Claim("a", "a", "x", "A holds.", "shin2023_table1", "points", "people", 0.02, 0.03)
    other = Claim("b", "b", "x", "B holds.", "another", "points", "people", 0.02)
    effects = dict.fromkeys("ab", lambda e: Effects(pd.Series([0.03, 0.035, 0.04]), limits="Three people."))
    monkeypatch.setattr(pages.rules, "study_of", lambda name: SimpleNamespace(CLAIMS=(mine, other)))
    monkeypatch.setattr(pages.rules, "part", lambda name, what: SimpleNamespace(EFFECTS=effects))
    shown = soup(page.claims(evidence))
    (row,) = shown.tbody.find_all("tr")
    assert [td.text for td in row.find_all("td")] == [
        "A holds.", "+3.0", "+3.5 [+2.3, +4.7]", "3 people", "✔ reproduced", "Three people."
    ]  # fmt: skip
