"""Small data sets on disk in the layouts of the real ones; a test may damage its copy."""

import mne
import numpy as np
from companion.data.eeg import ELECTRODES64
from companion.data.eegmmidb import FOLDER
from companion.data.faces import write_faces
from companion.data.rooms import write_rooms

HOME = FOLDER / "S001"
SIZE = {"T1": 20.0, "T2": 40.0}  # microvolts on C4


def nyuv2(folder):
    """Twelve rooms of 24 px in the layout of NYUD_MT: 9 to train, 3 to test."""
    write_rooms(folder, n=12, size=24, seed=3)


def celebamask(folder):
    """Ten faces of 32 px in the layout of the official release, with merged masks."""
    write_faces(folder, n=10, size=32, seed=1)


def eegmmidb(folder):
    """The twelve recordings of person 1, whose amplitudes say which run and which class a trial is of."""
    for run in range(3, 15):
        write_edf(folder / HOME / f"S001R{run:02d}.edf", run)


def recording(run, names=ELECTRODES64, rate=160, trials=4, seed=0, scale=1.0):
    """Raw with 10 Hz of 10 * run microvolts on C3, and on C4 20 Hz that differs for trials T1 and T2; T0 is rest."""
    rng, times = np.random.default_rng(run + seed), np.arange((2 + trials * 5) * rate) / rate
    onsets, labels = 2 + 5.0 * np.arange(trials), rng.permutation(np.resize(["T1", "T2"], trials))
    signals = dict(zip(names, rng.normal(0, 1, (len(names), len(times))), strict=True))
    signals["C3"] += 10 * run * 2**0.5 * np.sin(2 * np.pi * 10 * times)
    for onset, label in zip(onsets, labels, strict=True):
        now = (times >= onset) & (times < onset + 4.1)
        signals["C4"][now] += SIZE[label] * 2**0.5 * np.sin(2 * np.pi * 20 * times[now])
    info = mne.create_info(list(names), rate, "eeg")
    raw = mne.io.RawArray(scale * 1e-6 * np.array(list(signals.values())), info, verbose="ERROR")
    marks = np.stack([labels, np.full(trials, "T0")], 1).ravel()
    onsets = np.repeat(onsets, 2) + np.tile([0, 4.1], trials)
    return raw.set_annotations(mne.Annotations(onsets, np.tile([4.1, 0.9], trials), marks))


def write_edf(path, run, who="X", scale=1.0):
    """`recording` as an EDF file of PhysioNet."""
    raw = recording(run, scale=scale)
    raw.rename_channels({name: f"{name.capitalize()}." for name in ELECTRODES64})
    raw.info["subject_info"] = {"his_id": who}
    path.parent.mkdir(parents=True, exist_ok=True)
    mne.export.export_raw(path, raw, physical_range=(-2e3 * scale, 2e3 * scale), overwrite=True, verbose="ERROR")
