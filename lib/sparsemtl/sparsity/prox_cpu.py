"""The scaled proximal step of the group lasso on the CPU: compiled loops that stream through memory.

`sparsemtl.sparsity.prox` has the equations and the checks; this module only solves. A tensor is seen as
[before, groups, after], the way it lies in memory: the groups of a block stand side by side in each row, so that the
inner loops run along memory and the compiler makes vectors of them. Each group is summed by one thread in one order:
the result does not depend on the number of threads.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numba
import numpy as np
import torch

ROWS = 64  # summed in the tensor's own precision, before the sum goes on in float64
LANES = 1024  # columns of a block: runs long enough to stream from memory, sums few enough to stay in the cache
COARSE = 2e-4  # relative step after which the error of float32 is larger than that of the iteration
TIE = 1e-14  # a sum that rounding has put above the threshold must not bring a zero group to life
LIMIT = 6, 60  # Newton steps in the tensor's own precision, and in float64


def solve_(thetas, scales, thresholds, dim, adam=None):
    """Put the solution into each of `thetas`, in place; arguments as `prox.prox_group_lasso_scaled_`."""
    jobs, changed, (corrections, eps) = [], [], adam or ([0.0] * len(thetas), 0.0)
    for theta, scale, threshold, correction in zip(thetas, scales, thresholds, corrections, strict=True):
        if not theta.numel():
            continue
        before, groups, after = theta.shape[:dim].numel(), theta.shape[dim], theta.shape[dim + 1 :].numel()
        plain = (theta if theta.dtype in (torch.float32, torch.float64) else theta.float()).detach().contiguous()
        rows = [t.to(plain.dtype).contiguous().numpy().reshape(before, groups * after) for t in (plain, scale.detach())]
        if plain.data_ptr() != theta.data_ptr():
            changed.append((theta, plain))
        tolerance = 0.1 * float(np.sqrt(torch.finfo(plain.dtype).eps))
        width = max(1, LANES // after)
        for first in range(0, groups, width):
            last = min(first + width, groups)
            jobs.append((*rows, threshold.contiguous().numpy(), first, last, after, correction, eps, tolerance))
    threads = torch.get_num_threads()
    run = map if threads == 1 else _pool(threads).map
    list(run(lambda job: _solve(*job), jobs))
    for theta, plain in changed:
        theta.copy_(plain)


@cache
def _pool(threads):
    return ThreadPoolExecutor(threads, "prox")


_ROOM = 1 << 24  # bytes that a disk must have free: numba fails when it cannot write what it compiled
# NaN and infinity keep their meaning; sums may be ordered as vectors want them. Functions that do not say otherwise
# inherit this from their caller.
_FAST = {"contract", "arcp", "nsz", "reassoc"}


def compiled(fastmath):
    """Decorator that compiles on first use, and keeps the code below SPARSEMTL_CACHE, or nowhere if that fails."""

    def decorated(function):
        options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
        before, home = numba.config.CACHE_DIR, os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(os.environ.get("SPARSEMTL_CACHE") or Path(home, "sparsemtl"), "numba")
        try:
            folder = Path(os.environ.get("NUMBA_CACHE_DIR") or folder.expanduser().absolute())
            folder.mkdir(parents=True, exist_ok=True)
            numba.config.CACHE_DIR, has_room = str(folder), shutil.disk_usage(folder).free > _ROOM
            return numba.njit(cache=has_room, **options)(function)
        except (OSError, RuntimeError):  # no home, no permission
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return decorated


@compiled(_FAST)
def _solve(theta, scale, threshold, first, last, after, correction, eps, tolerance):
    """Solve groups `first` to `last`: Newton's iteration of `prox._solve`, which tells why it cannot overshoot twice.

    It runs in the tensor's own precision until the steps are small, and goes on in float64 where that is not enough:
    for float64 tensors, for groups of few entries, and where nu is small beside threshold / scale, so that rounding in
    the sums weighs more in nu.
    """
    start, width, groups = first * after, (last - first) * after, last - first
    exact, wide = np.empty(width), np.empty(width)
    for j in range(width):
        wide[j] = threshold[first + j // after]
    left = start  # column at which the group's scales start
    if correction > 0:
        scale, left = _metric(scale, start, width, correction, eps), 0
    energy, gradient = _start(theta, start, scale, left, width)
    nu, alive = np.zeros(groups), np.zeros(groups, np.bool_)
    for g in range(groups):
        e, z, t = 0.0, 0.0, threshold[first + g]
        for j in range(g * after, (g + 1) * after):
            e += energy[j]
            z += gradient[j]
        if np.isnan(e + z):
            nu[g] = np.nan
        elif z > t**2 * (1 + TIE):  # at nu = 0 the sum is above 1: a root above 0 exists
            alive[g] = True
            nu[g] = np.sqrt(e) * (1 - t / np.sqrt(z))  # the root, if all scales of a group were the same
    lane, limit = np.empty(width, theta.dtype), wide.astype(theta.dtype)
    delicate = tolerance < COARSE * COARSE or theta.shape[0] * after < ROWS
    for _ in range(LIMIT[0]):
        for j in range(width):
            lane[j] = nu[j // after]
        s2, s3 = _sums(theta, start, scale, left, lane, limit)
        step, share = _newton(nu, alive, s2, s3, lane, after)
        if step <= COARSE:
            break
    delicate |= step > COARSE or share < 0.5
    for _ in range(LIMIT[1] if delicate else 0):
        for j in range(width):
            exact[j] = nu[j // after]
        s2, s3 = _sums(theta, start, scale, left, exact, wide)
        if _newton(nu, alive, s2, s3, exact, after)[0] <= tolerance:
            break
    for j in range(width):
        lane[j] = nu[j // after]
        if lane[j] == 0:  # 0 / 1 for 0 / (0 + r): r too may be 0
            limit[j] = 1
    _put(theta, start, scale, left, lane, limit)


@compiled(fastmath=False)
def _put(theta, start, scale, left, nu, threshold):
    """theta * nu / (nu + r) in place; strictly rounded, so that no threshold changes nothing."""
    width = len(nu)
    for b in range(theta.shape[0]):
        t, s = theta[b][start : start + width], scale[b][left : left + width]
        for j in range(width):
            near = nu[j] * s[j]
            t[j] *= near / (near + threshold[j])


@compiled(fastmath=False)
def _metric(moment, start, width, correction, eps):
    """Adam's metric of some columns of its second moment."""
    scale = np.empty((moment.shape[0], width), moment.dtype)
    for b in range(moment.shape[0]):
        v, s = moment[b][start : start + width], scale[b]
        for j in range(width):
            s[j] = np.sqrt(v[j]) / correction + eps
    return scale


@compiled(_FAST)
def _start(theta, start, scale, left, width):
    """By lane the sums of theta^2 and (theta * scale)^2, in float64."""
    energy, gradient = np.zeros(width), np.zeros(width)
    for b in range(theta.shape[0]):
        t, s = theta[b][start : start + width], scale[b][left : left + width]
        for j in range(width):
            entry = np.float64(t[j])
            pull = entry * np.float64(s[j])
            energy[j] += entry * entry
            gradient[j] += pull * pull
    return energy, gradient


@compiled(_FAST)
def _sums(theta, start, scale, left, nu, threshold):
    """By lane the sums of t^2 / (nu + r)^2 and t^2 / (nu + r)^3 with r = threshold / scale, in float64.

    Each entry is computed in the precision of nu and threshold.
    """
    before, width = theta.shape[0], len(nu)
    s2, s3 = np.zeros(width), np.zeros(width)
    part2, part3 = np.empty(width, nu.dtype), np.empty(width, nu.dtype)
    for top in range(0, before, ROWS):
        part2[:] = 0
        part3[:] = 0
        for b in range(top, min(top + ROWS, before)):
            t, s = theta[b][start : start + width], scale[b][left : left + width]
            for j in range(width):
                inverse = s[j] / (nu[j] * s[j] + threshold[j])
                part = t[j] * inverse
                part2[j] += part * part
                part3[j] += part * part * inverse
        for j in range(width):
            s2[j] += part2[j]
            s3[j] += part3[j]
    return s2, s3


@compiled(fastmath=False)
def _newton(nu, alive, s2, s3, lane, after):
    """One Newton step of every live group from where `lane` says the sums were taken.

    Returns the largest relative step, and the smallest share of nu in the mean of nu + r.
    """
    largest, share = 0.0, 1.0
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
        share = min(share, nu[g] * b / a)
        if abs(step) > largest * nu[g]:
            largest = abs(step) / nu[g] if nu[g] > 0 else np.inf
    return largest, share
