"""Faces: a simulated twin of CelebAMask-HQ. Drawn heads with two attributes that show in the pixels."""

from functools import partial

import numpy as np
from PIL import Image

from companion.data.celebamask import PARTS, load_celebamask
from companion.data.images import simulated

VERSION = 2  # raise it when the images change
SKIN_TONES = np.array([(0.95, 0.80, 0.70), (0.85, 0.65, 0.50), (0.65, 0.45, 0.32), (0.42, 0.28, 0.20)])
HAIR_TONES = np.array([(0.12, 0.09, 0.08), (0.35, 0.22, 0.12), (0.80, 0.65, 0.35), (0.55, 0.25, 0.12), (0.6, 0.6, 0.6)])


def write_faces(out, n, size, seed):
    """Write `n` faces as the folder layout of `companion.data.celebamask`, with merged masks and two attributes."""
    lines = [str(n), "Male Smiling"]
    for folder in ("CelebA-HQ-img", "CelebAMaskHQ-mask"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        male, smile = rng.random(2) < 0.5
        image, mask = render(rng, size, male, smile)
        Image.fromarray(image).save(out / "CelebA-HQ-img" / f"{i}.jpg", quality=95)
        Image.fromarray(mask).save(out / "CelebAMaskHQ-mask" / f"{i}.png")
        lines.append(f"{i}.jpg {2 * male - 1:2d} {2 * smile - 1:2d}")
    (out / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")


def render(rng, size, male, smile):
    """Draw one head: image uint8 (size, size, 3) and mask uint8 (size, size), numbered as `celebamask.PARTS`.

    male shows, but not surely: short hair in 95 % (else 10 %) and a beard in 80 % (else none) of the heads.
    smile bends the corners of the mouth up and opens it. Coordinates: x right, y down, the image is -1 .. 1.
    """
    y, x = (np.mgrid[:size, :size] + 0.5) * 2 / size - 1
    x, y = x - rng.normal(0, 0.05), y - rng.normal(-0.05, 0.04)
    a, b = rng.uniform(0.40, 0.50), rng.uniform(0.55, 0.65)
    short, beard = rng.random() < (0.95 if male else 0.1), male and rng.random() < 0.8
    skin = SKIN_TONES[rng.integers(len(SKIN_TONES))] * rng.uniform(0.9, 1.05)
    hair = HAIR_TONES[rng.integers(len(HAIR_TONES))] * rng.uniform(0.8, 1.1)
    image = rng.uniform(0.1, 0.9, 3) + (x * rng.normal(0, 0.15))[..., None] * np.ones(3)
    mask = np.zeros((size, size), np.uint8)

    def paint(where, part, colour):
        mask[where] = PARTS.index(part)
        image[where] = colour

    def ellipse(x0, y0, rx, ry):
        return ((x - x0) / rx) ** 2 + ((y - y0) / ry) ** 2 < 1

    head = ellipse(0, 0, a, b)
    paint(ellipse(0, b + 0.65, 2 * a, 0.45), "cloth", rng.uniform(0.1, 0.9, 3))
    behind = ellipse(0, -0.1 if short else 0.12, 1.22 * a, (1.12 if short else 1.25) * b)
    paint(behind & (y < (-0.15 * b if short else b + 0.2)), "hair", hair)
    paint((np.abs(x) < 0.45 * a) & (y > 0.5 * b) & (y < b + 0.3), "neck", 0.85 * skin)
    paint(head, "skin", skin)
    if beard:  # on the skin, as in CelebAMask-HQ's masks
        image[head & (y > 0.22 * b) & ((np.abs(x) > 0.5 * a) | (y > 0.36 * b))] = 0.35 * skin + 0.65 * hair
    paint(head & (y < -b * rng.uniform(0.45, 0.65)), "hair", hair)
    for side, eye in ((-1, "l_eye"), (1, "r_eye")):
        paint(ellipse(side * 0.45 * a, -0.12 * b, 0.09, 0.05), eye, (0.95, 0.95, 0.95))
        image[ellipse(side * 0.45 * a, -0.12 * b, 0.04, 0.045)] = rng.uniform(0.05, 0.3, 3)
    paint(ellipse(0, 0.15 * b, 0.06, 0.12), "nose", 0.88 * skin)
    # Two lips along a parabola: open and with the corners up in a smile, else shut and straight or bent down.
    half = rng.uniform(0.20, 0.25) if smile else rng.uniform(0.14, 0.20)
    bend = rng.uniform(0.07, 0.13) if smile else rng.uniform(-0.05, 0.01)
    gap = rng.uniform(0.02, 0.06) if smile else 0.0
    line = y - 0.52 * b - bend * (0.5 - (x / half) ** 2)  # height below the line of the mouth
    across, lips = np.abs(x) < half, np.array([0.72, 0.25, 0.28]) * rng.uniform(0.8, 1.2)
    paint(across & (np.abs(line) <= gap), "mouth", (0.93, 0.92, 0.88))
    paint(across & (line < -gap) & (line > -gap - 0.05), "u_lip", lips)
    paint(across & (line > gap) & (line < gap + 0.05), "l_lip", lips)
    image += rng.normal(0, 0.02, image.shape)
    return (255 * image.clip(0, 1)).round().astype(np.uint8), mask


# `n` faces of `size` px made from `seed` (see `simulated`), which also cuts the 60-20-20 split
load_faces = partial(simulated, "faces", VERSION, write_faces, load_celebamask, n=200)
