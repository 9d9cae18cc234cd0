"""The example's loaders, on stand-in files in the layout of MOABB."""

import os

import mne
import numpy as np
import other_eeg_sets  # noqa: F401  it adds its sets to those that `load` knows
import pytest
from companion.data import load
from companion.data.eeg import ELECTRODES64
from small_sets import recording
from sparsemtl.errors import DataError, SpecError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))


def rename_events(raw, names):
    return raw.set_annotations(raw.annotations.rename(dict(zip(("T1", "T2"), names, strict=True))))


def test_ofner2017(tmp_path, monkeypatch):
    from moabb.datasets import Ofner2017

    names = ELECTRODES64[:61]
    for kind in ("imagination", "execution"):
        for run in range(1, 11):
            path = tmp_path / "ofner2017" / "MNE-upperlimb-data" / f"motor{kind}_subject2_run{run}.gdf"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{kind} {run}")
    path.unlink()  # the tenth run of execution

    def read(self, subject):
        # named and ordered as MOABB does it, from the files that it is given
        session = "1imagination" if self.imagined else "0execution"
        ((kind, run),) = [path.read_text().split() for path in self.data_path(subject, session=session[1:])]
        assert kind == session[1:]
        raw = recording(int(run), [*names, "eog-l"], 512, seed=100 * self.imagined)
        raw.set_channel_types({"eog-l": "eog"}, verbose="ERROR")
        return {session: {"0": rename_events(raw, ("right_hand_close", "right_hand_open"))}}

    monkeypatch.setattr(Ofner2017, "_get_single_subject_data", read)
    with pytest.raises(DataError, match=r"lacks motorexecution_subject2_run10.gdf.* allow_missing_runs=True"):
        load("ofner2017", tmp_path, subject=2, problem="hand")
    data = load("ofner2017", tmp_path, subject=2, problem="hand", allow_missing_runs=True, channels="motor21")
    assert data.classes == ("right_hand_close", "right_hand_open")
    assert data.recordings == {"mi": tuple(range(1, 11)), "me": tuple(range(1, 10))}
    assert (data.sfreq, data.mi.x.shape, data.me.x.shape) == (512.0, (40, 21, 2048), (36, 21, 2048))
    for trials in (data.mi, data.me):
        size = trials.x[:, [data.channels.index("C3"), data.channels.index("C4")]].std(-1)
        np.testing.assert_allclose(size[:, 0], 10 * trials.recording, rtol=0.1)
        np.testing.assert_allclose(size[:, 1], np.where(trials.y == 0, 20, 40), rtol=0.1)
    with pytest.raises(DataError, match="has no trial of right_elbow_flexion"):
        load("ofner2017", tmp_path, subject=2, allow_missing_runs=True)


def test_jeong2020(tmp_path):
    from moabb.datasets import Jeong2020

    names = [*Jeong2020.METADATA.acquisition.sensors, "EMG_1", "EOG_1"]
    folder = tmp_path / "jeong2020" / "MNE-jeong2020-data" / "sub3"
    marks = {"reaching": ("S 11", "S 21"), "twist": ("S 91", "S101")}
    for day in (1, 2):
        for kind in marks:
            for condition, sign in (("MI", 1), ("realMove", 2)):
                raw = rename_events(recording(2 * day + sign, names, 1000), [f"Stimulus/{m}" for m in marks[kind]])
                path = folder / f"session{day}_sub3_{kind}_{condition}.vhdr"
                path.parent.mkdir(parents=True, exist_ok=True)
                mne.export.export_raw(path, raw, verbose="ERROR")
    for path in folder.glob("*reaching*.eeg"):
        os.truncate(path, 0)  # only what is asked for may be read
    data = load("jeong2020", tmp_path, subject=3, problem="twisting", sessions=(1, 2), channels=("C3", "C4"))
    assert data.classes == ("twist_pronation", "twist_supination")
    assert data.recordings == {"mi": (13, 23), "me": (13, 23)}
    assert (data.sfreq, data.mi.x.shape, data.me.x.shape) == (250.0, (8, 2, 1000), (8, 2, 1000))
    for trials, sign in ((data.mi, 1), (data.me, 2)):
        size = trials.x.std(-1)
        np.testing.assert_allclose(size[:, 0], 10 * (2 * (trials.recording // 10) + sign), rtol=0.1)
        np.testing.assert_allclose(size[:, 1], np.where(trials.y == 0, 20, 40), rtol=0.1)
    with pytest.raises(DataError, match=r"lacks session3_sub3_twist_MI.vhdr"):
        load("jeong2020", tmp_path, subject=3, problem="twisting")
    with pytest.raises(SpecError, match="no channel FCz"):
        load("jeong2020", tmp_path, subject=3, problem="twisting", sessions=(1,), channels="motor21")
    with pytest.raises(SpecError, match="sessions"):
        load("jeong2020", tmp_path, subject=3, sessions=(4,))
