"""`compact` against the model it was given: same outputs, tensors as small as the pattern of zeros implies."""

import math
import operator

import pytest
import torch
from as_trained import settled
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
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

CONVS = (nn.Conv1d, nn.Conv2d)


def pruned(model, groups, filters=0.0, dead=(), seed=0):
    """Zero these shares of input channels and of whole filters, and all of the convolutions named in `dead`."""
    g = torch.Generator().manual_seed(seed)
    for name, conv in model.named_modules():
        if isinstance(conv, CONVS):
            weight = conv.weight.data
            weight[:, torch.rand(weight.shape[1], generator=g) < groups] = 0
            weight[torch.rand(weight.shape[0], generator=g) < filters] = 0
            if name in dead:
                weight.zero_()
    return model


def outputs(model, x):
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, dict) else {"": y}


def compacted(model, x, tolerance=1e-4):
    """The compacted model, after checks that it does the same and that the given one is as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    training = [module.training for module in model.modules()]
    small = compact(model, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert training == [module.training for module in model.modules()]
    assert torch.equal(random, torch.random.get_rng_state())
    assert not any(module.training for module in small.modules())
    model.eval()
    expected, got = outputs(model, x), outputs(small, x)
    assert expected.keys() == got.keys()
    for task in expected:
        torch.testing.assert_close(got[task], expected[task], rtol=tolerance, atol=tolerance)
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
    [
        (0.0, 0.0, (), 1.0),
        (0.3, 0.1, (), 0.73),
        (0.7, 0.0, (), 0.37),
        (0.9, 0.3, (), 0.19),
        *(
            (0.4, 0.0, (layer,), 0.6)
            for layer in ("conv1", "layer1.0.conv1", "layer2.0.downsample.0", "layer4.1.conv2")
        ),
        (1.1, 0.0, (), 3e-4),  # everything is dead: biases are left
    ],
)
def test_patterns_of_zeros_in_resnet18(groups, filters, dead, most):
    torch.manual_seed(1)
    model, x = pruned(settled(resnet18(weights=None)), groups, filters, dead), noise(2, 3, 32, 32)
    small = compacted(model, x)
    assert n_parameters(small) <= most * n_parameters(model)
    assert flops(small, x) <= flops(model, x) * (1 if groups < 1 else 1e-3)


def test_a_dead_residual_branch_becomes_one_added_vector():
    model, x = pruned(settled(dilated_resnet(4, (2, 1, 1, 1))), 0.0, dead=("layer1.1.conv3",)), noise(2, 3, 32, 32)
    small = compacted(model, x)
    gone = [module for name, module in model.named_modules() if name.startswith("layer1.1.conv")]
    assert not [name for name, _ in small.named_modules() if name.startswith("layer1.1.conv")]
    assert flops(model, x) - flops(small, x) == sum(2 * 2 * 8 * 8 * conv.weight.numel() for conv in gone)
    assert torch.equal(outputs(small, x)[""], outputs(small, x)[""])


@pytest.mark.parametrize("options", [{}, {"stem": "deep", "passes": "per-task", "bounded": ("depth",)}])
def test_multitask_net(options):
    torch.manual_seed(0)
    tasks = ("seg", "normal", "depth", "smile")
    model = MultiTaskNet(tasks, 5, width=4, layers=(2, 1, 1, 2), head_width=8, rates=(1, 2, 3), **options)
    for weight in backbone_convs(settled(model)).values():
        weight.data[:, 1::2] = 0
    small = compacted(model.train(), noise(2, 3, 32, 32, seed=9))
    assert group_sparsity(list(backbone_convs(small).values())) == 0
    assert list(backbone_convs(small)) == list(backbone_convs(model))
    assert flops(small, noise(2, 3, 32, 32)) < flops(model, noise(2, 3, 32, 32))
    for shape in ((1, 3, 32, 32), (3, 3, 48, 40)):  # other sizes than the example's
        expected, got = outputs(model, noise(*shape)), outputs(small, noise(*shape))
        for task in tasks:
            torch.testing.assert_close(got[task], expected[task], rtol=1e-4, atol=1e-4)


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
        layers += draw(
            st.sampled_from([[], [nn.ReLU()], [nn.Sigmoid()], [nn.ReLU(inplace=True), nn.AvgPool2d(3, 1, 1)]])
        )
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


@settings(max_examples=80, deadline=None)
@given(chains())
def test_random_chains_are_exact_in_float64(case):
    model, x = case
    small = compacted(model, x, tolerance=1e-10)
    assert n_parameters(small) <= n_parameters(model)


@pytest.mark.parametrize("seed", range(3))
def test_parameters_and_flops_of_a_chain_in_closed_form(seed):
    g = torch.Generator().manual_seed(seed)
    widths, kernels, side = (3, 12, 10, 8, 6), (3, 1, 5, 3), 16
    layers, reads = [], []
    for c_in, c_out, k in zip(widths[:-1], widths[1:], kernels, strict=True):
        conv = nn.Conv2d(c_in, c_out, k, padding=k // 2, bias=False)
        alive = torch.rand(c_in, generator=g) < 0.6
        alive[0] = True
        conv.weight.data[:, ~alive] = 0
        reads.append(int(alive.sum()))
        layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
    model, x = settled(nn.Sequential(*layers)), noise(2, 3, side, side)
    small = compacted(model, x)
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


class Net(nn.Module):
    """Modules by name, and a function of the network and x that is its forward."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def unknown(net, x):
    """Operations that `compact` has no rule for, between two convolutions."""
    h = net.grouped(net.first(x))
    h = h.roll(1, dims=1) * h.mean((2, 3), keepdim=True)
    return torch.cat([net.second(h), h[..., 2:, 2:]], dim=1).softmax(1)


def test_unknown_operations_keep_their_channels():
    model = Net(unknown, first=nn.Conv2d(3, 6, 3), grouped=nn.Conv2d(6, 6, 1, groups=3), second=nn.Conv2d(6, 6, 3))
    model.second.weight.data[:, :4] = 0
    model.first.weight.data[0] = 0
    small = compacted(model.eval(), noise(2, 3, 8, 8))
    assert tuple(small.first.weight.shape) == (6, 3, 3, 3)
    assert tuple(small.second.weight.shape) == (6, 2, 3, 3)


def test_a_module_that_is_called_on_two_tensors_keeps_its_channels():
    def forward(net, x):
        return net.top(net.shared(F.relu(net.left(x)))) + net.top(net.shared(F.relu(net.right(x))))

    model = Net(forward, **{name: nn.Conv2d(3, 3, 1) for name in ("left", "right", "shared", "top")}).eval()
    model.left.weight.data.zero_()  # a constant, but only in one of the two calls
    for layer in (model.shared, model.top):
        layer.weight.data[:, 1] = 0
    small = compacted(model, noise(2, 3, 8, 8))
    assert small.shared.weight.shape == small.top.weight.shape == (3, 3, 1, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_stay(memory_format):
    model = pruned(settled(dilated_resnet(4, (1, 1, 1, 1))), 0.5).to(memory_format=memory_format)
    x = noise(2, 3, 32, 32).to(memory_format=memory_format)
    small = compacted(model, x)
    assert any(isinstance(module, Pick) for module in small.modules())
    kept = [*backbone_convs(small).values(), outputs(small, x)[""]]
    assert all(tensor.is_contiguous(memory_format=memory_format) for tensor in kept)


@pytest.mark.parametrize(("backbone", "n_times"), [("eegnet", 128), ("shallow", 160), ("deep4", 441)])
def test_dual_task_net(backbone, n_times):
    torch.manual_seed(0)
    model = settled(DualTaskNet(4, n_times, 3, backbone=backbone))
    last = [name for name, p in model.named_parameters() if name.startswith("shared.") and p.ndim > 1][-1]
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


class Labels(DualTaskNet):
    """A network of its own, which only looks like ours."""

    def forward(self, x):
        return {task: (y > self.shared.spatial.weight.shape[1]).long() for task, y in super().forward(x).items()}


@pytest.mark.parametrize("divisor", [None, 1, 7])
def test_an_average_with_a_divisor_of_its_own_is_no_map_of_constants(divisor):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2, divisor_override=divisor)]
    model = settled(nn.Sequential(*layers, nn.Conv2d(6, 4, 3)))
    model[0].weight.data[:3] = 0  # constants of batch norm go on
    model[1].bias.data.abs_()
    compacted(model.double(), noise(2, 3, 12, 12).double(), tolerance=1e-10)


def two(function, last=3):
    """Two convolutions of which the second does not read channel 0, whose filter in the first is zero."""
    net = Net(function, first=nn.Conv2d(3, 4, last), second=nn.Conv2d(4, 4, last), relu=nn.ReLU(inplace=True))
    net.first.weight.data[0] = net.second.weight.data[:, 0] = 0
    return net


def kept(change):
    """`w = y; y += f(y)`: w is the changed tensor, which torch.fx does not see; labels alone leave the network."""

    def forward(net, x):
        w = y = net.first(x)
        y = change(y, net.second(y))
        return (w + 0.9 * y.flip(1)).argmax(1)

    return two(forward, 1)


class OtherTrunk(nn.Sequential):
    n_features = 8

    def __init__(self):
        super().__init__(nn.Conv1d(3, 1, 1), nn.Flatten())


def under_prune():
    from torch.nn.utils import prune

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    prune.ln_structured(net[1], "weight", 0.5, n=2, dim=1)
    return net


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (two(lambda net, x: net.first(x) if x.sum() > 0 else x), noise(1, 3, 8, 8), "Net cannot be traced"),
        *((kept(change), noise(1, 3, 8, 8), "Net gives other outputs") for change in (operator.iadd, operator.imul)),
        (DualTaskNet(3, 8, 2, backbone=OtherTrunk()), {"mi": noise(1, 3, 8)}, "DualTaskNet cannot be traced"),
        (Labels(4, 160, 3, backbone="shallow"), {"mi": noise(1, 4, 160)}, "Labels cannot be traced"),
        (under_prune(), noise(1, 3, 8, 8), "Sequential cannot be copied"),
        (nn.Conv2d(3, 4, 3), noise(1, 5, 8, 8), "Conv2d does not take the example"),
    ],
)
def test_unfit_models_and_examples_are_named(model, example, message):
    with pytest.raises(SpecError, match=message) as caught:
        compact(model, example)
    assert "\n" not in str(caught.value)


def test_changes_in_place_that_nobody_reads_later_are_taken_over():
    def forward(net, x):
        y = net.first(x)
        y += net.second(y)
        z = net.relu(y)
        z *= 2
        return z.sum(1)

    compacted(two(forward, 1).eval(), noise(1, 3, 8, 8))


@pytest.mark.parametrize("order", [1, -1])
def test_a_learned_constant_broadcasts_over_a_larger_batch(order):
    def forward(net, x):
        one, other = [net.second(net.here), net.first(x)][::order]
        return net.third(one + other)

    layers = {"first": nn.Conv2d(3, 6, 1), "second": nn.Conv2d(6, 6, 1), "third": nn.Conv2d(6, 2, 1)}
    model = Net(forward, **layers).eval()
    model.here = nn.Parameter(torch.randn(1, 6, 8, 8))
    model.third.weight.data[:, 2] = 0
    small, x = compacted(model, noise(1, 3, 8, 8)), noise(4, 3, 8, 8)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)


def answer(net, x):
    return net.second(net.first(x))


BESIDE = {  # what a forward reads of a weight that its module uses as well
    "shape": lambda net, x: answer(net, x) * net.first.weight.shape[0],
    "values": lambda net, x: answer(net, x) + net.first.weight.abs().mean() + net.first.bias.mean(),
    "convolution": lambda net, x: net.second(h := net.first(x)) + F.conv2d(h, net.second.weight),
    "minus infinity": lambda net, x: (answer(net, x) * net.first.weight.numel()).masked_fill(
        x[:, :1, 4:, 4:] > 0, -math.inf
    ),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_a_weight_that_is_read_beside_its_module_stays(beside):
    model = two(BESIDE[beside]).eval()
    small, x = compact(model, noise(1, 3, 8, 8)), noise(64, 3, 8, 8, seed=1)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)
    assert n_parameters(small) <= n_parameters(model)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: torch.rand_like(x).argmax(1),
        lambda net, x: torch.rand_like(x).masked_fill(x > 2, -math.inf),
        lambda net, x: 2e-3 * torch.rand_like(x),
    ],
)
def test_labels_small_outputs_and_what_stands_beside_infinite_ones_are_compared(forward):
    with pytest.raises(SpecError, match="other outputs"):
        compact(Net(forward), noise(1, 3, 8, 8))


def test_outputs_that_are_no_numbers_are_equal():
    model = two(lambda net, x: answer(net, x).masked_fill(x[:, :1, 4:, 4:] > 0, math.nan)).eval()
    assert n_parameters(compact(model, noise(1, 3, 8, 8))) < n_parameters(model)


@pytest.mark.parametrize("flatten", [nn.Flatten(), Net(lambda net, x: torch.flatten(x, 1)), nn.Flatten(2)])
def test_what_a_linear_layer_does_not_read_of_a_flat_stream_is_not_made(flatten):
    first, flat = nn.Conv2d(3, 4, 3), isinstance(flatten, Net) or flatten.start_dim == 1
    last = nn.Linear(4 * 36 if flat else 36, 2)
    model = nn.Sequential(first, flatten, last).eval()
    last.weight.data[:, : 36 if flat else 18] = 0  # the first channel, or some positions
    small = compacted(model, noise(2, 3, 8, 8))
    assert small.get_submodule("0").out_channels == (3 if flat else 4)


def test_a_constant_branch_at_one_position_is_not_the_size_of_its_sum():
    layers = {"wide": nn.Conv2d(3, 6, 1), "mean": nn.Conv2d(3, 6, 1), "last": nn.Conv2d(6, 2, 1)}
    model = Net(lambda net, x: net.last(net.mean(x.mean((2, 3), keepdim=True)) + net.wide(x)), **layers).eval()
    model.wide.weight.data.zero_()
    x = noise(4, 3, 8, 8)
    torch.testing.assert_close(compact(model, noise(2, 3, 1, 1))(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pool", "rows"), [(nn.MaxPool2d(2), 3), (nn.AvgPool2d(3, 1, 1), 6), (None, 6)])
def test_pooling_without_a_batch_mixes_what_would_be_channels(pool, rows):
    pool = pool or Net(lambda net, x: F.max_pool2d(x, 3, 1, 1))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.BatchNorm1d(rows), nn.Conv1d(rows, 2, 1))
    model[3].weight.data[:, ::2] = 0
    compacted(settled(model), noise(3, 8, 8))


@pytest.mark.parametrize(("pool", "features"), [(nn.MaxPool1d(2), 72), (nn.AdaptiveAvgPool1d(10), 10)])
def test_pooling_over_features_mixes_them(pool, features):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), pool, nn.Linear(features, 2))
    model[3].weight.data[:, ::2] = 0
    compacted(model.eval(), noise(2, 3, 8, 8))


def test_in_inference_mode():
    with torch.inference_mode():
        small = compacted(two(answer).eval(), noise(2, 3, 8, 8))
    assert n_parameters(small) < n_parameters(two(answer))
