"""NYU-v2 and its twin, simulated rooms: normals from depth, exact geometry, the layout on disk, the splits."""

import shutil

import numpy as np
import pytest
import torch
from companion.data import rooms
from companion.data.nyuv2 import CLASSES, intrinsics, load_nyuv2, normals_from_depth
from PIL import Image
from sparsemtl.training.losses import VOID


@pytest.fixture
def folder(copy_of):
    return copy_of("nyuv2")


def get(folder, **options):
    return load_nyuv2(**{"root": folder, "size": 24, "border": 0, **options})


def rays(size):
    fx, fy, cx, cy = intrinsics(size)
    v, u = np.mgrid[:size, :size]
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((size, size))], axis=-1)


def degrees(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0, -0.9), (0.1, -0.7, -0.6), (-0.6, 0.5, -0.5)])
def test_normals_of_a_plane_are_exact_up_to_the_border(size, normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    depth = -2.0 / (rays(size) @ normal)  # n . P = -2 m
    seen = (depth > 0) & (depth < 20)
    found = normals_from_depth(np.where(seen, depth, 0).astype(np.float32), intrinsics(size))
    assert seen.mean() > 0.8
    assert degrees(found[seen], normal).max() < 0.1


@pytest.mark.parametrize("size", [32, 128])
def test_normals_do_not_mix_the_two_sides_of_an_edge(size):
    depth = np.full((size, size), 2.0)
    depth[:, size // 2 :] = 4.0  # two walls, both facing the camera
    assert degrees(normals_from_depth(depth, intrinsics(size)), np.array([0, 0, -1.0])).max() < 0.1


@pytest.mark.parametrize("seed", range(6))
def test_depth_normals_and_camera_of_a_room_agree(seed):
    """All floor points lie on one plane, all ceiling points on another above it, in a room of plausible height."""
    _, labels, depth, normals = rooms.render(np.random.default_rng(seed), 64)
    offset, heights = (normals * depth[..., None] * rays(64)).sum(-1), {}
    for name in ("floor", "ceiling"):
        if (here := labels == CLASSES.index(name) + 1).any():
            assert max(*np.ptp(normals[here], axis=0), np.ptp(offset[here])) < 1e-4
            heights[name] = -offset[here].mean()
    assert heights.get("floor", 1.4) == pytest.approx(1.4, abs=0.21)
    assert len(heights) < 2 or 2.29 < sum(heights.values()) < 2.91


@pytest.mark.parametrize("seed", range(3))
def test_exact_normals_match_those_computed_from_the_exact_depth(seed):
    _, _, depth, normals = rooms.render(np.random.default_rng(seed), 128)
    found = normals_from_depth(depth, intrinsics(128), radius=2)
    # Where all of the 5 x 5 window lies on one plane, that is, where normal and n . P are the same.
    plane = np.concatenate([normals, (normals * depth[..., None] * rays(128)).sum(-1, keepdims=True)], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(plane, (5, 5), axis=(0, 1))
    one_plane = np.ptp(windows, axis=(3, 4)).max(-1) < 1e-3
    assert one_plane.mean() > 0.6
    assert degrees(found, normals)[2:-2, 2:-2][one_plane].max() < 0.5


def test_arrays_are_those_on_disk(folder):
    images = get(folder)
    assert (images.size, len(images), images.images.dtype) == (24, 12, torch.uint8)
    assert (images.classes, len(CLASSES)) == (CLASSES, 40)
    for row, i in enumerate(images.ids):
        labels = np.asarray(Image.open(folder / "segmentation" / f"{i}.png")).astype(int)
        rgb = np.asarray(Image.open(folder / "images" / f"{i}.jpg"))
        assert (images.targets["seg"][row].numpy() == labels - 1).all()
        assert (images.images[row].numpy() == rgb.transpose(2, 0, 1)).all()
        np.testing.assert_allclose(images.targets["depth"][row, 0], np.load(folder / f"depth/{i}.npy"), rtol=1e-3)
        normals = np.load(folder / f"normals/{i}.npy").transpose(2, 0, 1)
        np.testing.assert_allclose(images.targets["normal"][row], normals, atol=1e-3)


def test_png_depth_and_png_normals_give_the_same_targets(folder):
    expected = get(folder).targets
    for kind, scale, above, dtype in (("depth", 1000, 0, np.uint16), ("normals", 127.5, 1, np.uint8)):
        for path in (folder / kind).glob("*.npy"):
            Image.fromarray(((np.load(path) + above) * scale).round().astype(dtype)).save(path.with_suffix(".png"))
            path.unlink()
    found = get(folder).targets
    torch.testing.assert_close(found["depth"], expected["depth"], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found["normal"], expected["normal"], atol=0.01, rtol=0)
    np.testing.assert_allclose(found["normal"].float().norm(dim=1), 1, atol=2e-3)


def test_normals_are_computed_where_the_folder_has_none(folder):
    exact = get(folder).targets["normal"].float()
    shutil.rmtree(folder / "normals")
    cosine = (exact * get(folder).targets["normal"].float()).sum(1)
    assert cosine.median() > 0.999
    assert (cosine > 0.95).float().mean() > 0.7  # at 24 px much of a image is within two pixels of an edge


def test_void_and_border_are_left_out(folder):
    path = folder / "segmentation" / "00000.png"
    labels = np.array(Image.open(path))
    labels[10, 12] = 0
    Image.fromarray(labels).save(path)
    images = get(folder, border=2 / 24)
    seg, depth, normal = (images.targets[task][0] for task in ("seg", "depth", "normal"))
    assert seg[10, 12] == VOID
    inner = torch.zeros(24, 24, dtype=torch.bool)
    inner[2:22, 2:22] = True
    assert (seg[~inner] == VOID).all()
    assert (seg == VOID).sum() == (~inner).sum() + 1
    assert torch.equal(depth[0] > 0, inner)
    assert torch.equal(normal.any(0), inner)


def test_splits_are_the_lists_with_validation_cut_from_train_unless_it_has_a_list(folder):
    def names():
        images = get(folder)
        return {split: {images.ids[row] for row in rows} for split, rows in images.splits.items()}

    lists = folder / "gt_sets"
    train, test = ((lists / f"{split}.txt").read_text().split() for split in ("train", "test"))
    found = names()
    assert (found["test"], found["train"] | found["val"]) == (set(test), set(train))
    assert (len(found["train"]), len(found["val"])) == (8, 1)  # a tenth of 9
    (lists / "test.txt").rename(lists / "val.txt")  # NYUD_MT calls its test list so
    assert names()["test"] == set(test)
    (lists / "test.txt").write_text("00009\n00010\n")
    (lists / "val.txt").write_text("00011\n")
    assert names()["val"] == {"00011"}


@pytest.mark.realdata
def test_real_images(real_data):
    images = load_nyuv2(real_data("nyuv2"), size=64, n=8)
    seg, normal, depth = (images.targets[task] for task in ("seg", "normal", "depth"))
    assert 10 < len(seg.unique()) <= 41
    assert seg[seg != VOID].max() < 40
    lengths = normal.float().norm(dim=1)
    assert (((lengths - 1).abs() < 2e-3) | (lengths == 0)).all()
    assert (lengths[:, 1:-1, 1:-1] > 0).float().mean() > 0.99
    assert 0.5 < depth[depth > 0].min() < depth.max() <= 10
    assert normal[:, 1].float()[seg == CLASSES.index("floor")].mean() < -0.6  # rooms stand upright: -y is up
    assert images.images[:, :, 0].float().mean() > 200  # the white frame is outside of what counts
    assert (seg[:, 0] == VOID).all()
