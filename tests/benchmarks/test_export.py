"""`to_onnx`: ONNX Runtime gives what PyTorch gives, and what cannot be exported is named."""

import logging
import sys

import pytest
import torch
from export import to_onnx
from sparsemtl.errors import RecordError, SpecError
from sparsemtl.models.dense import MultiTaskNet
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.compact import compact
from torch import nn


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def agree(model, path, x):
    """ONNX Runtime against PyTorch on x; the names of the outputs."""
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": x.numpy()})
    with torch.no_grad():
        expected = model(x)
    names = [output.name for output in session.get_outputs()]
    expected = expected.values() if isinstance(expected, dict) else [expected]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-4, atol=1e-4)
    return names


@pytest.fixture(autouse=True)
def packages():
    pytest.importorskip("onnxscript")


def test_a_network_with_several_outputs_and_its_compacted_form(tmp_path, capfd):
    torch.manual_seed(0)
    model = MultiTaskNet(("seg", "depth"), 5, width=4, layers=(1, 1, 1, 1), head_width=8, rates=(1, 2, 3)).eval()
    for conv in model.shared.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.data[:, torch.rand(conv.in_channels) < 0.5] = 0
    for i, net in enumerate((model, compact(model, noise(2, 3, 32, 32)))):
        path = to_onnx(net, noise(1, 3, 32, 32), tmp_path / "new folder" / f"{i}.onnx")
        assert agree(net, path, noise(3, 3, 32, 32)) == ["seg", "depth"]
    assert capfd.readouterr().out == ""
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("backbone", ["eegnet", "shallow", "deep4"])
def test_trunk_and_head_of_eeg_networks(tmp_path, backbone):
    net = DualTaskNet(4, 441, 3, backbone=backbone)
    chain = nn.Sequential(net.shared, net.mi).train()
    path = to_onnx(chain, noise(2, 4, 441), tmp_path / "eeg.onnx")
    assert all(module.training for module in chain.modules())
    agree(chain.eval(), path, noise(5, 4, 441))


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(SpecError, match="Branches cannot be exported") as caught:
        to_onnx(Branches().eval(), noise(2, 3), tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_missing_packages_and_folders(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="choose another file"):
        to_onnx(nn.Linear(3, 2).eval(), noise(2, 3), tmp_path / "file" / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SpecError, match=r"no package onnxscript; pip install"):
        to_onnx(nn.Linear(3, 2).eval(), noise(2, 3), tmp_path / "net.onnx")
