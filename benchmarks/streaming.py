"""Real time: a recording comes in block by block, and every 100 ms a network says what the person does.

    signal -> `replay` -> blocks -> `LiveFilter` -> `RingBuffer` -> `Decoder` -> `Decision`
                                    `stream` runs these, and times each decision

`demonstration` goes all the way with simulated recordings. For a network of one's own and blocks of any source:

    live = LiveFilter(len(channels), 160.0, fmin=4.0, fmax=38.0, rate=80.0)
    decode = Decoder(network, "mi", *scaling(training_trials))
    blocks = replay(raw, block=8)
    for decision in stream(blocks, live, RingBuffer(len(channels), 240), decode, every=0.1):
        print(decision.time_s, decision.probabilities, decision.compute_ms, decision.late_ms)

The loaders filter a whole recording forwards and backwards, which cannot be done live: half of it would have to come
from the future. `LiveFilter` is the same Butterworth filter, forwards only, so that it delays the signal and falls off
half as steeply. A network trained on the loaders' trials meets signals of a slightly other colour here.
"""

import math
import time
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from companion.spec import check_values, number
from papers.shin2023.run import multitask_loss
from scipy.signal import butter, sosfilt, sosfilt_zi
from sparsemtl.errors import DataError, SpecError
from sparsemtl.models.eeg import TASKS, DualTaskNet, EEGNet, ShallowConvNet
from sparsemtl.sparsity.masks import apply_masks, arbiter
from sparsemtl.training.fit import fit
from sparsemtl.training.pruning import Job, votes
from torch import nn

TRIALS = 60  # of each class and task in the demonstration: with 42 in all, the network hardly learns
SETTINGS = MappingProxyType(
    {
        "fmin": 4.0,
        "fmax": 38.0,
        "tmin": 0.5,
        "tmax": 3.5,
        "sfreq": 80.0,
        "channels": "motor21",
        "epochs": 60,
        "lr": 0.002,
    }
)


class RingBuffer:
    """The newest `samples` samples of `channels` channels, float32. Appending writes in place, whatever its length."""

    def __init__(self, channels, samples):
        """SpecError unless both are at least 1."""
        if min(channels, samples) < 1:
            raise SpecError(f"RingBuffer({channels}, {samples}): at least 1 channel and 1 sample are needed")
        self._data = np.zeros((channels, samples), np.float32)
        self._next = 0  # column of the oldest sample, which the next one replaces
        self.filled = 0  # samples held so far, at most `samples`

    def append(self, block):
        """Take up a block (channels, any number of samples); `DataError` for another number of channels."""
        channels, samples = self._data.shape
        _check_channels(block, channels)
        block = block[:, -samples:]
        count = block.shape[1]
        first = min(count, samples - self._next)  # what fits before the end; the rest goes to the beginning
        self._data[:, self._next : self._next + first] = block[:, :first]
        self._data[:, : count - first] = block[:, first:]
        self._next = (self._next + count) % samples
        self.filled = min(self.filled + count, samples)

    def latest(self):
        """A new array (channels, samples), oldest sample first, or None until that many have come."""
        if self.filled < self._data.shape[1]:
            return None
        return np.concatenate([self._data[:, self._next :], self._data[:, : self._next]], axis=1)


class LiveFilter:
    """Causal band-pass of blocks as they come, then every n-th sample: from `sfreq` Hz to `rate` Hz.

    A Butterworth filter of order 4, in second-order sections whose state goes from block to block: blocks of any
    lengths give what one long block gives. Between fmax and rate - fmax nothing but this filter holds back what
    decimation folds into the band. `seen` counts the samples that came in.
    """

    def __init__(self, channels, sfreq, fmin, fmax, rate=None):
        """Rates and corner frequencies in Hz, rate=None: `sfreq`. SpecError for rates that do not fit."""
        rate = sfreq if rate is None else rate
        factor = round(sfreq / rate) if rate > 0 else 0
        if factor < 1 or not math.isclose(factor * rate, sfreq):
            raise SpecError(
                f"{rate:g} Hz does not divide the recording's {sfreq:g} Hz: resample it, or train at another rate"
            )
        if not 0 < fmin < fmax < rate / 2:
            raise SpecError(
                f"a band of {fmin:g} to {fmax:g} Hz at {rate:g} Hz: 0 < fmin < fmax < {rate / 2:g} must hold; "
                "take a narrower band or a higher rate"
            )
        self.channels, self.sfreq, self.seen = channels, sfreq, 0
        self._factor = factor
        self._sections = butter(4, (fmin, fmax), "bandpass", fs=sfreq, output="sos")
        self._state = None

    def __call__(self, block):
        """Filtered samples, float64 (channels, about samples / n), of a block (channels, samples).

        `DataError` for another number of channels, and for NaN or infinity, which would never leave the filter.
        """
        _check_channels(block, self.channels)
        if not np.isfinite(block).all():
            channel, sample = np.argwhere(~np.isfinite(block))[0]
            raise DataError(
                f"channel {channel} holds {block[channel, sample]} at {(self.seen + sample) / self.sfreq:.3f} s: "
                "mend the block before it is streamed, or leave the channel out"
            )
        if block.shape[1] and self._state is None:  # as if the first value had been there for ever: offsets ring least
            self._state = sosfilt_zi(self._sections)[:, None] * block[:, :1]
        if block.shape[1]:
            block, self._state = sosfilt(self._sections, block, zi=self._state)
        kept = block[:, -self.seen % self._factor :: self._factor]  # samples 0, n, 2n, ... of the recording
        self.seen += block.shape[1]
        return kept


def _check_channels(block, channels):
    if block.ndim != 2 or len(block) != channels:
        raise DataError(
            f"a block of shape {block.shape} came, ({channels}, samples) is needed: "
            "pass the channels that the network was trained on"
        )


class Decoder:
    """Class probabilities of one window: scaled by channel, through the network, softmax.

    network: a DualTaskNet, of which `task` is decoded; an nn.Module from (1, channels, samples) to logits
    (1, classes); or any other function that does this with float32 arrays (`onnx_session`). mean, deviation: of the
    training trials, from `scaling`.
    """

    def __init__(self, network, task=None, mean=0.0, deviation=1.0):
        network = plain(network, task) if isinstance(network, DualTaskNet) else network
        self._network = _on_arrays(network) if isinstance(network, nn.Module) else network
        self._mean, self._deviation = mean, deviation

    def __call__(self, window):
        """float64 (classes,) of a window (channels, samples)."""
        scaled = ((window - self._mean) / self._deviation).astype(np.float32)
        logits = np.asarray(self._network(scaled[None])[0], dtype=np.float64)
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()


def replay(recording, sfreq=None, block=8, speed=1.0, *, clock=time.monotonic, sleep=time.sleep):
    """Iterator over blocks (channels, up to `block` samples) of a recording, each when its last sample would come.

    recording: array (channels, samples), or an MNE Raw, which comes in microvolts and has its own `sfreq` (Hz).
    speed: multiple of real time; math.inf waits for nothing. Times are counted from the first block asked for, so
    that delays do not add up; whoever asks too late gets at once what is overdue. SpecError for impossible values.
    """
    if hasattr(recording, "get_data"):
        sfreq, recording = recording.info["sfreq"], recording.get_data(units="uV")
    if not (sfreq and sfreq > 0 and block >= 1 and speed > 0):
        raise SpecError(f"replay with sfreq={sfreq}, block={block}, speed={speed}: all must be given and positive")
    return _paced(recording, sfreq * speed, block, clock, sleep)


def _paced(recording, per_second, block, clock, sleep):
    begin = clock()
    for start in range(0, recording.shape[1], block):
        piece = recording[:, start : start + block]
        wait = begin + (start + piece.shape[1]) / per_second - clock()
        if wait > 0:
            sleep(wait)
        yield piece


class Decision(NamedTuple):
    """One decision.

    time_s: of the newest sample it knows, in the recording. probabilities: what the decoder returned. compute_ms: from
    having that sample to the result, the filter of the last samples included. late_ms: from when that sample is made
    to the result, thus also the wait for the rest of its block; NaN where no clock runs (speed=math.inf). late: the
    result came only after the next decision was due.
    """

    time_s: float
    probabilities: np.ndarray
    compute_ms: float
    late_ms: float
    late: bool


def stream(blocks, live, buffer, decode, every=0.1, speed=1.0, *, clock=time.monotonic):
    """Iterator over the `Decision` at each multiple of `every` seconds of the recording, once the buffer is full.

    blocks: iterable of (channels, samples), such as `replay`, with the same speed and clock. live: `LiveFilter`;
    what it has seen before (to fill the buffer) counts as the recording's past. buffer: `RingBuffer` of the filter's
    channels. decode: `Decoder`, or a function of a window. A decision is made of exactly the samples up to its time,
    wherever blocks begin and end. Those that fall behind are late, but none is left out, nor is any block.
    Raises SpecError for `every` below one sample, and `DataError` as the filter does.
    """
    step = every * live.sfreq  # samples between decisions
    if not step >= 1:
        raise SpecError(f"every={every}: decisions must be at least one sample apart, {1 / live.sfreq:g} s")
    before, begin = live.seen, clock()
    number = math.floor(before / step) + 1
    for block in blocks:
        while block.shape[1]:
            due = round(number * step)
            piece, block = np.split(block, [due - live.seen], axis=1)
            started = clock()
            buffer.append(live(piece))
            if live.seen < due:
                break
            number += 1
            window = buffer.latest()
            if window is None:
                continue
            probabilities = decode(window)
            done = clock()
            late = done - begin - (due - before) / live.sfreq / speed if speed < math.inf else math.nan
            yield Decision(due / live.sfreq, probabilities, 1e3 * (done - started), 1e3 * late, late > every / speed)


def plain(network, task):
    """One task of a trained DualTaskNet as nn.Sequential, (n, channels, samples) -> logits (n, classes), in eval mode.

    The same function up to rounding, made for one trial at a time. What does not depend on the input (merged filters,
    batch norm) is worked out here, once, instead of in every call. EEGNet's convolutions are done directly, as ONNX
    Runtime takes tens of times as long for its FFT, and as pictures of height 1 with their channels last, for which
    PyTorch's depthwise convolution is several times as fast. Zeros that masks left in the weights stay. On the CPU.
    SpecError for a task without a head.
    """
    if task not in network.tasks:
        raise SpecError(f"no head for task {task!r}: this network has {', '.join(network.tasks)}")
    with torch.no_grad():
        layers = _eegnet(network.shared) if isinstance(network.shared, EEGNet) else _convnet(network.shared)
        head = nn.Linear(network.shared.n_features, network.get_submodule(task).out_features)
        head.load_state_dict(network.get_submodule(task).state_dict())
    return nn.Sequential(_Picture(), *layers, nn.Flatten(), head).cpu().eval().requires_grad_(False)


class _Picture(nn.Module):
    def forward(self, x):
        return x[:, :, None].contiguous(memory_format=torch.channels_last)


class _LogPower(nn.Module):
    def forward(self, x):
        return nn.functional.avg_pool2d(x.square(), (1, 75), (1, 15)).clamp(min=1e-6).log()


def _eegnet(trunk):
    """Layers of an EEGNet; the spatial filters go first, as in its forward."""
    scale, shift = _affine(trunk.norm_temporal)
    space = trunk.spatial.weight.flatten(1)
    depth, groups = len(space) // len(scale), len(space)
    time = (trunk.temporal.weight.flatten(1) * scale[:, None]).repeat_interleave(depth, 0)[:, None]
    offset = shift.repeat_interleave(depth) * space.sum(1)
    return [
        _conv(space[..., None]),
        _conv(time, offset, _affine(trunk.norm_spatial), groups=groups, pad=time.shape[2] // 2),
        *(nn.ELU(), nn.AvgPool2d((1, 4))),
        _conv(trunk.separable_depth.weight, groups=groups, pad=trunk.separable_depth.padding[0]),
        _conv(trunk.separable_point.weight, None, _affine(trunk.norm_separable)),
        *(nn.ELU(), nn.AvgPool2d((1, 8))),
    ]


def _convnet(trunk):
    """Layers of a ShallowConvNet or DeepConvNet: temporal and spatial filters as one convolution."""
    space, temporal = trunk.spatial.weight[..., 0], trunk.temporal
    weight = torch.einsum("fk,sfe->sek", temporal.weight.flatten(1), space)
    first = _conv(weight, torch.einsum("f,sfe->s", temporal.bias, space), _affine(trunk.norm))
    if isinstance(trunk, ShallowConvNet):
        return [first, _LogPower()]
    layers, blocks = [first, nn.ELU(), nn.MaxPool2d((1, 3))], list(trunk.blocks)
    for conv, norm in zip(blocks[1::5], blocks[2::5], strict=True):
        layers += [_conv(conv.weight, None, _affine(norm)), nn.ELU(), nn.MaxPool2d((1, 3))]
    return layers


def _affine(norm):
    """(scale, shift) of a batch norm in eval mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _conv(weight, bias=None, affine=None, groups=1, pad=0):
    """Convolution over time with this weight (outputs, inputs of a group, K) and bias, then scale and shift."""
    if affine is not None:
        weight = weight * affine[0][:, None, None]
        bias = affine[1] if bias is None else bias * affine[0] + affine[1]
    outputs, inputs, size = weight.shape
    conv = nn.Conv2d(inputs * groups, outputs, (1, size), groups=groups, padding=(0, pad), bias=bias is not None)
    conv.weight = nn.Parameter(weight[:, :, None].clone(memory_format=torch.channels_last))
    if bias is not None:
        conv.bias = nn.Parameter(bias)
    return conv


def _on_arrays(module):
    @torch.inference_mode()
    def call(x):
        return module(torch.from_numpy(x)).numpy()

    return call


def onnx_session(path, threads=1):
    """Function from float32 arrays to the first output of an ONNX file; needs the package onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (node.name for node in session.get_inputs())
    return lambda x: session.run(None, {name: x})[0]


def demonstration(seed=0, seconds=10.0, speed=1.0, every=0.1, task="me"):
    """Train a pruned network on simulated recordings, then decode one that it has not seen at its own pace.

    A small EEGNet for both tasks, SNIP masks joined by OR at 40 %, as in Shin et al. 2023; `seed` also chooses the
    simulated person. Three seconds before the first cue fill the window, then `seconds` are replayed.

    Returns (decisions, cues): a DataFrame with a row for each decision, time_s, a probability for each class in a
    column of the class's name, compute_ms, late_ms and late (see `Decision`); and a list of (time_s, class).
    Raises `SpecError` for seconds that hold no decision.
    """
    import pandas as pd
    from companion.data import load
    from papers.shin2023.study import PUBLISHED_SPARSITY

    check_values({"seconds": seconds}, {"seconds": number(f"a number of {every:g} or more", lambda v: v >= every)})
    p = SETTINGS
    rate, band = p["sfreq"], {name: p[name] for name in ("fmin", "fmax")}
    epochs = {name: p[name] for name in ("tmin", "tmax", "channels")} | {"trials_per_class": TRIALS}
    data = load("simulated-eeg", seed=seed, sfreq=rate, **band, **epochs)
    inputs, targets, moments = training_trials(data, held_out=data.recordings[task][-1])
    shape, generator = inputs[task].shape[1:], torch.Generator().manual_seed(seed)
    network = DualTaskNet(*shape, len(data.classes), generator=generator, **trunk_options("eegnet", rate))
    prune(network, inputs, targets, PUBLISHED_SPARSITY)
    train(network, inputs, targets, torch.optim.Adam(network.parameters(), lr=p["lr"]), p["epochs"], seed)

    raw = _recording(data, seed, task)
    signal, sfreq = raw.get_data(units="uV"), raw.info["sfreq"]
    live, buffer = LiveFilter(len(signal), sfreq, **band, rate=rate), RingBuffer(*shape)
    start = round(raw.annotations.onset[0] * sfreq)
    stop = start + round(seconds * sfreq)
    buffer.append(live(signal[:, :start]))
    blocks = replay(signal[:, start:stop], sfreq, speed=speed)
    rows = [
        {"time_s": d.time_s, **dict(zip(data.classes, d.probabilities, strict=True))}
        | {"compute_ms": d.compute_ms, "late_ms": d.late_ms, "late": d.late}
        for d in stream(blocks, live, buffer, Decoder(network, task, *moments), every, speed)
    ]
    onsets = zip(raw.annotations.onset, raw.annotations.description, strict=True)
    return pd.DataFrame(rows), [(float(at), str(label)) for at, label in onsets if at * sfreq < stop]


def training_trials(data, held_out=None):
    """(inputs, targets, moments) of a `MotorData`: scaled trials and classes {task: tensor}, and their `scaling`.

    held_out: number of a recording whose trials are left out.
    """
    trials = {task: getattr(data, task) for task in TASKS}
    known = {task: t.recording != held_out for task, t in trials.items()}
    mean, deviation = scaling(np.concatenate([t.x[known[task]] for task, t in trials.items()]))
    scaled = {task: ((t.x[known[task]] - mean) / deviation).astype(np.float32) for task, t in trials.items()}
    targets = {task: torch.from_numpy(t.y[known[task]]) for task, t in trials.items()}
    return {task: torch.from_numpy(x) for task, x in scaled.items()}, targets, (mean, deviation)


def trunk_options(backbone, sfreq):
    """Filters that last as long as those of the trunks' authors at a sampling rate (Hz), for short trainings (dict)."""
    if backbone == "eegnet":
        return {"kernel": round(sfreq / 4), "bn_momentum": 0.1}
    return {"kernel": round(sfreq * {"shallow": 0.1, "deep4": 0.04}[backbone]), "dropout": 0.25}


def scaling(trials):
    """Mean and standard deviation of each channel, float64 (channels, 1), of trials (n, channels, samples)."""
    mean = trials.mean(axis=(0, 2), dtype=np.float64)[:, None]
    return mean, trials.std(axis=(0, 2), dtype=np.float64)[:, None]


def dealt(inputs, targets, batch, seed, epoch):
    """Yield the (inputs, targets) of an epoch; every batch has all tasks, at most `batch` trials of each."""
    rng, steps = np.random.default_rng([seed, epoch]), max(-(-len(y) // batch) for y in targets.values())
    shuffled = {t: np.array_split(rng.permutation(len(y)), steps) for t, y in targets.items()}
    for i in range(steps):
        rows = {t: torch.as_tensor(parts[i]) for t, parts in shuffled.items()}
        yield {t: inputs[t][r] for t, r in rows.items()}, {t: targets[t][r] for t, r in rows.items()}


def prune(network, inputs, targets, sparsity):
    """Put the masks of Shin et al. 2023 on a network: each task votes by SNIP, the shared part is joined by OR."""
    job = Job(inputs, targets, multitask_loss, epochs=0, steps=0, sparsity=sparsity, seed=0)
    apply_masks(network, arbiter(votes(network, job)))


def train(network, inputs, targets, optimizer, epochs, seed=0, after_step=None, batch=16):
    """Train in place on batches as `dealt` makes them; `after_step` as in `fit`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        batches = partial(dealt, inputs, targets, batch, seed)
        fit(network, batches, multitask_loss, optimizer, epochs, after_step)
    network.eval()


def _recording(data, seed, task):
    """The last recording of one task of the simulated person as MNE Raw, on the channels of `data`."""
    from companion.data.simulated_eeg import RUNS, projections, simulate, sources

    raw = simulate(1, seed, task, RUNS[task][-1], data.classes, TRIALS, projections(1, seed), sources())
    return raw.pick(list(data.channels), verbose="ERROR")
