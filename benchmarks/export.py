"""Networks as ONNX files, for runtimes without PyTorch."""

import contextlib
import copy
import io
import logging
import os
import warnings
from pathlib import Path

import torch
from sparsemtl.errors import RecordError, SpecError, needs, one_line
from torch.utils import _pytree as pytree


def to_onnx(model, example, path):
    """Write `model`, as it is in eval mode, into an ONNX file and return its Path; `model` is left alone.

    model: nn.Module that takes one tensor and returns one, or several in a tuple, list or dict; a network from
    `compact` as well. example: a tensor for it, float (n, ...), on the model's device, whose values do not
    matter. The file takes "input", any number of rows n and otherwise the example's shape and dtype. Outputs are
    "output", or "output_0", "output_1", ..., or the keys of the dict.

    Raises SpecError if the packages onnx and onnxscript are missing and for a model that cannot be exported with
    any n, and RecordError if the file cannot be written.
    """
    name, path = type(model).__name__, Path(path)
    needs("to_onnx", "speed", "onnx", "onnxscript")  # torch imports them late, in the midst of the export
    try:
        program = _exported(copy.deepcopy(model).eval(), example)
    except Exception as error:  # the exporter, and the model's code in it, may raise anything
        raise SpecError(
            f"to_onnx: {name} cannot be exported ({one_line(error, 200)}); its forward must take one tensor and any "
            "number of rows"
        ) from error
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # a full disk leaves the old file whole
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(part)
        part.replace(path)
    except OSError as error:
        raise RecordError(f"cannot write {path} ({error.strerror}); choose another file") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _exported(model, example):
    rows = torch.cat([example, example]) if len(example) == 1 else example  # one row would be taken for a constant
    level = logging.root.manager.disable
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            graph = torch.export.export(model, (rows,), dynamic_shapes=({0: torch.export.Dim("n")},))
            names = _output_names(model(rows))
            return torch.onnx.export(graph, dynamo=True, input_names=["input"], output_names=names, verbose=False)
        finally:
            logging.disable(level)


def _output_names(outputs):
    if isinstance(outputs, dict):
        return [str(key) for key in outputs]
    count = len(pytree.tree_leaves(outputs))
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
