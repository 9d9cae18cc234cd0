import numpy as np
import pytest
import torch
from companion.data import load
from companion.data.celebamask import PARTS, load_celebamask
from companion.data.faces import load_faces, render, write_faces
from sklearn.linear_model import LogisticRegression


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMTL_CACHE", str(tmp_path / "cache"))


def where(mask, *parts):
    return np.argwhere(np.isin(mask, [PARTS.index(part) for part in parts]))


def test_a_face_is_put_together_like_one():
    for seed in range(20):
        image, mask = render(np.random.default_rng(seed), 64, male=seed % 2, smile=seed % 3 == 0)
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((64, 64, 3), np.uint8, (64, 64), np.uint8)
        hair, eyes, nose, lips = (
            where(mask, *parts).mean(0) for parts in (["hair"], ["l_eye", "r_eye"], ["nose"], ["u_lip", "l_lip"])
        )
        assert where(mask, "hair")[:, 0].min() < eyes[0] < nose[0] < lips[0]  # rows, from the top
        assert where(mask, "l_eye")[:, 1].max() < nose[1] < where(mask, "r_eye")[:, 1].min()
        assert len(where(mask, "skin")) > 400
        assert hair[0] < lips[0]


def test_corners_of_the_mouth_are_up_in_a_smile():
    for seed in range(40):
        for smile in (False, True):
            mask = render(np.random.default_rng(seed), 96, male=False, smile=smile)[1]
            rows, columns = where(mask, "mouth", "u_lip", "l_lip").T
            middle = np.median(columns)
            far = np.abs(columns - middle) > 0.75 * np.abs(columns - middle).max()
            near = np.abs(columns - middle) < 0.3 * np.abs(columns - middle).max()
            assert (rows[near].mean() - rows[far].mean() > 1) == smile


def test_men_have_short_hair_and_beards_more_often():
    # Hair below the eyes' row by more than a quarter of the image is long.
    def long_hair(male):
        masks = [render(np.random.default_rng(seed), 48, male, False)[1] for seed in range(100)]
        return np.mean([where(mask, "hair")[:, 0].max() > where(mask, "l_eye")[:, 0].mean() + 12 for mask in masks])

    assert long_hair(male=True) < 0.25
    assert long_hair(male=False) > 0.7


def test_attributes_can_be_learnt_from_the_pixels():
    """A linear model of the contrast to the middle of the face does much better than the larger class."""
    faces = load_faces(size=24, n=500)
    colours = faces.images.float() / 255
    middle = colours[:, :, 10:14, 9:15].mean((2, 3), keepdim=True)
    contrast = (colours - middle).abs().sum(1).flatten(1).numpy()
    train, test = faces.splits["train"], torch.cat([faces.splits["val"], faces.splits["test"]])
    for task in ("male", "smile"):
        truth = faces.targets[task].numpy()
        model = LogisticRegression(C=0.05, max_iter=300).fit(contrast[train], truth[train])
        majority = max(truth[test].mean(), 1 - truth[test].mean())
        assert majority < 0.6
        assert model.score(contrast[test], truth[test]) > majority + 0.1


def test_a_face_depends_on_its_seed_and_number_alone(tmp_path):
    for name, n, seed in (("a", 3, 5), ("b", 4, 5), ("c", 3, 6)):
        write_faces(tmp_path / name, n, 16, seed)
    for file in ("CelebA-HQ-img/2.jpg", "CelebAMaskHQ-mask/2.png"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


def test_load_faces_is_the_celebamask_loader_on_the_same_files(tmp_path):
    faces = load("faces", size=16, n=12, seed=2)
    write_faces(tmp_path / "celebamask", 12, 16, 2)
    expected = load_celebamask(tmp_path, size=16, seed=2)
    assert torch.equal(faces.images, expected.images)
    assert faces.targets.keys() == expected.targets.keys() == {"seg", "male", "smile"}
    assert all(torch.equal(faces.targets[task], expected.targets[task]) for task in faces.targets)
    assert all(torch.equal(faces.splits[split], expected.splits[split]) for split in ("train", "val", "test"))
    assert load_faces(size=16, n=12, seed=2).fingerprint == faces.fingerprint
    assert load_faces(size=16, n=12, seed=3).fingerprint != faces.fingerprint


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"cut")])
def test_a_set_that_lost_a_file_is_made_again(tmp_path, damage):
    """Its fingerprint names what was asked for: nothing less may be loaded under it."""
    first = load_faces(size=16, n=20)
    damage(next((tmp_path / "cache").glob("faces-*/**/*.jpg")))
    for decoded in (tmp_path / "cache").glob("*.npz"):
        decoded.unlink()
    again = load_faces(size=16, n=20)
    assert torch.equal(again.images, first.images)
    assert again.fingerprint == first.fingerprint
