"""Proximal operators against bisection and optimality conditions; ProxAdamW against AdamW and scikit-learn."""

import copy
import io
import math
from functools import partial

import numba
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, MultiTaskLasso
from sparsemtl.errors import SpecError
from sparsemtl.sparsity import prox, prox_cpu
from sparsemtl.sparsity.prox import ProxAdamW, penalty_groups, prox_group_lasso, prox_group_lasso_scaled, prox_l1
from torch.nn.utils.parametrizations import weight_norm

same = partial(torch.testing.assert_close, rtol=0, atol=0)


def bisection(theta, scale, threshold):
    """Rows of the scaled prox in float64, by 200 halvings of log ||x||; threshold [rows]."""
    theta, scale, threshold = theta.double(), scale.double(), threshold.double()[:, None]
    low = torch.full_like(threshold, -700.0)
    high = theta.norm(dim=1, keepdim=True).log()
    for _ in range(200):
        middle = (low + high) / 2
        above = (scale * theta / (scale * middle.exp() + threshold)).norm(dim=1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    x = theta * scale / (scale + threshold / low.exp())
    return x.masked_fill((scale * theta).norm(dim=1, keepdim=True) <= threshold, 0)


def rows(x, dim=1):
    return x.movedim(dim, 0).flatten(1)


def resnet50_shapes():
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    return sorted({tuple(m.weight.shape) for m in net.modules() if isinstance(m, torch.nn.Conv2d)})


@pytest.fixture(params=["cpu", "gpu"])
def _path(request, monkeypatch):
    """What tensors on the CPU go through, or those on a GPU."""

    def on_gpu_(thetas, scales, thresholds, dim, adam):
        prox._on_gpu_(thetas, prox._metric(scales, *adam) if adam else scales, thresholds, dim)

    if request.param == "gpu":
        monkeypatch.setattr(prox_cpu, "solve_", on_gpu_)


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("shape", resnet50_shapes(), ids=str)
def test_scaled_equals_bisection_on_resnet50_shapes(shape):
    torch.manual_seed(0)
    theta, scale = torch.randn(shape) / 30, 10 ** (8 * torch.rand(shape) - 8)
    # per channel: from 1e-10 of what makes it zero (nothing happens) to twice that
    limit = rows(scale * theta).norm(dim=1).double()
    share = torch.tensor([0, 1e-10, 1e-6, 1e-3, 0.03, 0.3, 0.9, 0.999, 1.001, 2]).double().repeat(shape[1])[: shape[1]]
    theta[:, -1], share[-2] = 0, 0.5
    threshold = share * limit
    x = prox_group_lasso_scaled(theta, scale, threshold)
    assert (x.dtype, x.shape) == (torch.float32, shape)
    sample = torch.cat([torch.arange(min(20, shape[1])), torch.tensor([shape[1] - 2, shape[1] - 1])])
    expected = bisection(rows(theta)[sample], rows(scale)[sample], threshold[sample])
    torch.testing.assert_close(rows(x)[sample].double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(rows(x == 0).all(1), (share > 1) | (rows(theta) == 0).all(1))
    # all channels: 0 in scale * (x - theta) + threshold * x / ||x||
    x, theta, scale = (rows(t.double()) for t in (x, theta, scale))
    norm = x.norm(dim=1, keepdim=True)
    pull = torch.where(norm > 0, threshold[:, None] * x / norm, scale * theta)
    assert ((scale * (x - theta) + pull).norm(dim=1) <= 1e-6 * limit).all()


DTYPES = [(torch.float32, 1e-6), (torch.float64, 1e-10), (torch.bfloat16, 1e-2)]


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize(("dtype", "rtol"), DTYPES, ids=str)
def test_dimensions_dtypes_and_memory_layouts(dim, dtype, rtol):
    torch.manual_seed(1)
    theta, scale = torch.randn(4, 5, 6, 3).to(dtype), torch.rand(4, 5, 6, 3).add(0.01).to(dtype)
    limit = rows(scale.double() * theta.double(), dim).norm(dim=1)
    threshold = limit * torch.linspace(0.1, 1.1, len(limit))
    expected = bisection(rows(theta, dim), rows(scale, dim), threshold)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = [t.contiguous(memory_format=layout) for t in (theta, scale)]
        x = prox_group_lasso_scaled(*given, threshold, dim=dim)
        assert x.dtype == dtype
        torch.testing.assert_close(rows(x, dim).double(), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_does_not_depend_on_the_number_of_threads(dtype, monkeypatch):
    torch.manual_seed(5)
    theta, scale = torch.randn(40, 700, 3, 3, dtype=dtype), torch.rand(40, 700, 3, 3, dtype=dtype) + 0.01
    threshold = torch.linspace(0, 1.2, 700).double() * rows(scale * theta).norm(dim=1).double()
    one = prox_group_lasso_scaled(theta, scale, threshold)
    for threads in (2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(one, prox_group_lasso_scaled(theta, scale, threshold))


def test_group_lasso_is_equation_5_and_the_scaled_one_at_scale_one():
    torch.manual_seed(2)
    theta = torch.randn(8, 6, 3, 3)
    norm = rows(theta).norm(dim=1).view(1, 6, 1, 1)
    for threshold in (0.0, 5.0, norm.mean(), 100.0, norm * torch.linspace(0.5, 1.2, 6).view(1, 6, 1, 1)):
        expected = theta * (1 - threshold / norm).clamp(min=0)
        torch.testing.assert_close(prox_group_lasso(theta, threshold), expected)
        torch.testing.assert_close(prox_group_lasso_scaled(theta, torch.ones_like(theta), threshold), expected)
    assert torch.equal(prox_group_lasso(theta, 0), theta)
    assert torch.equal(prox_group_lasso_scaled(theta, torch.full_like(theta, 0.3), 0), theta)
    edge = torch.tensor([[3.0], [-4.0]])  # the boundary itself is zero
    assert not prox_group_lasso(edge, 5).any()
    assert not prox_group_lasso_scaled(edge, torch.ones(2, 1), 5).any()


def test_l1_and_groups_of_one_entry_are_the_soft_threshold():
    x = torch.linspace(-2, 2, 41)
    torch.testing.assert_close(prox_l1(x, 0.5), torch.nn.functional.softshrink(x, 0.5))
    assert not prox_l1(x, torch.full_like(x, 3)).any()
    theta, scale = torch.tensor([[2.0, -3.0, 0.5, 0.0]]), torch.tensor([[0.5, 2.0, 1.0, 1e-8]])
    expected = torch.tensor([[0.0, -2.5, 0.0, 0.0]])  # sign * max(|theta| - threshold / scale, 0)
    torch.testing.assert_close(prox_group_lasso_scaled(theta, scale, 1.0), expected)
    torch.testing.assert_close(prox_group_lasso_scaled(theta[0], scale[0], 1.0, dim=0), expected[0])
    torch.testing.assert_close(prox_group_lasso(theta[0], 1.0, dim=0), torch.tensor([1.0, -2.0, 0.0, 0.0]))


@pytest.mark.usefixtures("_path")
def test_empty_groups_zero_groups_and_nan():
    for shape in ((0, 3), (3, 0), (2, 3, 0, 1)):
        empty = torch.ones(shape)
        assert prox_group_lasso(empty, 1.0).shape == prox_group_lasso_scaled(empty, empty, 1.0).shape == shape
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    for threshold in (0.0, 1.0, math.inf):
        assert torch.equal(prox_group_lasso(zero, threshold), zero)
        assert torch.equal(prox_group_lasso_scaled(zero, one, threshold), zero)
    assert not prox_group_lasso_scaled(one, one, math.inf).any()
    theta = one.clone()
    theta[0, 1] = torch.nan  # its group stays NaN, others do not become so
    for x in (prox_group_lasso(theta, 0.1), *(prox_group_lasso_scaled(theta, one, t) for t in (0.1, 100.0))):
        assert x.isnan().any(0).tolist() == [False, True, False]
    assert prox_l1(theta, 2.0).isnan().sum() == 1


def test_bad_thresholds_are_refused():
    theta = torch.ones(2, 3)
    for operator in (prox_group_lasso, prox_l1, lambda t, x: prox_group_lasso_scaled(t, torch.ones(t.shape), x)):
        for bad in (-1.0, math.nan, torch.tensor([0.1, -0.1, 0.1])):
            with pytest.raises(SpecError, match="threshold"):
                operator(theta, bad)
        for dtype in (torch.complex64, torch.int64):
            with pytest.raises(SpecError, match=str(dtype)):
                operator(theta.to(dtype), 0.1)
    with pytest.raises(SpecError, match="2 entries for 3 groups"):
        prox_group_lasso(theta, torch.ones(2))
    with pytest.raises(SpecError, match="scale has shape"):
        prox_group_lasso_scaled(theta, torch.ones(3, 2), 1.0)


def network():
    torch.manual_seed(0)
    convs = torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 6, 3)  # groups of one size
    return torch.nn.Sequential(*convs, torch.nn.Flatten(), torch.nn.Linear(24, 2))


def train(net, optimizer, steps):
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)).to(net[0].weight.dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), torch.arange(8) % 2).backward()
        optimizer.step()


def groups(net, penalty=None, lam=0.0):
    return [group | {"weight_decay": 0.1} for group in penalty_groups(net, lam, penalty)]


OPTIONS = [{}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"amsgrad": True, "maximize": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("penalty", "lam"), [(None, 0.1), ("group_lasso", 0.0), ("l1", 0.0)])
def test_without_penalty_it_is_adamw(options, penalty, lam):
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6} | options
    ours, theirs = network(), network()
    train(ours, ProxAdamW(groups(ours, penalty, lam), **settings), 20)
    train(theirs, torch.optim.AdamW(groups(theirs), **settings), 20)
    same(ours.state_dict(), theirs.state_dict())


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("penalty", ["group_lasso", "l1"])
def test_a_step_minimises_in_the_metric_of_adam(penalty, amsgrad):
    """Of s / (2 lr) * (x - u)^2 + lam * penalty(x), with u from AdamW and s from its state, after several steps."""
    net, lr, lam, eps = network().double(), 0.01, 0.03, 1e-3
    optimizer = ProxAdamW(groups(net, penalty, lam), lr=lr, eps=eps, amsgrad=amsgrad)
    train(net, optimizer, 4)
    moment = "max_exp_avg_sq" if amsgrad else "exp_avg_sq"
    for state in optimizer.state.values() if amsgrad else ():
        state[moment] += 1e-3  # as after a large gradient long ago
    clone = copy.deepcopy(net)
    plain = torch.optim.AdamW(groups(clone), lr=lr, eps=eps, amsgrad=amsgrad)
    plain.load_state_dict(plain.state_dict() | {"state": copy.deepcopy(optimizer.state_dict()["state"])})
    train(net, optimizer, 1)
    train(clone, plain, 1)
    zeros = []
    for x, u in ((net[0].weight, clone[0].weight), (net[2].weight, clone[2].weight)):
        s = (plain.state[u][moment] / (1 - 0.999**5)).sqrt() + eps
        strength = lr * lam * (math.sqrt(x[:, 0].numel()) if penalty == "group_lasso" else 1)
        # a group of one entry has the absolute value for its norm
        x, u, s = (rows(t.detach()) if penalty == "group_lasso" else t.detach().reshape(-1, 1) for t in (x, u, s))
        torch.testing.assert_close(x, bisection(u, s, torch.full([len(u)], strength, dtype=torch.float64)))
        zeros += (x == 0).all(1).tolist()
    assert 0 < sum(zeros) < len(zeros)


@pytest.mark.parametrize("penalty", ["group_lasso", "l1"])
def test_regression_converges_to_the_solution_of_scikit_learn(penalty):
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x, truth = draw(60, 12), draw(3, 12)
    x += 0.5 * x.roll(1, 1)
    truth[:, 4:] = 0
    y, alpha = x @ truth.T + 0.3 * draw(60, 3), 0.2
    solver, lam = (MultiTaskLasso, alpha / math.sqrt(3)) if penalty == "group_lasso" else (Lasso, alpha)
    expected = torch.as_tensor(solver(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=10**5).fit(x, y).coef_)
    theta = torch.nn.Parameter(draw(3, 12))
    optimizer = ProxAdamW([{"params": [theta], "penalty": penalty, "lam": lam}], 0.05, (0.9, 0.99), weight_decay=0)
    for _ in range(600):
        optimizer.zero_grad()
        ((y - x @ theta.T) ** 2).sum().div(2 * len(x)).backward()
        optimizer.step()
    assert 0 < (expected == 0).sum() < expected.numel()
    assert torch.equal(theta == 0, expected == 0)
    torch.testing.assert_close(theta.detach(), expected, rtol=1e-9, atol=1e-9)


def saved(value):
    """A value after a trip to a file, which holds no code."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("penalty", ["group_lasso", "l1"])
def test_a_resumed_run_is_the_uninterrupted_one(penalty):
    whole, part, fresh = network(), network(), network()
    train(whole, ProxAdamW(groups(whole, penalty, 1e-3), lr=0.01), 10)
    first = ProxAdamW(groups(part, penalty, 1e-3), lr=0.01)
    train(part, first, 5)
    second = ProxAdamW(groups(fresh, penalty, 7.0))
    for own, checkpoint in ((fresh, part), (second, first)):
        own.load_state_dict(saved(checkpoint.state_dict()))
    train(fresh, second, 5)
    same(fresh.state_dict(), whole.state_dict())


def test_hooks_run_once_a_step_and_parameters_without_gradient_rest():
    net, calls = network(), []
    torch.optim.AdamW(network().parameters())  # torch wraps AdamW.step when one is made
    optimizer = ProxAdamW(groups(net, "group_lasso", 10.0), lr=0.1)
    optimizer.register_step_post_hook(lambda *args: calls.append(1))
    before = net[0].weight.requires_grad_(False).clone()
    train(net, optimizer, 2)
    assert len(calls) == 2
    assert torch.equal(net[0].weight, before)
    assert optimizer.step(lambda: 3.5) == 3.5


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=5), st.sampled_from(["group_lasso", "l1"]), st.booleans())
def test_a_step_that_the_gradient_scaler_skips_changes_nothing(overflows, penalty, fused):
    net = network()
    optimizer = ProxAdamW(groups(net, penalty, 1e-3), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for overflow in overflows:
        before = copy.deepcopy(net.state_dict())
        optimizer.zero_grad()
        scaler.scale(net(torch.ones(2, 3, 6, 6)).square().mean()).backward()
        if overflow:
            net[0].weight.grad[0, 0, 0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        changed = [not torch.equal(before[name], value) for name, value in net.state_dict().items()]
        assert any(changed) != overflow


def test_a_state_of_adamw_needs_its_penalty_set():
    net = network()
    optimizer = ProxAdamW(net.parameters(), penalty="l1", lam=50.0)
    optimizer.load_state_dict(torch.optim.AdamW(net.parameters()).state_dict())
    with pytest.raises(SpecError, match="no penalty"):
        train(net, optimizer, 1)


@pytest.mark.parametrize("lam", [np.float32(0.5), np.array(0.5), torch.tensor(0.5), 1, np.int64(1)], ids=str)
def test_a_strength_of_any_kind_leaves_checkpoints_plain(lam):
    optimizer = ProxAdamW(groups(network(), "l1", lam))
    assert saved(optimizer.state_dict())["param_groups"][0]["lam"] == lam


REFUSED = [{"lam": lam} for lam in (math.nan, math.inf, 10**400, -1e-6, "0.1", None, True, np.ones(2))]
REFUSED += [{"penalty": "l2"}, {"penalty": np.array(["l1"])}]


@pytest.mark.parametrize("change", REFUSED, ids=str)
def test_a_setting_that_a_step_cannot_honour_is_refused_before_anything_changes(change):
    net = network()
    optimizer = ProxAdamW(groups(net, "group_lasso", 0.1))
    optimizer.param_groups[0].update(change)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(SpecError, match="ProxAdamW"):
        train(net, optimizer, 1)
    same(net.state_dict(), before)
    with pytest.raises(SpecError, match="ProxAdamW"):
        ProxAdamW([{"params": [network()[0].weight], "penalty": "group_lasso"} | change])


def test_convolutions_are_penalised_but_not_transposed_or_computed_ones():
    model = torch.nn.ModuleList([torch.nn.ConvTranspose2d(6, 4, 3), torch.nn.Conv2d(2, 3, 1)])
    penalised, others = penalty_groups(model, 0.1)
    assert (penalised["params"], len(others["params"])) == ([model[1].weight], 3)
    weight_norm(model[1])
    with pytest.raises(SpecError, match=r"^1: "):
        penalty_groups(model, 0.1)


def test_weights_that_a_penalty_does_not_fit_are_refused_and_added_groups_have_the_default():
    with pytest.raises(SpecError, match="complex64"):
        ProxAdamW([torch.nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))], penalty="l1")
    optimizer = ProxAdamW([torch.nn.Parameter(torch.ones(2, 3))], penalty="group_lasso", lam=0.1)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert optimizer.param_groups[1]["lam"] == 0.1
    with pytest.raises(SpecError, match="channels in dimension 1"):
        optimizer.step()


@pytest.mark.parametrize("place", ["fresh", "file/below", "full"])
def test_compiled_code_is_kept_below_the_cache_folder_or_nowhere(place, tmp_path, monkeypatch):
    if place == "full":
        monkeypatch.setattr(prox_cpu, "_ROOM", math.inf)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / place))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    numba.config.reload_config()
    before = numba.config.CACHE_DIR

    @prox_cpu.compiled(fastmath=False)
    def twice(x):
        return 2 * x

    assert twice(3) == 6
    assert before == numba.config.CACHE_DIR  # other people's functions are cached as ever
    assert bool(list(tmp_path.rglob("*.nbc"))) == (place == "fresh")
