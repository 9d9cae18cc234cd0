import numpy as np
import pytest
import torch
from companion.data import load
from companion.data.nyuv2 import CLASSES, intrinsics, load_nyuv2, normals_from_depth
from companion.data.rooms import FLAT, FURNITURE, load_rooms, render, write_rooms
from sparsemtl.errors import DataError, SpecError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))


def points(depth):
    fx, fy, cx, cy = intrinsics(len(depth))
    v, u = np.mgrid[: len(depth), : len(depth)]
    return depth[..., None] * np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(depth.shape)], axis=-1)


@pytest.mark.parametrize("seed", range(6))
def test_depth_normals_and_camera_agree(seed):
    """All floor points lie on one plane, all ceiling points on another above it, in a room of plausible height."""
    image, labels, depth, normals = render(np.random.default_rng(seed), 64)
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
    assert heights["floor"] == pytest.approx(1.4, abs=0.21)
    if "ceiling" in heights:
        assert 2.29 < sum(heights.values()) < 2.91


@pytest.mark.parametrize("seed", range(3))
def test_exact_normals_match_those_computed_from_the_exact_depth(seed):
    _, _, depth, normals = render(np.random.default_rng(seed), 128)
    found = normals_from_depth(depth, intrinsics(128), radius=2)
    # Where all of the 5 x 5 window lies on one plane, that is, where normal and n . P are the same.
    plane = np.concatenate([normals, (normals * points(depth)).sum(-1, keepdims=True)], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(plane, (5, 5), axis=(0, 1))
    one_plane = np.ptp(windows, axis=(3, 4)).max(-1) < 1e-3
    assert one_plane.mean() > 0.6
    angle = np.degrees(np.arccos(np.clip((found * normals).sum(-1)[2:-2, 2:-2], -1, 1)))
    assert angle[one_plane].max() < 0.5


def test_every_class_shows_and_the_floor_is_below():
    labels = np.stack([render(np.random.default_rng(seed), 24)[1] for seed in range(60)])
    names = {CLASSES[value - 1] for value in np.unique(labels)}
    assert names == {"wall", "floor", "ceiling", *FURNITURE, *FLAT}
    rows = np.arange(24)[:, None] * np.ones(24)
    floor, ceiling = ((labels == CLASSES.index(name) + 1).sum(0) for name in ("floor", "ceiling"))
    assert (rows * floor).sum() / floor.sum() > 15
    assert (rows * ceiling).sum() / ceiling.sum() < 8


def test_colours_tell_classes_apart():
    """Nearest class mean in RGB does better than the largest class: the labels are learnable from the pixels."""
    rooms = [render(np.random.default_rng(seed), 24) for seed in range(60)]
    rgb = np.concatenate([room[0].reshape(-1, 3) for room in rooms]).astype(float)
    labels = np.concatenate([room[1].ravel() for room in rooms])
    half, wall = len(rgb) // 2, CLASSES.index("wall") + 1
    things = labels != wall
    values = np.unique(labels[:half])
    means = np.stack([rgb[:half][labels[:half] == value].mean(0) for value in values])
    guess = values[((rgb[half:, None] - means) ** 2).sum(-1).argmin(1)]
    truth = labels[half:][things[half:]]
    largest = np.bincount(truth).max() / len(truth)
    assert (guess[things[half:]] == truth).mean() > largest + 0.1


def test_a_room_depends_on_its_seed_and_number_alone(tmp_path):
    for name, n, seed in (("a", 3, 5), ("b", 4, 5), ("c", 3, 6)):
        write_rooms(tmp_path / name, n, 16, seed)
    for i in range(3):
        depth = {name: np.load(tmp_path / name / "depth" / f"{i:05d}.npy") for name in "abc"}
        assert np.array_equal(depth["a"], depth["b"])
        assert not np.array_equal(depth["a"], depth["c"])
    assert (tmp_path / "a/images/00001.jpg").read_bytes() == (tmp_path / "b/images/00001.jpg").read_bytes()


def test_load_rooms_is_the_nyuv2_loader_on_the_same_files(tmp_path):
    rooms = load("rooms", size=16, n=10, seed=2)
    write_rooms(tmp_path / "nyuv2", 10, 16, 2)
    expected = load_nyuv2(tmp_path, size=16, seed=2, border=0)
    assert torch.equal(rooms.images, expected.images)
    assert rooms.targets.keys() == expected.targets.keys() == {"seg", "normal", "depth"}
    assert all(torch.equal(rooms.targets[task], expected.targets[task]) for task in rooms.targets)
    assert {split: len(rows) for split, rows in rooms.splits.items()} == {"train": 7, "val": 1, "test": 2}
    assert rooms.classes == CLASSES


def test_made_once_and_named_by_what_made_it(tmp_path, monkeypatch):
    first = load_rooms(size=16, n=5)
    with monkeypatch.context() as patch:
        patch.setattr("companion.data.rooms.write_rooms", None)
        assert load_rooms(size=16, n=5).fingerprint == first.fingerprint
    assert sum(path.is_dir() for path in (tmp_path / "cache").glob("rooms-*")) == 1
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "another"))
    assert load_rooms(size=16, n=5).fingerprint == first.fingerprint
    assert load_rooms(size=16, n=5, seed=1).fingerprint != first.fingerprint


def test_making_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(out, *_):
        (out / "images").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("companion.data.rooms.write_rooms", fail)
        with pytest.raises(KeyboardInterrupt):
            load_rooms(size=16, n=5)
    assert not list((tmp_path / "cache").iterdir())
    assert len(load_rooms(size=16, n=5)) == 5


def test_bad_options_and_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(SpecError, match="n=1"):
        load_rooms(n=1)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="SPARSEMTL_CACHE"):
        load_rooms(size=16, n=5)
