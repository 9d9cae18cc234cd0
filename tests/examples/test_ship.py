"""A shipped file is the trained network: same outputs to half precision, and a card with its own scores."""

import re

import numpy as np
import pytest
import torch
from companion import engine
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023
from papers.upadhyay2023.run import Training, load_images, without_record
from ship import CARD, MODEL, main, ship
from sparsemtl.errors import SpecError

onnxruntime = pytest.importorskip("onnxruntime")
TINY = {"n": 20, "size": 24, "epochs": 3, "batch": 4, "patience": 9}


def spec(tasks, data="nyuv2", **params):
    return upadhyay2023.specs("quick", (tasks,), (1e-2,), data, seeds=(3,), **TINY | params)[0]


@pytest.mark.parametrize(
    ("tasks", "data"),
    [pytest.param(upadhyay2023.ALL_NYU, "nyuv2", marks=pytest.mark.slow), ("seg+male", "celebamask")],
)
def test_the_file_computes_what_the_trained_network_computes(tmp_path, tasks, data):
    chosen = spec(tasks, data)
    ship(chosen, tmp_path / "out")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / MODEL), providers=["CPUExecutionProvider"])
    with without_record(chosen), engine.reproducible("cpu"):
        training = Training(chosen, images := load_images(chosen))
        training.fit()
    rows = images.splits["test"]
    with torch.no_grad():
        outputs = [outputs for _, outputs in training._forward(rows)]
    found = session.run(tasks.split("+"), {"input": (images.images[rows].float() / 255).numpy()})
    for task, values in zip(tasks.split("+"), found, strict=True):
        wanted = torch.cat([batch[task] for batch in outputs])
        assert np.abs(values - wanted.numpy()).max() < 0.02 * wanted.abs().max()
    text = (tmp_path / "out" / CARD).read_text()
    for name, value in engine.run(chosen).result["metrics"].items():
        ours, trained = map(float, re.search(rf"^\| {name} \| ([\d.]+) \| ([\d.]+) \| ", text, re.MULTILINE).groups())
        assert trained == pytest.approx(value, abs=6e-5)
        assert ours == pytest.approx(value, rel=0.1, abs=0.05)
    assert chosen.hash in text


def test_one_vision_run_is_taken(tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--table", "fig4"]) == 2
    assert "one is needed" in capsys.readouterr().err
    with pytest.raises(SpecError, match="is not a run of upadhyay2023"):
        ship(shin2023.specs("quick")[0], tmp_path)


@pytest.mark.parametrize("switch", [{"stopping": "per-task"}, {"resolution": "features"}, {"spare_class": True}])
def test_a_network_that_the_card_does_not_describe_is_refused(tmp_path, switch):
    with pytest.raises(SpecError, match=f"{next(iter(switch))}=.* has no card"):
        ship(spec("seg", **switch), tmp_path / "out")
    assert not (tmp_path / "out").exists()
