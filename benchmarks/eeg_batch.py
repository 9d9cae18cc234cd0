"""The masked networks of one table of the EEG study: trained one after another, and in stacks (`fit_stack`).

At the sizes of the profiles `small` and `full`, a few steps of all methods and sparsities of one fold. A CPU uses one
thread, like the runs, and stacks of five networks, the folds of a run; a GPU stacks all.
"""

from functools import partial

import torch
from companion import engine
from companion.data.eeg import MOTOR21
from harness import Mark, arguments, report, seconds, take_turns, where_time_goes
from papers.shin2023 import run as motor
from papers.shin2023 import study as shin2023
from sparsemtl.models.eeg import TASKS, DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, topk_mask
from sparsemtl.sparsity.saliency import random_scores
from sparsemtl.training.fit import fit, fit_stack

CHANNELS = {"motor21": len(MOTOR21), "all": 64}
ONE_BY_ONE, TOGETHER = "one after another, {}", "in one batch, {}"


def main():
    """Measure and write `eeg_batch-*.json`."""
    args = arguments(__doc__.splitlines()[0], threads=1)
    on_cpu = args.device == "cpu"
    steps = 2 if on_cpu else 30  # of an epoch: on a GPU so many that to stack, once for all steps, counts as in a run
    specs = [s for s in shin2023.specs("small", seeds=(0,), subjects=(1,), problem="left-right")
             if s.method not in (*motor.SINGLE, motor.CLASSICAL)]  # fmt: skip
    size = 5 if on_cpu else len(specs)
    sides, marks = {}, []
    for profile in ("small", "full"):
        case = Case(
            shin2023.PROFILE_SETTINGS[profile]["params"], [s.params["sparsity"] for s in specs], steps, args.device
        )
        one, many = ONE_BY_ONE.format(profile), TOGETHER.format(profile)
        sides |= {one: case.one_after_another, many: partial(case.stacked, size)}
        marks.append(Mark(f"gain of one batch, {profile}", one, many, "at least", 1.0 if on_cpu else 20.0))
        if on_cpu:
            sides[f"stacks of 1, {profile}"] = partial(case.stacked, 1)
    with engine.reproducible(args.device):
        found = seconds(take_turns(sides, args))
        # of a mark that is missed the page tells where the batch's time goes
        profiles = {mark.against: where_time_goes(sides[mark.against], args.device) for mark in marks}
    details = {"networks": len(specs), "stack": size, "steps": steps, "profile": profiles}
    report("eeg_batch", found, marks, args, details)


def shape_of(params):
    """(electrodes, samples) of a trial under a profile's parameters."""
    return CHANNELS[params["channels"]], round((params["tmax"] - params["tmin"]) * params["sfreq"])


class Case:
    """Networks of a profile's size with random masks of the given sparsities, and one batch of noise, on a device."""

    def __init__(self, params, sparsities, steps, device):
        shape, generator = shape_of(params), torch.Generator().manual_seed(0)
        inputs = {t: torch.randn(params["batch"], *shape, generator=generator).to(device) for t in TASKS}
        targets = {t: (torch.arange(params["batch"]) % 2).to(device) for t in TASKS}
        self.batches, self.adam = [(inputs, targets)] * steps, partial(torch.optim.Adam, lr=params["lr"])
        trunk = shin2023.trunk_options(params["backbone"], params["sfreq"])
        self.networks = []
        for k, sparsity in enumerate(sparsities):
            net = DualTaskNet(*shape, 2, generator=torch.Generator().manual_seed(0), **trunk)
            apply_masks(net, topk_mask(random_scores(net, k), sparsity))
            self.networks.append(net.to(device))

    def one_after_another(self):
        """Each network by the loop that the stack uses too."""
        for net in self.networks:
            fit(net, lambda epoch: self.batches, motor.multitask_loss, self.adam(net.parameters()), 1)

    def stacked(self, size):
        """All in stacks of some size, the last of what is left."""
        for i in range(0, len(self.networks), size):
            nets = self.networks[i : i + size]
            steps = [[batch] * len(nets) for batch in self.batches]
            fit_stack(nets, lambda epoch, steps=steps: steps, motor.multitask_loss, self.adam, 1)


if __name__ == "__main__":
    main()
