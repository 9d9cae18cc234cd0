"""The picture networks against torchvision's, and what their switches do."""

import pytest
import torch
from sparsemtl.errors import SpecError
from sparsemtl.models.dense import MultiTaskNet, backbone_convs, dense_head, dilated_resnet
from torch import nn
from torchvision.models import resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

TASKS = ("seg", "normal", "depth", "male", "smile")
SMALL = {"width": 4, "layers": (1, 1, 1, 1), "head_width": 8, "rates": (1, 2, 3)}


def pictures(n=2, side=32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_backbone_is_torchvisions_dilated_resnet50():
    reference = resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    ours = dilated_resnet().eval()
    weights = {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    ours.load_state_dict(weights, strict=True)
    features = nn.Sequential(*list(reference.children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(ours(pictures(1, 48)), features(pictures(1, 48)), rtol=0, atol=0)


def test_backbone_starts_like_torchvisions():
    reference, ours = resnet50(weights=None).state_dict(), dilated_resnet().state_dict()
    for name, value in ours.items():
        if value.ndim == 4 and value.numel() > 10_000:
            assert value.std().item() == pytest.approx(reference[name].std().item(), rel=0.05), name
        elif "bn" in name or "downsample.1" in name:
            assert torch.equal(value, reference[name]), name


def test_dense_head_is_torchvisions_deeplab_head():
    reference, ours = DeepLabHead(32, 7).eval(), dense_head(32, 7).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.rand(2, 32, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=0)


@pytest.mark.parametrize("stem", ["plain", "deep"])
@pytest.mark.parametrize("side", [32, 36])
def test_output_shapes(stem, side):
    model = MultiTaskNet(TASKS, 5, stem=stem, **SMALL)
    small = -(-side // 8)
    shapes = {task: tuple(p.shape) for task, p in model(pictures(3, side)).items()}
    maps = {"seg": (3, 5, small, small), "normal": (3, 3, small, small), "depth": (3, 1, small, small)}
    assert shapes == {**maps, "male": (3,), "smile": (3,)}
    model.upsample = True
    assert model(pictures(3, side))["seg"].shape == (3, 5, side, side)


def test_deep_stem_is_three_convolutions_to_twice_the_width():
    shapes = [tuple(w.shape) for w in backbone_convs(dilated_resnet(64, (1, 1, 1, 1), "deep")).values()]
    assert shapes[:4] == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (64, 128, 1, 1)]


def test_penalised_weights_are_the_backbones_convolutions():
    model = MultiTaskNet(("seg",), **SMALL)
    convs = backbone_convs(model)
    parameters = dict(model.named_parameters())
    assert all(convs[name] is parameters[name] for name in convs)
    assert set(convs) == {name for name, p in parameters.items() if name.startswith("shared.") and p.ndim == 4}
    assert len(backbone_convs(dilated_resnet())) == 53  # ResNet-50: 49 on the main path, 4 on the skips


@pytest.mark.parametrize(("passes", "count"), [("once", 1), ("per-task", 3)])
def test_passes_through_the_backbone(passes, count):
    torch.manual_seed(0)
    model = MultiTaskNet(TASKS[:3], 5, passes=passes, **SMALL)
    calls = []
    model.shared.register_forward_hook(lambda *_: calls.append(1))
    model(pictures())
    assert len(calls) == count
    assert int(model.shared.bn1.num_batches_tracked) == count


def test_both_kinds_of_passes_predict_the_same():
    torch.manual_seed(0)
    model = MultiTaskNet(TASKS, 5, **SMALL).eval()
    once = model(pictures())
    model.passes = "per-task"
    for task, p in model(pictures()).items():
        assert torch.equal(p, once[task])


def test_bounded_heads():
    model = MultiTaskNet(TASKS[:3], bounded=("normal", "depth"), **SMALL)
    assert isinstance(model.heads["normal"][-1], nn.Tanh)
    assert isinstance(model.heads["depth"][-1], nn.Sigmoid)
    assert isinstance(MultiTaskNet(TASKS[:3], **SMALL).heads["depth"][-1], nn.Conv2d)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reaches_the_whole_backbone(task):
    torch.manual_seed(0)
    model = MultiTaskNet((task,), 5, **SMALL)
    model(pictures(4))[task].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.shared.parameters() if p.ndim == 4)


@pytest.mark.parametrize(
    ("tasks", "options"),
    [
        ((), {}),
        (("seg", "seg"), {}),
        (("segmentation",), {}),
        (("seg",), {"stem": "wide"}),
        (("seg",), {"passes": "twice"}),
        (("seg",), {"bounded": ("seg",)}),
        (("seg",), {"layers": (1, 1, 1)}),
        (("seg",), {"width": 0}),
    ],
)
def test_unknown_names_and_sizes_are_refused(tasks, options):
    with pytest.raises(SpecError):
        MultiTaskNet(tasks, **SMALL | options)
