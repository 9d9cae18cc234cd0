"""The training loop, against gradient descent written out in NumPy."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from sparsemtl.errors import SparseMTLError, SpecError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, masks_of, topk_mask
from sparsemtl.sparsity.saliency import prunable, random_scores
from sparsemtl.training.fit import fit, fit_stack
from torch import nn
from torch.nn.functional import cross_entropy


def problem(seed=0):
    """Least squares: three batches of four points and a linear model without bias."""
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4)), rng.normal(size=2)
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data[:] = torch.tensor(w)
    return x, y, w, model


def squares(outputs, targets):
    return ((outputs[:, 0] - targets) ** 2).mean()


def test_it_is_gradient_descent_over_the_batches_of_each_epoch():
    x, y, w, model = problem()
    seen = []

    def batches(epoch):
        for i in (epoch, (epoch + 1) % 3):
            yield torch.tensor(x[i]), torch.tensor(y[i])

    history = fit(
        model, batches, squares, torch.optim.SGD(model.parameters(), lr=0.1), 3, lambda *step: seen.append(step)
    )
    expected, order = [], [(0, 1), (1, 2), (2, 0)]
    for pair in order:
        losses = []
        for i in pair:
            residual = x[i] @ w - y[i]
            losses.append((residual**2).mean())
            w = w - 0.1 * 2 * x[i].T @ residual / 4
        expected.append(np.mean(losses))
    np.testing.assert_allclose(history, expected, rtol=1e-12)
    np.testing.assert_allclose(model.weight.detach().numpy()[0], w, rtol=1e-12)
    assert [step for step, _, _ in seen] == list(range(6))
    for (_, inputs, targets), i in zip(seen, np.ravel(order), strict=True):
        np.testing.assert_array_equal(inputs, x[i])
        np.testing.assert_array_equal(targets, y[i])


def test_every_epoch_trains_in_train_mode():
    _, _, _, model = problem()
    modes = []
    model.eval().register_forward_hook(lambda m, args, out: modes.append(m.training))
    batch = torch.ones(4, 2, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, lambda epoch: [batch], squares, sgd, 2, after_epoch=lambda epoch: model.eval() and None)
    assert modes == [True, True]


def test_a_loss_that_runs_away_is_an_error_that_names_the_epoch():
    x, y, _, model = problem()
    batches = [(torch.tensor(x[0]), torch.tensor(y[0]))] * 40
    with pytest.raises(SparseMTLError, match=r"the loss is (nan|inf) in epoch \d+: lower the learning rate") as caught:
        fit(model, lambda epoch: batches, squares, torch.optim.SGD(model.parameters(), lr=1e6), 9)
    assert "\n" not in str(caught.value)


SIZES = {"eegnet": (40, {"kernel": 8}), "shallow": (90, {"kernel": 4}), "deep4": (201, {"kernel": 4})}


def network(k, backbone="eegnet", dropout=0.0):
    """Float64 and three classes, so that Adam makes no whole steps of rounding errors."""
    n_times, trunk = SIZES[backbone]
    generator = torch.Generator().manual_seed(k)
    net = DualTaskNet(6, n_times, 3, backbone=backbone, dropout=dropout, generator=generator, **trunk).double()
    apply_masks(net, topk_mask(random_scores(net, k), k / 10))
    return net


def trials(k, n_times):
    generator = torch.Generator().manual_seed(k)
    inputs = {t: torch.randn(8, 6, n_times, dtype=torch.float64, generator=generator) for t in ("mi", "me")}
    return inputs, {t: torch.randint(3, (8,), generator=generator) for t in inputs}


def entropies(outputs, targets):
    return sum(cross_entropy(outputs[t], targets[t]) for t in targets)


def halves(k, n_times):
    data = trials(k, n_times)
    return [tuple({t: v[i::2] for t, v in part.items()} for part in data) for i in (0, 1)]


def stacked(nets, n_times, **options):
    data = [halves(k, n_times) for k in range(len(nets))]
    adam = partial(torch.optim.Adam, lr=0.01)
    return fit_stack(nets, lambda epoch: zip(*data, strict=True), entropies, adam, 3, **options)


def assert_same(one, other, **tolerance):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, **tolerance)


@pytest.mark.parametrize("backbone", SIZES)
def test_networks_in_a_stack_are_those_trained_alone_each_on_its_data_with_its_mask(backbone):
    n_times = SIZES[backbone][0]
    nets, alone = ([network(k, backbone) for k in range(3)] for _ in range(2))
    histories = stacked(nets, n_times)
    for k, (net, one) in enumerate(zip(nets, alone, strict=True)):
        adam = torch.optim.Adam(one.parameters(), lr=0.01)
        expected = fit(one, lambda epoch, k=k: halves(k, n_times), entropies, adam, 3)
        np.testing.assert_allclose(histories[k], expected, rtol=1e-8)
        assert_same(one, net, rtol=1e-6, atol=1e-8)
        assert all((prunable(net)[name][~mask] == 0).all() for name, mask in masks_of(one).items())


def test_a_stack_gives_the_same_bits_whatever_ran_before_and_leaves_the_random_state_alone():
    one, two = ([network(k, dropout=0.5) for k in range(3)] for _ in range(2))
    stacked(one, 40, seed=4)
    torch.randn(1000)
    state = torch.get_rng_state()
    stacked(two, 40, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one, two, strict=True):
        assert_same(a, b, rtol=0, atol=0)


def test_dropout_differs_between_networks_and_between_seeds():
    nets, others = ([network(0, dropout=0.5) for _ in range(2)] for _ in range(2))
    batch = trials(0, 40)
    for group, seed in ((nets, 0), (others, 1)):
        fit_stack(group, lambda epoch: [[batch, batch]], entropies, partial(torch.optim.SGD, lr=0.1), 1, seed=seed)
    first = [net.shared.spatial.weight for net in (*nets, *others)]
    assert not any(torch.equal(first[i], first[j]) for i in range(4) for j in range(i))


def test_a_stacked_network_owns_its_tensors_afterwards():
    nets = [network(k) for k in range(2)]
    stacked(nets, 40)
    before = copy.deepcopy(nets[1].state_dict())
    with torch.no_grad():
        for tensor in nets[0].state_dict().values():
            tensor.zero_()
    assert all(torch.equal(v, before[k]) for k, v in nets[1].state_dict().items())
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in nets[1].state_dict().values())


def test_new_masks_between_two_steps_hold():
    nets = [network(0), network(0)]
    mask = masks_of(nets[1])
    mask["mi.weight"] = torch.zeros_like(mask["mi.weight"])
    stacked(nets, 40, after_step=lambda step, batches: apply_masks(nets[1], mask) if step == 1 else None)
    assert not nets[1].mi.weight.any()
    assert nets[0].mi.weight.all()


def test_frozen_weights_and_tied_weights_stay_so():
    def tied():
        linear = nn.Linear(4, 4)
        return nn.Sequential(linear, nn.Tanh(), linear, nn.Linear(4, 2).requires_grad_(False))

    nets = [tied() for _ in range(2)]
    fixed = [net[3].weight.clone() for net in nets]
    batch = [(torch.randn(5, 4), torch.zeros(5, 2)) for _ in nets]
    fit_stack(nets, lambda epoch: [batch], nn.functional.mse_loss, partial(torch.optim.SGD, lr=0.1), 4)
    for net, weight in zip(nets, fixed, strict=True):
        assert net[0] is net[2]
        assert torch.equal(net[3].weight, weight)


def test_batches_of_unequal_shape_and_networks_of_unequal_architecture_are_refused():
    long, short = trials(0, 40), tuple({t: v[:5] for t, v in part.items()} for part in trials(1, 40))
    sgd = partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(SpecError, match="shape"):
        fit_stack([network(0), network(1)], lambda epoch: [[long, short]], entropies, sgd, 1)
    with pytest.raises(SpecError, match="architecture"):
        fit_stack([network(0), network(1, "shallow")], lambda epoch: [[long, long]], entropies, sgd, 1)


def test_a_network_of_a_stack_that_runs_away_is_an_error():
    nets = [network(0), network(1)]
    with torch.no_grad():
        nets[1].mi.bias.fill_(np.nan)
    with pytest.raises(SparseMTLError, match="the loss is nan in epoch 0"):
        stacked(nets, 40)
