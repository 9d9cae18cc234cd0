"""`to_onnx`: ONNX Runtime gives what PyTorch gives, and what cannot be exported is named."""

import logging
import sys

import pytest
import torch
from export import to_onnx
from sparsemtl.errors import RecordError, SpecError
from sparsemtl.models.dense import MultiTaskNet
from sparsemtl.sparsity.compact import compact
from torch import nn

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("small", [False, True])
def test_a_network_with_several_outputs_and_its_compacted_form(tmp_path, capfd, small):
    torch.manual_seed(0)
    net = MultiTaskNet(("seg", "depth"), 5, width=4, layers=(1, 1, 1, 1), head_width=8, rates=(1, 2, 3)).eval()
    for conv in net.shared.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.data[:, torch.rand(conv.in_channels) < 0.5] = 0
    net = compact(net, noise(2, 3, 32, 32)) if small else net
    path = to_onnx(net.train(), noise(1, 3, 32, 32), tmp_path / "new folder" / "net.onnx")
    assert all(module.training for module in net.modules())
    assert capfd.readouterr().out == ""
    assert logging.root.manager.disable == logging.NOTSET
    session, x = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]), noise(3, 3, 32, 32)
    names = [output.name for output in session.get_outputs()]
    got = dict(zip(names, map(torch.from_numpy, session.run(None, {"input": x.numpy()})), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(got, net.eval()(x), rtol=1e-4, atol=1e-4)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_or_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=r"\A.*Branches cannot be exported.*\Z"):
        to_onnx(Branches().eval(), noise(2, 3), tmp_path / "net.onnx")
    with pytest.raises(RecordError, match="choose another file"):
        to_onnx(nn.Linear(3, 2).eval(), noise(2, 3), tmp_path / "file" / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SpecError, match="no package onnxscript"):
        to_onnx(nn.Linear(3, 2).eval(), noise(2, 3), tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
