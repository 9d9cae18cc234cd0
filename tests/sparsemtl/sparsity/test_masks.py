"""Masks: exact counts, exact budgets, and zeros that stay zero."""

import copy
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparsemtl.errors import DataError, SpecError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import apply_masks, arbiter, budget_masks, iou, masks_of, sparsity_of, topk_mask
from sparsemtl.sparsity.saliency import prunable, random_scores
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2, history_size=3),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ELU(), nn.Flatten(), nn.Linear(16, 3))


def train(net, steps, optimizer=None):
    """Full-batch training on noise, with AdamW if nothing is said."""
    optimizer = optimizer or OPTIMIZERS["adamw"](net.parameters())
    x = torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(1))

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(net(x), torch.arange(8) % 3)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def masked(net=None):
    """A network with random masks at 60 %, and the masks."""
    net = net or network()
    masks = topk_mask(random_scores(net, 0), 0.6)
    apply_masks(net, masks)
    return net, masks


def assert_held(net, masks):
    """Pruned weights are +0.0, and the kept ones have learned."""
    for name, weight in prunable(net).items():
        assert not weight[~masks[name]].any()
        assert not torch.signbit(weight[~masks[name]]).any()
        assert (weight[masks[name]] != 0).all()


@settings(max_examples=60)
@given(st.integers(0, 10), st.integers(1, 400), st.integers(0, 999))
@example(0, 100, 290)  # in floats 0.29 * 100 is 28.999999999999996
@example(0, 100, 570)
def test_topk_prunes_exactly_the_floor_of_the_decimal(first, second, thousandths):
    torch.manual_seed(second)
    scores = {"a": torch.randint(5, (first,)).float(), "b": torch.randn(second, 1)}
    masks = topk_mask(scores, thousandths / 1000)
    kept, flat = (torch.cat([d["a"], d["b"].flatten()]) for d in (masks, scores))
    assert int((~kept).sum()) == thousandths * (first + second) // 1000
    assert masks["b"].shape == (second, 1)
    assert kept.all() or flat[kept].min() >= flat[~kept].max()


def test_topk_breaks_ties_in_the_order_of_name_and_index_whatever_the_order_of_the_dict():
    scores = {"b": torch.tensor([1.0, 0.0, 1.0]), "a": torch.tensor([[1.0, 2.0]])}
    for order in (scores, dict(sorted(scores.items()))):
        masks = {name: mask.tolist() for name, mask in topk_mask(order, 0.6).items()}
        assert masks == {"b": [False, False, True], "a": [[False, True]]}
    many = torch.arange(300_000) % 2
    assert torch.equal(topk_mask({"a": many}, 0.25)["a"], (many == 1) | (torch.arange(300_000) >= 150_000))


@pytest.mark.parametrize("function", [topk_mask, lambda scores, sparsity: budget_masks([scores], sparsity)])
def test_bad_sparsities_and_scores_are_refused(function):
    for sparsity in (-0.1, 1, 1.5, math.nan):
        with pytest.raises(SpecError, match=r"\[0, 1\)"):
            function({"a": torch.ones(3)}, sparsity)
    for value in (math.nan, math.inf):
        with pytest.raises(DataError, match="a: scores"):
            function({"a": torch.tensor([1.0, value])}, 0.5)


def test_arbiter_joins_votes_over_different_pools():
    mi = {"shared": torch.tensor([True, True, False, False]), "mi": torch.tensor([True, False])}
    me = {"shared": torch.tensor([True, False, True, False]), "me": torch.tensor([False])}
    joined = {name: mask.tolist() for name, mask in arbiter({"mi": mi, "me": me}).items()}
    assert joined == {"shared": [True, True, True, False], "mi": [True, False], "me": [False]}
    assert arbiter([mi, me], rule="and")["shared"].tolist() == [True, False, False, False]
    assert mi["shared"].tolist() == [True, True, False, False]
    with pytest.raises(SpecError, match="xor"):
        arbiter([mi, me], rule="xor")
    for function in (arbiter, lambda votes: budget_masks(votes, 0.5)):
        with pytest.raises(SpecError, match="shared"):
            function([mi, {"shared": torch.ones(3, dtype=torch.bool)}])
        with pytest.raises(SpecError, match="at least one task"):
            function({})


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, 99), st.booleans())
def test_budget_is_what_lowering_the_keep_ratio_step_by_step_finds(seed, percent, ties):
    torch.manual_seed(seed)
    draw = (lambda n: torch.randint(4, (n,)).float()) if ties else torch.rand
    scores = {"mi": {"shared": draw(7), "mi": draw(3)}, "me": {"shared": draw(7), "me": draw(23)}}
    masks = budget_masks(scores, percent / 100)
    assert {name: len(mask) for name, mask in masks.items()} == {"shared": 7, "mi": 3, "me": 23}
    found = {(name, i) for name, mask in masks.items() for i in mask.nonzero().flatten().tolist()}
    assert len(found) == 33 - percent * 33 // 100

    def joined(keep):
        """What any task keeps if each keeps the best `keep` thirtieths of its pool (of 10 or 30), rounded up."""
        kept = set()
        for pool in scores.values():
            entries = sorted((score, name, i) for name in pool for i, score in enumerate(pool[name].tolist()))
            kept |= {(name, i) for _, name, i in entries[len(entries) - math.ceil(keep * len(entries) / 30) :]}
        return kept

    keep = next(keep for keep in range(30, -1, -1) if len(joined(keep)) <= len(found))
    assert joined(keep) <= found <= joined(min(keep + 1, 30))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("stale", [False, True])
def test_pruned_weights_stay_zero_through_any_optimizer(make, stale):
    net = network()
    optimizer = make(net.parameters())
    train(net, 5 * stale, optimizer)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    _, masks = masked(net)
    assert sparsity_of(net) == pytest.approx(0.6, abs=0.02)
    for _ in range(5):
        train(net, 5, optimizer)
        assert_held(net, masks)
    for name, p in net.named_parameters():
        assert not torch.equal(p, before[name])
        assert name not in masks or not p.grad[~masks[name]].any()


def test_masked_training_is_that_with_the_mask_multiplied_in_and_state_dicts_are_the_dense_ones():
    (net, masks), reference = masked(), network()
    for i in (0, 4):
        prune.custom_from_mask(reference[i], "weight", masks[f"{i}.weight"])
    train(net, 20)
    train(reference, 20)
    for i in (0, 4):
        torch.testing.assert_close(net[i].weight, reference[i].weight_orig * reference[i].weight_mask)
    dense = network().state_dict()  # of the same names; to load it keeps the masks
    assert list(net.state_dict()) == list(dense)
    net.load_state_dict(dense)
    net(torch.randn(2, 2, 6))
    assert_held(net, masks)


def test_a_second_call_replaces_the_masks():
    net, first = masked()
    optimizer = OPTIMIZERS["adam"](net.parameters())
    train(net, 3, optimizer)
    second = topk_mask(random_scores(net, 1), 0.5)
    apply_masks(net, second)
    grown = {name: second[name] & ~first[name] for name in first}
    assert all(grown[name].any() and (w[grown[name]] == 0).all() for name, w in prunable(net).items())
    train(net, 3, optimizer)
    assert_held(net, second)
    torch.testing.assert_close(masks_of(net), second)


def test_two_forwards_may_share_one_backward_and_nan_gradients_do_no_harm():
    net, masks = masked()
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    (net(torch.randn(4, 2, 6)).sum() + net(torch.randn(4, 2, 6)).square().sum()).backward()
    optimizer.step()
    assert_held(net, masks)
    for p in net.parameters():
        p.grad.fill_(torch.nan)
    optimizer.step()
    assert all((weight[~masks[name]] == 0).all() for name, weight in prunable(net).items())


def test_frozen_weights_and_weights_lent_for_one_call():
    net = network()
    net[0].requires_grad_(False)
    _, masks = masked(net)
    lent = {name: torch.ones_like(weight) for name, weight in prunable(net).items()}
    functional_call(net, lent, (torch.randn(2, 2, 6),))
    assert all((weight == 1).all() for weight in lent.values())
    net[0].requires_grad_(True)
    train(net, 3)
    assert_held(net, masks)


def test_masks_that_do_not_fit_are_refused_and_change_nothing():
    net = network()
    before, good = copy.deepcopy(net.state_dict()), {"0.weight": torch.zeros(4, 2, 3).bool()}
    for name, shape in {"1.weight": (4,), "9.weight": (4,), "4.weight": (16, 3)}.items():
        with pytest.raises(SpecError, match=name):
            apply_masks(net, good | {name: torch.zeros(shape).bool()})
    with pytest.raises(SpecError, match="bool"):
        apply_masks(net, good | {"4.weight": torch.zeros(3, 16)})
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert sparsity_of(net) == 0


def test_sparsity_and_iou_count():
    masks = {"shared.w": torch.tensor([True, False, False, False]), "mi.w": torch.tensor([[True, True]])}
    assert [sparsity_of(masks, prefix) for prefix in ("", "shared.", ("mi.", "me."))] == [0.5, 0.75, 0]
    with pytest.raises(SpecError, match=r"me\."):
        sparsity_of(masks, "me.")
    a, b, none = torch.tensor([True, True, False]), torch.tensor([False, True, True]), torch.zeros(3).bool()
    assert (iou(a, b), iou(a, a), iou(a, none), iou(none, none)) == (1 / 3, 1, 0, 1)
    with pytest.raises(SpecError, match="shape"):
        iou(a, a[:2])


@pytest.mark.parametrize("backbone", ["eegnet", "shallow"])
def test_a_copy_keeps_masks_of_its_own_though_convolutions_are_fused(backbone):
    net, masks = masked(DualTaskNet(4, 160, 2, backbone=backbone, kernel=8))
    twin = copy.deepcopy(net)
    apply_masks(net, {})
    optimizer = OPTIMIZERS["adamw"](twin.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        twin({"mi": torch.randn(4, 4, 160)})["mi"].square().sum().backward()
        optimizer.step()
    assert sparsity_of(net) == 0
    assert_held(twin, masks)
