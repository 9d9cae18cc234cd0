"""Write the official release of NYU Depth v2 as the folder layout that `companion.data.nyuv2` reads.

    python examples/convert_nyuv2.py nyu_depth_v2_labeled.mat splits.mat classMapping40.mat OUT

The first file (2.8 GB) and splits.mat are on the page of the data set, classMapping40.mat with the code of Gupta et al.
(CVPR 2013). OUT is a new folder.
"""

import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from sparsemtl.errors import DataError, SparseMTLError, SpecError, one_line
from tqdm import tqdm


def convert_nyuv2(mat_path, splits_path, mapping, out):
    """Write the official NYU-v2 release as the folder layout that `load_nyuv2` reads.

    mat_path: nyu_depth_v2_labeled.mat (MATLAB 7.3, that is HDF5). splits_path: splits.mat. mapping: classMapping40.mat,
    or its 894 numbers: the class 1 .. 40 of each of the 894 labels. out: a new folder; images as JPEG, in-filled depth
    as 16-bit PNG in millimetres, no normals (the loader computes them). The split lists are written last: without them
    a folder is not complete. Raises `DataError`.
    """
    import h5py

    out, splits = Path(out), _matlab(splits_path, "trainNdxs", "testNdxs")
    if isinstance(mapping, str | Path):
        mapping = _matlab(mapping, "mapClass")[0]
    class_of = np.concatenate([[0], np.ravel(mapping)]).astype(np.uint8)
    try:
        with h5py.File(mat_path) as mat:
            images, labels, depths = mat["images"], mat["labels"], mat["depths"]
            for rows in splits:
                if rows.size == 0 or rows.min() < 1 or rows.max() > len(images):
                    raise DataError(f"{splits_path} lists images outside 1 .. {len(images)}: it is of another release")
            for folder in ("images", "segmentation", "depth", "gt_sets"):
                (out / folder).mkdir(parents=True, exist_ok=True)
            for row in tqdm(range(len(images)), desc="converting nyuv2", unit="image", disable=None):
                # MATLAB stores columns first: every array comes transposed.
                label, depth = labels[row].T, depths[row].T
                if label.max() >= len(class_of):
                    raise DataError(f"{mat_path} has label {label.max()}, the class map ends at {len(class_of) - 1}")
                name = f"{row + 1:05d}"
                Image.fromarray(images[row].T).save(out / "images" / f"{name}.jpg", quality=95)
                Image.fromarray(class_of[label]).save(out / "segmentation" / f"{name}.png")
                Image.fromarray((depth * 1000).round().astype(np.uint16)).save(out / "depth" / f"{name}.png")
    except (OSError, KeyError) as error:
        raise DataError(
            f"cannot convert {mat_path} to {out} ({one_line(error)}): expected nyu_depth_v2_labeled.mat, an HDF5 file "
            "of 2.8 GB with images, labels and depths; download it again"
        ) from error
    for name, rows in zip(("train", "test"), splits, strict=True):
        (out / "gt_sets" / f"{name}.txt").write_text("".join(f"{row:05d}\n" for row in sorted(rows.ravel())))


def _matlab(path, *names):
    """Return the arrays `names` of a MATLAB 5 file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
        return [content[name].astype(int) for name in names]
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise DataError(f"cannot read {', '.join(names)} from {path} ({one_line(error)}): download it again") from error


if __name__ == "__main__":
    try:
        if len(sys.argv) != 5:
            raise SpecError("give four paths: labeled.mat, splits.mat, classMapping40.mat and a new folder")
        convert_nyuv2(*sys.argv[1:])
    except SparseMTLError as error:
        sys.exit(f"convert_nyuv2: {error}")
