"""EEG of imagined (MI) and executed (ME) movements of one person, as trials of two tasks.

A loader names the recordings and a function that reads each. Everything after that is the same for all data sets:
the whole recording is filtered and resampled, so that no trial has an edge of its own; then the trials are cut.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from importlib.metadata import version
from numbers import Integral, Real

import numpy as np
from sparsemtl.errors import DataError, SpecError, needs

from companion.data.cache import cached, sha256_of

CODE_VERSION = 2  # part of every cache key: raise it when a change here changes the trials

TASKS = ("mi", "me")
MOTOR21 = (
    *("FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6"),
    *("C5", "C3", "C1", "Cz", "C2", "C4", "C6"),
    *("CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6"),
)
MOTOR9 = tuple(name for name in MOTOR21 if name[-1] in "34z")  # FC3 to CP4, three in a row
ELECTRODES64 = (  # of EEGMMIDB, in the order of its files
    *MOTOR21,
    *("Fp1", "Fpz", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8", "F7", "F5", "F3", "F1", "Fz", "F2", "F4", "F6", "F8"),
    *("FT7", "FT8", "T7", "T8", "T9", "T10", "TP7", "TP8", "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8"),
    *("PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2", "Iz"),
)
FLAT, TYPICAL, LARGEST = 0.01, (0.05, 1000.0), 5000.0  # standard deviations in microvolts that a scalp keeps to


@dataclass(frozen=True)
class EEGSet:
    """Facts of a data set.

    people: numbers of its people. sfreq: sampling rate (Hz). channels: names of the EEG channels in the order of the
    files, or only their number. problems: name -> classes; a class index is a position in that tuple.
    """

    people: tuple[int, ...]
    sfreq: float
    channels: tuple[str, ...] | int
    problems: Mapping[str, tuple[str, ...]]


_FISTS, _BOTH = ("left_hand", "right_hand"), ("hands", "feet")
_PROBLEMS = {"left-right": _FISTS, "hands-feet": _BOTH, "four-class": _FISTS + _BOTH}
DEVELOPMENT = (2, 4, 5, 9, 10, 11, 12, 13, 14, 16, 17, 18)  # people of EEGMMIDB on whom the training was chosen
SETS = {
    "eegmmidb": EEGSet(tuple(range(1, 110)), 160.0, ELECTRODES64, _PROBLEMS),
    "eegmmidb-development": EEGSet(DEVELOPMENT, 160.0, ELECTRODES64, {"left-right": _FISTS}),
    "simulated-eeg": EEGSet(tuple(range(1, 1000)), 160.0, ELECTRODES64, _PROBLEMS),
}


@dataclass(frozen=True)
class Trials:
    """Trials of one task of one person, in the order in which they were recorded.

    Attributes
    ----------
    x : ndarray of float32, shape (n_trials, n_channels, n_times)
        Microvolts.
    y : ndarray of int64, shape (n_trials,)
        Index into `MotorData.classes`.
    recording : ndarray of int64, shape (n_trials,)
        Number of the recording that each trial comes from, for example 4 for S001R04.edf.
    """

    x: np.ndarray
    y: np.ndarray
    recording: np.ndarray


@dataclass(frozen=True)
class MotorData:
    """The trials of one person: both tasks on the same channels, with the same classes and sampling rate.

    Attributes
    ----------
    mi, me : Trials or None
        Imagined and executed movements; None if the data set holds only the other task.
    channels, sfreq, classes : tuple of str, float, tuple of str
        Names of the electrodes, sampling rate (Hz), names of the classes.
    fingerprint : str
        SHA-256 over the source files (or the seed), the options and the versions of the code that made the trials.
    truth : dict or None
        For simulated data: which channels see which sources.
    name : str
        Data set and person, for messages.
    """

    mi: Trials | None
    me: Trials | None
    channels: tuple[str, ...]
    sfreq: float
    classes: tuple[str, ...]
    fingerprint: str
    truth: dict | None = None
    name: str = "the data"

    @property
    def tasks(self):
        """Names of the tasks that have trials: "mi", "me" or both."""
        return tuple(task for task in TASKS if getattr(self, task) is not None)

    @property
    def recordings(self):
        """Numbers of the recordings of each task, for example {"mi": (4, 8, 12), "me": (3, 7, 11)}."""
        return {task: tuple(np.unique(getattr(self, task).recording).tolist()) for task in self.tasks}


@dataclass(frozen=True)
class EpochOptions:
    """How trials are cut; every EEG loader takes these keywords. Raises `SpecError` for impossible values.

    Parameters
    ----------
    sfreq : float
        Sampling rate (Hz) of the result. At the data set's own rate (the default) nothing is resampled, and a recording
        with another rate is refused.
    fmin, fmax : float
        Pass band (Hz) of a Butterworth filter of order 4, run forwards and backwards over the whole recording.
    tmin, tmax : float
        Seconds from the cue; a trial has round((tmax - tmin) * sfreq) samples.
    channels : str or tuple of str
        "all", "motor21" (`MOTOR21`), "motor9" (`MOTOR9`), or names, which come back in that order.
    """

    sfreq: float
    fmin: float = 4.0
    fmax: float = 38.0
    tmin: float = 0.0
    tmax: float = 4.0
    channels: str | tuple[str, ...] = "all"

    def __post_init__(self):
        """Check the values, and turn them into floats and a tuple, so that equal options have equal cache keys."""
        for field in ("sfreq", "fmin", "fmax", "tmin", "tmax"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise SpecError(f"{field}={value!r}: a number is needed")
            object.__setattr__(self, field, float(value))
        if not 0 < self.fmin < self.fmax < self.sfreq / 2:
            raise SpecError(f"fmin={self.fmin:g}, fmax={self.fmax:g}: 0 < fmin < fmax < {self.sfreq / 2:g} must hold")
        if not self.samples > 0:
            raise SpecError(f"trials from {self.tmin:g} to {self.tmax:g} s: tmin must be below tmax")
        channels = {"motor21": MOTOR21, "motor9": MOTOR9}.get(str(self.channels), self.channels)
        if channels != "all":
            if isinstance(channels, str) or not channels or len(set(channels)) < len(channels):
                raise SpecError(
                    f"channels={channels!r}: pass 'all', 'motor21', 'motor9' or a tuple of different electrode names"
                )
            channels = tuple(channels)
        object.__setattr__(self, "channels", channels)

    @property
    def samples(self):
        """Number of samples of a trial."""
        return round((self.tmax - self.tmin) * self.sfreq)


def motor_data(name, subject, problem, find, truth=None, choice=None, **epochs):
    """Make the `MotorData` of one person, or read it from the cache; the last step of every EEG loader.

    find: (classes, `EpochOptions`) -> (source, {task: {number: read}}). `source` is JSON-able and says what the
    recordings are (checksums or a code version); `read()` returns one as an MNE Raw whose annotations name the classes.
    Without MNE it is not called: the cache then has to hold the trials, carried from a machine with MNE.
    truth: channels -> `MotorData.truth`. choice: JSON-able, further options that change the trials.
    """
    facts = SETS[name]
    if not isinstance(subject, Integral) or subject not in facts.people:
        few = len(facts.people) < facts.people[-1]
        known = ", ".join(map(str, facts.people)) if few else f"1 to {facts.people[-1]}"
        raise SpecError(f"{name} has no person {subject!r}: choose from {known}")
    if problem not in facts.problems:
        raise SpecError(f"{name} has no problem {problem!r}: choose one of {', '.join(facts.problems)}")
    if unknown := sorted(set(epochs) - {field.name for field in fields(EpochOptions)}):
        raise SpecError(f"{name} has no option {', '.join(unknown)}: see companion.data.eeg.EpochOptions")
    classes, options = facts.problems[problem], EpochOptions(**{"sfreq": facts.sfreq, **epochs})
    who = f"{name} subject {subject}"
    request = {"code": CODE_VERSION, "set": name, "subject": int(subject), "classes": classes}
    request |= {"options": asdict(options), "choice": choice}
    try:
        needs(name, "eeg", "mne")
    except SpecError as error:
        absent = SpecError(f"{error}, or carry the cache of a machine that has it here (SPARSEMTL_CACHE)")
        fingerprint, recordings = None, None
    else:
        source, recordings = find(classes, options)
        fingerprint = sha256_of(request | {"source": source, "mne": version("mne")})

    def make():
        if recordings is None:
            raise absent
        return _made(who, recordings, classes, options, facts)

    arrays = cached(name, request, make, fingerprint)
    trials = {
        task: Trials(*(arrays[f"{task}_{f.name}"] for f in fields(Trials))) for task in TASKS if f"{task}_y" in arrays
    }
    channels = tuple(arrays["channels"].tolist())
    return MotorData(
        mi=trials.get("mi"),
        me=trials.get("me"),
        channels=channels,
        sfreq=options.sfreq,
        classes=tuple(classes),
        fingerprint=str(arrays["proof"]),
        truth=truth(channels) if truth else None,
        name=who,
    )


def _made(who, recordings, classes, options, facts):
    """Arrays of all tasks, "mi_x" and so on, and "channels"."""
    names = None if isinstance(facts.channels, int) else facts.channels
    arrays, first = {}, {}
    for task, files in recordings.items():
        parts = []
        for number, read in files.items():
            here = f"{who} {task.upper()} run {number}"
            names, signal, rate, marks = _read(here, read, names, options, facts)
            x, y = _cut(here, signal, rate, marks, classes, options)
            _check_signal(here, x, names if options.channels == "all" else options.channels)
            for trial in x:
                if (same := first.setdefault(hashlib.sha256(trial).digest(), here)) != here:
                    raise DataError(f"{here} holds a trial of {same} again: one recording has two names, fetch both")
            parts.append((x, y, np.full(len(y), number)))
        x, y, recording = (np.concatenate(part) for part in zip(*parts, strict=True))
        if absent := [label for index, label in enumerate(classes) if index not in y]:
            raise DataError(
                f"{who} {task.upper()} has no trial of {', '.join(absent)} that is wholly recorded: "
                "choose another problem, tmin or tmax, or leave the person out"
            )
        arrays |= {f"{task}_x": x, f"{task}_y": y.astype(np.int64), f"{task}_recording": recording.astype(np.int64)}
    return arrays | {"channels": np.array(names if options.channels == "all" else options.channels)}


def _read(here, read, names, options, facts):
    """Read a recording: names of all EEG channels, signal of the chosen ones (microvolts), its rate, its marks."""
    import mne

    try:
        raw = read()
        raw.load_data(verbose="ERROR")
    except DataError:
        raise
    except Exception as error:  # readers raise anything on damaged files
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{here} is damaged or cannot be read ({line}): fetch its file again") from error
    found = [raw.ch_names[index] for index in mne.pick_types(raw.info, eeg=True)]
    names = names or tuple(found)
    wanted = len(names) if facts.channels == names else facts.channels
    if len(found) != wanted or set(found) != set(names):
        lacks = ", ".join(sorted(set(names) - set(found))[:3]) or "none"
        raise DataError(f"{here} has {len(found)} channels, not {wanted} (lacks: {lacks}): fetch it again")
    channels = names if options.channels == "all" else options.channels
    if unknown := [channel for channel in channels if channel not in names]:
        raise SpecError(f"{here} has no channel {', '.join(unknown)}: choose from {', '.join(names)}")
    rate = raw.info["sfreq"]
    if options.sfreq == facts.sfreq != rate:
        raise DataError(
            f"{here} has {rate:g} Hz, not the {facts.sfreq:g} Hz of the set: pass sfreq={rate:g} (for every person, "
            "to compare them), or leave the person out"
        )
    marks = [(m["onset"] - raw.first_time, m["duration"], str(m["description"])) for m in raw.annotations]
    return names, 1e6 * raw.get_data(picks=list(channels)), rate, marks


def _cut(here, signal, rate, marks, classes, options):
    """Filter and resample a recording and cut its trials: x float32 (n, channels, samples), y."""
    from mne.filter import filter_data

    if not np.isfinite(signal).all():
        raise DataError(f"{here} holds NaN or infinite values: fetch it again, or leave the person out")
    if options.fmax >= rate / 2:
        raise DataError(f"{here} has {rate:g} Hz, too slow for fmax={options.fmax:g}: lower fmax")
    marks = [mark for mark in marks if mark[2] in classes]
    lasts = np.median([duration for _, duration, _ in marks] or [0])
    if 0 < lasts < options.tmax:  # 0: a mark without a duration
        raise DataError(
            f"{here} has trials of {lasts:g} s, and they are to reach to {options.tmax:g} s after the cue, into the "
            f"rest: pass tmax={lasts:g} (for every person, to compare them), or leave the person out"
        )
    signal = filter_data(signal, rate, options.fmin, options.fmax, method="iir", verbose="ERROR")
    if options.sfreq != rate:
        signal = _resampled(signal, rate, options.sfreq)
    starts = [round(onset * options.sfreq) + round(options.tmin * options.sfreq) for onset, _, _ in marks]
    kept = [k for k, start in enumerate(starts) if 0 <= start <= signal.shape[1] - options.samples]
    x = np.empty((len(kept), len(signal), options.samples), np.float32)
    for row, k in zip(x, kept, strict=True):
        row[:] = signal[:, starts[k] : starts[k] + options.samples]
    return x, np.array([classes.index(marks[k][2]) for k in kept], np.int64)


def _resampled(signal, old, new):
    """Resample by the FFT, with a second of reflected signal on both sides; the first sample keeps its time."""
    from scipy.signal import resample

    ratio = Fraction(new / old).limit_denominator(1000)
    step, n = ratio.denominator, signal.shape[1]  # whole steps only: else the samples would shift in time
    margin = step * math.ceil(old / step)
    padded = np.pad(signal, ((0, 0), (margin, margin + -n % step)), mode="reflect", reflect_type="odd")
    start = int(margin * ratio)
    return resample(padded, int(padded.shape[1] * ratio), axis=1)[:, start : start + int(n * ratio)]


def _check_signal(here, x, channels):
    """Raise `DataError` if a channel is flat in a trial, or the amplitudes are not those of a scalp."""
    if not len(x):
        return
    deviation = x.std(axis=-1)
    typical = float(np.median(deviation))
    for fault, wrong in (("flat", deviation < FLAT), (f"above {LARGEST:g} uV", deviation > LARGEST)):
        if wrong.any() and FLAT < typical < TYPICAL[1]:
            channel = channels[np.argwhere(wrong)[0][1]]
            raise DataError(
                f"{here} channel {channel} is {fault} in {wrong.any(1).sum()} trials: "
                "pass channels= without it, or leave the person out"
            )
    if not TYPICAL[0] <= typical <= TYPICAL[1]:
        factor = 1000.0 ** round(math.log(max(typical, 1e-9) / 20, 1000))
        raise DataError(
            f"{here} has a typical amplitude of {typical:.3g} uV, which no scalp has: its unit seems wrong by a factor "
            f"of {factor:g} (volts, millivolts and microvolts mixed up); correct the unit in the file"
        )


def stratified_folds(data, n_folds, seed):
    """Split each task by itself into folds with equal shares of the classes (scikit-learn's `StratifiedKFold`).

    Parameters
    ----------
    data : MotorData
    n_folds : int
        At least 2.
    seed : int
        Of the order of the trials.

    Returns
    -------
    list of dict
        One for each fold: {"mi": (train, test), "me": (train, test)}, int64 indices of trials.

    Raises
    ------
    SpecError, DataError
        Fewer than two folds; fewer trials of a class than folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if n_folds < 2:
        raise SpecError(f"n_folds={n_folds}: at least 2 are needed")
    labels = {task: getattr(data, task).y for task in data.tasks}
    for task, y in labels.items():
        counts = np.bincount(y, minlength=len(data.classes))
        if counts.min() < n_folds:
            have = ", ".join(f"{count} {label}" for label, count in zip(data.classes, counts, strict=True))
            raise DataError(
                f"{data.name} has too few {task.upper()} trials for {n_folds} folds ({have}): take fewer folds"
            )
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    folds = zip(*(splitter.split(y, y) for y in labels.values()), strict=True)
    return [dict(zip(labels, fold, strict=True)) for fold in folds]


def recording_folds(data, n_folds=None):
    """Split each task into folds that hold whole recordings out; every class is in each training part.

    Recordings of the same classes are dealt to the folds in turn, so that every trial is tested once. n_folds: default
    the most that is possible, the smallest number of recordings of the same classes. Returns folds as
    `stratified_folds` does; raises `DataError` if some classes of a task have fewer recordings than folds, or only one.
    """
    dealt, fewest = {}, []
    for task in data.tasks:
        trials, kinds = getattr(data, task), {}
        for number in np.unique(trials.recording).tolist():
            kinds.setdefault(tuple(np.unique(trials.y[trials.recording == number])), []).append(number)
        dealt[task] = {number: place for numbers in kinds.values() for place, number in enumerate(numbers)}
        fewest.append((min(map(len, kinds.values())), task))
    most, task = min(fewest)
    if not 2 <= (n_folds or most) <= most:
        raise DataError(
            f"{data.name} has {most} {task.upper()} recordings of the same classes, too few for "
            f"{max(n_folds or 2, 2)} folds: take stratified folds, or another person"
        )
    folds = [{} for _ in range(n_folds or most)]
    for task, places in dealt.items():
        place = np.array([places[number] for number in getattr(data, task).recording.tolist()]) % len(folds)
        for k, fold in enumerate(folds):
            fold[task] = np.flatnonzero(place != k), np.flatnonzero(place == k)
    return folds
