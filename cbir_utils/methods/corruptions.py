"""What can go wrong with a query image: noise, rotation, shift, occlusion, other pens, blur.

Each corruption has a strength, 0 for none; the same seed corrupts the same images in the same way.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from tqdm.auto import tqdm

from cbir_utils.datasets import load_dataset


class Corruption(NamedTuple):
    """One way of making images worse."""

    apply: callable  #: (images float32 in 0–255, strength, rng) → images float32
    strengths: tuple  #: from none to severe
    unit: str  #: of the strength, for the axis of a figure


def corrupt(images, kind, strength, *, seed=0, light=False):
    """Corrupt images: ``(N, H, W, C)`` uint8 → the same shape, uint8.

    ``kind`` is one of ``CORRUPTIONS`` and ``strength`` a number in the unit given there. What is random (noise, the
    sense of a rotation, the direction of a shift, the side that is covered) is drawn for each image from ``seed``. With
    ``light`` (``Dataset.light``) the images are dark on light: then the ground is white and wider strokes are dark.
    Raises ValueError for images of the wrong form, an unknown kind or a strength out of range.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (N, H, W, C), not {images.dtype} {images.shape}")
    if kind not in CORRUPTIONS:
        raise ValueError(f"there is no corruption {kind!r}; choose one of {', '.join(CORRUPTIONS)}")
    if not np.isfinite(strength) or (strength < 0 and kind != "stroke width"):
        raise ValueError(f"the strength of {kind} must be a number of 0 or more, not {strength}")
    if strength > 100 and CORRUPTIONS[kind].unit.startswith("%"):
        raise ValueError(f"the strength of {kind} is a percentage, and {strength} is more than 100")
    if strength == 0:
        return images.copy()
    if light:
        return 255 - corrupt(255 - images, kind, strength, seed=seed)
    worse = CORRUPTIONS[kind].apply(images.astype(np.float32), strength, np.random.default_rng(seed))
    return np.round(np.clip(worse, 0, 255)).astype(np.uint8)


def sweep(images, measure, *, seed=0, light=False):
    """``measure(images)`` at every strength of every corruption: ``{kind: [one value per strength]}``."""
    clean = measure(images)  # strength 0 of them all

    def measured(kind, strength):
        return measure(corrupt(images, kind, strength, seed=seed, light=light)) if strength else clean

    kinds = tqdm(CORRUPTIONS, "corruptions", leave=False, delay=2)
    return {kind: [measured(kind, strength) for strength in CORRUPTIONS[kind].strengths] for kind in kinds}


def foreign(shape, *, seed=0, light=False):
    """Drawn shapes as images of ``shape`` (H, W, C): ``(120, H, W, C)`` uint8 that belong to no other dataset."""
    shapes, (height, width, _) = load_dataset("shapes", seed=seed).queries.images, shape
    images, side = np.zeros((len(shapes), *shape), np.uint8), min(14, width)
    images[:, : min(28, height), (width - side) // 2 : (width + side) // 2] = shapes[:, :height, :side]
    return 255 - images if light else images


def _noise(images, strength, rng):
    """Normal noise, its standard deviation relative to white."""
    return images + 255 * strength * rng.standard_normal(images.shape, dtype=np.float32)


def _salt_and_pepper(images, strength, rng):
    """A percentage of the pixels turned black or white."""
    drawn = 100 * rng.random((*images.shape[:3], 1), dtype=np.float32)  # all channels of a pixel together
    return np.where(drawn < strength, np.where(drawn < strength / 2, np.float32(0), np.float32(255)), images)


def _rotation(images, strength, rng):
    """Turned by so many degrees, one way or the other."""
    clockwise = rng.random(len(images)) < 0.5
    worse = np.empty_like(images)
    for sense, these in ((1, clockwise), (-1, ~clockwise)):
        worse[these] = ndimage.rotate(images[these], sense * strength, axes=(1, 2), reshape=False, order=1)
    return worse


def _shift(images, strength, rng):
    """Moved by so many pixels in one of eight directions."""
    direction = rng.integers(8, size=len(images))
    worse = np.empty_like(images)
    for d in range(8):
        y, x = strength * np.sin(d * np.pi / 4), strength * np.cos(d * np.pi / 4)
        worse[direction == d] = ndimage.shift(images[direction == d], (0, y, x, 0), order=1)
    return worse


def _occlusion(images, strength, rng):
    """A percentage of the image, from one of its four sides, covered in black."""
    side = rng.integers(4, size=len(images))
    worse = images.copy()
    for s in range(4):
        turned = np.rot90(worse, s, axes=(1, 2))  # a view: writing to it writes to ``worse``
        lines = round(strength / 100 * turned.shape[1])
        turned[side == s, :lines] = 0
    return worse


def _stroke_width(images, strength, rng):
    """Strokes wider by so many pixels on each side, or thinner for negative numbers; between whole ones by mixing."""
    change = ndimage.grey_dilation if strength > 0 else ndimage.grey_erosion
    whole, rest = int(abs(strength)), abs(strength) % 1

    def by(pixels):
        return change(images, size=(1, 2 * pixels + 1, 2 * pixels + 1, 1)) if pixels else images

    return (1 - rest) * by(whole) + (rest * by(whole + 1) if rest else 0)


def _blur(images, strength, rng):
    """Blurred by a Gaussian whose standard deviation is so many pixels."""
    return ndimage.gaussian_filter(images, (0, strength, strength, 0))


#: Every corruption by name.
CORRUPTIONS = {
    "noise": Corruption(_noise, (0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8), "standard deviation, share of white"),
    "salt and pepper": Corruption(_salt_and_pepper, (0, 5, 10, 20, 30, 40, 50), "% of pixels"),
    "rotation": Corruption(_rotation, (0, 10, 20, 30, 40, 50, 60), "degrees"),
    "shift": Corruption(_shift, (0, 1, 2, 3, 4, 5, 6), "pixels"),
    "occlusion": Corruption(_occlusion, (0, 5, 10, 20, 30, 40, 50), "% of the image"),
    "stroke width": Corruption(_stroke_width, (-1, -0.5, 0, 0.5, 1, 1.5, 2), "pixels added on each side"),
    "blur": Corruption(_blur, (0, 0.5, 1, 1.5, 2, 2.5, 3), "standard deviation, pixels"),
}
