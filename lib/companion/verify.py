"""Committed records made again: the same, within the spread of their seeds, or outside it."""

import math
import random
from dataclasses import dataclass

import pandas as pd

from companion import engine
from companion.papers import label
from companion.records import RunRecord
from companion.spec import canonical_json
from companion.statistics import repeat_limit

SAME, EQUAL, WITHIN, OUTSIDE, ALONE = "to the bit", "same metrics", "within spread", "OUTSIDE SPREAD", "no spread"
OTHER_DATA = "OTHER DATA"
WORDS = (SAME, EQUAL, WITHIN, OUTSIDE, ALONE, OTHER_DATA)


@dataclass(frozen=True)
class Check:
    """What became of one record made again."""

    record: RunRecord
    word: str  # EQUAL: rounding shows in other values than the metrics; ALONE: no run of its kind has a second seed
    metric: str = ""  # that is furthest off
    before: float = math.nan
    now: float = math.nan
    limit: float = math.nan  # how far off it may be

    def __str__(self):
        line = f"{self.record.hash}  {self.word:14}  {label(self.record.spec)}"
        if self.word == OTHER_DATA:
            return f"{line}: what is read here is not what the record read (missing or other files)"
        if not self.metric:
            return line
        limit = "one seed" if self.word == ALONE else f"seeds allow {self.limit:.2g}"
        return f"{line}: {self.metric} {self.before:.4g}, now {self.now:.4g} ({limit})"


def draw(records, count, seed):
    """`count` of the records at random, all of them if there are fewer; the same for the same seed and records."""
    ordered = sorted(records, key=lambda r: r.hash)
    return random.Random(seed).sample(ordered, min(count, len(ordered)))


def verify(drawn, records, root=None, device="cpu", workers=1, progress=True):
    """Run the specs of the `drawn` records again and keep nothing; ([`Check`], one line for each run that failed).

    records: all that are committed, from whose seeds the spread is taken. root, device, workers: as for `execute`.
    """
    engine.check_device(device)
    before, checks, failures = {r.hash: r for r in drawn}, [], []
    begun = {r.spec for r in drawn if engine.ask_paper("begun", r.spec)}  # checkpoints of runs without a record
    for spec, again, failure in engine.made([r.spec for r in drawn], workers, root, device, progress):
        if again is None:
            failures.append(f"{label(spec)}: {failure}")
            continue
        if spec not in begun:
            engine.ask_paper("finished", spec)
        spread = spread_over_seeds([r for r in records if _kind(r.spec) == _kind(spec)])
        checks.append(compare(before[spec.hash], again, spread, len(drawn)))
    return checks, failures


def compare(record, again, spread, among=1):
    """`Check` of a record and the same run made again. spread: as `spread_over_seeds` gives it.

    among: records that are compared at a time (Bonferroni over records and metrics: one outside counts).
    """
    if again.digest == record.digest:
        return Check(record, SAME)
    if again.result.get("data", {}).get("fingerprint") != record.result.get("data", {}).get("fingerprint"):
        return Check(record, OTHER_DATA)
    before, now = (r.result["metrics"] for r in (record, again))
    off = {name: abs(now[name] - before[name]) for name in before}
    if not any(off.values()):
        return Check(record, EQUAL)
    known = [name for name in off if spread.get(name, (0, 0))[0] > 0]
    limits = {name: repeat_limit(*spread[name], among=among * len(known)) for name in known}
    worst = max(known, key=lambda name: off[name] / limits[name]) if known else max(off, key=off.get)
    word = ALONE if not known else WITHIN if off[worst] <= limits[worst] else OUTSIDE
    return Check(record, word, worst, before[worst], now[worst], limits.get(worst, math.nan))


def spread_over_seeds(records):
    """{metric: (standard deviation over seeds, its degrees of freedom)}, over runs that differ in their seed only.

    Pooled, as two or three seeds of one run may agree by chance. Metrics without a second seed anywhere are left out.
    """
    runs = {r.hash: canonical_json(r.spec.to_dict() | {"seed": None}) for r in records}
    metrics = pd.DataFrame.from_dict({r.hash: r.result["metrics"] for r in records}, orient="index")
    seeds = metrics.groupby(runs)
    freedom = (seeds.count() - 1).clip(lower=0).sum()
    squares = (metrics - seeds.transform("mean")).pow(2).sum()
    return {name: (math.sqrt(squares[name] / n), int(n)) for name, n in freedom.items() if n}


def _kind(spec):
    """What runs must share for their spreads to be pooled: their metrics are then of one size."""
    return spec.study, spec.profile, spec.data, spec.params.get("problem"), spec.params.get("labels")
