"""Proximal operators of the sparsity penalties, and AdamW with the proximal step in its own metric.

The penalty is Eq. 3 of Upadhyay et al. 2023, lambda * sum_g sqrt(n_g) * ||theta_g||_2; a group is a slice of a
weight along `dim`, by default one input channel of a convolution, theta[:, c]. None of this is differentiable.
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sparsemtl.errors import SpecError
from sparsemtl.sparsity.saliency import prunable


@torch.no_grad()
def prox_group_lasso(theta: Tensor, threshold: float | Tensor, dim: int = 1) -> Tensor:
    """Shrink each group to norm max(||theta_g|| - threshold, 0): Eq. 5 of Upadhyay et al. 2023.

    Parameters
    ----------
    theta : Tensor
        Real floating tensor; its groups are the slices along `dim`. A group that holds NaN stays NaN.
    threshold : float or Tensor
        alpha * lambda * sqrt(n_g) >= 0: a number, or one entry for each group.
    dim : int
        Dimension of the groups.

    Raises
    ------
    SpecError
        A threshold that is negative, NaN or of another length; a theta that is not real and floating.
    """
    rows, threshold = theta.movedim(dim, 0), _per_group(threshold, theta, dim)
    norm = torch.linalg.vector_norm(rows.unsqueeze(-1).flatten(1), dim=1, dtype=torch.float64)
    column = (-1,) + (1,) * (theta.ndim - 1)
    shrunk = rows * (1 - threshold / norm).to(theta.dtype).view(column)
    return shrunk.masked_fill_((norm <= threshold).view(column), 0).movedim(0, dim)


def prox_group_lasso_scaled(theta: Tensor, scale: Tensor, threshold: float | Tensor, dim: int = 1) -> Tensor:
    """argmin_x 1/2 sum_i scale_i (x_i - theta_i)^2 + threshold * sum_g ||x_g||_2, the step in a diagonal metric.

    If ||scale * theta||_g <= threshold the group is exactly zero; else x_i = theta_i * nu / (nu + threshold / scale_i)
    with nu = ||x||_g > 0 the root of ||theta / (nu + threshold / scale)||_g = 1 (Deleu and Bengio 2021, "Structured
    sparsity inducing adaptive optimizers for deep learning"). For scale 1 this is `prox_group_lasso`, which has the
    other parameters and errors. The result is exact to about the rounding error of theta's dtype.

    Parameters
    ----------
    scale : Tensor
        Positive, of theta's shape.
    """
    if scale.shape != theta.shape:
        raise SpecError(f"scale has shape {tuple(scale.shape)}, theta {tuple(theta.shape)}; they must be equal")
    x = theta.detach().clone()
    prox_group_lasso_scaled_([x], [scale], [_per_group(threshold, theta, dim)], dim % theta.ndim)
    return x


@torch.no_grad()
def prox_group_lasso_scaled_(
    thetas: Sequence[Tensor], scales: Sequence[Tensor], thresholds: Sequence[Tensor], dim: int = 1,
    adam: tuple[Sequence[float], float] | None = None,
) -> None:  # fmt: skip
    """`prox_group_lasso_scaled` in place for many tensors on one device, unchecked: what a training step needs.

    Parameters
    ----------
    thetas, scales, thresholds : sequence of Tensor
        Pairs of one shape and dtype; thresholds are float64, one entry for each group.
    dim : int
        Dimension of the groups, not negative.
    adam : (sequence of float, float), optional
        Bias corrections and eps: `scales` hold Adam's second moments v, the scale is sqrt(v) / correction + eps.
    """
    if thetas and thetas[0].device.type == "cpu":
        from sparsemtl.sparsity.prox_cpu import solve_  # compiles, or loads what it compiled, on first use

        solve_(thetas, scales, thresholds, dim, adam)
    else:
        _on_gpu_(thetas, _metric(scales, *adam) if adam else scales, thresholds, dim)


@torch.no_grad()
def prox_l1(theta: Tensor, threshold: float | Tensor) -> Tensor:
    """Soft threshold sign(theta) * max(|theta| - threshold, 0), elementwise.

    Theta, of any shape, and errors as `prox_group_lasso`; a threshold that is a tensor broadcasts with theta.
    """
    limit = _nonnegative(threshold, theta).to(theta.dtype)
    return theta - theta.clamp(-limit, limit)


class ProxAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) followed by the penalty's proximal step in Adam's metric.

    With s = sqrt(v_hat) + eps, AdamW goes to u = (1 - lr * weight_decay) * theta - lr * m_hat / s, and then
    theta = argmin_x 1/(2 lr) sum_i s_i (x_i - u_i)^2 + lam * penalty(x) (Eq. 4 of Upadhyay et al. 2023; Deleu and
    Bengio 2021), where penalty is sum_g sqrt(n_g) ||x_g||_2 over the groups of each weight, or ||x||_1. Without
    penalty, or with lam = 0, a step is that of `torch.optim.AdamW`. When `torch.amp.GradScaler` skips a step, nothing
    changes.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, **options
        As for `torch.optim.AdamW`; with amsgrad the metric takes the largest v, as the step does. The following are
        those of param groups that have none of their own.
    penalty : {"group_lasso", "l1", None}
        A group is a slice along dimension 1: an input channel of a convolution or linear layer.
    lam : float
        Strength >= 0 of the penalty.
    corrected_metric : bool
        False takes the metric s = sqrt(v) + eps, as the code that Upadhyay et al. released.

    Raises
    ------
    SpecError
        At the start, and at each step: an unknown penalty, a lam that is not a finite number >= 0, a penalty on
        complex weights, "group_lasso" on a parameter of one dimension.
    """

    def __init__(
        self, params: Iterable, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, *, penalty: str | None = None, lam: float = 0.0,
        corrected_metric: bool = True, **options: Any,
    ):  # fmt: skip
        own = {"penalty": penalty, "lam": lam, "corrected_metric": corrected_metric}
        super().__init__(params, lr, betas, eps, weight_decay, **options)
        self.defaults.update(own)
        for group in self.param_groups:
            group.update(own | group)
            _check_penalty(group)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """One AdamW step, then the proximal step of each penalised parameter that has a gradient."""
        for group in self.param_groups:
            _check_penalty(group)
        loss = _adamw_step(self, closure)
        overflow = getattr(self, "found_inf", None)  # set by GradScaler if fused: AdamW then did nothing
        if overflow is not None and overflow.item():
            return loss
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None and p.numel()]
            if group["penalty"] is None or group["lam"] == 0 or not params:
                continue
            strength, eps = float(group["lr"]) * group["lam"], group["eps"]
            beta = group["betas"][1] if group["corrected_metric"] else 0.0
            steps = torch.stack([self.state[p]["step"] for p in params]).tolist()
            corrections = [math.sqrt(1 - beta**step) for step in steps]
            moments = [self.state[p]["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"] for p in params]
            if group["penalty"] == "l1":
                for p, scale in zip(params, _metric(moments, corrections, eps), strict=True):
                    p.copy_(prox_l1(p, strength / scale))
            else:
                limits = [strength * math.sqrt(p[:, 0].numel()) for p in params]
                pairs = zip(params, limits, strict=True)
                thresholds = [p.new_full([p.shape[1]], limit, dtype=torch.float64) for p, limit in pairs]
                prox_group_lasso_scaled_(params, moments, thresholds, adam=(corrections, eps))
        return loss


def penalty_groups(model: nn.Module, lam: float, penalty: str = "group_lasso") -> list[dict]:
    """Param groups for `ProxAdamW`: the convolutions (no transposed ones) and, not penalised, all other parameters.

    Parameters
    ----------
    model : torch.nn.Module
        The network, or the part of it that is to become sparse; errors as `saliency.prunable`.
    lam, penalty
        Those of the convolutions' group.
    """
    prunable(model)  # refuses weights that are computed
    convs = [m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd) and not m.transposed]
    penalised = {conv.weight for conv in convs}
    groups = [{"params": [conv.weight for conv in convs], "penalty": penalty, "lam": lam}]
    groups.append({"params": [p for p in model.parameters() if p not in penalised], "penalty": None})
    return [group for group in groups if group["params"]]


def _check_penalty(group: dict) -> None:
    """Raise SpecError for a param group that the step cannot honour; lam becomes a float."""
    if missing := {"penalty", "lam", "corrected_metric"} - group.keys():  # in a state of AdamW
        raise SpecError(f"ProxAdamW: a param group has no {max(missing)}; set it in param_groups")
    penalty, lam = group["penalty"], group["lam"]
    if not isinstance(penalty, str | None) or penalty not in ("group_lasso", "l1", None):
        raise SpecError(f'ProxAdamW: unknown penalty {penalty!r}; use "group_lasso", "l1" or None')
    lam = lam.item() if getattr(lam, "ndim", None) == 0 else lam
    if isinstance(lam, bool) or not isinstance(lam, Real) or not 0 <= lam <= torch.finfo(torch.float64).max:
        raise SpecError(f"ProxAdamW: lam is {lam!r}; it must be a number, zero or positive, and finite")
    group["lam"] = float(lam)
    for p in group["params"] if penalty is not None else ():
        if p.is_complex():
            raise SpecError(f"ProxAdamW: {penalty} is for real weights, got {p.dtype}; use torch.view_as_real")
        if penalty == "group_lasso" and p.ndim < 2:
            shape = tuple(p.shape)
            raise SpecError(f"ProxAdamW: group_lasso needs channels in dimension 1, got {shape}; penalise no biases")


# AdamW's step without the wrapper that runs hooks: torch puts one around ProxAdamW.step, hooks must run once
_adamw_step = inspect.unwrap(torch.optim.AdamW.step)


def _metric(moments, corrections, eps):
    """s = sqrt(v_hat) + eps of each second moment, as in the denominator of Adam's step."""
    scales = torch._foreach_sqrt(moments)
    torch._foreach_div_(scales, corrections)
    torch._foreach_add_(scales, eps)
    return scales


def _on_gpu_(thetas, scales, thresholds, dim):
    """The groups of one size of all tensors are solved side by side, as rows of a matrix."""
    by_size = defaultdict(list)
    for theta, scale, threshold in zip(thetas, scales, thresholds, strict=True):
        if theta.numel():
            job = theta.movedim(dim, 0), scale.movedim(dim, 0), threshold
            by_size[theta.numel() // len(threshold), theta.dtype].append(job)
    for (_, dtype), jobs in by_size.items():
        targets, metrics, limits = zip(*jobs, strict=True)
        theta, scale = (torch.cat([t.reshape(len(t), -1).double() for t in side]) for side in (targets, metrics))
        # theta's rounding error; Newton's error is about the square of its last step
        x = _solve(theta, scale, torch.cat(limits)[:, None], 0.1 * math.sqrt(torch.finfo(dtype).eps))
        for target, rows in zip(targets, x.split([len(t) for t in targets]), strict=True):
            target.copy_(rows.view(target.shape))


def _solve(theta, scale, threshold, tolerance):
    """x of each group, a row; theta and scale float64 [groups, entries], threshold float64 [groups, 1].

    With r = threshold / scale and S(nu) = ||theta / (nu + r)||^2 the root of 1 / sqrt(S) = 1 is sought. That
    function is concave and increasing in nu (linear if all r are equal), so that Newton's iteration from a point
    below the root rises to it and cannot overshoot. It starts from where the tangent at infinity crosses or, if
    that is not clearly above 0, from 0, where S <= 1 means that the group is zero. After a step of relative
    size d the error is at most 1.5 d^2.
    """
    ratio, squares = threshold / scale, theta * theta
    energy = squares.sum(1, keepdim=True)
    nu = energy.sqrt() - (squares * ratio).sum(1, keepdim=True) / energy
    nu = torch.where(nu > 1e-9 * energy.sqrt(), nu, 0 * energy)  # NaN stays NaN
    for _ in range(100):
        denominator = nu + ratio
        parts = (theta / denominator).square_()
        s2 = parts.sum(1, keepdim=True)
        s3 = parts.div_(denominator).sum(1, keepdim=True)
        # a sum that rounding has put above 1 must not bring a zero group to life
        step = torch.where(s2 > 1 + 1e-14, s2 * (s2.sqrt() - 1) / s3, 0)
        nu = nu + step
        if not (step > tolerance * nu).any():
            break
    return theta * nu / (nu + (nu == 0) + ratio)  # 0 / (1 + ratio) for 0 / (0 + ratio): the ratio too may be 0


def _per_group(threshold, theta, dim):
    threshold, groups = _nonnegative(threshold, theta), theta.shape[dim]
    if threshold.numel() not in (1, groups):
        raise SpecError(f"threshold has {threshold.numel()} entries for {groups} groups; give one, or one per group")
    return threshold.flatten().expand(groups)


def _nonnegative(threshold, theta):
    if not theta.is_floating_point():
        raise SpecError(f"theta has dtype {theta.dtype}; the penalties are for real floating tensors")
    threshold = torch.as_tensor(threshold, dtype=torch.float64, device=theta.device)
    if not (threshold >= 0).all():
        raise SpecError("threshold must be zero or positive, got a negative or NaN entry; check lambda and the rate")
    return threshold
