"""Training batches of the vision study, and the start of a network at the mean of its targets."""

from functools import cached_property

import numpy as np
import torch
from sparsemtl.models.dense import DENSE_TASKS
from sparsemtl.training.losses import VOID
from torch import nn
from torch.nn import functional as F


class Batches:
    """Batches of the training images of a scorer's data, on its device; what they hold is decided by seed and epoch.

    params: "batch"; "crop", "flip": each image is a random part of at least this share of its side, mirrored or not;
    "standardise": images have mean 0 and standard deviation 1 over the training images, else they are in [0, 1];
    "loss_size": side of the targets, None for that of the metric.
    """

    def __init__(self, scorer, params, seed):
        self.scorer, self.p, self.seed, self.data = scorer, params, seed, scorer.data
        self.train = self.data.splits["train"]
        self.side = (params["loss_size"] if params["resolution"] == "input" else None) or scorer.side
        self.augments = params["crop"] < 1 or params["flip"]
        self.size = min(params["batch"], len(self.train))
        self.steps = len(self.train) // self.size  # images that are left over wait for another epoch

    @cached_property
    def moments(self):
        """Mean and standard deviation of each channel over the training images, (1, 3, 1, 1)."""
        pixels = self.data.images[self.train].float().movedim(1, 0).flatten(1)
        return tuple(v.view(1, 3, 1, 1) for v in (pixels.mean(1), pixels.std(1)))

    @cached_property
    def sources(self):
        """Targets of all images: as large as the images if they are augmented, else at the size of the loss."""
        side = self.data.size if self.augments else self.side
        return {t: self.scorer.in_unit(t, side) if t in DENSE_TASKS else y for t, y in self.scorer.targets.items()}

    def images(self, rows):
        """Images `rows` as the network takes them."""
        return self._scaled(self.data.images[rows].float())

    def _scaled(self, images):
        mean, spread = self.moments if self.p["standardise"] else (0.0, 255.0)
        return ((images - mean) / spread).contiguous(memory_format=torch.channels_last)

    def epoch(self, number):
        """Yield (images, targets) of each step."""
        rng = np.random.default_rng([self.seed, number])
        order = torch.from_numpy(rng.permutation(len(self.train))).to(self.train.device)
        for rows in self.train[order].split(self.size)[: self.steps]:
            if self.augments:
                yield self._augmented(rows, rng)
            else:
                yield self.images(rows), {t: y[rows] for t, y in self.sources.items()}

    def _augmented(self, rows, rng):
        """Random parts of the images, mirrored or not, and their targets; a crop changes neither depth nor normals."""
        n, p = len(rows), self.p
        share = rng.uniform(p["crop"], 1, n)
        mirror = rng.choice([-1.0, 1.0], n) if p["flip"] else np.ones(n)
        centre = rng.uniform(-1, 1, (2, n)) * (1 - share)
        share, mirror, x, y = (
            torch.tensor(v, dtype=torch.float32, device=rows.device).view(n, 1) for v in (share, mirror, *centre)
        )

        def part(values, side, mode):
            axis = ((torch.arange(side, device=rows.device) + 0.5) * 2 / side - 1).view(1, side)
            across, down = x + share * mirror * axis, y + share * axis
            grid = torch.stack([across[:, None].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)], -1)
            return F.grid_sample(values[rows].float(), grid, mode, "border", align_corners=False)

        targets = {}
        for task, values in self.sources.items():
            if task == "seg":
                targets[task] = part(values[:, None], self.side, "nearest")[:, 0].to(torch.uint8)
            elif task in DENSE_TASKS:
                targets[task] = part(values, self.side, "nearest")
            else:
                targets[task] = values[rows]
        if "normal" in targets:  # the x axis of a mirrored scene points the other way
            targets["normal"][:, 0] *= mirror[:, None]
        return self._scaled(part(self.data.images, self.data.size, "bilinear")), targets


@torch.no_grad()
def start_at_mean(net, scorer):
    """Set the bias at the end of each dense head so that the network starts at the mean of the training targets.

    Log frequency of the classes, mean direction, mean depth; through tanh or sigmoid where the head ends in one.
    """
    train, tiny = scorer.data.splits["train"], 1e-2
    for task in [t for t in net.tasks if t in DENSE_TASKS]:
        y, layers = scorer.targets[task][train], list(net.heads[task])
        last = next(layer for layer in reversed(layers) if isinstance(layer, nn.Conv2d))
        if task == "seg":
            mean = (torch.bincount(y[y != VOID].long(), minlength=last.out_channels).float() + 1).log()
            mean = mean - mean.logsumexp(0)
        elif task == "normal":
            mean = F.normalize(y.sum((0, 2, 3), dtype=torch.float32), dim=0)
        else:
            mean = y[y > 0].float().mean()
        if isinstance(layers[-1], nn.Tanh):
            mean = mean.clamp(tiny - 1, 1 - tiny).atanh()
        elif isinstance(layers[-1], nn.Sigmoid):
            mean = mean.clamp(tiny, 1 - tiny).logit()
        last.bias.copy_(mean)
