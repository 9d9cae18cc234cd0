"""Physical removal of dead channels: the same function with smaller tensors.

A group is one input channel of a convolution, theta[:, c] (Upadhyay et al. 2023, Eq. 6). Where it is zero, the layer
does not read channel c of the stream before it, and a channel that nobody reads is not made: its filter, its
batch-norm entry and, in turn, the input channels that only it read are dropped. A residual stream has several readers
and keeps what any of them needs; each reader then picks its own channels (index_select).

Channels that do not depend on the input are found as well: a filter of zeros gives a constant, batch norm and
activation make another constant of it. Zeros are dropped. Other constants move into the next layer's bias if that
layer does not pad (a padded border holds zeros, not the constant), and into one added vector where they are all that
is left of a residual branch. Elsewhere the channel stays.

torch.fx gives the graph; operations that are not known here are left as they are, with all their channels.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

from sparsemtl.errors import SpecError, one_line
from sparsemtl.models.eeg import BACKBONES, DualTaskNet
from sparsemtl.sparsity.layers import CONVS, NORMS, every, exact_convolutions, indices, sliced, sliced_norm
from sparsemtl.sparsity.steps import AVOID, Recorder, Tracer


def compact(model: nn.Module, example: Any, fold_norms: bool = False) -> nn.Module:
    """The same function with smaller tensors: zero groups are gone, and all that led to them alone.

    Outputs agree up to rounding, as sums run in another order. The result has at most the parameters of `model`.

    Parameters
    ----------
    model : torch.nn.Module
        A network that torch.fx can trace (torchvision's ResNets, MultiTaskNet, plain chains), or a DualTaskNet with a
        trunk of ours; it is left alone.
    example : Tensor, dict of Tensor or tuple
        An input for it, on its device; a tuple is several arguments. Later inputs may have other batch sizes, heights
        and widths.
    fold_norms : bool
        Put each batch norm that follows a convolution into its weights and bias, and drop it. One pass over memory
        less for each, on a CPU about a tenth of the time of a compacted ResNet; a DualTaskNet does that itself.

    Returns
    -------
    torch.nn.Module
        In eval mode and for inference only, as constants from batch norm are in its biases. It keeps module names and
        dtypes; its convolutions and linear layers hold no masks or hooks.

    Raises
    ------
    SpecError
        The model does not take the example, cannot be traced or copied, changes a tensor in place that it reads later,
        reads a weight beside its module, or gives other outputs for the example once compacted.
    """
    args, name = example if isinstance(example, tuple) else (example,), type(model).__name__
    try:
        net = copy.deepcopy(model).eval()
    except RuntimeError as error:  # torch.nn.utils.prune and weight_norm leave weights that are no parameters
        raise SpecError(f"compact: {name} cannot be copied ({one_line(error, 200)}); make its weights plain") from error
    with torch.no_grad(), exact_convolutions():
        try:
            expected = [net(*copy.deepcopy(args))]
        except Exception as error:
            raise SpecError(
                f"compact: {name} does not take the example ({one_line(error, 200)}); pass another one"
            ) from error
        inputs = [args]
        if (twice := pytree.tree_map(_doubled, args)) is not None:
            try:  # a batch of one hides what broadcasts
                expected.append(net(*twice))
                inputs.append(twice)
            except Exception:
                pass
        ours = isinstance(net, DualTaskNet) and isinstance(net.shared, tuple(BACKBONES.values()))
        small = _compact_dual(net) if ours else _compact_graph(net, args, fold_norms)
        for given, wanted in zip(inputs, expected, strict=True):
            try:
                actual = small(*given)
            except Exception as error:
                raise SpecError(
                    f"compact: {name} does not run when compacted ({one_line(error, 200)}): {AVOID}"
                ) from error
            if not _agree(wanted, actual):
                raise SpecError(f"compact: {name} gives other outputs when compacted: {AVOID}")
    return small


def _doubled(value):
    """A batch of one as a batch of two."""
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim and len(value) == 1 else value


def _compact_graph(net, args, fold_norms):
    name = type(net).__name__
    try:
        net = fx.GraphModule(net, Tracer().trace(net), name)
    except Exception as error:  # the model's own code may raise anything when it meets a proxy
        raise SpecError(
            f"compact: torch.fx cannot trace {name} ({one_line(error, 200)}); its forward must not branch on its inputs"
        ) from error
    if fold_norms:
        _fold_norms(net)
    steps = list(Recorder(net, args).steps.values())
    for step in steps:
        step.const = step.constant()
        if not step.node.users and step.node.op != "placeholder":  # the output, and what only works in place
            step.need = every(step.width)
    # One sweep backwards is enough unless a module is called several times: its calls share what they need.
    count, before = 0, -1
    while count != before:
        for step in reversed(steps):
            if step.need is not None:
                for source, channels in step.asks():
                    source.need = channels if source.need is None else source.need | channels
        count, before = sum(1 + int(step.need.sum()) for step in steps if step.need is not None), count
    for step in steps:
        if step.need is not None:
            step.layout = step.rewrite()
    for step in reversed(steps):
        if step.need is None and step.node.op != "placeholder":
            net.graph.erase_node(step.node)
    net.delete_all_unused_submodules()
    net.graph.lint()
    net.recompile()
    return net.eval()


def _fold_norms(net):
    """Put batch norms into the convolutions before them, in place, where both are called once and nobody else reads."""
    modules, calls = dict(net.named_modules()), Counter(node.target for node in net.graph.nodes)
    tied = Counter(id(p) for module in modules.values() for p in module._parameters.values())
    for node in list(net.graph.nodes):
        source, norm = node.args[0] if node.args else None, modules.get(str(node.target))
        if node.op != "call_module" or not isinstance(norm, NORMS) or norm.running_mean is None:
            continue
        conv = modules[source.target] if source.op == "call_module" else None
        once = calls[node.target] == 1 and source.op == "call_module" and calls[source.target] == len(source.users) == 1
        if once and isinstance(conv, CONVS) and tied[id(conv.weight)] == 1:
            plain = sliced(conv, torch.arange(conv.out_channels), torch.arange(conv.in_channels))
            net.set_submodule(source.target, fuse_conv_bn_eval(plain, norm))
            node.replace_all_uses_with(source)
            net.graph.erase_node(node)


def _compact_dual(net):
    """Take the dead channels out of a DualTaskNet in place; its trunks are chains, without constants to move.

    Its merged convolutions cannot be traced, but convolutions and norms are registered in the order in which they
    act. What a grouped convolution makes of a channel stays whole.
    """
    heads = [net.get_submodule(task) for task in net.tasks]
    layers = [(name, layer) for name, layer in net.shared.named_modules() if isinstance(layer, CONVS + NORMS)]
    channels = layers[-1][1].num_features
    steps = heads[0].in_features // channels
    need = torch.cat([head.weight for head in heads]).view(-1, channels, steps).ne(0).any(2).any(0).cpu()
    kept = {}
    for name, layer in reversed(layers):
        if isinstance(layer, NORMS):
            continue
        if layer.groups == 1:
            kept[name] = indices(need)
            need = layer.weight[kept[name].to(layer.weight.device)].flatten(2).ne(0).any(2).any(0).cpu()
        else:
            need = need.view(layer.groups, -1).any(1)
    have = torch.arange(1)  # signals enter as one channel
    for name, layer in layers:
        if isinstance(layer, NORMS):
            small = sliced_norm(layer, have)
        else:
            outputs = kept[name] if layer.groups == 1 else torch.arange(layer.out_channels).view(layer.groups, -1)[have]
            small, have = sliced(layer, outputs.flatten(), have), outputs.flatten()
        net.shared.set_submodule(name, small)
    columns = torch.arange(channels * steps).view(channels, steps)[have].flatten()
    for task, head in zip(net.tasks, heads, strict=True):
        net.set_submodule(task, sliced(head, torch.arange(head.out_features), columns))
    net.shared.n_features = len(columns)
    return net


def _agree(expected, actual):
    """Whether two outputs, tensors in any structure, are equal but for rounding (generous: half types).

    The tolerance goes with the largest output, down to a hundredth: what cancels to less is left of larger values.
    """
    old, new = pytree.tree_leaves(expected), pytree.tree_leaves(actual)  # fx makes a dict of an OrderedDict
    if len(old) != len(new):
        return False
    for a, b in zip(old, new, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if a != b:
                return False
        elif a.shape != b.shape or a.dtype != b.dtype:
            return False
        elif a.is_floating_point() and a.numel():
            tolerance = 10 * torch.finfo(a.dtype).eps ** 0.5 * max(1e-2, float(a.abs().max()))
            if not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
                return False
        elif (a != b).sum() > 1e-3 * a.numel():  # labels: rounding decides near-ties
            return False
    return True
