"""The one training loop of both studies."""

from contextlib import nullcontext

import torch

from sparsemtl.errors import SparseMTLError


def fit(
    model, batches, loss_fn, optimizer, epochs, after_step=None, *, start=0, after_epoch=None, context=nullcontext
):  # fmt: skip
    """Train `model` in place and return the mean loss of each epoch (list of float).

    batches: epoch number -> iterable of (inputs, targets). loss_fn: (model(inputs), targets) -> scalar tensor.
    after_step: called after every optimizer step with (step, inputs, targets), for methods that change masks
    while training. after_epoch: called with the epoch's number; training ends when it returns True. start: number of
    the first epoch, above 0 when a run resumes. context: makes the context of forward pass and loss, for autocast.
    Raises `SparseMTLError` when the loss is not finite.
    """
    history, step = [], 0
    for epoch in range(start, epochs):
        model.train()
        losses = []
        for inputs, targets in batches(epoch):
            optimizer.zero_grad(set_to_none=True)
            with context():
                loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if after_step is not None:
                after_step(step, inputs, targets)
            step += 1
        history.append(torch.stack(losses).mean().item())
        if not torch.isfinite(torch.tensor(history[-1])):
            raise diverged(history[-1], epoch)
        if after_epoch is not None and after_epoch(epoch):
            break
    return history


def diverged(loss, epoch):
    """The error of a training whose mean loss in an epoch is not finite."""
    return SparseMTLError(f"the loss is {loss} in epoch {epoch}: lower the learning rate")
