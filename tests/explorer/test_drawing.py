"""Drawings become images in the database's hand."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cbir_utils.datasets import load_dataset
from cbir_utils.explorer.drawing import drawing_to_image, measure_hand
from cbir_utils.methods.descriptors import oriented_gradients
from cbir_utils.methods.distortion import MatchedSearch


def line(*points, side=112, width=10):
    """A polyline of light ink on black, its points shares of the side."""
    image = Image.new("L", (side, side))
    places = [(x * side, y * side) for x, y in points]
    ImageDraw.Draw(image).line(places, 255, width, joint="curve")
    for x, y in places:  # round ends
        ImageDraw.Draw(image).ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 255)
    return np.asarray(image)


def bars(width, length=20, side=28, at=(14, 14)):
    """An upright bar of whole pixels."""
    image = np.zeros((1, side, side, 1), np.uint8)
    row, column = at
    image[0, row - length // 2 : row + length // 2, column - width // 2 : column - width // 2 + width] = 200
    return image


def test_a_hand_is_measured_from_the_images():
    hand = measure_hand(np.concatenate([bars(4, at=(14, 10)), bars(4, at=(14, 18)), bars(4)]))
    assert hand.length == 20 and hand.centre == (14, 14)
    assert hand.width == pytest.approx(4 * 20 / 24, rel=0.15)  # the bar's ends are edges too
    assert hand.blur < 0.9
    assert measure_hand(np.zeros((3, 28, 28, 1), np.uint8)) is None
    assert measure_hand(255 - bars(4), light=True) == measure_hand(bars(4) // 200 * 255)


def test_the_centre_is_what_varies_less():
    rng = np.random.default_rng(0)
    boxed = np.zeros((20, 28, 28, 1), np.uint8)
    for image in boxed:  # all of one box, with more ink at one corner or another
        image[4:24, 4:6] = image[4:6, 4:24] = 255
        image[4:24, 22:24] = 255
        row, column = rng.integers(6, 16, 2)
        image[row : row + 6, column : column + 6] = 255
    assert not measure_hand(boxed).by_mass


def test_a_drawing_gets_the_hand_s_size_pen_blur_and_place():
    ink = line((0.2, 0.1), (0.2, 0.5), width=12)
    for hand in (measure_hand(bars(3)), measure_hand(bars(5, length=12, at=(12, 16)))):
        image = drawing_to_image(ink, (28, 28, 1), hand)
        assert image.max() == 255
        ours = measure_hand(image[None])
        assert ours.length == pytest.approx(hand.length, abs=1)
        assert ours.width == pytest.approx(hand.width, rel=0.25)
        assert ours.blur == pytest.approx(hand.blur, abs=0.25)
        assert ours.centre == pytest.approx(hand.centre, abs=1.5)
    thin, thick = (drawing_to_image(line((0.2, 0.2), (0.7, 0.8), width=w), (28, 28, 1), hand) for w in (4, 20))
    assert np.abs(thin.astype(int) - thick).mean() < 6  # the pen on the pad does not matter


def test_a_drawing_becomes_an_image_of_the_database_s_form():
    ink, hand = line((0.3, 0.2), (0.3, 0.8)), measure_hand(bars(3))
    image = drawing_to_image(ink, (28, 28, 1), hand)
    assert np.array_equal(drawing_to_image(ink, (28, 28, 1), hand, light=True), 255 - image)
    colour = drawing_to_image(ink, (32, 40, 3), hand)
    assert colour.shape == (32, 40, 3) and np.ptp(colour, axis=-1).max() == 0
    plain = drawing_to_image(ink, (28, 28, 1))
    assert plain[7:21, 8].all() and not plain[:, 12:].any()  # a quarter of the pad's size, where it was drawn
    far = hand._replace(centre=(0.0, 30.0))  # reaches over the edge
    assert drawing_to_image(ink, (28, 28, 1), far).shape == (28, 28, 1)
    dot = np.zeros((112, 112), np.uint8)
    dot[50, 50] = 1
    for fitted in (hand, hand._replace(width=0.1)):
        assert drawing_to_image(dot, (28, 28, 1), fitted).any()
    for fitted in (hand, None):
        with pytest.raises(ValueError, match="the drawing is empty; draw something first"):
            drawing_to_image(np.zeros((9, 9), np.uint8), (28, 28, 1), fitted)


SEVEN = ((0.28, 0.2), (0.72, 0.2), (0.59, 0.52), (0.4, 0.52), (0.75, 0.52), (0.59, 0.52), (0.46, 0.84))
FOUR = ((0.58, 0.84), (0.58, 0.16), (0.28, 0.6), (0.76, 0.6))
TWO = ((0.3, 0.3), (0.4, 0.2), (0.6, 0.2), (0.68, 0.32), (0.6, 0.48), (0.3, 0.8), (0.72, 0.8))
ONE = ((0.52, 0.16), (0.5, 0.84))


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_a_drawn_digit_finds_its_like(name):
    if name == "mnist":
        if "CBIR_DATA_HOME" not in os.environ:
            pytest.skip("CBIR_DATA_HOME is unset; it names MNIST's folder")
        with np.load(Path(os.environ["CBIR_DATA_HOME"]) / "mnist.npz") as arrays:
            images, labels = arrays["x_train"][:3000, ..., None], arrays["y_train"][:3000]
    else:
        database = load_dataset(name).database
        images, labels = database.images, database.labels
    hand = measure_hand(images)
    assert hand.by_mass == (name == "mnist")  # as its makers centred it; digits fill their box
    drawn = np.stack([drawing_to_image(line(*points), (28, 28, 1), hand) for points in (SEVEN, FOUR, TWO, ONE)])
    hits = MatchedSearch(oriented_gradients(images), images).search(oriented_gradients(drawn), drawn).ids
    assert labels[hits[:, :3]].tolist() == [[7] * 3, [4] * 3, [2] * 3, [1] * 3]
