"""Random views, and the sampling they rest on."""

import numpy as np
import pytest
from scipy import ndimage

from cbir_utils.datasets import load_dataset, scale
from cbir_utils.methods.views import Augmentation, _spline, _widest, sample

CHANGES = ("rotation", "stretch", "shear", "shift", "elastic", "stroke", "gamma")


@pytest.fixture(scope="module")
def images():
    return scale(load_dataset("digits").database.images[:64])


def views(images, *kept):
    """Views with no change but those ``kept``."""
    augment = Augmentation(0)
    for name in set(CHANGES) - set(kept):
        setattr(augment, name, 0)
    return np.asarray(augment(images))


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


def test_each_change_works_by_itself_and_without_any_a_view_is_its_image(images):
    np.testing.assert_allclose(views(images), images, atol=2e-3)
    for name in CHANGES:
        assert np.abs(views(images, name) - images).mean() > 0.003, name


def test_the_seed_decides_the_views_and_the_ground_is_kept(images):
    augment = Augmentation(0)
    first, second = (np.asarray(augment(images)) for _ in range(2))
    assert first.shape == images.shape and first.dtype == np.float32 and first.min() >= 0 and first.max() <= 1 + 1e-6
    assert np.abs(first - second).mean() > 0.01
    assert np.array_equal(np.asarray(Augmentation(0)(images)), first)
    assert not np.array_equal(np.asarray(Augmentation(1)(images)), first)
    light = np.asarray(Augmentation(0, light=True)(1 - images))
    np.testing.assert_allclose(light, 1 - first, atol=1e-6)


@pytest.mark.parametrize("side", [28, 56])
def test_a_shift_stays_within_its_reach_in_pixels_of_an_image_28_high(side):
    dots = np.zeros((200, side, side, 1), np.float32)
    dots[:, side // 2, side // 2] = 1
    moved = views(dots, "shift")[..., 0]
    moved = np.where(moved > 1e-3, moved, 0)
    rows = ((moved.sum(axis=2) @ np.arange(side)) / moved.sum(axis=(1, 2)) - side // 2) * 28 / side
    assert 2 < np.abs(rows).max() <= 2.6 and abs(rows.mean()) < 0.5


def test_strokes_grow_by_a_pixel_and_the_spline_goes_through_its_grid_points(images):
    slow = ndimage.maximum_filter(images, size=(1, 3, 3, 1), mode="constant", cval=0)
    np.testing.assert_array_equal(np.asarray(_widest(images)), slow)
    matrix = _spline(29)
    np.testing.assert_allclose(matrix[[0, 7, 14, 21, 28]], np.eye(5), atol=1e-6)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
