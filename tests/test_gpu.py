"""The first thing to run with a GPU: the smallest real run of each paper, on CUDA and against the CPU."""

import json

import pytest
import torch
from companion import papers
from companion.engine import run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def some(paper):
    """A quick spec for each method of a paper."""
    return list({(spec.data, spec.method): spec for spec in reversed(papers.study(paper).all_specs("quick"))}.values())


@pytest.mark.parametrize("spec", [s for paper in papers.names() for s in some(paper)], ids=lambda spec: spec.label())
def test_a_run_on_cuda_ends_in_a_finite_record(spec):
    record = run(spec, device="cuda")
    assert record.run["device"] == torch.cuda.get_device_name("cuda")
    assert record.result["metrics"]
    json.dumps(record.result, allow_nan=False)


@pytest.mark.parametrize("paper", papers.names())
def test_cuda_and_cpu_read_the_same_data_and_learn_alike(paper):
    spec = papers.study(paper).all_specs("quick")[-1]
    here, there = run(spec), run(spec, device="cuda")
    assert here.result.get("data", {}).get("fingerprint") == there.result.get("data", {}).get("fingerprint")
    assert here.result["metrics"].keys() == there.result["metrics"].keys()
