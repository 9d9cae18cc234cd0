"""compact on a torchvision network: channels that are zero are taken out, and the outputs stay the same."""

import torch
from sparsemtl.sparsity.compact import compact
from torchvision.models import resnet18

model, images = resnet18(num_classes=2).eval(), torch.randn(4, 3, 32, 32)
with torch.no_grad():
    for block in (model.layer3[0], model.layer4[0]):
        block.conv2.weight[:, ::2] = 0  # every other input channel
small = compact(model, images)
before, after = (sum(p.numel() for p in net.parameters()) for net in (model, small))
print(f"{before} parameters become {after}")
print(f"largest difference of an output: {(model(images) - small(images)).abs().max().item():.1e}")
