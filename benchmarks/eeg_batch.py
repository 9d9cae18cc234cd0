"""The masked networks of one table of the EEG study: trained one after another, and in stacks (`fit_stack`).

At the sizes of the profiles `small` and `full`, a few steps of all methods and sparsities of one fold. A CPU uses one
thread, like the runs, and stacks of five networks, the folds of a run; a GPU stacks all.
"""

from functools import partial

import torch
from companion import engine
from harness import Mark, arguments, report, seconds, take_turns, where_time_goes
from papers.shin2023.run import multitask_loss
from papers.shin2023.study import METHODS, sparsities_of
from sparsemtl.models.eeg import TASKS, DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, topk_mask
from sparsemtl.sparsity.saliency import random_scores
from sparsemtl.training.fit import fit, fit_stack

SHAPES = {"small": (21, 240), "full": (64, 480)}  # electrodes and samples of a trial
KERNELS, BATCH = {"small": 20, "full": 40}, 16
ONE_BY_ONE, TOGETHER = "one after another, {}", "in one batch, {}"


def main():
    """Measure and write `eeg_batch-*.json`."""
    args = arguments(__doc__.splitlines()[0], threads=1)
    on_cpu = args.device == "cpu"
    steps = 2 if on_cpu else 30  # of an epoch: on a GPU so many that to stack, once for all steps, counts as in a run
    sparsities = [s for name, method in METHODS.items() if method.sparse for s in sparsities_of(name)]
    size = 5 if on_cpu else len(sparsities)
    sides, marks = {}, []
    for profile in ("small", "full"):
        case = Case(profile, sparsities, steps, args.device)
        one, many = ONE_BY_ONE.format(profile), TOGETHER.format(profile)
        sides |= {one: case.one_after_another, many: partial(case.stacked, size)}
        marks.append(Mark(f"gain of one batch, {profile}", one, many, "at least", 1.0 if on_cpu else 20.0))
        if on_cpu:
            sides[f"stacks of 1, {profile}"] = partial(case.stacked, 1)
    with engine.reproducible(args.device):
        found = seconds(take_turns(sides, args))
        # of a mark that is missed the page tells where the batch's time goes
        profiles = {mark.against: where_time_goes(sides[mark.against], args.device) for mark in marks}
    details = {"networks": len(sparsities), "stack": size, "steps": steps, "profile": profiles}
    report("eeg_batch", found, marks, args, details)


class Case:
    """EEGNets of a size with random masks of the given sparsities, and one batch of noise, on a device."""

    def __init__(self, size, sparsities, steps, device):
        shape, generator = SHAPES[size], torch.Generator().manual_seed(0)
        inputs = {t: torch.randn(BATCH, *shape, generator=generator).to(device) for t in TASKS}
        targets = {t: (torch.arange(BATCH) % 2).to(device) for t in TASKS}
        self.batches, self.adam = [(inputs, targets)] * steps, partial(torch.optim.Adam, lr=0.002)
        self.networks = []
        for k, sparsity in enumerate(sparsities):
            net = DualTaskNet(*shape, 2, generator=torch.Generator().manual_seed(0), kernel=KERNELS[size])
            apply_masks(net, topk_mask(random_scores(net, k), sparsity))
            self.networks.append(net.to(device))

    def one_after_another(self):
        """Each network by the loop that the stack uses too."""
        for net in self.networks:
            fit(net, lambda epoch: self.batches, multitask_loss, self.adam(net.parameters()), 1)

    def stacked(self, size):
        """All in stacks of some size, the last of what is left."""
        for i in range(0, len(self.networks), size):
            nets = self.networks[i : i + size]
            steps = [[batch] * len(nets) for batch in self.batches]
            fit_stack(nets, lambda epoch, steps=steps: steps, multitask_loss, self.adam, 1)


if __name__ == "__main__":
    main()
