"""Trials are cut where the cue is, from recordings that nothing is wrong with; folds keep what they promise."""

import mne
import numpy as np
import pytest
import scipy.signal
from companion.data.eeg import ELECTRODES64, MOTOR21, MotorData, Trials, motor_data, stratified_folds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sparsemtl.errors import DataError, SpecError

RATE, CUES = 160, np.array([2.0, 7.0, 12.0, 17.0])
LABELS = ("left_hand", "right_hand", "right_hand", "left_hand")


def recording(seed, rate=RATE, names=ELECTRODES64, lasts=4.1, scale=1.0, change=None):
    """Noise of 10 microvolts with a cue of `LABELS` at `CUES`; `change` edits the array (channels, times)."""
    signal = np.random.default_rng(seed).normal(0, 10, (len(names), 22 * rate))
    if change:
        change(signal)
    raw = mne.io.RawArray(scale * 1e-6 * signal, mne.create_info(list(names), rate, "eeg"), verbose="ERROR")
    marks = mne.Annotations([0.5, *CUES], [1, *[lasts] * len(CUES)], ["rest", *LABELS])
    return raw.set_annotations(marks)


def loaded(mi=None, me=None, **epochs):
    """`MotorData` of recordings {number: function () -> Raw}."""
    recordings = {"mi": mi or {4: lambda: recording(4), 8: lambda: recording(8)}}
    if me is not False:
        recordings["me"] = me or {3: lambda: recording(3)}
    problem = epochs.pop("problem", "left-right")
    return motor_data("eegmmidb", 1, problem, lambda classes, options: ("made here", recordings), **epochs)


def test_trials_equal_scipy_and_slices():
    data = loaded(fmin=8, fmax=30, tmin=0.5, tmax=3.5, channels="motor21")
    assert (data.channels, data.recordings) == (MOTOR21, {"mi": (4, 8), "me": (3,)})
    sos = scipy.signal.butter(4, (8, 30), "bandpass", fs=RATE, output="sos")
    for trials, numbers in ((data.mi, (4, 8)), (data.me, (3,))):
        assert (trials.x.dtype, trials.y.dtype, trials.recording.dtype) == (np.float32, np.int64, np.int64)
        for number in numbers:
            here = trials.recording == number
            signal = scipy.signal.sosfiltfilt(sos, 1e6 * recording(number).get_data(picks=list(MOTOR21)), padlen=1000)
            expected = [signal[:, round((cue + 0.5) * RATE) : round((cue + 3.5) * RATE)] for cue in CUES]
            np.testing.assert_array_equal(trials.y[here], [label == "right_hand" for label in LABELS])
            # filters differ in how they treat the ends of a recording: far from them they are the same
            np.testing.assert_allclose(trials.x[here], expected, atol=0.1)


@given(st.floats(-1.5, 2), st.floats(0.5, 2), st.sampled_from([80, 100, 128, 160, 200]))
@settings(max_examples=10, phases=[Phase.generate])
def test_a_resampled_trial_is_the_band_limited_signal_at_its_times_up_to_both_ends(tmin, length, rate):
    """A sine is known at any time, also at the ends of a trial, which has margins of recorded signal."""
    phases = np.linspace(0, 3, 64)

    def sine(signal):
        signal[:] = 50 * np.sin(2 * np.pi * 12 * np.arange(signal.shape[1]) / RATE + phases[:, None])

    data = loaded({4: lambda: recording(0, change=sine)}, False, tmin=tmin, tmax=tmin + length, sfreq=rate)
    samples = round(((tmin + length) - tmin) * rate)
    times = CUES[0] + (round(tmin * rate) + np.arange(samples)) / rate
    assert data.mi.x.shape == (4, 64, samples)
    np.testing.assert_allclose(data.mi.x[0], 50 * np.sin(2 * np.pi * 12 * times + phases[:, None]), atol=1.5)


def test_channels_in_another_order_are_put_in_order(tmp_path, monkeypatch):
    expected = loaded(fmax=30)
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "other"))
    order = np.random.default_rng(0).permutation(ELECTRODES64).tolist()
    found = loaded({4: lambda: recording(4).reorder_channels(order), 8: lambda: recording(8)}, fmax=30)
    np.testing.assert_array_equal(found.mi.x, expected.mi.x)


def test_a_trial_that_is_not_wholly_recorded_is_left_out():
    assert loaded(tmin=-3).mi.y.tolist() == [1, 1, 0] * 2  # the first cue is 2 s after the start


def spoiled(value, times=slice(None)):
    return lambda: recording(8, change=lambda signal: signal[5].__setitem__(times, value))


@pytest.mark.parametrize(
    ("second", "message"),
    [(spoiled(np.nan, 700), "run 8 has NaN"), (lambda: recording(8, scale=1e-6), "no scalp has"),
     (spoiled(0.0), f"run 8 channel {ELECTRODES64[5]} is flat in 4 trials: pass channels="),
     (lambda: recording(8, names=ELECTRODES64[:63]), "has 63 channels, not 64 .*Iz"),
     (lambda: recording(8, rate=128), "has 128 Hz, not the set's 160 Hz: pass sfreq=128"),
     (lambda: recording(8, lasts=1.4), "has trials of 1.4 s, .*pass tmax=1.4")],
)  # fmt: skip
def test_an_unfit_recording_is_named_in_one_line(second, message):
    with pytest.raises(DataError, match=message) as caught:
        loaded({4: lambda: recording(4), 8: second})
    assert "\n" not in str(caught.value)


def test_another_rate_is_accepted_when_all_are_brought_to_one():
    data = loaded({88: lambda: recording(1, rate=128)}, sfreq=100)
    assert data.mi.x.shape == data.me.x.shape == (4, 64, 400)
    assert data.mi.x.std() == pytest.approx(data.me.x.std(), rel=0.2)


def test_classes_without_a_trial_are_named():
    with pytest.raises(DataError, match="MI has no trial of hands, feet"):
        loaded(problem="hands-feet")


def test_the_cache_serves_the_same_request_until_its_source_changes(monkeypatch):
    calls = []

    def find(source):
        return lambda classes, options: (source, {"mi": {4: lambda: calls.append(source) or recording(4)}})

    def get(source, **epochs):
        return motor_data("eegmmidb", 1, "left-right", find(source), **epochs)

    first, again = get("a"), get("a", fmin=4.0, channels="all")
    np.testing.assert_array_equal(first.mi.x, again.mi.x)
    other = [get("b"), get("b", fmax=30), get("b", channels=MOTOR21)]
    assert calls == ["a", "b", "b", "b"]
    assert first.fingerprint == again.fingerprint
    assert len({data.fingerprint for data in (first, *other)}) == 4
    for module in ("companion.data.eeg", "sparsemtl.errors"):  # no MNE on a machine to which the cache was carried
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    carried = get("unknown")
    np.testing.assert_array_equal(carried.mi.x, other[0].mi.x)
    assert carried.fingerprint == other[0].fingerprint
    with pytest.raises(SpecError, match=r"without a carried cache .*no package mne"):
        get("b", fmax=20)


# Folds


def labelled(**labels):
    """`MotorData` of task=labels."""
    trials = {task: Trials(np.zeros((len(y), 2, 8)), np.array(y), np.ones(len(y))) for task, y in labels.items()}
    return MotorData(**trials, channels=("C3", "C4"), sfreq=8.0, classes=("l", "r"), fingerprint="")


def test_stratified_folds_partition_each_task_with_equal_shares():
    labels = {"mi": [0] * 6 + [1] * 9, "me": [0] * 3 + [1] * 6}
    folds = stratified_folds(labelled(**labels), 3, seed=0)
    for task, y in labels.items():
        assert sorted(np.concatenate([fold[task][1] for fold in folds])) == list(range(len(y)))
        for train, test in (fold[task] for fold in folds):
            assert sorted([*train, *test]) == list(range(len(y)))
            np.testing.assert_array_equal(3 * np.bincount(np.array(y)[test]), np.bincount(y))


def test_too_few_trials_for_the_folds():
    data = labelled(mi=[0, 1] * 5, me=[0] * 7 + [1] * 3)
    with pytest.raises(DataError, match=r"too few ME trials for 4 folds \(7 l, 3 r\)"):
        stratified_folds(data, 4, seed=0)
    with pytest.raises(SpecError, match="n_folds=1"):
        stratified_folds(data, 1, seed=0)
