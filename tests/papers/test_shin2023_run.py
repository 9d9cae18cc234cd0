"""One run of the EEG study: nothing of a test fold gets in, and the result says what it promises.

The log-power network on moments is the plain network on signals.
"""

import base64
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from companion import engine
from companion.data.eeg import MOTOR21, MotorData, Trials, stratified_folds
from companion.spec import RunSpec
from papers.shin2023 import run as motor
from papers.shin2023.claims import hits
from papers.shin2023.power import PowerNet, lag_moments, mapped
from papers.shin2023.study import CLASSICAL, LOSS_STEP, METHODS, RECIPE, VERSION
from scipy.linalg import sqrtm
from sparsemtl.errors import DataError, SpecError

TASKS = ("mi", "me")
SMALL = RECIPE | {
    "epochs": 5, "folds": 3, "batch": 20, "labels": "true", "crop": 0.0,
    "trunk": "power", "options": {"taps": 3, "filters": 2, "depth": 3},
    "sfreq": 40.0, "subject": 1, "problem": "left-right", "version": VERSION, "trials_per_class": 6,
}  # fmt: skip


def spec_of(method="or", sparsity=0.4, seed=0, **params):
    params = SMALL | {"sparsity": sparsity if METHODS[method].sparse else 0.0} | params
    return RunSpec("shin2023", "quick", "simulated-eeg", method, seed, params)


def person(n=(16, 13), seed=0, recordings=3):
    """Noise whose power on channel 1 (class 0) or 2 (class 1) is larger."""
    rng, trials = np.random.default_rng(seed), {}
    for task, count in zip(TASKS, n, strict=True):
        y = rng.permutation(np.arange(count) % 2)
        x = rng.normal(3, 5, (count, 6, 40))
        x[np.arange(count), 1 + y] *= 3
        numbers = 4 + 4 * (np.arange(count) % recordings)
        trials[task] = Trials(x.astype(np.float32), y.astype(np.int64), numbers)
    return MotorData(
        **trials, channels=MOTOR21[:6], sfreq=40.0, classes=("left_hand", "right_hand"), fingerprint="f" * 64,
        name="test person 1",
    )  # fmt: skip


@pytest.fixture
def given(monkeypatch):
    """`run` gets this person's data."""
    return lambda data: monkeypatch.setattr(motor, "load", lambda name, root, **options: data)


@pytest.mark.parametrize("method", ["or", "snip-single", "rigl", "imp", "lottery"])
def test_nothing_of_the_test_fold_gets_into_masks_alignment_or_training(method):
    data, spec = person(), spec_of(method)
    folds, tasks = stratified_folds(data, 3, 0)[:1], TASKS[:1] if method == "snip-single" else TASKS
    rng, garbage = np.random.default_rng(9), {}
    for task in TASKS:
        trials, (_, test) = getattr(data, task), folds[0][task]
        x, y = trials.x.copy(), trials.y.copy()
        x[test], y[test] = 1e3 * rng.normal(7, 1, x[test].shape), 0
        garbage[task] = replace(trials, x=x, y=y)
    both = data, replace(data, **garbage)
    ((before,),), ((after,),) = (motor.trained([spec], [own], [folds], tasks, "cpu") for own in both)
    assert not np.array_equal(before["logits"]["mi"], after["logits"]["mi"])  # the test did see the other trials
    for outcome in (before, after):
        del outcome["logits"]
        outcome.get("curve", {}).pop("test", None)
    assert motor.short(before, 9) == motor.short(after, 9)


@pytest.mark.parametrize("how", ["none", "electrode", "euclidean"])
def test_alignment_gives_the_training_trials_unit_variance_and_whitens_as_the_matrix_square_root_does(how):
    x = person().mi.x.astype(float) + np.arange(6)[:, None]
    matrix, shift = motor.alignment(*motor.moments(x), how)
    made = matrix @ x - matrix @ shift
    assert made.std() == pytest.approx(1)
    if how == "none":
        np.testing.assert_allclose(made, x / x.std())
    elif how == "electrode":
        np.testing.assert_allclose([made.mean((0, 2)), made.std((0, 2))], [[0] * 6, [1] * 6], atol=1e-9)
    else:
        whole = np.linalg.inv(sqrtm(np.mean([a @ a.T for a in x], axis=0)).real)
        np.testing.assert_allclose(matrix / matrix[0, 0], whole / whole[0, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_keep_the_classes_of_each_recording(seed):
    data = person()
    shuffled = motor.relabelled(data, spec_of(seed=seed, labels="shuffled"))
    for task in TASKS:
        old, new = getattr(data, task), getattr(shuffled, task)
        assert new.x is old.x
        assert (new.y != old.y).any()
        for number in np.unique(old.recording):
            assert sorted(new.y[old.recording == number]) == sorted(old.y[old.recording == number])


def test_the_recording_as_label():
    data = motor.relabelled(person(), spec_of(labels="recording"))
    assert len(data.classes) == 3
    for trials in (data.mi, data.me):
        np.testing.assert_array_equal(trials.y, (trials.recording - 4) // 4)
    with pytest.raises(DataError, match="one recording"):
        motor.relabelled(person(recordings=1), spec_of(labels="recording"))


def test_the_loss_is_the_sum_of_the_tasks_mean_cross_entropies():
    logits = {t: torch.arange(2.0 * n).sin().view(n, 2) for t, n in zip(TASKS, (5, 8), strict=True)}
    y = {t: torch.arange(len(out)) % 2 for t, out in logits.items()}
    torch.testing.assert_close(motor.multitask_loss(logits, y), sum(motor.cross_entropy(logits[t], y[t]) for t in y))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_predicts_each_trial_once_and_says_how_well(given, method):
    data = person()
    given(data)
    record = engine.run(spec_of(method))
    result, metrics = record.result, record.result["metrics"]
    for task in TASKS:
        y, hit = getattr(data, task).y, hits(record, task)
        assert result["labels"][task] == "".join(map(str, y))
        assert metrics[f"{task}_accuracy"] == pytest.approx(hit.mean(), abs=1e-4)
        losses = LOSS_STEP * np.frombuffer(base64.b64decode(result["losses"][task]), np.uint8)
        assert losses[losses < 7].mean() == pytest.approx(metrics[f"{task}_loss"], abs=0.02 + losses.max() / 7)
        # a trial whose class has less than half of the probability is an error, and the other way round
        clear = abs(losses - np.log(2)) > 0.04
        assert ((losses < np.log(2)) == hit)[clear].all()
    if method in CLASSICAL:
        assert "sparsity" not in result
    else:
        assert result["weights"] == 2 * 3 + 6 * 6 + len(TASKS) * 12 or method.endswith("single")
        realised = result["sparsity"]["whole"]
        asked = np.floor(0.4 * result["weights"]) / result["weights"] if METHODS[method].sparse else 0
        assert realised == pytest.approx(asked, abs=1e-4) or (method == "or" and 0 < realised < asked)
    assert ("curve" in result, "votes" in result) == (method in ("dense-multi", "or"), method == "or")


def test_a_network_learns_what_is_there_and_a_classical_decoder_too(given):
    given(person((60, 60)))
    for method in ("dense-multi", *CLASSICAL):
        metrics = motor.run(spec_of(method, 0.0, epochs=40, lr=0.03))["metrics"]
        assert min(metrics["mi_accuracy"], metrics["me_accuracy"]) > 0.8


@pytest.mark.parametrize("method", ["dense-single", "or", "rigl", "lottery"])
def test_runs_in_one_stack_are_those_made_alone(given, method):
    given(person())
    specs = [spec_of(method, seed=seed, labels="shuffled", crop=0.5) for seed in range(3)]
    assert len({motor.together(spec) for spec in specs}) == 1
    stacked = {spec: record for spec, record, _ in engine.made(specs, progress=False)}
    assert [stacked[spec].digest for spec in specs] == [engine.run(spec).digest for spec in specs]
    assert motor.together(spec_of(method, options={"taps": 3, "dropout": 0.5})) is None


@pytest.mark.parametrize(
    ("trunk", "options"),
    [("power", {"taps": 3, "filters": 2, "depth": 2}), ("mixed", {"taps": 2, "filters": 2, "depth": 2}),
     ("shallow", {"kernel": 5}), ("eegnet", {"kernel": 8})],
)  # fmt: skip
@pytest.mark.parametrize("crop", [0.0, 2.25])
def test_every_trunk_trains_on_whole_trials_and_on_crops(given, trunk, options, crop):
    data = person()
    long = {t: replace(getattr(data, t), x=np.tile(getattr(data, t).x, (1, 1, 3))) for t in TASKS}
    given(replace(data, **long))
    result = motor.run(spec_of(trunk=trunk, options=options, crop=crop, epochs=2))
    assert 0 < result["sparsity"]["whole"] < 0.4
    assert [len(result["votes"]["electrodes"][kind]) for kind in ("both", "mi_score")] == [6, 6]


def test_repeats_predict_every_trial_again_on_other_folds(given):
    given(person())
    one, three = (motor.run(spec_of("dense-single", repeats=n)) for n in (1, 3))
    assert one["labels"] == three["labels"]
    for task in TASKS:
        thirds = np.array(list(three["predicted"][task])).reshape(3, -1)
        right = (thirds == np.array(list(three["labels"][task]))).mean()
        assert three["metrics"][f"{task}_accuracy"] == pytest.approx(right, abs=1e-4)
        assert len({"".join(third) for third in thirds}) > 1


def test_a_person_with_one_task_alone(given):
    given(replace(person(), me=None))
    result = motor.run(spec_of("dense-single"))
    assert set(result["labels"]) == {"mi"}
    assert not any(name.startswith("me") for name in result["metrics"])


def test_the_votes_of_one_task_against_itself_agree(given):
    data = person()
    given(replace(data, me=data.mi))  # both tasks see the same trials; only their heads differ
    _, (_, layer) = motor.run(spec_of())["votes"]["layers"]
    assert layer["half_one_head"] == pytest.approx((layer["null_mi"] + 1) / 2, abs=1e-3)
    assert layer["or"] >= max(layer["mi"], layer["me"])


@pytest.mark.parametrize(
    ("method", "change"),
    [("dense-multi", {"sparsity": 0.4}), ("or", {"trunk": "resnet"}), ("or", {"lr": 0.0}),
     ("or", {"batch": 1, "folds": 2}), ("or", {"align": "both"}), ("or", {"labels": True})],
)  # fmt: skip
def test_what_cannot_run_is_named(given, method, change):
    given(person((30, 4)))
    with pytest.raises(SpecError, match=next(iter(change))):
        motor.run(replace(spec_of(method), params=dict(spec_of(method).params) | change))


def plain(net, x):
    y = net.norm(net.spatial(net.temporal(x[:, None]))[:, :, 0])
    return y.square().mean(2).clamp(min=1e-6).log()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("taps", "filters", "depth"), [(3, 4, 10), (1, 1, 5), (3, 1, 4), (7, 2, 3)])
def test_features_gradients_and_running_statistics_are_those_of_the_network_on_signals(mixed, taps, filters, depth):
    torch.manual_seed(0)
    fast = PowerNet(5, taps, filters, depth, mixed=mixed, bn_momentum=0.3).double()
    torch.nn.init.normal_(fast.norm.bias)
    slow, x = copy.deepcopy(fast), torch.randn(12, 5, 40, dtype=torch.float64) + 0.5
    for _ in range(2):
        one, other = fast(lag_moments(x, taps, mixed=mixed)), plain(slow, x)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        weights = torch.randn_like(one)
        for net, out in ((fast, one), (slow, other)):
            net.zero_grad()
            (out * weights).sum().backward()
        for p, q in zip(fast.parameters(), slow.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-10)
    unbiased = 12 * (40 - taps + 1)
    torch.testing.assert_close(fast.norm.running_mean, slow.norm.running_mean)
    torch.testing.assert_close(fast.norm.running_var, slow.norm.running_var, rtol=1 / unbiased * 2, atol=1e-9)
    slow.norm.running_var.copy_(fast.norm.running_var)
    torch.testing.assert_close(fast.eval()(lag_moments(x, taps, mixed=mixed)), plain(slow.eval(), x))


@pytest.mark.parametrize("mixed", [False, True])
def test_moments_of_mapped_signals_follow_from_those_of_the_signals(mixed):
    x, matrix = torch.randn(4, 5, 40, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    made = mapped(lag_moments(x, mixed=mixed), matrix, mixed=mixed)
    torch.testing.assert_close(made, lag_moments(matrix @ x, mixed=mixed))
