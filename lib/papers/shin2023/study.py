"""Shin, Yin and Lee 2023 (arXiv 2312.05828): the plan. Which runs there are, what was published, what is claimed."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from companion.claims import Claim
from companion.spec import RunSpec, check_profile, check_values, number, one_of, whole
from sparsemtl.errors import SpecError

NAME = "shin2023"
VERSION = 2  # part of every spec: raise it when a change of the code changes results
SPARSITIES = (0.0, 0.2, 0.4, 0.8)
TASKS = MappingProxyType({"mi": "motor imagery", "me": "motor execution"})
# Both classes of a problem share their recordings, so that the recording says nothing about the class
PROBLEMS = MappingProxyType({"left-right": "left or right fist", "hands-feet": "both fists or both feet"})
PROPOSED, EXACT = "or", "budget"  # the masks of the paper, and the same at exactly the sparsity asked for
CLASSICAL = ("csp-lda", "tangent-space")
LOSS_STEP = 1 / 32  # nats: unit of the cross-entropy that a record keeps for each trial


@dataclass(frozen=True)
class Method:
    """How the pages name a method, and whether it prunes."""

    label: str
    sparse: bool = True


METHODS = MappingProxyType(
    {
        "csp-lda": Method("CSP + LDA", sparse=False),
        "tangent-space": Method("tangent space", sparse=False),
        "dense-single": Method("dense, single-task", sparse=False),
        "dense-multi": Method("dense, multi-task", sparse=False),
        "random": Method("random"),
        "magnitude": Method("magnitude"),
        "snip-single": Method("SNIP, single-task"),
        "snip-joint": Method("SNIP, joint loss"),
        "grasp": Method("GraSP"),
        "synflow": Method("SynFlow"),
        "lottery": Method("lottery ticket"),
        "rigl": Method("RigL"),
        "imp": Method("iterative magnitude"),
        "or": Method("proposed, OR arbiter"),
        "budget": Method("proposed, exact budget"),
    }
)
RIVALS = tuple(m for m, info in METHODS.items() if info.sparse and m not in (PROPOSED, EXACT))

# The only published cells known to us (see shin2023 in the bibliography); at 40 % sparsity, proposed method.
PUBLISHED = MappingProxyType(
    {("mi", "accuracy"): 0.645, ("mi", "f1"): 0.64, ("me", "accuracy"): 0.745, ("me", "f1"): 0.74}
)
PUBLISHED_SPARSITY = 0.4

# How trials are made and networks trained: chosen on the development people, by the dense single-task network alone.
# tmin, tmax, crop: seconds (crop 0: the whole trial). align: see `run.aligned`. options: of the trunk. batch: trials of
# each task in a step, here all training trials.
RECIPE = MappingProxyType(
    {
        "fmin": 8.0, "fmax": 30.0, "tmin": 0.5, "tmax": 2.5, "sfreq": 80.0, "channels": "motor9",
        "align": "euclidean", "crop": 0.0, "trunk": "power", "options": {"taps": 3, "filters": 4, "depth": 10},
        "epochs": 60, "batch": 36, "lr": 0.03, "weight_decay": 0.0, "folds": 5,
    }
)  # fmt: skip
TRUNKS = MappingProxyType(  # the first is the recipe's
    {"power": "filter-bank power network", "mixed": "power network, mixed filters", "shallow": "Shallow ConvNet",
     "eegnet": "EEGNet", "deep4": "Deep ConvNet"}
)  # fmt: skip
OTHER_TRUNKS = MappingProxyType(  # what changes with another trunk; the first is asked for the claims too
    {
        "mixed": {"options": {"taps": 3, "filters": 8, "depth": 5}},
        "shallow": {"options": {"kernel": 8}, "lr": 0.01},
        "eegnet": {"options": {"kernel": 20, "bn_momentum": 0.1}, "lr": 0.01},
        "deep4": {"options": {"kernel": 4}, "lr": 0.01, "tmin": 0.0, "tmax": 4.0},
    }
)
SECOND = next(iter(OTHER_TRUNKS))

# Tangent space gets the electrodes with which it decoded the development people best
OWN_DATA = MappingProxyType({"tangent-space": {"channels": "motor21"}})

DEVELOPMENT = "eegmmidb-development"  # people of whom none is tested
DEVELOPMENT_PEOPLE = (2, 4, 5, 9, 10, 11, 12, 13, 14, 16, 17, 18)
DEVIATING = (88, 92, 100, 104)  # people whose rate or timing is not that of the others
EVERYONE = tuple(n for n in range(1, 110) if n not in (*DEVELOPMENT_PEOPLE, *DEVIATING))
_REAL = MappingProxyType(
    {
        "data": "eegmmidb", "allow_missing_runs": True, "problems": tuple(PROBLEMS), "params": RECIPE,
        "seeds": tuple(range(10)), "other_seeds": tuple(range(5)), "control_seeds": tuple(range(3)), "truth": 0,
    }
)  # fmt: skip

# Each profile: data set, people, seeds, problems and parameters; other_seeds: with the second trunk; control_seeds: on
# shuffled labels and on recordings; truth: simulated people for each share of common sources; one_recording: people
# of each problem for whom a task has but one recording, so that none can be told from another
PROFILE_SETTINGS = MappingProxyType(
    {
        "quick": {
            "data": "simulated-eeg", "people": (1, 2, 3), "seeds": (0, 1), "problems": ("left-right",),
            "params": RECIPE | {"folds": 2, "epochs": 10, "trials_per_class": 15},
            "other_seeds": (0,), "control_seeds": (0,), "truth": 0,
        },
        "small": _REAL | {
            "people": (1, 3, 6, 7, 15, 42), "truth": 40,
            "one_recording": {"left-right": (3, 6, 7), "hands-feet": (6, 7)},
        },
        "full": _REAL | {"people": EVERYONE},
    }
)  # fmt: skip

# What a verdict rests on, for readers
PROFILE_WORDS = MappingProxyType(
    {
        "quick": "simulated recordings, which are no evidence",
        "small": "real recordings of six people",
        "full": "real recordings of everyone in the data set but the development people",
    }
)

# What a parameter may be; the loader checks what chooses the data
RULES = MappingProxyType(
    {
        "sparsity": number("at least 0 and less than 1", lambda v: 0 <= v < 1),
        "labels": one_of("true", "shuffled", "recording"), "trunk": one_of(*TRUNKS),
        "align": one_of("none", "electrode", "euclidean"),
        "problem": one_of(*PROBLEMS, "four-class"), "version": one_of(VERSION), "subject": whole(1),
        "options": ("an object of the trunk's arguments", lambda v: isinstance(v, Mapping)),
        "epochs": whole(1), "batch": whole(1), "folds": whole(2), "repeats": whole(1),
        "lr": number("a number above 0", lambda v: v > 0), "sfreq": number("a number above 0", lambda v: v > 0),
        "weight_decay": number("a number of 0 or more", lambda v: v >= 0),
        "crop": number("a number of 0 or more", lambda v: v >= 0),
    }
)  # fmt: skip


def sparsities_of(method, sparsities=SPARSITIES):
    """Of `sparsities` the ones at which a method runs: 0 alone without masks, else all above 0."""
    return tuple(s for s in sparsities if s > 0) if METHODS[method].sparse else (0.0,)


def settled(params, given):
    """Parameters of a spec after some were `given` (both dicts): another trunk brings its own arguments."""
    own = OTHER_TRUNKS.get(given.get("trunk"), {}) if given.get("trunk") != params["trunk"] else {}
    return params | own | given


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
    base = settled(dict(settings["params"]), {"version": VERSION, "labels": "true"} | params)
    if "allow_missing_runs" in settings:
        base["allow_missing_runs"] = settings["allow_missing_runs"]
    return [
        RunSpec(
            NAME, profile, settings["data"], method, seed,
            base | OWN_DATA.get(method, {}) | {"subject": who, "problem": p, "sparsity": s},
        )
        for seed in (settings["seeds"] if seeds is None else seeds)
        for p in (settings["problems"] if problem is None else (problem,))
        for who in (settings["people"] if subjects is None else subjects)
        for method in methods
        for s in sparsities_of(method, sparsities)
    ]  # fmt: skip


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
    seeds = PROFILE_SETTINGS[check_profile(profile)]["other_seeds"]
    return [
        spec
        for methods, levels in (
            (("dense-single", "dense-multi", PROPOSED), SPARSITIES),
            ((EXACT, *RIVALS), (PUBLISHED_SPARSITY,)),
        )
        for spec in specs(profile, None, methods, seeds=seeds, sparsities=levels, trunk=SECOND)
    ]


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the power that tells the classes apart, from sources common to both tasks


def truth_specs(profile):
    """Specs of the control with a known truth: simulated people as decodable as real ones, at each of `SHARES`."""
    people = range(1, PROFILE_SETTINGS[check_profile(profile)]["truth"] + 1)
    params = RECIPE | {"version": VERSION, "labels": "true", "problem": "left-right", "trials_per_class": 22}
    methods = [("tangent-space", 0.0), ("dense-single", 0.0), ("dense-multi", 0.0)]
    methods += [(m, PUBLISHED_SPARSITY) for m in (PROPOSED, EXACT, "random")]
    return [
        RunSpec(
            NAME, profile, "simulated-eeg", m, 0,
            params | OWN_DATA.get(m, {}) | {"shared": share, "subject": who, "sparsity": s},
        )
        for who in people
        for share in SHARES
        for m, s in methods
    ]  # fmt: skip


# Settings that were tried on the development people: name -> what differs from the recipe. A batch smaller than all
# training trials, or a crop, shows batch norm other statistics in each step, which it then averages.
_TRUNK, _SLOW = RECIPE["options"], {"bn_momentum": 0.1}
DEVELOPMENT_GRID = MappingProxyType(
    {"the recipe": {}}
    | {f"{n} taps": {"options": _TRUNK | {"taps": n}} for n in (1, 5, 7, 13)}
    | {f"{n} temporal filters": {"options": _TRUNK | {"filters": n}} for n in (1, 2, 8)}
    | {f"{n} spatial filters each": {"options": _TRUNK | {"depth": n}} for n in (5, 20)}
    | {"1 tap, 40 spatial filters": {"options": {"taps": 1, "filters": 1, "depth": 40}}}
    | {"1 tap, 100 spatial filters": {"options": {"taps": 1, "filters": 1, "depth": 100}}}
    | {f"learning rate {v}": {"lr": v} for v in (0.003, 0.01, 0.1)}
    | {f"{n} epochs": {"epochs": n} for n in (15, 30, 120)}
    | {f"batches of {n}": {"batch": n, "options": _TRUNK | _SLOW} for n in (12, 18)}
    | {f"weight decay {v}": {"weight_decay": v} for v in (0.01, 0.1)}
    | {f"dropout {v}": {"options": _TRUNK | {"dropout": v}} for v in (0.25, 0.5)}
    | {f"alignment: {how}": {"align": how} for how in ("none", "electrode")}
    | {"21 electrodes": {"channels": "motor21"}, "64 electrodes": {"channels": "all"}}
    | {f"{a} to {b} Hz": {"fmin": float(a), "fmax": float(b)} for a, b in ((4, 38), (7, 35), (8, 13), (13, 30))}
    | {f"{a} to {b} s": {"tmin": a, "tmax": b} for a, b in ((0.0, 4.0), (0.5, 3.5), (0.25, 2.75))}
    | {f"crops of {v} s": {"crop": v, "options": _TRUNK | _SLOW} for v in (1.0, 1.5)}
    | {"0.0 to 4.0 s, crops of 2 s": {"tmin": 0.0, "tmax": 4.0, "crop": 2.0, "options": _TRUNK | _SLOW}}
    | {"21 electrodes, 4 to 38 Hz": {"channels": "motor21", "fmin": 4.0, "fmax": 38.0}}
    | {"4 to 38 Hz, 13 taps": {"fmin": 4.0, "fmax": 38.0, "options": _TRUNK | {"taps": 13}}}
    | {"30 epochs, dropout 0.5": {"epochs": 30, "options": _TRUNK | {"dropout": 0.5}}}
    | {"learning rate 0.01, 120 epochs": {"lr": 0.01, "epochs": 120}}
    | {TRUNKS[trunk]: {"trunk": trunk} for trunk in OTHER_TRUNKS}
    | {f"{TRUNKS[trunk]}, learning rate 0.003": {"trunk": trunk, "lr": 0.003} for trunk in ("shallow", "eegnet")}
)
_DATA = {"fmin", "fmax", "tmin", "tmax", "sfreq", "channels"}  # what classical decoders depend on


def development_runs():
    """Pairs (setting, spec) by which the recipe was chosen: the dense single-task network and classical decoders.

    Each run draws the folds five times; with trunks that convolve signals, which take longer, twice.
    """
    base = RECIPE | {"version": VERSION, "labels": "true", "problem": "left-right", "sparsity": 0.0}
    return [
        (name, RunSpec(NAME, "small", DEVELOPMENT, method, 0, settled(base, given) | {"subject": who, "repeats": n}))
        for name, given in DEVELOPMENT_GRID.items()
        for n in ((5 if given.get("trunk", "mixed") == "mixed" else 2),)
        for method in ("dense-single", *(CLASSICAL if given.keys() <= _DATA else ()))
        for who in DEVELOPMENT_PEOPLE
    ]


def development_specs(profile):
    """Specs of `development_runs`; they belong to the profile "small"."""
    return [spec for _, spec in development_runs()] if check_profile(profile) == "small" else []


# What the pages show, in order of worth
TABLES = MappingProxyType(
    {"table1": table1_specs, "trunks": trunk_specs, "truth": truth_specs, "development": development_specs}
)
MAIN = None  # every page takes what it needs from all of them


def all_specs(profile):
    """Everything that the pages of this study show."""
    return list(dict.fromkeys(spec for make in TABLES.values() for spec in make(profile)))


_D = 0.02  # smallest effect of interest: 2 points of accuracy, or 2 % of a cross-entropy
_TABLE1, _SPARSITY, _PEOPLE = "shin2023_table1", "shin2023_sparsity", "shin2023_subjects"

CLAIMS = (
    Claim("shin-multitask", "multi-task over single-task", "abstract, contributions",
          "Training imagery and execution together beats training each alone (dense networks).",
          _TABLE1, "points", "people", _D),
    Claim("shin-sparse-beats-dense", "40 % over dense", "results, 40 % sparsity",
          "At 40 % sparsity the proposed network beats the dense multi-task network.",
          _TABLE1, "points", "people", _D),
    Claim("shin-overfitting", "40 % overfits less", "abstract",
          "At 40 % sparsity the proposed network overfits less than the dense one: at equal training loss its "
          "cross-entropy on unseen trials is lower.",
          _SPARSITY, "percent", "people", _D),
    Claim("shin-best-method", "proposed over other pruning", "results, all sparsities",
          "The proposed masks beat the other pruning methods at equal realised sparsity.",
          _SPARSITY, "points", "people", _D),
    Claim("shin-robust", "little lost at 80 %", "contributions",
          "From dense to 80 % sparsity the proposed network loses less than 2 points (effect: points to spare).",
          _SPARSITY, "points", "people", _D),
    Claim("shin-best-at-40", "40 % over other levels", "inferred: the level it quotes",
          "40 % is the best sparsity for the proposed network.",
          _SPARSITY, "points", "people", _D),
    Claim("shin-me-above-mi", "execution over imagery", "results, open questions",
          "Execution is decoded better than imagery throughout.",
          _PEOPLE, "points", "people", _D, published=0.10),
    Claim("shin-control-labels", "true over shuffled labels", "control",
          "The dense network decodes better than the same network trained on shuffled labels.",
          _PEOPLE, "points", "people", _D, control=True),
    Claim("shin-control-classical", "network over classical decoder", "control",
          "The dense single-task network beats the better classical decoder.",
          _PEOPLE, "points", "people", _D, control=True),
    Claim("shin-control-random", "scores over random masks", "control",
          "The proposed masks (exact budget) beat random masks of equal size.",
          _SPARSITY, "points", "people", _D, control=True),
    Claim("shin-control-truth", "scores find private sources", "control",
          "In simulated people the tasks' scores differ where their private sources are (rank correlation).",
          "shin2023_masks", "points", "people", _D, control=True),
)  # fmt: skip

# For the landing page: the paper's name, number and claim with its published values, and the claim that stands for it
TITLE, ARXIV, HEADLINE = "Shin et al. 2023", "2312.05828", "shin-sparse-beats-dense"
ABOUT = (
    f"At {PUBLISHED_SPARSITY:.0%} sparsity one network decodes imagined ({PUBLISHED['mi', 'accuracy']:.1%}) and "
    f"executed ({PUBLISHED['me', 'accuracy']:.1%}) movements in EEG better than dense networks do."
).replace("%", " %")
