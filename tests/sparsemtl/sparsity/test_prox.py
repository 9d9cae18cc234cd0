"""Proximal operators against bisection and optimality conditions; ProxAdamW against AdamW and scikit-learn."""

import copy
import io
import math
from functools import partial
from types import SimpleNamespace

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
from sparsemtl.sparsity.prox_cpu import compiled
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.prune import l1_unstructured


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


def on_gpu_(thetas, scales, thresholds, dim, adam):
    """What tensors on a GPU go through, in place of the CPU's loops."""
    prox._on_gpu_(thetas, prox._metric(scales, *adam) if adam else scales, thresholds, dim)


def resnet50_shapes():
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    return sorted({tuple(m.weight.shape) for m in net.modules() if isinstance(m, torch.nn.Conv2d)})


@pytest.mark.parametrize("path", ["cpu", "gpu"])
@pytest.mark.parametrize("shape", resnet50_shapes(), ids=str)
def test_scaled_equals_bisection_on_resnet50_shapes(shape, path, monkeypatch):
    if path == "gpu":  # what tensors on a GPU go through
        monkeypatch.setattr(prox_cpu, "solve_", on_gpu_)
    torch.manual_seed(0)
    theta = torch.randn(shape) / 30
    scale = 10 ** (8 * torch.rand(shape) - 8)
    # per channel: from 1e-10 of what makes it zero (nothing happens) to twice that
    limit = rows(scale * theta).norm(dim=1).double()
    share = torch.tensor([0, 1e-10, 1e-6, 1e-3, 0.03, 0.3, 0.9, 0.999, 1.001, 2]).double().repeat(shape[1])[: shape[1]]
    theta[:, -1], share[-2] = 0, 0.5
    threshold = share * limit
    x = prox_group_lasso_scaled(theta, scale, threshold)
    assert x.dtype == torch.float32
    assert x.shape == shape
    sample = torch.cat([torch.arange(min(20, shape[1])), torch.tensor([shape[1] - 2, shape[1] - 1])])
    expected = bisection(rows(theta)[sample], rows(scale)[sample], threshold[sample])
    torch.testing.assert_close(rows(x)[sample].double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(rows(x == 0).all(1), (share > 1) | (rows(theta) == 0).all(1))
    # all channels: 0 in scale * (x - theta) + threshold * x / ||x||
    x, theta, scale = (rows(t.double()) for t in (x, theta, scale))
    norm = x.norm(dim=1, keepdim=True)
    pull = torch.where(norm > 0, threshold[:, None] * x / norm, scale * theta)
    assert ((scale * (x - theta) + pull).norm(dim=1) <= 1e-6 * limit).all()


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-10), (torch.bfloat16, 1e-2)], ids=str
)
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
def test_the_result_does_not_depend_on_the_number_of_threads(dtype):
    torch.manual_seed(5)
    theta, scale = torch.randn(40, 700, 3, 3, dtype=dtype), torch.rand(40, 700, 3, 3, dtype=dtype) + 0.01
    threshold = torch.linspace(0, 1.2, 700).double() * rows(scale * theta).norm(dim=1).double()
    one = prox_group_lasso_scaled(theta, scale, threshold)
    before = torch.get_num_threads()
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(one, prox_group_lasso_scaled(theta, scale, threshold))
    finally:
        torch.set_num_threads(before)


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


def test_single_entry_empty_and_zero_groups_and_nan():
    theta, scale = torch.tensor([[2.0, -3.0, 0.5, 0.0]]), torch.tensor([[0.5, 2.0, 1.0, 1e-8]])
    expected = torch.tensor([[0.0, -2.5, 0.0, 0.0]])  # sign * max(|theta| - threshold / scale, 0)
    torch.testing.assert_close(prox_group_lasso_scaled(theta, scale, 1.0), expected)
    torch.testing.assert_close(prox_group_lasso_scaled(theta[0], scale[0], 1.0, dim=0), expected[0])
    torch.testing.assert_close(prox_group_lasso(theta[0], 1.0, dim=0), torch.tensor([1.0, -2.0, 0.0, 0.0]))
    for shape in ((0, 3), (3, 0), (2, 3, 0, 1)):
        empty = torch.ones(shape)
        assert prox_group_lasso(empty, 1.0).shape == prox_group_lasso_scaled(empty, empty, 1.0).shape == shape
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    for threshold in (0.0, 1.0, math.inf):
        assert torch.equal(prox_group_lasso(zero, threshold), zero)
        assert torch.equal(prox_group_lasso_scaled(zero, one, threshold), zero)
    assert (prox_group_lasso_scaled(one, one, math.inf) == 0).all()
    theta = one.clone()
    theta[0, 1] = torch.nan  # its group stays NaN, others do not become so
    for x in (prox_group_lasso(theta, 0.1), *(prox_group_lasso_scaled(theta, one, t) for t in (0.1, 100.0))):
        assert x.isnan().any(0).tolist() == [False, True, False]
    assert prox_l1(theta, 2.0).isnan().sum() == 1


def test_many_tensors_on_a_gpu_are_solved_as_each_alone():
    torch.manual_seed(3)
    thetas = [torch.randn(shape) for shape in ((30, 70), (30, 5), (4, 7, 3, 3), (4, 2, 3, 3), (3, 7))]
    moments = [torch.rand_like(theta) for theta in thetas]
    thresholds = [torch.linspace(0, 3, theta.shape[1]).double() for theta in thetas]
    expected = [
        prox_group_lasso_scaled(theta, v.sqrt() / 0.5 + 0.1, threshold)
        for theta, v, threshold in zip(thetas, moments, thresholds, strict=True)
    ]
    on_gpu_(thetas, moments, thresholds, 1, ([0.5] * 5, 0.1))
    for theta, alone in zip(thetas, expected, strict=True):
        torch.testing.assert_close(theta, alone, rtol=1e-6, atol=0)


def test_l1_is_the_soft_threshold():
    x = torch.linspace(-2, 2, 41)
    torch.testing.assert_close(prox_l1(x, 0.5), torch.nn.functional.softshrink(x, 0.5))
    assert not prox_l1(x, torch.full_like(x, 3)).any()


def test_bad_thresholds_are_refused():
    theta = torch.ones(2, 3)
    for bad in (-1.0, math.nan, torch.tensor([0.1, -0.1, 0.1])):
        for operator in (prox_group_lasso, prox_l1, lambda t, x: prox_group_lasso_scaled(t, t, x)):
            with pytest.raises(SpecError, match="threshold"):
                operator(theta, bad)
    with pytest.raises(SpecError, match="2 entries for 3 groups"):
        prox_group_lasso(theta, torch.ones(2))
    for bad in (theta.to(torch.complex64), theta.to(torch.int64)):
        scaled = partial(prox_group_lasso_scaled, bad, torch.ones(bad.shape))
        for operator in (partial(prox_group_lasso, bad), partial(prox_l1, bad), scaled):
            with pytest.raises(SpecError, match=str(bad.dtype)):
                operator(0.1)
    with pytest.raises(SpecError, match="scale has shape"):
        prox_group_lasso_scaled(theta, torch.ones(3, 2), 1.0)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )


def train(net, optimizer, steps):
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)).to(net[0].weight.dtype)
    y = torch.arange(8) % 2
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def groups(net, penalty, lam):
    return [group | {"weight_decay": 0.1} for group in penalty_groups(net, lam, penalty)]


def without_penalty(net):
    return [{"params": group["params"], "weight_decay": 0.1} for group in penalty_groups(net, 0.0)]


@pytest.mark.parametrize(
    "options",
    [{}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"amsgrad": True, "maximize": True}],
    ids=str,
)
@pytest.mark.parametrize(("penalty", "lam"), [(None, 0.1), ("group_lasso", 0.0), ("l1", 0.0)])
def test_without_penalty_it_is_adamw(options, penalty, lam):
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6} | options
    ours, theirs = network(), network()
    train(ours, ProxAdamW(groups(ours, penalty, lam), **settings), 20)
    train(theirs, torch.optim.AdamW(without_penalty(theirs), **settings), 20)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("penalty", ["group_lasso", "l1"])
def test_a_step_minimises_in_the_metric_of_adam(penalty, amsgrad):
    """0 in s / lr * (x - u) + lam * subgradient, with u from AdamW and s from its state, after several steps."""
    net, lr, lam, eps = network().double(), 0.01, 0.02, 1e-3
    optimizer = ProxAdamW(groups(net, penalty, lam), lr=lr, eps=eps, amsgrad=amsgrad)
    train(net, optimizer, 4)
    moment = "max_exp_avg_sq" if amsgrad else "exp_avg_sq"
    for state in optimizer.state.values() if amsgrad else ():
        state[moment] += 1e-3  # as after a large gradient long ago
    clone = copy.deepcopy(net)
    plain = torch.optim.AdamW(without_penalty(clone), lr=lr, eps=eps, amsgrad=amsgrad)
    plain.load_state_dict(plain.state_dict() | {"state": copy.deepcopy(optimizer.state_dict()["state"])})
    train(net, optimizer, 1)
    train(clone, plain, 1)
    dead = 0
    for x, u in ((net[0].weight, clone[0].weight), (net[2].weight, clone[2].weight)):
        s = (plain.state[u][moment] / (1 - 0.999**5)).sqrt() + eps
        x, slope, size = x.detach(), (s * (u - x) / lr).detach(), x[:, 0].numel()
        # a group of one entry has the absolute value for its norm
        x, slope = (rows(t) if penalty == "group_lasso" else t.reshape(-1, 1) for t in (x, slope))
        strength = lam * math.sqrt(size) if penalty == "group_lasso" else lam
        norm = x.norm(dim=1, keepdim=True)
        alive = norm[:, 0] > 0
        assert alive.any()
        dead += int((~alive).sum())
        torch.testing.assert_close(slope[alive], strength * (x / norm)[alive])
        assert (slope[~alive].norm(dim=1) <= strength).all()
    assert dead or amsgrad


@pytest.mark.parametrize("penalty", ["group_lasso", "l1"])
def test_regression_converges_to_the_solution_of_scikit_learn(penalty):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    x += 0.5 * x.roll(1, 1)
    truth = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    truth[:, 4:] = 0
    y = x @ truth.T + 0.3 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    alpha = 0.2
    solver, lam = (MultiTaskLasso, alpha / math.sqrt(3)) if penalty == "group_lasso" else (Lasso, alpha)
    expected = torch.as_tensor(solver(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=10**5).fit(x, y).coef_)
    theta = torch.nn.Parameter(torch.randn(3, 12, generator=generator, dtype=torch.float64))
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
    weights, state = saved((part.state_dict(), first.state_dict()))
    fresh.load_state_dict(weights)
    second = ProxAdamW(groups(fresh, penalty, 7.0))
    second.load_state_dict(state)
    train(fresh, second, 5)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), whole.parameters(), strict=True))


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
        same = [torch.equal(before[name], value) for name, value in net.state_dict().items()]
        assert all(same) if overflow else not all(same)


def test_a_state_of_adamw_needs_its_penalty_set():
    net = network()
    optimizer = ProxAdamW(groups(net, "group_lasso", 50.0))
    optimizer.load_state_dict(torch.optim.AdamW(without_penalty(net)).state_dict())
    with pytest.raises(SpecError, match="no penalty"):
        train(net, optimizer, 1)


@pytest.mark.parametrize("lam", [np.float32(0.5), np.array(0.5), torch.tensor(0.5), 1, np.int64(1)], ids=str)
def test_a_strength_of_any_kind_leaves_checkpoints_plain(lam):
    optimizer = ProxAdamW(groups(network(), "l1", lam))
    assert saved(optimizer.state_dict())["param_groups"][0]["lam"] == lam


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compute", [weight_norm, spectral_norm, partial(l1_unstructured, name="weight", amount=0.5)])
def test_computed_weights_cannot_be_penalised(compute):
    net = network()
    compute(net[2])
    with torch.no_grad():
        net(torch.ones(1, 3, 6, 6))  # leaves a weight that looks like one that can be trained
    with pytest.raises(SpecError, match=r"^2: "):
        penalty_groups(net, 0.1)


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
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    with pytest.raises(SpecError, match="ProxAdamW"):
        ProxAdamW([{"params": [network()[0].weight], "penalty": "group_lasso"} | change])


def test_transposed_convolutions_are_not_penalised():
    model = torch.nn.ModuleList([torch.nn.ConvTranspose2d(6, 4, 3), torch.nn.Conv2d(2, 3, 1)])
    penalised, others = penalty_groups(model, 0.1)
    assert (penalised["params"], len(others["params"])) == ([model[1].weight], 3)


def test_weights_that_a_penalty_does_not_fit_are_refused():
    weight, bias = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(3))
    for group, message in (
        ({"params": [bias], "penalty": "group_lasso"}, "channels in dimension 1"),
        ({"params": [torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))]}, "complex64"),
        ({"params": [bias], "lam": -1}, "lam"),
    ):
        with pytest.raises(SpecError, match=message):
            ProxAdamW([group], penalty="l1", lam=0.1)
    optimizer = ProxAdamW([weight], penalty="l1", lam=0.1)
    optimizer.add_param_group({"params": [bias]})
    assert optimizer.param_groups[1]["lam"] == 0.1


@pytest.mark.parametrize("place", ["fresh", "file/below", "locked/below", "full"])  # root may write into a locked one
def test_compiled_code_is_kept_below_the_cache_folder_or_nowhere(place, tmp_path, monkeypatch):
    if place == "full":
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o500)
    folder = tmp_path / place
    monkeypatch.setenv("SPARSEMTL_CACHE", str(folder))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    numba.config.reload_config()
    before = numba.config.CACHE_DIR

    @compiled(fastmath=False)
    def twice(x):
        return 2 * x

    assert twice(3) == 6
    assert before == numba.config.CACHE_DIR  # other people's functions are cached as ever
    assert bool(list(folder.rglob("*.nbc"))) == (place == "fresh") or place == "locked/below"
