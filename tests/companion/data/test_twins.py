"""The simulated twins: exact geometry, attributes that show, and files that the real loaders read."""

import numpy as np
import pytest
import torch
from companion.data import faces, load, rooms
from companion.data.celebamask import PARTS, load_celebamask
from companion.data.nyuv2 import CLASSES, intrinsics, load_nyuv2, normals_from_depth


def points(depth):
    fx, fy, cx, cy = intrinsics(len(depth))
    v, u = np.mgrid[: len(depth), : len(depth)]
    return depth[..., None] * np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(depth.shape)], axis=-1)


@pytest.mark.parametrize("seed", range(6))
def test_depth_normals_and_camera_agree(seed):
    """All floor points lie on one plane, all ceiling points on another above it, in a room of plausible height."""
    image, labels, depth, normals = rooms.render(np.random.default_rng(seed), 64)
    assert (image.shape, image.dtype, depth.dtype) == ((64, 64, 3), np.uint8, np.float32)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
    seen = points(depth.astype(float))
    offset = (normals * seen).sum(-1)
    assert (offset < 0).all()  # normals point to the camera
    heights = {}
    for name in ("floor", "ceiling"):
        where = labels == CLASSES.index(name) + 1
        if where.any():
            assert np.ptp(normals[where], axis=0).max() < 1e-5
            assert np.ptp(offset[where]) < 1e-4
            heights[name] = -offset[where].mean()
    assert heights.get("floor", 1.4) == pytest.approx(1.4, abs=0.21)
    if len(heights) == 2:
        assert 2.29 < sum(heights.values()) < 2.91


@pytest.mark.parametrize("seed", range(3))
def test_exact_normals_match_those_computed_from_the_exact_depth(seed):
    _, _, depth, normals = rooms.render(np.random.default_rng(seed), 128)
    found = normals_from_depth(depth, intrinsics(128), radius=2)
    # Where all of the 5 x 5 window lies on one plane, that is, where normal and n . P are the same.
    plane = np.concatenate([normals, (normals * points(depth)).sum(-1, keepdims=True)], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(plane, (5, 5), axis=(0, 1))
    one_plane = np.ptp(windows, axis=(3, 4)).max(-1) < 1e-3
    assert one_plane.mean() > 0.6
    angle = np.degrees(np.arccos(np.clip((found * normals).sum(-1)[2:-2, 2:-2], -1, 1)))
    assert angle[one_plane].max() < 0.5


def where(mask, *parts):
    return np.argwhere(np.isin(mask, [PARTS.index(part) for part in parts]))


def test_a_face_is_put_together_like_one():
    for seed in range(20):
        image, mask = faces.render(np.random.default_rng(seed), 64, male=seed % 2, smile=seed % 3 == 0)
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((64, 64, 3), np.uint8, (64, 64), np.uint8)
        hair, eyes, nose, lips = (
            where(mask, *parts).mean(0) for parts in (["hair"], ["l_eye", "r_eye"], ["nose"], ["u_lip", "l_lip"])
        )
        assert where(mask, "hair")[:, 0].min() < eyes[0] < nose[0] < lips[0]  # rows, from the top
        assert where(mask, "l_eye")[:, 1].max() < nose[1] < where(mask, "r_eye")[:, 1].min()
        assert len(where(mask, "skin")) > 400
        assert hair[0] < lips[0]


def test_corners_of_the_mouth_are_up_in_a_smile():
    for seed in range(40):
        for smile in (False, True):
            mask = faces.render(np.random.default_rng(seed), 96, male=False, smile=smile)[1]
            rows, columns = where(mask, "mouth", "u_lip", "l_lip").T
            middle = np.median(columns)
            far = np.abs(columns - middle) > 0.75 * np.abs(columns - middle).max()
            near = np.abs(columns - middle) < 0.3 * np.abs(columns - middle).max()
            assert (rows[near].mean() - rows[far].mean() > 1) == smile


# Both sets

TWINS = {
    "rooms": (rooms, "write_rooms", load_nyuv2, {"border": 0}),
    "faces": (faces, "write_faces", load_celebamask, {}),
}
both = pytest.mark.parametrize("name", TWINS)


@both
def test_an_image_depends_on_its_seed_and_number_alone(name, tmp_path):
    module, write, *_ = TWINS[name]
    for folder, n, seed in (("a", 3, 5), ("b", 4, 5), ("c", 3, 6)):
        getattr(module, write)(tmp_path / folder, n, 16, seed)
    for path in (tmp_path / "a").rglob("*.*g"):  # JPEG and PNG
        a, b, c = ((tmp_path / folder / path.relative_to(tmp_path / "a")).read_bytes() for folder in "abc")
        assert a == b
        assert a != c or path.suffix == ".png"


@both
def test_it_is_the_real_loader_on_the_written_files(name, tmp_path):
    module, write, real, options = TWINS[name]
    found = load(name, size=16, n=12, seed=2)
    getattr(module, write)(tmp_path / "files", 12, 16, 2)
    expected = real(tmp_path / "files", size=16, seed=2, **options)
    assert torch.equal(found.images, expected.images)
    assert found.targets.keys() == expected.targets.keys()
    assert all(torch.equal(found.targets[task], expected.targets[task]) for task in found.targets)
    assert all(torch.equal(found.splits[split], expected.splits[split]) for split in ("train", "val", "test"))
