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

import contextlib
import copy
import operator
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

from sparsemtl.errors import SpecError, one_line
from sparsemtl.models.eeg import DualTaskNet

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVOID = "avoid in-place operations in it, and weights that are read beside their module"
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample, *AVERAGES)
MAPS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Dropout, nn.Identity)
MAP_FUNCTIONS = (F.relu, F.elu, F.gelu, F.silu, F.dropout, torch.relu, torch.sigmoid, torch.tanh)
MAKERS = (*CONVS, *NORMS)  # of a new tensor, which nothing else refers to
POOL_FUNCTIONS = (F.interpolate, F.max_pool2d, F.adaptive_avg_pool2d)
SUMS = (operator.add, torch.add)  # fx records += as operator.add
SPATIAL = (2, 3, -1, -2, slice(2, None), slice(-2, None))  # what may be read of the shape of (n, channels, H, W)


def compact(model, example, fold_norms=False):
    """Return a module with the outputs of `model` in eval mode, without its zero groups; `model` is left alone.

    model: a network that torch.fx can trace (torchvision's ResNets, also cut off as nn.Sequential, MultiTaskNet,
    plain chains), or a DualTaskNet. example: an input for it, on its device; a tuple is several arguments. Later
    inputs may have other batch sizes, heights and widths. The result is in eval mode and for inference only, as
    constants from batch norm are in its biases; it keeps module names and dtypes, and its convolutions and linear
    layers hold no masks or hooks.

    fold_norms: put each batch norm that follows a convolution into its weights and bias, and drop it. One pass over
    memory less for each, on a CPU about a tenth of the time of a compacted ResNet; DualTaskNet does that itself.

    Outputs agree up to rounding, as sums run in another order. Raises SpecError if the model does not take the
    example, cannot be traced, or gives other outputs for the example once compacted.
    """
    args = example if isinstance(example, tuple) else (example,)
    net, name = copy.deepcopy(model).eval(), type(model).__name__
    with torch.no_grad(), exact_convolutions():
        try:
            expected = net(*args)
        except Exception as error:
            raise SpecError(
                f"compact: {name} does not take the example ({one_line(error, 200)}); pass another one"
            ) from error
        small = _compact_dual(net) if isinstance(net, DualTaskNet) else _compact_graph(net, args, fold_norms)
        try:
            actual = small(*args)
        except Exception as error:
            raise SpecError(f"compact: {name} does not run when compacted ({one_line(error, 200)}): {AVOID}") from error
        if not _agree(expected, actual):
            raise SpecError(f"compact: {name} gives other outputs when compacted: {AVOID}")
    return small


@contextlib.contextmanager
def exact_convolutions():
    """Context without TensorFloat-32 on a GPU, whose rounding in convolutions looks like other outputs."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _compact_graph(net, args, fold_norms):
    name = type(net).__name__
    try:
        net = fx.GraphModule(net, _Tracer().trace(net), name)
    except Exception as error:  # the model's own code may raise anything when it meets a proxy
        raise SpecError(
            f"compact: torch.fx cannot trace {name} ({one_line(error, 200)}); its forward must not branch on its inputs"
        ) from error
    if fold_norms:
        _fold_norms(net)
    steps = list(_Recorder(net, args).steps.values())
    for step in steps:
        step.const = step.constant()
        if not step.node.users and step.node.op != "placeholder":  # the output, and what only works in place
            step.need = _all(step.width)
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
    for node in list(net.graph.nodes):
        source, norm = node.args[0] if node.args else None, modules.get(str(node.target))
        if node.op != "call_module" or not isinstance(norm, NORMS) or norm.running_mean is None:
            continue
        conv = modules[source.target] if source.op == "call_module" else None
        if isinstance(conv, CONVS) and calls[source.target] == calls[node.target] == len(source.users) == 1:
            plain = _sliced(conv, torch.arange(conv.out_channels), torch.arange(conv.in_channels))
            net.set_submodule(source.target, fuse_conv_bn_eval(plain, norm))
            node.replace_all_uses_with(source)
            net.graph.erase_node(node)


class Pick(nn.Module):
    """Channels `index` (int64) of a tensor (n, channels, ...), in the tensor's memory format."""

    def __init__(self, index):
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x):
        """Tensor (n, len(index), ...)."""
        if _channels_last(x):  # as a matrix, which index_select takes many times faster
            rows = x.permute(0, 2, 3, 1)
            return rows.flatten(0, 2).index_select(1, self.index).unflatten(0, rows.shape[:3]).permute(0, 3, 1, 2)
        return x.index_select(1, self.index)


class _Tracer(fx.Tracer):
    """Takes a network that was compacted before as well."""

    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, Pick) or super().is_leaf_module(m, module_qualified_name)


class _Recorder(fx.Interpreter):
    """Runs the example through the traced network and makes a step of each node, inputs first."""

    def __init__(self, net, args):
        super().__init__(net)
        self.steps = {}
        self.run(*args)

    def run_node(self, node):
        result = super().run_node(node)
        module = self.fetch_attr(node.target) if node.op == "call_module" else None
        shape = result.shape if isinstance(result, Tensor) and result.ndim > 1 else ()
        kind = _kind(node, module, shape, {x: self.steps[x].shape for x in node.all_input_nodes})
        self.steps[node] = kind(self, node, module, result, shape)
        return result


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
    if (isinstance(module, CONVS) and rank == module.weight.ndim) or (isinstance(module, nn.Linear) and rank == 2):
        return _Mix
    if isinstance(module, NORMS) and module.running_mean is not None:
        return _Norm
    if isinstance(module, MAPS) or (node.target in MAP_FUNCTIONS and len(shapes) == 1):
        return _Map
    if isinstance(module, POOLS) or node.target in POOL_FUNCTIONS:
        return _Pool
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return _Flatten
    if module is None and node.target in (torch.flatten, "flatten") and rest == [1] and not node.kwargs:
        return _Flatten
    if node.target in SUMS and not node.kwargs and isinstance(rest[0], fx.Node) and shapes[x] == shapes[rest[0]]:
        return _Sum
    return _Step


class _Step:
    """One operation of the traced network. Its channels are dimension 1, named by their index before the rewriting.

    This base class is for operations that are not known: they read and make all channels.
    """

    const = None  # float64 (channels,): the value of a channel that does not depend on the input, NaN of another
    need = None  # bool (channels,): somebody reads it; None: nobody reads anything of this step
    layout = None  # int64: the channels that are left

    def __init__(self, recorder, node, module, result, shape):
        self.net, self.node, self.module, self.shape = recorder.module, node, module, shape
        self.width = shape[1] if shape else 0
        self.device, self.dtype = (result.device, result.dtype) if shape else (None, None)
        self.sources = [recorder.steps[x] for x in node.all_input_nodes]
        self.picks = {}

    def constant(self):
        """Value of `const`, given those of the sources."""
        return torch.full((self.width,), torch.nan, dtype=torch.float64)

    def asks(self):
        """Pairs (source, channels that it must have), given `need`."""
        return [(source, _all(source.width)) for source in self.sources]

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
            name = _free_name(self.net, f"pick_{self.node.name}")
            self.net.add_module(name, Pick(position.to(self.device)))
            with self.net.graph.inserting_before(reader.node):
                self.picks[key] = self.net.graph.call_module(name, (self.node,))
        return self.picks[key]


class _Map(_Step):
    """Activation, or dropout in eval mode: acts on each entry alone."""

    def constant(self):
        value = self.sources[0].const
        function = self.module or (lambda v: self.node.target(v, *self.node.args[1:], **self.node.kwargs))
        return torch.where(value.isnan(), torch.nan, function(value.nan_to_num(0.0)))

    def asks(self):
        return [(self.sources[0], self.need), *super().asks()[1:]]

    def rewrite(self):
        return self.sources[0].layout


class _Pool(_Map):
    """Pooling or resizing of each channel alone; constants stay, unless an average is not one of all that it sees."""

    def constant(self):
        value = self.sources[0].const
        mean = not isinstance(self.module, AVERAGES) or (
            self.module.padding in (0, (0,), (0, 0), (0, 0, 0)) and not getattr(self.module, "divisor_override", None)
        )
        return value if mean else torch.where(value == 0, value, torch.nan)


class _Shape(_Step):
    """Height or width of a tensor: it must be there, with any channel."""

    def asks(self):
        return [(self.sources[0], ~_all(self.sources[0].width))]


class _Flatten(_Step):
    def constant(self):
        return self.sources[0].const.repeat_interleave(self.width // self.sources[0].width)

    def asks(self):
        return [(self.sources[0], self.need.view(self.sources[0].width, -1).any(1))]

    def rewrite(self):
        return torch.arange(self.width).view(self.sources[0].width, -1)[self.sources[0].layout].flatten()


class _Concatenation(_Step):
    def __init__(self, recorder, node, *others):
        super().__init__(recorder, node, *others)
        self.sources = [recorder.steps[x] for x in node.args[0]]  # one may be there twice

    def constant(self):
        return torch.cat([source.const for source in self.sources])

    def asks(self):
        return zip(self.sources, self.need.split([source.width for source in self.sources]), strict=True)

    def rewrite(self):
        starts = torch.tensor([0, *(source.width for source in self.sources)]).cumsum(0)
        return torch.cat([source.layout + start for source, start in zip(self.sources, starts, strict=False)])


class _Sum(_Step):
    """Sum of two tensors of one shape: both need the same channels, unless one is constant in all of them."""

    def __init__(self, recorder, node, *others):
        super().__init__(recorder, node, *others)
        self.sources = [recorder.steps[x] for x in node.args]

    def constant(self):
        return self.sources[0].const + self.sources[1].const

    def fixed(self):
        fixed = [source for source in self.sources if not source.const[self.need].isnan().any()]
        return fixed[0] if len(fixed) == 1 else None

    def asks(self):
        return [(source, self.need) for source in self.sources if source is not self.fixed()]

    def rewrite(self):
        kept, fixed, operands = _indices(self.need), self.fixed(), []
        for source in self.sources:
            if source is fixed:
                vector = source.const[kept].to(self.device, self.dtype).view(1, -1, *[1] * (len(self.shape) - 2))
                name = _free_name(self.net, f"constant_{self.node.name}")
                self.net.register_buffer(name, vector)
                with self.net.graph.inserting_before(self.node):
                    operands.append(self.net.graph.get_attr(name))
            else:
                operands.append(source.pick(kept, self))
        fresh = [operand for operand in operands if self._is_fresh(operand)]
        if fresh:  # no new tensor: pages of memory that were not touched before are slow
            self.node.target = operator.iadd
            operands.sort(key=lambda operand: operand is not fresh[0])
        self.node.args = tuple(operands)
        return kept

    def _is_fresh(self, operand):
        """Whether a node makes a tensor like the sum's that nobody else reads (at one position it may broadcast)."""
        makes = operand.op == "call_module" and isinstance(self.net.get_submodule(operand.target), MAKERS)
        same = {source.dtype for source in self.sources} == {self.dtype} and self.shape[2:].numel() > 1
        return makes and same and set(operand.users) <= {self.node}


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
        kept, read = _indices(self.need), _indices(self.reads())
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
        return _sliced_norm(self.module, kept)


class _Mix(_Layer):
    """Convolution or linear layer: each output is a weighted sum over the input channels, or over those of a group."""

    def constant(self):
        layer, value = self.module, self.sources[0].const
        self.groups = getattr(layer, "groups", 1)
        weight = layer.weight.double().cpu()
        weight = weight.reshape(*weight.shape[:2], -1)
        self.bias = torch.zeros(self.width).double() if layer.bias is None else layer.bias.double().cpu()
        self.live = (weight != 0).any(2)  # (outputs, inputs of a group): the output depends on the input channel
        # One bias cannot serve the constants of several calls.
        if self.groups == 1 and len(self.calls) == 1:
            movable = value == 0 if _pads(layer) else ~value.isnan()
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
        return _sliced(self.module, kept, read, self.bias, blank=not self.reads().any())


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
            kept[name] = _indices(need)
            need = layer.weight[kept[name].to(layer.weight.device)].flatten(2).ne(0).any(2).any(0).cpu()
        else:
            need = need.view(layer.groups, -1).any(1)
    have = torch.arange(1)  # signals enter as one channel
    for name, layer in layers:
        if isinstance(layer, NORMS):
            small = _sliced_norm(layer, have)
        else:
            outputs = kept[name] if layer.groups == 1 else torch.arange(layer.out_channels).view(layer.groups, -1)[have]
            small, have = _sliced(layer, outputs.flatten(), have), outputs.flatten()
        net.shared.set_submodule(name, small)
    columns = torch.arange(channels * steps).view(channels, steps)[have].flatten()
    for task, head in zip(net.tasks, heads, strict=True):
        net.set_submodule(task, _sliced(head, torch.arange(head.out_features), columns))
    net.shared.n_features = len(columns)
    return net


def _sliced(layer, outputs, inputs, bias=None, blank=False):
    """Convolution or linear layer of these outputs and input channels; bias (all outputs,) replaces that of `layer`.

    blank: the one input channel is there for its shape alone.
    """
    weight, groups = layer.weight.detach()[outputs], getattr(layer, "groups", 1)
    weight = weight[:, inputs] if groups == 1 else weight
    weight = torch.zeros_like(weight) if blank else weight
    bias = layer.bias if bias is None else bias
    if bias is not None:
        bias = bias.detach()[outputs].to(weight)
        bias = bias if layer.bias is not None or bias.any() else None
    options = {"bias": bias is not None, "device": "meta"}  # no initial weights are drawn
    if isinstance(layer, nn.Linear):
        small = nn.Linear(len(inputs), len(outputs), **options)
    else:
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        options |= {name: getattr(layer, name) for name in names}
        options["groups"] = 1 if groups == 1 else groups * len(inputs) // layer.in_channels
        small = CONVS[weight.ndim - 3](len(inputs), len(outputs), **options)
    if _channels_last(layer.weight):
        weight = weight.contiguous(memory_format=torch.channels_last)
    small.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if bias is not None:
        small.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
    return small.eval()


def _sliced_norm(norm, kept):
    small = copy.deepcopy(norm)
    small.num_features = len(kept)
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            old = getattr(norm, name)
            setattr(small, name, nn.Parameter(old.detach()[kept], requires_grad=old.requires_grad))
    small.running_mean, small.running_var = norm.running_mean[kept], norm.running_var[kept]
    return small


def _pads(layer):
    """Whether a layer puts zeros round its input."""
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" and max(layer.kernel_size) > 1
    return any(layer.padding)


def _free_name(net, name):
    while hasattr(net, name):
        name += "_"
    return name


def _channels_last(x):
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _all(count):
    return torch.ones(count, dtype=torch.bool)


def _indices(mask):
    """Indices of True, or of the first entry if there is none: tensors without channels do not work everywhere."""
    return mask.nonzero().flatten() if mask.any() else torch.zeros(1, dtype=torch.int64)


def _agree(expected, actual):
    """Whether two outputs, tensors in any structure, are equal but for rounding (generous: half types).

    The tolerance goes with the largest output, down to a hundredth: what cancels to less is left of larger values.
    """
    old, new = pytree.tree_leaves(expected), pytree.tree_leaves(actual)  # fx makes a dict of an OrderedDict
    if len(old) != len(new):
        return False
    for a, b in zip(old, new, strict=True):
        if isinstance(a, Tensor) and a.is_floating_point() and a.numel():
            tolerance = 10 * torch.finfo(a.dtype).eps ** 0.5 * max(1e-2, float(a.abs().max()))
            if a.shape != b.shape or not torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
                return False
    return True
