"""From a drawing of any size and place to an image as the database has them: its size, place, pen and blur."""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

#: A drawing is fitted at this many times the side of the image that it becomes.
FINER = 8
#: The blur that :func:`_stroke` sees in an edge without any, from one pixel to the next.
LEAST_BLUR = 1 / np.sqrt(np.pi)
#: Database images from which a hand is measured.
SAMPLE = 500


class Hand(NamedTuple):
    """How the images of a database are written, in pixels: the medians of some of them."""

    length: float  #: the longer side of the ink's box
    width: float  #: of a stroke
    blur: float  #: the standard deviation of the Gaussian that the strokes' edges look blurred by
    by_mass: bool  #: what varies less from image to image: the ink's centre of mass, or else its box's middle
    centre: tuple[float, float]  #: where that is, (row, column)


def measure_hand(images, light=False):
    """The :class:`Hand` of images ``(N, H, W, C)`` uint8, light ink on black, or dark on white with ``light``.

    ``None`` if there is no ink on any of the images.
    """
    rows = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int))
    inks = [np.asarray(images[row], np.float64).mean(axis=-1) / 255 for row in rows]
    inks = [ink / ink.max() for ink in (1 - ink if light else ink for ink in inks) if np.ptp(ink) > 0]
    if not inks:
        return None
    boxes = np.array([_box(ink) for ink in inks], float)  # above, below, left, right
    mass = np.array([ndimage.center_of_mass(ink) for ink in inks]) + 0.5
    middle = np.stack([boxes[:, :2].mean(axis=1), boxes[:, 2:].mean(axis=1)], axis=1)
    width, blur = np.median([_stroke(ink) for ink in inks], axis=0)
    by_mass = bool(mass.var(axis=0).sum() <= middle.var(axis=0).sum())
    centre = tuple(np.median(mass if by_mass else middle, axis=0).tolist())
    length = np.maximum(boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2])
    return Hand(float(np.median(length)), float(width), float(blur), by_mass, centre)


def drawing_to_image(ink, shape, hand=None, *, light=False):
    """An image of ``shape`` ``(H, W, C)``, uint8, from light ink on black ``(S, S)`` uint8.

    With a ``hand``, the ink is scaled to its length, its strokes get its width and blur, and it is centred as the
    database's images are; otherwise the whole pad becomes the image. ``light`` makes it dark on light. Raises
    ValueError if there is no ink.
    """
    height, width, channels = shape
    if not ink.any():
        raise ValueError("the drawing is empty; draw something first")
    if hand is None:
        image = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    else:
        image = _fitted(ink, height, width, hand)
    return np.repeat((255 - image if light else image)[..., None], channels, axis=2)


def _fitted(ink, height, width, hand):
    """Ink ``(S, S)`` uint8 in another hand: ``(H, W)`` uint8."""
    thin = _scaled(ink / ink.max(), hand.length * FINER) >= 0.5
    margin = int(np.ceil(hand.width * FINER))
    thin = np.pad(thin, margin)
    # Distances to the ink's edge: strokes grow and shrink evenly, whatever their direction.
    outside, inside = ndimage.distance_transform_edt(~thin), ndimage.distance_transform_edt(thin)
    change = (hand.width * FINER - _stroke(thin.astype(float))[0]) / 2
    ours = outside - inside <= change
    ours = _scaled((ours if ours.any() else thin).astype(float), hand.length * FINER)
    centre = ndimage.center_of_mass(ours) if hand.by_mass else np.array(ours.shape) / 2
    room = max(height, width) * FINER  # on all sides, for ink that reaches over the edge
    sheet = np.zeros((height * FINER + 2 * room, width * FINER + 2 * room))
    top, left = (room + round(place * FINER - own) for place, own in zip(hand.centre, centre, strict=True))
    sheet[top : top + ours.shape[0], left : left + ours.shape[1]] = ours
    blur = FINER * np.sqrt(max(0, hand.blur**2 - LEAST_BLUR**2))
    sheet = ndimage.gaussian_filter(sheet, blur)[room:-room, room:-room]
    image = sheet.reshape(height, FINER, width, FINER).mean(axis=(1, 3))
    return np.rint(255 * image / max(image.max(), 1e-9)).astype(np.uint8)


def _scaled(ink, length):
    """The box of ink ``(H, W)`` float in [0, 1], its longer side scaled to ``length``."""
    above, below, left, right = _box(ink)
    ink = ink[above:below, left:right]
    height, width = (max(1, round(side * length / max(ink.shape))) for side in ink.shape)
    return np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))


def _box(ink):
    """Where ink is at least half as strong as at its strongest: above, below, left, right."""
    strong = ink >= ink.max() / 2
    rows, columns = np.flatnonzero(strong.any(axis=1)), np.flatnonzero(strong.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _stroke(ink):
    """A stroke's width and blur, from ink ``(H, W)`` float in [0, 1].

    A stroke of length L and width w has ink L·w, and two edges, across which the ink rises by 1: the gradients' lengths
    sum up to 2·L, however blurred. Their squares sum up to 2·L / (2·σ·√π) for edges blurred by a Gaussian of σ.
    """
    down, right = np.gradient(ink)
    squares = down**2 + right**2
    lengths = np.sqrt(squares).sum()
    return 2 * ink.sum() / max(lengths, 1e-9), lengths / (2 * np.sqrt(np.pi) * max(squares.sum(), 1e-9))
