"""The first thing to run with a GPU: the smallest real run of each paper, on CUDA and against the CPU."""

import math

import pytest
import torch
from companion import papers
from companion.engine import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def some(paper):
    """A quick spec for each method of a paper, the smallest sparsity above zero first."""
    found = {}
    for spec in papers.study(paper).all_specs("quick"):
        found.setdefault((spec.data, spec.method), spec)
    return list(found.values())


@pytest.mark.parametrize("spec", [s for paper in papers.names() for s in some(paper)], ids=lambda spec: spec.label())
def test_a_run_on_cuda_ends_in_a_finite_record(spec):
    record = run(spec, device="cuda")
    assert record.run["device"] == torch.cuda.get_device_name("cuda")
    assert record.result["metrics"]
    assert finite(record.result)


@pytest.mark.parametrize("paper", papers.names())
def test_cuda_and_cpu_read_the_same_data_and_learn_alike(paper):
    spec = papers.study(paper).all_specs("quick")[-1]
    here, there = run(spec), run(spec, device="cuda")
    assert here.result.get("data", {}).get("fingerprint") == there.result.get("data", {}).get("fingerprint")
    assert here.result["metrics"].keys() == there.result["metrics"].keys()
