"""Benchmark records: sides measured in turn on one machine, and the ratios that they are to reach.

A record is one JSON object, `results/benchmarks/NAME-cpu.json` or `NAME-gpu.json`:
    schema       version of this layout
    name         of the benchmark
    sides        label -> {"unit": "s", "values": [...]}, one value for each turn; or a count with one value
    marks        ratios of two sides, each with what it is to reach
    details      more on the case, JSON
    environment  machine, device, threads, versions, when
    digest       SHA-256 of the canonical JSON of all but schema and digest: a value changed by hand does not pass
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles

from companion.files import write_whole
from companion.records import compact_numbers
from companion.spec import canonical_json
from sparsemtl.errors import RecordError

SCHEMA = 1
FIELDS = ("name", "sides", "marks", "details", "environment")


@dataclass(frozen=True)
class Mark:
    """The ratio side / against, turn by turn, and what its median is to reach.

    what: the claim in a few words. word: "at least" or "at most". over: None, or two more sides whose ratio the
    first is divided by (a gain in time over the gain in operations).
    """

    what: str
    side: str
    against: str
    word: str
    wanted: float
    over: tuple | None = None

    def __post_init__(self):
        if self.word not in ("at least", "at most"):
            raise RecordError(f"mark {self.what!r}: {self.word!r} is neither 'at least' nor 'at most'")


@dataclass(frozen=True)
class Benchmark:
    """One record; fields as in the module's description, marks as tuple of `Mark`."""

    name: str
    sides: dict
    marks: tuple
    details: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)

    def __post_init__(self):
        for mark in self.marks:
            for side in (mark.side, mark.against, *(mark.over or ())):
                if not self.sides.get(side, {}).get("values"):
                    raise RecordError(f"benchmark {self.name}: no side {side!r}: it has {', '.join(self.sides)}")

    @property
    def kind(self):
        """ "cpu" or "gpu"."""
        return "cpu" if self.environment.get("device", "cpu") == "cpu" else "gpu"

    @property
    def command(self):
        """The command that measures again, on the same kind of device."""
        device = "" if self.kind == "cpu" else " --device cuda"
        return f".venv/bin/python benchmarks/{self.environment['script']}.py {self.environment['arguments']}{device}"

    @property
    def machine(self):
        """When, on what and with which packages it was measured."""
        e = self.environment
        packages = ", ".join(f"{package} {number}" for package, number in e["packages"].items())
        machine = f"{e['device']}, {e['processor']}, {e['cores']} cores, {e['threads']} threads, Python {e['python']}"
        return f"Benchmark {self.name}, {e['ended'][:10]}: {machine}; {packages}"

    def median(self, side):
        """Median of a side, in its unit."""
        return median(self.sides[side]["values"])

    def quartiles(self, side):
        """(lower, upper) quartile of a side; both the value if it has only one."""
        return _quartiles(self.sides[side]["values"])

    def ratio(self, mark):
        """(median, lower, upper quartile) of the turns' ratios; if turns do not pair, three times that of medians."""
        sides = [mark.side, mark.against, *(mark.over or ())]
        values = [self.sides[side]["values"] for side in sides]
        turns = max(map(len, values))
        if any(len(v) not in (1, turns) for v in values):
            return (_divided([self.median(side) for side in sides]),) * 3
        paired = zip(*(v * turns if len(v) == 1 else v for v in values), strict=True)
        ratios = [_divided(row) for row in paired]
        return median(ratios), *_quartiles(ratios)

    def met(self, mark):
        """Whether the mark is reached."""
        ratio = self.ratio(mark)[0]
        return ratio >= mark.wanted if mark.word == "at least" else ratio <= mark.wanted

    def content(self):
        """Plain dict without schema and digest."""
        return compact_numbers({f: getattr(self, f) for f in FIELDS} | {"marks": [asdict(m) for m in self.marks]})

    @property
    def digest(self):
        """SHA-256 (hex) of the canonical JSON of `content`."""
        return hashlib.sha256(canonical_json(self.content()).encode()).hexdigest()

    def write(self, folder):
        """Write the record into `folder` and return its path; `RecordError` if that fails."""
        path = Path(folder) / f"{self.name}-{self.kind}.json"
        value = self.content() | {"schema": SCHEMA, "digest": self.digest}
        with write_whole(path) as file:
            # a line for each part; sides stay in the order in which they are shown
            lines = [f'"{name}": {json.dumps(part)}' for name, part in value.items()]
            file.write("{\n" + ",\n".join(lines) + "\n}\n")
        return path


def _divided(row):
    ratio = row[0] / row[1]
    return ratio / (row[2] / row[3]) if len(row) > 2 else ratio


def _quartiles(values):
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def read(path):
    """The `Benchmark` in a file; `RecordError` that names the file for one that is damaged or was changed by hand."""

    def wrong(what):
        return RecordError(f"{path}: {what}; run the benchmark of this name again")

    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise wrong(f"schema {value['schema']!r}, this code reads schema {SCHEMA}")
        marks = tuple(Mark(**m | {"over": tuple(m["over"]) if m["over"] else None}) for m in value["marks"])
        found = Benchmark(**{f: value[f] for f in FIELDS} | {"marks": marks})
        digest = found.digest
    except RecordError:
        raise
    except FileNotFoundError:
        raise wrong("no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise wrong(f"damaged ({type(error).__name__}: {error})") from error
    if digest != value["digest"]:
        raise wrong("the digest does not belong to its content (a value was changed)")
    return found


def committed_benchmarks(results="results"):
    """{(name, "cpu" or "gpu"): Benchmark} of every record in `results/benchmarks`."""
    records = map(read, sorted((Path(results) / "benchmarks").glob("*.json")))
    return {(record.name, record.kind): record for record in records}
