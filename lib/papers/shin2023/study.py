"""Shin, Yin and Lee 2023 (arXiv 2312.05828): which runs make its table and figures, what it published and claims."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from companion.spec import RunSpec, check_profile, check_values, number, one_of, whole
from companion.statistics import OldClaim as Claim
from sparsemtl.errors import SpecError

NAME = "shin2023"
VERSION = 1  # goes into every spec: raise it when a change of the code changes results
SPARSITIES = (0.0, 0.2, 0.4, 0.8)
TASKS = MappingProxyType({"mi": "motor imagery", "me": "motor execution"})
PROBLEMS = MappingProxyType({"left-right": "left or right fist", "four-class": "left, right, both fists, feet"})
PROPOSED = "or"
# Of the backbones the first is that of every table but their own
BACKBONES = MappingProxyType({"eegnet": "EEGNet", "shallow": "Shallow ConvNet", "deep4": "Deep ConvNet"})


@dataclass(frozen=True)
class Method:
    """How the pages name a method, and whether it prunes."""

    label: str
    sparse: bool = True


METHODS = MappingProxyType(
    {
        "csp-lda": Method("CSP + LDA", sparse=False),
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

# The only published cells known to us (see shin2023 in the bibliography); at 40 % sparsity, proposed method.
PUBLISHED = MappingProxyType(
    {("mi", "accuracy"): 0.645, ("mi", "f1"): 0.64, ("me", "accuracy"): 0.745, ("me", "f1"): 0.74}
)
PUBLISHED_SPARSITY = 0.4

# Chosen on simulated recordings alone, never by a score on real ones; see the deviations page.
_NETWORK = {"backbone": next(iter(BACKBONES)), "epochs": 60, "batch": 16, "lr": 0.002, "labels": "true"}
_BAND = {"fmin": 4.0, "fmax": 38.0, "tmin": 0.5, "tmax": 3.5}
_REAL = {"data": "eegmmidb", "subjects": (1, 3, 6, 7, 15, 42), "allow_missing_runs": True}

# Each profile: data set, subjects, seeds, and the parameters that go into every spec; of the other backbones the seeds,
# and the sparsities at which the rivals of the proposed masks run.
PROFILE_SETTINGS = MappingProxyType(
    {
        "quick": {
            "data": "simulated-eeg", "subjects": (1, 2, 3), "seeds": (0, 1), "problems": ("left-right",),
            "params": _NETWORK | _BAND | {"folds": 2, "epochs": 20, "sfreq": 80.0, "channels": "motor21"}
            | {"trials_per_class": 16},
            "backbones": {"seeds": (0,), "rivals": ()},
        },
        "small": {
            **_REAL, "seeds": (0, 1, 2), "problems": tuple(PROBLEMS),
            "params": _NETWORK | _BAND | {"folds": 3, "sfreq": 80.0, "channels": "motor21"},
            "backbones": {"seeds": (0, 1), "rivals": SPARSITIES[-1:]},
        },
        "full": {
            **_REAL, "seeds": (0, 1, 2, 3, 4), "problems": tuple(PROBLEMS),
            "params": _NETWORK | _BAND | {"folds": 5, "epochs": 200, "sfreq": 160.0, "channels": "all"},
            "backbones": {"seeds": (0, 1, 2, 3, 4), "rivals": SPARSITIES[1:]},
        },
    }
)  # fmt: skip

# What a verdict rests on, for readers
PROFILE_WORDS = MappingProxyType(
    {
        "quick": "simulated recordings, which are no evidence",
        "small": "real recordings at a lower rate, with fewer electrodes, seeds, folds and epochs than `full`",
        "full": "real recordings with all electrodes; the paper's people, network and training are not known",
    }
)

# What a parameter may be; what chooses the data is checked by their loader
RULES = MappingProxyType(
    {
        "sparsity": number("at least 0 and less than 1", lambda v: 0 <= v < 1),
        "labels": one_of("true", "shuffled"), "backbone": one_of(*BACKBONES), "problem": one_of(*PROBLEMS),
        "version": one_of(VERSION), "subject": whole(1),
        "trunk": ("an object of the trunk's arguments", lambda v: isinstance(v, Mapping)),
        "epochs": whole(1), "batch": whole(1), "folds": whole(2),
        "lr": number("a number above 0", lambda v: v > 0), "sfreq": number("a number above 0", lambda v: v > 0),
    }
)  # fmt: skip


def trunk_options(backbone, sfreq):
    """Arguments of a trunk that depend on the sampling rate (Hz) or on how short the training is: dict.

    EEGNet: temporal filters of a quarter second, as its authors take for motor data without slow waves, and batch
    norm that averages over tens of steps, where the original's momentum of 0.01 wants hundreds. The ConvNets' filters
    last as long as at the 250 Hz they were made for, and their dropout is EEGNet's: with their own of a half the Deep
    ConvNet does not even fit the few trials that it is trained on (seen on simulated recordings).
    """
    if backbone == "eegnet":
        return {"kernel": round(sfreq / 4), "bn_momentum": 0.1}
    return {"kernel": round(sfreq * {"shallow": 0.1, "deep4": 0.04}[backbone]), "dropout": 0.25}


def sparsities_of(method, sparsities=SPARSITIES):
    """Those of `sparsities` at which a method runs: one without masks at 0 only, the others above 0."""
    return tuple(s for s in sparsities if s > 0) if METHODS[method].sparse else (0.0,)


def settled(params, given):
    """Parameters of a spec after some were `given` (both dicts): the trunk's arguments follow backbone and rate."""
    params = params | given
    return params | {"trunk": given.get("trunk", trunk_options(params["backbone"], params["sfreq"]))}


def specs(profile, problem=None, methods=None, subjects=None, seeds=None, sparsities=SPARSITIES, **params):
    """Specs of the study's grid: subjects x problems x seeds x (method, sparsity); list of `RunSpec`.

    sparsities: see `sparsities_of`; at 0 a method with masks is the dense network. problem, methods, subjects, seeds:
    None for all of the profile. params: parameters to set otherwise.
    """
    settings = PROFILE_SETTINGS[check_profile(profile)]
    methods = tuple(METHODS) if methods is None else methods
    for method in methods:
        if method not in METHODS:
            raise SpecError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    for sparsity in sparsities:
        check_values(params | {"sparsity": sparsity}, RULES)
    base = settled(settings["params"], {"version": VERSION} | params)
    if "allow_missing_runs" in settings:
        base["allow_missing_runs"] = settings["allow_missing_runs"]
    return [
        RunSpec(
            NAME,
            profile,
            settings["data"],
            method,
            seed,
            base | {"subject": subject, "problem": p, "sparsity": s},
        )
        for p in (settings["problems"] if problem is None else (problem,))
        for seed in (settings["seeds"] if seeds is None else seeds)
        for subject in (settings["subjects"] if subjects is None else subjects)
        for method in methods
        for s in sparsities_of(method, sparsities)
    ]


def control_specs(profile, **choice):
    """Specs of the control on shuffled labels: the dense and the proposed network where there is nothing to learn."""
    return [
        spec
        for method, sparsity in (("dense-multi", 0.0), (PROPOSED, PUBLISHED_SPARSITY))
        for spec in specs(profile, methods=(method,), sparsities=(sparsity,), labels="shuffled", **choice)
    ]


def truth_specs(profile):
    """Specs of the control with a known truth: the proposed masks on simulated people, apart from all tables."""
    settings = PROFILE_SETTINGS[check_profile(profile)]
    if settings["data"] == "simulated-eeg":  # its own runs have a known truth
        return []
    params = settings["params"] | {"control": "truth", "trials_per_class": 22}
    params |= {"version": VERSION, "sparsity": PUBLISHED_SPARSITY, "problem": "left-right"}
    params["trunk"] = trunk_options(params["backbone"], params["sfreq"])
    return [
        RunSpec(NAME, profile, "simulated-eeg", PROPOSED, seed, params | {"subject": subject})
        for seed in settings["seeds"]
        for subject in range(1, 11)
    ]


def rivals():
    """Names of the other pruning methods; the exact budget is the proposed one again."""
    return tuple(m for m, info in METHODS.items() if info.sparse and m not in (PROPOSED, "budget"))


def table1_specs(profile):
    """Everything that is judged: the grid of Table 1, and its control on shuffled labels."""
    return specs(profile) + control_specs(profile)


def backbone_specs(profile):
    """The grid with the other backbones, as far as the claims need it: dense, proposed, and some of the rivals.

    The paper does not name its network, so what holds for one backbone alone is not yet a finding about the method.
    """
    chosen = PROFILE_SETTINGS[check_profile(profile)]["backbones"]
    return [
        spec
        for backbone in list(BACKBONES)[1:]
        for methods, sparsities in (
            (("dense-single", "dense-multi", PROPOSED), SPARSITIES),
            (rivals(), chosen["rivals"]),
        )
        for spec in specs(profile, methods=methods, sparsities=sparsities, seeds=chosen["seeds"], backbone=backbone)
    ]


# What the pages show, in order of worth
TABLES = MappingProxyType({"table1": table1_specs, "truth": truth_specs, "backbones": backbone_specs})
MAIN = "table1"  # what the claims are judged on


def all_specs(profile):
    """Everything the pages of this study show."""
    return [spec for make in TABLES.values() for spec in make(profile)]


_POINTS = "test trials"  # differences of accuracy
_GAPS = "trials, training minus unseen"

CLAIMS = (
    Claim("shin-multitask", "dense: multi-task over single-task", "abstract, contributions",
          "Training imagery and execution together beats training each alone (dense networks).",
          "multitask_gain", "shin2023_table1", _POINTS),
    Claim("shin-sparse-beats-dense", "proposed at 40 % over dense", "results, 40 % sparsity",
          "At 40 % sparsity the proposed network beats the dense multi-task network.",
          "sparse_gain", "shin2023_table1", _POINTS),
    Claim("shin-overfitting", "proposed at 40 % overfits less", "abstract",
          "At 40 % sparsity the proposed network overfits less than the dense multi-task network.",
          "less_overfitting", "shin2023_sparsity", _GAPS),
    Claim("shin-best-method", "proposed over the best other pruning", "results, all sparsities",
          "The proposed masks beat the best other pruning method at every sparsity.",
          "lead_over_rivals", "shin2023_sparsity", _POINTS),
    Claim("shin-robust", "proposed robust from dense to 80 %", "contributions",
          "From dense to 80 % sparsity the proposed network loses less than the other pruning methods do on average.",
          "robustness", "shin2023_sparsity", _POINTS),
    Claim("shin-best-at-40", "40 % over the other sparsities", "inferred: the level it quotes",
          "40 % is the best of the sparsities for the proposed network.",
          "best_at_40", "shin2023_sparsity", _POINTS),
    Claim("shin-me-above-mi", "execution over imagery", "results, open questions",
          "Execution is decoded better than imagery throughout.",
          "execution_above_imagery", "shin2023_subjects", _POINTS),
)  # fmt: skip
