"""Scores against derivatives in a mask, and the closed forms of the papers."""

import copy
from functools import partial

import pytest
import torch
from sparsemtl.errors import DataError, SpecError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, masks_of, sparsity_of, topk_mask
from sparsemtl.sparsity.saliency import gradients, grasp, magnitude, prunable, random_scores, snip, synflow
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm


@pytest.fixture
def problem():
    """A small net in float64, inputs and targets."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ELU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    return net, torch.randn(6, 1, 3, 3, dtype=torch.float64), torch.randint(3, (6,))


def mask_derivative(net, function, names):
    """Derivative of function(weights) in the mask of each named weight, at a mask of ones."""
    masks = {name: torch.ones_like(net.get_parameter(name), requires_grad=True) for name in names}
    weights = {name: p.detach() * masks.get(name, 1) for name, p in net.named_parameters()}
    return dict(zip(names, torch.autograd.grad(function(weights), list(masks.values())), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_snip_and_grasp_are_derivatives_in_the_mask_of_loss_and_gradient_flow(problem, training):
    net, x, y = problem
    net.train(training)
    saliency, preserved = snip(net, cross_entropy, x, y), grasp(net, cross_entropy, x, y, temperature=1)
    assert list(saliency) == list(preserved) == ["0.weight", "5.weight"]
    net[3].eval()

    def loss(weights):
        return cross_entropy(functional_call(net, weights, (x,)), y)

    def flow(weights):
        gradient = torch.autograd.grad(loss(weights), [weights[name] for name in preserved], create_graph=True)
        return sum((g**2).sum() for g in gradient) / 2

    for name, slope in mask_derivative(net, loss, saliency).items():
        torch.testing.assert_close(saliency[name], slope.abs())
    for name, slope in mask_derivative(net, flow, preserved).items():
        torch.testing.assert_close(preserved[name], slope)


def test_grasp_cools_the_logits_of_every_task_as_its_authors_do():
    torch.manual_seed(0)
    net = DualTaskNet(2, 40, 2, kernel=4).double()
    inputs = {t: torch.randn(5, 2, 40, dtype=torch.float64) for t in ("mi", "me")}

    def loss(outputs, targets, temperature=1.0):
        return sum(cross_entropy(o / temperature, torch.zeros(len(o), dtype=torch.int64)) for o in outputs.values())

    expected = grasp(net, partial(loss, temperature=200.0), inputs, None, temperature=1)
    for name, score in grasp(net, loss, inputs, None).items():
        torch.testing.assert_close(score, expected[name])


def masked(layer):
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


COMPUTED = [weight_norm, spectral_norm, masked]
COMPUTED += [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compute", COMPUTED)
@pytest.mark.parametrize("layer", [nn.Linear(4, 4), nn.Conv2d(4, 4, 2)], ids=["linear", "conv"])
def test_a_layer_with_a_computed_weight_is_named_not_left_out(compute, layer):
    net = nn.Sequential(nn.Linear(3, 3), compute(copy.deepcopy(layer)))
    for function in (prunable, magnitude, random_scores, masks_of, sparsity_of, lambda net: apply_masks(net, {})):
        with pytest.raises(SpecError, match=r"^1: .*remove"):
            function(net)


def test_synflow_equals_the_closed_form_and_is_conserved_in_each_layer_and_neuron():
    torch.manual_seed(2)
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((3, 5), (5, 4), (4, 2))))
    a, b, c = (layer.weight.detach().double().abs() for layer in net)
    scores = synflow(net, torch.randn(1, 3))
    torch.testing.assert_close(scores["1.weight"], b * torch.outer(c.sum(0), a.sum(1)))
    for score in scores.values():
        assert score.dtype == torch.float64
        torch.testing.assert_close(score.sum(), (c @ b @ a).sum())
    torch.testing.assert_close(scores["0.weight"].sum(1), scores["1.weight"].sum(0))


def test_a_weight_that_the_loss_does_not_reach_scores_zero():
    torch.manual_seed(4)
    net, inputs, targets = DualTaskNet(2, 40, 2, kernel=4), {"mi": torch.randn(4, 2, 40)}, torch.randint(2, (4,))

    def loss(outputs, targets):
        return cross_entropy(outputs["mi"], targets)

    for scores in (snip(net, loss, inputs, targets), grasp(net, loss, inputs, targets), synflow(net, inputs)):
        assert list(scores)[-2:] == ["mi.weight", "me.weight"]
        assert (scores["me.weight"] == 0).all()
        assert (scores["mi.weight"] != 0).any()
    constant = snip(net, lambda outputs, targets: torch.tensor(1.0), inputs, targets)
    assert all((s == 0).all() for s in constant.values())


METHODS = {
    "snip": lambda net, x, y: snip(net, cross_entropy, x, y),
    "grasp": lambda net, x, y: grasp(net, cross_entropy, x, y),
    "synflow": lambda net, x, y: synflow(net, x),
    "magnitude": lambda net, x, y: magnitude(net),
    "random": lambda net, x, y: random_scores(net, 0),
}


class Noise(nn.Module):
    """Draws from the global random state, as dropout by torch.nn.functional does."""

    def forward(self, x):
        return x + 0.1 * torch.rand_like(x)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_the_random_state_are_unchanged(problem, method):
    net, x, y = problem
    net[2] = nn.Sequential(nn.ELU(), Noise())
    cross_entropy(net(x), y).backward()
    net[5].weight.requires_grad_(False)
    net[1].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in net.named_parameters()}
    modes, random_state = [m.training for m in net.modules()], torch.get_rng_state()
    scores = METHODS[method](net, x, y)
    assert (scores["5.weight"] != 0).any()
    assert all(not s.requires_grad and torch.isfinite(s).all() for s in scores.values())
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name
    for name, p in net.named_parameters():
        assert torch.equal(p.grad, grads[name]), name
        assert p.requires_grad == (name != "5.weight")
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)


def test_scores_of_a_masked_model_see_the_pruned_weights(problem):
    net, x, y = problem
    masks = topk_mask(random_scores(net, 0), 0.5)
    with torch.no_grad():
        for name, weight in prunable(net).items():
            weight.mul_(masks[name])
    expected = gradients(net, cross_entropy, x, y)
    apply_masks(net, masks)
    for name, gradient in gradients(net, cross_entropy, x, y).items():
        assert torch.equal(gradient, expected[name])
        assert (gradient[~masks[name]] != 0).any()


def test_prunable_names_conv_and_linear_weights_once():
    net = nn.Module()
    net.body = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.LayerNorm(4), nn.Linear(4, 4))
    net.tied, net.up, net.table = nn.Linear(4, 4), nn.ConvTranspose2d(1, 1, 2), nn.Embedding(3, 4)
    net.tied.weight = net.body[3].weight
    assert list(prunable(net)) == ["body.0.weight", "body.3.weight", "up.weight"]
    assert list(prunable(nn.Linear(2, 2))) == ["weight"]


def test_random_scores_follow_the_seed(problem):
    first, again, other = (random_scores(problem[0], seed) for seed in (1, 1, 0))
    assert all(torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]) for name in first)


def test_bad_input_is_refused(problem):
    net, x, y = problem
    bad = x.clone()
    bad[0] = torch.nan
    for score in (lambda: snip(net, cross_entropy, bad, y), lambda: synflow(net, {"mi": bad})):
        with pytest.raises(DataError, match="NaN or infinite"):
            score()
    with pytest.raises(DataError, match="loss is nan"):
        snip(net, lambda outputs, targets: outputs.sum() * float("nan"), x, y)
    with pytest.raises(SpecError, match="scalar"):
        grasp(net, lambda outputs, targets: outputs, x, y)
