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


def test_backbone_is_torchvisions_dilated_resnet50_and_starts_like_it():
    reference = resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    ours, weights = dilated_resnet().eval(), reference.state_dict()
    for name, value in ours.state_dict().items():
        if value.ndim == 4 and value.numel() > 10_000:
            assert value.std().item() == pytest.approx(weights[name].std().item(), rel=0.05), name
        elif "bn" in name or "downsample.1" in name:
            assert torch.equal(value, weights[name]), name
    ours.load_state_dict({name: value for name, value in weights.items() if not name.startswith("fc.")}, strict=True)
    features = nn.Sequential(*list(reference.children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(ours(pictures(1, 48)), features(pictures(1, 48)), rtol=0, atol=0)
    assert len(backbone_convs(ours)) == 53  # 49 on the main path, 4 on the skips


def test_dense_head_is_torchvisions_deeplab_head():
    reference, ours = DeepLabHead(32, 7).eval(), dense_head(32, 7).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    x = torch.rand(2, 32, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=0)


@pytest.mark.parametrize(("stem", "side"), [("plain", 36), ("deep", 32)])
def test_output_shapes(stem, side):
    model, small = MultiTaskNet(TASKS, 5, stem=stem, **SMALL), -(-side // 8)
    shapes = {task: tuple(p.shape) for task, p in model(pictures(3, side)).items()}
    maps = {task: (3, channels, small, small) for task, channels in (("seg", 5), ("normal", 3), ("depth", 1))}
    assert shapes == {**maps, "male": (3,), "smile": (3,)}


def test_penalised_weights_are_the_backbones_convolutions_three_in_a_deep_stem():
    shapes = [tuple(w.shape) for w in backbone_convs(dilated_resnet(64, (1, 1, 1, 1), "deep")).values()]
    assert shapes[:4] == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (64, 128, 1, 1)]
    model = MultiTaskNet(("seg",), **SMALL)
    wanted = {n: p for n, p in model.named_parameters() if n.startswith("shared.") and p.ndim == 4}
    convs = backbone_convs(model)
    assert [(name, id(p)) for name, p in convs.items()] == [(name, id(p)) for name, p in wanted.items()]


def test_passes_per_task_are_as_many_updates_of_batch_norm_and_the_same_predictions():
    for passes, count in (("once", 1), ("per-task", 3)):
        torch.manual_seed(0)
        model = MultiTaskNet(TASKS[:3], 5, passes=passes, **SMALL)
        model(pictures())
        assert int(model.shared.bn1.num_batches_tracked) == count
    per_task = model.eval()(pictures())
    model.passes = "once"
    torch.testing.assert_close(model(pictures()), per_task, rtol=0, atol=0)


def test_bounded_heads():
    model = MultiTaskNet(TASKS[1:3], bounded=TASKS[1:3], **SMALL)
    for head in model.heads.values():
        head[-2].weight.data *= 1e4  # of the last convolution
    p = model(pictures())
    assert 0.9 < p["normal"].abs().max() <= 1
    assert 0 <= p["depth"].min() <= p["depth"].max() <= 1


WRONG = [{"stem": "wide"}, {"passes": "twice"}, {"bounded": ("seg",)}, {"layers": (1, 1, 1)}, {"width": 0}]
WRONG += [{"tasks": tasks} for tasks in ((), ("seg", "seg"), ("segmentation",))]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_unknown_names_and_sizes_are_refused(options):
    with pytest.raises(SpecError):
        MultiTaskNet(**{"tasks": ("seg",)} | SMALL | options)
