"""Proximal operators of the sparsity penalties, and AdamW with the proximal step in its own metric.

The penalty is Eq. 3 of Upadhyay et al. 2023, lambda * sum_g sqrt(n_g) * ||theta_g||_2; a group is a slice of a
weight along `dim`, by default one input channel of a convolution, theta[:, c]. None of this is differentiable.
"""

import inspect
import math
from collections import defaultdict

import torch

from sparsemtl.errors import SpecError


@torch.no_grad()
def prox_group_lasso(theta, threshold, dim=1):
    """Shrink each group to norm max(||theta_g|| - threshold, 0): Eq. 5 of Upadhyay et al. 2023.

    `theta`: float tensor; its groups are the slices along `dim`. `threshold` >= 0 is already
    alpha * lambda * sqrt(n_g): a number, or a tensor with one entry per group. Returns a new tensor like `theta`;
    a group with ||theta_g|| <= threshold is exactly zero, one that holds NaN stays NaN.

    Raises SpecError for a negative or NaN threshold or one that fits neither form.
    """
    rows, threshold = theta.movedim(dim, 0), _per_group(threshold, theta, dim)
    norm = torch.linalg.vector_norm(rows.unsqueeze(-1).flatten(1), dim=1, dtype=torch.float64)
    column = (-1,) + (1,) * (theta.ndim - 1)
    shrunk = rows * (1 - threshold / norm).to(theta.dtype).view(column)
    return shrunk.masked_fill_((norm <= threshold).view(column), 0).movedim(0, dim)


@torch.no_grad()
def prox_group_lasso_scaled(theta, scale, threshold, dim=1):
    """argmin_x 1/2 sum_i scale_i (x_i - theta_i)^2 + threshold * sum_g ||x_g||_2, the step in a diagonal metric.

    `scale`: positive, of theta's shape; the rest as `prox_group_lasso`, whose result this is for scale 1. Where
    ||scale * theta||_g <= threshold the group is exactly zero; else x_i = theta_i * nu / (nu + threshold / scale_i)
    with nu = ||x||_g > 0 the root of ||theta / (nu + threshold / scale)||_g = 1 (Deleu and Bengio 2021,
    "Structured sparsity inducing adaptive optimizers for deep learning"). Solved for all groups at once, to
    about the rounding error of theta's dtype.

    Raises SpecError as `prox_group_lasso`, and for a scale of another shape.
    """
    if scale.shape != theta.shape:
        raise SpecError(f"scale has shape {tuple(scale.shape)}, theta {tuple(theta.shape)}; they must be equal")
    x = theta.clone()
    _prox_scaled_([x], [scale], [_per_group(threshold, theta, dim)], dim % theta.ndim)
    return x


@torch.no_grad()
def prox_l1(theta, threshold):
    """Soft threshold sign(theta) * max(|theta| - threshold, 0), elementwise; `threshold` a number or a tensor.

    Raises SpecError for a negative or NaN threshold.
    """
    threshold = _nonnegative(threshold, theta).to(theta.dtype)
    return theta - theta.clamp(-threshold, threshold)


class ProxAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) followed by the penalty's proximal step in Adam's metric.

    A param group may have "penalty" ("group_lasso", "l1" or None) and "lam" >= 0. With
    s = sqrt(v_hat) + eps, AdamW goes to u = (1 - lr * weight_decay) * theta - lr * m_hat / s, and then
    theta = argmin_x 1/(2 lr) sum_i s_i (x_i - u_i)^2 + lam * penalty(x) (Eq. 4 of Upadhyay et al. 2023; Deleu and
    Bengio 2021), where penalty is sum_g sqrt(n_g) ||x_g||_2 over the input channels (dim 1) of each weight of the
    group, or ||x||_1. The bias corrections of step and metric are the same; with corrected_metric=False the metric is
    s = sqrt(v) + eps, as in the code that Upadhyay et al. released. Without penalty, or with lam = 0, a step is that of
    `torch.optim.AdamW`. State is AdamW's; `state_dict` holds penalty and lam with the groups.

    Raises SpecError for an unknown penalty, a lam that is negative or not finite, or "group_lasso" on a parameter
    with less than two dimensions.
    """

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, *, corrected_metric=True, foreach=None,
        fused=None,
    ):  # fmt: skip
        self.corrected_metric = corrected_metric
        super().__init__(params, lr, betas, eps, weight_decay, foreach=foreach, fused=fused)

    def add_param_group(self, param_group):
        """Add a group as `torch.optim.Optimizer` does, after checking its "penalty" and "lam"."""
        penalty, lam = param_group.setdefault("penalty", None), param_group.setdefault("lam", 0.0)
        if penalty not in ("group_lasso", "l1", None):
            raise SpecError(f'ProxAdamW: unknown penalty {penalty!r}; use "group_lasso", "l1" or None')
        if not 0 <= lam < math.inf:
            raise SpecError(f"ProxAdamW: lam is {lam}; it must be zero or positive, and finite")
        super().add_param_group(param_group)
        for p in param_group["params"]:
            if penalty == "group_lasso" and p.ndim < 2:
                raise SpecError(
                    f"ProxAdamW: group_lasso needs weights with input channels, got shape {tuple(p.shape)}; "
                    "put biases and norms in a group without penalty"
                )

    @torch.no_grad()
    def step(self, closure=None):
        """One AdamW step, then the proximal step of each penalised parameter that has a gradient."""
        loss = _adamw_step(self, closure)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["penalty"] is None or group["lam"] == 0 or not params:
                continue
            strength = float(group["lr"]) * group["lam"]
            steps = torch.stack([self.state[p]["step"] for p in params]).tolist()
            corrections = [math.sqrt(1 - group["betas"][1] ** step) if self.corrected_metric else 1.0 for step in steps]
            moments = [self.state[p]["exp_avg_sq"] for p in params]
            if group["penalty"] == "l1":
                for p, scale in zip(params, _metric(moments, corrections, group["eps"]), strict=True):
                    p.copy_(prox_l1(p, strength / scale))
            else:
                sizes = [p[:, :1].numel() for p in params]
                thresholds = [
                    p.new_full([p.shape[1]], strength * math.sqrt(n), dtype=torch.float64)
                    for p, n in zip(params, sizes, strict=True)
                ]
                _prox_scaled_(params, moments, thresholds, 1, (corrections, group["eps"]))
        return loss


# AdamW's step without the wrapper that runs hooks: torch puts one around ProxAdamW.step, hooks must run once
_adamw_step = inspect.unwrap(torch.optim.AdamW.step)


def _metric(moments, corrections, eps):
    """s = sqrt(v_hat) + eps of each second moment, as in the denominator of Adam's step."""
    scales = torch._foreach_sqrt(moments)
    torch._foreach_div_(scales, corrections)
    torch._foreach_add_(scales, eps)
    return scales


def _prox_scaled_(thetas, scales, thresholds, dim, adam=None):
    """`prox_group_lasso_scaled` in place for a list of tensors on one device; `thresholds`: float64 [groups] for each.

    adam: None, or (bias corrections, eps) where `scales` are Adam's second moments. A tensor is seen as
    [before, groups, after], the way it lies in memory.
    """
    if thetas and thetas[0].device.type == "cpu":
        _on_cpu_(thetas, scales, thresholds, dim, adam)
    else:
        _on_gpu_(thetas, _metric(scales, *adam) if adam else scales, thresholds, dim)


def _on_cpu_(thetas, scales, thresholds, dim, adam):
    from sparsemtl.sparsity.prox_cpu import solve_  # compiles, or loads what it compiled, on first use

    plain = [t if t.dtype in (torch.float32, torch.float64) else t.float() for t in thetas]
    plain = [t.contiguous() for t in plain]
    scales = [s.to(t.dtype).contiguous() for s, t in zip(scales, plain, strict=True)]
    solve_(plain, scales, thresholds, dim, adam)
    for target, solved in zip(thetas, plain, strict=True):
        if target.data_ptr() != solved.data_ptr():
            target.copy_(solved)


_CHUNK = 2**26  # entries solved together on a GPU, for its memory in float64


def _on_gpu_(thetas, scales, thresholds, dim):
    """The groups of all tensors with the same before and after are solved side by side."""
    by_shape = defaultdict(list)
    for theta, scale, threshold in zip(thetas, scales, thresholds, strict=True):
        if theta.numel():
            by_shape[theta.shape[:dim], theta.shape[dim + 1 :], theta.dtype].append((theta, scale, threshold))
    for (before, after, dtype), tensors in by_shape.items():
        # theta's rounding error; Newton's error is about the square of its last step
        tolerance = 0.1 * math.sqrt(torch.finfo(dtype).eps)
        shape = math.prod(before), -1, math.prod(after)
        for chunk in _chunks(tensors, dim, max(1, _CHUNK // (math.prod(before) * math.prod(after)))):
            parts = list(zip(*chunk, strict=True))
            theta, scale = (_joined([_copied(t, shape) for t in ts]) for ts in parts[:2])
            x = _solve(theta, scale, torch.cat(parts[2]), tolerance)
            for target, values in zip(parts[0], x.split([len(t) for t in parts[2]], 1), strict=True):
                target.copy_(values.view(target.shape))


def _chunks(tensors, dim, groups):
    """Cut and join the (theta, scale, threshold) along their groups into lists with `groups` groups in all."""
    chunk, room = [], groups
    for theta, scale, threshold in tensors:
        start = 0
        while start < len(threshold):
            n = min(room, len(threshold) - start)
            chunk.append((theta.narrow(dim, start, n), scale.narrow(dim, start, n), threshold[start : start + n]))
            start, room = start + n, room - n
            if room == 0:
                yield chunk
                chunk, room = [], groups
    if chunk:
        yield chunk


def _copied(tensor, shape):
    return tensor.to(torch.float64, copy=True, memory_format=torch.contiguous_format).view(shape)


def _joined(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _solve(theta, scale, threshold, tolerance):
    """x of each group; theta and scale float64 [before, groups, after], overwritten, threshold float64 [groups].

    With r = threshold / scale and S(nu) = ||theta / (nu + r)||^2 the root of 1 / sqrt(S) = 1 is sought. That
    function is concave and increasing in nu (linear if all r are equal), so that Newton's iteration from a point
    below the root rises to it and cannot overshoot. It starts from where the tangent at infinity crosses or, if
    that is not clearly above 0, from 0, where S <= 1 means that the group is zero. After a step of relative
    size d the error is at most 1.5 d^2.
    """
    before, groups, after = theta.shape
    theta, scale = theta.view(before, -1), scale.view(before, -1)

    # long rows in memory are what elementwise kernels and reductions are fast on
    def total(x):
        return x.sum(0).view(groups, after).sum(1)

    def spread(x):
        return x[:, None].expand(groups, after).reshape(-1)

    ratio = torch.div(spread(threshold), scale, out=scale)
    work = theta * theta
    energy = total(work)
    nu = energy.sqrt() - total(work.mul_(ratio)) / energy
    nu = torch.where(nu > 1e-9 * energy.sqrt(), nu, 0 * energy)  # NaN stays NaN
    denominator = torch.empty_like(work)
    for _ in range(100):
        torch.add(ratio, spread(nu), out=denominator)
        torch.div(theta, denominator, out=work)
        s2 = total(work.mul_(work))
        s3 = total(work.div_(denominator))
        # a sum that rounding has put above 1 must not bring a zero group to life
        step = torch.where(s2 > 1 + 1e-14, s2 * (s2.sqrt() - 1) / s3, 0)
        nu += step
        if not (step > tolerance * nu).any():
            break
    zero = nu == 0  # there 0 / 1 is taken for 0 / (0 + ratio): the ratio too may be 0
    x = theta.mul_(spread(nu)).div_(ratio.add_(spread(nu + zero)))
    return x.view(before, groups, after)


def _per_group(threshold, theta, dim):
    threshold, groups = _nonnegative(threshold, theta), theta.shape[dim]
    if threshold.numel() not in (1, groups):
        raise SpecError(f"threshold has {threshold.numel()} entries for {groups} groups; give one, or one per group")
    return threshold.flatten().expand(groups)


def _nonnegative(threshold, theta):
    threshold = torch.as_tensor(threshold, dtype=torch.float64, device=theta.device)
    if not (threshold >= 0).all():
        raise SpecError("threshold must be zero or positive, got a negative or NaN entry; check lambda and the rate")
    return threshold
