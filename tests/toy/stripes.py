"""Stripes: a toy data set of the checklist "Add a data set", images of dark and light stripes in a folder."""

import numpy as np
from companion.data import images
from PIL import Image


def write_stripes(folder, n=12, size=16):
    """Write `n` images and label maps: the class of a row is 1 where it is light."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(n):
        rows = rng.integers(0, 2, (size, 1)).astype(np.uint8) * np.ones((1, size), np.uint8)
        Image.fromarray((40 + 160 * rows + rng.integers(0, 40, rows.shape)).astype(np.uint8)).save(
            folder / "images" / f"{i}.png"
        )
        Image.fromarray(rows).save(folder / "labels" / f"{i}.png")


def load_stripes(root=None, size=16, n=None, seed=0):
    """Load the folder as `Images` with the target "seg"."""
    images.check_options(size, n, seed)
    folder = images.find_folder(root, "stripes", "images")
    files = {name: images.Files(folder / name, ".png") for name in ("images", "labels")}
    lists = images.thin(images.random_split(list(files["images"]), {"val": 0.2, "test": 0.2}, seed), n)
    return images.gather(
        "stripes", folder, lists, lambda i: {name: found[i] for name, found in files.items()},
        lambda part, path, content: images.labels(path, content, 1), lambda i, parts: {"seg": parts["labels"]},
        ("dark", "light"), {"size": size},
    )  # fmt: skip
