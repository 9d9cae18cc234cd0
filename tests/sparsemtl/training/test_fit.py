"""The training loop, against gradient descent written out in NumPy."""

import numpy as np
import pytest
import torch
from sparsemtl.errors import SparseMTLError
from sparsemtl.training.fit import fit
from torch import nn


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
    model.register_forward_hook(lambda m, args, out: modes.append(m.training))
    model.eval()

    def batches(epoch):
        return [(torch.ones(4, 2, dtype=torch.float64), torch.ones(4, dtype=torch.float64))]

    def evaluated(epoch):
        model.eval()  # as an evaluation between the epochs leaves it

    fit(model, batches, squares, torch.optim.SGD(model.parameters(), lr=0.1), 2, after_epoch=evaluated)
    assert modes == [True, True]


def test_no_epochs_change_nothing():
    _, _, w, model = problem()
    assert fit(model, lambda epoch: [], squares, torch.optim.SGD(model.parameters(), lr=0.1), 0) == []
    np.testing.assert_array_equal(model.weight.detach().numpy()[0], w)


def test_a_loss_that_runs_away_is_an_error_that_names_the_epoch():
    x, y, _, model = problem()

    def batches(epoch):
        return [(torch.tensor(x[0]), torch.tensor(y[0]))] * 40

    with pytest.raises(SparseMTLError, match=r"the loss is (nan|inf) in epoch \d+: lower the learning rate") as caught:
        fit(model, batches, squares, torch.optim.SGD(model.parameters(), lr=1e6), 9)
    assert "\n" not in str(caught.value)
