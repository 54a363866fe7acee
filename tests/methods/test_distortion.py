"""The distortion model, held to a slow twin of its definition; candidates, their order, and when the model applies."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import sobel

from cbir_utils.datasets import load_dataset
from cbir_utils.distances import Hits
from cbir_utils.methods import distortion as module
from cbir_utils.methods.descriptors import oriented_gradients
from cbir_utils.methods.distortion import MatchedSearch, blend, contrast, distortion, gradients, warp_of

ROOT = Path(__file__).resolve().parents[2]


def noise(count=4, shape=(9, 12, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def slow_gradients(image):
    """SciPy's Sobel filter of each channel, squashed: ``(2C, H, W)``."""
    parts = []
    for channel in np.moveaxis(image / 255, -1, 0):
        right, down = sobel(channel, axis=1, mode="nearest"), sobel(channel, axis=0, mode="nearest")
        length = np.hypot(right, down) + 0.5
        parts += [right / length, down / length]
    return np.array(parts)


def slow_distortion(a, b, warp):
    """Pixel by pixel, shift by shift, from the formula."""
    wide = ((0, 0), (warp + 1, warp + 1), (warp + 1, warp + 1))
    a, b = (np.pad(slow_gradients(image), wide) for image in (a, b))
    total = 0
    for y in range(1 + warp, a.shape[1] - 1 - warp):
        for x in range(1 + warp, a.shape[2] - 1 - warp):
            window = a[:, y - 1 : y + 2, x - 1 : x + 2]
            total += min(
                ((window - b[:, y + i - 1 : y + i + 2, x + j - 1 : x + j + 2]) ** 2).sum()
                for i in range(-warp, warp + 1)
                for j in range(-warp, warp + 1)
            )
    return total


@pytest.mark.parametrize(("shape", "warp"), [((9, 12, 1), 1), ((9, 12, 1), 2), ((7, 5, 3), 2), ((32, 32, 1), 3)])
def test_distances_are_those_of_the_slow_twin(shape, warp):
    images = noise(shape=shape)
    np.testing.assert_allclose(gradients(images)[0], slow_gradients(images[0]), atol=1e-6)
    ids = np.array([[0, 1, 3], [2, 2, 0]])
    slow = [[slow_distortion(images[q], images[i], warp) for i in row] for q, row in zip((1, 2), ids, strict=True)]
    np.testing.assert_allclose(distortion(images[1:3], images, ids, warp=warp), slow, rtol=1e-5)


def test_a_pair_has_the_same_distance_alone_as_in_a_batch_and_as_its_negative():
    images = noise(70)
    ids = np.random.default_rng(1).integers(0, 70, (70, 6))
    together = distortion(images, images, ids)
    alone = np.concatenate([distortion(images[[row]], images, ids[[row]]) for row in range(70)])
    assert np.array_equal(together, alone)
    np.testing.assert_allclose(distortion(255 - images, 255 - images, ids), together, rtol=1e-5)
    assert (distortion(images, images, np.arange(70)[:, None]) == 0).all()


def test_a_small_shift_costs_little_and_a_large_one_much():
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 8:20, 13:15] = 255
    moved = np.concatenate([np.roll(image, step, axis=2) for step in (2, 3, 6)])
    near, more, far = distortion(np.repeat(image, 3, axis=0), moved, np.arange(3)[:, None])[:, 0]
    assert near < 1e-6 < more < far
    assert warp_of(image) == 2 and warp_of(np.zeros((1, 64, 40, 3))) == 4 and warp_of(np.zeros((1, 4, 4, 1))) == 1


def test_constant_images_are_at_no_distance_from_each_other():
    images = np.stack([np.full((12, 12, 1), grey, np.uint8) for grey in (0, 100, 255)])
    assert (distortion(images, images, np.array([[0, 1, 2]] * 3)) == 0).all()
    search = MatchedSearch(np.ones((3, 2), np.float32), images)
    hits = search.search(np.ones((1, 2), np.float32), images[:1])
    assert hits.ids.tolist() == [[0, 1, 2]] and (hits.distances == 0).all()
    found = blend(hits, np.ones((1, 2)), np.ones((3, 2)))
    assert np.isfinite(found.distances).all() and found.ids.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("queries", "images", "ids", "message"),
    [
        (
            noise().astype(np.float32) / 255,
            noise(),
            np.zeros((4, 1), int),
            "images must be uint8, not uint8 and float32",
        ),
        (noise(shape=(9, 9, 1)), noise(), np.zeros((4, 1), int), "of one size, not \\(9, 9, 1\\) and \\(9, 12, 1\\)"),
        (noise(), noise(), np.zeros((3, 1), int), "ids must be a row for each of 4 queries, not of shape \\(3, 1\\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(queries, images, ids, message):
    with pytest.raises(ValueError, match=message):
        distortion(queries, images, ids)


@pytest.fixture(scope="module")
def shapes():
    data = load_dataset("shapes")
    return data.database.images, oriented_gradients(data.database.images)


def test_hits_are_the_candidates_of_the_codes_in_order_of_distortion(shapes):
    images, codes = shapes
    search, own = MatchedSearch(codes, images), np.arange(5)
    hits = search.search(codes[:5], images[:5], exclude_self=own)
    candidates = search.index.search(codes[:5], 50, exclude_self=own).ids
    assert search.suits and np.array_equal(np.sort(hits.ids), np.sort(candidates))
    assert (np.diff(hits.distances) >= 0).all() and not np.array_equal(hits.ids, candidates)
    np.testing.assert_array_equal(hits.distances, distortion(images[:5], images, hits.ids))
    few = MatchedSearch(codes[:3], images[:3])
    assert few.search(codes[:1], images[:1], exclude_self=[0]).ids.shape == (1, 2)
    assert MatchedSearch(codes[:1], images[:1]).search(codes[:1], images[:1]).ids.tolist() == [[0]]


def test_noise_is_left_in_the_order_of_its_codes():
    images = noise(120, (14, 14, 1))
    codes = images.reshape(120, -1).astype(np.float32)
    search = MatchedSearch(codes, images)
    assert not search.suits
    np.testing.assert_array_equal(search.search(codes[:4], images[:4]).ids, search.index.search(codes[:4], 50).ids)
    assert contrast(Hits(np.array([[1, 2, 3, 4, 5, 10.0]]), np.zeros((1, 6), int))) == 0.5  # the fifth by the last
    assert contrast(Hits(np.array([[0.0, 0.0]]), np.zeros((1, 2), int))) == 0


def test_a_blend_orders_by_both_distances():
    hits = Hits(np.array([[1, 2, 3.0]], np.float32), np.array([[7, 8, 9]]))  # by the median: .5, 1, 1.5
    codes = np.zeros((10, 2))
    codes[[7, 8, 9]] = [[0, 1], [3, 0], [1, 1]]  # at right angles to the query, along it, at 45 degrees
    found = blend(hits, np.array([[2.0, 0.0]]), codes, weight=2.0)
    assert found.ids.tolist() == [[8, 9, 7]]
    np.testing.assert_allclose(found.distances, [[1, 1.5 + 2 * (1 - np.sqrt(0.5)), 0.5 + 2]], rtol=1e-6)
    many = Hits(np.arange(1, 31, dtype=np.float32)[None], np.arange(30)[None])
    assert blend(many, np.ones((1, 2)), np.ones((30, 2))).ids.tolist() == [list(range(10))]


def test_it_says_that_it_compiles_once_and_works_without_a_cache_folder(tmp_path):
    code = (
        "import numpy as np; from cbir_utils.methods.distortion import distortion;"
        "images = np.zeros((2, 8, 8, 1), np.uint8); print(distortion(images, images, np.array([[0], [1]])).sum())"
    )

    def said(folder, mode):
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
        if mode == "none":  # no locator of a cache folder works
            environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "ZipCacheLocator"
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
        assert done.stdout.strip() == "0.0"
        return done.stderr.strip()

    assert said(tmp_path / "cache", "kept") == "compiling the distortion model (once) …"
    assert said(tmp_path / "cache", "kept") == ""
    assert (
        said(tmp_path / "other", "none")
        == "compiling the distortion model (each time: its cache folder cannot be written) …"
    )


def test_ctrl_c_between_blocks_ends_it(monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_kernel", lambda: stopped)
    with pytest.raises(KeyboardInterrupt):
        distortion(noise(), noise(), np.zeros((4, 1), int))
