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


def spec(tasks, data="nyuv2"):
    return upadhyay2023.specs("quick", (tasks,), (1e-2,), data, seeds=(3,), **TINY)[0]


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
    x = images.images[images.splits["test"]].float() / 255
    with torch.no_grad():
        outputs = [outputs for _, outputs in training._forward(images.splits["test"])]
    expected = {task: torch.cat([batch[task] for batch in outputs]) for task in tasks.split("+")}
    found = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"input": x.numpy()}), strict=True))
    assert set(found) == set(tasks.split("+"))
    for task, value in expected.items():
        assert np.abs(found[task] - value.numpy()).max() < 0.02 * value.abs().max()
    text = (tmp_path / "out" / CARD).read_text()
    record = engine.run(chosen)
    for name, value in record.result["metrics"].items():
        told = re.search(rf"^\| {name} \| ([\d.]+) \| ([\d.]+) \| ", text, re.MULTILINE)
        assert float(told[2]) == pytest.approx(value, abs=6e-5)
        assert float(told[1]) == pytest.approx(value, rel=0.1, abs=0.05)
    assert chosen.hash in text


def test_the_command_takes_one_vision_run(tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--table", "fig4"]) == 2
    assert "runs chosen: one is needed" in capsys.readouterr().err
    with pytest.raises(SpecError, match="is not a run of upadhyay2023"):
        ship(shin2023.specs("quick")[0], tmp_path)


@pytest.mark.parametrize(
    ("switch", "value"), [("stopping", "per-task"), ("resolution", "features"), ("spare_class", True)]
)
def test_a_network_that_the_card_does_not_describe_is_refused(tmp_path, switch, value):
    chosen = upadhyay2023.specs("quick", ("seg",), (1e-2,), seeds=(3,), **TINY | {switch: value})[0]
    with pytest.raises(SpecError, match=f"{switch}={value} has no card: choose a run with {switch}="):
        ship(chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()
