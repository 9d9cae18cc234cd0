import copy
import warnings

import pytest
import torch
from sparsemtl.errors import SpecError
from sparsemtl.models import eeg
from sparsemtl.models.eeg import BACKBONES, DualTaskNet, init_weights
from torch.nn import functional as F

E, T, N = 5, 288, 6
EEGNET = {
    "temporal": "conv_temporal",
    "norm_temporal": "bnorm_temporal",
    "spatial": "conv_spatial",
    "norm_spatial": "bnorm_1",
    "separable_depth": "conv_separable_depth",
    "separable_point": "conv_separable_point",
    "norm_separable": "bnorm_2",
}
CONVNET = {"temporal": "conv_time_spat.conv_time", "spatial": "conv_time_spat.conv_spat", "norm": "bnorm"}
DEEP4 = CONVNET | {
    f"blocks.{5 * i + j}": f"{layer}_{i + 2}" for i in range(3) for j, layer in ((1, "conv"), (2, "bnorm"))
}
LENGTHS = ("filter_time_length", "filter_length_2", "filter_length_3", "filter_length_4")
CASES = {  # backbone, our kernel, braindecode's class, its arguments, our module -> its module
    "eegnet-default": ("eegnet", 64, "EEGNet", {}, EEGNET),
    "eegnet-80Hz": ("eegnet", 40, "EEGNet", {"kernel_length": 40}, EEGNET),
    "eegnet-odd": ("eegnet", 25, "EEGNet", {"kernel_length": 25}, EEGNET),
    "shallow": ("shallow", 25, "ShallowFBCSPNet", {}, CONVNET),
    "deep4": ("deep4", 6, "Deep4Net", dict.fromkeys(LENGTHS, 6), DEEP4),
}


def small_random(net, seed=0):
    """Every parameter and buffer away from its initial value, yet small enough for the max norm of 1 not to bite."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            p.copy_(1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.1 * noise)
        for name, b in net.named_buffers():
            if b.is_floating_point():
                b.copy_(torch.rand(b.shape, generator=gen) * 0.2 + (0.9 if name.endswith("var") else 0))
    return net


def braindecodes(name, **options):
    """One of braindecode's networks."""
    models = pytest.importorskip("braindecode.models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(models, name)(**options)


def like(value, target):
    """Same entries in braindecode's axis order: its ConvNets keep time before electrodes, its head is a conv."""
    if value.ndim == 4 and value.shape != target.shape:
        value = value.transpose(2, 3)
    return value.reshape(target.shape)


def reference(net, case, **options):
    """braindecode's network with the weights and buffers of `net`, and pairs (ours, its) of parameters and buffers."""
    _, _, name, kwargs, mapping = CASES[case]
    ref = braindecodes(name, n_chans=E, n_outputs=3, n_times=T, **kwargs, **options)
    modules = {f"shared.{ours}": theirs for ours, theirs in mapping.items()} | {"mi": "final_layer.conv_classifier"}
    theirs = {
        name.replace("parametrizations.weight.original", "weight"): tensor
        for name, tensor in [*ref.named_parameters(), *ref.named_buffers()]
    }
    pairs = []
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        module, key = name.rsplit(".", 1)
        pairs.append((tensor, theirs.pop(f"{modules[module]}.{key}")))
    assert not theirs, "braindecode's network has further weights"
    with torch.no_grad():
        for ours, its in pairs:
            its.copy_(like(ours, its))
    return ref, pairs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("train", [False, True])
def test_equals_braindecode(case, train):
    """Logits, gradients and, in training mode, the running statistics, for equal weights and no dropout."""
    backbone, kernel, *_ = CASES[case]
    net = small_random(DualTaskNet(E, T, 3, backbone=backbone, tasks=("mi",), kernel=kernel, dropout=0.0))
    ref, pairs = reference(net, case, drop_prob=0.0)
    net.train(train)
    ref.train(train)
    x, y = torch.randn(N, E, T, generator=torch.Generator().manual_seed(1)), torch.arange(N) % 3
    ours, its = net({"mi": x})["mi"], ref(x)
    torch.testing.assert_close(ours, its, rtol=1e-5, atol=1e-5)

    F.cross_entropy(ours, y).backward()
    F.cross_entropy(its, y).backward()
    for a, b in pairs:
        if a.requires_grad:
            a, b = a.grad, b.grad
        torch.testing.assert_close(like(a, b), b, rtol=1e-4, atol=1e-5)


def test_defaults_are_braindecodes():
    for backbone, name in {case[0]: case[2] for case in CASES.values()}.items():
        ref = braindecodes(name, n_chans=64, n_outputs=4, n_times=640)
        net = DualTaskNet(64, 640, 4, backbone=backbone, tasks=("me",))
        assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in ref.parameters())
        assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {ref.drop_prob}


def drawn(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize("kernel", [1, 4, 5, 20])
@pytest.mark.parametrize("samples", [6, 7, 8])
def test_depthwise_by_fft_is_the_convolution_and_has_both_derivatives(kernel, samples):
    """GraSP needs the second. Periods that just hold the padding, or more, or less than the kernel."""
    given = drawn(2, 4, samples), drawn(4, kernel)
    expected = F.conv1d(given[0], given[1][:, None], padding=kernel // 2, groups=4)
    torch.testing.assert_close(eeg._depthwise(*given), expected)
    assert torch.autograd.gradcheck(eeg._depthwise, given)
    assert torch.autograd.gradgradcheck(eeg._depthwise, given)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("samples", [9, 40, 41])
def test_moments_of_windows_are_those_of_the_windows(n, samples):
    rows = drawn(3, samples)
    windows = F.pad(rows, (n // 2, n // 2)).unfold(1, n, 1).flatten(0, 1)
    first, second, number = eeg._window_moments(rows, n)
    assert number == len(windows)
    torch.testing.assert_close(first, windows.mean(0))
    torch.testing.assert_close(second, windows.T @ windows / len(windows))


def test_any_module_can_be_the_trunk_and_keeps_its_weights():
    trunk = braindecodes("EEGNet", n_chans=E, n_outputs=3, n_times=T)
    trunk.final_layer = torch.nn.Flatten()  # braindecode's features instead of its classifier
    trunk.n_features = 16 * (T // 32)
    x, before = torch.randn(N, E, T), copy.deepcopy(trunk.eval())
    net = DualTaskNet(E, T, 3, backbone=trunk).eval()
    torch.testing.assert_close(net({"mi": x})["mi"], net.mi(before(x)))


def test_tasks_share_the_trunk_and_nothing_else():
    net = DualTaskNet(E, T, 2)
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"shared", "mi", "me"}
    single = DualTaskNet(E, T, 2, tasks=("me",))
    assert {name.split(".")[0] for name, _ in single.named_parameters()} == {"shared", "me"}
    out = net({"mi": torch.randn(N, E, T), "me": torch.randn(N, E, T)})
    out["mi"].square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in net.me.parameters())
    assert all(p.grad.any() for p in net.mi.parameters())
    assert net.shared.spatial.weight.grad.any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_tasks_differ_by_their_batch_norm_in_training_alone_whatever_the_order_of_the_dict(backbone):
    net = small_random(DualTaskNet(E, 441, 3, backbone=backbone, dropout=0.0))
    mi, me = torch.randn(4, E, 441), 3 * torch.randn(3, E, 441)
    for training in (True, False):
        net.train(training)
        both, swapped, alone = net({"mi": mi, "me": me}), net({"me": me, "mi": mi}), net({"mi": mi})
        assert (list(both), list(alone)) == (["mi", "me"], ["mi"])
        if training:
            assert torch.equal(both["mi"], swapped["mi"])
        assert torch.allclose(both["mi"], alone["mi"], rtol=1e-5, atol=1e-5) != training


def test_eegnets_temporal_filters_are_half_a_second_long():
    for sfreq in (80, 160):
        assert DualTaskNet(E, T, 2, sfreq=sfreq).shared.temporal.kernel_size == (1, sfreq // 2)


def test_initial_weights_come_from_the_generator():
    def draw(seed):
        return DualTaskNet(E, T, 2, generator=torch.Generator().manual_seed(seed))

    a, b, other = draw(3), draw(3), draw(4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.mi.weight, other.mi.weight)
    assert not a.mi.bias.any()
    wide = torch.nn.Linear(400, 600)
    init_weights(wide, torch.Generator().manual_seed(0))
    assert wide.weight.std().item() == pytest.approx((2 / 1000) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("backbone", "kernel", "least"), [("eegnet", 40, 27), ("shallow", 25, 99), ("deep4", 10, 441)])
def test_too_short_epochs_are_refused(backbone, kernel, least):
    DualTaskNet(E, least, 2, backbone=backbone, kernel=kernel)({"mi": torch.randn(2, E, least)})
    with pytest.raises(SpecError, match=f"got n_times={least - 1}"):
        DualTaskNet(E, least - 1, 2, backbone=backbone, kernel=kernel)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"backbone": "resnet"}, "'resnet'.*eegnet, shallow, deep4"), ({"backbone": torch.nn.Flatten()}, "n_features"),
     ({"tasks": ("mi", "rest")}, "rest.*mi, me"), ({"tasks": ()}, "mi, me"), ({"tasks": ("mi", "mi")}, "once"),
     ({"kernel": 0}, "kernel.*got 0"), ({"n_classes": 1}, "n_classes=1")],
)  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(SpecError, match=words):
        DualTaskNet(E, T, **({"n_classes": 2} | options))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [({"mi": torch.zeros(2, E + 1, T)}, rf"mi: expected .*\(n, {E}, {T}\).*got \(2, {E + 1}, {T}\)"),
     ({"mi": torch.zeros(2, E, T - 1)}, rf"got \(2, {E}, {T - 1}\)"), ({"mi": torch.zeros(E, T)}, rf"got \({E}, {T}\)"),
     ({"me": torch.zeros(2, E, T)}, "me: this network has mi"), ({}, "no task")],
)  # fmt: skip
def test_bad_inputs(inputs, words):
    with pytest.raises(SpecError, match=words):
        DualTaskNet(E, T, 2, tasks=("mi",))(inputs)
