"""Simulated EEG of imagined and executed movements whose shared and private sources are known.

Dipoles below the electrodes of the motor areas oscillate in the mu and beta bands and desynchronise (ERD) while the
person moves, or less so imagines moving (Pfurtscheller and Lopes da Silva 1999, doi:10.1016/S1388-2457(99)00141-8).
MNE's sphere model carries them to the scalp, where pink noise of the rest of the brain, the visual alpha rhythm, eye
blinks and sensor noise join them. The recordings go through MOABB's paradigm exactly as real ones do.
"""

from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
from sparsemtl.errors import SpecError

from companion.data.cache import cached
from companion.data.eeg import SETS, check_options, motor_data
from companion.data.eeg_files import quiet_moabb

CODE_VERSION = 2  # part of the cache keys: raise it when a change here changes the recordings

SFREQ = 160.0  # Hz
RUNS = {"mi": (2, 4, 6), "me": (1, 3, 5)}  # recordings of each task, in turn as in EEGMMIDB
TRIAL, PERIOD = 4.0, 6.0  # seconds of movement after the cue, and from cue to cue
DEPTH = {"mi": 0.4, "me": 0.65}  # part of a rhythm's amplitude that a full ERD takes away
LAPSES = {"mi": 0.3, "me": 0.2}  # part of the trials in which the person does nothing
NOISE_DIPOLES, NOISE, SENSOR_NOISE, ALPHA, BLINK = 60, 8.0, 2.0, 16.0, 150.0  # the last four in microvolts


@dataclass(frozen=True)
class Source:
    """A dipole below an electrode.

    kind: "common", or the only task that makes it desynchronise. rhythms: root mean square of each, microvolts at the
    electrode that sees the dipole best. erd: class -> how far that class desynchronises it (1: the full `DEPTH`).
    """

    electrode: str
    kind: str
    rhythms: dict[str, float]
    erd: dict[str, float]


SOURCES = {
    "left M1, hand": Source("C3", "common", {"mu": 8, "beta": 4}, {"right_hand": 1, "hands": 1, "left_hand": 0.3}),
    "right M1, hand": Source("C4", "common", {"mu": 8, "beta": 4}, {"left_hand": 1, "hands": 1, "right_hand": 0.3}),
    "M1, feet": Source("Cz", "common", {"mu": 8, "beta": 4}, {"feet": 1}),
    "left premotor": Source("FC3", "mi", {"mu": 4, "beta": 4}, {"right_hand": 1, "hands": 1}),
    "right premotor": Source("FC4", "mi", {"mu": 4, "beta": 4}, {"left_hand": 1, "hands": 1}),
    "supplementary motor": Source("FCz", "mi", {"mu": 4, "beta": 4}, {"feet": 1}),
    "left S1, hand": Source("CP3", "me", {"mu": 4, "beta": 4}, {"right_hand": 1, "hands": 1}),
    "right S1, hand": Source("CP4", "me", {"mu": 4, "beta": 4}, {"left_hand": 1, "hands": 1}),
    "S1, feet": Source("CPz", "me", {"mu": 4, "beta": 4}, {"feet": 1}),
}


def sources(shared=None):
    """The sources by name; see `load_simulated_eeg` for `shared`.

    With a share given, the private sources of a side are like the common one of that side in all but their place.
    """
    if shared is None:
        return SOURCES
    side = {source.electrode[-1]: source for source in SOURCES.values() if source.kind == "common"}
    found = {}
    for name, source in SOURCES.items():
        like, power = side[source.electrode[-1]], shared if source.kind == "common" else 1 - shared
        found[name] = replace(source, rhythms={k: v * power**0.5 for k, v in like.rhythms.items()}, erd=like.erd)
    return found


def load_simulated_eeg(root=None, subject=1, problem="left-right", seed=0, trials_per_class=21, shared=None, **epochs):
    """Simulate one person (1 to 999) of the population `seed`; returns `MotorData` with its `truth`.

    Subjects differ in where their sources lie, how strong and how fast they are, and how deep their ERD goes.
    problem: as for "eegmmidb". trials_per_class: in each task, over three recordings. epochs: see `EpochOptions`.
    shared: None, or the share (0 to 1) of a task's rhythmic power whose sources are common to both tasks; the rest
    comes from as many sources of its own, elsewhere.
    root is not used. The same arguments give the same arrays, bit by bit. truth: "common", "mi" and "me" -> float64
    (n_channels,), the absolute scalp projections summed over the sources of that kind whose ERD tells the classes
    apart, scaled to a maximum of 1; "sources" -> their names. Raises `SpecError` for bad options.
    """
    subject, classes, options = check_options("simulated-eeg", subject, problem, **epochs)
    if not isinstance(seed, Integral) or seed < 0:
        raise SpecError(f"seed={seed!r}: a whole number from 0 on is needed")
    if not isinstance(trials_per_class, Integral) or trials_per_class < len(RUNS["mi"]):
        raise SpecError(
            f"trials_per_class={trials_per_class!r}: at least {len(RUNS['mi'])} are needed, one a recording"
        )
    if shared is not None and (not isinstance(shared, Real) or not 0 <= shared <= 1):
        raise SpecError(f"shared={shared!r}: a share from 0 to 1 is needed")
    electrodes, rows = projections(subject, seed)
    brain = sources(shared)

    def recordings(task):
        dataset = _dataset(lambda: _simulate(subject, seed, task, classes, trials_per_class, electrodes, rows, brain))
        return dataset, lambda session, run: RUNS[task][int(run)]

    def truth(channels):
        told = {name: source for name, source in brain.items() if len({source.erd.get(c, 0) for c in classes}) > 1}
        picks = [electrodes.index(channel) for channel in channels]
        maps = {kind: np.zeros(len(channels)) for kind in ("common", "mi", "me")}
        for row, (name, source) in zip(rows, brain.items(), strict=False):
            if name in told:
                maps[source.kind] += abs(row[picks]) * np.linalg.norm(list(source.rhythms.values()))
        names = {kind: tuple(name for name, source in told.items() if source.kind == kind) for kind in maps}
        return {kind: total / (total.max() or 1) for kind, total in maps.items()} | {"sources": names}

    source = {"code": CODE_VERSION, "seed": seed, "trials_per_class": trials_per_class, "shared": shared}
    return motor_data("simulated-eeg", subject, recordings, classes, options, source, truth=truth)


def projections(subject, seed):
    """How each dipole of a subject shows at each of the 64 electrodes of EEGMMIDB.

    Returns the electrodes' names and a float64 array (n_dipoles, 64): first `SOURCES`, then `NOISE_DIPOLES`, then
    visual cortex and eyes. The largest absolute value of a row is 1, or how strong this source is in this subject.
    """

    def make():
        with quiet_moabb():
            rng = np.random.default_rng([seed, subject, 0])
            channels, rows = _forward(rng)
        rows /= abs(rows).max(1, keepdims=True)
        rows[: len(SOURCES)] *= rng.lognormal(0, 0.2, (len(SOURCES), 1))
        return {"channels": np.array(channels), "rows": rows}

    arrays = cached("simulated-eeg-forward", {"code": CODE_VERSION, "subject": subject, "seed": seed}, make)
    return arrays["channels"].tolist(), arrays["rows"]


def _forward(rng):
    """Electrode names and the sphere model's projection (n_dipoles, 64), volts per ampere metre, of all dipoles."""
    import mne
    from moabb.datasets import PhysionetMI

    channels = list(PhysionetMI.METADATA.acquisition.sensors)
    info = mne.create_info(channels, SFREQ, "eeg").set_montage("colin27_1005")
    sphere = mne.make_sphere_model("auto", "auto", info)
    head = {channel["ch_name"]: channel["loc"][:3] - sphere["r0"] for channel in info["chs"]}
    motor = np.array([head[source.electrode] for source in SOURCES.values()])
    motor += rng.normal(0, 0.005, motor.shape)
    noise = rng.normal((0, 0, 0.5), 1, (NOISE_DIPOLES, 3))  # more of them in the upper half of the head
    places = _unit(np.vstack([motor, noise, head["POz"], head["Fpz"] - (0, 0, 0.02)]))
    # Motor areas: on the gyri, nearly radial. Noise: any direction.
    turns = places + rng.normal(0, 0.2, places.shape)
    turns[len(motor) : -2] = rng.normal(size=noise.shape)
    turns = _unit(turns)
    depth = 0.78 * sphere["layers"][0]["rad"] / 0.9  # the innermost layer, the brain, has 0.9 of the head's radius
    space = mne.setup_volume_source_space(pos={"rr": depth * places + sphere["r0"], "nn": turns})
    forward = mne.make_forward_solution(info, None, space, sphere, meg=False, mindist=0)
    gain = forward["sol"]["data"].reshape(len(channels), len(places), 3)
    return channels, np.einsum("cdx,dx->dc", gain, turns)


def _dataset(simulate):
    """MOABB data set of one task of one subject, whose recordings `simulate()` makes."""
    from moabb.datasets.base import BaseDataset

    class SimulatedEEG(BaseDataset):
        def __init__(self):
            super().__init__(
                subjects=list(range(1, SETS["simulated-eeg"].subjects + 1)),
                sessions_per_subject=1,
                events={"left_hand": 1, "right_hand": 2, "hands": 3, "feet": 4},
                code="SimulatedEEG",
                interval=[0, TRIAL],
                paradigm="imagery",
            )

        def _get_single_subject_data(self, subject):
            return simulate()

        def data_path(self, *args, **kwargs):
            return []

    return SimulatedEEG()


def _simulate(subject, seed, task, classes, trials_per_class, electrodes, rows, brain):
    """The recordings of one task as MOABB wants them: {session: {run: mne.io.RawArray}}."""
    import mne

    person = np.random.default_rng([seed, subject, 1])  # the same for both tasks
    peaks = {"mu": person.uniform(9, 12), "beta": person.uniform(17, 23)}
    depth = DEPTH[task] * person.uniform(0.7, 1.15)
    info = mne.create_info(electrodes, SFREQ, "eeg").set_montage("colin27_1005")
    runs = {}
    for index, number in enumerate(RUNS[task]):
        rng = np.random.default_rng([seed, subject, 2, number])
        labels = rng.permutation(np.repeat(classes, (trials_per_class + index) // len(RUNS[task])))
        cues = 3.0 + PERIOD * np.arange(len(labels))
        n_times = int((cues[-1] + PERIOD) * SFREQ)
        effort = rng.normal(1, 0.25, len(labels)).clip(0, 1.3) * (rng.random(len(labels)) > LAPSES[task])
        activity = [
            _rhythms(rng, source, peaks, n_times) * _erd(source, task, depth * effort, labels, cues, n_times)
            for source in brain.values()
        ]
        pink = [NOISE * _noise(rng, n_times, lambda f: f**-0.5) for _ in range(NOISE_DIPOLES)]
        alpha = ALPHA * _noise(rng, n_times, lambda f: np.exp(-((f - 10.0) ** 2) / 2))
        microvolts = rows.T @ np.array([*activity, *pink, alpha, _blinks(rng, n_times)])
        microvolts += rng.normal(0, SENSOR_NOISE, microvolts.shape)
        raw = mne.io.RawArray(1e-6 * microvolts, info)
        runs[str(index)] = raw.set_annotations(mne.Annotations(cues, TRIAL, labels))
    return {"0": runs}


def _rhythms(rng, source, peaks, n_times):
    """Mu and beta activity of a source, microvolts: noise in narrow bands around the person's peaks."""
    width = {"mu": 1.0, "beta": 2.0}  # Hz
    waves = [
        size * _noise(rng, n_times, lambda f, name=name: np.exp(-(((f - peaks[name]) / width[name]) ** 2) / 2))
        for name, size in source.rhythms.items()
    ]
    return np.sum(waves, axis=0)


def _erd(source, task, depth, labels, cues, n_times):
    """Factor of a source's amplitude at each sample: down within half a second after each cue, up after the trial."""
    factor = np.ones(n_times)
    if source.kind not in ("common", task):
        return factor
    times = np.arange(n_times) / SFREQ
    for cue, label, trial_depth in zip(cues, labels, depth, strict=True):
        active = np.clip((times - cue - 0.3) / 0.5, 0, 1) * np.clip((cue + TRIAL + 0.3 - times) / 0.5, 0, 1)
        factor -= trial_depth * source.erd.get(label, 0) * active
    return factor.clip(0.05)


def _blinks(rng, n_times):
    """Eye blinks, microvolts: one in about five seconds, each a bell of 0.3 s."""
    blinks = np.zeros(n_times)
    bell = BLINK * np.hanning(round(0.3 * SFREQ))
    for start in rng.integers(0, n_times - len(bell), n_times // round(5 * SFREQ)):
        blinks[start : start + len(bell)] += bell * rng.uniform(0.6, 1.4)
    return blinks


def _noise(rng, n_times, spectrum):
    """Gaussian noise of variance 1 whose amplitude spectrum follows spectrum(frequencies in Hz) from 0.5 Hz on."""
    frequencies = np.fft.rfftfreq(n_times, 1 / SFREQ)
    shape = np.where(frequencies < 0.5, 0, spectrum(np.maximum(frequencies, 0.5)))
    wave = np.fft.irfft(shape * np.fft.rfft(rng.normal(size=n_times)), n_times)
    return wave / wave.std()


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
