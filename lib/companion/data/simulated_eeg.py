"""Simulated EEG of imagined and executed movements whose shared and private sources are known.

Dipoles below the electrodes of the motor areas oscillate in the mu and beta bands and desynchronise (ERD) while the
person moves, or less so imagines moving (Pfurtscheller and Lopes da Silva 1999, doi:10.1016/S1388-2457(99)00141-8).
MNE's sphere model carries them to the scalp, where pink noise of the rest of the brain, the visual alpha rhythm, eye
blinks and sensor noise join them. The trials are cut exactly as those of real recordings.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from companion.data.cache import cached
from companion.data.eeg import ELECTRODES64, motor_data
from companion.spec import check_values, number, whole

CODE_VERSION = 2  # part of the cache keys: raise it when a change here changes the recordings

SFREQ = 160.0  # Hz
KINDS = ("common", "mi", "me")  # of sources
RUNS = {"mi": (2, 4, 6), "me": (1, 3, 5)}  # recordings of each task, in turn as in EEGMMIDB
TRIAL, PERIOD = 4.0, 6.0  # seconds of movement after the cue, and from cue to cue
DEPTH = {"mi": 0.4, "me": 0.65}  # part of a rhythm's amplitude that a full ERD takes away
LAPSES = {"mi": 0.3, "me": 0.2}  # part of the trials in which the person does nothing
NOISE_DIPOLES, NOISE, SENSOR_NOISE, ALPHA, BLINK = 60, 8.0, 2.0, 16.0, 150.0  # the last four in microvolts
RULES = {"seed": whole(0), "trials_per_class": whole(3), "shared": number("a share, 0 to 1", lambda v: 0 <= v <= 1)}


@dataclass(frozen=True)
class Source:
    """A dipole below an electrode."""

    electrode: str
    kind: str  # "common", or the only task that makes it desynchronise
    rhythms: dict[str, float]  # root mean square of each, microvolts at the electrode that sees the dipole best
    erd: dict[str, float]  # class -> how far that class desynchronises it (1: the full `DEPTH`)


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
    """Return the sources by name; with a share, private ones are like their side's common one in all but position."""
    if shared is None:
        return SOURCES
    side = {source.electrode[-1]: source for source in SOURCES.values() if source.kind == "common"}
    found = {}
    for name, source in SOURCES.items():
        like, power = side[source.electrode[-1]], shared if source.kind == "common" else 1 - shared
        found[name] = replace(source, rhythms={k: v * power**0.5 for k, v in like.rhythms.items()}, erd=like.erd)
    return found


def load_simulated_eeg(root=None, subject=1, problem="left-right", seed=0, trials_per_class=21, shared=None, **epochs):
    """Simulate one person (1 to 999) of the population `seed`, as `MotorData` with its `truth`.

    People differ in where their sources are, how strong and how fast they are, and how deep their ERD is. The same
    arguments give the same arrays, bit by bit. root is not used. problem: as `load_eegmmidb`, but every recording holds
    all classes. trials_per_class: in each task, over three recordings. shared: share (0 to 1) of a task's rhythmic
    power whose sources are common to both tasks; the rest comes from as many private sources, elsewhere. None: sources
    of unequal strength (`SOURCES`). epochs: see `EpochOptions`.

    `truth` holds "common", "mi" and "me" -> float64 (n_channels,), the absolute scalp projections summed over the
    sources of that kind whose ERD differs between the classes, scaled to a maximum of 1; and "sources" -> their names.
    """
    share = {} if shared is None else {"shared": shared}
    check_values({"seed": seed, "trials_per_class": trials_per_class, **share}, RULES)
    brain = sources(shared)

    def find(classes, options):
        rest = classes, trials_per_class, projections(subject, seed), brain
        read = {task: {n: partial(simulate, subject, seed, task, n, *rest) for n in RUNS[task]} for task in RUNS}
        return {"simulation": CODE_VERSION}, read

    population = {"seed": seed, "trials_per_class": trials_per_class, "shared": shared}
    data = motor_data("simulated-eeg", subject, problem, find, population, **epochs)
    maps, names = {kind: np.zeros(len(data.channels)) for kind in KINDS}, dict.fromkeys(KINDS, ())
    picks = [ELECTRODES64.index(channel) for channel in data.channels]
    for row, (name, source) in zip(projections(subject, seed), brain.items(), strict=False):
        if len({source.erd.get(c, 0) for c in data.classes}) > 1:
            maps[source.kind] += abs(row[picks]) * np.linalg.norm(list(source.rhythms.values()))
            names[source.kind] += (name,)
    return replace(data, truth={kind: total / (total.max() or 1) for kind, total in maps.items()} | {"sources": names})


def projections(subject, seed):
    """Return how each dipole of a person shows at `ELECTRODES64`: float64 (n_dipoles, 64), by MNE's sphere model.

    First come `SOURCES`, then `NOISE_DIPOLES`, then visual cortex and eyes. The largest absolute value of a row is 1,
    or how strong this source is in this person.
    """

    def make():
        import mne

        rng = np.random.default_rng([seed, subject, 0])
        with mne.use_log_level("ERROR"):
            info = mne.create_info(list(ELECTRODES64), SFREQ, "eeg").set_montage("colin27_1005")
            sphere = mne.make_sphere_model("auto", "auto", info)
            head = {channel["ch_name"]: channel["loc"][:3] - sphere["r0"] for channel in info["chs"]}
            motor = np.array([head[source.electrode] for source in SOURCES.values()])
            motor += rng.normal(0, 0.005, motor.shape)
            noise = rng.normal((0, 0, 0.5), 1, (NOISE_DIPOLES, 3))  # more of them in the upper half of the head
            places = np.vstack([motor, noise, head["POz"], head["Fpz"] - (0, 0, 0.02)])
            places /= np.linalg.norm(places, axis=1, keepdims=True)
            # Motor areas: on the gyri, nearly radial. Noise: any direction.
            turns = places + rng.normal(0, 0.2, places.shape)
            turns[len(motor) : -2] = rng.normal(size=noise.shape)
            turns /= np.linalg.norm(turns, axis=1, keepdims=True)
            depth = 0.78 * sphere["layers"][0]["rad"] / 0.9  # the innermost layer, the brain, has 0.9 of the radius
            space = mne.setup_volume_source_space(pos={"rr": depth * places + sphere["r0"], "nn": turns})
            forward = mne.make_forward_solution(info, None, space, sphere, meg=False, mindist=0)
        gain = forward["sol"]["data"].reshape(len(ELECTRODES64), len(places), 3)
        rows = np.einsum("cdx,dx->dc", gain, turns)
        rows /= abs(rows).max(1, keepdims=True)
        rows[: len(SOURCES)] *= rng.lognormal(0, 0.2, (len(SOURCES), 1))
        return {"rows": rows}

    key = {"code": CODE_VERSION, "subject": int(subject), "seed": int(seed)}
    return cached("simulated-eeg-forward", key, make)["rows"]


def simulate(subject, seed, task, number, classes, trials_per_class, rows, brain):
    """Simulate recording `number` of `RUNS` as an MNE Raw that names the classes; see `projections` and `sources`."""
    import mne

    person = np.random.default_rng([seed, subject, 1])  # the same for both tasks
    bands = {"mu": (person.uniform(9, 12), 1.0), "beta": (person.uniform(17, 23), 2.0)}  # Hz: peak and width
    depth = DEPTH[task] * person.uniform(0.7, 1.15)
    rng = np.random.default_rng([seed, subject, 2, number])
    share = (trials_per_class + RUNS[task].index(number)) // len(RUNS[task])
    labels = rng.permutation(np.repeat(classes, share))
    cues = 3.0 + PERIOD * np.arange(len(labels))
    n_times = int((cues[-1] + PERIOD) * SFREQ)
    effort = rng.normal(1, 0.25, len(labels)).clip(0, 1.3) * (rng.random(len(labels)) > LAPSES[task])
    frequencies = np.fft.rfftfreq(n_times, 1 / SFREQ)
    f = np.maximum(frequencies, 0.5)

    def noise(spectrum):  # Gaussian, of variance 1, with this amplitude spectrum from 0.5 Hz on
        shape = np.where(frequencies < 0.5, 0, spectrum)
        wave = np.fft.irfft(shape * np.fft.rfft(rng.normal(size=n_times)), n_times)
        return wave / wave.std()

    def band(peak, width):
        return noise(np.exp(-(((f - peak) / width) ** 2) / 2))

    def erd(source):  # factor of the amplitude: down within half a second after each cue, up after the trial
        factor, times = np.ones(n_times), np.arange(n_times) / SFREQ
        for cue, label, trial_depth in zip(cues, labels, depth * effort, strict=True):
            if source.kind in ("common", task):
                active = np.clip((times - cue - 0.3) / 0.5, 0, 1) * np.clip((cue + TRIAL + 0.3 - times) / 0.5, 0, 1)
                factor -= trial_depth * source.erd.get(label, 0) * active
        return factor.clip(0.05)

    activity = [
        erd(source) * np.sum([size * band(*bands[name]) for name, size in source.rhythms.items()], axis=0)
        for source in brain.values()
    ]
    pink = [NOISE * noise(f**-0.5) for _ in range(NOISE_DIPOLES)]
    alpha, blinks = ALPHA * band(10.0, 1.0), np.zeros(n_times)
    bell = BLINK * np.hanning(round(0.3 * SFREQ))
    for start in rng.integers(0, n_times - len(bell), n_times // round(5 * SFREQ)):  # one in about five seconds
        blinks[start : start + len(bell)] += bell * rng.uniform(0.6, 1.4)
    microvolts = rows.T @ np.array([*activity, *pink, alpha, blinks])
    microvolts += rng.normal(0, SENSOR_NOISE, microvolts.shape)
    raw = mne.io.RawArray(1e-6 * microvolts, mne.create_info(list(ELECTRODES64), SFREQ, "eeg"), verbose="ERROR")
    return raw.set_annotations(mne.Annotations(cues, TRIAL, labels))
