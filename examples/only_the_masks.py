"""SNIP masks on a torchvision network: weights are pruned once, before training, and stay zero."""

import torch
from sparsemtl.sparsity.masks import apply_masks, sparsity_of, topk_mask
from sparsemtl.sparsity.saliency import snip
from torchvision.models import resnet18

model, loss_fn = resnet18(num_classes=2), torch.nn.functional.cross_entropy
images, labels = torch.randn(8, 3, 32, 32), torch.randint(2, (8,))
masks = topk_mask(snip(model, loss_fn, images, labels), sparsity=0.8)
apply_masks(model, masks)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
loss_fn(model(images), labels).backward()
optimizer.step()
print(f"{sparsity_of(masks):.0%} pruned, {float((model.conv1.weight == 0).float().mean()):.0%} of the first layer zero")
