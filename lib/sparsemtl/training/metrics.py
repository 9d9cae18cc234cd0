"""Test metrics: classification from confusion matrices (NumPy), dense prediction per picture (PyTorch).

Functions "per picture" return float64 tensors (n,) on the input's device, NaN where a picture has no valid pixel;
average them over pictures with `torch.nanmean`. Targets are those of `companion.data.images.Images`, brought to
the size of the predictions. Predictions and targets of different shape raise SpecError.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from sparsemtl.errors import SpecError
from sparsemtl.training.losses import VOID


def confusion_matrix(y: ArrayLike, p: ArrayLike, n: int) -> np.ndarray:
    """Count how often class i (row) was predicted as class j (column).

    y, p: integer class labels in [0, n), any equal shapes; n: number of classes.
    Returns int64, shape (n, n). Raises SpecError on unequal shapes or labels outside [0, n).
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
    """Share of correct predictions. c: confusion matrix (n, n); returns a float, NaN if c is empty."""
    c = np.asarray(c, dtype=np.float64)
    return float(np.trace(c) / c.sum()) if c.sum() else float("nan")


def macro_f1(c: ArrayLike) -> float:
    """Unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN). c: confusion matrix (n, n).

    A class that is neither true nor predicted anywhere is left out (as in scikit-learn); NaN if c is empty.
    """
    c = np.asarray(c, dtype=np.float64)
    size = c.sum(0) + c.sum(1)  # 2 TP + FP + FN
    seen = size > 0
    return float((2 * np.diag(c)[seen] / size[seen]).mean()) if seen.any() else float("nan")


def cohen_kappa(c: ArrayLike) -> float:
    """Cohen's kappa: (p_o - p_e) / (1 - p_e), agreement corrected for chance. c: confusion matrix (n, n).

    0 where chance agreement p_e is 1 (one class only, so that nothing can be told); NaN if c is empty.
    """
    c = np.asarray(c, dtype=np.float64)
    if not c.sum():
        return float("nan")
    chance = float(c.sum(0) @ c.sum(1)) / c.sum() ** 2
    return float((accuracy(c) - chance) / (1 - chance)) if chance < 1 else 0.0


def mean_iou(c: ArrayLike) -> float:
    """Mean over classes of intersection over union, TP / (TP + FP + FN): the literature's mIoU.

    c: confusion matrix (n, n) of all pixels of all pictures, see `pixel_confusion`. A class that is neither true
    nor predicted anywhere is left out; NaN if c is empty.
    """
    c = np.asarray(c, dtype=np.float64)
    union = c.sum(0) + c.sum(1) - np.diag(c)
    seen = union > 0
    return float((np.diag(c)[seen] / union[seen]).mean()) if seen.any() else float("nan")


def pixel_confusion(p: Tensor, y: Tensor, n: int) -> np.ndarray:
    """Confusion matrix, int64 array (n, n), of the pixels that are not void; matrices of batches add up.

    p, y: predicted and true class of each pixel, integer tensors of one shape. Raises SpecError for other labels
    outside [0, n).
    """
    _same_shape("pixel_confusion", p, y)
    valid = y != VOID
    cells = y[valid].long() * n + p[valid].long()
    if valid.any() and max(int(y[valid].max()), int(p[valid].max())) >= n:
        raise SpecError(f"pixel_confusion: a label or prediction is above {n - 1}; check the number of classes")
    return torch.bincount(cells, minlength=n * n).reshape(n, n).cpu().numpy()


def micro_iou(p: Tensor, y: Tensor) -> Tensor:
    """Micro IoU per picture, the "IoU" of Upadhyay et al. (2023): pixels of all classes pooled.

    p, y: predicted and true class, integer tensors (n, H, W); void pixels do not count. Each wrong pixel is one
    false positive and one false negative, so TP / (TP + FP + FN) = acc / (2 - acc) with the pixel accuracy.
    """
    _same_shape("segmentation", p, y)
    valid = y != VOID
    hits = ((p == y) & valid).flatten(1).sum(1).double()
    wrong = valid.flatten(1).sum(1).double() - hits
    return hits / (hits + wrong + wrong)


def cosine_similarity(p: Tensor, y: Tensor) -> Tensor:
    """Mean cosine of the angle between predicted and true normals per picture.

    p, y: (n, 3, H, W), of any length; pixels where y is the zero vector do not count.
    """
    return _mean_per_picture(_cosine(p, y), _where_normal(y))


def normal_angles(p: Tensor, y: Tensor) -> Tensor:
    """Angles in degrees between predicted and true normals, float64 (number of valid pixels,); see above."""
    return torch.rad2deg(torch.arccos(_cosine(p, y).clamp(-1, 1)))[_where_normal(y)]


def angle_statistics(angles: Tensor) -> dict[str, float]:
    """Mean and median of `angles` (degrees) and the shares below 11.25, 22.5 and 30 degrees, as a dict of float.

    The statistics of Eigen and Fergus (ICCV 2015) for surface normals, pooled over all pixels given; NaN if none.
    """
    if not len(angles):
        return dict.fromkeys(("mean", "median", "within_11.25", "within_22.5", "within_30"), float("nan"))
    values = angles.double().cpu().numpy()
    shares = {f"within_{limit:g}": float((values < limit).mean()) for limit in (11.25, 22.5, 30.0)}
    return {"mean": float(values.mean()), "median": float(np.median(values)), **shares}


def depth_mae(p: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of depth per picture. p, y: (n, 1, H, W) in one unit; only pixels where y > 0 count."""
    _same_shape("depth_mae", p, y)
    return _mean_per_picture((p.double() - y.double()).abs(), y > 0)


def _same_shape(name: str, p: Tensor, y: Tensor) -> None:
    if p.shape != y.shape:
        raise SpecError(f"{name}: predictions {tuple(p.shape)} but targets {tuple(y.shape)}; resize the targets")


def _cosine(p: Tensor, y: Tensor) -> Tensor:
    _same_shape("normals", p, y)
    return F.cosine_similarity(p.double(), y.double(), dim=1)


def _where_normal(y: Tensor) -> Tensor:
    return (y != 0).any(1)


def _mean_per_picture(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0.0).flatten(1).sum(1) / valid.flatten(1).sum(1)
