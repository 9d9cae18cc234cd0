"""Every pruning procedure: as sparse as it was asked to be, and paired with all the others."""

import copy
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import arbiter, budget_masks, masks_of, topk_mask
from sparsemtl.sparsity.saliency import grasp, magnitude, prunable, random_scores, snip
from sparsemtl.training import pruning
from sparsemtl.training.fit import fit_stack
from sparsemtl.training.pruning import PROCEDURES, Job, synflow_masks
from torch.nn.functional import cross_entropy

TASKS, EPOCHS, STEPS, FOLDS = ("mi", "me"), 5, 3, 2
SPARSE = [m for m in PROCEDURES if not m.startswith("dense")]


def loss_fn(outputs, targets):
    return sum(cross_entropy(outputs[task], targets[task]) for task in targets)


def network(seed=0, tasks=TASKS):
    return DualTaskNet(6, 40, 2, sfreq=40.0, kernel=8, tasks=tasks, generator=torch.Generator().manual_seed(seed))


def data(fold=0, tasks=TASKS):
    draw = torch.Generator().manual_seed(3 + fold)
    x = {task: torch.randn(n, 6, 40, generator=draw) for task, n in zip(TASKS, (12, 9), strict=True)}
    y = {task: torch.randperm(len(v), generator=draw) % 2 for task, v in x.items()}
    return {t: x[t] for t in tasks}, {t: y[t] for t in tasks}


def batches(epoch, tasks=TASKS):
    for i in range(STEPS):
        yield [tuple({t: v[i::STEPS] for t, v in d.items()} for d in data(fold, tasks)) for fold in range(FOLDS)]


def weights(net):
    return {n: w.detach().clone() for n, w in prunable(net).items()}


def job(sparsity, fold=0, tasks=TASKS):
    return Job(*data(fold, tasks), loss_fn, EPOCHS, EPOCHS * STEPS, sparsity, 11 + fold)


@pytest.fixture(autouse=True)
def _few_rounds_of_synflow(monkeypatch):
    monkeypatch.setattr(synflow_masks, "__defaults__", (4,))


class Trains:
    """`fit_stack` that keeps the first network's weights before and after each training, and watches each step."""

    def __init__(self, tasks=TASKS, watch=lambda net: None):
        self.before, self.after, self.epochs, self.watch, self.tasks = [], [], [], watch, tasks

    def __call__(self, nets, epochs, after_step=lambda *step: None):
        def step(*args):
            after_step(*args)
            self.watch(nets[0])

        self.before.append(weights(nets[0]))
        self.epochs.append(epochs)
        adam = partial(torch.optim.Adam, lr=0.01)
        histories = fit_stack(nets, partial(batches, tasks=self.tasks), loss_fn, adam, epochs, seed=1, after_step=step)
        self.after.append(weights(nets[0]))
        return histories


def trained(method, sparsity, tasks=TASKS, trains=None, **options):
    """Networks of the folds after one procedure, and their histories."""
    nets, jobs = zip(*((network(fold, tasks), job(sparsity, fold, tasks)) for fold in range(FOLDS)), strict=True)
    return nets, PROCEDURES[method](nets, jobs, trains or Trains(tasks), **options)


def zeros(tensors):
    return sum(int((w == 0).sum()) for w in tensors.values())


def exactly(sparsity, net):
    return round(sparsity * 10) * sum(w.numel() for w in prunable(net).values()) // 10  # floor in whole numbers


def assert_kept(net, masks):
    torch.testing.assert_close({name: weight != 0 for name, weight in prunable(net).items()}, masks)


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
@pytest.mark.parametrize("method", [m for m in SPARSE if m != "or"])
def test_each_trained_network_has_exactly_the_zeros_that_were_asked_for(method, sparsity):
    for tasks in [(task,) for task in TASKS] if method == "snip-single" else [TASKS]:
        nets, histories = trained(method, sparsity, tasks)
        for net, history in zip(nets, histories, strict=True):
            assert zeros(prunable(net)) == exactly(sparsity, net)
            assert len(history) >= EPOCHS
            assert np.isfinite(history).all()


def pools(net, fold):
    """SNIP scores of each task's own loss, for the shared part and the task's head."""
    inputs, targets = data(fold)
    for task in TASKS:
        scores = snip(net, loss_fn, {task: inputs[task]}, {task: targets[task]})
        yield {name: score for name, score in scores.items() if name.split(".")[0] in ("shared", task)}


@pytest.mark.parametrize(
    ("method", "masks"),
    [("random", lambda net, fold: topk_mask(random_scores(net, 11 + fold), 0.4)),
     ("magnitude", lambda net, fold: topk_mask(magnitude(net), 0.4)),
     ("snip-joint", lambda net, fold: topk_mask(snip(net, loss_fn, *data(fold)), 0.4)),
     ("grasp", lambda net, fold: topk_mask(grasp(net, loss_fn, *data(fold)), 0.4)),
     ("or", lambda net, fold: arbiter([topk_mask(pool, 0.4) for pool in pools(net, fold)])),
     ("budget", lambda net, fold: budget_masks(list(pools(net, fold)), 0.4))],
)  # fmt: skip
def test_each_method_prunes_by_the_score_of_its_name_and_each_network_by_its_own_data(method, masks):
    for fold, net in enumerate(trained(method, 0.4)[0]):
        assert_kept(net, masks(network(fold), fold))


@pytest.mark.parametrize("method", [m for m in PROCEDURES if m not in ("imp", "rigl")])
def test_the_kept_weights_start_from_the_initial_ones_and_learn(method):
    """For the lottery ticket this is the rewinding: the last training starts from the untrained weights."""
    start, trains = weights(network()), Trains()
    trained(method, 0.4, trains=trains)
    assert trains.epochs[-1] == EPOCHS
    for name, weight in trains.before[-1].items():
        kept = weight != 0
        assert torch.equal(weight[kept], start[name][kept])
        assert not torch.equal(trains.after[-1][name][kept], weight[kept])


def test_all_methods_see_the_same_weights_batches_and_dropout():
    """At sparsity 0 nothing distinguishes them but the method's own extra training."""
    reference = weights(trained("dense-multi", 0.0)[0][0])
    for method in {*PROCEDURES} - {"imp", "dense-multi"}:
        found = weights(trained(method, 0.0)[0][0])
        torch.testing.assert_close(found, reference, rtol=0, atol=0, msg=method)


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
def test_rigl_moves_weights_but_keeps_each_layers_number(sparsity):
    seen = []
    trained("rigl", sparsity, trains=Trains(watch=lambda net: seen.append(masks_of(net))), every=2)
    expected = {n: int(m.sum()) for n, m in topk_mask(random_scores(network(), 11), sparsity).items()}
    assert all({n: int(m.sum()) for n, m in masks.items()} == expected for masks in seen)
    places = [torch.cat([m.flatten() for m in masks.values()]) for masks in seen]
    updates = {i for i in range(1, len(places)) if not torch.equal(places[i - 1], places[i])}
    assert {3, 5} <= updates
    assert updates <= {1, 3, 5, 7, 9}  # every second step, none in the last quarter of 15


def test_rigl_drops_the_smallest_and_grows_where_the_gradient_is_largest():
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, True]])
    weight = torch.tensor([[0.5, -0.1, 0.9], [-0.3, 0.0, 0.0], [0.0, 0.0, 0.2]])
    gradient = torch.tensor([[9.0, 9.0, 9.0], [9.0, 0.1, -3.0], [2.0, 0.2, 9.0]])
    moved = pruning._moved(mask, weight, gradient, 0.4)  # 2 of 5
    assert moved.tolist() == [[True, False, True], [True, False, True], [True, False, False]]
    assert pruning._moved(mask, weight, gradient, 0.1) is mask
    full = torch.ones(2, 2, dtype=torch.bool)
    assert pruning._moved(full, torch.ones(2, 2), torch.ones(2, 2), 0.5) is full


def test_lottery_prunes_the_smallest_trained_weights():
    trains = Trains()
    (net, _), _ = trained("lottery", 0.5, trains=trains)
    cut = torch.cat([w.abs().flatten() for w in trains.after[0].values()]).sort().values[exactly(0.5, net)]
    assert_kept(net, {name: w.abs() >= cut for name, w in trains.after[0].items()})
    assert trains.epochs == [EPOCHS, EPOCHS]


def test_iterative_pruning_never_revives_a_weight_and_trains_as_long_again():
    trains = Trains()
    trained("imp", 0.8, trains=trains)
    assert trains.epochs == [EPOCHS] + [math.ceil(EPOCHS / 5)] * 5
    n = sum(w.numel() for w in trains.after[0].values())
    for k, (earlier, later) in enumerate(pairwise(trains.before), 1):
        assert all((later[name][w == 0] == 0).all() for name, w in earlier.items() if k > 1)
        assert zeros(later) == pytest.approx((1 - 0.2 ** (k / 5)) * n, abs=1)


def test_synflow_prunes_in_rounds_that_never_revive_a_weight_and_leaves_the_network_alone(monkeypatch):
    rounds, net = [], network()
    real = pruning.apply_masks
    monkeypatch.setattr(pruning, "apply_masks", lambda model, masks: (rounds.append(masks), real(model, masks)))
    before = copy.deepcopy(net.state_dict())
    final = synflow_masks(net, job(0.8), rounds=20)
    n = sum(m.numel() for m in final.values())
    assert list(map(zeros, rounds)) == pytest.approx([(1 - 0.2 ** (k / 20)) * n for k in range(1, 21)], abs=1)
    for earlier, later in pairwise(rounds):
        assert all((later[name] <= m).all() for name, m in earlier.items())
    assert all(m.any() for m in final.values())  # no layer collapses
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
