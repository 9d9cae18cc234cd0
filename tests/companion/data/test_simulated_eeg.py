"""The simulated EEG: reproducible, decodable, and with the sources it says it has."""

import numpy as np
import pytest
from companion.data import load
from companion.data.simulated_eeg import SOURCES, projections, sources
from mne.decoding import CSP
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEMTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_same_arguments_same_bits_and_other_seeds_other_people(tmp_path, monkeypatch):
    options = {"trials_per_class": 3, "channels": "motor21"}
    first = load("simulated-eeg", seed=5, **options)
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path))  # made again, not read
    again = load("simulated-eeg", seed=5, **options)
    others = load("simulated-eeg", seed=6, **options), load("simulated-eeg", subject=2, seed=5, **options)
    for what in (
        lambda person: person.fingerprint,
        lambda person: tuple(getattr(trials, name).tobytes() for trials in (person.mi, person.me) for name in "xy"),
        lambda person: person.truth["common"].tobytes(),
    ):
        assert what(again) == what(first)
        assert len({what(person) for person in (first, *others)}) == 3


def test_execution_is_decoded_better_than_imagery_and_both_better_than_chance():
    def accuracy(trials):
        decoder = make_pipeline(CSP(6), LinearDiscriminantAnalysis())
        return cross_val_score(decoder, trials.x[..., 80:].astype(float), trials.y, cv=StratifiedKFold(5)).mean()

    people = [load("simulated-eeg", subject=subject, channels="motor21") for subject in (1, 2, 3, 4)]
    imagined = np.mean([accuracy(person.mi) for person in people])
    executed = np.mean([accuracy(person.me) for person in people])
    assert 0.65 < imagined < executed < 0.95


@pytest.mark.parametrize("problem", ["left-right", "hands-feet"])
def test_each_source_desynchronises_in_its_own_tasks_only(problem):
    data = load("simulated-eeg", problem=problem, trials_per_class=40, fmin=8, fmax=26, tmin=1)
    rows = projections(subject=1, seed=0)
    for task in ("mi", "me"):
        trials = getattr(data, task)
        covariance = np.einsum("ict,idt->cd", trials.x, trials.x, dtype=float, optimize=True)
        for source, row in zip(SOURCES.values(), rows, strict=False):
            beam = np.linalg.solve(covariance, row)  # minimum-variance beamformer, up to its scale
            power = np.log((beam @ trials.x).var(1))
            full = np.isin(trials.y, [k for k, label in enumerate(data.classes) if source.erd.get(label) == 1])
            change = power[full].mean() - power[~full].mean() if full.any() else 0.0
            own = full.any() and source.kind in ("common", task)
            assert change < -0.15 if own else abs(change) < 0.1, (task, source)


def test_truth_says_which_channels_see_which_sources():
    data = load("simulated-eeg", trials_per_class=3)
    truth = data.truth
    for kind, electrodes in {"common": {"C3", "C4"}, "mi": {"FC3", "FC4"}, "me": {"CP3", "CP4"}}.items():
        assert (truth[kind].shape, truth[kind].min() >= 0, truth[kind].max()) == ((64,), True, 1)
        assert data.channels[truth[kind].argmax()] in electrodes
        assert all(SOURCES[name].kind == kind for name in truth["sources"][kind])
    assert "M1, feet" not in truth["sources"]["common"]  # left and right fist leave it alike
    few = load("simulated-eeg", trials_per_class=3, channels=("FC3", "C3", "CP3")).truth
    for kind in ("common", "mi", "me"):
        seen = truth[kind][[data.channels.index(channel) for channel in ("FC3", "C3", "CP3")]]
        np.testing.assert_allclose(few[kind], seen / seen.max())
    other = load("simulated-eeg", problem="hands-feet", trials_per_class=3).truth
    assert "M1, feet" in other["sources"]["common"]
    assert other["common"][data.channels.index("Cz")] > 3 * truth["common"][data.channels.index("Cz")]


@pytest.mark.parametrize("shared", [0, 0.25, 1.0])
def test_the_share_of_common_sources_moves_power_between_common_and_private_ones_and_loses_none(shared):
    def power(sources, kind):
        return sum(size**2 for source in sources.values() if source.kind == kind for size in source.rhythms.values())

    common, mi, me = (power(sources(shared), kind) for kind in ("common", "mi", "me"))
    assert mi == me
    assert common == pytest.approx(shared * (common + mi))
    assert common + mi == pytest.approx(power(SOURCES, "common"))
