"""EEG Motor Movement/Imagery (EEGMMIDB; Schalk et al. 2004, doi:10.1109/TBME.2004.827072): files and loaders."""

import hashlib
import lzma
import os
import re
import tarfile
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from sparsemtl.errors import DataError, one_line

from companion.data.cache import cached_folder
from companion.data.eeg import TASKS, motor_data

# Recordings by problem and task; their marks T1 and T2 stand for the two classes of the problem
RUNS = {
    "left-right": {"mi": (4, 8, 12), "me": (3, 7, 11)},
    "hands-feet": {"mi": (6, 10, 14), "me": (5, 9, 13)},
}
FOLDER = Path("MNE-eegbci-data", "files", "eegmmidb", "1.0.0")  # where MNE looks below its data folder
FETCH = "fetch them (`sparsemtl data eegmmidb --download`, or download=True)"
LARGEST = 2**26  # bytes of an EDF in a pack: the recordings have 2.6 million


def load_eegmmidb(
    root=None, subject=1, problem="left-right", allow_missing_runs=False, download=False, name="eegmmidb", **epochs
):
    """Load one person of EEGMMIDB as `MotorData`.

    root: a folder with `eegmmidb/` in it, that folder, or an MNE data folder (default: SPARSEMTL_DATA, then MNE's).
    The EDF files are there as MNE lays them out, or as packs `S001.tar.xz`, which are unpacked into the cache.
    subject: 1 to 109. problem: "left-right" (fists) or "hands-feet" (both fists, both feet): the two classes share
    their recordings. allow_missing_runs: take the recordings that exist if each task has each class. download: fetch
    the person's missing files, of all problems, from PhysioNet (MNE checks them by their checksums). epochs: see
    `companion.data.eeg.EpochOptions`.
    """

    def find(classes, options):
        who, wanted, where = f"{name} S{subject:03d}", RUNS[problem], places(root, name, "eegmmidb")
        tasks = TASKS if name == "eegmmidb" else ("mi",)
        if download:
            _download(who, where, subject, sorted(r for runs in RUNS.values() for task in tasks for r in runs[task]))
        files = {run: f"S{subject:03d}R{run:02d}.edf" for task in tasks for run in wanted[task]}
        packs = (place / f"S{subject:03d}.tar.xz" for place in where)
        homes = (*where, *(unpacked(pack) for pack in packs if pack.is_file()))
        folders = [home / FOLDER / f"S{subject:03d}" for home in homes]
        folder = max(folders, key=lambda folder: sum((folder / file).is_file() for file in files.values()))
        paths = {run: folder / file for run, file in files.items() if (folder / file).is_file()}
        missing = ", ".join(file for run, file in files.items() if run not in paths)
        if not paths:
            raise DataError(f"no recordings of {who} in {folder}: set SPARSEMTL_DATA to where they are, or {FETCH}")
        if missing and not allow_missing_runs:
            raise DataError(f"{who} lacks {missing}: {FETCH}, or use the others (--allow-missing-runs)")
        read = {t: {run: partial(read_edf, paths[run], classes) for run in wanted[t] if run in paths} for t in tasks}
        if absent := [task for task in tasks if not read[task]]:
            fault = f"no {absent[0].upper()} recording for {problem} (lacks {missing})"
            raise DataError(f"{who} has {fault}: {FETCH}, choose another problem, or leave the person out")
        sums = {path.name: sha256(path) for path in paths.values()}
        verify(folder, sums, where)
        return sums, read

    return motor_data(name, subject, problem, find, **epochs)


# Imagined fists of the people on whom the training was chosen, and on whom no claim is tested
load_development = partial(load_eegmmidb, subject=2, name="eegmmidb-development")


def places(root, *names):
    """Folders that may hold a set: each of `names` in `root`, SPARSEMTL_DATA or MNE's data folder, and that folder."""
    base = root or os.environ.get("SPARSEMTL_DATA")
    if not base:
        import mne

        try:
            setting = mne.get_config("MNE_DATASETS_EEGBCI_PATH") or mne.get_config("MNE_DATA")
            base = setting or Path.home() / "mne_data"
        except (OSError, RuntimeError, ValueError) as error:  # no home, or a damaged settings file
            raise DataError(f"no folder given ({one_line(error)}): pass root=, or set SPARSEMTL_DATA") from error
    return [*(Path(base, name) for name in dict.fromkeys(names)), Path(base)]


def unpacked(pack):
    """Return the folder in the cache into which `pack` (S001.tar.xz) is unpacked, named by the pack's checksum."""
    name = pack.name.removesuffix(".tar.xz")

    def unpack(folder):
        try:
            with tarfile.open(pack) as tar:
                for member in tar:
                    file = member.isreg() and re.fullmatch(rf"{name}/{name}R\d\d\.edf", member.name)
                    if not (file and member.size < LARGEST) and not (member.isdir() and member.name == name):
                        raise DataError(f"{pack} holds {member.name!r}, not only {name}/{name}Rnn.edf: get it again")
                    tar.extract(member, folder / FOLDER, filter="data")
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise DataError(f"{pack} is damaged ({one_line(error)}): get the pack again") from error

    return cached_folder(f"eegmmidb-{name}-{sha256(pack)[:12]}", unpack)


def _download(who, where, subject, runs):
    from mne.datasets.eegbci import load_data

    home = next((place for place in where if (place / FOLDER).is_dir()), where[-1])
    try:
        load_data(subject, runs, path=home, update_path=False, verbose="ERROR")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
        raise DataError(f"cannot download {who} ({one_line(error, 200)}): check network and folder") from error


def sha256(path):
    """Return the SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder, sums, where):
    """Raise `DataError` if MNE knows a file by another name, or it is not as in SHA256SUMS.txt of PhysioNet, if there.

    sums: {name: checksum} of the files in `folder`.
    """
    known = _listed(Path(find_spec("mne").origin).with_name("data") / "eegbci_checksums.txt")
    name_of = {digest: name for name, digest in known.items()}
    lists = (place / below / "SHA256SUMS.txt" for place in where for below in ("", FOLDER))
    manifest = next((path for path in lists if path.is_file()), None)
    listed = _listed(manifest) if manifest else sums
    for name, digest in sums.items():
        if (other := name_of.get(digest, name)) != name:
            raise DataError(f"{folder / name} is the recording {other} under another name: fetch both again")
        if listed.get(name) != digest:
            raise DataError(f"{folder / name} is not the file that {manifest} lists: it is damaged, fetch it again")


def _listed(path):
    """Return {file name: checksum} of a list with a checksum and a name, in any order, on each line."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return {Path(name).name: digest for name, digest in (sorted(line, key=len) for line in lines)}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no list of checksums ({one_line(error)}): fetch it again, or delete it") from error


def read_edf(path, classes):
    """Read an EDF file lazily, with standard names of electrodes and `classes` in the place of its marks T1 and T2."""
    import mne

    with warnings.catch_warnings(), mne.utils.catch_logging():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="Number of records from the header")  # else MNE reads what is left
        raw = mne.io.read_raw_edf(path, verbose="WARNING")
    mne.datasets.eegbci.standardize(raw)
    events = dict(zip(("T1", "T2"), classes, strict=True))
    raw.annotations.rename({mark: name for mark, name in events.items() if mark in raw.annotations.description})
    return raw
