"""Files of the EEG sets: where they are, whether they are all there and whole, and how MOABB is told."""

import contextlib
import hashlib
import logging
import lzma
import os
import re
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
from sparsemtl.errors import DataError

from companion.data.cache import cache_dir, is_whole, seal

FETCH = "fetch them (`sparsemtl data NAME --download`, or download=True)"
EEGBCI = Path("MNE-eegbci-data", "files", "eegmmidb", "1.0.0")  # where MNE and MOABB look below their data folder
# The names by which MNE's settings know the sets
SIGNS = {"eegmmidb": "EEGBCI", "ofner2017": "UPPERLIMB", "jeong2020": "JEONG2020"}


@contextlib.contextmanager
def quiet_moabb(home=None):
    """Let MOABB and MNE read below the folder `home` without chatter, network, or a word in the user's MNE settings."""
    import mne

    # "upstream": MOABB asks no index on the network first. With the folders named, it neither makes nor notes its own.
    settings = {"MOABB_DOWNLOAD_PROVIDER": "upstream"}
    if home:
        settings |= {key: str(home) for key in ("MNE_DATA", *(f"MNE_DATASETS_{sign}_PATH" for sign in SIGNS.values()))}
    before = {key: os.environ.get(key) for key in settings}
    logger = logging.getLogger("moabb")
    level = logger.level
    os.environ.update(settings)
    logger.setLevel(logging.ERROR)
    try:
        with mne.utils.use_log_level("ERROR"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def places(root, name):
    """The two folders that may hold the set `name`: `root`, SPARSEMTL_DATA or MNE's data folder, and `name` in it."""
    base = root or os.environ.get("SPARSEMTL_DATA")
    if not base:
        import mne

        setting = mne.get_config(f"MNE_DATASETS_{SIGNS[name]}_PATH") or mne.get_config("MNE_DATA")
        base = setting or Path.home() / "mne_data"
    return Path(base), Path(base, name)


def find(root, name, folder):
    """The place that has `folder` in it, or where it should be."""
    where = places(root, name)
    return next((place for place in where if (place / folder).is_dir()), where[0])


def find_gdf(home, name):
    """Path of a file of ofner2017, which MOABB's releases have laid out in two ways."""
    folder = home / "MNE-upperlimb-data"
    return next(folder.rglob(name), folder / name)


def find_eegmmidb(root, subject):
    """(MNE data folder for the subject, PhysioNet's list of checksums or None); unpacks a pack into the cache."""
    name = f"S{subject:03d}"
    for place in places(root, "eegmmidb"):
        manifests = (path for path in (place / "SHA256SUMS.txt", place / EEGBCI / "SHA256SUMS.txt") if path.is_file())
        if (place / EEGBCI / name).is_dir():
            return place, next(manifests, None)
        if (place / f"{name}.tar.xz").is_file():
            return unpacked(place / f"{name}.tar.xz"), next(manifests, None)
    return places(root, "eegmmidb")[0], None


def unpacked(pack):
    """MNE data folder in the cache into which `pack` (S001.tar.xz) was unpacked, named after the pack's checksum."""
    name = pack.name.removesuffix(".tar.xz")
    home = cache_dir() / f"eegmmidb-{name}-{sha256(pack)[:12]}"
    if is_whole(home):
        return home
    shutil.rmtree(home, ignore_errors=True)  # a file of it was deleted or cut: from the pack again
    part = home.with_name(f"{home.name}.{os.getpid()}.part")
    try:
        with tarfile.open(pack) as tar:
            for member in tar:
                file = member.isreg() and re.fullmatch(rf"{name}/{name}R\d\d\.edf", member.name)
                if not file and not (member.isdir() and member.name == name):
                    raise DataError(f"{pack} holds {member.name!r}, not only {name}/{name}Rnn.edf: get the pack again")
                tar.extract(member, part / EEGBCI, filter="data")
        seal(part)
        try:
            part.rename(home)
        except OSError:
            if not is_whole(home):  # else another process was first
                raise
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{pack} is damaged ({reason(error)}): get the pack again") from error
    except OSError as error:
        raise DataError(
            f"cannot unpack {pack} to {home} ({error.strerror}): free space, or set SPARSEMTL_CACHE"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return home


def existing(who, home, wanted, allow_missing_runs):
    """The recordings there are, {task: {run: path}}, of `wanted`, {task: [{run: path}, ...]}.

    Each dict of the list holds recordings of the same classes. Raises `DataError` for missing files; with
    `allow_missing_runs` only if a whole dict is missing.
    """
    groups = [group for groups in wanted.values() for group in groups]
    missing = [path.name for group in groups for path in group.values() if not path.is_file()]
    if len(missing) == sum(map(len, groups)):
        raise DataError(
            f"no recordings of {who} below {home}: set SPARSEMTL_DATA to the folder that holds them, or {FETCH}"
        )
    for group in groups:
        if not any(path.is_file() for path in group.values()):
            names = ", ".join(path.name for path in group.values())
            raise DataError(f"{who} has none of {names} in {home}: {FETCH}, or leave the subject out")
    if missing and not allow_missing_runs:
        raise DataError(f"{who} lacks {', '.join(missing)} in {home}: {FETCH}, or pass allow_missing_runs=True")
    return {
        task: {run: path for group in groups for run, path in group.items() if path.is_file()}
        for task, groups in wanted.items()
    }


def download(who, home, fetch):
    """Call `fetch()` with MOABB and MNE pointed at `home`; `DataError` if there is no network or no space.

    MOABB would take any certificate, and knows no checksums: here the server has to show who it is.
    """
    from moabb.datasets import download as moabb_download

    choose = moabb_download.choose_downloader

    def verified(*args, **options):
        downloader = choose(*args, **options)
        getattr(downloader, "kwargs", {})["verify"] = True
        return downloader

    try:
        moabb_download.choose_downloader = verified
        with quiet_moabb(home):
            fetch()
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
        raise DataError(f"cannot download {who} to {home} ({reason(error)}): check network and folder") from error
    finally:
        moabb_download.choose_downloader = choose


def sha256(path):
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(files):
    """{file name: SHA-256} of `files`, {task: {run: path}}."""
    return {path.name: sha256(path) for paths in files.values() for path in paths.values()}


def verify(folder, sums, manifest):
    """`DataError` if a file's checksum is not the one in PhysioNet's list, the file `manifest` (None: no list)."""
    if manifest is None:
        return
    try:
        lines = [line.split() for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
        known = {Path(file).name: digest for digest, file in lines}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{manifest} is no list of checksums ({reason(error)}): fetch it again, or delete it"
        ) from error
    for name, digest in sums.items():
        if known.get(name) != digest:
            raise DataError(f"{folder / name} is not the file that {manifest} lists: it is damaged, fetch it again")


def check_edf(path, n_channels, tmax):
    """`DataError` if a file is not EDF, shorter than its header says (MNE would go on with the rest), or incomplete.

    Also if its trials are over before `tmax` seconds: epochs would hold rest.
    """
    import mne

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Number of records from the header")
            raw = mne.io.read_raw_edf(path, verbose="WARNING")
    except Exception as error:
        raise DataError(f"{path} is truncated or not EDF ({reason(error)}): fetch it again") from error
    if len(raw.ch_names) != n_channels:
        raise DataError(f"{path} has {len(raw.ch_names)} channels, not {n_channels}: fetch it again")
    marks = zip(raw.annotations.description, raw.annotations.duration, strict=True)
    lasts = np.median([duration for name, duration in marks if name != "T0"] or [tmax])
    if 0 < lasts < tmax:  # 0: a mark without a duration
        raise DataError(
            f"{path} has trials of {lasts:g} s, and epochs reach to {tmax:g} s after the cue: pass tmax={lasts:g} "
            "(for every subject, to compare them), or leave the subject out"
        )


def reason(error):
    """First line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
