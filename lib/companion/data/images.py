"""What the image data sets share: the result type, checked reading of files, splits, one decode and then a cache."""

import hashlib
import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sparsemtl.errors import DataError, SpecError, one_line
from tqdm import tqdm

from companion.data.cache import cached, cached_folder, sha256_of

VERSION = 2  # of the decoding below; raise it when decoded arrays change, so that old caches are not used


@dataclass(frozen=True, eq=False)
class Images:
    """A whole data set of square images in memory; row i of every tensor is image `ids[i]`.

    The targets that a set may have: "seg" uint8 (n, size, size), a class or `VOID`; "normal" float16 (n, 3, size,
    size), unit vectors in camera axes or zero; "depth" float16 (n, 1, size, size), metres along the optical axis or
    zero; "male" and "smile" uint8 (n,), 0 or 1.
    """

    name: str
    images: torch.Tensor = field(repr=False)  # uint8 (n, 3, size, size), RGB
    targets: dict[str, torch.Tensor] = field(repr=False)
    splits: dict[str, torch.Tensor] = field(repr=False)  # "train", "val", "test" -> int64 rows
    classes: tuple[str, ...] = field(repr=False)  # of "seg"
    ids: tuple[str, ...] = field(repr=False)
    fingerprint: str  # SHA-256 of source files, options and splits; of simulated sets, of what they were made from

    def __len__(self):
        return len(self.images)

    @property
    def size(self):
        """Side of the images in pixels."""
        return self.images.shape[-1]

    def to(self, device):
        """Return the same set with every tensor on `device`."""
        targets = {task: target.to(device) for task, target in self.targets.items()}
        splits = {split: rows.to(device) for split, rows in self.splits.items()}
        return replace(self, images=self.images.to(device), targets=targets, splits=splits)


def opened(path, data):
    """Return the array of a .npy file or the PIL image of another with these bytes; `DataError` if it is damaged."""
    try:
        if path.suffix == ".npy":
            return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    except Exception as error:  # what Pillow and numpy raise for damaged files has no common base
        raise DataError(f"cannot read {path} ({one_line(error, 200)}): put an intact copy in its place") from error


def labels(path, image, highest):
    """Return the (H, W) class numbers of a label image; `DataError` if it holds anything but 0 to `highest`."""
    if image.mode not in ("L", "P", "I", "I;16"):
        raise DataError(f"{path} has {image.mode} pixels: a label map has one channel of 8 or 16 bits, the classes")
    numbers = np.asarray(image)
    if not 0 <= numbers.min() <= numbers.max() <= highest:
        raise DataError(f"{path} holds label {numbers.max()}, the highest class is {highest}: check the class map")
    return numbers.astype(np.uint8)


def find_folder(root, name, marker):
    """Return the folder of data set `name`, which has a subfolder `marker`: `root` (SPARSEMTL_DATA) or below it."""
    root = root or os.environ.get("SPARSEMTL_DATA")
    if not root:
        raise DataError(f"no folder given for {name}: pass root=, or set SPARSEMTL_DATA to the folder above {name}/")
    for folder in (Path(root, name), Path(root)):
        if (folder / marker).is_dir():
            return folder
    raise DataError(f"no {marker}/ in {root} or in {Path(root, name)}: set root= or SPARSEMTL_DATA to where {name} is")


class Files(dict):
    """{name without suffix: path} of the files in `folder` with one of `suffixes`; `DataError` for a name not there."""

    def __init__(self, folder, *suffixes):
        self.folder = folder
        if not folder.is_dir():
            raise DataError(f"folder {folder} is missing: this part of the data set is needed, restore it")
        shown = (path for path in folder.iterdir() if not path.name.startswith("."))  # macOS: ._0.jpg beside 0.jpg
        for path in sorted(path for path in shown if path.suffix in suffixes):
            if not path.is_file():
                raise DataError(f"{path} is not a file or a broken link: put an intact copy in its place")
            if path.stem in self:
                raise DataError(f"{path} is there beside {self[path.stem].name}: delete the one that is not meant")
            self[path.stem] = path

    def __missing__(self, name):
        raise DataError(f"{self.folder} has no file for image {name}: restore the data set")


def check_options(size, n, seed):
    """Raise `SpecError` unless size >= 8, n is None or >= 3 (one for each split), and seed >= 0."""
    if size < 8 or (n is not None and n < 3) or seed < 0:
        raise SpecError(f"size={size}, n={n}, seed={seed}: need size >= 8 pixels, n >= 3 images, seed >= 0")


def shrink(image, size):
    """Return a PIL image as uint8 (3, size, size), low-pass filtered if it gets smaller."""
    image = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def nearest(array, size):
    """Return (H, W, ...) resampled to (size, size, ...) by picking the nearest pixel: no value is invented."""
    rows, columns = ((2 * np.arange(size) + 1) * side // (2 * size) for side in array.shape[:2])
    return array[rows[:, None], columns]


def natural(name):
    """Sort key that puts "9" before "10"."""
    return len(name), name


def random_split(ids, shares, seed):
    """Cut `ids` at random into {split: ids}; each split of `shares` gets its share, at least one; "train" the rest."""
    order = np.random.default_rng(seed).permutation(sorted(ids, key=natural)).tolist()
    lists = {}
    for split, share in shares.items():
        count = max(1, round(share * len(ids)))
        lists[split], order = order[:count], order[count:]
    if not order:
        raise DataError(f"{len(ids)} images are too few to split in train, {', '.join(shares)}: add images")
    return {"train": order, **lists}


def thin(lists, n):
    """Keep about `n` images (None: all), evenly spread over each split, the splits in proportion, one at least."""
    total = sum(map(len, lists.values()))
    if n is None or n >= total:
        return lists
    kept = {}
    for split, ids in lists.items():
        chosen = np.linspace(0, len(ids) - 1, max(1, round(n * len(ids) / total))).round().astype(int)
        kept[split] = [sorted(ids, key=natural)[i] for i in chosen]
    return kept


def gather(name, folder, lists, find, parse, finish, classes, options, scales=(1,)):
    """Decode all images once, or take them from the cache, and return them as `Images`.

    lists: split -> ids. find: id -> {part: path}, all files of an image, which comes first. parse: (part, path, PIL
    image or array of a .npy file) -> ndarray (height, width, ...) of another part. scales: how many times its size the
    image may have. finish: (id, {part: ndarray (size, size, ...)}) -> {task: ndarray}. options: "size", and whatever
    else changes the arrays; JSON-able. Raises `DataError` if a file is damaged or unfit, or two images are the same: a
    split could put one into training and one into test.
    """
    ids = sorted((i for part in lists.values() for i in part), key=natural)
    paths, size = {i: find(i) for i in ids}, options["size"]
    stats = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for files in paths.values() for p in files.values()]

    def make():
        sha, arrays, first = hashlib.sha256(), {}, {}  # sha: of names and bytes of all files, in order
        for row, i in enumerate(tqdm(ids, desc=f"decoding {name}", unit="image", disable=None)):
            image, parts = None, {}
            for part, path in paths[i].items():
                data = path.read_bytes()
                sha.update(f"{path.relative_to(folder).as_posix()} {len(data)}\n".encode() + data)
                content = opened(path, data)
                if image is None:
                    image = content
                    continue
                value = parse(part, path, content)
                height, width = value.shape[:2]
                if image.size not in [(k * width, k * height) for k in scales]:
                    sizes = f"{width} x {height} pixels, its image {image.width} x {image.height}"
                    raise DataError(f"{path} has {sizes}: all parts of an image must have one size")
                parts[part] = nearest(value, size)
            decoded = {"image": shrink(image, size), **finish(i, parts)}
            if (twin := first.setdefault(hashlib.sha256(decoded["image"].tobytes()).digest(), i)) != i:
                raise DataError(f"{folder}: images {twin} and {i} are the same, a leak to the test: delete one")
            for task, value in decoded.items():
                if row == 0:
                    arrays[task] = np.empty((len(ids), *value.shape), value.dtype)
                arrays[task][row] = value
        return {**arrays, "source": np.array(sha.hexdigest())}

    arrays = cached(name, {"version": VERSION, "options": options, "ids": ids, "files": sha256_of(stats)}, make)
    source, row_of = str(arrays.pop("source")), {i: row for row, i in enumerate(ids)}
    tensors = {task: torch.from_numpy(array) for task, array in arrays.items() if task != "proof"}
    splits = {split: torch.tensor(sorted(row_of[i] for i in lists[split])) for split in ("train", "val", "test")}
    fingerprint = sha256_of([VERSION, source, options, {split: sorted(part) for split, part in lists.items()}])
    return Images(name, tensors.pop("image"), tensors, splits, classes, tuple(ids), fingerprint)


def simulated(name, version, write, load_real, root=None, size=64, n=60, seed=0):
    """Load `n` simulated images as `load_real` does; `write(folder, n, size, seed)` makes the files. root: unused."""
    check_options(size, n, seed)
    key = [name, version, n, size, seed]
    folder = cached_folder(f"{name}-{sha256_of(key)[:24]}", lambda part: write(part, n, size, seed))
    # Named by what made it: JPEG coders and floating point differ a little from machine to machine.
    return replace(load_real(folder, size, seed=seed, name=name), fingerprint=sha256_of(key))
