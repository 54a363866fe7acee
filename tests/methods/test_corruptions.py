"""Corruptions of query images."""

import numpy as np
import pytest

from cbir_utils.datasets import load_dataset
from cbir_utils.methods.corruptions import CORRUPTIONS, corrupt, sweep


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits").queries.images[:40]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_form_strength_zero_and_seed(images, kind):
    strongest = CORRUPTIONS[kind].strengths[-1]
    worse = corrupt(images, kind, strongest, seed=1)
    assert worse.shape == images.shape and worse.dtype == np.uint8
    assert 0 in CORRUPTIONS[kind].strengths
    assert np.array_equal(corrupt(images, kind, 0), images)
    assert np.array_equal(corrupt(images, kind, strongest, seed=1), worse)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_more_strength_means_more_change(images, kind):
    strengths = [s for s in CORRUPTIONS[kind].strengths if s >= 0]
    images = np.maximum(images, 20)  # else nothing is lost where the black frame is covered
    change = [np.abs(corrupt(images, kind, s).astype(float) - images).mean() for s in strengths]
    assert all(later > earlier for earlier, later in zip(change, change[1:], strict=False))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_dark_on_light_is_the_negative_of_light_on_dark(images, kind):
    strongest = CORRUPTIONS[kind].strengths[-1]
    light = corrupt(255 - images, kind, strongest, light=True)
    np.testing.assert_array_equal(light, 255 - corrupt(images, kind, strongest))


def test_noise_has_the_standard_deviation_asked_for():
    grey = np.full((50, 28, 28, 1), 128, np.uint8)
    assert abs(corrupt(grey, "noise", 0.1).std() / 255 - 0.1) < 0.002


def test_salt_and_pepper_turns_a_share_of_pixels_half_of_them_white():
    worse = corrupt(np.full((50, 28, 28, 1), 128, np.uint8), "salt and pepper", 30)
    assert abs((worse == 0).mean() - 0.15) < 0.01 and abs((worse == 255).mean() - 0.15) < 0.01


@pytest.mark.parametrize("kind", ["noise", "salt and pepper", "rotation", "shift", "occlusion"])
def test_another_seed_corrupts_otherwise(images, kind):
    strongest = CORRUPTIONS[kind].strengths[-1]
    assert not np.array_equal(corrupt(images, kind, strongest, seed=1), corrupt(images, kind, strongest, seed=2))


def test_salt_and_pepper_takes_all_channels_of_a_pixel():
    worse = corrupt(np.full((5, 28, 28, 3), 128, np.uint8), "salt and pepper", 30)
    assert np.array_equal(worse[..., 0], worse[..., 1]) and abs((worse[..., 0] != 128).mean() - 0.3) < 0.03


def test_a_shift_moves_a_dot_by_its_length_in_one_of_eight_directions():
    dots = np.zeros((40, 21, 21, 1), np.uint8)
    dots[:, 10, 10] = 200
    worse = corrupt(dots, "shift", 4)
    places = set()
    for image in worse[..., 0].astype(float):
        mass = image / image.sum()
        y, x = (mass.sum(axis=1) @ np.arange(21) - 10, mass.sum(axis=0) @ np.arange(21) - 10)
        assert abs(np.hypot(y, x) - 4) < 0.05
        places.add((round(y), round(x)))
    assert places == {(0, 4), (0, -4), (4, 0), (-4, 0), (3, 3), (3, -3), (-3, 3), (-3, -3)}


def test_rotation_turns_both_ways_about_the_centre():
    bars = np.zeros((40, 21, 21, 1), np.uint8)
    bars[:, 10, 10:] = 255  # from the centre to the right
    worse = corrupt(bars, "rotation", 90)
    up, down = worse[:, :10, 10].sum(axis=(1, 2)), worse[:, 11:, 10].sum(axis=(1, 2))
    assert ((up == 0) ^ (down == 0)).all() and 0 < (up == 0).sum() < 40


def test_occlusion_blackens_whole_lines_from_one_side():
    worse = corrupt(np.full((40, 20, 30, 1), 9, np.uint8), "occlusion", 50)[..., 0]
    assert np.allclose((worse == 0).mean(axis=(1, 2)), 0.5)
    sides = [(image[:10] == 0).all() or (image[10:] == 0).all() or (image[:, :15] == 0).all()
             or (image[:, 15:] == 0).all() for image in worse]  # fmt: skip
    assert all(sides) and len({image.tobytes() for image in worse}) == 4


def test_strokes_grow_and_shrink_by_pixels():
    bar = np.zeros((1, 21, 21, 1), np.uint8)
    bar[:, 9:12] = 200
    assert (corrupt(bar, "stroke width", 2)[0, :, 10, 0] > 0).sum() == 7
    assert (corrupt(bar, "stroke width", -1)[0, :, 10, 0] > 0).sum() == 1
    assert corrupt(bar, "stroke width", 0.5)[0, 8, 10, 0] == 100


def test_blur_keeps_the_mean(images):
    assert abs(corrupt(images, "blur", 1.5).mean() / images.mean() - 1) < 0.01


def test_a_sweep_measures_every_strength_of_every_kind(images):
    swept = sweep(images[:3], lambda worse: worse.sum(), seed=2)
    assert list(swept) == list(CORRUPTIONS)
    assert swept["shift"] == [corrupt(images[:3], "shift", s, seed=2).sum() for s in CORRUPTIONS["shift"].strengths]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("smear", 1), "there is no corruption 'smear'; choose one of noise, salt and pepper"),
        (("noise", -1), "strength of noise must be a number of 0 or more, not -1"),
        (("blur", float("nan")), "strength of blur must be a number"),
        (("occlusion", 120), "strength of occlusion is a percentage, and 120 is more than 100"),
    ],
)
def test_wrong_arguments_are_named(images, arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, *arguments)


def test_images_of_another_form_are_refused(images):
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, H, W, C\), not float64"):
        corrupt(images / 255, "noise", 0.1)
