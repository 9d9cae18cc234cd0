"""Rooms: a simulated twin of NYU-v2. Ray-cast boxes in a box, with exact depth, normals and classes."""

from functools import partial

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from companion.data.images import simulated
from companion.data.nyuv2 import CLASSES, intrinsics, load_nyuv2

VERSION = 2  # raise it when the images change
# class: width, height, depth (metres), height of its lower side, RGB in 0 .. 1
FURNITURE = {
    "cabinet": (0.9, 1.8, 0.5, 0.0, (0.45, 0.28, 0.14)),
    "bed": (1.6, 0.5, 2.0, 0.0, (0.25, 0.35, 0.75)),
    "chair": (0.5, 0.9, 0.5, 0.0, (0.85, 0.50, 0.10)),
    "sofa": (1.8, 0.8, 0.9, 0.0, (0.60, 0.12, 0.15)),
    "table": (1.3, 0.15, 0.8, 0.6, (0.75, 0.60, 0.35)),
    "box": (0.4, 0.4, 0.4, 0.0, (0.80, 0.72, 0.20)),
    "window": (1.2, 0.9, 0.06, 1.0, (0.70, 0.85, 1.00)),  # on the far wall
}
WALLS = ("wall", "wall", "ceiling", "floor", "wall", "wall")  # two for each axis, the lower coordinate first
WALL_COLOURS = {"wall": (0.80, 0.76, 0.68), "ceiling": (0.92, 0.92, 0.90), "floor": (0.48, 0.36, 0.28)}


def write_rooms(out, n, size, seed):
    """Write `n` rooms as the NYUD_MT folder layout (see `companion.data.nyuv2`), depth and normals as .npy."""
    for folder in ("images", "segmentation", "depth", "normals", "gt_sets"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, labels, depth, normals = render(np.random.default_rng([seed, i]), size)
        Image.fromarray(image).save(out / "images" / f"{i:05d}.jpg", quality=95)
        Image.fromarray(labels).save(out / "segmentation" / f"{i:05d}.png")
        np.save(out / "depth" / f"{i:05d}.npy", depth)
        np.save(out / "normals" / f"{i:05d}.npy", normals)
    test = max(1, n // 4)
    for split, rows in (("train", range(n - test)), ("test", range(n - test, n))):
        (out / "gt_sets" / f"{split}.txt").write_text("".join(f"{i:05d}\n" for i in rows))


def render(rng, size):
    """Draw one room seen by NYU-v2's camera; world axes: x right, y down, z forward, the floor is y = 0.

    Returns image uint8 (size, size, 3), labels uint8 (size, size) numbered as in NYU-v2, depth float32 (size, size) in
    metres, normals float32 (size, size, 3) in camera axes; all at the pixel centres.
    """
    room = rng.uniform((3, 2.3, 3.5), (5.5, 2.9, 6.5))  # width, height, length
    eye = np.array([rng.uniform(-0.2, 0.2) * room[0], -rng.uniform(1.2, 1.6), rng.uniform(0.3, 0.8)])
    turn = Rotation.from_euler("YX", [rng.uniform(-0.5, 0.5), -rng.uniform(0.0, 0.35)]).as_matrix()
    names = [str(name) for name in rng.choice(list(FURNITURE), rng.integers(4, 8))]
    low, high = np.array([_place(rng, name, room) for name in names]).transpose(1, 0, 2)

    fx, fy, cx, cy = intrinsics(size)
    v, u = np.mgrid[:size, :size]
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((size, size))], axis=-1).reshape(-1, 3) @ turn.T
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)  # of z-length 1 in camera axes: the ray's parameter is the depth
    # Slab method: a ray is in a box between the last entry to and the first exit from its three pairs of planes.
    first, second = (low[:, None] - eye) / rays, (high[:, None] - eye) / rays  # (boxes, pixels, 3)
    entries, exits = np.minimum(first, second), np.maximum(first, second)
    hit = (entries.max(2) < exits.min(2)) & (entries.max(2) > 0.05)
    far = np.where(hit, entries.max(2), np.inf)
    corner = np.array([room[0] / 2, 0, room[2]])
    ends = np.maximum((corner - room - eye) / rays, (corner - eye) / rays)  # the room is a box seen from within
    box, pixels = far.argmin(0), np.arange(size * size)
    on_box = far[box, pixels] < ends.min(1)
    depth = np.where(on_box, far[box, pixels], ends.min(1))
    axis = np.where(on_box, entries[box, pixels].argmax(1), ends.argmin(1))
    normals = np.zeros_like(rays)
    normals[pixels, axis] = -np.sign(rays[pixels, axis])

    surface = np.where(on_box, box, len(names) + 2 * axis + (rays[pixels, axis] > 0))
    colours = [FURNITURE[name][-1] for name in names] + [WALL_COLOURS[name] for name in WALLS]
    colours = np.array(colours) * rng.uniform(0.8, 1.15, (len(colours), 1))
    points = eye + depth[:, None] * rays
    stripes = 1 + 0.1 * np.cos(points @ rng.uniform(3, 12, 3) + surface)
    to_lamp = np.array([0, 0.2 - room[1], 0.5 * room[2]]) - points
    facing = (to_lamp * normals).sum(1) / np.maximum(np.linalg.norm(to_lamp, axis=1), 1e-6)
    light = stripes * (0.5 + 0.6 * np.maximum(facing, 0))
    image = colours[surface] * light[:, None] + rng.normal(0, 0.015, rays.shape)
    numbers = np.array([CLASSES.index(name) + 1 for name in (*names, *WALLS)], np.uint8)
    image = (255 * image.clip(0, 1)).round().astype(np.uint8).reshape(size, size, 3)
    depth = depth.astype(np.float32).reshape(size, size)
    normals = (normals @ turn).astype(np.float32).reshape(size, size, 3)
    return image, numbers[surface].reshape(size, size), depth, normals


def _place(rng, name, room):
    """Lower and upper corner of a piece of furniture in the far two thirds of the room."""
    width, height, deep = np.array(FURNITURE[name][:3]) * rng.uniform(0.85, 1.15, 3)
    x = rng.uniform(-0.5, 0.5) * (room[0] - width)
    z = room[2] if name == "window" else rng.uniform(min(1.5 + deep / 2, room[2] - deep / 2), room[2] - deep / 2)
    bottom = FURNITURE[name][3]
    return [(x - width / 2, -bottom - height, z - deep / 2), (x + width / 2, -bottom, z + deep / 2)]


# `n` rooms of `size` px made from `seed` (see `simulated`); a quarter of them is for testing
load_rooms = partial(simulated, "rooms", VERSION, write_rooms, partial(load_nyuv2, border=0.0))
