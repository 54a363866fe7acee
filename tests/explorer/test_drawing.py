"""Drawings brought to MNIST's form, and to the database's."""

import os
from pathlib import Path

import numpy as np
import pytest

from cbir_utils.explorer.drawing import drawing_to_image, scale_and_centre


def test_a_bar_fills_the_box_and_stands_in_the_middle():
    drawing = np.zeros((100, 80), np.uint8)
    drawing[10:50, 3:11] = 200  # 40 high, 8 wide: halved, to 20 × 4
    # Its centre of mass is 9.5 rows and 1.5 columns from its corner: 14 - 9.5 = 4.5 → 4, 14 - 1.5 = 12.5 → 12
    # (halves go to the even number).
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 12:16] = 200
    assert np.array_equal(scale_and_centre(drawing), expected)


def test_the_centre_of_mass_is_centred_not_the_box():
    drawing = np.zeros((20, 20), np.uint8)
    drawing[:, 0] = 100  # 20 pixels of ink in column 0 ...
    drawing[0, 1:] = 20  # ... and 19 fainter ones to the right, in row 0
    # mass: 2000 in column 0, 20 each in columns 1 to 19, whose sum is 190: 20 · 190 / 2380 = 1.60; 14 - 1.60 → 12,
    # but 12 + 20 > 28, so that the ink would be cut: 8. Rows: 100 · 190 / 2380 = 7.98; 14 - 7.98 → 6.
    assert np.array_equal(scale_and_centre(drawing)[6:26, 8:28], drawing)


def test_small_and_faint_ink_is_enough_and_another_side_keeps_the_share():
    drawing = np.zeros((200, 200), np.uint8)
    drawing[180, 150] = 90  # one pixel becomes the whole box
    for side, box in ((28, 20), (32, 23), (64, 46), (14, 10)):  # 32 · 20 / 28 = 22.9, 64 · 20 / 28 = 45.7
        image = scale_and_centre(drawing, side)
        assert image.shape == (side, side) and image.dtype == np.uint8 and (image > 0).sum() == box**2
    faint = np.zeros((900, 900), np.uint8)
    faint[0, 0] = faint[-1, -1] = 1  # vanishes when it is scaled down
    assert scale_and_centre(faint).shape == (28, 28)


@pytest.mark.skipif("CBIR_DATA_HOME" not in os.environ, reason="CBIR_DATA_HOME is unset; it names MNIST's folder")
def test_mnist_itself_hardly_changes():
    with np.load(Path(os.environ["CBIR_DATA_HOME"]) / "mnist.npz") as arrays:
        images = arrays["x_test"]
    assert np.mean([np.array_equal(scale_and_centre(image), image) for image in images]) > 0.999


def test_a_drawing_becomes_an_image_of_the_database_s_form():
    ink = np.zeros((112, 112), np.uint8)
    ink[20:90, 30:39] = 255
    centred = scale_and_centre(ink)[..., None]
    assert np.array_equal(drawing_to_image(ink, (28, 28, 1)), centred)
    assert np.array_equal(drawing_to_image(ink, (28, 28, 1), light=True), 255 - centred)
    colour = drawing_to_image(ink, (32, 40, 3))
    assert colour.shape == (32, 40, 3)
    assert np.array_equal(colour[:, 4:36, 2], scale_and_centre(ink, 32)) and not colour[:, :4].any()
    plain = drawing_to_image(ink, (28, 28, 1), fit=False)
    assert plain[5:22, 8].all() and not plain[:, 12:].any()  # a quarter of the pad's size, where it was drawn
    for fit in (True, False):
        with pytest.raises(ValueError, match="the drawing is empty; draw something first"):
            drawing_to_image(np.zeros((9, 9), np.uint8), (28, 28, 1), fit=fit)
