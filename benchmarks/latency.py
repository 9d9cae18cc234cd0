"""One trial decoded at a time on one thread: masked networks against group-sparse compacted ones, and real time.

Every side holds single calls, in milliseconds, made in rounds of --calls in which the sides take turns. A record keeps
up to 320 of them, spread evenly; medians and 99th percentiles of all calls are in its details. "torch" and "ONNX
Runtime" run the network as `streaming.plain` lays it out for one trial; "as trained" are DualTaskNet's own modules.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from companion.data import load
from companion.style import percent
from export import to_onnx
from harness import Mark, arguments, counts, report, take_turns, where_time_goes
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.prox import ProxAdamW
from streaming import Decoder, demonstration, onnx_session, plain, prune, train, training_trials, trunk_options
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TASK, EPOCHS, KEPT = "mi", 40, 320
SIZES = {"small": {"sfreq": 80.0, "channels": "motor21"}, "full": {"sfreq": 160.0, "channels": "all"}}
CASES = (("EEGNet", "eegnet", "small"), ("EEGNet", "eegnet", "full"), ("Deep4", "deep4", "full"))
SPARSITIES = (0.4, 0.8)
EVERY = 0.1  # seconds between decisions


def main():
    """Measure and write `results/benchmarks/latency-cpu.json`."""
    args = arguments(__doc__.splitlines()[0], threads=1, repeats=50, calls=20)
    calls, marks, details = {}, [], {"networks": {}, "profile": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, backbone, size in CASES:
            data = load("simulated-eeg", tmin=0.5, tmax=3.5, **SIZES[size])
            trials = training_trials(data)
            channels, samples = trials[0][TASK].shape[1:]
            case = f"{name} {channels} x {samples}"
            networks = trained_networks(backbone, data, *trials[:2])
            details["networks"][case] = {label: facts for label, (_, facts) in networks.items()}
            for label, (network, _) in networks.items():
                module, trial = plain(network, TASK), trials[0][TASK][:1]
                calls |= sides(f"{case}, {label}", module, trials, args, folder)
                spent = where_time_goes(lambda m=module, x=trial: [m(x) for _ in range(200)])
                details["profile"][f"{case}, {label}, torch"] = spent
            dense = networks["dense"][0]
            chain = nn.Sequential(dense.shared, dense.get_submodule(TASK))
            calls |= sides(f"{case}, dense, as trained", chain, trials, args, folder)
            calls |= whole_decodes(f"{case}, dense", dense, data, trials, args, folder)
            marks += case_marks(case)
        taken = latencies(calls, args)
    decisions, _ = demonstration(every=EVERY)
    taken |= {"streamed, to compute": list(decisions.compute_ms), "streamed, after its sample": list(decisions.late_ms)}
    details |= {
        "masks": "SNIP votes joined by OR (Shin et al. 2023); 40 % is each vote's sparsity, so less of the network",
        "groups": "input channels of convolutions, in EEGNet those of the pointwise one by twos, so that a temporal "
        "filter dies with both of its spatial filters; in Deep4 also the spatial convolution's. Electrodes stay.",
        "milliseconds of all calls": {label: percentiles(values) for label, values in taken.items()},
        "streamed": {"decisions": len(decisions), "late": int(decisions.late.sum())},
    }
    between, first = "time between decisions", "EEGNet 21 x 240, dense, torch, whole decode"
    marks = [
        Mark(f"{between} over one decision, dense EEGNet", between, first, "at least", 10),
        Mark(f"{between} over one streamed decision", between, "streamed, after its sample", "at least", 10),
        *marks,
    ]
    found = {label: kept(v) for label, v in taken.items()}
    report("latency", found | counts("ms", {between: 1e3 * EVERY}), marks, args, details)


def trained_networks(backbone, data, inputs, targets):
    """{label: (DualTaskNet in eval mode, what is left of it)}: dense, masked, and group-sparse and compacted."""

    def fresh():
        generator = torch.Generator().manual_seed(0)
        shape = inputs[TASK].shape[1:]
        trunk = trunk_options(backbone, data.sfreq)
        return DualTaskNet(*shape, len(data.classes), backbone=backbone, generator=generator, **trunk)

    def adam(network):
        return torch.optim.Adam(network.parameters(), lr=2e-3)

    dense = fresh()
    train(dense, inputs, targets, adam(dense), EPOCHS)
    found = {"dense": (dense, facts(dense))}
    for sparsity in SPARSITIES:
        masked = fresh()
        prune(masked, inputs, targets, sparsity)
        train(masked, inputs, targets, adam(masked), EPOCHS)
        found[f"masks {percent(sparsity)}"] = masked, facts(masked)
        sparse = fresh()
        zero = train_groups(sparse, inputs, targets, sparsity)
        small = compact(sparse, {TASK: inputs[TASK][:1]})
        found[f"compacted {percent(sparsity)}"] = small, facts(small) | {"zero groups": zero}
    return found


def train_groups(network, inputs, targets, sparsity):
    """Train with a group penalty that grows until this share of the groups is zero; returns the share.

    Those groups stay zero from then on, and the others train on without a penalty.
    """
    weights = {
        name: module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1 and module.in_channels > 1
    }
    views = [grouped(weight, 2 if name.endswith("separable_point") else 1) for name, weight in weights.items()]
    total = sum(view.shape[1] for view in views)
    rest = [p for p in network.parameters() if all(p is not weight for weight in weights.values())]
    optimizer = ProxAdamW([{"params": rest}, {"params": views, "penalty": "group_lasso", "lam": 1e-3}], lr=2e-3)
    penalised, dead = optimizer.param_groups[1], []

    def after_step(*_):
        if not dead:
            penalised["lam"] *= 1.1
            zero = [(view == 0).all(2).all(0) for view in views]
            if sum(int(z.sum()) for z in zero) >= round(sparsity * total):
                penalised["lam"] = 0.0
                dead.extend(zero)
        for view, zero in zip(views, dead, strict=False):
            view.data[:, zero] = 0

    train(network, inputs, targets, optimizer, EPOCHS, after_step=after_step)
    return sum(int(zero.sum()) for zero in dead) / total


def grouped(weight, size):
    """Parameter over the same memory as a convolution's weight, (outputs, groups, entries), `size` channels a group."""
    view = nn.Parameter(weight.detach().view(len(weight), weight.shape[1] // size, -1))

    def hand_on(weight):
        view.grad, weight.grad = weight.grad.view_as(view), None

    weight.register_post_accumulate_grad_hook(hand_on)
    return view


def facts(network):
    """Weights of its convolutions and one head, those that are not zero, and floating-point operations for a trial."""
    module, trial = plain(network, TASK), torch.zeros(1, *network.input_shape)
    weights = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with FlopCounterMode(display=False) as counter:
        module(trial)
    return {
        "weights": sum(w.numel() for w in weights),
        "not zero": sum(int((w != 0).sum()) for w in weights),
        "operations": counter.get_total_flops(),
    }


def sides(label, module, trials, args, folder):
    """{label: call without arguments} of a module by torch and by ONNX Runtime, for one trial."""
    trial = trials[0][TASK][:1].contiguous()
    path = to_onnx(module, trial, Path(folder) / f"{label}.onnx")
    session, array = onnx_session(path, args.threads), trial.numpy()
    return {
        f"{label}, torch": torch.inference_mode()(lambda: module(trial)),
        f"{label}, ONNX Runtime": lambda: session(array),
    }


def whole_decodes(label, network, data, trials, args, folder):
    """The same with scaling before and softmax after it, from a window in microvolts."""
    window, moments = getattr(data, TASK).x[0], trials[2]
    path = to_onnx(plain(network, TASK), trials[0][TASK][:1], Path(folder) / f"{label}.onnx")
    ours, theirs = Decoder(network, TASK, *moments), Decoder(onnx_session(path, args.threads), None, *moments)
    return {
        f"{label}, torch, whole decode": lambda: ours(window),
        f"{label}, ONNX Runtime, whole decode": lambda: theirs(window),
    }


def case_marks(case):
    """Compacted networks against masks of the same share, ONNX Runtime against torch."""
    runtimes = ("torch", "ONNX Runtime")
    marks = [
        Mark(
            f"masks over compacted at {percent(share)}, {case}, {runtime}",
            f"{case}, masks {percent(share)}, {runtime}",
            f"{case}, compacted {percent(share)}, {runtime}",
            "at least",
            1.0,
        )
        for share in SPARSITIES
        for runtime in runtimes
    ]
    torch_side, onnx_side = (f"{case}, dense, {runtime}" for runtime in runtimes)
    return [*marks, Mark(f"torch over ONNX Runtime, {case}", torch_side, onnx_side, "at least", 1.0)]


def latencies(calls, args):
    """{label: milliseconds of each call}, without those of the round that warms up."""
    found = {label: [] for label in calls}

    def burst(call, times):
        for _ in range(args.calls):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))

    take_turns({label: lambda c=call, t=found[label]: burst(c, t) for label, call in calls.items()}, args)
    return {label: times[args.calls :] for label, times in found.items()}


def kept(values):
    """A side of at most `KEPT` of the values, in ms to 0.1 microseconds: the record stays small."""
    picked = np.linspace(0, len(values) - 1, min(KEPT, len(values))).round().astype(int)
    return {"unit": "ms", "values": [round(values[i], 4) for i in picked]}


def percentiles(values):
    """Number, median and 99th percentile."""
    return {"calls": len(values), "median": float(np.median(values)), "p99": float(np.percentile(values, 99))}


if __name__ == "__main__":
    main()
