"""The log-power network on moments is the plain network on signals."""

import copy

import pytest
import torch
from papers.shin2023.power import PowerNet, lag_moments, mapped


def plain(net, x):
    y = net.norm(net.spatial(net.temporal(x[:, None]))[:, :, 0])
    return y.square().mean(2).clamp(min=1e-6).log()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("taps", "filters", "depth"), [(3, 4, 10), (1, 1, 5), (3, 1, 4), (7, 2, 3)])
def test_features_gradients_and_running_statistics_are_those_of_the_network_on_signals(mixed, taps, filters, depth):
    torch.manual_seed(0)
    fast = PowerNet(5, taps, filters, depth, mixed=mixed, bn_momentum=0.3).double()
    torch.nn.init.normal_(fast.norm.bias)
    slow, x = copy.deepcopy(fast), torch.randn(12, 5, 40, dtype=torch.float64) + 0.5
    for _ in range(2):
        one, other = fast(lag_moments(x, taps, mixed=mixed)), plain(slow, x)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        weights = torch.randn_like(one)
        for net, out in ((fast, one), (slow, other)):
            net.zero_grad()
            (out * weights).sum().backward()
        for p, q in zip(fast.parameters(), slow.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-10)
    unbiased = 12 * (40 - taps + 1)
    torch.testing.assert_close(fast.norm.running_mean, slow.norm.running_mean)
    torch.testing.assert_close(fast.norm.running_var, slow.norm.running_var, rtol=1 / unbiased * 2, atol=1e-9)
    slow.norm.running_var.copy_(fast.norm.running_var)
    torch.testing.assert_close(fast.eval()(lag_moments(x, taps, mixed=mixed)), plain(slow.eval(), x))


@pytest.mark.parametrize("mixed", [False, True])
def test_moments_of_mapped_signals_follow_from_those_of_the_signals(mixed):
    x, matrix = torch.randn(4, 5, 40, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    made = mapped(lag_moments(x, mixed=mixed), matrix, mixed=mixed)
    torch.testing.assert_close(made, lag_moments(matrix @ x, mixed=mixed))
