"""The library on a device other than the CPU: a pretended one, see `pretended_gpu`."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A copy of the library for which the pretended device is the GPU."""
    copy = tmp_path_factory.mktemp("device") / "lib"
    shutil.copytree(HERE.parent / "lib", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        path.write_text(path.read_text(encoding="utf-8").replace("cuda", "gpu"), encoding="utf-8")
    return copy


def on_device(library, *methods):
    """What `pretended_gpu` prints."""
    words = [sys.executable, HERE / "pretended_gpu.py", library, *methods]
    environment = os.environ | {"SPARSEMTL_CACHE": str(library.parent / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kind_of_run_keeps_to_the_device(library):
    told = on_device(library)
    assert told["failures"] == []
    assert len(told["results"]) == 19
    for metrics in told["results"].values():
        assert metrics.pop("device") == "a pretended GPU"
        assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("training/motor.py", ".sum(1).cpu()", ".sum(1)", "use Tensor.cpu()"),
        ("training/motor.py", "net = build(generator=torch.Generator().manual_seed(job.seed)).to(device)",
         "net = build(generator=torch.Generator().manual_seed(job.seed))", "a CPU tensor"),
    ],
)  # fmt: skip
def test_it_would_notice_what_a_gpu_refuses(library, tmp_path, file, before, after, said):
    broken = tmp_path / "lib"
    shutil.copytree(library, broken)
    path = broken / "sparsemtl" / file
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    told = on_device(broken, "or")
    assert len(told["failures"]) == 1
    assert said in told["failures"][0]
