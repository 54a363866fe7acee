"""Drawings brought to MNIST's form."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_utils.datasets import load_dataset
from cbir_utils.explorer.drawing import centre
from cbir_utils.index import Index
from cbir_utils.methods.descriptors import pixels


def test_a_bar_fills_the_box_and_stands_in_the_middle():
    drawing = np.zeros((100, 80), np.uint8)
    drawing[10:50, 3:11] = 200  # 40 high, 8 wide: halved, to 20 × 4
    image = centre(drawing)
    # Its centre of mass is 9.5 rows and 1.5 columns from its corner: 14 - 9.5 = 4.5 → 4, 14 - 1.5 = 12.5 → 12
    # (halves go to the even number).
    expected = np.zeros((28, 28, 1), np.uint8)
    expected[4:24, 12:16] = 200
    assert np.array_equal(image, expected)
    assert np.array_equal(centre(drawing[..., None]), expected)


def test_the_centre_of_mass_is_centred_not_the_box():
    drawing = np.zeros((20, 20), np.uint8)
    drawing[:, 0] = 100  # 20 pixels of ink in column 0 ...
    drawing[0, 1:] = 20  # ... and 19 fainter ones to the right, in row 0
    image = centre(drawing)[..., 0]
    # mass: 2000 in column 0, 20 each in columns 1 to 19, whose sum is 190: 20 · 190 / 2380 = 1.60; 14 - 1.60 → 12,
    # but 12 + 20 > 28, so that the ink would be cut: 8. Rows: 100 · 190 / 2380 = 7.98; 14 - 7.98 → 6.
    assert np.array_equal(image[6:26, 8:28], drawing)


def test_small_ink_is_enlarged_and_another_side_keeps_the_share():
    drawing = np.zeros((200, 200), np.uint8)
    drawing[180:190, 150:160] = 255  # 10 × 10 in a corner
    for side, box in ((28, 20), (32, 23), (64, 46), (14, 10)):  # 32 · 20 / 28 = 22.9, 64 · 20 / 28 = 45.7
        image = centre(drawing, side=side)
        assert image.shape == (side, side, 1) and image.dtype == np.uint8
        assert (image > 0).any(axis=(1, 2)).sum() == (image > 0).any(axis=(0, 2)).sum() == box
        assert image.max() == 255


def test_images_in_mnist_s_form_stay_as_they_are():
    drawing = np.zeros((28, 28), np.uint8)
    drawing[4:24, 13:16] = 255  # centre of mass: row 13.5, column 14
    drawing[23, 10:20] = 255
    once = centre(drawing)
    assert np.array_equal(centre(once), once)


@pytest.mark.skipif("CBIR_DATA_HOME" not in os.environ, reason="CBIR_DATA_HOME is unset; it names MNIST's folder")
def test_mnist_itself_hardly_changes():
    with np.load(Path(os.environ["CBIR_DATA_HOME"]) / "mnist.npz") as arrays:
        images = arrays["x_test"]
    same = [np.array_equal(centre(image)[..., 0], image) for image in images]
    assert np.mean(same) > 0.999


def test_centring_matters():
    """Digits drawn small and off the middle, as on a pad, and their nearest of the database by pixels."""
    data = load_dataset("digits")
    rng = np.random.default_rng(0)
    drawn = []
    for image in data.queries.images[:200, ..., 0]:
        size = int(rng.integers(30, 90))
        pad = np.zeros((112, 112), np.uint8)
        y, x = rng.integers(0, 112 - size, 2)
        pad[y : y + size, x : x + size] = np.asarray(Image.fromarray(image).resize((size, size)))
        drawn.append(pad)
    as_they_are = np.stack([np.asarray(Image.fromarray(pad).resize((28, 28))) for pad in drawn])[..., None]
    database = np.stack([centre(image) for image in data.database.images])
    index = Index("cosine").add(pixels(database))
    right = {}
    for name, images in (("plain", as_they_are), ("centred", np.stack([centre(pad) for pad in drawn]))):
        nearest = index.search(pixels(images), 1).ids[:, 0]
        right[name] = np.mean(data.database.labels[nearest] == data.queries.labels[:200])
    assert right["centred"] > 0.9 and right["plain"] < 0.4, right


@pytest.mark.parametrize(
    "image, arguments, message",
    [
        (np.zeros((9, 9), np.uint8), {}, "the drawing is empty; draw something first"),
        (np.ones((9, 9)), {}, r"a drawing must be uint8 \(H, W\) or \(H, W, 1\), not float64 \(9, 9\)"),
        (np.ones((9, 9, 3), np.uint8), {}, r"not uint8 \(9, 9, 3\)"),
        (np.ones((9, 9), np.uint8), {"side": 8, "box": 9}, "box must be from 1 to the side of 8 pixels, not 9"),
    ],
)
def test_wrong_drawings_are_named(image, arguments, message):
    with pytest.raises(ValueError, match=message):
        centre(image, **arguments)


def test_the_faintest_ink_is_enough():
    drawing = np.zeros((900, 900), np.uint8)
    drawing[0, 0] = drawing[-1, -1] = 1  # vanishes when it is scaled down
    assert centre(drawing).shape == (28, 28, 1)
    dot = np.zeros((50, 50), np.uint8)
    dot[7, 9] = 90  # one pixel becomes the whole box
    assert (centre(dot)[..., 0] > 0).sum() == 400
