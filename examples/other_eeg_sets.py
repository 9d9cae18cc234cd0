"""Two more EEG sets of imagined and executed movements, as an example of adding a data set.

A data set is an `EEGSet` with its facts, and a function that names its recordings and reads one. Importing this module
adds both sets, so that `companion.data.load("ofner2017", ...)` works. No study has run on them.
"""

from functools import partial
from importlib.metadata import version

import numpy as np
from companion.data import LOADERS
from companion.data.eeg import SETS, EEGSet, motor_data
from companion.data.eegmmidb import places, sha256
from sparsemtl.errors import DataError, SpecError, needs

_ELBOW = ("right_elbow_flexion", "right_elbow_extension")
_FOREARM = ("right_supination", "right_pronation")
_HAND = ("right_hand_close", "right_hand_open")
_ARM = {"six-class": _ELBOW + _FOREARM + _HAND, "elbow": _ELBOW, "forearm": _FOREARM, "hand": _HAND}
_WAYS = ("forward", "backward", "left", "right", "up", "down")
# Problems of jeong2020: position of the recording in a session, name of its files, and marks of its classes
JEONG = {
    "reaching": (1, "reaching", {f"S {k}1": f"reach_{way}" for k, way in enumerate(_WAYS, start=1)}),
    "grasping": (2, "multigrasp", {"S 11": "grasp_cup", "S 21": "grasp_ball", "S 61": "grasp_card"}),
    "twisting": (3, "twist", {"S 91": "twist_pronation", "S101": "twist_supination"}),
}
SETS["ofner2017"] = EEGSet(tuple(range(1, 16)), 512.0, None, _ARM)
SETS["jeong2020"] = EEGSet(
    tuple(range(1, 26)), 1000.0, None, {name: tuple(marks.values()) for name, (_, _, marks) in JEONG.items()}
)
LOADERS |= {name: f"other_eeg_sets:load_{name}" for name in ("ofner2017", "jeong2020")}


def load_ofner2017(root=None, subject=1, problem="six-class", allow_missing_runs=False, **epochs):
    """Load one person's arm movements (Ofner et al. 2017, doi:10.1371/journal.pone.0182578); needs MOABB.

    root: a folder with `ofner2017/` in it, that folder, or an MNE data folder, with the GDF files below
    `MNE-upperlimb-data/`. problem: "six-class", "elbow", "forearm" or "hand". Fetch the
    files by moabb. The rest: as `load_eegmmidb`, but
    recordings of the two tasks have the same numbers (1 to 10).
    """

    def find(classes, options):
        needs("ofner2017", "eeg", "moabb")
        home = _home(root, "ofner2017", "MNE-upperlimb-data")
        folder = home / "MNE-upperlimb-data"  # MOABB's releases have laid it out in two ways
        wanted = {}
        for task, kind in (("mi", "imagination"), ("me", "execution")):
            names = {run: f"motor{kind}_subject{subject}_run{run}.gdf" for run in range(1, 11)}
            wanted[task] = {run: next(folder.rglob(file), folder / file) for run, file in names.items()}
        paths = _existing(f"ofner2017 subject {subject}", wanted, allow_missing_runs)
        sums = {path.name: sha256(path) for group in paths.values() for path in group.values()}
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


def load_jeong2020(root=None, subject=1, problem="grasping", sessions=(1, 2, 3), allow_missing_runs=False, **epochs):
    """Load one person's movements of one arm (Jeong et al. 2020, doi:10.1093/gigascience/giaa098).

    root: a folder with `jeong2020/` in it, that folder, or an MNE data folder, with the BrainVision files in
    `MNE-jeong2020-data/sub1/` and so on. problem: "grasping", "reaching" or "twisting". sessions: which of the three
    days. sfreq: 250 Hz by default (the files have 1000). Recording 21 is the reaching of day 2, 22 its grasping, 23 its
    twisting. The reference electrode is FCz, so "motor21" is unavailable. Fetch the
    files by moabb. The rest: as `load_eegmmidb`.
    """
    if not sessions or not set(sessions) <= {1, 2, 3}:
        raise SpecError(f"sessions={sessions!r}: choose from 1, 2 and 3")

    def find(classes, options):
        home = _home(root, "jeong2020", "MNE-jeong2020-data")
        folder = home / "MNE-jeong2020-data" / f"sub{subject}"
        position, kind, marks = JEONG[problem]
        wanted = {
            task: {10 * day + position: folder / f"session{day}_sub{subject}_{kind}_{how}.vhdr" for day in sessions}
            for task, how in (("mi", "MI"), ("me", "realMove"))
        }
        paths = _existing(f"jeong2020 subject {subject}", wanted, allow_missing_runs)
        # a recording is three files: .vhdr, .vmrk and .eeg
        headers = [path for group in paths.values() for path in group.values()]
        sums = {part.name: sha256(part) for path in headers for part in sorted(folder.glob(f"{path.stem}.*"))}
        return sums, {t: {n: partial(_read_jeong, p, marks) for n, p in group.items()} for t, group in paths.items()}

    choice = sorted(set(sessions))
    return motor_data("jeong2020", subject, problem, find, choice=choice, **{"sfreq": 250.0, **epochs})


def _read_jeong(path, marks):
    import mne

    raw = mne.io.read_raw_brainvision(path, verbose="ERROR")
    names = np.unique(raw.annotations.description).tolist()
    events = {name: marks[mark] for name in names if (mark := name.removeprefix("Stimulus/").strip()) in marks}
    raw.annotations.rename(events)
    # the files do not say that their EMG and EOG channels are not EEG
    others = [channel for channel in raw.ch_names if channel.startswith(("EMG", "EOG"))]
    return raw.set_channel_types(dict.fromkeys(others, "misc"), verbose="ERROR")


def _home(root, name, folder):
    """Return the place that has `folder` in it, or where it should be."""
    where = places(root, name)
    return next((place for place in where if (place / folder).is_dir()), where[-1])


def _existing(who, wanted, allow_missing_runs):
    """Return the recordings {task: {number: path}} of `wanted` that exist."""
    found = {task: {n: path for n, path in paths.items() if path.is_file()} for task, paths in wanted.items()}
    missing = [path.name for paths in wanted.values() for path in paths.values() if not path.is_file()]
    if (missing and not allow_missing_runs) or not all(found.values()):
        raise DataError(f"{who} lacks {', '.join(missing)}: moabb downloads them, or pass allow_missing_runs=True")
    return found
