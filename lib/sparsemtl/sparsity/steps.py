"""The operations of a traced network as steps that know their channels: which are constant, needed and left."""

import copy
import operator
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparsemtl.sparsity.layers import CONVS, NORMS, Pick, indices, sliced, sliced_norm

AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample)
MAPS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Dropout, nn.Identity)
MAP_FUNCTIONS = (F.relu, F.elu, F.gelu, F.silu, F.dropout, torch.relu, torch.sigmoid, torch.tanh)
POOL_FUNCTIONS = (F.interpolate, F.max_pool2d, F.adaptive_avg_pool2d)
SUMS = (operator.add, torch.add)
SPATIAL = (2, 3, -1, -2, slice(2, None), slice(-2, None))  # what may be read of the shape of (n, channels, H, W)


def merged(graph):
    """The graph, with one call for all of a module on the same input, as of a backbone that runs once for each task."""
    first = {}
    for node in graph.nodes:
        if node.op == "call_module" or node.target in SUMS:
            same = first.setdefault((node.target, node.args, tuple(node.kwargs.items())), node)
            if same is not node:
                node.replace_all_uses_with(same)
                graph.erase_node(node)
    return graph


class Recorder(fx.Interpreter):
    """Runs the example through the traced network and makes a step of each node, inputs first."""

    def __init__(self, net, args):
        super().__init__(net, garbage_collect_values=False)
        self.steps, self.uses = {}, Counter()  # of each weight and buffer
        for node in net.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                self.uses.update(_tensors(self.fetch_attr(node.target)))
        self.run(*copy.deepcopy(args))

    def run_node(self, node):
        """Result of a node, of which a step is made."""
        result = super().run_node(node)
        module = self.fetch_attr(node.target) if node.op == "call_module" else None
        sources = [self.steps[x] for x in node.all_input_nodes]
        shape = result.shape if isinstance(result, Tensor) and result.ndim > 1 else ()
        kind = _kind(node, module, shape, [source.shape for source in sources])
        if module is not None and any(self.uses[tensor] > 1 for tensor in _tensors(module)):
            kind = _Step  # who else uses its weights expects them whole
        self.steps[node] = kind(self.module, node, module, result, shape, sources)
        return result


def _tensors(value):
    return [value] if isinstance(value, Tensor) else [*value.parameters(), *value.buffers()]


def _kind(node, module, shape, shapes):
    """The class of step that a node is. shape: of its result; shapes: of its input nodes; () for no channels."""
    x, *rest = node.args or (None,)
    if node.target is torch.cat:
        along = rest[0] if rest else node.kwargs.get("dim", 0)
        apart = isinstance(x, list | tuple) and len(x) == len(shapes) and all(shapes)
        return _Concatenation if along == 1 and apart else _Step
    if not isinstance(x, fx.Node) or not shapes[0]:
        return _Step
    rank = len(shapes[0])
    if node.target is getattr and rest == ["shape"] and rank == 4:
        spatial = all(user.target is operator.getitem and user.args[1] in SPATIAL for user in node.users)
        return _Shape if spatial else _Step
    flatten = isinstance(module, nn.Flatten) and [module.start_dim, module.end_dim] == [1, -1]
    flatten |= node.target in (torch.flatten, "flatten") and rest == [1] and not node.kwargs
    dims = "".join(filter(str.isdigit, type(module).__name__)) or "2"  # 2-D pooling of (C, H, W) mixes dimension 1
    mixes = isinstance(module, (*CONVS, nn.Linear)) and getattr(module, "groups", 1) == 1
    kinds = {
        _Mix: mixes and rank == module.weight.ndim,
        _Layer: isinstance(module, NORMS) and module.running_mean is not None,
        _Map: isinstance(module, MAPS) or (node.target in MAP_FUNCTIONS and len(shapes) == 1),
        _Pool: (isinstance(module, POOLS + AVERAGES) or node.target in POOL_FUNCTIONS) and dims == str(rank - 2),
        _Flatten: flatten,
        _Sum: node.target in SUMS and len(shapes) == len(node.args) == 2 and shapes[0] == shapes[1],
    }
    return next((kind for kind, fits in kinds.items() if fits and shape), _Step)


class _Step:
    """One operation of the traced network. Its channels are dimension 1, named by their index before the rewriting.

    This base class is for operations that are not known: they read and make all channels.
    """

    need = None  # bool (channels,): somebody reads it; None: nobody reads anything of this step
    layout = None  # int64: the channels that are left

    def __init__(self, net, node, module, result, shape, sources):
        self.net, self.node, self.module, self.result = net, node, module, result
        self.shape, self.sources, self.picks = shape, sources, {}
        self.width = shape[1] if shape else 0
        self.const = self.constant()

    def constant(self):
        """Float64 (channels,): the value of a channel that does not depend on the input, NaN of another."""
        return torch.full((self.width,), torch.nan, dtype=torch.float64)

    def asks(self):
        """Pairs (source, channels that it must have), given `need`."""
        return [(source, torch.ones(source.width).bool()) for source in self.sources]

    def rewrite(self):
        """Change the node, and its module, to what is needed; value of `layout`, given those of the sources."""
        return torch.arange(self.width)

    def pick(self, channels, reader):
        """Node with these channels of this step, made before `reader`'s unless there is one already."""
        if torch.equal(self.layout, channels):
            return self.node
        key = tuple(channels.tolist())
        if key not in self.picks:
            # A step of which only the shape is read has one channel, of any name: clamp.
            position = torch.searchsorted(self.layout, channels).clamp(max=len(self.layout) - 1)
            name = f"pick_{self.node.name}_{len(self.picks)}"
            self.net.add_module(name, Pick(position.to(self.result.device)))
            with self.net.graph.inserting_before(reader.node):
                self.picks[key] = self.net.graph.call_module(name, (self.node,))
        return self.picks[key]


class _Map(_Step):
    """Activation, or dropout in eval mode. Each channel comes from one channel, which may become several channels."""

    def constant(self):
        value = self.sources[0].const
        function = self.module or (lambda v: self.node.target(v, *self.node.args[1:], **self.node.kwargs))
        return torch.where(value.isnan(), torch.nan, function(value.nan_to_num(0.0)))

    def asks(self):
        return [(self.sources[0], self.need.view(self.sources[0].width, -1).any(1)), *super().asks()[1:]]

    def rewrite(self):
        return torch.arange(self.width).view(self.sources[0].width, -1)[self.sources[0].layout].flatten()


class _Pool(_Map):
    """Pooling or resizing of each channel alone; of averages, which may see padding or divide, zeros alone stay."""

    def constant(self):
        value = self.sources[0].const
        return torch.where(value == 0, value, torch.nan) if isinstance(self.module, AVERAGES) else value


class _Flatten(_Map):
    def constant(self):
        return self.sources[0].const.repeat_interleave(self.width // self.sources[0].width)


class _Shape(_Step):
    """Height or width of a tensor: it must be there, with any channel."""

    def asks(self):
        return [(self.sources[0], torch.zeros(self.sources[0].width).bool())]


class _Concatenation(_Step):
    def constant(self):
        return torch.cat([source.const for source in self.sources])

    def asks(self):
        return zip(self.sources, self.need.split([source.width for source in self.sources]), strict=True)

    def rewrite(self):
        starts = torch.tensor([0, *(source.width for source in self.sources)]).cumsum(0)
        return torch.cat([source.layout + start for source, start in zip(self.sources, starts, strict=False)])


class _Sum(_Step):
    """Sum of two tensors of one shape: both need the same channels, unless one is constant in all of them."""

    def constant(self):
        return self.sources[0].const + self.sources[1].const

    def fixed(self):
        fixed = [source for source in self.sources if not source.const[self.need].isnan().any()]
        return fixed[0] if len(fixed) == 1 and 1 not in self.shape[2:] else None  # 1: the other may broadcast

    def asks(self):
        return [(source, self.need) for source in self.sources if source is not self.fixed()]

    def rewrite(self):
        kept = indices(self.need)
        self.node.args = tuple(self.operand(source, kept) for source in self.sources)
        return kept

    def operand(self, source, kept):
        if source is not self.fixed():
            return source.pick(kept, self)
        name = f"constant_{self.node.name}"
        vector = source.const[kept].to(self.result).view(-1, *[1] * (len(self.shape) - 2))
        self.net.register_buffer(name, vector)
        with self.net.graph.inserting_before(self.node):
            return self.net.graph.get_attr(name)


class _Layer(_Step):
    """A module with weights that acts once: batch norm in eval mode, or one that overrides what is of batch norm."""

    def constant(self):
        norm = self.module
        scale = (norm.running_var.double() + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
        shift = (0.0 if norm.bias is None else norm.bias.double()) - norm.running_mean.double() * scale
        scale, shift = scale.cpu(), shift.cpu()
        return torch.where(scale == 0, shift, self.sources[0].const * scale + shift)

    def reads(self):
        """The channels of the source that matter, given `need`."""
        return self.need

    def asks(self):
        return [(self.sources[0], self.reads())]

    def smaller(self, kept, read):
        """The module cut down to these outputs and inputs."""
        return sliced_norm(self.module, kept)

    def rewrite(self):
        kept, read = indices(self.need), indices(self.reads())
        self.node.replace_input_with(self.sources[0].node, self.sources[0].pick(read, self))
        self.net.set_submodule(self.node.target, self.smaller(kept, read))
        return kept


class _Mix(_Layer):
    """Convolution or linear layer: each output is a weighted sum over the input channels."""

    def constant(self):
        layer, value = self.module, self.sources[0].const
        weight = layer.weight.double().cpu().unsqueeze(-1).flatten(2)
        bias = torch.zeros(self.width).double() if layer.bias is None else layer.bias.double().cpu()
        # A padded border holds zeros; a bias where there was none may outweigh the only channel.
        pads = getattr(layer, "padding_mode", "") == "zeros" and any(layer._reversed_padding_repeated_twice)
        movable = value == 0 if pads or (layer.bias is None and len(value) == 1) else ~value.isnan()
        self.bias = bias + weight.sum(2)[:, movable] @ value[movable]
        self.live = (weight != 0).any(2) & ~movable  # (outputs, inputs): the output depends on the input channel
        return torch.where(self.live.any(1), torch.nan, self.bias)

    def reads(self):
        return self.live[self.need].any(0)

    def smaller(self, kept, read):
        return sliced(self.module, kept, read, self.bias, blank=not self.reads().any())
