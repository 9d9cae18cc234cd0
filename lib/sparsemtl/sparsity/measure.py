"""How sparse a network is, counted on the zeros that are in its weights.

Each function takes an nn.Module, whose convolution weights it looks at (give it the backbone: heads are not
penalised and not counted by Upadhyay et al. 2023), or an iterable of weight tensors. A group is a slice of a
weight along `dim`, by default an input channel, theta[:, c]; it counts as zero if every entry is exactly zero.
All raise DataError where there is no weight to count.
"""

from torch import nn

from sparsemtl.errors import DataError


def group_sparsity(weights, dim=1):
    """Share of all groups of all weights that are zero; a float in [0, 1]."""
    alive = [_alive(weight, dim) for weight in _weights(weights).values()]
    return _share(sum(int((~a).sum()) for a in alive), sum(a.numel() for a in alive))


def parameter_sparsity(weights, dim=1):
    """Share of all entries of the weights that lie in zero groups; a float in [0, 1]."""
    counts = [(w.numel(), w.shape[dim], int((~_alive(w, dim)).sum())) for w in _weights(weights).values()]
    return _share(sum(n // groups * zero for n, groups, zero in counts if groups), sum(n for n, _, _ in counts))


def zero_fraction(weights):
    """Share of all entries that are zero, in a zero group or not (unstructured sparsity); a float in [0, 1]."""
    tensors = _weights(weights).values()
    return _share(sum(int((w == 0).sum()) for w in tensors), sum(w.numel() for w in tensors))


def channels_per_layer(weights, dim=1):
    """Groups of each weight as (not zero, all): dict name -> (int, int), in the order of the network.

    Names are the module's ("layer1.0.conv1"), or "0", "1", ... for an iterable of tensors. Fig. 3 of Upadhyay et
    al. 2023 draws the two numbers.
    """
    alive = {name: _alive(weight, dim) for name, weight in _weights(weights).items()}
    return {name: (int(a.sum()), a.numel()) for name, a in alive.items()}


def _weights(weights):
    if isinstance(weights, nn.Module):
        convs = {name: m for name, m in weights.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
        found = {name: conv.weight.detach() for name, conv in convs.items()}
    else:
        found = {str(i): weight.detach() for i, weight in enumerate(weights)}
    if not found:
        raise DataError("no convolution weights to count; give a network that has some, or a list of weights")
    return found


def _alive(weight, dim):
    return (weight != 0).movedim(dim, 0).unsqueeze(-1).flatten(1).any(1)


def _share(part, whole):
    if whole == 0:
        raise DataError("the weights to count have no entries; give weights with at least one")
    return part / whole
