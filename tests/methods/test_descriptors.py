"""Codes without training, held to slow loops."""

import numpy as np
import pytest

from cbir_utils.datasets import load_dataset
from cbir_utils.methods.descriptors import Projection, colour, oriented_gradients, shrunk, texture


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits").queries.images[:3]


def slow_gradients(image):
    """HOG pixel by pixel; ``image`` ``(H, W)`` in [0, 1]."""
    height, width = image.shape
    histograms = np.zeros((4, 4, 9))
    for y in range(height):
        for x in range(width):
            above, below = max(y - 1, 0), min(y + 1, height - 1)
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            dy = (image[below, x] - image[above, x]) / (below - above)
            dx = (image[y, right] - image[y, left]) / (right - left)
            place = np.arctan2(dy, dx) % np.pi / (np.pi / 9)
            lower = int(np.floor(place))
            cell = histograms[y * 4 // height, x * 4 // width]
            cell[lower % 9] += np.hypot(dy, dx) * (1 - place + lower)
            cell[(lower + 1) % 9] += np.hypot(dy, dx) * (place - lower)
    code = []
    for y in range(3):
        for x in range(3):
            block = histograms[y : y + 2, x : x + 2].reshape(-1)
            block = np.minimum(block / np.sqrt(block @ block + 1e-10), 0.2)
            code.append(block / np.sqrt(block @ block + 1e-10))
    return np.concatenate(code)


@pytest.mark.parametrize("width", [28, 19])
def test_oriented_gradients_are_those_of_the_slow_loop(images, width):
    images = images[:, :, :width]
    fast = oriented_gradients(images)
    assert fast.shape == (3, 324) and fast.dtype == np.float32
    slow = [slow_gradients(image[..., 0] / np.float32(255)) for image in images]
    np.testing.assert_allclose(fast, slow, atol=1e-4)


def test_many_images_are_done_in_blocks_and_an_even_one_has_no_direction(images):
    many = np.concatenate([images, np.full((5000, 28, 28, 1), 77, np.uint8), images])
    codes = oriented_gradients(many)
    assert np.array_equal(codes[-3:], codes[:3]) and not codes[3:-3].any()
    with pytest.raises(ValueError, match="2 × 9 pixels cannot be cut into 4 × 4 cells"):
        oriented_gradients(np.zeros((1, 2, 9, 1), np.uint8))


def test_a_projection_keeps_the_directions_of_greatest_variance(tmp_path):
    """Held to the eigenvectors of the covariance matrix."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((200, 6)) * [5, 1, 4, 1, 1, 3] + 2).astype(np.float32)
    projection = Projection.fit(rows, 3)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    slow = (rows - rows.mean(axis=0)) @ vectors[:, ::-1][:, :3]
    codes = projection(rows)
    assert codes.shape == (200, 3) and codes.dtype == np.float32
    np.testing.assert_allclose(np.abs(codes), np.abs(slow), atol=1e-3)
    error = np.square(projection.restore(codes) - rows).sum(axis=1).mean()
    assert error == pytest.approx(values[:3].sum() * 199 / 200, rel=1e-3)  # what the other directions hold
    projection.save(tmp_path / "projection.npz")
    np.testing.assert_array_equal(Projection.load(tmp_path / "projection.npz")(rows), codes)
    few = Projection.fit(np.eye(4, 9, dtype=np.float32), 64)
    assert few(np.zeros((1, 9), np.float32)).shape == (1, 4), "no more directions than rows"


def test_shrunk_takes_means_of_squares_and_leaves_small_images_alone():
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 64, 3), dtype=np.uint8)
    small = shrunk(images)
    assert small.shape == (2, 35, 32, 3)
    assert small[1, 3, 5, 2] == round(images[1, 6:8, 10:12, 2].mean())
    assert shrunk(images[:, :60]).shape == (2, 60, 64, 3)


def test_colour_sees_colours_and_where_they_are():
    red_left = np.zeros((1, 12, 12, 3), np.uint8)
    red_left[:, :, :6, 0] = 255
    red_right, blue_left = red_left[:, :, ::-1], red_left[..., ::-1]
    left, right, blue = (colour(image)[0] for image in (red_left, red_right, blue_left))
    assert left @ left == pytest.approx(1, abs=1e-5)
    assert left @ left > left @ right > left @ blue


def test_texture_does_not_care_for_brightness():
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 100, (1, 20, 20, 1), dtype=np.uint8)
    smooth = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None], (1, 20, 20, 1))
    np.testing.assert_allclose(texture(rough + 100), texture(rough))
    assert texture(rough)[0] @ texture(rough[:, ::-1])[0] > texture(rough)[0] @ texture(smooth)[0]


def test_texture_by_hand():
    """One pixel inside 3 × 3: of its neighbours 1 2 3 / 8 . 4 / 7 6 5 those from 5 on are as light: 5, 6, 7, 8."""
    image = np.uint8([[1, 2, 3], [8, 5, 4], [7, 6, 5]])[None, :, :, None]
    whole = texture(image).reshape(10, 256)[0]
    assert whole.nonzero()[0].tolist() == [(1 << 4) + (1 << 5) + (1 << 6) + (1 << 7)]
