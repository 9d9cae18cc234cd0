"""The scorecard and the landing page follow the records, for any paper, with or without runs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from companion import claims, scorecard
from companion.claims import Claim, Effects
from companion.page import Page
from companion.papers import names
from companion.records import write_jsonl

A = Claim("a", "A over B", "Table 1", "A beats B.", "toy_table1", "points", "people", 0.02, 0.03)
C = Claim("c", "C over D", "Table 2", "C beats D.", "toy_table2", "percent", "seeds", 0.02)
CONTROL = replace(A, id="control", short="beats no input", sentence="Networks beat no input.", control=True)
VALUES = {"a": [0.06, 0.061, 0.059], "c": [-0.02, 0.02, 0.03], "control": [-0.05, -0.051, -0.052]}


@pytest.fixture
def toy(monkeypatch, make_record, tiny_spec, tmp_path):
    """(values by claim) -> {paper: [Judged]} of a made-up paper that is the only one."""
    study = SimpleNamespace(
        NAME="shin2023", CLAIMS=(A, C, CONTROL), TITLE="Toy & al. 2030", ARXIV="3001.00001", HEADLINE="c", MAIN=None,
        ABOUT="C beats D by far.", PROFILE_WORDS={"small": "small toys"},
        all_specs=lambda profile: [tiny_spec(profile=profile)],
    )  # fmt: skip
    write_jsonl(tmp_path / "shin2023/small/a.jsonl", [make_record(tiny_spec(profile="small"))])

    def make(values):
        parts = {"left": pd.Series([0.5, 0.51])}
        effects = {k: lambda e, v=v: Effects(pd.Series(v), parts, "Three only.") for k, v in values.items()}
        fakes = {"study": lambda name: study, "part": lambda name, what: SimpleNamespace(EFFECTS=effects),
                 "study_of": lambda name: study, "names": lambda: ("shin2023",)}  # fmt: skip
        for module in (scorecard, claims):
            for name in fakes.keys() & vars(module).keys():
                monkeypatch.setattr(module, name, fakes[name])
        return scorecard.judged_of_all(scorecard.evidence_of_all(tmp_path))

    return make


def soup(text):
    return BeautifulSoup(text, "html.parser")


def card(judged, folder):
    """The table of the scorecard, with its runs at the foot (HTML)."""
    page = Page("scorecard")
    return scorecard.table(judged, scorecard.evidence_of_all(folder), page).data + page.foot().data


def test_without_records_every_paper_still_has_its_page(tmp_path):
    judged = scorecard.judged_of_all(scorecard.evidence_of_all(tmp_path))
    assert set(judged) == set(names())
    assert {j.verdict for found in judged.values() for j in found} <= {"not run", "not tested"}
    assert soup(scorecard.front(tmp_path)).find_all("section")
    assert soup(card(judged, tmp_path)).find_all("tbody")


def test_every_claim_is_a_row_that_filters_links_and_clicks_can_find(toy, tmp_path):
    shown = soup(card(toy(VALUES), tmp_path))
    rows = {body["id"]: body for body in shown.find_all("tbody", id=True)}
    verdicts = {name: row["data-verdict"] for name, row in rows.items()}
    assert verdicts == {"a": "reproduced", "c": "undecided", "control": "contradicted"}
    assert {row["data-paper"] for row in rows.values()} == {"Toy & al. 2030"}
    assert len(rows["a"].find_all(["th", "td"])) == 7
    assert rows["a"].a["href"] == "toy_table1.html"
    data = json.loads(shown.find("script", class_="runs").string)
    assert [len(data["sets"][int(td["data-set"])]["runs"]) for td in rows["a"].find_all("td")] == [1] * 6


def test_a_fold_out_says_what_would_decide_an_open_claim(toy, tmp_path):
    _, c, _ = (judged := toy(VALUES))["shin2023"]
    fold = soup(card(judged, tmp_path)).find(id="c").details.text
    assert all(said in fold for said in (str(c.n_to_decide), C.shown(c.high), "left"))


def test_a_failed_control_comes_first_then_claims(toy):
    judged = toy(VALUES | {"a": [-0.1, -0.11, -0.12]})
    assert [j.claim.id for j in scorecard.surprises(judged)] == ["control", "a"]
    assert [j.claim.id for j in scorecard.surprises(toy(VALUES | {"control": [0.1, 0.11, 0.12]}))] == []


def test_the_figure_has_a_linear_panel_for_each_unit_with_every_interval_in_it(toy):
    judged = toy(VALUES)
    points, percent = scorecard.forest(judged).axes
    plt.close()
    shown = {round(x, 6) for ax in (points, percent) for line in ax.lines for x in np.atleast_1d(line.get_xdata())}
    for j in judged["shin2023"]:
        assert {round(100 * v, 6) for v in (j.mean, j.low, j.high)} <= shown
    assert [len(ax.get_yticklabels()) for ax in (points, percent)] == [3, 2]  # the name of the paper, then its claims
    assert {ax.get_xscale() for ax in (points, percent)} == {"linear"}


def test_the_landing_page_answers_what_was_claimed_found_how_sure_and_what_limits_it(toy, tmp_path):
    toy(VALUES)
    page = soup(scorecard.front(tmp_path))
    for answer in ("C beats D by far.", "undecided", "[", "3 seeds", "Three only."):
        assert answer in page.section.text
    assert page.section.a["href"] == "https://arxiv.org/abs/3001.00001"
    assert "Networks beat no input" in page.find(class_="surprises").text
    assert len(page.find_all("figure")) == 1
    page.svg.decompose()
    assert len(page.get_text(" ").split()) <= 350


def test_bars_count_the_claims_of_a_paper_but_not_its_controls(toy):
    assert [span.text[0] for span in soup(scorecard.bars(toy(VALUES))).select(".verdicts span")] == ["1", "1"]
