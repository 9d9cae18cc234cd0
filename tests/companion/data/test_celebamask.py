"""CelebAMask-HQ and its twin, drawn faces: classes, masks, attributes."""

import shutil

import numpy as np
import pytest
import torch
from companion.data import faces
from companion.data.celebamask import CLASS_OF, CLASSES, PARTS, load_celebamask
from PIL import Image

ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"


@pytest.fixture
def folder(copy_of):
    return copy_of("celebamask")


def get(folder, **options):
    return load_celebamask(**{"root": folder, "size": 32, **options})


def split_into_parts(folder, scale=1):
    """Replace the merged masks by one for each part; skin covers the whole face, as in the release."""
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
        assert [images.targets[task][row] for task in ("male", "smile")] == [male == "1", smile == "1"]
    assert 0 < images.targets["male"].sum() < 10


@pytest.mark.parametrize("scale", [1, 2])  # the release's masks have half the size of the images
def test_part_masks_give_the_same_classes_as_merged_masks(folder, scale):
    expected = get(folder).targets["seg"]
    split_into_parts(folder, scale)
    assert torch.equal(get(folder).targets["seg"][:, ::scale, ::scale], expected[:, ::scale, ::scale])


def test_columns_are_found_by_name_and_the_fingerprint_covers_their_values(folder):
    expected, path = get(folder), folder / ATTRIBUTES
    rows = [line.split() for line in path.read_text().splitlines()[2:]]
    lines = ["10", "Smiling Young Male", *(f"{name}  {smile} -1 {male}" for name, male, smile in rows)]
    path.write_text("\n\n".join([*lines, "29999.jpg 1 1 1"]))  # the same said in another way, and an image not present
    found = get(folder)
    assert all(torch.equal(found.targets[name], expected.targets[name]) for name in ("male", "smile"))
    assert found.fingerprint == expected.fingerprint
    path.write_text(path.read_text().replace("  -1 -1 ", "  1 -1 ", 1))
    assert get(folder).fingerprint != expected.fingerprint


@pytest.mark.parametrize("smile", [False, True])
def test_corners_of_the_mouth_are_up_in_a_smile(smile):
    for seed in range(40):
        mask = faces.render(np.random.default_rng(seed), 96, male=False, smile=smile)[1]
        rows, columns = np.nonzero(np.isin(mask, [PARTS.index(part) for part in ("mouth", "u_lip", "l_lip")]))
        aside = np.abs(columns - np.median(columns))
        aside = aside / aside.max()
        assert (rows[aside < 0.3].mean() - rows[aside > 0.75].mean() > 1) == smile


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
