"""ProxAdamW on a torchvision network: channels that do not help become exactly zero."""

import torch
from sparsemtl.sparsity.measure import group_sparsity
from sparsemtl.sparsity.prox import ProxAdamW, penalty_groups
from torchvision.models import resnet18

model = resnet18(num_classes=2)
optimizer = ProxAdamW(penalty_groups(model, lam=0.2), lr=1e-2)
for _ in range(3):
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(2, (8,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
print(f"{group_sparsity(model):.0%} of the channel groups are zero")
