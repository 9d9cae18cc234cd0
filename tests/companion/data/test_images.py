"""What holds for every image data set: splits, places, cache, fingerprint, twin, resampling and thinning."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from companion.data import faces, images, load, rooms
from companion.data.images import nearest, shrink, thin
from PIL import Image

SETS = {
    "nyuv2": ({"size": 24, "border": 0}, "images", "segmentation/00001.png", "gt_sets/test.txt"),
    "celebamask": ({"size": 32}, "CelebA-HQ-img", "CelebAMaskHQ-mask/1.png", "CelebAMask-HQ-attribute-anno.txt"),
}
TWINS = {"nyuv2": ("rooms", rooms.write_rooms), "celebamask": ("faces", faces.write_faces)}


@pytest.fixture(params=SETS)
def name(request):
    return request.param


@pytest.fixture
def folder(name, copy_of):
    return copy_of(name)


@pytest.fixture
def get(name):
    return partial(load, name, **SETS[name][0])


def test_each_image_is_in_one_split_and_the_seed_moves_it(folder, get):
    found = get(folder)
    rows = torch.cat([found.splits[split] for split in ("train", "val", "test")])
    assert sorted(rows.tolist()) == list(range(len(found)))
    assert all(len(part) for part in found.splits.values())
    assert len({tuple(get(folder, seed=seed).splits["val"].tolist()) for seed in range(8)}) > 1


def test_root_is_the_folder_or_the_one_above_or_the_environment(folder, get, monkeypatch):
    expected = get(folder).fingerprint
    assert get(folder.parent).fingerprint == expected
    monkeypatch.setenv("SPARSEMTL_DATA", str(folder.parent))
    assert get().fingerprint == expected


def test_the_second_load_decodes_nothing_until_a_file_changes(name, folder, get, monkeypatch):
    first = get(folder)
    with monkeypatch.context() as patch:
        patch.setattr(images, "opened", None)
        second = get(folder)
    assert (torch.equal(first.images, second.images), first.fingerprint) == (True, second.fingerprint)
    labels = np.array(Image.open(folder / SETS[name][2]))
    labels[0, 0] = 13  # hair of a face, desk of a room
    Image.fromarray(labels).save(folder / SETS[name][2])
    third = get(folder)
    assert third.targets["seg"][1, 0, 0] == (1 if name == "celebamask" else 12)
    assert third.fingerprint != first.fingerprint


def test_the_fingerprint_depends_on_content_and_options_not_on_place_or_other_programs(name, folder, get, tmp_path):
    _, pictures, _, text = SETS[name]
    first = get(folder).fingerprint
    elsewhere = Path(shutil.copytree(folder, tmp_path / "other", copy_function=shutil.copyfile))
    for path in (elsewhere / pictures).glob("*.jpg"):
        (path.parent / f"._{path.name}").write_bytes(b"metadata of macOS")
    (elsewhere / text).write_text((elsewhere / text).read_text(), encoding="utf-8-sig")  # a byte-order mark
    assert get(elsewhere).fingerprint == first
    others = {get(folder, **option).fingerprint for option in ({"size": 16}, {"n": 5}, {"seed": 3})}
    assert len(others | {first}) == 4


def test_a_simulated_image_depends_on_its_seed_and_number_alone(name, tmp_path):
    for folder, n, seed in (("a", 3, 5), ("b", 4, 5), ("c", 3, 6)):
        TWINS[name][1](tmp_path / folder, n, 16, seed)
    for path in (tmp_path / "a").rglob("*.*g"):  # JPEG and PNG
        a, b, c = ((tmp_path / folder / path.relative_to(tmp_path / "a")).read_bytes() for folder in "abc")
        assert a == b
        assert a != c or path.suffix == ".png"


def test_a_simulated_set_is_the_real_loader_on_the_written_files(name, get, tmp_path):
    twin, write = TWINS[name]
    write(tmp_path / "files", 12, 16, 2)
    found, expected = load(twin, size=16, n=12, seed=2), get(tmp_path / "files", size=16, seed=2)
    assert torch.equal(found.images, expected.images)
    for ours, its in ((found.targets, expected.targets), (found.splits, expected.splits)):
        assert ours.keys() == its.keys()
        assert all(torch.equal(ours[part], its[part]) for part in ours)


def test_labels_are_resampled_as_pil_does():
    labels = np.random.default_rng(0).integers(0, 40, (48, 64)).astype(np.uint8)
    for size in (16, 17, 32, 64):  # at other sizes PIL rounds ties by the error of its running sum
        expected = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
        assert (nearest(labels, size) == np.asarray(expected)).all()


def test_images_get_smaller_by_averaging():
    found = shrink(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (16, 8))), 8)
    assert found.shape == (3, 8, 8)
    assert (abs(found[:, :, 1:-1].astype(float) - 127.5) < 32).all()  # any single pixel would be black or white


def test_thinned_lists_spread_over_each_split_by_number():
    lists = {"train": [str(i) for i in range(101)], "test": [str(i) for i in range(200, 300, 2)]}
    assert thin(lists, None) == thin(lists, 151) == lists
    found = thin(lists, 15)
    assert [(len(ids), ids[0], ids[-1]) for ids in found.values()] == [(10, "0", "100"), (5, "200", "298")]
    assert np.ptp(np.diff([int(i) for i in found["train"]])) <= 1
