"""Records of the vision study, made up so that the answers are known."""

import numpy as np
from papers.upadhyay2023 import study

OTHERS = {"seg": ("seg_miou",), "normal": ("normal_mean",), "depth": ("depth_mae_m",), "male": ("male_f1",),
          "smile": ("smile_f1",)}  # fmt: skip
LAYERS = ("conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1")
BLIND, ERROR, IMAGES = 0.3, 0.01, 6


def value_of(spec, task):
    """Better with sparsity, worse with more tasks and with coupled decay, l1 worst; a little noise by seed."""
    p, sign = spec.params, study.SCORES[task][2]
    good = 0.1 * bool(p["target"]) + 0.02 * (p["lam"] > 0) - 0.02 * p["tasks"].count("+") - 0.1 * (p["penalty"] == "l1")
    return 0.5 + sign * (good - 0.05 * bool(p.get("dense_decay") and not p["lam"]) + 0.001 * spec.seed)


def made_up_record(spec, make_record):
    """A vision record whose numbers are known."""
    tasks = spec.params["tasks"].split("+")
    names = [name for task in tasks for name in (study.SCORES[task][0], *OTHERS[task])]
    if spec.method == study.BLIND:
        blind = dict.fromkeys(names, BLIND)
        return make_record(spec, {"metrics": blind, "blind": blind, "constant": blind, "gain": {}, "images": {}})
    p = spec.params
    metrics = {name: value_of(spec, name.partition("_")[0]) for name in names}
    group = p["target"] or (1.0 if p["lam"] >= 1e-3 else 0.15 if p["lam"] else 0.0)
    layers = ["conv1.0", "conv1.3", *LAYERS[1:]] if p["stem"] == "deep" else list(LAYERS)
    alive = {name: [8 if name.startswith(("conv1", "layer1")) else round(8 * (1 - group)), 8] for name in layers}
    gain = {name: [sign * (metrics[name] - BLIND), ERROR] for name, _, sign in map(study.SCORES.get, tasks)}
    history = {"group_sparsity": [0.0, group], "lambda": [p["lam"], p["lam"]], "train": [dict.fromkeys(tasks, 1.0)] * 2,
               "weight_norm": [9.0, 3.0], "decay_share": [0.0, 0.5 * bool(p.get("dense_decay"))]}  # fmt: skip
    result = {
        "metrics": metrics, "blind": dict.fromkeys(metrics, BLIND), "constant": dict.fromkeys(metrics, 0.25),
        "gain": gain, "images": {name: study.packed(np.full(IMAGES, metrics[name])) for name in gain},
        "channels": alive, "layers": layers, "epochs": {"run": 2, "sum": 1}, "history": history,
        "sparsity": {"group": group, "parameter": group, "zero": group},
        "backbone": {n: {"parameters": 100, "flops": 100 - 50 * (n == "compact")} for n in ("zeros", "compact")},
    }  # fmt: skip
    ms = {"dense_ms": [2.0] * 5, "zeros_ms": [2.0 - 0.5 * group] * 5, "compact_ms": [1.0] * 5}
    return make_record(spec, result, timings=ms | {"train_seconds": 1.0})
