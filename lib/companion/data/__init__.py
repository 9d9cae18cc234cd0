"""Data sets behind one call: real ones read from disk, and simulated twins made on the spot."""

from importlib import import_module

from sparsemtl.errors import SpecError

# Loaders are imported when called: the library must import on machines without mne and moabb.
LOADERS = {
    "eegmmidb": "companion.data.eeg:load_eegmmidb",
    "ofner2017": "companion.data.eeg:load_ofner2017",
    "jeong2020": "companion.data.eeg:load_jeong2020",
    "simulated-eeg": "companion.data.simulated_eeg:load_simulated_eeg",
    "nyuv2": "companion.data.nyuv2:load_nyuv2",
    "rooms": "companion.data.rooms:load_rooms",
    "celebamask": "companion.data.celebamask:load_celebamask",
    "faces": "companion.data.faces:load_faces",
}


def load(name, root=None, **options):
    """Load the data set `name` from the folder `root` (default: the environment variable SPARSEMTL_DATA).

    Simulated sets ("simulated-eeg", "rooms", "faces") need no root. The options are those of the loader named in
    `LOADERS`, which also documents what comes back. Raises `SpecError` for an unknown name.
    """
    if name not in LOADERS:
        raise SpecError(f"unknown data set {name!r}: choose one of {', '.join(LOADERS)}")
    module, function = LOADERS[name].split(":")
    return getattr(import_module(module), function)(root=root, **options)
