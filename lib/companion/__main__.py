"""Command line: sparsemtl {list, run, verify, ship, show, export, import, queue, crate, data}."""

import argparse
import contextlib
import errno
import json
import os
import random
import signal
import sys
import warnings
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

from sparsemtl.errors import RecordError, SparseMTLError, SpecError

from companion.papers import label, names
from companion.papers import study as study_of
from companion.records import (
    Store,
    committed,
    merge,
    read_jsonl,
    repository_root,
    set_hash,
    write_jsonl,
    written_whole,
)
from companion.spec import PROFILES, RunSpec, check_values, options_of


def main(argv=None):
    """Run one command; returns the exit status: 0, 2 for a user's mistake or a failed run, 130 when stopped."""
    args = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        status = args.command(args) or 0
        if sys.stdout:  # closed by the shell, it is None
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # `list | head`: the reader has seen enough
        _to_nowhere()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _to_nowhere()
        print("sparsemtl: the output cannot be written, its disk is full: free space there", file=sys.stderr)
        return 2
    except SparseMTLError as error:
        print(f"sparsemtl: {error}", file=sys.stderr)
        return 2
    except RecursionError:
        print("sparsemtl: a value is nested too deeply: give numbers, words or short lists", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "finished records are kept, the same command goes on from there"
        print(f"\nsparsemtl: stopped; {'nothing is kept' if args.command is _verify else kept}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _to_nowhere():
    """What Python still holds of the output must not fail once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(*_):
    """On a signal what Ctrl-C does: worker processes end too."""
    raise KeyboardInterrupt


def _parser():
    parser = argparse.ArgumentParser(
        prog="sparsemtl",
        description="Re-run the tables and figures of two papers on sparse multitask learning.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=function)
        return sub

    some = {"nargs": "+", "action": "extend"}

    def grid(sub, profile="quick"):
        sub.add_argument("study", help=f"one of: {', '.join(names())}")
        sub.add_argument("--profile", default=profile, help=f"one of: {', '.join(PROFILES)} (default: {profile})")
        sub.add_argument("--method", **some, help="these methods only")
        sub.add_argument("--subject", **some, type=int, help="these subjects only")
        sub.add_argument("--seed", **some, type=int, help="these seeds only")
        sub.add_argument("--sparsity", **some, type=float, help="these sparsities only")
        sub.add_argument("--problem", help="this classification problem only")
        sub.add_argument("--hash", **some, help="runs whose hash starts with these digits only")
        sub.add_argument("--table", **some, help="runs of these tables or pages only (see: queue)")
        pair = {**some, "metavar": "NAME=VALUE", "type": _pair, "default": []}
        sub.add_argument("--param", **pair, help="runs with these values of a parameter only, such as lam=1e-5")
        sub.add_argument("--set", **pair, help="set parameters otherwise: other runs, which no table of the book shows")

    def store(sub):
        sub.add_argument("--store", type=Path, help="folder of run records (default: SPARSEMTL_RUNS or runs/)")

    def machine(sub, workers=True):
        if workers:
            sub.add_argument("--workers", type=int, default=1, help="local processes (default: 1)")
        sub.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
        sub.add_argument("--data-dir", help="folder of the data sets (default: SPARSEMTL_DATA)")

    def results(sub):
        text = "committed records, or none for nothing (default: results/ of the repository)"
        sub.add_argument(
            "--results", type=_folder, default=Path(os.path.relpath(repository_root() / "results")), help=text
        )

    sub = command("list", _list, "list the runs of a study and which of them have a record")
    grid(sub)
    store(sub)
    results(sub)
    sub = command("run", _run, "execute the runs of a study that have no record yet")
    grid(sub)
    store(sub)
    machine(sub)
    sub = command("verify", _verify, "run some committed records again and say whether they land where they did")
    grid(sub, "small")
    results(sub)
    machine(sub)
    sub.add_argument("--draw", type=int, default=5, help="how many, at random from those chosen (default: 5)")
    sub.add_argument("--draw-seed", type=int, help="draw the same ones again (default: others each time)")
    sub = command("ship", _ship, "train one vision network and write it as ONNX file with a model card")
    grid(sub)
    sub.add_argument("--out", type=Path, required=True, help="folder for the file and its card")
    machine(sub, workers=False)
    sub = command("show", _show, "print one record, or all that start with these hash digits")
    sub.add_argument("hash")
    sub.add_argument("--json", action="store_true", help="the whole record as JSON")
    store(sub)
    results(sub)
    sub = command("export", _export, "write the records of a study as JSON lines")
    sub.add_argument("study")
    sub.add_argument("file", type=Path)
    sub.add_argument("--profile", help="records of this profile only")
    sub.add_argument("--problem", help="records of this problem only")
    sub.add_argument("--seed", **some, type=int, help="records of these seeds only")
    sub.add_argument("--table", **some, help="records of these tables or pages only (see: queue)")
    store(sub)
    sub = command("import", _import, "take the records of a JSON-lines file into the store")
    sub.add_argument("file", type=Path)
    store(sub)
    sub = command("queue", _queue, "say which runs the published tables lack, in order of worth (Markdown)")
    sub.add_argument("--out", type=Path, help="write it to this file (default: print it)")
    store(sub)
    results(sub)
    sub = command("crate", _crate, "describe the committed records in results/ro-crate-metadata.json")
    results(sub)
    sub = command("data", _data, "load a data set once, say what is in it, and fetch it first where asked to")
    sub.add_argument("name")
    sub.add_argument("--data-dir", help="folder of the data sets (default: SPARSEMTL_DATA)")
    sub.add_argument("--subject", **some, type=int, help="EEG subjects (default: 1)")
    sub.add_argument("--download", action="store_true", help="fetch missing EEG recordings through MOABB")
    return parser


def _folder(text):
    if text != "none" and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def _pair(text):
    """("name", value) of "name=value"; the value is JSON, or a word."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
    except RecursionError:
        raise argparse.ArgumentTypeError(f"the value of {name} is nested too deeply") from None


OWN = tuple(f.name for f in fields(RunSpec) if f.name != "params")


def _chosen(args):
    """Specs of the study that pass the command line's filters; a filter that names nothing known is an error."""
    study = study_of(args.study)
    chosen = _of_tables(study, args.profile, args.table) if args.table else study.all_specs(args.profile)
    if not chosen:
        raise SpecError(f"{study.NAME} has no run in {' or '.join(args.table)} at the profile {args.profile}")
    for field, wanted in (
        ("method", args.method), ("subject", args.subject), ("seed", args.seed),
        ("sparsity", args.sparsity), ("problem", args.problem and [args.problem]),
        *((name, [value for other, value in args.param if other == name]) for name in dict(args.param)),
    ):  # fmt: skip
        if not wanted:
            continue
        if not any(field in (*s.params, *OWN) for s in chosen):
            raise SpecError(f"unknown parameter {field!r}: these runs have {', '.join((*chosen[0].params, *OWN))}")
        have = {s: s.params.get(field, getattr(s, field) if field in OWN else None) for s in chosen}
        names = {v for v in have.values() if isinstance(v, str)}  # labels=true is a name there, not JSON's true
        wanted = [text if (text := str(value).lower()) in names else value for value in wanted]
        wanted = [tuple(value) if isinstance(value, list) else value for value in wanted]
        unknown = [value for value in wanted if value not in have.values()]
        if unknown:
            known = ", ".join(dict.fromkeys(map(str, have.values())))
            raise SpecError(f"unknown {field} {unknown[0]!r}: this grid has {known}")
        chosen = [s for s in chosen if have[s] in wanted]
    if args.hash:
        if unknown := [h for h in args.hash if not h or not any(s.hash.startswith(h) for s in chosen)]:
            raise SpecError(f"no run of this grid starts with {unknown[0]!r}: `list` prints the hashes")
        chosen = [s for s in chosen if s.hash.startswith(tuple(args.hash))]
    optional = getattr(study, "OPTIONAL", {})
    for name, _ in args.set:
        if unknown := [s for s in chosen if name not in (*s.params, *optional)]:
            raise SpecError(f"unknown parameter {name!r}: these runs have {', '.join((*unknown[0].params, *optional))}")
    given = {name: _as_in(chosen[0].params.get(name), value) for name, value in args.set}
    check_values(given, study.RULES)
    if given:
        chosen = list(dict.fromkeys(replace(s, params=study.settled(dict(s.params), given)) for s in chosen))
    return chosen


def _as_in(known, value):
    """A value that was given, as a float where the grid's is one: 0 and 0.0 would be two runs."""
    return float(value) if isinstance(known, float) and type(value) is int else value


def _of_tables(study, profile, tables):
    """Specs of some tables of a study, each once."""
    if unknown := [name for name in tables if name not in study.TABLES]:
        raise SpecError(f"unknown table {unknown[0]!r}: {study.NAME} has {', '.join(study.TABLES)}")
    return list(dict.fromkeys(spec for name in tables for spec in study.TABLES[name](profile)))


def _list(args):
    chosen, store = _chosen(args), Store(args.store)
    shipped = {r.hash: r for r in committed(args.results)}
    found = []
    for spec in chosen:
        state, record = _state(spec, shipped, store)
        found += [record] if record else []
        print(f"{spec.hash}  {state:9}  {label(spec)}")
    name = f", record set {set_hash(found)}" if found else ""
    print(f"{len(chosen)} runs, {len(found)} with a record in {args.results} or {store.folder}{name}", file=sys.stderr)


def _state(spec, shipped, store):
    """(word, record or None): what there is of a run."""
    if spec.hash in shipped:
        return "committed", shipped[spec.hash]
    try:
        record = store.read(spec)
    except RecordError:
        return "damaged", None
    return ("done", record) if record else ("missing", None)


def _run(args):
    from companion.engine import execute

    _quiet()
    outcome = execute(_chosen(args), Store(args.store), args.workers, args.data_dir, args.device)
    print(f"{outcome.executed} runs executed, {len(outcome.records)} records in all", file=sys.stderr)
    _tell(outcome.failures)
    return 2 if outcome.failures else 0


def _quiet():
    """Not what joblib, and the process with which it tidies up, say of runs that Ctrl-C cut off."""
    warnings.filterwarnings("ignore", r"\d+ tasks", module="joblib")
    said, tidying = os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning"
    if tidying not in said:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (said, tidying)))


def _tell(failures):
    """Print failed runs, one line a cause: what stops one run often stops them all."""
    causes = {}
    for failure in failures:
        label, _, cause = failure.partition(": ")
        causes.setdefault(cause, []).append(label)
    for cause, labels in causes.items():
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        print(f"sparsemtl: failed: {labels[0]}{more}: {cause}", file=sys.stderr)


def _verify(args):
    from companion.verify import OTHER_DATA, OUTSIDE, WORDS, draw, verify

    if args.draw < 1:
        raise SpecError(f"--draw is {args.draw}: it must be 1 or more")
    names, records = {spec.hash for spec in _chosen(args)}, committed(args.results)
    there = [r for r in records if r.hash in names]
    if not there:
        raise SpecError(f"none of these runs has a record in {args.results}: `list` says which have")
    seed = random.randrange(10**6) if args.draw_seed is None else args.draw_seed
    chosen = draw(there, args.draw, seed)
    print(f"{len(chosen)} of {len(there)} committed records, --draw-seed {seed}", file=sys.stderr)
    _quiet()
    checks, failures = verify(chosen, records, args.data_dir, args.device, args.workers)
    for check in checks:
        print(check)
    found = [(word, sum(check.word == word for check in checks)) for word in WORDS]
    print(", ".join(f"{n} {word}" for word, n in found if n) or "none was made again", file=sys.stderr)
    _tell(failures)
    return 2 if failures or dict(found)[OUTSIDE] or dict(found)[OTHER_DATA] else 0


def _ship(args):
    from ship import ship

    chosen = _chosen(args)
    if len(chosen) != 1:
        raise SpecError(f"{len(chosen)} runs chosen: ship takes one, such as --hash {chosen[0].hash}")
    print(f"{ship(chosen[0], args.out, args.data_dir, args.device)} written", file=sys.stderr)


def _show(args):
    records, problems = Store(args.store).all()
    for problem in problems:
        print(f"sparsemtl: {problem}", file=sys.stderr)
    origins = {args.results: committed(args.results), Store(args.store).folder: records}
    found = [(r, folder) for folder, there in origins.items() for r in there if r.hash.startswith(args.hash)]
    if not found:
        raise SpecError(
            f"no record starts with {args.hash!r} in {Store(args.store).folder} or {args.results}: "
            "sparsemtl list STUDY prints the hashes"
        )
    shown = {}  # a result that is in both folders once, two different ones of a run both
    for record, folder in found:
        shown.setdefault((record.hash, record.digest), (record, []))[1].append(str(folder))
    for name, results in Counter(name for name, _ in shown).items():
        if results > 1:
            print(f"sparsemtl: run {name} has {results} results: see where each lies", file=sys.stderr)
    for record, folders in sorted(shown.values(), key=lambda pair: pair[0].hash):
        print(json.dumps(record.to_dict(), indent=2, sort_keys=True) if args.json else _described(record, folders))


def _described(record, folders):
    """What a reader asks of a record, a line each; long lists stay in the JSON. folders: where it lies."""
    result, told = record.result, {"spec": record.spec.to_dict(), "metrics": record.result.get("metrics", {})}
    told["sparsity"] = result.get("sparsity", {})
    told["data"] = {
        k: v for k, v in result.get("data", {}).items() if k in ("fingerprint", "runs", "trials", "pictures")
    }
    told["run"] = {k: v for k, v in record.run.items() if k not in ("packages", "timings")} | record.run["packages"]
    lines = [f"run {record.hash}: {label(record.spec)}", f"digest of the result: {record.digest}"]
    lines += [f"lies in: {' and '.join(folders)}", f"make it again: {_again(record)}"]
    for name, values in told.items():
        lines += [f"{name}:"] + [f"  {key}: {value}" for key, value in values.items()] if values else []
    return "\n".join(lines) + "\n"


def _again(record):
    """The command that makes a record again, where this code knows how."""
    spec = record.spec
    planned = study_of(spec.study).all_specs(spec.profile) if spec.study in names() else []
    if spec.method not in {other.method for other in planned}:
        return f"not with this code, which does not know the method {spec.method} of {spec.study}"
    options = options_of(spec, planned)
    return f"sparsemtl run {spec.study} {options}{record.device_option}"


def _export(args):
    study = study_of(args.study)
    records, problems = Store(args.store).all()
    for problem in problems:
        print(f"sparsemtl: left out: {problem}", file=sys.stderr)
    chosen = [
        r
        for r in records
        if r.spec.study == args.study
        and args.profile in (None, r.spec.profile)
        and args.problem in (None, r.spec.params.get("problem"))
        and (args.seed is None or r.spec.seed in args.seed)
    ]
    if args.table:
        profiles = {r.spec.profile for r in chosen}
        names = {spec.hash for profile in profiles for spec in _of_tables(study, profile, args.table)}
        chosen = [r for r in chosen if r.hash in names]
    if not chosen:
        wanted = " ".join(filter(None, (args.study, args.profile, args.problem)))
        raise SpecError(f"no record of {wanted} in {Store(args.store).folder}: execute its runs first")
    if args.file.is_dir():
        raise RecordError(f"{args.file} is a folder: name a file in it")
    file = args.file.resolve()
    with _locked(file.parent):  # two exports into one file would each write without the other's records
        _not_beside(file, {r.hash for r in chosen})
        there = read_jsonl(file) if file.is_file() else []
        merged, conflicts = merge(chosen, there)  # a record made again takes the place of the old one
        n, kept = write_jsonl(file, merged), len(merged) - len(chosen)
    for conflict in conflicts:
        print(f"sparsemtl: {conflict}", file=sys.stderr)
    print(f"{n} records written to {args.file}{f', {kept} of them were there' if kept else ''}", file=sys.stderr)


@contextlib.contextmanager
def _locked(folder):
    """Context that one process at a time has for a folder, which is made where it is absent."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RecordError(f"cannot write in {folder} ({error.strerror}): choose another folder") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _not_beside(file, names):
    """`RecordError` where another file of STUDY/PROFILE/ holds one of these runs: `committed` would have it twice."""
    folder = file.parent
    shared = folder.name in PROFILES and folder.parent.name in names()
    for other in sorted(folder.glob("*.jsonl")) if shared else ():
        if other != file and (twice := sorted(names & {r.hash for r in read_jsonl(other)})):
            raise RecordError(
                f"{other} has run {twice[0]} ({len(twice)} of these): export to that file, choosing its runs "
                "(--problem, --seed, --table), or to another folder"
            )


def _import(args):
    store, damaged = Store(args.store), []
    incoming = read_jsonl(args.file, damaged)
    if damaged and not incoming:
        raise RecordError(damaged[0])
    present = store.all()[0]
    kept, conflicts = merge(present, incoming)
    have = {r.hash for r in present}
    new = [r for r in kept if r.hash not in have]
    for record in new:
        store.write(record)
    for conflict in conflicts:
        print(f"sparsemtl: {conflict}", file=sys.stderr)
    for problem in damaged:
        print(f"sparsemtl: left out: {problem}", file=sys.stderr)
    print(f"{len(new)} of {len(incoming)} records taken into {store.folder}", file=sys.stderr)
    return 2 if damaged else 0


def _queue(args):
    from companion.queue import queue

    own, problems = Store(args.store).all()
    for problem in problems:
        print(f"sparsemtl: left out: {problem}", file=sys.stderr)
    if str(args.results) != "none" and not args.results.is_dir():
        raise SpecError(
            f"there are no committed records at {args.results}: run this in the repository, or give --results"
        )
    text = queue([study_of(name) for name in names()], merge(own, committed(args.results))[0])
    if args.out is None:
        print(text)
        return
    with written_whole(args.out) as file:
        file.write(text + "\n")


def _crate(args):
    from companion.crate import write

    print(f"{write(args.results)} written", file=sys.stderr)


def _data(args):
    from companion.data import load
    from companion.data.eeg import SETS

    if args.name not in SETS:
        print(load(args.name, args.data_dir))
        return
    for subject in args.subject or [1]:
        options = {"download": True} if args.download else {}
        data = load(args.name, args.data_dir, subject=subject, **options)
        print(f"{args.name} subject {subject}: {len(data.channels)} channels, {data.sfreq:g} Hz")
        print(f"  fingerprint: {data.fingerprint}")
        for task, runs in data.recordings.items():
            count, runs = len(getattr(data, task).y), ", ".join(map(str, runs))
            kind = {"mi": "imagined", "me": "executed"}[task]
            print(f"  {kind}: {count} trials of {', '.join(data.classes)} (runs {runs})")


if __name__ == "__main__":
    sys.exit(main())
