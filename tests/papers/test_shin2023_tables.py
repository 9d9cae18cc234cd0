"""Tables and figures of the EEG study, from made-up records whose every number is known."""

import copy
import re
import zlib
from dataclasses import replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from companion.data.eeg import MOTOR21
from companion.evidence import Evidence, comparable
from companion.page import NONE, show_table
from companion.records import validate
from papers.shin2023 import figures as figures
from papers.shin2023 import findings
from papers.shin2023 import tables as report
from papers.shin2023.study import BACKBONES, CLAIMS, METHODS, SPARSITIES, TASKS
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

SUBJECTS, SEEDS, PROBLEM = (1, 2, 7), (0, 1), "left-right"
SPARSE = [m for m, info in METHODS.items() if info.sparse]
RIVALS = [m for m in SPARSE if m not in ("or", "budget")]
ROWS = [(m, s) for m, info in METHODS.items() for s in (SPARSITIES[1:] if info.sparse else (0.0,))]
LAYERS = ("temporal", "spatial", "separable_depth", "separable_point")  # as the signal passes them
TRIALS = {"mi": (21, 21), "me": (20, 22)}
TRUTH = {k: np.random.default_rng(i).random(21).round(3).tolist() for i, k in enumerate(("common", "mi", "me"))}


def draw(*what):
    """A generator of its own for each description."""
    return np.random.default_rng(zlib.crc32(repr(what).encode()))


def confusion_of(task, *what):
    """Two folds' confusion matrices whose rows sum to the trials of each class."""
    rng, folds = draw("confusion", task, *what), []
    for first, second in zip(*((n // 2, n - n // 2) for n in TRIALS[task]), strict=True):
        right = rng.integers(0, (first + 1, second + 1)).tolist()
        folds.append([[right[0], first - right[0]], [second - right[1], right[1]]])
    return folds


def result_of(method, sparsity, subject, seed, labels):
    rng = draw(method, sparsity, subject, seed, labels)
    metrics = {f"{t}_{m}": round(rng.uniform(0.4, 0.9), 4) for t in TASKS for m in ("accuracy", "f1", "kappa")}
    result = {
        "metrics": metrics,
        "confusion": {t: confusion_of(t, method, sparsity, subject, seed, labels) for t in TASKS},
        "data": {
            "classes": ["left_hand", "right_hand"], "channels": list(MOTOR21), "sfreq": 40.0, "n_times": 80,
            "trials": {t: list(n) for t, n in TRIALS.items()}, "runs": {"mi": [4, 8, 12], "me": [3, 7, 11]},
            "fingerprint": "f" * 64,
        },
    }  # fmt: skip
    if method == "csp-lda":
        return result
    metrics |= {f"{t}_train_accuracy": round(rng.uniform(0.5, 1), 4) for t in TASKS}
    result["weights"] = {"whole": 1000}
    realised = {p: round(sparsity * rng.uniform(0.5, 1), 4) for p in ("whole", "shared", "mi", "me")}
    result |= {"history": rng.random(3).round(4).tolist(), "sparsity": {"nominal": sparsity} | realised}
    if method == "or":
        names = ("mi", "me", "or", *report.VOTE_COLUMNS)
        layers = {f"shared.{n}.weight": {k: round(rng.random(), 4) for k in names} for n in sorted(LAYERS)}
        kinds = ("mi_only", "me_only", "both", "mi_score", "me_score")
        result["votes"] = {"layers": layers, "electrodes": {k: rng.random(21).round(4).tolist() for k in kinds}}
        result["data"]["truth"] = TRUTH
    return result


@pytest.fixture(scope="module")
def records(make_record, tiny_spec):
    """A record for every cell, on true labels, and the controls on shuffled ones."""
    wanted = [(m, s, u, k, "true") for (m, s), u, k in product(ROWS, SUBJECTS, SEEDS)]
    wanted += [
        (m, s, u, k, "shuffled") for m, s in (("dense-multi", 0.0), ("or", 0.4)) for u in SUBJECTS for k in SEEDS
    ]
    made = [make_record(tiny_spec(m, s, k, subject=u, labels=w), result_of(m, s, u, k, w)) for m, s, u, k, w in wanted]
    assert all(validate(r.to_dict()) for r in made)
    return made


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def by_subject(task, method, sparsity, metric="accuracy"):
    """Mean over seeds for each subject, from the numbers that went in."""
    if sparsity == 0 and method in SPARSE:
        method = "dense-single" if method == "snip-single" else "dense-multi"
    return np.array([
        np.mean([result_of(method, sparsity, u, k, "true")["metrics"][f"{task}_{metric}"] for k in SEEDS])
        for u in SUBJECTS
    ])  # fmt: skip


def gap(method, sparsity):
    """Accuracy on training minus on unseen trials, mean of the tasks."""
    train, unseen = ([by_subject(t, method, sparsity, m) for t in TASKS] for m in ("train_accuracy", "accuracy"))
    return np.mean(train, axis=0) - np.mean(unseen, axis=0)


def both(method, sparsity):
    return (by_subject("mi", method, sparsity) + by_subject("me", method, sparsity)) / 2


def evidence(records):
    return Evidence("shin2023", "committed", "small", tuple(records), 999)


def with_change(records, make_record, i, change):
    """The records with the result of one of them changed."""
    result = copy.deepcopy(records[i].result)
    change(result)
    return [*records[:i], make_record(records[i].spec, result), *records[i + 1 :]]


def text_of(fig):
    return " ".join(t.get_text() for t in fig.findobj(plt.Text))


def test_table1_has_the_mean_and_sd_of_each_cell(records):
    table = report.table1(records, PROBLEM)
    assert len(table) == len(ROWS)
    columns = [(t, m) for t in TASKS for m in ("accuracy", "f1")]
    for (method, sparsity), (_, row) in zip(ROWS, table.iterrows(), strict=True):
        assert row.name == (METHODS[method].label, f"{sparsity:.0%}".replace("%", " %"))
        for task, metric in columns:
            values = by_subject(task, method, sparsity, metric)
            ours = row[TASKS[task], {"accuracy": "accuracy", "f1": "macro F1"}[metric]]
            assert ours == f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
        if method != "csp-lda":
            whole = [result_of(method, sparsity, u, k, "true")["sparsity"]["whole"] for u in SUBJECTS for k in SEEDS]
            assert row["sparsity", "realised"] == f"{100 * np.mean(whole):.0f} %"
    published = {name: table[name] for name in table.columns if name[1].startswith("published")}
    assert len(published) == 4
    for column in published.values():
        assert (column != "").sum() == 1
        assert column[METHODS["or"].label, "40 %"] in ("0.645", "0.64", "0.745", "0.74")


def test_the_published_cells_stand_beside_ours(records):
    table = report.published_beside_ours(records, PROBLEM)
    for (task, name, metric), published in {
        ("mi", "accuracy", "accuracy"): 0.645, ("mi", "macro F1", "f1"): 0.64,
        ("me", "accuracy", "accuracy"): 0.745, ("me", "macro F1", "f1"): 0.74,
    }.items():  # fmt: skip
        row, values = table.loc[TASKS[task], name], by_subject(task, "or", 0.4, metric)
        low, high = stats.ttest_1samp(values, 0).confidence_interval()
        assert (row.published, row.ours, row.sd) == pytest.approx((published, values.mean(), values.std(ddof=1)))
        assert (row["95 % from"], row["to"]) == pytest.approx((low, high))
        units = (values.mean() - published) / stats.sem(values)
        assert row["in standard errors"] == pytest.approx(units)
        word = "not told apart" if low <= published <= high else "higher" if units > 0 else "lower"
        assert row["against published"] == word


def expected_differences():
    """Paired differences of each claim by its parts, written out."""
    fall = np.mean([both(m, 0.8) - both(m, 0.0) for m in RIVALS], axis=0)
    return {
        "shin-multitask": [both("dense-multi", 0.0) - both("dense-single", 0.0)],
        "shin-sparse-beats-dense": [both("or", 0.4) - both("dense-multi", 0.0)],
        "shin-overfitting": [gap("dense-multi", 0.0) - gap("or", 0.4)],
        "shin-best-method": [both("or", s) - both(m, s) for s in SPARSITIES[1:] for m in RIVALS],
        "shin-robust": [both("or", 0.8) - both("dense-multi", 0.0) - fall],
        "shin-best-at-40": [both("or", 0.4) - both("or", s) for s in (0.0, 0.2, 0.8)],
        "shin-me-above-mi": [by_subject("me", "or", s) - by_subject("mi", "or", s) for s in SPARSITIES],
    }


def test_every_claim_rests_on_paired_differences_over_subjects(records):
    table = report.claims([evidence(records)])
    assert list(table.index) == [c.id for c in CLAIMS]
    for name, parts in expected_differences().items():
        row, tests = table.loc[name], [stats.ttest_1samp(d, 0) for d in parts]
        lows = [t.confidence_interval(0.95).low for t in tests]
        highs = [t.confidence_interval(1 - 0.05 / len(parts)).high for t in tests]
        failed = [i for i, high in enumerate(highs) if high < 0]
        i = min(failed or range(len(parts)), key=lambda i: lows[i])
        assert (row.effect, row.low, row.high) == pytest.approx((parts[i].mean(), lows[i], highs[i]))
        assert row.dz == pytest.approx(parts[i].mean() / parts[i].std(ddof=1))
        assert row.verdict == ("not reproduced" if failed else "reproduced" if min(lows) > 0 else "inconclusive")
        assert row.loc["problem"] == PROBLEM
        assert row.subjects == 3


def test_overfitting_is_told_against_the_dense_network(records):
    table = report.overfitting(records, PROBLEM)
    assert len(table) == len(SPARSITIES)
    for sparsity in SPARSITIES:
        method = "or" if sparsity else "dense-multi"
        row = table.loc[METHODS[method].label, f"{100 * sparsity:.0f} %"]
        assert (row.unseen, row.gap) == pytest.approx((both(method, sparsity).mean(), gap(method, sparsity).mean()))
        assert row.training == pytest.approx(row.unseen + row.gap)
        less = gap("dense-multi", 0.0) - gap("or", sparsity) if sparsity else np.array([np.nan] * 3)
        low, high = stats.ttest_1samp(less, 0).confidence_interval()
        told = (row["less than dense by"], row.low, row.high)
        assert told == pytest.approx((less.mean(), low, high), nan_ok=True)
    assert report.overfitting([], PROBLEM).empty
    assert report.overfitting([r for r in records if r.spec.method == "csp-lda"], PROBLEM).empty


def test_every_method_has_the_accuracy_of_each_subject(records):
    table = report.accuracy_by_subject([r for r in records if r.spec.method != "rigl"], PROBLEM)
    assert list(table.columns) == [f"S{s:03d}" for s in SUBJECTS]
    for (task, name), (method, info) in product(TASKS.items(), METHODS.items()):
        row = table.loc[name, info.label]
        if method == "rigl":
            assert row.isna().all()
        else:
            np.testing.assert_allclose(row, by_subject(task, method, 0.4 if info.sparse else 0.0))
    assert report.accuracy_by_subject([], PROBLEM).empty


@pytest.mark.parametrize(("shift", "expected"), [(2.0, "reproduced"), (-2.0, "not reproduced")])
def test_verdicts_follow_the_numbers(records, make_record, shift, expected):
    moved = []
    for r in records:
        result = copy.deepcopy(r.result)
        if r.spec.method == "or":
            for task in TASKS:
                result["metrics"][f"{task}_accuracy"] += shift
        moved.append(make_record(r.spec, result))
    table = report.claims([evidence(moved)])
    for name in ("shin-sparse-beats-dense", "shin-best-method", "shin-robust"):
        assert table.loc[name].verdict == expected
    words = report.findings(evidence(moved))
    assert f"**{expected}**" in words
    assert f"From {len(moved)} runs" in words
    assert all(c.sentence in words for c in CLAIMS)


@pytest.mark.parametrize("absent", ["random", "grasp", "imp"])
def test_a_claim_over_all_rivals_is_not_run_while_one_of_them_is_missing(records, absent):
    table = report.claims([evidence([r for r in records if r.spec.method != absent])])
    assert table.loc["shin-best-method"].verdict == table.loc["shin-robust"].verdict == "not run"
    assert np.isnan(table.loc["shin-best-method"].effect)
    assert table.loc["shin-sparse-beats-dense"].subjects == 3


def test_comparisons_are_paired_and_corrected_over_all_rows(records):
    table = report.comparisons(records, PROBLEM)
    others = [m for m in METHODS if m != "or"]
    assert len(table) == 2 * len(others)
    p = []
    for task, method in product(TASKS, others):
        d = by_subject(task, "or", 0.4) - by_subject(task, method, 0.4 if method in SPARSE else 0.0)
        row = table.loc[TASKS[task], METHODS[method].label]
        low, high = stats.ttest_1samp(d, 0).confidence_interval()
        p.append(stats.wilcoxon(d).pvalue)
        assert (row.n, row["mean"], row.low, row.high, row.p) == pytest.approx((3, d.mean(), low, high, p[-1]))
    # with three subjects the smallest p is 0.25: after correction nothing is left
    assert (table["p (Holm)"] >= np.minimum(1, np.array(p))).all()
    assert table["p (Holm)"].max() == 1


def test_chance_compares_shuffled_labels_with_guessing(records):
    table = report.chance(records)
    assert len(table) == 4
    for task, method in product(TASKS, ("dense-multi", "or")):
        s = 0.4 if method == "or" else 0.0
        row = table.loc[PROBLEM, METHODS[method].label, TASKS[task]]
        ours = np.mean(
            [result_of(method, s, u, k, "shuffled")["metrics"][f"{task}_accuracy"] for u in SUBJECTS for k in SEEDS]
        )
        commonest = max(TRIALS[task]) / 42
        ends = stats.binom.ppf(0.025, 3 * 42, 0.5), stats.binom.ppf(0.975, 3 * 42, commonest)
        low, high = np.array(ends) / (3 * 42)
        assert (row.chance, row["shuffled labels"]) == pytest.approx((0.5, ours))
        assert row["commonest class"] == pytest.approx(commonest)
        assert row.guessing == f"{low:.3f} to {high:.3f}"
        assert row["lands on it"] == ("yes" if low <= ours <= high else "no")


def test_votes_are_averaged_by_layer_in_the_networks_order(records):
    table = report.vote_table(records)
    assert list(table.index) == list(LAYERS)
    names = {"mi": "kept by MI", "me": "kept by ME", "or": "kept by OR"} | report.VOTE_COLUMNS
    for layer, (key, label) in product(LAYERS, names.items()):
        values = [
            result_of("or", 0.4, u, k, "true")["votes"]["layers"][f"shared.{layer}.weight"][key]
            for u in SUBJECTS
            for k in SEEDS
        ]
        assert table.loc[layer, label] == pytest.approx(np.mean(values))


def test_agreement_is_the_gap_to_the_noise_paired_over_subjects(records):
    table = report.agreement(records)
    pairs = {"start apart": ("null_me", "half"), "start alike": ("null_me_one_head", "half_one_head")}
    assert list(table.index) == list(product(pairs, LAYERS))
    for heads, layer in table.index:
        gaps, (null, half) = [], pairs[heads]
        for u in SUBJECTS:
            v = [result_of("or", 0.4, u, k, "true")["votes"]["layers"][f"shared.{layer}.weight"] for k in SEEDS]
            gaps.append(np.mean([(x["null_mi"] + x[null]) / 2 - x[half] for x in v]))
        low, high = stats.ttest_1samp(gaps, 0).confidence_interval()
        row = table.loc[heads, layer]
        assert (row["mean"], row.low, row.high) == pytest.approx((np.mean(gaps), low, high))


def test_recovery_is_a_rank_correlation_with_the_truth(records):
    table = report.recovery(records)
    for kind, source in product(report.KINDS, report.SOURCES):
        rho = []
        for u in SUBJECTS:
            kept = [result_of("or", 0.4, u, k, "true")["votes"]["electrodes"][kind] for k in SEEDS]
            rho.append(np.mean([pearson(stats.rankdata(v), stats.rankdata(TRUTH[source])) for v in kept]))
        row = table.loc[report.KINDS[kind], report.SOURCES[source]]
        low, high = stats.ttest_1samp(rho, 0).confidence_interval()
        assert (row["rank correlation"], row.low, row.high) == pytest.approx((np.mean(rho), low, high))


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize(
    ("right", "verdict"), [(3, "recovers"), (1, "recovers only partly"), (0, "is not shown to recover")]
)
def test_the_sentence_on_recovery_follows_the_intervals(records, make_record, right, verdict):
    moved = []
    for r in records:
        result = copy.deepcopy(r.result)
        if "votes" in result:
            for i, (kind, source) in enumerate(zip(report.KINDS, report.SOURCES, strict=True)):
                sign = 1 if i < right else -1
                noise = draw(r.hash, kind).random(21) * 1e-3
                result["votes"]["electrodes"][kind] = (sign * np.array(TRUTH[source]) + noise).tolist()
        moved.append(make_record(r.spec, result))
    assert f"**{verdict}**" in report.recovery_sentence(moved)
    assert f"weights, {right} follow" in report.recovery_sentence(moved)


def test_weights_that_follow_all_sources_alike_are_not_recovered(records, make_record):
    moved = []
    for r in records:
        result = copy.deepcopy(r.result)
        if "votes" in result:
            everywhere = sum(np.array(TRUTH[source]) for source in report.SOURCES)
            for kind in report.KINDS:
                noise = draw(r.hash, kind).random(21) * 1e-3
                result["votes"]["electrodes"][kind] = (everywhere + noise).tolist()
        moved.append(make_record(r.spec, result))
    table = report.recovery(moved)
    follow = sum(
        table.low.loc[report.KINDS[k], report.SOURCES[s]] > 0 for k, s in zip(report.KINDS, report.SOURCES, strict=True)
    )
    said = report.recovery_sentence(moved)
    assert follow >= 2
    assert f"{follow} follow the projection" in said
    assert re.search(r"and (\d) follow it more closely", said)[1] in "01"  # one set of weights is closest to one source


def test_electrode_maps_are_means_over_records(records):
    maps = report.electrode_maps(records)
    assert list(maps.index) == list(MOTOR21)
    expected = np.mean(
        [result_of("or", 0.4, u, k, "true")["votes"]["electrodes"]["both"] for u in SUBJECTS for k in SEEDS], axis=0
    )
    np.testing.assert_allclose(maps["both"], expected)


def test_realised_sparsity_and_spread(records):
    table = report.realised_sparsity(records)
    assert len(table) == 3 * len(SPARSE)
    values = [result_of("grasp", 0.8, u, k, "true")["sparsity"]["shared"] for u in SUBJECTS for k in SEEDS]
    assert table.loc[("GraSP", "80 %"), "shared"] == pytest.approx(np.mean(values))
    between = report.spread(records, PROBLEM).loc[METHODS["or"].label, TASKS["me"]]
    runs = np.array([[result_of("or", 0.4, u, k, "true")["metrics"]["me_accuracy"] for k in SEEDS] for u in SUBJECTS])
    assert between["between subjects"] == pytest.approx(runs.mean(1).std(ddof=1))
    assert between["between seeds"] == pytest.approx(np.sqrt(runs.var(1, ddof=1).mean()))


def test_recordings_say_what_was_used(records):
    table = report.recordings(records)
    assert [subject for _, subject in table.index] == ["S001", "S002", "S007"]
    assert table.iloc[0].to_dict() == {
        "motor imagery: runs": "4, 8, 12", "motor imagery: trials": 42,
        "motor execution: runs": "3, 7, 11", "motor execution: trials": 42,
    }  # fmt: skip


# Other choices


def test_balanced_accuracy_is_the_mean_recall_over_all_folds(records):
    table = report.frame(records)
    for r in records[::7]:
        for task in TASKS:
            truth, found = [], []
            for fold in r.result["confusion"][task]:
                for (true, said), n in np.ndenumerate(fold):
                    truth += n * [true]
                    found += n * [said]
            row = table[(table.hash == r.hash) & (table.task == task)].iloc[0]
            assert row.balanced == pytest.approx(balanced_accuracy_score(truth, found))


def test_each_claim_is_asked_with_other_choices(records):
    """Every view is what the claims say of records in which that choice has been made beforehand."""
    table = report.sensitivity([evidence(records)])
    assert len(table) == len(CLAIMS) * len(report.VIEWS)
    budget = [r for r in records if r.spec.method != "or"]
    budget = [replace_method(r, "or") if r.spec.method == "budget" else r for r in budget]
    for view, same in ((report.AS_JUDGED, records), ("the exact budget", budget)):
        expected = report.claims([evidence(same)])
        found = table.xs(view, level="view").droplevel("problem")
        pd.testing.assert_series_equal(found.effect, expected.effect.loc[found.index])
        assert list(found.verdict) == list(expected.verdict.loc[found.index])
    recall = {
        (t, m): np.array([
            np.mean([balanced(confusion_of(t, m, 0.0, u, k, "true")) for k in SEEDS]) for u in SUBJECTS
        ]) for t in TASKS for m in ("dense-multi", "dense-single")
    }  # fmt: skip
    gain = np.mean([recall[t, "dense-multi"] - recall[t, "dense-single"] for t in TASKS], axis=0)
    gaps = table.effect["shin-overfitting"][PROBLEM]  # records know no balanced accuracy of training
    assert gaps["balanced accuracy"] == gaps[report.AS_JUDGED]
    row = table.loc["shin-multitask", PROBLEM, "balanced accuracy"]
    low, high = stats.ttest_1samp(gain, 0).confidence_interval()
    assert (row.effect, row.low, row.high) == pytest.approx((gain.mean(), low, high))


def balanced(folds):
    total = np.sum(folds, axis=0)
    return (total.diagonal() / total.sum(1)).mean()


def replace_method(record, method):
    return replace(record, spec=replace(record.spec, method=method))


def test_who_lacks_a_recording_is_left_out_of_one_view(records, make_record):
    def lacking(r):
        result = copy.deepcopy(r.result)
        result["data"]["runs"]["me"] = [3, 7]
        return make_record(r.spec, result)

    some = [lacking(r) if r.spec.params["subject"] == 7 else r for r in records]
    table = report.sensitivity([evidence(some)])
    people = [r for r in records if r.spec.params["subject"] != 7]
    expected = report.claims([evidence(people)])
    found = table.xs("complete subjects alone", level="view").droplevel("problem")
    pd.testing.assert_series_equal(found.effect, expected.effect.loc[found.index])
    assert set(found.subjects) == {2}
    assert set(table.xs(report.AS_JUDGED, level="view").subjects) == {3}


def test_the_sentence_names_the_verdicts_that_hang_on_a_choice(records):
    table = report.sensitivity([evidence(records)]).sort_index()
    table["verdict"] = "inconclusive"
    n, ways = len(CLAIMS), len(report.VIEWS)
    assert findings.sensitivity(table) == (
        f"Each of {n} tests was made in {ways} ways: {n} end in the same verdict in all ({n} inconclusive)."
    )
    key = (CLAIMS[3].id, PROBLEM, "the exact budget")
    table.loc[key, "verdict"] = "not reproduced"
    told = findings.sensitivity(table)
    assert f"{n - 1} end in the same verdict in all ({n - 1} inconclusive)." in told
    assert f"“{CLAIMS[3].short} (left or right fist)” is inconclusive as judged, but not reproduced with the" in told
    assert "of them)" not in told
    table.loc[key, "subjects"] = 2
    assert "not reproduced with the exact budget (2 of them)" in findings.sensitivity(table)
    assert "not run" in findings.sensitivity(report.sensitivity([evidence([])]))


def test_a_profile_that_lacks_no_run_is_one_choice_more(records):
    """Its line is what the claims say of it; one with holes has none, whatever it would say."""
    judged = evidence(records)
    people = [r for r in records if r.spec.params["subject"] != 7]
    smaller = Evidence("shin2023", "committed", "quick", tuple(people), len(people))
    begun = replace(smaller, profile="full", expected=len(people) + 1)
    table = report.sensitivity(comparable([judged, smaller, begun]))
    assert set(table.index.unique("view")) == {*report.VIEWS, "the profile quick"}
    found, expected = table.xs("the profile quick", level="view").droplevel("problem"), report.claims([smaller])
    pd.testing.assert_series_equal(found.effect, expected.effect.loc[found.index])
    assert list(found.verdict) == list(expected.verdict.loc[found.index])
    assert f"tests was made in {len(report.VIEWS) + 1} ways" in findings.sensitivity(table)
    pd.testing.assert_frame_equal(table.drop("the profile quick", level="view"), report.sensitivity([judged]))


def test_only_methods_that_ran_are_counted_as_rivals(records):
    methods = ("or", "dense-multi", "random", "imp")
    some = [r for r in records if r.spec.method in methods and r.spec.params["sparsity"] in (0.0, 0.4)]
    told = findings.accuracy_against_sparsity(some, PROBLEM)
    above = sum(both(m, 0.4).mean() > both("or", 0.4).mean() for m in ("random", "imp"))
    assert f"{above} of 2 other pruning methods" in told
    assert "not run at 20 %" in told
    assert "CSP + LDA not run" in told
    alone = findings.accuracy_against_sparsity([r for r in some if r.spec.method in methods[:2]], PROBLEM)
    assert "Against other pruning methods: not run." in alone


def test_the_claim_of_robustness_is_asked_without_each_rival(records):
    table = report.robustness_by_rival(evidence(records)).loc[PROBLEM]
    assert list(table.index) == [METHODS[m].label for m in ("or", *RIVALS)]
    dense = {m: "dense-single" if m == "snip-single" else "dense-multi" for m in ("or", *RIVALS)}
    change = {m: both(m, 0.8) - both(dense[m], 0.0) for m in ("or", *RIVALS)}
    for left_out in ("or", *RIVALS):
        mean = np.mean([change[m] for m in RIVALS if m != left_out], axis=0)
        gain = 100 * (change["or"] - mean)
        low, high = stats.ttest_1samp(gain, 0).confidence_interval()
        row = table.loc[METHODS[left_out].label]
        assert (row.effect, row.low, row.high) == pytest.approx((gain.mean(), low, high))
        assert row.change == pytest.approx(100 * change[left_out].mean())
        assert row.verdict == ("reproduced" if low > 0 else "not reproduced" if high < 0 else "inconclusive")
    assert report.robustness_by_rival(evidence([])).empty


def test_the_sentence_on_overfitting_says_when_a_gap_is_accuracy_again(records):
    tables = {problem: report.overfitting(records, problem) for problem in (PROBLEM, "four-class")}
    row = ("proposed, OR arbiter", "80 %")
    tables[PROBLEM]["training"] = 1.0
    told = findings.overfitting(tables)
    assert "left or right fist: every network answers at least 100.0 % of its own trials rightly, so that" in told
    assert "feet" not in told  # was not run
    tables[PROBLEM].loc[row, "training"] = 0.9
    told = findings.overfitting(tables)
    assert "at least 90.0 % of its own trials rightly (proposed, OR arbiter at 80 %); where one fits" in told
    assert findings.overfitting({PROBLEM: report.overfitting([], PROBLEM)}) == "Overfitting: not run."


def test_the_sentence_on_robustness_names_who_loses_less_and_who_decides(records):
    table = report.robustness_by_rival(evidence(records))
    table["change"], table["verdict"] = -9.0, "reproduced"
    table.loc[(PROBLEM, "RigL"), "change"] = -7.5
    told = findings.robustness(table)
    assert "changes by -9.0 points; of 9 other pruning methods 1 loses less (RigL -7.5)." in told
    assert "left out" not in told
    table.loc[(PROBLEM, "GraSP"), "verdict"] = "inconclusive"
    assert "With GraSP left out the verdict is inconclusive, not reproduced." in findings.robustness(table)
    some = [r for r in records if r.spec.method != "grasp"]  # then nothing but "without GraSP" can be asked
    assert "Robustness: not run." in findings.robustness(report.robustness_by_rival(evidence(some)))


# Backbones


@pytest.fixture(scope="module")
def backbones(records, make_record):
    """Evidence by backbone: the same people, with accuracies 0.01 and 0.02 lower, in networks of other sizes."""

    def other(r, name, less):
        result = copy.deepcopy(r.result)
        result["metrics"] = {k: v - less for k, v in result["metrics"].items()}
        result["weights"] = {"whole": round(1e5 * less)}
        return make_record(replace(r.spec, params=r.spec.params | {"backbone": name}), result)

    networks = [r for r in records if r.spec.method != "csp-lda" and r.spec.params["labels"] == "true"]
    rest = [other(r, name, less) for name, less in (("shallow", 0.01), ("deep4", 0.02)) for r in networks]
    return report.by_backbone([evidence(records)], evidence(rest))


def test_each_backbone_has_its_own_runs(backbones, records):
    assert list(backbones) == list(BACKBONES) == ["eegnet", "shallow", "deep4"]
    for name, found in backbones.items():
        assert {r.spec.params["backbone"] for r in found.records} == {name}
    assert backbones["eegnet"].records == tuple(records)


def test_backbones_of_another_profile_are_not_mixed(records):
    full = replace(evidence(records), profile="full")
    assert not report.by_backbone([full], replace(evidence([]), profile="small"))["eegnet"]
    assert report.by_backbone([full, evidence(records)], replace(evidence([]), profile="small"))["eegnet"]


def test_the_table_of_backbones_holds_means_fit_and_size(backbones):
    table = report.backbone_table(backbones, PROBLEM)
    assert len(table) == 3 * 5
    for label, less in (("EEGNet", 0), ("Shallow ConvNet", 0.01), ("Deep ConvNet", 0.02)):
        row = table.loc[label, METHODS["or"].label, "40 %"]
        values = by_subject("me", "or", 0.4)
        assert row[TASKS["me"]] == f"{values.mean() - less:.3f} ± {values.std(ddof=1):.3f}"
        results = [result_of("or", 0.4, u, k, "true") for u in SUBJECTS for k in SEEDS]
        fits = np.mean([r["metrics"][f"{t}_train_accuracy"] for r in results for t in TASKS])
        assert row["on training trials"] == pytest.approx(fits - less)
        size = round(1e5 * less) or 1000
        assert row["weights kept"] == f"{size * (1 - np.mean([r['sparsity']['whole'] for r in results])):.0f}"
    assert table.xs("dense, single-task", level="method")["weights kept"].isna().all()


def test_the_claims_by_backbone_are_those_of_its_runs(backbones):
    table = report.backbone_claims(backbones)
    assert len(table) == 3 * len(CLAIMS)  # one problem was run
    assert list(table.index[:3]) == [(CLAIMS[0].id, PROBLEM, label) for label in BACKBONES.values()]
    for name, found in backbones.items():
        alone = report.claims([found])
        mine = table.xs(BACKBONES[name], level="backbone")
        pd.testing.assert_series_equal(mine.effect.droplevel("problem"), alone.effect, check_exact=True)
    # an equal shift of all accuracies leaves every difference where it was
    effects = table.effect.unstack("backbone")
    np.testing.assert_allclose(effects["Deep ConvNet"], effects["EEGNet"])
    shown = report.told_apart(table)
    assert list(shown.index[0]) == [CLAIMS[0].short, PROBLEM, "EEGNet"]
    assert list(shown.verdict) == list(table.verdict)


def test_the_figure_of_backbones_draws_their_intervals(backbones):
    table = report.backbone_claims(backbones)
    ax = figures.backbone_effects(table, PROBLEM).axes[0]
    drawn_ = {tuple(np.round(line.get_xdata(), 9)) for line in ax.lines}
    for row in table.itertuples():
        assert tuple(np.round([100 * row.low, 100 * row.high], 9)) in drawn_
    assert [t.get_text() for t in ax.get_yticklabels()] == [c.short for c in CLAIMS]


def test_the_sentence_counts_what_the_backbones_share(backbones):
    table = report.backbone_claims(backbones)
    told = findings.backbones(table)
    n = len(CLAIMS)
    profile, counts = table.profile.unique().item(), table.xs("EEGNet", level="backbone").verdict.value_counts()
    words = [w for w in ("reproduced", "not reproduced", "inconclusive") if w in counts]
    same = f"{n} end in the same verdict with each ({', '.join(f'{counts[w]} {w}' for w in words)})"
    assert f"On the profile `{profile}`, {n} tests were run with all 3 backbones: {same}" in told
    assert f"in {n} the effect lies on the same side" in told
    key = (CLAIMS[1].id, PROBLEM, "Shallow ConvNet")
    table = table.sort_index()
    other = table.copy()
    other.loc[key, "verdict"] = "reproduced" if table.loc[key, "verdict"] != "reproduced" else "inconclusive"
    other.loc[key, "effect"] = -table.loc[key, "effect"]
    told = findings.backbones(other)
    assert f"{n - 1} end in the same verdict" in told
    assert f"in {n - 1} the effect" in told
    fewer = table.copy()
    fewer.loc[key, "effect"] = np.nan
    assert f"{n - 1} tests were run with all" in findings.backbones(fewer)
    fewer["verdict"] = "inconclusive"
    assert "none with any backbone" in findings.backbones(fewer)
    fewer.loc[(CLAIMS[0].id, PROBLEM, "EEGNet"), "verdict"] = "reproduced"
    assert f"{CLAIMS[0].short} (left or right fist) with EEGNet." in findings.backbones(fewer)


def test_the_words_on_no_backbone_say_not_run():
    nothing = report.backbone_claims(report.by_backbone([], evidence([])))
    assert "not run" in findings.backbones(nothing)
    assert "not run" in text_of(figures.backbone_effects(nothing, PROBLEM))


# Nothing was run, or little


def backbone_evidence(records):
    """The records as EEGNet's, beside no other backbone."""
    return report.by_backbone([evidence(records)], evidence([]))


TABLES = {
    "table1": lambda r: report.table1(r, PROBLEM),
    "published": lambda r: report.published_beside_ours(r, PROBLEM),
    "chance": report.chance,
    "comparisons": lambda r: report.comparisons(r, PROBLEM),
    "claims": lambda r: report.claims([evidence(r)]),
    "votes": report.vote_table,
    "agreement": report.agreement,
    "recovery": report.recovery,
    "realised": report.realised_sparsity,
    "spread": lambda r: report.spread(r, PROBLEM),
    "recordings": report.recordings,
    "backbones": lambda r: report.backbone_table(backbone_evidence(r), PROBLEM),
    "verdicts": lambda r: report.told_apart(report.backbone_claims(backbone_evidence(r))),
    "choices": lambda r: report.told_apart(report.sensitivity([evidence(r)])),
}
FIGURES = {
    "accuracy": lambda r: figures.accuracy_against_sparsity(r, PROBLEM),
    "subjects": lambda r: figures.variation_over_subjects(r, PROBLEM),
    "methods": lambda r: figures.all_methods_by_subject(r, PROBLEM),
    "votes": figures.vote_agreement,
    "densities": figures.densities,
    "maps": figures.scalp_maps,
    "truth": lambda r: figures.scalp_maps(r, truth=True),
    "history": lambda r: figures.training_history(r, PROBLEM),
    "backbones": lambda r: figures.backbone_effects(report.backbone_claims(backbone_evidence(r)), PROBLEM),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_nothing_says_not_run(name):
    html = show_table(TABLES[name]([]), "caption").to_html()
    assert "not run" in html
    assert "nan" not in html.lower()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_nothing_says_not_run(name):
    assert "not run" in text_of(FIGURES[name]([]))


def test_words_on_nothing_say_not_run():
    assert report.findings(evidence([])).count("**not run**") == len(CLAIMS)
    assert "not run" in report.recovery_sentence([])


PARTS = {
    "one run": lambda r: (r.spec.method, r.spec.params["sparsity"], r.spec.params["subject"], r.spec.seed)
    == ("or", 0.4, 1, 0) and r.spec.params["labels"] == "true",
    "one subject": lambda r: r.spec.params["subject"] == 7,
    "first seed": lambda r: r.spec.seed == 0,
    "only dense": lambda r: r.spec.method == "dense-multi",
    "only classical": lambda r: r.spec.method == "csp-lda",
    "only 80 %": lambda r: r.spec.params["sparsity"] == 0.8,
    "only shuffled": lambda r: r.spec.params["labels"] == "shuffled",
    "single networks": lambda r: r.spec.method in ("snip-single", "dense-single"),
    "holes": lambda r: zlib.crc32(r.hash.encode()) % 3 == 0,
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_part_of_the_records_gives_part_of_the_page(records, part):
    some = [r for r in records if PARTS[part](r)]
    assert some
    for name, make in TABLES.items():
        shown = show_table(make(some)).to_html()
        assert ">nan" not in shown.lower(), name
        assert "± nan" not in shown, name
        assert "nan to nan" not in shown, name
    for name, make in FIGURES.items():
        if name not in ("maps", "truth"):
            assert "nan" not in text_of(make(some)), name
    plt.close("all")


def test_another_problem_is_not_mixed_in(records):
    assert (report.table1(records, "four-class")[TASKS["mi"], "accuracy"] == "not run").all()
    assert report.comparisons(records, "four-class").empty
    assert "not run" in text_of(figures.accuracy_against_sparsity(records, "four-class"))


# Every number follows its record


def changed(records, make_record):
    i = next(
        i
        for i, r in enumerate(records)
        if (r.spec.method, r.spec.params["sparsity"], r.spec.params["labels"]) == ("or", 0.4, "true")
    )

    def change(result):
        result["metrics"]["mi_accuracy"] += 0.1
        result["votes"]["layers"]["shared.spatial.weight"]["iou"] += 0.1
        result["votes"]["layers"]["shared.spatial.weight"]["half"] += 0.1
        result["votes"]["electrodes"]["both"] = result["votes"]["electrodes"]["both"][::-1]

    return with_change(records, make_record, i, change)


@pytest.mark.parametrize(
    "name", ["table1", "published", "comparisons", "claims", "votes", "agreement", "recovery", "spread"]
)
def test_one_changed_value_changes_the_table(records, make_record, name):
    before, after = TABLES[name](records), TABLES[name](changed(records, make_record))
    assert not before.equals(after)
    assert before.shape == after.shape


def drawn(fig):
    """All data of a figure: lines, bars and images."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for ax in fig.axes for line in ax.lines]
    bars = [np.array([p.get_height() for ax in fig.axes for p in ax.patches])]
    images = [np.asarray(im.get_array(), dtype=float).ravel() for ax in fig.axes for im in ax.images]
    return np.nan_to_num(np.concatenate([*lines, *bars, *images]))


@pytest.mark.parametrize("name", ["accuracy", "subjects", "methods", "votes", "maps"])
def test_one_changed_value_changes_the_figure(records, make_record, name):
    before, after = (drawn(FIGURES[name](r)) for r in (records, changed(records, make_record)))
    assert before.shape != after.shape or not np.array_equal(before, after)


def test_the_curves_are_the_means(records):
    fig = figures.accuracy_against_sparsity(records, PROBLEM)
    for ax, task in zip(fig.axes, TASKS, strict=True):
        curves = {line.get_label(): line for line in ax.lines}
        for method in SPARSE:
            expected = [by_subject(task, method, s).mean() for s in SPARSITIES]
            np.testing.assert_allclose(curves[METHODS[method].label].get_ydata(), expected)
        assert curves["chance"].get_ydata()[0] == 0.5
        assert curves["published"].get_ydata()[0] == {"mi": 0.645, "me": 0.745}[task]
        assert curves[METHODS["csp-lda"].label].get_ydata()[0] == pytest.approx(by_subject(task, "csp-lda", 0.0).mean())


def test_the_loss_curve_is_the_mean_over_runs(records):
    (ax,) = figures.training_history(records, PROBLEM).axes
    first = ax.lines[0].get_ydata()
    runs = [result_of("dense-multi", 0.0, u, k, "true")["history"] for u in SUBJECTS for k in SEEDS]
    np.testing.assert_allclose(first, np.mean(runs, axis=0))
    assert len(ax.lines) == 4


def test_a_table_keeps_its_caption_and_its_numbers():
    html = show_table(pd.DataFrame({"a": [0.12345, np.nan]}), "A caption").to_html()
    for word in ("A caption", "0.123", NONE):
        assert word in html
