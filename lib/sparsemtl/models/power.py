"""A small CNN for EEG whose features are log band powers, fed with the moments of each trial that it depends on.

Temporal filters, spatial filters, batch norm, square, mean over time, logarithm: what FBCNet (Mane et al. 2021,
arXiv 2104.01233) and the Shallow ConvNet (Schirrmeister et al. 2017, Hum. Brain Mapp. 38, 5391) share with common
spatial patterns. Up to the square all is linear, so the mean square of a filter's output is w' C w, with C the second
moments of all windows of K samples of a trial. `lag_moments` makes them once for each trial, since it has no weights;
a step of training then takes a tenth of the time of the same network on signals.
"""

import torch
from torch import Tensor, nn


def lag_moments(x: Tensor, taps: int = 3) -> Tensor:
    """Moments of all windows of a trial, the input of `PowerNet`.

    Parameters
    ----------
    x : Tensor, shape (n, E, T)
        Signals of E electrodes.
    taps : int
        Samples K of a window.

    Returns
    -------
    Tensor, shape (n, E * K, E * K + 1)
        Second moments of the windows; in the last column their means.
    """
    windows = x.unfold(2, taps, 1).transpose(2, 3).flatten(1, 2)
    return torch.cat([windows @ windows.mT / windows.shape[2], windows.mean(2, keepdim=True)], 2)


class PowerNet(nn.Module):
    """Trunk (n, E * K, E * K + 1) -> (n, filters * depth): log power of learned filters in time and space.

    Parameters
    ----------
    n_channels : int
        Electrodes E.
    taps : int
        Samples K of a temporal filter.
    filters, depth : int
        Temporal filters, and spatial filters for each of them.
    mixed : bool
        Every spatial filter sees all temporal filters instead of one.
    dropout, bn_momentum : float
        Dropout probability of the features; momentum of the batch norm, 1 for the statistics of the last batch alone.
    """

    def __init__(
        self, n_channels: int, taps: int = 3, filters: int = 4, depth: int = 10, *, mixed: bool = False,
        dropout: float = 0.0, bn_momentum: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        self.n_features, groups = filters * depth, 1 if mixed else filters
        self.temporal = nn.Conv2d(1, filters, (1, taps), bias=False)
        self.spatial = nn.Conv2d(filters, self.n_features, (n_channels, 1), groups=groups, bias=False)
        self.norm = nn.BatchNorm1d(self.n_features, momentum=bn_momentum)
        self.dropout = nn.Dropout(dropout)

    def filters(self) -> Tensor:
        """Temporal and spatial filters as one, (filters * depth, E * K)."""
        time, space = self.temporal.weight[:, 0, 0], self.spatial.weight[..., 0]  # (F, K) and (S, F or 1, E)
        if self.spatial.groups == 1:
            return (space.mT @ time).flatten(1)
        return (space.mT * time.repeat_interleave(self.n_features // len(time), 0)[:, None]).flatten(1)

    def forward(self, moments: Tensor) -> Tensor:
        """Features (n, filters * depth) of `lag_moments`."""
        w, norm = self.filters(), self.norm
        offset = moments[:, :, -1] @ w.mT  # mean of each filter's output over a trial
        power = (w @ moments[:, :, :-1] * w).sum(2)
        mean, var = norm.running_mean, norm.running_var
        if norm.training:
            mean = offset.mean(0)
            var = power.mean(0) - mean.square()
            with torch.no_grad():  # not lerp_, which vmap does not know
                norm.num_batches_tracked.add_(1)
                norm.running_mean.mul_(1 - norm.momentum).add_(norm.momentum * mean)
                norm.running_var.mul_(1 - norm.momentum).add_(norm.momentum * var)
        # the mean over time of (scale * (y - mean) + bias)^2
        scale = norm.weight * (var + norm.eps).rsqrt()
        power = scale.square() * (power - 2 * mean * offset + mean.square())
        power = power + 2 * scale * norm.bias * (offset - mean) + norm.bias.square()
        return self.dropout(power.clamp(min=1e-6).log())
