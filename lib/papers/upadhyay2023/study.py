"""Upadhyay et al. 2023 (arXiv 2308.12114): which runs make its tables and figures, what it published and claims."""

import base64
import json
import tomllib
from collections import namedtuple
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from companion.claims import Claim
from companion.spec import PROFILES, RunSpec, check_profile, check_values, number, one_of, whole
from sparsemtl.errors import SpecError

NAME = "upadhyay2023"
VERSION = 2  # goes into every spec: raise it when a change of the code changes results
TASKS = {
    "seg": "segmentation", "normal": "surface normals", "depth": "depth",
    "male": "male or female", "smile": "smile or not",
}  # fmt: skip
# The paper's metric of each task: its name here and in the published tables, on the page, and whether more is better
SCORES = {
    "seg": ("seg_iou", "IoU ↑", 1), "normal": ("normal_cs", "cosine similarity ↑", 1),
    "depth": ("depth_mae", "MAE, relative ↓", -1), "male": ("male_acc", "accuracy, male ↑", 1),
    "smile": ("smile_acc", "accuracy, smile ↑", 1),
}  # fmt: skip
NYU_SETS = ("seg", "depth", "normal", "seg+depth", "seg+normal", "normal+depth", "seg+normal+depth")
CELEBA_SETS = ("seg", "male", "smile", "seg+male", "male+smile", "seg+male+smile")
ALL_NYU, ALL_CELEBA = NYU_SETS[-1], CELEBA_SETS[-1]
ALL = {"nyuv2": ALL_NYU, "celebamask": ALL_CELEBA}
FIG3_SETS = ("seg", "seg+depth", "seg+normal", ALL_NYU)
L1_SETS = ("seg+normal", "normal+depth", ALL_NYU)
LAMBDAS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # Fig. 4
START = 1e-5  # lambda from which the controller of a target sparsity starts: the paper's own
GOAL, LEVELS = 0.7, (0.0, 0.2, 0.5, 0.7, 0.9)  # shares of zero groups: the paper's "about 70 %", and ours
L1_LAG = 0.08  # by which l1 aims above its target: its networks end 4 points lower, those of groups 4 points higher
ROUGHLY = 0.1  # how near the realised share must be to count as "about 70 %"
RANGE = tuple(round(GOAL + off, 4) for off in (-ROUGHLY, ROUGHLY))
LEVEL_OF = {0.0: 0.0, 1e-6: 0.2, 1e-5: GOAL}  # published lambda -> our target in its place
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 0.1)
PROTOCOLS = ("paper", "released", "corrected")
BLIND = "blind"  # method of the runs that train nothing

PUBLISHED, PLAN = Path(__file__).parent / "published", Path(__file__).parent / "plan"
_RECIPES, _CLAIMS = (tomllib.loads((PLAN / f"{n}.toml").read_text(encoding="utf-8")) for n in ("recipes", "claims"))
# A difference between text and released code: item of the notes, our words, value by protocol, and the data ("nyuv2",
# "celebamask") that it matters for, or None for both
Switch = namedtuple("Switch", "item label paper released corrected only", defaults=(None,))
SWITCHES = {
    name: Switch(*(tuple(v) if isinstance(v, list) else v for v in values))
    for name, values in json.loads((PUBLISHED / "switches.json").read_text(encoding="utf-8")).items()
}
# Switches flipped one at a time on the three-task model; those without influence on training or beside it are left out
FLIPPED = ("dense_decay", "head_decay", "metric", "restarts", "penalty_gradient", "uncertainty", "stopping")
# Target sparsities at which a switch changes the training: coupled decay does not reach a sparse network, nor the other
# two a dense one
SWITCH_LEVELS = dict.fromkeys((*FLIPPED, "double_sigmoid"), (0.0, GOAL))
SWITCH_LEVELS |= {"dense_decay": (0.0,), "penalty_gradient": (GOAL,), "metric": (GOAL,)}
# Switches that a profile holds at one value in every protocol, for the cost of a run. Passes for each task have the
# gradients of one pass; they only move batch norm's running averages more often.
FIXED = {"small": {"passes": "once"}}

_POSITIVE = number("a number above 0", lambda v: v > 0)
_ZERO_UP = number("zero or positive, and finite", lambda v: v >= 0)
_BELOW_ONE = number("a share of 0 or more, and below 1", lambda v: 0 <= v < 1)
_SHARE = number("a share above 0 and at most 1", lambda v: 0 < v <= 1)
_WHOLES = ("whole numbers of 1 or more", lambda v: isinstance(v, tuple | list) and all(map(whole(1)[1], v)))


def _or_none(rule):
    return f"{rule[0]}, or none", lambda v: v is None or rule[1](v)


_TWO_SHARES = ("two shares below 1", lambda v: len(v) == 2 and all(map(_BELOW_ONE[1], v)))
# What a parameter may be. Not width 1: there oneDNN corrupts memory on processors that stop at AVX2
RULES = {name: one_of(s.paper, s.released) for name, s in SWITCHES.items() if isinstance(s.paper, str | bool)}
RULES |= dict.fromkeys(("flip", "standardise", "start_at_mean", "compile", "only_near"), one_of(False, True))
RULES |= {
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
    "width": whole(2), "head_width": whole(1), "head_reduced": _or_none(whole(1)), "layers": _WHOLES,
    "rates": _WHOLES,
}  # fmt: skip

_FULL = dict.fromkeys(("head_reduced", "loss_size", "n")) | _RECIPES["full"]
# Each profile: seeds, and for each of the paper's data sets the data that stand for it with their parameters
PROFILE_SETTINGS = {
    profile: {"seeds": (0,) if profile == "quick" else (0, 1, 2, 3, 4)}
    | {name: (source, _FULL | _RECIPES[profile] | own) for name, (source, own) in _RECIPES["data"][profile].items()}
    for profile in PROFILES
}
PROFILE_WORDS = _RECIPES["profile_words"]
# Seconds of one three-task run if no record says: on one core (small), on an H100 class card (full).
DEFAULT_SECONDS = {"quick": 3, "small": 400, "full": 600}


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


def default_switches(protocol, data=None, profile=None):
    """Value of every switch that matters for `data` ("nyuv2" or "celebamask"; None: any) in a protocol (dict)."""
    if protocol not in PROTOCOLS:
        raise SpecError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    values = {name: getattr(s, protocol) for name, s in SWITCHES.items() if not data or s.only in (None, data)}
    return values | FIXED.get(profile, {})


def flipped(spec):
    """Switches in which a spec leaves its protocol: dict name -> value; of an unknown protocol none."""
    usual = default_switches(spec.method, profile=spec.profile) if spec.method in PROTOCOLS else {}
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
    if target := kept.get("target"):
        kept |= {"only_near": True} if released else {}
        kept |= {"held": 1.0, "aim": min(round(target + L1_LAG, 4), 0.99)} if kept["penalty"] == "l1" else {}
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
    needed, found = ("resolution", "depth", "threshold", "split", "share", "size", "n"), []
    for (data, tasks), protocol in product(ALL.items(), ("paper", "released")):
        source, base = PROFILE_SETTINGS[check_profile(profile)][data]
        params = {k: v for k, v in (base | default_switches(protocol, data)).items() if k in needed}
        found.append(RunSpec(NAME, profile, source, BLIND, 0, params | {"tasks": tasks, "version": VERSION}))
    return found


def _grid(arms, profile):
    """Specs of arms (list), each the options of `at_levels`, or of `specs` if it names no levels.

    Beside these an arm may have few=True, for the first three seeds, and narrower=2, for half of the profile's width.
    """
    settings, found = PROFILE_SETTINGS[check_profile(profile)], []
    for options in ({"tasks": (ALL_NYU,)} | arm for arm in arms):
        if options.pop("few", False):
            options["seeds"] = settings["seeds"][:3]
        if "narrower" in options:
            options["width"] = max(2, settings["nyuv2"][1]["width"] // options.pop("narrower"))
        found += (at_levels if "levels" in options else specs)(profile, **options)
    return list(dict.fromkeys(found))


_BOTH, _FACES = {"levels": (0.0, GOAL)}, {"tasks": (ALL_CELEBA,), "data": "celebamask"}
_RELEASED = {name: s.released for name, s in SWITCHES.items()}
# l1 and group lasso with 70 % of the backbone's weights zero
_L1 = [{"levels": (GOAL,), "penalty": penalty, "count": "parameter"} for penalty in ("l1", "group_lasso")]
_GRIDS = {
    # under each protocol, and dense with coupled decay alone
    "main": [
        *(_BOTH | {"protocol": protocol} for protocol in ("corrected", "released", "paper")),
        {"dense_decay": _RELEASED["dense_decay"]},
    ],
    # coupled decay of every parameter at five strengths, and of single tasks at none and most
    "decay": [
        {"tasks": (tasks,), "few": True} | ({"dense_decay": decay, "head_decay": decay} if decay else {})
        for tasks in (ALL_NYU, *NYU_SETS[:3])
        for decay in (DECAYS if tasks == ALL_NYU else (DECAYS[0], DECAYS[-1]))
    ],
    "fig4": [{"lambdas": LAMBDAS}],
    "levels": [{"levels": LEVELS}],
    "singles": [{"tasks": NYU_SETS[:3]}],
    "l1": _L1,
    "faces": [_FACES | _BOTH],
    "table1": [{"tasks": NYU_SETS, "levels": LEVEL_OF.values()}],
    "fig3": [{"tasks": FIG3_SETS, "levels": (GOAL,)}],
    "table3": [{"tasks": L1_SETS} | arm for arm in _L1],
    "table2": [_FACES | _BOTH | {"tasks": CELEBA_SETS}],
    # each alone, from the paper's to the released value
    "switches": [
        {"levels": levels, "few": True, name: _RELEASED[name]} | (_FACES if SWITCHES[name].only else {})
        for name, levels in SWITCH_LEVELS.items()
    ],
    "widths": [{"levels": (GOAL,), "few": True, "narrower": k} for k in (2, 4)],
}
# Tables and figures in order of worth; what an arm does not name is that of the dense three-task model of rooms
TABLES = {"blind": blind_specs} | {name: partial(_grid, arms) for name, arms in _GRIDS.items()}
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


def published_gain(number, old, new):
    """Relative improvement of `new` rows (tasks, lambda) of a published table over an old one, mean over the tasks."""
    rows, gains = {(row["tasks"], row["lambda"]): row for row in published(number)}, []
    for row in (rows[key] for key in new):
        for name, _, sign in (SCORES[task] for task in row["tasks"].split("+")):
            a, b = row[f"{name}_mean"], rows[old][f"{name}_mean"]
            gains.append(sign * (a - b) / b)
    return float(np.mean(gains))


_SPARSE_NYU = published_gain(1, (ALL_NYU, 0.0), [(ALL_NYU, START)])
_SIZES = {
    "upadhyay-sparse-beats-dense-nyu": _SPARSE_NYU,
    "upadhyay-as-released": _SPARSE_NYU,
    "upadhyay-one-optimiser": _SPARSE_NYU,
    "upadhyay-sparse-beats-dense-celeba": published_gain(2, (ALL_CELEBA, 0.0), [(ALL_CELEBA, START)]),
    "upadhyay-dense-multitask-worse": published_gain(1, (ALL_NYU, 0.0), [(t, 0.0) for t in ALL_NYU.split("+")]),
}
CLAIMS = tuple(
    Claim(name, units="seeds", smallest=0.02, published=_SIZES.get(name), **claim) for name, claim in _CLAIMS.items()
)

# For the landing page: the paper's name, number and claim with its published values, and the claim that stands for it
TITLE, ARXIV, HEADLINE = "Upadhyay et al. 2023", "2308.12114", "upadhyay-sparse-beats-dense-nyu"
ABOUT = (
    f"With about {100 * GOAL:.0f} % of its channel groups zero, one network predicts segmentation, normals and "
    f"depth better than its dense twin: {100 * _SPARSE_NYU:+.0f} % on average."
)
