"""The loader of EEGMMIDB, on stand-in files whose amplitudes say which run and which class a trial is of."""

import os
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from companion.data import load
from companion.data.eegmmidb import FOLDER, RUNS, sha256
from small_sets import HOME
from sparsemtl.errors import DataError, SpecError


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SPARSEMTL_DATA", "MNE_DATA", "MNE_DATASETS_EEGBCI_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def recorded(made):
    return made("eegmmidb")


@pytest.fixture
def own(copy_of):
    return copy_of("eegmmidb")


def get(root, **options):
    return load("eegmmidb", root, **{"channels": ("C4", "C3"), **options})


@pytest.mark.parametrize(("problem", "classes"), [("left-right", "left_hand right_hand"), ("hands-feet", "hands feet")])
def test_trials_come_from_their_own_runs_with_their_own_labels(recorded, problem, classes):
    data = get(recorded, problem=problem)
    assert (data.classes, data.channels) == (tuple(classes.split()), ("C4", "C3"))
    for task in ("mi", "me"):
        trials = getattr(data, task)
        assert data.recordings[task] == RUNS[problem][task]
        assert trials.x.shape == (12, 2, 640)
        size = trials.x.std(-1)  # microvolts
        np.testing.assert_allclose(size[:, 1], 10 * trials.recording, rtol=0.1)
        np.testing.assert_allclose(size[:, 0], np.where(trials.y % 2 == 0, 20, 40), rtol=0.1)


def test_development_people_have_imagery_alone(recorded, tmp_path):
    home = tmp_path / "eegmmidb-development" / FOLDER / "S002"
    home.mkdir(parents=True)
    for run in ("04", "08", "12"):
        shutil.copy(recorded / HOME / f"S001R{run}.edf", home / f"S002R{run}.edf")
    data = load("eegmmidb-development", tmp_path, subject=2, channels=("C3",))
    assert (data.me, data.recordings) == (None, {"mi": (4, 8, 12)})
    for options in ({"subject": 1}, {"subject": 2, "problem": "hands-feet"}):
        with pytest.raises(SpecError, match="eegmmidb-development has no"):
            load("eegmmidb-development", tmp_path, **options)


def test_root_may_be_the_folder_above_or_the_environment_variable(recorded, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eegmmidb").symlink_to(recorded)
    assert get(tmp_path / "data").fingerprint == get(recorded).fingerprint
    monkeypatch.setenv("SPARSEMTL_DATA", str(tmp_path / "data"))
    assert get(None).fingerprint == get(recorded).fingerprint


@pytest.fixture
def packs(recorded, tmp_path):
    """A folder with the person's recordings as a pack."""
    (tmp_path / "packs").mkdir()
    with tarfile.open(tmp_path / "packs" / "S001.tar.xz", "w:xz", preset=0) as tar:
        tar.add(recorded / HOME, "S001")
    return tmp_path / "packs"


@pytest.mark.parametrize("beside", [[], ["S001R04.edf"]])
def test_a_pack_beside_a_folder_that_lacks_recordings_is_unpacked_into_the_cache(recorded, packs, beside):
    (packs / HOME).mkdir(parents=True)
    for name in beside:
        shutil.copy(recorded / HOME / name, packs / HOME)
    before = sorted(packs.rglob("*"))
    assert get(packs).fingerprint == get(recorded).fingerprint
    assert sorted(packs.rglob("*")) == before


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 1000)])
def test_an_unpacked_file_that_was_lost_or_cut_comes_from_the_pack_again(packs, tmp_path, damage):
    whole = get(packs).fingerprint
    damage(next((tmp_path / "cache").rglob("S001R04.edf")))
    assert get(packs, allow_missing_runs=True).fingerprint == whole


def test_missing_runs_only_when_asked_for(own):
    for run in ("07", "08", "12"):
        (own / HOME / f"S001R{run}.edf").unlink()
    assert get(own, allow_missing_runs=True).recordings == {"mi": (4,), "me": (3, 11)}


def test_a_recording_that_the_published_list_knows_under_another_name_is_refused(own, monkeypatch):
    known = own / "data" / "eegbci_checksums.txt"
    known.parent.mkdir()
    known.write_text(f"S007/S007R04.edf {sha256(own / HOME / 'S001R04.edf')}\n")
    spec = SimpleNamespace(origin=str(own / "__init__.py"))
    monkeypatch.setattr("companion.data.eegmmidb.find_spec", lambda name: spec)
    with pytest.raises(DataError, match=r"S001R04.edf is the recording S007R04.edf under another name"):
        get(own)


def test_a_list_of_checksums_is_obeyed(own):
    files = sorted((own / HOME).iterdir())
    lines = [f"{sha256(path)} S001/{path.name}" for path in files]
    (own / "SHA256SUMS.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    whole = get(own).fingerprint
    files[0].write_bytes(files[0].read_bytes()[:-100] + b"damage" * 20)
    with pytest.raises(DataError, match=r"S001R03.edf is not the file that .*SHA256SUMS.txt lists"):
        get(own)
    (own / "SHA256SUMS.txt").unlink()
    assert get(own).fingerprint != whole


def test_no_data_and_no_network(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("no route to physionet.org")

    with pytest.raises(DataError, match=f"in {tmp_path / 'home' / 'mne_data'}"):
        get(None)
    monkeypatch.setattr("mne.datasets.eegbci.load_data", no_network)
    with pytest.raises(DataError, match=r"cannot download eegmmidb S001 .*no route to physionet.org"):
        get(tmp_path, download=True)
    monkeypatch.setattr(Path, "home", no_network)
    with pytest.raises(DataError, match=r"no folder given .*SPARSEMTL_DATA"):
        get(None)


def test_a_download_is_encrypted_and_what_is_not_the_published_file_never_has_its_name(own, monkeypatch):
    asked, file = [], own / HOME / "S001R04.edf"
    file.unlink()

    def tampered(self, url, output_file, *args, **kwargs):
        asked.append(url)
        Path(output_file).write_bytes(b"tampered")
        assert not file.exists()

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", tampered)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before it is tried again
    with pytest.raises(DataError, match=r"cannot download eegmmidb S001 .*hash"):
        get(own, download=True)
    assert {url.partition(":")[0] for url in asked} == {"https"}
    assert not file.exists()


@pytest.mark.realdata
@pytest.mark.parametrize(("subject", "executed"), [(1, (3, 7, 11)), (6, (3,)), (7, (3, 7)), (18, ())])
def test_real_people(real_data, subject, executed):
    name = "eegmmidb" if executed else "eegmmidb-development"
    data = load(name, real_data(name), subject=subject, allow_missing_runs=True, channels="motor21", sfreq=80)
    assert data.recordings == {"mi": (4, 8, 12)} | ({"me": executed} if executed else {})
    assert data.mi.x.shape == (45, 21, 320)
    assert len(data.me.y if executed else ()) == 15 * len(executed)
    assert 3 < np.median(data.mi.x.std(-1)) < 60
