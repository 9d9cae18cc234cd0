"""NYU-v2: normals, the layout on disk, splits, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from companion.data import load
from companion.data.images import Reader, nearest, random_split, shrink, thin
from companion.data.nyuv2 import CLASSES, intrinsics, load_nyuv2, normals_from_depth
from companion.data.rooms import write_rooms
from PIL import Image
from sparsemtl.errors import DataError, SpecError
from sparsemtl.training.losses import VOID


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def _rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "nyuv2"
    write_rooms(folder, n=12, size=24, seed=3)
    return folder


@pytest.fixture
def folder(_rooms, tmp_path):
    """A small folder in the NYUD_MT layout that a test may damage; 9 images to train, 3 to test."""
    return Path(shutil.copytree(_rooms, tmp_path / "nyuv2"))


def get(folder, **options):
    return load_nyuv2(**{"root": folder, "size": 24, "border": 0, **options})


def rays(size):
    fx, fy, cx, cy = intrinsics(size)
    v, u = np.mgrid[:size, :size]
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((size, size))], axis=-1)


def degrees(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


# Normals from depth


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0, -0.9), (0.1, -0.7, -0.6), (-0.6, 0.5, -0.5)])
def test_normals_of_a_plane_are_exact_up_to_the_border(size, normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    depth = -2.0 / (rays(size) @ normal)  # n . P = -2 m
    seen = (depth > 0) & (depth < 20)
    found = normals_from_depth(np.where(seen, depth, 0).astype(np.float32), intrinsics(size))
    assert seen.mean() > 0.8
    assert degrees(found[seen], normal).max() < 0.1


def test_normals_of_a_sphere_point_to_the_camera():
    size, centre, radius = 128, np.array([0.3, -0.2, 4.0]), 1.2
    directions = rays(size)
    # |t d - c|^2 = r^2, the nearer root
    a, b, c = (directions**2).sum(-1), directions @ centre, centre @ centre - radius**2
    inside = b**2 - a * c > 0
    depth = np.where(inside, (b - np.sqrt(np.where(inside, b**2 - a * c, 0))) / a, 0)
    points = directions * depth[..., None]
    truth = (points - centre) / radius
    found = normals_from_depth(depth, intrinsics(size))
    facing = inside & ((truth * points).sum(-1) < -0.5 * np.linalg.norm(points, axis=-1))  # less than 60 degrees off
    assert facing.sum() > 500
    assert degrees(found, truth)[facing].max() < 4
    assert ((found * points).sum(-1)[facing] < 0).all()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_normals_do_not_mix_the_two_sides_of_an_edge(size):
    depth = np.full((size, size), 2.0)
    depth[:, size // 2 :] = 4.0  # two walls, both facing the camera
    found = normals_from_depth(depth, intrinsics(size))
    assert degrees(found, np.array([0, 0, -1.0])).max() < 0.1


def test_normals_are_zero_where_there_is_no_depth_or_no_neighbour():
    depth = np.zeros((16, 16))
    depth[8, 8] = 1.0
    assert not normals_from_depth(depth, intrinsics(16)).any()


def test_intrinsics_scale_with_each_axis():
    fx, fy, cx, cy = intrinsics(256)
    assert fx == pytest.approx(518.858 * 0.4)
    assert fy == pytest.approx(519.470 * 256 / 480)
    # The same point of the frame, measured from its left and upper edge in shares of the side.
    assert (cx + 0.5) / 256 == pytest.approx((325.582 + 0.5) / 640)
    assert (cy + 0.5) / 256 == pytest.approx((253.736 + 0.5) / 480)


# Reading the layout


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


def test_labels_are_resampled_as_pil_does():
    labels = np.random.default_rng(0).integers(0, 40, (48, 64)).astype(np.uint8)
    for size in (16, 17, 32, 64):  # at other sizes PIL rounds ties by the error of its running sum
        expected = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
        assert (nearest(labels, size) == np.asarray(expected)).all()


def test_splits_are_the_lists_with_validation_cut_from_train(folder):
    images = get(folder)
    names = {split: {images.ids[row] for row in rows} for split, rows in images.splits.items()}
    train, test = ((folder / "gt_sets" / f"{split}.txt").read_text().split() for split in ("train", "test"))
    assert names["test"] == set(test)
    assert names["train"] | names["val"] == set(train)
    assert not names["train"] & names["val"]
    assert len(names["val"]) == 1  # a tenth of 9
    assert {tuple(get(folder, seed=seed).splits["val"].tolist()) for seed in range(5)} != {
        tuple(images.splits["val"].tolist())
    }


def test_own_validation_list_is_kept_and_nyud_mt_naming_understood(folder):
    sets = folder / "gt_sets"
    test = (sets / "test.txt").read_text()
    (sets / "test.txt").rename(sets / "val.txt")  # NYUD_MT calls its test list so
    images = get(folder)
    assert [images.ids[row] for row in images.splits["test"]] == test.split()
    (sets / "test.txt").write_text("00009\n00010\n")
    (sets / "val.txt").write_text("00011\n")
    assert [images.ids[row] for row in get(folder).splits["val"]] == ["00011"]


def test_the_white_frame_of_the_official_images_is_left_out_unasked(folder):
    seg = load_nyuv2(root=folder, size=256).targets["seg"]
    assert (seg[:, 3:-3, 3:-3] != VOID).any(0).all()
    for side in (seg[:, :3], seg[:, -3:], seg[:, :, :3], seg[:, :, -3:]):
        assert (side == VOID).all()


def test_images_get_smaller_by_averaging():
    lines = np.tile(np.array([0, 255], np.uint8), (16, 8))
    found = shrink(Image.fromarray(lines), 8)
    assert found.shape == (3, 8, 8)
    assert (abs(found[:, :, 1:-1].astype(float) - 127.5) < 32).all()  # any single pixel would be black or white
    assert (found[0] == found[0, 0]).all()


def test_thinned_lists_spread_over_each_split_by_number():
    lists = {"train": [str(i) for i in range(101)], "test": [str(i) for i in range(200, 300, 2)]}
    assert thin(lists, None) == thin(lists, 151) == lists
    found = thin(lists, 15)
    assert [len(ids) for ids in found.values()] == [10, 5]
    assert [found[split][0] for split in lists] == ["0", "200"]
    assert [found[split][-1] for split in lists] == ["100", "298"]
    steps = np.diff([int(i) for i in found["train"]])
    assert steps.max() - steps.min() <= 1


def test_split_of_the_official_size():
    lists = random_split([f"{i:05d}" for i in range(795)], {"val": 0.1}, seed=0)
    assert [len(lists[split]) for split in ("train", "val")] == [715, 80]
    assert len(thin(lists, 10)["train"]) == 9


def test_n_keeps_some_images_of_each_split(folder):
    images = get(folder, n=4)
    assert 3 <= len(images) <= 5
    assert all(len(rows) for rows in images.splits.values())


def test_second_load_decodes_nothing_until_a_file_changes(folder, monkeypatch):
    first = get(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_bytes", None)
        second = get(folder)
    assert torch.equal(first.images, second.images)
    assert first.fingerprint == second.fingerprint
    path = folder / "segmentation" / "00001.png"
    labels = np.asarray(Image.open(path)).copy()
    labels[0, 0] = 40
    Image.fromarray(labels).save(path)
    third = get(folder)
    assert third.targets["seg"][1, 0, 0] == 39
    assert third.fingerprint != first.fingerprint


def test_fingerprint_depends_on_content_and_options_not_on_place_or_time(folder, tmp_path):
    first = get(folder).fingerprint
    elsewhere = Path(shutil.copytree(folder, tmp_path / "other", copy_function=shutil.copyfile))
    assert get(elsewhere).fingerprint == first
    others = {get(folder, **option).fingerprint for option in ({"size": 16}, {"n": 5}, {"border": 0.1})}
    assert len(others | {first}) == 4


def test_root_is_the_folder_or_the_one_above_or_the_environment(folder, monkeypatch):
    expected = get(folder).fingerprint
    assert get(folder.parent).fingerprint == expected
    monkeypatch.setenv("SPARSEMTL_DATA", str(folder.parent))
    assert load("nyuv2", size=24, border=0).fingerprint == expected


def test_to_moves_every_tensor(folder):
    moved = get(folder).to("meta")
    assert {t.device.type for t in (moved.images, *moved.targets.values(), *moved.splits.values())} == {"meta"}


# Bad input


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


def png(path, array):
    Image.fromarray(array).save(path)


def edit(path, change):
    """Change a stored array in place: `change(array)` returns the new one, or None for an edited copy."""
    array = np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path)).copy()
    array = array if (new := change(array)) is None else new
    np.save(path, array) if path.suffix == ".npy" else png(path, array)


def put(value):
    return lambda array: array.__setitem__((4, 4), value)


def label(f, name="segmentation/00004.png"):
    return f / name


def depth_png(folder, change):
    """All depth as 16-bit PNG in millimetres, each changed."""
    for path in (folder / "depth").glob("*.npy"):
        png(path.with_suffix(".png"), change((np.load(path) * 1000).round().astype(np.uint16)))
        path.unlink()


DAMAGES = {
    "no folder": ("depth", lambda f: shutil.rmtree(f / "depth")),
    "no file": ("00002", lambda f: (f / "segmentation/00002.png").unlink()),
    "cut jpeg": ("00003.jpg", lambda f: cut(f / "images/00003.jpg", 400)),
    "cut png": ("00003.png", lambda f: cut(f / "segmentation/00003.png", 60)),
    "empty png": ("00003.png", lambda f: cut(f / "segmentation/00003.png", 0)),
    "cut npy": ("00003.npy", lambda f: cut(f / "depth/00003.npy", 500)),
    "huge image": ("00003.png", lambda f: Image.new("L", (14000, 13000)).save(f / "segmentation/00003.png")),
    "objects": ("00003.npy", lambda f: np.save(f / "depth/00003.npy", np.array([{"a": 1}]), allow_pickle=True)),
    "label": ("label 41", lambda f: edit(label(f), put(41))),
    "colour labels": ("00004.png", lambda f: Image.new("RGB", (24, 24)).save(label(f))),
    "1-bit labels": ("00004.png", lambda f: Image.new("1", (24, 24)).save(label(f))),
    "labels with alpha": ("00004.png", lambda f: Image.new("LA", (24, 24)).save(label(f))),
    "depth 0": ("00005.npy", lambda f: edit(f / "depth/00005.npy", put(0))),
    "depth NaN": ("00005.npy", lambda f: edit(f / "depth/00005.npy", put(np.nan))),
    "depth in mm": ("millimetres", lambda f: edit(f / "depth/00005.npy", lambda d: 1000 * d)),
    "depth in cm": ("centimetres", lambda f: edit(f / "depth/00005.npy", lambda d: 100 * d)),
    "depth of 8 bits": ("16-bit", lambda f: depth_png(f, lambda d: (d // 256 + 1).astype(np.uint8))),
    "depth times 5": ("1/5000 m", lambda f: depth_png(f, lambda d: 5 * d)),
    "depth times 6.55": ("10 m / 65535", lambda f: depth_png(f, lambda d: (6.5535 * d).astype(np.uint16))),
    "depth with swapped bytes": ("swapped bytes", lambda f: depth_png(f, lambda d: d.byteswap())),
    "depth in metres as PNG": ("metres", lambda f: depth_png(f, lambda d: d // 1000 + 1)),
    "size": ("20 x 24", lambda f: Image.new("L", (20, 24), 1).save(f / "segmentation/00006.png")),
    "normals": ("00006.npy", lambda f: np.save(f / "normals/00006.npy", np.full((24, 24, 3), np.nan))),
    "no list": ("train.txt", lambda f: (f / "gt_sets/train.txt").unlink()),
    "overlapping lists": ("00000", lambda f: (f / "gt_sets/test.txt").write_text("00000\n00010\n")),
    "png beside jpeg": ("00001", lambda f: Image.new("RGB", (24, 24)).save(f / "images/00001.png")),
    "png beside npy": ("00001", lambda f: png(f / "depth/00001.png", np.full((24, 24), 2000, np.uint16))),
    "dangling link": ("nowhere", lambda f: (f / "depth/nowhere.npy").symlink_to(f / "gone")),
    "twin": ("are the same", lambda f: shutil.copy(f / "images/00002.jpg", f / "images/00010.jpg")),
    "twin under another header": (
        "are the same",
        lambda f: Image.open(f / "images/00010.jpg").save(f / "images/00003.png") or (f / "images/00003.jpg").unlink(),
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named_in_one_line(folder, case):
    named, damage = DAMAGES[case]
    damage(folder)
    with pytest.raises(DataError, match=re.escape(named)) as caught:
        get(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hidden_files_and_byte_order_marks_change_nothing(folder):
    expected = get(folder).fingerprint
    for path in (folder / "images").glob("*.jpg"):
        (path.parent / f"._{path.name}").write_bytes(b"metadata of macOS")
    for path in (folder / "gt_sets").glob("*.txt"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert get(folder).fingerprint == expected


def test_a_file_that_cannot_be_opened_is_a_data_error(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Reader, "_bytes", lambda self, path: refuse(path))
    with pytest.raises(DataError, match=r"00000.*Permission denied"):
        load("nyuv2", folder, size=24)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"images.*Permission denied"):
        load("nyuv2", folder, size=24)


def test_depth_holes_are_left_out_on_request(folder):
    for row, value in ((4, 0.0), (5, np.nan), (6, np.inf)):
        path = folder / "depth" / "00005.npy"
        depth = np.load(path)
        depth[row, 4] = value
        np.save(path, depth)
    shutil.rmtree(folder / "normals")
    targets = get(folder, holes="ignore").targets
    assert not targets["depth"][5, 0, 4:7, 4].any()
    assert not targets["normal"][5, :, 4:7, 4].any()
    assert (targets["depth"] == 0).sum() == 3
    assert all(target.float().isfinite().all() for target in targets.values())


def test_no_data_folder_says_how_to_set_it(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSEMTL_DATA", raising=False)
    with pytest.raises(DataError, match="SPARSEMTL_DATA"):
        load_nyuv2()
    with pytest.raises(DataError, match="SPARSEMTL_DATA"):
        load_nyuv2(tmp_path)


@pytest.mark.parametrize("option", [{"size": 0}, {"n": 2}, {"seed": -1}, {"border": 0.6}, {"holes": "fill"}])
def test_options_out_of_range(folder, option):
    with pytest.raises(SpecError, match=str(next(iter(option)))):
        get(folder, **option)


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
