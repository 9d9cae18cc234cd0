"""EEG recordings of imagined (MI) and executed (ME) movements of one person, as epochs of two tasks.

Every set goes one way: files on disk, MOABB's data set class (one instance a task), MOABB's motor imagery paradigm
(band-pass, epochs, choice of channels, resampling: all of them MNE's), and from there into `MotorData`. Which task a
trial belongs to is told by the instance it came from, never by its event name, which is the same in both.
"""

import math
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sparsemtl.errors import DataError, SpecError, needs

from companion.data import eeg_files as files
from companion.data.cache import cached, note, noted, sha256_of

CODE_VERSION = 1  # part of every cache key: raise it when a change here changes the epochs

TASKS = ("mi", "me")
MOTOR21 = (
    *("FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6"),
    *("C5", "C3", "C1", "Cz", "C2", "C4", "C6"),
    *("CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6"),
)
EEGMMIDB_RUNS = {"mi": {"fists": (4, 8, 12), "both": (6, 10, 14)}, "me": {"fists": (3, 7, 11), "both": (5, 9, 13)}}


@dataclass(frozen=True)
class EEGSet:
    """Facts of a data set: number of subjects, its sampling rate (Hz), number of EEG channels, and its problems.

    A problem is the tuple of its classes, named as MOABB names the events; a class index is a place in that tuple.
    """

    subjects: int
    sfreq: float
    channels: int
    problems: dict[str, tuple[str, ...]]


_FISTS, _BOTH = ("left_hand", "right_hand"), ("hands", "feet")
_ELBOW = ("right_elbow_flexion", "right_elbow_extension")
_FOREARM = ("right_supination", "right_pronation")
_HAND = ("right_hand_close", "right_hand_open")
_REACH = tuple(f"reach_{way}" for way in ("forward", "backward", "left", "right", "up", "down"))
_FIST_PROBLEMS = {"left-right": _FISTS, "four-class": _FISTS + _BOTH}
_ARM_PROBLEMS = {"six-class": _ELBOW + _FOREARM + _HAND, "elbow": _ELBOW, "forearm": _FOREARM, "hand": _HAND}
_GRASP_PROBLEMS = {
    "grasping": ("grasp_cup", "grasp_ball", "grasp_card"),
    "reaching": _REACH,
    "twisting": ("twist_pronation", "twist_supination"),
}
SETS = {
    "eegmmidb": EEGSet(109, 160.0, 64, _FIST_PROBLEMS),
    "simulated-eeg": EEGSet(999, 160.0, 64, _FIST_PROBLEMS),
    "ofner2017": EEGSet(15, 512.0, 61, _ARM_PROBLEMS),
    "jeong2020": EEGSet(25, 1000.0, 60, _GRASP_PROBLEMS),
}


@dataclass(frozen=True)
class Trials:
    """The trials of one task of one subject.

    x: float32 (n_trials, n_channels, n_times), microvolts. y: int64 (n_trials,), index into `MotorData.classes`.
    run: int64 (n_trials,), number of the recording that each trial came from.
    """

    x: np.ndarray
    y: np.ndarray
    run: np.ndarray


@dataclass(frozen=True)
class MotorData:
    """One subject: the trials of both tasks on the same channels, with the same classes and sampling rate (Hz).

    runs: the recordings used, for example {"mi": (4, 8, 12), "me": (3, 7, 11)}. fingerprint: SHA-256 (hex) over the
    sources and everything that made the epochs. truth: for simulated data, which channels see which sources.
    name: the set and the subject, for messages.
    """

    mi: Trials
    me: Trials
    channels: tuple[str, ...]
    sfreq: float
    classes: tuple[str, ...]
    runs: dict[str, tuple[int, ...]]
    fingerprint: str
    truth: dict | None = None
    name: str = "the data"


@dataclass(frozen=True)
class EpochOptions:
    """How epochs are made: the keyword options that every EEG loader takes besides its own.

    sfreq: sampling rate (Hz) of what comes back. At the set's own rate, the default of all loaders but
    `load_jeong2020`, nothing is resampled, and a recording that has another rate is refused; at any other, every
    recording is brought to it. fmin, fmax: pass band (Hz; MNE's Butterworth filter of order 4, forwards and backwards).
    tmin, tmax: seconds from the cue; an epoch has (tmax - tmin) * sfreq samples. channels: "all", "motor21"
    (`MOTOR21`), or a sequence of names, which then come back in that order. Raises `SpecError` for impossible values.
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
        if not self.tmin < self.tmax:
            raise SpecError(f"epochs from {self.tmin:g} to {self.tmax:g} s: tmin must be below tmax")
        channels = MOTOR21 if self.channels == "motor21" else self.channels
        if channels != "all":
            if isinstance(channels, str) or not channels or len(set(channels)) < len(channels):
                raise SpecError(f"channels={channels!r}: pass 'all', 'motor21' or a tuple of different electrode names")
            channels = tuple(channels)
        object.__setattr__(self, "channels", channels)


def load_eegmmidb(root=None, subject=1, problem="left-right", allow_missing_runs=False, download=False, **epochs):
    """EEG Motor Movement/Imagery (Schalk et al. 2004, doi:10.1109/TBME.2004.827072): `MotorData` of subject 1 to 109.

    root: a folder with `eegmmidb/` in it, that folder, or an MNE data folder; there the EDF files lie as MNE lays them
    out, or as packs `S001.tar.xz`, which are unpacked into the cache. Default: SPARSEMTL_DATA, then MNE's own folder.
    problem: "left-right" (fists) or "four-class" (also both fists and both feet). allow_missing_runs: take the runs
    there are, as long as each task has each class. download: fetch the subject's missing files from PhysioNet, those of
    both problems. epochs: see `EpochOptions`. Without MNE and MOABB: what the cache holds that was carried from a
    machine with them. Raises `DataError` for missing or unfit files, `SpecError` for bad options.
    """
    subject, classes, options = _options("eegmmidb", subject, problem, **epochs)
    if carried := _carried("eegmmidb", subject, classes, options):
        return carried
    kinds = ("fists", "both") if problem == "four-class" else ("fists",)
    home, manifest = files.find_eegmmidb(root, subject)
    folder = home / files.EEGBCI / f"S{subject:03d}"
    wanted = {
        task: [{run: folder / f"S{subject:03d}R{run:02d}.edf" for run in runs[kind]} for kind in kinds]
        for task, runs in EEGMMIDB_RUNS.items()
    }
    if download:
        from mne.datasets.eegbci import load_data

        runs = sorted(run for kinds in EEGMMIDB_RUNS.values() for group in kinds.values() for run in group)
        files.download(f"eegmmidb S{subject:03d}", home, lambda: load_data(subject, runs, path=home, update_path=False))
    paths = files.existing(f"eegmmidb S{subject:03d}", home, wanted, allow_missing_runs)
    sums = files.checksums(paths)
    files.verify(folder, sums, manifest)

    def recordings(task):
        from moabb.datasets import PhysionetMI

        for path in paths[task].values():
            files.check_edf(path, SETS["eegmmidb"].channels, options.tmax)
        dataset = PhysionetMI(imagined=task == "mi", executed=task == "me")
        dataset.hand_runs = [run for run in dataset.hand_runs if run in paths[task]]
        dataset.feet_runs = [run for run in dataset.feet_runs if run in paths[task]]
        numbers = [*dataset.hand_runs, *dataset.feet_runs]  # MOABB names a run by its place in this list
        return dataset, lambda session, run: numbers[int(run)]

    return motor_data("eegmmidb", subject, recordings, classes, options, sums, home)


def load_ofner2017(root=None, subject=1, problem="six-class", allow_missing_runs=False, download=False, **epochs):
    """Movements of the right arm (Ofner et al. 2017, doi:10.1371/journal.pone.0182578): `MotorData` of subject 1 to 15.

    root: a folder with `ofner2017/` in it, that folder, or an MNE data folder; there `MNE-upperlimb-data/` holds the
    GDF files as MOABB lays them out. problem: "six-class", "elbow", "forearm" or "hand". The rest: as `load_eegmmidb`.
    """
    subject, classes, options = check_options("ofner2017", subject, problem, **epochs)
    home = files.find(root, "ofner2017", "MNE-upperlimb-data")
    if download:
        from moabb.datasets import Ofner2017

        files.download(f"ofner2017 subject {subject}", home, lambda: Ofner2017().data_path(subject))
    wanted = {
        task: [{run: files.find_gdf(home, f"motor{kind}_subject{subject}_run{run}.gdf") for run in range(1, 11)}]
        for task, kind in (("mi", "imagination"), ("me", "execution"))
    }
    paths = files.existing(f"ofner2017 subject {subject}", home, wanted, allow_missing_runs)

    def recordings(task):
        from moabb.datasets import Ofner2017

        dataset = Ofner2017(imagined=task == "mi", executed=task == "me")
        dataset.data_path = lambda *args, **kwargs: list(paths[task].values())
        return dataset, lambda session, run: list(paths[task])[int(run)]

    return motor_data("ofner2017", subject, recordings, classes, options, files.checksums(paths), home)


def load_jeong2020(
    root=None, subject=1, problem="grasping", sessions=(1, 2, 3), allow_missing_runs=False, download=False, **epochs
):
    """Movements of one arm (Jeong et al. 2020, doi:10.1093/gigascience/giaa098): `MotorData` of subject 1 to 25.

    root: a folder with `jeong2020/` in it, that folder, or an MNE data folder; there `MNE-jeong2020-data/` holds the
    BrainVision files as MOABB lays them out. problem: "grasping", "reaching" or "twisting". sessions: which of the
    three days. sfreq: 250 Hz unless given (the files have 1000). Run 21 is the reaching of day 2, 22 its grasping, 23
    its twisting. The reference, FCz, is no channel, and so "motor21" is not to be had. The rest: as `load_eegmmidb`.
    """
    subject, classes, options = check_options("jeong2020", subject, problem, **{"sfreq": 250.0, **epochs})
    if not sessions or not set(sessions) <= {1, 2, 3}:
        raise SpecError(f"sessions={sessions!r}: choose from 1, 2 and 3")
    home = files.find(root, "jeong2020", "MNE-jeong2020-data")
    if download:
        from moabb.datasets import Jeong2020

        files.download(f"jeong2020 subject {subject}", home, lambda: Jeong2020().data_path(subject))
    folder = home / "MNE-jeong2020-data" / f"sub{subject}"
    place, kind = {"reaching": (1, "reaching"), "grasping": (2, "multigrasp"), "twisting": (3, "twist")}[problem]
    conditions = {"mi": "MI", "me": "realMove"}
    wanted = {
        task: [{10 * day + place: folder / f"session{day}_sub{subject}_{kind}_{condition}.vhdr" for day in sessions}]
        for task, condition in conditions.items()
    }
    paths = files.existing(f"jeong2020 subject {subject}", home, wanted, allow_missing_runs)
    # a recording is three files: .vhdr, .vmrk and .eeg
    parts = {task: [part for path in paths[task].values() for part in folder.glob(f"{path.stem}.*")] for task in TASKS}

    def recordings(task):
        from moabb.datasets import Jeong2020

        dataset = Jeong2020(condition=conditions[task])
        read_folder = dataset._get_single_subject_data

        def read_wanted(subject):
            # MOABB reads all that lies in the folder it is given, 10 GB: give it one with the wanted files only
            with tempfile.TemporaryDirectory() as only:
                for part in parts[task]:
                    Path(only, part.name).symlink_to(part.resolve())
                dataset.data_path = lambda *args, **kwargs: only
                return read_folder(subject)

        dataset._get_single_subject_data = read_wanted
        return dataset, lambda session, run: 10 * (int(session) + 1) + int(run) + 1

    sums = files.checksums({task: dict(enumerate(parts[task])) for task in TASKS})
    return motor_data("jeong2020", subject, recordings, classes, options, sums, home)


def check_options(name, subject, problem, **epochs):
    """(subject, classes, `EpochOptions`) of a loader's arguments.

    Raises `SpecError` for what the set does not have, and where packages that read recordings are missing.
    """
    needs(name, "eeg", "mne", "moabb")
    return _options(name, subject, problem, **epochs)


def _options(name, subject, problem, **epochs):
    facts = SETS[name]
    if not isinstance(subject, Integral) or not 1 <= subject <= facts.subjects:
        raise SpecError(f"{name} has no subject {subject!r}: choose 1 to {facts.subjects}")
    if problem not in facts.problems:
        raise SpecError(f"{name} has no problem {problem!r}: choose one of {', '.join(facts.problems)}")
    return int(subject), facts.problems[problem], EpochOptions(**{"sfreq": facts.sfreq, **epochs})


def motor_data(name, subject, recordings, classes, options, source, home=None, truth=None):
    """Make the `MotorData` of one subject from MOABB data sets, or read it from the cache.

    recordings: task -> (MOABB data set, function (session, run), as MOABB names them, -> number of the recording);
    called only if nothing is cached. source: JSON-able, what the recordings were made from (checksums or seed).
    home: the MNE data folder to read from. truth: function (channels) -> `MotorData.truth`.
    """
    request = _request(name, subject, classes, options)
    key = request | {"source": source, "versions": {package: version(package) for package in ("mne", "moabb")}}

    def make():
        with files.quiet_moabb(home):
            made = {task: _epochs(name, task, subject, *recordings(task), classes, options) for task in TASKS}
        if made["mi"]["channels"].tolist() != made["me"]["channels"].tolist():
            raise DataError(
                f"{name} subject {subject} has other channels in MI than in ME: pass channels= to order them"
            )
        return {f"{task}_{field}": array for task, arrays in made.items() for field, array in arrays.items()}

    arrays = cached(name, key, make)
    note(name, request, key)
    return _assembled(name, key, arrays, options, truth)


def _request(name, subject, classes, options):
    """What is asked for, JSON-able; `motor_data` adds what it is made from to get the key of the cache."""
    return {"code": CODE_VERSION, "set": name, "subject": subject, "classes": classes, "options": asdict(options)}


def _carried(name, subject, classes, options):
    """`MotorData` that the cache holds, on a machine without MNE and MOABB to which it was carried; else None.

    It is what the last machine with both packages made of its recordings, and has the same fingerprint.
    """
    try:
        needs(name, "eeg", "mne", "moabb")
    except SpecError as error:
        key = noted(name, _request(name, subject, classes, options))
        arrays = key and cached(name, key, dict)
        if not arrays:
            raise SpecError(f"{error}, or carry the cache of a machine that has it here (SPARSEMTL_CACHE)") from None
        return _assembled(name, key, arrays, options)
    return None


def _assembled(name, key, arrays, options, truth=None):
    trials = {task: Trials(*(arrays[f"{task}_{field}"] for field in ("x", "y", "run"))) for task in TASKS}
    channels = tuple(arrays["mi_channels"].tolist())
    return MotorData(
        **trials,
        channels=channels,
        sfreq=options.sfreq,
        classes=tuple(key["classes"]),
        runs={task: tuple(np.unique(trials[task].run).tolist()) for task in TASKS},
        fingerprint=sha256_of(key),
        truth=truth(channels) if truth else None,
        name=f"{name} subject {key['subject']}",
    )


def stratified_folds(data, n_folds, seed):
    """Split each task of a `MotorData` by itself into stratified folds (scikit-learn's `StratifiedKFold`, shuffled).

    Returns one dict a fold: {"mi": (train, test), "me": (train, test)}, int64 index arrays into that task's trials.
    Raises `DataError` if a class has fewer trials than there are folds, `SpecError` for fewer than two folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if n_folds < 2:
        raise SpecError(f"n_folds={n_folds}: at least 2 are needed")
    labels = {task: getattr(data, task).y for task in TASKS}
    for task, y in labels.items():
        counts = np.bincount(y, minlength=len(data.classes))
        if counts.min() < n_folds:
            have = ", ".join(f"{count} {label}" for label, count in zip(data.classes, counts, strict=True))
            raise DataError(
                f"{data.name} has too few {task.upper()} trials for {n_folds} folds ({have}): take fewer folds"
            )
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    folds = zip(*(splitter.split(y, y) for y in labels.values()), strict=True)
    return [dict(zip(TASKS, fold, strict=True)) for fold in folds]


def _epochs(name, task, subject, dataset, number, classes, options):
    """Epochs of one task through MOABB's paradigm, as arrays "x", "y", "run" and "channels"."""
    from moabb.paradigms import MotorImagery

    who = f"{name} subject {subject} {task.upper()}"
    try:
        sessions = dataset._get_single_subject_data(subject)
    except (ValueError, OSError, RuntimeError) as error:
        raise DataError(f"{who} cannot be read ({files.reason(error)}): fetch its files again") from error
    raws = {number(session, run): raw for session, runs in sessions.items() for run, raw in runs.items()}
    names = _check_recordings(who, raws, options.sfreq, SETS[name])
    channels = names if options.channels == "all" else list(options.channels)
    unknown = [channel for channel in channels if channel not in names]
    if unknown:
        raise SpecError(f"{name} has no channel {', '.join(unknown)}: choose from {', '.join(names)}")
    dataset._get_single_subject_data = lambda _: sessions  # the paradigm gets what was checked, and files are read once
    rate = min(raw.info["sfreq"] for raw in raws.values())
    paradigm = MotorImagery(
        events=list(classes),
        n_classes=len(classes),
        fmin=options.fmin,
        fmax=options.fmax,
        tmin=options.tmin - dataset.interval[0],  # MOABB counts from where the set's interval starts, we from the cue
        tmax=options.tmax - dataset.interval[0] - 1 / rate,  # MNE's epochs hold both ends, ours do without the second
        channels=channels,
        resample=None if options.sfreq == SETS[name].sfreq else options.sfreq,
    )
    try:
        x, labels, table = paradigm.get_data(dataset, subjects=[subject])
    except ValueError as error:
        raise DataError(
            f"{who} gives no epochs ({files.reason(error)}): choose another problem, tmin or tmax"
        ) from error
    y = np.array([classes.index(label) for label in labels], dtype=np.int64)
    absent = [label for index, label in enumerate(classes) if index not in y]
    if absent:
        raise DataError(f"{who} has no trial of {', '.join(absent)}: choose another problem, or leave the subject out")
    run = np.array([number(*keys) for keys in zip(table["session"], table["run"], strict=True)], dtype=np.int64)
    _check_signal(who, x, run, channels)
    return {"x": x.astype(np.float32), "y": y, "run": run, "channels": np.array(channels)}


def _check_recordings(who, raws, sfreq, facts):
    """Names of the EEG channels; `DataError` unless each recording has the set's rate and channels."""
    import mne

    names = None
    for run, raw in raws.items():
        # the BrainVision files of jeong2020 do not say that their EMG and EOG channels are not EEG
        raw.set_channel_types({name: "misc" for name in raw.ch_names if name.startswith(("EMG", "EOG"))})
        found = [raw.ch_names[index] for index in mne.pick_types(raw.info, eeg=True)]
        rate = raw.info["sfreq"]
        if sfreq == facts.sfreq != rate:
            raise DataError(
                f"{who} run {run} has {rate:g} Hz, not the {facts.sfreq:g} Hz of the set: pass sfreq={rate:g} "
                "(for every subject, to compare them), or leave the subject out"
            )
        if len(found) != facts.channels or names not in (None, found):
            raise DataError(
                f"{who} run {run} has {len(found)} EEG channels, not the {facts.channels} of the set: fetch it again"
            )
        names = found
    return names


def _check_signal(who, x, run, channels):
    """`DataError` if a channel of an epoch holds NaN, or moves by less than 0.01 microvolts (standard deviation)."""
    deviation = x.std(axis=-1)
    for fault, where in (("NaN", np.isnan(deviation)), ("flat", deviation < 0.01)):
        if where.any():
            trial, channel = np.argwhere(where)[0]
            raise DataError(
                f"{who} run {run[trial]} channel {channels[channel]} is {fault} in {where.any(1).sum()} trials: "
                "pass channels= without it, or leave the subject out"
            )
