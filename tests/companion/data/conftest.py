"""What tests of the loaders share: a cache of their own, and small data sets that they may damage."""

import shutil
from pathlib import Path

import pytest
import small_sets


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Name of a real data set -> folder with a small one in its layout, written once."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("made") / name
            getattr(small_sets, name)(folders[name])
        return folders[name]

    return folder


@pytest.fixture
def copy_of(made, tmp_path):
    """Name of a real data set -> a copy of the small one that the test may damage."""
    return lambda name: Path(shutil.copytree(made(name), tmp_path / "data" / name))
