"""Metrics against scikit-learn, torchmetrics and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sparsemtl.errors import SpecError
from sparsemtl.training import metrics as m
from sparsemtl.training.losses import VOID
from torchmetrics.functional import cosine_similarity as tm_cosine
from torchmetrics.functional.classification import multiclass_jaccard_index

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_classification_agrees_with_scikit_learn(pairs):
    y, p = np.array(pairs).T
    c = m.confusion_matrix(y, p, 4)
    assert np.array_equal(c, sk.confusion_matrix(y, p, labels=range(4)))
    assert m.accuracy(c) == pytest.approx(sk.accuracy_score(y, p))
    assert m.macro_f1(c) == pytest.approx(sk.f1_score(y, p, average="macro", zero_division=0))
    assert m.mean_iou(c) == pytest.approx(sk.jaccard_score(y, p, average="macro", zero_division=0))


def test_an_empty_confusion_matrix_has_no_scores():
    assert all(math.isnan(f(m.confusion_matrix([], [], 3))) for f in (m.accuracy, m.macro_f1, m.mean_iou))


@pytest.mark.parametrize(("y", "p"), [([0, 2], [0, 1]), ([0, 1], [0, -1]), ([0, 1], [0])])
def test_labels_out_of_range_are_refused(y, p):
    with pytest.raises(SpecError, match="confusion_matrix"):
        m.confusion_matrix(y, p, 2)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.9]), st.floats(0, 1))
def test_segmentation_agrees_with_torchmetrics_and_scikit_learn_without_void(seed, void, right):
    g = torch.Generator().manual_seed(seed)
    p, y = torch.randint(4, (3, 5, 6), generator=g), torch.randint(4, (3, 5, 6), generator=g)
    y[torch.rand(y.shape, generator=g) < void] = VOID
    p = torch.where(torch.rand(p.shape, generator=g) < right, y, p)  # more or less right
    for iou, one, other in zip(m.micro_iou(p, y), p, y, strict=True):
        acc = (one == other)[other != VOID].double().mean()
        torch.testing.assert_close(iou, acc / (2 - acc), equal_nan=True)
        if not iou.isnan():
            options = {"num_classes": 4, "average": "micro", "ignore_index": VOID}
            assert iou.item() == pytest.approx(multiclass_jaccard_index(one.clamp(max=3), other, **options).item())
    valid, c = y != VOID, m.pixel_confusion(p, y.to(torch.uint8), 4)
    assert np.array_equal(c, sk.confusion_matrix(y[valid], p[valid], labels=range(4)))
    assert np.array_equal(sum(m.pixel_confusion(p[i], y[i], 4) for i in range(3)), c)


def test_pixel_labels_above_the_classes_are_refused():
    with pytest.raises(SpecError, match=r"outside 0\.\.3"):
        m.pixel_confusion(torch.tensor([4]), torch.tensor([0]), 4)


def test_cosine_similarity_agrees_with_torchmetrics():
    g = torch.Generator().manual_seed(0)
    p, y = torch.randn(2, 3, 6, 5, generator=g), torch.randn(2, 3, 6, 5, generator=g)
    y[:, :, 0] = 0  # a row without normals
    for i in range(2):
        flat_p, flat_y = p[i, :, 1:].flatten(1).T, y[i, :, 1:].flatten(1).T
        reference = tm_cosine(flat_p, flat_y, reduction="mean").item()
        assert m.cosine_similarity(p, y)[i].item() == pytest.approx(reference, rel=1e-5)


def test_angles_of_known_rotations():
    angles = torch.tensor([0.0, 10.0, 12.0, 25.0, 29.0, 40.0, 90.0, 180.0], dtype=torch.float64)
    turn = torch.deg2rad(angles)
    y = torch.tensor([0.0, 0.0, 1.0]).double().view(1, 3, 1, 1).repeat(1, 1, 2, 4)
    p = 7 * torch.stack([turn.sin(), 0 * turn, turn.cos()]).view(1, 3, 2, 4)  # length must not matter
    torch.testing.assert_close(m.normal_angles(p, y), angles, rtol=0, atol=1e-5)
    shares = {"within_11.25": 2 / 8, "within_22.5": 3 / 8, "within_30": 5 / 8}
    assert m.angle_statistics(m.normal_angles(p, y)) == pytest.approx(
        {"mean": float(angles.mean()), "median": 27.0, **shares}, abs=1e-4
    )
    y[..., 0] = 0  # without 0 and 29
    assert len(m.normal_angles(p, y)) == 6
    assert math.isnan(m.angle_statistics(m.normal_angles(p, 0 * y))["mean"])


def test_depth_error_leaves_out_what_is_not_known():
    y = torch.tensor([[1.0, 2.0], [0.0, 4.0]]).expand(2, 1, 2, 2) / torch.tensor([4.0, 8.0]).view(2, 1, 1, 1)
    p = y + torch.tensor([0.1, -0.3]).view(2, 1, 1, 1)
    p[:, :, 1, 0] = 9.0  # no depth there
    torch.testing.assert_close(m.depth_mae(p, y), torch.tensor([0.1, 0.3]).double(), atol=1e-6, rtol=0)
    assert m.depth_mae(p, 0 * y).isnan().all()
    reference = sk.mean_absolute_error(y.flatten() + 1, p.flatten() + 1)  # now there is depth everywhere
    assert m.depth_mae(p + 1, y + 1).mean().item() == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("metric", [m.micro_iou, m.cosine_similarity, m.depth_mae])
def test_sizes_that_differ_are_refused(metric):
    with pytest.raises(SpecError, match="resize the targets"):
        metric(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8))
