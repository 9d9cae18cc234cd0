"""Shin, Yin and Lee 2023 (arXiv 2312.05828): the plan. Which runs there are, what was published, what is claimed."""

import tomllib
from collections import namedtuple
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from companion.claims import Claim
from companion.data.eeg import SETS
from companion.spec import RunSpec, check_profile, check_values, number, one_of, whole
from sparsemtl.errors import SpecError

NAME = "shin2023"
VERSION = 2  # part of every spec: raise it when a change of the code changes results
SPARSITIES = (0.0, 0.2, 0.4, 0.8)
TASKS = {"mi": "motor imagery", "me": "motor execution"}
# Both classes of a problem share their recordings, so that the recording says nothing about the class
PROBLEMS = {"left-right": "left or right fist", "hands-feet": "both fists or both feet"}
PROPOSED, EXACT = "or", "budget"  # the masks of the paper, and the same at exactly the sparsity asked for
CLASSICAL = ("csp-lda", "tangent-space")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the power that tells the classes apart, from sources common to both tasks
LOSS_STEP = 1 / 32  # nats: unit of the cross-entropy that a record keeps for each trial

SETTINGS, _CLAIMS = (
    tomllib.loads((Path(__file__).parent / f"plan/{name}.toml").read_text(encoding="utf-8"))
    for name in ("settings", "claims")
)
Method = namedtuple("Method", "label sparse")  # how the pages name a method, and whether it prunes
METHODS = {
    name: Method(label, kind == "sparse")
    for kind, labels in SETTINGS["methods"].items()
    for name, label in labels.items()
}
RIVALS = tuple(m for m, info in METHODS.items() if info.sparse and m not in (PROPOSED, EXACT))

# The only published cells known to us (see shin2023 in the bibliography); at 40 % sparsity, proposed method.
PUBLISHED = {("mi", "accuracy"): 0.645, ("mi", "f1"): 0.64, ("me", "accuracy"): 0.745, ("me", "f1"): 0.74}
PUBLISHED_SPARSITY = 0.4

RECIPE, TRUNKS, OTHER_TRUNKS = (SETTINGS[name] for name in ("recipe", "trunks", "other_trunks"))
SECOND = next(iter(OTHER_TRUNKS))

# Tangent space gets the electrodes with which it decoded the development people best
OWN_DATA = {"tangent-space": {"channels": "motor21"}}

DEVELOPMENT = "eegmmidb-development"
DEVELOPMENT_PEOPLE = SETS[DEVELOPMENT].people  # none of them is tested
DEVIATING = (88, 92, 100, 104)  # people whose rate or timing is not that of the others
EVERYONE = tuple(n for n in SETS["eegmmidb"].people if n not in (*DEVELOPMENT_PEOPLE, *DEVIATING))
PROFILE_SETTINGS = {
    name: {"people": EVERYONE} | settings | {"params": RECIPE | settings["params"]}
    for name, settings in SETTINGS["profiles"].items()
}
PROFILE_WORDS = SETTINGS["profile_words"]

# What a parameter may be; the loader checks what chooses the data
RULES = {
    "sparsity": number("at least 0 and less than 1", lambda v: 0 <= v < 1),
    "labels": one_of("true", "shuffled", "recording"), "trunk": one_of(*TRUNKS),
    "align": one_of("none", "electrode", "euclidean"),
    "problem": one_of(*PROBLEMS), "version": one_of(VERSION), "subject": whole(1),
    "options": ("an object of the trunk's arguments", lambda v: isinstance(v, Mapping)),
    "epochs": whole(1), "batch": whole(1), "folds": whole(2), "repeats": whole(1),
    "lr": number("a number above 0", lambda v: v > 0), "sfreq": number("a number above 0", lambda v: v > 0),
    "weight_decay": number("a number of 0 or more", lambda v: v >= 0),
    "crop": number("a number of 0 or more", lambda v: v >= 0),
}  # fmt: skip


def sparsities_of(method, sparsities=SPARSITIES):
    """Of `sparsities` the ones at which a method runs: 0 alone without masks, else all above 0."""
    return tuple(s for s in sparsities if s > 0) if METHODS[method].sparse else (0.0,)


def settled(params, given):
    """Parameters of a spec after some were `given` (both dicts): another trunk brings its own arguments."""
    own = OTHER_TRUNKS.get(given.get("trunk"), {}) if given.get("trunk") != params["trunk"] else {}
    return params | own | given


def _spec(profile, data, method, seed, base, **params):
    return RunSpec(NAME, profile, data, method, seed, base | OWN_DATA.get(method, {}) | params)


def specs(profile, problem=None, methods=None, subjects=None, seeds=None, sparsities=SPARSITIES, **params):
    """Specs of the grid: seeds x problems x people x (method, sparsity), as a list of `RunSpec`.

    problem, methods, subjects, seeds: None for all of the profile. sparsities: see `sparsities_of`; at 0 a method with
    masks is the dense network. params: parameters to set otherwise.
    """
    settings = PROFILE_SETTINGS[check_profile(profile)]
    methods = tuple(METHODS) if methods is None else methods
    for method in methods:
        if method not in METHODS:
            raise SpecError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    for sparsity in sparsities:
        check_values(params | {"sparsity": sparsity}, RULES)
    base = settled(settings["params"], {"version": VERSION, "labels": "true"} | params)
    return [
        _spec(profile, settings["data"], method, seed, base, subject=who, problem=p, sparsity=s)
        for seed in (settings["seeds"] if seeds is None else seeds)
        for p in (settings["problems"] if problem is None else (problem,))
        for who in (settings["people"] if subjects is None else subjects)
        for method in methods
        for s in sparsities_of(method, sparsities)
    ]


def control_specs(profile):
    """Specs of the controls: labels shuffled within recordings, and the recording in place of the movement."""
    settings = PROFILE_SETTINGS[check_profile(profile)]
    chosen = {"seeds": settings["control_seeds"], "sparsities": (PUBLISHED_SPARSITY,)}
    shuffled = specs(profile, None, (*CLASSICAL, "dense-single", "dense-multi", PROPOSED), labels="shuffled", **chosen)
    recording = specs(profile, None, ("tangent-space", "dense-multi"), labels="recording", **chosen)
    one = settings.get("one_recording", {})
    return shuffled + [s for s in recording if s.params["subject"] not in one.get(s.params["problem"], ())]


def table1_specs(profile):
    """The grid of Table 1 with its controls."""
    return specs(profile) + control_specs(profile)


def trunk_specs(profile):
    """The part of the grid that the claims need at 40 %, and the dense networks, with the second trunk.

    The paper does not name its network: a finding that holds for one trunk alone is not yet one about the method.
    """
    chosen = {"seeds": PROFILE_SETTINGS[check_profile(profile)]["other_seeds"], "trunk": SECOND}
    curve = specs(profile, None, ("dense-single", "dense-multi", PROPOSED), **chosen)
    return curve + specs(profile, None, (EXACT, *RIVALS), sparsities=(PUBLISHED_SPARSITY,), **chosen)


def truth_specs(profile):
    """Specs of the control with a known truth: simulated people as decodable as real ones, at each of `SHARES`."""
    people = range(1, PROFILE_SETTINGS[check_profile(profile)]["truth"] + 1)
    params = RECIPE | {"version": VERSION, "labels": "true", "problem": "left-right", "trials_per_class": 22}
    methods = ("tangent-space", "dense-single", "dense-multi", PROPOSED, EXACT, "random")
    return [
        _spec(profile, "simulated-eeg", method, 0, params, shared=share, subject=who, sparsity=s)
        for who, share, method in product(people, SHARES, methods)
        for s in sparsities_of(method, (PUBLISHED_SPARSITY,))
    ]


def development_runs():
    """Pairs (setting, spec) by which the recipe was chosen: the dense single-task network and classical decoders.

    Each run draws the folds five times; with trunks that convolve signals, which take longer, twice.
    """
    base, runs = RECIPE | {"version": VERSION, "labels": "true", "problem": "left-right", "sparsity": 0.0}, []
    data = {"fmin", "fmax", "tmin", "tmax", "sfreq", "channels"}  # what classical decoders depend on
    for name, given in SETTINGS["development"].items():
        options = {"options": RECIPE["options"] | given["options"]} if "options" in given else {}
        params = settled(base, given | options) | {"repeats": 5 if given.get("trunk", "mixed") == "mixed" else 2}
        methods = ("dense-single", *(CLASSICAL if given.keys() <= data else ()))
        for method, who in product(methods, DEVELOPMENT_PEOPLE):
            runs.append((name, RunSpec(NAME, "small", DEVELOPMENT, method, 0, params | {"subject": who})))
    return runs


def development_specs(profile):
    """Specs of `development_runs`; they belong to the profile "small"."""
    return [spec for _, spec in development_runs()] if check_profile(profile) == "small" else []


# What the pages show, in order of worth
TABLES = {"table1": table1_specs, "trunks": trunk_specs, "truth": truth_specs, "development": development_specs}
MAIN = None  # every page takes what it needs from all of them


def all_specs(profile):
    """Everything that the pages of this study show."""
    return list(dict.fromkeys(spec for make in TABLES.values() for spec in make(profile)))


CLAIMS = tuple(Claim(name, units="people", smallest=0.02, **claim) for name, claim in _CLAIMS.items())

# For the landing page: the paper's name, number and claim with its published values, and the claim that stands for it
TITLE, ARXIV, HEADLINE = "Shin et al. 2023", "2312.05828", "shin-sparse-beats-dense"
ABOUT = (
    f"At {PUBLISHED_SPARSITY:.0%} sparsity one network decodes imagined ({PUBLISHED['mi', 'accuracy']:.1%}) and "
    f"executed ({PUBLISHED['me', 'accuracy']:.1%}) movements in EEG better than dense networks do."
).replace("%", " %")
