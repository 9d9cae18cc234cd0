"""Your own images with several targets: a dense network beside one trained with the penalty of Upadhyay et al. 2023."""

import torch
from sparsemtl.models.dense import MultiTaskNet
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.measure import group_sparsity
from sparsemtl.sparsity.prox import ProxAdamW, penalty_groups
from sparsemtl.training.fit import fit
from sparsemtl.training.losses import depth_loss, segmentation_loss
from torch.nn.functional import interpolate

LOSSES = {"seg": segmentation_loss, "depth": depth_loss}


def loss_fn(outputs, targets):
    """Sum of the tasks' losses; predictions come at an eighth of the image's size."""
    return sum(LOSSES[t](interpolate(outputs[t], y.shape[-2:], mode="bilinear"), y) for t, y in targets.items())


def compare(train, test, classes, lam=1e-3, epochs=20, **net):
    """Test loss by task, share of zero groups and parameters left, by network (dict of dict).

    train, test: lists of batches (images, {"seg": classes, "depth": metres}); images are n x 3 x height x width.
    """
    found = {}
    for name, strength in (("dense", 0.0), ("sparse", lam)):
        torch.manual_seed(0)
        model = MultiTaskNet(["seg", "depth"], classes, **net)
        rest = [p for n, p in model.named_parameters() if not n.startswith("shared.")]
        groups = [*penalty_groups(model.shared, strength), {"params": rest, "penalty": None}]
        fit(model, lambda _: train, loss_fn, ProxAdamW(groups, lr=3e-3), epochs)
        model.eval()
        small = compact(model, test[0][0])
        with torch.no_grad():
            losses = {t: float(sum(loss_fn(small(x), {t: y[t]}) for x, y in test) / len(test)) for t in LOSSES}
        count = sum(p.numel() for p in small.parameters())
        found[name] = losses | {"zero groups": group_sparsity(model.shared), "parameters": count}
    return found
