"""The plan of the EEG study; its effects, tables and figures from made-up records whose every number is known."""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
from companion.claims import NOT_TESTED, judge_paper
from companion.data.eeg import MOTOR9, SETS
from companion.evidence import Evidence
from companion.spec import canonical_json, check_values
from companion.statistics import NOT_RUN
from papers.shin2023 import claims, figures, study, tables
from sparsemtl.errors import SpecError


@pytest.mark.parametrize("profile", ["quick", "small"])
def test_every_run_of_the_grid_is_there_once_and_keeps_the_rules(profile):
    specs = study.all_specs(profile)
    assert len({spec.hash for spec in specs}) == len(specs)
    for spec in specs:
        check_values(spec.params, study.RULES)
        assert study.METHODS[spec.method].sparse == (spec.params["sparsity"] > 0)


def test_table_1_has_every_method_and_level_for_each_person_problem_and_seed():
    cases = Counter((s.params["subject"], s.params["problem"], s.seed) for s in study.specs("small"))
    assert set(cases.values()) == {4 + 3 * 11}  # methods without masks; three levels of those with them
    assert len(cases) == 6 * 2 * 10


def test_nobody_on_whom_the_training_was_chosen_is_tested():
    small, full = (set(study.PROFILE_SETTINGS[profile]["people"]) for profile in ("small", "full"))
    assert small <= full <= set(SETS["eegmmidb"].people) - {*SETS[study.DEVELOPMENT].people, *study.DEVIATING}


def test_the_training_is_the_same_for_all_methods():
    trained = [s.to_dict()["params"] for s in study.specs("small") if s.method not in study.CLASSICAL]
    assert {canonical_json({k: p[k] for k in study.RECIPE}) for p in trained} == {canonical_json(dict(study.RECIPE))}


def test_another_trunk_brings_its_own_arguments_unless_they_are_given():
    base = dict(study.RECIPE)
    assert study.settled(base, {"trunk": "eegnet"})["options"] == study.OTHER_TRUNKS["eegnet"]["options"]
    assert study.settled(base, {"trunk": "eegnet", "options": {}})["options"] == {}
    assert study.settled(base, {"lr": 0.1}) == base | {"lr": 0.1}


def test_what_is_unknown_or_impossible_is_named():
    for name, given in {"snap": {"methods": ("snap",)}, "sparsity": {"sparsities": (1.0,)}, "lr": {"lr": -1.0}}.items():
        with pytest.raises(SpecError, match=name):
            study.specs("quick", **given)


PEOPLE, SEEDS, TRIALS = (1, 3, 7), (0, 1), 20
TRUE = {"common": [0.0] * 9, "mi": list(np.linspace(0, 1, 9)), "me": list(np.linspace(1, 0, 9))}
HITS = {"dense-single": 14, "dense-multi": 16, "tangent-space": 18, "csp-lda": 12, "or": 15, "budget": 17, "random": 11}
MORE = {("dense-multi", "hands-feet", 3): 2, ("tangent-space", "hands-feet", 7): -8}


def hits_of(spec, task):
    """Of 20 trials; execution and the second seed have one more, the proposed masks at 40 % three more."""
    p, more = spec.params, (task == "me") + spec.seed
    if p["labels"] != "true":
        return 10 + more
    at_40 = 3 * (spec.method == "or" and p["sparsity"] == 0.4)
    return HITS.get(spec.method, 13) + MORE.get((spec.method, p["problem"], p["subject"]), 0) + at_40 + more


def result_of(spec):
    """A result of the EEG study; of person 3 one recording of execution is there."""
    p = spec.params
    recordings = {"mi": [4, 8, 12], "me": [3] if p["subject"] == 3 else [3, 7, 11]}
    tasks = ("mi",) if spec.data == study.DEVELOPMENT else ("mi", "me")
    out = {"metrics": {}, "labels": {}, "predicted": {}, "data": {"recordings": {t: recordings[t] for t in tasks}}}
    for task in tasks:
        y = np.arange(TRIALS) % (len(recordings[task]) if p["labels"] == "recording" else 2)
        hit = np.arange(TRIALS) < (hits_of(spec, task) if y.any() else TRIALS)
        for name, values in (("labels", y), ("predicted", np.where(hit, y, 1 - y.clip(0, 1)))):
            out[name][task] = "".join(map(str, values))
        own = dict.fromkeys(("accuracy", "f1"), hit.mean()) | {"loss": 0.6, "train_accuracy": 1.0, "train_loss": 0.1}
        out["metrics"] |= {f"{task}_{name}": value for name, value in own.items()}
    if spec.method not in study.CLASSICAL:
        share = p["sparsity"] * (0.5 if spec.method == "or" else 1)
        out["sparsity"] = dict.fromkeys(("whole", "shared", *tasks), share)
    if spec.method in ("dense-multi", "or"):
        dense = {"train": [0.7, 0.5, 0.6, 0.1], "test": [0.7, 0.65, 0.8, 1.2]}  # 1.0 when training first falls to 0.3
        sparse = {"train": [0.7, 0.5, 0.4, 0.3], "test": [0.7, 0.6, 0.5, 0.6]}
        out["curve"] = sparse if spec.method == "or" else dense
    if spec.method == "or" and p["sparsity"] == 0.4 and p["labels"] == "true":
        numbers = dict.fromkeys((*tables.VOTE_COLUMNS, "mi", "me", "or"), 0.5) | {"null_mi": 0.6 + 0.01 * p["subject"]}
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


def evidence_of(records):
    return Evidence("shin2023", "committed", "small", tuple(records), len(records))


def effect(claim, records):
    return tables.EFFECTS[claim](evidence_of(records))


EFFECTS = {  # of people 1, 3 and 7
    "shin-multitask": (0.1, 0.15, 0.1), "shin-sparse-beats-dense": (0.1, 0.05, 0.1), "shin-overfitting": (0.4,) * 3,
    "shin-best-method": (0.85 - (0.55 + 8 * 0.65) / 9,) * 3, "shin-robust": (-0.03, -0.08, -0.03),
    "shin-best-at-40": (0.9 - 2.3 / 3, 0.9 - 2.35 / 3, 0.9 - 2.3 / 3), "shin-me-above-mi": (0.05,) * 3,
    "shin-control-labels": (0.3, 0.35, 0.3), "shin-control-classical": (-0.2, -0.2, 0.0),
    "shin-control-random": (0.3,) * 3, "shin-control-truth": (1.0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("claim", [c.id for c in study.CLAIMS])
def test_effects_of_known_records(records, claim):
    found = effect(claim, records)
    assert found.pooled.tolist() == pytest.approx(EFFECTS[claim])
    assert not found.not_tested
    if found.within:
        assert found.within[0] <= found.pooled.mean() <= found.within[1]


def test_parts_of_an_effect_are_its_problems_and_tasks(records):
    parts = {name: values.tolist() for name, values in effect("shin-multitask", records).parts.items()}
    wanted = [(0.1, 0.1, 0.1), (0.1, 0.2, 0.1), (0.1, 0.15, 0.1), (0.1, 0.15, 0.1)]
    for name, values in zip((*study.PROBLEMS.values(), *study.TASKS.values()), wanted, strict=True):
        assert parts[name] == pytest.approx(values)


def test_the_interval_for_these_people_is_that_of_a_binomial_mean(make_record):
    """One cell, one seed: drawing trials again gives the standard error of a mean."""
    (spec,) = study.specs("small", "left-right", ("csp-lda",), (1,), (0,))
    found = claims.contrast([make_record(spec, result_of(spec))], {("csp-lda", 0.0): 1}, tasks={"mi": 1})
    half = 1.96 * np.sqrt(0.6 * 0.4 / 20)
    assert found.within == pytest.approx((0.6 - half, 0.6 + half), abs=0.04)


def test_whoever_lacks_a_cell_is_left_out_and_seeds_are_paired(records):
    lost = {("rigl", 7, 0), ("rigl", 7, 1), ("imp", 1, 1), ("imp", 3, 1)}
    rest = [r for r in records if (r.spec.method, r.spec.params["subject"], r.spec.seed) not in lost]
    wanted = dict(zip(PEOPLE[:2], EFFECTS["shin-best-method"], strict=False))
    assert effect("shin-best-method", rest).pooled.to_dict() == pytest.approx(wanted)


@pytest.mark.parametrize("method", ["budget", "rigl"])
def test_a_comparison_at_another_sparsity_is_not_tested_and_a_rival_that_misses_left_out(records, make_record, method):
    def denser(r):
        if (r.spec.method, r.spec.params["sparsity"]) != (method, 0.4):
            return r
        return make_record(r.spec, r.result | {"sparsity": r.result["sparsity"] | {"whole": 0.1}})

    evidence = evidence_of([denser(r) for r in records])
    (judged,) = [j for j in judge_paper("shin2023", [evidence]) if j.claim.id == "shin-best-method"]
    assert (judged.verdict == NOT_TESTED) == ("30.0 points" in judged.effects.not_tested) == (method == "budget")
    assert ("RigL at 40" in judged.effects.limits) == (method == "rigl")


def test_without_records_no_claim_is_run():
    assert [j.verdict for j in judge_paper("shin2023", [evidence_of([])])] == [NOT_RUN] * len(study.CLAIMS)


def test_decodable_people_are_those_of_the_binomial_test(records):
    """38 hits of 40 in five cases, 22 in one; Holm's correction of equal p multiplies by their number."""
    table, last = tables.decodable(records), ("hands-feet", 7)
    best = 6 * (40 * 39 / 2 + 40 + 1) / 2**40
    assert table["p (Holm)"].drop(last).tolist() == pytest.approx([best] * 5)
    assert table["p (Holm)"][last] == pytest.approx(0.318, abs=1e-3)
    assert tables.sure(table) == {*table.index} - {last}


def test_controls_compare_with_chance_and_leave_out_tasks_with_one_class(records):
    """Three people, two seeds: accuracies 0.5 and 0.55 of imagery, 0.55 and 0.6 of execution; t(5) = 2.571."""
    table = tables.controls(records)
    shuffled = table.loc["labels shuffled within recordings"]
    assert len(shuffled) == 2 * 5 * 2
    for task, *wanted in (("motor imagery", "0.496 to 0.554", "yes"), ("motor execution", "0.546 to 0.604", "no")):
        assert shuffled.loc["left or right fist", "CSP + LDA", task][["95 %", "chance within"]].tolist() == wanted
    recording = table.loc["the recording decoded", "both fists or both feet"]
    assert recording.accuracy.xs("motor execution", level="task").tolist() == pytest.approx([0.575] * 2)


def test_table_1_has_published_cells_on_their_row_alone(records):
    table, ours = tables.table1(records, "left-right"), ("proposed, OR arbiter", "40 %")
    assert table.loc[ours, "motor execution: accuracy"].startswith("0.975")
    assert table.loc[ours, "realised"] == "20 %"
    found = tables.published_of(table)
    assert found.notna().sum().sum() == len(study.PUBLISHED)
    assert found.loc[ours].dropna().tolist() == list(study.PUBLISHED.values())
    assert (tables.table1([], "left-right")["motor imagery: accuracy"] == NOT_RUN).all()


def test_claims_asked_otherwise_start_with_the_judged_effect(records):
    table = tables.claims_otherwise(records)
    for claim in [c for c in study.CLAIMS if not c.control]:
        rows = table.loc[claim.short]
        assert rows.index[0] == "as judged"
        assert rows.effect.iloc[0] == pytest.approx(100 * np.mean(EFFECTS[claim.id]))
        assert study.TRUNKS[study.SECOND] in rows.index or claim.id == "shin-best-method"
    people = table.loc["execution over imagery"].people
    assert (people["as judged"], people["people with all recordings"]) == (3, 2)


TABLES = {
    tables.against_each: tables.each_sentence, tables.controls: tables.controls_sentence,
    tables.decodable: tables.decodable_sentence, tables.truth_by_share: tables.truth_sentence,
    tables.claims_otherwise: tables.otherwise_sentence, tables.agreement: tables.agreement_sentence,
    tables.development: tables.development_sentence,
}  # fmt: skip


@pytest.mark.parametrize("given", ["records", "nothing"])
def test_figures_tables_and_sentences_stand_with_and_without_records(records, given):
    shown = records if given == "records" else []
    drawn = [make(shown, "left-right") for make in (figures.accuracy_against_sparsity, figures.people)]
    drawn += [make(shown) for make in (figures.vote_agreement, figures.training_curves)]
    drawn += [figures.scalp_maps(tables.electrode_maps(shown, kind)) for kind in ("main", "truth")]
    drawn += [figures.effects(tables.truth_by_share(shown)), figures.development(tables.development(shown))]
    assert all(figure.axes for figure in drawn)
    plt.close("all")
    made = {make: make(shown) for make in (tables.realised_sparsity, tables.overfitting, tables.recordings, *TABLES)}
    assert [table.empty for table in made.values()] == [given == "nothing"] * len(made)
    said = [tables.table1_sentence(shown), *(say(made[make]) for make, say in TABLES.items())]
    assert [NOT_RUN in sentence for sentence in said] == [given == "nothing"] * len(said)


def test_the_classical_decoder_comes_first_if_the_network_is_behind(records):
    assert tables.takeaway(records, "This.").endswith("decoder. This.")
    ahead = [r for r in records if r.spec.method != "tangent-space"]
    assert tables.takeaway(ahead, "This.") == "This."
