"""Scores that say how much each weight matters, computed before training.

Every function here returns `dict[str, Tensor]`: one score tensor for each `prunable` weight, keyed by the
parameter's name ("shared.spatial.weight"), of the weight's shape and device, and LARGER MEANS KEEP, so that
`masks.topk_mask` serves them all. A score is the one of the dense network: masks in place do not hide gradients.

A copy of the model is scored, in the model's training mode but with its dropout modules off
(`torch.nn.functional.dropout` inside a forward cannot be), so that model and random state stay as they were.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparsemtl.errors import DataError, SpecError

Loss = Callable[[Any, Any], Tensor]  # (outputs, targets) -> scalar


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of all convolutions and linear layers, by parameter name; a tied weight appears once, by its first name.

    A layer that computes its weight from other parameters (weight_norm, spectral_norm, torch.nn.utils.prune) raises
    SpecError: a sparsity without it would be of another network.
    """
    weights: dict[nn.Parameter, str] = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            continue
        weight = module._parameters.get("weight")
        if weight is None:
            name = prefix or type(module).__name__
            raise SpecError(f"{name}: its weight is computed (weight_norm, torch.nn.utils.prune); remove that first")
        weights.setdefault(weight, f"{prefix}.weight" if prefix else "weight")
    return {name: weight for weight, name in weights.items()}


@torch.enable_grad()
def gradients(model: nn.Module, loss_fn: Loss, inputs: Any, targets: Any) -> dict[str, Tensor]:
    """dL/dw of every prunable weight, pruned entries included; zero for a weight that the loss does not reach.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    loss_fn : callable
        (model(inputs), targets) -> scalar tensor. Another shape raises SpecError; so may `prunable`.
    inputs, targets
        Tensor or dict of Tensor, given to the model whole; anything, given to `loss_fn`. Inputs or a loss that are not
        finite raise DataError.
    """
    return _grads(*_loss(model, loss_fn, inputs, targets))


def snip(model: nn.Module, loss_fn: Loss, inputs: Any, targets: Any) -> dict[str, Tensor]:
    """Connection sensitivity |dL/dm| at m = 1 of the masked network f(m * w), which is |w * dL/dw|.

    Lee, Ajanthan and Torr 2019, "SNIP" (Eq. 4), before the normalisation, which changes no ranking within one loss.
    Parameters and errors as `gradients`.
    """
    weights = prunable(model)
    grads = gradients(model, loss_fn, inputs, targets)
    return {name: (weights[name].detach() * grad).abs() for name, grad in grads.items()}


@torch.enable_grad()
def grasp(model: nn.Module, loss_fn: Loss, inputs: Any, targets: Any, temperature: float = 200.0) -> dict[str, Tensor]:
    """Gradient signal preservation: w * (H g), the loss of gradient flow when a weight goes.

    Wang, Zhang and Grosse 2020, "Picking winning tickets before training by preserving gradient flow", Eq. 8:
    S = -w * (H g) is the change of g.g / 2 when w goes, and they remove the largest S; we return -S. H and g are over
    the prunable weights. Other parameters and errors as `gradients`.

    Parameters
    ----------
    temperature : float
        The model's outputs are divided by it before the loss: 200 for logits, as its authors do; 1 leaves them.
    """

    def cooled(outputs, targets):
        return loss_fn(pytree.tree_map(lambda output: output / temperature, outputs), targets)

    loss, weights = _loss(model, cooled, inputs, targets)
    grads = _grads(loss, weights, create_graph=True)
    # the gradient of g.stop(g) is H g: the second factor is a constant
    flow = sum(((grad * grad.detach()).sum() for grad in grads.values()), torch.zeros(()))
    return {name: weights[name].detach() * hg for name, hg in _grads(flow, weights).items()}


@torch.enable_grad()
def synflow(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Synaptic flow |w| * dR/d|w|, float64, with R the summed output of the |w| network for an input of ones.

    Tanaka, Kunin, Yamins and Ganguli 2020, "Pruning neural networks without any data by iteratively conserving
    synaptic flow", Eq. 2, one evaluation. All parameters and buffers are replaced by their absolute values and the
    network is in eval mode, so ReLU and ELU act as the identity. Only the shapes of the inputs count. Inputs that are
    not finite, or a flow that overflows float64, raise DataError.
    """
    _check(model, inputs)
    ones = pytree.tree_map(partial(torch.ones_like, dtype=torch.float64), inputs)
    flat = copy.deepcopy(model).requires_grad_(True).double().eval()
    for tensor in [*flat.parameters(), *flat.buffers()]:
        if tensor.is_floating_point():  # a mask in place is a buffer too
            tensor.data.abs_()
    with _random_state_kept(model):
        flow = sum(out.sum() for out in pytree.tree_leaves(flat(ones)))
    if not torch.isfinite(flow):
        raise DataError("synflow: the summed output is not finite; use smaller initial weights or fewer layers")
    weights = prunable(flat)
    return {name: weights[name].detach() * grad for name, grad in _grads(flow, weights).items()}


def magnitude(model: nn.Module) -> dict[str, Tensor]:
    """|w| of every prunable weight, the score of magnitude pruning (Han et al. 2015); errors as `prunable`."""
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}


def random_scores(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Uniform scores in [0, 1), float64: the random baseline. A seed means the same scores on every device."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
        for name, weight in prunable(model).items()
    }


def _loss(model: nn.Module, loss_fn: Loss, inputs: Any, targets: Any) -> tuple[Tensor, dict[str, nn.Parameter]]:
    """Loss of a copy of the model, and the copy's weights."""
    _check(model, inputs)
    net = copy.deepcopy(model).requires_grad_(True)
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    weights = prunable(net)
    with _random_state_kept(model):
        loss = loss_fn(net(inputs), targets)
    if loss.numel() != 1:
        raise SpecError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}; take its mean or sum")
    if not torch.isfinite(loss):
        raise DataError(f"the loss is {loss.item()} while scoring; check the inputs, targets and initial weights")
    return loss, weights


def _grads(value: Tensor, weights: dict[str, nn.Parameter], create_graph: bool = False) -> dict[str, Tensor]:
    """d value / d weight for each weight, zeros where `value` does not depend on it."""
    if not value.requires_grad:
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    grads = torch.autograd.grad(value, list(weights.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(weights, grads, strict=True))


def _check(model: nn.Module, inputs: Any) -> None:
    prunable(model)  # refuses weights that are computed, which cannot be copied
    if not all(torch.isfinite(tensor).all() for tensor in pytree.tree_leaves(inputs)):
        raise DataError("the inputs for scoring hold NaN or infinite values; clean or drop these samples")


def _random_state_kept(model: nn.Module) -> AbstractContextManager:
    return torch.random.fork_rng({p.device for p in model.parameters() if p.device.type == "cuda"})
