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
import operator
from collections import defaultdict

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from sparsemtl.errors import SpecError
from sparsemtl.models.dualtask import DualTaskNet

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample, *AVERAGES)
MAPS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Dropout, nn.Identity)
MAP_FUNCTIONS = (F.relu, F.elu, F.gelu, F.silu, F.dropout, torch.relu, torch.sigmoid, torch.tanh)
SUMS = (operator.add, operator.iadd, torch.add)
SPATIAL = (2, 3, -1, -2, slice(2, None), slice(-2, None))  # what may be read of the shape of (n, channels, H, W)


def compact(model, example):
    """Return a module with the outputs of `model` in eval mode, without its zero groups; `model` is left alone.

    model: a network that torch.fx can trace (torchvision's ResNets, also cut off as nn.Sequential, MultiTaskNet,
    plain chains), or a DualTaskNet. example: an input for it, on its device; a tuple is several arguments. Later
    inputs may have other batch sizes, heights and widths. The result is in eval mode and for inference only, as
    constants from batch norm are in its biases; it keeps module names and dtypes and holds no masks or hooks on its
    convolutions and linear layers.

    Outputs agree up to rounding, as sums run in another order. Raises SpecError if the model does not take the
    example, cannot be traced, or gives other outputs for the example once compacted.
    """
    args = example if isinstance(example, tuple) else (example,)
    net, name = copy.deepcopy(model).eval(), type(model).__name__
    with torch.no_grad():
        try:
            expected = net(*args)
        except Exception as error:
            raise SpecError(f"compact: {name} does not take the example ({_line(error)}); pass another one") from error
        small = _compact_dual(net) if isinstance(net, DualTaskNet) else _Compaction(net, args).run()
        if not _agree(expected, small(*args)):
            raise SpecError(f"compact: {name} gives other outputs when compacted; avoid in-place operations in it")
    return small


class _Compaction:
    """A traced model on its way. A channel is named by its index along dimension 1 of the original tensor."""

    def __init__(self, net, args):
        name = type(net).__name__
        try:
            self.net = fx.GraphModule(net, fx.Tracer().trace(net), name)
        except Exception as error:  # the model's own code may raise anything when it meets a proxy
            raise SpecError(f"compact: torch.fx cannot trace {name} ({_line(error)}); fix its control flow") from error
        self.nodes, self.modules = list(self.net.graph.nodes), dict(self.net.named_modules())
        self.sample = _tensors(self.net, args)  # node -> its tensor for the example, where that has channels
        self.shape = {node: tensor.shape for node, tensor in self.sample.items()}
        self.calls = defaultdict(list)  # module name -> the nodes that call it
        for node in self.nodes:
            if node.op == "call_module":
                self.calls[node.target].append(node)
        self.kind = {node: self._kind(node) for node in self.nodes}
        self.const = {}  # node -> float64 (channels,): the channel's value if that is constant, else NaN
        self.mix = {}  # convolution or linear node -> see `_mix`
        self.need = {}  # node -> bool (channels,): read by someone; no entry: nobody reads any of the node
        self.layout = {}  # node -> int64: its channels after the rewriting
        self.picks = {}

    def run(self):
        for node in self.nodes:
            self.const[node] = self._constant(node)
        self._find_needs()
        for node in self.nodes:
            if node in self.need:
                self.layout[node] = self._rewrite(node)
        for node in reversed(self.nodes):
            if node not in self.need and node.op != "placeholder":
                self.net.graph.erase_node(node)
        self.net.delete_all_unused_submodules()
        self.net.graph.lint()
        self.net.recompile()
        return self.net

    def _kind(self, node):
        """Name what a node does with channels; "other" reads and makes all of them."""
        module = self.modules[node.target] if node.op == "call_module" else None
        x = node.args[0] if node.args else None
        rest, rank = node.args[1:], len(self.shape.get(x, ())) if isinstance(x, fx.Node) else 0
        if node.target is torch.cat:
            dim = rest[0] if rest else node.kwargs.get("dim", 0)
            known = dim == 1 and isinstance(x, list | tuple) and all(part in self.shape for part in x)
            return "cat" if known else "other"
        if node.target is getattr and rest == ("shape",) and rank == 4:
            known = all(user.target is operator.getitem and user.args[1] in SPATIAL for user in node.users)
            return "shape" if known else "other"
        if not rank or node not in self.shape:
            return "other"
        rules = {
            "mix": isinstance(module, CONVS) and rank == module.weight.ndim
            or isinstance(module, nn.Linear) and rank == 2,
            "norm": isinstance(module, NORMS) and module.running_mean is not None,
            "map": isinstance(module, MAPS) or node.target in MAP_FUNCTIONS and node.all_input_nodes == [x],
            "pool": isinstance(module, POOLS) or node.target is F.interpolate,
            "flatten": isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
            or node.target is torch.flatten and rest == (1,),
            "add": node.target in SUMS and not node.kwargs and self._same_shape(x, rest[0]),
        }
        return next((kind for kind, holds in rules.items() if holds), "other")

    def _same_shape(self, x, y):
        return isinstance(y, fx.Node) and self.shape.get(x) == self.shape.get(y)

    def _width(self, node):
        return self.shape[node][1] if node in self.shape else 0

    # Forwards: which channels are constant.

    def _constant(self, node):
        unknown = torch.full((self._width(node),), torch.nan, dtype=torch.float64)
        kind, module = self.kind[node], self.modules.get(node.target) if node.op == "call_module" else None
        if kind in ("other", "shape"):
            return unknown
        if kind == "cat":
            return torch.cat([self.const[x] for x in node.args[0]])
        value = self.const[node.args[0]]
        if kind == "add":
            return value + self.const[node.args[1]]
        if kind == "flatten":
            return value.repeat_interleave(self._width(node) // len(value))
        if kind == "pool":
            pads = isinstance(module, AVERAGES) and _any(module.padding)
            return torch.where(value == 0, value, torch.nan) if pads else value
        if kind == "map":
            function = module or (lambda v: node.target(v, *node.args[1:], **node.kwargs))
            known = ~value.isnan()
            return torch.where(known, function(torch.where(known, value, 0.0)), torch.nan)
        if kind == "norm":
            scale, shift = _affine(module)
            return torch.where(scale == 0, shift, value * scale + shift)
        # With several calls one bias would have to serve different constants.
        value = value if len(self.calls[node.target]) == 1 else torch.full_like(value, torch.nan)
        self.mix[node] = reads, bias = _mix(module, value)
        return torch.where(reads.any(1), torch.nan, bias)

    # Backwards: which channels are read.

    def _find_needs(self):
        unread = [node for node in self.nodes if not node.users and node.op != "placeholder"]
        for node in unread:  # the output, and what works in place only
            self.need[node] = torch.ones(self._width(node), dtype=torch.bool)
        # One sweep is enough unless a module is called several times: its calls share what they need.
        known = -1
        while known != (known := sum(1 + int(need.sum()) for need in self.need.values())):
            for node in reversed(self.nodes):
                if node in self.need:
                    self._ask(node)

    def _ask(self, node):
        """Record what the node reads of its inputs, given what is needed of the node."""
        kind, x, need = self.kind[node], node.args[0] if node.args else None, self.need[node]
        asked = {y: torch.ones(self._width(y), dtype=torch.bool) for y in node.all_input_nodes}
        if kind in ("mix", "norm"):
            need = torch.stack([self.need[call] for call in self.calls[node.target] if call in self.need]).any(0)
        if kind == "mix":
            groups = getattr(self.modules[node.target], "groups", 1)
            if groups > 1:  # a grouped convolution loses whole groups, and keeps one
                need[0] |= not need.any()
                need = _whole_groups(need, groups, self._width(node))
        self.need[node] = need
        if kind == "mix":
            asked[x] = self._reads(node)
        elif kind in ("norm", "map", "pool"):
            asked[x] = need
        elif kind == "flatten":
            asked[x] = need.view(self._width(x), -1).any(1)
        elif kind == "cat":
            asked = dict(zip(x, need.split([self._width(part) for part in x]), strict=True))
        elif kind == "shape":
            asked[x] = torch.zeros(self._width(x), dtype=torch.bool)
        elif kind == "add":
            asked = {y: need for y in node.args if y is not self._fixed_operand(node)}
        for y, channels in asked.items():
            self.need[y] = self.need[y] | channels if y in self.need else channels

    def _reads(self, node):
        """Input channels, bool, that a convolution or linear layer reads for the outputs needed of it."""
        reads, module = self.mix[node][0], self.modules[node.target]
        groups = getattr(module, "groups", 1)
        if groups > 1:
            return _whole_groups(self.need[node], groups, module.in_channels)
        return reads[self.need[node]].any(0)

    def _fixed_operand(self, node):
        """The operand of a sum that is constant in all needed channels while the other one is not, or None."""
        need = self.need[node]
        fixed = [x for x in node.args if not self.const[x][need].isnan().any()]
        return fixed[0] if len(fixed) == 1 else None

    # Smaller modules, and picks where a reader needs less than there is.

    def _rewrite(self, node):
        """Change a node and its module to the needed channels; return the channels that it then has."""
        kind, x = self.kind[node], node.args[0] if node.args else None
        everything = torch.arange(self._width(node))
        if kind in ("other", "shape"):
            return everything
        if kind == "flatten":
            each = self._width(node) // self._width(x)
            return everything.view(-1, each)[self.layout[x]].flatten()
        if kind == "cat":
            starts = torch.tensor([0, *map(self._width, x)]).cumsum(0)
            return torch.cat([self.layout[part] + start for part, start in zip(x, starts, strict=False)])
        if kind in ("map", "pool"):
            return self.layout[x]
        kept = _indices(self.need[node])
        if kind == "add":
            self._rewrite_sum(node, kept)
            return kept
        reads = self.need[node] if kind == "norm" else self._reads(node)
        node.replace_input_with(x, self._pick(x, _indices(reads), node))
        if node is self.calls[node.target][0]:
            module = self.modules[node.target]
            if kind == "norm":
                small = _sliced_norm(module, kept)
            else:
                small = _sliced(module, kept, _indices(reads), self.mix[node][1], blank=not reads.any())
            self.net.set_submodule(node.target, small)
        return kept

    def _rewrite_sum(self, node, kept):
        fixed = self._fixed_operand(node)
        operands = []
        for x in node.args:
            if x is fixed:
                vector = self.const[x][kept].view(1, -1, *[1] * (len(self.shape[x]) - 2))
                operands.append(self._buffer(vector.to(self.sample[x]), node))
            else:
                operands.append(self._pick(x, kept, node))
        if operands[0] is not node.args[0]:
            node.target = operator.add  # in place, it would change what other readers of the operand see
        node.args = tuple(operands)

    def _pick(self, x, channels, reader):
        """Node that holds these channels of x, made before `reader` unless there is one already."""
        have = self.layout[x]
        if torch.equal(have, channels):
            return x
        key = (x, tuple(channels.tolist()))
        if key not in self.picks:
            # A node of which only the shape is read has one channel, of any name: clamp.
            position = torch.searchsorted(have, channels).clamp(max=len(have) - 1)
            index = self._buffer(position.to(self.sample[x].device), reader)
            with self.net.graph.inserting_before(reader):
                self.picks[key] = self.net.graph.call_function(torch.index_select, (x, 1, index))
        return self.picks[key]

    def _buffer(self, tensor, reader):
        name = f"channels_{len(self.net._buffers)}"
        self.net.register_buffer(name, tensor)
        with self.net.graph.inserting_before(reader):
            return self.net.graph.get_attr(name)


def _tensors(net, args):
    """Run the traced network; {node: tensor of two or more dimensions}, without storage."""
    tensors = {}

    class Recorder(fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if isinstance(result, Tensor) and result.ndim > 1:
                tensors[node] = result[:0].clone().expand_as(result[:0])
            return result

    Recorder(net).run(*args)
    return tensors


def _mix(layer, value):
    """What a convolution or linear layer does with channels of which some are constant.

    value: float64 (inputs,), NaN where not constant. Returns reads, bool (outputs, inputs of a group): the input
    channels that each output depends on; and bias, float64 (outputs,), with the constants that could be moved in.
    """
    weight = layer.weight.detach().double().cpu().flatten(2) if layer.weight.ndim > 2 else layer.weight[..., None]
    return weight, value


def _any(padding):
    return any(padding) if isinstance(padding, tuple) else bool(padding)
