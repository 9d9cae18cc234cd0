"""CelebAMask-HQ: classes, masks, attributes, splits, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from companion.data import load
from companion.data.celebamask import CLASS_OF, CLASSES, PARTS, load_celebamask
from companion.data.faces import write_faces
from PIL import Image
from sparsemtl.errors import DataError

ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def _faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "celebamask"
    write_faces(folder, n=10, size=32, seed=1)
    return folder


@pytest.fixture
def folder(_faces, tmp_path):
    """Ten images in the layout of the official release, with merged masks, that a test may damage."""
    return Path(shutil.copytree(_faces, tmp_path / "celebamask"))


def get(folder, **options):
    return load_celebamask(**{"root": folder, "size": 32, **options})


def split_into_parts(folder, scale=1):
    """Replace the merged masks by one mask for each part; skin covers the whole face, as in the release."""
    for path in (folder / "CelebAMaskHQ-mask").glob("*.png"):
        merged = np.asarray(Image.open(path))[::scale, ::scale]
        out = folder / "CelebAMask-HQ-mask-anno" / str(int(path.stem) // 4)
        out.mkdir(parents=True, exist_ok=True)
        for value, part in enumerate(PARTS):
            where = merged == value
            if part == "skin":
                where = np.isin(merged, [1, 2, 4, 5, 6, 7, 10, 11, 12])
            if value and where.any():
                mask = np.repeat((where * 255).astype(np.uint8)[..., None], 3, -1)  # the release's are RGB
                Image.fromarray(mask).save(out / f"{int(path.stem):05d}_{part}.png")
    shutil.rmtree(folder / "CelebAMaskHQ-mask")


def test_classes_of_the_mask_values():
    # Values as the release numbers them: 1 skin, 2 nose, 3 glasses, 4-5 eyes, 6-7 brows, 10 mouth, 11-12 lips; 13 hair.
    expected = {value: 2 for value in (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)} | {13: 1}
    assert CLASS_OF.tolist() == [expected.get(value, 0) for value in range(19)]
    assert CLASSES == ("background", "hair", "skin")


def test_arrays_are_those_on_disk(folder):
    images = get(folder)
    assert images.ids == tuple(map(str, range(10)))
    assert images.images.shape == (10, 3, 32, 32)
    assert {target.dtype for target in (images.images, *images.targets.values())} == {torch.uint8}
    lines = [line.split() for line in (folder / ATTRIBUTES).read_text().splitlines()[2:]]
    for row, (name, male, smile) in enumerate(lines):
        rgb = np.asarray(Image.open(folder / "CelebA-HQ-img" / name))
        mask = np.asarray(Image.open(folder / "CelebAMaskHQ-mask" / f"{row}.png"))
        assert (images.images[row].numpy() == rgb.transpose(2, 0, 1)).all()
        assert (images.targets["seg"][row].numpy() == CLASS_OF[mask]).all()
        assert images.targets["male"][row] == (male == "1")
        assert images.targets["smile"][row] == (smile == "1")
    assert 0 < images.targets["male"].sum() < 10


def test_part_masks_give_the_same_classes_as_merged_masks(folder):
    expected = get(folder).targets["seg"]
    split_into_parts(folder)
    assert torch.equal(get(folder).targets["seg"], expected)


def test_masks_of_half_the_image_size_are_those_of_the_release(folder):
    expected = get(folder).targets["seg"]
    split_into_parts(folder, scale=2)
    assert torch.equal(get(folder).targets["seg"][:, ::2, ::2], expected[:, ::2, ::2])


def test_later_parts_cover_earlier_ones(folder):
    split_into_parts(folder)
    whole = Image.new("L", (32, 32), 255)
    whole.save(folder / "CelebAMask-HQ-mask-anno" / "0" / "00002_hair.png")
    whole.save(folder / "CelebAMask-HQ-mask-anno" / "0" / "00003_skin.png")
    seg = get(folder).targets["seg"]
    assert not (seg[2] == 2).any()
    assert (seg[3] == 1).any()


def test_columns_are_found_by_name(folder):
    expected = get(folder).targets
    rows = [line.split() for line in (folder / ATTRIBUTES).read_text().splitlines()[2:]]
    lines = ["10", "Smiling Young Male", *(f"{name}  {smile} -1 {male}" for name, male, smile in rows)]
    (folder / ATTRIBUTES).write_text("\n".join([*lines, "29999.jpg 1 1 1"]) + "\n")  # of an image not present
    found = get(folder).targets
    assert torch.equal(found["male"], expected["male"])
    assert torch.equal(found["smile"], expected["smile"])


def test_split_is_60_20_20_and_seeded(folder):
    splits = get(folder).splits
    assert [len(splits[split]) for split in ("train", "val", "test")] == [6, 2, 2]
    assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(10))
    assert torch.equal(get(folder).splits["test"], splits["test"])
    assert len({tuple(get(folder, seed=seed).splits["test"].tolist()) for seed in range(8)}) > 1


def test_works_with_the_subset_present(folder):
    for i in (0, 3, 4, 7):
        (folder / "CelebA-HQ-img" / f"{i}.jpg").unlink()
    images = get(folder)
    assert images.ids == ("1", "2", "5", "6", "8", "9")
    assert [len(images.splits[split]) for split in ("train", "val", "test")] == [4, 1, 1]


def test_root_is_the_folder_or_the_one_above(folder):
    assert load("celebamask", folder.parent, size=32).fingerprint == get(folder).fingerprint


def attributes(folder, change):
    (folder / ATTRIBUTES).write_text(change((folder / ATTRIBUTES).read_text()))


def small_part(folder):
    split_into_parts(folder)
    Image.new("L", (16, 16)).save(folder / "CelebAMask-HQ-mask-anno" / "0" / "00002_hair.png")


def missing_part(folder):
    split_into_parts(folder)
    (folder / "CelebAMask-HQ-mask-anno" / "1" / "00005_skin.png").unlink()


def few(folder):
    for path in list((folder / "CelebA-HQ-img").iterdir())[2:]:
        path.unlink()


MASK, FACE = "CelebAMaskHQ-mask/3.png", "CelebA-HQ-img/3.jpg"
DAMAGES = {
    "no masks": ("CelebAMaskHQ-mask", lambda f: shutil.rmtree(f / "CelebAMaskHQ-mask")),
    "no mask": ("CelebAMaskHQ-mask has no file for image 3", lambda f: (f / MASK).unlink()),
    "no part": ("CelebAMask-HQ-mask-anno has no file for image 5", missing_part),
    "cut jpeg": ("3.jpg", lambda f: (f / FACE).write_bytes((f / FACE).read_bytes()[:400])),
    "cut png": ("3.png", lambda f: (f / MASK).write_bytes((f / MASK).read_bytes()[:60])),
    "mask value": ("label 19", lambda f: Image.new("L", (32, 32), 19).save(f / MASK)),
    "1-bit mask": ("3.png", lambda f: Image.new("1", (32, 32), 1).save(f / MASK)),
    "mask size": ("32 x 24", lambda f: Image.new("L", (32, 24)).save(f / MASK)),
    "part size": ("00002_hair.png", small_part),
    "attributes of others": ("no image", lambda f: attributes(f, lambda _: "1\nMale Smiling\n777.jpg 1 1\n")),
    "a face without attributes": ("9.jpg", lambda f: attributes(f, lambda text: text[: text.index("9.jpg")])),
    "attribute value": ("4.jpg", lambda f: attributes(f, lambda text: text.replace("4.jpg", "4.jpg 0"))),
    "attribute names": ("Smiling", lambda f: attributes(f, lambda text: text.replace("Smiling", "Bald"))),
    "no attributes": (ATTRIBUTES, lambda f: (f / ATTRIBUTES).unlink()),
    "binary attributes": (ATTRIBUTES, lambda f: (f / ATTRIBUTES).write_bytes(bytes(range(256)))),
    "too few": ("too few", few),
    "png beside jpeg": ("3.", lambda f: Image.new("RGB", (32, 32)).save(f / "CelebA-HQ-img" / "3.png")),
    "twin": ("are the same", lambda f: shutil.copy(f / FACE, f / "CelebA-HQ-img" / "7.jpg")),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named_in_one_line(folder, case):
    named, damage = DAMAGES[case]
    damage(folder)
    with pytest.raises(DataError) as caught:
        get(folder)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hidden_files_and_a_byte_order_mark_change_nothing(folder):
    expected = get(folder).fingerprint
    (folder / "CelebA-HQ-img" / "._0.jpg").write_bytes(b"metadata of macOS")
    (folder / ATTRIBUTES).write_text((folder / ATTRIBUTES).read_text(), encoding="utf-8-sig")
    assert get(folder).fingerprint == expected


@pytest.mark.realdata
def test_real_images(real_data):
    root = real_data("celebamask")
    images = load_celebamask(root, size=64, n=8)
    shares = torch.bincount(images.targets["seg"].flatten().int(), minlength=3) / images.targets["seg"].numel()
    assert 7 <= len(images) <= 9
    assert ((shares > 0.1) & (shares < 0.7)).all()
    attributes = [line.split() for line in (root / "celebamask" / ATTRIBUTES).read_text().splitlines()[2:]]
    male = {row[0]: row[21] == "1" for row in attributes}  # the 21st of the 40 attributes
    assert [bool(value) for value in images.targets["male"]] == [male[f"{i}.jpg"] for i in images.ids]


def test_the_fingerprint_covers_what_is_said_of_each_face(folder):
    """Attributes are no images: they are read in one file, and are targets all the same."""
    first, path = get(folder).fingerprint, folder / ATTRIBUTES
    lines = path.read_text().splitlines()
    male = lines[1].split().index("Male") + 1
    words = lines[2].split()
    words[male] = str(-int(words[male]))
    path.write_text("\n".join([*lines[:2], " ".join(words), *lines[3:]]))
    assert get(folder).fingerprint != first
    path.write_text("\n\n".join(lines))  # the same said in another way
    assert get(folder).fingerprint == first
