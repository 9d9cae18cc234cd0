"""The scaled proximal step of the group lasso on the CPU: one compiled pass over groups that fit in the cache.

`sparsemtl.sparsity.prox` has the equations and the checks; this module only solves. A tensor is seen as
[before, groups, after], the way it lies in memory: the groups of a block stand side by side in each row, so that the
inner loops run along memory and the compiler makes vectors of them. Each group is summed by one thread in one order:
the result does not depend on the number of threads.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from numba import njit

ROWS = 64  # summed in the tensor's own precision, before the sum goes on in float64
BLOCK = 2**16  # entries of a block: two arrays of them stay in a core's cache
COARSE = 1e-3  # relative step at which Newton's iteration goes on in float64
TIE = 1e-14  # a sum that rounding has put above the threshold must not bring a zero group to life
LIMIT = 6, 60  # Newton steps in the tensor's own precision, and in float64


def solve_(thetas, scales, thresholds, shape_of, metric=None):
    """Put the solution into each of `thetas`, in place.

    thetas, scales: contiguous float32 or float64 CPU tensors; thresholds: float64 [groups] for each; shape_of: function
    that gives [before, groups, after] of a tensor. metric: None, or for each tensor (correction, eps), where its scale
    is sqrt(scale) / correction + eps: Adam's metric from its second moment.
    """
    jobs = []
    for i, (theta, scale, threshold) in enumerate(zip(thetas, scales, thresholds, strict=True)):
        before, groups, after = shape_of(theta)
        if not theta.numel():
            continue
        rows = [t.detach().numpy().reshape(before, groups * after) for t in (theta, scale)]
        correction, eps = metric[i] if metric else (0.0, 0.0)
        tolerance = 0.1 * float(np.sqrt(torch.finfo(theta.dtype).eps))
        width = max(1, max(64, BLOCK // before) // after)
        for first in range(0, groups, width):
            last = min(first + width, groups)
            jobs.append((*rows, threshold.numpy(), first, last, after, correction, eps, tolerance))
    threads = torch.get_num_threads()
    if threads == 1 or len(jobs) == 1:
        _solve_all(jobs)
    else:
        list(_pool(threads).map(_solve_all, [jobs[k::threads] for k in range(threads)]))


@cache
def _pool(threads):
    return ThreadPoolExecutor(threads, "prox")


def _solve_all(jobs):
    for job in jobs:
        _solve(*job)


# NaN and infinity keep their meaning; sums may be ordered as vectors want them. Functions that do not say otherwise
# inherit this from their caller.
_FAST = {"contract", "arcp", "nsz", "reassoc"}


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _solve(theta, scale, threshold, first, last, after, correction, eps, tolerance):
    """Solve groups `first` to `last`: Newton's iteration of `prox._solve`, which tells why it cannot overshoot.

    It runs in the tensor's own precision until the steps are small, then in float64, where the last one is made.
    """
    start, width, groups = first * after, (last - first) * after, last - first
    wide = np.empty(width)
    for j in range(width):
        wide[j] = threshold[first + j // after]
    block = _block(scale, start, width, correction, eps)
    energy, moment, gradient = _start(theta, block, wide, start)
    nu, alive = np.zeros(groups), np.zeros(groups, np.bool_)
    for g in range(groups):
        e, m, z = 0.0, 0.0, 0.0
        for j in range(g * after, (g + 1) * after):
            e += energy[j]
            m += moment[j]
            z += gradient[j]
        if np.isnan(e + z):
            nu[g] = np.nan
        elif z > threshold[first + g] ** 2 * (1 + TIE):  # at nu = 0 the sum is above 1: a root above 0 exists
            alive[g] = True
            root = np.sqrt(e)
            guess = root - m / e
            nu[g] = guess if guess > 1e-9 * root else 0.0
    lane, limit = np.empty(width, theta.dtype), wide.astype(theta.dtype)
    for _ in range(LIMIT[0]):
        for j in range(width):
            lane[j] = nu[j // after]
        s2, s3 = _sums(theta, block, lane, limit, start)
        if _newton(nu, alive, s2, s3, lane, after) <= COARSE:
            break
    exact = np.empty(width)
    for _ in range(LIMIT[1]):
        for j in range(width):
            exact[j] = nu[j // after]
        s2, s3 = _sums(theta, block, exact, wide, start)
        if _newton(nu, alive, s2, s3, exact, after) <= tolerance:
            break
    for j in range(width):
        lane[j] = nu[j // after]
        if lane[j] == 0:  # 0 / 1 for 0 / (0 + r): r too may be 0
            limit[j] = 1
    _put(theta, block, lane, limit, start)


@njit(nogil=True, fastmath=False, error_model="numpy", cache=True)
def _put(theta, scale, nu, threshold, start):
    """theta * nu / (nu + r) in place; strictly rounded, so that no threshold changes nothing."""
    for b in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            near = nu[j] * scale[b, j]
            theta[b, start + j] *= near / (near + threshold[j])


@njit(nogil=True, fastmath=False, error_model="numpy", cache=True)
def _block(scale, start, width, correction, eps):
    """The block's part of the scale, made from the second moment where that is what is given."""
    part = scale[:, start : start + width].copy()
    if correction > 0:
        for b in range(part.shape[0]):
            for j in range(width):
                part[b, j] = np.sqrt(part[b, j]) / correction + eps
    return part


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _start(theta, scale, threshold, start):
    """By lane the sums of theta^2, theta^2 * threshold / scale and (theta * scale)^2, in float64."""
    before, width = scale.shape
    energy, moment, gradient = np.zeros(width), np.zeros(width), np.zeros(width)
    for b in range(before):
        for j in range(width):
            s, t = np.float64(scale[b, j]), np.float64(theta[b, start + j])
            energy[j] += t * t
            moment[j] += t * t * (threshold[j] / s)
            gradient[j] += (t * s) * (t * s)
    return energy, moment, gradient


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _sums(theta, scale, nu, threshold, start):
    """By lane the sums of t^2 / (nu + r)^2 and t^2 / (nu + r)^3 with r = threshold / scale, in float64.

    Each entry is computed in the precision of nu and threshold.
    """
    before, width = scale.shape
    s2, s3 = np.zeros(width), np.zeros(width)
    part2, part3 = np.empty(width, nu.dtype), np.empty(width, nu.dtype)
    for top in range(0, before, ROWS):
        part2[:] = 0
        part3[:] = 0
        for b in range(top, min(top + ROWS, before)):
            for j in range(width):
                inverse = scale[b, j] / (nu[j] * scale[b, j] + threshold[j])
                t = theta[b, start + j] * inverse
                part2[j] += t * t
                part3[j] += t * t * inverse
        for j in range(width):
            s2[j] += part2[j]
            s3[j] += part3[j]
    return s2, s3


@njit(nogil=True, fastmath=False, error_model="numpy", cache=True)
def _newton(nu, alive, s2, s3, lane, after):
    """One Newton step of every live group from where `lane` says the sums were taken; the largest relative step."""
    largest = 0.0
    for g in range(len(nu)):
        if not alive[g]:
            continue
        a, b = 0.0, 0.0
        for j in range(g * after, (g + 1) * after):
            a += s2[j]
            b += s3[j]
        at = np.float64(lane[g * after])
        step = a * (np.sqrt(a) - 1) / b
        nu[g] = max(at + step, 0.0)
        if abs(step) > largest * nu[g]:
            largest = abs(step) / nu[g] if nu[g] > 0 else np.inf
    return largest
