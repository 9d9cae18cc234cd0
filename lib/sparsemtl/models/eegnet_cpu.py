"""EEGNet's costly steps on a CPU, in float32: compiled loops that read each signal once, while it is in the cache.

PyTorch's own operations do the same on a GPU, in other precisions, and where the derivative of a gradient is wanted;
`sparsemtl.models.eeg` chooses. Each channel is summed in one order, which no other channel changes.
"""

import numpy as np
import torch
from numba import njit
from torch.nn import functional as F


def correlate(spectra, responses):
    """`irfft(spectra * conj(responses))` of complex64 spectra (n, C, F) and (C, F), over a period of 2 (F - 1)."""
    return _Correlate.apply(spectra, responses)


def norm_elu_pool(x, weight, bias, mean, var, eps, width, samples):
    """`avg_pool1d(elu(batch_norm(x)), width)` of the first `samples` of float32 signals (n, C, T), and the moments.

    mean, var: those to normalise with (C,); None for those of the batch, var being the biased one.
    """
    return _NormEluPool.apply(x, weight, bias, mean, var, eps, width, samples)


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, spectra, responses):
        ctx.save_for_backward(spectra, responses)
        return _correlated(spectra, responses)

    @staticmethod
    def backward(ctx, grad):
        spectra, responses = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted
            return torch.autograd.grad(_correlated(spectra, responses), (spectra, responses), grad, create_graph=True)
        period = grad.shape[-1]
        once = torch.full(responses.shape[-1:], 2 / period)  # irfft adds the negative frequencies,
        once[0] = once[-1] = 1 / period  # which only the first and the last do not have
        grads, grad_responses = torch.fft.rfft(grad), torch.empty_like(responses)
        pairs = (torch.view_as_real(t.detach()).numpy() for t in (spectra, responses * once, grads, grad_responses))
        _correlate_back(*pairs)
        return grads, grad_responses * once


def _correlated(spectra, responses):
    return torch.fft.irfft(spectra * responses.conj(), 2 * (spectra.shape[-1] - 1))


class _NormEluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, eps, width, samples):
        x, ctx.options, ctx.of_batch = x.contiguous(), (eps, width, samples), mean is None
        mean, var = (x.new_empty(x.shape[1]), x.new_empty(x.shape[1])) if ctx.of_batch else (mean.clone(), var.clone())
        pooled = x.new_empty(*x.shape[:2], samples // width)
        arrays = (t.detach().numpy() for t in (x, weight, bias, mean, var, pooled))
        _norm_elu_pool(*arrays, *ctx.options, ctx.of_batch)
        ctx.save_for_backward(x, weight, bias, mean, var)
        ctx.mark_non_differentiable(mean, var)
        return pooled, mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        x, weight, bias, mean, var = ctx.saved_tensors
        eps, width, samples = ctx.options
        if torch.is_grad_enabled():  # a second derivative is wanted
            moments = (None, None) if ctx.of_batch else (mean, var)
            normed = F.batch_norm(x[..., :samples], *moments, weight, bias, ctx.of_batch, 0.0, eps)
            pooled = F.avg_pool1d(F.elu(normed), width)
            wanted = [t for t, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(pooled, wanted, grad, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), *[None] * 5
        grads = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        arrays = (t.detach().numpy() for t in (x, weight, bias, mean, var, grad.contiguous()))
        _norm_elu_pool_back(*arrays, tuple(t.numpy() for t in grads), *ctx.options, ctx.of_batch)
        return *grads, *[None] * 5


# NaN and infinity keep their meaning; sums may be ordered as vectors want them
_FAST = {"contract", "arcp", "nsz", "reassoc"}
# Constants of the tensors' own precision: a Python float would make float64 of all that it meets
ZERO, ONE = np.float32(0), np.float32(1)
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
LEAST = np.float32(-87.33)  # of what is below, exp is no normal number
ROUND = np.float32(1.5 * 2**23)  # added and taken off it leaves a whole number, which are the sum's last bits
SERIES = tuple(np.float32(1 / n) for n in (5040, 720, 120, 24, 6, 2))


@njit(nogil=True, fastmath=False, error_model="numpy", cache=True)
def _exp(x):
    """exp of a float32 that is not above 0, to 2 units in the last place, by 2^k exp(r) with |r| < 0.35; NaN is kept.

    That of the C library would be called number by number.
    """
    x = LEAST if x < LEAST else x
    shifted = x * LOG2_E + ROUND
    k = shifted - ROUND
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    rest = SERIES[0]
    rest = rest * r + SERIES[1]
    rest = rest * r + SERIES[2]
    rest = rest * r + SERIES[3]
    rest = rest * r + SERIES[4]
    rest = rest * r + SERIES[5]
    two_to_k = np.int32((np.float32(shifted).view(np.int32) << 23) + (127 << 23)).view(np.float32)
    return (rest * (r * r) + r + ONE) * two_to_k


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _norm_elu_pool(x, weight, bias, mean, var, pooled, eps, width, samples, of_batch):
    n, channels, _ = x.shape
    row = np.empty(samples, np.float32)
    for c in range(channels):
        if of_batch:
            mean[c], var[c] = _moments(x, c, samples)
        middle, offset = mean[c], bias[c]
        scale = np.float32(weight[c] / np.sqrt(np.float64(var[c]) + eps))
        for i in range(n):
            signal, out = x[i, c], pooled[i, c]
            for t in range(samples):
                z = (signal[t] - middle) * scale + offset
                low = ZERO if z > ZERO else z
                row[t] = (z - low) + (_exp(low) - ONE)
            if width == 4:  # known beforehand, the width makes vectors of these loops
                _pool(row, 4, out)
            elif width == 8:
                _pool(row, 8, out)
            else:
                _pool(row, width, out)


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _pool(row, width, out):
    """Means of `width` entries of the row each."""
    for j in range(len(out)):
        total = ZERO
        for k in range(j * width, (j + 1) * width):
            total += row[k]
        out[j] = total / np.float32(width)


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _spread(pooled, width, row):
    """Gradient of `_pool`: its part of each mean for every entry of the row."""
    for j in range(len(pooled)):
        each = pooled[j] / np.float32(width)
        for k in range(j * width, (j + 1) * width):
            row[k] = each


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _moments(x, c, samples):
    """Mean and biased variance of the first samples of a channel of x (n, C, T)."""
    n, total, squares = x.shape[0], 0.0, 0.0
    for i in range(n):
        signal, part = x[i, c], ZERO
        for t in range(samples):
            part += signal[t]
        total += part
    mean = np.float32(total / (n * samples))
    for i in range(n):
        signal, part = x[i, c], ZERO
        for t in range(samples):
            away = signal[t] - mean
            part += away * away
        squares += part
    return mean, np.float32(squares / (n * samples))


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _norm_elu_pool_back(x, weight, bias, mean, var, grad, grads, eps, width, samples, of_batch):
    grad_x, grad_weight, grad_bias = grads
    n, channels, period = x.shape
    row = np.zeros(samples, np.float32)
    for c in range(channels):
        middle, offset = mean[c], bias[c]
        inverse = 1 / np.sqrt(np.float64(var[c]) + eps)
        scale = np.float32(weight[c] * inverse)
        total, along = 0.0, 0.0
        for i in range(n):
            signal, pooled, back = x[i, c], grad[i, c], grad_x[i, c]
            if width == 4:
                _spread(pooled, 4, row)
            elif width == 8:
                _spread(pooled, 8, row)
            else:
                _spread(pooled, width, row)
            part, part_along = ZERO, ZERO
            for t in range(samples):
                away = signal[t] - middle
                z = away * scale + offset
                low = ZERO if z > ZERO else z
                slope = row[t] * _exp(low)
                back[t] = slope
                part += slope
                part_along += slope * away
            total += part
            along += part_along
        grad_bias[c], grad_weight[c] = total, along * inverse
        # of the batch's own mean and deviation the gradient has no part
        level, tilt = ZERO, ZERO
        if of_batch:
            level, tilt = np.float32(total / (n * samples)), np.float32(along * inverse * inverse / (n * samples))
        for i in range(n):
            signal, back = x[i, c], grad_x[i, c]
            for t in range(samples):
                back[t] = scale * (back[t] - level - (signal[t] - middle) * tilt)
            for t in range(samples, period):
                back[t] = ZERO


@njit(nogil=True, fastmath=_FAST, error_model="numpy", cache=True)
def _correlate_back(spectra, responses, grads, grad_responses):
    """Put the gradient by the spectra into `grads`, which holds that by the products, and fill `grad_responses`."""
    n, channels, size, _ = spectra.shape
    for c in range(channels):
        response, out = responses[c], grad_responses[c]
        out[:] = ZERO
        for i in range(n):
            s, g = spectra[i, c], grads[i, c]
            for f in range(size):
                real, imag = g[f, 0], g[f, 1]
                out[f, 0] += real * s[f, 0] + imag * s[f, 1]
                out[f, 1] += real * s[f, 1] - imag * s[f, 0]
                g[f, 0] = real * response[f, 0] - imag * response[f, 1]
                g[f, 1] = real * response[f, 1] + imag * response[f, 0]
