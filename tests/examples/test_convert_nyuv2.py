"""The converter writes what the loader of NYU-v2 reads."""

import numpy as np
import pytest
from companion.data.nyuv2 import load_nyuv2
from convert_nyuv2 import convert_nyuv2
from PIL import Image
from scipy.io import savemat
from sparsemtl.errors import DataError


@pytest.fixture
def official(tmp_path):
    """Six 40 x 30 images in the structure of nyu_depth_v2_labeled.mat: every array as MATLAB's HDF5 stores it."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(30), 2 * np.arange(40))
    rgb = np.stack([np.stack([ramp + 10 * k, 200 - ramp, 0 * ramp + 30 * k], -1) for k in range(6)]).astype(np.uint8)
    depths = rng.uniform(0.8, 9.0, (6, 30, 40)).astype(np.float32)
    labels = rng.integers(0, 895, (6, 30, 40)).astype(np.uint16)
    with h5py.File(tmp_path / "labeled.mat", "w") as mat:
        mat["images"] = rgb.transpose(0, 3, 2, 1)
        mat["depths"], mat["labels"] = depths.transpose(0, 2, 1), labels.transpose(0, 2, 1)
    class_of = rng.integers(1, 41, 894)
    savemat(tmp_path / "classMapping40.mat", {"mapClass": class_of[None].astype(np.uint8)})
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1], [3], [4], [6]]), "testNdxs": np.array([[2], [5]])})
    return tmp_path, rgb, depths, labels, class_of


@pytest.mark.parametrize("kind", ["numbers", "file"])
def test_converted_release_reads_back(official, kind):
    folder, rgb, depths, labels, class_of = official
    given, out = class_of if kind == "numbers" else folder / "classMapping40.mat", folder / "out"
    convert_nyuv2(folder / "labeled.mat", folder / "splits.mat", given, out)
    for k in range(6):
        names = (f"images/{k + 1:05d}.jpg", f"depth/{k + 1:05d}.png", f"segmentation/{k + 1:05d}.png")
        image, depth, seg = (np.asarray(Image.open(out / name)).astype(float) for name in names)
        assert np.abs(image - rgb[k]).mean() < 3
        np.testing.assert_allclose(depth / 1000, depths[k], atol=0.00051)
        np.testing.assert_array_equal(seg, np.array([0, *class_of])[labels[k]])
    images = load_nyuv2(out, size=16)
    assert {split: len(rows) for split, rows in images.splits.items()} == {"train": 3, "val": 1, "test": 2}
    assert [images.ids[row] for row in images.splits["test"]] == ["00002", "00005"]


@pytest.mark.parametrize("broken", ["labeled.mat", "splits.mat", "classMapping40.mat"])
@pytest.mark.parametrize("content", [b"", b"not a MATLAB file", None])
def test_converter_names_a_file_of_the_wrong_kind(official, broken, content):
    folder = official[0]
    path = folder / broken
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=broken) as caught:
        convert_nyuv2(folder / "labeled.mat", folder / "splits.mat", folder / "classMapping40.mat", folder / "out")
    assert "\n" not in str(caught.value)
    assert not (folder / "out" / "gt_sets" / "train.txt").exists()


def test_converter_refuses_splits_and_maps_of_another_release(official):
    folder, *_, class_of = official
    savemat(folder / "other.mat", {"trainNdxs": np.array([[1]]), "testNdxs": np.array([[7]])})
    wrong = ("other.mat", class_of, "other.mat"), ("splits.mat", class_of[:10], "map ends at 10")
    for splits, classes, named in wrong:
        with pytest.raises(DataError, match=named):
            convert_nyuv2(folder / "labeled.mat", folder / splits, classes, folder / "out")
