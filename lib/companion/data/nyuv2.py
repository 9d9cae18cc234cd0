"""NYU Depth v2 (Silberman et al., ECCV 2012), labelled subset: segmentation in 40 classes, depth, surface normals.

Folder layout (that of NYUD_MT, which Upadhyay et al. 2023 used), ID as in the split lists:

    images/ID.jpg          RGB (.png is read too)
    segmentation/ID.png    0 = void, 1 .. 40 = class (Gupta et al., CVPR 2013)
    depth/ID.png or .npy   16-bit millimetres, or float metres
    normals/ID.npy or .png if the folder exists: float (H, W, 3), or 8 bit with n = 2 v / 255 - 1
    gt_sets/train.txt, test.txt, and val.txt if it exists (NYUD_MT calls its test list val.txt)

`examples/convert_nyuv2.py` makes this layout from the official release. Camera axes: x to the right, y down, z forward
along the line of sight. Normals have length 1 and point to the camera (n . P < 0 for the point P seen, so mostly
n_z < 0). Normals from files are taken as they are.
"""

import math
from collections import Counter
from functools import partial

import numpy as np
from sparsemtl.errors import DataError, SpecError, one_line
from sparsemtl.training.losses import VOID

from companion.data import images

NAMES = (
    "wall|floor|cabinet|bed|chair|sofa|table|door|window|bookshelf|picture|counter|blinds|desk|shelves|curtain|dresser|"
    "pillow|mirror|floor mat|clothes|ceiling|books|refrigerator|television|paper|towel|shower curtain|box|whiteboard|"
    "person|night stand|toilet|sink|lamp|bathtub|bag|other structure|other furniture|other prop"
)
CLASSES = tuple(NAMES.split("|"))
FARTHEST = 12.0  # metres: the camera of NYU-v2 sees 10


def load_nyuv2(root=None, size=256, n=None, seed=0, border=3 / 256, name="nyuv2"):
    """Load NYU-v2 as `Images` with the targets "seg" (40 classes), "normal" and "depth".

    Without a folder normals/ they are computed from depth, see `normals_from_depth`; the images are then taken to show
    the whole frame of 640 x 480.

    root, size, n: as `companion.data.load`. seed: of the validation part, a tenth of the training list (ours: the
    official split has none). border: the official images have a white frame, 3 px wide at 256 px; this share of each
    side counts as void, without depth or normal. Pass 0 for cropped images, such as NYUD_MT's own.
    """
    images.check_options(size, n, seed)
    if not 0 <= border < 0.5:
        raise SpecError(f"border={border}: need 0 <= border < 0.5")
    folder = images.find_folder(root, name, "images")
    lists = images.thin(_split_lists(folder / "gt_sets", seed), n)
    suffixes = {"images": (".jpg", ".png"), "segmentation": (".png",), "depth": (".png", ".npy")}
    if (folder / "normals").is_dir():
        suffixes["normals"] = (".png", ".npy")
    parse = {"segmentation": partial(images.labels, highest=len(CLASSES)), "depth": _depth, "normals": _normals}
    files = {kind: images.Files(folder / kind, *endings) for kind, endings in suffixes.items()}
    inside = np.zeros((size, size), bool)
    frame = math.ceil(border * size)
    inside[frame : size - frame, frame : size - frame] = True

    def finish(i, parts):
        labels, depth = parts["segmentation"], parts["depth"]
        normals = parts["normals"] if "normals" in parts else normals_from_depth(depth, intrinsics(size))
        return {
            "seg": np.where((labels > 0) & inside, labels - 1, VOID).astype(np.uint8),
            "normal": (normals * inside[..., None]).transpose(2, 0, 1).astype(np.float16),
            "depth": (depth * inside)[None].astype(np.float16),
        }

    options = {"size": size, "border": border, "holes": "error"}  # part of the fingerprint of committed records
    return images.gather(
        name, folder, lists, lambda i: {kind: found[i] for kind, found in files.items()},
        lambda part, path, content: parse[part](path, content), finish, CLASSES, options,
    )  # fmt: skip


def _split_lists(folder, seed):
    files = [folder / f"{split}.txt" for split in ("train", "val", "test")]
    try:
        lists = {file.stem: file.read_text(encoding="utf-8-sig").split() for file in files if file.is_file()}
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read the lists in {folder} ({one_line(error)}): restore them") from error
    if "val" in lists and "test" not in lists:
        lists["test"] = lists.pop("val")
    if lacking := [split for split in ("train", "test") if not lists.get(split)]:
        raise DataError(f"{folder / lacking[0]}.txt is missing or empty: it must list images of the official split")
    if "val" not in lists:
        lists |= images.random_split(lists["train"], {"val": 0.1}, seed)  # 80 of 795
    ids = [i for part in lists.values() for i in part]
    if twice := [i for i, count in Counter(ids).items() if count > 1]:
        raise DataError(f"{folder} lists image {twice[0]} more than once: the splits must not overlap")
    return lists


def _depth(path, content):
    """Return float32 (H, W) in metres, from 16-bit millimetres (PNG) or numbers in metres."""
    per_metre = 1 if path.suffix == ".npy" else 1000
    if per_metre == 1000 and content.mode[0] != "I":  # Pillow's modes "I" and "I;16"
        raise DataError(f"{path} has {content.mode} pixels: depth must be a 16-bit PNG in mm, or .npy in metres")
    depth = np.squeeze(np.asarray(content))
    if depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {depth.dtype} {depth.shape}: depth must be (H, W) numbers in metres")
    good = np.isfinite(depth) & (depth > 0)
    if not good.all():
        raise DataError(f"{path} has depth zero or NaN in {(~good).sum()} pixels: take the in-filled depth")
    if not 0.5 < (farthest := depth.max() / per_metre) < FARTHEST:
        raise DataError(f"{path} reaches to {farthest:.3g} m, which no room does: write .npy in metres, .png in mm")
    return depth.astype(np.float32) / per_metre


def _normals(path, content):
    """Return float32 (H, W, 3) of length 1 or 0, from floats (.npy) or 8 bits with n = 2 v / 255 - 1."""
    normals = content if path.suffix == ".npy" else np.asarray(content.convert("RGB"), np.float32) / 127.5 - 1
    if normals.ndim != 3 or normals.shape[2] != 3 or normals.dtype.kind != "f" or not np.isfinite(normals).all():
        raise DataError(f"{path} holds {normals.dtype} {normals.shape}: normals must be finite floats (H, W, 3)")
    return _unit(normals.astype(np.float32), shortest=0.1)  # 8 bit cannot store zero: it gives about 0.007


def _unit(vectors, shortest):
    """Scale to length 1 along the last axis; vectors below the length `shortest` become zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > shortest, vectors / np.maximum(length, shortest), 0).astype(np.float32)


def intrinsics(size):
    """Return (fx, fy, cx, cy) in pixels of NYU-v2's colour camera, 640 x 480, for the frame scaled to size x size.

    Each axis has its own scale. Pixel centres have whole-number coordinates, (0, 0) the top left one.
    """
    sx, sy = size / 640, size / 480
    return 518.858 * sx, 519.470 * sy, (325.582 + 0.5) * sx - 0.5, (253.736 + 0.5) * sy - 0.5


def normals_from_depth(depth, camera, radius=None):
    """Surface normals from depth by a least-squares plane in a window round each pixel.

    depth: (H, W), metres along z, 0 = not measured. camera: (fx, fy, cx, cy) in pixels. radius: the window has
    2 radius + 1 pixels a side; default 3 at 256 px, in proportion to the width. Returns float32 (H, W, 3) in the axes
    of the module's head, zero where no plane can be fitted.

    For a plane n . P = -1 and P = z (x, y, 1) with x = (u - cx) / fx and y = (v - cy) / fy, inverse depth is linear:
    -1 / z = n_x x + n_y y + n_z. The fit of 1 / z is therefore exact on planes. A neighbour counts if the line to it is
    less than about 80 degrees (a slope of 6) off the image plane: others lie on another surface.
    """
    fx, fy, cx, cy = camera
    height, width = depth.shape
    radius = radius or max(1, round(3 * width / 256))
    near = np.where(depth > 0, 1 / np.where(depth > 0, depth, 1), 0)
    padded = np.pad(near, radius)
    moments = np.zeros((9, height, width), np.float32)  # weighted sums of 1, u, v, uu, uv, vv, and of w, uw, vw
    for dv, du in np.ndindex(2 * radius + 1, 2 * radius + 1):
        w = padded[dv : dv + height, du : du + width]
        du, dv = du - radius, dv - radius
        change = w - near
        count = (w > 0) & (np.abs(change) <= 6 * math.hypot(du / fx, dv / fy) * np.maximum(w, near))
        factors = np.array([1, du, dv, du * du, du * dv, dv * dv], np.float32)[:, None, None]
        moments[:6] += factors * count
        moments[6:] += factors[:3] * (change * count)
    total = np.maximum(moments[0], 1)
    mean_u, mean_v, mean_w = moments[[1, 2, 6]] / total
    uu, uv, vv = moments[3] - mean_u * moments[1], moments[4] - mean_u * moments[2], moments[5] - mean_v * moments[2]
    uw, vw = moments[7] - mean_u * moments[6], moments[8] - mean_v * moments[6]
    determinant = uu * vv - uv * uv
    fits = (depth > 0) & (determinant > 1e-6)
    determinant = np.where(fits, determinant, 1)
    per_u, per_v = (uw * vv - vw * uv) / determinant, (vw * uu - uw * uv) / determinant
    centre = near + mean_w - per_u * mean_u - per_v * mean_v
    v, u = np.mgrid[:height, :width]
    plane = np.stack([per_u * fx, per_v * fy, centre - per_u * (u - cx) - per_v * (v - cy)], axis=-1)
    return _unit(np.where(fits[..., None], -plane, 0), shortest=1e-9)
