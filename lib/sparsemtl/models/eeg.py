"""Dual-task CNN for EEG: one shared trunk, one linear head each for motor imagery (MI) and motor execution (ME).

The split into shared, MI-only and ME-only parameters follows Shin, Yin and Lee (2023). The trunks are EEGNet
(Lawhern et al. 2018, J. Neural Eng. 15, 056013) and the Shallow and Deep ConvNets (Schirrmeister et al. 2017,
Hum. Brain Mapp. 38, 5391). Any other module (n, E, T) -> (n, n_features) can be the trunk.

For equal weights the outputs are braindecode's, but on a CPU ours are many times faster: the spatial filters act before
the temporal ones, as a batch norm between the two only scales and shifts, and EEGNet's long depthwise filters are
applied by FFT. So `temporal`, `spatial`, `separable_depth` and `norm_temporal` hold parameters but are not called:
forward hooks on them do not fire. Ours also have no max-norm constraint, which would blur what a mask does.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsemtl.errors import SpecError

TASKS = ("mi", "me")
SEPARABLE_TAPS = 16  # of EEGNet's separable convolution in time


def init_weights(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Redraw all weights in place: Xavier-normal for Conv and Linear, zero biases, batch norm reset.

    The draw is DiSparse's (Sun et al. 2022), from `generator` or torch's global one.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()


def _steps(trunk: nn.Module, n_times: int, *windows: tuple[int, int, int]) -> int:
    """Time steps that windows (size, stride, padding) leave of `n_times` samples; SpecError if there are none."""
    steps, name, kernel = n_times, type(trunk).__name__, windows[0][0]
    if kernel < 1:
        raise SpecError(f"{name}: kernel must be at least 1 sample, got {kernel}")
    for size, stride, padding in windows:
        steps = (steps + 2 * padding - size) // stride + 1
        if steps < 1:
            raise SpecError(f"{name}, kernel={kernel}: got n_times={n_times}; take longer epochs or a smaller kernel")
    return steps


def _period(samples: int) -> int:
    """The least 2^a 3^b with a > 2 that is not below `samples`: its Fourier transform is fast."""
    return min(n for b in range(8) if (n := 3**b * 2 ** max(3, math.ceil(math.log2(samples / 3**b)))) >= samples)


def _depthwise(x: Tensor, kernels: Tensor) -> Tensor:
    """Depthwise cross-correlation of (n, C, T) with (C, K), zero-padded by K // 2 at both ends, by FFT."""
    taps, samples = kernels.shape[-1], x.shape[-1]
    period = _period(samples + taps // 2)  # one padding of taps // 2 zeros serves both ends of a circle
    kernels = F.pad(kernels, (0, period - taps)).roll(-(taps // 2), -1)  # negative lags wrap to the end
    spectra = torch.fft.rfft(x, period) * torch.fft.rfft(kernels, period).conj()
    return torch.fft.irfft(spectra, period)[..., : samples + 1 - taps % 2]


def _window_moments(rows: Tensor, n: int) -> tuple[Tensor, Tensor, int]:
    """Means (n,) and second moments (n, n) of all windows of n samples of the signals (rows, T), and their number.

    The signals are zero-padded by n // 2 at both ends. Only products of samples less than n apart are made: those of
    each block of n samples with itself and the next.
    """
    samples, pad = rows.shape[1], n // 2
    n_each, blocks = samples + 1 - n % 2, -(-samples // n)
    pairs = F.pad(rows.T, (0, 0, 0, (blocks + 1) * n - samples)).unfold(0, 2 * n, n)
    products = torch.bmm(pairs[..., :n].mT, pairs)
    lagged = products.as_strided((blocks, n, n), (2 * n * n, 2 * n + 1, 1)).flatten(0, 1)[:samples]  # x_t x_(t + lag)
    sums, lagged = (F.pad(m, (0, 0, pad, pad)).unfold(0, n_each, 1).sum(-1) for m in (rows.sum(0)[:, None], lagged))
    k = torch.arange(n, device=rows.device)
    second = lagged[torch.minimum(k[:, None], k), (k[:, None] - k).abs()]
    n_windows = len(rows) * n_each
    return sums[:, 0] / n_windows, second / n_windows, n_windows


class EEGNet(nn.Module):
    """EEGNet v4 without its classifier (Lawhern et al. 2018): (n, E, T) float -> (n, n_features).

    Temporal convolution (8 filters) - batch norm - depthwise spatial convolution (2 filters each) - batch norm - ELU -
    mean pool 4 - dropout - separable convolution - batch norm - ELU - mean pool 8 - dropout. Defaults are
    braindecode's. Signals should have no large offsets (band-passed, standardised).

    Parameters
    ----------
    n_channels, n_times : int
        Electrodes E and samples T of a trial; SpecError if T is too short.
    kernel : int
        Length of the temporal filters in samples: half a second in the paper, 64 at 128 Hz. The other lengths are
        counted in samples at any rate.
    dropout, bn_momentum : float
        Dropout probability, momentum of the batch norms.
    """

    def __init__(
        self, n_channels: int, n_times: int, kernel: int = 64, *, dropout: float = 0.25, bn_momentum: float = 0.01
    ):
        super().__init__()
        f1, f2, eps, momentum, padding = 8, 16, 1e-3, bn_momentum, SEPARABLE_TAPS // 2
        windows = (kernel, 1, kernel // 2), (4, 4, 0), (SEPARABLE_TAPS, 1, padding), (8, 8, 0)
        self.n_features = f2 * _steps(self, n_times, *windows)
        self.temporal = nn.Conv2d(1, f1, (1, kernel), bias=False)
        self.norm_temporal = nn.BatchNorm2d(f1, eps, momentum)
        self.spatial = nn.Conv2d(f1, f2, (n_channels, 1), groups=f1, bias=False)
        self.norm_spatial = nn.BatchNorm1d(f2, eps, momentum)
        self.separable_depth = nn.Conv1d(f2, f2, SEPARABLE_TAPS, padding=padding, groups=f2, bias=False)
        self.separable_point = nn.Conv1d(f2, f2, 1, bias=False)
        self.norm_separable = nn.BatchNorm1d(f2, eps, momentum)
        self.dropout = nn.Dropout(dropout)

    def _temporal_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (F1,) with which batch norm would normalise the temporal convolution's output.

        They follow from the moments of the input's windows u of K samples, as w.E[u] and w'.Cov[u].w: the output
        itself (n, F1, E, T), by far the costliest of the network, is never made.
        """
        bn: Any = self.norm_temporal
        w = self.temporal.weight.flatten(1)
        if not bn.training:
            return bn.running_mean, bn.running_var
        first, second, n = _window_moments(x.flatten(0, 1), w.shape[1])
        mean, var = w @ first, ((w @ (second - torch.outer(first, first))) * w).sum(1)
        with torch.no_grad():  # not lerp_, which vmap does not know
            bn.num_batches_tracked.add_(1)
            bn.running_mean.mul_(1 - bn.momentum).add_(bn.momentum * mean)
            bn.running_var.mul_(1 - bn.momentum).add_(bn.momentum * n / (n - 1) * var)
        return mean, var

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, n_features) of signals (n, E, T)."""
        bn = self.norm_temporal
        mean, var = self._temporal_moments(x)
        scale = bn.weight * torch.rsqrt(var + bn.eps)
        spatial = self.spatial.weight.flatten(1)
        depth = len(spatial) // len(scale)
        kernels = (self.temporal.weight.flatten(1) * scale[:, None]).repeat_interleave(depth, 0)
        offset = (bn.bias - mean * scale).repeat_interleave(depth) * spatial.sum(1)
        h = _depthwise(spatial @ x, kernels) + offset[:, None]
        h = self.dropout(F.avg_pool1d(F.elu(self.norm_spatial(h)), 4))
        h = self.separable_point(_depthwise(h, self.separable_depth.weight[:, 0]))
        return self.dropout(F.avg_pool1d(F.elu(self.norm_separable(h)), 8)).flatten(1)


class _ConvNet(nn.Module):
    """First block of the Shallow and the Deep ConvNet: temporal convolution, spatial convolution, batch norm."""

    def __init__(self, filters: int, features: int, n_channels: int, n_times: int, *windows: tuple[int, int, int]):
        super().__init__()
        self.n_features = features * _steps(self, n_times, *windows)
        self.temporal = nn.Conv2d(1, filters, (1, windows[0][0]))
        self.spatial = nn.Conv2d(filters, filters, (n_channels, 1), bias=False)
        self.norm = nn.BatchNorm1d(filters)

    def _filtered(self, x: Tensor) -> Tensor:
        """Of (n, E, T); both convolutions are one over electrodes and time, as nothing is between them."""
        time, space = self.temporal.weight[:, 0, 0], self.spatial.weight[..., 0]
        weight, bias = torch.einsum("fk,sfe->sek", time, space), torch.einsum("f,sfe->s", self.temporal.bias, space)
        return self.norm(F.conv1d(x, weight, bias))


class ShallowConvNet(_ConvNet):
    """Shallow ConvNet without its classifier (Schirrmeister et al. 2017): (n, E, T) float -> (n, n_features).

    Temporal and spatial convolution - batch norm - square - mean pool 75, stride 15 - log - dropout: log band
    power, as in filter-bank CSP. Parameters and errors as for `EEGNet`; kernel 25 is for 250 Hz.
    """

    def __init__(self, n_channels: int, n_times: int, kernel: int = 25, *, dropout: float = 0.5):
        super().__init__(40, 40, n_channels, n_times, (kernel, 1, 0), (75, 15, 0))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, n_features) of signals (n, E, T)."""
        power = F.avg_pool1d(self._filtered(x).square(), 75, 15)
        return self.dropout(power.clamp(min=1e-6).log()).flatten(1)


class DeepConvNet(_ConvNet):
    """Deep ConvNet (Deep4) without its classifier (Schirrmeister et al. 2017): (n, E, T) float -> (n, n_features).

    Temporal and spatial convolution, then three convolutions of 50, 100 and 200 filters, each followed by batch
    norm, ELU and max pool 3, with dropout before the last three. Parameters and errors as for `EEGNet`; kernel 10 is
    for 250 Hz.
    """

    def __init__(self, n_channels: int, n_times: int, kernel: int = 10, *, dropout: float = 0.5):
        super().__init__(25, 200, n_channels, n_times, *4 * [(kernel, 1, 0), (3, 3, 0)])
        layers: list[nn.Module] = []
        for n_in, n_out in ((25, 50), (50, 100), (100, 200)):
            conv = nn.Conv1d(n_in, n_out, kernel, bias=False)
            layers += [nn.Dropout(dropout), conv, nn.BatchNorm1d(n_out), nn.ELU(), nn.MaxPool1d(3)]
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, n_features) of signals (n, E, T)."""
        return self.blocks(F.max_pool1d(F.elu(self._filtered(x)), 3)).flatten(1)


BACKBONES = {"eegnet": EEGNet, "shallow": ShallowConvNet, "deep4": DeepConvNet}


class DualTaskNet(nn.Module):
    """Network of Shin et al. (2023): trunk `shared` (phi_s), heads `mi` (phi_I) and `me` (phi_E).

    Parameters
    ----------
    n_channels, n_times, n_classes : int
        Electrodes E, samples T and classes; each task has the same classes.
    sfreq : float
        Sampling rate in Hz; it sets EEGNet's temporal kernel to half a second and nothing else.
    backbone : {"eegnet", "shallow", "deep4"} or torch.nn.Module
        The trunk: one of ours, or any module (n, E, T) -> (n, features) with `n_features`, which keeps its weights.
    tasks : sequence of "mi", "me"
        Heads to build, in the order in which the tasks' trials are stacked; one task gives a single-task network.
    generator : torch.Generator, optional
        Source of the initial weights (see `init_weights`).
    **trunk
        Further arguments of a trunk of ours, such as `kernel` (samples) and `dropout`.

    Raises
    ------
    SpecError
        Unknown backbone or task, too few classes, a module without `n_features`, or epochs too short for the trunk.
    """

    def __init__(
        self, n_channels: int, n_times: int, n_classes: int, *, sfreq: float = 128.0,
        backbone: str | nn.Module = "eegnet", tasks: Sequence[str] = TASKS,
        generator: torch.Generator | None = None, **trunk: Any,
    ):  # fmt: skip
        super().__init__()
        if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
            raise SpecError(f"tasks={tasks!r}: name each wanted task of {', '.join(TASKS)} once")
        if n_classes < 2:
            raise SpecError(f"n_classes={n_classes}: at least 2 are needed")
        self.tasks, self.input_shape = tuple(tasks), (n_channels, n_times)
        if isinstance(backbone, nn.Module):
            if trunk or not isinstance(getattr(backbone, "n_features", None), int):
                raise SpecError("a module as backbone needs an int `n_features`, and takes no further arguments")
            self.shared: Any = backbone
        elif backbone in BACKBONES:
            if backbone == "eegnet":
                trunk.setdefault("kernel", round(sfreq / 2))
            self.shared = BACKBONES[backbone](n_channels, n_times, **trunk)
            init_weights(self.shared, generator)
        else:
            raise SpecError(f"unknown backbone {backbone!r}: choose from {', '.join(BACKBONES)}, or give a module")
        for task in self.tasks:
            head = nn.Linear(self.shared.n_features, n_classes)
            init_weights(head, generator)
            self.add_module(task, head)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits {task: (n_task, n_classes)} of signals {task: (n_task, E, T)}, float, of one task or more.

        All trials pass the trunk once, stacked in the order of `self.tasks`, so batch norm sees both tasks. A task
        without a head, no task at all, or signals of another shape raise SpecError.
        """
        if not inputs or not set(inputs) <= set(self.tasks):
            raise SpecError(f"inputs for {', '.join(inputs) or 'no task'}: this network has {', '.join(self.tasks)}")
        for task, x in inputs.items():
            if x.ndim != 3 or x.shape[1:] != self.input_shape:
                raise SpecError(f"{task}: a trial has (electrodes, samples) {self.input_shape}, got {(*x.shape,)}")
        tasks = [task for task in self.tasks if task in inputs]
        own, several = [inputs[task] for task in tasks], len(tasks) > 1  # one task needs no copy
        features = self.shared(torch.cat(own) if several else own[0])
        parts = features.split([*map(len, own)]) if several else [features]
        return {task: self.get_submodule(task)(part) for task, part in zip(tasks, parts, strict=True)}
