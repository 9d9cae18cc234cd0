"""The released optimiser follows an independent trajectory; the controller reaches its target, or says why not."""

import numpy as np
import pytest
import torch
from papers.upadhyay2023 import study
from papers.upadhyay2023.control import NEAR, Controller
from papers.upadhyay2023.run import Training, load_images
from scipy.optimize import brentq

TINY = {"n": 12, "size": 24, "epochs": 4, "batch": 4, "width": 2, "head_width": 4}


def training(make, *args, **params):
    (spec,) = make("quick", (study.ALL_NYU,), *args, seeds=(1,), **TINY | params)
    return Training(spec, load_images(spec))


def shrunk(u, scale, threshold):
    """argmin_x 1/2 sum scale (x - u)^2 + threshold sum_g ||x_g|| over the input channels g, by the root in ||x_g||."""
    x = np.zeros_like(u)
    for g in range(u.shape[1]):
        target, weight = u[:, g], scale[:, g]

        def excess(size, target=target, weight=weight):
            return np.linalg.norm(weight * target / (weight * size + threshold)) - 1

        if excess(0) > 0:
            size = brentq(excess, 0, np.linalg.norm(target), xtol=1e-15)
            x[:, g] = weight * target * size / (weight * size + threshold)
    return x


@pytest.mark.parametrize("lam", [0.0, 1e-1])
def test_the_released_optimiser_follows_an_independent_trajectory(lam):
    """50 steps in float64, a new optimiser every 10. Dense: Adam with coupled decay; sparse: AdamW and prox."""
    run, rng = training(study.specs, (lam,), protocol="released"), np.random.default_rng(0)
    run.net.double()
    del run.__dict__["convs"]
    run.optimizer = run._optimizer()
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
    return controller.report(reached, path[-1]), path


@pytest.mark.parametrize("target", [0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("ease", [0.8, 1.0, 1.3])
def test_a_target_is_reached_and_lambda_then_held(target, ease):
    controller = Controller(target, 60)
    report, path = plant(controller, 60, ease=ease)
    assert abs(report["reached"] - target) < NEAR
    assert report["missed"] == ""
    assert len(set(path[: controller.first])) == len(set(path[controller.held :])) == 1


def test_a_target_out_of_reach_says_how_far_it_came():
    report, _ = plant(Controller(0.9, 12), 12, ease=3.0)
    assert f"{report['reached']:.3f} of 0.9 reached" in report["missed"]


def test_lambda_follows_the_sparsity_of_training_and_is_in_the_record():
    run = training(study.specs, (1e-2,), target=0.5, epochs=8)
    run.fit()
    run.checkpoint.unlink()
    result, controller = run.result(), Controller(0.5, 8)
    path, zeros = result["history"]["lambda"], result["history"]["group_sparsity"]
    wanted = [controller.next(epoch, path[epoch], zeros[epoch]) for epoch in range(7)]
    assert path[1:] == pytest.approx(wanted)
    assert len(set(path)) > 2
    assert result["target"]["reached"] == result["sparsity"]["group"]


@pytest.mark.parametrize(("zeros", "kept"), [((0.5, 0.65, 0.79), 2), ((0.65, 0.79, 0.9), 0), ((0.5, 0.59, 0.9), 2)])
def test_released_networks_are_tested_at_the_best_epoch_that_is_roughly_at_the_target_or_else_the_last(zeros, kept):
    run = training(study.at_levels, (0.7,), protocol="released", epochs=3)
    for epoch, (share, loss) in enumerate(zip(zeros, (1.0, 3.0, 2.0), strict=True)):
        run._zeros = lambda share=share: share
        run._keep(epoch, {"sum": loss})
    assert run.best["sum"]["epoch"] == kept


def test_under_l1_lambda_is_adapted_to_the_end_and_the_last_network_is_tested():
    run = training(study.at_levels, (0.7,), penalty="l1", count="parameter")
    assert run.controller.next(run.p["epochs"] - 2, 1e-5, 0.1) > 1e-5
    for epoch in range(run.p["epochs"]):
        run._keep(epoch, {"sum": 1.0})
    assert run.best["sum"]["epoch"] == run.p["epochs"] - 1


@pytest.mark.parametrize("changed", [{"target": 0.5}, {"penalty": "group_lasso"}, {"target": None, "lam": 0.0}])
@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_what_a_controller_needs_follows_a_penalty_or_target_given_later(protocol, changed):
    def made(lam, **arm):
        return dict(study.specs("quick", ("seg",), (lam,), protocol=protocol, **arm)[0].params)

    arm = {"target": 0.7, "penalty": "l1", "lam": study.START}
    assert study.settled(made(**arm), changed) == made(**arm | changed)
