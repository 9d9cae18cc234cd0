"""The released optimiser follows an independent trajectory; the controller reaches its target, or says why not."""

import numpy as np
import pytest
import torch
from papers.upadhyay2023 import study
from papers.upadhyay2023.control import NEAR, Controller
from papers.upadhyay2023.run import Training, load_images

TINY = {"n": 12, "size": 24, "epochs": 4, "batch": 4, "width": 2, "head_width": 4}


def released(lam):
    spec = study.specs("quick", (study.ALL_NYU,), (lam,), protocol="released", seeds=(1,), **TINY)[0]
    run = Training(spec, load_images(spec))
    run.net.double()
    del run.__dict__["convs"]
    run.optimizer = run._optimizer()
    return run


def shrunk(u, scale, threshold):
    """argmin_x 1/2 sum scale (x - u)^2 + threshold sum_g ||x_g|| over the input channels g, by bisection on ||x_g||."""
    axes = tuple(k for k in range(u.ndim) if k != 1)
    shape = [-1 if k == 1 else 1 for k in range(u.ndim)]
    low, high = np.zeros(u.shape[1]), np.sqrt((u**2).sum(axes)) + 1e-30

    def size(nu):  # of x given nu = its own norm; the solution is where both are equal
        return np.sqrt(((u * scale / (scale + threshold / nu.reshape(shape))) ** 2).sum(axes))

    for _ in range(200):
        middle = (low + high) / 2
        above = size(middle) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    zero = np.sqrt(((scale * u) ** 2).sum(axes)) <= threshold
    x = u * scale / (scale + threshold / np.maximum(low, 1e-300).reshape(shape))
    return np.where(zero.reshape(shape), 0.0, x)


@pytest.mark.parametrize("lam", [0.0, 1e-1])
def test_the_released_optimiser_follows_an_independent_trajectory(lam):
    """50 steps in float64, a new optimiser every 10. Dense: Adam with coupled decay; sparse: AdamW and prox."""
    run, rng = released(lam), np.random.default_rng(0)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len(list(run.net.parameters()))
    penalised = {id(w) for w in run.convs}
    ours = [p.detach().numpy().copy() for p in parameters]
    lr, eps, decay, (b1, b2) = run.p["lr"], 1e-6, 0.1, (0.9, 0.999)
    for step in range(50):
        if step % 10 == 0:
            t, m, v = 0, [np.zeros_like(x) for x in ours], [np.zeros_like(x) for x in ours]
            run.optimizer.state.clear()
        t += 1
        gradients = [rng.normal(size=x.shape) + 0.3 * x for x in ours]
        for k, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            p.grad = torch.empty_like(p).copy_(torch.from_numpy(gradient))  # in the layout of the weights
            g = gradient + decay * ours[k] if lam == 0 else gradient
            m[k], v[k] = b1 * m[k] + (1 - b1) * g, b2 * v[k] + (1 - b2) * g**2
            x = ours[k] if lam == 0 else ours[k] * (1 - lr * decay)
            x = x - lr * (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            if lam and id(p) in penalised:  # the released metric: no bias correction
                x = shrunk(x, np.sqrt(v[k]) + eps, lr * lam * np.sqrt(x[:, 0].size))
            ours[k] = x
        run.optimizer.step()
    for p, x in zip(parameters, ours, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-6, atol=1e-9)
    assert not lam or any((p == 0).any() for p in run.convs)


def plant(controller, epochs, lam=1e-5, ease=1.0):
    """A training whose sparsity follows log10(lambda) with a lag of epochs; ease moves the lambda that is needed."""
    reached, path = 0.0, []
    for epoch in range(epochs):
        settles = 1 / (1 + np.exp(-3 * (np.log10(lam) + 3 * ease)))
        reached += 0.3 * (settles - reached)
        path.append(lam)
        lam = controller.next(epoch, lam, reached)
    return reached, path


@pytest.mark.parametrize("target", [0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("ease", [0.8, 1.0, 1.3])
def test_a_target_is_reached_and_lambda_then_held(target, ease):
    controller = Controller(target, 60)
    reached, path = plant(controller, 60, ease=ease)
    assert abs(reached - target) < NEAR
    assert len(set(path[: controller.first])) == 1
    assert len(set(path[controller.held :])) == 1
    assert controller.report(reached, path[-1])["missed"] == ""


def test_a_target_out_of_reach_says_how_far_it_came():
    controller = Controller(0.9, 12)
    reached, path = plant(controller, 12, ease=3.0)
    said = controller.report(reached, path[-1])
    assert said["reached"] == reached
    assert f"{reached:.3f} of 0.9 reached" in said["missed"]


def test_lambda_follows_the_sparsity_of_training_and_is_in_the_record():
    spec = study.specs("quick", ("depth",), (1e-2,), seeds=(0,), target=0.5, **(TINY | {"epochs": 8}))[0]
    run = Training(spec, load_images(spec))
    run.fit()
    run.checkpoint.unlink()
    result, controller = run.result(), Controller(0.5, 8)
    path, zeros = result["history"]["lambda"], result["history"]["group_sparsity"]
    for epoch in range(7):
        assert path[epoch + 1] == pytest.approx(controller.next(epoch, path[epoch], zeros[epoch]))
    assert len(set(path)) > 2
    assert result["target"]["reached"] == result["sparsity"]["group"]


def test_released_networks_are_tested_at_the_best_epoch_that_is_roughly_at_the_target_or_else_the_last():
    shape = TINY | {"epochs": 3}
    spec = study.at_levels("quick", (study.ALL_NYU,), (0.7,), protocol="released", seeds=(1,), **shape)[0]

    def kept(*zeros):
        run = Training(spec, load_images(spec))
        for epoch, share in enumerate(zeros):
            run._zeros = lambda share=share: share
            run._keep(epoch, {"sum": (1.0, 3.0, 2.0)[epoch]})
        return run.best["sum"]["epoch"]

    assert kept(0.5, 0.65, 0.79) == 2
    assert kept(0.65, 0.79, 0.9) == 0
    assert kept(0.5, 0.59, 0.9) == 2


def test_under_l1_lambda_is_adapted_to_the_end_and_the_last_network_is_tested():
    arm = {"penalty": "l1", "count": "parameter", "seeds": (1,)}
    spec = study.at_levels("quick", (study.ALL_NYU,), (0.7,), **arm, **TINY)[0]
    run = Training(spec, load_images(spec))
    assert run.controller.next(spec.params["epochs"] - 2, 1e-5, 0.1) > 1e-5
    for epoch in range(spec.params["epochs"]):
        run._keep(epoch, {"sum": 1.0})
    assert run.best["sum"]["epoch"] == spec.params["epochs"] - 1


@pytest.mark.parametrize("changed", [{"target": 0.5}, {"penalty": "group_lasso"}, {"target": None, "lam": 0.0}])
@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_what_a_controller_needs_follows_a_penalty_or_target_given_later(protocol, changed):
    arm = {"target": 0.7, "penalty": "l1", "lam": study.START}

    def made(target, penalty, lam):
        return study.specs("quick", ("seg",), (lam,), protocol=protocol, target=target, penalty=penalty)[0]

    given = study.settled(dict(made(**arm).params), changed)
    assert given == dict(made(**arm | changed).params)
