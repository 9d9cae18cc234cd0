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
from importlib.util import find_spec
from numbers import Integral, Real

import numpy as np
from sparsemtl.errors import DataError, SpecError, needs, one_line

from companion.data.cache import cached, sha256_of

CODE_VERSION = 2  # part of every cache key: raise it when a change here changes the trials

TASKS = ("mi", "me")
MOTOR21 = tuple(row + place for row in ("FC", "C", "CP") for place in "531z246")
MOTOR9 = tuple(name for name in MOTOR21 if name[-1] in "34z")  # FC3 to CP4, three in a row
ELECTRODES64 = (  # of EEGMMIDB, in the order of its files
    *MOTOR21,
    *("Fp1", "Fpz", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8", "F7", "F5", "F3", "F1", "Fz", "F2", "F4", "F6", "F8"),
    *("FT7", "FT8", "T7", "T8", "T9", "T10", "TP7", "TP8", "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8"),
    *("PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2", "Iz"),
)
OUT = "or leave the person out"
FLAT, TYPICAL, LARGEST = 0.01, (0.05, 1000.0), 5000.0  # standard deviations in microvolts that a scalp keeps to


@dataclass(frozen=True)
class EEGSet:
    """Facts of a data set; channels None: those of the first recording. A class is a position in its problem."""

    people: tuple[int, ...]
    sfreq: float  # Hz
    channels: tuple[str, ...] | None
    problems: Mapping[str, tuple[str, ...]]


_PROBLEMS = {"left-right": ("left_hand", "right_hand"), "hands-feet": ("hands", "feet")}
DEVELOPMENT = (2, 4, 5, 9, 10, 11, 12, 13, 14, 16, 17, 18)  # people of EEGMMIDB on whom the training was chosen
SETS = {
    "eegmmidb": EEGSet(tuple(range(1, 110)), 160.0, ELECTRODES64, _PROBLEMS),
    "eegmmidb-development": EEGSet(DEVELOPMENT, 160.0, ELECTRODES64, {"left-right": _PROBLEMS["left-right"]}),
    "simulated-eeg": EEGSet(tuple(range(1, 1000)), 160.0, ELECTRODES64, _PROBLEMS),
}


@dataclass(frozen=True)
class Trials:
    """Trials of one task of one person, in the order in which they were recorded."""

    x: np.ndarray  # float32 (n_trials, n_channels, n_times), microvolts
    y: np.ndarray  # int64 (n_trials,), index into `MotorData.classes`
    recording: np.ndarray  # int64 (n_trials,), number of the recording of each trial, for example 4 for S001R04.edf


@dataclass(frozen=True)
class MotorData:
    """The trials of one person: both tasks on the same channels, with the same classes and sampling rate."""

    mi: Trials | None  # imagined movements; None if the set holds only the other task
    me: Trials | None  # executed movements
    channels: tuple[str, ...]
    sfreq: float  # Hz
    classes: tuple[str, ...]
    fingerprint: str  # SHA-256 over the source files (or seed), the options and the versions of the code
    truth: dict | None = None  # of simulated data: which channels see which sources
    name: str = "the data"  # set and person

    @property
    def tasks(self):
        """Names of the tasks that have trials: "mi", "me" or both."""
        return tuple(task for task in TASKS if getattr(self, task) is not None)

    @property
    def recordings(self):
        """Numbers of the recordings of each task, for example {"mi": (4, 8, 12), "me": (3, 7, 11)}."""
        return {task: tuple(np.unique(getattr(self, task).recording).tolist()) for task in self.tasks}

    def __str__(self):
        lines = [f"{self.name}: {len(self.channels)} channels, {self.sfreq:g} Hz, classes {', '.join(self.classes)}"]
        lines.append(f"  fingerprint: {self.fingerprint}")
        for task, numbers in self.recordings.items():
            lines.append(f"  {task}: {len(getattr(self, task).y)} trials, recordings {', '.join(map(str, numbers))}")
        return "\n".join(lines)


@dataclass(frozen=True)
class EpochOptions:
    """How trials are cut; every EEG loader takes these keywords. Raises `SpecError` for impossible values.

    sfreq: sampling rate (Hz) of the result. At the data set's own rate (the default) nothing is resampled, and a
    recording with another rate is refused. fmin, fmax: pass band (Hz) of a Butterworth filter of order 4, run forwards
    and backwards over the whole recording. tmin, tmax: seconds from the cue; a trial has round((tmax - tmin) * sfreq)
    samples. channels: "all", "motor21" (`MOTOR21`), "motor9" (`MOTOR9`), or names, which come back in that order.
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
            if not isinstance(value, Real) or not math.isfinite(value):
                raise SpecError(f"{field}={value!r}: a number is needed")
            object.__setattr__(self, field, float(value))
        if not 0 < self.fmin < self.fmax < self.sfreq / 2:
            raise SpecError(f"fmin={self.fmin:g}, fmax={self.fmax:g}: 0 < fmin < fmax < {self.sfreq / 2:g} must hold")
        if not self.samples > 0:
            raise SpecError(f"trials from {self.tmin:g} to {self.tmax:g} s: tmin must be below tmax")
        channels = {"motor21": MOTOR21, "motor9": MOTOR9}.get(str(self.channels), self.channels)
        if channels != "all":
            if isinstance(channels, str) or not channels or len(set(channels)) < len(channels):
                raise SpecError(f"channels={channels!r}: pass 'all', 'motor21', 'motor9' or different electrode names")
            object.__setattr__(self, "channels", tuple(channels))

    @property
    def samples(self):
        """Number of samples of a trial."""
        return round((self.tmax - self.tmin) * self.sfreq)


def motor_data(name, subject, problem, find, choice=None, **epochs):
    """Make the `MotorData` of one person, or read it from the cache; the last step of every EEG loader.

    find: (classes, `EpochOptions`) -> (source, {task: {number: read}}). `source` is JSON-able and says what the
    recordings are (checksums or a code version); `read()` returns one as an MNE Raw whose annotations name the classes.
    Without MNE it is not called: the cache then has to hold the trials, carried from a machine with MNE.
    choice: JSON-able, further options that change the trials.
    """
    facts = SETS[name]
    if not isinstance(subject, Integral) or subject not in facts.people:
        known = [f"1 to {len(facts.people)}"] if len(facts.people) == facts.people[-1] else map(str, facts.people)
        raise SpecError(f"{name} has no person {subject!r}: choose from {', '.join(known)}")
    if problem not in facts.problems:
        raise SpecError(f"{name} has no problem {problem!r}: choose one of {', '.join(facts.problems)}")
    if unknown := sorted(set(epochs) - {field.name for field in fields(EpochOptions)}):
        raise SpecError(f"{name} has no option {', '.join(unknown)}: see companion.data.eeg.EpochOptions")
    classes, options = facts.problems[problem], EpochOptions(**{"sfreq": facts.sfreq, **epochs})
    who, recordings, fingerprint = f"{name} subject {subject}", None, None
    if facts.channels:
        _chosen(name, options, facts.channels)
    asked = {"subject": int(subject), "classes": classes, "options": asdict(options), "choice": choice}
    request = {"code": CODE_VERSION, "set": name, **asked}
    if find_spec("mne"):
        source, recordings = find(classes, options)
        fingerprint = sha256_of(request | {"source": source, "mne": version("mne")})
    arrays = cached(name, request, lambda: _made(who, recordings, classes, options, facts), fingerprint)
    parts = [[arrays.get(f"{task}_{field.name}") for field in fields(Trials)] for task in TASKS]
    mi, me = (Trials(*part) if part[0] is not None else None for part in parts)
    return MotorData(mi, me, tuple(arrays["channels"].tolist()), options.sfreq, classes, str(arrays["proof"]), name=who)


def _made(who, recordings, classes, options, facts):
    """Arrays of all tasks, "mi_x" and so on, and "channels"."""
    needs(f"{who} without a carried cache (SPARSEMTL_CACHE)", "eeg", "mne")
    names, arrays, first = facts.channels, {}, {}
    for task, files in recordings.items():
        parts = []
        for number, read in files.items():
            here = f"{who} {task.upper()} run {number}"
            names, raw = _read(here, read, names)
            channels = _chosen(here, options, names)
            x, y = _cut(here, raw, channels, classes, options, facts.sfreq)
            for trial in x:
                if (same := first.setdefault(hashlib.sha256(trial).digest(), here)) != here:
                    raise DataError(f"{here} holds a trial of {same} again: one recording has two names, fetch both")
            parts.append((x, y, np.full(len(y), number)))
        x, y, recording = (np.concatenate(part) for part in zip(*parts, strict=True))
        if absent := [label for index, label in enumerate(classes) if index not in y]:
            what = f"no trial of {', '.join(absent)} that is wholly recorded: choose another problem, tmin or tmax"
            raise DataError(f"{who} {task.upper()} has {what}, {OUT}")
        arrays |= {f"{task}_x": x, f"{task}_y": y.astype(np.int64), f"{task}_recording": recording.astype(np.int64)}
    return arrays | {"channels": np.array(channels)}


def _chosen(where, options, names):
    """The channels asked for; `SpecError` if one is not among the names of the channels there."""
    channels = names if options.channels == "all" else options.channels
    if unknown := [channel for channel in channels if channel not in names]:
        raise SpecError(f"{where} has no channel {', '.join(unknown)}: choose from {', '.join(names)}")
    return channels


def _read(here, read, names):
    """Read a recording; return the names of its EEG channels, as given or as found, and the MNE Raw."""
    try:
        raw = read()
        raw.load_data(verbose="ERROR")
    except Exception as error:  # readers raise anything on damaged files
        raise DataError(f"{here} is damaged or unreadable ({one_line(error, 200)}): fetch its file again") from error
    found = [name for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind == "eeg"]
    names = names or tuple(found)
    if sorted(found) != sorted(names):
        lacks = ", ".join(sorted(set(names) - set(found))[:3]) or "none"
        raise DataError(f"{here} has {len(found)} channels, not {len(names)} (lacks: {lacks}): fetch it again")
    return names, raw


def _cut(here, raw, channels, classes, options, usual):
    """Filter and resample a recording, cut and check its trials: x float32 (n, channels, samples), y; usual: in Hz."""
    from mne.filter import filter_data

    rate, signal = raw.info["sfreq"], 1e6 * raw.get_data(picks=list(channels))
    marks = [mark for mark in raw.annotations if mark["description"] in classes]
    lasts = float(np.median([mark["duration"] for mark in marks] or [0]))  # 0: marks without a duration
    everybody = f"(for every person, to compare them), {OUT}"
    for wrong, fault in (
        (options.sfreq == usual != rate, f"{rate:g} Hz, not the set's {usual:g} Hz: pass sfreq={rate:g} {everybody}"),
        (options.fmax >= rate / 2, f"{rate:g} Hz, too slow for fmax={options.fmax:g}: lower fmax"),
        (not np.isfinite(signal).all(), f"NaN or infinite values: fetch it again, {OUT}"),
        (0 < lasts < options.tmax, f"trials of {lasts:g} s, then comes rest: pass tmax={lasts:g} {everybody}"),
    ):
        if wrong:
            raise DataError(f"{here} has {fault}")
    signal = filter_data(signal, rate, options.fmin, options.fmax, method="iir", verbose="ERROR")
    if options.sfreq != rate:
        signal = _resampled(signal, rate, options.sfreq)
    x, y = [], []
    for mark in marks:
        start = round((mark["onset"] - raw.first_time) * options.sfreq) + round(options.tmin * options.sfreq)
        if 0 <= start <= signal.shape[1] - options.samples:
            x.append(signal[:, start : start + options.samples])
            y.append(classes.index(mark["description"]))
    x = np.array(x, np.float32).reshape(-1, len(signal), options.samples)
    deviation = x.std(axis=-1)
    typical = float(np.median(deviation)) if len(x) else 1.0
    if not TYPICAL[0] <= typical <= TYPICAL[1]:
        raise DataError(f"{here} has a typical amplitude of {typical:.3g} uV, which no scalp has: correct its unit")
    for fault, wrong in (("flat", deviation < FLAT), (f"above {LARGEST:g} uV", deviation > LARGEST)):
        if wrong.any():
            which = f"channel {channels[np.argwhere(wrong)[0][1]]} is {fault} in {wrong.any(1).sum()} trials"
            raise DataError(f"{here} {which}: pass channels= without it, {OUT}")
    return x, np.array(y, np.int64)


def _resampled(signal, old, new):
    """Resample by the FFT, with a second of reflected signal on both sides; the first sample keeps its time."""
    from scipy.signal import resample  # a page that reads the facts of a set alone does not wait for it

    ratio = Fraction(new / old).limit_denominator(1000)
    step, n = ratio.denominator, signal.shape[1]  # whole steps only: else the samples would shift in time
    margin = step * math.ceil(old / step)
    padded = np.pad(signal, ((0, 0), (margin, margin + -n % step)), mode="reflect", reflect_type="odd")
    start = int(margin * ratio)
    return resample(padded, int(padded.shape[1] * ratio), axis=1)[:, start : start + int(n * ratio)]


def stratified_folds(data, n_folds, seed):
    """Split each task by itself into folds with equal shares of the classes (scikit-learn's `StratifiedKFold`).

    Returns for each fold {"mi": (train, test), "me": (train, test)}, int64 indices of trials.
    """
    from sklearn.model_selection import StratifiedKFold

    if n_folds < 2:
        raise SpecError(f"n_folds={n_folds}: at least 2 are needed")
    labels = {task: getattr(data, task).y for task in data.tasks}
    for task, y in labels.items():
        counts = np.bincount(y, minlength=len(data.classes)).tolist()
        if min(counts) < n_folds:
            have = ", ".join(f"{count} {label}" for label, count in zip(data.classes, counts, strict=True))
            raise DataError(f"{data.name} has too few {task.upper()} trials for {n_folds} folds ({have}): take fewer")
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    folds = zip(*(splitter.split(y, y) for y in labels.values()), strict=True)
    return [dict(zip(labels, fold, strict=True)) for fold in folds]
