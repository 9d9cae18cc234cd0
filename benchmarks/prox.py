"""The scaled proximal step on all convolutions of ResNet-50, against the published solver's method and a plain copy.

The published solver (Deleu and Bengio 2021) is TorchScript: Newton's iteration on each tensor as whole-tensor
operations in float32, tensors forked, until no residual is above 1e-7 or none changes by more. `published` is our
rendering of it.
"""

import torch
from harness import Mark, arguments, report, seconds, take_turns, where_time_goes
from sparsemtl.sparsity import prox
from torchvision.models import resnet50

OURS, COPY, PUBLISHED = "proximal step", "copy (two tensors in, one out)", "published method, TorchScript"
STEP, ADAM = "step of ProxAdamW", "step of AdamW(foreach=True)"


@torch.jit.script
def newton(theta: torch.Tensor, scale: torch.Tensor, threshold: torch.Tensor, limit: int = 100) -> torch.Tensor:
    """theta nu / (nu + threshold / scale) in place, nu by Newton's iteration; tensors (before, groups, after)."""
    alive = torch.linalg.vector_norm(theta * scale, dim=(0, 2)) > threshold[0, :, 0]
    factor = torch.zeros_like(theta)
    t, s, limit_of = theta[:, alive], scale[:, alive], threshold[:, alive]
    ratio, squares = limit_of / s, t * t
    nu = (torch.linalg.vector_norm(t * s, dim=(0, 2), keepdim=True) - limit_of) / s.amax((0, 2), keepdim=True)
    before = torch.zeros_like(nu)
    for _ in range(limit):
        shifted = nu + ratio
        excess = torch.sum(squares / shifted**2, dim=(0, 2), keepdim=True) - 1
        nu = nu + 0.5 * excess / torch.sum(squares / shifted**3, dim=(0, 2), keepdim=True)
        if bool((excess.abs() < 1e-7).all()) or bool(((excess - before).abs() < 1e-7).all()):
            break
        before = excess
    factor[:, alive] = nu * s / (nu * s + limit_of)
    return theta.mul_(factor)


@torch.jit.script
def published(thetas: list[torch.Tensor], scales: list[torch.Tensor], thresholds: list[torch.Tensor]):
    """`newton` on every tensor, forked."""
    futures: list[torch.jit.Future[torch.Tensor]] = []
    for theta, scale, threshold in zip(thetas, scales, thresholds):  # noqa: B905 (TorchScript knows no strict)
        futures.append(torch.jit.fork(newton, theta, scale, threshold))
    for future in futures:
        torch.jit.wait(future)


def main():
    """Measure and write `prox-*.json` and `step-*.json`."""
    args = arguments(__doc__.splitlines()[0], share=0.3)
    torch.manual_seed(0)
    weights = [m.weight.detach().to(args.device) for m in resnet50().modules() if isinstance(m, torch.nn.Conv2d)]
    scales = [torch.rand_like(w) + 0.05 for w in weights]
    # the threshold that zeroes a group, times --share: solved, neither skipped nor cut
    thresholds = [
        args.share * torch.linalg.vector_norm(s * w, dim=(0, 2, 3), dtype=torch.float64)
        for s, w in zip(scales, weights, strict=True)
    ]
    details = {"tensors": len(weights), "weights": sum(w.numel() for w in weights), "share": args.share}
    proximal_step(args, weights, scales, thresholds, details)
    optimizer_step(args, weights, details)


def proximal_step(args, weights, scales, thresholds, details):
    """The solver alone."""
    thetas, targets = [w.clone() for w in weights], [torch.empty_like(w) for w in weights]
    flat = [[t.flatten(2) for t in tensors] for tensors in (thetas, scales)]
    columns = [t.float()[None, :, None] for t in thresholds]

    def refill():
        for theta, weight in zip(thetas, weights, strict=True):
            theta.copy_(weight)

    def copy():
        for theta, scale, target in zip(thetas, scales, targets, strict=True):
            torch.add(theta, scale, out=target)

    sides = {
        OURS: lambda: prox.prox_group_lasso_scaled_(thetas, scales, thresholds, 1),
        COPY: copy,
        PUBLISHED: lambda: published(*flat, columns),
    }
    apart = farthest(sides, refill, thetas)
    gpu = args.device != "cpu"
    marks = [
        Mark("the published method's time over ours", PUBLISHED, OURS, "at least", 50.0),
        Mark("our time over that of a copy", OURS, COPY, "at most", 3.0 if gpu else 5.0),
    ]
    taken = seconds(take_turns(sides, args, refill))
    refill()
    profile = {side: where_time_goes(sides[side], args.device) for side in (OURS, PUBLISHED)}
    report("prox", taken, marks, args, details | {"farthest": apart, "profile": profile})


def farthest(sides, refill, thetas):
    """Largest difference of an entry between both solvers, over the largest entry."""
    found = []
    for side in (OURS, PUBLISHED):
        refill()
        sides[side]()
        found.append([t.clone() for t in thetas])
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(*found, strict=True))


def optimizer_step(args, weights, details):
    """The optimizer as training uses it (fused) against PyTorch's AdamW."""
    sides = {}
    for name, make in {
        STEP: lambda p: prox.ProxAdamW([{"params": p, "penalty": "group_lasso", "lam": 1e-5}], lr=1e-4, fused=True),
        ADAM: lambda p: torch.optim.AdamW(p, lr=1e-4, foreach=True),
    }.items():
        params = [torch.nn.Parameter(w.clone()) for w in weights]
        for p in params:
            p.grad = torch.randn_like(p) * 1e-3
        sides[name] = make(params).step
    marks = [Mark("our step over that of AdamW", STEP, ADAM, "at most", 1.5)]
    report("step", seconds(take_turns(sides, args)), marks, args, details)


if __name__ == "__main__":
    main()
