"""Upadhyay et al. 2023 (arXiv 2308.12114): which runs make its tables and figures, what it published and claims."""

import base64
import json
from collections import namedtuple
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from companion.claims import Claim
from companion.spec import RunSpec, check_profile, check_values, number, one_of, whole
from sparsemtl.errors import SpecError

NAME = "upadhyay2023"
VERSION = 2  # goes into every spec: raise it when a change of the code changes results
TASKS = MappingProxyType(
    {
        "seg": "segmentation", "normal": "surface normals", "depth": "depth",
        "male": "male or female", "smile": "smile or not",
    }
)  # fmt: skip
# The paper's metric of each task: its name here and in the published tables, on the page, and whether more is better
SCORES = MappingProxyType(
    {
        "seg": ("seg_iou", "IoU ↑", 1), "normal": ("normal_cs", "cosine similarity ↑", 1),
        "depth": ("depth_mae", "MAE, relative ↓", -1), "male": ("male_acc", "accuracy, male ↑", 1),
        "smile": ("smile_acc", "accuracy, smile ↑", 1),
    }
)  # fmt: skip
NYU_SETS = ("seg", "depth", "normal", "seg+depth", "seg+normal", "normal+depth", "seg+normal+depth")
CELEBA_SETS = ("seg", "male", "smile", "seg+male", "male+smile", "seg+male+smile")
ALL_NYU, ALL_CELEBA = NYU_SETS[-1], CELEBA_SETS[-1]
ALL = MappingProxyType({"nyuv2": ALL_NYU, "celebamask": ALL_CELEBA})
FIG3_SETS = ("seg", "seg+depth", "seg+normal", ALL_NYU)
L1_SETS = ("seg+normal", "normal+depth", ALL_NYU)
LAMBDAS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # Fig. 4
START = 1e-5  # lambda from which the controller of a target sparsity starts: the paper's own
GOAL, LEVELS = 0.7, (0.0, 0.2, 0.5, 0.7, 0.9)  # shares of zero groups: the paper's "about 70 %", and ours
L1_LAG = 0.08  # by which l1 aims above its target: its networks end 4 points lower, those of groups 4 points higher
ROUGHLY = 0.1  # how near the realised share must be to count as "about 70 %"
RANGE = tuple(round(GOAL + off, 4) for off in (-ROUGHLY, ROUGHLY))
LEVEL_OF = MappingProxyType({0.0: 0.0, 1e-6: 0.2, 1e-5: GOAL})  # published lambda -> our target in its place
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 0.1)
PROTOCOLS = ("paper", "released", "corrected")
BLIND = "blind"  # method of the runs that train nothing

Switch = namedtuple("Switch", "item label paper released corrected only", defaults=(None,))
Switch.__doc__ = """A difference between text and released code: item of the notes, our words, value by protocol.

only: the data ("nyuv2", "celebamask") that it matters for, or None for both.
"""


def _switch(item, label, *values):
    return Switch(item, label, *(tuple(v) if isinstance(v, list) else v for v in values))


PUBLISHED = Path(__file__).parent / "published"
SWITCHES = MappingProxyType(
    {k: _switch(*row) for k, row in json.loads((PUBLISHED / "switches.json").read_text(encoding="utf-8")).items()}
)
# Switches flipped one at a time on the three-task model; those without influence on training or beside it are left out
FLIPPED = ("dense_decay", "head_decay", "metric", "restarts", "penalty_gradient", "uncertainty", "stopping")

# Switches that a profile holds at one value in every protocol, for the cost of a run. Passes for each task have the
# gradients of one pass; they only move batch norm's running averages more often.
FIXED = MappingProxyType({"small": {"passes": "once"}})

_POSITIVE = number("a number above 0", lambda v: v > 0)
_ZERO_UP = number("zero or positive, and finite", lambda v: v >= 0)
_SHARE = number("a share above 0 and at most 1", lambda v: 0 < v <= 1)
_SIZES = ("whole numbers of 1 or more", lambda v: isinstance(v, tuple | list) and all(map(whole(1)[1], v)))


def _or_none(rule):
    return f"{rule[0]}, or none", lambda v: v is None or rule[1](v)


_BELOW_ONE = number("a share of 0 or more, and below 1", lambda v: 0 <= v < 1)
_TWO_SHARES = ("two shares below 1", lambda v: len(v) == 2 and all(map(_BELOW_ONE[1], v)))
# What a parameter may be. Not width 1: there oneDNN corrupts memory on processors that stop at AVX2
RULES = MappingProxyType(
    {name: one_of(s.paper, s.released) for name, s in SWITCHES.items() if isinstance(s.paper, str | bool)}
    | dict.fromkeys(("flip", "standardise", "start_at_mean", "compile", "only_near"), one_of(False, True))
    | {
        "precision": one_of("float32", "bfloat16"),
        "weight_decay": _ZERO_UP, "dense_decay": _or_none(_ZERO_UP), "head_decay": _ZERO_UP, "eps": _POSITIVE,
        "label_smoothing": _BELOW_ONE, "share": _SHARE, "crop": _SHARE, "held": _SHARE, "aim": _SHARE,
        "dropout": _TWO_SHARES, "attribute_dropout": _TWO_SHARES,
        "threshold": number("between 0 and 1", lambda v: 0 < v < 1),
        "lam": _ZERO_UP, "target": _or_none(_BELOW_ONE), "count": one_of("group", "parameter"), "lr": _POSITIVE,
        "penalty": one_of("group_lasso", "l1"), "version": one_of(VERSION),
        "schedule": one_of("constant", "cosine"), "loss_size": _or_none(whole(1)),
        "n": _or_none(whole(3)), "epochs": whole(1), "batch": whole(2),
        "patience": ("left as it is: trainings have a fixed length", lambda v: v in (9, 25, 60, 100)), "size": whole(1),
        "width": whole(2), "head_width": whole(1), "head_reduced": _or_none(whole(1)), "layers": _SIZES,
        "rates": _SIZES,
    }
)  # fmt: skip

# precision: of the forward passes; weights and their updates are float32. crop, flip, standardise, loss_size: see
# `batches.Batches`. start_at_mean: biases of the dense heads start at the mean of the training targets. schedule:
# "cosine" warms up over a tenth of the steps and then falls to a thousandth.
_FULL = {
    "width": 64, "layers": (3, 4, 6, 3), "head_width": 256, "head_reduced": None, "rates": (12, 24, 36),
    "compile": False, "precision": "bfloat16", "crop": 0.6, "flip": True, "loss_size": None, "schedule": "cosine",
    "size": 256, "n": None, "epochs": 100, "lr": 1e-4, "standardise": True, "start_at_mean": True,
}  # fmt: skip
_SMALL = _FULL | {
    "width": 24, "layers": (1, 2, 2, 1), "head_width": 32, "head_reduced": 64, "rates": (1, 2, 3),
    "loss_size": 16, "size": 64, "lr": 3e-3, "precision": "float32",
}  # fmt: skip
_FACES = {"crop": 0.9, "lr": 1e-3, "attribute_dropout": (0.0, 0.0)}
_QUICK = _FULL | {
    "width": 4, "layers": (1, 1, 1, 1), "head_width": 16, "rates": (1, 2, 3), "precision": "float32", "size": 32,
    "batch": 8, "epochs": 10, "patience": 9, "lr": 1e-2,
}  # fmt: skip

# By profile: data that stands for each of the paper's sets with its parameters, and seeds. The paper states image size,
# batch and learning rate. The recipe of `small` was chosen by scores of the dense three-task network on the 80
# validation images, seed 0, with a decoupled decay of 0.05: IoU 0.244 (blind 0.194), cosine 0.697 (0.679), MAE 0.802 m
# (0.966 m). The aim for normals, 0.03 above blind, was missed: width 32 and 90 epochs, at five times the cost, gave
# 0.701. float32, as a processor without bfloat16 arithmetic takes twenty times as long for a step in it. Trainings have
# a fixed length: patience ends none, and is there for the hashes of records. The recipe of the faces differs by milder
# crops, a lower learning rate and no dropout in the heads of the attributes: with those of the rooms, or with the
# dropout of the released code, most networks did not learn to see a smile. Chosen by scores of dense networks on the
# 600 validation images, seed 7; after 10 epochs IoU 0.771 (blind 0.59), male 0.91 (0.645), smile 0.89 (0.53).
PROFILE_SETTINGS = MappingProxyType(
    {
        "quick": {
            "seeds": (0,), "nyuv2": ("rooms", _QUICK | {"n": 64}), "celebamask": ("faces", _QUICK | {"n": 80}),
        },
        "small": {
            "seeds": (0, 1, 2, 3, 4),
            "nyuv2": ("nyuv2", _SMALL | {"batch": 16, "epochs": 25, "patience": 60}),
            "celebamask": ("celebamask", _SMALL | {"batch": 32, "epochs": 25, "patience": 25} | _FACES),
        },
        "full": {
            "seeds": (0, 1, 2, 3, 4),
            "nyuv2": ("nyuv2", _FULL | {"batch": 16, "patience": 100}),
            "celebamask": ("celebamask", _FULL | {"batch": 32, "patience": 100}),
        },
    }
)  # fmt: skip

# What a verdict rests on, for readers
PROFILE_WORDS = MappingProxyType(
    {
        "quick": "simulated images, which are no evidence",
        "small": "real images of 64 pixels and networks of CPU size",
        "full": "the paper's sizes of networks and images",
    }
)

# Seconds of one three-task run if no record says: on one core (small), on an H100 class card (full).
DEFAULT_SECONDS = MappingProxyType({"quick": 3, "small": 400, "full": 600})


def scientific(lam):
    """A lambda as the paper writes it: "1e-5", and "0"."""
    mantissa, exponent = f"{lam:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if lam else "0"


def short(value):
    """Value of a switch as tables show it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def packed(values):
    """Scores of images (float array, NaN where an image has none) as text: base64 of int16 in steps of 1e-4."""
    steps = np.nan_to_num(np.asarray(values, float) * 1e4, nan=-32768).round().clip(-32768, 32767)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()


def unpacked(text):
    """Inverse of `packed`."""
    steps = np.frombuffer(base64.b64decode(text), "<i2")
    return np.where(steps == -32768, np.nan, steps / 1e4)


def default_switches(protocol, data, profile=None):
    """Value of every switch that matters for `data` ("nyuv2" or "celebamask") in a protocol (dict)."""
    if protocol not in PROTOCOLS:
        raise SpecError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    values = {name: getattr(s, protocol) for name, s in SWITCHES.items() if s.only in (None, data)}
    return values | FIXED.get(profile, {})


def flipped(spec):
    """Switches in which a spec leaves its protocol: dict name -> value; of an unknown protocol none."""
    if spec.method not in PROTOCOLS:
        return {}
    usual = {k: getattr(s, spec.method) for k, s in SWITCHES.items()} | FIXED.get(spec.profile, {})
    return {k: v for k, v in spec.params.items() if k in usual and v != usual[k]}


def canonical(tasks):
    """The one name of a task set, "seg+normal+depth", in the order of `TASKS`; `SpecError` for an unknown task."""
    names = tasks.split("+")
    if unknown := [name for name in names if name not in TASKS]:
        raise SpecError(f"unknown task {unknown[0]!r}: choose from {', '.join(TASKS)}, joined by +")
    return "+".join(task for task in TASKS if task in names)


def settled(params, given):
    """Parameters of a spec after some were `given` (both dicts): a task set has one name."""
    params = _controlled(params | given, "only_near" in params) | given
    return params | {"tasks": canonical(str(params["tasks"]))}


def _controlled(params, released):
    """Parameters with what the controller of a target needs under l1, and where `released` is the protocol."""
    kept = {k: v for k, v in params.items() if k not in ("only_near", "held", "aim")}
    if kept["target"] and released:
        kept["only_near"] = True
    if kept["target"] and kept["penalty"] == "l1":
        kept |= {"held": 1.0, "aim": min(round(kept["target"] + L1_LAG, 4), 0.99)}
    return kept


def specs(profile, tasks, lambdas=(0.0,), data="nyuv2", protocol="paper", seeds=None, **params):
    """Specs of task sets x lambdas x seeds; list of `RunSpec` whose method is the protocol.

    tasks: names of task sets. data: "nyuv2" or "celebamask", also if a simulated twin takes its place. seeds: None for
    the profile's. params: other values of switches and parameters: target=0.7 lets the controller find the lambda that
    zeroes this share of groups, or of weights with count="parameter"; penalty is "group_lasso" or "l1". Under
    "released" one step may zero most groups: there only epochs that end near the target are tested. Under
    l1 lambda is never held, as zeros come back when the learning rate falls, and the controller aims higher.
    """
    settings = PROFILE_SETTINGS[check_profile(profile)]
    if data not in ALL:
        raise SpecError(f"unknown data {data!r}: choose nyuv2 or celebamask")
    source, base = settings[data]
    base = base | default_switches(protocol, data, profile)
    base |= {"version": VERSION, "penalty": "group_lasso", "target": None, "count": "group"}
    if unknown := [name for name in params if name not in base]:
        raise SpecError(f"unknown parameter {unknown[0]!r}: {data} has {', '.join(base)}")
    for lam in lambdas:
        check_values(params | {"lam": lam}, RULES)
    base = _controlled(base | params, protocol == "released")
    return [
        RunSpec(NAME, profile, source, protocol, seed, base | {"tasks": name, "lam": float(lam)})
        for name in map(canonical, tasks)
        for lam in lambdas
        for seed in (settings["seeds"] if seeds is None else seeds)
    ]


def at_levels(profile, tasks, levels, data="nyuv2", protocol="paper", **params):
    """Specs of task sets at target sparsities; 0 is the dense network."""
    return [
        spec
        for level in levels
        for spec in specs(profile, tasks, (START if level else 0.0,), data, protocol, target=level or None, **params)
    ]


def blind_specs(profile):
    """The input-blind control of each data set, at the image's resolution and as the released code takes it."""
    found = []
    for data, tasks in ALL.items():
        source, base = PROFILE_SETTINGS[check_profile(profile)][data]
        for protocol in ("paper", "released"):
            names = ("resolution", "depth", "threshold", "split", "share")
            kept = {k: v for k, v in default_switches(protocol, data).items() if k in names}
            kept |= {"size": base["size"], "n": base["n"], "tasks": tasks, "version": VERSION}
            found.append(RunSpec(NAME, profile, source, BLIND, 0, kept))
    return found


def _three_seeds(profile):
    return PROFILE_SETTINGS[check_profile(profile)]["seeds"][:3]


def main_specs(profile):
    """Dense and 70 % sparse three-task models under each protocol, and the dense one with coupled decay alone."""
    order = ("corrected", "released", "paper")
    found = [s for p in order for s in at_levels(profile, (ALL_NYU,), (0.0, GOAL), protocol=p)]
    return found + specs(profile, (ALL_NYU,), dense_decay=SWITCHES["dense_decay"].released)


def decay_specs(profile):
    """Coupled decay of every parameter, at five strengths: the three-task model, and single tasks at none and most."""
    found = []
    for tasks in NYU_SETS[-1:] + NYU_SETS[:3]:
        for decay in DECAYS if tasks == ALL_NYU else (DECAYS[0], DECAYS[-1]):
            set_to = {"dense_decay": decay, "head_decay": decay} if decay else {}
            found += specs(profile, (tasks,), seeds=_three_seeds(profile), **set_to)
    return found


def l1_specs(profile, sets):
    """l1 and group lasso with 70 % of the backbone's weights zero (Table 3)."""
    arms = ({"penalty": penalty, "count": "parameter"} for penalty in ("l1", "group_lasso"))
    return [s for arm in arms for s in at_levels(profile, sets, (GOAL,), **arm)]


def switch_specs(profile):
    """Each switch of `FLIPPED` alone, from the paper's to the released value: dense and 70 % sparse, three seeds.

    Without decay of the backbone that of the heads is flipped too; where a switch changes nothing (coupled decay of a
    sparse network, the metric without penalty) the protocol's own runs stand for it.
    """
    found = []
    for name in (*FLIPPED, "double_sigmoid"):
        of_faces = SWITCHES[name].only == "celebamask"
        where = {"tasks": (ALL_CELEBA,), "data": "celebamask"} if of_faces else {"tasks": (ALL_NYU,)}
        flip = {name: SWITCHES[name].released}
        found += at_levels(profile, levels=switch_levels(name), seeds=_three_seeds(profile), **where, **flip)
    return found


def switch_levels(switch):
    """Target sparsities at which a switch changes the training."""
    return {"dense_decay": (0.0,), "penalty_gradient": (GOAL,), "metric": (GOAL,)}.get(switch, (0.0, GOAL))


def width_specs(profile):
    """The three-task model at 70 % in half and a quarter of the width: the lambda that it takes."""
    width, seeds = PROFILE_SETTINGS[check_profile(profile)]["nyuv2"][1]["width"], _three_seeds(profile)
    widths = dict.fromkeys(max(2, width // k) for k in (2, 4))
    return [s for w in widths for s in at_levels(profile, (ALL_NYU,), (GOAL,), seeds=seeds, width=w)]


# Tables and figures in order of worth
TABLES = MappingProxyType(
    {
        "blind": blind_specs,
        "main": main_specs,
        "decay": decay_specs,
        "fig4": lambda profile: specs(profile, (ALL_NYU,), LAMBDAS),
        "levels": lambda profile: at_levels(profile, (ALL_NYU,), LEVELS),
        "singles": lambda profile: specs(profile, NYU_SETS[:3]),
        "l1": lambda profile: l1_specs(profile, (ALL_NYU,)),
        "faces": lambda profile: at_levels(profile, (ALL_CELEBA,), (0.0, GOAL), "celebamask"),
        "table1": lambda profile: at_levels(profile, NYU_SETS, LEVEL_OF.values()),
        "fig3": lambda profile: at_levels(profile, FIG3_SETS, (GOAL,)),
        "table3": lambda profile: l1_specs(profile, L1_SETS),
        "table2": lambda profile: at_levels(profile, CELEBA_SETS, (0.0, GOAL), "celebamask"),
        "switches": switch_specs,
        "widths": width_specs,
    }
)
MAIN = None  # the claims are judged on several of them


def all_specs(profile):
    """Everything the pages of this study show."""
    return list(dict.fromkeys(spec for make in TABLES.values() for spec in make(profile)))


@cache
def published(table):
    """Rows of a published table (1, 2, 3, or "text" for numbers in the running text): list of dicts of numbers.

    Keys are those of the CSV file in `PUBLISHED`; tasks in canonical order; empty cells are left out.
    """
    rows = pd.read_csv(PUBLISHED / f"{'' if table == 'text' else 'table'}{table}.csv")
    rows = rows.assign(tasks=rows.tasks.map(canonical)) if "tasks" in rows else rows
    return [{k: v for k, v in row.items() if pd.notna(v)} for row in rows.to_dict("records")]


def _published_gain(new, old, number=1):
    """Relative improvement that published rows (tasks, lambda) show, mean over the tasks of both."""
    rows, gains = {(row["tasks"], row["lambda"]): row for row in published(number)}, []
    for name, _, sign in (SCORES[task] for task in new[0].split("+") if task in old[0].split("+")):
        a, b = rows[new][f"{name}_mean"], rows[old][f"{name}_mean"]
        gains.append(sign * (a - b) / b)
    return float(np.mean(gains))


_SPARSE_NYU = _published_gain((ALL_NYU, START), (ALL_NYU, 0.0))
_SMALLEST = 0.02  # 2 % of a score, or 2 points

CLAIMS = (
    Claim("upadhyay-sparse-beats-dense-nyu", "NYU-v2: sparse over dense", "abstract, Table 1",
          "The three-task model with about 70 % of its groups zero beats its dense twin on NYU-v2.",
          "upadhyay2023_table1", "percent", "seeds", _SMALLEST, _SPARSE_NYU),
    Claim("upadhyay-sparse-beats-dense-celeba", "CelebAMask-HQ: sparse over dense", "abstract, Table 2",
          "The three-task model with about 70 % of its groups zero beats its dense twin on CelebAMask-HQ.",
          "upadhyay2023_table2", "percent", "seeds", _SMALLEST,
          _published_gain((ALL_CELEBA, START), (ALL_CELEBA, 0.0), 2)),
    Claim("upadhyay-dense-multitask-worse", "dense: single-task over multi-task", "results, Table 1",
          "Without sparsity, single-task models beat the three-task model on NYU-v2.",
          "upadhyay2023_table1", "percent", "seeds", _SMALLEST,
          float(np.mean([_published_gain((t, 0.0), (ALL_NYU, 0.0)) for t in ALL_NYU.split("+")]))),
    Claim("upadhyay-best-at-1e-5", "rise up to λ = 1e-5", "results, Fig. 4a",
          "Performance of the three-task model rises with lambda up to 1e-5.",
          "upadhyay2023_fig4", "percent", "seeds", _SMALLEST),
    Claim("upadhyay-all-zero", "all groups zero from λ = 1e-3", "results, Fig. 4b",
          "From lambda 1e-3 on, more than 99 % of the groups of the three-task model are zero.",
          "upadhyay2023_fig4", "points", "seeds", _SMALLEST),
    Claim("upadhyay-groups-beat-l1", "groups over l1", "results, Table 3",
          "Channel-wise sparsity beats l1 at equal parameter sparsity.",
          "upadhyay2023_table3", "percent", "seeds", _SMALLEST),
    Claim("upadhyay-early-dense", "middle layers sparser than early", "results, Fig. 3",
          "In the three-task model middle layers lose more of their channels than early layers.",
          "upadhyay2023_fig3", "points", "seeds", _SMALLEST),
    Claim("upadhyay-faster", "zeros alone save time", "results, Fig. 4d",
          "Zeros alone make the backbone faster (70 % of the groups, dense kernels).",
          "upadhyay2023_fig4", "percent", "seeds", _SMALLEST),
    Claim("upadhyay-dense-sees", "our dense network over blind", "ours",
          "The dense three-task model of this book beats a predictor that never sees the image, on NYU-v2.",
          "upadhyay2023_sight", "percent", "seeds", _SMALLEST, control=True),
    Claim("upadhyay-decay-blinds", "no coupled decay over coupled", "ours",
          "The dense three-task model is better without the coupled decay of 0.1 that the released code gave it.",
          "upadhyay2023_blind", "percent", "seeds", _SMALLEST, control=True),
    Claim("upadhyay-as-released", "sparse over dense, as released", "ours",
          "With the settings of the released code, 70 % sparse beats dense on NYU-v2.",
          "upadhyay2023_protocols", "percent", "seeds", _SMALLEST, _SPARSE_NYU, control=True),
    Claim("upadhyay-one-optimiser", "sparse over dense, decay on both", "ours",
          "With the same decoupled weight decay on both sides, 70 % sparse beats dense on NYU-v2.",
          "upadhyay2023_protocols", "percent", "seeds", _SMALLEST, _SPARSE_NYU, control=True),
)  # fmt: skip

# For the landing page: the paper's name, number and claim with its published values, and the claim that stands for it
TITLE, ARXIV, HEADLINE = "Upadhyay et al. 2023", "2308.12114", "upadhyay-sparse-beats-dense-nyu"
ABOUT = (
    f"With about {100 * GOAL:.0f} % of its channel groups zero, one network predicts segmentation, normals and "
    f"depth better than its dense twin: {100 * _SPARSE_NYU:+.0f} % on average."
)
