"""The blind control and the scores of images on four pixels, whose answers are known by hand."""

import numpy as np
import pytest
import torch
from companion import engine
from companion.data.images import Images
from papers.upadhyay2023 import study
from papers.upadhyay2023.run import load_images
from papers.upadhyay2023.scores import Scorer, bootstrap_error
from sklearn.metrics import accuracy_score, f1_score
from sparsemtl.training.losses import VOID

SEG = [[0, 1, 2, VOID], [0, 1, 1, VOID], [1, 1, 2, VOID], [0, 1, 2, 2], [1, 1, 1, VOID]]
DEPTH = [[1, 2, 4, 4], [2, 2, 4, 0], [3, 2, 0, 0], [2, 3, 4, 4], [2, 2, 0, 8]]
NORMAL = ["xxzz", "xxzz", "yyzz", "xxzz", "xxxx"]


@pytest.fixture
def scorer():
    """Of three training images and two test images, 2 x 2 pixels each, row by row as above."""
    normal = torch.eye(3)[torch.tensor([["xyz".index(axis) for axis in way] for way in NORMAL])]
    targets = {
        "seg": torch.tensor(SEG, dtype=torch.uint8).view(5, 2, 2), "depth": torch.tensor(DEPTH).view(5, 1, 2, 2).half(),
        "normal": normal.movedim(2, 1).reshape(5, 3, 2, 2).half(),
    }  # fmt: skip
    splits = {"train": torch.tensor([0, 1, 2]), "test": torch.tensor([3, 4])}
    images = torch.zeros(5, 3, 2, 2, dtype=torch.uint8)
    data = Images("four pixels", images, targets, splits, ("a", "b", "c"), tuple("01234"), "f" * 64)
    return Scorer(data, {"resolution": "input"}, tuple(targets))


@pytest.mark.parametrize(
    ("by_position", "wanted"),
    [  # of two images: IoU acc / (2 - acc), cosine, relative error and error in metres where the depth is known
        (True, {"seg_iou": (0.6 + 0.2) / 2, "normal_cs": (2 / 5**0.5 + 1 + 2 / 5**0.5) / 4,
                "depth_mae": (1 / 16 + 1 / 6) / 2, "depth_mae_m": (1 / 4 + 4 / 3) / 2}),
        (False, {"seg_iou": (1 / 7 + 1) / 2, "normal_cs": (5 + 4) / 56**0.5 / 2,
                 "depth_mae": (11 / 48 + 7 / 18) / 2, "depth_mae_m": (5 / 4 + 2) / 2}),
    ],
)  # fmt: skip
def test_the_blind_control_is_class_mode_mean_direction_and_median_depth(scorer, by_position, wanted):
    metrics, _ = scorer.blind(by_position)
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted, abs=1e-3)


def test_a_record_says_how_far_the_network_is_from_blind(scorer):
    """A network without a fault: it gains all that the blind control lacks."""

    def perfect(rows):
        truth = {task: y[rows] for task, y in scorer.targets.items()}
        return truth | {"normal": truth["normal"].float(), "depth": scorer.both_units(truth["depth"].float(), rows)}

    report = scorer.report(*scorer.scores(perfect, scorer.data.splits["test"]))
    assert report["metrics"]["seg_iou"] == 1
    errors = 1 / 16, 1 / 6
    assert report["gain"]["depth_mae"] == pytest.approx([np.mean(errors), np.std(errors) / 2**0.5], rel=0.1)
    np.testing.assert_allclose(study.unpacked(report["images"]["depth_mae"]), 0, atol=1e-4)


def test_of_faces_the_blind_control_gives_the_commoner_answer():
    spec = next(s for s in study.blind_specs("quick") if s.data == "faces")
    data, result = load_images(spec), engine.run(spec).result
    for task in ("male", "smile"):
        train, test = (data.targets[task][data.splits[split]].float() for split in ("train", "test"))
        share = test.mean().item()
        assert result["metrics"][f"{task}_acc"] == pytest.approx(share if train.mean() > 0.5 else 1 - share, abs=1e-5)


def test_the_standard_error_is_that_of_a_mean():
    values = np.random.default_rng(1).normal(size=400)
    assert bootstrap_error(np.append(values, np.nan)) == pytest.approx(values.std(ddof=1) / 20, rel=0.1)


def test_scores_of_images_survive_packing():
    values = np.array([0.12344, -0.9, 1.0, np.nan, 0.0])
    np.testing.assert_allclose(study.unpacked(study.packed(values)), values, atol=5e-5)


def test_attributes_are_scored_at_the_threshold_as_scikit_learn_does():
    spec = study.specs("quick", ("male+smile",), (0.0,), "celebamask", seeds=(0,), threshold=0.4)[0]
    data = load_images(spec)
    scorer, rows = Scorer(data, spec.params, ("male", "smile")), data.splits["test"]
    logits = torch.linspace(-2, 2, len(rows))
    found, _ = scorer.scores(lambda some: {"male": logits, "smile": -logits}, rows)
    for task, p in (("male", logits), ("smile", -logits)):
        answers = data.targets[task][rows].numpy(), 1 / (1 + np.exp(-p.numpy())) > 0.4
        assert found[f"{task}_acc"] == pytest.approx(accuracy_score(*answers))
        assert found[f"{task}_f1"] == pytest.approx(f1_score(*answers, average="macro"))
