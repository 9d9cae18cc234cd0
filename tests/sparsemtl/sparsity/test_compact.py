"""`compact` against the model it was given: same outputs, tensors as small as the pattern of zeros implies."""

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
from sparsemtl.sparsity.measure import channels_per_layer, group_sparsity, parameter_sparsity
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18, resnet50

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


def compacted(model, x, tolerance=1e-4, **options):
    """The compacted model, after checks that it does the same and that the given one is as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    training = [module.training for module in model.modules()]
    small = compact(model, x, **options)
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


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("seed", "groups", "filters"), [(0, 0.0, 0.0), (1, 0.3, 0.1), (2, 0.7, 0.0), (3, 0.9, 0.3)])
def test_random_patterns_on_resnet18(seed, groups, filters):
    torch.manual_seed(seed)
    model = pruned(settled(resnet18(weights=None), seed), groups, filters, seed=seed)
    small = compacted(model, noise(2, 3, 32, 32))
    if groups == 0:
        assert n_parameters(small) == n_parameters(model)
    else:
        assert n_parameters(small) < (1 - 0.9 * groups) * n_parameters(model)


@pytest.mark.parametrize(
    "dead", [(), ("layer1.0.conv3",), ("layer2.0.downsample.0", "layer2.1.conv1", "layer4.2.conv2")]
)
def test_resnet50_cut_off_before_the_pooling_with_dead_layers(dead):
    torch.manual_seed(0)
    model = pruned(settled(resnet50(weights=None)), 0.7, dead=dead)
    cut = nn.Sequential(*list(model.children())[:-2])
    small = compacted(cut, noise(1, 3, 32, 32))
    convs = sum(weight.numel() for weight in backbone_convs(small).values())
    assert convs <= (1 - parameter_sparsity(cut)) * sum(weight.numel() for weight in backbone_convs(cut).values())
    # A layer that is all dead but must give its bias to a padded convolution keeps one channel, for the shape.
    assert sum(alive < total for alive, total in channels_per_layer(small).values()) <= len(dead)
    assert flops(small, noise(1, 3, 32, 32)) < 0.3 * flops(cut, noise(1, 3, 32, 32))


@pytest.mark.parametrize(
    "dead", ["conv1", "layer1.0.conv1", "layer2.0.downsample.0", "layer3.1.conv2", "layer4.1.conv2"]
)
def test_each_kind_of_layer_may_be_dead(dead):
    torch.manual_seed(1)
    model = pruned(settled(resnet18(weights=None)), 0.4, dead=(dead,))
    small = compacted(model, noise(2, 3, 32, 32))
    assert n_parameters(small) < 0.6 * n_parameters(model)


def test_everything_dead_leaves_almost_nothing():
    model = pruned(settled(resnet18(weights=None)), 1.1)
    small = compacted(model, noise(2, 3, 32, 32))
    assert n_parameters(small) < 3000  # 11.7 million before; biases are left
    assert flops(small, noise(2, 3, 32, 32)) < 1e-3 * flops(model, noise(2, 3, 32, 32))


def test_a_dead_residual_branch_becomes_one_added_vector():
    model = pruned(settled(dilated_resnet(4, (2, 1, 1, 1))), 0.0, dead=("layer1.1.conv3",))
    small = compacted(model, noise(2, 3, 32, 32))
    assert not [name for name, _ in small.named_modules() if name.startswith("layer1.1.conv")]
    assert flops(model, noise(2, 3, 32, 32)) - flops(small, noise(2, 3, 32, 32)) == sum(
        2 * 2 * 8 * 8 * module.weight.numel()
        for name, module in model.named_modules()
        if name.startswith("layer1.1.conv")
    )


@pytest.mark.parametrize(
    "options", [{}, {"stem": "deep", "passes": "per-task", "bounded": ("depth",), "upsample": True}]
)
def test_multitask_net_after_training(options):
    torch.manual_seed(0)
    tasks = ("seg", "normal", "depth", "smile")
    model = MultiTaskNet(tasks, 5, width=4, layers=(2, 1, 1, 2), head_width=8, rates=(1, 2, 3), **options)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    zero = {name: torch.rand(w.shape[1]) < 0.6 for name, w in backbone_convs(model).items()}
    for mask in zero.values():
        mask[0] = False
    for step in range(4):
        optimizer.zero_grad()
        sum(p.square().mean() for p in model(noise(4, 3, 32, 32, seed=step)).values()).backward()
        optimizer.step()
        for name, weight in backbone_convs(model).items():
            weight.data[:, zero[name]] = 0
    small = compacted(model, noise(2, 3, 32, 32, seed=9))  # given in training mode
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
    width = draw(st.integers(1, 5))
    channels, layers = width, []
    for _ in range(draw(st.integers(1, 4))):
        out, kernel = draw(st.integers(1, 5)), draw(st.sampled_from([1, 3]))
        padding, mode = draw(st.sampled_from([(0, "zeros"), (1, "zeros"), (1, "circular"), ("same", "zeros")]))
        conv = nn.Conv2d(channels, out, kernel, padding=padding, padding_mode=mode, bias=draw(st.booleans()))
        conv.weight.data[:, torch.rand(channels) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
        conv.weight.data[torch.rand(out) < draw(st.sampled_from([0.0, 0.5]))] = 0
        layers += [conv, *([nn.BatchNorm2d(out)] if draw(st.booleans()) else [])]
        layers += draw(
            st.sampled_from([[], [nn.ReLU()], [nn.Sigmoid()], [nn.ReLU(inplace=True), nn.AvgPool2d(3, 1, 1)]])
        )
        channels = out
    if draw(st.booleans()):
        linear = nn.Linear(channels * 4, 3)
        linear.weight.data[:, torch.rand(channels * 4) < 0.5] = 0
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear]
    return settled(nn.Sequential(*layers)).double(), noise(2, width, 9, 10, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(chains(), st.booleans())
def test_random_chains_are_exact_in_float64(case, fold_norms):
    model, x = case
    small = compacted(model, x, tolerance=1e-10, fold_norms=fold_norms)
    assert n_parameters(small) <= n_parameters(model) + sum(m.weight.shape[0] for m in model if hasattr(m, "weight"))


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


def test_removal_runs_back_through_several_layers():
    first, second, third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3)
    third.weight.data[:, 1:] = 0  # third reads channel 0 of second, whose filter 0 reads channels 2 and 5 of first
    second.weight.data[0, [0, 1, 3, 4, 6, 7]] = 0
    small = compacted(nn.Sequential(first, second, third).eval(), noise(1, 3, 12, 12))
    assert [tuple(p.shape) for p in small.parameters() if p.ndim == 4] == [(2, 3, 3, 3), (1, 2, 3, 3), (4, 1, 3, 3)]


@pytest.mark.parametrize(("padding", "kept"), [(0, 3), (1, 4)])
def test_constant_channels_move_into_the_bias_only_without_padding(padding, kept):
    first, second = nn.Conv2d(2, 5, 3, bias=False), nn.Conv2d(5, 4, 3, padding=padding, bias=False)
    first.weight.data[:2] = 0
    norm = nn.BatchNorm2d(5)
    norm.bias.data.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0]))  # channel 0 is 1 after the ReLU, channel 1 is 0
    small = compacted(nn.Sequential(first, norm, nn.ReLU(), second).eval(), noise(2, 2, 9, 9))
    assert small.get_submodule("3").in_channels == kept
    assert (small.get_submodule("3").bias is not None) == (padding == 0)


class Twice(nn.Module):
    """One convolution on two streams, of which different channels are read."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.shared = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.top, self.bottom = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        a, b = self.shared(F.relu(self.left(x))), self.shared(F.relu(self.right(x)))
        return {"a": self.top(a), "b": self.bottom(b)}


def test_a_module_called_twice_stays_one_module():
    model = Twice()
    model.left.weight.data.zero_()  # a constant, but only in one of the two calls
    model.top.weight.data[:, [0, 1, 2]] = 0
    model.bottom.weight.data[:, [0, 1, 5]] = 0
    model.shared.weight.data[:, 3] = 0
    small = compacted(model.eval(), noise(2, 3, 8, 8))
    assert tuple(small.shared.weight.shape) == (4, 5, 3, 3)


def test_grouped_convolutions_lose_whole_groups():
    grouped, last = nn.Conv2d(6, 9, 3, groups=3, padding=1), nn.Conv2d(9, 2, 1)
    last.weight.data[:, 3:7] = 0  # all of group 1, a part of group 2
    small = compacted(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), grouped, last).eval(), noise(2, 3, 8, 8))
    assert [tuple(p.shape) for p in small.parameters() if p.ndim == 4] == [(4, 3, 3, 3), (6, 2, 3, 3), (2, 5, 1, 1)]


def test_a_grouped_convolution_of_which_only_the_size_is_read():
    grouped, last = nn.Conv2d(6, 9, 3, groups=3), nn.Conv2d(9, 2, 3, padding=1)
    last.weight.data.zero_()
    small = compacted(nn.Sequential(nn.Conv2d(3, 6, 3), grouped, last).eval(), noise(2, 3, 8, 8))
    assert tuple(small.get_submodule("2").weight.shape) == (2, 1, 3, 3)


class Unknown(nn.Module):
    """Operations that `compact` has no rule for, between two convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)

    def forward(self, x):
        h = self.first(x)
        h = h.roll(1, dims=1) * h.mean((2, 3), keepdim=True)
        return torch.cat([self.second(h), h[..., 2:, 2:]], dim=1).softmax(1)


def test_unknown_operations_keep_their_channels():
    model = Unknown()
    model.second.weight.data[:, :4] = 0
    model.first.weight.data[0] = 0
    small = compacted(model.eval(), noise(2, 3, 8, 8))
    assert tuple(small.first.weight.shape) == (6, 3, 3, 3)
    assert tuple(small.second.weight.shape) == (6, 2, 3, 3)


def test_channels_last_and_a_second_time():
    model = pruned(settled(dilated_resnet(4, (1, 1, 1, 1))), 0.5).to(memory_format=torch.channels_last)
    x = noise(2, 3, 32, 32).to(memory_format=torch.channels_last)
    small = compacted(model, x)
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in backbone_convs(small).values())
    with torch.no_grad():
        assert small(x).is_contiguous(memory_format=torch.channels_last)
    assert n_parameters(compacted(small, x)) == n_parameters(small)


@pytest.mark.parametrize("options", [{}, {"fold_norms": True}])
@pytest.mark.parametrize("share", [0.05, 0.7])
def test_dilated_resnets_with_and_without_folded_norms(options, share):
    torch.manual_seed(0)
    model = pruned(settled(dilated_resnet(8, (2, 2, 2, 2))), share, filters=share / 5)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = noise(2, 3, 40, 32).to(memory_format=memory_format)
        small = compacted(model.to(memory_format=memory_format), x, **options)
        norms = [name for name, module in small.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert bool(norms) == (not options)
        assert backbone_convs(small).keys() <= backbone_convs(model).keys()


class Norms(nn.Module):
    """Batch norms that cannot be folded: their convolution is called twice, read twice, or there is none."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.read = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.a, self.b, self.c, self.d = (nn.BatchNorm2d(6) for _ in range(4))
        self.last, self.fold = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x):
        h = self.first(x)
        h = self.b(self.shared(self.a(self.shared(h))))
        r = self.read(h)
        return self.fold(self.last(F.relu(r + self.c(r)))) + self.d(F.relu(h))


def test_only_norms_that_alone_read_a_convolution_called_once_are_folded():
    model = pruned(settled(Norms()), 0.3)
    apply_masks(model, {"last.weight": model.last.weight.detach() != 0})  # must not act on the folded weight
    small = compacted(model, noise(2, 3, 8, 8), fold_norms=True)
    assert {name for name, _ in small.named_children()} >= {"a", "b", "c", "d"}
    assert not hasattr(small, "fold")
    assert small.last.bias is not None


@pytest.mark.parametrize("fold_norms", [False, True])
def test_residual_sums_are_taken_in_place_only_where_nobody_else_reads(fold_norms):
    torch.manual_seed(0)
    model = pruned(settled(dilated_resnet(4, (2, 1, 1, 1))), 0.5)
    x = noise(2, 3, 32, 32)
    small = compacted(model, x, fold_norms=fold_norms)
    assert [node.target for node in small.graph.nodes if "add" in node.name] == [operator.iadd] * 5
    before = x.clone()
    first, second = outputs(small, x)[""], outputs(small, x)[""]
    assert torch.equal(first, second)  # neither the weights nor the picture were added to
    assert torch.equal(before, x)


class Reread(nn.Module):
    """Sums of what others read as well, of another dtype, and of an input."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        h = self.first(x)
        return {"h": h, "sum": h + x, "wide": self.second(h) + x.double(), "twice": x + x}


def test_sums_keep_what_is_read_again():
    small = compacted(Reread().eval(), noise(2, 3, 8, 8))
    assert operator.iadd not in {node.target for node in small.graph.nodes}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_picked_channels_keep_the_memory_format(memory_format):
    x, index = noise(2, 6, 4, 5).to(memory_format=memory_format), torch.tensor([1, 2, 5])
    picked = Pick(index)(x)
    assert torch.equal(picked, x[:, index])
    assert picked.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(("backbone", "n_times"), [("eegnet", 128), ("shallow", 160), ("deep4", 441)])
def test_dual_task_net(backbone, n_times):
    torch.manual_seed(0)
    model = settled(DualTaskNet(4, n_times, 3, backbone=backbone))
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.ndim > 1}
    last = [name for name in masks if name.startswith("shared.")][-1]
    masks[last][:, 1::3] = False
    for task in ("mi", "me"):  # the heads read nothing of the last two features
        masks[f"{task}.weight"].view(3, len(masks[last]), -1)[:, -2:] = False
    apply_masks(model, masks)
    x = {"mi": noise(3, 4, n_times), "me": noise(2, 4, n_times, seed=1)}
    small = compacted(model, x)
    shape, new = model.get_parameter(last).shape, small.get_parameter(last).shape
    assert new[0] == shape[0] - 2
    # EEGNet drops a temporal filter with its depth=2 outputs or not at all, and no two neighbours are dead here
    assert new[1] == (shape[1] if backbone == "eegnet" else shape[1] - len(range(1, shape[1], 3)))
    assert n_parameters(small) < n_parameters(model)


def test_eegnet_drops_temporal_filters_that_nobody_reads():
    model = settled(DualTaskNet(4, 128, 2))
    model.shared.separable_point.weight.data[:, 4:8] = 0  # what temporal filters 2 and 3 lead to
    small = compacted(model, {"mi": noise(3, 4, 128)})
    assert len(small.shared.temporal.weight) == 6
    assert small.shared.separable_depth.groups == 12


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


class InPlace(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.first, self.relu, self.second = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3)
        self.first.weight.data[0] = 0
        self.first.bias.data[0] = -2.0

    def forward(self, x):
        h = self.first(x)
        return self.scale * (self.relu(h).mean() + self.second(h))  # h itself is not what it was


class ReadBeside(nn.Module):
    """A weight that is read without its module."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.first.weight.data[0] = self.first.bias.data[0] = 0
        self.second.weight.data[:, 0] = 0

    def forward(self, x):
        h = self.first(x)
        return self.second(h) + F.conv2d(h, self.second.weight)


@pytest.mark.parametrize("divisor", [None, 1, 7])
def test_an_average_with_a_divisor_of_its_own_is_no_map_of_constants(divisor):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2, divisor_override=divisor)]
    model = settled(nn.Sequential(*layers, nn.Conv2d(6, 4, 3)))
    model[0].weight.data[:3] = 0  # constants of batch norm go on
    model[1].bias.data.abs_()
    compacted(model.double(), noise(2, 3, 12, 12, dtype=torch.float64), tolerance=1e-10)


class Kept(nn.Module):
    """`w = y; y += f(y)`: w is the changed tensor, which torch.fx does not see; labels alone leave the network."""

    def __init__(self, change):
        super().__init__()
        self.a, self.b, self.change = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), change

    def forward(self, x):
        w = y = self.a(x)
        y = self.change(y, self.b(y))
        return (w + 0.9 * y.flip(1)).argmax(1)


def added(y, z):
    y += z
    return y


def multiplied(y, z):
    y *= z
    return y


def through_a_view(y, z):
    y[:, :2].add_(z[:, :2])
    return y


class ReadsShape(nn.Module):
    """A count of channels from the shape of a weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.second.weight.data[:, 0] = 0

    def forward(self, x):
        return self.second(self.first(x)) * self.first.weight.shape[0]


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
        (Branches(), noise(1, 3, 8, 8), "cannot trace Branches"),
        (InPlace(), noise(1, 3, 8, 8), "relu changes first in place"),
        *((Kept(change), noise(1, 3, 8, 8), "in place") for change in (added, multiplied, lambda y, z: y.add_(z))),
        (Kept(through_a_view), noise(1, 3, 8, 8), "in place"),
        (ReadBeside(), noise(1, 3, 8, 8), "second.weight is read beside"),
        (ReadsShape(), noise(1, 3, 8, 8), "first.weight is read beside"),
        (DualTaskNet(3, 8, 2, backbone=OtherTrunk()), {"mi": noise(1, 3, 8)}, "cannot trace DualTaskNet"),
        (under_prune(), noise(1, 3, 8, 8), "Sequential cannot be copied"),
        (nn.Conv2d(3, 4, 3), noise(1, 5, 8, 8), "Conv2d does not take the example"),
    ],
)
def test_unfit_models_and_examples_are_named(model, example, message):
    with pytest.raises(SpecError, match=message) as caught:
        compact(model, example)
    assert "\n" not in str(caught.value)


class Harmless(nn.Module):
    """Changes in place of tensors that nobody reads later, and a weight's dtype."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)
        self.drop, self.relu = nn.Dropout(0.5), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.first(x.to(self.first.weight.dtype))
        y += self.second(y)
        z = self.relu(self.drop(y))
        z *= 2
        return self.third(z)


def test_changes_in_place_that_nobody_reads_later_are_taken_over():
    model = Harmless()
    model.third.weight.data[:, :3] = 0
    small = compacted(model.eval(), noise(1, 3, 8, 8))
    assert n_parameters(small) <= n_parameters(model)


class Position(nn.Module):
    """Learned constants (1, C, H, W) added before and after a convolution."""

    def __init__(self, mirrored):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)
        self.here, self.mirrored = nn.Parameter(torch.randn(1, 6, 8, 8)), mirrored

    def forward(self, x):
        there = self.second(self.here)
        x = self.first(x)
        return self.third(there + x if self.mirrored else x + there)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_learned_constant_broadcasts_over_a_larger_batch(mirrored):
    model = Position(mirrored).eval()
    model.third.weight.data[:, 2] = 0
    small = compacted(model, noise(1, 3, 8, 8))
    x = noise(4, 3, 8, 8)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)


@st.composite
def tied(draw):
    """A chain of equal layers of which some share their weight, with some of it zero; maybe with batch norms."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    layers, first = [], None
    for _ in range(draw(st.integers(2, 4))):
        conv = nn.Conv2d(4, 4, 1, bias=draw(st.booleans()))
        if first is not None and draw(st.booleans()):
            conv.weight = first.weight
        first = conv
        layers += [conv, *([nn.BatchNorm2d(4)] if draw(st.booleans()) else []), nn.Tanh()]
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and draw(st.booleans()):
            layer.weight.data[:, torch.rand(4) < 0.4] = 0
    return settled(nn.Sequential(*layers))


@settings(max_examples=30, deadline=None)
@given(tied(), st.booleans())
def test_tied_weights_never_make_a_larger_network(model, fold_norms):
    small = compacted(model, noise(2, 4, 5, 5), fold_norms=fold_norms)
    assert n_parameters(small) <= n_parameters(model)


def test_labels_are_compared():
    class Random(nn.Module):
        def forward(self, x):
            return torch.randint(9, x.shape)

    with pytest.raises(SpecError, match="other outputs"):
        compact(Random(), noise(1, 3, 8, 8))
