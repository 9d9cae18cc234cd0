"""What every test shares: a cache of its own, and the smallest runs of the EEG study."""

import os
import socket
from functools import cache
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"
# Compiled loops outlive the session: to compile them takes as long as half of the tests.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "numba"))

import pytest
from commands import end_all
from companion import papers, records
from companion.records import RunRecord
from companion.spec import RunSpec
from hypothesis import settings

settings.register_profile("ours", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("ours")

TINY = {
    "epochs": 2, "folds": 2, "batch": 4, "lr": 0.002, "weight_decay": 0.0, "labels": "true", "trunk": "power",
    "options": {"taps": 3, "filters": 2, "depth": 2, "bn_momentum": 0.1}, "align": "euclidean", "crop": 0.0,
    "fmin": 4.0, "fmax": 16.0, "tmin": 0.5, "tmax": 2.5, "sfreq": 40.0, "channels": "motor21", "trials_per_class": 4,
    "subject": 1, "problem": "left-right", "version": 2,
}  # fmt: skip
RUN = {
    "started": "2024-01-01T00:00:00+00:00", "ended": "2024-01-01T00:01:00+00:00", "seconds": 60.0, "device": "cpu",
    "threads": 1, "python": "3.11.0", "packages": {"torch": "2.11.0"}, "revision": "abc", "code": "0123456789abcdef",
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _cache_and_network(tmp_path_factory):
    """Derived data go to a folder of this session; connections to other hosts fail (clusters and pages are on this)."""
    connect = socket.socket.connect

    def only_here(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"no network in tests: {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEMTL_CACHE", str(tmp_path_factory.mktemp("cache")))  # also of processes that tests start
        patch.delenv("SPARSEMTL_RUNS", raising=False)
        patch.setattr(socket.socket, "connect", only_here)
        yield


@pytest.fixture(autouse=True)
def _no_engine_runs_on():
    """A test that gives up waiting would leave its engine to run on."""
    yield
    end_all()


@pytest.fixture
def toy(monkeypatch):
    """Module `study` of the paper in tests/toy, which the companion finds as long as the test runs."""
    from companion import engine, fingerprint

    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "toy"))
        yield papers.study("toy2020")
    for kept in (engine.environment, fingerprint.code_fingerprint):  # the code is other code without this paper
        kept.cache_clear()


@pytest.fixture
def repository(toy, tmp_path, monkeypatch):
    """The toy paper, and an empty folder that is the repository and the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.delenv("SPARSEMTL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "results").mkdir()
    return toy


@pytest.fixture(scope="session")
def real_data():
    """Data set's name -> folder of the real data sets; skips the test where that one is not there."""
    root = Path(os.environ.get("SPARSEMTL_DATA") or Path(__file__).parents[2] / "shared" / "data")

    def folder(name):
        if not (root / name).is_dir():
            pytest.skip(f"no {name} in {root}: set SPARSEMTL_DATA")
        return root

    return folder


@pytest.fixture(scope="session")
def tiny_spec():
    """(method, sparsity, seed, **params) -> RunSpec of a run that takes a moment."""

    def make(method="or", sparsity=0.4, seed=0, profile="quick", **params):
        return RunSpec("shin2023", profile, "simulated-eeg", method, seed, TINY | {"sparsity": sparsity} | params)

    return make


@pytest.fixture(scope="session")
def make_record(tiny_spec):
    """(spec, result, **run) -> RunRecord that validates, without running anything."""

    def make(spec=None, result=None, **run):
        return RunRecord(spec or tiny_spec(), {"value": 0.5} if result is None else result, RUN | run)

    return make


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Name of a real data set -> folder with a small one in its layout, written once."""
    import small_sets  # and with it what writes recordings, which most tests do without

    @cache
    def folder(name):
        path = tmp_path_factory.mktemp("made") / name
        getattr(small_sets, name)(path)
        return path

    return folder
