"""Networks trained together are those trained alone: their weights, running statistics, masks and failures."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from papers.shin2023 import run as motor
from papers.shin2023.stack import Stack, fit_together
from sparsemtl.errors import DataError, SparseMTLError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, masks_of, topk_mask
from sparsemtl.sparsity.saliency import prunable, random_scores
from sparsemtl.training.fit import fit
from sparsemtl.training.pruning import PROCEDURES, Job, Training, side_by_side

TASKS, EPOCHS, STEPS = ("mi", "me"), 4, 3
JOINT = [m for m in PROCEDURES if m not in motor.SINGLE]
CHOICES = [(m, s) for m in JOINT for s in ([0.2, 0.4, 0.8] if m != "dense-multi" else [0.0])]
SIZES = {"eegnet": (40, {"kernel": 8}), "shallow": (90, {"kernel": 4}), "deep4": (201, {"kernel": 4})}


def network(backbone="eegnet", tasks=TASKS):
    """In float64 and with three classes, so that rounding decides nothing.

    In float32 Adam makes whole steps of what is left of gradients that are zero in exact numbers; with two classes
    the gradients of a head come in pairs of the same size, of which RigL takes either.
    """
    n_times, trunk = SIZES[backbone]
    generator = torch.Generator().manual_seed(0)
    return DualTaskNet(6, n_times, 3, backbone=backbone, tasks=tasks, generator=generator, **trunk).double()


def data(backbone="eegnet", tasks=TASKS):
    rng = np.random.default_rng(3)
    x = {t: torch.tensor(rng.normal(size=(n, 6, SIZES[backbone][0]))) for t, n in zip(TASKS, (12, 9), strict=True)}
    y = {t: torch.tensor(rng.permutation(np.arange(len(v)) % 3)) for t, v in x.items()}
    return {t: x[t] for t in tasks}, {t: y[t] for t in tasks}


def batches(epoch, given):
    """Every third trial."""
    inputs, targets = given
    for i in range(STEPS):
        yield {t: x[i::STEPS] for t, x in inputs.items()}, {t: y[i::STEPS] for t, y in targets.items()}


def job(sparsity, given):
    return Job(*given, motor.multitask_loss, EPOCHS, STEPS * EPOCHS, sparsity, 11)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def one_after_another(given, trainings):
    """Plain `fit` of each network, with nothing of the library's stack."""
    (training,) = trainings
    net = training.net
    return [fit(net, partial(batches, given=given), motor.multitask_loss, adam(net.parameters()), training.epochs,
                training.after_step)]  # fmt: skip


def together(given, trainings):
    return fit_together(trainings, partial(batches, given=given), motor.multitask_loss, adam)


def procedures(choices, backbone="eegnet", tasks=TASKS):
    nets = [network(backbone, tasks) for _ in choices]
    given = data(backbone, tasks)
    # rigl moves weights every other step here, so that there are several moves
    more = {"rigl": {"every": 2}}
    jobs = [job(s, given) for _, s in choices]
    return nets, [PROCEDURES[m](net, j, **more.get(m, {})) for (m, _), net, j in zip(choices, nets, jobs, strict=True)]


def compare(choices, backbone="eegnet", tasks=TASKS):
    """Networks of all choices trained together and one after another, with their histories, are the same."""
    given = data(backbone, tasks)
    alone, each = procedures(choices, backbone, tasks)
    expected = []
    for procedure in each:
        torch.manual_seed(1)
        expected += side_by_side([procedure], partial(one_after_another, given), torch.default_generator)
    stacked, each = procedures(choices, backbone, tasks)
    torch.manual_seed(1)
    found = side_by_side(each, partial(together, given), torch.default_generator)
    for choice, one, other, history, other_history in zip(choices, alone, stacked, expected, found, strict=True):
        np.testing.assert_allclose(other_history, history, rtol=1e-8, err_msg=str(choice))
        state = other.state_dict()
        assert set(state) == set(one.state_dict())
        for name, value in one.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-8, msg=f"{choice} {name}")
        for name, mask in masks_of(one).items():
            assert torch.equal(masks_of(other)[name], mask), (choice, name)
            assert (prunable(other)[name][~mask] == 0).all()
        assert all(p.grad is None for p in other.parameters())
    return stacked


def test_every_procedure_at_every_sparsity_is_what_it_is_alone():
    nets = compare(CHOICES)
    first = nets[0].state_dict()["shared.spatial.weight"]
    for net in nets[1:]:
        assert not torch.equal(net.state_dict()["shared.spatial.weight"], first)


@pytest.mark.parametrize("backbone", ["shallow", "deep4"])
def test_other_trunks_train_together_as_well(backbone):
    compare([("dense-multi", 0.0), ("rigl", 0.4), ("random", 0.8)], backbone)


@pytest.mark.parametrize("task", TASKS)
def test_networks_of_one_task_do_too(task):
    compare([("dense-single", 0.0), ("snip-single", 0.2), ("snip-single", 0.8)], tasks=(task,))


def trained(networks, given=None):
    torch.manual_seed(1)
    trainings = [Training(net, EPOCHS) for net in networks]
    return fit_together(trainings, partial(batches, given=given or data()), motor.multitask_loss, adam, multiple=2)


def masked(k, dtype=torch.float32):
    """Network whose mask belongs to the number k, in the study's precision."""
    net = network().to(dtype)
    apply_masks(net, topk_mask(random_scores(net, k), k / 10))
    return net


@pytest.mark.parametrize("company", [[], [1], [1, 2], [5, 2, 7], [0, 4, 6, 8], [0, 4, 6, 8, 2]])
def test_on_a_cpu_company_does_not_change_a_bit(company):
    """What lets the engine promise the same bits however the runs fall into batches: 12 and 9 trials, 4 or 3 a step."""
    x, y = data()
    given = {t: v.float() for t, v in x.items()}, y
    alone, *_ = nets = [masked(3)]
    trained(nets, given)
    among = [masked(k) for k in company] + [masked(3)]
    trained(among, given)
    assert all(torch.equal(v, among[-1].state_dict()[n]) for n, v in alone.state_dict().items())


def test_networks_that_would_come_out_the_same_are_trained_once(monkeypatch):
    sizes = []

    def noted(self, networks):
        sizes.append(len(networks))
        made(self, networks)

    made = Stack.__init__
    monkeypatch.setattr(Stack, "__init__", noted)
    other = network()
    other.shared.norm_spatial.running_mean.add_(1)
    mask = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(network()).items()}
    mask["mi.weight"][0, 0] = False
    same_weights = network()  # but for one that is zero in both, and learns in one of them
    with torch.no_grad():
        same_weights.mi.weight[0, 0] = 0
    sparse = [masked(k, torch.float64) for k in (3, 3, 5)]
    nets = [network(), sparse[0], network(), same_weights, copy.deepcopy(same_weights), other, *sparse[1:]]
    apply_masks(nets[4], mask)
    alone = [copy.deepcopy(net) for net in nets]
    histories = trained(nets)
    assert sizes == [6]
    for net, twin in zip(nets, alone, strict=True):
        trained([twin])
        for name, value in twin.state_dict().items():
            torch.testing.assert_close(net.state_dict()[name], value)
        assert all(torch.equal(masks_of(net)[name], kept) for name, kept in masks_of(twin).items())
    histories[0].append(7.0)
    assert len(histories[2]) == EPOCHS
    sizes.clear()
    trainings = [Training(network(), EPOCHS, lambda *step: None), Training(network(), EPOCHS)]
    fit_together(trainings, partial(batches, given=data()), motor.multitask_loss, adam)
    assert sizes == [2]


def test_a_network_that_diverges_fails_alone():
    nets = [network() for _ in range(3)]
    with torch.no_grad():
        nets[1].mi.weight.fill_(math.inf)
    found = trained(nets)
    assert isinstance(found[1], SparseMTLError)
    assert str(found[1]) == "the loss is nan in epoch 0: lower the learning rate"
    fresh = network()
    (expected,) = trained([fresh])
    for k in (0, 2):
        assert found[k] == pytest.approx(expected)
        for name, value in fresh.state_dict().items():
            torch.testing.assert_close(nets[k].state_dict()[name], value)


def test_a_lone_network_that_diverges_stops_at_once():
    epochs = []
    net = network()
    with torch.no_grad():
        net.me.bias.fill_(math.nan)

    def noted(epoch):
        epochs.append(epoch)
        return batches(epoch, data())

    (failure,) = fit_together([Training(net, EPOCHS)], noted, motor.multitask_loss, adam)
    assert "the loss is nan in epoch 0" in str(failure)
    assert epochs == [0]


def test_what_goes_wrong_between_two_steps_is_the_failure_of_its_network():
    seen = []

    def wrong(step, inputs, targets):
        seen.append(step)
        if step == 4:
            raise DataError("the loss is nan while scoring")

    nets = [network(), network()]
    given = data()
    trainings = [Training(nets[0], EPOCHS, wrong), Training(nets[1], EPOCHS)]
    failure, history = fit_together(trainings, partial(batches, given=given), motor.multitask_loss, adam)
    assert str(failure) == "the loss is nan while scoring"
    assert len(history) == EPOCHS
    assert seen == [0, 1, 2, 3, 4]


def test_the_networks_are_views_of_the_stack_and_masks_hold_in_both():
    nets = [masked(k) for k in (0, 5)]
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    stack = Stack(nets)
    for k, net in enumerate(nets):
        assert all(torch.equal(v, before[k][n]) for n, v in net.state_dict().items())
    with torch.no_grad():
        stack.whole.mi.bias[3:] += 7  # three classes each
    assert (nets[1].mi.bias == before[1]["mi.bias"] + 7).all()
    assert torch.equal(nets[0].mi.bias, before[0]["mi.bias"])
    mask = masks_of(nets[0])
    mask["mi.weight"] = torch.zeros_like(mask["mi.weight"])
    apply_masks(nets[0], mask)
    assert not masks_of(stack.whole)["mi.weight"][:3].any()
    assert torch.equal(masks_of(stack.whole)["mi.weight"][3:], masks_of(nets[1])["mi.weight"])
    assert (stack.whole.mi.weight[:3] == 0).all()
    stack.train(False)
    assert not any(net.training for net in nets)


def test_no_more_train_together_than_was_asked_for_and_only_those_equally_far():
    sizes, given = [], data()

    def noted(trainings):
        sizes.append((len(trainings), trainings[0].epochs))
        return together(given, trainings)

    _, each = procedures([("dense-multi", 0.0), ("lottery", 0.4), ("imp", 0.4), ("imp", 0.8), ("or", 0.4)])
    torch.manual_seed(1)
    results = side_by_side(each, noted, torch.default_generator, most=3)
    assert sizes == [(3, EPOCHS), (2, EPOCHS), (1, EPOCHS), *[(2, 1)] * 5]
    assert [len(history) for history in results] == [EPOCHS, EPOCHS, EPOCHS + 5, EPOCHS + 5, EPOCHS]


def test_a_procedure_that_fails_does_so_alone():
    x, y = data()
    good, bad = job(0.4, (x, y)), job(0.4, ({"mi": x["mi"] * math.nan, "me": x["me"]}, y))
    each = [PROCEDURES["snip-joint"](network(), j) for j in (good, bad, good)]
    first, failure, last = side_by_side(each, partial(together, (x, y)), torch.default_generator)
    assert isinstance(failure, DataError)
    assert first == last
    assert len(first) == EPOCHS
