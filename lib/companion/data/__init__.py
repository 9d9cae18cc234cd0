"""Data sets behind one call: real ones read from disk, and simulated twins made on the spot."""

from inspect import signature
from pkgutil import resolve_name

from sparsemtl.errors import DataError, SpecError, one_line

# Loaders are imported when called: the library must import on machines without mne.
LOADERS = {
    "eegmmidb": "companion.data.eegmmidb:load_eegmmidb",
    "eegmmidb-development": "companion.data.eegmmidb:load_development",
    "simulated-eeg": "companion.data.simulated_eeg:load_simulated_eeg",
    "nyuv2": "companion.data.nyuv2:load_nyuv2",
    "rooms": "companion.data.rooms:load_rooms",
    "celebamask": "companion.data.celebamask:load_celebamask",
    "faces": "companion.data.faces:load_faces",
}


def load(name, root=None, **options):
    """Load a data set by its name in `LOADERS`, whose function documents the options and the result.

    root: folder of real data, default SPARSEMTL_DATA. All image sets take size (side in pixels: images are filtered,
    targets picked by nearest pixel), n (about so many images; None: all) and seed. Raises `SpecError` if the name or an
    option is unknown, `DataError` if files are missing, damaged, unreadable or unfit.
    """
    if name not in LOADERS:
        raise SpecError(f"unknown data set {name!r}: choose one of {', '.join(LOADERS)}")
    loader = resolve_name(LOADERS[name])
    try:
        signature(loader).bind(root, **options)
    except TypeError as error:
        raise SpecError(f"{name}: {one_line(error)}; see {LOADERS[name].replace(':', '.')}") from error
    try:
        return loader(root, **options)
    except OSError as error:  # a dangling link, or a file or folder without permission to read
        raise DataError(f"{name}: cannot read ({one_line(error)}): restore it, or allow reading it") from error
