"""The loader of EEGMMIDB, on stand-in files whose amplitudes say which run and which class a trial is of."""

import hashlib
import os
import shutil
import tarfile
from pathlib import Path

import mne
import numpy as np
import pytest
from companion.data import load
from companion.data.eeg import DEVELOPMENT, ELECTRODES64, recording_folds
from companion.data.eegmmidb import FOLDER, RUNS, people
from sparsemtl.errors import DataError, SpecError

SIZE = {"T1": 20.0, "T2": 40.0}
HOME = FOLDER / "S001"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SPARSEMTL_DATA", "MNE_DATA", "MNE_DATASETS_EEGBCI_PATH"):
        monkeypatch.delenv(name, raising=False)


def write_edf(path, run, trials=4, who="X"):
    """An EDF as PhysioNet's: 10 Hz of 10 * run microvolts on C3; on C4, 20 Hz that differs for T1 and T2."""
    rng, times = np.random.default_rng(run), np.arange((2 + trials * 5) * 160) / 160
    onsets, labels = 2 + 5.0 * np.arange(trials), rng.permutation(np.resize(["T1", "T2"], trials))
    signal = rng.normal(0, 1, (64, len(times)))
    signal[ELECTRODES64.index("C3")] += 10 * run * 2**0.5 * np.sin(2 * np.pi * 10 * times)
    for onset, label in zip(onsets, labels, strict=True):
        now = (times >= onset) & (times < onset + 4.1)
        signal[ELECTRODES64.index("C4"), now] += SIZE[label] * 2**0.5 * np.sin(2 * np.pi * 20 * times[now])
    names = [f"{name.capitalize()}." for name in ELECTRODES64]  # as PhysioNet writes them
    raw = mne.io.RawArray(1e-6 * signal, mne.create_info(names, 160, "eeg"), verbose="ERROR")
    raw.info["subject_info"] = {"his_id": who}
    marks = np.stack([labels, np.full(trials, "T0")], 1).ravel()
    onsets = np.repeat(onsets, 2) + np.tile([0, 4.1], trials)
    raw.set_annotations(mne.Annotations(onsets, np.tile([4.1, 0.9], trials), marks))
    path.parent.mkdir(parents=True, exist_ok=True)
    mne.export.export_raw(path, raw, physical_range=(-2000.0, 2000.0), overwrite=True, verbose="ERROR")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    for run in range(3, 15):
        write_edf(folder / HOME / f"S001R{run:02d}.edf", run)
    return folder


@pytest.fixture
def own(recorded, tmp_path):
    """A copy of the stand-in files that a test may damage."""
    return Path(shutil.copytree(recorded, tmp_path / "own"))


def get(root, **options):
    return load("eegmmidb", root, **{"channels": ("C4", "C3"), **options})


def remove(folder, *runs):
    for run in runs:
        (folder / HOME / f"S001R{run:02d}.edf").unlink()


@pytest.mark.parametrize(
    ("problem", "classes", "kinds"),
    [
        ("left-right", ("left_hand", "right_hand"), ["fists"]),
        ("hands-feet", ("hands", "feet"), ["both"]),
        ("four-class", ("left_hand", "right_hand", "hands", "feet"), ["fists", "both"]),
    ],
)
def test_trials_come_from_their_own_runs_with_their_own_labels(recorded, problem, classes, kinds):
    data = get(recorded, problem=problem)
    assert (data.classes, data.channels) == (classes, ("C4", "C3"))
    for task in ("mi", "me"):
        trials = getattr(data, task)
        assert data.recordings[task] == tuple(sorted(run for kind in kinds for run in RUNS[kind][task]))
        assert trials.x.shape == (12 * len(kinds), 2, 640)
        size = trials.x.std(-1)  # microvolts
        np.testing.assert_allclose(size[:, 1], 10 * trials.recording, rtol=0.1)
        np.testing.assert_allclose(size[:, 0], np.where(trials.y % 2 == 0, 20, 40), rtol=0.1)
        if problem == "four-class":
            np.testing.assert_array_equal(trials.y >= 2, np.isin(trials.recording, RUNS["both"][task]))
    assert len(recording_folds(data)) == 3


def test_development_people_have_imagery_alone(recorded, tmp_path):
    home = tmp_path / "data" / "eegmmidb-development" / FOLDER / "S002"
    home.mkdir(parents=True)
    for run in (4, 8, 12):
        shutil.copy(recorded / HOME / f"S001R{run:02d}.edf", home / f"S002R{run:02d}.edf")
    data = load("eegmmidb-development", tmp_path / "data", subject=2, channels=("C3",))
    assert (data.me, data.tasks, data.recordings) == (None, ("mi",), {"mi": (4, 8, 12)})
    for options in ({"subject": 1}, {"subject": 2, "problem": "hands-feet"}):
        with pytest.raises(SpecError, match="eegmmidb-development has no"):
            load("eegmmidb-development", tmp_path / "data", **options)


def test_people_are_those_with_recordings_less_the_deviating_and_the_development_ones(tmp_path):
    for subject in (3, 88, 2):
        (tmp_path / FOLDER / f"S{subject:03d}").mkdir(parents=True)
        (tmp_path / FOLDER / f"S{subject:03d}" / "any.edf").touch()
    (tmp_path / FOLDER / "S004").mkdir()  # empty
    (tmp_path / "S109.tar.xz").touch()
    present, left_out = people(tmp_path)
    assert present == [3, 109]
    assert len(left_out) == 107
    assert left_out[88] != left_out[2] != left_out[50]
    assert people(tmp_path, wanted=[3, 50]) == ([3], {50: left_out[50]})
    assert people(tmp_path, name="eegmmidb-development")[0] == [2]
    assert set(DEVELOPMENT) <= set(left_out)


def test_settings_and_home_are_left_alone(recorded, tmp_path, capfd):
    before = dict(os.environ)
    get(recorded)
    assert dict(os.environ) == before
    assert not (tmp_path / "home").exists()
    assert capfd.readouterr() == ("", "")


def test_root_may_be_the_folder_above_or_the_environment_variable(recorded, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eegmmidb").symlink_to(recorded)
    assert get(tmp_path / "data").fingerprint == get(recorded).fingerprint
    monkeypatch.setenv("SPARSEMTL_DATA", str(tmp_path / "data"))
    assert get(None).fingerprint == get(recorded).fingerprint


# Packs


def pack(recorded, folder, *extra):
    folder.mkdir()
    with tarfile.open(folder / "S001.tar.xz", "w:xz", preset=0) as tar:
        tar.add(recorded / HOME, "S001")
        for member in extra:
            tar.addfile(member)
    return folder


@pytest.mark.parametrize("beside", ["nothing", "an empty folder", "a folder with one run"])
def test_a_pack_is_unpacked_into_the_cache(recorded, tmp_path, beside):
    packs = pack(recorded, tmp_path / "packs")
    if beside != "nothing":
        (packs / HOME).mkdir(parents=True)
    if beside == "a folder with one run":
        shutil.copy(recorded / HOME / "S001R04.edf", packs / HOME)
    before = sorted(packs.rglob("*"))
    assert get(packs).fingerprint == get(recorded).fingerprint
    assert sorted(packs.rglob("*")) == before
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 1000)])
def test_an_unpacked_file_that_was_lost_or_cut_comes_from_the_pack_again(recorded, tmp_path, damage):
    packs = pack(recorded, tmp_path / "packs")
    whole = get(packs).fingerprint
    damage(next((tmp_path / "cache").rglob("S001R04.edf")))
    assert get(packs, allow_missing_runs=True).fingerprint == whole


def member(name, kind=tarfile.REGTYPE, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


@pytest.mark.parametrize(
    "extra",
    [
        member("../S001R03.edf"),
        member("/S001R03.edf"),
        member("S001/../../S001/S001R03.edf"),
        member("S001/run.sh"),
        member("S002/S002R03.edf"),
        member("S001/S001R02.edf", tarfile.SYMTYPE, "/etc/passwd"),
        member("S001/S001R02.edf", tarfile.LNKTYPE, "S001/S001R03.edf"),
        member("S001/S001R02.edf", tarfile.FIFOTYPE),
        member("S001", tarfile.SYMTYPE, "/tmp"),
    ],
    ids=lambda extra: f"{extra.name} {extra.type}",
)
def test_a_pack_with_anything_else_is_refused(recorded, tmp_path, extra):
    packs = pack(recorded, tmp_path / "packs", extra)
    with pytest.raises(DataError, match=r"S001.tar.xz holds"):
        get(packs)
    assert not list((tmp_path / "cache").iterdir())


def test_a_cut_pack_and_an_unwritable_cache_are_named(recorded, tmp_path, monkeypatch):
    packs = pack(recorded, tmp_path / "packs")
    monkeypatch.setenv("SPARSEMTL_CACHE", str(packs / "S001.tar.xz" / "cache"))  # below a file there can be no folder
    with pytest.raises(DataError, match=r"cannot write .*SPARSEMTL_CACHE"):
        get(packs)
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))
    os.truncate(packs / "S001.tar.xz", 100_000)
    with pytest.raises(DataError, match=r"S001.tar.xz is damaged .* get the pack again"):
        get(packs)


# Missing and unfit files


def test_missing_runs_only_when_asked_for(own):
    remove(own, 7, 8, 12)
    with pytest.raises(DataError, match=r"lacks S001R08.edf, S001R12.edf, S001R07.edf.* allow_missing_runs=True"):
        get(own)
    assert get(own, allow_missing_runs=True).recordings == {"mi": (4,), "me": (3, 11)}
    remove(own, 3, 11)
    with pytest.raises(DataError, match="too few ME recordings"):
        get(own, allow_missing_runs=True)


def test_four_classes_need_two_recordings_of_each_kind(own):
    remove(own, 6, 10, 9)
    with pytest.raises(DataError, match=r"too few MI recordings for four-class \(lacks S001R06.edf, S001R10.edf"):
        get(own, problem="four-class", allow_missing_runs=True)
    assert get(own, problem="hands-feet", allow_missing_runs=True).recordings == {"mi": (14,), "me": (5, 13)}


@pytest.mark.parametrize(("source", "copy"), [(4, 8), (3, 4), (4, 3), (12, 7)])
@pytest.mark.parametrize("header", ["same", "other"])
def test_one_recording_under_two_names_is_refused(own, source, copy, header):
    path = own / HOME / f"S001R{copy:02d}.edf"
    if header == "same":
        shutil.copy(own / HOME / f"S001R{source:02d}.edf", path)
    else:
        write_edf(path, source, who="another")
    with pytest.raises(DataError, match=f"R(0*){copy}|run {copy}|run {source}"):
        get(own)


def test_a_recording_that_the_published_list_knows_under_another_name_is_refused(own, monkeypatch):
    digest = hashlib.sha256((own / HOME / "S001R04.edf").read_bytes()).hexdigest()
    known = own / "mne" / "data" / "eegbci_checksums.txt"
    known.parent.mkdir(parents=True)
    known.write_text(f"S007/S007R04.edf {digest}\n")
    spec = type("Spec", (), {"origin": str(own / "mne" / "__init__.py")})
    monkeypatch.setattr("companion.data.eegmmidb.find_spec", lambda name: spec)
    with pytest.raises(DataError, match=r"S001R04.edf is the recording S007R04.edf under another name"):
        get(own)


def test_a_list_of_checksums_is_obeyed(own):
    files = sorted((own / HOME).iterdir())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} S001/{path.name}\n" for path in files]
    (own / "SHA256SUMS.txt").write_text("".join(lines), encoding="utf-8-sig")
    whole = get(own).fingerprint
    with open(own / HOME / "S001R03.edf", "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"damage")
    with pytest.raises(DataError, match=r"S001R03.edf is not the file that .*SHA256SUMS.txt lists"):
        get(own)
    (own / "SHA256SUMS.txt").unlink()
    assert get(own).fingerprint != whole


@pytest.mark.parametrize("content", [b"word\n", b"\xff\xfe"])
def test_a_damaged_list_of_checksums_is_named(own, content):
    (own / "SHA256SUMS.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"SHA256SUMS.txt is no list of checksums .* fetch it again"):
        get(own)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "channel"])
def test_a_damaged_file_is_named_in_one_line(own, damage):
    path = own / HOME / "S001R04.edf"
    content = path.read_bytes()
    new = {"cut": content[: len(content) * 2 // 3], "empty": b"", "text": b"word\n" * 99}
    path.write_bytes(new.get(damage, content.replace(b"C3.", b"D3.", 1)))
    with pytest.raises(DataError, match=r"run 4 .*fetch") as caught:
        get(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", ["dangling link", "folder", "unreadable"])
def test_what_cannot_be_opened_is_a_data_error(own, monkeypatch, way):
    path = own / HOME / "S001R04.edf"
    if way == "unreadable":
        message = "S001R04.edf.*Permission denied"

        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("companion.data.eegmmidb.sha256", refuse)
    else:
        path.unlink()
        path.mkdir() if way == "folder" else path.symlink_to(own / "nowhere")
        message = "lacks S001R04.edf"
    with pytest.raises(DataError, match=message):
        get(own)


def test_no_data_and_no_network(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no recordings of eegmmidb S001 .*SPARSEMTL_DATA.*download=True"):
        get(tmp_path)
    with pytest.raises(DataError, match=f"in {tmp_path / 'home' / 'mne_data'}"):
        get(None)

    def no_network(*args, **kwargs):
        raise ConnectionError("no route to physionet.org")

    monkeypatch.setattr("mne.datasets.eegbci.load_data", no_network)
    with pytest.raises(DataError, match=r"cannot download eegmmidb S001 .*no route to physionet.org.*check network"):
        get(tmp_path, download=True)
    monkeypatch.setattr(Path, "home", no_network)
    with pytest.raises(DataError, match=r"no folder given .*SPARSEMTL_DATA"):
        get(None)


def test_a_download_fetches_the_recordings_of_all_problems(own, monkeypatch):
    asked = []
    monkeypatch.setattr("mne.datasets.eegbci.load_data", lambda subject, runs, **_: asked.append((subject, runs)))
    get(own, download=True)
    assert asked == [(1, list(range(3, 15)))]


@pytest.mark.parametrize("subject", [0, 110, "S001", 1.5])
def test_an_unknown_person_is_refused(recorded, subject):
    with pytest.raises(SpecError, match="has no person"):
        get(recorded, subject=subject)


# Real recordings


@pytest.mark.realdata
@pytest.mark.parametrize(("subject", "executed"), [(1, (3, 7, 11)), (6, (3,)), (7, (3, 7))])
def test_real_people(real_data, subject, executed):
    data = load("eegmmidb", real_data("eegmmidb"), subject=subject, allow_missing_runs=True, channels="motor21")
    assert data.recordings == {"mi": (4, 8, 12), "me": executed}
    assert (len(data.mi.y), len(data.me.y)) == (45, 15 * len(executed))
    assert 3 < np.median(data.mi.x.std(-1)) < 60


@pytest.mark.realdata
def test_a_real_development_person(real_data):
    data = load("eegmmidb-development", real_data("eegmmidb-development"), subject=18, channels="motor21", sfreq=80)
    assert data.recordings == {"mi": (4, 8, 12)}
    assert data.mi.x.shape == (45, 21, 320)
