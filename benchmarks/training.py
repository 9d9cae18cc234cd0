"""A training step of the three-task NYU-v2 model at the paper's size, against a loop as in the released code.

That loop takes pictures from files by worker processes, passes the backbone once for each task, computes in float32
and solves the proximal step as `prox.published` does; losses, penalty and network are the same ("released" protocol).
Pictures are simulated.
"""

import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from companion.data.nyuv2 import load_nyuv2
from companion.data.rooms import write_rooms
from harness import Mark, arguments, counts, report, seconds, take_turns, where_time_goes
from papers.upadhyay2023.run import Training
from papers.upadhyay2023.scores import STRIDE, clipped
from papers.upadhyay2023.study import ALL_NYU, START, specs
from PIL import Image
from prox import published
from sparsemtl.training.losses import VOID
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

RELEASED, SAME, OURS = "as the released code", "ours, float32", "ours, bfloat16"
PASS, MATMUL32, MATMUL16 = "FLOPs of our step", "matrix product, float32", "matrix product, bfloat16"
PRODUCT = 4096  # side of the matrices that tell what the machine can do


class Files(Dataset):
    """Pictures read from the files of a folder one by one, prepared as the released code trains on them."""

    def __init__(self, folder, size):
        self.folder, self.side = folder, -(-size // STRIDE)
        self.ids = sorted(path.stem for path in (folder / "images").iterdir())

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        def at_features(array):
            return F.interpolate(array[None].float(), size=(self.side, self.side), mode="nearest-exact")[0]

        image = np.array(Image.open(self.folder / "images" / f"{self.ids[i]}.jpg"))
        labels = np.array(Image.open(self.folder / "segmentation" / f"{self.ids[i]}.png"))
        depth = torch.from_numpy(np.load(self.folder / "depth" / f"{self.ids[i]}.npy"))[None]
        normals = torch.from_numpy(np.load(self.folder / "normals" / f"{self.ids[i]}.npy")).permute(2, 0, 1)
        classes = np.where(labels > 0, labels - 1, VOID).astype(np.uint8)
        return torch.from_numpy(image).permute(2, 0, 1) / 255, {
            "seg": at_features(torch.from_numpy(classes)[None])[0].to(torch.uint8),
            "normal": at_features(normals),
            "depth": clipped(at_features(depth), depth.max().clamp(min=1e-3)),
        }


def main():
    """Measure and write `training-*.json`."""
    args = arguments(__doc__.splitlines()[0], batch=16, size=256)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # products as convolutions are made
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "rooms"
        for kind in ("images", "segmentation", "depth", "normals", "gt_sets"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        write_rooms(folder, 6 * args.batch, args.size, seed=0)
        data = load_nyuv2(folder, args.size, border=0.0, name="rooms")
        settings = {"passes": "once", "batch": args.batch, "size": args.size}
        sides, trained = {}, {}
        for side, precision in ((OURS, "bfloat16"), (SAME, "float32")):
            trained[side] = training(data, args.device, precision=precision, **settings)
            sides[side] = partial(our_step, trained[side], batches(trained[side]))
        loader = DataLoader(
            Files(folder, args.size), args.batch, shuffle=True, num_workers=args.threads, drop_last=True
        )
        released = training(data, args.device, precision="float32", batch=args.batch, size=args.size)
        sides[RELEASED] = released_step(released, forever(loader), args.device)
        for dtype, side in ((torch.bfloat16, MATMUL16), (torch.float32, MATMUL32)):
            a = torch.randn(PRODUCT, PRODUCT, device=args.device, dtype=dtype)
            sides[side] = partial(torch.matmul, a, a)
        write(args, sides, operations(trained[SAME]))


def training(data, device, **params):
    """The state of a three-task run of the released protocol at the paper's size."""
    spec = specs("full", (ALL_NYU,), (START,), protocol="released", seeds=(0,), **params)[0]
    found = Training(spec, data, device)
    found.net.train()
    return found


def batches(run):
    """Batches as training takes them, without end."""
    for epoch in count():
        yield from run.batches.epoch(epoch)


def forever(loader):
    """Batches of a loader, without end."""
    while True:
        yield from loader


def our_step(run, taken):
    """Forward, backward and update as `fit` does."""
    inputs, targets = next(taken)
    run.optimizer.zero_grad(set_to_none=True)
    with run.context():
        loss = run._loss(run.net(inputs), targets)
    loss.backward()
    run.optimizer.step()


def released_step(run, taken, device):
    """The released code's step, as a function without arguments."""
    run.net.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(run.net.parameters(), lr=run.p["lr"], weight_decay=0.1, foreach=False, fused=False)

    def step():
        inputs, targets = next(taken)
        inputs, targets = inputs.to(device), {t: y.to(device) for t, y in targets.items()}
        optimizer.zero_grad()
        run._loss(run.net(inputs), targets).backward()
        optimizer.step()
        thetas = [w.detach().flatten(2) for w in run.convs]
        scales = [optimizer.state[w]["exp_avg_sq"].flatten(2).sqrt() + 1e-8 for w in run.convs]
        strength = run.p["lr"] * run.p["lam"]
        thresholds = [
            torch.full((1, w.shape[1], 1), strength * w[:, 0].numel() ** 0.5, device=device) for w in run.convs
        ]
        published(thetas, scales, thresholds)

    return step


def operations(run):
    """Floating-point operations of one step, forward and backward."""
    inputs, targets = next(run.batches.epoch(0))
    with FlopCounterMode(display=False) as counter:
        run._loss(run.net(inputs), targets).backward()
    return counter.get_total_flops()


def write(args, sides, flops):
    """Let the sides take turns and write the record."""
    taken = take_turns(sides, args)
    found = seconds(taken) | counts("FLOPs", {PASS: flops, f"FLOPs of a product of side {PRODUCT}": 2 * PRODUCT**3})
    ours, wanted = (SAME, 2.5) if args.device == "cpu" else (OURS, 8.0)  # as runs train on such a device
    marks = [Mark("the released code's time over ours", RELEASED, ours, "at least", wanted)]
    speeds = {side: flops / np.median(taken[side]) for side in (OURS, SAME)}
    peaks = {side: 2 * PRODUCT**3 / np.median(taken[side]) for side in (MATMUL16, MATMUL32)}
    details = {
        "batch": args.batch, "size": args.size,
        "pictures a second": {side: args.batch / np.median(taken[side]) for side in (OURS, SAME, RELEASED)},
        "share of a matrix product's speed": {
            OURS: speeds[OURS] / peaks[MATMUL16], SAME: speeds[SAME] / peaks[MATMUL32]
        },
        "profile": {ours: where_time_goes(sides[ours], args.device)},
    }  # fmt: skip
    report("training", found, marks, args, details)


if __name__ == "__main__":
    main()
