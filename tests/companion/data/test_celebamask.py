"""CelebAMask-HQ: classes, masks, attributes."""

import shutil

import numpy as np
import pytest
import torch
from companion.data.celebamask import CLASS_OF, CLASSES, PARTS, load_celebamask
from PIL import Image

ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"


@pytest.fixture
def folder(copy_of):
    return copy_of("celebamask")


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


@pytest.mark.parametrize("scale", [1, 2])  # the release's masks have half the size of the images
def test_part_masks_give_the_same_classes_as_merged_masks(folder, scale):
    expected = get(folder).targets["seg"]
    split_into_parts(folder, scale)
    assert torch.equal(get(folder).targets["seg"][:, ::scale, ::scale], expected[:, ::scale, ::scale])


def test_columns_are_found_by_name(folder):
    expected = get(folder).targets
    rows = [line.split() for line in (folder / ATTRIBUTES).read_text().splitlines()[2:]]
    lines = ["10", "Smiling Young Male", *(f"{name}  {smile} -1 {male}" for name, male, smile in rows)]
    (folder / ATTRIBUTES).write_text("\n".join([*lines, "29999.jpg 1 1 1"]) + "\n")  # of an image not present
    found = get(folder).targets
    assert torch.equal(found["male"], expected["male"])
    assert torch.equal(found["smile"], expected["smile"])


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
