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

from pathlib import Path

import numpy as np
import pandas as pd
from sparsemtl.errors import DataError, one_line

from companion.data import images

CLASSES = ("background", "hair", "skin")
# Value in the merged mask is the place in this tuple; a later part covers an earlier one.
PARTS = (  # noqa: SIM905
    "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip "
    "hair hat ear_r neck_l neck cloth"
).split()
SKIN = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
CLASS_OF = np.array([2 if part in SKIN else int(part == "hair") for part in PARTS], np.uint8)
ATTRIBUTES = {"Male": "male", "Smiling": "smile"}
SHARES = {"val": 0.2, "test": 0.2}  # the paper: 60-20-20 at random


def load_celebamask(root=None, size=256, n=None, seed=0, name="celebamask"):
    """Load CelebAMask-HQ as `Images` with the targets "seg" (background, hair, skin), "male" and "smile".

    root, size, n: as `companion.data.load`. seed: of the random 60-20-20 split of the images present.
    """
    images.check_options(size, n, seed)
    folder = images.find_folder(root, name, "CelebA-HQ-img")
    files = images.Files(folder / "CelebA-HQ-img", ".jpg", ".png")
    attributes = read_attributes(folder / "CelebAMask-HQ-attribute-anno.txt", files)
    lists = images.thin(images.random_split(list(files), SHARES, seed), n)
    masks = _masks(folder)

    def parse(part, path, content):
        if part == "merged":
            return images.labels(path, content, len(PARTS) - 1)
        return np.asarray(content.convert("L")) > 0

    def finish(i, parts):
        mask = parts.get("merged", np.zeros((size, size), np.uint8))
        for value, part in enumerate(PARTS):
            if part in parts:
                mask[parts[part]] = value
        return {"seg": CLASS_OF[mask]} | {task: np.uint8(value) for task, value in attributes[i].items()}

    chosen = {i: attributes[i] for part in lists.values() for i in part}
    options, scales = {"size": size, "attributes": images.sha256_of(chosen)}, (1, 2)  # official masks: half the side
    return images.gather(
        name, folder, lists, lambda i: {"image": files[i]} | masks(i), parse, finish, CLASSES, options, scales
    )


def _masks(folder):
    """Return id -> {part: path}: one merged mask, or the parts present in the order of merging."""
    merged, parts = folder / "CelebAMaskHQ-mask", folder / "CelebAMask-HQ-mask-anno"
    if merged.is_dir():
        files = images.Files(merged, ".png")
        return lambda i: {"merged": files[i]}
    if not parts.is_dir():
        raise DataError(f"{folder} has neither {merged.name}/ nor {parts.name}/: restore one of the two mask folders")
    found = images.Files(parts, ".png")
    for subfolder in sorted(filter(Path.is_dir, parts.iterdir())):
        found |= images.Files(subfolder, ".png")
    return lambda i: {part: found[f"{i:0>5}_{part}"] for part in PARTS if part == "skin" or f"{i:0>5}_{part}" in found}


def read_attributes(path, files):
    """Return {id: {task: 0 or 1}} for the ids in `files`; `DataError` if one of them has no valid line in the list."""
    try:
        table = pd.read_csv(path, sep=r"\s+", skiprows=1, encoding="utf-8-sig")[[*ATTRIBUTES]]
    except (OSError, ValueError, KeyError) as error:  # those of pandas are ValueErrors
        raise DataError(f"cannot read the attributes of {path} ({one_line(error)}): restore this file") from error
    table.index = [str(name).rpartition(".")[0] for name in table.index]
    if missing := sorted(set(files) - set(table.index), key=images.natural):
        lacks = f"has no line of {files[missing[0]].name} ({len(missing)} missing)"
        raise DataError(f"{path} {lacks}: take that of the images")
    if not (here := table[table.index.isin(files)]).isin([-1, 1]).all(axis=None) or here.index.has_duplicates:
        raise DataError(f"{path} has other values than one of -1 or 1 for each image: restore this file")
    return here.eq(1).astype(int).rename(columns=ATTRIBUTES).to_dict("index")
