"""The tests, folder by folder: lines and branches of the library that they run, kills, refused inputs, seconds.

    python benchmarks/tested.py [--only companion] [--marks slow]

Tests that take minutes run apart, with `--marks slow`. The reports stay in `_build/tested`; the record is of all that
are there, so that folders may run hours apart. Processes that tests start are traced too. Loops that numba compiles
cannot be: their tests run once more without numba's compiler.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
from companion.evidence import NOT_RUN
from companion.style import are, listed, percent

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "_build" / "tested"
FAST = "not browser and not slow"
LOOPS = "sparsemtl/sparsity/test_prox.py"  # tests of what numba compiles, but for those of the compiler's files
TRACED = """[run]
branch = true
parallel = true
patch = subprocess, fork, _exit
source = {root}/lib
data_file = {reports}/{name}.coverage
"""
GOAL = 0.95  # of lines and of branches
GAP = "a gap in the tests"
# Survivors of the committed record that a test need not kill
ARGUED = {
    "companion/claims.py line 57: True -> False": "frozen: effects could be changed in place, which no code does",
    "companion/records.py line 120: True -> False": "the probe that a folder can be written has always been made",
    "sparsemtl/sparsity/compact.py line 150: a.shape != b.shape or a.dtype != b.dtype -> "
    "a.shape != b.shape and a.dtype != b.dtype": "no step of compaction changes an output's shape or type",
    "sparsemtl/sparsity/compact.py line 153: 0 -> 1": "widens the tolerance of small outputs beside NaN",
    "sparsemtl/sparsity/measure.py line 60: 1 -> 2": "an axis of length one, on either side of those joined",
    "sparsemtl/sparsity/prox_cpu.py line 29: True -> False": "strict: the caller gives as many of each",
    "sparsemtl/sparsity/prox_cpu.py line 37: 0.1 -> 1.1": "Newton's iteration ends earlier, still exact enough",
    "sparsemtl/sparsity/prox_cpu.py line 43: map if threads == 1 else _pool(threads).map -> "
    "map if not threads == 1 else _pool(threads).map": "a pool of threads does what the loop does",
    "sparsemtl/sparsity/prox_cpu.py line 126: 1 -> 2": "any divisor but zero will do there",
}  # fmt: skip
UNITS = {"lines": "of the library that the tests run", "branches": "that they take", "mutants": "that they kill"}


def folders():
    """{name: paths} of the folders of tests; "whole" is the files above them."""
    names = {path.name: [path] for path in sorted((ROOT / "tests").iterdir()) if any(path.rglob("test_*.py"))}
    return {name: paths for name, paths in names.items() if paths[0].is_dir()} | {
        "whole": sorted((ROOT / "tests").glob("test_*.py"))
    }


def run(name, paths, marks):
    """Run the tests of a folder and keep both reports; a failed test ends the program."""
    pytest(name, [f"--junitxml={REPORTS / name}.xml", "-m", marks, *map(str, paths)])
    if name == "sparsemtl":
        words = ["-m", marks, "-k", "not compiled", str(ROOT / "tests" / LOOPS)]
        pytest(f"{name} without compiler", words, NUMBA_DISABLE_JIT="1")


def pytest(name, words, **environment):
    """Run tests under coverage, with its data in `REPORTS`."""
    for old in REPORTS.glob(f"{name}.coverage*"):
        old.unlink()
    settings = REPORTS / "settings"
    settings.write_text(TRACED.format(root=ROOT, reports=REPORTS, name=name))
    words = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", *words]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | environment, check=False)
    if done.returncode not in (0, 5):  # 5: none chosen
        (REPORTS / f"{name}.xml").unlink(missing_ok=True)
        sys.exit(f"tests in {name} failed: no record")


def counted(report):
    """What pytest's report of a folder says (dict): tests, skipped, seconds, refused inputs, kills."""
    cases = ElementTree.parse(report).findall(".//testcase")
    ended = [case for case in cases if case.find("skipped") is None]
    return {
        "tests": len(ended), "skipped": len(cases) - len(ended),
        "seconds": round(sum(float(case.get("time")) for case in cases), 1),
        "refused": sum("test_bad_input" in case.get("classname") for case in ended),
        "kills": sum(int(p.get("value")) for case in ended for p in case.iter("property") if p.get("name") == "kills"),
    }  # fmt: skip


def covered():
    """(totals, {file: share of its lines and branches}) of all folders that were run."""
    parts = map(str, REPORTS.glob("*.coverage.*"))
    for words in (["combine", "--keep", "-q", *parts], ["json", "-q", "-o", "all.json"]):
        subprocess.run([sys.executable, "-m", "coverage", *words], cwd=REPORTS, check=True)
    found = json.loads((REPORTS / "all.json").read_text())
    share = {
        (REPORTS / f).relative_to(ROOT / "lib").as_posix(): v["summary"]["percent_covered"]
        for f, v in found["files"].items()
    }
    return found["totals"], share


def verdicts(records):
    """Every goal (DataFrame): what is counted, how many of how many, and the goal."""
    rows = []
    for unit, what in UNITS.items():
        row = {"what": f"{unit} {what}", "found": NOT_RUN}
        for record in records:
            for mark in (mark for mark in record.marks if record.sides[mark.side]["unit"] == unit):
                part, whole = (record.median(side) for side in (mark.side, mark.against))
                row["found"] = f"{part:.0f} of {whole:.0f}, {percent(part / whole, 1)}"
                if mutated := {f"lib/{module.partition('/')[0]}" for module in record.details.get("by module", ())}:
                    row["what"] = f"{unit} in {listed(sorted(mutated))} {what}"
                row |= {"goal": f"{100 * mark.wanted:.0f} %", "outcome": "met" if record.met(mark) else "missed"}
        rows.append(row)
    return pd.DataFrame(rows, columns=["what", "found", "goal", "outcome"]).set_index("what")


def by_folder(records):
    """Tests, refused inputs, kills that lost nothing, and minutes of each folder (DataFrame)."""
    rows = {name: counts for record in records for name, counts in record.details.get("folders", {}).items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("folder")
    return table.assign(minutes=table.pop("seconds") / 60) if rows else table


def by_module(records):
    """Mutants of each module (DataFrame): how many were killed, of how many."""
    rows = {module: pair for record in records for module, pair in record.details.get("by module", {}).items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["killed", "made"]).rename_axis("module")


def survivors(records):
    """Mutants that no test killed (DataFrame): why each changes no result, or that it is a gap."""
    rows = {said: ARGUED.get(said, GAP) for record in records for said in record.details.get("survived", ())}
    return pd.Series(rows, dtype=object).rename_axis("mutant").to_frame("why it survives")


def story(records):
    """The page's finding in a sentence."""
    table, goals = by_folder(records), verdicts(records).outcome.dropna()
    if table.empty:
        return f"The tests with their coverage: {NOT_RUN}."
    n, refused, kills = (table[name].sum() for name in ("tests", "refused", "kills"))
    killed = f"the engine survived **{kills} kills**" if kills else f"kills: {NOT_RUN}"
    met = (goals == "met").sum()
    reached = f"{met} of {len(goals)} goals {are(met)} met"
    return f"**{n} tests** pass, **{refused} bad inputs** are refused by name, {killed}, and {reached}."


def main():
    """Run folders of tests, and write `tested-cpu.json` from all reports."""
    from harness import Mark, arguments, counts, report

    args = arguments(__doc__.splitlines()[0], threads=1, repeats=1, only="all", marks=FAST)
    args.command = args.command.replace(args.marks, f'"{args.marks}"')
    REPORTS.mkdir(parents=True, exist_ok=True)
    for name, paths in folders().items():
        if args.only in ("all", name):
            run(name if args.marks == FAST else f"{name} ({args.marks})", paths, args.marks)
    totals, share = covered()
    sides = counts("lines", {"lines run": totals["covered_lines"], "lines": totals["num_statements"]})
    sides |= counts("branches", {"branches taken": totals["covered_branches"], "branches": totals["num_branches"]})
    pairs = zip(list(sides)[::2], list(sides)[1::2], strict=True)
    marks = [Mark(f"{part} of all", part, whole, "at least", GOAL) for part, whole in pairs]
    details = {"folders": {path.stem: counted(path) for path in sorted(REPORTS.glob("*.xml"))}}
    details["below"] = {file: round(v, 1) for file, v in sorted(share.items()) if v < 100 * GOAL}
    report("tested", sides, marks, args, details)


if __name__ == "__main__":
    main()
