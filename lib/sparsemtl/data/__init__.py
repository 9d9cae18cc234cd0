"""Data sets behind one call: real ones read from disk, and simulated twins made on the spot."""

from importlib import import_module

from sparsemtl.errors import SpecError

# Loaders are imported when called: the library must import on machines without mne and moabb.
LOADERS = {
    "eegmmidb": "sparsemtl.data.eeg:load_eegmmidb",
    "ofner2017": "sparsemtl.data.eeg:load_ofner2017",
    "jeong2020": "sparsemtl.data.eeg:load_jeong2020",
    "simulated-eeg": "sparsemtl.data.simulated_eeg:load_simulated_eeg",
    "nyuv2": "sparsemtl.data.nyuv2:load_nyuv2",
    "rooms": "sparsemtl.data.rooms:load_rooms",
    "celebamask": "sparsemtl.data.celebamask:load_celebamask",
    "faces": "sparsemtl.data.faces:load_faces",
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
