"""EEG recordings of imagined (MI) and executed (ME) movements of one person, as epochs of two tasks.

All sets go one way: files on disk, MOABB's data set class (one instance a task), MOABB's motor imagery paradigm (band-pass,
epochs, channels, resampling by MNE), and from there into `MotorData`. Which task a trial belongs to is told by the
instance it came from, never by its event name, which is the same in both.
"""

import contextlib
import hashlib
import json
import logging
import lzma
import os
import re
import shutil
import tarfile
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sparsemtl.data.cache import cache_dir, cached
from sparsemtl.errors import DataError, SpecError

CODE_VERSION = 1  # part of every cache key: raise it when a change here changes the epochs

MOTOR21 = tuple("FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6".split())

TASKS = ("mi", "me")
HANDS, FEET = ("left_hand", "right_hand"), ("hands", "feet")
_REACH = tuple(f"reach_{way}" for way in ("forward", "backward", "left", "right", "up", "down"))
_ELBOW = ("right_elbow_flexion", "right_elbow_extension")
_FOREARM = ("right_supination", "right_pronation")
_HAND = ("right_hand_close", "right_hand_open")

# problem -> classes, named as MOABB names the events; the class index is the place in the tuple
PROBLEMS = {
    "eegmmidb": {"left-right": HANDS, "four-class": HANDS + FEET},
    "simulated-eeg": {"left-right": HANDS, "four-class": HANDS + FEET},
    "ofner2017": {
        "six-class": _ELBOW + _FOREARM + _HAND,
        "elbow": _ELBOW,
        "forearm": _FOREARM,
        "hand": _HAND,
    },
    "jeong2020": {
        "reaching": _REACH,
        "grasping": ("grasp_cup", "grasp_ball", "grasp_card"),
        "twisting": ("twist_pronation", "twist_supination"),
    },
}

# EDF runs of EEGMMIDB: the documentation of PhysioNet, and MOABB's lists
EEGMMIDB_RUNS = {
    "mi": {HANDS: (4, 8, 12), FEET: (6, 10, 14)},
    "me": {HANDS: (3, 7, 11), FEET: (5, 9, 13)},
}
_EEGBCI = Path("MNE-eegbci-data", "files", "eegmmidb", "1.0.0")  # where MNE and MOABB look below their data folder
_GET_DATA = "set SPARSEMTL_DATA to the folder that holds it, or pass download=True (python -m sparsemtl data --help)"


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
    """One subject: the trials of both tasks on the same channels, classes and sampling rate (Hz).

    runs: the recordings used, for example {"mi": (4, 8, 12), "me": (3, 7, 11)}. fingerprint: SHA-256 (hex) over the
    sources and everything that made the epochs. truth: for simulated data, which channels see which sources.
    """

    mi: Trials
    me: Trials
    channels: tuple[str, ...]
    sfreq: float
    classes: tuple[str, ...]
    runs: dict[str, tuple[int, ...]]
    fingerprint: str
    truth: dict | None = None


@dataclass(frozen=True)
class EpochOptions:
    """How epochs are made: the keyword options that every EEG loader takes.

    sfreq: sampling rate in Hz of what comes back; at the set's own rate (the loader's default, but for jeong2020) nothing is
    resampled, and a recording at another rate is refused. fmin, fmax: pass band in Hz (Butterworth, order 4, forwards and
    backwards). tmin, tmax: seconds from the cue; an epoch has round((tmax - tmin) * sfreq) samples.
    channels: "all", "motor21" (`MOTOR21`) or a sequence of names, in that order.
    Raises `SpecError` for values that make no epochs.
    """

    sfreq: float
    fmin: float = 4.0
    fmax: float = 38.0
    tmin: float = 0.0
    tmax: float = 4.0
    channels: str | tuple[str, ...] = "all"

    def __post_init__(self):
        if not 0 < self.fmin < self.fmax < self.sfreq / 2:
            raise SpecError(
                f"pass band {self.fmin}-{self.fmax} Hz: 0 < fmin < fmax < sfreq / 2 = {self.sfreq / 2} must hold"
            )
        if not self.tmin < self.tmax:
            raise SpecError(f"epoch from {self.tmin} to {self.tmax} s: tmin must be below tmax")
        names = MOTOR21 if self.channels == "motor21" else self.channels
        if isinstance(names, str) and names != "all" or len(set(names)) < len(names) and names != "all" or not names:
            raise SpecError(f"channels {self.channels!r}: pass 'all', 'motor21' or different electrode names")
        object.__setattr__(self, "channels", names if names == "all" else tuple(names))


def load_eegmmidb(
    root=None,
    subject=1,
    problem="left-right",
    allow_missing_runs=False,
    download=False,
    sfreq=160.0,
    **epochs,
):
    """EEG Motor Movement/Imagery (Schalk et al. 2004), subject 1 to 109, through MOABB's `PhysionetMI`; `MotorData`.

    root: folder with `eegmmidb/` in it, that folder, or an MNE data folder; it holds EDF files as MNE lays them out, or
    packs `S001.tar.xz`, which are unpacked into the cache. Default: SPARSEMTL_DATA, then MNE's own data folder.
    problem: "left-right" (left, right fist) or "four-class" (also both fists, both feet). allow_missing_runs: take the
    runs that exist, as long as every class of both tasks is there. download: fetch missing files from PhysioNet.
    sfreq and the rest: see `EpochOptions`. Raises `DataError` for missing or unfit files, `SpecError` for bad options.
    """
    classes = classes_of("eegmmidb", problem)
    options = EpochOptions(sfreq=sfreq, **epochs)
    check_subject("eegmmidb", subject, 109)
    wanted = {
        task: {hands: runs for hands, runs in kinds.items() if set(hands) <= set(classes)}
        for task, kinds in EEGMMIDB_RUNS.items()
    }
    home, manifest = _find_eegmmidb(
        root, subject, [r for kinds in wanted.values() for runs in kinds.values() for r in runs], download
    )
    files = _choose_runs(home, subject, wanted, allow_missing_runs)
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for paths in files.values() for path in paths.values()
    }
    _check_sums(home, subject, sums, manifest)

    def recordings(task):
        from moabb.datasets import PhysionetMI

        for path in files[task].values():
            _check_edf(path)
        dataset = PhysionetMI(imagined=task == "mi", executed=task == "me")
        dataset.hand_runs = [run for run in dataset.hand_runs if run in files[task]]
        dataset.feet_runs = [run for run in dataset.feet_runs if run in files[task]]
        numbers = [*dataset.hand_runs, *dataset.feet_runs]
        return dataset, lambda session, run: numbers[int(run)]

    return motor_data("eegmmidb", subject, recordings, classes, options, 160.0, 64, sums, home)


def motor_data(name, subject, recordings, classes, options, native_sfreq, n_channels, source, home=None, truth=None):
    """Make, or read from the cache, the `MotorData` of one subject from MOABB data sets.

    recordings: task -> (MOABB data set, function (session key, run key) -> run number); called only when nothing is
    cached. native_sfreq, n_channels: what every recording must have. source: JSON-able, names the data (checksums or
    seed). home: the MNE data folder to read from. truth: function (channels) -> `MotorData.truth`.
    """
    key = {"code": CODE_VERSION, "set": name, "subject": subject, "classes": classes, "options": asdict(options)}
    key |= {"source": source, "versions": {package: version(package) for package in ("mne", "moabb")}}

    def make():
        arrays = {}
        with quiet_moabb(home):
            for task in TASKS:
                who = f"{name} subject {subject} ({task.upper()})"
                arrays |= {
                    f"{task}_{field}": array
                    for field, array in _epochs(
                        who, *recordings(task), subject, classes, options, native_sfreq, n_channels
                    ).items()
                }
        return arrays

    arrays = cached(name, key, make)
    trials = {task: Trials(*(arrays[f"{task}_{field}"] for field in ("x", "y", "run"))) for task in TASKS}
    channels = tuple(str(channel) for channel in arrays["mi_channels"])
    return MotorData(
        **trials,
        channels=channels,
        sfreq=options.sfreq,
        classes=tuple(classes),
        runs={task: tuple(int(run) for run in np.unique(trials[task].run)) for task in TASKS},
        fingerprint=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest(),
        truth=truth(channels) if truth else None,
    )


def stratified_folds(data, n_folds, seed):
    """Split both tasks of a `MotorData` into stratified folds, each task by itself.

    Returns one dict a fold: {"mi": (train, test), "me": (train, test)}, int64 index arrays into that task's trials.
    Raises `DataError` if a class has fewer trials than there are folds, `SpecError` for fewer than two folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if n_folds < 2:
        raise SpecError(f"n_folds={n_folds}: at least 2 folds are needed")
    for task in TASKS:
        counts = np.bincount(getattr(data, task).y, minlength=len(data.classes))
        if counts.min() < n_folds:
            have = ", ".join(f"{count} {label}" for label, count in zip(data.classes, counts, strict=True))
            raise DataError(
                f"{n_folds} folds need {n_folds} {task.upper()} trials of each class, there are {have}: take fewer folds"
            )
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    splits = [splitter.split(getattr(data, task).x, getattr(data, task).y) for task in TASKS]
    return [dict(zip(TASKS, fold, strict=True)) for fold in zip(*splits, strict=True)]


def classes_of(name, problem):
    """Class names of a data set's problem; `SpecError` for an unknown one."""
    if problem not in PROBLEMS[name]:
        raise SpecError(f"unknown problem {problem!r} of {name}: choose one of {', '.join(PROBLEMS[name])}")
    return PROBLEMS[name][problem]


def check_subject(name, subject, n_subjects):
    """Raise `SpecError` unless `subject` is an integer in 1..n_subjects."""
    if not isinstance(subject, int) or not 1 <= subject <= n_subjects:
        raise SpecError(f"{name} has no subject {subject!r}: choose 1 to {n_subjects}")


@contextlib.contextmanager
def quiet_moabb(home=None):
    """Let MOABB and MNE work without chatter, without asking an index on the network, and without their config file."""
    import mne

    # With these set, MOABB neither creates ~/mne_data nor writes ~/.mne, and reads from `home`.
    settings = {"MOABB_DOWNLOAD_PROVIDER": "upstream"}
    if home:
        settings |= {
            f"MNE_D{key}": str(home)
            for key in ("ATA", "ATASETS_EEGBCI_PATH", "ATASETS_UPPERLIMB_PATH", "ATASETS_JEONG2020_PATH")
        }
    before = {key: os.environ.get(key) for key in settings}
    logger = logging.getLogger("moabb")
    level = logger.level
    os.environ.update(settings)
    logger.setLevel(logging.ERROR)
    try:
        with mne.utils.use_log_level("ERROR"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


def _epochs(who, dataset, run_number, subject, classes, options, native_sfreq, n_channels):
    """Epochs of one task through MOABB's paradigm, as arrays x, y, run and channels."""
    from moabb.paradigms import MotorImagery

    try:
        sessions = dataset._get_single_subject_data(subject)
    except (ValueError, OSError, RuntimeError) as error:
        raise DataError(f"{who} cannot be read ({_first_line(error)}): fetch its files again") from error
    raws = {run_number(session, run): raw for session, runs in sessions.items() for run, raw in runs.items()}
    names = _check_recordings(who, raws, options.sfreq, native_sfreq, n_channels)
    channels = names if options.channels == "all" else list(options.channels)
    unknown = [channel for channel in channels if channel not in names]
    if unknown:
        raise SpecError(f"{who} has no channel {', '.join(unknown)}: choose from {', '.join(names)}")
    dataset._get_single_subject_data = lambda _: sessions  # the paradigm takes what was checked; files are read once
    paradigm = MotorImagery(
        events=list(classes),
        n_classes=len(classes),
        fmin=options.fmin,
        fmax=options.fmax,
        # cue at 0, whatever the set calls its interval; MNE's epochs hold both ends, ours not the last sample
        tmin=options.tmin - dataset.interval[0],
        tmax=options.tmax - dataset.interval[0] - 1 / next(iter(raws.values())).info["sfreq"],
        channels=channels,
        resample=None if options.sfreq == native_sfreq else options.sfreq,
    )
    try:
        x, labels, table = paradigm.get_data(dataset, subjects=[subject])
    except ValueError as error:
        raise DataError(
            f"{who} gives no trials of {', '.join(classes)} ({_first_line(error)}): leave it out"
        ) from error
    y = np.array([classes.index(label) for label in labels], dtype=np.int64)
    run = np.array([run_number(*keys) for keys in zip(table["session"], table["run"], strict=True)], dtype=np.int64)
    absent = [label for index, label in enumerate(classes) if index not in y]
    if absent:
        raise DataError(f"{who} has no trial of {', '.join(absent)}: leave it out, or take another problem")
    _check_signal(who, x, run, channels)
    return {"x": x.astype(np.float32), "y": y, "run": run, "channels": np.array(channels)}


def _check_recordings(who, raws, sfreq, native_sfreq, n_channels):
    """Names of the EEG channels, the same in every recording; `DataError` for a wrong rate, count or order of them."""
    names = None
    for number, raw in raws.items():
        # Jeong2020's BrainVision files do not say that its EMG and EOG channels are none of the brain
        raw.set_channel_types({name: "misc" for name in raw.ch_names if name.startswith(("EMG", "EOG"))})
        found = [raw.ch_names[index] for index in _eeg_picks(raw)]
        rate = raw.info["sfreq"]
        if rate != native_sfreq and sfreq == native_sfreq:
            raise DataError(
                f"{who} run {number} is sampled at {rate:g} Hz, not {native_sfreq:g}: pass sfreq={rate:g} or another rate for "
                "every subject, or leave the subject out"
            )
        if len(found) != n_channels or names not in (None, found):
            raise DataError(
                f"{who} run {number} has {len(found)} EEG channels, not the {n_channels} of the set: fetch it again"
            )
        names = found
    return names


def _check_signal(who, x, run, channels):
    """`DataError` for NaN in the epochs, or a channel without any signal in one of them (below 0.01 microvolt)."""
    for fault, where in (("NaN", ~np.isfinite(x).all(-1)), ("flat", ~(x.std(-1) > 0.01))):
        if where.any():
            trial, channel = np.argwhere(where)[0]
            raise DataError(
                f"{who} run {run[trial]}: channel {channels[channel]} is {fault}: pass channels= without it, or leave the run "
                "or subject out"
            )


def _eeg_picks(raw):
    import mne

    return mne.pick_types(raw.info, eeg=True)


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _find_eegmmidb(root, subject, runs, download):
    """(MNE data folder with the subject, PhysioNet's checksum list or None); unpacks and downloads where needed."""
    import mne

    name = f"S{subject:03d}"
    base = root or os.environ.get("SPARSEMTL_DATA")
    base = Path(
        base or mne.get_config("MNE_DATASETS_EEGBCI_PATH") or mne.get_config("MNE_DATA") or Path.home() / "mne_data"
    )
    home = manifest = None
    for place in (base, base / "eegmmidb"):
        if (place / _EEGBCI / name).is_dir():
            home = place
        elif (place / f"{name}.tar.xz").is_file():
            home = _unpacked(place / f"{name}.tar.xz")
        if home:
            manifest = next(
                (p for p in (place / "SHA256SUMS.txt", place / _EEGBCI / "SHA256SUMS.txt") if p.is_file()), None
            )
            break
    if download:
        home = home or base
        try:
            mne.datasets.eegbci.load_data(subject, runs, path=home, update_path=False, verbose="ERROR")
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot download eegmmidb {name} to {home} ({_first_line(error)}): check network and folder"
            ) from error
    if home is None:
        raise DataError(f"no eegmmidb recordings of {name} below {base}: {_GET_DATA}")
    return home, manifest


def _unpacked(pack):
    """MNE data folder in the cache with the subject of `pack` (S001.tar.xz) unpacked, named after the pack's checksum."""
    name = pack.name.removesuffix(".tar.xz")
    home = cache_dir() / f"eegmmidb-{name}-{hashlib.sha256(pack.read_bytes()).hexdigest()[:12]}"
    if home.is_dir():
        return home
    part = home.with_name(f"{home.name}.{os.getpid()}.part")
    try:
        with tarfile.open(pack) as tar:
            members = tar.getmembers()
            for member in members:
                wanted = (
                    member.isdir()
                    and member.name == name
                    or member.isreg()
                    and re.fullmatch(rf"{name}/{name}R\d\d\.edf", member.name)
                )
                if not wanted:
                    raise DataError(f"{pack} holds {member.name!r}, not only {name}/{name}Rnn.edf: get the pack again")
            tar.extractall(part / _EEGBCI, members, filter="data")
        with contextlib.suppress(OSError):  # another process was first
            part.rename(home)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{pack} is damaged ({_first_line(error)}): get the pack again") from error
    except OSError as error:
        raise DataError(
            f"cannot unpack {pack} to {home} ({error.strerror}): free space there, or set SPARSEMTL_CACHE"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return home


def _choose_runs(home, subject, wanted, allow_missing_runs):
    """{task: {run: path}} of the files that exist; `DataError` if one is missing, or every one of a task's classes."""
    name = f"S{subject:03d}"
    paths = {
        run: home / _EEGBCI / name / f"{name}R{run:02d}.edf"
        for kinds in wanted.values()
        for runs in kinds.values()
        for run in runs
    }
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing and not allow_missing_runs:
        raise DataError(
            f"{name} lacks {', '.join(missing)} in {home}: fetch them (download=True), or pass allow_missing_runs=True"
        )
    for task, kinds in wanted.items():
        for hands, runs in kinds.items():
            if not any(paths[run].is_file() for run in runs):
                raise DataError(
                    f"{name} has no {task.upper()} run of {' and '.join(hands)} in {home}: leave the subject out"
                )
    return {
        task: {run: paths[run] for runs in kinds.values() for run in runs if paths[run].is_file()}
        for task, kinds in wanted.items()
    }


def _check_sums(home, subject, sums, manifest):
    if manifest is None:
        return
    known = {
        Path(file).name: digest for digest, file in (line.split() for line in manifest.read_text().splitlines() if line)
    }
    for name, digest in sums.items():
        if known.get(name) != digest:
            raise DataError(f"{home / _EEGBCI / name[:4] / name} does not match {manifest}: fetch the file again")


def _check_edf(path):
    """`DataError` if an EDF file is not one, or shorter than its header says (MNE would go on with what is there)."""
    import mne

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Number of records from the header")
            mne.io.read_raw_edf(path, verbose="WARNING")
    except Exception as error:
        raise DataError(f"{path} is truncated or no EDF file ({_first_line(error)}): fetch it again") from error
