"""The example's loaders, on stand-in files in the layout of MOABB."""

import mne
import numpy as np
import other_eeg_sets  # noqa: F401  it adds its sets to those that `load` knows
import pytest
from companion.data import load
from companion.data.eeg import ELECTRODES64
from small_sets import recording
from sparsemtl.errors import DataError, SpecError


def rename_events(raw, names):
    return raw.set_annotations(raw.annotations.rename(dict(zip(("T1", "T2"), names, strict=True))))


def assert_in_place(data, made_as):
    """The amplitude on C3 says which recording a trial is of, that on C4 its class. made_as: task, numbers -> made."""
    for task in ("mi", "me"):
        trials = getattr(data, task)
        size = trials.x[:, [data.channels.index(name) for name in ("C3", "C4")]].std(-1)
        wanted = [10 * made_as(task, trials.recording), np.where(trials.y == 0, 20, 40)]
        np.testing.assert_allclose(size.T, wanted, rtol=0.1)


def test_ofner2017(tmp_path, monkeypatch):
    from moabb.datasets import Ofner2017

    folder = tmp_path / "ofner2017" / "MNE-upperlimb-data"
    folder.mkdir(parents=True)
    for kind, runs in (("imagination", 10), ("execution", 9)):
        for run in range(1, runs + 1):
            (folder / f"motor{kind}_subject2_run{run}.gdf").write_text(f"{kind} {run}")

    def read(self, subject):
        # named and ordered as MOABB does it, from the files that it is given
        session = "1imagination" if self.imagined else "0execution"
        ((kind, run),) = [path.read_text().split() for path in self.data_path(subject, session=session[1:])]
        assert kind == session[1:]
        raw = recording(int(run), [*ELECTRODES64[:61], "eog-l"], 512, seed=100 * self.imagined)
        raw.set_channel_types({"eog-l": "eog"}, verbose="ERROR")
        return {session: {"0": rename_events(raw, ("right_hand_close", "right_hand_open"))}}

    monkeypatch.setattr(Ofner2017, "_get_single_subject_data", read)
    asked = {"subject": 2, "problem": "hand"}
    with pytest.raises(DataError, match=r"lacks motorexecution_subject2_run10.gdf"):
        load("ofner2017", tmp_path, **asked)
    data = load("ofner2017", tmp_path, **asked, allow_missing_runs=True, channels="motor21")
    assert data.classes == ("right_hand_close", "right_hand_open")
    assert (data.sfreq, data.mi.x.shape, data.me.x.shape) == (512.0, (40, 21, 2048), (36, 21, 2048))
    assert_in_place(data, lambda task, numbers: numbers)
    with pytest.raises(DataError, match="has no trial of right_elbow_flexion"):
        load("ofner2017", tmp_path, subject=2, allow_missing_runs=True)


def test_jeong2020(tmp_path):
    from moabb.datasets import Jeong2020

    names = [*Jeong2020.METADATA.acquisition.sensors, "EMG_1", "EOG_1"]
    folder = tmp_path / "jeong2020" / "MNE-jeong2020-data" / "sub3"
    folder.mkdir(parents=True)
    for day in (1, 2):
        for sign, how in enumerate(("MI", "realMove"), start=1):
            raw = rename_events(recording(2 * day + sign, names, 1000), ("Stimulus/S 91", "Stimulus/S101"))
            mne.export.export_raw(folder / f"session{day}_sub3_twist_{how}.vhdr", raw, verbose="ERROR")
            (folder / f"session{day}_sub3_reaching_{how}.vhdr").touch()  # only what is asked for may be read
    asked = {"subject": 3, "problem": "twisting"}
    data = load("jeong2020", tmp_path, **asked, sessions=(1, 2), channels=("C3", "C4"))
    assert data.classes == ("twist_pronation", "twist_supination")
    assert data.recordings == {"mi": (13, 23), "me": (13, 23)}
    assert (data.sfreq, data.mi.x.shape, data.me.x.shape) == (250.0, (8, 2, 1000), (8, 2, 1000))
    assert_in_place(data, lambda task, numbers: 2 * (numbers // 10) + (1 if task == "mi" else 2))
    with pytest.raises(DataError, match=r"lacks session3_sub3_twist_MI.vhdr"):
        load("jeong2020", tmp_path, **asked)
    for sessions, named in ((1,), "no channel FCz"), ((4,), "sessions"):
        with pytest.raises(SpecError, match=named):
            load("jeong2020", tmp_path, **asked, sessions=sessions, channels="motor21")
