"""What the benchmarks say: marks and whether they are reached, both sides of each, growth, and what a grid costs."""

import math
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from companion.evidence import NOT_RUN
from companion.records import repository_root
from companion.spec import check_values, number
from companion.style import HIGHLIGHT, MUTED, are, empty_figure, listed, percent
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from measured import committed_benchmarks
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023

# Benchmarks in the order of the page, by name; those that have a side for a GPU
TITLES = {
    "prox": "the scaled proximal step",
    "step": "the optimiser's step",
    "compaction": "removal of dead channels",
    "eeg_batch": "EEG networks trained in one batch",
    "eeg_classifier": "EEG networks by braindecode's EEGClassifier and by a run",
    "training": "training of the dense models",
    "latency": "decoding one trial",
    "book": "the book's own time",
    "scaling": "growth of the cost",
}
ON_GPU = ("prox", "step", "compaction", "eeg_batch", "training")
MACHINES = {"cpu": "CPU", "gpu": "GPU"}
MANY = 100  # values of a side, from which on its 99th percentile says something


def benchmarks(results=None):
    """{(name, "cpu" or "gpu"): Benchmark} of the repository, those of the tests left out."""
    found = committed_benchmarks(results or repository_root() / "results")
    return {key: record for key, record in found.items() if key[0] in TITLES}


def verdicts(found, names=None):
    """Every mark (DataFrame): ratio of medians, quartiles over the turns, what is to be reached, and the outcome."""
    rows = []
    for name in names or TITLES:
        for kind in MACHINES if name in ON_GPU else ("cpu",):
            row = {"benchmark": TITLES[name], "on": MACHINES[kind]}
            if (name, kind) not in found:
                rows.append(row | {"mark": "all", "outcome": NOT_RUN})
                continue
            record = found[name, kind]
            for mark in record.marks:
                ratio, low, high = record.ratio(mark)
                outcome = "met" if record.met(mark) else "missed"
                rows.append(
                    row | {"mark": mark.what, "ratio": ratio, "quartiles": f"{low:.3g} to {high:.3g}",
                           "to reach": f"{mark.word} {mark.wanted:.3g}", "outcome": outcome}
                )  # fmt: skip
    return pd.DataFrame(rows).set_index(["benchmark", "on"])


def reached(found):
    """How many marks are reached on which machine, in a sentence."""
    table, told = verdicts(found), []
    for on in MACHINES.values():
        outcomes = table.xs(on, level="on").outcome
        judged = outcomes[outcomes != NOT_RUN]
        met = (judged == "met").sum()
        told.append(f"on a {on} {met} of {len(judged)} marks {are(met)} reached" if len(judged) else
                    f"on a {on} nothing was measured yet")  # fmt: skip
    return f"So far {' and '.join(told)}."


# Benchmark -> what its first mark says, with the ratio for {}
STORY = {
    "training": "a training step of the three-task model is {} times as fast as one in the released code's way",
    "prox": "the proximal step takes one part in {} of the published method's time",
    "latency": "a dense EEGNet could decode one trial {} times between two decisions of a stream",
}
PATTERNS = {
    "independent": "drawn for each layer alone",
    "aligned": "the same channels in all layers that read one stream",
    "trained": "as a training run left them",
}


def story(found):
    """What was gained on a CPU, by sparsity and by faster code; `NOT_RUN` if a benchmark has no record."""
    parts = []
    for name, text in STORY.items():
        record = found.get((name, "cpu"))
        ratio = f"{record.ratio(record.marks[0])[0]:.3g}" if record else ""
        parts.append(text.format(ratio) if record else f"{TITLES[name]}: {NOT_RUN}")
    return f"{removal(found)} Faster code saves time at any sparsity: {'; '.join(parts)}. {classifier(found)}"


# Trunk of the benchmark against braindecode's EEGClassifier -> its networks
TRUNKS = {"power": "networks of the recipe", "shallow": "Shallow ConvNets"}


def classifier(found):
    """How fast runs train EEG networks beside EEGClassifier, and how many goals are met, in two sentences."""
    record = found.get(("eeg_classifier", "cpu"))
    if record is None:
        return f"{headed('eeg_classifier')}: {NOT_RUN}."
    parts, met = [], sum(map(record.met, record.marks))
    for trunk, mark in zip(TRUNKS, record.marks, strict=True):
        ratio = record.ratio(mark)[0]
        speed = f"**{ratio:.2g} times** as fast" if ratio >= 1 else f"**{1 / ratio:.2g} times** slower"
        parts.append(f"{record.details[trunk]['networks']} {TRUNKS[trunk]} {speed}")
    goals = f"{met} of {len(record.marks)} goals ({record.marks[0].wanted:g} times as fast) {are(met)} met"
    return f"Beside braindecode's EEGClassifier, our runs train {listed(parts)}. {goals}."


def headed(name):
    """A benchmark's title as a sentence begins; names in it keep their capitals."""
    return TITLES[name][0].upper() + TITLES[name][1:]


def removal(found):
    """How much faster the backbone is without its dead channels, for each pattern of them, in a sentence."""
    record = found.get(("compaction", "cpu"))
    if record is None:
        return f"{headed('compaction')}: {NOT_RUN}."
    gains = {mark.what: record.ratio(mark)[0] for mark in record.marks}
    parts = [
        f"**{gains[f'{name}, PyTorch: time gained']:.2g} times** with {percent(facts['zero_groups'])} of the groups "
        f"zero, {PATTERNS[name]}"
        for name, facts in record.details["patterns"].items()
    ]
    run = record.details["trained run"]
    return f"Without its dead channels the backbone is faster: {'; '.join(parts)} ({run})."


def sides(record):
    """All sides of a benchmark (DataFrame): median, quartiles, and the 99th percentile of those with many values."""
    rows = []
    for label, side in record.sides.items():
        unit, scale = _unit(side["unit"], record.median(label))
        low, high = record.quartiles(label)
        row = {"side": label, "median": record.median(label) * scale}
        row |= {"quartiles": f"{low * scale:.3f} to {high * scale:.3f}", "unit": unit, "turns": len(side["values"])}
        if len(side["values"]) >= MANY:
            row["99th percentile"] = float(np.percentile(side["values"], 99)) * scale
        rows.append(row)
    return pd.DataFrame(rows).set_index("side")


def _unit(unit, value):
    """(unit, factor) in which a value is easy to read."""
    if unit == "s" and value < 1:
        return "ms", 1e3
    if unit in ("FLOPs", "bytes"):
        power = max(0, int(math.log10(max(value, 1))) // 3)
        return f"{['', 'k', 'M', 'G', 'T', 'P'][power]}{unit}".strip(), 1000.0**-power
    return unit, 1.0


def missed(found, names=None):
    """For each mark that is missed a sentence: by how much, and where the time goes."""
    told = []
    for (name, kind), record in found.items():
        if names and name not in names:
            continue
        for mark in (m for m in record.marks if not record.met(m)):
            ratio = record.ratio(mark)[0]
            gap = 1 - ratio / mark.wanted if mark.word == "at least" else ratio / mark.wanted - 1
            wanted = f"{ratio:.3g}, {mark.word} {mark.wanted:.3g}"
            where = spent(record.details.get("profile", {}), mark)
            told.append(f"Missed on the {MACHINES[kind]} by {percent(gap, 1)}: {mark.what} ({wanted}). {where}".strip())
    return told or ["Every mark of these records is reached."]


def spent(profile, mark):
    """Where the time of a missed mark's slow side goes, in a sentence, or nothing if that side was not profiled.

    profile: {label of a side: rows of operation and share}.
    """
    rows = profile.get(mark.against if mark.word == "at least" else mark.side, [])
    parts = ", ".join(f"{row['operation']} {percent(row['share'])}" for row in rows[:4])
    return f"Time goes to {parts}." if parts else ""


def records_of(found, name):
    """The records of one benchmark, that of the CPU first."""
    return [found[name, kind] for kind in MACHINES if (name, kind) in found]


def told(page, found, name):
    """The sides of a benchmark as a table of the page, one machine under the other, with their evidence."""
    records = records_of(found, name)
    tables = {MACHINES[r.kind]: sides(r) for r in records}
    table = pd.concat(tables, names=["on"]) if tables else pd.DataFrame()
    return page.table(table, name.replace("_", "-"), f"{headed(name)}: all sides", records)


def bars(found, name):
    """Median time of each side of a benchmark with its quartiles, on a logarithmic axis; a panel a machine."""
    records = records_of(found, name)
    if not records:
        return empty_figure(TITLES[name])
    heights = [0.45 * len(_timed(r)) + 1 for r in records]
    fig, axes = plt.subplots(len(records), 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False)
    for ax, record in zip(axes.flat, records, strict=True):
        _bars(ax, record)
    return fig


def _timed(record):
    return [label for label, side in record.sides.items() if side["unit"] == "s"]


def _bars(ax, record):
    labels = _timed(record)
    for y, label in enumerate(labels):
        low, high = (1e3 * v for v in record.quartiles(label))
        middle = 1e3 * record.median(label)
        ax.errorbar(middle, y, xerr=[[middle - low], [high - middle]], fmt="o", color="#0072B2")
        ax.annotate(
            f"{middle:.0f}" if middle >= 100 else f"{middle:.3g}",
            (middle, y),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    device = record.environment["processor" if record.kind == "cpu" else "device"]
    ax.set(xscale="log", xlabel="milliseconds (median, quartiles)", ylim=(len(labels) - 0.4, -0.7))
    _plain_ticks(ax.xaxis)
    ax.set_title(f"{device}, {record.environment['threads']} threads", fontsize="medium")
    ax.set_yticks(range(len(labels)), labels)


def _plain_ticks(axis):
    """Numbers as they are read on a logarithmic axis: 1, 2, 5, 10."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def tails(found, name, leave=()):
    """Share of calls that take longer than a time, by side; a panel for what their labels have before the first comma.

    Sides that differ only in the runtime, the last part of their label, have one colour. leave: parts of labels whose
    sides are left out, so that the others can be told apart.
    """
    records = records_of(found, name)
    if not records:
        return empty_figure(TITLES[name])
    groups = {}
    for label, side in records[0].sides.items():
        if len(side["values"]) >= MANY and not any(part in label for part in leave):
            group, _, rest = label.partition(", ")
            groups.setdefault(group, {})[rest] = np.sort(side["values"]) * (1e3 if side["unit"] == "s" else 1)
    fig, axes = plt.subplots(len(groups), 1, figsize=(8, 2.6 * len(groups)), squeeze=False)
    for ax, (group, curves) in zip(axes.flat, groups.items(), strict=True):
        networks = list(dict.fromkeys(label.rpartition(", ")[0] or label for label in curves))
        for label, values in curves.items():
            style = {"color": f"C{networks.index(label.rpartition(', ')[0] or label)}", "ls": "-"}
            style |= {"ls": "--"} if "ONNX" in label else {}
            ax.plot(values, 1 - np.arange(len(values)) / len(values), label=label, drawstyle="steps-post", **style)
        ax.axhline(0.01, color=MUTED, ls=":", lw=1)
        ax.set(xscale="log", yscale="log", ylabel="share that takes longer", title=group)
        _plain_ticks(ax.xaxis)
        ax.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    axes[-1, 0].set_xlabel("milliseconds")
    return fig


def speeds(found):
    """Training of the dense models (DataFrame): pictures a second, and speed beside a matrix product of its precision.

    Above 1 the convolutions need fewer operations than are counted (Winograd's algorithm), or the product is slow.
    """
    rows = {}
    for record in records_of(found, "training"):
        on, details = MACHINES[record.kind], record.details
        for side, rate in details["pictures a second"].items():
            share = details["share of a matrix product's speed"].get(side)
            rows[on, side] = {"pictures a second": rate, "speed over a matrix product's": share}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["on", "side"]) if rows else pd.DataFrame()


AXES = {
    "pixels": "pixels along a side of the image", "tasks": "tasks of the vision model", "subjects": "subjects",
    "seeds": "seeds", "lambdas": "lambdas",
}  # fmt: skip


def growth(found):
    """How cost grows along each axis (DataFrame): seconds at three sizes, and the exponent k of cost = a size^k."""
    if ("scaling", "cpu") not in found:
        return pd.DataFrame()
    record, rows = found["scaling", "cpu"], []
    for axis, what in AXES.items():
        points = _points(record, axis)
        if points:
            k = np.polyfit(np.log([n for n, _ in points]), np.log([s for _, s in points]), 1)[0]
            sizes = ", ".join(f"{n:g}: {s:.3g}" for n, s in points)
            rows.append({"axis": what, "seconds by size": sizes, "exponent": k})
    return pd.DataFrame(rows).set_index("axis")


def _points(record, axis):
    found = [(float(label.split("=")[1]), label) for label in record.sides if label.startswith(f"{axis}=")]
    return [(n, record.median(label)) for n, label in sorted(found)]


def growth_figure(found):
    """Cost at three sizes over that at the smallest, along each axis; the line is in proportion."""
    if ("scaling", "cpu") not in found:
        return empty_figure(TITLES["scaling"])
    record = found["scaling", "cpu"]
    fig, ax = plt.subplots(figsize=(6.5, 4))
    for (axis, what), marker in zip(AXES.items(), "osD^v", strict=True):
        points = _points(record, axis)
        if points:
            n, s = np.array(points).T
            ax.plot(n / n[0], s / s[0], marker=marker, color=HIGHLIGHT if axis == "pixels" else None, label=what)
    ax.plot([1, 3], [1, 3], color=MUTED, ls=":", label="in proportion")
    ax.set(xscale="log", yscale="log", xlabel="size over the smallest", ylabel="cost over the smallest")
    ax.set_xticks([1, 1.5, 2, 3], ["1", "1.5", "2", "3"])
    ax.set_yticks([1, 2, 3, 4], ["1", "2", "3", "4"])
    ax.minorticks_off()
    ax.legend(fontsize="small")
    return fig


# What may be planned with
PLANNED = MappingProxyType(
    {
        "gpu_tflops": number("a number above 0", lambda v: v > 0),
        "gpu_share": number("above 0 and at most 1", lambda v: 0 < v <= 1),
    }
)


def plan(found, evidences, tflops, share):
    """What the full grids cost (DataFrame): runs, and hours on one device; empty without the "scaling" benchmark.

    evidences: committed ones of both studies, for the number of pictures and the seconds of an EEG run. tflops: peak
    of the GPU in 10^12 operations a second; share: part of it that training reaches. Vision: floating-point operations
    of all training and validation up to the last epoch that early stopping allows, so hours are at most these. EEG:
    what the committed `full` runs took if none is missing, else the mean of the `small` runs on one core. Raises
    `SpecError` for what no GPU can be.
    """
    check_values({"gpu_tflops": tflops, "gpu_share": share}, PLANNED)
    if ("scaling", "cpu") not in found:
        return pd.DataFrame()
    record = found["scaling", "cpu"]
    rows = [_vision(name, specs, record, evidences, tflops * 1e12 * share) for name, specs in _vision_tables()]
    return pd.DataFrame([*rows, *_eeg(evidences)]).set_index("grid")


def _vision_tables():
    return [(f"vision, {name}", make("full")) for name, make in upadhyay2023.TABLES.items()] + [
        ("vision, all without repeats", upadhyay2023.all_specs("full"))
    ]


def _vision(name, specs, record, evidences, speed):
    pictures = {}  # of an epoch; some switches use fewer
    for r in (r for e in evidences if e.study == upadhyay2023.NAME for r in e.records):
        n = r.result["data"].get("images") or r.result["data"]["pictures"]
        seen = n["train"] + n["val"] / 3  # validating is a third of a training step: the forward pass
        pictures[r.spec.data] = max(seen, pictures.get(r.spec.data, 0))
    flops = 0.0
    for s in (s for s in specs if "epochs" in s.params):  # the blind control trains nothing
        p = s.params
        passes = len(p["tasks"].split("+")) if p.get("passes") == "per-task" else 1
        steps = pictures.get(s.data, math.nan) * p["epochs"]
        flops += record.details["FLOPs a picture"][s.data][p["tasks"]] * passes * steps
    return {"grid": name, "runs": len(specs), "10^15 operations, at most": flops / 1e15, "on": "one GPU, at most",
            "hours": flops / speed / 3600}  # fmt: skip


def _eeg(evidences):
    runs = {s.hash for s in shin2023.table1_specs("full")}
    row = {"grid": "EEG, Table 1", "runs": len(runs), "on": "one CPU core"}
    by_profile = {e.profile: e.records for e in evidences if e.study == shin2023.NAME}
    done = [r.run for r in by_profile.get("full", ()) if r.hash in runs and r.run["device"] == "cpu"]
    if len(done) == len(runs):
        return [row | {"hours": sum(run["seconds"] for run in done) / 3600}]
    if not (small := by_profile.get("small")):
        return []
    mean = np.mean([r.run["seconds"] for r in small])  # both profiles have the same recipe, for other people
    return [row | {"hours": mean * len(runs) / 3600}]
