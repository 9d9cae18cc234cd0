"""The blind control recomputed from the images, and scores of images against NumPy."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from companion import engine
from papers.upadhyay2023 import study
from papers.upadhyay2023.run import load_images
from papers.upadhyay2023.scores import Scorer, bootstrap_error
from sparsemtl.training.losses import VOID

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rooms():
    spec = next(s for s in study.blind_specs("quick") if s.data == "rooms")
    return load_images(spec), engine.run(spec).result


def _true(data, task, split):
    return data.targets[task][data.splits[split]].numpy().astype(float)


def _ious(answer, truth):
    shares = [np.mean((answer == y)[y != VOID]) for y in truth]
    return np.array([a / (2 - a) for a in shares])


def _unit(x, axis):
    return x / np.maximum(np.linalg.norm(x, axis=axis, keepdims=True), 1e-12)


def test_the_blind_control_is_class_mode_mean_direction_and_median_depth_of_each_position(rooms):
    data, result = rooms
    train, test = (_true(data, "seg", split) for split in ("train", "test"))
    size, answer = data.size, np.zeros(train.shape[1:])
    for i in range(size):
        for j in range(size):
            counts = Counter(c for c in train[:, i, j] if c != VOID)
            answer[i, j] = min(counts, key=lambda c: (-counts[c], c)) if counts else 0
    assert result["metrics"]["seg_iou"] == pytest.approx(_ious(answer, test).mean(), abs=1e-5)
    train, test = (_true(data, "normal", split) for split in ("train", "test"))
    direction = _unit(train.sum(0), 0)
    cosines = [(direction * y).sum(0)[(y != 0).any(0)].mean() for y in (_unit(one, 0) * (one != 0) for one in test)]
    assert result["metrics"]["normal_cs"] == pytest.approx(np.mean(cosines), abs=1e-4)
    train, test = (_true(data, "depth", split)[:, 0] for split in ("train", "test"))
    largest = train.max((1, 2), keepdims=True)
    middle = np.median(train / largest, 0)  # every pixel of a simulated room has a depth
    errors = [np.abs(middle - y / y.max()).mean() for y in test]
    assert result["metrics"]["depth_mae"] == pytest.approx(np.mean(errors), rel=5e-3)  # torch takes the lower median
    assert result["metrics"]["depth_mae_m"] == pytest.approx(
        np.mean([np.abs(np.median(train, 0) - y).mean() for y in test]), rel=5e-3
    )


def test_one_value_for_all_positions_is_the_commonest_class_mean_direction_and_median(rooms):
    data, result = rooms
    train, test = (_true(data, "seg", split) for split in ("train", "test"))
    common = Counter(train[train != VOID]).most_common(1)[0][0]
    assert result["constant"]["seg_iou"] == pytest.approx(_ious(common, test).mean(), abs=1e-5)
    train, test = (_true(data, "depth", split) for split in ("train", "test"))
    middle = np.median(train[train > 0])
    expected = np.mean([np.abs(middle - y)[y > 0].mean() for y in test])
    assert result["constant"]["depth_mae_m"] == pytest.approx(expected, rel=5e-3)


def test_of_faces_the_blind_control_gives_the_commoner_answer():
    spec = next(s for s in study.blind_specs("quick") if s.data == "faces")
    data, result = load_images(spec), engine.run(spec).result
    for task in ("male", "smile"):
        yes = _true(data, task, "train").mean() > 0.5
        assert result["metrics"][f"{task}_acc"] == pytest.approx((_true(data, task, "test") == yes).mean(), abs=1e-5)


def test_a_record_says_how_far_the_network_is_from_blind(rooms):
    data, _ = rooms
    scorer = Scorer(data, {"resolution": "input", "threshold": 0.5}, ("depth", "seg"))
    rows = data.splits["test"]

    def perfect(some):
        return {
            "depth": scorer.both_units(scorer.targets["depth"][some].float(), some),
            "seg": scorer.targets["seg"][some],
        }

    report = scorer.report(*scorer.scores(perfect, rows))
    gain, error = report["gain"]["depth_mae"]
    assert gain == pytest.approx(report["blind"]["depth_mae"])
    blind_each = scorer.blind()[1]["depth_mae"]
    assert error == pytest.approx(blind_each.std(ddof=1) / len(rows) ** 0.5, rel=0.15)
    assert report["metrics"]["seg_iou"] == 1
    np.testing.assert_allclose(study.unpacked(report["images"]["depth_mae"]), 0, atol=1e-4)


def test_the_standard_error_is_that_of_a_mean():
    values = np.random.default_rng(1).normal(size=400)
    assert bootstrap_error(np.append(values, np.nan)) == pytest.approx(values.std(ddof=1) / 20, rel=0.1)


def test_scores_of_images_survive_packing():
    values = np.array([0.12344, -0.9, 1.0, np.nan, 0.0])
    np.testing.assert_allclose(study.unpacked(study.packed(values)), values, atol=5e-5)


def test_attributes_are_scored_at_the_threshold():
    spec = study.specs("quick", ("male+smile",), (0.0,), "celebamask", seeds=(0,), threshold=0.4)[0]
    data = load_images(spec)
    scorer, rows = Scorer(data, spec.params, ("male", "smile")), data.splits["test"]
    logits = torch.linspace(-2, 2, len(rows))
    found, _ = scorer.scores(lambda some: {"male": logits, "smile": -logits}, rows)
    for task, p in (("male", logits), ("smile", -logits)):
        y, yes = data.targets[task][rows].numpy(), 1 / (1 + np.exp(-p.numpy())) > 0.4
        assert found[f"{task}_acc"] == pytest.approx((y == yes).mean())
        parts = [2 * (yes == c)[y == c].sum() / ((yes == c).sum() + (y == c).sum()) for c in (0, 1)]
        assert found[f"{task}_f1"] == pytest.approx(np.mean(parts))
