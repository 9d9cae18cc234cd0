"""Every pruning method of the EEG study as one procedure: a fresh network in, a trained sparse network out.

All networks of both tasks start from the same initial weights and see the same batches; every network takes the same
number of epochs for the weights that are reported. The lottery ticket and iterative pruning pay for their masks with
extra epochs.

A procedure is a generator: it yields each `Training` that it wants, is sent the loss of each epoch, and returns the
history. So `side_by_side` can train the networks of many procedures together.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sparsemtl.errors import SparseMTLError
from sparsemtl.sparsity.masks import apply_masks, arbiter, budget_masks, topk_mask
from sparsemtl.sparsity.saliency import gradients, grasp, magnitude, prunable, random_scores, snip, synflow


@dataclass(frozen=True)
class Job:
    """What a procedure needs besides the network.

    inputs, targets: all training trials, dict task -> tensor. loss_fn: sum of the tasks' losses. epochs: number
    reported. steps: optimizer steps in that many epochs. sparsity: target in [0, 1). seed: for random scores.
    """

    inputs: dict
    targets: dict
    loss_fn: Callable
    epochs: int
    steps: int
    sparsity: float
    seed: int

    def only(self, task):
        """Inputs and targets of one task."""
        return {task: self.inputs[task]}, {task: self.targets[task]}


@dataclass(frozen=True)
class Training:
    """What a procedure waits for: `net` trained in place for `epochs`; after_step as `fit` calls it."""

    net: nn.Module
    epochs: int
    after_step: Callable | None = None


def dense(net, job):
    """No pruning."""
    return (yield Training(net, job.epochs))


def _at_initialisation(masks):
    """Procedure that prunes the untrained network once, by masks(net, job), and trains what is left."""

    def procedure(net, job):
        apply_masks(net, masks(net, job))
        return (yield Training(net, job.epochs))

    return procedure


def _best(score):
    """`_at_initialisation` by the scores that score(net, job) gives, all ranked together."""
    return _at_initialisation(lambda net, job: topk_mask(score(net, job), job.sparsity))


def task_scores(net, job, task):
    """SNIP scores of one task over its own pool: the shared weights and the task's head."""
    scores = snip(net, job.loss_fn, *job.only(task))
    return {name: s for name, s in scores.items() if name.startswith(("shared.", f"{task}."))}


def votes(net, job):
    """Each task's mask over its own pool, at the target sparsity: dict task -> masks."""
    return {task: topk_mask(task_scores(net, job, task), job.sparsity) for task in job.inputs}


def arbiter_or(net, job):
    """The method of Shin et al. 2023: one mask for each head, the shared part kept where either task votes for it."""
    apply_masks(net, arbiter(votes(net, job), rule="or"))
    return (yield Training(net, job.epochs))


def tightened_votes(net, job):
    """Masks by OR of votes that are tightened until the joined mask meets the sparsity exactly (ours)."""
    return budget_masks({task: task_scores(net, job, task) for task in job.inputs}, job.sparsity)


def partial_sparsity(sparsity, k, rounds):
    """Sparsity after round `k` of `rounds` when each keeps the same share; exactly `sparsity` after the last."""
    return sparsity if k == rounds else 1 - (1 - sparsity) ** (k / rounds)


def synflow_masks(net, job, rounds=100):
    """SynFlow prunes in many small rounds (Tanaka et al. 2020, Algorithm 1), which avoids the collapse of a layer."""
    trial, masks = copy.deepcopy(net), None
    shapes = {task: x[:1] for task, x in job.inputs.items()}  # the flow of one trial ranks like that of all
    for k in range(1, rounds + 1):
        scores = synflow(trial, shapes)
        masks = topk_mask(scores, partial_sparsity(job.sparsity, k, rounds))
        apply_masks(trial, masks)
    return masks


def lottery_ticket(net, job):
    """Train, prune the smallest weights once, rewind to the initial weights, train again (Frankle and Carbin 2019)."""
    trained = copy.deepcopy(net)
    yield Training(trained, job.epochs)
    apply_masks(net, topk_mask(magnitude(trained), job.sparsity))
    return (yield Training(net, job.epochs))


def iterative_magnitude(net, job, rounds=5):
    """Train, then prune in equal ratios and fine-tune in turn (Han et al. 2015), as long again as the training."""
    history = yield Training(net, job.epochs)
    for k in range(1, rounds + 1):
        apply_masks(net, topk_mask(magnitude(net), partial_sparsity(job.sparsity, k, rounds)))
        history += yield Training(net, math.ceil(job.epochs / rounds))
    return history


def rigl(net, job, drop=0.3, every=10, until=0.75):
    """Dynamic sparse training (Evci et al. 2020): drop small weights, grow where the dense gradient is large.

    Starts from a random mask; in each update a share of each layer's kept weights, falling from `drop` to 0 by a
    cosine until `until` of all steps, moves to the pruned places of largest gradient. New weights start at zero.
    """
    masks = topk_mask(random_scores(net, job.seed), job.sparsity)
    apply_masks(net, masks)

    def after_step(step, inputs, targets):
        if (step + 1) % every or step + 1 > until * job.steps:
            return
        share = drop / 2 * (1 + math.cos(math.pi * (step + 1) / (until * job.steps)))
        dense = gradients(net, job.loss_fn, inputs, targets)
        for name, weight in prunable(net).items():
            masks[name] = _moved(masks[name], weight.detach(), dense[name], share)
        apply_masks(net, masks)

    return (yield Training(net, job.epochs, after_step))


def _moved(mask, weight, gradient, share):
    """The layer's mask with `share` of its kept entries moved; as many are kept as before."""
    n = min(int(share * mask.sum()), int((~mask).sum()))
    if n == 0:
        return mask
    small = weight.abs().masked_fill(~mask, math.inf).flatten().topk(n, largest=False).indices
    large = gradient.abs().masked_fill(mask, -1).flatten().topk(n).indices
    moved = mask.flatten().clone()
    moved[small] = False
    moved[large] = True
    return moved.view_as(mask)


# Procedures on the joint network; "snip-single" and "dense-single" use theirs on one network for each task.
PROCEDURES = {
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
    "or": arbiter_or,
    "budget": _at_initialisation(tightened_votes),
}


def side_by_side(procedures, train, generator, most=None):
    """What each procedure returns, in their order; in place of it the `SparseMTLError` of one that failed.

    procedures: list of generators that yield `Training`, all of networks of one architecture. train: list of
    `Training` -> for each its loss by epoch, or its error. most: networks trained together, None for all.
    generator: the torch.Generator that training draws from; every procedure draws from its present state on, as if
    it were the only one, so only those that have come equally far train together.
    """
    results, waiting = [None for _ in procedures], {}

    def go_on(k, history, state):
        try:
            waiting[k] = procedures[k].send(history), state
        except StopIteration as end:
            results[k] = end.value
        except SparseMTLError as error:
            results[k] = error

    start = generator.get_state()
    for k in range(len(procedures)):
        go_on(k, None, start)
    while waiting:
        first, state = next(iter(waiting.values()))
        alike = [k for k, (t, s) in waiting.items() if t.epochs == first.epochs and torch.equal(s, state)][:most]
        generator.set_state(state)
        histories = train([waiting.pop(k)[0] for k in alike])
        reached = generator.get_state()
        for k, history in zip(alike, histories, strict=True):
            if isinstance(history, SparseMTLError):
                results[k] = history
            else:
                go_on(k, history, reached)
    return results
