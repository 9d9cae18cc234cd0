"""Every pruning procedure: as sparse as it was asked to be, and paired with all the others."""

import copy
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import budget_masks, masks_of, topk_mask
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
    rng = np.random.default_rng(3 + fold)
    x = {t: torch.tensor(rng.normal(size=(n, 6, 40)), dtype=torch.float32) for t, n in zip(TASKS, (12, 9), strict=True)}
    y = {t: torch.tensor(rng.permutation(np.arange(len(v)) % 2)) for t, v in x.items()}
    return {t: x[t] for t in tasks}, {t: y[t] for t in tasks}


def batches(epoch, tasks=TASKS):
    for i in range(STEPS):
        yield [tuple({t: v[i::STEPS] for t, v in d.items()} for d in data(fold, tasks)) for fold in range(FOLDS)]


def job(sparsity, fold=0, tasks=TASKS):
    return Job(*data(fold, tasks), loss_fn, EPOCHS, EPOCHS * STEPS, sparsity, 11 + fold)


@pytest.fixture(autouse=True)
def _few_rounds_of_synflow(monkeypatch):
    monkeypatch.setattr(synflow_masks, "__defaults__", (4,))


class Trains:
    """`fit_stack` that keeps the weights of the first network before and after each training, and watches each step."""

    def __init__(self, tasks=TASKS, watch=None):
        self.before, self.after, self.epochs, self.watch, self.tasks = [], [], [], watch, tasks

    def __call__(self, nets, epochs, after_step=None):
        def step(*args):
            if after_step:
                after_step(*args)
            if self.watch:
                self.watch(nets[0])

        self.before.append(weights(nets[0]))
        self.epochs.append(epochs)
        adam = partial(torch.optim.Adam, lr=0.01)
        histories = fit_stack(nets, partial(batches, tasks=self.tasks), loss_fn, adam, epochs, seed=1, after_step=step)
        self.after.append(weights(nets[0]))
        return histories


def weights(net):
    return {n: w.detach().clone() for n, w in prunable(net).items()}


def trained(method, sparsity, tasks=TASKS, trains=None, **options):
    """Networks of the folds after one procedure, and their histories."""
    nets = [network(fold, tasks) for fold in range(FOLDS)]
    procedure = partial(PROCEDURES[method], **options)
    return nets, procedure(nets, [job(sparsity, k, tasks) for k in range(FOLDS)], trains or Trains(tasks))


def zeros(tensors):
    return sum(int((w == 0).sum()) for w in tensors.values())


def size(net):
    return sum(w.numel() for w in prunable(net).values())


def exactly(sparsity, n):
    return round(sparsity * 10) * n // 10  # floor in whole numbers


def assert_kept(net, masks):
    for name, weight in prunable(net).items():
        assert torch.equal(weight != 0, masks[name]), name


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
@pytest.mark.parametrize("method", [m for m in SPARSE if m != "or"])
def test_each_trained_network_has_exactly_the_zeros_that_were_asked_for(method, sparsity):
    for tasks in [(task,) for task in TASKS] if method == "snip-single" else [TASKS]:
        nets, histories = trained(method, sparsity, tasks)
        for net, history in zip(nets, histories, strict=True):
            assert zeros(prunable(net)) == exactly(sparsity, size(net))
            assert len(history) >= EPOCHS
            assert np.isfinite(history).all()


@pytest.mark.parametrize("sparsity", [0.2, 0.4, 0.8])
def test_the_or_arbiter_keeps_what_either_task_voted_for_and_no_more(sparsity):
    for fold, net in enumerate(trained("or", sparsity)[0]):
        fresh, (inputs, targets) = network(fold), data(fold)
        kept = {n: torch.zeros_like(w, dtype=torch.bool) for n, w in prunable(fresh).items()}
        for task in TASKS:
            score = snip(fresh, loss_fn, {task: inputs[task]}, {task: targets[task]})
            pool = {n: s for n, s in score.items() if n.split(".")[0] in ("shared", task)}
            flat = torch.cat([s.flatten() for s in pool.values()]).double()
            cut = flat.sort().values[exactly(sparsity, len(flat))]  # the smallest score that is kept
            for name, s in pool.items():
                kept[name] |= s.double() >= cut
        assert_kept(net, kept)
        assert 0 < zeros(prunable(net)) <= exactly(sparsity, size(net))


@pytest.mark.parametrize(
    ("method", "masks"),
    [
        ("random", lambda net, fold: topk_mask(random_scores(net, 11 + fold), 0.4)),
        ("magnitude", lambda net, fold: topk_mask(magnitude(net), 0.4)),
        ("snip-joint", lambda net, fold: topk_mask(snip(net, loss_fn, *data(fold)), 0.4)),
        ("grasp", lambda net, fold: topk_mask(grasp(net, loss_fn, *data(fold)), 0.4)),
        ("budget", lambda net, fold: budget_masks([pruning.task_scores(net, job(0.4, fold), t) for t in TASKS], 0.4)),
    ],
)
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
        assert all(torch.equal(found[n], w) for n, w in reference.items()), method


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
def test_rigl_moves_weights_but_keeps_each_layers_number(sparsity):
    counts, places = [], []

    def watch(net):
        masks = masks_of(net)
        counts.append({n: int(m.sum()) for n, m in masks.items()})
        places.append(torch.cat([m.flatten() for m in masks.values()]))

    (net, _), _ = trained("rigl", sparsity, trains=Trains(watch=watch), every=2)
    expected = {n: int(m.sum()) for n, m in topk_mask(random_scores(network(), 11), sparsity).items()}
    assert all(c == expected for c in counts)
    updates = {i for i in range(1, len(places)) if not torch.equal(places[i - 1], places[i])}
    assert {3, 5} <= updates
    assert updates <= {1, 3, 5, 7, 9}  # every second step, none in the last quarter of 15
    assert zeros(prunable(net)) == exactly(sparsity, size(net))


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
    flat = torch.cat([w.abs().flatten() for w in trains.after[0].values()]).double()
    cut = flat.sort().values[exactly(0.5, len(flat))]
    assert_kept(net, {name: w.abs().double() >= cut for name, w in trains.after[0].items()})
    assert trains.epochs == [EPOCHS, EPOCHS]


def test_iterative_pruning_never_revives_a_weight_and_trains_as_long_again():
    trains = Trains()
    trained("imp", 0.8, trains=trains)
    assert trains.epochs == [EPOCHS] + [math.ceil(EPOCHS / 5)] * 5
    n = sum(w.numel() for w in trains.before[0].values())
    for k, (earlier, later) in enumerate(pairwise(trains.before), 1):
        assert all((later[name][w == 0] == 0).all() for name, w in earlier.items() if k > 1)
        assert zeros(later) == pytest.approx((1 - 0.2 ** (k / 5)) * n, abs=1)


def test_synflow_prunes_in_rounds_that_never_revive_a_weight_and_leaves_the_network_alone(monkeypatch):
    rounds, net = [], network()
    real = pruning.apply_masks
    monkeypatch.setattr(pruning, "apply_masks", lambda model, masks: (rounds.append(masks), real(model, masks)))
    before = copy.deepcopy(net.state_dict())
    final = synflow_masks(net, job(0.8), rounds=20)
    assert [sum(int((~m).sum()) for m in masks.values()) for masks in rounds] == pytest.approx(
        [(1 - 0.2 ** (k / 20)) * size(net) for k in range(1, 21)], abs=1
    )
    for earlier, later in pairwise(rounds):
        assert all((later[name] <= m).all() for name, m in earlier.items())
    assert all(m.any() for m in final.values())  # no layer collapses
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
