"""How sparse a network is, counted on the zeros that are in its weights.

Each function takes a network, whose convolution weights it counts (give it the backbone: heads are not penalised and
not counted by Upadhyay et al. 2023), or an iterable of weight tensors. A group is a slice of a weight along `dim`, by
default an input channel: dimension 1, of transposed convolutions 0. It counts as zero if every entry is exactly zero.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from sparsemtl.errors import DataError

Weights = nn.Module | Iterable[Tensor]


def group_sparsity(weights: Weights, dim: int | None = None) -> float:
    """Share of all groups of all weights that are zero.

    Parameters
    ----------
    weights : torch.nn.Module or iterable of Tensor
        A network, or weights.
    dim : int, optional
        Dimension of the groups; by default that of the input channels.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DataError
        There is no weight to count.
    """
    counts = channels_per_layer(weights, dim).values()
    return _share(sum(total - alive for alive, total in counts), sum(total for _, total in counts))


def parameter_sparsity(weights: Weights, dim: int | None = None) -> float:
    """Share of all entries of the weights that are in zero groups; parameters and errors as `group_sparsity`."""
    found = [(weight, _alive(weight, d)) for weight, d in _weights(weights, dim).values()]
    dead = sum(w.numel() // len(alive) * int((~alive).sum()) for w, alive in found if len(alive))
    return _share(dead, sum(w.numel() for w, _ in found))


def zero_fraction(weights: Weights) -> float:
    """Share of all entries that are zero, in a zero group or not; parameters and errors as `group_sparsity`."""
    tensors = [weight for weight, _ in _weights(weights, None).values()]
    return _share(sum(int((w == 0).sum()) for w in tensors), sum(w.numel() for w in tensors))


def channels_per_layer(weights: Weights, dim: int | None = None) -> dict[str, tuple[int, int]]:
    """Groups of each weight as (not zero, all), the two numbers that Fig. 3 of Upadhyay et al. 2023 draws.

    Parameters and errors as `group_sparsity`. The keys are the modules' names ("layer1.0.conv1"), or "0", "1", ... for
    an iterable, in the order of the network.
    """
    alive = {name: _alive(weight, d) for name, (weight, d) in _weights(weights, dim).items()}
    return {name: (int(a.sum()), a.numel()) for name, a in alive.items()}


def _weights(weights: Weights, dim: int | None) -> dict[str, tuple[Tensor, int]]:
    """Each weight with the dimension of its groups."""
    if isinstance(weights, nn.Module):
        convs = {n: m for n, m in weights.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
        found = {name: (conv.weight.detach(), 0 if conv.transposed else 1) for name, conv in convs.items()}
    else:
        found = {str(i): (weight.detach(), 1) for i, weight in enumerate(weights)}
    if not found:
        raise DataError("no convolution weights to count; give a network that has some, or a list of weights")
    return {name: (weight, own if dim is None else dim) for name, (weight, own) in found.items()}


def _alive(weight: Tensor, dim: int) -> Tensor:
    return (weight != 0).movedim(dim, 0).unsqueeze(-1).flatten(1).any(1)


def _share(part: int, whole: int) -> float:
    if whole == 0:
        raise DataError("the weights to count have no entries; give weights with at least one")
    return part / whole
