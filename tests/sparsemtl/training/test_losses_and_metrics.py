"""Losses and metrics against PyTorch, scikit-learn, torchmetrics and closed forms; the balance against Eq. 2."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sparsemtl.errors import SpecError
from sparsemtl.training import losses
from sparsemtl.training import metrics as m
from sparsemtl.training.losses import VOID, UncertaintyWeighting
from torch.nn import functional as F
from torchmetrics.functional import cosine_similarity as tm_cosine
from torchmetrics.functional.classification import multiclass_jaccard_index


def test_losses_are_means_over_the_pixels_that_are_known():
    p, y, hole = *torch.randn(2, 2, 3, 4, 5), torch.rand(2, 4, 5) < 0.3
    classes = torch.randint(3, (2, 4, 5)).to(torch.uint8)
    found = losses.segmentation_loss(p, classes.masked_fill(hole, VOID))
    torch.testing.assert_close(found, F.cross_entropy(p, classes.long(), reduction="none")[~hole].mean())
    found = losses.normal_loss(p, y.masked_fill(hole[:, None], 0))
    torch.testing.assert_close(found, 1 - (F.normalize(p, dim=1) * F.normalize(y, dim=1)).sum(1)[~hole].mean())
    p, y = p[:, 0], y[:, 0].abs()
    found = losses.depth_loss(p[:, None], y.masked_fill(hole, 0)[:, None])
    torch.testing.assert_close(found, F.mse_loss(p[~hole], y[~hole]))
    assert losses.depth_loss(p.bfloat16(), y.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("loss", "y"),
    [(losses.segmentation_loss, torch.full((2, 4, 4), VOID)), (losses.normal_loss, torch.zeros(2, 3, 4, 4)),
     (losses.depth_loss, torch.zeros(2, 3, 4, 4))],
)  # fmt: skip
def test_no_valid_pixel_gives_zero_loss_and_zero_gradient(loss, y):
    p = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(p, y)
    value.backward()
    assert (value.item(), p.grad.abs().sum().item()) == (0, 0)


def test_binary_loss_and_the_released_double_sigmoid():
    logits, y = 5 * torch.randn(50), torch.randint(2, (50,)).to(torch.uint8)

    def entropy(p):
        return -sum(math.log(q if t else 1 - q) for q, t in zip(p, y.tolist(), strict=True)) / len(y)

    once = [1 / (1 + math.exp(-v)) for v in logits.tolist()]
    twice = [1 / (1 + math.exp(-v)) for v in once]
    assert losses.binary_loss(logits, y).item() == pytest.approx(entropy(once), rel=1e-5)
    assert losses.binary_loss(logits, y, double_sigmoid=True).item() == pytest.approx(entropy(twice), rel=1e-5)


@pytest.mark.parametrize(
    ("function", "predicted", "wanted"),
    [(losses.segmentation_loss, (2, 5, 4, 4), (2, 8, 8)), (losses.normal_loss, (2, 3, 4, 4), (2, 3, 8, 8)),
     (losses.depth_loss, (2, 1, 4, 4), (2, 4, 4)), (losses.binary_loss, (4, 1), (4,)),  # would broadcast
     *((metric, (2, 3, 4, 4), (2, 3, 8, 8)) for metric in (m.micro_iou, m.cosine_similarity, m.depth_mae))],
)  # fmt: skip
def test_shapes_that_differ_are_refused(function, predicted, wanted):
    with pytest.raises(SpecError, match="targets"):
        function(torch.zeros(predicted), torch.zeros(wanted))


def test_uncertainty_weighting_is_equation_2():
    weighting = UncertaintyWeighting(("seg", "depth", "male"))
    sigma = torch.tensor([0.5, 1.0, 3.0])
    weighting.log_variance.data.copy_(2 * sigma.log())
    by_task = {"seg": torch.tensor(2.0), "depth": torch.tensor(0.3), "male": torch.tensor(0.7)}
    terms = [v / (2 * s**2) + s.log() for v, s in zip(by_task.values(), sigma, strict=True)]
    torch.testing.assert_close(weighting(by_task), sum(terms))
    del by_task["depth"]  # stopped early
    torch.testing.assert_close(weighting(by_task), terms[0] + terms[2])
    with pytest.raises(SpecError, match="smile"):
        weighting({"smile": torch.tensor(1.0)})


def test_fixed_balance_is_equal_and_not_learned():
    weighting = UncertaintyWeighting(("a", "b"), learned=False, log_variance=1.0)
    assert not list(weighting.parameters())
    a, b = torch.tensor(1.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    weighting({"a": a, "b": b}).backward()
    assert a.grad.item() == pytest.approx(math.exp(-1) / 2)
    assert b.grad == a.grad


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_classification_agrees_with_scikit_learn(pairs):
    y, p = np.array(pairs).T
    c = m.confusion_matrix(y, p, 4)
    assert np.array_equal(c, sk.confusion_matrix(y, p, labels=range(4)))
    assert m.accuracy(c) == pytest.approx(sk.accuracy_score(y, p))
    assert m.macro_f1(c) == pytest.approx(sk.f1_score(y, p, average="macro", zero_division=0))
    assert m.mean_iou(c) == pytest.approx(sk.jaccard_score(y, p, average="macro", zero_division=0))
    assert all(math.isnan(f(m.confusion_matrix([], [], 3))) for f in (m.accuracy, m.macro_f1, m.mean_iou))


@pytest.mark.parametrize(("y", "p"), [([0, 2], [0, 1]), ([0, 1], [0, -1]), ([0, 1], [0])])
def test_labels_out_of_range_are_refused(y, p):
    with pytest.raises(SpecError, match="confusion_matrix"):
        m.confusion_matrix(y, p, 2)
    with pytest.raises(SpecError):
        m.pixel_confusion(torch.tensor(p), torch.tensor(y), 2)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.9]), st.floats(0, 1))
def test_segmentation_agrees_with_torchmetrics_and_scikit_learn_without_void(seed, void, right):
    torch.manual_seed(seed)
    p, y = torch.randint(4, (2, 3, 5, 6))
    y[torch.rand(y.shape) < void] = VOID
    p = torch.where(torch.rand(p.shape) < right, y, p)  # more or less right
    for iou, one, other in zip(m.micro_iou(p, y), p, y, strict=True):
        acc = (one == other)[other != VOID].double().mean()
        torch.testing.assert_close(iou, acc / (2 - acc), equal_nan=True)
        if not iou.isnan():
            options = {"num_classes": 4, "average": "micro", "ignore_index": VOID}
            assert iou.item() == pytest.approx(multiclass_jaccard_index(one.clamp(max=3), other, **options).item())
    valid, c = y != VOID, m.pixel_confusion(p, y.to(torch.uint8), 4)
    assert np.array_equal(c, sk.confusion_matrix(y[valid], p[valid], labels=range(4)))
    assert np.array_equal(sum(m.pixel_confusion(p[i], y[i], 4) for i in range(3)), c)


def test_cosine_similarity_agrees_with_torchmetrics():
    p, y = torch.randn(2, 2, 3, 6, 5)
    y[:, :, 0] = 0  # a row without normals
    known = [[t[:, 1:].flatten(1).T for t in pair] for pair in zip(p, y, strict=True)]
    reference = torch.stack([tm_cosine(*pair, reduction="mean") for pair in known]).double()
    torch.testing.assert_close(m.cosine_similarity(p, y), reference, rtol=1e-5, atol=1e-7)


def test_angles_of_known_rotations():
    angles = torch.tensor([0.0, 10.0, 12.0, 25.0, 29.0, 40.0, 90.0, 180.0], dtype=torch.float64)
    turn = torch.deg2rad(angles)
    y = torch.tensor([0.0, 0.0, 1.0]).double().view(1, 3, 1, 1).repeat(1, 1, 2, 4)
    p = 7 * torch.stack([turn.sin(), 0 * turn, turn.cos()]).view(1, 3, 2, 4)  # length must not matter
    torch.testing.assert_close(m.normal_angles(p, y), angles, rtol=0, atol=1e-5)
    shares = {"within_11.25": 2 / 8, "within_22.5": 3 / 8, "within_30": 5 / 8}
    expected = {"mean": float(angles.mean()), "median": 27.0, **shares}
    assert m.angle_statistics(m.normal_angles(p, y)) == pytest.approx(expected, abs=1e-4)
    y[..., 0] = 0  # without 0 and 29
    assert len(m.normal_angles(p, y)) == 6
    assert math.isnan(m.angle_statistics(m.normal_angles(p, 0 * y))["mean"])


def test_depth_error_leaves_out_what_is_not_known():
    p, y = torch.rand(2, 2, 1, 4, 5).double()
    y[y < 0.3] = 0
    expected = [sk.mean_absolute_error(b[b > 0], a[b > 0]) for a, b in zip(p, y, strict=True)]
    torch.testing.assert_close(m.depth_mae(p, y), torch.tensor(expected).double())
    assert m.depth_mae(p, 0 * y).isnan().all()
