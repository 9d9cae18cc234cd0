"""The command `sparsemtl`: list, run, show, verify, export, import, diff, queue, crate, data."""

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
from pathlib import Path

from sparsemtl.errors import RecordError, SparseMTLError, SpecError, one_line

from companion.choose import SOME, add_arguments, chosen, of_tables
from companion.files import write_whole
from companion.lookup import differences, find, find_set
from companion.papers import label, names
from companion.papers import study as study_of
from companion.records import Store, committed, merge, read_jsonl, results_folder, set_hash, write_jsonl
from companion.spec import PROFILES, options_of


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
        _drop_output()
        return 0
    except SparseMTLError as error:
        _say(error)
    except RecursionError:
        _say("a value is nested too deeply: give numbers, words or short lists")
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            _drop_output()
            _say("the output cannot be written, its disk is full: free space there")
        else:
            _say(f"{error.filename or 'a file'}: {error.strerror or one_line(error)}; mend that, or name another place")
    except KeyboardInterrupt:
        kept = "nothing is kept" if args.command is _verify else "finished records are kept, the same command resumes"
        print(file=sys.stderr)
        _say(f"stopped; {kept}")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 2


def _say(text):
    print(f"sparsemtl: {text}", file=sys.stderr)


def _drop_output():
    """Discard what Python still holds of the output: it would fail once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(*_):
    """On SIGTERM do what Ctrl-C does: worker processes end too."""
    raise KeyboardInterrupt


def _parser():
    parser = argparse.ArgumentParser(
        prog="sparsemtl", description="Re-run the tables and figures of two papers on sparse multitask learning."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text, *groups, **options):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=function)
        for group in groups:
            group(sub, **options)
        return sub

    command("list", _list, "list the runs of a study and which of them have a record", add_arguments, _store, _results)
    sub = command("run", _run, "execute the runs of a study that have no record yet", add_arguments, _store, _machine)
    text = "Dask scheduler to send the runs to: tcp://HOST:PORT, or local:N for N processes here"
    sub.add_argument("--scheduler", metavar="ADDRESS", help=text)
    text = "run some committed records again and say whether they give the same result"
    sub = command("verify", _verify, text, add_arguments, _results, _machine)
    sub.set_defaults(profile="small")
    sub.add_argument("--draw", type=int, default=5, help="how many, at random from those chosen (default: 5)")
    sub.add_argument("--draw-seed", type=int, help="draw the same ones again (default: others each time)")
    text = "print the record of a run, or the runs of a record set that a page cites"
    sub = command("show", _show, text, _store, _results)
    sub.add_argument("hash", help="first digits of a run's hash, or the hash of a record set")
    sub.add_argument("--json", action="store_true", help="the whole record as JSON")
    sub = command("diff", _diff, "say why two records differ: spec, data, code, package, device", _store, _results)
    for name in ("a", "b"):
        sub.add_argument(name, help="a run's hash, or FILE:HASH for the record in that file or store")
    sub = command("export", _export, "write the records of a study as JSON lines", _store)
    sub.add_argument("study", help=f"one of: {', '.join(names())}")
    sub.add_argument("file", type=Path)
    sub.add_argument("--profile", help="records of this profile only")
    sub.add_argument("--problem", help="records of this problem only")
    sub.add_argument("--seed", **SOME, type=int, help="records of these seeds only")
    sub.add_argument("--table", **SOME, help="records of these tables or pages only (see: queue)")
    sub = command("import", _import, "take the records of a JSON-lines file into the store", _store)
    sub.add_argument("file", type=Path)
    text = "say which runs the published tables lack, in order of worth (Markdown)"
    sub = command("queue", _queue, text, _store, _results)
    sub.add_argument("--out", type=Path, help="write it to this file (default: print it)")
    command("crate", _crate, "describe the committed records in results/ro-crate-metadata.json", _results)
    sub = command("data", _data, "load a data set once and say what is in it; fetch it first if asked to", _data_dir)
    sub.add_argument("name")
    sub.add_argument("--subject", **SOME, type=int, help="EEG subjects (default: 1)")
    sub.add_argument("--download", action="store_true", help="fetch missing EEG recordings")
    sub.add_argument("--allow-missing-runs", action="store_true", help="take a subject whose recordings are incomplete")
    return parser


def _store(sub):
    sub.add_argument("--store", type=Path, help="folder of run records (default: SPARSEMTL_RUNS or runs/)")


def _results(sub):
    text = "committed records, or none for nothing (default: results/ of the repository)"
    sub.add_argument("--results", type=_folder, help=text)


def _data_dir(sub):
    sub.add_argument("--data-dir", help="folder of the data sets (default: SPARSEMTL_DATA)")


def _machine(sub):
    sub.add_argument("--workers", type=int, default=1, help="local processes (default: 1)")
    sub.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    _data_dir(sub)


def _folder(text):
    if text != "none" and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def _committed(args, must=False):
    """(folder of the committed records, or None with a word about it). must: whether it has to exist."""
    folder = args.results or results_folder()
    if folder.name == "none" and not folder.is_dir():
        return None
    if not folder.is_dir():
        if must:
            raise SpecError(f"there are no committed records at {folder}: name their folder by --results")
        _say(f"no committed records: there is no folder {folder}")
        return None
    return folder


def _own(store):
    """Records of a store; what is left out is said."""
    records, problems = store.all()
    for problem in problems:
        _say(f"left out: {problem}")
    return records


def _list(args):
    specs, store, folder = chosen(args), Store(args.store), _committed(args)
    shipped = {r.hash: r for r in committed(folder)} if folder else {}
    found = []
    for spec in specs:
        state, record = _state(spec, shipped, store)
        found += [record] if record else []
        print(f"{spec.hash}  {state:9}  {label(spec)}")
    name = f", record set {set_hash(found)}" if found else ""
    places = " or ".join(str(place) for place in (folder, store.folder) if place)
    print(f"{len(specs)} runs, {len(found)} with a record in {places}{name}", file=sys.stderr)


def _state(spec, shipped, store):
    """(word, record or None) of a run."""
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
    specs, store = chosen(args), Store(args.store)
    outcome = execute(specs, store, args.workers, args.data_dir, args.device, scheduler=args.scheduler)
    print(f"{outcome.executed} runs executed, {len(outcome.records)} records in all", file=sys.stderr)
    _report(outcome.failures)
    return 2 if outcome.failures else 0


def _quiet():
    """Silence what joblib, and the process with which it tidies up, say of runs that Ctrl-C cut off."""
    warnings.filterwarnings("ignore", r"\d+ tasks", module="joblib")
    said, tidying = os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning"
    if tidying not in said:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (said, tidying)))


def _report(failures):
    """Print failed runs, one line a cause: what stops one run often stops them all."""
    causes = {}
    for failure in failures:
        which, _, cause = failure.partition(": ")
        causes.setdefault(cause, []).append(which)
    for cause, labels in causes.items():
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        _say(f"failed: {labels[0]}{more}: {cause}")


def _verify(args):
    from companion.verify import WORDS, draw, failed, verify

    if args.draw < 1:
        raise SpecError(f"--draw is {args.draw}: it must be 1 or more")
    _quiet()
    asked = {spec.hash for spec in chosen(args)}
    folder = _committed(args, must=True)
    records = [] if folder is None else committed(folder)
    have = [r for r in records if r.hash in asked]
    if not have:
        raise SpecError(f"none of these runs has a record in {folder}: `list` says which have")
    seed = random.SystemRandom().randrange(10**6) if args.draw_seed is None else args.draw_seed
    drawn = draw(have, args.draw, seed)
    print(f"{len(drawn)} of {len(have)} committed records, --draw-seed {seed}", file=sys.stderr)
    checks, failures = verify(drawn, records, args.data_dir, args.device, args.workers)
    for check in checks:
        print(check)
    counts = Counter(check.word for check in checks)
    summary = ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word])
    print(summary or "none was made again", file=sys.stderr)
    _report(failures)
    return 2 if failures or failed(checks) else 0


def _show(args):
    store, folder = Store(args.store), _committed(args)
    places = [place for place in (folder, store.folder) if place]
    found = [pair for place in places for pair in find(args.hash, place)]
    if not found:
        if words := folder and find_set(args.hash, folder, [study_of(name) for name in names()]):
            print(f"record set {args.hash}: these runs; `sparsemtl list {words}`")
            return _list(_parser().parse_args(["list", *words.split()]))
        raise SpecError(f"no record starts with {args.hash!r} in {' or '.join(map(str, places))}: see `sparsemtl list`")
    shown = {}  # equal results once, with both places
    for record, place in found:
        shown.setdefault((record.hash, record.digest), (record, []))[1].append(str(place))
    for name, results in Counter(name for name, _ in shown).items():
        if results > 1:
            _say(f"run {name} has {results} results: `sparsemtl diff` says why")
    for record, where in sorted(shown.values(), key=lambda pair: pair[0].hash):
        print(json.dumps(record.to_dict(), indent=2, sort_keys=True) if args.json else _described(record, where))
    return 0


def _described(record, where):
    """A record in lines; long lists stay in the JSON."""
    result, parts = record.result, {"spec": record.spec.to_dict(), "metrics": record.result.get("metrics", {})}
    parts["sparsity"] = result.get("sparsity", {})
    data = ("fingerprint", "runs", "trials", "pictures")
    parts["data"] = {k: v for k, v in result.get("data", {}).items() if k in data}
    other = {k: v for k, v in record.run.items() if k not in ("packages", "timings")} | record.run["packages"]
    lines = [f"run {record.hash}: {label(record.spec)}", f"digest of the result: {record.digest}"]
    lines += [f"found in: {' and '.join(where)}", f"run it again: {_again(record)}"]
    for name, values in (parts | {"run (not under the digest)": other}).items():
        lines += [f"{name}:"] + [f"  {key}: {value}" for key, value in values.items()] if values else []
    return "\n".join(lines) + "\n"


def _again(record):
    """The command that makes a record again, if this code knows how."""
    spec = record.spec
    planned = study_of(spec.study).all_specs(spec.profile) if spec.study in names() else []
    if spec.method not in {other.method for other in planned}:
        return f"not with this code, which does not know the method {spec.method} of {spec.study}"
    return f"sparsemtl run {spec.study} {options_of(spec, planned)}{record.device_option}"


def _diff(args):
    def record_of(text):
        file, _, name = text.rpartition(":")
        places = [Path(file)] if file else filter(None, (_committed(args), Store(args.store).folder))
        found = {r.digest: r for place in places for r, _ in find(name, place)}
        if len(found) != 1:
            how = "several records" if found else "no record"
            raise SpecError(
                f"{text}: {how} with these digits; give the whole hash, as FILE:HASH if it is in two places"
            )
        return next(iter(found.values()))

    for line in differences(record_of(args.a), record_of(args.b)):
        print(line)


def _export(args):
    study, store = study_of(args.study), Store(args.store)
    taken = [
        r for r in _own(store)
        if r.spec.study == args.study and args.profile in (None, r.spec.profile)
        and args.problem in (None, r.spec.params.get("problem")) and (args.seed is None or r.spec.seed in args.seed)
    ]  # fmt: skip
    if args.table:
        profiles = {r.spec.profile for r in taken}
        wanted = {spec.hash for profile in profiles for spec in of_tables(study, profile, args.table)}
        taken = [r for r in taken if r.hash in wanted]
    if not taken:
        wanted = " ".join(filter(None, (args.study, args.profile, args.problem)))
        raise SpecError(f"no record of {wanted} in {store.folder}: execute its runs first")
    if args.file.is_dir():
        raise RecordError(f"{args.file} is a folder: name a file in it")
    file = args.file.resolve()
    with _locked(file.parent):  # two exports into one file would each write without the other's records
        _not_beside(file, {r.hash for r in taken})
        there = read_jsonl(file) if file.is_file() else []
        merged, conflicts = merge(taken, there)  # a record made again replaces the old one
        n, kept = write_jsonl(file, merged), len(merged) - len(taken)
    for conflict in conflicts:
        _say(conflict)
    print(f"{n} records written to {args.file}{f', {kept} of them were there' if kept else ''}", file=sys.stderr)


@contextlib.contextmanager
def _locked(folder):
    """Context that one process at a time has for a folder, which is made if it is absent."""
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


def _not_beside(file, hashes):
    """`RecordError` if another file of STUDY/PROFILE/ holds one of these runs: `committed` would have it twice."""
    folder = file.parent
    shared = folder.name in PROFILES and folder.parent.name in names()
    for other in sorted(folder.glob("*.jsonl")) if shared else ():
        if other != file and (twice := sorted(hashes & {r.hash for r in read_jsonl(other)})):
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
    for line in [*conflicts, *(f"left out: {problem}" for problem in damaged)]:
        _say(line)
    print(f"{len(new)} of {len(incoming)} records taken into {store.folder}", file=sys.stderr)
    return 2 if damaged else 0


def _queue(args):
    from companion.queue import queue

    own, folder = _own(Store(args.store)), _committed(args, must=True)
    text = queue([study_of(name) for name in names()], merge(own, committed(folder) if folder else [])[0])
    if args.out is None:
        print(text)
        return
    with write_whole(args.out) as file:
        file.write(text + "\n")


def _crate(args):
    from companion.crate import write

    print(f"{write(_committed(args, must=True))} written", file=sys.stderr)


def _data(args):
    from companion.data import load

    options = {name: True for name in ("download", "allow_missing_runs") if getattr(args, name)}
    for subject in args.subject or [None]:
        data = load(args.name, args.data_dir, **options, **({} if subject is None else {"subject": subject}))
        if not hasattr(data, "channels"):
            print(data)
            continue
        print(f"{data.name}: {len(data.channels)} channels, {data.sfreq:g} Hz, classes {', '.join(data.classes)}")
        print(f"  fingerprint: {data.fingerprint}")
        for task, recordings in data.recordings.items():
            print(f"  {task}: {len(getattr(data, task).y)} trials, recordings {', '.join(map(str, recordings))}")


if __name__ == "__main__":
    sys.exit(main())
