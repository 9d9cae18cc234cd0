"""The scaled proximal step on all convolutions of ResNet-50, against plain PyTorch and against copying the tensors.

Plain PyTorch is Newton's iteration as whole-tensor operations, which is how the published solver does it.
"""

import torch
from harness import arguments, report, take_turns
from sparsemtl.sparsity import prox
from torchvision.models import resnet50


def main():
    """Measure and write `results/benchmarks/prox-*.json` and `step-*.json`."""
    args = arguments(__doc__.splitlines()[0], share=0.3)
    torch.manual_seed(0)
    weights = [m.weight.detach().to(args.device) for m in resnet50().modules() if isinstance(m, torch.nn.Conv2d)]
    scales = [torch.rand_like(w) + 0.05 for w in weights]
    # the threshold that zeroes a group, times --share: solved, neither skipped nor cut
    thresholds = [
        args.share * torch.linalg.vector_norm(s * w, dim=(0, 2, 3), dtype=torch.float64)
        for s, w in zip(scales, weights, strict=True)
    ]
    thetas, targets = [w.clone() for w in weights], [torch.empty_like(w) for w in weights]

    def refill():
        for theta, weight in zip(thetas, weights, strict=True):
            theta.copy_(weight)

    def copy():  # theta in, scale in, theta out
        for theta, scale, target in zip(thetas, scales, targets, strict=True):
            torch.add(theta, scale, out=target)

    ours = "scaled proximal step"
    sides = {ours: lambda: prox._prox_scaled_(thetas, scales, thresholds, 1), "reading two tensors, writing one": copy}
    marks = [(ours, "reading two tensors, writing one", "at most", 5.0 if args.device == "cpu" else 3.0)]
    if args.device == "cpu":
        sides["plain PyTorch"] = lambda: prox._on_gpu_(thetas, scales, thresholds, 1)
        marks.append(("plain PyTorch", ours, "at least", 50.0))
    details = {"tensors": len(weights), "weights": sum(w.numel() for w in weights), "share": args.share}
    report("prox", take_turns(sides, args, refill), marks, args, details)
    step(args, weights, details)


def step(args, weights, details):
    """`ProxAdamW` as the training uses it (fused) against PyTorch's AdamW."""
    sides = {}
    for name, make in {
        "ProxAdamW": lambda p: prox.ProxAdamW(
            [{"params": p, "penalty": "group_lasso", "lam": 1e-5}], lr=1e-4, fused=True
        ),
        "torch.optim.AdamW(foreach=True)": lambda p: torch.optim.AdamW(p, lr=1e-4, foreach=True),
    }.items():
        params = [torch.nn.Parameter(w.clone()) for w in weights]
        for p in params:
            p.grad = torch.randn_like(p) * 1e-3
        sides[name] = make(params).step
    report("step", take_turns(sides, args), [(*sides, "at most", 1.5)], args, details)


if __name__ == "__main__":
    main()
