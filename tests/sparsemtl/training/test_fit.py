"""The training loop, against gradient descent written out in NumPy."""

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


def test_it_is_gradient_descent_over_the_batches_of_each_epoch_in_train_mode():
    rng = np.random.default_rng(0)  # three batches of four points, and a linear model without bias
    x, y, w = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4)), rng.normal(size=2)
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data[:] = torch.tensor(w)
    order, seen, expected, modes = [(0, 1), (1, 2), (2, 0)], [], [], []
    model.register_forward_hook(lambda model, *_: modes.append(model.training))

    def batches(epoch):
        return [(torch.tensor(x[i]), torch.tensor(y[i, :, None])) for i in order[epoch]]

    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = {
        "after_step": lambda step, *batch: seen.append((step, batch)),
        "after_epoch": lambda _: model.eval() is None,
    }
    history = fit(model, batches, nn.functional.mse_loss, sgd, 3, **watch)
    for pair in order:
        losses = []
        for i in pair:
            residual = x[i] @ w - y[i]
            losses.append((residual**2).mean())
            w = w - 0.1 * 2 * x[i].T @ residual / 4
        expected.append(np.mean(losses))
    np.testing.assert_allclose(history, expected, rtol=1e-12)
    np.testing.assert_allclose(model.weight.detach().numpy()[0], w, rtol=1e-12)
    torch.testing.assert_close(seen, list(enumerate(batch for epoch in range(3) for batch in batches(epoch))))
    assert modes == [True] * 6


SIZES = {"eegnet": 40, "shallow": 90, "deep4": 201}  # samples


def network(k, backbone="eegnet", dropout=0.0):
    """Float64 and three classes, so that Adam makes no whole steps of rounding errors."""
    options = {"kernel": 4, "dropout": dropout, "generator": torch.Generator().manual_seed(k)}
    net = DualTaskNet(6, SIZES[backbone], 3, backbone=backbone, **options).double()
    apply_masks(net, topk_mask(random_scores(net, k), k / 10))
    return net


def entropies(outputs, targets):
    return sum(cross_entropy(outputs[t], targets[t]) for t in targets)


def halves(k, n_times=40):
    """Two batches of four trials of each task."""
    rng = np.random.default_rng(k)
    for _ in range(2):
        x = {task: torch.tensor(rng.normal(size=(4, 6, n_times))) for task in ("mi", "me")}
        yield x, {task: torch.tensor(rng.integers(3, size=4)) for task in x}


def stacked(nets, n_times=40, **options):
    data = [list(halves(k, n_times)) for k in range(len(nets))]
    adam = partial(torch.optim.Adam, lr=0.01)
    return fit_stack(nets, lambda epoch: zip(*data, strict=True), entropies, adam, 3, **options)


@pytest.mark.parametrize("backbone", SIZES)
def test_networks_in_a_stack_are_those_trained_alone_each_on_its_data_with_its_mask(backbone):
    n_times = SIZES[backbone]
    nets, alone = ([network(k, backbone) for k in range(3)] for _ in range(2))
    histories = stacked(nets, n_times)
    for k, (net, one) in enumerate(zip(nets, alone, strict=True)):
        adam = torch.optim.Adam(one.parameters(), lr=0.01)
        expected = fit(one, lambda epoch, k=k: halves(k, n_times), entropies, adam, 3)
        np.testing.assert_allclose(histories[k], expected, rtol=1e-8)
        torch.testing.assert_close(net.state_dict(), one.state_dict(), rtol=1e-6, atol=1e-8)
        assert all((prunable(net)[name][~mask] == 0).all() for name, mask in masks_of(one).items())


def test_a_stack_gives_the_same_bits_whatever_ran_before_and_other_dropout_to_each_network_and_seed():
    def trained(seed):
        nets, batch = [network(0, dropout=0.5) for _ in range(2)], next(halves(0))
        state = torch.get_rng_state()
        fit_stack(nets, lambda epoch: [[batch, batch]], entropies, partial(torch.optim.Adam, lr=0.01), 3, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)  # the caller's is left alone
        return [net.state_dict() for net in nets]

    first, other = trained(0), trained(1)
    torch.testing.assert_close(trained(0), first, rtol=0, atol=0)
    drawn = [net["shared.spatial.weight"] for net in (*first, *other)]
    assert not any(torch.equal(drawn[i], drawn[j]) for i in range(4) for j in range(i))


def test_the_bits_of_a_network_do_not_depend_on_how_many_stand_in_its_stack():
    """In 32 bits with a fused optimizer, which rounds full vectors and what is left over of them differently."""

    def trained(ks):
        generators = [torch.Generator().manual_seed(k) for k in ks]
        nets = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in ks]
        for weight, generator in ((w, g) for net, g in zip(nets, generators, strict=True) for w in net.parameters()):
            weight.data.normal_(generator=generator)
        step = [(torch.randn(5, 4, generator=g), torch.tensor([0, 1, 1, 0, 1])) for g in generators]
        fit_stack(nets, lambda epoch: [step] * 10, cross_entropy, partial(torch.optim.AdamW, lr=0.03, fused=True), 5)
        return {k: net.state_dict() for k, net in zip(ks, nets, strict=True)}

    whole = trained(range(9))
    for ks in ([0], [3, 4, 5], [8]):
        torch.testing.assert_close(trained(ks), {k: whole[k] for k in ks}, rtol=0, atol=0)


def test_a_stacked_network_owns_its_tensors_afterwards():
    nets = [network(0), network(1)]
    stacked(nets)
    tensors = [tensor for net in nets for tensor in net.state_dict().values()]
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors)


def test_new_masks_between_two_steps_hold():
    nets = [network(0), network(0)]
    mask = masks_of(nets[1])
    mask["mi.weight"] = torch.zeros_like(mask["mi.weight"])
    stacked(nets, after_step=lambda step, batches: apply_masks(nets[1], mask) if step == 1 else None)
    assert not nets[1].mi.weight.any()
    assert nets[0].mi.weight.all()


def test_frozen_weights_and_tied_weights_stay_so():
    def tied():
        linear = nn.Linear(4, 4)
        return nn.Sequential(linear, nn.Tanh(), linear, nn.Linear(4, 2).requires_grad_(False))

    nets = [tied(), tied()]
    fixed = [net[3].weight.clone() for net in nets]
    batch = [(torch.randn(5, 4), torch.zeros(5, 2)) for _ in nets]
    fit_stack(nets, lambda epoch: [batch], nn.functional.mse_loss, partial(torch.optim.SGD, lr=0.1), 4)
    assert all(net[0] is net[2] and torch.equal(net[3].weight, w) for net, w in zip(nets, fixed, strict=True))


def test_batches_of_unequal_shape_and_networks_of_unequal_architecture_are_refused():
    long, sgd = next(halves(0)), partial(torch.optim.SGD, lr=0.1)
    short = [{task: v[:3] for task, v in part.items()} for part in long]
    for other, batch, word in ((network(1), short, "shape"), (network(1, "shallow"), long, "architecture")):
        with pytest.raises(SpecError, match=word):
            fit_stack([network(0), other], lambda epoch, batch=batch: [[long, batch]], entropies, sgd, 1)


def test_a_loss_that_runs_away_is_an_error_that_names_the_epoch():
    nets = [network(0), network(1)]
    nets[1].mi.bias.data.fill_(np.nan)
    with pytest.raises(SparseMTLError, match="loss is nan in epoch 0"):
        stacked(nets)
