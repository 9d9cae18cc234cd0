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

from companion.choose import SOME, add_arguments, chosen
from companion.files import write_whole
from companion.lookup import described, differences, find, find_set
from companion.papers import label, names, study

from companion.records import (  # isort: skip
    Store, UnreadableRecord, committed, merge, read_jsonl, repository_root, set_hash, write_jsonl,
)  # fmt: skip


def main(argv=None):
    """Run one command; returns the exit status: 0, 2 for a user's mistake or a failed run, 130 when stopped."""
    args = command_parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: worker processes end too
    try:
        status = args.command(args) or 0
        if sys.stdout:  # closed by the shell, it is None
            sys.stdout.flush()
        return status
    except SparseMTLError as error:
        _say(error)
    except OSError as error:
        if error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC):  # what is held would fail at exit too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if error.errno == errno.EPIPE:  # `list | head`: the reader has seen enough
                return 0
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


OPTIONS = {
    "--store": {"type": Path, "help": "folder of run records (default: SPARSEMTL_RUNS or runs/)"},
    "--results": {"type": Path, "help": "folder of committed records (default: results/ of the repository)"},
    "--data-dir": {"help": "folder of the data sets (default: SPARSEMTL_DATA)"},
    "--workers": {"type": int, "default": 1, "help": "local processes (default: 1)"},
    "--device": {"default": "cpu", "help": "cpu or cuda (default: cpu)"},
    "--scheduler": {"help": "Dask scheduler to send the runs to: tcp://HOST:PORT, or local:N for N processes here"},
    "--draw": {"type": int, "default": 5, "help": "how many, at random from those chosen (default: 5)"},
    "--draw-seed": {"type": int, "help": "draw the same ones again (default: others each time)"},
    "hash": {"help": "first digits of a run's hash, or the hash of a record set"},
    "--json": {"action": "store_true", "help": "the whole record as JSON"},
    "a": {"help": "a run's hash, or FILE:HASH for the record in that file or store"},
    "b": {"help": "another one"},
    "file": {"type": Path, "help": "a file of JSON lines"},
    "--out": {"type": Path, "help": "write it to this file (default: print it)"},
    "name": {"help": "name of the data set"},
    "--subject": {**SOME, "type": int, "help": "EEG subjects (default: 1)"},
    "--download": {"action": "store_true", "help": "fetch missing EEG recordings"},
    "--allow-missing-runs": {"action": "store_true", "help": "take a subject whose recordings are incomplete"},
}


def command_parser():
    """Parser of the whole command line; what it parses names the function to call in `command`."""
    text = "Re-run the tables and figures of two papers on sparse multitask learning."
    parser = argparse.ArgumentParser("sparsemtl", description=text)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, *options, **grid):
        text = function.__doc__
        sub = commands.add_parser(function.__name__.strip("_"), help=text, description=text)
        sub.set_defaults(command=function)
        if grid:
            add_arguments(sub, **grid)
        for name in options:
            sub.add_argument(name, **OPTIONS[name])

    command(_list, "--store", "--results", profile="quick")
    command(_run, "--store", "--workers", "--device", "--data-dir", "--scheduler", profile="quick")
    command(_verify, "--results", "--workers", "--device", "--data-dir", "--draw", "--draw-seed", profile="small")
    command(_show, "hash", "--json", "--store", "--results")
    command(_diff, "a", "b", "--store", "--results")
    command(_export, "file", "--store", profile=None)
    command(_import, "file", "--store")
    command(_queue, "--store", "--results", "--out")
    command(_crate, "--results")
    command(_data, "name", "--data-dir", "--subject", "--download", "--allow-missing-runs")
    return parser


def _committed(args, must=False):
    """Folder of the committed records, or None and a word about it. must: whether it has to exist."""
    folder = args.results or Path(os.path.relpath(repository_root() / "results"))
    if folder.is_dir():
        return folder
    fault = f"no committed records: there is no folder {folder}"
    if must or args.results:
        raise SpecError(f"{fault}; name theirs by --results")
    return _say(fault)


def _own(store):
    """Records of a store; what is left out is said."""
    records, problems = store.all()
    for problem in problems:
        _say(f"left out: {problem}")
    return records


def _list(args):
    """List the runs of a study and which of them have a record."""
    specs, store, folder = chosen(args), Store(args.store), _committed(args)
    shipped = {r.hash: r for r in committed(folder)} if folder else {}
    found = []
    for spec in specs:
        try:
            record = shipped.get(spec.hash) or store.read(spec)
            state = "missing" if record is None else "committed" if spec.hash in shipped else "done"
        except UnreadableRecord:  # nothing is known of the other runs either
            raise
        except RecordError:
            record, state = None, "damaged"
        found += [record] if record else []
        print(f"{spec.hash}  {state:9}  {label(spec)}")
    name = f", record set {set_hash(found)}" if found else ""
    places = " or ".join(str(place) for place in (folder, store.folder) if place)
    print(f"{len(specs)} runs, {len(found)} with a record in {places}{name}", file=sys.stderr)


def _run(args):
    """Execute the runs of a study that have no record yet."""
    from companion.engine import execute

    _quiet()
    specs, store = chosen(args), Store(args.store)
    outcome = execute(specs, store, args.workers, args.data_dir, args.device, scheduler=args.scheduler)
    print(f"{outcome.executed} runs executed, {len(outcome.records)} records in all", file=sys.stderr)
    return _report(outcome.failures)


def _quiet():
    """Silence what joblib, and the process with which it tidies up, say of runs that Ctrl-C cut off."""
    warnings.filterwarnings("ignore", r"\d+ tasks", module="joblib")
    said, tidying = os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning"
    if tidying not in said:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (said, tidying)))


def _report(failures):
    """Print failed runs, one line a cause, as what stops one run often stops them all; returns the exit status."""
    causes = {}
    for failure in failures:
        which, _, cause = failure.partition(": ")
        causes.setdefault(cause, []).append(which)
    for cause, labels in causes.items():
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        _say(f"failed: {labels[0]}{more}: {cause}")
    return 2 if failures else 0


def _verify(args):
    """Run some committed records again and say whether they give the same result."""
    from companion.verify import OTHER_DATA, OUTSIDE, WORDS, draw, verify

    if args.draw < 1:
        raise SpecError(f"--draw is {args.draw}: it must be 1 or more")
    _quiet()
    records = committed(_committed(args, must=True))
    asked = set(chosen(args, [r.spec for r in records]))
    seed = random.SystemRandom().randrange(10**6) if args.draw_seed is None else args.draw_seed
    drawn = draw([r for r in records if r.spec in asked], args.draw, seed)
    print(f"{len(drawn)} of {len(asked)} committed records, --draw-seed {seed}", file=sys.stderr)
    checks, failures = verify(drawn, records, args.data_dir, args.device, args.workers)
    for check in checks:
        print(check)
    counts = Counter(check.word for check in checks)
    summary = ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word])
    print(summary or "none was made again", file=sys.stderr)
    return _report(failures) or 2 * bool(counts[OUTSIDE] + counts[OTHER_DATA])


def _show(args):
    """Print the record of a run, or the runs of a record set that a page cites."""
    folder, shown = _committed(args), {}
    places = [str(place) for place in (folder, Store(args.store).folder) if place]
    for place in places:
        for record in find(args.hash, place):
            shown.setdefault((record.hash, record.digest), (record, []))[1].append(place)  # equal results once
    if not shown and folder and (words := find_set(args.hash, folder)):
        print(f"record set {args.hash}: these runs; `sparsemtl list {words}`")
        return _list(command_parser().parse_args(["list", *words.split()]))
    if not shown:
        raise SpecError(f"no record starts with {args.hash!r} in {' or '.join(places)}: see `sparsemtl list`")
    for name, results in Counter(name for name, _ in shown).items():
        if results > 1:
            _say(f"run {name} has {results} results: `sparsemtl diff` says why")
    for record, where in sorted(shown.values(), key=lambda pair: pair[0].hash):
        print(json.dumps(record.to_dict(), indent=2, sort_keys=True) if args.json else described(record, where))
    return 0


def _diff(args):
    """Say why two records differ: spec, data, code, package, device."""

    def record_of(text):
        file, _, name = text.rpartition(":")
        places = [Path(file)] if file else filter(None, (_committed(args), Store(args.store).folder))
        found = {record.digest: record for place in places for record in find(name, place)}
        if len(found) != 1:
            how = "several records" if found else "no record"
            raise SpecError(f"{text}: {how} with these digits; give the whole hash, or FILE:HASH if two places have it")
        return next(iter(found.values()))

    print(*differences(record_of(args.a), record_of(args.b)), sep="\n")


def _export(args):
    """Write the records of a study as JSON lines."""
    own = _own(Store(args.store))
    asked = set(chosen(args, [r.spec for r in own]))
    taken = [r for r in own if r.spec in asked]
    there = read_jsonl(args.file) if args.file.is_file() else []
    merged, conflicts = merge(taken, there)  # a record made again replaces the old one
    n, kept = write_jsonl(args.file, merged), len(merged) - len(taken)
    for conflict in conflicts:
        _say(conflict)
    print(f"{n} records written to {args.file}{f', {kept} of them were there' if kept else ''}", file=sys.stderr)


def _import(args):
    """Take the records of a JSON-lines file into the store."""
    store, damaged = Store(args.store), []
    incoming = read_jsonl(args.file, damaged)
    if damaged and not incoming:
        raise RecordError(damaged[0])
    present = store.all()[0]
    kept, conflicts = merge(present, incoming)
    have = {record.hash for record in present}
    new = [record for record in kept if record.hash not in have]
    for record in new:
        store.write(record)
    for line in [*conflicts, *(f"left out: {problem}" for problem in damaged)]:
        _say(line)
    print(f"{len(new)} of {len(incoming)} records taken into {store.folder}", file=sys.stderr)
    return 2 if damaged else 0


def _queue(args):
    """Say which runs the published tables lack, in order of worth (Markdown)."""
    from companion.queue import queue

    records, _ = merge(_own(Store(args.store)), committed(_committed(args, must=True)))
    text = queue(list(map(study, names())), records)
    with write_whole(args.out) if args.out else contextlib.nullcontext(sys.stdout) as file:
        print(text, file=file)


def _crate(args):
    """Describe the committed records in results/ro-crate-metadata.json."""
    from companion.crate import NAME, crate

    folder = _committed(args, must=True)
    text = crate(folder)
    with write_whole(folder / NAME) as file:
        file.write(text)
    print(f"{folder / NAME} written", file=sys.stderr)


def _data(args):
    """Load a data set once and say what is in it; fetch it first if asked to."""
    from companion.data import load

    options = {name: True for name in ("download", "allow_missing_runs") if getattr(args, name)}
    for subject in args.subject or [None]:
        print(load(args.name, args.data_dir, **options, **({} if subject is None else {"subject": subject})))


if __name__ == "__main__":
    sys.exit(main())
