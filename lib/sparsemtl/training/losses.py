"""Losses of the picture tasks and their balance (Upadhyay et al. 2023, section 4 and Eq. 2).

Each loss takes predictions and targets as `companion.data.images.Images` has them, brought to the size of the
predictions, and returns the mean over all valid pixels of the batch: a float32 scalar, also under autocast, 0 if no
pixel is valid. Shapes that differ raise SpecError. Nothing waits for the GPU.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsemtl.errors import SpecError

VOID = 255  # segmentation label of pixels that count in no loss and no metric


def segmentation_loss(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy.

    Parameters
    ----------
    logits : Tensor, shape (n, classes, H, W)
        Floating.
    y : Tensor, shape (n, H, W)
        Integer classes; pixels of label `VOID` do not count.
    label_smoothing : float
        Share in [0, 1] of the target that is spread over all classes.
    """
    check_shapes("segmentation", logits.shape[:1] + logits.shape[2:], y.shape)
    y = y.long()
    total = F.cross_entropy(logits.float(), y, ignore_index=VOID, reduction="sum", label_smoothing=label_smoothing)
    return total / (y != VOID).sum().clamp(min=1)


def normal_loss(p: Tensor, y: Tensor) -> Tensor:
    """1 - cosine similarity of surface normals.

    Parameters
    ----------
    p, y : Tensor, shape (n, 3, H, W)
        Floating, of any length; pixels where y is the zero vector do not count.
    """
    check_shapes("normals", p.shape, y.shape)
    return _masked_mean(1 - F.cosine_similarity(p.float(), y.float(), dim=1), (y != 0).any(1))


def depth_loss(p: Tensor, y: Tensor) -> Tensor:
    """Mean squared error.

    Parameters
    ----------
    p, y : Tensor, shape (n, 1, H, W)
        Floating, in one unit; only pixels where y > 0 count.
    """
    check_shapes("depth", p.shape, y.shape)
    return _masked_mean((p.float() - y.float()).square(), y > 0)


def binary_loss(logits: Tensor, y: Tensor, double_sigmoid: bool = False) -> Tensor:
    """Binary cross entropy.

    Parameters
    ----------
    logits, y : Tensor, shape (n,)
        Floating, and 0 or 1.
    double_sigmoid : bool
        Put the logits through a sigmoid first, as the authors' released code does: the predicted probabilities then
        cannot leave (0.5, 0.74).
    """
    check_shapes("binary", logits.shape, y.shape)
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits.sigmoid() if double_sigmoid else logits, y.float())


class UncertaintyWeighting(nn.Module):
    """Eq. 2 (after Kendall, Gal and Cipolla, CVPR 2018): sum over tasks of L_i / (2 sigma_i^2) + log sigma_i.

    `log_variance` (tasks,) holds s_i = log sigma_i^2, so that the sum is of exp(-s_i) L_i / 2 + s_i / 2.

    Parameters
    ----------
    tasks : iterable of str
        Names; a loss of another task raises SpecError.
    learned : bool
        `log_variance` is a parameter, for the optimizer without weight decay; else a buffer, so that the balance stays
        equal, as in the authors' released code.
    log_variance : float
        Where each s_i starts; 1 in the released code.
    """

    def __init__(self, tasks: Iterable[str], learned: bool = True, log_variance: float = 0.0):
        super().__init__()
        self.tasks = tuple(tasks)
        start = torch.full((len(self.tasks),), float(log_variance))
        if learned:
            self.log_variance = nn.Parameter(start)
        else:
            self.register_buffer("log_variance", start)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Scalar of {task: scalar loss}; tasks that are not in `losses` (stopped early) drop out of the sum."""
        if unknown := set(losses) - set(self.tasks):
            raise SpecError(f"no weight for the loss of {min(unknown)!r}: the tasks are {', '.join(self.tasks)}")
        s = dict(zip(self.tasks, self.log_variance, strict=True))
        return torch.stack([(torch.exp(-s[task]) * loss + s[task]) / 2 for task, loss in losses.items()]).sum()


def check_shapes(name: str, predicted: torch.Size, wanted: torch.Size) -> None:
    """Raise SpecError if shapes differ."""
    if predicted != wanted:
        raise SpecError(f"{name}: predictions {tuple(predicted)} but targets {tuple(wanted)}; resize the targets")


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)
