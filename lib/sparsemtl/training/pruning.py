"""Every pruning method of the EEG study as one procedure: fresh networks in, trained sparse networks out.

All methods start from the same initial weights and see the same batches. The lottery ticket and iterative pruning pay
for their masks with extra epochs.

A procedure is a function (networks, jobs, train) -> loss of each network by epoch. `train(networks, epochs,
after_step=None)` trains the networks in place, as `fit_stack` does. Networks and jobs pair up: the folds of one run,
say.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsemtl.sparsity.masks import Masks, apply_masks, arbiter, budget_masks, topk_mask
from sparsemtl.sparsity.saliency import gradients, grasp, magnitude, prunable, random_scores, snip, synflow

Histories = list[list[float]]
Train = Callable[..., Histories]  # (networks, epochs, after_step=None), as `fit_stack` trains
Procedure = Callable[[Sequence[nn.Module], Sequence["Job"], Train], Histories]


@dataclass(frozen=True)
class Job:
    """What a procedure needs besides a network.

    Parameters
    ----------
    inputs, targets : dict of Tensor
        All training trials by task.
    loss_fn : callable
        (outputs, targets) -> scalar tensor, the sum of the tasks' losses.
    epochs, steps : int
        Epochs of the weights that are reported, and optimizer steps in that many epochs.
    sparsity, seed : float, int
        Share of weights to prune, in [0, 1); seed of random scores.
    """

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    loss_fn: Callable[[Any, Any], Tensor]
    epochs: int
    steps: int
    sparsity: float
    seed: int


def _prune(nets: Sequence[nn.Module], masks: Sequence[Masks]) -> None:
    for net, mask in zip(nets, masks, strict=True):
        apply_masks(net, mask)


def dense(nets: Sequence[nn.Module], jobs: Sequence[Job], train: Train) -> Histories:
    """No pruning."""
    return train(nets, jobs[0].epochs)


def _at_initialisation(masks: Callable[[nn.Module, Job], Masks]) -> Procedure:
    """Procedure that prunes each untrained network once, by masks(net, job), and trains what is left."""

    def procedure(nets: Sequence[nn.Module], jobs: Sequence[Job], train: Train) -> Histories:
        _prune(nets, [masks(net, job) for net, job in zip(nets, jobs, strict=True)])
        return train(nets, jobs[0].epochs)

    return procedure


def _best(score: Callable[[nn.Module, Job], dict[str, Tensor]]) -> Procedure:
    """`_at_initialisation` by the scores that score(net, job) gives, all ranked together."""
    return _at_initialisation(lambda net, job: topk_mask(score(net, job), job.sparsity))


def task_scores(net: nn.Module, job: Job, task: str) -> dict[str, Tensor]:
    """SNIP scores of one task over its own pool: the shared weights and the task's head."""
    scores = snip(net, job.loss_fn, {task: job.inputs[task]}, {task: job.targets[task]})
    return {name: s for name, s in scores.items() if name.startswith(("shared.", f"{task}."))}


def votes(net: nn.Module, job: Job) -> dict[str, Masks]:
    """Each task's mask over its own pool, at the target sparsity: dict task -> masks."""
    return {task: topk_mask(task_scores(net, job, task), job.sparsity) for task in job.inputs}


def or_masks(net: nn.Module, job: Job) -> Masks:
    """The method of Shin et al. 2023: one mask for each head, the shared part kept where either task votes for it."""
    return arbiter(votes(net, job), rule="or")


def tightened_votes(net: nn.Module, job: Job) -> Masks:
    """Masks by OR of votes that are tightened until the joined mask meets the sparsity exactly (ours)."""
    return budget_masks({task: task_scores(net, job, task) for task in job.inputs}, job.sparsity)


def partial_sparsity(sparsity: float, k: int, rounds: int) -> float:
    """Sparsity after round `k` of `rounds` when each keeps the same share; exactly `sparsity` after the last."""
    return sparsity if k == rounds else 1 - (1 - sparsity) ** (k / rounds)


def synflow_masks(net: nn.Module, job: Job, rounds: int = 100) -> Masks:
    """SynFlow prunes in many small rounds (Tanaka et al. 2020, Algorithm 1), which avoids the collapse of a layer."""
    trial, masks = copy.deepcopy(net), {}
    shapes = {task: x[:1] for task, x in job.inputs.items()}  # the flow of one trial ranks like that of all
    for k in range(1, rounds + 1):
        masks = topk_mask(synflow(trial, shapes), partial_sparsity(job.sparsity, k, rounds))
        apply_masks(trial, masks)
    return masks


def lottery_ticket(nets: Sequence[nn.Module], jobs: Sequence[Job], train: Train) -> Histories:
    """Train, prune the smallest weights once, rewind to the initial weights, train again (Frankle and Carbin 2019)."""
    trained = [copy.deepcopy(net) for net in nets]
    train(trained, jobs[0].epochs)
    _prune(nets, [topk_mask(magnitude(net), jobs[0].sparsity) for net in trained])
    return train(nets, jobs[0].epochs)


def iterative_magnitude(nets: Sequence[nn.Module], jobs: Sequence[Job], train: Train, rounds: int = 5) -> Histories:
    """Train, then `rounds` times prune an equal ratio and fine-tune, which takes as long again (Han et al. 2015)."""
    job = jobs[0]
    histories = train(nets, job.epochs)
    for k in range(1, rounds + 1):
        _prune(nets, [topk_mask(magnitude(net), partial_sparsity(job.sparsity, k, rounds)) for net in nets])
        tuned = train(nets, math.ceil(job.epochs / rounds))
        histories = [before + after for before, after in zip(histories, tuned, strict=True)]
    return histories


def rigl(
    nets: Sequence[nn.Module], jobs: Sequence[Job], train: Train,
    drop: float = 0.3, every: int = 10, until: float = 0.75,
) -> Histories:  # fmt: skip
    """Dynamic sparse training (Evci et al. 2020): drop small weights, grow where the dense gradient is large.

    Starts from a random mask; in each update a share of each layer's kept weights moves to the pruned places of largest
    gradient. New weights start at zero.

    Parameters
    ----------
    drop, until : float
        The share at first; it falls to 0 by a cosine, until this share of all steps.
    every : int
        Optimizer steps between two updates.
    """
    masks = [topk_mask(random_scores(net, job.seed), job.sparsity) for net, job in zip(nets, jobs, strict=True)]
    _prune(nets, masks)

    def after_step(step, batches):
        if (step + 1) % every or step + 1 > until * jobs[0].steps:
            return
        share = drop / 2 * (1 + math.cos(math.pi * (step + 1) / (until * jobs[0].steps)))
        for net, job, mask, batch in zip(nets, jobs, masks, batches, strict=True):
            dense = gradients(net, job.loss_fn, *batch)
            for name, weight in prunable(net).items():
                mask[name] = _moved(mask[name], weight.detach(), dense[name], share)
            apply_masks(net, mask)

    return train(nets, jobs[0].epochs, after_step)


def _moved(mask: Tensor, weight: Tensor, gradient: Tensor, share: float) -> Tensor:
    """The layer's mask with `share` of its kept entries moved; as many are kept as before."""
    n = min(int(share * mask.sum()), int((~mask).sum()))
    if n == 0:
        return mask
    small = weight.abs().masked_fill(~mask, math.inf).flatten().topk(n, largest=False).indices
    large = gradient.abs().masked_fill(mask, -1).flatten().topk(n).indices
    moved = mask.flatten().clone()
    moved[small], moved[large] = False, True
    return moved.view_as(mask)


# On the joint network, or for "snip-single" and "dense-single" on one network for each task.
PROCEDURES: dict[str, Procedure] = {
    "dense-single": dense,
    "dense-multi": dense,
    "random": _best(lambda net, job: random_scores(net, job.seed)),
    "magnitude": _best(lambda net, job: magnitude(net)),
    "snip-single": _best(lambda net, job: snip(net, job.loss_fn, job.inputs, job.targets)),
    "snip-joint": _best(lambda net, job: snip(net, job.loss_fn, job.inputs, job.targets)),
    "grasp": _best(lambda net, job: grasp(net, job.loss_fn, job.inputs, job.targets)),
    "synflow": _at_initialisation(synflow_masks),
    "lottery": lottery_ticket,
    "rigl": rigl,
    "imp": iterative_magnitude,
    "or": _at_initialisation(or_masks),
    "budget": _at_initialisation(tightened_votes),
}
