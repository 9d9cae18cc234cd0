"""Layers cut down to some of their channels, as `sparsemtl.sparsity.compact` puts them into a network."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Context without TensorFloat-32 on a GPU, whose rounding looks like other outputs."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class Pick(nn.Module):
    """Channels `index` (int64) of a tensor (n, channels, ...), in the tensor's memory format."""

    def __init__(self, index: Tensor):
        super().__init__()
        self.index: Tensor
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor (n, len(index), ...)."""
        if channels_last(x):  # as a matrix, which index_select takes many times faster
            rows = x.permute(0, 2, 3, 1)
            return rows.flatten(0, 2).index_select(1, self.index).unflatten(0, rows.shape[:3]).permute(0, 3, 1, 2)
        return x.index_select(1, self.index)


def sliced(layer: Any, outputs: Tensor, inputs: Tensor, bias: Tensor | None = None, blank: bool = False) -> nn.Module:
    """Convolution or linear layer of these outputs and input channels; bias (all outputs,) replaces that of `layer`.

    blank: the one input channel is there for its shape alone.
    """
    weight, groups, trained = layer.weight.detach()[outputs], getattr(layer, "groups", 1), layer.weight.requires_grad
    weight = weight[:, inputs] if groups == 1 else weight
    weight = torch.zeros_like(weight) if blank else weight
    if channels_last(layer.weight):
        weight = weight.contiguous(memory_format=torch.channels_last)
    bias = layer.bias if bias is None or (layer.bias is None and not bias[outputs].any()) else bias
    kind: Any = nn.Linear
    options: dict[str, Any] = {"bias": bias is not None, "device": "meta"}  # no initial weights are drawn
    if isinstance(layer, CONVS):
        kind, names = CONVS[weight.ndim - 3], ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        options |= {name: getattr(layer, name) for name in names}
        options["groups"] = 1 if groups == 1 else groups * len(inputs) // layer.in_channels
    small = kind(len(inputs), len(outputs), **options)
    small.weight = nn.Parameter(weight, trained)
    if bias is not None:
        small.bias = nn.Parameter(bias.detach()[outputs].to(weight), trained)
    return small.eval()


def sliced_norm(norm: Any, kept: Tensor) -> nn.Module:
    """Batch norm of these channels."""
    small = copy.deepcopy(norm)
    small.num_features = len(kept)
    for name, old in norm.named_parameters():
        setattr(small, name, nn.Parameter(old.detach()[kept], old.requires_grad))
    small.running_mean, small.running_var = norm.running_mean[kept], norm.running_var[kept]
    return small


def channels_last(x: Tensor) -> bool:
    """Whether a tensor has PyTorch's channels-last memory format, and no other."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def indices(mask: Tensor) -> Tensor:
    """Indices of True, or of the first entry if there is none: tensors without channels do not work everywhere."""
    return mask.nonzero().flatten() if mask.any() else torch.zeros(1, dtype=torch.int64)
