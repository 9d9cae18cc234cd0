"""Masks: exact counts, exact budgets, and zeros that stay zero."""

import copy
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
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
    "sgd loop": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2, history_size=3),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ELU(), nn.Flatten(), nn.Linear(16, 3))


def train(net, optimizer, steps):
    """Full-batch training on noise."""
    x = torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(1))
    y = torch.arange(8) % 3

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(net(x), y)
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
        pruned = weight[~masks[name]]
        assert torch.equal(pruned, torch.zeros_like(pruned))
        assert not torch.signbit(pruned).any()
        assert (weight[masks[name]] != 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10), st.integers(1, 400), st.integers(0, 999))
def test_topk_prunes_exactly_the_floor_of_the_decimal(first, second, thousandths):
    torch.manual_seed(second)
    scores = {"a": torch.randint(5, (first,)).float(), "b": torch.randn(second, 1)}
    masks = topk_mask(scores, thousandths / 1000)
    kept, flat = (torch.cat([d["a"], d["b"].flatten()]) for d in (masks, scores))
    assert int((~kept).sum()) == thousandths * (first + second) // 1000
    assert masks["b"].shape == (second, 1)
    if not kept.all():
        assert flat[kept].min() >= flat[~kept].max()


def test_topk_breaks_ties_in_the_order_of_name_and_index_whatever_the_order_of_the_dict():
    scores = {"b": torch.tensor([1.0, 0.0, 1.0]), "a": torch.tensor([[1.0, 2.0]])}
    masks = topk_mask(scores, 0.6)
    assert {name: mask.tolist() for name, mask in masks.items()} == {"b": [False, False, True], "a": [[False, True]]}
    swapped = topk_mask(dict(sorted(scores.items())), 0.6)
    assert all(torch.equal(masks[name], swapped[name]) for name in masks)
    many = torch.arange(300_000) % 2
    assert torch.equal(topk_mask({"a": many}, 0.25)["a"], (many == 1) | (torch.arange(300_000) >= 150_000))


def test_the_decimal_counts_not_its_binary_neighbour():
    # in floats 0.29 * 100 is 28.999999999999996 and 0.57 * 100 is 56.99999999999999
    for sparsity, pruned in ((0.29, 29), (0.57, 57), (0.58, 58), (0.8, 80), (0.999, 99), (0, 0)):
        mask = topk_mask({"a": torch.zeros(100)}, sparsity)["a"]
        assert mask.tolist() == [False] * pruned + [True] * (100 - pruned)


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 99), st.booleans())
def test_budget_is_what_lowering_the_keep_ratio_step_by_step_finds(seed, percent, ties):
    torch.manual_seed(seed)
    sizes = {"mi": (7, 3), "me": (7, 23)}
    draw = (lambda n: torch.randint(4, (n,)).float()) if ties else torch.rand
    scores = {task: {"shared": draw(s), task: draw(h)} for task, (s, h) in sizes.items()}
    masks = budget_masks(scores, percent / 100)
    total = 7 + 3 + 23
    budget = total - percent * total // 100
    assert {name: len(mask) for name, mask in masks.items()} == {"shared": 7, "mi": 3, "me": 23}
    assert sum(int(mask.sum()) for mask in masks.values()) == budget

    def joined(keep):
        """What any task keeps if each keeps the best `keep` of its pool, rounded up."""
        kept = set()
        for pool in scores.values():
            entries = sorted((float(s), name, i) for name in sorted(pool) for i, s in enumerate(pool[name]))
            kept |= {(name, i) for _, name, i in entries[len(entries) - math.ceil(keep * len(entries)) :]}
        return {name: torch.tensor([(name, i) in kept for i in range(len(m))]) for name, m in masks.items()}

    # lower the ratio by less than what makes any vote change, until the joined mask meets the budget
    previous = joined(Fraction(1))
    for step in range(121):
        current = joined(1 - Fraction(step, 120))
        if sum(int(mask.sum()) for mask in current.values()) <= budget:
            break
        previous = current
    for name, mask in masks.items():
        assert (mask | ~current[name]).all(), "a weight that meets the lower ratio is kept"
        assert (previous[name] | ~mask).all(), "a weight that fails the higher ratio is pruned"


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("stale", [False, True])
def test_pruned_weights_stay_zero_through_any_optimizer(make, stale):
    net = network()
    optimizer = make(net.parameters())
    if stale:
        train(net, optimizer, 5)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    masks = topk_mask(random_scores(net, 0), 0.6)
    apply_masks(net, masks)
    assert sparsity_of(net) == pytest.approx(0.6, abs=0.02)
    for _ in range(5):
        train(net, optimizer, 5)
        assert_held(net, masks)
    for name, p in net.named_parameters():
        assert not torch.equal(p, before[name])
        assert name not in masks or not p.grad[~masks[name]].any()


def test_masked_training_equals_training_with_the_mask_multiplied_in():
    (net, masks), reference = masked(), network()
    for name, mask in masks.items():
        prune.custom_from_mask(reference.get_submodule(name[:-7]), "weight", mask)
    train(net, OPTIMIZERS["adamw"](net.parameters()), 20)
    train(reference, OPTIMIZERS["adamw"](reference.parameters()), 20)
    for name in masks:
        module = reference.get_submodule(name[:-7])
        torch.testing.assert_close(net.get_parameter(name).data, module.weight_orig * module.weight_mask)


def test_names_and_state_dict_are_those_of_the_dense_model_and_loading_keeps_the_masks():
    net, masks = masked()
    dense = network()
    assert list(net.state_dict()) == list(dense.state_dict())
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in dense.named_parameters()]
    net.load_state_dict(dense.state_dict())
    net(torch.randn(2, 2, 6))
    assert_held(net, masks)


def test_a_copy_keeps_masks_of_its_own():
    net, masks = masked()
    clone = copy.deepcopy(net)
    apply_masks(clone, {})
    train(net, OPTIMIZERS["adamw"](net.parameters()), 5)
    assert_held(net, masks)
    assert sparsity_of(clone) == 0


def test_a_second_call_replaces_the_masks():
    net = network()
    optimizer = OPTIMIZERS["adam"](net.parameters())
    first, second = (topk_mask(random_scores(net, seed), 0.5) for seed in (0, 1))
    apply_masks(net, first)
    train(net, optimizer, 3)
    apply_masks(net, second)
    grown = {name: second[name] & ~first[name] for name in first}
    assert all(grown[name].any() and (w[grown[name]] == 0).all() for name, w in prunable(net).items())
    train(net, optimizer, 3)
    assert_held(net, second)
    assert all(torch.equal(mask, second[name]) for name, mask in masks_of(net).items())


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
    train(net, OPTIMIZERS["adamw"](net.parameters()), 3)
    assert_held(net, masks)


def test_masks_that_do_not_fit_are_refused_and_change_nothing():
    net = network()
    before = copy.deepcopy(net.state_dict())
    good = {"0.weight": torch.zeros(4, 2, 3, dtype=torch.bool)}
    for name, shape in {"1.weight": (4,), "9.weight": (4,), "4.weight": (16, 3)}.items():
        with pytest.raises(SpecError, match=name):
            apply_masks(net, good | {name: torch.zeros(shape, dtype=torch.bool)})
    with pytest.raises(SpecError, match="bool"):
        apply_masks(net, good | {"4.weight": torch.zeros(3, 16)})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert sparsity_of(net) == 0


def test_sparsity_and_iou_count():
    masks = {"shared.w": torch.tensor([True, False, False, False]), "mi.w": torch.tensor([[True, True]])}
    shares = [sparsity_of(masks, prefix) for prefix in ("", "shared.", ("mi.", "me."))]
    assert shares == [0.5, 0.75, 0]
    with pytest.raises(SpecError, match=r"me\."):
        sparsity_of(masks, "me.")
    a, b, none = torch.tensor([True, True, False]), torch.tensor([False, True, True]), torch.zeros(3).bool()
    assert (iou(a, b), iou(a, a), iou(a, none), iou(none, none)) == (1 / 3, 1, 0, 1)
    with pytest.raises(SpecError, match="shape"):
        iou(a, a[:2])


@pytest.mark.parametrize("backbone", ["eegnet", "shallow"])
def test_a_copied_eeg_network_keeps_its_masks_though_its_convolutions_are_fused(backbone):
    net, masks = masked(DualTaskNet(4, 160, 2, backbone=backbone, kernel=8))
    twin = copy.deepcopy(net)
    optimizer = OPTIMIZERS["adamw"](twin.parameters())
    x = {task: torch.randn(4, 4, 160, generator=torch.Generator().manual_seed(1)) for task in ("mi", "me")}
    for _ in range(3):
        optimizer.zero_grad()
        sum(out.square().sum() for out in twin(x).values()).backward()
        optimizer.step()
    assert_held(twin, masks)
