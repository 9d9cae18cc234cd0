"""One run of the vision study: a task set, a penalty and its lambda; scores of the trained network on test images.

The whole data set is on the device. The test images are used once, at the end. A run writes checkpoints to the cache
folder: if it is interrupted, it resumes there (on a CPU to the same bits).
"""

import contextlib
import copy
import math
import time
from dataclasses import replace
from functools import cached_property, partial
from itertools import product

import torch
from companion import checkpoint
from companion.data import load
from companion.data.images import random_split, sha256_of
from companion.engine import origin, reproducible
from companion.spec import check_values
from papers.upadhyay2023.batches import Batches, start_at_mean
from papers.upadhyay2023.control import HELD, Controller
from papers.upadhyay2023.scores import Scorer
from papers.upadhyay2023.study import BLIND, ROUGHLY, RULES
from sparsemtl.errors import DataError, SparseMTLError, SpecError
from sparsemtl.models.dense import DENSE_TASKS, MultiTaskNet, backbone_convs, draw_weights
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.measure import channels_per_layer, group_sparsity, parameter_sparsity, zero_fraction
from sparsemtl.sparsity.prox import ProxAdamW
from sparsemtl.training.fit import diverged, fit
from sparsemtl.training.losses import UncertaintyWeighting, binary_loss, depth_loss, normal_loss, segmentation_loss
from torch.nn import functional as F
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

CHECKPOINT_SECONDS = 60.0  # at most so much work is lost when a run is interrupted
WARM_UP = 0.1  # share of the steps over which the learning rate rises
TURNS = 51  # times that each form of the backbone is timed: single ones differ by a tenth beside other work
KEPT, MODULES = ("history", "best", "seconds", "lam"), ("net", "balance", "optimizer")  # what a checkpoint holds
COUNTS = {"group": group_sparsity, "parameter": parameter_sparsity, "zero": zero_fraction}
PENALTIES = {  # what released code adds to the loss for a weight; of groups times sqrt of their count (item 8)
    "l1": lambda w: w.abs().sum(),
    "group_lasso": lambda w: w.shape[1] ** 0.5 * torch.linalg.vector_norm(w, dim=(0, 2, 3)).sum(),
}
SIZES = ("width", "layers", "stem", "first_dilated", "initial", "head_width", "head_reduced", "rates", "passes",
         "dropout", "attribute_dropout")  # fmt: skip


def run(spec, root=None, device="cpu"):
    """Result dict of one spec: scores beside the blind control, sparsity, channels, sizes, history, timings."""
    data = load_images(spec, root)
    if spec.method == BLIND:
        scorer = Scorer(data.to(device), spec.params, spec.params["tasks"].split("+"))
        return scorer.report(*scorer.blind())
    try:
        training = Training(spec, data, device)
        training.fit()
        return training.result()
    except torch.cuda.OutOfMemoryError:
        smaller = max(2, spec.params["batch"] // 2)
        raise SparseMTLError(
            f"out of GPU memory: run again when more is free (what was trained is kept), or try --set batch={smaller}"
        ) from None


def predictions(spec, root=None, device="cpu", count=3):
    """Train as `run` does and predict the first `count` test images.

    Returns images uint8 (count, H, W, 3), truth and prediction {task: array}, and the backbone's convolutions {name:
    array}. "seg": class; "normal": channels last; "depth": in the unit of the run; else probabilities.
    """
    with without_record(spec), reproducible(device):
        training = Training(spec, load_images(spec, root), device)
        training.fit()
        data, scorer = training.data, training.scorer
        rows = data.splits["test"][:count]
        truth, found = {t: scorer.targets[t][rows] for t in training.tasks}, training.predict(rows)
    if "depth" in found:
        found["depth"] = found["depth"][0 if scorer.relative else 1]
    found |= {t: found[t].sigmoid() for t in found if t not in DENSE_TASKS}

    def plain(arrays):
        return {t: (y.movedim(1, -1) if y.ndim == 4 else y).cpu().numpy() for t, y in arrays.items()}

    convs = {name: w.detach().cpu().numpy() for name, w in backbone_convs(training.net).items()}
    return data.images[rows].movedim(1, -1).cpu().numpy(), plain(truth), plain(found), convs


def begun(spec):
    """Whether an interrupted training of `spec` has left a checkpoint."""
    return checkpoint.path_of(spec).exists()


def finished(spec):
    """The record of `spec` is safe: its checkpoint can go."""
    checkpoint.discard(checkpoint.path_of(spec))


@contextlib.contextmanager
def without_record(spec):
    """Context of a training whose result goes into no record: its checkpoint goes, unless it was there before."""
    before = begun(spec)
    yield
    if not before:
        finished(spec)


def load_images(spec, root=None):
    """The spec's data, cut into the protocol's splits (notes, item 11)."""
    p = spec.params
    check_values(p, RULES)
    data = load(spec.data, root, size=p["size"], **({"n": p["n"]} if p["n"] else {}))
    if absent := [task for task in p["tasks"].split("+") if task not in data.targets]:
        raise SpecError(f"{spec.data} has no task {absent[0]!r}: it has {', '.join(data.targets)}")
    splits = data.splits
    if p.get("split") == "70-15-15":
        row_of = {name: row for row, name in enumerate(data.ids)}
        lists = random_split(data.ids, {"val": 0.15, "test": 0.15}, seed=0)
        splits = {split: torch.tensor(sorted(row_of[i] for i in ids)) for split, ids in lists.items()}
    if p.get("share", 1.0) < 1:
        splits = {split: rows[: max(2, int(p["share"] * len(rows)))] for split, rows in splits.items()}
    if len(splits["train"]) < 2:
        raise DataError(f"{spec.data} has {len(splits['train'])} training images: two or more are needed")
    if splits is data.splits:
        return data
    rows = {split: rows.tolist() for split, rows in splits.items()}
    return replace(data, splits=splits, fingerprint=sha256_of([data.fingerprint, rows]))


class Training:
    """The state of one run: network, optimizer, history, weights to be tested. device: "cpu" or "cuda"."""

    def __init__(self, spec, data, device="cpu"):
        p, device = spec.params, torch.device(device)
        self.spec, self.p, self.tasks, self.data = spec, p, tuple(p["tasks"].split("+")), data.to(device)
        self.device, self.cuda = device, device.type == "cuda"
        self.scorer = Scorer(self.data, p, self.tasks)
        self.batches = Batches(self.scorer, p, spec.seed)
        torch.manual_seed(spec.seed)
        bounded = {"normal": p.get("normal_head") == "tanh", "depth": self.scorer.relative}
        sizes = {k: p[k] for k in SIZES if k in p} | {"bounded": [task for task in bounded if bounded[task]]}
        net = MultiTaskNet(self.tasks, len(self.data.classes) + bool(p.get("spare_class")), **sizes)
        self.net = net.to(device, memory_format=torch.channels_last)  # a sixth faster on a CPU, more on a GPU
        if p["start_at_mean"]:
            start_at_mean(self.net, self.scorer)
        torch.backends.cudnn.benchmark = self.cuda  # every batch has the same shape
        learned = p["uncertainty"] == "learned"
        self.balance = UncertaintyWeighting(self.tasks, learned, 0.0 if learned else 1.0).to(device)
        self.context = partial(torch.autocast, device.type, torch.bfloat16, enabled=p["precision"] == "bfloat16")
        self.lam = p["lam"]
        aim, held = p.get("aim", p["target"]), p.get("held", HELD)
        self.controller = Controller(aim, p["epochs"], held) if p["target"] else None
        self.optimizer = self._optimizer()
        self.history = {name: [] for name in ("train", "val", "group_sparsity", "parameter_sparsity", "lambda",
                                              "weight_norm", "decay_share")}  # fmt: skip
        self.best, self.seen, self.seconds, self.resumed = {}, [], 0.0, 0.0
        self.checkpoint = checkpoint.path_of(spec)
        # what a checkpoint must share with the run that takes it up: a record names one code and one device
        self.origin = {"data": data.fingerprint} | origin(str(device))

    @cached_property
    def convs(self):
        """Weights of the backbone's convolutions, which alone are penalised and counted."""
        return list(backbone_convs(self.net).values())

    def _optimizer(self):
        """Adam with the penalty on the backbone's convolutions and the protocol's decay (notes, items 5, 16, 18)."""
        p, ids = self.p, {id(w) for w in self.convs}
        other = [w for w in self.net.shared.parameters() if id(w) not in ids]
        self.coupled = p["lam"] == 0 and p["dense_decay"] is not None
        decay = p["dense_decay"] if self.coupled else p["weight_decay"]
        groups = [
            {"params": self.convs, "weight_decay": decay, "penalty": p["penalty"], "lam": self.lam},
            {"params": other, "weight_decay": decay},
            {"params": list(self.net.heads.parameters()), "weight_decay": p["head_decay"]},
            {"params": list(self.balance.parameters()), "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.coupled:
            return torch.optim.Adam(groups, lr=p["lr"], eps=p["eps"], fused=True)
        corrected = p["metric"] == "corrected"
        return ProxAdamW(groups, lr=p["lr"], eps=p["eps"], corrected_metric=corrected, fused=True)

    def fit(self):
        """Train from the start, or from the checkpoint, and put the weights that are tested into the network."""
        self._resume()
        net = torch.compile(self.net) if self.p["compile"] else self.net
        self.saved = time.monotonic()
        fit(net, self._steps, self._loss, self.optimizer, self.p["epochs"], start=len(self.history["val"]),
            after_epoch=self._after_epoch, context=self.context)  # fmt: skip
        self.net.load_state_dict(self.best["sum"]["weights"])

    def _steps(self, epoch):
        """Batches of an epoch; sets the learning rate of each step: linear warm-up, then half a cosine."""
        epochs, steps = self.p["epochs"], self.batches.steps
        for step, batch in enumerate(self.batches.epoch(epoch)):
            done = (epoch * steps + step) / (epochs * steps)
            rise, fall = done / WARM_UP, (done - WARM_UP) / (1 - WARM_UP)
            factor = max(1e-3, rise if rise < 1 else 0.5 * (1 + math.cos(math.pi * fall)))
            for group in self.optimizer.param_groups:
                group["lr"] = self.p["lr"] * (1.0 if self.p["schedule"] == "constant" else factor)
            yield batch

    def _losses(self, outputs, targets):
        segmentation = partial(segmentation_loss, label_smoothing=self.p["label_smoothing"])
        functions = {"seg": segmentation, "normal": normal_loss, "depth": depth_loss}
        binary = partial(binary_loss, double_sigmoid=self.p.get("double_sigmoid", False))
        side = next((targets[t].shape[-1] for t in self.tasks if t in DENSE_TASKS), None)
        return {t: functions.get(t, binary)(resized(t, outputs[t], side), targets[t]) for t in self.tasks}

    def _loss(self, outputs, targets):
        losses = self._losses(outputs, targets)
        self.seen.append({t: value.detach() for t, value in losses.items()})
        total = self._balanced(losses)
        if self.p["penalty_gradient"] and self.lam:
            total = total + self.lam * sum(map(PENALTIES[self.p["penalty"]], self.convs))
        return total

    def _balanced(self, losses):
        """Eq. 2; or, as in the released code, exp(-s) L + s for each of several tasks and the bare loss of one."""
        if self.p["loss_scale"] == "halved":
            return self.balance(losses)
        return 2 * self.balance(losses) if len(self.tasks) > 1 else sum(losses.values())

    @torch.no_grad()
    def _forward(self, rows):
        """Yield (rows, predictions) in eval mode, batch by batch, in float32."""
        self.net.eval()
        for part in rows.split(self.p["batch"]):
            with self.context():
                outputs = self.net(self.batches.images(part))
            yield part, {t: resized(t, p.float(), self.scorer.side) for t, p in outputs.items()}

    def _after_epoch(self, epoch):
        """Validate, keep weights, adapt lambda, write a checkpoint."""
        self.history["train"].append({t: torch.stack([s[t] for s in self.seen]).mean().item() for t in self.tasks})
        self.seen.clear()
        rows = self.data.splits["val"]
        sums = dict.fromkeys(self.tasks, 0.0)
        for part, outputs in self._forward(rows):
            for t, value in self._losses(outputs, {t: y[part] for t, y in self.scorer.targets.items()}).items():
                sums[t] += value.item() * len(part) / len(rows)
        total = sum(sums.values())
        if not math.isfinite(total):  # nothing would ever be better than a NaN
            raise diverged(total, epoch)
        reached = {"val": sums, "lambda": self.lam} | self._decay()
        reached |= {f"{kind}_sparsity": COUNTS[kind](self.convs) for kind in ("group", "parameter")}
        for name, value in reached.items():
            self.history[name].append(value)
        self._keep(epoch, {"sum": total} | (sums if self.p["stopping"] == "per-task" else {}))
        if self.controller:
            self.lam = self.controller.next(epoch, self.lam, self._zeros())
            self.optimizer.param_groups[0]["lam"] = self.lam
        if self.p["restarts"]:  # Adam's moments start again (item 6)
            self.optimizer.state.clear()
        if epoch + 1 == self.p["epochs"] or time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            self._save()

    def _keep(self, epoch, losses):
        """Keep the weights that may be tested, by name of a loss: of the last epoch, or of the best."""
        last = epoch + 1 == self.p["epochs"]
        if self.p.get("only_near"):  # those count that are roughly at the target, or else the last
            if abs(self._zeros() - self.p["target"]) > ROUGHLY and (self.best or not last):
                return
        elif self.controller and epoch < self.controller.held and not last:  # the network is not yet sparse
            return
        for name, loss in losses.items():
            if self.p["stopping"] == "last" or name not in self.best or loss < self.best[name]["loss"]:
                weights = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
                self.best[name] = {"loss": loss, "epoch": epoch, "weights": weights}

    def _zeros(self):
        """The share that a target is about: of groups; of weights for l1 or count="parameter"."""
        return COUNTS["zero" if self.p["penalty"] == "l1" else self.p["count"]](self.convs)

    def _decay(self):
        """Norm of the backbone's convolutions, and the share of the last gradient that is coupled decay (by norms)."""
        norm = float(torch.stack([w.detach().norm() for w in self.convs]).norm())
        pairs = [(group["weight_decay"], w) for group in self.optimizer.param_groups for w in group["params"]]
        if not self.coupled or not any(decay for decay, _ in pairs):
            return {"weight_norm": norm, "decay_share": 0.0}
        decay = float(torch.stack([decay * w.detach().norm() for decay, w in pairs]).norm())
        gradients = [w.grad.norm() for decay, w in pairs if decay and w.grad is not None]
        return {"weight_norm": norm, "decay_share": decay / (decay + float(torch.stack(gradients).norm()))}

    def _save(self):
        now = time.monotonic()
        self.seconds, self.saved = self.seconds + now - self.saved, now
        state = {name: getattr(self, name) for name in KEPT}
        state |= {name: getattr(self, name).state_dict() for name in MODULES}
        state |= {"origin": self.origin, "rng": torch.get_rng_state()}
        if self.cuda:
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(self.checkpoint, state)

    def _resume(self):
        """Take up the checkpoint, if there is one of the same data, code and device; else train from the start."""
        state = checkpoint.load(self.checkpoint, self.origin)
        if state is None:
            return
        for name in MODULES:
            getattr(self, name).load_state_dict(state[name])
        for name in KEPT:
            setattr(self, name, state[name])
        self.resumed = self.seconds
        torch.set_rng_state(state["rng"])
        if self.cuda:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def predict(self, rows):
        """Predictions for images `rows`: "seg" uint8 class, "depth" (relative, metres), else float32."""
        parts = [{t: p.argmax(1).to(torch.uint8) if t == "seg" else p for t, p in outputs.items()}
                 for _, outputs in self._forward(rows)]  # fmt: skip
        found = {t: torch.cat([part[t] for part in parts]) for t in self.tasks}
        if "depth" in found:
            found["depth"] = self.scorer.both_units(found["depth"], rows)
        return found

    def result(self):
        """Result dict; call after `fit`. Each task is tested at its own best checkpoint if tasks stop alone."""
        rows, each, metrics = self.data.splits["test"], {}, {}
        tested = {t: t if t in self.best else "sum" for t in self.tasks}
        for name in sorted(set(tested.values()), key=lambda name: name == "sum"):
            self.net.load_state_dict(self.best[name]["weights"])
            found = self.scorer.scores(self.predict, rows)
            for into, scores in zip((metrics, each), found, strict=True):
                into |= {k: v for k, v in scores.items() if tested[k.partition("_")[0]] == name}
        self.net.load_state_dict(self.best["sum"]["weights"])
        sizes, timings = self._backbone()
        epochs = {"run": len(self.history["val"])} | {name: best["epoch"] for name, best in self.best.items()}
        result = self.scorer.report(metrics, each) | {
            "sparsity": {name: count(self.convs) for name, count in COUNTS.items()},
            "channels": channels_per_layer(self.net.shared), "layers": list(channels_per_layer(self.net.shared)),
            "backbone": sizes, "history": self.history, "epochs": epochs, "precision": self.p["precision"],
            "timings": timings | {"train_seconds": self.seconds, "resumed_seconds": self.resumed},
        }  # fmt: skip
        if self.controller:
            result["target"] = self.controller.report(self._zeros(), self.lam)
        return result

    @torch.no_grad()
    def _backbone(self):
        """(sizes, timings) of the backbone: parameters and FLOPs of one image, milliseconds a batch.

        "dense" has weights without a zero, "zeros" the trained ones (Fig. 4d), "compact" no dead channels. They take
        turns, so that a load beside them meets all. What only dead channels read shrinks below 1e-38, on which a CPU
        computes slowly: such numbers are flushed to zero, but for "tiny", the trained weights as they are.
        """
        example = self.batches.images(self.data.splits["test"][: self.p["batch"]])
        nets = {"zeros": self.net.shared.eval(), "compact": compact(self.net.shared, example)}
        sizes = {}
        for name, net in nets.items():
            with FlopCounterMode(display=False) as counter:
                net(example[:1])
            parameters = sum(w.numel() for w in net.parameters())
            sizes[name] = {"parameters": parameters, "flops": counter.get_total_flops()}
        nets |= {"dense": copy.deepcopy(self.net.shared), "tiny": self.net.shared}
        draw_weights(nets["dense"])
        timers = {name: Timer("net(example)", globals={"net": net, "example": example}) for name, net in nets.items()}
        times = {f"{name}_ms": [] for name in nets}
        try:
            for _, (name, timer) in product(range(TURNS), timers.items()):
                torch.set_flush_denormal(name != "tiny")
                with self.context():
                    times[f"{name}_ms"].append(1000 * timer.timeit(1).mean)
        finally:
            torch.set_flush_denormal(False)
        return sizes, times


def resized(task, p, side):
    """Dense predictions at a side, in float32, as a GPU sums its gradient in the type of its input."""
    if task not in DENSE_TASKS or p.shape[-1] == side:
        return p
    return F.interpolate(p.float(), size=(side, side), mode="bilinear", align_corners=False)
