"""The EEG networks against braindecode's, and what their tasks share."""

import copy

import pytest
import torch
from sparsemtl.errors import SpecError
from sparsemtl.models.eeg import BACKBONES, DualTaskNet, init_weights
from torch.nn import functional as F

pytestmark = pytest.mark.filterwarnings("ignore")  # of braindecode
E, T, N = 5, 288, 6
LENGTHS = ("filter_time_length", "filter_length_2", "filter_length_3", "filter_length_4")
CASES = {  # backbone, our kernel, samples, braindecode's class, its arguments
    "eegnet-default": ("eegnet", 64, T, "EEGNet", {}),
    "eegnet-80Hz": ("eegnet", 40, T, "EEGNet", {"kernel_length": 40}),
    "eegnet-odd": ("eegnet", 25, T, "EEGNet", {"kernel_length": 25}),
    "eegnet-longer-than-its-signals": ("eegnet", 80, 32, "EEGNet", {"kernel_length": 80}),
    "shallow": ("shallow", 25, T, "ShallowFBCSPNet", {}),
    "deep4": ("deep4", 6, T, "Deep4Net", dict.fromkeys(LENGTHS, 6)),
}


def small_random(net):
    """Every parameter and buffer away from its initial value, yet small enough for the max norm of 1 not to bite."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.normal_(float("norm" in name and name.endswith("weight")), 0.1)
        for name, b in net.named_buffers():
            if b.is_floating_point():
                b.uniform_(0, 0.2).add_(0.9 * name.endswith("var"))
    return net


def like(value, target):
    """Same entries in braindecode's axis order: its ConvNets keep time before electrodes, its head is a conv."""
    if value.ndim == 4 and value.shape != target.shape:
        value = value.transpose(2, 3)
    return value.reshape(target.shape)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("train", [False, True])
def test_equals_braindecode(case, train):
    """Logits, first and second derivatives (for GraSP) and, in training mode, running statistics, of equal weights."""
    models = pytest.importorskip("braindecode.models")
    backbone, kernel, n_times, name, options = CASES[case]
    net = DualTaskNet(E, n_times, 3, backbone=backbone, tasks=("mi",), kernel=kernel, dropout=0.0)
    net = small_random(net).double().train(train)
    ref = getattr(models, name)(n_chans=E, n_outputs=3, n_times=n_times, drop_prob=0.0, **options)
    ref.double().train(train)
    pairs = list(zip([*net.parameters(), *net.buffers()], [*ref.parameters(), *ref.buffers()], strict=True))
    with torch.no_grad():
        for ours, its in pairs:
            its.copy_(like(ours, its))
    x = torch.randn(N, E, n_times).double()
    ours, its = net({"mi": x})["mi"], ref(x)
    torch.testing.assert_close(ours, its)
    for model, logits in ((net, ours), (ref, its)):
        loss = F.cross_entropy(logits, torch.arange(N) % 3)
        slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        (loss + sum(slope.square().sum() for slope in slopes)).backward()
    for a, b in pairs:
        a, b = (a.grad, b.grad) if a.requires_grad else (a, b)
        torch.testing.assert_close(like(a, b), b, rtol=1e-6, atol=1e-8)


def test_defaults_are_braindecodes_and_temporal_filters_half_a_second_long():
    models = pytest.importorskip("braindecode.models")
    for backbone, name in {case[0]: case[3] for case in CASES.values()}.items():
        ref = getattr(models, name)(n_chans=64, n_outputs=4, n_times=640)
        net = DualTaskNet(64, 640, 4, backbone=backbone, tasks=("me",))
        assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in ref.parameters())
        assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {ref.drop_prob}
    for sfreq in (80, 160):
        assert DualTaskNet(E, T, 2, sfreq=sfreq).shared.temporal.kernel_size == (1, sfreq // 2)


def test_any_module_can_be_the_trunk_and_keeps_its_weights():
    trunk, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(E * T, 7)), torch.randn(N, E, T)
    trunk.n_features = 7
    before = copy.deepcopy(trunk)
    net = DualTaskNet(E, T, 3, backbone=trunk)
    torch.testing.assert_close(net({"mi": x})["mi"], net.mi(before(x)))


def test_tasks_share_the_trunk_and_nothing_else():
    for tasks in (("mi", "me"), ("me",)):
        net = DualTaskNet(E, T, 2, tasks=tasks)
        assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"shared", *tasks}
    net = DualTaskNet(E, T, 2)
    net({"mi": torch.randn(N, E, T), "me": torch.randn(N, E, T)})["mi"].square().sum().backward()
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


def test_initial_weights_come_from_the_generator():
    a, b, other = (DualTaskNet(E, T, 2, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
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
    ("options", "inputs", "words"),
    [({"backbone": "resnet"}, {}, "'resnet'"), ({"backbone": torch.nn.Flatten()}, {}, "n_features"),
     ({"tasks": ("mi", "rest")}, {}, "rest"), ({"tasks": ()}, {}, "mi, me"), ({"tasks": ("mi", "mi")}, {}, "once"),
     ({"kernel": 0}, {}, "kernel.*got 0"), ({"n_classes": 1}, {}, "n_classes=1"), ({}, {}, "no task"),
     ({}, {"mi": torch.zeros(2, 6, T)}, r"mi: .*got \(2, 6, 288\)"), ({}, {"me": torch.zeros(2, E, T)}, "me: .* mi"),
     ({}, {"mi": torch.zeros(2, E, 287)}, r"got \(2, 5, 287\)"), ({}, {"mi": torch.zeros(E, T)}, r"got \(5, 288\)")],
)  # fmt: skip
def test_bad_options_and_inputs(options, inputs, words):
    with pytest.raises(SpecError, match=words):
        DualTaskNet(E, T, **{"n_classes": 2, "tasks": ("mi",)} | options)(inputs)
