"""Physical removal of dead channels: the same function with smaller tensors.

A group is one input channel of a convolution, theta[:, c] (Upadhyay et al. 2023, Eq. 6). If it is zero, the layer
does not read channel c of the stream before it, and a channel that nobody reads is not made: its filter, its
batch-norm entry and, in turn, the input channels that only it read are dropped. A residual stream keeps what any of
its readers needs; each reader then picks its own channels (index_select).

A filter of zeros gives a constant, of which batch norm and activation make another one. Zeros are dropped. Other
constants move into the next layer's bias if that layer does not pad (a padded border holds zeros), and into one added
vector if they are all that is left of a residual branch.

torch.fx gives the graph; operations that are not known here, grouped convolutions too, keep all their channels.
"""

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from sparsemtl.errors import SpecError, one_line
from sparsemtl.models.eeg import BACKBONES, DualTaskNet
from sparsemtl.sparsity.layers import CONVS, NORMS, exact_convolutions, indices, sliced, sliced_norm
from sparsemtl.sparsity.steps import Recorder, merged

AVOID = "avoid in-place operations in it"


@torch.inference_mode(False)  # its tensors could not be used elsewhere
def compact(model: nn.Module, example: Any) -> nn.Module:
    """The same function with smaller tensors, up to rounding: zero groups are gone, and all that led to them alone.

    Parameters
    ----------
    model : torch.nn.Module
        A network that torch.fx can trace (torchvision's ResNets, MultiTaskNet, plain chains), or a DualTaskNet with a
        trunk of ours; it is left alone.
    example : Tensor, dict of Tensor or tuple
        An input on its device; a tuple is several arguments. Later inputs may have other batch sizes and resolutions.

    Returns
    -------
    torch.nn.Module
        In eval mode and for inference only, as constants from batch norm are in its biases. It keeps module names and
        dtypes; its convolutions and linear layers hold no masks or hooks.

    Raises
    ------
    SpecError
        The model does not take the example, cannot be traced or copied, or gives other outputs for the example once
        compacted, as one may that reads a tensor again after a change in place.
    """
    args, name = example if isinstance(example, tuple) else (example,), type(model).__name__

    def tried(fault, advice, function, *args):
        try:
            return function(*copy.deepcopy(args))
        except Exception as error:  # a model's own code may raise anything
            raise SpecError(f"compact: {name} {fault} ({one_line(error, 200)}): {advice}") from error

    # torch.nn.utils.prune and weight_norm leave weights that are no parameters
    net = tried("cannot be copied", "make its weights plain", lambda: copy.deepcopy(model).eval())
    with torch.no_grad(), exact_convolutions():
        cases = [(args, tried("does not take the example", "pass another one", net, *args))]
        with contextlib.suppress(Exception):  # a batch of one hides what broadcasts
            twice = pytree.tree_map(_doubled, args)
            cases.append((twice, net(*copy.deepcopy(twice))))
        if type(net) is DualTaskNet and type(net.shared) in BACKBONES.values():
            small = _compact_dual(net)
        else:
            graph = tried("cannot be traced by torch.fx", "branch on no input", lambda: merged(fx.Tracer().trace(net)))
            small = _compact_graph(fx.GraphModule(net, graph, name), cases[-1][0])
        for given, expected in cases:
            if not _agree(expected, tried("does not run when compacted", AVOID, small, *given)):
                raise SpecError(f"compact: {name} gives other outputs when compacted: {AVOID}")
    return small


def _doubled(value):
    """A batch of one as a batch of two."""
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim and len(value) == 1 else value


def _compact_graph(net, args):
    """Take the dead channels out of a traced network in place: what each step needs, from the outputs backwards."""
    steps = list(Recorder(net, args).steps.values())
    for step in reversed(steps):
        if not step.node.users and step.node.op != "placeholder":  # the output, and what only works in place
            step.need = torch.ones(step.width).bool()
        for source, channels in step.asks() if step.need is not None else ():
            source.need = channels if source.need is None else source.need | channels
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


def _compact_dual(net):
    """Take the dead channels out of a DualTaskNet in place, whose merged convolutions cannot be traced.

    Its convolutions and norms are registered in the order in which they act. What a grouped convolution makes of a
    channel stays whole.
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
    """Whether two outputs, tensors in any structure, are equal but for rounding (generous: half types)."""
    old, new = pytree.tree_leaves(expected), pytree.tree_leaves(actual)  # fx makes a dict of an OrderedDict
    return len(old) == len(new) and all(map(_same, old, new))


def _same(a, b):
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a == b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point() and a.numel():  # down to a hundredth: what cancels to less is left of larger values
        tolerance = 10 * torch.finfo(a.dtype).eps ** 0.5 * max(1e-2, float(a.nan_to_num(0, 0, 0).abs().max()))
        return torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)
    return (a != b).sum() <= 1e-3 * a.numel()  # labels: rounding decides near-ties
