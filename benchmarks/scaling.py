"""How the cost of the studies grows: with picture size and tasks, and with subjects, seeds and lambdas.

Each is measured at three sizes, in one thread, as runs have it; the page fits the growth and works out what the full
grids cost.
"""

import tempfile
import time
from functools import partial
from itertools import repeat

import torch
from companion.data import load
from companion.engine import execute
from companion.records import Store
from eeg_batch import BATCH, KERNELS, SHAPES
from harness import arguments, report, seconds, take_turns
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023
from papers.upadhyay2023.run import Training
from sparsemtl.models.dense import MultiTaskNet
from sparsemtl.models.eeg import DualTaskNet
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from training import our_step

SIZES, TASKS = (64, 96, 128), ("seg", "seg+normal", upadhyay2023.ALL_NYU)


def main():
    """Measure and write `scaling-*.json`."""
    args = arguments(__doc__.splitlines()[0], threads=1)
    torch.manual_seed(0)
    taken = take_turns(picture_steps(args.device) | eeg_steps(args.device), args) | grids(args.device)
    report("scaling", seconds(taken), (), args, {"FLOPs a picture": operations()})


def picture_steps(device):
    """Training steps of the `small` network at three sizes of the picture, and with one, two and three tasks."""
    found = {}
    for size in SIZES:
        found[f"pixels={size}"] = dense_step(TASKS[-1], size, device)
    for n, tasks in enumerate(TASKS, 1):
        found[f"tasks={n}"] = dense_step(tasks, SIZES[0], device)
    return found


def dense_step(tasks, size, device):
    """One training step as a function."""
    small = upadhyay2023.PROFILE_SETTINGS["small"]["nyuv2"][1]
    params = {name: small[name] for name in ("width", "layers", "head_width", "rates", "batch")} | {
        "size": size,
        "n": 40,
    }
    spec = upadhyay2023.specs("quick", (tasks,), (upadhyay2023.START,), seeds=(0,), **params)[0]
    run = Training(spec, load("rooms", size=size, n=params["n"]), device)
    run.net.train()
    return partial(our_step, run, repeat(next(run.batches.epoch(0))))


def eeg_steps(device):
    """Training steps of a dense dual-task EEGNet at two sizes."""
    found = {}
    for size, shape in SHAPES.items():
        net = DualTaskNet(*shape, 2, kernel=KERNELS[size]).to(device).train()
        x = {task: torch.randn(BATCH, *shape, device=device) for task in shin2023.TASKS}
        y = torch.arange(BATCH, device=device) % 2
        found[f"EEG step, {size}"] = partial(eeg_step, net, torch.optim.Adam(net.parameters()), x, y)
    return found


def eeg_step(net, optimizer, x, y):
    """Forward, backward and update."""
    optimizer.zero_grad(set_to_none=True)
    sum(cross_entropy(out, y) for out in net(x).values()).backward()
    optimizer.step()


def grid_specs():
    """{axis: (1, 2 and 3 steps along it) -> specs} of quick grids."""
    eeg = partial(shin2023.specs, "quick", methods=("dense-multi",), sparsities=(0.0,))
    vision = partial(upadhyay2023.specs, "quick", (upadhyay2023.ALL_NYU,))
    return {
        "subjects": lambda n: eeg(subjects=range(1, n + 1), seeds=(0,)),
        "seeds": lambda n: eeg(subjects=(1,), seeds=range(n)),
        "lambdas": lambda n: vision(upadhyay2023.LAMBDAS[2 : 2 + n], seeds=(0,)),
    }


def grids(device):
    """Seconds of quick grids by the engine, one run after the other, with nothing done before."""
    taken = {}
    for axis, specs in grid_specs().items():
        for n in (1, 1, 2, 3):  # the first warms up: simulated data are made once
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                outcome = execute(specs(n), Store(folder), device=device, progress=False)
                taken[f"{axis}={n}"] = [time.perf_counter() - start]
            if outcome.failures:
                raise SystemExit(outcome.failures[0])
    return taken


def operations():
    """{data: {task set: floating-point operations of a training step, for one picture}} at the size of `full`."""
    found = {}
    for data, sets, classes in (("nyuv2", upadhyay2023.NYU_SETS, 40), ("celebamask", upadhyay2023.CELEBA_SETS, 3)):
        p = upadhyay2023.PROFILE_SETTINGS["full"][data][1]
        options = {k: p[k] for k in ("width", "layers", "head_width", "rates")}
        for tasks in sets:
            with torch.device("meta"):
                net = MultiTaskNet(tasks.split("+"), classes, **options)
                x = torch.randn(2, 3, p["size"], p["size"])
            with FlopCounterMode(display=False) as counter:
                sum(out.sum() for out in net(x).values()).backward()
            found.setdefault(data, {})[tasks] = counter.get_total_flops() / len(x)
    return found


if __name__ == "__main__":
    main()
