"""What tests of the loaders share: a cache of their own, and small data sets that they may damage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copy_of(made, tmp_path):
    """Name of a real data set -> a copy of the small one that the test may damage."""
    return lambda name: Path(shutil.copytree(made(name), tmp_path / "data" / name))
