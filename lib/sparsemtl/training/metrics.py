"""Test metrics: classification from confusion matrices (NumPy), dense prediction per picture (PyTorch).

Functions "per picture" return float64 tensors (n,) on the input's device, NaN where a picture has no valid pixel;
average them over pictures with `torch.nanmean`. Predictions p and targets y are those of
`sparsemtl.training.losses`; those of different shape raise SpecError.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from sparsemtl.errors import SpecError
from sparsemtl.training.losses import VOID, check_shapes


def confusion_matrix(y: ArrayLike, p: ArrayLike, n: int) -> np.ndarray:
    """Count how often class i (row) was predicted as class j (column), int64 (n, n).

    Parameters
    ----------
    y, p : array of int
        True and predicted labels in [0, n), of any equal shapes; others raise SpecError.
    n : int
        Number of classes.
    """
    y, p = np.asarray(y).ravel(), np.asarray(p).ravel()
    if y.shape != p.shape:
        raise SpecError(f"confusion_matrix: {y.size} true labels but {p.size} predictions; pass one of each")
    for name, labels in (("true label", y), ("prediction", p)):
        wrong = labels[(labels < 0) | (labels >= n)]
        if wrong.size:
            raise SpecError(f"confusion_matrix: {name} {wrong[0]} is outside 0..{n - 1}; check the number of classes")
    return np.bincount(y.astype(np.int64) * n + p.astype(np.int64), minlength=n * n).reshape(n, n)


def accuracy(c: ArrayLike) -> float:
    """Share of correct predictions of a confusion matrix c, shape (n, n); NaN if it is empty."""
    c = np.asarray(c, dtype=np.float64)
    return float(np.trace(c) / c.sum()) if c.sum() else float("nan")


def macro_f1(c: ArrayLike) -> float:
    """Unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN); parameters and result as `accuracy`.

    A class that is neither true nor predicted anywhere is left out, as in scikit-learn.
    """
    c = np.asarray(c, dtype=np.float64)
    return _class_mean(2 * np.diag(c), c.sum(0) + c.sum(1))


def mean_iou(c: ArrayLike) -> float:
    """Mean over classes of intersection over union, TP / (TP + FP + FN): the literature's mIoU.

    As `macro_f1`, with c of all pixels of all pictures (`pixel_confusion`).
    """
    c = np.asarray(c, dtype=np.float64)
    return _class_mean(np.diag(c), c.sum(0) + c.sum(1) - np.diag(c))


def pixel_confusion(p: Tensor, y: Tensor, n: int) -> np.ndarray:
    """`confusion_matrix` of predicted and true class of the pixels that are not void; matrices of batches add up."""
    check_shapes("segmentation", p.shape, y.shape)
    valid = y != VOID
    return confusion_matrix(y[valid].cpu(), p[valid].cpu(), n)


def micro_iou(p: Tensor, y: Tensor) -> Tensor:
    """Micro IoU per picture, the "IoU" of Upadhyay et al. (2023): pixels of all classes pooled.

    Each wrong pixel is one false positive and one false negative, so TP / (TP + FP + FN) = acc / (2 - acc).

    Parameters
    ----------
    p, y : Tensor of int, shape (n, H, W)
        Predicted and true class; pixels of label `VOID` do not count.
    """
    check_shapes("segmentation", p.shape, y.shape)
    valid = y != VOID
    hits = ((p == y) & valid).flatten(1).sum(1).double()
    wrong = valid.flatten(1).sum(1).double() - hits
    return hits / (hits + wrong + wrong)


def cosine_similarity(p: Tensor, y: Tensor) -> Tensor:
    """Mean cosine of the angle between predicted and true normals per picture; parameters as `normal_loss`."""
    return _mean_per_picture(*_cosine(p, y))


def normal_angles(p: Tensor, y: Tensor) -> Tensor:
    """Angles in degrees between normals, float64 (number of valid pixels,); parameters as `cosine_similarity`."""
    cosine, valid = _cosine(p, y)
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))[valid]


def angle_statistics(angles: Tensor) -> dict[str, float]:
    """Keys "mean", "median", and shares "within_11.25", "within_22.5", "within_30": Eigen and Fergus (ICCV 2015).

    Parameters
    ----------
    angles : Tensor, shape (pixels,)
        Degrees, pooled over all pictures; without any, the statistics are NaN.
    """
    values = angles.double().cpu().numpy() if len(angles) else np.array([np.nan])
    found = {"mean": float(values.mean()), "median": float(np.median(values))}
    shares = {limit: float((values < limit).mean()) if len(angles) else float("nan") for limit in (11.25, 22.5, 30.0)}
    return found | {f"within_{limit:g}": share for limit, share in shares.items()}


def depth_mae(p: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of depth per picture, in the unit of p and y; parameters as `depth_loss`."""
    check_shapes("depth", p.shape, y.shape)
    return _mean_per_picture((p.double() - y.double()).abs(), y > 0)


def _class_mean(hits, sizes):
    seen = sizes > 0
    return float((hits[seen] / sizes[seen]).mean()) if seen.any() else float("nan")


def _cosine(p, y):
    """Cosine of each pixel, and which are valid."""
    check_shapes("normals", p.shape, y.shape)
    return F.cosine_similarity(p.double(), y.double(), dim=1), (y != 0).any(1)


def _mean_per_picture(values, valid):
    return torch.where(valid, values, 0.0).flatten(1).sum(1) / valid.flatten(1).sum(1)
