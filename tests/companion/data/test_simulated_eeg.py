"""The simulated EEG: reproducible, decodable, and with the sources it says it has."""

import numpy as np
import pytest
import scipy.linalg
from companion.data import load
from companion.data.simulated_eeg import SOURCES, projections, sources
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold


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
    assert first.fingerprint == again.fingerprint
    for task in ("mi", "me"):
        np.testing.assert_array_equal(getattr(first, task).x, getattr(again, task).x)
        np.testing.assert_array_equal(getattr(first, task).y, getattr(again, task).y)
    people = [first, load("simulated-eeg", seed=6, **options), load("simulated-eeg", subject=2, seed=5, **options)]
    assert len({person.fingerprint for person in people}) == 3
    assert len({person.mi.x.tobytes() for person in people}) == 3
    assert len({person.truth["common"].tobytes() for person in people}) == 3


def test_execution_is_decoded_better_than_imagery_and_both_better_than_chance():
    def accuracy(trials):
        x, y = trials.x[..., 80:].astype(float), trials.y
        covariances = np.einsum("ict,idt->icd", x, x)
        scores = []
        for train, test in StratifiedKFold(5).split(x, y):
            left, right = (covariances[train][y[train] == label].mean(0) for label in (0, 1))
            patterns = scipy.linalg.eigh(left, left + right)[1][:, [0, 1, 2, -3, -2, -1]]  # CSP
            powers = np.log(np.einsum("cp,ict->ipt", patterns, x, optimize=True).var(-1))
            decoder = LinearDiscriminantAnalysis().fit(powers[train], y[train])
            scores.append(decoder.score(powers[test], y[test]))
        return np.mean(scores)

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
        assert truth[kind].shape == (64,)
        assert truth[kind].min() >= 0
        assert truth[kind].max() == 1
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
    power = {"common": 0.0, "mi": 0.0, "me": 0.0}
    for source in sources(shared).values():
        power[source.kind] += sum(size**2 for size in source.rhythms.values())
    assert power["mi"] == power["me"]
    for task in ("mi", "me"):
        assert power["common"] == pytest.approx(shared * (power["common"] + power[task]))
    assert power["common"] + power["mi"] == pytest.approx(
        sum(sum(v**2 for v in s.rhythms.values()) for s in SOURCES.values() if s.kind == "common")
    )
