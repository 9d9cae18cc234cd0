"""Networks of one architecture that see the same batches are trained together, each as if it were alone."""

import copy
import math

import torch
from sparsemtl.errors import SparseMTLError
from sparsemtl.sparsity.masks import apply_masks, masks_of
from sparsemtl.training.fit import diverged, fit
from torch import nn


class Stack(nn.Module):
    """K `DualTaskNet` of one architecture as one model of K copies: its logits are theirs, stacked to (K, ...).

    Parameters, buffers and masks of the stack are theirs, one network after another along the first axis, and the
    networks' own become views of them: to train the stack is to train the networks, and a mask put on a network
    holds in the stack. All networks get the same inputs and the same dropout, drawn as it is for one of them.
    """

    def __init__(self, networks):
        super().__init__()
        self._networks = tuple(networks)  # a tuple hides them: their parameters are none of their own any more
        for net in networks:
            apply_masks(net, masks_of(net))  # a dense one gets a mask like the others
        self.whole = networks[0].side_by_side(len(networks))
        for whole, *parts in zip(self.whole.modules(), *(net.modules() for net in networks), strict=True):
            for name in [name for name, value in whole._parameters.items() if value is not None]:
                joined, views = _joined([part._parameters[name].detach() for part in parts])
                whole._parameters[name] = nn.Parameter(joined)
                for part, view in zip(parts, views, strict=True):
                    part._parameters[name].data = view
            for name in [name for name, value in parts[0]._buffers.items() if value is not None]:
                whole._buffers[name], views = _joined([part._buffers[name] for part in parts])
                for part, view in zip(parts, views, strict=True):
                    part._buffers[name] = view
        apply_masks(self.whole, masks_of(self.whole))

    def train(self, mode=True):
        """Put the stack and its networks into training mode, or out of it; returns the stack."""
        for net in self._networks:
            net.train(mode)
        return super().train(mode)

    def forward(self, inputs):
        """Logits of all networks, stacked, for inputs that they share."""
        return self.whole(inputs)


def _joined(tensors):
    """The tensors in one, along the first axis, and a view of it for each; single numbers become a vector."""
    if tensors[0].ndim == 0:
        joined = torch.stack(tensors)
        return joined, joined.unbind()
    joined = torch.cat(tensors)
    return joined, joined.chunk(len(tensors))


def fit_together(trainings, batches, loss_fn, optimizer, multiple=1):
    """Train networks in place by one `fit`; returns for each its mean loss by epoch, or a `SparseMTLError`.

    trainings: list of `pruning.Training` of one architecture and number of epochs. batches, loss_fn: as `fit` takes
    them. optimizer: parameters -> optimizer that works element by element (Adam). multiple: copies of the first network
    fill the stack to a multiple of this size. A network whose loss is not finite fails alone. Of networks that would
    come out the same, as the lottery ticket's first ones do at every sparsity, one is trained for all.
    """
    first = [next(k for k, other in enumerate(trainings) if _alike(training, other)) for training in trainings]
    distinct = sorted(set(first))
    found = _fit_stack([trainings[k] for k in distinct], batches, loss_fn, optimizer, multiple)
    outcomes = dict(zip(distinct, found, strict=True))
    for k, training in zip(first, trainings, strict=True):
        if training is not trainings[k]:
            training.net.load_state_dict(trainings[k].net.state_dict())
    return [copy.copy(outcomes[k]) for k in first]  # who gets a history may write to it


def _alike(training, other):
    """Whether two trainings of an architecture end in the same network: same state, masks and length."""
    if training is other:
        return True
    if training.after_step or other.after_step or training.epochs != other.epochs:
        return False
    return all(
        torch.equal(value, theirs[name])
        for own, theirs in ((of(training.net), of(other.net)) for of in (nn.Module.state_dict, masks_of))
        for name, value in own.items()
    )


def _fit_stack(trainings, batches, loss_fn, optimizer, multiple):
    """`fit_together` of networks that all differ."""
    networks = [training.net for training in trainings]
    stack = Stack(networks + [copy.deepcopy(networks[0]) for _ in range(-len(networks) % multiple)])
    histories, failures, losses = [[] for _ in trainings], [None for _ in trainings], []

    def summed(outputs, targets):
        each = torch.vmap(lambda output: loss_fn(output, targets))(outputs)
        losses.append(each.detach())
        return torch.where(each.isfinite(), each, 0).sum()  # what has diverged must not stop the others

    def after_step(*step):
        for k, training in enumerate(trainings):
            if training.after_step is not None and failures[k] is None:
                try:
                    training.after_step(*step)
                except SparseMTLError as error:
                    failures[k] = error

    def after_epoch(epoch):
        means = torch.stack(losses, 1).double().mean(1).tolist()
        losses.clear()
        for k, (history, mean) in enumerate(zip(histories, means, strict=False)):  # none of a copy
            history.append(mean)
            if failures[k] is None and not math.isfinite(mean):
                failures[k] = diverged(mean, epoch)
        return all(failures)

    fit(stack, batches, summed, optimizer(stack.parameters()), trainings[0].epochs, after_step, after_epoch=after_epoch)
    return [failure or history for failure, history in zip(failures, histories, strict=True)]
