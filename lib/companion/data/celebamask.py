"""CelebAMask-HQ (Lee et al., CVPR 2020): 3-class segmentation and the attributes Male and Smiling.

Folder layout (the official release, or any subset of its images; N = 0 .. 29999):

    CelebA-HQ-img/N.jpg
    CelebAMaskHQ-mask/N.png                     merged masks, values 0 .. 18, as the release's own script makes them; or
    CelebAMask-HQ-mask-anno/*/0000N_PART.png    one mask for each part present, merged here in the same order
    CelebAMask-HQ-attribute-anno.txt            count; attribute names; then file name and values -1 or 1

The paper's three classes, numbered as the authors did: 0 background, 1 hair, 2 skin. Skin is the face inside the
outline of the part mask "skin", with what the merged masks draw over it (nose, glasses, eyes, brows, mouth, lips).
Ears, neck, hat, earring, necklace and cloth are outside that mask, and count as background. No pixel is void.
"""

import numpy as np
from sparsemtl.errors import DataError

from companion.data import images

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
    """Load CelebAMask-HQ with the targets "seg" (background, hair, skin), "male" and "smile".

    Parameters
    ----------
    root : path, optional
        The folder above `celebamask/`, or that folder. Default: SPARSEMTL_DATA.
    size : int
        Side in pixels; images are filtered, masks picked by nearest pixel.
    n : int, optional
        About so many images, for tests.
    seed : int
        Of the random 60-20-20 split of the images present.

    Returns
    -------
    Images

    Raises
    ------
    DataError, SpecError
        Missing, damaged or unfit files; impossible options.
    """
    return load_folder("celebamask", images.find_folder(root, "celebamask", "CelebA-HQ-img"), size, n, seed)


def load_folder(name, folder, size, n=None, seed=0):
    """Load the layout of the official release from `folder`; arguments and result as in `load_celebamask`."""
    images.check_options(size, n, seed)
    files = images.files_by_stem(folder / "CelebA-HQ-img", (".jpg", ".png"))
    attributes = read_attributes(folder / "CelebAMask-HQ-attribute-anno.txt", files)
    lists = images.thin(images.random_split(list(files), SHARES, seed), n)
    ids = [i for part in lists.values() for i in part]
    masks = _masks(folder, ids)

    def decode(reader, i):
        image = reader.image(files[i])
        mask = np.zeros((1, 1), np.uint8)
        for value, path in masks[i]:
            mask = _merge(mask, value, reader, path)
            # In the official release images have 1024 pixels a side and masks 512.
            if mask.shape not in ((image.height, image.width), (image.height / 2, image.width / 2)):
                raise DataError(
                    f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, but {files[i]} is {image.width} x "
                    f"{image.height}: a mask must have the size of its image, or half of it"
                )
        return {"image": images.shrink(image, size), "seg": CLASS_OF[images.nearest(mask, size)]} | attributes[i]

    paths = [files[i] for i in ids] + [path for i in ids for _, path in masks[i]]
    chosen = {i: {task: int(value) for task, value in attributes[i].items()} for i in ids}
    options = {"size": size, "attributes": images.sha256_of(chosen)}
    return images.gather(name, folder, lists, paths, decode, CLASSES, options)


def _masks(folder, ids):
    """Return {id: [(value, path)]}: one merged mask with value None, or the parts present in the order of merging."""
    if (merged := folder / "CelebAMaskHQ-mask").is_dir():
        files = images.files_by_stem(merged, (".png",))
        images.need_all(ids, files, merged)
        return {i: [(None, files[i])] for i in ids}
    parts = folder / "CelebAMask-HQ-mask-anno"
    if not parts.is_dir():
        raise DataError(f"{folder} has neither {merged.name}/ nor {parts.name}/: restore one of the two mask folders")
    files = {}
    for subfolder in sorted(filter(lambda path: path.is_dir(), parts.iterdir())):
        files |= images.files_by_stem(subfolder, (".png",))
    images.need_all(ids, {i for i in ids if f"{i:0>5}_skin" in files}, parts)
    stems = {i: [(value, f"{i:0>5}_{part}") for value, part in enumerate(PARTS)] for i in ids}
    return {i: [(value, files[stem]) for value, stem in stems[i] if stem in files] for i in ids}


def _merge(mask, value, reader, path):
    if value is None:
        return reader.labels(path, len(PARTS) - 1)
    part = np.asarray(reader.image(path).convert("L")) > 0
    if mask.size > 1 and mask.shape != part.shape:
        raise DataError(f"{path} has another size than the other parts of this image: put an intact copy in its place")
    return np.where(part, np.uint8(value), mask)


def read_attributes(path, files):
    """Return {id: {task: 0 or 1}} for the ids in `files`; `DataError` if one of them has no valid line in the list."""
    lines = images.read_text(path)
    if len(lines) < 3 or not set(ATTRIBUTES.values()) <= set(names := lines[1].split()):
        raise DataError(f"{path} does not name {' and '.join(ATTRIBUTES.values())} in its second line: restore it")
    found = {}
    for line in lines[2:]:
        file, *values = line.split()
        if (i := file.rsplit(".", 1)[0]) not in files:
            continue
        if len(values) != len(names) or not set(values) <= {"-1", "1"}:
            raise DataError(f"{path}, line of {file}: expected {len(names)} values of -1 or 1, restore the file")
        found[i] = {task: np.uint8(values[names.index(label)] == "1") for task, label in ATTRIBUTES.items()}
    if missing := sorted(set(files) - set(found), key=images.natural):
        what = "no image present" if not found else f"not {files[missing[0]].name} ({len(missing)} missing)"
        raise DataError(f"{path} names {what}: take the attribute file that belongs to the images in CelebA-HQ-img")
    return found
