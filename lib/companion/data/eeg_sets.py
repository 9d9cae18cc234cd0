"""Loaders of the EEG recordings; all return `MotorData` and take the keywords of `EpochOptions`."""

from functools import partial
from importlib.metadata import version

import numpy as np
from sparsemtl.errors import SpecError, needs

from companion.data import eeg_files as files
from companion.data.eeg import DEVELOPMENT, SETS, TASKS, motor_data

# Recordings of EEGMMIDB by kind and task, and what their marks T1 and T2 stand for
RUNS = {
    "fists": {"mi": (4, 8, 12), "me": (3, 7, 11)},
    "both": {"mi": (6, 10, 14), "me": (5, 9, 13)},
}
EVENTS = {"fists": {"T1": "left_hand", "T2": "right_hand"}, "both": {"T1": "hands", "T2": "feet"}}
KINDS = {"left-right": ("fists",), "hands-feet": ("both",), "four-class": ("fists", "both")}
DEVIATING = {
    **dict.fromkeys((88, 92, 100), "recorded at 128 Hz with other trial lengths"),
    104: "trials of another length",
}
# Movements of jeong2020: position of the recording in a session, name of its files, and marks of its classes
_GRASPS = {"S 11": "grasp_cup", "S 21": "grasp_ball", "S 61": "grasp_card"}
_REACHES = {f"S {k}1": name for k, name in enumerate(SETS["jeong2020"].problems["reaching"], start=1)}
_TWISTS = {"S 91": "twist_pronation", "S101": "twist_supination"}
JEONG = {
    "reaching": (1, "reaching", _REACHES),
    "grasping": (2, "multigrasp", _GRASPS),
    "twisting": (3, "twist", _TWISTS),
}


def load_eegmmidb(root=None, subject=1, problem="left-right", allow_missing_runs=False, download=False, **epochs):
    """Load one person of the EEG Motor Movement/Imagery set (Schalk et al. 2004, doi:10.1109/TBME.2004.827072).

    Parameters
    ----------
    root : path, optional
        A folder with `eegmmidb/` in it, that folder, or an MNE data folder. The EDF files are there as MNE lays them
        out, or as packs `S001.tar.xz`, which are unpacked into the cache. Default: SPARSEMTL_DATA, then MNE's folder.
    subject : int
        1 to 109; see `people`.
    problem : str
        "left-right" (fists) or "hands-feet" (both fists, both feet): the two classes share their recordings.
        "four-class" joins them; each class pair has its own recordings, so only whole recordings may be held out, and
        two recordings of each kind and task are needed.
    allow_missing_runs : bool
        Take the recordings that exist if each task has each class.
    download : bool
        Fetch the person's missing files, of all problems, from PhysioNet (MNE checks them by their checksums).
    **epochs
        See `EpochOptions`.

    Returns
    -------
    MotorData

    Raises
    ------
    DataError
        Files are missing or unfit, or hold one recording under two names.
    SpecError
        An option is unknown or impossible.
    """
    return _eegmmidb("eegmmidb", TASKS, root, subject, problem, allow_missing_runs, download, epochs)


def load_development(root=None, subject=2, problem="left-right", allow_missing_runs=False, download=False, **epochs):
    """Load imagined fists of a person of EEGMMIDB on whom the training was chosen, and on whom no claim is tested.

    root: as `load_eegmmidb`, with `eegmmidb-development/` or `eegmmidb/` in it. The result has no executed part (`me`
    is None). The rest: as `load_eegmmidb`.
    """
    return _eegmmidb("eegmmidb-development", ("mi",), root, subject, problem, allow_missing_runs, download, epochs)


def _eegmmidb(name, tasks, root, subject, problem, allow_missing_runs, download, epochs):
    folders = dict.fromkeys((name, "eegmmidb"))

    def find(classes, options):
        who, kinds = f"S{subject:03d}", KINDS[problem]
        runs = [run for kind in kinds for task in tasks for run in RUNS[kind][task]]
        if download:
            every = sorted(run for kind in RUNS.values() for task in tasks for run in kind[task])
            files.download(f"{name} {who}", partial(_fetch, files.places(root, *folders), subject, every))
        folder, manifest = files.find_eegmmidb(root, folders, subject, runs)
        wanted = {t: [{r: folder / f"{who}R{r:02d}.edf" for r in RUNS[kind][t]} for kind in kinds] for t in tasks}
        paths = files.existing(f"{name} {who}", folder, wanted, allow_missing_runs, fewest=len(kinds))
        sums = files.checksums([path for group in paths.values() for path in group.values()])
        files.verify(folder, sums, manifest)
        kind_of = {run: kind for kind in kinds for task in tasks for run in RUNS[kind][task]}
        return sums, {
            task: {run: partial(files.read_edf, path, EVENTS[kind_of[run]]) for run, path in group.items()}
            for task, group in paths.items()
        }

    return motor_data(name, subject, problem, find, **epochs)


def _fetch(places, subject, runs):
    from mne.datasets.eegbci import load_data

    home = next((place for place in places if (place / files.EEGBCI).is_dir()), places[-1])
    load_data(subject, runs, path=home, update_path=False, verbose="ERROR")


def people(root=None, wanted=None, name="eegmmidb"):
    """Tell which people of EEGMMIDB can be loaded from `root`.

    Parameters
    ----------
    root : path, optional
        As `load_eegmmidb`.
    wanted : iterable of int, optional
        Default: all 109.

    Returns
    -------
    list of int
        Those with recordings here, without the people known to deviate and those of the development set.
    dict of int to str
        Why each of the others is left out.
    """
    folders = dict.fromkeys((name, "eegmmidb"))
    absent = "no recordings here"
    present, left_out = [], {}
    for subject in sorted(set(wanted or SETS[name].people)):
        reason = DEVIATING.get(subject)
        if name == "eegmmidb" and subject in DEVELOPMENT:
            reason = "the training was chosen on this person"
        if not reason:
            who = f"S{subject:03d}"
            here = (
                (place / f"{who}.tar.xz").is_file() or any((place / files.EEGBCI / who).glob(f"{who}R*.edf"))
                for place in files.places(root, *folders)
            )
            reason = "" if any(here) else absent
        if reason:
            left_out[subject] = reason
        else:
            present.append(subject)
    return present, left_out


def load_ofner2017(root=None, subject=1, problem="six-class", allow_missing_runs=False, download=False, **epochs):
    """Load one person's arm movements (Ofner et al. 2017, doi:10.1371/journal.pone.0182578); needs MOABB.

    root: a folder with `ofner2017/` in it, that folder, or an MNE data folder, with the GDF files below
    `MNE-upperlimb-data/`. problem: "six-class", "elbow", "forearm" or "hand". The rest: as `load_eegmmidb`, but
    recordings of the two tasks have the same numbers (1 to 10).
    """
    _no_download("ofner2017", "Ofner2017", download)

    def find(classes, options):
        needs("ofner2017", "eeg", "moabb")
        home = files.find(root, "ofner2017", "MNE-upperlimb-data")
        folder = home / "MNE-upperlimb-data"  # MOABB's releases have laid it out in two ways
        wanted = {}
        for task, kind in (("mi", "imagination"), ("me", "execution")):
            names = {run: f"motor{kind}_subject{subject}_run{run}.gdf" for run in range(1, 11)}
            wanted[task] = [{run: next(folder.rglob(file), folder / file) for run, file in names.items()}]
        paths = files.existing(f"ofner2017 subject {subject}", home, wanted, allow_missing_runs)
        sums = files.checksums([path for group in paths.values() for path in group.values()])
        read = {task: {run: partial(_read_ofner, path, subject, task) for run, path in group.items()}
                for task, group in paths.items()}  # fmt: skip
        return sums | {"moabb": version("moabb")}, read

    return motor_data("ofner2017", subject, problem, find, **epochs)


def _read_ofner(path, subject, task):
    """Read a GDF file through MOABB, which knows its electrodes, units and marks."""
    from moabb.datasets import Ofner2017

    dataset = Ofner2017(imagined=task == "mi", executed=task == "me")
    dataset.data_path = lambda *args, **kwargs: [path]
    ((raw,),) = (runs.values() for runs in dataset._get_single_subject_data(subject).values())
    return raw


def load_jeong2020(
    root=None, subject=1, problem="grasping", sessions=(1, 2, 3), allow_missing_runs=False, download=False, **epochs
):
    """Load one person's movements of one arm (Jeong et al. 2020, doi:10.1093/gigascience/giaa098).

    root: a folder with `jeong2020/` in it, that folder, or an MNE data folder, with the BrainVision files in
    `MNE-jeong2020-data/sub1/` and so on. problem: "grasping", "reaching" or "twisting". sessions: which of the three
    days. sfreq: 250 Hz by default (the files have 1000). Recording 21 is the reaching of day 2, 22 its grasping, 23 its
    twisting. The reference electrode is FCz, so "motor21" is unavailable. The rest: as `load_eegmmidb`.
    """
    _no_download("jeong2020", "Jeong2020", download)
    if not sessions or not set(sessions) <= {1, 2, 3}:
        raise SpecError(f"sessions={sessions!r}: choose from 1, 2 and 3")

    def find(classes, options):
        home = files.find(root, "jeong2020", "MNE-jeong2020-data")
        folder = home / "MNE-jeong2020-data" / f"sub{subject}"
        position, kind, marks = JEONG[problem]
        wanted = {
            task: [{10 * day + position: folder / f"session{day}_sub{subject}_{kind}_{how}.vhdr" for day in sessions}]
            for task, how in (("mi", "MI"), ("me", "realMove"))
        }
        paths = files.existing(f"jeong2020 subject {subject}", home, wanted, allow_missing_runs)
        # a recording is three files: .vhdr, .vmrk and .eeg
        headers = [path for group in paths.values() for path in group.values()]
        sums = files.checksums([part for path in headers for part in sorted(folder.glob(f"{path.stem}.*"))])
        return sums, {t: {n: partial(_read_jeong, p, marks) for n, p in group.items()} for t, group in paths.items()}

    choice = sorted(set(sessions))
    return motor_data("jeong2020", subject, problem, find, choice=choice, **{"sfreq": 250.0, **epochs})


def _read_jeong(path, marks):
    import mne

    raw = mne.io.read_raw_brainvision(path, verbose="ERROR")
    names = np.unique(raw.annotations.description).tolist()
    events = {name: marks[mark] for name in names if (mark := name.removeprefix("Stimulus/").strip()) in marks}
    raw.annotations.rename(events)
    return raw


def _no_download(name, moabb, wanted):
    if wanted:
        raise SpecError(
            f"{name} is not downloaded here: moabb.datasets.{moabb}().download() puts it into MNE's data folder, "
            "where this loader finds it"
        )
