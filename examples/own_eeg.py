"""Your own imagined and executed movements: a dense network beside the masks of Shin et al. 2023."""

import numpy as np
import torch
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, arbiter, sparsity_of, topk_mask
from sparsemtl.sparsity.saliency import snip
from sparsemtl.training.fit import fit


def loss_fn(outputs, targets):
    """Sum of the cross-entropies of both tasks."""
    return sum(torch.nn.functional.cross_entropy(outputs[task], y) for task, y in targets.items())


def votes(net, x, y, task, sparsity):
    """The mask that one task wants for the shared weights and its own head."""
    scores = snip(net, loss_fn, {task: x[task]}, {task: y[task]})
    return topk_mask({name: s for name, s in scores.items() if name.startswith(("shared.", task))}, sparsity)


def batches(x, y, size=16):
    """Batches of `size` trials of each task, in a new order each time."""
    order = {task: torch.randperm(len(labels)).split(size) for task, labels in y.items()}
    for chosen in zip(*order.values(), strict=False):
        yield tuple({task: part[task][i] for task, i in zip(order, chosen, strict=True)} for part in (x, y))


def compare(x, y, sparsity=0.4, epochs=60, test=0.3, seed=0):
    """Test accuracy by network and task: {"dense": {"mi": ..., "me": ...}, "proposed": ...}, and realised sparsity.

    x, y: by task ("mi", "me") arrays of trials x electrodes x samples (float) and of labels 0, 1, ... (int).
    """
    cut = {task: np.random.default_rng(seed).permutation(len(y[task])) for task in x}
    part = {task: (order[round(test * len(order)) :], order[: round(test * len(order))]) for task, order in cut.items()}
    tensors = [({t: torch.tensor(x[t][p[i]], dtype=torch.float32) for t, p in part.items()},
                {t: torch.tensor(y[t][p[i]]) for t, p in part.items()}) for i in (0, 1)]  # fmt: skip
    (x_train, y_train), (x_test, y_test) = tensors
    found = {}
    for name in ("dense", "proposed"):
        size = next(iter(x_train.values())).shape[1:]
        net = DualTaskNet(
            *size, int(max(map(max, y.values()))) + 1, generator=torch.Generator().manual_seed(seed), bn_momentum=0.1
        )
        if name == "proposed":
            masks = arbiter({task: votes(net, x_train, y_train, task, sparsity) for task in x_train})
            apply_masks(net, masks)
            found["sparsity"] = sparsity_of(masks)
        fit(net, lambda _: batches(x_train, y_train), loss_fn, torch.optim.Adam(net.parameters(), 2e-3), epochs)
        guesses = net.eval()(x_test)
        found[name] = {t: float((guesses[t].argmax(1) == y_test[t]).float().mean()) for t in guesses}
    return found
