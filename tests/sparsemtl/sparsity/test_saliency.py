"""Scores against derivatives in a mask, and the closed forms of the papers."""

import copy
from functools import partial

import pytest
import torch
from as_trained import everything
from sparsemtl.errors import DataError, SpecError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, masks_of, sparsity_of, topk_mask
from sparsemtl.sparsity.saliency import gradients, grasp, magnitude, prunable, random_scores, snip, synflow
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.testing import assert_close


@pytest.fixture
def problem():
    """A small net in float64, inputs and targets."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ELU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(*layers).double(), torch.randn(6, 1, 3, 3, dtype=torch.float64), torch.randint(3, (6,))


@pytest.mark.parametrize("training", [True, False])
def test_snip_and_grasp_are_derivatives_in_the_mask_of_loss_and_gradient_flow(problem, training):
    net, x, y = problem
    net.train(training)
    saliency, preserved = snip(net, cross_entropy, x, y), grasp(net, cross_entropy, x, y, temperature=1)
    assert list(saliency) == list(preserved) == ["0.weight", "5.weight"]
    net[3].eval()
    masks = {name: torch.ones_like(net.get_parameter(name), requires_grad=True) for name in saliency}
    weights = {name: p.detach() * masks.get(name, 1) for name, p in net.named_parameters()}
    loss = cross_entropy(functional_call(net, weights, (x,)), y)
    gradient = torch.autograd.grad(loss, [weights[name] for name in masks], create_graph=True)
    flow = sum((g**2).sum() for g in gradient) / 2
    slopes, slopes_of_flow = (torch.autograd.grad(f, list(masks.values()), retain_graph=True) for f in (loss, flow))
    assert_close(list(saliency.values()), [slope.abs() for slope in slopes])
    assert_close(list(preserved.values()), list(slopes_of_flow))


def test_grasp_cools_the_logits_as_its_authors_do(problem):
    net, x, y = problem
    expected = grasp(net, lambda outputs, y: cross_entropy(outputs / 200, y), x, y, temperature=1)
    assert_close(grasp(net, cross_entropy, x, y), expected, rtol=1e-9, atol=0)


COMPUTED = [weight_norm, spectral_norm, partial(prune.random_unstructured, name="weight", amount=0.5)]
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
    assert_close(scores["1.weight"], b * torch.outer(c.sum(0), a.sum(1)))  # float64 as well
    for score in scores.values():
        assert_close(score.sum(), (c @ b @ a).sum())
    assert_close(scores["0.weight"].sum(1), scores["1.weight"].sum(0))


def test_a_weight_that_the_loss_does_not_reach_scores_zero():
    torch.manual_seed(4)
    net, inputs, targets = DualTaskNet(2, 40, 2, kernel=4), {"mi": torch.randn(4, 2, 40)}, torch.randint(2, (4,))

    def loss(outputs, targets):
        return cross_entropy(outputs["mi"], targets)

    for scores in (snip(net, loss, inputs, targets), grasp(net, loss, inputs, targets), synflow(net, inputs)):
        assert list(scores)[-2:] == ["mi.weight", "me.weight"]
        assert not scores["me.weight"].any()
        assert scores["mi.weight"].any()
    constant = snip(net, lambda outputs, targets: torch.tensor(1.0), inputs, targets)
    assert not any(score.any() for score in constant.values())


METHODS = [snip, grasp, lambda net, loss, x, y: synflow(net, x)]
METHODS += [lambda net, *_: magnitude(net), lambda net, *_: random_scores(net, 0)]


@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_the_random_state_are_unchanged(problem, method):
    net, x, y = problem
    net[2].register_forward_hook(lambda module, args, x: x + 0.1 * torch.rand_like(x))  # as F.dropout draws
    cross_entropy(net(x), y).backward()
    net[5].weight.requires_grad_(False)
    net[1].eval()
    before = everything(net)
    scores = method(net, cross_entropy, x, y)
    assert_close(everything(net), before, rtol=0, atol=0)
    assert (scores["5.weight"] != 0).any()
    assert all(not s.requires_grad and torch.isfinite(s).all() for s in scores.values())


def test_scores_of_a_masked_model_see_the_pruned_weights(problem):
    net, x, y = problem
    masks = topk_mask(random_scores(net, 0), 0.5)
    for name, weight in prunable(net).items():
        weight.data.mul_(masks[name])
    expected = gradients(net, cross_entropy, x, y)
    apply_masks(net, masks)
    found = gradients(net, cross_entropy, x, y)
    assert_close(found, expected, rtol=0, atol=0)
    assert all(gradient[~masks[name]].any() for name, gradient in found.items())


def test_prunable_names_conv_and_linear_weights_once():
    net = nn.Module()
    net.body = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.LayerNorm(4), nn.Linear(4, 4))
    net.tied, net.up, net.table = nn.Linear(4, 4), nn.ConvTranspose2d(1, 1, 2), nn.Embedding(3, 4)
    net.tied.weight = net.body[3].weight
    assert list(prunable(net)) == ["body.0.weight", "body.3.weight", "up.weight"]
    assert list(prunable(nn.Linear(2, 2))) == ["weight"]


def test_bad_input_is_refused(problem):
    net, x, y = problem
    for score in (lambda: snip(net, cross_entropy, x / 0, y), lambda: synflow(net, {"mi": x / 0})):
        with pytest.raises(DataError, match="NaN or infinite"):
            score()
    with pytest.raises(DataError, match="loss is nan"):
        snip(net, lambda outputs, targets: outputs.sum() * float("nan"), x, y)
    with pytest.raises(SpecError, match="scalar"):
        grasp(net, lambda outputs, targets: outputs, x, y)
