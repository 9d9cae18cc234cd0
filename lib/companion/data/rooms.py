"""Rooms: a simulated twin of NYU-v2. Ray-cast boxes with texture and light, with exact depth, normals and classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from companion.data.images import simulated
from companion.data.nyuv2 import CLASSES, intrinsics, load_folder

VERSION = 1  # raise it when the pictures change
# class: (width, depth) and (bottom, top) in metres, RGB in 0 .. 1; the flat ones hang on a wall
FURNITURE = {
    "cabinet": ((0.9, 0.5), (0.0, 1.8), (0.45, 0.28, 0.14)),
    "bed": ((1.6, 2.0), (0.0, 0.5), (0.25, 0.35, 0.75)),
    "chair": ((0.5, 0.5), (0.0, 0.9), (0.85, 0.50, 0.10)),
    "sofa": ((1.8, 0.9), (0.0, 0.8), (0.60, 0.12, 0.15)),
    "table": ((1.3, 0.8), (0.6, 0.75), (0.75, 0.60, 0.35)),
    "box": ((0.4, 0.4), (0.0, 0.4), (0.80, 0.72, 0.20)),
}
FLAT = {
    "door": ((0.9, 0.0), (0.0, 2.0), (0.50, 0.75, 0.40)),
    "window": ((1.2, 0.0), (1.0, 1.9), (0.70, 0.85, 1.00)),
    "picture": ((0.8, 0.0), (1.2, 1.8), (0.65, 0.25, 0.65)),
}


def load_rooms(root=None, size=64, n=60, seed=0):
    """Make `n` rooms of `size` px from `seed` (or take them from the cache) and load them as `load_nyuv2` does.

    root is not used: the files lie in the cache folder. A quarter of the rooms is for testing.
    """
    return simulated("rooms", VERSION, write_rooms, load_folder, size, n, seed)


def write_rooms(out, n, size, seed):
    """Write `n` rooms as the NYUD_MT folder layout (see `companion.data.nyuv2`), depth and normals as .npy."""
    out = Path(out)
    for folder in ("images", "segmentation", "depth", "normals", "gt_sets"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, labels, depth, normals = render(np.random.default_rng([seed, i]), size)
        Image.fromarray(image).save(out / "images" / f"{i:05d}.jpg", quality=95)
        Image.fromarray(labels).save(out / "segmentation" / f"{i:05d}.png")
        np.save(out / "depth" / f"{i:05d}.npy", depth)
        np.save(out / "normals" / f"{i:05d}.npy", normals)
    test = max(1, n // 4)
    (out / "gt_sets" / "train.txt").write_text("".join(f"{i:05d}\n" for i in range(n - test)))
    (out / "gt_sets" / "test.txt").write_text("".join(f"{i:05d}\n" for i in range(n - test, n)))


def render(rng, size):
    """Draw one room seen by NYU-v2's camera.

    Returns image uint8 (size, size, 3), labels uint8 (size, size) numbered as in NYU-v2, depth float32 (size, size) in
    metres, normals float32 (size, size, 3) in camera axes; all at the pixel centres.
    World axes: x right, y down, z forward; the floor is y = 0.
    """
    room = np.array([rng.uniform(3, 5.5), rng.uniform(2.3, 2.9), rng.uniform(3.5, 6.5)])
    room_low, room_high = np.array([-room[0] / 2, -room[1], 0]), np.array([room[0] / 2, 0, room[2]])
    eye = np.array([rng.uniform(-0.2, 0.2) * room[0], -rng.uniform(1.2, 1.6), rng.uniform(0.3, 0.8)])
    to_world = _rotation(yaw=rng.uniform(-0.5, 0.5), pitch=rng.uniform(0.0, 0.35))
    low, high, names, colours = _furnish(rng, room)

    fx, fy, cx, cy = intrinsics(size)
    v, u = np.mgrid[:size, :size]
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((size, size))], axis=-1).reshape(-1, 3)
    rays = rays @ to_world.T  # of z-length 1 in camera axes: the ray's parameter is the depth
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)

    # Slab method: a ray is in a box between the last entry to and the first exit from its three pairs of planes.
    first, second = (low[:, None] - eye) / rays, (high[:, None] - eye) / rays  # (boxes, pixels, 3)
    entries, exits = np.minimum(first, second), np.maximum(first, second)
    hit = (entries.max(2) < exits.min(2)) & (entries.max(2) > 0.05)
    box_depth = np.where(hit, entries.max(2), np.inf)
    room_exits = np.maximum((room_low - eye) / rays, (room_high - eye) / rays)  # the room is a box seen from within
    box = box_depth.argmin(0)
    pixels = np.arange(size * size)
    on_box = box_depth[box, pixels] < room_exits.min(1)
    depth = np.where(on_box, box_depth[box, pixels], room_exits.min(1))
    axis = np.where(on_box, entries[box, pixels].argmax(1), room_exits.argmin(1))
    normals = np.zeros_like(rays)
    normals[pixels, axis] = -np.sign(rays[pixels, axis])

    # Room faces follow the boxes: two an axis, by the direction in which the ray goes.
    surface = np.where(on_box, box, len(low) + 2 * axis + (rays[pixels, axis] > 0))
    names = [*names, "wall", "wall", "ceiling", "floor", "wall", "wall"]
    wall = np.array([0.80, 0.76, 0.68]) * rng.uniform(0.8, 1.1, 3)
    faces = [wall, wall, np.array([0.92, 0.92, 0.90]), np.array([0.48, 0.36, 0.28]) * rng.uniform(0.7, 1.3), wall, wall]
    points = eye + depth[:, None] * rays
    albedo = np.array([*colours, *faces])[surface] * _texture(rng, points, axis, surface, len(names))[:, None]
    image = albedo * _light(rng, points, normals, room)[:, None] + rng.normal(0, 0.015, rays.shape)
    numbers = np.array([CLASSES.index(name) + 1 for name in names], np.uint8)
    shape = (size, size)
    return (
        (255 * image.clip(0, 1)).round().astype(np.uint8).reshape(*shape, 3),
        numbers[surface].reshape(shape),
        depth.astype(np.float32).reshape(shape),
        (normals @ to_world).astype(np.float32).reshape(*shape, 3),
    )


def _rotation(yaw, pitch):
    """Camera to world: first look down by `pitch`, then turn by `yaw` (radians)."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])


def _furnish(rng, room):
    """Return corners low, high (boxes, 3), class names and colours of furniture in the far two thirds of the room."""
    low, high, names, colours = [], [], [], []
    pieces = [*rng.choice(list(FURNITURE), rng.integers(3, 6)), *rng.choice(list(FLAT), rng.integers(2, 4))]
    for name in map(str, pieces):
        footprint, heights, colour = (FURNITURE | FLAT)[name]
        width, deep = np.array(footprint) * rng.uniform(0.85, 1.15, 2)
        bottom, top = np.array(heights) * rng.uniform(0.9, 1.1)
        if name in FLAT:  # 3 cm thick, on the left, right or far wall
            wall = rng.integers(3)
            if wall == 2:
                x, z, width, deep = rng.uniform(-0.5, 0.5) * (room[0] - width), room[2], width, 0.06
            else:
                x, z, width, deep = (wall - 0.5) * room[0], rng.uniform(0.4, 0.8) * room[2], 0.06, width
        else:
            if rng.random() < 0.5:
                width, deep = deep, width
            x = rng.uniform(-0.5, 0.5) * (room[0] - width)
            z = rng.uniform(min(1.5 + deep / 2, room[2] - deep / 2), room[2] - deep / 2)
        low.append([x - width / 2, -top, z - deep / 2])
        high.append([x + width / 2, -bottom, z + deep / 2])
        names.append(name)
        colours.append(np.array(colour) * rng.uniform(0.8, 1.2))
    return np.array(low), np.array(high), names, colours


def _texture(rng, points, axis, surface, surfaces):
    """Stripes or checks of random width along the two axes of each surface, as a factor round 1."""
    waves = rng.uniform(3, 20, (surfaces, 2)) * rng.integers(0, 2, (surfaces, 2))
    phases, contrast = rng.uniform(0, 2 * np.pi, (surfaces, 2)), rng.uniform(0.05, 0.2, surfaces)
    pixels = np.arange(len(points))
    a, b = points[pixels, (axis + 1) % 3], points[pixels, (axis + 2) % 3]
    pattern = np.cos(waves[surface, 0] * a + phases[surface, 0]) * np.cos(waves[surface, 1] * b + phases[surface, 1])
    return 1 + contrast[surface] * pattern


def _light(rng, points, normals, room):
    """Brightness (Lambert) from a lamp under the ceiling, plus ambient light; no shadows."""
    lamp = np.array([rng.uniform(-0.3, 0.3) * room[0], 0.2 - room[1], rng.uniform(0.3, 0.7) * room[2]])
    to_lamp = lamp - points
    distance = np.linalg.norm(to_lamp, axis=1)
    facing = np.maximum((to_lamp * normals).sum(1) / np.maximum(distance, 1e-6), 0)
    return 0.45 + 0.9 * facing / (1 + 0.08 * distance**2)
