"""One run of the vision study: a task set, a penalty and its lambda; what the best checkpoint does on test pictures.

The whole data set lies on the device. Training stops early on the summed validation loss; test pictures are looked at
once, at the end. A run writes checkpoints to the cache folder: cut off, it goes on from there (on a CPU to the
same bits).
"""

import contextlib
import copy
import math
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from companion.data import load
from companion.data.cache import cache_dir
from companion.data.images import Images, random_split, sha256_of
from companion.engine import origin, reproducible
from companion.spec import check_values
from papers.upadhyay2023.study import RULES
from sparsemtl.errors import DataError, SparseMTLError, SpecError
from sparsemtl.models.dense import DENSE_TASKS, MultiTaskNet, backbone_convs, draw_weights
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.measure import channels_per_layer, group_sparsity, parameter_sparsity, zero_fraction
from sparsemtl.sparsity.prox import ProxAdamW
from sparsemtl.training import metrics as m
from sparsemtl.training.fit import diverged, fit
from sparsemtl.training.losses import (
    VOID,
    UncertaintyWeighting,
    binary_loss,
    depth_loss,
    normal_loss,
    segmentation_loss,
)
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

CHECKPOINT_SECONDS = 60.0  # at most so much work is lost when a run is cut off
STRIDE = 8  # pixels of a picture for each of the features, along an axis
TURNS = 5  # times that each form of the backbone is timed


def run(spec, root=None, device="cpu"):
    """Result dict of one spec: metrics, those of a constant predictor, sparsity, channels, sizes, history, timings."""
    data, training, trained, result = load_pictures(spec, root), None, False, None
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        training = Training(spec, data, device)
        training.fit()
        trained = True
        result = training.result()
    if result is None and trained:  # another batch size would be another training, and would end here too
        raise SparseMTLError(
            f"out of GPU memory while testing the trained network: its checkpoint, {training.checkpoint}, is kept; run "
            "the same command again where more of the GPU's memory is free"
        )
    if result is None:  # outside the handler, whose traceback would keep the memory
        fits = training.fitting_batch() if training else 0
        raise SparseMTLError(
            f"out of GPU memory with batch={spec.params['batch']}: "
            + (f"--set batch={fits} would fit" if fits else "not even 2 pictures fit, take a smaller size")
        )
    return result


def begun(spec):
    """Whether a training of `spec` that was cut off has left a checkpoint."""
    return checkpoint_path(spec).exists()


@contextlib.contextmanager
def without_record(spec):
    """Context of a training whose result goes into no record: its checkpoint goes, unless it was there before."""
    before = begun(spec)
    yield
    if not before:
        finished(spec)


def finished(spec):
    """The engine's word that the record of `spec` is safe: its checkpoint can go."""
    with contextlib.suppress(OSError):  # one that stays does no harm
        checkpoint_path(spec).unlink(missing_ok=True)


def checkpoint_path(spec):
    """File from which a training of `spec` that was cut off goes on."""
    return cache_dir() / "checkpoints" / f"{spec.hash}.pt"


def predictions(spec, root=None, device="cpu", count=3):
    """Train as `run` does and show the first `count` test pictures.

    Returns images uint8 (count, 3, H, W), truth and prediction {task: tensor} in the form of `Training.predict`, and
    the trained network.
    """
    with without_record(spec), reproducible(device):
        training = Training(spec, load_pictures(spec, root), device)
        training.fit()
        rows = training.data.splits["test"][:count]
        truth = {t: training.targets[t][rows].cpu() for t in training.tasks}
        found = {t: p.cpu() for t, p in training.predict(rows).items()}
    return training.data.images[rows].cpu(), truth, found, training.net


def load_pictures(spec, root=None):
    """The spec's data as `Images`, cut into the protocol's splits (notes, item 11)."""
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
        raise DataError(f"{spec.data} has {len(splits['train'])} training pictures: batch norm needs two or more")
    if splits is data.splits:
        return data
    rows = {split: rows.tolist() for split, rows in splits.items()}
    return replace(data, splits=splits, fingerprint=sha256_of([data.fingerprint, rows]))


@dataclass(eq=False)
class Training:
    """The state of one run: network, optimizer, history, best checkpoints. device: "cpu" or "cuda"."""

    spec: object
    data: Images
    device: str = "cpu"

    def __post_init__(self):
        p, device = self.spec.params, torch.device(self.device)
        self.p, self.tasks, self.data = p, tuple(p["tasks"].split("+")), self.data.to(device)
        self.cuda = device.type == "cuda"
        self.relative, self.at_input = p.get("depth") == "relative", p["resolution"] == "input"
        self.targets, self.scale = self._prepare()
        torch.manual_seed(self.spec.seed)
        self.net = MultiTaskNet(
            self.tasks,
            len(self.data.classes) + bool(p.get("spare_class")),
            **{k: p[k] for k in ("width", "layers", "stem", "head_width", "rates", "passes")},
            bounded=[*(["normal"] if p.get("normal_head") == "tanh" else []), *(["depth"] if self.relative else [])],
            upsample=self.at_input,
        ).to(device, memory_format=torch.channels_last)  # a sixth faster on a CPU, more on a GPU
        if self.cuda:
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
        self.balance = UncertaintyWeighting(
            self.tasks, p["uncertainty"] == "learned", 1.0 if p["uncertainty"] == "fixed" else 0.0
        ).to(device)
        self.precision = p.get("precision", "bfloat16" if self.cuda else "float32")
        self.context = partial(torch.autocast, device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        self.optimizer = self._optimizer()
        self.history = {"train": [], "val": [], "group_sparsity": [], "parameter_sparsity": []}
        self.best, self.stopped, self.seconds, self.resumed, self.seen = {}, [], 0.0, 0.0, []
        self.checkpoint = checkpoint_path(self.spec)

    @cached_property
    def convs(self):
        """Weights of the backbone's convolutions, which alone are penalised and counted."""
        return list(backbone_convs(self.net).values())

    def _prepare(self):
        """(targets, scale): targets at the size of the predictions; metres per unit of relative depth (n,)."""
        targets, scale = {t: self.data.targets[t] for t in self.tasks}, None
        side = self.data.size if self.at_input else -(-self.data.size // STRIDE)
        for task in set(self.tasks) & set(DENSE_TASKS):
            y = targets[task] if task != "seg" else targets[task][:, None]
            y = F.interpolate(y.float(), size=(side, side), mode="nearest-exact")
            targets[task] = y[:, 0].to(torch.uint8) if task == "seg" else y
        if "depth" in targets:
            self.metres = targets["depth"]
            scale = self.data.targets["depth"].flatten(1).amax(1).float().clamp(min=1e-3)
            if self.relative:
                targets["depth"] = torch.stack([_relative(y, s) for y, s in zip(targets["depth"], scale, strict=True)])
        return targets, scale

    def _optimizer(self):
        """Adam with the penalty on the backbone's convolutions and the protocol's decay on the backbone (item 5)."""
        p, ids = self.p, {id(w) for w in self.convs}
        other = [w for w in self.net.shared.parameters() if id(w) not in ids]
        rest = [*self.net.heads.parameters(), *self.balance.parameters()]
        coupled = p["lam"] == 0 and p["dense_decay"] is not None
        decay = p["dense_decay"] if coupled else p["weight_decay"]
        groups = [
            {"params": self.convs, "weight_decay": decay, "penalty": p["penalty"], "lam": p["lam"]},
            {"params": other, "weight_decay": decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        return (torch.optim.Adam if coupled else ProxAdamW)(groups, lr=p["lr"], fused=True)

    def fit(self):
        """Train from the start, or from the checkpoint, and put the best weights into the network."""
        self._resume()
        start = len(self.history["val"])
        net = torch.compile(self.net) if self.p["compile"] else self.net
        self.saved = self.clock = time.monotonic()
        if not self._finished():
            fit(net, self._batches, self._loss, self.optimizer, self.p["epochs"], start=start,
                after_epoch=self._after_epoch, context=self.context)  # fmt: skip
        self.net.load_state_dict(self.best["sum"]["weights"])

    def _images(self, rows):
        return (self.data.images[rows].float() / 255).contiguous(memory_format=torch.channels_last)

    def _batches(self, epoch):
        """Batches of one size; what is left over waits for another epoch."""
        train, size = self.data.splits["train"], self.p["batch"]
        order = torch.from_numpy(np.random.default_rng([self.spec.seed, epoch]).permutation(len(train)))
        for rows in train[order.to(train.device)].split(size):
            if len(rows) == min(size, len(train)):
                yield self._images(rows), {t: y[rows] for t, y in self.targets.items()}

    def _losses(self, outputs, targets):
        functions = {"seg": segmentation_loss, "normal": normal_loss, "depth": depth_loss}
        binary = partial(binary_loss, double_sigmoid=self.p.get("double_sigmoid", False))
        return {t: functions.get(t, binary)(outputs[t], targets[t]) for t in self.tasks}

    def _loss(self, outputs, targets):
        losses = self._losses(outputs, targets)
        self.seen.append({t: value.detach() for t, value in losses.items()})
        total = self.balance({t: value for t, value in losses.items() if t not in self.stopped})
        if self.p["penalty_gradient"] and self.p["lam"]:
            total = total + self.p["lam"] * sum(map(self._penalty, self.convs))
        return total

    def _penalty(self, w):
        """What released code adds to the loss for one weight: group lasso times sqrt of the groups (item 8), or l1."""
        if self.p["penalty"] == "l1":
            return w.abs().sum()
        return w.shape[1] ** 0.5 * torch.linalg.vector_norm(w, dim=(0, 2, 3)).sum()

    @torch.no_grad()
    def _forward(self, rows):
        """Yield (rows, predictions) in eval mode, batch by batch, in float32."""
        self.net.eval()
        for part in rows.split(self.p["batch"]):
            with self.context():
                outputs = self.net(self._images(part))
            yield part, {t: value.float() for t, value in outputs.items()}

    def _after_epoch(self, epoch):
        """Validate, keep the best weights, write a checkpoint; True when training ends."""
        self.history["train"].append({t: torch.stack([s[t] for s in self.seen]).mean().item() for t in self.tasks})
        self.seen.clear()
        rows = self.data.splits["val"]
        sums = dict.fromkeys(self.tasks, 0.0)
        for part, outputs in self._forward(rows):
            for t, value in self._losses(outputs, {t: y[part] for t, y in self.targets.items()}).items():
                sums[t] += value.item() * len(part) / len(rows)
        if not math.isfinite(sum(sums.values())):  # nothing would ever be better than a NaN
            raise diverged(sum(sums.values()), epoch)
        self.history["val"].append(sums)
        self.history["group_sparsity"].append(group_sparsity(self.convs))
        self.history["parameter_sparsity"].append(parameter_sparsity(self.convs))
        for name, loss in ({"sum": sum(sums.values())} | (sums if self.p["stopping"] == "per-task" else {})).items():
            if name in self.stopped:
                continue
            if name not in self.best or loss < self.best[name]["loss"]:
                weights = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
                self.best[name] = {"loss": loss, "epoch": epoch, "weights": weights}
            elif epoch - self.best[name]["epoch"] >= self.p["patience"]:
                self.stopped.append(name)
        if self.p["restarts"]:  # Adam's moments start anew (item 6)
            self.optimizer.state.clear()
        if self._finished() or time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            self._save()
        return self._finished()

    def _finished(self):
        last = len(self.history["val"]) >= self.p["epochs"]
        return last or "sum" in self.stopped or set(self.tasks) <= set(self.stopped)

    def _save(self):
        now = time.monotonic()
        self.seconds, self.clock, self.saved = self.seconds + now - self.clock, now, now
        state = {name: getattr(self, name) for name in ("history", "best", "stopped", "seconds")}
        state |= {name: getattr(self, name).state_dict() for name in ("net", "balance", "optimizer")}
        state |= {"origin": self._origin(), "rng": torch.get_rng_state()}
        if self.cuda:
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        part = self.checkpoint.with_name(f"{self.checkpoint.name}.{os.getpid()}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            part.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
            raise DataError(
                f"cannot write {self.checkpoint} ({' '.join(str(error).split())[:80]}): free space there, or set "
                "SPARSEMTL_CACHE to a folder that can be written"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _origin(self):
        """What a checkpoint must share with the run that takes it up: a record names one code and one device."""
        return {"data": self.data.fingerprint} | origin(self.device)

    def _resume(self):
        """Take up the checkpoint, if there is one of the same data, code and device; else train from the start."""
        state = self._saved()
        if state is None:
            return
        for name in ("net", "balance", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("history", "best", "stopped", "seconds"):
            setattr(self, name, state[name])
        self.resumed = self.seconds
        torch.set_rng_state(state["rng"])
        if self.cuda and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _saved(self):
        """What the checkpoint holds, or None where this run cannot go on from it."""
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"cannot read {self.checkpoint} ({error.strerror}): repair it or delete it") from error
        except MemoryError:
            raise  # no fault of the file
        except Exception:  # whatever else a damaged file makes torch raise
            self.checkpoint.replace(self.checkpoint.with_suffix(".damaged"))
            what = "damaged"
        else:
            if state.get("origin") == self._origin():
                return state
            what = "of other data, code or device"
        print(f"{self.checkpoint} is {what}: training starts anew", file=sys.stderr)
        return None

    def predict(self, rows):
        """Predictions for pictures `rows`: "seg" uint8 class, "normal" and "depth" float32, else float32 logits."""
        parts = [{t: _reduced(t, p) for t, p in outputs.items()} for _, outputs in self._forward(rows)]
        return {t: torch.cat([part[t] for part in parts]) for t in self.tasks}

    def scores(self):
        """Test metrics by name of `net` as it is, for all tasks."""
        rows = self.data.splits["test"]
        found = self.predict(rows)
        if "depth" in found:
            found["depth"] = self._both_units(found["depth"], rows)
        return self._scores(found, rows)

    def result(self):
        """Result dict; call after `fit`. Each task is tested at its own best checkpoint where tasks stop alone."""
        rows, found = self.data.splits["test"], {}
        checkpoint = {t: t if t in self.best else "sum" for t in self.tasks}
        for name in sorted(set(checkpoint.values()), key=lambda name: name == "sum"):
            self.net.load_state_dict(self.best[name]["weights"])
            found |= {t: p for t, p in self.predict(rows).items() if checkpoint[t] == name}
        self.net.load_state_dict(self.best["sum"]["weights"])
        if "depth" in found:
            found["depth"] = self._both_units(found["depth"], rows)
        sizes, timings = self._backbone()
        return {
            "metrics": self._scores(found, rows),
            "constant": self._scores(self._constant(rows), rows),
            "sparsity": {
                "group": group_sparsity(self.convs),
                "parameter": parameter_sparsity(self.convs),
                "filter": group_sparsity(self.convs, dim=0),
                "zero": zero_fraction(self.convs),
            },
            "channels": channels_per_layer(self.net.shared),
            "backbone": sizes,
            "history": self.history,
            "epochs": {"run": len(self.history["val"])} | {name: best["epoch"] for name, best in self.best.items()},
            "data": {
                "fingerprint": self.data.fingerprint,
                "classes": self.data.classes,
                "size": self.data.size,
                "pictures": {split: len(rows) for split, rows in self.data.splits.items()},
            },
            "precision": self.precision,
            "timings": timings | {"train_seconds": self.seconds, "resumed_seconds": self.resumed},
        }

    def _both_units(self, p, rows):
        """Depth (relative to each picture's largest, metres)."""
        scale = self.scale[rows].view(-1, 1, 1, 1)
        return (p, p * scale) if self.relative else (p / scale, p)

    def _scores(self, found, rows):
        """Test metrics by name, TASK_METRIC, of predictions for pictures `rows`; "depth" in both units."""
        out = {}
        for task, p in found.items():
            y = self.targets[task][rows]
            if task == "seg":
                c = m.pixel_confusion(p, y, len(self.data.classes) + 1)
                scores = {"iou": m.micro_iou(p, y).nanmean(), "miou": m.mean_iou(c), "acc": m.accuracy(c)}
            elif task == "normal":  # always at the size of the picture, as in the released code
                y = self.data.targets["normal"][rows].float()
                p = F.interpolate(p, size=y.shape[-2:], mode="bilinear", align_corners=False)
                scores = {"cs": m.cosine_similarity(p, y).nanmean(), **m.angle_statistics(m.normal_angles(p, y))}
            elif task == "depth":
                relative = y if self.relative else self._both_units(y, rows)[0]
                scores = {"mae": m.depth_mae(p[0], relative), "mae_m": m.depth_mae(p[1], self.metres[rows])}
                scores = {name: errors.nanmean() for name, errors in scores.items()}
            else:
                c = m.confusion_matrix(y.cpu(), p.sigmoid().cpu() > self.p["threshold"], 2)
                scores = {"acc": m.accuracy(c), "f1": m.macro_f1(c)}
            out |= {f"{task}_{name}": float(value) for name, value in scores.items()}
        return out

    def _constant(self, rows):
        """Predictions that look at no picture: commonest class, mean direction, median depth of the training part."""
        found, train = {}, self.data.splits["train"]
        for task in self.tasks:
            y = self.targets[task][train]
            blank = torch.zeros_like(self.targets[task][rows])
            if task == "seg":
                found[task] = blank + torch.bincount(y[y != VOID].long(), minlength=1).argmax().to(torch.uint8)
            elif task == "normal":
                found[task] = blank + y.sum((0, 2, 3)).view(1, 3, 1, 1)
            elif task == "depth":
                relative, metres = self._both_units(y, train)[0], self.metres[train]
                found[task] = tuple(blank + v[v > 0].median() for v in (relative, metres))
            else:
                found[task] = blank.float() + (10.0 if y.float().mean() > 0.5 else -10.0)
        return found

    @torch.no_grad()
    def _backbone(self):
        """(sizes, timings) of the backbone: parameters and FLOPs of one picture, milliseconds a batch.

        "dense" has weights without a zero, "zeros" runs the same kernels on the weights as they are (Fig. 4d),
        "compact" goes without the dead channels. They take turns, so that a load beside them meets all three.
        """
        example = self._images(self.data.splits["test"][: self.p["batch"]])
        nets = {"zeros": self.net.shared.eval(), "compact": compact(self.net.shared, example)}
        sizes = {}
        for name, net in nets.items():
            with FlopCounterMode(display=False) as counter:
                net(example[:1])
            parameters = sum(w.numel() for w in net.parameters())
            sizes[name] = {"parameters": parameters, "flops": counter.get_total_flops()}
        nets["dense"] = copy.deepcopy(self.net.shared)
        draw_weights(nets["dense"])
        turns = [{name: self._milliseconds(net, example) for name, net in nets.items()} for _ in range(TURNS)]
        return sizes, {f"{name}_ms": [turn[name] for turn in turns] for name in nets}

    def _milliseconds(self, net, example, repeats=3):
        def wait():
            if self.cuda:
                torch.cuda.synchronize()

        with self.context():
            net(example)
            wait()
            start = time.perf_counter()
            for _ in range(repeats):
                net(example)
            wait()
        return 1000 * (time.perf_counter() - start) / repeats

    def fitting_batch(self):
        """Largest of half, a quarter, ... of the batch size with which a training step fits in memory; 0 if none."""
        size = self.p["batch"] // 2
        while size >= 2:
            rows = self.data.splits["train"][:size]
            self.optimizer.zero_grad(set_to_none=True)
            if self.cuda:
                torch.cuda.empty_cache()
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                self.net.train()
                with self.context():
                    loss = self._loss(self.net(self._images(rows)), {t: y[rows] for t, y in self.targets.items()})
                loss.backward()
                self.optimizer.step()
                return size
            size //= 2
        return 0


def _reduced(task, p):
    return p.argmax(1).to(torch.uint8) if task == "seg" else p


def _relative(y, scale):
    """Depth (1, h, w) over `scale`, clipped to 0.1 and its 99th percentile where it is known (item 4)."""
    known = y > 0
    if not known.any():
        return y
    y = y / scale
    return torch.where(known, y.clamp(min=0.1).minimum(torch.quantile(y[known], 0.99)), 0.0)
