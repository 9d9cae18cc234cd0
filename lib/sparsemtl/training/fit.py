"""The one training loop of both studies."""

import torch

from sparsemtl.errors import SparseMTLError


def fit(model, batches, loss_fn, optimizer, epochs, after_step=None):
    """Train `model` in place and return the mean loss of each epoch (list of float).

    batches: epoch number -> iterable of (inputs, targets). loss_fn: (model(inputs), targets) -> scalar tensor.
    after_step: called after every optimizer step with (step, inputs, targets), for methods that change masks
    while training. Raises `SparseMTLError` when the loss is not finite.
    """
    history, step = [], 0
    for epoch in range(epochs):
        model.train()
        losses = []
        for inputs, targets in batches(epoch):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if after_step is not None:
                after_step(step, inputs, targets)
            step += 1
        history.append(torch.stack(losses).mean().item())
        if not torch.isfinite(torch.tensor(history[-1])):
            raise SparseMTLError(f"the loss is {history[-1]} in epoch {epoch}: lower the learning rate")
    return history
