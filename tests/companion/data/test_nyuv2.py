"""NYU-v2: normals from depth, the layout on disk, the official splits."""

import shutil

import numpy as np
import pytest
import torch
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


@pytest.mark.parametrize("size", [32, 64, 128])
def test_normals_do_not_mix_the_two_sides_of_an_edge(size):
    depth = np.full((size, size), 2.0)
    depth[:, size // 2 :] = 4.0  # two walls, both facing the camera
    found = normals_from_depth(depth, intrinsics(size))
    assert degrees(found, np.array([0, 0, -1.0])).max() < 0.1


def test_arrays_are_those_on_disk(folder):
    images = get(folder)
    assert images.images.shape == (12, 3, 24, 24)
    assert images.images.dtype == torch.uint8
    assert (images.size, len(images), images.classes) == (24, 12, CLASSES)
    assert len(CLASSES) == 40
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
    for path in (folder / "depth").glob("*.npy"):
        Image.fromarray((np.load(path) * 1000).round().astype(np.uint16)).save(path.with_suffix(".png"))
        path.unlink()
    for path in (folder / "normals").glob("*.npy"):
        Image.fromarray(((np.load(path) + 1) * 127.5).round().astype(np.uint8)).save(path.with_suffix(".png"))
        path.unlink()
    found = get(folder).targets
    torch.testing.assert_close(found["depth"], expected["depth"], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found["normal"], expected["normal"], atol=0.01, rtol=0)
    np.testing.assert_allclose(found["normal"].float().norm(dim=1), 1, atol=2e-3)


def test_normals_are_computed_where_the_folder_has_none(folder):
    exact = get(folder).targets["normal"].float()
    shutil.rmtree(folder / "normals")
    found = get(folder).targets["normal"].float()
    cosine = (exact * found).sum(1)
    assert cosine.median() > 0.999
    assert (cosine > 0.95).float().mean() > 0.7  # at 24 px much of a image is within two pixels of an edge


def test_void_and_border_are_left_out(folder):
    path = folder / "segmentation" / "00000.png"
    labels = np.asarray(Image.open(path)).copy()
    labels[10, 12] = 0
    Image.fromarray(labels).save(path)
    images = get(folder, border=2 / 24)
    seg, depth, normal = (images.targets[task][0] for task in ("seg", "depth", "normal"))
    assert seg[10, 12] == VOID
    assert depth[0, 10, 12] > 0
    inner = torch.zeros(24, 24, dtype=torch.bool)
    inner[2:22, 2:22] = True
    assert (seg[~inner] == VOID).all()
    assert not depth[0][~inner].any()
    assert not normal[:, ~inner].any()
    assert (depth[0][inner] > 0).all()
    assert (seg[inner] == VOID).sum() == 1


def test_splits_are_the_lists_with_validation_cut_from_train(folder):
    images = get(folder)
    names = {split: {images.ids[row] for row in rows} for split, rows in images.splits.items()}
    train, test = ((folder / "gt_sets" / f"{split}.txt").read_text().split() for split in ("train", "test"))
    assert names["test"] == set(test)
    assert names["train"] | names["val"] == set(train)
    assert not names["train"] & names["val"]
    assert len(names["val"]) == 1  # a tenth of 9


def test_own_validation_list_is_kept_and_nyud_mt_naming_understood(folder):
    sets = folder / "gt_sets"
    test = (sets / "test.txt").read_text()
    (sets / "test.txt").rename(sets / "val.txt")  # NYUD_MT calls its test list so
    images = get(folder)
    assert [images.ids[row] for row in images.splits["test"]] == test.split()
    (sets / "test.txt").write_text("00009\n00010\n")
    (sets / "val.txt").write_text("00011\n")
    assert [images.ids[row] for row in get(folder).splits["val"]] == ["00011"]


# Real images


@pytest.mark.realdata
def test_real_images(real_data):
    images = load_nyuv2(real_data("nyuv2"), size=64, n=8)
    seg, normal, depth = (images.targets[task] for task in ("seg", "normal", "depth"))
    known = seg[seg != VOID]
    assert known.max() < 40
    assert len(known.unique()) > 10
    lengths = normal.float().norm(dim=1)
    assert (((lengths - 1).abs() < 2e-3) | (lengths == 0)).all()
    assert (lengths[:, 1:-1, 1:-1] > 0).float().mean() > 0.99
    assert depth[depth > 0].min() > 0.5
    assert depth.max() <= 10
    # Rooms stand upright: floors face up (-y in camera axes), ceilings down.
    down = normal[:, 1].float()
    assert down[seg == CLASSES.index("floor")].mean() < -0.6
    # The white frame is outside of what counts.
    assert images.images[:, :, 0].float().mean() > 200
    assert (seg[:, 0] == VOID).all()
