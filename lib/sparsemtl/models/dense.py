"""Hard-sharing networks for images: one dilated ResNet, one head for each task (Upadhyay et al. 2023, section 4)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.models.segmentation.deeplabv3 import ASPP

from sparsemtl.errors import SpecError

DENSE_TASKS = ("seg", "normal", "depth")
TASKS = (*DENSE_TASKS, "male", "smile")
BOUNDS = {"normal": nn.Tanh, "depth": nn.Sigmoid}


def dilated_resnet(
    width: int = 64, layers: Sequence[int] = (3, 4, 6, 3), stem: str = "plain", first_dilated: bool = False,
    initial: str = "he",
) -> nn.Sequential:  # fmt: skip
    """Bottleneck ResNet at output stride 8: float (n, 3, H, W) -> (n, 32 * width, ceil(H / 8), ceil(W / 8)).

    The last two stages keep the resolution and dilate their 3 x 3 convolutions by 2 and 4 instead (Yu et al., CVPR
    2017). The defaults are torchvision's resnet50 with replace_stride_with_dilation=[False, True, True], parameter
    names and initial weights included, without pooling and classifier. An unknown name, or a size out of range, raises
    SpecError.

    Parameters
    ----------
    width, layers : int, sequence of int
        Channels of the first stage's narrow convolutions, and of the stem; blocks of each of the 4 stages.
    stem : {"plain", "deep"}
        One 7 x 7 convolution, or three of 3 x 3 with width, width and 2 * width channels (ResNet-D: He et al., CVPR
        2019), which the authors' released code has.
    first_dilated : bool
        The first block of a dilated stage is dilated like the others (released code), not like the stage before it.
    initial : {"he", "default"}
        Weights as torchvision draws them (`draw_weights`), or as PyTorch's layers do (the released code).
    """
    if stem not in ("plain", "deep") or initial not in ("he", "default"):
        raise SpecError(f"stem={stem!r}, initial={initial!r}: need plain or deep, and he or default")
    if width < 1 or len(layers) != 4 or min(layers) < 1:
        raise SpecError(f"width={width}, layers={tuple(layers)}: need width >= 1 and 4 counts of at least one block")
    channels, parts = width if stem == "plain" else 2 * width, OrderedDict[str, nn.Module]()
    if stem == "plain":
        parts["conv1"] = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    else:
        first = *_conv_norm_relu(3, width, stride=2), *_conv_norm_relu(width, width)
        parts["conv1"] = nn.Sequential(*first, _conv_norm_relu(width, channels)[0])
    parts |= {"bn1": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True), "maxpool": nn.MaxPool2d(3, 2, 1)}
    firsts = (1, 1, 2, 4) if first_dilated else (1, 1, 1, 2)
    stages = zip(layers, (1, 2, 1, 1), zip(firsts, (1, 1, 2, 4), strict=True), strict=True)
    for i, (count, stride, dilations) in enumerate(stages):
        planes, blocks = width * 2**i, []
        for block in range(count):
            skip = None
            if block == 0:
                widen = nn.Conv2d(channels, 4 * planes, 1, stride=stride, bias=False)
                skip = nn.Sequential(widen, nn.BatchNorm2d(4 * planes))
            dilation = dilations[block > 0]
            blocks.append(Bottleneck(channels, planes, stride if block == 0 else 1, skip, dilation=dilation))
            channels = 4 * planes
        parts[f"layer{i + 1}"] = nn.Sequential(*blocks)
    net = nn.Sequential(parts)
    draw_weights(net)
    for conv in (m for m in net.modules() if initial == "default" and isinstance(m, nn.Conv2d)):
        conv.reset_parameters()
    return net


def draw_weights(net: nn.Module) -> None:
    """Redraw the weights of all convolutions in place, as torchvision does for a ResNet (He et al. 2015)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def dense_head(
    channels: int, outputs: int, width: int = 256, rates: Sequence[int] = (12, 24, 36),
    activation: Callable[[], nn.Module] | None = None, dropout: tuple[float, float] = (0.5, 0.0),
    reduced: int | None = None,
) -> nn.Sequential:  # fmt: skip
    """DeepLab-V3 head (Chen et al. 2017): float (n, channels, h, w) -> (n, outputs, h, w).

    Atrous spatial pyramid pooling, a 3 x 3 and a 1 x 1 convolution; with the defaults torchvision's DeepLabHead.

    Parameters
    ----------
    channels, outputs, width : int
        Channels of the features, of the result, and in between.
    rates : sequence of int
        Dilations of the pyramid.
    activation : callable, optional
        Module class put at the end, such as nn.Tanh.
    dropout : (float, float)
        Rates after the pyramid and before the last convolution; the released code of Upadhyay et al. has 0.3 twice.
    reduced : int, optional
        A 1 x 1 convolution first brings the features to so many channels, which makes a narrow head cheaper.
    """
    pyramid = ASPP(reduced or channels, rates, width)
    pyramid.project[3].p = dropout[0]
    first = _conv_norm_relu(channels, reduced, kernel=1) if reduced else ()
    last = [*([nn.Dropout(dropout[1])] if dropout[1] else []), nn.Conv2d(width, outputs, 1)]
    return nn.Sequential(
        *first, pyramid, *_conv_norm_relu(width, width), *last, *([activation()] if activation else [])
    )


def binary_head(channels: int, dropout: tuple[float, float] = (0.6, 0.4)) -> nn.Sequential:
    """Head of a yes-or-no task: float (n, channels, h, w) -> one logit each, (n,).

    "A convolution layer and two linear fully connected layers"; widths, poolings and dropouts, which the paper does
    not state, are those of the authors' released code.
    """
    convolved = nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout[0])
    return nn.Sequential(
        *convolved, *pooled, nn.Linear(64, 32), nn.ReLU(), nn.Dropout(dropout[1]), nn.Linear(32, 1), nn.Flatten(0)
    )


class MultiTaskNet(nn.Module):
    """One backbone `shared`, one head for each task in `heads` (nn.ModuleDict).

    Training needs batches of at least two images (batch norm after the heads' global pooling).

    Parameters
    ----------
    tasks : sequence of "seg", "normal", "depth", "male", "smile"
        One task gives a single-task network.
    classes : int
        Outputs of the segmentation head.
    head_width, head_reduced, rates, dropout
        The dense heads, see `dense_head`; dilations 12, 24, 36 suit features of 32 x 32.
    attribute_dropout : (float, float)
        Rates in the heads of "male" and "smile".
    bounded : sequence of "normal", "depth"
        Heads that end in tanh and in a sigmoid, as in the authors' released code; else they are linear.
    passes : {"once", "per-task"}
        "per-task" runs the backbone anew for each task, as the authors' released code does: the same predictions in
        eval mode, but as many batch-norm updates and backbone passes as tasks.
    width, **backbone
        Arguments of `dilated_resnet`; a name that is unknown raises SpecError as there.
    """

    def __init__(
        self, tasks: Sequence[str], classes: int = 40, *, width: int = 64, head_width: int = 256,
        head_reduced: int | None = None, rates: Sequence[int] = (12, 24, 36), dropout: tuple[float, float] = (0.5, 0.0),
        attribute_dropout: tuple[float, float] = (0.6, 0.4), bounded: Sequence[str] = (), passes: str = "once",
        **backbone: Any,
    ):  # fmt: skip
        super().__init__()
        if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
            raise SpecError(f"tasks={tasks!r}: name each wanted task of {', '.join(TASKS)} once")
        if not set(bounded) <= set(BOUNDS) or passes not in ("once", "per-task"):
            raise SpecError(f"bounded={bounded!r}, passes={passes!r}: need normal, depth or none; once or per-task")
        self.tasks, self.passes = tuple(tasks), passes
        self.shared = dilated_resnet(width, **backbone)
        outputs = {"seg": classes, "normal": 3, "depth": 1}
        self.heads = nn.ModuleDict()
        for task in self.tasks:
            if task in DENSE_TASKS:
                options = head_width, rates, BOUNDS[task] if task in bounded else None, dropout, head_reduced
                self.heads[task] = dense_head(32 * width, outputs[task], *options)
            else:
                self.heads[task] = binary_head(32 * width, attribute_dropout)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Predictions {task: tensor} of images x, float (n, 3, H, W).

        "seg": logits (n, classes, h, w); "normal": (n, 3, h, w), not normalised; "depth": (n, 1, h, w); "male",
        "smile": logits (n,). h = ceil(H / 8), w = ceil(W / 8).
        """
        if self.passes == "per-task":
            return {task: head(self.shared(x)) for task, head in self.heads.items()}
        features = self.shared(x)
        return {task: head(features) for task, head in self.heads.items()}


def backbone_convs(model: nn.Module) -> dict[str, Tensor]:
    """Penalised weights: {name: weight (filters, input channels, k, k)} of all convolutions of the backbone, in order.

    The network has the backbone `shared`, or is one; names are those of its `named_parameters`.
    """
    prefix = "shared." if hasattr(model, "shared") else ""
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith(prefix)
    }


def _conv_norm_relu(channels_in: int, channels_out: int, stride: int = 1, kernel: int = 3) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(channels_out), nn.ReLU()
