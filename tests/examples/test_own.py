"""The templates run as they are, on data with something to find, and stay as short as their pages say."""

import re
import runpy
from pathlib import Path

import numpy as np
import own_eeg
import own_images
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


LINES = {"own_eeg": 40, "own_images": 40, "only_the_penalty": 15, "only_the_masks": 15, "only_compact": 15}


@pytest.mark.parametrize("name", LINES)
def test_templates_are_short(name):
    text = re.sub(r'"""(.|\n)*?"""|^ *#.*', "", (EXAMPLES / f"{name}.py").read_text(), flags=re.MULTILINE)
    assert sum(map(bool, map(str.strip, text.splitlines()))) <= LINES[name]


@pytest.mark.slow
def test_own_eeg_finds_what_is_in_the_trials():
    rng = np.random.default_rng(0)
    y = {task: rng.integers(0, 2, 60) for task in ("mi", "me")}
    wave = np.sin(np.arange(96) / 2)
    x = {task: rng.normal(size=(60, 4, 96)) + 3 * labels[:, None, None] * wave for task, labels in y.items()}
    found = own_eeg.compare(x, y, epochs=15)
    assert 0 < found["sparsity"] <= 0.4
    assert min(found[net][task] for net in ("dense", "proposed") for task in y) > 0.8


@pytest.mark.slow
def test_own_images_become_sparse_and_small():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    targets = {"seg": (images[:, 0] > 0).long(), "depth": 1 + images[:, :1].abs()}
    size = {"width": 4, "layers": (1, 1, 1, 1), "head_width": 8, "rates": (1, 2, 3)}
    found = own_images.compare([(images, targets)] * 2, [(images, targets)], 2, lam=0.3, epochs=6, **size)
    assert found["dense"]["zero groups"] < 0.1 < found["sparse"]["zero groups"]
    assert found["sparse"]["parameters"] < found["dense"]["parameters"]


@pytest.mark.slow
def test_each_part_of_the_method_works_alone(capsys):
    names = ("the_penalty", "the_masks", "compact")
    _, masks, compact = (runpy.run_path(EXAMPLES / f"only_{name}.py") for name in names)
    zero, pruned = re.findall(r"(\d+)% (?:of the channel groups are zero|pruned)", capsys.readouterr().out)
    assert int(zero) > 0
    assert int(pruned) == 80
    assert not masks["model"].conv1.weight[~masks["masks"]["conv1.weight"]].any()  # after a step of training
    assert compact["after"] < compact["before"]
    small, whole = (compact[name](compact["images"]) for name in ("small", "model"))
    torch.testing.assert_close(small, whole, rtol=1e-3, atol=1e-4)
