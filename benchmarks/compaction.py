"""The backbone without its dead channels against the dense one: time, operations and memory of a batch in eval mode.

Three patterns of zero input-channel groups for the dilated ResNet-50 (Upadhyay et al. 2023, Fig. 3: first layers dense,
middle ones sparse, a few deep ones active):
    independent  70 % of the groups, drawn for each convolution by itself: a residual stream keeps nearly everything
    aligned      the same shares, but all readers of one residual stream drop the same channels
    trained      the shares of each layer in a committed training run, drawn independently; of a block that the run
                 lacks, those of the last one that it has
All networks have normalisation statistics of a batch of noise and random scales and shifts.

Other sides: the dense network under torch.compile, torch-pruning where it removes what is dead in all layers that it
couples, and ONNX Runtime. Each PyTorch side runs in the memory format that is faster for it.
"""

import copy
import functools
import itertools
import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from export import to_onnx
from harness import Mark, arguments, counts, report, seconds, take_turns, wait, where_time_goes
from sparsemtl.models.dense import dilated_resnet
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.layers import exact_convolutions
from sparsemtl.sparsity.measure import channels_per_layer, group_sparsity
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

CASES = ("independent", "aligned", "trained")
SHARES = {"layer2": 0.6, "layer3": 0.85, "layer4.0": 0.8, "layer4": 0.6}  # of zero groups; other layers have none
RECORD = Path(__file__).parents[1] / "results/upadhyay2023/small/main.jsonl"
TRAINED = {"method": "paper", "seed": 0, "target": 0.7, "tasks": "seg+normal+depth"}


def main():
    """Measure and write `results/benchmarks/compaction-*.json`."""
    args = arguments(__doc__.splitlines()[0], batch=4, size=256, width=64, compile=1)
    torch.manual_seed(0)
    x = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    with torch.no_grad():
        measure(args, x)


def measure(args, x):
    """Build all sides, let them take turns, report."""
    nets, sessions, details = {}, {}, {"batch": args.batch, "size": args.size, "patterns": {}, "formats": {}}
    details["trained run"] = f"run {trained_shares()[0]}"
    for case in CASES:
        model = pattern(case, args.width).to(args.device)
        details["patterns"][case] = {"zero_groups": group_sparsity(model), "alive_of_all": channels_per_layer(model)}
        if case == CASES[0]:  # dense kernels take as long for zeros as for other numbers
            nets["dense"], nets["dense, norms folded"] = model, unpruned(model, x)
        found = {
            "compacted": compact(model, x[:1]),
            "compacted, norms folded": folded(model, x[:1]),
        }
        if find_spec("torch_pruning"):  # not on the GPU machine
            found["torch-pruning"] = pruned(model, x[:1])
        for label, net in found.items():
            with exact_convolutions():
                check(f"{case}: {label}", net(x), model(x))
            nets[f"{case}: {label}"] = net
        if args.device == "cpu":
            models = {f"{case}: ONNX Runtime": found["compacted, norms folded"]}
            models |= {"dense, ONNX Runtime": model} if case == CASES[0] else {}
            for label, net in models.items():
                sessions[label] = session(net, x, args.threads)
                check(label, torch.from_numpy(sessions[label]()), model(x))

    sides = {label: in_better_format(label, net, x, details["formats"], args.device) for label, net in nets.items()}
    sizes = sizes_of(nets, sides, x, args.device)
    sides |= sessions
    if args.compile:
        try:
            same, batch = in_format(nets["dense"], x, details["formats"]["dense"])
            sides["dense, compiled"] = functools.partial(torch.compile(same), batch)
            check("dense, compiled", sides["dense, compiled"](), nets["dense"](x))
        except Exception as error:  # a compiler that is missing shows itself as many kinds
            sides.pop("dense, compiled", None)
            details["compile_failed"] = " ".join(str(error).split())[:300]
            print(f"torch.compile failed: {details['compile_failed']}", file=sys.stderr)
    taken = seconds(take_turns(sides, args))
    shown = [f"{case}: compacted, norms folded" for case in CASES]
    details["profile"] = {label: where_time_goes(sides[label], args.device) for label in shown}
    report("compaction", taken | sizes, marks(taken), args, details)


def marks(taken):
    """Gains in time and their shares of the gains in operations: folded networks, in PyTorch and in ONNX Runtime."""
    found = []
    for case in CASES:
        labels = ("dense, norms folded", f"{case}: compacted, norms folded")
        operations = tuple(f"{label}, operations" for label in labels)
        for where, (dense, small) in {
            "PyTorch": labels,
            "ONNX Runtime": ("dense, ONNX Runtime", f"{case}: ONNX Runtime"),
        }.items():
            if dense in taken:
                found.append(Mark(f"{case}, {where}: time gained", dense, small, "at least", 2.5))
                share = f"{case}, {where}: share of the gain in operations"
                found.append(Mark(share, dense, small, "at least", 0.8, operations))
    return found


def pattern(case, width):
    """Dilated ResNet-50 in eval mode with zero groups; see the module's description."""
    generator = torch.Generator().manual_seed(0)
    model = dilated_resnet(width)
    shares, orders = trained_shares()[1] if case == "trained" else SHARES, {}
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d):
            share = next((shares[part] for part in (*earlier(name), name[:8], name[:6]) if part in shares), 0.0)
            order = torch.randperm(conv.in_channels, generator=generator)
            if case == "aligned":
                order = orders.setdefault(stream(name), order)
            conv.weight.data[:, order[: round(share * conv.in_channels)]] = 0
        elif isinstance(conv, nn.BatchNorm2d):
            conv.momentum = 1.0
            nn.init.uniform_(conv.weight, 0.2, 0.8, generator=generator)
            nn.init.normal_(conv.bias, 0, 0.2, generator=generator)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64, generator=generator))
    return model.eval()


def earlier(name):
    """The name of a convolution, and those of the same one in earlier blocks: a committed run may have fewer blocks."""
    stage, block, *rest = name.split(".") if "." in name else (name, "0")
    return [name, *(".".join([stage, str(b), *rest]) for b in range(int(block) - 1, -1, -1))]


def stream(name):
    """What a convolution reads: the residual stream of a stage, or what is inside of a block, by its own name."""
    stage, block, *rest = name.split(".") if "." in name else (name, "", "")
    if rest[0] not in ("conv1", "downsample"):
        return name
    return f"stream {int(stage[5]) - (block == '0')}"


def trained_shares():
    """(hash, {layer: share of zero groups}) of a committed run."""
    for line in RECORD.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if TRAINED.items() <= (record["spec"] | record["spec"].pop("params")).items():
            shares = {name: 1 - alive / count for name, (alive, count) in record["result"]["channels"].items()}
            return record["hash"], shares
    raise SystemExit(f"{RECORD}: no run with {TRAINED}")


def unpruned(model, x):
    """The dense network with folded norms: `compact` finds nothing to remove in one without zeros."""
    dense = copy.deepcopy(model)
    for conv in dense.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight[conv.weight == 0] = 1e-3
    return folded(dense, x[:1])


def folded(model, example):
    """The compacted network with its batch norms in the convolutions before them."""
    return fuse(compact(model, example), no_trace=True)


def pruned(model, example):
    """What torch-pruning makes of the pattern when it must not change the outputs.

    Its dependency graph names the layers that lose a channel together; a channel goes if all that read it have zeros.
    """
    import torch_pruning

    model = copy.deepcopy(model)
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    removed = True
    while removed:
        removed, done = False, {convs[-1]}  # the last one's channels are the output
        for conv in convs:
            group = graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, [0])
            layers = [(dep.target.module, dep.handler) for dep, _ in group]
            makers = {m for m, handler in layers if handler == torch_pruning.prune_conv_out_channels}
            if makers & done:
                done |= makers
                continue
            done |= makers
            readers = [m for m, handler in layers if handler == torch_pruning.prune_conv_in_channels]
            alive = torch.stack([m.weight.ne(0).any(3).any(2).any(0) for m in readers]).any(0)
            alive[0] |= not alive.any()
            dead = (~alive).nonzero().flatten().tolist()
            if dead:
                graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, dead).prune()
                removed = True
    return model


def session(net, x, threads):
    """Function without arguments: ONNX Runtime on the batch, as a NumPy array."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores to the other sides
    with tempfile.TemporaryDirectory() as folder:
        path = to_onnx(net, x, Path(folder) / "net.onnx")
        runner = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = x.numpy()
    return lambda: runner.run(None, {"input": batch})[0]


def check(label, got, expected):
    """End the benchmark if the outputs are not the dense network's."""
    off = float((got - expected).abs().max() / expected.abs().max())
    if not off < 1e-4:
        raise SystemExit(f"{label}: outputs are off by {off:.2g} of the largest")


def in_format(net, x, name):
    """Copies of network and batch in a memory format of torch."""
    memory_format = getattr(torch, name)
    return copy.deepcopy(net).to(memory_format=memory_format), x.to(memory_format=memory_format)


def in_better_format(label, net, x, formats, device):
    """Function without arguments that runs `net` in the faster memory format, which it notes in `formats`."""
    runs = {}
    for name in ("contiguous_format", "channels_last"):
        same, batch = in_format(net, x, name)
        runs[name] = functools.partial(same, batch)
    times = {name: min(timed(run, device) for _ in range(3)) for name, run in runs.items()}
    formats[label] = min(times, key=times.get)
    return runs[formats[label]]


def timed(run, device):
    """Seconds of the second of two calls."""
    run()
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def sizes_of(nets, sides, x, device):
    """Sides that are counted: operations of a batch, bytes of weights, peak of bytes of activations."""
    operations, weights, activations = {}, {}, {}
    for label, net in nets.items():
        with FlopCounterMode(display=False) as counter:
            net(x)
        operations[f"{label}, operations"] = counter.get_total_flops()
        weights[f"{label}, weights"] = sum(w.numel() * w.element_size() for w in net.parameters())
        activations[f"{label}, activations"] = peak(sides[label], device)
    return counts("FLOPs", operations) | counts("bytes", weights) | counts("bytes", activations)


def peak(run, device):
    """Most bytes that one call holds at a time, on top of what is there (on a CPU: of tensors)."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = (event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]")
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes))


if __name__ == "__main__":
    main()
