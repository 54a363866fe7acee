"""Random views, and the sampling they rest on."""

import numpy as np
import pytest
from scipy import ndimage

from cbir_utils.datasets import load_dataset, scale
from cbir_utils.methods.views import Augmentation, _spline, _widest, sample


@pytest.fixture(scope="module")
def images():
    return scale(load_dataset("digits").database.images[:64])


STILL = {"rotation": 0, "stretch": 0, "shear": 0, "shift": 0, "elastic": 0, "stroke": 0, "gamma": 0}


def test_sampling_is_bilinear_and_black_beyond_the_edge():
    rng = np.random.default_rng(0)
    images = rng.random((3, 6, 5, 2), np.float32)
    rows, columns = rng.uniform(-3, 8, (3, 6, 5)), rng.uniform(-3, 7, (3, 6, 5))
    fast = np.asarray(sample(images, rows.astype(np.float32), columns.astype(np.float32)))
    for n in range(3):
        for c in range(2):
            padded = np.pad(images[n, :, :, c], 10)
            slow = ndimage.map_coordinates(padded, [rows[n] + 10, columns[n] + 10], order=1)
            np.testing.assert_allclose(fast[n, :, :, c], slow, atol=2e-3)


def test_without_any_change_a_view_is_its_image(images):
    np.testing.assert_allclose(np.asarray(Augmentation(0, **STILL)(images)), images, atol=2e-3)


def test_views_keep_form_and_range_and_differ(images):
    augment = Augmentation(0)
    first, second = (np.asarray(augment(images)) for _ in range(2))
    assert first.shape == images.shape and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1 + 1e-6
    assert np.abs(first - second).mean() > 0.01 and np.abs(first - images).mean() > 0.01


def test_the_seed_decides_the_views(images):
    one, same, other = (np.asarray(Augmentation(seed)(images)) for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize("name", ["rotation", "stretch", "shear", "shift", "elastic", "stroke", "gamma"])
def test_each_change_works_by_itself(images, name):
    reach = {"rotation": 0.35, "stretch": 0.18, "shear": 0.2, "shift": 2.5, "elastic": 1.8, "stroke": 0.7, "gamma": 0.5}
    views = np.asarray(Augmentation(0, **{**STILL, name: reach[name]})(images))
    assert np.abs(views - images).mean() > 0.003


@pytest.mark.parametrize("side", [28, 56])
def test_a_shift_stays_within_its_reach_in_pixels_of_an_image_28_high(side):
    dots = np.zeros((200, side, side, 1), np.float32)
    dots[:, side // 2, side // 2] = 1
    views = np.asarray(Augmentation(0, **{**STILL, "shift": 2.5})(dots))[..., 0]
    views = np.where(views > 1e-3, views, 0)
    rows = ((views.sum(axis=2) @ np.arange(side)) / views.sum(axis=(1, 2)) - side // 2) * 28 / side
    assert 2 < np.abs(rows).max() <= 2.6 and abs(rows.mean()) < 0.5


def test_views_of_dark_on_light_are_negatives_of_views_of_light_on_dark(images):
    views = np.asarray(Augmentation(0)(images))
    light = np.asarray(Augmentation(0, light=True)(1 - images))
    np.testing.assert_allclose(light, 1 - views, atol=1e-6)


def test_a_stroke_grows_by_a_pixel_on_each_side(images):
    slow = ndimage.maximum_filter(images, size=(1, 3, 3, 1), mode="constant", cval=0)
    np.testing.assert_array_equal(np.asarray(_widest(images)), slow)


def test_the_spline_goes_through_its_grid_points():
    matrix = _spline(29)
    np.testing.assert_allclose(matrix[[0, 7, 14, 21, 28]], np.eye(5), atol=1e-6)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
