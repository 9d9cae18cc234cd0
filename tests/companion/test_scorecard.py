"""The scorecard: which runs a verdict rests on, and that it follows them."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from companion import scorecard
from companion.evidence import Evidence
from companion.page import Page
from companion.records import RunRecord, read_jsonl, write_jsonl
from made_up import made_up_record
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023
from papers.upadhyay2023 import tables as report
from scipy import stats
from sparsemtl.errors import RecordError

ROOT = Path(__file__).parents[2]
NOTHING = Evidence("shin2023", "committed", "full", (), 9)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def vision(make_record):
    """(profile, seeds) -> Evidence of every table run of the vision study with these seeds."""

    def make(profile, seeds, keep=lambda spec: True):
        specs = [s for s in upadhyay2023.all_specs(profile) if s.seed in seeds and keep(s)]
        records = tuple(made_up_record(s, make_record) for s in specs)
        return Evidence("upadhyay2023", "committed", profile, records, len(specs))

    return make


def row_of(table, study, claim):
    sentence = next(c.sentence for c in study.CLAIMS if c.id == claim)
    found = table[table.claim == sentence]
    assert len(found) == 1
    return found.iloc[0]


def test_nothing_run_is_one_row_a_claim_that_says_so():
    table = scorecard.scorecard({"shin2023": [NOTHING], "upadhyay2023": [NOTHING]})
    assert len(table) == len(shin2023.CLAIMS) + len(upadhyay2023.CLAIMS)
    assert set(table.verdict) == {"not run"}
    assert table[["effect", "low", "high"]].isna().all(axis=None)
    told = scorecard.story(table)
    assert f"**{len(table)}** not run" in told
    assert "rest on" not in told
    (axes,) = scorecard.effects(table).axes
    assert [text.get_text() for text in axes.texts] == ["not run"] * len(table)


def test_the_largest_profile_that_has_the_runs_decides_and_is_named(vision):
    small = vision("small", (0, 1))
    full = vision("full", range(5), keep=lambda s: s.params["tasks"] == upadhyay2023.ALL_NYU)
    table = scorecard.scorecard({"upadhyay2023": [full, small]})
    on_full = row_of(table, upadhyay2023, "upadhyay-all-zero")
    on_small = row_of(table, upadhyay2023, "upadhyay-sparse-beats-dense-nyu")
    assert (on_full.profile, on_full["paired over"]) == ("full", "5 seeds")
    assert on_small.profile == "small"
    told = scorecard.story(table)
    for profile, words in (("small", "real pictures, smaller networks"), ("full", "the paper's sizes of networks")):
        n = (table.profile == profile).sum()
        assert f"Of Upadhyay et al. 2023, {n} rest on runs of the profile `{profile}`: {words}" in told
    listed = report.findings([full, small])
    assert listed.count("(profile full)") == (table.profile == "full").sum()
    assert listed.count("(profile small)") == (table.profile == "small").sum()
    assert f"From {len(full.records)} runs" in listed
    judged = int(table.low.notna().sum())
    assert f"up to {0.025 * judged:.1f} of the {judged} with an interval would be *reproduced*" in told


def test_a_larger_profile_that_is_begun_does_not_decide(vision):
    """One seed of five gives no interval: the two seeds of the smaller profile say more until all are there."""
    small, begun = vision("small", (0, 1)), vision("full", range(4))
    table = scorecard.scorecard({"upadhyay2023": [begun, small]})
    assert set(table.profile) == {"small"}
    assert "(profile" not in report.findings([begun, small])
    alone = scorecard.scorecard({"upadhyay2023": [begun]})
    assert set(alone.profile) == {"full"}


def test_effects_are_percentages_with_the_interval_of_scipy(vision):
    full = vision("full", (0, 1, 2))
    row = row_of(scorecard.scorecard({"upadhyay2023": [full]}), upadhyay2023, "upadhyay-faster")
    assert row.effect == pytest.approx(5.0)  # 0.1 of 2 milliseconds in the made-up times
    row = row_of(scorecard.scorecard({"upadhyay2023": [full]}), upadhyay2023, "upadhyay-sparse-beats-dense-celeba")
    from papers.upadhyay2023 import tables as report

    values = 100 * report.sparse_gain_celeba(report.select(report.frame(full.records)))
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert (row.effect, row.low, row.high) == pytest.approx((values.mean(), low, high))


def test_one_seed_gives_no_interval_and_no_verdict(vision):
    table = scorecard.scorecard({"upadhyay2023": [vision("full", (0,))]})
    assert set(table.verdict) == {"inconclusive"}
    assert table.low.isna().all()
    assert f"{len(table)} have one seed, which" in scorecard.story(table)
    assert "no interval: one seed or subject" in [t.get_text() for t in scorecard.effects(table).legends[0].get_texts()]


def test_every_claim_leads_to_a_page_of_the_book():
    for claim in (*shin2023.CLAIMS, *upadhyay2023.CLAIMS):
        notebook = ROOT / "notebooks" / f"{claim.page}.ipynb"
        cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
        assert any(cell.startswith("page.claims(") for cell in cells), claim.page


def test_a_profile_that_no_verdict_rests_on_is_not_its_evidence(vision):
    small, begun = vision("small", (0, 1)), vision("full", (0,), keep=lambda s: s.params["tasks"] == "seg")
    evidences = {"shin2023": [NOTHING], "upadhyay2023": [begun, small]}
    assert scorecard.behind(scorecard.scorecard(evidences), evidences) == [small]
    nothing = {"shin2023": [NOTHING], "upadhyay2023": [replace(NOTHING, study="upadhyay2023")]}
    assert scorecard.behind(scorecard.scorecard(nothing), nothing) == [e for found in nothing.values() for e in found]


@pytest.fixture
def results(tmp_path):
    """A copy of the committed EEG records."""
    for path in (ROOT / "results" / "shin2023").glob("*/*.jsonl"):
        target = tmp_path / path.relative_to(ROOT / "results")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def state(results):
    """(table, verdicts, ticks of the figure's points, CSV and anchor) as the page would show them."""
    evidences = scorecard.evidence_of_all(results)
    card = scorecard.scorecard(evidences)
    points = [line.get_xydata().tolist() for line in scorecard.effects(card).axes[0].lines]
    shown = Page("scorecard").table(card, "claims", "", scorecard.behind(card, evidences)).data
    return card, card.verdict.tolist(), points, shown


def ruined(record):
    """The record, of the proposed method at 80 % in the problem of four classes without any accuracy."""
    p = record.spec.params
    if (record.spec.method, p["sparsity"], p["problem"]) != ("or", 0.8, "four-class") or p["labels"] != "true":
        return record
    metrics = record.result["metrics"] | {"mi_accuracy": 0.0, "me_accuracy": 0.0}
    return RunRecord(record.spec, record.result | {"metrics": metrics}, record.run)


def test_changed_values_change_table_figure_verdict_and_csv(results):
    card, verdicts, points, page = state(results)
    shown = scorecard.evidence_of_all(results)["shin2023"][0].profile
    for path in (results / "shin2023" / shown).glob("*.jsonl"):
        write_jsonl(path, map(ruined, read_jsonl(path)))
    other_card, other_verdicts, other_points, other_page = state(results)
    robust = card.claim.str.contains("loses less") & card["tested on"].str.contains("feet")
    assert other_card.effect[robust].item() < card.effect[robust].item()
    assert other_points != points
    assert verdicts != other_verdicts
    for before, after in zip(page.split("base64,")[1:], other_page.split("base64,")[1:], strict=True):
        assert before.split('"')[0] != after.split('"')[0]


def test_a_value_changed_by_hand_stops_the_page_and_is_named(results):
    path = next((results / "shin2023/small").glob("four-class-seed0.jsonl"))
    lines = path.read_text().splitlines()
    value = json.loads(lines[4])
    value["result"]["metrics"]["mi_accuracy"] = 1.0
    lines[4] = json.dumps(value)
    path.write_text("\n".join(lines))
    with pytest.raises(RecordError, match=rf"four-class-seed0\.jsonl line 5: run {value['hash']}.*a value was changed"):
        scorecard.evidence_of_all(results)
