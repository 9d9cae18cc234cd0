"""Files of the EEG sets: where they are, and whether they are all there and whole."""

import hashlib
import lzma
import os
import re
import tarfile
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from sparsemtl.errors import DataError, one_line

from companion.data.cache import WAY_OUT, cache_dir, is_whole, seal
from companion.files import folder_whole

FETCH = "fetch them (`sparsemtl data NAME --download`, or download=True)"
EEGBCI = Path("MNE-eegbci-data", "files", "eegmmidb", "1.0.0")  # where MNE looks below its data folder
SIGNS = {"ofner2017": "UPPERLIMB", "jeong2020": "JEONG2020"}  # in MNE's settings; the others are EEGBCI
LARGEST = 2**26  # bytes of an EDF in a pack: the recordings have 2.6 million


def places(root, *names):
    """Folders that may hold a set: `name` in `root`, SPARSEMTL_DATA or MNE's data folder, and that folder itself."""
    base = root or os.environ.get("SPARSEMTL_DATA")
    if not base:
        base = _mne_folder(f"MNE_DATASETS_{SIGNS.get(names[0], 'EEGBCI')}_PATH")
    return [*(Path(base, name) for name in names), Path(base)]


def _mne_folder(setting):
    import mne

    try:
        return mne.get_config(setting) or mne.get_config("MNE_DATA") or Path.home() / "mne_data"
    except (OSError, RuntimeError, ValueError) as error:  # no home, or a damaged settings file
        raise DataError(f"no folder given ({one_line(error)}): pass root=, or set SPARSEMTL_DATA") from error


def find(root, name, folder):
    """Return the place that has `folder` in it, or where it should be."""
    where = places(root, name)
    return next((place for place in where if (place / folder).is_dir()), where[-1])


def find_eegmmidb(root, names, subject, runs):
    """Return the folder of a person's EDF files, and PhysioNet's list of checksums or None.

    The folders `names` below `root` are searched for EDF files as MNE lays them out, and for packs `S001.tar.xz`. The
    first place with all `runs` is taken, else the one with most of them.
    """
    name = f"S{subject:03d}"
    where = places(root, *names)
    best, most = where[-1] / EEGBCI / name, 0
    for place in where:
        for folder in (place / EEGBCI / name, place / f"{name}.tar.xz"):
            if folder.is_file():
                folder = unpacked(folder) / EEGBCI / name
            found = sum((folder / f"{name}R{run:02d}.edf").is_file() for run in runs)
            if found > most:
                best, most = folder, found
    lists = (place / below / "SHA256SUMS.txt" for place in where for below in ("", EEGBCI))
    return best, next((path for path in lists if path.is_file()), None)


def unpacked(pack):
    """Return the MNE data folder in the cache into which `pack` (S001.tar.xz) is unpacked, named by its checksum."""
    name = pack.name.removesuffix(".tar.xz")
    home = cache_dir() / f"eegmmidb-{name}-{sha256(pack)[:12]}"
    if is_whole(home):
        return home
    with folder_whole(home, DataError, WAY_OUT) as part:
        try:
            with tarfile.open(pack) as tar:
                for member in tar:
                    file = member.isreg() and re.fullmatch(rf"{name}/{name}R\d\d\.edf", member.name)
                    if not (file and member.size < LARGEST) and not (member.isdir() and member.name == name):
                        raise DataError(f"{pack} holds {member.name!r}, not only {name}/{name}Rnn.edf: get it again")
                    tar.extract(member, part / EEGBCI, filter="data")
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise DataError(f"{pack} is damaged ({one_line(error)}): get the pack again") from error
        seal(part)
    return home


def existing(who, home, wanted, allow_missing_runs, fewest=1):
    """Return the recordings that exist, {task: {number: path}}.

    Parameters
    ----------
    who, home : str, Path
        For messages.
    wanted : dict
        {task: [{number: path}, ...]}; each dict of the list holds the recordings of the same classes.
    allow_missing_runs : bool
        Accept missing recordings if `fewest` of each dict exist.

    Raises
    ------
    DataError
        Recordings are missing.
    """
    groups = [group for groups in wanted.values() for group in groups]
    missing = [path.name for group in groups for path in group.values() if not path.is_file()]
    if len(missing) == sum(map(len, groups)):
        raise DataError(
            f"no recordings of {who} below {home}: set SPARSEMTL_DATA to the folder that holds them, or {FETCH}"
        )
    for group in groups:
        if sum(path.is_file() for path in group.values()) < fewest:
            names = ", ".join(path.name for path in group.values())
            raise DataError(
                f"{who} has fewer than {fewest} of {names} in {home}: {FETCH}, choose another problem, "
                "or leave the person out"
            )
    if missing and not allow_missing_runs:
        raise DataError(f"{who} lacks {', '.join(missing)} in {home}: {FETCH}, or pass allow_missing_runs=True")
    return {
        task: {run: path for group in groups for run, path in group.items() if path.is_file()}
        for task, groups in wanted.items()
    }


def download(who, fetch):
    """Call `fetch()`; raise `DataError` if there is no network or no space."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fetch()
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
        raise DataError(f"cannot download {who} ({one_line(error, 200)}): check network and folder") from error


def sha256(path):
    """Return the SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(paths):
    """Return {file name: SHA-256} of `paths`; raise `DataError` if two files are the same."""
    sums = {path.name: sha256(path) for path in paths}
    twice = next((digest for digest, count in Counter(sums.values()).items() if count > 1), None)
    if twice:
        one, other = [name for name, digest in sums.items() if digest == twice][:2]
        raise DataError(f"{one} and {other} hold the same recording: one has a wrong name, fetch both again")
    return sums


def verify(folder, sums, manifest):
    """Raise `DataError` if a checksum differs from PhysioNet's list, or belongs to another recording of EEGMMIDB.

    The list is the file `manifest`. Without it (None) only the second is checked, by the list that MNE ships.
    """
    known = _listed(manifest, 0) if manifest else {}
    shipped = Path(find_spec("mne").origin).with_name("data") / "eegbci_checksums.txt"
    names = {digest: name for name, digest in _listed(shipped, 1).items()}
    for name, digest in sums.items():
        if manifest and known.get(name) != digest:
            raise DataError(f"{folder / name} is not the file that {manifest} lists: it is damaged, fetch it again")
        if names.get(digest, name) != name:
            raise DataError(f"{folder / name} is the recording {names[digest]} under a wrong name: fetch it again")


def _listed(path, column):
    """Return {file name: checksum} of a list whose lines have the checksum in `column` and the name in the other."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return {Path(line[1 - column]).name: line[column] for line in lines}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no list of checksums ({one_line(error)}): fetch it again, or delete it") from error


def read_edf(path, events):
    """Read an EDF file of EEGMMIDB lazily, with standard names and `events` in the place of its marks (T1, T2)."""
    import mne

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Number of records from the header")  # else MNE reads what is left
        raw = mne.io.read_raw_edf(path, verbose="WARNING")
    mne.datasets.eegbci.standardize(raw)
    raw.annotations.rename({mark: name for mark, name in events.items() if mark in raw.annotations.description})
    return raw
