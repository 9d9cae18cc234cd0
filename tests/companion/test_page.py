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


def stored(foot):  # for cells.js
    return json.loads(soup(foot).find("script", class_="runs").string)


def downloaded(shown, file=True):
    csv = soup(shown).find("a", download=file)["href"].partition(";base64,")[2]
    return pd.read_csv(io.BytesIO(base64.b64decode(csv)), index_col=0)


def test_a_table_has_a_heading_for_each_column_and_a_sign_for_a_gap_and_can_be_taken_away_as_csv(page, evidence):
    html = page.table(TABLE, "methods", "Methods & more", evidence, labels={"or": "proposed", "method": "Method"})
    shown = soup(html)
    assert (shown.div["id"], shown.table.caption.text) == (f"{ANCHOR}methods", "Methods & more")
    assert [th.text for th in shown.thead.find_all("th")] == ["Method", "accuracy"]
    assert [cell.text for cell in shown.tbody.find_all(["th", "td"])] == ["proposed", "0.123", "rigl", NONE]
    assert {td["data-label"] for td in shown.find_all("td")} == {"accuracy"}
    pd.testing.assert_frame_equal(downloaded(html), TABLE)  # with its keys, not with their labels


def test_a_verdict_has_a_shape_of_its_own():
    shown = soup(show_table(pd.DataFrame({"verdict": WORDS}))).find_all("td")
    assert [td.text for td in shown] == [f"{MARKS[word]} {word}" for word in WORDS]
    assert len({MARKS[word] for word in WORDS}) == len(WORDS)


def test_a_cell_leads_to_its_runs_its_command_and_the_published_value(page, evidence):
    published = pd.DataFrame({"accuracy": [0.645, np.nan]}, index=TABLE.index)
    table = soup(page.table(TABLE, "t", "", evidence, runs=lambda m, _: evidence.only(method=m), published=published))
    data = stored(page.foot())
    assert [td.get("data-published") for td in table.find_all("td")] == ["0.645", None]
    for cell, method in zip(table.find_all("td"), TABLE.index, strict=True):
        behind, mine = data["sets"][int(cell["data-set"])], [r for r in evidence.records if r.spec.method == method]
        assert [list(data["runs"])[i] for i in behind["runs"]] == [r.hash for r in mine]
        assert behind["key"] == set_hash(mine)
        assert f"run shin2023 --profile small --table table1 --param method={method}" in behind["command"]
    assert len(data["sets"][int(table.find(class_="links")["data-set"])]["runs"]) == 6
    known = {name: (row["device"], row["data"], row["digest"]) for name, row in data["runs"].items()}
    assert known == {r.hash: ("cpu", "simulated-eeg", r.digest[:12]) for r in evidence.records}


def test_the_foot_is_one_panel_with_every_run_and_a_citation_that_names_version_and_set(page, evidence):
    page.table(TABLE, "a", "", evidence)
    page.table(TABLE, "b", "", evidence.only(method="or"))
    foot = page.foot()
    assert len(soup(foot).find_all("details")) == 1
    assert set(downloaded(foot, file="shin2023_table1-runs.csv").index) == {r.hash for r in evidence.records}
    cite = soup(foot).find_all("pre")[-1].text
    assert cite.startswith("@misc{sparsemtl-shin2023-table1,")
    assert f"Version {pages.VERSION}" in cite
    whole, part = (f"{len(r)} run records, set {set_hash(r)}" for r in (evidence.records, evidence.records[:3]))
    assert f"; {whole}" in cite
    assert not re.search("@[A-Z]{2}", cite)
    assert stored(foot)["sets"][1]["note"] == part


def test_a_page_of_other_parameters_gives_the_command_that_makes_it_again(evidence):
    page = Page("shin2023_table1", parameters={"protocol": "corrected"})
    page.table(TABLE, "a", "", evidence)
    words = "papermill notebooks/shin2023_table1.ipynb out.ipynb -p profile small -p protocol corrected"
    assert soup(page.foot()).pre.text == f".venv/bin/{words}"


def test_without_runs_the_page_says_so_and_still_has_its_command(page):
    nothing = Evidence("shin2023", "committed", "small", (), 5, "--table table1")
    shown = soup(page.table(pd.DataFrame(), "t", "", nothing), page.foot())
    assert shown.td.text.endswith("not run")
    assert "sparsemtl run shin2023 --profile small --table table1" in shown.find("pre").text


def test_a_benchmark_is_behind_a_table_with_its_machine_and_command(page):
    where = {"device": "cpu", "processor": "P", "cores": 2, "threads": 1, "python": "3.11", "packages": {},
             "script": "prox", "arguments": "--turns 3", "ended": "2026-01-02T00:00:00"}  # fmt: skip
    measured = Benchmark("prox", {"a": {"unit": "s", "values": [1.0]}}, (), {}, where)
    page.table(TABLE, "t", "", [measured])
    foot = page.foot()
    behind = stored(foot)["sets"][0]
    assert behind["key"] == measured.digest[:16]
    assert "python benchmarks/prox.py --turns 3" in behind["command"]
    assert "2 cores" in soup(foot).details.text
    assert f"; 1 benchmark record, digest {measured.digest[:8]}}}" in soup(foot).find_all("pre")[-1].text


def test_text_from_records_cannot_become_markup(page, make_record):
    evil = "<script>alert(1)</script>"
    record = make_record(result={"metrics": {evil: 0.5}}, device=evil, revision=evil, code=evil)
    table = page.table(pd.DataFrame({"<b>x</b>": [evil]}), "t", "<i>", Evidence("shin2023", "", "quick", (record,), 1))
    shown = soup(page.takeaway("a < b, **sure**"), table, page.foot())
    assert (shown.find_all(["b", "i"]), shown.strong.text, len(shown.find_all("script"))) == ([], "sure", 1)


def test_a_figure_is_drawn_in_the_pages_ink_at_its_own_width_with_ids_of_its_own(page):
    use_style()
    fig, ax = plt.subplots(figsize=(6, 2))
    ax.plot([0, 1], label="a < b")
    ax.legend()
    picture = soup(page.figure(fig, "lines", "What it shows", alt="Two lines")).svg
    assert (picture["role"], picture["aria-label"]) == ("img", "Two lines")
    assert "width: 576px" in picture["style"]
    assert all(e["id"].startswith("lines-") for e in picture.find_all(id=True))
    assert not picture.find_all(["style", "metadata"])
    assert fig.number not in plt.get_fignums()  # it is closed
    assert (INK in str(picture), "a < b" in picture.text) == (False, True)


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
    assert [td.text for td in soup(page.claims(evidence)).tbody.find_all("td")] == [
        "A holds.", "+3.0", "+3.5 [+2.3, +4.7]", "3 people", "✔ reproduced", "Three people."
    ]  # fmt: skip
