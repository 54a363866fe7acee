"""What the explorer answers, against slow loops and against the search."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cbir_utils.explorer import answers
from cbir_utils.explorer.answers import Answer, map_codes, occlusion_map
from cbir_utils.index import METRICS
from cbir_utils.retrieval.retriever import Retriever


@pytest.mark.parametrize("shape", [(10, 6, 1), (11, 17, 3), (4, 4, 1)])  # patches of 1, 2 and 1 pixels
def test_the_occlusion_map_equals_a_slow_loop(shape):
    rng = np.random.default_rng(0)
    image, target = rng.integers(0, 256, (2, *shape), np.uint8)

    def distance(images):
        return np.abs(images.astype(float) - target).mean(axis=(1, 2, 3))

    height, width = shape[:2]
    patch = max(1, min(height, width) // 5)
    stride = max(1, patch // 2)
    sums, counts = np.zeros((height, width)), np.zeros((height, width))
    for y in range(1 - patch, height, stride):
        for x in range(1 - patch, width, stride):
            worse = image.copy()
            part = slice(max(y, 0), y + patch), slice(max(x, 0), x + patch)
            worse[part] = 9
            sums[part] += distance(worse[None])[0] - distance(image[None])[0]
            counts[part] += 1
    found = occlusion_map(distance, image, background=9)
    assert found.dtype == np.float32 and np.allclose(found, sums / counts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_occlusion_starts_from_the_distance_that_the_search_found(finished, metric, monkeypatch):
    measured = []
    monkeypatch.setattr(
        answers, "occlusion_map", lambda distance, image, _: measured.append(distance(image[None])) or np.eye(28)
    )
    answer = Answer(Retriever(*finished, "hog", metric), finished[1].queries.images[1], 4)
    answer.occlusion(3)
    assert measured[0] == answer.distances[2]


def test_a_map_puts_near_codes_near_and_others_where_their_nearest_is():
    rng, middles = np.random.default_rng(0), np.eye(3, 8) * 20
    codes = (middles[np.arange(90) % 3] + rng.normal(size=(90, 8))).astype(np.float32)
    code_map = map_codes(codes)
    assert code_map.rows.tolist() == list(range(90)) and code_map.points.shape == (90, 2)
    apart = np.linalg.norm(code_map.points[:, None] - code_map.points, axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (apart.argmin(axis=1) % 3 == np.arange(90) % 3).all()
    np.testing.assert_array_equal(code_map.place(codes[7:9] * 5), code_map.points[7:9])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 12])
def test_a_map_of_few_codes(count):
    code_map = map_codes(np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32))
    assert code_map.points.shape == (count, 2) and np.isfinite(code_map.points).all()


def test_a_map_of_many_codes_is_a_sample(monkeypatch):
    monkeypatch.setattr(answers, "ON_THE_MAP", 50)
    rows = map_codes(np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)).rows
    assert len(set(rows.tolist())) == 50 and rows.max() > 100


def test_a_decoder_that_knows_no_more_than_the_mean_image_shows_no_path(finished, monkeypatch):
    answer = Answer(Retriever(*finished, "hog"), finished[1].queries.images[1], 4)
    monkeypatch.setattr(Retriever, "between", lambda *_: np.zeros((7, 28, 28, 1), np.float32))
    monkeypatch.setattr(Retriever, "decoding_error", (0.058, 0.043))
    figure, text = answer.path(1)
    assert figure is None and "mean squared error is 0.058, and that of the mean image is 0.043" in text
    monkeypatch.setattr(Retriever, "decoding_error", (0.042, 0.043))
    assert answer.path(1)[0] is not None
    plt.close("all")
