"""A trained vision network to take away: an ONNX file without dead channels, in half precision, and its model card.

python examples/ship.py FOLDER --profile small --table table1 --hash HASH
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from companion.choose import add_arguments, chosen, options_of
from companion.crate import SOURCES
from companion.engine import reproducible
from companion.files import write_whole
from companion.records import check_writable, repository_root
from papers.upadhyay2023 import study as study
from papers.upadhyay2023.run import Training, load_images, resized, without_record
from sparsemtl.errors import SparseMTLError, SpecError, needs
from sparsemtl.sparsity.compact import compact
from torch import nn

sys.path.insert(0, str(repository_root() / "benchmarks"))
from export import to_onnx

MODEL, CARD = "model.onnx", "README.md"
OUTPUTS = {
    "seg": "logits by class, (n, classes, H, W)", "normal": "surface normals before scaling to length 1, (n, 3, H, W)",
    "depth": "metres, (n, 1, H, W)",
    "male": "logits, (n,)", "smile": "logits, (n,)",
}  # fmt: skip
# One checkpoint for all tasks, outputs at the size of the image, and a name for each class
DESCRIBED = MappingProxyType({"stopping": ("joint", "last"), "resolution": ("input",), "spare_class": (False,)})


def ship(spec, folder, root=None, device="cpu"):
    """Train the network of a vision spec, as its run does, and write `MODEL` and `CARD` into `folder`.

    The file holds the best weights in float16; input and outputs are float32. The card says what the file itself
    scores on the test images, computed with ONNX Runtime, beside the network as trained and one that sees no image.
    root, device: as for `engine.run`. Returns the folder (Path). Raises SpecError for a spec of another study, for one
    whose network is not what the card describes (see `DESCRIBED`), or if onnx, onnxscript or onnxruntime is missing,
    and RecordError if the folder cannot be written.
    """
    if spec.study != study.NAME:
        raise SpecError(f"ship: {spec.label()} is not a run of {study.NAME}, the study whose networks can be shipped")
    for name, values in DESCRIBED.items():
        if (has := spec.params.get(name, values[0])) not in values:
            raise SpecError(f"ship: a network with {name}={has} has no card: choose a run with {name}={values[0]}")
    needs("ship", "speed", "onnx", "onnxscript", "onnxruntime")  # said before the training, not after
    import onnxruntime

    folder = Path(folder)
    check_writable(folder)
    with without_record(spec), reproducible(device):
        training = Training(spec, load_images(spec, root), device)
        training.fit()
        result = training.result()
    mean, spread = (v.cpu() for v in training.batches.moments) if spec.params["standardise"] else (0.0, 255.0)
    example = pixels(training, training.data.splits["test"][:2]).cpu()
    small = compact(training.net.cpu(), (255 * example - mean) / spread)
    path = to_onnx(_Half(small, mean, spread, training.scorer.side), example, folder / MODEL)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    training.net = _Runtime(session)
    training.batches.images = partial(pixels, training)  # the file scales its input itself
    scores = training.scorer.scores(training.predict, training.data.splits["test"])[0]
    with write_whole(folder / CARD) as file:
        file.write(card(spec, result, scores, path.stat().st_size, device))
    return folder


def pixels(training, rows):
    """Images `rows` in 0 .. 1, as the file takes them."""
    return (training.data.images[rows].float() / 255).contiguous()


class _Half(nn.Module):
    """A network in half precision behind float32 inputs in 0 .. 1 and float32 outputs, dense ones `side` pixels wide.

    mean, spread: of each channel, from 0 to 255, by which the network was trained on scaled images.
    """

    def __init__(self, net, mean, spread, side):
        super().__init__()
        self.net, self.mean, self.spread, self.side = net.half(), mean, spread, side

    def forward(self, x):
        scaled = (255 * x - self.mean) / self.spread
        return {task: resized(task, out.float(), self.side) for task, out in self.net(scaled.half()).items()}


class _Runtime(nn.Module):
    """An ONNX Runtime session as a network."""

    def __init__(self, session):
        super().__init__()
        self._session, self._names = session, [output.name for output in session.get_outputs()]

    def forward(self, x):
        found = self._session.run(self._names, {"input": x.cpu().contiguous().numpy()})
        return {name: torch.from_numpy(value).to(x.device) for name, value in zip(self._names, found, strict=True)}


def card(spec, result, scores, size, device):
    """Text of the model card (Markdown). scores: of the shipped file; size: its bytes; device: it was trained on."""
    p, data, source = spec.params, result["data"], SOURCES["data"][spec.data]
    tasks = p["tasks"].split("+")
    rows = [
        f"| {name} | {scores[name]:.4f} | {result['metrics'][name]:.4f} | {result['blind'][name]:.4f} |"
        for name in scores
    ]
    terms = source.get("license", {}).get("@id") or source.get("conditionsOfAccess", "made by sparsemtl from a seed")
    dense, small = (result["backbone"][kind]["parameters"] for kind in ("zeros", "compact"))
    options = options_of(spec, study.all_specs(spec.profile)) + ("" if device == "cpu" else " --device cuda")
    about = "" if device == "cpu" else ", to about the same scores"
    penalty = f"lambda {study.scientific(p['lam'])} ({p['penalty']})"
    images = ", ".join(f"{n} {split}" for split, n in data["images"].items())
    return f"""# {" + ".join(study.TASKS[t] for t in tasks)}: a channel-sparse dilated ResNet

Made by `python examples/ship.py FOLDER {options}`,
which makes it again{about}. Run `{spec.hash}` of *Sparse Multitask Learning, Re-run*, a companion to Upadhyay et al.
(2023, arXiv 2308.12114).

## The file

`{MODEL}` ({size / 2**20:.1f} MiB), ONNX. Input "input": RGB images in 0 .. 1, float32 (n, 3, {data["size"]},
{data["size"]}). Outputs:

{chr(10).join(f'- "{task}": {OUTPUTS[task]}' for task in tasks)}

Classes of the segmentation, in order: {", ".join(data["classes"])}.

## Training

Protocol `{spec.method}`, {penalty}, seed {spec.seed}, {result["epochs"]["run"]} epochs from random
weights, best after {result["epochs"]["sum"] + 1}. {result["sparsity"]["group"]:.1%} of the backbone's groups are
zero; without their channels it has {small:,} of {dense:,} parameters.

## Data

{source["name"]} ({source["@id"]}); {images} images at {data["size"]} pixels; fingerprint `{data["fingerprint"]}`.
Terms: {terms}

## Scores on the test images

| metric | this file | as trained | blind predictor |
| --- | --- | --- | --- |
{chr(10).join(rows)}

## Use and limits

For research on sparse networks: to look at, to compare with, to time. It is small, trained on few images without
pretraining, and is no measuring instrument; what it says of a person (attributes of a face) is the annotators' guess
and must not be used to judge anybody.
"""


def main(argv=None):
    """Ship the one run that the arguments choose; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the file and its card")
    add_arguments(parser, study.NAME)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--data-dir", help="folder of the data sets (default: SPARSEMTL_DATA)")
    args = parser.parse_args(argv)
    try:
        specs = chosen(args)
        if len(specs) != 1:
            raise SpecError(f"{len(specs)} runs chosen: one is needed, such as --hash {specs[0].hash}")
        print(f"{ship(specs[0], args.folder, args.data_dir, args.device)} written", file=sys.stderr)
    except SparseMTLError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
