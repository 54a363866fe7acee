"""Corruptions of query images."""

import numpy as np
import pytest

from cbir_utils.datasets import load_dataset
from cbir_utils.methods.corruptions import CORRUPTIONS, corrupt, foreign, sweep

GREY = np.full((50, 28, 28, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits").queries.images[:40]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_form_seed_ground_and_strength(images, kind):
    strengths = CORRUPTIONS[kind].strengths
    worse = corrupt(images, kind, strengths[-1], seed=1)
    assert worse.shape == images.shape and worse.dtype == np.uint8
    assert np.array_equal(corrupt(images, kind, strengths[-1], seed=1), worse)
    assert np.array_equal(corrupt(images, kind, strengths[-1], seed=2), worse) == (kind in ("stroke width", "blur"))
    assert 0 in strengths and np.array_equal(corrupt(images, kind, 0), images)
    light = corrupt(255 - images, kind, strengths[-1], seed=1, light=True)
    np.testing.assert_array_equal(light, 255 - worse)  # dark on light is the negative of light on dark
    images = np.maximum(images, 20)  # else nothing is lost where the black frame is covered
    change = [np.abs(corrupt(images, kind, s).astype(float) - images).mean() for s in strengths if s >= 0]
    assert all(later > earlier for earlier, later in zip(change, change[1:], strict=False))


def test_noise_and_salt_and_pepper_are_as_strong_as_they_say():
    assert abs(corrupt(GREY, "noise", 0.1).std() / 255 - 0.1) < 0.002
    worse = corrupt(GREY, "salt and pepper", 30)
    assert abs((worse == 0).mean() - 0.15) < 0.01 and abs((worse == 255).mean() - 0.15) < 0.01
    assert np.array_equal(worse[..., 0], worse[..., 1]), "all channels of a pixel together"


def test_a_shift_moves_a_dot_by_its_length_in_one_of_eight_directions():
    dots = np.zeros((40, 21, 21, 1), np.uint8)
    dots[:, 10, 10] = 200
    places = set()
    for image in corrupt(dots, "shift", 4)[..., 0].astype(float):
        mass = image / image.sum()
        y, x = (mass.sum(axis=1) @ np.arange(21) - 10, mass.sum(axis=0) @ np.arange(21) - 10)
        assert abs(np.hypot(y, x) - 4) < 0.05
        places.add((round(y), round(x)))
    assert places == {(0, 4), (0, -4), (4, 0), (-4, 0), (3, 3), (3, -3), (-3, 3), (-3, -3)}


def test_occlusion_blackens_half_of_the_image_from_one_of_four_sides():
    worse = corrupt(np.full((40, 20, 30, 1), 9, np.uint8), "occlusion", 50)[..., 0]
    sides = np.full((4, 20, 30), 9, np.uint8)
    sides[0, :10] = sides[1, 10:] = sides[2, :, :15] = sides[3, :, 15:] = 0
    assert {image.tobytes() for image in worse} == {side.tobytes() for side in sides}


def test_strokes_grow_and_shrink_by_pixels_and_blur_keeps_the_mean(images):
    bar = np.zeros((1, 21, 21, 1), np.uint8)
    bar[:, 9:12] = 200
    assert (corrupt(bar, "stroke width", 2)[0, :, 10, 0] > 0).sum() == 7
    assert (corrupt(bar, "stroke width", -1)[0, :, 10, 0] > 0).sum() == 1
    assert corrupt(bar, "stroke width", 0.5)[0, 8, 10, 0] == 100
    assert abs(corrupt(images, "blur", 1.5).mean() / images.mean() - 1) < 0.01


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (10, 8, 1)])
def test_foreign_shapes_stand_in_the_middle_of_images_of_any_size(shape):
    shapes = foreign(shape)
    assert shapes.shape == (120, *shape) and shapes.dtype == np.uint8 and shapes.max() > 100
    lit = np.flatnonzero(shapes.max(axis=(0, 1, 3)))
    assert lit[0] >= (shape[1] - 14) // 2 and lit[-1] < (shape[1] + 14) // 2
    assert np.array_equal(foreign(shape, light=True), 255 - shapes)
    assert not np.array_equal(foreign(shape, seed=1), shapes)


def test_a_sweep_measures_every_strength_of_every_kind(images):
    swept = sweep(images[:3], lambda worse: worse.sum(), seed=2)
    assert list(swept) == list(CORRUPTIONS)
    assert swept["shift"] == [corrupt(images[:3], "shift", s, seed=2).sum() for s in CORRUPTIONS["shift"].strengths]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GREY, "smear", 1), "there is no corruption 'smear'; choose one of noise, salt and pepper"),
        ((GREY, "noise", -1), "strength of noise must be a number of 0 or more, not -1"),
        ((GREY, "blur", float("nan")), "strength of blur must be a number"),
        ((GREY, "occlusion", 120), "strength of occlusion is a percentage, and 120 is more than 100"),
        ((GREY / 255, "noise", 0.1), r"images must be uint8 \(N, H, W, C\), not float64"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(*arguments)
