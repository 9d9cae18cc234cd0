"""One run of the EEG study: nothing of a test fold gets in, and the result says what it promises."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from companion.data.eeg import MOTOR21, MotorData, Trials, stratified_folds
from companion.records import compact_numbers
from papers.shin2023 import run as motor
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sparsemtl.errors import DataError, SpecError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.saliency import prunable, snip

CHANNELS, TASKS = MOTOR21[:6], ("mi", "me")


def subject(n=(13, 12), seed=0):
    """Noise with a class difference: an oscillation on C-something channel 1 (class 0) or 2 (class 1)."""
    rng, trials = np.random.default_rng(seed), {}
    for task, count in zip(TASKS, n, strict=True):
        y = rng.permutation(np.arange(count) % 2)
        x = rng.normal(3, 5, (count, 6, 40))
        x[np.arange(count), 1 + y] += 12 * np.sin(np.arange(40) * np.pi / 2 + rng.uniform(0, 6, (count, 1)))
        trials[task] = Trials(x.astype(np.float32), y.astype(np.int64), np.arange(count) % 3)
    return MotorData(
        **trials, channels=CHANNELS, sfreq=40.0, classes=("left_hand", "right_hand"),
        fingerprint="f" * 64, name="test subject 1",
    )  # fmt: skip


@pytest.fixture
def given(monkeypatch):
    """(data, fold=None): `run` gets this subject, and only this fold where one is given."""

    def give(data, fold=None):
        monkeypatch.setattr(motor, "load", lambda name, root, **options: data)
        if fold is not None:
            monkeypatch.setattr(motor, "stratified_folds", lambda *args: [fold])

    return give


@pytest.fixture
def networks(monkeypatch):
    """State of every network at the moment it is tested."""
    states, real = [], motor.predict

    def predict(net, inputs):
        states.append({k: v.clone() for k, v in net.state_dict().items()})
        return real(net, inputs)

    monkeypatch.setattr(motor, "predict", predict)
    return states


def numbers(value):
    return compact_numbers(value)


@pytest.mark.parametrize("method", ["or", "snip-single", "rigl", "imp", "csp-lda"])
def test_nothing_of_the_test_fold_gets_into_masks_scaling_or_training(tiny_spec, given, networks, method):
    data = subject()
    fold = stratified_folds(data, 3, 0)[0]
    spec = tiny_spec(method, 0.0 if method == "csp-lda" else 0.5)
    given(data, fold)
    before, states = motor.run(spec), list(networks)
    networks.clear()

    garbage, rng = {}, np.random.default_rng(9)
    for task in TASKS:
        trials, (_, test) = getattr(data, task), fold[task]
        x, y = trials.x.copy(), trials.y.copy()
        x[test] = 1e3 * rng.normal(7, 1, x[test].shape)
        y[test] = 0
        garbage[task] = Trials(x, y, trials.recording)
    given(replace(data, **garbage), fold)
    after = motor.run(spec)

    assert numbers(before["confusion"]) != numbers(after["confusion"])  # the test did see the other trials
    for key in ("history", "sparsity", "layers", "votes", "weights"):
        assert (key in before) == (key in after)
        assert numbers(before.get(key)) == numbers(after.get(key))
    for key in ("mi_train_accuracy", "me_train_accuracy"):
        assert before["metrics"].get(key) == after["metrics"].get(key)
    assert len(states) == len(networks) == (0 if method == "csp-lda" else 4 if method == "snip-single" else 2)
    for one, two in zip(states, networks, strict=True):
        assert all(torch.equal(v, two[k]) for k, v in one.items())


def test_scaling_uses_the_training_trials_of_both_tasks():
    data = subject()
    fold = stratified_folds(data, 3, 0)[0]
    x = {t: getattr(data, t).x.astype(np.float64) for t in TASKS}
    for channel in range(6):
        seen = np.concatenate([x[t][fold[t][0], channel].ravel() for t in TASKS])
        for task in TASKS:
            train, test = fold[task]
            x_train, y_train, x_test, y_test = motor._scaled_split(data, task, fold)
            for got, rows in ((x_train, train), (x_test, test)):
                assert got.dtype == np.float32
                np.testing.assert_allclose(
                    got[:, channel], (x[task][rows, channel] - seen.mean()) / seen.std(), rtol=1e-5, atol=1e-5
                )
            np.testing.assert_array_equal(y_train, getattr(data, task).y[train])
            np.testing.assert_array_equal(y_test, getattr(data, task).y[test])


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_keep_the_trials_and_the_class_counts(seed):
    data = subject()
    shuffled = motor._shuffled(data, seed)
    for task in TASKS:
        old, new = getattr(data, task), getattr(shuffled, task)
        assert new.x is old.x
        assert sorted(new.y) == sorted(old.y)
        assert (new.y != old.y).any()
    assert (shuffled.channels, shuffled.fingerprint, shuffled.name) == (data.channels, data.fingerprint, data.name)
    again = motor._shuffled(data, seed)
    assert all((getattr(again, t).y == getattr(shuffled, t).y).all() for t in TASKS)


def test_shuffled_labels_are_used_when_the_spec_says_so(tiny_spec, given):
    given(subject())
    true, shuffled = (motor.run(tiny_spec("dense-multi", 0.0, labels=which)) for which in ("true", "shuffled"))
    assert true["data"]["trials"]["mi"].tolist() == shuffled["data"]["trials"]["mi"].tolist() == [7, 6]
    assert numbers(true["history"]) != numbers(shuffled["history"])


@pytest.mark.parametrize(
    ("method", "dense"),
    [("or", "dense-multi"), ("rigl", "dense-multi"), ("lottery", "dense-multi"), ("snip-single", "dense-single")],
)
def test_at_sparsity_zero_a_sparse_method_is_the_dense_network(tiny_spec, given, method, dense):
    given(subject())
    assert numbers(motor.run(tiny_spec(method, 0.0))) == numbers(motor.run(tiny_spec(dense, 0.0)))


def test_the_result_has_all_that_the_tables_need(tiny_spec, given):
    data = subject()
    given(data)
    result = motor.run(tiny_spec("or", 0.5))
    assert set(result) == {"metrics", "confusion", "data", "weights", "sparsity", "layers", "history", "votes"}
    for task, n in zip(TASKS, (13, 12), strict=True):
        folds = np.array(result["confusion"][task])
        assert folds.shape == (2, 2, 2)
        assert folds.sum() == n  # each trial is tested once
        pooled = folds.sum(0)
        np.testing.assert_array_equal(pooled.sum(1), np.bincount(getattr(data, task).y))
        y = np.repeat([0, 0, 1, 1], pooled.ravel())
        p = np.repeat([0, 1, 0, 1], pooled.ravel())
        m = result["metrics"]
        assert m[f"{task}_accuracy"] == pytest.approx(accuracy_score(y, p))
        assert m[f"{task}_f1"] == pytest.approx(f1_score(y, p, average="macro"))
        assert m[f"{task}_kappa"] == pytest.approx(cohen_kappa_score(y, p))
        assert 0 <= m[f"{task}_train_accuracy"] <= 1
    assert len(result["history"]) == 2
    assert result["sparsity"]["nominal"] == 0.5
    w, s = result["weights"], result["sparsity"]
    assert w["whole"] == w["shared"] + w["mi"] + w["me"]
    assert s["whole"] * w["whole"] == pytest.approx(sum(s[part] * w[part] for part in ("shared", "mi", "me")))
    assert 0 < s["whole"] <= 0.5
    net = DualTaskNet(6, 40, 2, sfreq=40.0, kernel=8)
    sizes = {name: weight.numel() for name, weight in prunable(net).items()}
    assert set(result["layers"]) == set(sizes)
    assert w["whole"] == sum(sizes.values())
    assert sum(result["layers"][name] * n for name, n in sizes.items()) == pytest.approx(s["whole"] * w["whole"])
    assert result["data"] | {"trials": None} == {
        "fingerprint": "f" * 64, "classes": data.classes, "runs": data.recordings, "trials": None, "channels": CHANNELS,
        "sfreq": 40.0, "n_times": 40,
    }  # fmt: skip
    assert set(result["votes"]) == {"layers", "electrodes"}
    assert numbers(result) == numbers(motor.run(tiny_spec("or", 0.5)))


def test_single_task_methods_train_two_networks_and_csp_none(tiny_spec, given, networks):
    given(subject())
    single = motor.run(tiny_spec("dense-single", 0.0))
    assert [sorted(k.split(".")[0] for k in s if k.endswith("weight") and k[0] == "m") for s in networks[::2]] == [
        ["mi"], ["me"], ["mi"], ["me"]
    ]  # fmt: skip
    assert single["weights"]["whole"] == single["weights"]["shared"] + single["weights"]["mi"]
    assert set(single["sparsity"]) == {"nominal", "whole", "shared", "mi", "me"}
    networks.clear()
    classical = motor.run(tiny_spec("csp-lda", 0.0))
    assert networks == []
    assert set(classical) == {"metrics", "confusion", "data"}
    assert classical["metrics"]["mi_accuracy"] > 0.8  # a difference in power of 1 to 6 is what CSP is made for


def test_only_the_known_truth_of_simulated_data_is_kept(tiny_spec, given):
    truth = {"common": np.ones(6), "mi": np.zeros(6), "me": np.ones(6), "sources": {"mi": ("left premotor",)}}
    given(replace(subject(), truth=truth))
    kept = motor.run(tiny_spec("csp-lda", 0.0))["data"]["truth"]
    assert set(kept) == {"common", "mi", "me"}


def test_batches_hold_what_differs_in_method_and_sparsity_alone(tiny_spec):
    joint = [tiny_spec("or", s) for s in (0.2, 0.4)] + [tiny_spec("dense-multi", 0.0)]
    single = [tiny_spec("dense-single", 0.0), tiny_spec("snip-single", 0.4)]
    others = [tiny_spec(**other) for other in ({"seed": 1}, {"subject": 2}, {"labels": "shuffled"}, {"epochs": 3})]
    found = motor.batches([others[0], single[0], *joint, *others[1:], tiny_spec("csp-lda", 0.0), single[1]])
    assert found == [[others[0]], single, joint, *([spec] for spec in others[1:]), [tiny_spec("csp-lda", 0.0)]]


def test_on_a_cpu_batches_are_no_longer_than_a_stack_and_other_trunks_go_alone(tiny_spec):
    for backbone, cpu in (("eegnet", motor.CPU_STACK), ("shallow", 1), ("deep4", 1)):
        specs = [tiny_spec("or", k / 100, backbone=backbone) for k in range(2 * motor.CPU_STACK)]
        assert {len(batch) for batch in motor.batches(specs)} == {cpu}
        assert motor.batches(specs, "cuda") == [specs]


def test_of_many_specs_each_gets_its_result_or_its_own_error(tiny_spec, given, monkeypatch):
    given(subject())
    specs = [tiny_spec(*choice) for choice in (("or", 0.4), ("snap", 0.4), ("random", 1.0), ("snip-joint", 0.4))]
    snip, calls = motor.PROCEDURES["snip-joint"], []

    def in_the_second_fold(net, job):
        calls.append(job.seed)
        if len(calls) == 2:
            raise DataError("the loss is nan while scoring")
        return (yield from snip(net, job))

    monkeypatch.setitem(motor.PROCEDURES, "snip-joint", in_the_second_fold)
    good, *failures = motor.run_many(specs)
    assert numbers(good) == numbers(motor.run(specs[0]))
    assert [str(f).split(":")[0] for f in failures] == [
        "unknown method 'snap'", "sparsity is 1.0", "the loss is nan while scoring"
    ]  # fmt: skip
    assert calls == [0, 1]


def test_what_is_wrong_with_the_data_is_wrong_with_each(tiny_spec, given):
    given(subject())
    specs = [tiny_spec("or", 0.4, folds=7), tiny_spec("or", 1.0, folds=7)]
    assert [type(error) for error in motor.run_many(specs)] == [DataError, SpecError]


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"method": "snap"}, SpecError, "unknown method 'snap': choose one of csp-lda"),
        ({"sparsity": 1.0}, SpecError, r"sparsity is 1\.0"),
        ({"sparsity": -0.1}, SpecError, r"sparsity is -0\.1"),
        ({"folds": 7}, DataError, "too few MI trials for 7 folds"),
        ({"folds": 1}, SpecError, "folds is 1: it must be a whole number of 2 or more"),
        ({"folds": 2.5}, SpecError, r"folds is 2\.5"),
        ({"epochs": 0}, SpecError, "epochs is 0: it must be a whole number of 1 or more"),
        ({"batch": 0}, SpecError, "batch is 0"),
        ({"batch": 1}, SpecError, "batch is 1: some of .* batches would lack a task; take 2 or more"),
        ({"lr": -1.0}, SpecError, r"lr is -1\.0: it must be a number above 0"),
        ({"labels": True}, SpecError, "labels is True: it must be 'true' or 'shuffled'"),
        ({"backbone": "vgg"}, SpecError, "backbone is 'vgg': it must be 'eegnet' or"),
    ],
)
def test_bad_specs_are_named(tiny_spec, given, choice, error, message):
    given(subject())
    with pytest.raises(error, match=message):
        motor.run(tiny_spec(**{"sparsity": 0.4} | choice))


def test_the_options_of_the_spec_reach_the_loader(tiny_spec, monkeypatch):
    asked = {}

    def load(name, root, **options):
        asked.update(options, name=name, root=root)
        return subject()

    monkeypatch.setattr(motor, "load", load)
    motor.run(tiny_spec("csp-lda", 0.0, subject=2), root="here")
    assert asked == {
        "name": "simulated-eeg", "root": "here", "subject": 2, "problem": "left-right", "fmin": 4.0, "fmax": 16.0,
        "tmin": 0.5, "tmax": 2.5, "sfreq": 40.0, "channels": "motor21", "trials_per_class": 4,
    }  # fmt: skip


# Votes whose agreement is known beforehand

SHARED = "shared.spatial.weight"


def analysed(monkeypatch, mi, me):
    """`vote_analysis` of a network whose votes are kept where `mi` and `me` (index -> bool) say."""
    data = subject()
    build = partial(DualTaskNet, 6, 40, 2, sfreq=40.0, kernel=8)
    net = build(generator=torch.Generator().manual_seed(0))

    def votes(net, job):
        out = {}
        for task, rule in (("mi", mi), ("me", me)):
            pool = {n: w for n, w in prunable(net).items() if n.startswith(("shared.", task + "."))}
            out[task] = {n: rule(torch.arange(w.numel())).view_as(w) for n, w in pool.items()}
        return out

    monkeypatch.setattr(motor, "votes", votes)
    inputs = {t: torch.tensor(getattr(data, t).x) for t in TASKS}
    targets = {t: torch.tensor(getattr(data, t).y) for t in TASKS}
    job = motor.Job(inputs, targets, motor.multitask_loss, 1, 1, 0.5, 0)
    return net, motor.vote_analysis(net, job, data, build, 0)


@pytest.mark.parametrize(
    ("mi", "me", "expected"),
    [
        (lambda i: i % 2 == 0, lambda i: i % 2 == 1, {"mi": 1 / 2, "me": 1 / 2, "or": 1, "iou": 0, "chance": 1 / 3}),
        (
            lambda i: i % 2 == 0,
            lambda i: i % 4 == 0,
            {"mi": 1 / 2, "me": 1 / 4, "or": 1 / 2, "iou": 1 / 2, "chance": 0.2},
        ),
        (lambda i: i >= 0, lambda i: i % 2 == 0, {"mi": 1, "me": 1 / 2, "or": 1, "iou": 1 / 2, "chance": 1 / 2}),
        (lambda i: i < 0, lambda i: i < 0, {"mi": 0, "me": 0, "or": 0, "iou": 1, "chance": 1}),
        (lambda i: i < 0, lambda i: i >= 0, {"mi": 0, "me": 1, "or": 1, "iou": 0, "chance": 0}),
    ],
)
def test_agreement_of_constructed_votes(monkeypatch, mi, me, expected):
    net, found = analysed(monkeypatch, mi, me)
    assert set(found["layers"]) == {n for n in prunable(net) if n.startswith("shared.")}
    for numbers_ in found["layers"].values():
        assert {k: numbers_[k] for k in expected} == pytest.approx(expected)
        assert numbers_["half"] == pytest.approx(expected["iou"])
        assert numbers_["half_one_head"] == pytest.approx(expected["iou"])
        assert [numbers_[k] for k in ("null_mi", "null_me", "null_me_one_head", "reinit")] == [1, 1, 1, 1]
    electrodes = {k: v.tolist() for k, v in found["electrodes"].items()}
    weight = prunable(net)[SHARED]
    kept = {t: rule(torch.arange(weight.numel())).view(weight.shape[0], 6) for t, rule in (("mi", mi), ("me", me))}
    assert electrodes["both"] == (kept["mi"] & kept["me"]).sum(0).tolist()
    assert electrodes["mi_only"] == (kept["mi"] & ~kept["me"]).sum(0).tolist()
    assert electrodes["me_only"] == (kept["me"] & ~kept["mi"]).sum(0).tolist()
    for task in TASKS:
        assert sum(electrodes[f"{task}_score"]) == pytest.approx(1)
        assert min(electrodes[f"{task}_score"]) >= 0


def test_controls_of_the_votes_compare_what_they_say(monkeypatch):
    """Votes that tell which network, which half and which task they are of."""
    data = subject()
    build = partial(DualTaskNet, 6, 40, 2, sfreq=40.0, kernel=8)
    net = build(generator=torch.Generator().manual_seed(0))
    inputs = {t: torch.tensor(getattr(data, t).x) for t in TASKS}
    targets = {t: torch.tensor(getattr(data, t).y) for t in TASKS}
    whole = motor.Job(inputs, targets, motor.multitask_loss, 1, 1, 0.5, 0)
    # kept weights by (initial network?, trials, task): the first of the half has that of the first trial
    starts = {("mi", "all"): 0, ("me", "all"): 4, ("mi", 0): 2, ("mi", 1): 6, ("me", 0): 10, ("me", 1): 12}

    def of(job, task):
        if len(job.targets[task]) == len(targets[task]):
            return "all"
        return next(k for k in (0, 1) if torch.equal(job.inputs[task], motor._half(whole, k).inputs[task]))

    def kept(task, which, other):
        return torch.arange(40) >= starts[task, which] + 3 * other

    def other(model):
        """0: the network; 1: another one; 2: the network, with one head."""
        if model is net:
            return 0
        same = all(torch.equal(w, model.state_dict()[n]) for n, w in net.state_dict().items() if n[:3] != "me.")
        alike = all(torch.equal(w, model.mi.state_dict()[n]) for n, w in model.me.state_dict().items())
        return 2 if same and alike else 1

    def votes(model, job):
        out = {}
        for task in TASKS:
            keep = kept(task, of(job, task), other(model))
            out[task] = {
                n: keep.repeat(-(-w.numel() // 40))[: w.numel()].view_as(w) for n, w in prunable(model).items()
            }
        return out

    monkeypatch.setattr(motor, "votes", votes)
    found = motor.vote_analysis(net, whole, data, build, 0)
    halves = [motor._half(whole, k) for k in (0, 1)]
    for t in TASKS:  # every second trial of each class, and together all of them
        assert sum(len(half.targets[t]) for half in halves) == len(targets[t])
        assert all(abs(torch.bincount(half.targets[t]).diff().item()) <= 1 for half in halves)
    name, numbers = max(found["layers"].items(), key=lambda item: prunable(net)[item[0]].numel())
    n = prunable(net)[name].numel()

    def expected(a, b):
        a, b = (kept(*which).repeat(-(-n // 40))[:n] for which in (a, b))
        return ((a & b).sum() / (a | b).sum()).item()

    cross, alike = ([expected(("mi", a, 0), ("me", b, k)) for a in (0, 1) for b in (0, 1)] for k in (0, 2))
    assert numbers["iou"] == pytest.approx(expected(("mi", "all", 0), ("me", "all", 0)))
    assert numbers["half"] == pytest.approx(np.mean(cross))
    assert numbers["null_mi"] == pytest.approx(expected(("mi", 0, 0), ("mi", 1, 0)))
    assert numbers["null_me"] == pytest.approx(expected(("me", 0, 0), ("me", 1, 0)))
    assert numbers["half_one_head"] == pytest.approx(np.mean(alike))
    assert numbers["null_me_one_head"] == pytest.approx(expected(("me", 0, 2), ("me", 1, 2)))
    assert not torch.equal(net.me.weight, net.mi.weight)
    assert numbers["reinit"] == pytest.approx(expected(("mi", "all", 0), ("mi", "all", 1)))
    keys = ("iou", "half", "half_one_head", "null_mi", "null_me", "null_me_one_head", "reinit")
    assert len({round(numbers[k], 6) for k in keys}) == len(keys)
    for task in TASKS:
        score = snip(net, motor.multitask_loss, {task: inputs[task]}, {task: targets[task]})[SHARED].double()
        by_electrode = score.transpose(0, net.spatial_weight()[1]).flatten(1).sum(1)
        np.testing.assert_allclose(found["electrodes"][f"{task}_score"], by_electrode / by_electrode.sum(), rtol=1e-5)


def test_out_of_gpu_memory_runs_by_halves_and_then_names_a_batch(monkeypatch, tiny_spec):
    specs, seen = [tiny_spec("random", s) for s in (0.2, 0.4, 0.8)], []

    def limited(some, root, device):
        seen.append(len(some))
        if len(some) > 1 or some[0] == specs[2]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [some[0].params["sparsity"]]

    monkeypatch.setattr(motor, "_run_many", limited)
    *fine, failed = motor.run_many(specs)
    assert fine == [0.2, 0.4]
    assert seen == [3, 1, 2, 1, 1]
    assert str(failed) == "out of GPU memory with batch=4: take a smaller one, such as --set batch=2"


def test_two_random_votes_agree_as_chance_says(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    _, found = analysed(
        monkeypatch,
        lambda i: torch.rand(len(i), generator=generator) < 0.6,
        lambda i: torch.rand(len(i), generator=generator) < 0.4,
    )
    layer = max(found["layers"].values(), key=lambda v: -abs(v["or"] - 0.76))
    assert layer["chance"] == pytest.approx(0.24 / 0.76, abs=0.1)
    assert layer["iou"] == pytest.approx(layer["chance"], abs=0.1)


def test_halves_split_each_class_between_them():
    data = subject()
    job = motor.Job(
        {t: torch.tensor(getattr(data, t).x) for t in TASKS}, {t: torch.tensor(getattr(data, t).y) for t in TASKS},
        motor.multitask_loss, 1, 1, 0.5, 0,
    )  # fmt: skip
    halves = [motor._half(job, k) for k in (0, 1)]
    for task in TASKS:
        whole = job.inputs[task].flatten(1).sum(1)
        parts = torch.cat([h.inputs[task].flatten(1).sum(1) for h in halves])
        assert sorted(parts.tolist()) == sorted(whole.tolist())
        counts = [torch.bincount(h.targets[task], minlength=2) for h in halves]
        assert (counts[0] - counts[1]).abs().max() <= 1
        for half in halves:
            assert len(half.inputs[task]) == len(half.targets[task])
