"""What the picture data sets share: the result type, checked reading of files, splits, one decode then a cache."""

import hashlib
import io
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from PIL import Image
from sparsemtl.errors import DataError, SpecError, one_line
from tqdm import tqdm

from companion.data.cache import cache_dir, cached, is_whole, seal, sha256_of

VERSION = 1  # of the decoding below; raise it when decoded arrays change, so that old caches are not used


@dataclass(frozen=True, eq=False)
class Pictures:
    """A whole data set of square pictures in memory, targets by task name; row i of every tensor is picture `ids[i]`.

    images: uint8 (n, 3, size, size), RGB.
    targets: "seg" uint8 (n, size, size), 0 .. len(classes) - 1, or `VOID` where there is no label;
    "normal" float16 (n, 3, size, size), unit vectors in camera axes, all zero where there is none;
    "depth" float16 (n, 1, size, size), metres along the optical axis, zero where there is none;
    "male", "smile" uint8 (n,), 0 or 1. A data set has the tasks it has.
    splits: "train", "val", "test" to int64 rows. classes: names of the segmentation labels.
    fingerprint: sha256 of source files, options and splits; simulated sets: of what they were made from.
    """

    name: str
    images: torch.Tensor = field(repr=False)
    targets: dict[str, torch.Tensor] = field(repr=False)
    splits: dict[str, torch.Tensor] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    fingerprint: str

    def __len__(self):
        """Count of pictures, all splits together."""
        return len(self.images)

    @property
    def size(self):
        """Side of the pictures in pixels."""
        return self.images.shape[-1]

    def to(self, device):
        """Return the same set with every tensor on `device`."""
        targets = {task: target.to(device) for task, target in self.targets.items()}
        splits = {split: rows.to(device) for split, rows in self.splits.items()}
        return replace(self, images=self.images.to(device), targets=targets, splits=splits)


class Reader:
    """Reads the files of one folder; `digest` covers names and bytes of all that was read, in order."""

    def __init__(self, folder):
        self.folder, self._sha = folder, hashlib.sha256()

    def _bytes(self, path):
        data = path.read_bytes()
        self._sha.update(f"{path.relative_to(self.folder).as_posix()} {len(data)}\n".encode() + data)
        return io.BytesIO(data)

    def picture(self, path):
        """Return the decoded PIL image of a JPEG or PNG; `DataError` if it is damaged."""
        try:
            image = Image.open(self._bytes(path))
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:  # no common base
            raise DataError(f"cannot read {path} ({one_line(error)}): put an intact copy in its place") from error
        return image

    def npy(self, path):
        """Return the array of a .npy file; `DataError` if it is damaged or holds Python objects."""
        try:
            return np.lib.format.read_array(self._bytes(path), allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError, TokenError) as error:
            raise DataError(f"cannot read {path} ({one_line(error)}): put an intact copy in its place") from error

    def labels(self, path, highest):
        """Return the (H, W) integers of a label PNG; `DataError` for a value above `highest`."""
        labels = np.asarray(self.picture(path))
        if labels.ndim != 2:
            raise DataError(f"{path} is a colour picture: label maps have one channel that holds the class number")
        if labels.max() > highest:
            raise DataError(
                f"{path} holds label {labels.max()}, above the highest class {highest}: check the class map"
            )
        return labels

    def digest(self):
        """Return the sha256 of everything read so far."""
        return self._sha.hexdigest()


def read_text(path):
    """Return the lines of a text file without blank ones; `DataError` if it is missing or not text."""
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({one_line(error)}): restore this file of the data set") from error


def find_folder(root, name, marker):
    """Return the folder of data set `name`: below `root` or SPARSEMTL_DATA, or that folder itself.

    marker: a subfolder by which the data set is known.
    """
    root = root or os.environ.get("SPARSEMTL_DATA")
    if not root:
        raise DataError(f"no folder given for {name}: pass root=, or set SPARSEMTL_DATA to the folder above {name}/")
    for folder in (Path(root) / name, Path(root)):
        if (folder / marker).is_dir():
            return folder
    raise DataError(f"no {marker}/ in {root} or in {Path(root) / name}: set root= or SPARSEMTL_DATA to where {name} is")


def files_by_stem(folder, suffixes):
    """Return {file name without suffix: path} of the files in `folder` with one of `suffixes`."""
    if not folder.is_dir():
        raise DataError(f"folder {folder} is missing: this part of the data set is needed, restore it")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in suffixes}


def need_all(ids, files, folder):
    """Raise `DataError` if an id of `ids` has no file in `files`, which lie in `folder`."""
    if missing := [i for i in ids if i not in files]:
        raise DataError(f"{folder} has no file for picture {missing[0]} ({len(missing)} missing): restore the data set")


def check_options(size, n, seed):
    """Raise `SpecError` unless size >= 8, n is None or >= 3 (one for each split), and seed >= 0."""
    if size < 8 or (n is not None and n < 3) or seed < 0:
        raise SpecError(f"size={size}, n={n}, seed={seed}: need size >= 8 pixels, n >= 3 pictures, seed >= 0")


def shrink(image, size):
    """Return a PIL image as uint8 (3, size, size), low-pass filtered where it gets smaller."""
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
        raise DataError(f"{len(ids)} pictures are too few to split in train, {', '.join(shares)}: add pictures")
    return {"train": order, **lists}


def thin(lists, n):
    """Keep about `n` pictures (None: all), evenly spread over each split, the splits in proportion, one at least."""
    total = sum(map(len, lists.values()))
    if n is None or n >= total:
        return lists
    kept = {}
    for split, ids in lists.items():
        chosen = np.linspace(0, len(ids) - 1, max(1, round(n * len(ids) / total))).round().astype(int)
        kept[split] = [sorted(ids, key=natural)[i] for i in chosen]
    return kept


def gather(name, folder, lists, paths, decode, classes, options):
    """Decode all pictures of `lists` once, or take them from the cache, and return them as `Pictures`.

    lists: {split: ids}. paths: the files that `decode` reads. decode(reader, id) -> {"image" or task: ndarray}.
    options: JSON-able, whatever else changes the decoded arrays.
    """
    ids = sorted((i for part in lists.values() for i in part), key=natural)
    stats = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]

    def make():
        reader, arrays = Reader(folder), {}
        for row, i in enumerate(tqdm(ids, desc=f"decoding {name}", unit="picture", disable=None)):
            for task, value in decode(reader, i).items():
                value = np.asarray(value)
                if row == 0:
                    arrays[task] = np.empty((len(ids), *value.shape), value.dtype)
                arrays[task][row] = value
        return {**arrays, "source": np.array(reader.digest())}

    key = {"version": VERSION, "options": options, "ids": ids, "files": sha256_of(stats)}
    arrays = cached(name, key, make)
    source = str(arrays.pop("source"))
    tensors = {task: torch.from_numpy(array) for task, array in arrays.items()}
    row_of = {i: row for row, i in enumerate(ids)}
    return Pictures(
        name=name,
        images=tensors.pop("image"),
        targets=tensors,
        splits={split: torch.tensor(sorted(row_of[i] for i in lists[split])) for split in ("train", "val", "test")},
        classes=classes,
        ids=tuple(ids),
        fingerprint=sha256_of([VERSION, source, options, {split: sorted(part) for split, part in lists.items()}]),
    )


def simulated(name, version, write, load_folder, size, n, seed):
    """Load a simulated set as `Pictures`; `write(folder, n, size, seed)` makes its files unless the cache has them."""
    check_options(size, n, seed)
    key = [name, version, n, size, seed]
    folder = _made_once(name, key, lambda out: write(out, n, size, seed))
    # Named by what made it: JPEG coders and floating point differ a little from machine to machine.
    return replace(load_folder(name, folder, size, seed=seed), fingerprint=sha256_of(key))


def _made_once(name, key, write):
    """Return the cache folder of a simulated set, made by `write(folder)` unless it was made before with this `key`."""
    folder = cache_dir() / f"{name}-{sha256_of(key)[:24]}"
    if is_whole(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # a file of it was deleted or cut: all of them again
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place and then renamed, so that a run cut off leaves no half of it.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{name}-") as part:
            made = Path(part) / name
            write(made)
            seal(made)
            try:
                made.rename(folder)
            except OSError:
                if not is_whole(folder):  # otherwise another process made the same folder first
                    raise
    except OSError as error:
        raise DataError(
            f"cannot write {folder} ({error.strerror}): free space there, or set SPARSEMTL_CACHE to a folder "
            "that can be written"
        ) from error
    return folder
