"""From scores to masks, from votes to one mask, and masks that hold while a network trains.

A mask is a `dict[str, BoolTensor]` by parameter name, True where the weight is kept.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from sparsemtl.errors import DataError, SpecError
from sparsemtl.sparsity.saliency import prunable

Masks = dict[str, Tensor]
Scores = Mapping[str, Tensor]


def topk_mask(scores: Scores, sparsity: float) -> Masks:
    """Keep the best scores over all tensors together.

    Parameters
    ----------
    scores : dict of Tensor
        Real tensors by name, of any shape; larger means keep. Equal scores are pruned in the order of (name, flat
        index), whatever the device or the order of the dict. NaN or infinite ones raise DataError.
    sparsity : float
        In [0, 1), read as the decimal it is written as, so 0.29 of 100 prunes 29; others raise SpecError.

    Returns
    -------
    dict of Tensor
        Bool, of the scores' shapes and devices; exactly floor(sparsity * N) of the N entries are False.
    """
    if not 0 <= sparsity < 1:
        raise SpecError(f"sparsity {sparsity} is out of range; give a number in [0, 1)")
    ranks = _ranks(scores)
    pruned = math.floor(Fraction(str(float(sparsity))) * sum(rank.numel() for rank in ranks.values()))
    return {name: (ranks[name] >= pruned).to(scores[name].device) for name in scores}


def arbiter(votes: Mapping[str, Masks] | Sequence[Masks], rule: str = "or") -> Masks:
    """Join the tasks' masks elementwise: "or" keeps what any task keeps (Shin et al. 2023), "and" what all keep.

    Parameters
    ----------
    votes : dict or list of mask dicts
        One for each task. A weight that only one task votes on keeps that vote.
    rule : {"or", "and"}
        Another rule, no votes, or votes of different shapes raise SpecError.
    """
    if rule not in ("or", "and"):
        raise SpecError(f'arbiter: unknown rule {rule!r}; use "or" or "and"')
    join = torch.logical_or if rule == "or" else torch.logical_and
    joined: Masks = {}
    for vote in _ballots(votes):
        for name, mask in vote.items():
            _check_mask(name, mask, joined.get(name, mask).shape)
            joined[name] = join(joined[name], mask) if name in joined else mask.clone()
    return joined


def budget_masks(scores_per_task: Mapping[str, Scores] | Sequence[Scores], sparsity: float) -> Masks:
    """Masks of the OR arbiter at an exact overall budget: floor(sparsity * N) of all N weights are False.

    Every task keeps the share k of its pool, `topk_mask(scores_t, 1 - k)`, the votes are joined by OR, and k is
    lowered for all tasks together until the joined mask meets the budget (DiSparse, Sun et al. 2022, finds k by hand).
    With r_t the 0-based rank of a weight in its pool of n_t, best first, task t keeps it exactly when r_t / n_t < k:
    the weights to keep have the smallest min_t r_t / n_t, and no search is needed.

    Parameters
    ----------
    scores_per_task : dict or list of score dicts
        One for each task, over the task's own pool of weights; sparsity, ties and errors as in `topk_mask`, `arbiter`.
    """
    keys: dict[str, Tensor] = {}
    for scores in _ballots(scores_per_task):
        ranks = _ranks(scores)
        worst = sum(rank.numel() for rank in ranks.values()) - 1
        for name, rank in ranks.items():
            if name in keys and keys[name].shape != rank.shape:
                raise SpecError(f"{name}: the tasks' scores differ in shape; score the same weights")
            key = ((worst - rank).double() / (worst + 1)).to(scores[name].device)
            keys[name] = torch.minimum(keys.get(name, key), key.to(keys.get(name, key).device))
    return topk_mask({name: -key for name, key in keys.items()}, sparsity)


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the pruned weights to zero and keep them exactly 0.0 through training, with any torch optimizer.

    The weight is zeroed before each forward and after each step of any optimizer that holds it (one made before the
    call too), and its `.grad` after each backward. Parameter names and `state_dict` are those of the dense model; a
    `copy.deepcopy` keeps the masks, and its first forward puts them in force.

    Parameters
    ----------
    model, masks : torch.nn.Module, dict of Tensor
        Any network; bool, of the weight's shape, for any of the `prunable` weights. A second call replaces the first:
        weights that it does not name are dense again, and a weight that is no longer pruned learns on from 0.0.

    Raises
    ------
    SpecError
        An unknown name, a mask that is not bool, or a wrong shape; nothing changes.
    """
    weights, modules = prunable(model), dict(model.named_modules())
    for name, mask in masks.items():
        if name not in weights:
            raise SpecError(f"{name}: no Conv or Linear weight of this name; the model has {', '.join(weights)}")
        _check_mask(name, mask, weights[name].shape)
    for name, weight in weights.items():
        module = modules[name.rpartition(".")[0]]
        if name not in masks and MASK not in module._buffers:
            continue
        pruned = ~masks[name] if name in masks else torch.zeros_like(weight, dtype=torch.bool)
        module.register_buffer(MASK, pruned.to(weight.device), persistent=False)
    if enforce_masks not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(enforce_masks)
    enforce_masks(model)


def masks_of(model: nn.Module) -> Masks:
    """Masks in place: name -> bool tensor (True: kept) for each prunable weight, all True if unmasked."""
    modules = dict(model.named_modules())
    masks = {}
    for name, weight in prunable(model).items():
        pruned = modules[name.rpartition(".")[0]]._buffers.get(MASK)
        masks[name] = torch.ones_like(weight, dtype=torch.bool) if pruned is None else ~pruned
    return masks


def sparsity_of(masks: nn.Module | Mapping[str, Tensor], prefix: str | tuple[str, ...] = "") -> float:
    """Share of False over all entries of masks, in [0, 1]; without any entry SpecError.

    Parameters
    ----------
    masks : torch.nn.Module or dict of Tensor
        Masks, or a network: its masks in place count, not zeros that happen to be in the weights.
    prefix : str or tuple of str
        Only names that start with it count ("shared.").
    """
    masks = masks_of(masks) if isinstance(masks, nn.Module) else masks
    chosen = [mask for name, mask in masks.items() if name.startswith(prefix)]
    if (total := sum(mask.numel() for mask in chosen)) == 0:
        raise SpecError(f"no weights under prefix {prefix!r}; the names are {', '.join(masks)}")
    return sum(int((~mask).sum()) for mask in chosen) / total


def iou(mask_a: Tensor, mask_b: Tensor) -> float:
    """Intersection over union of the kept sets of two bool tensors of one shape; 1.0 if both keep nothing."""
    _check_mask("iou", mask_a, mask_b.shape)
    union = int((mask_a | mask_b).sum())
    return int((mask_a & mask_b).sum()) / union if union else 1.0


# The mask on a model is a non-persistent buffer of the owning module, True where PRUNED (what masked_fill takes).
# masked_fill, not a product: it stops NaN and infinity, and it does not write -0.0.
MASK = "pruned"
_guarded = WeakIdKeyDictionary()  # parameter with a hook -> its mask when it was last enforced


def enforce_masks(model: nn.Module, _: object = None) -> None:
    """Set the pruned weights of `model` to zero again; a training loop with an optimizer on copies calls this.

    It is also a hook before each forward of the whole model, as a module that holds a weight need not be called (the
    EEG trunks), and puts the parameters of a copied model under guard.
    """
    for module in model.modules():
        weight, pruned = module._parameters.get("weight"), module._buffers.get(MASK)
        # a weight lent by torch.func.functional_call is no Parameter and the caller's own affair
        if pruned is None or not isinstance(weight, nn.Parameter):
            continue
        if weight.requires_grad:
            if weight not in _guarded:
                weight.register_post_accumulate_grad_hook(_after_backward)
            _guarded[weight] = pruned
        # .data, as two forwards may share one backward: autograd must not take this for a change
        weight.data.masked_fill_(pruned, 0)


def _after_backward(weight):
    weight.grad.masked_fill_(_guarded[weight].to(weight.device), 0)


@torch.no_grad()
def _after_step(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight in _guarded:
                weight.masked_fill_(_guarded[weight].to(weight.device), 0)


register_optimizer_step_post_hook(_after_step)


def _ranks(scores: Scores) -> dict[str, Tensor]:
    """Place of each entry among all of them, on the CPU: 0 for the lowest, equal scores by (name, flat index)."""
    names = sorted(scores)
    flat = {name: scores[name].detach().flatten().cpu().double() for name in names}
    for name, values in flat.items():
        if not torch.isfinite(values).all():
            raise DataError(f"{name}: scores hold NaN or infinite values; check the inputs that were scored")
    order = torch.argsort(torch.cat([*flat.values(), torch.empty(0).double()]), stable=True)
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    parts = ranks.split([len(values) for values in flat.values()])
    return {name: part.view(scores[name].shape) for name, part in zip(names, parts, strict=True)}


def _ballots(votes):
    ballots = list(votes.values()) if isinstance(votes, Mapping) else list(votes)
    if not ballots or not all(isinstance(ballot, Mapping) for ballot in ballots):
        raise SpecError("votes must be a dict task -> dict name -> tensor, with at least one task")
    return ballots


def _check_mask(name: str, mask: Tensor, shape: torch.Size) -> None:
    if mask.dtype != torch.bool or mask.shape != shape:
        raise SpecError(f"{name}: need a bool mask of shape {tuple(shape)}, got {mask.dtype} {tuple(mask.shape)}")
