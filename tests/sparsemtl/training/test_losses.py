"""Losses against float64 loops and PyTorch's own; the balance against Eq. 2."""

import math

import pytest
import torch
from sparsemtl.errors import SpecError
from sparsemtl.training import losses
from sparsemtl.training.losses import VOID, UncertaintyWeighting
from torch.nn import functional as F


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_segmentation_loss_is_cross_entropy_without_void(rng):
    logits, y = torch.randn(3, 5, 4, 6, generator=rng), torch.randint(5, (3, 4, 6), generator=rng).to(torch.uint8)
    y[torch.rand(y.shape, generator=rng) < 0.4] = VOID
    expected = F.cross_entropy(logits.double(), y.long(), ignore_index=VOID)
    assert losses.segmentation_loss(logits, y).item() == pytest.approx(expected.item(), rel=1e-6)


def test_normal_loss_is_mean_of_one_minus_cosine(rng):
    p, y = torch.randn(2, 3, 4, 5, generator=rng), F.normalize(torch.randn(2, 3, 4, 5, generator=rng), dim=1)
    hole = torch.rand(2, 4, 5, generator=rng) < 0.3
    y = y.masked_fill(hole[:, None], 0)
    cosines = [
        F.normalize(p[i, :, r, c].double(), dim=0) @ y[i, :, r, c].double() for i, r, c in (~hole).nonzero().tolist()
    ]
    assert losses.normal_loss(p, y).item() == pytest.approx(1 - sum(cosines).item() / len(cosines), rel=1e-5)


def test_depth_loss_is_mean_squared_error_where_depth_is_known(rng):
    p, y = torch.randn(2, 1, 4, 5, generator=rng), torch.rand(2, 1, 4, 5, generator=rng) + 0.1
    y[torch.rand(y.shape, generator=rng) < 0.3] = 0
    assert losses.depth_loss(p, y).item() == pytest.approx(F.mse_loss(p[y > 0], y[y > 0]).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "channels"), [(losses.segmentation_loss, 5), (losses.normal_loss, 3), (losses.depth_loss, 1)]
)
def test_no_valid_pixel_gives_zero_loss_and_zero_gradient(loss, channels):
    p = torch.randn(2, channels, 4, 4, requires_grad=True)
    y = torch.full((2, 4, 4), VOID) if loss is losses.segmentation_loss else torch.zeros(2, channels, 4, 4)
    value = loss(p, y)
    value.backward()
    assert (value.item(), p.grad.abs().sum().item()) == (0, 0)


def test_binary_loss_and_the_released_double_sigmoid(rng):
    logits, y = 5 * torch.randn(50, generator=rng), torch.randint(2, (50,), generator=rng).to(torch.uint8)

    def entropy(p):
        return -sum(math.log(q if t else 1 - q) for q, t in zip(p, y.tolist(), strict=True)) / len(y)

    once = [1 / (1 + math.exp(-v)) for v in logits.tolist()]
    twice = [1 / (1 + math.exp(-v)) for v in once]
    assert losses.binary_loss(logits, y).item() == pytest.approx(entropy(once), rel=1e-5)
    assert losses.binary_loss(logits, y, double_sigmoid=True).item() == pytest.approx(entropy(twice), rel=1e-5)
    assert 0.5 < min(twice) < max(twice) < 0.74


def test_losses_are_float32_of_half_predictions(rng):
    y = torch.rand(2, 1, 4, 4, generator=rng) + 0.1
    assert losses.depth_loss(y.bfloat16() + 1, y.half()).dtype == torch.float32


SHAPES = {
    losses.segmentation_loss: [(2, 5, 4, 4), (2, 8, 8)],
    losses.normal_loss: [(2, 3, 4, 4), (2, 3, 8, 8)],
    losses.depth_loss: [(2, 1, 4, 4), (2, 4, 4)],  # would broadcast
    losses.binary_loss: [(4, 1), (4,)],
}


@pytest.mark.parametrize("loss", SHAPES)
def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(SpecError, match="targets"):
        loss(*map(torch.zeros, SHAPES[loss]))


def test_uncertainty_weighting_is_equation_2():
    weighting = UncertaintyWeighting(("seg", "depth", "male"))
    sigma = torch.tensor([0.5, 1.0, 3.0])
    weighting.log_variance.data.copy_(2 * sigma.log())
    by_task = {"seg": torch.tensor(2.0), "depth": torch.tensor(0.3), "male": torch.tensor(0.7)}
    expected = sum(v / (2 * s**2) + s.log() for v, s in zip(by_task.values(), sigma, strict=True))
    assert weighting(by_task).item() == pytest.approx(expected.item(), rel=1e-6)
    del by_task["depth"]  # stopped early
    expected = sum(by_task[t] / (2 * sigma[i] ** 2) + sigma[i].log() for t, i in (("seg", 0), ("male", 2)))
    assert weighting(by_task).item() == pytest.approx(expected.item(), rel=1e-6)


def test_fixed_balance_is_equal_and_not_learned():
    weighting = UncertaintyWeighting(("a", "b"), learned=False, log_variance=1.0)
    assert not list(weighting.parameters())
    a, b = torch.tensor(1.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    weighting({"a": a, "b": b}).backward()
    assert a.grad.item() == pytest.approx(math.exp(-1) / 2)
    assert b.grad == a.grad


def test_a_loss_of_an_unknown_task_is_refused():
    with pytest.raises(SpecError, match="smile"):
        UncertaintyWeighting(("male",))({"smile": torch.tensor(1.0)})
