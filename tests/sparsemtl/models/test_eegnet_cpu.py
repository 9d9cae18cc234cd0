"""The compiled steps of EEGNet against PyTorch's own operations in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from sparsemtl.models import eegnet_cpu
from sparsemtl.models.eeg import EEGNet, _norm_elu_pool
from torch import nn
from torch.nn import functional as F

EPS = 1e-3
CHANNELS = 3
# Of a sum of a few hundred float32 numbers of size one; a wrong term would be of size one
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(x, weight, bias, mean, var, width, samples):
    normed = F.batch_norm(x[..., :samples], mean, var, weight, bias, mean is None, 0.0, EPS)
    return F.avg_pool1d(F.elu(normed), width)


def in_double(*tensors):
    """Leaves of their own in float64; None stays."""
    return [t if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in tensors]


def moments(of_batch):
    return (None, None) if of_batch else (drawn(CHANNELS, seed=3), drawn(CHANNELS, seed=4).square() + 0.5)


def parameters():
    return [drawn(CHANNELS, seed=1).requires_grad_(), drawn(CHANNELS, seed=2).requires_grad_()]


@pytest.mark.parametrize("of_batch", [True, False], ids=["own moments", "given moments"])
@pytest.mark.parametrize("width", [4, 8, 3])
@pytest.mark.parametrize(("n", "period", "samples"), [(5, 96, 81), (1, 24, 24), (2, 17, 16), (4, 9, 8)])
def test_norm_elu_and_pool_in_one_are_those_three(n, period, samples, width, of_batch):
    """Values, moments and gradients, of signals far from zero; what lies after the samples is not looked at."""
    x = (3 * drawn(n, CHANNELS, period) + 20).requires_grad_()
    inputs, given = [x, *parameters()], moments(of_batch)
    pooled, mean, var = eegnet_cpu.norm_elu_pool(*inputs, *given, EPS, width, samples)
    doubles = in_double(*inputs)
    expected = plain(*doubles, *in_double(*given), width, samples)
    torch.testing.assert_close(pooled.double(), expected, **CLOSE)
    if of_batch:
        rows = x[..., :samples].detach().double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(mean.double(), rows.mean(1), **CLOSE)
        torch.testing.assert_close(var.double(), rows.var(1, correction=0), **CLOSE)
    grad = drawn(*pooled.shape, seed=5)
    found = torch.autograd.grad(pooled, inputs, grad)
    for one, other in zip(found, torch.autograd.grad(expected, doubles, grad.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
    assert not found[0][..., samples:].any()


@pytest.mark.parametrize("of_batch", [True, False], ids=["own moments", "given moments"])
def test_norm_elu_and_pool_have_a_second_derivative(of_batch):
    """GraSP takes the gradient of a function of the gradient."""
    given = moments(of_batch)

    def second(function, *inputs):
        first = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    inputs = [drawn(4, CHANNELS, 21).requires_grad_(), *parameters()]
    found = second(lambda *i: eegnet_cpu.norm_elu_pool(*i, *given, EPS, 4, 20)[0], *inputs)
    expected = second(lambda *i: plain(*i, *in_double(*given), 4, 20), *in_double(*inputs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(bad):
    """Of one channel; the others do not notice."""
    x = drawn(3, CHANNELS, 16)
    x[1, 1, 5] = bad
    pooled = eegnet_cpu.norm_elu_pool(x, *parameters(), None, None, EPS, 4, 16)[0]
    assert pooled[:, 1].isnan().all()
    assert pooled[:, [0, 2]].isfinite().all()


def test_a_channel_has_the_same_bits_in_any_company():
    inputs = [drawn(4, CHANNELS, 50).requires_grad_(), *parameters()]
    alone = [t.detach()[:, 1:2] if t.ndim == 3 else t.detach()[1:2] for t in inputs]
    alone = [t.clone().requires_grad_() for t in alone]
    pooled, single = (eegnet_cpu.norm_elu_pool(*i, None, None, EPS, 4, 49)[0] for i in (inputs, alone))
    assert torch.equal(pooled[:, 1:2], single)
    grads, own = (torch.autograd.grad(p.square().sum(), i) for p, i in ((pooled, inputs), (single, alone)))
    assert torch.equal(grads[0][:, 1:2], own[0])
    assert all(torch.equal(g[1:2], o) for g, o in zip(grads[1:], own[1:], strict=True))


def test_exp_is_that_of_the_library():
    values = np.concatenate([np.linspace(-87.3, 0, 20001), -np.logspace(-12, -1, 500)]).astype(np.float32)
    found = np.array([eegnet_cpu._exp(v) for v in values], dtype=np.float64)
    expected = np.exp(values.astype(np.float64))
    assert np.abs(found / expected - 1).max() < 2 * 2**-23
    assert eegnet_cpu._exp(np.float32(0)) == 1
    assert 0 <= eegnet_cpu._exp(np.float32(-np.inf)) < 1e-37
    assert np.isnan(eegnet_cpu._exp(np.float32(np.nan)))


@pytest.mark.parametrize("frequencies", [9, 33])
def test_products_of_spectra_and_their_derivatives(frequencies):
    spectra, responses = (drawn(*shape, seed=k, dtype=torch.complex64).requires_grad_()
                          for k, shape in enumerate([(4, CHANNELS, frequencies), (CHANNELS, frequencies)]))  # fmt: skip
    doubles = [t.detach().to(torch.complex128).requires_grad_() for t in (spectra, responses)]
    found = eegnet_cpu.correlate(spectra, responses)
    expected = torch.fft.irfft(doubles[0] * doubles[1].conj(), 2 * (frequencies - 1))
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    for order in (1, 2):
        found, expected = (
            torch.autograd.grad(value.square().sum() if order == 1 else sum(v.abs().square().sum() for v in value),
                                inputs, create_graph=True)
            for value, inputs in ((found, (spectra, responses)), (expected, doubles))
        )  # fmt: skip
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.to(torch.complex128), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_a_shift_and_running_moments_are_those_of_batch_norm(training):
    """In training the batch's mean takes the shift away, but the running mean has it."""
    norm = nn.BatchNorm1d(CHANNELS, eps=EPS, momentum=0.3)
    with torch.no_grad():
        for p, seed in zip((norm.weight, norm.bias, norm.running_mean), (1, 2, 3), strict=True):
            p.copy_(drawn(CHANNELS, seed=seed))
    other = copy.deepcopy(norm).double().train(training)
    norm.train(training)
    x, shift = drawn(4, CHANNELS, 30).requires_grad_(), drawn(CHANNELS, seed=9).requires_grad_()
    doubles = in_double(x, shift)
    found = _norm_elu_pool(x, norm, 4, 25, shift)
    expected = F.avg_pool1d(F.elu(other(doubles[0][..., :25] + doubles[1][:, None])), 4)
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    for one, double in zip(norm.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one.to(double.dtype), double, **CLOSE)
    grads = torch.autograd.grad(found.square().sum(), [x, shift, *norm.parameters()])
    wanted = torch.autograd.grad(expected.square().sum(), [*doubles, *other.parameters()])
    for one, double in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_eegnet_in_single_precision_is_that_in_double(training):
    """Which takes PyTorch's own operations all the way."""
    net = EEGNet(CHANNELS, 100, 12, dropout=0.0).train(training)
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.add_(0.3 * drawn(*p.shape, seed=k))
    double = copy.deepcopy(net).double()
    x = drawn(6, CHANNELS, 100)
    found, expected = net(x), double(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(net.buffers(), double.buffers(), strict=True):
        torch.testing.assert_close(one.to(other.dtype), other, rtol=1e-4, atol=1e-4)
    grads, wanted = (torch.autograd.grad(v.square().sum(), list(m.parameters()))
                     for v, m in ((found, net), (expected, double)))  # fmt: skip
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4 * float(max(other.abs().max(), 1)))
