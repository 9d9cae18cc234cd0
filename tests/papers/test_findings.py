"""Sentences under the figures: their numbers come from the records, and without records they say so."""

from collections import defaultdict
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from companion import findings
from companion.evidence import Evidence, committed_evidence
from made_up import made_up_record, value_of
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023
from scipy import stats

ROOT = Path(__file__).parents[2]
EEG = (findings.accuracy_against_sparsity, findings.variation_over_subjects)
VOTES = (findings.vote_agreement, findings.densities, findings.scalp_maps)
VISION = (findings.performance, findings.sparsity, findings.times, findings.channels, findings.protocol_effects,
          findings.how_sparse, findings.training_length, findings.l1_against_groups)  # fmt: skip


@pytest.fixture(scope="module")
def eeg():
    return committed_evidence(shin2023, ROOT / "results").records


@pytest.fixture(scope="module")
def vision(make_record):
    records = tuple(made_up_record(s, make_record) for s in upadhyay2023.all_specs("full") if s.seed < 2)
    return Evidence("upadhyay2023", "committed", "full", records, len(records))


@pytest.mark.parametrize("say", [*EEG, *VOTES, *VISION])
def test_without_records_it_says_not_run(say):
    nothing = Evidence("upadhyay2023", "committed", "full", (), 9) if say in VISION else ()
    more = ["left-right"] if "problem" in signature(say).parameters else []
    assert "not run" in say(nothing, *more)


def test_accuracies_are_the_means_of_the_records(eeg):
    for problem in shin2023.PROBLEMS:
        chosen = [
            r for r in eeg if r.spec.params["problem"] == problem and r.spec.params["labels"] == "true"
        ]  # fmt: skip

        def mean(method, sparsity, chosen=chosen):
            values = [
                (r.result["metrics"]["mi_accuracy"] + r.result["metrics"]["me_accuracy"]) / 2
                for r in chosen
                if (r.spec.method, r.spec.params["sparsity"]) == (method, sparsity)
            ]
            return np.mean(values)

        rivals = [m for m, i in shin2023.METHODS.items() if i.sparse and m not in ("or", "budget")]
        above = sum(mean(m, 0.4) > mean("or", 0.4) for m in rivals)
        told = findings.accuracy_against_sparsity(eeg, problem)
        assert f"{mean('or', 0.8):.3f} at 80 %" in told
        assert f"dense multi-task network {mean('dense-multi', 0.0):.3f}" in told
        assert f"{above} of {len(rivals)} other pruning methods" in told


def test_votes_and_densities_follow_the_records(eeg):
    params = {"sparsity": 0.4, "labels": "true"}
    chosen = [r for r in eeg if "votes" in r.result and all(r.spec.params[k] == v for k, v in params.items())]
    votes = [r.result["votes"]["layers"] for r in chosen]
    gains = []
    for layer in votes[0]:
        kept = {k: np.mean([v[layer][k] for v in votes]) for k in ("mi", "me", "or")}
        gains.append(kept["or"] / ((kept["mi"] + kept["me"]) / 2) - 1)
    assert f"{100 * min(gains):.0f} % to {100 * max(gains):.0f} % more weights" in findings.densities(eeg)
    for heads, which in (("start apart", ""), ("start alike", "_one_head")):
        gaps = {layer: defaultdict(list) for layer in votes[0]}
        for record, seen in zip(chosen, votes, strict=True):
            for layer, v in seen.items():
                gap = (v["null_mi"] + v[f"null_me{which}"]) / 2 - v[f"half{which}"]
                gaps[layer][record.spec.params["subject"]].append(gap)
        gaps = {layer: [np.mean(values) for values in people.values()] for layer, people in gaps.items()}
        lows = [stats.ttest_1samp(values, 0).confidence_interval().low for values in gaps.values()]
        largest = max(map(np.mean, gaps.values()))
        told = f"heads {heads}, in {sum(low > 0 for low in lows)} of {len(lows)} shared layers (largest difference in"
        assert f"{told} IoU: {largest:.3f}" in findings.vote_agreement(eeg)


def test_vision_sentences_tell_what_was_made_up(vision):
    assert "segmentation at 1e-5; surface normals at 1e-5; depth at 1e-5" in findings.performance(vision)
    assert "0.0 % at λ = 0" in findings.sparsity(vision)
    assert "100.0 % at λ = 1e-2" in findings.sparsity(vision)
    assert "removing the dead channels 50 %" in findings.times(vision)
    assert "seg: 50.0 %, 50.0 % and 50.0 %" in findings.channels(vision)
    sets = {(s.method, str(upadhyay2023.flipped(s))) for s in upadhyay2023.protocol_specs("full")
            if s.params["tasks"] == upadhyay2023.ALL_NYU}  # fmt: skip
    told = findings.protocol_effects(vision)
    assert f"{len(sets)} variants that were run (of {len(sets)})" in told
    assert "with 50.0 % to 50.0 % of the groups zero" in told
    spec = upadhyay2023.specs("full", (upadhyay2023.ALL_NYU,), (0.0, 1e-5), seeds=(0,))
    gain = np.mean([
        abs(value_of(spec[1], t) - value_of(spec[0], t)) / value_of(spec[0], t) for t in ("seg", "normal", "depth")
    ])  # fmt: skip
    assert f"{100 * gain:+.1f} %" in told


def test_a_protocol_that_did_not_run_is_not_counted(vision):
    some = vision.only(stem="plain")
    told = findings.protocol_effects(some)
    n = len({(s.method, str(upadhyay2023.flipped(s))) for s in upadhyay2023.protocol_specs("full")
             if s.params["tasks"] == upadhyay2023.ALL_NYU})  # fmt: skip
    assert f"of {n - 2} variants that were run (of {n})" in told  # "released" and the switch itself have a deep stem
    assert findings.protocol_effects(vision, "celebamask").startswith("CelebAMask-HQ")


def test_the_switch_that_changes_the_effect_most_is_named(vision, make_record):
    def worse(r):
        if upadhyay2023.flipped(r.spec) != {"dense_decay": 0.1}:
            return r
        metrics = {name: value / 2 if name == "seg_iou" else value for name, value in r.result["metrics"].items()}
        return make_record(r.spec, r.result | {"metrics": metrics})

    told = findings.protocol_effects(
        Evidence("upadhyay2023", "committed", "full", tuple(map(worse, vision.records)), 9)
    )
    spec = upadhyay2023.specs("full", (upadhyay2023.ALL_NYU,), (0.0, 1e-5), seeds=(0,))
    dense, sparse = ({t: value_of(s, t) for t in ("seg", "normal", "depth")} for s in spec)
    dense["seg"] /= 2
    gain = np.mean([abs(sparse[t] - dense[t]) / dense[t] for t in dense])
    which = "coupled decay at lambda 0 instead; it changes the model of λ = 0 alone"
    assert f"leads one switch alone, “paper, dense_decay=0.1” ({which}): {100 * gain:+.1f} %" in told


def test_sentences_beside_the_claims_tell_what_was_made_up(vision, make_record):
    said = [r["group_sparsity_pct"] for r in upadhyay2023.published(1) if "+" in r["tasks"] and r["lambda"] == 1e-5]
    told = findings.how_sparse(vision)
    assert "50.0 % to 50.0 % of the groups are zero" in told
    assert f"published: {min(said):.1f} % to {max(said):.1f} %" in told
    assert "seg+normal: 100.0 % by l1, 50.0 % by groups" in findings.l1_against_groups(vision)

    def ran(r):
        last = r.spec.params["epochs"]
        best = last - 1 if r.spec.seed else 3
        return make_record(r.spec, r.result | {"epochs": {"run": last if r.spec.params["lam"] else 9, "sum": best}})

    records = tuple(ran(r) for r in vision.of(upadhyay2023.table1_specs("full")).records)
    told = findings.training_length(Evidence("upadhyay2023", "committed", "full", records, 9))
    cut, best = sum(r.spec.params["lam"] > 0 for r in records), sum(r.spec.seed == 1 for r in records)
    assert f"{cut} of {len(records)} trainings ran to the limit of 300 epochs, and {best} had" in told


def test_the_gain_of_each_set_is_told_beside_the_claim(vision):
    told = findings.gains_by_set(vision)
    for tasks in [s for s in upadhyay2023.NYU_SETS if "+" in s]:
        gains = []
        for sparse, dense in zip(*(upadhyay2023.specs("full", (tasks,), (lam,), seeds=(0, 1)) for lam in (1e-5, 0.0)),
                                 strict=True):  # fmt: skip
            gains += [
                abs(value_of(sparse, t) / value_of(dense, t) - 1) for t in tasks.split("+")
            ]  # all made up as better
        assert f"{tasks} {100 * np.mean(gains):+.1f} %" in told
    nothing = Evidence("upadhyay2023", "committed", "full", (), 9)
    sets = [s for s in upadhyay2023.CELEBA_SETS if "+" in s and ("male" in s or "smile" in s)]
    assert findings.gains_by_set(nothing, "celebamask").count("not run") == len(sets)


def test_outputs_that_answer_every_picture_alike_are_counted(vision, make_record):
    def scored(r, alike):
        metrics, constant = ({f"{t}_{m}": v for t in ("male", "smile") for m in ("acc", "f1")} for v in (0.9, 0.5))
        metrics |= {name: value for name, value in constant.items() if name.startswith(alike)}
        return make_record(r.spec, r.result | {"metrics": r.result["metrics"] | metrics, "constant": constant})

    faces = [r for r in vision.records if r.spec in upadhyay2023.table2_specs("full")]
    lazy = [
        scored(r, ("smile",) if r.spec.params["lam"] and "+" in r.spec.params["tasks"] else ("none",)) for r in faces
    ]
    told = findings.constant_answers(Evidence("upadhyay2023", "committed", "full", tuple(lazy), 9))
    tasks = [r.spec.params["tasks"].split("+") for r in faces if not r.spec.params["lam"]]
    outputs = sum(t in names for names in tasks for t in ("male", "smile"))
    alike = sum("smile" in names and len(names) > 1 for names in tasks)
    assert 0 < alike < outputs
    assert f"0 of {outputs} at λ = 0 and {alike} of {outputs} at λ = 1e-5" in told
    assert findings.constant_answers(Evidence("upadhyay2023", "committed", "full", (), 9)).count("not run") == 2
