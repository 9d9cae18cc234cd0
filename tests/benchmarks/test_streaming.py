"""Streaming: nothing is lost or shuffled between the amplifier and the decision, and lateness is told."""

import copy
import math

import numpy as np
import pytest
import streaming
import torch
from as_trained import settled
from export import to_onnx
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import butter, sosfilt, sosfilt_zi
from sparsemtl.errors import SparseMTLError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.masks import apply_masks, topk_mask
from sparsemtl.sparsity.saliency import random_scores
from streaming import Decoder, LiveFilter, RingBuffer, onnx_session, plain, replay, scaling, stream


class Clock:
    """Time that passes only when somebody sleeps or works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Unfiltered(LiveFilter):
    """Lets everything through."""

    def __init__(self, sfreq):
        self.sfreq, self.seen = sfreq, 0

    def __call__(self, block):
        self.seen += block.shape[1]
        return block


SIZES = {"eegnet": (60, {"kernel": 8}), "shallow": (120, {"kernel": 5}), "deep4": (201, {"kernel": 4})}


def small_network(backbone="eegnet", masks=None):
    size, trunk = SIZES[backbone]
    net = settled(DualTaskNet(5, size, 3, backbone=backbone, generator=torch.Generator().manual_seed(0), **trunk))
    if masks:
        apply_masks(net, topk_mask(random_scores(net, 1), masks))
    return net


@given(st.sampled_from([1, 2, 3]), st.lists(st.integers(0, 90), min_size=1, max_size=8).filter(any))
def test_filter_in_blocks_is_the_filter_in_one_piece(factor, lengths):
    signal = 50 + np.random.default_rng(sum(lengths)).normal(size=(2, sum(lengths)))
    sections = butter(4, (4, 20), "bandpass", fs=180, output="sos")
    start = sosfilt_zi(sections)[:, None] * signal[:, :1]
    expected = sosfilt(sections, signal, zi=start)[0][:, ::factor]
    live, blocks = LiveFilter(2, 180, 4, 20, rate=180 / factor), np.split(signal, np.cumsum(lengths)[:-1], axis=1)
    np.testing.assert_allclose(np.concatenate([live(block) for block in blocks], axis=1), expected, atol=1e-12)
    assert live.seen == sum(lengths)


@pytest.mark.parametrize("block", [1, 7, 10, 33, 500])
@pytest.mark.parametrize("before", [0, 25])
def test_decisions_fall_on_the_right_samples(block, before):
    signal, live, buffer = np.arange(95.0)[None], Unfiltered(100), RingBuffer(1, 25)
    buffer.append(live(signal[:, :before]))  # counts as the past
    seen = list(stream(replay(signal[:, before:], 100, block, math.inf), live, buffer, np.copy, 0.1, math.inf))
    assert [decision.time_s for decision in seen] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    for decision in seen:
        end = round(100 * decision.time_s)
        np.testing.assert_array_equal(decision.probabilities[0], np.arange(end - 25, end))
        assert math.isnan(decision.late_ms)  # without a clock nothing is late
        assert not decision.late


def test_replay_keeps_its_own_pace_without_drift():
    clock, arrivals = Clock(), []
    for count, _ in enumerate(replay(np.zeros((1, 1000)), 100, 10, 2.0, clock=clock, sleep=clock.sleep)):
        arrivals.append(clock.now)
        clock.now += 0.2 if count == 20 else 0.013  # a reader that is slow at times, but not on the whole
    on_time = 0.05 * np.arange(1, 101)
    np.testing.assert_allclose(np.delete(arrivals, range(21, 30)), np.delete(on_time, range(21, 30)))
    np.testing.assert_allclose(arrivals[21:24], 1.05 + 0.2 + 0.013 * np.arange(3))  # overdue: at once


def test_late_decisions_are_counted_and_none_is_left_out():
    clock = Clock()
    work = iter([0.02] * 3 + [0.25] + [0.02] * 100)

    def decode(window):
        clock.now += next(work)
        return window[0]

    blocks = replay(np.arange(100.0)[None], 100, 10, clock=clock, sleep=clock.sleep)
    seen = list(stream(blocks, Unfiltered(100), RingBuffer(1, 10), decode, 0.1, clock=clock))
    assert len(seen) == 10
    np.testing.assert_allclose([d.compute_ms for d in seen], [20, 20, 20, 250, *[20] * 6])
    np.testing.assert_allclose([d.late_ms for d in seen], [20, 20, 20, 250, 170, 90, *[20] * 4])
    assert [d.late for d in seen] == [False] * 3 + [True, True] + [False] * 5
    np.testing.assert_array_equal(np.concatenate([d.probabilities for d in seen]), np.arange(100))


def test_a_recording_of_mne_comes_in_microvolts():
    mne = pytest.importorskip("mne")
    raw = mne.io.RawArray(np.full((2, 7), 3e-6), mne.create_info(["C3", "C4"], 50.0, "eeg"), verbose="error")
    blocks = list(replay(raw, block=4, speed=math.inf))
    assert [b.shape for b in blocks] == [(2, 4), (2, 3)]
    np.testing.assert_allclose(blocks[0], 3.0)


def test_decoder_scales_and_gives_probabilities():
    trials = np.random.default_rng(0).normal(3, 2, (6, 5, 60)).astype(np.float32)
    net, scaled = small_network(), (trials - trials.mean((0, 2))[:, None]) / trials.std((0, 2))[:, None]
    with torch.no_grad():
        expected = net({"mi": torch.from_numpy(scaled)})["mi"].softmax(1)
    decode = Decoder(net, "mi", *scaling(trials))
    np.testing.assert_allclose([decode(window) for window in trials], expected, atol=1e-5)


@pytest.mark.parametrize("task", ["mi", "me"])
@pytest.mark.parametrize(
    ("backbone", "masks", "filters"),
    [("eegnet", None, None), ("shallow", None, None), ("deep4", None, None), ("eegnet", 0.6, None),
     ("shallow", 0.6, None), ("deep4", 0.6, None), ("eegnet", None, 10), ("deep4", None, 19)],
)  # fmt: skip
def test_plain_is_the_same_function_and_that_of_a_compacted_network_is_smaller(backbone, masks, filters, task):
    net = small_network(backbone, masks)
    x = torch.randn(4, *net.input_shape, generator=torch.Generator().manual_seed(3))
    if filters:  # of EEGNet's filters both that see one temporal filter must go
        last = net.shared.separable_point if backbone == "eegnet" else net.shared.blocks[1]
        last.weight.data[:, 4:10] = 0
    before = copy.deepcopy(net)
    one = plain(compact(net, {task: x}) if filters else net, task)
    with torch.no_grad():
        torch.testing.assert_close(one(x), net({task: x})[task], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert len(one[1].weight) == filters or not filters


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["eegnet", "shallow", "deep4"])
def test_onnx_runtime_and_torch_agree_on_a_masked_network(backbone, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = small_network(backbone, masks=0.6)
    windows = np.random.default_rng(0).normal(size=(3, *net.input_shape)).astype(np.float32)
    session = onnx_session(to_onnx(plain(net, "me"), torch.from_numpy(windows[:1]), tmp_path / "net.onnx"))
    ours, theirs = Decoder(net, "me"), Decoder(session)
    for window in windows:
        np.testing.assert_allclose(theirs(window), ours(window), atol=1e-5)


@pytest.mark.slow
def test_demonstration_tells_every_decision(monkeypatch):
    pytest.importorskip("moabb")
    monkeypatch.setattr(streaming, "TRIALS", 3)
    monkeypatch.setattr(streaming, "train", lambda network, *_: network.eval())
    decisions, cues = streaming.demonstration(seconds=4.0, speed=math.inf, every=0.5)
    assert list(decisions) == ["time_s", "left_hand", "right_hand", "compute_ms", "late_ms", "late"]
    assert decisions.time_s.tolist() == pytest.approx([3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0])
    np.testing.assert_allclose(decisions.left_hand + decisions.right_hand, 1)
    assert [at for at, _ in cues] == [3.0]


def _decide(blocks, live, every=0.1):
    return list(stream(blocks, live, RingBuffer(2, 5), np.copy, every))


LATE_NAN = [np.zeros((2, 16)), np.array([[0.0], [np.nan]])]
WRONG = {
    "(2, samples) is needed": lambda: LiveFilter(2, 160, 4, 38)(np.zeros((3, 8))),
    "channel 1 holds nan at 0.100 s": lambda: _decide(LATE_NAN, LiveFilter(2, 160, 4, 38)),
    "60 Hz does not divide the recording's 160 Hz": lambda: LiveFilter(2, 160, 4, 20, rate=60),
    "fmax < 20 must hold": lambda: LiveFilter(2, 160, 4, 38, rate=40),
    "one sample apart, 0.01 s": lambda: _decide([np.zeros((2, 8))], Unfiltered(100), every=0.001),
    "sfreq=None": lambda: replay(np.zeros((2, 8))),
    "no head for task 'rest'": lambda: Decoder(small_network(), "rest"),
    "at least 1 channel": lambda: RingBuffer(2, 0),
}


@pytest.mark.parametrize("named", WRONG)
def test_what_is_wrong_is_named_in_one_line(named):
    with pytest.raises(SparseMTLError) as error:
        WRONG[named]()
    assert named in str(error.value)
    assert "\n" not in str(error.value)
