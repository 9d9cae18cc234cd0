"""Which runs of a study a command means: filters on its grid, and values set otherwise."""

import argparse
import json
import shlex
import sys
from dataclasses import replace

from sparsemtl.errors import SpecError

from companion.papers import names
from companion.papers import study as study_of
from companion.spec import OWN, PROFILES, canonical_json, check_values

SOME = {"nargs": "+", "action": "extend"}
FILTERS = {"method": str, "subject": int, "seed": int, "sparsity": float, "problem": str}


def add_arguments(sub, study=None, profile="quick"):
    """Add the arguments that `chosen` reads to a parser. study: the one that is meant, if there is no choice."""
    if study:
        sub.set_defaults(study=study)
    else:
        sub.add_argument("study", help=f"one of: {', '.join(names())}")
    text = f"one of: {', '.join(PROFILES)} (default: {profile or 'all'})"
    sub.add_argument("--profile", default=profile, help=text)
    for name, kind in FILTERS.items():
        sub.add_argument(f"--{name}", **SOME, type=kind, help=f"runs with these values of {name} only")
    text = "of these subjects, such as 1-109, the ones that the grid has; the others are named"
    sub.add_argument("--people", **SOME, type=_range, metavar="FIRST-LAST", help=text)
    sub.add_argument("--hash", **SOME, help="runs whose hash starts with these digits only")
    sub.add_argument("--table", **SOME, help="runs of these tables or pages only (see: queue)")
    pair = {**SOME, "metavar": "NAME=VALUE", "type": _pair, "default": []}
    sub.add_argument("--param", **pair, help="runs with these values of a parameter only, such as lam=1e-5")
    sub.add_argument("--set", **pair, help="give parameters other values: other runs, which no table of the book shows")


def _range(text):
    """The numbers of "3" or "1-109" (range)."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number or a range such as 1-109")
    return range(int(first), int(last or first) + 1)


def _pair(text):
    """("name", value) of "name=value"; the value is JSON, or a word."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):  # text, or nested too deeply for JSON, which the rules refuse as text
        return name, value


def chosen(args, specs=None):
    """Specs that pass the command line's filters, of the study's grid or of those given; none is an error."""
    study, given = study_of(args.study), specs
    if given is None:
        specs = of_tables(study, args.profile, args.table) if args.table else study.all_specs(args.profile)
    else:
        specs = [s for s in given if s.study == study.NAME and args.profile in (None, s.profile)]
        if args.table:
            planned = {s for profile in PROFILES for s in of_tables(study, profile, args.table)}
            specs = [s for s in specs if s in planned]
    if not specs:
        what, place = "run" if given is None else "record", "".join(f" in {name}" for name in args.table or ())
        raise SpecError(f"no {what} of {study.NAME} at the profile {args.profile or 'quick, small or full'}{place}")
    wanted = {name: list(getattr(args, name) or ()) for name in FILTERS}
    if args.people:
        asked, have = sorted({n for part in args.people for n in part}), {_value(s, "subject") for s in specs}
        wanted["subject"] += [n for n in asked if n in have]
        if not wanted["subject"]:
            raise SpecError(f"none of the people asked for is in this grid: --profile {args.profile} has others")
        if lacking := [n for n in asked if n not in have]:
            print(f"not in this grid, left out: {', '.join(map(str, lacking))}", file=sys.stderr)
    for name, value in args.param:
        wanted[name] = [*wanted.get(name, []), value]
    for name, values in wanted.items():
        if values:
            specs, wanted[name] = _filtered(specs, name, values)
    for name, values in wanted.items():
        if lost := [value for value in values if value not in [_value(s, name) for s in specs]]:
            raise SpecError(f"{name} {lost[0]} has no run with the other values: choose them apart")
    if args.hash:
        if unknown := [h for h in args.hash if not h or not any(s.hash.startswith(h) for s in specs)]:
            raise SpecError(f"no run of this grid starts with {unknown[0]!r}: `list` prints the hashes")
        specs = [s for s in specs if s.hash.startswith(tuple(args.hash))]
    return _with_values(study, specs, args.set) if args.set else specs


def _value(spec, name):
    return spec.params.get(name, getattr(spec, name) if name in OWN else None)


def _filtered(specs, name, values):
    """(specs with one of these values, the values as the grid has them); `SpecError` for a value that none has."""
    if not any(name in (*s.params, *OWN) for s in specs):
        raise SpecError(f"unknown parameter {name!r}: these runs have {', '.join((*specs[0].params, *OWN))}")
    have = {s: _value(s, name) for s in specs}
    words = {v for v in have.values() if isinstance(v, str)}  # labels=true is a name there, not JSON's true
    values = [text if (text := str(value).lower()) in words else value for value in values]
    values = [tuple(value) if isinstance(value, list) else value for value in values]
    if unknown := [value for value in values if value not in have.values()]:
        known = ", ".join(dict.fromkeys(map(str, have.values())))
        other = "" if name in OWN else "; --set makes runs outside it"
        raise SpecError(f"unknown {name} {unknown[0]!r}: this grid has {known}{other}")
    return [s for s in specs if have[s] in values], values


def _with_values(study, specs, pairs):
    for name, _ in pairs:
        if unknown := [s for s in specs if name not in s.params]:
            raise SpecError(f"unknown parameter {name!r}: these runs have {', '.join(unknown[0].params)}")
    given = dict(pairs)
    for name, value in pairs:  # where the grid has a float, 0 is 0.0: they would be two runs
        if isinstance(specs[0].params[name], float) and type(value) is int:
            given[name] = float(value)
    check_values(given, study.RULES)
    settled = getattr(study, "settled", lambda params, given: params | given)
    return list(dict.fromkeys(replace(s, params=settled(dict(s.params), given)) for s in specs))


def of_tables(study, profile, tables):
    """Specs of some tables of a study, each once."""
    if unknown := [name for name in tables if name not in study.TABLES]:
        raise SpecError(f"unknown table {unknown[0]!r}: {study.NAME} has {', '.join(study.TABLES)}")
    return list(dict.fromkeys(spec for name in tables for spec in study.TABLES[name](profile)))


def options_of(spec, grid):
    """Words of the command line that choose a run: its hash, or that of the nearest run of the grid and `--set`."""
    wanted, differing = spec.to_dict(), {}
    for other in grid:
        have = other.to_dict()
        if have | {"params": None} == wanted | {"params": None} and set(have["params"]) <= set(wanted["params"]):
            ours, theirs = ({k: canonical_json(v) for k, v in d["params"].items()} for d in (wanted, have))
            differing[other] = {k: v for k, v in ours.items() if theirs.get(k) != v}
    nearest = min(differing, key=lambda other: len(differing[other]), default=spec)
    given = [shlex.quote(f"{name}={value}") for name, value in differing.get(nearest, {}).items()]
    return " ".join([f"--profile {spec.profile} --hash {nearest.hash}", *(["--set", *given] if given else [])])
