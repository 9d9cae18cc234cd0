"""The operations of a traced network as steps that know their channels: which are constant, needed and left."""

import copy
import operator
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from sparsemtl.errors import SpecError
from sparsemtl.sparsity.layers import CONVS, NORMS, Pick, free_name, indices, sliced, sliced_norm

AVOID = "avoid in-place operations in it"
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample)
MAPS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Dropout, nn.Identity)
MAP_FUNCTIONS = (F.relu, F.elu, F.gelu, F.silu, F.dropout, torch.relu, torch.sigmoid, torch.tanh)
POOL_FUNCTIONS = (F.interpolate, F.max_pool2d, F.adaptive_avg_pool2d)
SUMS = (operator.add, operator.iadd, torch.add)
SPATIAL = (2, 3, -1, -2, slice(2, None), slice(-2, None))  # what may be read of the shape of (n, channels, H, W)


class _Proxy(fx.Proxy):
    """Records `x += y` and its like as what they are; torch.fx takes them for `x = x + y`."""


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul"):
    _change = getattr(operator, _name)
    setattr(_Proxy, f"__{_name}__", lambda self, other, change=_change: self.tracer.create_proxy(
        "call_function", change, (self, other), {}))  # fmt: skip


class Tracer(fx.Tracer):
    """Takes a network that was compacted before as well, and sees changes in place."""

    def proxy(self, node):
        """Proxy of a node."""
        return _Proxy(node, self)

    def is_leaf_module(self, m, module_qualified_name):
        """Whether a module becomes one node."""
        return isinstance(m, Pick) or super().is_leaf_module(m, module_qualified_name)


class Watch(fx.Interpreter):
    """Runs a traced network; `seen` is what its steps that make labels or conditions read, by name."""

    def __init__(self, net, args):
        super().__init__(net, garbage_collect_values=False)
        self.extra_traceback, self.seen = False, {}
        self.run(*copy.deepcopy(args))

    def run_node(self, node):
        """Result of a node."""
        result = super().run_node(node)
        if any(isinstance(t, Tensor) and not t.is_floating_point() for t in pytree.tree_leaves(result)):
            self.seen[node.name] = copy.deepcopy([self.env[x] for x in node.all_input_nodes])
        return result


class Recorder(Watch):
    """Runs the example through the traced network and makes a step of each node, inputs first."""

    def __init__(self, net, args):
        uses = Counter(p for m in net.modules() for p in m.parameters(recurse=False))
        self.steps, self.tied = {}, {m for m in net.modules() if any(uses[p] > 1 for p in m.parameters(recurse=False))}
        for node in net.graph.nodes:
            if node.op == "get_attr" and any(user.args[1:] not in (("dtype",), ("device",)) for user in node.users):
                self.tied.add(net.get_submodule(node.target.rpartition(".")[0]))
        super().__init__(net, args)

    def run_node(self, node):
        """Result of a node, of which a step is made."""
        before = {x: _versions(self.env[x]) for x in node.all_input_nodes}
        result = super().run_node(node)
        for x, versions in before.items():
            if versions != _versions(self.env[x]):
                self._check_change(node, _storages(self.env[x]))
        module = self.fetch_attr(node.target) if node.op == "call_module" else None
        shape = result.shape if isinstance(result, Tensor) and result.ndim > 1 else ()
        kind = _kind(node, module, shape, {x: self.steps[x].shape for x in node.all_input_nodes})
        if module in self.tied or (kind is _Sum and not all(self.steps[x].given for x in node.args)):
            kind = _Step  # weights that are used elsewhere as well; a learned constant, which broadcasts
        read = {_Sum: node.args, _Concatenation: node.args[0] if node.args else ()}.get(kind, node.all_input_nodes)
        self.steps[node] = kind(self, node, module, result, shape, [self.steps[x] for x in read])
        return result

    def _check_change(self, node, storages):
        """A tensor that is changed in place must not be read later, but as the result of the change."""
        done = {node, *self.steps}
        for earlier in self.steps:
            if storages & _storages(self.env[earlier]) and not set(earlier.users) <= done:
                raise SpecError(f"compact: {node} changes {earlier} in place, which is read later: {AVOID}")


def _versions(value):
    return [t._version for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


def _storages(value):
    return {t.untyped_storage().data_ptr() for t in pytree.tree_leaves(value) if isinstance(t, Tensor) and t.numel()}


def _kind(node, module, shape, shapes):
    """The class of step that a node is. shape: of its result; shapes: of its input nodes; () for no channels."""
    x, *rest = node.args or (None,)
    if node.target is torch.cat:
        along = rest[0] if rest else node.kwargs.get("dim", 0)
        return _Concatenation if along == 1 and isinstance(x, list | tuple) and all(shapes.values()) else _Step
    rank = len(shapes[x]) if isinstance(x, fx.Node) else 0
    if node.target is getattr and rest == ["shape"] and rank == 4:
        spatial = all(user.target is operator.getitem and user.args[1] in SPATIAL for user in node.users)
        return _Shape if spatial else _Step
    if not rank or not shape:
        return _Step
    flatten = isinstance(module, nn.Flatten) and [module.start_dim, module.end_dim] == [1, -1]
    flatten |= module is None and node.target in (torch.flatten, "flatten") and rest == [1] and not node.kwargs
    rest = rest[:1] if not node.kwargs and node.target in SUMS and isinstance(rest[0], fx.Node) else []
    dims = "".join(filter(str.isdigit, type(module).__name__)) or "2"  # 2-D pooling of (C, H, W) mixes dimension 1
    kinds = {
        _Mix: isinstance(module, (*CONVS, nn.Linear)) and rank == module.weight.ndim,
        _Norm: isinstance(module, NORMS) and module.running_mean is not None,
        _Map: isinstance(module, MAPS) or (node.target in MAP_FUNCTIONS and len(shapes) == 1),
        _Pool: (isinstance(module, POOLS + AVERAGES) or node.target in POOL_FUNCTIONS) and dims == str(rank - 2),
        _Flatten: flatten,
        _Sum: any(shapes[x] == shapes[other] for other in rest),
    }
    return next((kind for kind, fits in kinds.items() if fits), _Step)


class _Step:
    """One operation of the traced network. Its channels are dimension 1, named by their index before the rewriting.

    This base class is for operations that are not known: they read and make all channels.
    """

    const = None  # float64 (channels,): the value of a channel that does not depend on the input, NaN of another
    need = None  # bool (channels,): somebody reads it; None: nobody reads anything of this step
    layout = None  # int64: the channels that are left

    def __init__(self, recorder, node, module, result, shape, sources):
        self.net, self.node, self.module, self.shape = recorder.module, node, module, shape
        self.result, self.width = result, shape[1] if shape else 0
        self.sources, self.picks = sources, {}
        self.given = node.op == "placeholder" or any(source.given for source in sources)  # depends on the input

    def constant(self):
        """Value of `const`, given those of the sources."""
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
            name = free_name(self.net, f"pick_{self.node.name}")
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


class _Shape(_Step):
    """Height or width of a tensor: it must be there, with any channel."""

    def asks(self):
        return [(self.sources[0], torch.zeros(self.sources[0].width).bool())]


class _Flatten(_Map):
    def constant(self):
        return self.sources[0].const.repeat_interleave(self.width // self.sources[0].width)


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
        kept, fixed, operands = indices(self.need), self.fixed(), []
        for source in self.sources:
            if source is fixed:
                name = free_name(self.net, f"constant_{self.node.name}")
                vector = source.const[kept].to(self.result).view(-1, *[1] * (len(self.shape) - 2))
                self.net.register_buffer(name, vector)
                with self.net.graph.inserting_before(self.node):
                    operands.append(self.net.graph.get_attr(name))
                self.node.target = operator.add  # not into the constant
            else:
                operands.append(source.pick(kept, self))
        self.node.args = tuple(operands)
        return kept


class _Layer(_Step):
    """A module with weights. Steps that call the same module share its weights, and so what is needed of it."""

    def __init__(self, recorder, node, module, *others):
        super().__init__(recorder, node, module, *others)
        self.calls = [step for step in recorder.steps.values() if step.module is module] + [self]
        for step in self.calls:
            step.calls = self.calls

    def asks(self):
        self.need = torch.stack([step.need for step in self.calls if step.need is not None]).any(0)
        return [(self.sources[0], self.reads())]

    def rewrite(self):
        kept, read = indices(self.need), indices(self.reads())
        self.node.replace_input_with(self.sources[0].node, self.sources[0].pick(read, self))
        if self.net.get_submodule(self.node.target) is self.module:  # not yet replaced by an earlier call
            self.net.set_submodule(self.node.target, self.smaller(kept, read))
        return kept


class _Norm(_Layer):
    """Batch norm in eval mode."""

    def constant(self):
        norm = self.module
        scale = (norm.running_var.double() + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
        shift = (0.0 if norm.bias is None else norm.bias.double()) - norm.running_mean.double() * scale
        scale, shift = scale.cpu(), shift.cpu()
        return torch.where(scale == 0, shift, self.sources[0].const * scale + shift)

    def reads(self):
        return self.need

    def smaller(self, kept, _):
        return sliced_norm(self.module, kept)


class _Mix(_Layer):
    """Convolution or linear layer: each output is a weighted sum over the input channels, or over those of a group."""

    def constant(self):
        layer, value = self.module, self.sources[0].const
        self.groups = getattr(layer, "groups", 1)
        weight = layer.weight.double().cpu()
        weight = weight.reshape(*weight.shape[:2], -1)
        self.bias = torch.zeros(self.width).double() if layer.bias is None else layer.bias.double().cpu()
        self.live = (weight != 0).any(2)  # (outputs, inputs of a group): the output depends on the input channel
        # One bias cannot serve the constants of several calls, and a new one may outweigh the only channel.
        if self.groups == 1 and len(self.calls) == 1:
            pads = getattr(layer, "padding_mode", "") == "zeros" and any(layer._reversed_padding_repeated_twice)
            movable = value == 0 if pads or (layer.bias is None and len(value) == 1) else ~value.isnan()
            self.bias = self.bias + weight.sum(2)[:, movable] @ value[movable]
            self.live &= ~movable
        return torch.where(self.live.any(1), torch.nan, self.bias)

    def asks(self):
        asked = super().asks()
        if self.groups == 1:
            return asked
        # A grouped convolution loses whole groups, and keeps one.
        groups = self.need.view(self.groups, -1).any(1)
        groups[0] |= not groups.any()
        self.need = groups.repeat_interleave(self.width // self.groups)
        return [(self.sources[0], self.reads())]

    def reads(self):
        if self.groups == 1:
            return self.live[self.need].any(0)
        return self.need.view(self.groups, -1).any(1).repeat_interleave(self.sources[0].width // self.groups)

    def smaller(self, kept, read):
        return sliced(self.module, kept, read, self.bias, blank=not self.reads().any())
