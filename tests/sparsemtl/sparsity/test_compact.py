"""`compact` against the model it was given: same outputs, tensors as small as the pattern of zeros implies."""

import math

import pytest
import torch
from as_trained import everything, settled
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsemtl.errors import SpecError
from sparsemtl.models.dense import MultiTaskNet, backbone_convs, dilated_resnet
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.layers import Pick
from sparsemtl.sparsity.masks import apply_masks
from sparsemtl.sparsity.measure import group_sparsity
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.prune import l1_unstructured
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18


def pruned(model, groups, filters=0.0, dead="", seed=0):
    """Zero these shares of input channels and of whole filters, and all of the convolution named `dead`."""
    g = torch.Generator().manual_seed(seed)
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d):
            weight = conv.weight.data
            weight[:, torch.rand(weight.shape[1], generator=g) < groups] = 0
            weight[torch.rand(weight.shape[0], generator=g) < filters] = 0
            weight.mul_(name != dead)
    return model


def compacted(model, x, *others, tolerance=1e-4):
    """The compacted model: not larger, in eval mode, the same for x and other inputs; the given model is as it was."""
    before = everything(model)
    small = compact(model, x)
    assert_close(everything(model), before, rtol=0, atol=0)
    assert n_parameters(small) <= n_parameters(model)
    assert not any(module.training for module in small.modules())
    model.eval()
    with torch.no_grad():
        for given in (x, *others):
            assert_close(small(given), model(given), rtol=tolerance, atol=tolerance, equal_nan=True)
    return small


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


def flops(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("groups", "filters", "dead", "most"),  # most: share of the parameters that may be left
    [(0.0, 0.0, "", 1.0), (0.3, 0.1, "", 0.73), (0.7, 0.0, "", 0.37), (0.9, 0.3, "", 0.19),
     *((0.4, 0.0, name, 0.6) for name in ("conv1", "layer1.0.conv1", "layer2.0.downsample.0", "layer4.1.conv2")),
     (1.1, 0.0, "", 3e-4)],  # everything is dead: biases are left
)  # fmt: skip
def test_patterns_of_zeros_in_resnet18(groups, filters, dead, most):
    torch.manual_seed(1)
    model, x = pruned(settled(resnet18(weights=None)), groups, filters, dead), noise(2, 3, 32, 32)
    small = compacted(model, x)
    assert n_parameters(small) <= most * n_parameters(model)
    assert flops(small, x) <= flops(model, x) * (1 if groups < 1 else 1e-3)


def test_a_dead_residual_branch_becomes_one_added_vector():
    model, x = pruned(settled(dilated_resnet(4, (2, 1, 1, 1))), 0.0, dead="layer1.1.conv3"), noise(2, 3, 32, 32)
    small = compacted(model, x)
    gone = [module for name, module in model.named_modules() if name.startswith("layer1.1.conv")]
    assert not [name for name, _ in small.named_modules() if name.startswith("layer1.1.conv")]
    assert flops(model, x) - flops(small, x) == sum(2 * 2 * 8 * 8 * conv.weight.numel() for conv in gone)


@pytest.mark.parametrize("options", [{}, {"stem": "deep", "passes": "per-task", "bounded": ("depth",)}])
def test_multitask_net(options):
    torch.manual_seed(0)
    sizes = {"width": 4, "layers": (2, 1, 1, 2), "head_width": 8, "rates": (1, 2, 3)}
    model = MultiTaskNet(("seg", "normal", "depth", "smile"), 5, **sizes, **options)
    for weight in backbone_convs(settled(model)).values():
        weight.data[:, 1::2] = 0
    small = compacted(model.train(), noise(2, 3, 32, 32), noise(1, 3, 32, 32), noise(3, 3, 48, 40))
    assert group_sparsity(list(backbone_convs(small).values())) == 0
    assert list(backbone_convs(small)) == list(backbone_convs(model))


@st.composite
def chains(draw):
    """A random chain of layers in float64 with random dead channels, filters and layers, and an input for it."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    width, equal = draw(st.integers(1, 5)), draw(st.booleans())
    channels, layers = width, []
    for _ in range(draw(st.integers(1, 4))):
        out, kernel = (width, 1) if equal else (draw(st.integers(1, 5)), draw(st.sampled_from([1, 3])))
        padding, mode = draw(st.sampled_from([(0, "zeros"), (1, "zeros"), (1, "circular"), ("same", "zeros")]))
        conv = nn.Conv2d(channels, out, kernel, padding=padding, padding_mode=mode, bias=draw(st.booleans()))
        if equal and layers and draw(st.booleans()):
            conv.weight = layers[0].weight  # tied weights stay whole
        conv.weight.data[:, torch.rand(channels) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
        conv.weight.data[torch.rand(out) < draw(st.sampled_from([0.0, 0.5]))] = 0
        layers += [conv, *([nn.BatchNorm2d(out)] if draw(st.booleans()) else [])]
        pooled = nn.ReLU(inplace=True), nn.AvgPool2d(3, 1, 1, divisor_override=draw(st.sampled_from([None, 1, 7])))
        layers += draw(st.sampled_from([(), (nn.ReLU(),), (nn.Sigmoid(),), pooled]))
        channels = out
    if draw(st.booleans()):  # as small as possible, with a constant to move
        layers = [nn.Conv2d(width, 1, 1), nn.Conv2d(1, 3, 1, bias=False)]
        layers[0].weight.data.zero_()
        channels = 3
    if draw(st.booleans()):
        linear = nn.Linear(channels * 4, 3)
        linear.weight.data[:, torch.rand(channels * 4) < 0.5] = 0
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear]
    return settled(nn.Sequential(*layers)).double(), noise(2, width, 9, 10).double()


@settings(max_examples=80)
@given(chains())
def test_random_chains_are_exact_in_float64(case):
    compacted(*case, tolerance=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_parameters_and_flops_of_a_chain_in_closed_form(seed):
    widths, kernels, side = (3, 12, 10, 8, 6), (3, 1, 5, 3), 16
    sizes = zip(widths[:-1], widths[1:], kernels, strict=True)
    convs = [nn.Conv2d(c_in, c_out, k, padding=k // 2, bias=False) for c_in, c_out, k in sizes]
    layers = [layer for conv in convs for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())]
    model, x = pruned(settled(nn.Sequential(*layers)), 0.4, seed=seed), noise(2, 3, side, side)
    small = compacted(model, x)
    reads = [int(conv.weight.any(0).flatten(1).any(1).sum()) for conv in convs]
    assert all(reads)
    makes = [*reads[1:], widths[-1]]  # a layer makes what the next one reads, the last one everything
    weights = [k * k * r * m for k, r, m in zip(kernels, reads, makes, strict=True)]
    assert n_parameters(small) == sum(weights) + 2 * sum(makes)
    assert flops(small, x) == 2 * 2 * side * side * sum(weights)


@pytest.mark.parametrize(("padding", "kept"), [(0, 3), (1, 4)])
def test_constant_channels_move_into_the_bias_only_without_padding(padding, kept):
    first, second = nn.Conv2d(2, 5, 3, bias=False), nn.Conv2d(5, 4, 3, padding=padding, bias=False)
    first.weight.data[:2] = 0
    norm = nn.BatchNorm2d(5)
    norm.bias.data.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0]))  # channel 0 is 1 after the ReLU, channel 1 is 0
    small = compacted(nn.Sequential(first, norm, nn.ReLU(), second).eval(), noise(2, 2, 9, 9))
    assert small.get_submodule("3").in_channels == kept
    assert (small.get_submodule("3").bias is not None) == (padding == 0)


class Net(nn.ModuleDict):
    """Modules by name, and a function of the network and x that is its forward."""

    def __init__(self, function, **modules):
        super().__init__(modules)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def test_unknown_operations_keep_their_channels():
    def unknown(net, x):
        h = net.grouped(net.first(x))
        h = h.roll(1, dims=1) * h.mean((2, 3), keepdim=True)
        return torch.cat([net.second(h), h[..., 2:, 2:]], dim=1).softmax(1)

    model = Net(unknown, first=nn.Conv2d(3, 6, 3), grouped=nn.Conv2d(6, 6, 1, groups=3), second=nn.Conv2d(6, 6, 3))
    model.second.weight.data[:, :4] = 0
    model.first.weight.data[0] = 0
    small = compacted(model.eval(), noise(2, 3, 8, 8))
    assert (small.first.weight.shape, small.second.weight.shape) == ((6, 3, 3, 3), (6, 2, 3, 3))


def test_a_module_that_is_called_on_two_tensors_keeps_its_channels():
    def forward(net, x):
        return net.top(net.shared(F.relu(net.left(x)))) + net.top(net.shared(F.relu(net.right(x))))

    model = Net(forward, **{name: nn.Conv2d(3, 3, 1) for name in ("left", "right", "shared", "top")}).eval()
    model.left.weight.data.zero_()  # a constant, but only in one of the two calls
    model.shared.weight.data[:, 1] = model.top.weight.data[:, 1] = 0
    small = compacted(model, noise(2, 3, 8, 8))
    assert small.shared.weight.shape == small.top.weight.shape == (3, 3, 1, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_stay(memory_format):
    model = pruned(settled(dilated_resnet(4, (1, 1, 1, 1))), 0.5).to(memory_format=memory_format)
    x = noise(2, 3, 32, 32).to(memory_format=memory_format)
    small = compacted(model, x)
    assert any(isinstance(module, Pick) for module in small.modules())
    kept = [*backbone_convs(small).values(), small(x)]
    assert all(tensor.is_contiguous(memory_format=memory_format) for tensor in kept)


@pytest.mark.parametrize(("backbone", "n_times"), [("eegnet", 128), ("shallow", 160), ("deep4", 441)])
def test_dual_task_net(backbone, n_times):
    torch.manual_seed(0)
    model = settled(DualTaskNet(4, n_times, 3, backbone=backbone))
    last = [name for name, p in model.shared.named_parameters("shared") if p.ndim > 1][-1]
    masks = {name: torch.ones_like(model.get_parameter(name)).bool() for name in (last, "mi.weight", "me.weight")}
    masks[last][:, [1, *range(4, 8)]] = False  # EEGNet's temporal filters 2 and 3 are dead, of filter 0 only a half
    for task in ("mi", "me"):  # the heads read nothing of the last two features
        masks[f"{task}.weight"].view(3, len(masks[last]), -1)[:, -2:] = False
    apply_masks(model, masks)
    small = compacted(model, {"mi": noise(3, 4, n_times), "me": noise(2, 4, n_times, seed=1)})
    shape, new = model.get_parameter(last).shape, small.get_parameter(last).shape
    assert new[:2] == (shape[0] - 2, shape[1] - (4 if backbone == "eegnet" else 5))
    if backbone == "eegnet":
        assert (len(small.shared.temporal.weight), small.shared.separable_depth.groups) == (6, 12)


def two(function):
    """Two convolutions of which the second does not read channel 0, whose filter in the first is zero."""
    net = Net(function, first=nn.Conv2d(3, 4, 1), second=nn.Conv2d(4, 4, 1), relu=nn.ReLU(inplace=True)).eval()
    net.first.weight.data[0] = net.second.weight.data[:, 0] = 0
    return net


def answer(net, x):
    return net.second(net.first(x))


def reread(net, x):
    """w is changed with y, which torch.fx does not see; labels alone leave the network."""
    w = y = net.first(x)
    y += net.second(y)
    return (w + 0.9 * y.flip(1)).argmax(1)


class Ours(DualTaskNet):
    """Only looks like ours: its forward might be another."""


OTHER_TRUNK = nn.Sequential(nn.Conv1d(3, 1, 1), nn.Flatten())
OTHER_TRUNK.n_features = 8
PICTURE = noise(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [(two(lambda net, x: net.first(x) if x.sum() > 0 else x), PICTURE, "Net cannot be traced"),
     (two(reread), PICTURE, "Net gives other outputs"),
     (Net(lambda net, x: torch.rand_like(x).argmax(1)), PICTURE, "Net gives other outputs"),  # other labels
     (Net(lambda net, x: torch.rand_like(x).masked_fill(x > 2, -math.inf)), PICTURE, "Net gives other outputs"),
     (Net(lambda net, x: 2e-3 * torch.rand_like(x)), PICTURE, "Net gives other outputs"),  # small outputs
     (DualTaskNet(3, 8, 2, backbone=OTHER_TRUNK), {"mi": noise(1, 3, 8)}, "DualTaskNet cannot be traced"),
     (Ours(4, 160, 3, backbone="shallow"), {"mi": noise(1, 4, 160)}, "Ours cannot be traced"),
     (l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5), PICTURE, "Conv2d cannot be copied"),
     (nn.Conv2d(5, 4, 3), PICTURE, "Conv2d does not take the example")],
)  # fmt: skip
def test_unfit_models_and_examples_are_named(model, example, message):
    with pytest.raises(SpecError, match=message) as caught:
        compact(model, example)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("forward", "dead", "example"),
    [(lambda net, x: net.third(net.second(net.here) + net.first(x)), 0, (1, 3, 8, 8)),  # of a learned constant
     (lambda net, x: net.third(net.first(x) + net.second(net.here)), 0, (1, 3, 8, 8)),
     (lambda net, x: net.third(net.second(x.mean((2, 3), keepdim=True)) + net.first(x)), 6, (2, 3, 1, 1))],
)  # fmt: skip
def test_a_constant_branch_broadcasts_over_larger_inputs_than_the_example(forward, dead, example):
    layers = {"first": nn.Conv2d(3, 6, 1), "second": nn.Conv2d(3, 6, 1), "third": nn.Conv2d(6, 2, 1)}
    model = Net(forward, **layers).eval()
    model.here = nn.Parameter(torch.randn(1, 3, 8, 8))
    model.third.weight.data[:, 2] = 0
    model.first.weight.data[:dead] = 0
    compacted(model, noise(*example), noise(4, 3, 8, 8))


def unread(net, x):
    """Changes in place whose old values nobody reads later."""
    y = net.first(x)
    y += net.second(y)
    z = net.relu(y)
    z *= 2
    return z.sum(1)


BESIDE = {  # what a forward reads of a weight that its module uses as well
    "shape": lambda net, x: answer(net, x) * net.first.weight.shape[0],
    "values": lambda net, x: answer(net, x) + net.first.weight.abs().mean() + net.first.bias.mean(),
    "convolution": lambda net, x: net.second(h := net.first(x)) + F.conv2d(h, net.second.weight),
    "size": lambda net, x: (answer(net, x) * net.first.weight.numel()).masked_fill(x[:, :1] > 0, -math.inf),
}


@pytest.mark.parametrize("forward", [*BESIDE.values(), unread], ids=[*BESIDE, "in place"])
def test_weights_that_are_read_beside_their_module_and_values_changed_in_place_are_right(forward):
    compacted(two(forward), PICTURE, noise(64, 3, 8, 8, seed=1))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_outputs_that_are_no_numbers_are_equal(mode):
    with mode():
        model = two(lambda net, x: answer(net, x).masked_fill(x[:, :1] > 0, math.nan))
        assert n_parameters(compacted(model, PICTURE)) < n_parameters(model)


@pytest.mark.parametrize(
    ("flatten", "inputs", "unread", "kept"),  # unread: the first channel, or some positions
    [(nn.Flatten(), 144, 36, 3), (Net(lambda net, x: torch.flatten(x, 1)), 144, 36, 3), (nn.Flatten(2), 36, 18, 4)],
)
def test_what_a_linear_layer_does_not_read_of_a_flat_stream_is_not_made(flatten, inputs, unread, kept):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), flatten, nn.Linear(inputs, 2)).eval()
    model[2].weight.data[:, :unread] = 0
    assert compacted(model, PICTURE).get_submodule("0").out_channels == kept


@pytest.mark.parametrize(
    ("layers", "shape"),
    [((nn.MaxPool2d(2), nn.BatchNorm1d(3), nn.Conv1d(3, 2, 1)), (3, 8, 8)),  # without a batch
     ((nn.AvgPool2d(3, 1, 1), nn.BatchNorm1d(6), nn.Conv1d(6, 2, 1)), (3, 8, 8)),
     ((Net(lambda net, x: F.max_pool2d(x, 3, 1, 1)), nn.BatchNorm1d(6), nn.Conv1d(6, 2, 1)), (3, 8, 8)),
     ((nn.Flatten(), nn.MaxPool1d(2), nn.Linear(72, 2)), (2, 3, 8, 8)),  # over features
     ((nn.Flatten(), nn.AdaptiveAvgPool1d(10), nn.Linear(10, 2)), (2, 3, 8, 8))],
)  # fmt: skip
def test_pooling_mixes_what_would_be_channels(layers, shape):
    layers[-1].weight.data[:, ::2] = 0
    compacted(settled(nn.Sequential(nn.Conv2d(3, 4, 3), *layers)), noise(*shape))
