"""Effects, tables and figures of the EEG study, from made-up records whose every number is known."""

import base64
import zlib
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from companion.claims import NOT_TESTED, judge_paper
from companion.data.eeg import MOTOR9
from companion.evidence import Evidence
from companion.statistics import NOT_RUN, holm
from papers.shin2023 import claims, figures, study, tables
from scipy import stats

PEOPLE, SEEDS, TRIALS = (1, 3, 7), (0, 1), {"mi": 20, "me": 16}
RIVALS = ("random", "magnitude", "snip-single", "snip-joint", "grasp", "synflow", "lottery", "rigl", "imp")
TRUE = {"common": [0.0] * 9, "mi": list(np.linspace(0, 1, 9)), "me": list(np.linspace(1, 0, 9))}


def result_of(spec, chance=None):
    """A result whose hits are drawn from the spec alone; chance: of a hit."""
    rng, p = np.random.default_rng(zlib.crc32(spec.hash.encode())), spec.params
    tasks = ("mi",) if spec.data == study.DEVELOPMENT else ("mi", "me")
    out = {"metrics": {}, "labels": {}, "predicted": {}, "losses": {}}
    recordings = {"mi": [4, 8, 12], "me": [3] if p["subject"] == 3 else [3, 7, 11]}
    for task in tasks:
        y = np.arange(TRIALS[task]) % (3 if p["labels"] == "recording" else 2)
        hit = rng.random(len(y)) < (chance or {"dense-multi": 0.8, "tangent-space": 0.9}.get(spec.method, 0.65))
        out["labels"][task] = "".join(map(str, y))
        out["predicted"][task] = "".join(map(str, np.where(hit, y, 1 - y.clip(0, 1))))
        out["losses"][task] = base64.b64encode(bytes(len(y))).decode()
        out["metrics"] |= {f"{task}_{name}": hit.mean() for name in ("accuracy", "f1")} | {f"{task}_loss": 0.6}
    out["data"] = {"fingerprint": "f" * 64, "recordings": {t: recordings[t] for t in tasks}}
    if spec.method not in study.CLASSICAL:
        out["metrics"] |= {f"{t}_{n}": v for t in tasks for n, v in (("train_accuracy", 1.0), ("train_loss", 0.1))}
        share = p["sparsity"] * (0.5 if spec.method == "or" else 1)
        out |= {"sparsity": dict.fromkeys(("whole", "shared", *tasks), share), "weights": 100}
    if spec.method in ("dense-multi", "or"):
        test = [0.7, 0.6, 0.5, 0.6] if spec.method == "or" else [0.7, 0.65, 0.8, 1.0]
        out["curve"] = {"epochs": [1, 2, 3, 4], "train": [0.7, 0.4, 0.2, 0.1], "test": test}
    if spec.method == "or" and p["sparsity"] == 0.4 and p["labels"] == "true":
        numbers = {k: round(rng.random(), 4) for k in (*tables.VOTE_COLUMNS, "mi", "me", "or")}
        maps = {"mi_score": TRUE["mi"], "me_score": TRUE["me"], "mi_only": [1] * 9, "me_only": [2] * 9, "both": [3] * 9}
        layers = [["temporal", numbers], ["spatial", numbers]]
        out["votes"] = {"layers": layers, "electrodes": maps, "channels": list(MOTOR9)}
        out["data"] |= {"truth": TRUE} if "shared" in p else {}
    return out


@pytest.fixture(scope="module")
def records(make_record):
    """A record of every cell for three people and two seeds, with its controls and the second trunk."""
    specs = study.specs("small", subjects=PEOPLE, seeds=SEEDS)
    specs += [s for s in study.control_specs("small") + study.trunk_specs("small")
              if s.params["subject"] in PEOPLE and s.seed in SEEDS]  # fmt: skip
    specs += [s for s in study.truth_specs("small") if s.params["subject"] in (1, 2)]
    specs += [spec for name, spec in study.development_runs() if name in ("the recipe", "5 taps")]
    return [make_record(spec, result_of(spec)) for spec in specs]


@pytest.fixture(scope="module")
def accuracies(records):
    """Accuracy by method, sparsity, labels, task, problem, person and seed (Series), straight from the metrics."""
    rows = {
        (r.spec.method, r.spec.params["sparsity"], r.spec.params["labels"], task, r.spec.params["problem"],
         r.spec.params["subject"], r.spec.seed): r.result["metrics"][f"{task}_accuracy"]
        for r in claims.of_kind(records) for task in ("mi", "me")
    }  # fmt: skip
    names = ["method", "sparsity", "labels", "task", "problem", "person", "seed"]
    return pd.Series(rows).rename_axis(names).sort_index()


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def evidence_of(records):
    return Evidence("shin2023", "committed", "small", tuple(records), len(records))


def test_each_effect_is_its_contrast_of_mean_accuracies(records, accuracies):
    def mean(method, sparsity=0.0, labels="true", **kept):
        own = accuracies.xs((method, sparsity, labels), level=("method", "sparsity", "labels"))
        for level, value in kept.items():
            own = own.xs(value, level=level)
        return own.groupby("person").mean()

    levels, dense = (0.2, 0.4, 0.8), mean("dense-multi")
    budget = sum(mean("budget", s) for s in levels) / 3
    others = sum(mean(m, s) for m in RIVALS for s in levels) / 3 / len(RIVALS)
    by_task = [
        sum([mean("or", s, task=t) for s in levels] + [mean("dense-multi", task=t)]) / 4 for t in ("me", "mi")
    ]  # fmt: skip
    wanted = {
        "shin-multitask": dense - mean("dense-single"),
        "shin-sparse-beats-dense": mean("or", 0.4) - dense,
        "shin-best-method": budget - others,
        "shin-robust": mean("or", 0.8) - dense + 0.02,
        "shin-best-at-40": mean("or", 0.4) - (mean("or", 0.2) + mean("or", 0.8) + dense) / 3,
        "shin-me-above-mi": by_task[0] - by_task[1],
        "shin-control-labels": dense - mean("dense-multi", labels="shuffled"),
        "shin-control-classical": mean("dense-single") - mean("tangent-space"),
        "shin-control-random": budget - sum(mean("random", s) for s in levels) / 3,
    }
    for claim, expected in wanted.items():
        found = tables.EFFECTS[claim](evidence_of(records))
        pd.testing.assert_series_equal(found.pooled, expected, check_names=False)
        assert found.within[0] <= found.pooled.mean() <= found.within[1]
        assert not found.not_tested
    assert set(wanted) | {"shin-overfitting", "shin-control-truth"} == {c.id for c in study.CLAIMS}


def test_the_parts_of_a_pooled_effect_average_to_it(records):
    found = tables.EFFECTS["shin-multitask"](evidence_of(records))
    for names in (study.PROBLEMS.values(), study.TASKS.values()):
        mean = sum(found.parts[name] for name in names) / 2
        pd.testing.assert_series_equal(mean, found.pooled, check_names=False)


def test_the_interval_for_these_people_is_that_of_a_binomial_mean(make_record):
    """One cell, one seed: drawing trials again gives the standard error of a mean."""
    spec = study.specs("small", "left-right", ("dense-single",), (1,), (0,))[0]
    result = result_of(spec)
    result["predicted"]["mi"] = result["labels"]["mi"][:12] + "8" * 8
    found = claims.contrast([make_record(spec, result)], {("dense-single", 0.0): 1}, tasks={"mi": 1})
    half = 1.96 * np.sqrt(0.6 * 0.4 / 20)
    assert found.within == pytest.approx((0.6 - half, 0.6 + half), abs=0.04)


def test_whoever_lacks_a_cell_is_left_out_and_seeds_are_paired(records):
    rest = [
        r for r in records
        if (r.spec.method, r.spec.params["subject"]) != ("rigl", 7) and (r.spec.method, r.spec.seed) != ("imp", 1)
    ]  # fmt: skip
    found = tables.EFFECTS["shin-best-method"](evidence_of(rest)).pooled
    assert list(found.index) == [1, 3]
    first = [r for r in rest if r.spec.seed == 0]
    pd.testing.assert_series_equal(found, tables.EFFECTS["shin-best-method"](evidence_of(first)).pooled)


def test_overfitting_is_read_where_both_trained_as_far_and_scores_follow_the_private_sources(records):
    assert tables.EFFECTS["shin-overfitting"](evidence_of(records)).pooled.tolist() == pytest.approx([0.4] * 3)
    assert tables.EFFECTS["shin-control-truth"](evidence_of(records)).pooled.tolist() == pytest.approx([1, 1])
    curve = {"train": [0.8, 0.4, 0.5, 0.1], "test": [1.0, 2.0, 9.0, 3.0]}
    assert claims.test_loss_at(curve, 0.6) == pytest.approx(1.5)
    assert claims.test_loss_at(curve, 0.1) == pytest.approx(3.0)


def test_a_comparison_at_other_sparsities_than_asked_is_not_tested(records, make_record):
    def denser(record):
        wrong = record.result | {"sparsity": record.result["sparsity"] | {"whole": 0.1}}
        return make_record(record.spec, wrong)

    changed = [denser(r) if (r.spec.method, r.spec.params["sparsity"]) == ("budget", 0.4) else r for r in records]
    assert "30.0 points" in tables.EFFECTS["shin-best-method"](evidence_of(changed)).not_tested
    (judged,) = [j for j in judge_paper("shin2023", [evidence_of(changed)]) if j.claim.id == "shin-best-method"]
    assert judged.verdict == NOT_TESTED

    changed = [denser(r) if (r.spec.method, r.spec.params["sparsity"]) == ("rigl", 0.4) else r for r in records]
    found = tables.EFFECTS["shin-best-method"](evidence_of(changed))
    assert "RigL at 40" in found.limits
    assert not found.not_tested


def test_every_claim_is_judged_once_and_without_records_none_is_run(records):
    assert len(judge_paper("shin2023", [evidence_of(records)])) == len(study.CLAIMS)
    assert {j.verdict for j in judge_paper("shin2023", [evidence_of([])])} == {NOT_RUN}


def test_decodable_people_are_those_of_the_binomial_test(records):
    table, p = tables.decodable(records), []
    for problem, person in table.index:
        own = [
            r for r in claims.of_kind(records) if (r.spec.method, r.spec.params["labels"]) == ("tangent-space", "true")
        ]
        own = [r for r in own if (r.spec.params["problem"], r.spec.params["subject"]) == (problem, person)]
        right = round(sum(claims.hits(r, t).sum() for r in own for t in TRIALS) / len(own))
        p.append(stats.binomtest(right, sum(TRIALS.values()), 0.5, alternative="greater").pvalue)
    np.testing.assert_allclose(table["p (Holm)"], holm(p))
    assert tables.sure(table) == set(product(study.PROBLEMS, PEOPLE))


def test_controls_leave_out_tasks_with_one_class_and_compare_with_chance(records, accuracies):
    table = tables.controls(records)
    shuffled = table.loc["labels shuffled within recordings"]
    assert len(shuffled) == 2 * 5 * 2
    row = shuffled.loc["left or right fist", "CSP + LDA", "motor imagery"]
    runs = accuracies.loc["csp-lda", 0.0, "shuffled", "mi", "left-right"]
    low, high = stats.t.interval(0.95, len(runs) - 1, runs.mean(), stats.sem(runs))
    assert row["95 %"] == f"{low:.3f} to {high:.3f}"
    assert (row["chance within"] == "yes") == (low <= 0.5 <= high)
    assert len(table.loc["the recording decoded"]) == 2 * 2 * 2


def test_table_1_has_published_cells_on_their_row_alone(records):
    table = tables.table1(records, "left-right")
    found = tables.published_of(table)
    assert found.notna().sum().sum() == len(study.PUBLISHED)
    assert found.loc[("proposed, OR arbiter", "40 %")].dropna().tolist() == list(study.PUBLISHED.values())
    assert (tables.table1([], "left-right")["motor imagery: accuracy"] == NOT_RUN).all()


def test_claims_asked_otherwise_start_with_the_judged_effect(records):
    table = tables.claims_otherwise(records)
    for claim in [c for c in study.CLAIMS if not c.control]:
        rows = table.loc[claim.short]
        assert rows.index[0] == "as judged"
        assert rows.effect.iloc[0] == pytest.approx(100 * tables.EFFECTS[claim.id](evidence_of(records)).pooled.mean())
        assert study.TRUNKS[study.SECOND] in rows.index or claim.id == "shin-best-method"
    alone = table.loc["execution over imagery"].people
    assert alone["people with all recordings"] == alone["as judged"] - 1  # one person lacks recordings


TABLES = {
    tables.against_each: tables.each_sentence, tables.controls: tables.controls_sentence,
    tables.decodable: tables.decodable_sentence, tables.truth_by_share: tables.truth_sentence,
    tables.claims_otherwise: tables.otherwise_sentence, tables.agreement: tables.agreement_sentence,
    tables.development: tables.development_sentence,
}  # fmt: skip


def test_the_sentence_on_each_method_counts_what_remains_after_the_correction():
    rows = {"95 % from": [1.0, -3.0, 0.1], "to": [2.0, -1.0, 4.0], "p (Holm)": [0.01, 0.2, 0.001]}
    table = pd.DataFrame(rows, [*(study.METHODS[m].label for m in RIVALS[:2]), "dense, multi-task"])
    said = tables.each_sentence(table)
    assert "above 1 of 2 other pruning methods and below 1" in said
    assert said.endswith("1 of these 2 differences remain after Holm's correction.")


@pytest.mark.parametrize("make", TABLES)
def test_sentences_without_records_say_not_run(make):
    assert NOT_RUN in TABLES[make](make([]))
    assert NOT_RUN in tables.table1_sentence([])


@pytest.mark.parametrize("given", ["records", "nothing"])
def test_figures_and_tables_stand_with_and_without_records(records, given):
    shown = records if given == "records" else []
    for make in (figures.accuracy_against_sparsity, figures.people):
        assert make(shown, "left-right").axes
    for make in (figures.vote_agreement, figures.training_curves):
        assert make(shown).axes
    for kind in ("main", "truth"):
        assert figures.scalp_maps(tables.electrode_maps(shown, kind)).axes
    assert figures.effects(tables.truth_by_share(shown)).axes
    assert figures.development(tables.development(shown)).axes
    for make in (tables.realised_sparsity, tables.overfitting, tables.recordings, *TABLES):
        assert make(shown).empty == (given == "nothing")


def test_the_sentence_on_the_classical_decoder_is_there_only_if_the_network_is_behind(make_record):
    specs = study.specs("small", methods=("tangent-space", "csp-lda", "dense-single"), subjects=PEOPLE, seeds=(0,))
    for chance, behind in ((0.99, False), (0.55, True)):
        made = [make_record(s, result_of(s, chance if s.method == "dense-single" else 0.9)) for s in specs]
        assert tables.takeaway(made, "This.").endswith("decoder. This.") == behind
