"""How sparse a network is, counted on the zeros that are in its weights.

Each function takes a network, whose convolution weights it counts (give it the backbone: heads are not penalised and
not counted by Upadhyay et al. 2023), or an iterable of weight tensors. A group is an input channel, a slice along
dimension 1 (of transposed convolutions 0). It counts as zero if every entry is exactly zero.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from sparsemtl.errors import DataError

Weights = nn.Module | Iterable[Tensor]


def group_sparsity(weights: Weights) -> float:
    """Share in [0, 1] of all groups of all weights that are zero.

    Parameters
    ----------
    weights : torch.nn.Module or iterable of Tensor
        A network, or weights (filters, channels, ...); nothing to count raises DataError.
    """
    counts = channels_per_layer(weights).values()
    return _share(sum(total - alive for alive, total in counts), sum(total for _, total in counts))


def parameter_sparsity(weights: Weights) -> float:
    """Share of all entries of the weights that are in zero groups; parameters and errors as `group_sparsity`."""
    groups = _groups(weights).values()
    dead = sum(int((~nonzero.any(1)).sum()) * nonzero.shape[1] for nonzero in groups)
    return _share(dead, sum(nonzero.numel() for nonzero in groups))


def zero_fraction(weights: Weights) -> float:
    """Share of all entries that are zero, in a zero group or not; parameters and errors as `group_sparsity`."""
    groups = _groups(weights).values()
    return _share(sum(int((~nonzero).sum()) for nonzero in groups), sum(nonzero.numel() for nonzero in groups))


def channels_per_layer(weights: Weights) -> dict[str, tuple[int, int]]:
    """Groups of each weight as (not zero, all), the two numbers that Fig. 3 of Upadhyay et al. 2023 draws.

    Parameters and errors as `group_sparsity`. The keys are the modules' names ("layer1.0.conv1"), or "0", "1", ... for
    an iterable, in the order of the network.
    """
    return {name: (int(nonzero.any(1).sum()), len(nonzero)) for name, nonzero in _groups(weights).items()}


def _groups(weights: Weights) -> dict[str, Tensor]:
    """Whether the entries of each weight are not zero, bool (groups, entries of a group)."""
    if isinstance(weights, nn.Module):
        convs = {n: m for n, m in weights.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
        found = {n: conv.weight if conv.transposed else conv.weight.transpose(0, 1) for n, conv in convs.items()}
    else:
        found = {str(i): weight.transpose(0, 1) for i, weight in enumerate(weights)}
    if not found:
        raise DataError("no convolution weights to count; give a network that has some, or a list of weights")
    return {name: (weight != 0).unsqueeze(-1).flatten(1) for name, weight in found.items()}


def _share(part: int, whole: int) -> float:
    if whole == 0:
        raise DataError("the weights to count have no entries; give weights with at least one")
    return part / whole
