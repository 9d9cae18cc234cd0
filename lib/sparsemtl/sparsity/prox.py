"""Proximal operators of the sparsity penalties, and AdamW with the proximal step in its own metric.

The penalty is Eq. 3 of Upadhyay et al. 2023, lambda * sum_g sqrt(n_g) * ||theta_g||_2; a group is a slice of a
weight along `dim`, by default one input channel of a convolution, theta[:, c]. None of this is differentiable.
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsemtl.errors import SpecError


@torch.no_grad()
def prox_group_lasso(theta: Tensor, threshold: float | Tensor, dim: int = 1) -> Tensor:
    """Shrink each group to norm max(||theta_g|| - threshold, 0): Eq. 5 of Upadhyay et al. 2023.

    Parameters
    ----------
    theta : Tensor
        Real floating tensor; its groups are the slices along `dim`.
    threshold : float or Tensor
        alpha * lambda * sqrt(n_g) >= 0: a number, or one entry for each group.
    dim : int
        Dimension of the groups.

    Returns
    -------
    Tensor
        New tensor like `theta`; a group with ||theta_g|| <= threshold is exactly zero, one that holds NaN stays NaN.

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


@torch.no_grad()
def prox_group_lasso_scaled(theta: Tensor, scale: Tensor, threshold: float | Tensor, dim: int = 1) -> Tensor:
    """argmin_x 1/2 sum_i scale_i (x_i - theta_i)^2 + threshold * sum_g ||x_g||_2, the step in a diagonal metric.

    If ||scale * theta||_g <= threshold the group is exactly zero; else x_i = theta_i * nu / (nu + threshold / scale_i)
    with nu = ||x||_g > 0 the root of ||theta / (nu + threshold / scale)||_g = 1 (Deleu and Bengio 2021, "Structured
    sparsity inducing adaptive optimizers for deep learning"). For scale 1 this is `prox_group_lasso`.

    Parameters
    ----------
    theta : Tensor
        Real floating tensor; its groups are the slices along `dim`.
    scale : Tensor
        Positive, of theta's shape.
    threshold : float or Tensor
        Number >= 0, or one entry for each group.
    dim : int
        Dimension of the groups.

    Returns
    -------
    Tensor
        New tensor like `theta`, to about the rounding error of its dtype.

    Raises
    ------
    SpecError
        As `prox_group_lasso`; a scale of another shape.
    """
    if scale.shape != theta.shape:
        raise SpecError(f"scale has shape {tuple(scale.shape)}, theta {tuple(theta.shape)}; they must be equal")
    x = theta.clone()
    _prox_scaled_([x], [scale], [_per_group(threshold, theta, dim)], dim % theta.ndim)
    return x


@torch.no_grad()
def prox_l1(theta: Tensor, threshold: float | Tensor) -> Tensor:
    """Soft threshold sign(theta) * max(|theta| - threshold, 0), elementwise.

    Parameters
    ----------
    theta : Tensor
        Real floating tensor.
    threshold : float or Tensor
        Number >= 0, or a tensor that broadcasts with theta.

    Returns
    -------
    Tensor
        New tensor like `theta`.

    Raises
    ------
    SpecError
        A negative or NaN threshold; a theta that is not real and floating.
    """
    limit = _nonnegative(threshold, theta).to(theta.dtype)
    return theta - theta.clamp(-limit, limit)


class ProxAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019) followed by the penalty's proximal step in Adam's metric.

    With s = sqrt(v_hat) + eps, AdamW goes to u = (1 - lr * weight_decay) * theta - lr * m_hat / s, and then
    theta = argmin_x 1/(2 lr) sum_i s_i (x_i - u_i)^2 + lam * penalty(x) (Eq. 4 of Upadhyay et al. 2023; Deleu and
    Bengio 2021), where penalty is sum_g sqrt(n_g) ||x_g||_2 over the groups of each weight, or ||x||_1. The bias
    corrections of step and metric are the same. Without penalty, or with lam = 0, a step is that of
    `torch.optim.AdamW`. When `torch.amp.GradScaler` skips a step, nothing changes.

    Parameters
    ----------
    params : iterable
        As for any torch optimizer. A param group may have its own "penalty", "lam" and "dim"; see `penalty_groups`.
    lr, betas, eps, weight_decay, amsgrad, maximize, foreach, fused
        As for `torch.optim.AdamW`; with amsgrad the metric takes the largest v, as the step does.
    penalty : {"group_lasso", "l1", None}
        Of param groups that have no "penalty".
    lam : float
        Strength >= 0 of the penalty, of param groups that have no "lam".
    dim : int
        Dimension of each weight whose slices are the groups: 1 for the input channels of a convolution or linear
        layer, 0 for those of a transposed convolution.
    corrected_metric : bool
        False takes the metric s = sqrt(v) + eps, as the code that Upadhyay et al. released.

    Raises
    ------
    SpecError
        When it is set, and at the step: an unknown penalty, a lam that is not a finite number >= 0, a penalty on
        complex weights or with differentiable=True, "group_lasso" on a parameter without dimension `dim`.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        penalty: str | None = None,
        lam: float = 0.0,
        dim: int = 1,
        corrected_metric: bool = True,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ):
        own = {"penalty": penalty, "lam": lam, "dim": dim, "corrected_metric": corrected_metric}
        if not isinstance(params, Tensor) and (params := list(params)):  # torch refuses a tensor, and an empty list
            params = [own | group for group in (params if isinstance(params[0], dict) else [{"params": params}])]
        options: dict[str, Any] = {"amsgrad": amsgrad, "maximize": maximize, "foreach": foreach, "fused": fused}
        super().__init__(params, lr, betas, eps, weight_decay, **options)
        self.defaults.update(own)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group as `torch.optim.Optimizer` does, and check its "penalty", "lam" and "dim"."""
        super().add_param_group(param_group)
        try:
            _check_penalty(self.param_groups[-1])
        except SpecError:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict:
        """State as AdamW's; the groups hold their penalty as plain numbers and strings."""
        for group in self.param_groups:
            _check_penalty(group)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state of this optimizer, or of AdamW: settings that its groups lack stay as they are."""
        names = ("penalty", "lam", "dim", "corrected_metric")
        groups = [dict(group) for group in state_dict["param_groups"]]
        for own, group in zip(self.param_groups, groups, strict=False):
            for name in names:
                group.setdefault(name, own[name])
            _check_penalty(group | {"params": own["params"]})
        super().load_state_dict(state_dict | {"param_groups": groups})

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
            params = [p for p in group["params"] if p.grad is not None]
            if group["penalty"] is None or group["lam"] == 0 or not params:
                continue
            strength, dim = float(group["lr"]) * group["lam"], group["dim"]
            steps = torch.stack([self.state[p]["step"] for p in params]).tolist()
            beta = group["betas"][1] if group["corrected_metric"] else 0.0
            corrections = [math.sqrt(1 - beta**step) for step in steps]
            moments = [self.state[p]["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"] for p in params]
            if group["penalty"] == "l1":
                for p, scale in zip(params, _metric(moments, corrections, group["eps"]), strict=True):
                    p.copy_(prox_l1(p, strength / scale))
                continue
            by_dim = [(p, v, c) for p, v, c in zip(params, moments, corrections, strict=True) if p.numel()]
            thresholds = [
                p.new_full([p.shape[dim]], strength * math.sqrt(p.numel() / p.shape[dim]), dtype=torch.float64)
                for p, _, _ in by_dim
            ]
            if by_dim:
                params, moments, corrections = map(list, zip(*by_dim, strict=True))
                _prox_scaled_(params, moments, thresholds, dim, (corrections, group["eps"]))
        return loss


def penalty_groups(model: nn.Module, lam: float, penalty: str = "group_lasso") -> list[dict]:
    """Param groups of a network for `ProxAdamW`: the weights of its convolutions are penalised.

    Parameters
    ----------
    model : torch.nn.Module
        The network, or the part of it that is to become sparse.
    lam : float
        Strength of the penalty.
    penalty : {"group_lasso", "l1"}
        A group is an input channel, in transposed convolutions too (dimension 0 of their weights).

    Returns
    -------
    list of dict
        Groups of the convolutions, of the transposed ones, and of all other parameters, without the empty ones.
    """
    convs = [m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    by_dim = {dim: [m.weight for m in convs if m.transposed == (dim == 0)] for dim in (1, 0)}
    penalised = {id(p) for params in by_dim.values() for p in params}
    groups = [{"params": params, "penalty": penalty, "lam": lam, "dim": dim} for dim, params in by_dim.items()]
    groups.append({"params": [p for p in model.parameters() if id(p) not in penalised], "penalty": None})
    return [group for group in groups if group["params"]]


def _check_penalty(group: dict) -> None:
    """Raise SpecError for a param group that the step cannot honour; its "lam" becomes a float."""
    penalty, lam, dim = group["penalty"], group["lam"], group["dim"]
    if penalty not in ("group_lasso", "l1", None):
        raise SpecError(f'ProxAdamW: unknown penalty {penalty!r}; use "group_lasso", "l1" or None')
    if isinstance(lam, (np.ndarray, Tensor)) and lam.ndim == 0:
        lam = lam.item()
    if isinstance(lam, bool) or not isinstance(lam, Real) or not 0 <= lam < math.inf:
        raise SpecError(f"ProxAdamW: lam is {lam!r}; it must be a number, zero or positive, and finite")
    group["lam"] = float(lam)
    if penalty is None:
        return
    if group.get("differentiable"):
        raise SpecError("ProxAdamW: the proximal step has no gradient; use differentiable=False")
    for p in group["params"]:
        if p.is_complex():
            raise SpecError(f"ProxAdamW: {penalty} is for real weights, got {p.dtype}; use torch.view_as_real")
        if penalty == "group_lasso" and not (isinstance(dim, int) and 0 <= dim < p.ndim > 1):
            raise SpecError(
                f"ProxAdamW: group_lasso needs weights with channels in dimension {dim}, got shape {tuple(p.shape)}; "
                "put biases and norms in a group without penalty"
            )


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
    if not theta.is_floating_point():
        raise SpecError(f"theta has dtype {theta.dtype}; the penalties are for real floating tensors")
    threshold = torch.as_tensor(threshold, dtype=torch.float64, device=theta.device)
    if not (threshold >= 0).all():
        raise SpecError("threshold must be zero or positive, got a negative or NaN entry; check lambda and the rate")
    return threshold
