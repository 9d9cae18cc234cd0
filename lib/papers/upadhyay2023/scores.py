"""Scores of predictions for test images, and the blind control: predictors that give every image the same answer."""

import numpy as np
import torch
from papers.upadhyay2023.study import SCORES, packed
from sparsemtl.models.dense import DENSE_TASKS
from sparsemtl.training import metrics as m
from torch.nn import functional as F
from torch.utils._pytree import tree_map

STRIDE = 8  # pixels of an image for each of the features, along an axis
AT_ONCE = 64  # images that are scored together
RESAMPLES = 1000  # of the test images, for a standard error


class Scorer:
    """Targets of a data set at the resolution of losses and metrics, and the scores of predictions for them.

    params: those of a run; "resolution": "input", or "features" for an eighth of it; "depth": "metres", or "relative"
    to each image's largest, clipped as in the released code; "threshold" of the binary tasks. targets: as those of
    the data, at `side` x `side`; depth in the unit of the run.
    """

    def __init__(self, data, params, tasks):
        self.data, self.p, self.tasks = data, params, tuple(tasks)
        self.relative = params.get("depth") == "relative"
        self.side = data.size if params["resolution"] == "input" else -(-data.size // STRIDE)
        if "depth" in self.tasks:
            self.scale = data.targets["depth"].flatten(1).amax(1).float().clamp(min=1e-3)
            self.metres = self.in_unit("depth", self.side, relative=False)
        self.targets = {t: self.in_unit(t, self.side) if t in DENSE_TASKS else data.targets[t] for t in self.tasks}

    def in_unit(self, task, side, relative=None):
        """Targets of a dense task at a size, by nearest pixel: no value is invented.

        relative: whether depth is over each image's largest, and clipped, or in metres; None for the unit of the run.
        """
        y = self.data.targets[task]
        y = y[:, None] if task == "seg" else y
        if side != self.data.size:
            y = F.interpolate(y.float(), size=(side, side), mode="nearest-exact")
        if task == "depth" and (self.relative if relative is None else relative):
            y = torch.stack([clipped(one.float(), scale) for one, scale in zip(y, self.scale, strict=True)])
        return y[:, 0].to(torch.uint8) if task == "seg" else y

    def scores(self, predict, rows):
        """Scores of predictions for images `rows`.

        predict: rows -> {task: "seg" uint8 class (n, h, w), "normal" (n, 3, h, w), "depth" (relative, metres), each
        (n, 1, h, w), else logits (n,)}. Returns metrics by name, TASK_METRIC, and those of `SCORES` for each image.
        """
        parts = [self._score(predict(some), some) for some in rows.split(AT_ONCE)]
        each = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
        metrics = {name: float(np.nanmean(values)) for name, values in each.items()}
        for task in parts[0][1]:
            pooled = [part[1][task] for part in parts]
            if task == "normal":
                statistics = m.angle_statistics(torch.cat(pooled))
            elif task == "seg":
                statistics = {"miou": m.mean_iou(sum(pooled)), "acc": m.accuracy(sum(pooled))}
            else:
                statistics = {"f1": m.macro_f1(sum(pooled))}
            metrics |= {f"{task}_{name}": value for name, value in statistics.items()}
        return metrics, {name: each[name] for name in (SCORES[t][0] for t in self.tasks)}

    def _score(self, found, rows):
        """(scores of each image by name, what has to be pooled over images by task)."""
        each, pooled = {}, {}
        for task, p in found.items():
            y = self.targets[task][rows]
            if task == "seg":
                each["seg_iou"] = m.micro_iou(p, y)
                pooled[task] = m.pixel_confusion(p, y, len(self.data.classes) + 1)
            elif task == "normal":  # always at the size of the image, as in the released code
                y = self.data.targets["normal"][rows].float()
                p = F.interpolate(p, size=y.shape[-2:], mode="bilinear", align_corners=False)
                each["normal_cs"], pooled[task] = m.cosine_similarity(p, y), m.normal_angles(p, y).float()
            elif task == "depth":
                each["depth_mae"] = m.depth_mae(p[0], y if self.relative else self.both_units(y, rows)[0])
                each["depth_mae_m"] = m.depth_mae(p[1], self.metres[rows].float())
            else:
                yes = p.sigmoid() > self.p["threshold"]
                each[f"{task}_acc"] = (yes == (y > 0)).double()
                pooled[task] = m.confusion_matrix(y.cpu(), yes.cpu(), 2)
        return {name: value.cpu().numpy() for name, value in each.items()}, pooled

    def both_units(self, p, rows):
        """Depth (relative to each image's largest, metres) of depth in the unit of the run."""
        scale = self.scale[rows].view(-1, 1, 1, 1)
        return (p, p * scale) if self.relative else (p / scale, p)

    def fit_blind(self, by_position):
        """The answer for every image, fitted on the training images: {task: tensor or pair of them, without images}.

        Class mode, mean direction and median depth (in both units) of each position, or of all positions together;
        the commoner answer of a binary task.
        """
        found, train = {}, self.data.splits["train"]
        for task in self.tasks:
            y = self.targets[task][train]
            if task == "seg":
                counts = torch.stack([(y == c).sum(0) for c in range(len(self.data.classes))])
                counts = counts if by_position else counts.sum((1, 2), keepdim=True).expand_as(counts)
                found[task] = counts.argmax(0).to(torch.uint8)
            elif task == "normal":
                mean = y.sum(0, dtype=torch.float32)
                found[task] = mean if by_position else mean.sum((1, 2), keepdim=True).expand_as(mean)
            elif task == "depth":
                units = self.both_units(y.float(), train)[0], self.metres[train]
                found[task] = tuple(_median(values, by_position) for values in units)
            else:
                found[task] = torch.tensor(10.0 if y.float().mean() > 0.5 else -10.0, device=y.device)
        return found

    def blind(self, by_position=True):
        """`scores` of the blind predictor on the test images: of the one for each position, or for all of them."""
        fitted = self.fit_blind(by_position)

        def repeated(rows):
            return tree_map(lambda answer: answer.expand(len(rows), *answer.shape), fitted)

        return self.scores(repeated, self.data.splits["test"])

    def report(self, metrics, each):
        """The part of a record on its data, and on how a network scored beside the blind control (dict).

        blind: the predictor of one value for each position; constant: of one for all; gain: for each of `SCORES` how
        much better the network is than the former, with its bootstrap standard error; images: see `study.packed`.
        """
        blind, blind_each = self.blind()
        signs = {name: sign for name, _, sign in SCORES.values()}
        better = {name: signs[name] * (values - blind_each[name]) for name, values in each.items()}
        counts = {split: len(rows) for split, rows in self.data.splits.items()}
        about = {name: getattr(self.data, name) for name in ("fingerprint", "classes", "size")}
        return {
            "data": about | {"images": counts},
            "metrics": metrics, "blind": blind, "constant": self.blind(by_position=False)[0],
            "gain": {name: [float(np.nanmean(values)), bootstrap_error(values)] for name, values in better.items()},
            "images": {name: packed(values) for name, values in each.items()},
        }  # fmt: skip


def bootstrap_error(values):
    """Standard error of the mean of a score over images, by resampling the images; NaN values do not count."""
    values = values[np.isfinite(values)]
    counts = np.random.default_rng(0).multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
    return float((counts @ values / len(values)).std(ddof=1))


def _median(y, by_position):
    """Median over the images of depth (n, 1, h, w) where it is known: (1, h, w)."""
    y = y.float()
    middle = y[y > 0].median()
    if not by_position:
        return middle.expand(y.shape[1:])
    parts = [torch.where(part > 0, part, torch.nan).nanmedian(0).values for part in y.split(AT_ONCE, 2)]
    return torch.cat(parts, 1).nan_to_num(float(middle))


def clipped(y, scale):
    """Depth (1, h, w) over `scale`, clipped to 0.1 and its 99th percentile where it is known (notes, item 4)."""
    known = y > 0
    if not known.any():
        return y
    y = y / scale
    return torch.where(known, y.clamp(min=0.1).minimum(torch.quantile(y[known], 0.99)), 0.0)
