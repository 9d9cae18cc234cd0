"""The EEG loaders, on stand-in files in which each sample tells which run and which class it is of."""

import os
import shutil
import tarfile
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.signal
from companion.data import load
from companion.data.eeg import MOTOR21, MotorData, Trials, stratified_folds
from companion.data.eeg_sets import RUNS
from sparsemtl.errors import DataError, SpecError

SFREQ, CLASS_SIZE = 160, {"T1": 20.0, "T2": 40.0}
EDF = Path("MNE-eegbci-data/files/eegmmidb/1.0.0")
DATA = Path(os.environ.get("SPARSEMTL_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SPARSEMTL_DATA", "MNE_DATA", "MNE_DATASETS_EEGBCI_PATH"):
        monkeypatch.delenv(name, raising=False)


def sine(size, frequency, times):
    """A sine of the given root mean square (microvolts)."""
    return size * 2**0.5 * np.sin(2 * np.pi * frequency * times)


def stand_in(run, names, sfreq=SFREQ, trials=4, lasts=4.1):
    """A Raw as in an EDF of EEGMMIDB: 10 Hz of 10 * run microvolts on C3; on C4, 20 Hz that tells T1 from T2."""
    rng = np.random.default_rng(run)
    times = np.arange((2 + trials * 5) * sfreq) / sfreq
    onsets = 2 + 5.0 * np.arange(trials)
    labels = rng.permutation(np.resize(["T1", "T2"], trials))
    signals = dict(zip(names, rng.normal(0, 1, (len(names), len(times))), strict=True))
    signals["C3"] += sine(10 * run, 10, times)
    for onset, label in zip(onsets, labels, strict=True):
        now = (times >= onset) & (times < onset + 4.1)
        signals["C4"][now] += sine(CLASS_SIZE[label], 20, times[now])
    raw = mne.io.RawArray(
        1e-6 * np.array(list(signals.values())), mne.create_info(names, sfreq, "eeg"), verbose="ERROR"
    )
    onsets, labels = np.repeat(onsets, 2), np.stack([labels, np.full(trials, "T0")], 1).ravel()
    marks = mne.Annotations(onsets + np.tile([0, lasts], trials), np.tile([lasts, 5 - lasts], trials), labels)
    return raw.set_annotations(marks)


def write_edf(folder, subject, run, **how):
    from moabb.datasets import PhysionetMI

    names = list(PhysionetMI.METADATA.acquisition.sensors)[: how.pop("n_channels", 64)]
    flat = how.pop("flat", None)
    raw = stand_in(run, names, **how)
    if flat:
        raw._data[names.index(flat)] = 0
    raw.rename_channels({name: f"{name.capitalize()}." for name in names})  # as PhysioNet writes them
    path = folder / EDF / f"S{subject:03d}" / f"S{subject:03d}R{run:02d}.edf"
    path.parent.mkdir(parents=True, exist_ok=True)
    mne.export.export_raw(path, raw, physical_range=(-2000.0, 2000.0), overwrite=True, verbose="ERROR")
    return path


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    for run in range(3, 15):
        write_edf(folder, 1, run)
    return folder


@pytest.fixture
def own(recorded, tmp_path):
    """A copy of the stand-in files that a test may damage."""
    return Path(shutil.copytree(recorded, tmp_path / "own"))


def test_trials_come_from_their_own_runs_with_their_own_labels(recorded):
    data = load("eegmmidb", recorded, channels=("C4", "C3"))
    assert data.classes == ("left_hand", "right_hand")
    assert data.channels == ("C4", "C3")
    assert data.recordings == {"mi": (4, 8, 12), "me": (3, 7, 11)}
    for trials in (data.mi, data.me):
        assert trials.x.shape == (12, 2, 640)
        assert (trials.x.dtype, trials.y.dtype, trials.recording.dtype) == (np.float32, np.int64, np.int64)
        size = trials.x.std(-1)  # microvolts
        np.testing.assert_allclose(size[:, 1], 10 * trials.recording, rtol=0.1)
        np.testing.assert_allclose(size[:, 0], np.where(trials.y == 0, 20, 40), rtol=0.1)
        assert set(trials.y) == {0, 1}


def test_four_classes_take_the_runs_of_both_fists_and_feet(recorded):
    data = load("eegmmidb", recorded, problem="four-class", channels=["C3", "C4"])
    assert data.classes == ("left_hand", "right_hand", "hands", "feet")
    assert data.recordings == {"mi": (4, 6, 8, 10, 12, 14), "me": (3, 5, 7, 9, 11, 13)}
    for task, trials in (("mi", data.mi), ("me", data.me)):
        both = np.isin(trials.recording, RUNS["both"][task])
        np.testing.assert_array_equal(trials.y >= 2, both)
        np.testing.assert_allclose(trials.x[:, 0].std(-1), 10 * trials.recording, rtol=0.1)
        np.testing.assert_allclose(trials.x[:, 1].std(-1), np.where(trials.y % 2 == 0, 20, 40), rtol=0.1)


def plain_epochs(path, fmin, fmax, start, stop):
    """(x, T1 or T2 of each trial, names) with SciPy's Butterworth filter and array slices."""
    raw = mne.io.read_raw_edf(path, verbose="ERROR")
    sfreq = raw.info["sfreq"]
    sos = scipy.signal.butter(4, (fmin, fmax), "bandpass", fs=sfreq, output="sos")
    signal = scipy.signal.sosfiltfilt(sos, 1e6 * raw.get_data(), padlen=1000)
    marks = [(round(a["onset"] * sfreq), a["description"]) for a in raw.annotations if a["description"] != "T0"]
    x = [signal[:, at + round(start * sfreq) : at + round(stop * sfreq)] for at, _ in marks]
    return np.array(x), [kind for _, kind in marks], [name.strip(".").upper() for name in raw.ch_names]


def assert_same_as_plain(data, folder):
    for trials in (data.mi, data.me):
        for run in np.unique(trials.recording):
            path = next(folder.glob(f"*R{run:02d}.edf"))
            x, kinds, names = plain_epochs(path, 8, 30, 0.5, 3.5)
            order = [names.index(channel.upper()) for channel in data.channels]
            here = trials.recording == run
            np.testing.assert_array_equal(trials.y[here], [kind == "T2" for kind in kinds])
            # filters differ in how they treat the ends of a recording: far from them they are the same
            np.testing.assert_allclose(trials.x[here], x[:, order], atol=0.02 * x.std())


def test_epochs_equal_scipy_and_slices(recorded):
    data = load("eegmmidb", recorded, fmin=8, fmax=30, tmin=0.5, tmax=3.5, channels="motor21")
    assert data.channels == MOTOR21
    assert_same_as_plain(data, recorded / EDF / "S001")


def test_resampling_keeps_the_signal(recorded):
    full = load("eegmmidb", recorded, channels=("C3", "C4"))
    half = load("eegmmidb", recorded, channels=("C3", "C4"), sfreq=80)
    assert (half.sfreq, half.mi.x.shape) == (80.0, (12, 2, 320))
    inner = slice(20, -20)  # the ends of a resampled epoch ring
    np.testing.assert_allclose(half.mi.x[..., inner], full.mi.x[..., ::2][..., inner], atol=4)
    np.testing.assert_array_equal(half.mi.y, full.mi.y)


def test_second_call_reads_the_cache_and_the_fingerprint_covers_files_and_options(own, monkeypatch):
    first = load("eegmmidb", own, channels=("C3",))
    with monkeypatch.context() as patch:
        patch.setattr("companion.data.eeg._epochs", None)
        again = load("eegmmidb", own, channels=["C3"], fmin=4)
    np.testing.assert_array_equal(first.mi.x, again.mi.x)
    assert first.fingerprint == again.fingerprint
    other_options = load("eegmmidb", own, channels=("C3",), fmax=30)
    write_edf(own, 1, 4, trials=5)
    other_file = load("eegmmidb", own, channels=("C3",))
    assert len({first.fingerprint, other_options.fingerprint, other_file.fingerprint}) == 3
    assert len(other_file.mi.y) == len(first.mi.y) + 1


def test_leaves_settings_alone(recorded, tmp_path, capfd):
    before = dict(os.environ)
    load("eegmmidb", recorded, channels=("C3",))
    assert dict(os.environ) == before
    assert not (tmp_path / "home" / ".mne").exists()
    assert not (tmp_path / "home" / "mne_data").exists()
    assert capfd.readouterr() == ("", "")


def test_root_may_be_the_folder_above_or_the_environment_variable(recorded, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eegmmidb").symlink_to(recorded)
    direct = load("eegmmidb", recorded, channels=("C3",))
    assert load("eegmmidb", tmp_path / "data", channels=("C3",)).fingerprint == direct.fingerprint
    monkeypatch.setenv("SPARSEMTL_DATA", str(tmp_path / "data"))
    assert load("eegmmidb", channels=("C3",)).fingerprint == direct.fingerprint


def pack(recorded, folder, *extra):
    folder.mkdir()
    with tarfile.open(folder / "S001.tar.xz", "w:xz", preset=0) as tar:
        tar.add(recorded / EDF / "S001", "S001")
        for member in extra:
            tar.addfile(member)
    return folder


def test_packs_are_unpacked_into_the_cache(recorded, tmp_path):
    packs = pack(recorded, tmp_path / "packs")
    data = load("eegmmidb", packs, channels=("C3",))
    assert data.fingerprint == load("eegmmidb", recorded, channels=("C3",)).fingerprint
    assert [path.name for path in packs.iterdir()] == ["S001.tar.xz"]
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_cache_that_is_carried_serves_a_machine_without_mne(recorded, tmp_path, monkeypatch):
    choice = {"channels": ("C3",), "subject": 1}
    here = load("eegmmidb", recorded, **choice)

    def missing(what, *_):
        raise SpecError(f"{what}: no package mne; pip install 'sparsemtl[eeg]'")

    monkeypatch.setattr("companion.data.eeg.needs", missing)
    there = load("eegmmidb", tmp_path / "nothing", **choice)
    assert (there.fingerprint, there.channels, there.classes, there.runs, there.name) == (
        here.fingerprint, here.channels, here.classes, here.runs, here.name)  # fmt: skip
    np.testing.assert_array_equal(there.mi.x, here.mi.x)
    for other in ({"channels": ("C4",)}, {"subject": 2}, {"tmax": 2.5}):
        with pytest.raises(SpecError, match=r"no package mne; .*, or carry the cache of a machine that has it here"):
            load("eegmmidb", **choice | other)
    for path in (tmp_path / "cache").glob("eegmmidb-*.npz"):
        path.unlink()
    with pytest.raises(SpecError, match="carry the cache"):
        load("eegmmidb", **choice)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 1000)])
def test_an_unpacked_file_that_was_lost_or_cut_comes_from_the_pack_again(recorded, tmp_path, damage):
    packs = pack(recorded, tmp_path / "packs")
    whole = load("eegmmidb", packs, channels=("C3",)).fingerprint
    (home,) = (tmp_path / "cache").glob("eegmmidb-S001-*[0-9a-f]")
    damage(next(home.rglob("S001R04.edf")))
    assert load("eegmmidb", packs, channels=("C3",), allow_missing_runs=True).fingerprint == whole


def test_recordings_that_were_fetched_beside_those_of_a_pack_stay(recorded, tmp_path):
    packs = pack(recorded, tmp_path / "packs")
    load("eegmmidb", packs, channels=("C3",))
    (home,) = (tmp_path / "cache").glob("eegmmidb-S001-*[0-9a-f]")
    fetched = next(home.rglob("S001R04.edf")).with_name("S001R01.edf")
    fetched.write_bytes(b"fetched")
    load("eegmmidb", packs, channels=("C4",))
    assert fetched.read_bytes() == b"fetched"


@pytest.mark.parametrize("name", ["../S001R03.edf", "/S001R03.edf", "S001/run.sh", "S002/S002R03.edf"])
def test_pack_with_anything_else_is_refused(recorded, tmp_path, name):
    packs = pack(recorded, tmp_path / "packs", tarfile.TarInfo(name))
    with pytest.raises(DataError, match=r"S001.tar.xz holds .* get the pack again"):
        load("eegmmidb", packs)
    assert not list((tmp_path / "cache").glob("eegmmidb-S001-*"))


def test_pack_with_a_link_is_refused(recorded, tmp_path):
    link = tarfile.TarInfo("S001/S001R02.edf")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(DataError, match=r"holds 'S001/S001R02.edf'"):
        load("eegmmidb", pack(recorded, tmp_path / "packs", link))


def test_damaged_pack(recorded, tmp_path):
    packs = pack(recorded, tmp_path / "packs")
    os.truncate(packs / "S001.tar.xz", 100_000)
    with pytest.raises(DataError, match=r"S001.tar.xz is damaged .* get the pack again"):
        load("eegmmidb", packs)


def test_unwritable_cache(recorded, tmp_path, monkeypatch):
    packs = pack(recorded, tmp_path / "packs")
    monkeypatch.setenv("SPARSEMTL_CACHE", str(packs / "S001.tar.xz" / "cache"))  # below a file there can be no folder
    with pytest.raises(DataError, match=r"cannot unpack .*S001.tar.xz to .*SPARSEMTL_CACHE"):
        load("eegmmidb", packs)


def test_missing_runs_only_when_asked_for(own):
    for run in (7, 8, 12):
        (own / EDF / "S001" / f"S001R{run:02d}.edf").unlink()
    with pytest.raises(DataError, match=r"lacks S001R08.edf, S001R12.edf, S001R07.edf .* allow_missing_runs=True"):
        load("eegmmidb", own)
    data = load("eegmmidb", own, allow_missing_runs=True, channels=("C3",))
    assert data.recordings == {"mi": (4,), "me": (3, 11)}
    np.testing.assert_allclose(data.me.x[:, 0].std(-1), 10 * data.me.recording, rtol=0.1)


def test_subject_without_one_condition(own):
    for run in RUNS["fists"]["me"]:
        (own / EDF / "S001" / f"S001R{run:02d}.edf").unlink()
    with pytest.raises(DataError, match=r"has none of S001R03.edf, S001R07.edf, S001R11.edf .* leave the subject out"):
        load("eegmmidb", own, allow_missing_runs=True)


def test_no_data(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no recordings of eegmmidb S001 .*SPARSEMTL_DATA.*download=True"):
        load("eegmmidb", tmp_path)
    with pytest.raises(DataError, match=f"below {tmp_path / 'home' / 'mne_data'}: "):
        load("eegmmidb")

    def no_network(*args, **kwargs):
        raise ConnectionError("no route to physionet.org")

    monkeypatch.setattr("mne.datasets.eegbci.load_data", no_network)
    with pytest.raises(DataError, match=r"cannot download eegmmidb S001 .*no route to physionet.org.*check network"):
        load("eegmmidb", tmp_path, download=True)


def test_truncated_file(own):
    path = own / EDF / "S001" / "S001R04.edf"
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(DataError, match=r"S001R04.edf is truncated or not EDF .* fetch it again"):
        load("eegmmidb", own)


def test_checksum_list(own):
    sums = own / "SHA256SUMS.txt"
    sums.write_text(os.popen(f"cd {own / EDF} && sha256sum S001/*.edf").read())
    assert load("eegmmidb", own, channels=("C3",)).runs["mi"] == (4, 8, 12)
    path = own / EDF / "S001" / "S001R03.edf"
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"damage")
    with pytest.raises(DataError, match=r"S001R03.edf is not the file that .*SHA256SUMS.txt lists"):
        load("eegmmidb", own, channels=("C3",))


@pytest.mark.parametrize("content", [b"word\n", b"\xff\xfe"])
def test_a_damaged_checksum_list_is_named(own, content):
    (own / "SHA256SUMS.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"SHA256SUMS.txt is no list of checksums .* fetch it again"):
        load("eegmmidb", own)


def test_a_download_fetches_the_recordings_of_both_problems(own, monkeypatch):
    asked = []
    monkeypatch.setattr("mne.datasets.eegbci.load_data", lambda subject, runs, **_: asked.append((subject, runs)))
    load("eegmmidb", own, download=True, channels=("C3",))
    assert asked == [(1, list(range(3, 15)))]  # all but the two of the person at rest


@pytest.mark.parametrize("name", ["ofner2017", "jeong2020"])
def test_a_download_asks_the_server_who_it_is(name, tmp_path, monkeypatch):
    import requests

    asked = []

    def get(url, **options):
        asked.append((url.partition(":")[0], options.get("verify")))
        raise requests.exceptions.SSLError("certificate verify failed")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(DataError, match=rf"cannot download {name} subject 1 .*certificate verify failed"):
        load(name, tmp_path, download=True)
    assert asked
    assert {verify for _, verify in asked} <= {True, None}  # None: requests' own default, which verifies


def test_trials_that_end_before_the_window_are_refused(own):
    write_edf(own, 1, 8, lasts=1.4)
    with pytest.raises(DataError, match=r"S001R08.edf has trials of 1.4 s, and epochs reach to 4 s .* pass tmax=1.4"):
        load("eegmmidb", own, channels=("C3",))
    assert load("eegmmidb", own, channels=("C3",), tmax=1.4).mi.x.shape == (12, 1, 224)


def test_other_sampling_rate_needs_a_word(own):
    for run in (4, 8, 12, 3, 7, 11):
        write_edf(own, 88, run, sfreq=128)
    with pytest.raises(DataError, match=r"subject 88 MI run 4 has 128 Hz, not the 160 Hz of the set: pass sfreq=128"):
        load("eegmmidb", own, subject=88)
    slow, usual = (load("eegmmidb", own, subject=subject, sfreq=128, channels=("C3", "C4")) for subject in (88, 1))
    assert slow.mi.x.shape == usual.mi.x.shape == (12, 2, 512)
    np.testing.assert_allclose(slow.mi.x.std(-1), usual.mi.x.std(-1), rtol=0.05)


def test_wrong_channel_count(own):
    write_edf(own, 1, 8, n_channels=63)
    with pytest.raises(DataError, match=r"S001R08.edf has 63 channels, not 64: fetch it again"):
        load("eegmmidb", own)


def test_flat_channel(own):
    write_edf(own, 1, 7, flat="CP4")
    with pytest.raises(DataError, match=r"ME run 7 channel CP4 is flat in 4 trials: pass channels= without it"):
        load("eegmmidb", own)
    assert load("eegmmidb", own, channels=("C3", "C4")).me.x.shape == (12, 2, 640)


def test_nan(recorded, monkeypatch):
    from moabb.datasets import PhysionetMI

    read = PhysionetMI._load_one_run

    def spoil(self, subject, run, preload=True):
        raw = read(self, subject, run)
        if run == 8:
            raw._data[raw.ch_names.index("Cz"), 1000] = np.nan
        return raw

    monkeypatch.setattr(PhysionetMI, "_load_one_run", spoil)
    with pytest.raises(DataError, match=r"MI run 8 channel Cz is NaN in 4 trials"):
        load("eegmmidb", recorded)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": 110}, "has no subject 110: choose 1 to 109"),
        ({"subject": "S001"}, "has no subject 'S001'"),
        ({"problem": "feet"}, "no problem 'feet': choose one of left-right, four-class"),
        ({"channels": "motor"}, "channels='motor': pass 'all', 'motor21'"),
        ({"channels": ("C3", "C3")}, "different electrode names"),
        ({"channels": ("C3", "Q9")}, "has no channel Q9: choose from FC5, "),
        ({"fmax": 80}, "fmax=80: 0 < fmin < fmax < 80 must hold"),
        ({"fmin": 0}, "fmin=0"),
        ({"tmin": 4}, "tmin must be below tmax"),
        ({"sfreq": float("nan")}, "sfreq=nan: a number is needed"),
        ({"tmax": "4"}, "tmax='4': a number is needed"),
    ],
)
def test_bad_options(recorded, options, message):
    with pytest.raises(SpecError, match=message):
        load("eegmmidb", recorded, **options)


def rename_events(raw, names):
    """The stand-in's T1 and T2 as two events of another set."""
    keep = raw.annotations[np.isin(raw.annotations.description, ["T1", "T2"])]
    return raw.set_annotations(keep.rename(dict(zip(("T1", "T2"), names, strict=True))))


def test_ofner2017(tmp_path, monkeypatch):
    from moabb.datasets import Ofner2017, PhysionetMI

    names = [*PhysionetMI.METADATA.acquisition.sensors][:61]
    for kind in ("imagination", "execution"):
        for run in range(1, 11):
            path = tmp_path / "ofner2017" / "MNE-upperlimb-data" / f"motor{kind}_subject2_run{run}.gdf"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{kind} {run}")
    path.unlink()  # the tenth run of execution

    def read(self, subject):
        # named and ordered as MOABB does it, from the files that it is given
        session = "1imagination" if self.imagined else "0execution"
        runs = [path.read_text().split() for path in self.data_path(subject, session=session[1:])]
        assert {kind for kind, _ in runs} == {session[1:]}
        raws = [stand_in(int(run), [*names, "eog-l"], 512) for _, run in runs]
        for raw in raws:
            raw.set_channel_types({"eog-l": "eog"}, verbose="ERROR")
            rename_events(raw, ("right_hand_close", "right_hand_open"))
        return {session: {str(index): raw for index, raw in enumerate(raws)}}

    monkeypatch.setattr(Ofner2017, "_get_single_subject_data", read)
    with pytest.raises(DataError, match=r"lacks motorexecution_subject2_run10.gdf .* allow_missing_runs=True"):
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
                raw = rename_events(stand_in(2 * day + sign, names, 1000), [f"Stimulus/{m}" for m in marks[kind]])
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


def labelled(y):
    y = np.array(y)
    return Trials(np.zeros((len(y), 2, 8), np.float32), y, np.ones(len(y), np.int64))


def test_folds_partition_each_task_and_keep_its_classes():
    data = MotorData(labelled([0, 1] * 10), labelled([0] * 8 + [1] * 12), ("a", "b"), 8.0, ("l", "r"), {}, "")
    folds = stratified_folds(data, 4, seed=3)
    assert len(folds) == 4
    for task in ("mi", "me"):
        y = getattr(data, task).y
        tests = np.concatenate([fold[task][1] for fold in folds])
        np.testing.assert_array_equal(np.sort(tests), np.arange(20))
        for fold in folds:
            train, test = fold[task]
            np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(20))
            np.testing.assert_allclose(np.bincount(y[test]), np.bincount(y) / 4, atol=0.5)
    for fold, same in zip(folds, stratified_folds(data, 4, seed=3), strict=True):
        np.testing.assert_array_equal(fold["mi"][1], same["mi"][1])
    other = stratified_folds(data, 4, seed=4)
    assert any(not np.array_equal(a["mi"][1], b["mi"][1]) for a, b in zip(folds, other, strict=True))


def test_fewer_trials_than_folds():
    data = MotorData(labelled([0, 1] * 5), labelled([0] * 7 + [1] * 3), ("a", "b"), 8.0, ("l", "r"), {}, "", name="S")
    with pytest.raises(DataError, match=r"S has too few ME trials for 4 folds \(7 l, 3 r\): take fewer folds"):
        stratified_folds(data, 4, seed=0)
    with pytest.raises(SpecError, match="n_folds=1"):
        stratified_folds(data, 1, seed=0)


@pytest.fixture
def real():
    if not (DATA / "eegmmidb" / "S001.tar.xz").is_file():
        pytest.skip(f"no recordings of EEGMMIDB below {DATA}: set SPARSEMTL_DATA")
    return DATA


@pytest.mark.realdata
def test_real_recordings_equal_scipy_and_slices(real, tmp_path):
    data = load("eegmmidb", real, fmin=8, fmax=30, tmin=0.5, tmax=3.5)
    assert data.recordings == {"mi": (4, 8, 12), "me": (3, 7, 11)}
    assert data.mi.x.shape == data.me.x.shape == (45, 64, 480)
    assert_same_as_plain(data, next((tmp_path / "cache").glob("eegmmidb-S001-*")) / EDF / "S001")


@pytest.mark.realdata
@pytest.mark.parametrize(("subject", "executed"), [(3, (3, 7)), (6, (3,)), (7, (3, 7))])
def test_real_subjects_with_missing_runs(real, subject, executed):
    with pytest.raises(DataError, match=f"S{subject:03d}R11.edf"):
        load("eegmmidb", real, subject=subject)
    data = load("eegmmidb", real, subject=subject, allow_missing_runs=True, channels="motor21")
    assert data.recordings == {"mi": (4, 8, 12), "me": executed}
    assert (len(data.mi.y), len(data.me.y)) == (45, 15 * len(executed))
