"""Dual-task CNN for EEG: one shared trunk, one fully connected head for each of imagery (MI) and execution (ME).

The split into shared, MI-only and ME-only parameters follows Shin, Yin and Lee (2023); the trunks are EEGNet
(Lawhern et al. 2018, J. Neural Eng. 15, 056013) and the Shallow and Deep ConvNets (Schirrmeister et al. 2017,
Hum. Brain Mapp. 38, 5391). Trunk and head together compute what braindecode's EEGNet, ShallowFBCSPNet and
Deep4Net compute for equal weights, except that there is no max-norm constraint: sparse training fixes weights at
zero, and rescaling the others at every step would blur what the masks do.

For speed, the temporal and spatial convolutions are computed together, since all between them is linear, EEGNet's
depthwise ones by FFT, and its batch norms together with what follows them. The modules `temporal`, `spatial`,
`separable_depth` and EEGNet's norms therefore hold weights but are not called as a rule: forward hooks on them
(`torch.nn.utils.prune`, FLOP counters) do not fire.

Every part can be made as several `copies` that lie side by side, for `papers.shin2023.stack`: each copy has the
parameters of a whole part, one copy after another along the first axis, and all copies see the same signals.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsemtl.errors import SpecError

TASKS = ("mi", "me")
SEPARABLE_TAPS = 16  # of EEGNet's separable convolution in time


def init_weights(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Redraw all weights in place: Xavier-normal for Conv and Linear, zero biases, batch norm reset.

    The draw is DiSparse's (Sun et al. 2022) and depends on `generator` alone; None takes torch's global one.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()


def _checked_steps(name: str, steps: Callable[[int, int], int], n_times: int, kernel: int) -> int:
    """Time steps that leave the trunk; SpecError where none would, naming the least number of samples."""
    if kernel < 1:
        raise SpecError(f"{name}: kernel must be at least 1 sample, got {kernel}")
    if steps(n_times, kernel) < 1:
        least = next(n for n in count(n_times) if steps(n, kernel) >= 1)
        raise SpecError(
            f"{name} with kernel={kernel} needs at least {least} samples, got n_times={n_times}: "
            "take longer epochs, a higher sampling rate or a smaller kernel"
        )
    return steps(n_times, kernel)


class _Dropout(nn.Dropout):
    """Dropout that takes the same features (n, copies * C, ...) from every copy, drawn as for one of them."""

    def __init__(self, p: float, copies: int):
        super().__init__(p)
        self.copies = copies

    def forward(self, x: Tensor) -> Tensor:
        """The features that are left, scaled."""
        if self.copies == 1 or not self.training:
            return super().forward(x)
        each = x.unflatten(1, (self.copies, -1))
        return (each * super().forward(torch.ones_like(each[:, 0]))[:, None]).flatten(1, 2)


class _Spectrum(torch.autograd.Function):
    """`rfft` of real signals (..., T) over an even `period`; PyTorch's own gradient takes a complex transform."""

    @staticmethod
    def forward(ctx, signals, period):
        ctx.samples, ctx.period = signals.shape[-1], period
        return torch.fft.rfft(signals, period)

    @staticmethod
    def backward(ctx, grad):
        # irfft adds the negative frequencies, which only the first and the last do not have
        once = grad.real.new_full(grad.shape[-1:], 0.5)
        once[0] = once[-1] = 1.0
        return torch.fft.irfft(grad * once, ctx.period, norm="forward")[..., : ctx.samples], None


def _period(samples: int) -> int:
    """The least 2^a 3^b with a > 2 that is not below `samples`: such transforms take half the time of others."""
    return min(n for b in range(8) if (n := 3**b * 2 ** max(3, math.ceil(math.log2(samples / 3**b)))) >= samples)


def _spectrum(signals: Tensor, kernels: Tensor) -> Tensor:
    """Spectra (n, C, F) of signals (n, C, T), long enough for `_correlate` with these kernels."""
    return _Spectrum.apply(signals, _period(signals.shape[-1] + kernels.shape[-1] // 2))


def _convolved(samples: int, kernel: int) -> int:
    """Samples that a kernel leaves of signals which are zero-padded by half of it at both ends."""
    return samples + 2 * (kernel // 2) - kernel + 1


def _correlate(spectra: Tensor, kernels: Tensor) -> Tensor:
    """Depthwise cross-correlation of signals (n, C, T), zero-padded by K // 2 at both ends, with (C, K).

    spectra: the signals' `_spectrum`. Its period has K // 2 zeros after the signals, which are those before them too;
    taps of a longer kernel, which are cut off here, would meet nothing else. Of the output (n, C, period) the first
    `_convolved(T, K)` samples are meant.
    """
    n_kernel, period = kernels.shape[-1], 2 * (spectra.shape[-1] - 1)
    around = F.pad(kernels, (0, period - n_kernel)).roll(-(n_kernel // 2), -1)  # what comes first lies at the end
    responses = _Spectrum.apply(around, period)
    if compiled := _compiled(kernels):
        return compiled.correlate(spectra, responses)
    return torch.fft.irfft(spectra * responses.conj(), period)


def _norm_elu_pool(x: Tensor, norm: nn.BatchNorm1d, width: int, samples: int, shift: Tensor | None = None) -> Tensor:
    """`avg_pool1d(elu(norm(x + shift)), width)` of the first samples of signals (n, C, T); shift: (C,) or none."""
    shift = torch.zeros_like(norm.bias) if shift is None else shift
    compiled = _compiled(x)
    if compiled is None:
        return F.avg_pool1d(F.elu(norm(x[..., :samples] + shift[:, None])), width)
    if norm.training:  # the batch's mean takes the shift away again: its gradient is zero, not missing
        bias, moments = norm.bias + 0 * shift, (None, None)
    else:
        bias = norm.bias + shift * norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        moments = norm.running_mean, norm.running_var
    pooled, mean, var = compiled.norm_elu_pool(x, norm.weight, bias, *moments, norm.eps, width, samples)
    if norm.training:
        _track(norm, mean + shift, var, len(x) * samples)
    return pooled


@torch.no_grad()
def _track(norm: nn.Module, mean: Tensor, var: Tensor, n: int) -> None:
    """Let a batch norm's running moments follow those of a batch (C,), of n values each with the biased variance."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)


def _compiled(x: Tensor) -> ModuleType | None:
    """The module with compiled loops for this tensor, or None where PyTorch's own operations are the way."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or type(x) not in (Tensor, nn.Parameter):
        return None  # of another type are the tensors without memory with which a network is exported
    from sparsemtl.models import eegnet_cpu  # compiles, or loads what it compiled, on first use

    return eegnet_cpu


def _mixed(spectra: Tensor, weights: Tensor) -> Tensor:
    """Spectra (n, E, F) mixed by real weights (C, E) into (n, C, F)."""
    pairs = F.conv1d(torch.view_as_real(spectra).flatten(2), weights[..., None])
    return torch.view_as_complex(pairs.unflatten(2, (-1, 2)))


def _window_moments(rows: Tensor, n: int) -> tuple[Tensor, Tensor, int]:
    """Means (n,) and second moments (n, n) of all windows of n samples of the signals (rows, T), and their number.

    The signals are zero-padded by n // 2 at both ends, as for a convolution. Only products of samples less than n apart
    are made: those of each block of n samples with itself and the next.
    """
    samples, pad = rows.shape[1], n // 2
    n_each, blocks = samples + 2 * pad - n + 1, -(-samples // n)
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

    Temporal convolution - batch norm - depthwise spatial convolution - batch norm - ELU - mean pool 4 - dropout -
    separable convolution - batch norm - ELU - mean pool 8 - dropout.
    Defaults are braindecode's, among them dropout 0.25, where the paper takes 0.5 within subjects. `kernel` is the
    length of the temporal filters in samples: half a second in the paper, 64 at 128 Hz. The other lengths are
    counted in samples at any rate. Signals should be free of large offsets (band-passed, standardised).
    """

    def __init__(
        self,
        n_channels: int,
        n_times: int,
        kernel: int = 64,
        *,
        f1: int = 8,
        depth: int = 2,
        dropout: float = 0.25,
        bn_momentum: float = 0.01,
        copies: int = 1,
    ):
        """Layers for E = `n_channels` and T = `n_times`; SpecError where T is too short."""
        super().__init__()
        self.n_features = f1 * depth * _checked_steps("EEGNet", self._steps, n_times, kernel)
        f1 *= copies
        f2 = f1 * depth
        norm = {"eps": 1e-3, "momentum": bn_momentum}
        self.temporal = nn.Conv2d(1, f1, (1, kernel), bias=False)
        self.norm_temporal = nn.BatchNorm2d(f1, **norm)
        self.spatial = nn.Conv2d(f1, f2, (n_channels, 1), groups=f1, bias=False)
        self.norm_spatial = nn.BatchNorm1d(f2, **norm)
        padded = {"padding": SEPARABLE_TAPS // 2, "bias": False}
        self.separable_depth = nn.Conv1d(f2, f2, SEPARABLE_TAPS, groups=f2, **padded)
        self.separable_point = nn.Conv1d(f2, f2, 1, groups=copies, bias=False)
        self.norm_separable = nn.BatchNorm1d(f2, **norm)
        self.dropout = _Dropout(dropout, copies)

    @staticmethod
    def _steps(n_times: int, kernel: int) -> int:
        return _convolved(_convolved(n_times, kernel) // 4, SEPARABLE_TAPS) // 8

    def _temporal_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (F1,) with which batch norm would normalise the temporal convolution's output.

        Batch moments of the output follow from those of the input's windows u of K samples: mean w.E[u] and
        variance w'.Cov[u].w, so the (n, F1, E, T) output itself, by far the costliest of the network, is not made.
        """
        bn, w = self.norm_temporal, self.temporal.weight.flatten(1)
        if not bn.training:
            return bn.running_mean, bn.running_var
        first, second, n_windows = _window_moments(x.flatten(0, 1), w.shape[1])
        mean, var = w @ first, ((w @ (second - torch.outer(first, first))) * w).sum(1)
        _track(bn, mean, var, n_windows)
        return mean, var

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, n_features) of signals (n, E, T)."""
        bn = self.norm_temporal
        mean, var = self._temporal_moments(x)
        scale = bn.weight * torch.rsqrt(var + bn.eps)
        shift = bn.bias - mean * scale
        # Batch norm scales and shifts each temporal filter's output, so the spatial filters can go first.
        spatial = self.spatial.weight.flatten(1)
        depth = len(spatial) // len(scale)
        kernels = (self.temporal.weight.flatten(1) * scale[:, None]).repeat_interleave(depth, 0)
        offset = shift.repeat_interleave(depth) * spatial.sum(1)
        samples = _convolved(x.shape[-1], kernels.shape[-1])
        h = _correlate(_mixed(_spectrum(x, kernels), spatial), kernels)
        h = self.dropout(_norm_elu_pool(h, self.norm_spatial, 4, samples, offset))
        kernels = self.separable_depth.weight[:, 0]
        samples = _convolved(h.shape[-1], SEPARABLE_TAPS)
        h = self.separable_point(_correlate(_spectrum(h, kernels), kernels)[..., :samples])
        return self.dropout(_norm_elu_pool(h, self.norm_separable, 8, samples)).flatten(1)


def _merged_conv(x: Tensor, temporal: nn.Conv2d, spatial: nn.Conv2d) -> Tensor:
    """Temporal, then spatial convolution of (n, E, T) as one over electrodes and time; nothing lies between."""
    copies = (spatial.groups, -1)
    time, space = (w.flatten(2).unflatten(0, copies) for w in (temporal.weight[:, 0], spatial.weight))
    bias = torch.einsum("cf,csfe->cs", temporal.bias.unflatten(0, copies), space)
    return F.conv1d(x, torch.einsum("cfk,csfe->csek", time[:, :, 0], space).flatten(0, 1), bias.flatten())


class ShallowConvNet(nn.Module):
    """Shallow ConvNet without its classifier (Schirrmeister et al. 2017): (n, E, T) float -> (n, n_features).

    Temporal and spatial convolution - batch norm - square - mean pool 75, stride 15 - log - dropout: log band
    power, as in filter-bank CSP. `kernel` is the length of the temporal filters in samples (25 at 250 Hz).
    """

    def __init__(self, n_channels: int, n_times: int, kernel: int = 25, *, dropout: float = 0.5, copies: int = 1):
        """Layers for E = `n_channels` and T = `n_times`; SpecError where T is too short."""
        super().__init__()
        self.n_features = 40 * _checked_steps("ShallowConvNet", self._steps, n_times, kernel)
        self.temporal = nn.Conv2d(1, 40 * copies, (1, kernel))
        self.spatial = nn.Conv2d(40 * copies, 40 * copies, (n_channels, 1), groups=copies, bias=False)
        self.norm = nn.BatchNorm1d(40 * copies)
        self.dropout = _Dropout(dropout, copies)

    @staticmethod
    def _steps(n_times: int, kernel: int) -> int:
        return (n_times - kernel + 1 - 75) // 15 + 1

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, n_features) of signals (n, E, T)."""
        power = F.avg_pool1d(self.norm(_merged_conv(x, self.temporal, self.spatial)).square(), 75, 15)
        return self.dropout(power.clamp(min=1e-6).log()).flatten(1)


class DeepConvNet(nn.Module):
    """Deep ConvNet (Deep4) without its classifier (Schirrmeister et al. 2017): (n, E, T) float -> (n, n_features).

    Temporal and spatial convolution, then three convolutions of 50, 100 and 200 filters, each followed by batch
    norm, ELU and max pool 3, with dropout before the last three. `kernel` is the length of all temporal filters
    in samples (10 at 250 Hz); with it at least 441 samples are needed, with 6 only 281, with 4 only 201.
    """

    def __init__(self, n_channels: int, n_times: int, kernel: int = 10, *, dropout: float = 0.5, copies: int = 1):
        """Layers for E = `n_channels` and T = `n_times`; SpecError where T is too short."""
        super().__init__()
        self.n_features = 200 * _checked_steps("DeepConvNet", self._steps, n_times, kernel)
        self.temporal = nn.Conv2d(1, 25 * copies, (1, kernel))
        self.spatial = nn.Conv2d(25 * copies, 25 * copies, (n_channels, 1), groups=copies, bias=False)
        self.norm = nn.BatchNorm1d(25 * copies)
        layers = []
        for n_in, n_out in ((25, 50), (50, 100), (100, 200)):
            conv = nn.Conv1d(n_in * copies, n_out * copies, kernel, groups=copies, bias=False)
            layers += [_Dropout(dropout, copies), conv, nn.BatchNorm1d(n_out * copies), nn.ELU(), nn.MaxPool1d(3)]
        self.blocks = nn.Sequential(*layers)

    @staticmethod
    def _steps(n_times: int, kernel: int) -> int:
        for _ in range(4):
            n_times = (n_times - kernel + 1) // 3
        return n_times

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, n_features) of signals (n, E, T)."""
        h = F.max_pool1d(F.elu(self.norm(_merged_conv(x, self.temporal, self.spatial))), 3)
        return self.blocks(h).flatten(1)


BACKBONES = {"eegnet": EEGNet, "shallow": ShallowConvNet, "deep4": DeepConvNet}


class DualTaskNet(nn.Module):
    """Network of Shin et al. (2023): trunk `shared` (phi_s), heads `mi` (phi_I) and `me` (phi_E), all explicit.

    Parameters
    ----------
    n_channels, n_times, n_classes : int
        Electrodes E, samples T and classes; each task has the same classes.
    sfreq : float
        Sampling rate in Hz; it sets EEGNet's temporal kernel to half a second and nothing else.
    backbone : {"eegnet", "shallow", "deep4"}
    tasks : sequence of "mi", "me"
        Heads to build, in the order in which the tasks' trials are stacked; one task gives a single-task network.
    generator : torch.Generator, optional
        Source of the initial weights (see `init_weights`); None takes torch's global one.
    copies : int, optional
        That many networks in one, side by side (see the module); logits get a first axis of this length.
    **trunk
        Further arguments of the trunk, such as `kernel` (samples) and `dropout`.

    Raises
    ------
    SpecError
        Unknown backbone or task, too few classes, or epochs too short for the trunk.
    """

    def __init__(
        self,
        n_channels: int,
        n_times: int,
        n_classes: int,
        *,
        sfreq: float = 128.0,
        backbone: str = "eegnet",
        tasks: Sequence[str] = TASKS,
        generator: torch.Generator | None = None,
        copies: int | None = None,
        **trunk,
    ):
        """Build and initialise the parts; see the class."""
        super().__init__()
        if backbone not in BACKBONES:
            raise SpecError(f"unknown backbone {backbone!r}: choose from {', '.join(BACKBONES)}")
        if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
            raise SpecError(f"tasks={tasks!r}: name each wanted task of {', '.join(TASKS)} once")
        if n_classes < 2:
            raise SpecError(f"n_classes={n_classes}: at least 2 are needed")
        if backbone == "eegnet":
            trunk.setdefault("kernel", round(sfreq / 2))
        self.tasks, self.input_shape, self.copies = tuple(tasks), (n_channels, n_times), copies
        self._design = {"n_classes": n_classes, "backbone": backbone, "tasks": self.tasks} | trunk
        self.shared = BACKBONES[backbone](n_channels, n_times, copies=copies or 1, **trunk)
        for task in self.tasks:
            self.add_module(task, nn.Linear(self.shared.n_features, n_classes * (copies or 1)))
        init_weights(self, generator)

    def side_by_side(self, copies: int) -> "DualTaskNet":
        """A new network of this architecture with `copies`, on the meta device: without values, nothing drawn."""
        with torch.device("meta"):
            return DualTaskNet(*self.input_shape, **self._design, copies=copies)

    def spatial_weight(self) -> tuple[str, int]:
        """Name of the spatial convolution's weight in `named_parameters` and its axis of length E."""
        return "shared.spatial.weight", 2

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits {task: (n_task, n_classes)} of signals {task: (n_task, E, T)}, for the tasks in `inputs` only.

        With `copies` the logits are (copies, n_task, n_classes). All trials pass the trunk once, stacked in the order
        of `self.tasks`, so batch norm sees both tasks. SpecError for a task without a head, no task at all, or signals
        of another shape.
        """
        if not inputs or not set(inputs) <= set(self.tasks):
            raise SpecError(f"inputs for {', '.join(inputs) or 'no task'}: this network has {', '.join(self.tasks)}")
        for task, x in inputs.items():
            if x.ndim != 3 or x.shape[1:] != self.input_shape:
                expected = "(n, {}, {})".format(*self.input_shape)
                raise SpecError(
                    f"{task}: expected signals {expected} as (trials, electrodes, samples), got {(*x.shape,)}"
                )
        tasks = [task for task in self.tasks if task in inputs]
        features = self.shared(torch.cat([inputs[task] for task in tasks]))
        parts = features.split([len(inputs[task]) for task in tasks])
        return {task: self._logits(self.get_submodule(task), part) for task, part in zip(tasks, parts, strict=True)}

    def _logits(self, head: nn.Linear, features: Tensor) -> Tensor:
        if self.copies is None:
            return head(features)
        each = features.unflatten(1, (self.copies, -1)).transpose(0, 1)
        weight, bias = (p.unflatten(0, (self.copies, -1)) for p in (head.weight, head.bias))
        return torch.baddbmm(bias[:, None], each, weight.mT)
