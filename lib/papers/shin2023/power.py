"""A small CNN for EEG whose features are log band powers, fed with the moments of each trial that it depends on.

Temporal filters, spatial filters, batch norm, square, mean over time, logarithm: what FBCNet (Mane et al. 2021,
arXiv 2104.01233) and the Shallow ConvNet (Schirrmeister et al. 2017, Hum. Brain Mapp. 38, 5391) share with common
spatial patterns. Up to the square all is linear, so the mean square of a filter's output is w' C w, with C the second
moments of all windows of K samples of a trial. `lag_moments` makes them once for each trial, since it has no weights;
`mapped` makes those of linearly mapped signals, such as aligned ones, of them.
"""

from functools import cache

import torch
from torch import Tensor, nn


def lag_moments(x: Tensor, taps: int = 3, *, mixed: bool = False) -> Tensor:
    """Moments of all windows of K = `taps` samples of signals (n, E, T), input of `PowerNet`: (n, 1, Q * P + K * E).

    They are second moments for the Q = K (K + 1) / 2 pairs of samples times P = E (E + 1) / 2 of electrodes, then the
    means. A filter that is one in time times one in space gives those of pairs (k, e) and (m, f), and of (k, f) and
    (m, e), the same weight: their mean is enough. A network of `mixed` filters needs all K * E (K * E + 1) / 2 instead.
    """
    windows = x.unfold(2, taps, 1).permute(0, 3, 1, 2)  # (n, K, E, .)
    if mixed:
        windows = windows.flatten(1, 2)[:, None]
    flat, shape = windows.flatten(1, 2), windows.shape[1:3]
    second = (flat @ flat.mT / flat.shape[2]).unflatten(2, shape).unflatten(1, shape).transpose(2, 3)
    (k, m), (e, f) = (torch.triu_indices(n, n) for n in shape)
    second = ((second + second.mT) / 2)[:, k, m][:, :, e, f]
    return torch.cat([second.flatten(1), flat.mean(2)], 1)[:, None]


def mapped(moments: Tensor, matrix: Tensor, taps: int = 3, *, mixed: bool = False) -> Tensor:
    """Moments (n, 1, .) of the signals `matrix` @ x, from those of the signals x; matrix: (E, E), of the same dtype."""
    n_means = taps * len(matrix)
    second, means = moments[:, 0].split([moments.shape[2] - n_means, n_means], 1)
    whole = torch.block_diag(*taps * [matrix]) if mixed else matrix
    e, f = torch.triu_indices(*whole.shape)
    pairs = whole[e][:, e] * whole[f][:, f] + whole[e][:, f] * whole[f][:, e]  # of x_e x_f, e <= f
    pairs = torch.where(e == f, pairs / 2, pairs)
    parts = [part.unflatten(1, (-1, len(by))) @ by.mT for part, by in ((second, pairs), (means, matrix))]
    return torch.cat([part.flatten(1) for part in parts], 1)[:, None]


@cache
def _pairs(n: int) -> Tensor:
    """Matrices A and B (2, n, P): row x A times row x B, entry by entry, is x_i x_j of each pair i <= j, else doubled.

    Products with them are faster than indexing, above all in the backward pass.
    """
    i, j = torch.triu_indices(n, n)
    eye = torch.eye(n)
    return torch.stack([eye[:, i], eye[:, j] * torch.where(i == j, 1, 2)])


class PowerNet(nn.Module):
    """Trunk (n, 1, moments) -> (n, filters * depth): log power of learned filters in time and space.

    taps: samples K of a temporal filter. filters, depth: temporal filters, and spatial filters for each of them; with
    `mixed`, which `lag_moments` must be told too, each of these sees all temporal filters instead of one. bn_momentum:
    of the batch norm, 1 for the statistics of the last batch alone.
    """

    def __init__(
        self, n_channels: int, taps: int = 3, filters: int = 4, depth: int = 10, *, mixed: bool = False,
        dropout: float = 0.0, bn_momentum: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        self.n_features, self.mixed, groups = filters * depth, mixed, 1 if mixed else filters
        self.temporal = nn.Conv2d(1, filters, (1, taps), bias=False)
        self.spatial = nn.Conv2d(filters, self.n_features, (n_channels, 1), groups=groups, bias=False)
        self.norm = nn.BatchNorm1d(self.n_features, momentum=bn_momentum)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("time_pairs", _pairs(1 if mixed else taps), persistent=False)
        self.register_buffer("space_pairs", _pairs(n_channels * taps if mixed else n_channels), persistent=False)

    def filters(self) -> tuple[Tensor, Tensor]:
        """Filters in time (F, K), and in space (S, E); if they are mixed, as one: (1, 1), and (S, K * E)."""
        time, space = self.temporal.weight[:, 0, 0], self.spatial.weight[..., 0]
        if not self.mixed:
            return time, space[:, 0]
        whole = (time.mT @ space).flatten(1)
        return torch.ones_like(whole[:1, :1]), whole

    def forward(self, moments: Tensor) -> Tensor:
        """Features (n, filters * depth) of `lag_moments`."""

        def filtered(parts, time, space):  # in time first: what the filters in space then take is small
            parts = parts.unflatten(1, (time.shape[1], space.shape[1]))
            seen = (time @ parts.transpose(0, 1).flatten(1)).unflatten(1, (len(parts), -1))
            return (seen @ space.unflatten(0, (len(time), -1)).mT).transpose(0, 1).flatten(1)

        (time, space), norm = self.filters(), self.norm
        (time_a, time_b), (space_a, space_b) = time @ self.time_pairs, space @ self.space_pairs
        n_means = time.shape[1] * space.shape[1]
        second, means = moments[:, 0].split([moments.shape[2] - n_means, n_means], 1)
        offset = filtered(means, time, space)  # mean of each filter's output over a trial
        power = filtered(second, time_a * time_b, space_a * space_b)
        mean, var = norm.running_mean, norm.running_var
        if norm.training:
            mean = offset.sum(0) / len(offset)  # the gradient of `mean` divides that of each trial
            var = power.sum(0) / len(power) - mean.square()
            with torch.no_grad():  # not lerp_, which vmap does not know
                norm.num_batches_tracked.add_(1)
                norm.running_mean.mul_(1 - norm.momentum).add_(norm.momentum * mean)
                norm.running_var.mul_(1 - norm.momentum).add_(norm.momentum * var)
        # the mean over time of (scale * y + shift)^2
        scale = norm.weight * (var + norm.eps).rsqrt()
        shift = norm.bias - scale * mean
        power = scale.square() * power + 2 * scale * shift * offset + shift.square()
        return self.dropout(power.clamp(min=1e-6).log())
