"""Upadhyay et al. 2023 (arXiv 2308.12114): which runs make its tables and figures, what it published and claims."""

import csv
from collections import namedtuple
from pathlib import Path
from types import MappingProxyType

from companion.spec import RunSpec, check_profile, check_values, number, one_of, whole
from companion.statistics import OldClaim as Claim
from sparsemtl.errors import SpecError

NAME = "upadhyay2023"
VERSION = 1  # goes into every spec: raise it when a change of the code changes results
TASKS = MappingProxyType(
    {
        "seg": "segmentation", "normal": "surface normals", "depth": "depth",
        "male": "male or female", "smile": "smile or not",
    }
)  # fmt: skip
NYU_SETS = ("seg", "depth", "normal", "seg+depth", "seg+normal", "normal+depth", "seg+normal+depth")
CELEBA_SETS = ("seg", "male", "smile", "seg+male", "male+smile", "seg+male+smile")
ALL_NYU, ALL_CELEBA = NYU_SETS[-1], CELEBA_SETS[-1]
FIG3_SETS = ("seg", "seg+depth", "seg+normal", ALL_NYU)
L1_SETS = ("seg+normal", "normal+depth", ALL_NYU)
TABLE_LAMBDAS = (0.0, 1e-6, 1e-5)
LAMBDAS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
SPARSE, L1_LAMBDA = 1e-5, 1e-3
PROTOCOLS = ("paper", "released", "corrected")

Switch = namedtuple("Switch", "item label paper released corrected only", defaults=(None,))
Switch.__doc__ = """A difference between text and released code: item of the notes, our words, value by protocol.

only: the data ("nyuv2", "celebamask") that it matters for, or None for both.
"""

SWITCHES = MappingProxyType(
    {
        "stem": Switch(1, "first layers of the backbone", "plain", "deep", "plain"),
        "resolution": Switch(1, "where losses and metrics are taken", "input", "features", "input"),
        "spare_class": Switch(1, "a 41st output for segmentation", False, True, False, "nyuv2"),
        "normal_head": Switch(4, "end of the normals' head", "linear", "tanh", "linear", "nyuv2"),
        "depth": Switch(4, "unit of depth", "metres", "relative", "metres", "nyuv2"),
        "weight_decay": Switch(5, "decoupled decay of the backbone", 0.0, 0.1, 0.1),
        "dense_decay": Switch(5, "coupled decay at lambda 0 instead", None, 0.1, None),
        "restarts": Switch(6, "optimiser rebuilt in each epoch", False, True, False),
        "uncertainty": Switch(7, "weights of the losses", "learned", "fixed", "learned"),
        "penalty_gradient": Switch(8, "penalty in the loss as well", False, True, False),
        "double_sigmoid": Switch(10, "two sigmoids in the binary loss", False, True, False, "celebamask"),
        "threshold": Switch(10, "probability that counts as yes", 0.5, 0.4, 0.5, "celebamask"),
        "split": Switch(11, "train, validation and test", "60-20-20", "70-15-15", "60-20-20", "celebamask"),
        "share": Switch(11, "part of each split that is used", 1.0, 1 / 3, 1.0, "celebamask"),
        "passes": Switch(12, "backbone passes", "once", "per-task", "once"),
        "stopping": Switch(13, "early stopping and checkpoints", "joint", "per-task", "joint"),
    }
)

# Parameters that a spec may have, with their values. precision: of the forward passes, while weights and their updates
# are float32; without it float32 on a CPU, bfloat16 on a GPU.
OPTIONAL = MappingProxyType({"precision": ("float32", "bfloat16")})

_POSITIVE = number("a number above 0", lambda v: v > 0)
_DECAY = number("a number of 0 or more", lambda v: v >= 0)
_SIZES = ("whole numbers of 1 or more", lambda v: isinstance(v, tuple | list) and all(map(whole(1)[1], v)))
# What a parameter may be
RULES = MappingProxyType(
    {name: one_of(s.paper, s.released) for name, s in SWITCHES.items() if isinstance(s.paper, str | bool)}
    | {name: one_of(*values) for name, values in OPTIONAL.items()}
    | {
        "weight_decay": _DECAY, "dense_decay": (f"{_DECAY[0]}, or none", lambda v: v is None or _DECAY[1](v)),
        "share": number("above 0 and at most 1", lambda v: 0 < v <= 1),
        "threshold": number("between 0 and 1", lambda v: 0 < v < 1),
        "lam": number("zero or positive, and finite", lambda v: v >= 0), "lr": _POSITIVE,
        "penalty": one_of("group_lasso", "l1"), "version": one_of(VERSION), "compile": one_of(False, True),
        "n": ("a whole number of 3 or more, or none", lambda v: v is None or whole(3)[1](v)),
        "epochs": whole(1), "patience": whole(0), "batch": whole(2), "size": whole(1),
        "width": whole(1), "head_width": whole(1), "layers": _SIZES, "rates": _SIZES,
    }
)  # fmt: skip

_FULL = {"width": 64, "layers": (3, 4, 6, 3), "head_width": 256, "rates": (12, 24, 36), "compile": False}
_SMALL = _FULL | {"width": 16, "head_width": 64, "rates": (3, 6, 9)}
_QUICK = _FULL | {"width": 4, "layers": (1, 1, 1, 1), "head_width": 16, "rates": (1, 2, 3)}

# By profile: data that stands for each of the paper's sets with its parameters, and seeds; `more_seeds` are those of
# the three-task model on NYU-v2. The paper states picture size, batch and learning rate; patience is that of the
# released code (25 and 10 epochs), shorter for NYU-v2 in `small`; the limit of epochs is lower here. `small` has fewer
# steps at a higher rate, chosen by validation loss on 600 pictures.
PROFILE_SETTINGS = MappingProxyType(
    {
        "quick": {
            "seeds": (0,), "more_seeds": (0,),
            "nyuv2": ("rooms", _QUICK | {"size": 32, "n": 64, "batch": 8, "epochs": 10, "patience": 9, "lr": 1e-2}),
            "celebamask": (
                "faces", _QUICK | {"size": 32, "n": 80, "batch": 8, "epochs": 10, "patience": 9, "lr": 1e-2}
            ),
        },
        "small": {
            "seeds": (0,), "more_seeds": (0, 1),
            "nyuv2": ("nyuv2", _SMALL | {"size": 64, "n": None, "batch": 16, "epochs": 40, "patience": 15, "lr": 3e-3}),
            "celebamask": (
                "celebamask", _SMALL | {"size": 64, "n": None, "batch": 32, "epochs": 16, "patience": 10, "lr": 3e-3}
            ),
        },
        "full": {
            "seeds": (0, 1, 2, 3, 4), "more_seeds": (0, 1, 2, 3, 4),
            "nyuv2": (
                "nyuv2", _FULL | {"size": 256, "n": None, "batch": 16, "epochs": 300, "patience": 25, "lr": 1e-4}
            ),
            "celebamask": (
                "celebamask", _FULL | {"size": 256, "n": None, "batch": 32, "epochs": 300, "patience": 10, "lr": 1e-4}
            ),
        },
    }
)  # fmt: skip

# What a verdict rests on, for readers
PROFILE_WORDS = MappingProxyType(
    {
        "quick": "simulated pictures, which are no evidence",
        "small": "real pictures, smaller networks, fewer pixels and fewer seeds than the paper's",
        "full": "the paper's sizes of networks and pictures",
    }
)

# Seconds of one three-task run where no record tells: on one core (small), on an H100 class card (full).
DEFAULT_SECONDS = MappingProxyType({"quick": 3, "small": 700, "full": 600})


def scientific(lam):
    """A lambda as the paper writes it: "1e-5", and "0"."""
    mantissa, exponent = f"{lam:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if lam else "0"


def default_switches(protocol, data):
    """Value of every switch that matters for `data` ("nyuv2" or "celebamask") in a protocol (dict)."""
    if protocol not in PROTOCOLS:
        raise SpecError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return {name: getattr(s, protocol) for name, s in SWITCHES.items() if s.only in (None, data)}


def flipped(spec):
    """Switches in which a spec leaves its protocol: dict name -> value; of an unknown protocol none."""
    return {k: v for k, v in spec.params.items() if k in SWITCHES and v != getattr(SWITCHES[k], spec.method, v)}


def canonical(tasks):
    """The one name of a task set, "seg+normal+depth", in the order of `TASKS`; `SpecError` for an unknown task."""
    names = tasks.split("+")
    if unknown := [name for name in names if name not in TASKS]:
        raise SpecError(f"unknown task {unknown[0]!r}: choose from {', '.join(TASKS)}, joined by +")
    return "+".join(task for task in TASKS if task in names)


def settled(params, given):
    """Parameters of a spec after some were `given` (both dicts): a task set has one name."""
    params = params | given
    return params | {"tasks": canonical(str(params["tasks"]))}


def specs(profile, tasks, lambdas, data="nyuv2", protocol="paper", penalty="group_lasso", seeds=None, **params):
    """Specs of task sets x lambdas x seeds; list of `RunSpec` whose method is the protocol.

    tasks: names of task sets. data: "nyuv2" or "celebamask", also where a simulated twin stands for it.
    penalty: "group_lasso" or "l1". seeds: None for the profile's. params: switches and parameters to set otherwise, or
    those of `OPTIONAL` to add.
    """
    settings = PROFILE_SETTINGS[check_profile(profile)]
    if data not in ("nyuv2", "celebamask"):
        raise SpecError(f"unknown data {data!r}: choose nyuv2 or celebamask")
    source, base = settings[data]
    base = base | default_switches(protocol, data) | {"version": VERSION, "penalty": penalty}
    if unknown := [name for name in params if name not in base | OPTIONAL]:
        raise SpecError(f"unknown parameter {unknown[0]!r}: {data} has {', '.join(base | OPTIONAL)}")
    found = []
    for name in map(canonical, tasks):
        for lam in lambdas:
            check_values(params | {"lam": lam, "penalty": penalty}, RULES)
        default = settings["more_seeds" if name == ALL_NYU else "seeds"]
        found += [
            RunSpec(NAME, profile, source, protocol, seed, base | params | {"tasks": name, "lam": lam})
            for seed in (default if seeds is None else seeds)
            for lam in map(float, lambdas)
        ]
    return found


def table1_specs(profile, protocol="paper"):
    """Table 1: 7 task sets of NYU-v2 x 3 lambdas."""
    return specs(profile, NYU_SETS, TABLE_LAMBDAS, protocol=protocol)


def fig3_specs(profile, protocol="paper"):
    """Fig. 3: four task sets of NYU-v2 at lambda 1e-5."""
    return specs(profile, FIG3_SETS, (SPARSE,), protocol=protocol)


def fig4_specs(profile, protocol="paper"):
    """Fig. 4: the three-task model of NYU-v2 at 7 lambdas."""
    return specs(profile, (ALL_NYU,), LAMBDAS, protocol=protocol)


def table2_specs(profile, protocol="paper"):
    """Table 2: 6 task sets of CelebAMask-HQ x 2 lambdas."""
    return specs(profile, CELEBA_SETS, (0.0, SPARSE), "celebamask", protocol)


def table3_specs(profile, protocol="paper"):
    """Table 3: three task sets of NYU-v2 with l1, and with the group lasso to compare."""
    return [
        *specs(profile, L1_SETS, (L1_LAMBDA,), protocol=protocol, penalty="l1"),
        *specs(profile, L1_SETS, (SPARSE,), protocol=protocol),
    ]


def switch_lambdas(switch):
    """Lambdas of the protocols page at which a switch changes the training; at the other it stays as it is."""
    return {"dense_decay": (0.0,), "penalty_gradient": (SPARSE,)}.get(switch, (0.0, SPARSE))


def protocol_specs(profile):
    """The protocols page: three protocols on single tasks and all tasks, and each switch flipped alone.

    A switch is flipped from the paper's to the released value: on the three-task model of NYU-v2, or on all tasks of
    CelebAMask-HQ where it matters only there; at lambda 0 and 1e-5, where it can matter. One seed.
    """
    found = []
    for protocol in PROTOCOLS:
        found += specs(profile, ("seg", "normal", "depth", ALL_NYU), (0.0, SPARSE), protocol=protocol, seeds=(0,))
    for name, switch in SWITCHES.items():
        data, tasks = ("celebamask", ALL_CELEBA) if switch.only == "celebamask" else ("nyuv2", ALL_NYU)
        if switch.paper != switch.released:
            found += specs(profile, (tasks,), switch_lambdas(name), data, seeds=(0,), **{name: switch.released})
    return found + specs(profile, (ALL_CELEBA,), (0.0, SPARSE), "celebamask", seeds=(0,))


# Tables and figures in order of worth; "three-tasks" is the last block of Table 1.
TABLES = MappingProxyType(
    {
        "three-tasks": lambda profile: specs(profile, (ALL_NYU,), TABLE_LAMBDAS),
        "table1": table1_specs,
        "fig3": fig3_specs,
        "table2": table2_specs,
        "fig4": fig4_specs,
        "table3": table3_specs,
        "protocols": protocol_specs,
    }
)
MAIN = None  # the claims are judged on several of them


def all_specs(profile):
    """Everything the pages of this study show."""
    return list(dict.fromkeys(spec for make in TABLES.values() for spec in make(profile)))


def published(table):
    """Rows of a published table (1, 2, 3, or "text" for numbers in the running text): list of dicts of numbers.

    Keys are those of the CSV file beside this module; tasks in canonical order; empty cells are left out.
    """
    name = "text" if table == "text" else f"table{table}"
    with open(Path(__file__).parent / "published" / f"{name}.csv", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [
        {k: canonical(v) if k == "tasks" else v if k in ("figure", "quantity", "unit", "where") else float(v)
         for k, v in row.items()}
        for row in rows
    ]  # fmt: skip


_RELATIVE = "the other network's score"

CLAIMS = (
    Claim("upadhyay-sparse-beats-dense-nyu", "NYU-v2: sparse over dense", "abstract, Table 1",
          "Sparse multi-task models (lambda 1e-5) beat their dense twins on NYU-v2.",
          "sparse_gain_nyu", "upadhyay2023_table1", _RELATIVE),
    Claim("upadhyay-sparse-beats-dense-celeba", "CelebAMask-HQ: sparse over dense", "abstract, Table 2",
          "Sparse multi-task models (lambda 1e-5) beat their dense twins on CelebAMask-HQ.",
          "sparse_gain_celeba", "upadhyay2023_table2", _RELATIVE),
    Claim("upadhyay-dense-multitask-worse", "dense: single-task over multi-task", "results, Table 1",
          "Without sparsity, single-task models beat multi-task models on NYU-v2.",
          "dense_single_gain", "upadhyay2023_table1", _RELATIVE),
    Claim("upadhyay-best-at-1e-5", "λ = 1e-5 over the other λ", "results, Fig. 4a",
          "Performance of the three-task model is best at lambda 1e-5.",
          "best_at_sparse", "upadhyay2023_fig4", _RELATIVE),
    Claim("upadhyay-all-zero", "all groups zero from λ = 1e-3", "results, Fig. 4b",
          "From lambda 1e-3 on every group of the three-task model is zero.",
          "all_zero", "upadhyay2023_fig4", "all groups"),
    Claim("upadhyay-groups-beat-l1", "groups over l1", "results, Table 3",
          "Channel-wise sparsity (lambda 1e-5) beats l1 (lambda 1e-3), at about the same parameter sparsity.",
          "groups_over_l1", "upadhyay2023_table3", _RELATIVE),
    Claim("upadhyay-early-dense", "early layers dense, middle sparse", "results, Fig. 3",
          "In the three-task model early layers stay dense and middle layers go sparse (lambda 1e-5).",
          "early_dense_middle_sparse", "upadhyay2023_fig3", "a layer's channels"),
    Claim("upadhyay-faster", "zeros alone save time", "results, Fig. 4d",
          "Zeros alone make the backbone faster (lambda 1e-5, dense kernels).",
          "time_saved", "upadhyay2023_fig4", "the dense network's time"),
)  # fmt: skip
