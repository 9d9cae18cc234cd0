"""Every pruning procedure: as sparse as it was asked to be, and paired with all the others."""

import copy
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from papers.shin2023 import pruning
from papers.shin2023 import run as motor
from sparsemtl.errors import SparseMTLError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import budget_masks, masks_of, topk_mask
from sparsemtl.sparsity.saliency import grasp, magnitude, prunable, random_scores, snip
from sparsemtl.training.pruning import PROCEDURES, Job, partial_sparsity, side_by_side, synflow_masks, votes

TASKS, EPOCHS, BATCH = ("mi", "me"), 5, 4
SPARSE = [m for m in PROCEDURES if not m.startswith("dense")]


def network(seed=0, tasks=TASKS):
    return DualTaskNet(6, 40, 2, sfreq=40.0, kernel=8, tasks=tasks, generator=torch.Generator().manual_seed(seed))


def data(tasks=TASKS):
    rng = np.random.default_rng(3)
    x = {t: torch.tensor(rng.normal(size=(n, 6, 40)), dtype=torch.float32) for t, n in zip(TASKS, (12, 9), strict=True)}
    y = {t: torch.tensor(rng.permutation(np.arange(len(v)) % 2)) for t, v in x.items()}
    return {t: x[t] for t in tasks}, {t: y[t] for t in tasks}


class Fits:
    """motor's training of one network, keeping a copy of it before and after each, and calling `watch` at each step."""

    def __init__(self, tasks=TASKS, watch=None):
        self.before, self.after, self.epochs, self.watch = [], [], [], watch
        self.train = partial(motor._train, p={"batch": BATCH, "lr": 0.01}, data=data(tasks), seed=5)

    def __call__(self, trainings):
        (training,) = trainings

        def step(*args):
            if training.after_step:
                training.after_step(*args)
            if self.watch:
                self.watch(training.net)

        self.before.append(weights(training.net))
        self.epochs.append(training.epochs)
        histories = self.train([replace(training, after_step=step)])
        self.after.append(weights(training.net))
        return histories


def weights(net):
    return {n: w.detach().clone() for n, w in prunable(net).items()}


def job(sparsity, tasks=TASKS):
    inputs, targets = data(tasks)
    return Job(inputs, targets, motor.multitask_loss, EPOCHS, EPOCHS * 3, sparsity, 11)


def train(procedure, fits):
    """Run one procedure, from a seed of its own; its history, or its error is raised."""
    torch.manual_seed(1)
    (history,) = side_by_side([procedure], fits, torch.default_generator)
    if isinstance(history, SparseMTLError):
        raise history
    return history


def trained(method, sparsity, tasks=TASKS, fits=None):
    net = network(tasks=tasks)
    return net, train(PROCEDURES[method](net, job(sparsity, tasks)), fits or Fits(tasks))


def zeros(tensors):
    return sum(int((w == 0).sum()) for w in tensors.values())


def size(net):
    return sum(w.numel() for w in prunable(net).values())


def exactly(sparsity, n):
    return round(sparsity * 10) * n // 10  # floor in whole numbers


@pytest.mark.parametrize("sparsity", [0.2, 0.4, 0.8])
@pytest.mark.parametrize("method", [m for m in SPARSE if m not in ("or", "snip-single")])
def test_the_trained_network_has_exactly_the_zeros_that_were_asked_for(method, sparsity):
    net, history = trained(method, sparsity)
    assert zeros(prunable(net)) == exactly(sparsity, size(net))
    assert len(history) >= EPOCHS
    assert np.isfinite(history).all()


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
@pytest.mark.parametrize("task", TASKS)
def test_single_task_snip_has_them_in_each_network(task, sparsity):
    net, _ = trained("snip-single", sparsity, (task,))
    assert zeros(prunable(net)) == exactly(sparsity, size(net))


@pytest.mark.parametrize("sparsity", [0.2, 0.4, 0.8])
def test_the_or_arbiter_keeps_what_either_task_voted_for_and_no_more(sparsity):
    net, _ = trained("or", sparsity)
    fresh, (inputs, targets) = network(), data()
    kept = {n: torch.zeros_like(w, dtype=torch.bool) for n, w in prunable(fresh).items()}
    for task in TASKS:
        score = snip(fresh, motor.multitask_loss, {task: inputs[task]}, {task: targets[task]})
        pool = {n: s for n, s in score.items() if n.split(".")[0] in ("shared", task)}
        flat = torch.cat([s.flatten() for s in pool.values()]).double()
        cut = flat.sort().values[exactly(sparsity, len(flat))]  # the smallest score that is kept
        for name, s in pool.items():
            kept[name] |= s.double() >= cut
    for name, weight in prunable(net).items():
        assert torch.equal(weight != 0, kept[name]), name
    assert zeros(prunable(net)) <= exactly(sparsity, size(net))
    assert zeros(prunable(net)) > 0


@pytest.mark.parametrize(
    ("method", "score"),
    [
        ("random", lambda net, x, y: random_scores(net, 11)),
        ("magnitude", lambda net, x, y: magnitude(net)),
        ("snip-joint", lambda net, x, y: snip(net, motor.multitask_loss, x, y)),
        ("grasp", lambda net, x, y: grasp(net, motor.multitask_loss, x, y)),
    ],
)
def test_each_method_prunes_by_the_score_of_its_name(method, score):
    net, _ = trained(method, 0.4)
    wanted = topk_mask(score(network(), *data()), 0.4)
    assert all(torch.equal(weight != 0, wanted[name]) for name, weight in prunable(net).items())


def test_synflow_prunes_in_a_hundred_rounds():
    net, _ = trained("synflow", 0.8)
    wanted, few = (synflow_masks(network(), job(0.8), rounds=n) for n in (100, 1))
    assert all(torch.equal(weight != 0, wanted[name]) for name, weight in prunable(net).items())
    assert any(not torch.equal(wanted[name], few[name]) for name in wanted)


def test_the_exact_budget_joins_tighter_votes():
    net, _ = trained("budget", 0.4)
    wanted = budget_masks({task: pruning.task_scores(network(), job(0.4), task) for task in TASKS}, 0.4)
    assert all(torch.equal(weight != 0, wanted[name]) for name, weight in prunable(net).items())
    joint = topk_mask(snip(network(), motor.multitask_loss, *data()), 0.4)
    assert any(not torch.equal(wanted[name], joint[name]) for name in wanted)


def test_votes_cover_the_shared_part_and_the_own_head_only():
    for task, vote in votes(network(), job(0.4)).items():
        assert {name.split(".")[0] for name in vote} == {"shared", task}
        n = sum(m.numel() for m in vote.values())
        assert sum(int((~m).sum()) for m in vote.values()) == exactly(0.4, n)


@pytest.mark.parametrize("method", PROCEDURES)
def test_pruned_weights_are_zero_at_every_step_and_kept_ones_learn(method):
    seen, net = [], network()

    def watch(net):
        masks = masks_of(net)
        seen.append(all((w[~masks[n]] == 0).all() for n, w in prunable(net).items()))

    start = weights(net)
    train(PROCEDURES[method](net, job(0.6)), Fits(watch=watch))
    assert all(seen)
    assert len(seen) >= EPOCHS * 3
    assert any((w[w != 0] != start[n][w != 0]).any() for n, w in prunable(net).items())


@pytest.mark.parametrize("method", [m for m in PROCEDURES if m not in ("imp", "rigl")])
def test_the_kept_weights_start_from_the_initial_ones(method):
    """For the lottery ticket this is the rewinding: the last training starts from the untrained weights."""
    start, fits = weights(network()), Fits()
    trained(method, 0.4, fits=fits)
    for name, weight in fits.before[-1].items():
        kept = weight != 0
        assert torch.equal(weight[kept], start[name][kept])
    assert fits.epochs[-1] == EPOCHS


def test_all_methods_see_the_same_weights_batches_and_dropout():
    """At sparsity 0 nothing tells them apart but the method's own extra training."""
    reference = weights(trained("dense-multi", 0.0)[0])
    same = [m for m in PROCEDURES if m not in ("imp", "lottery")]
    for method in same:
        found = weights(trained(method, 0.0)[0])
        assert all(torch.equal(found[n], w) for n, w in reference.items()), method


def noting(train, steps, trainings):
    """`train` with the inputs of each step appended to `steps`."""
    (training,) = trainings
    return train([replace(training, after_step=lambda step, inputs, targets: steps.append(inputs))])


def test_batches_deal_each_trial_once_an_epoch_and_do_not_depend_on_the_method():
    seen = {}
    for method in ("dense-multi", "or", "grasp"):
        seen[method] = steps = []
        fits = Fits()
        fits.train = partial(noting, fits.train, steps)
        trained(method, 0.5, fits=fits)
    inputs, _ = data()
    for steps in seen.values():
        assert len(steps) == EPOCHS * 3
        for epoch in range(EPOCHS):
            for task in TASKS:
                got = torch.cat([s[task] for s in steps[3 * epoch : 3 * epoch + 3]])
                assert sorted(got.flatten(1).sum(1).tolist()) == sorted(inputs[task].flatten(1).sum(1).tolist())
        for mine, other in zip(steps, seen["or"], strict=True):
            assert all(torch.equal(mine[t], other[t]) for t in TASKS)
    assert not torch.equal(seen["or"][0]["mi"], seen["or"][3]["mi"])  # shuffled anew


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
def test_rigl_moves_weights_but_keeps_each_layers_number(sparsity):
    counts, places = [], []

    def watch(net):
        masks = masks_of(net)
        counts.append({n: int(m.sum()) for n, m in masks.items()})
        places.append(torch.cat([m.flatten() for m in masks.values()]))

    net = network()
    initial = topk_mask(random_scores(net, 11), sparsity)
    train(pruning.rigl(net, job(sparsity), every=2), Fits(watch=watch))
    expected = {n: int(m.sum()) for n, m in initial.items()}
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
    assert torch.equal(pruning._moved(full, torch.ones(2, 2), torch.ones(2, 2), 0.5), full)


def test_lottery_prunes_the_smallest_trained_weights():
    fits = Fits()
    net, _ = trained("lottery", 0.5, fits=fits)
    flat = torch.cat([w.abs().flatten() for w in fits.after[0].values()]).double()
    cut = flat.sort().values[exactly(0.5, len(flat))]
    for name, weight in prunable(net).items():
        assert torch.equal(weight != 0, fits.after[0][name].abs().double() >= cut)
    assert fits.epochs == [EPOCHS, EPOCHS]


def test_iterative_pruning_never_revives_a_weight_and_trains_as_long_again():
    fits = Fits()
    trained("imp", 0.8, fits=fits)
    assert fits.epochs == [EPOCHS] + [math.ceil(EPOCHS / 5)] * 5
    n = sum(w.numel() for w in fits.before[0].values())
    for k, (earlier, later) in enumerate(pairwise(fits.before), 1):
        assert all((later[name][w == 0] == 0).all() for name, w in earlier.items() if k > 1)
        assert zeros(later) == pytest.approx((1 - 0.2 ** (k / 5)) * n, abs=1)


def test_synflow_prunes_in_rounds_that_never_revive_a_weight_and_leaves_the_network_alone(monkeypatch):
    rounds, net = [], network()
    real = pruning.apply_masks
    monkeypatch.setattr(pruning, "apply_masks", lambda model, masks: (rounds.append(masks), real(model, masks)))
    before = copy.deepcopy(net.state_dict())
    final = synflow_masks(net, job(0.8), rounds=20)
    assert len(rounds) == 20
    n = size(net)
    for k, (earlier, later) in enumerate(pairwise(rounds), 2):
        assert all((later[name] <= m).all() for name, m in earlier.items())
        assert sum(int((~m).sum()) for m in later.values()) == pytest.approx((1 - 0.2 ** (k / 20)) * n, abs=1)
    assert all(m.any() for m in final.values())  # no layer collapses
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_partial_sparsities_keep_equal_shares_and_end_exactly():
    kept = [1 - partial_sparsity(0.8, k, 5) for k in range(6)]
    assert kept[0] == 1
    np.testing.assert_allclose(np.divide(kept[1:], kept[:-1]), 0.2**0.2)
    assert partial_sparsity(0.29, 7, 7) == 0.29


@pytest.mark.parametrize("method", SPARSE)
def test_the_same_job_twice_gives_the_same_bits(method):
    one, two = (trained(method, 0.4)[0].state_dict() for _ in range(2))
    assert all(torch.equal(v, two[k]) for k, v in one.items())
