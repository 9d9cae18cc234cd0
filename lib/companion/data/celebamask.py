"""CelebAMask-HQ (Lee et al., CVPR 2020): 3-class segmentation and the attributes Male and Smiling.

Folder layout (the official release, or any subset of its images; N = 0 .. 29999):

    CelebA-HQ-img/N.jpg
    CelebAMaskHQ-mask/N.png                     merged masks, values 0 .. 18, as the release's own script makes them; or
    CelebAMask-HQ-mask-anno/*/0000N_PART.png    one mask for each part present, merged here in the same order
    CelebAMask-HQ-attribute-anno.txt            count; attribute names; then file name and values -1 or 1

The paper's three classes, numbered as the authors did: 0 background, 1 hair, 2 skin. Skin is the face inside the
outline of the part mask "skin": what the merged masks draw over it (nose, glasses, eyes, brows, mouth, lips) belongs to
it. Ears, neck, hat, earring, necklace and cloth are outside that mask, and count as background. No pixel is void.
"""

import numpy as np
from sparsemtl.errors import DataError

from companion.data import pictures

CLASSES = ("background", "hair", "skin")
# Value in the merged mask is the place in this tuple; a later part covers an earlier one.
PARTS = (  # noqa: SIM905
    "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip "
    "hair hat ear_r neck_l neck cloth"
).split()
SKIN = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
CLASS_OF = np.array([2 if part in SKIN else int(part == "hair") for part in PARTS], np.uint8)
ATTRIBUTES = {"male": "Male", "smile": "Smiling"}
SHARES = {"val": 0.2, "test": 0.2}  # the paper: 60-20-20 at random


def load_celebamask(root=None, size=256, n=None, seed=0):
    """Load CelebAMask-HQ as `Pictures` with the targets "seg" (background, hair, skin), "male" and "smile".

    root: the folder above `celebamask/`, or that folder (default: SPARSEMTL_DATA). size: side in pixels; images are
    filtered, masks picked by nearest pixel. n: about so many pictures, for tests. seed: of the random 60-20-20 split
    of the images present. Raises `DataError` for missing, damaged or unfit files.
    """
    return load_folder("celebamask", pictures.find_folder(root, "celebamask", "CelebA-HQ-img"), size, n, seed)


def load_folder(name, folder, size, n=None, seed=0):
    """Load the layout of the official release from `folder`; arguments and result as in `load_celebamask`."""
    pictures.check_options(size, n, seed)
    images = pictures.files_by_stem(folder / "CelebA-HQ-img", (".jpg", ".png"))
    attributes = read_attributes(folder / "CelebAMask-HQ-attribute-anno.txt", images)
    lists = pictures.thin(pictures.random_split(list(images), SHARES, seed), n)
    ids = [i for part in lists.values() for i in part]
    masks = _masks(folder, ids)

    def decode(reader, i):
        image = reader.picture(images[i])
        mask = np.zeros((1, 1), np.uint8)
        for value, path in masks[i]:
            mask = _merge(mask, value, reader, path)
            # In the official release images have 1024 pixels a side and masks 512.
            if mask.shape not in ((image.height, image.width), (image.height / 2, image.width / 2)):
                raise DataError(
                    f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, but {images[i]} is {image.width} x "
                    f"{image.height}: a mask must have the size of its image, or half of it"
                )
        return {"image": pictures.shrink(image, size), "seg": CLASS_OF[pictures.nearest(mask, size)]} | attributes[i]

    paths = [images[i] for i in ids] + [path for i in ids for _, path in masks[i]]
    paths.append(folder / "CelebAMask-HQ-attribute-anno.txt")
    told = {i: {task: int(value) for task, value in attributes[i].items()} for i in ids}  # read beside the pictures
    options = {"size": size, "attributes": pictures.sha256_of(told)}
    return pictures.gather(name, folder, lists, paths, decode, CLASSES, options)


def _masks(folder, ids):
    """Return {id: [(value, path)]}: one merged mask with value None, or the parts present in the order of merging."""
    if (merged := folder / "CelebAMaskHQ-mask").is_dir():
        files = pictures.files_by_stem(merged, (".png",))
        pictures.need_all(ids, files, merged)
        return {i: [(None, files[i])] for i in ids}
    parts = folder / "CelebAMask-HQ-mask-anno"
    if not parts.is_dir():
        raise DataError(
            f"{folder} has neither CelebAMaskHQ-mask/ nor {parts.name}/: restore one of the two mask folders"
        )
    files = {}
    for subfolder in sorted(parts.iterdir()):
        if subfolder.is_dir():
            files |= pictures.files_by_stem(subfolder, (".png",))
    pictures.need_all(ids, {i for i in ids if f"{i:0>5}_skin" in files}, parts)
    stems = {i: [(value, f"{i:0>5}_{part}") for value, part in enumerate(PARTS)] for i in ids}
    return {i: [(value, files[stem]) for value, stem in stems[i] if stem in files] for i in ids}


def _merge(mask, value, reader, path):
    if value is None:
        return reader.labels(path, len(PARTS) - 1)
    part = np.asarray(reader.picture(path).convert("L")) > 0
    if mask.size > 1 and mask.shape != part.shape:
        raise DataError(
            f"{path} has another size than the other parts of this picture: put an intact copy in its place"
        )
    return np.where(part, np.uint8(value), mask)


def read_attributes(path, images):
    """Return {id: {task: 0 or 1}} for the ids in `images`; `DataError` if one of them has no valid line in the file."""
    lines = pictures.read_text(path)
    if len(lines) < 3 or not set(ATTRIBUTES.values()) <= set(names := lines[1].split()):
        raise DataError(
            f"{path} does not name {' and '.join(ATTRIBUTES.values())} in its second line: restore the file"
        )
    found = {}
    for line in lines[2:]:
        file, *values = line.split()
        i = file.rsplit(".", 1)[0]
        if i not in images:
            continue
        if len(values) != len(names) or not set(values) <= {"-1", "1"}:
            raise DataError(f"{path}, line of {file}: expected {len(names)} values of -1 or 1, restore the file")
        found[i] = {task: np.uint8(values[names.index(label)] == "1") for task, label in ATTRIBUTES.items()}
    if missing := sorted(set(images) - set(found), key=pictures.natural):
        what = "no image present" if not found else f"not {images[missing[0]].name} ({len(missing)} missing)"
        raise DataError(f"{path} names {what}: take the attribute file that belongs to the images in CelebA-HQ-img")
    return found
