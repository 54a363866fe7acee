"""What the explorer answers, against slow loops and against the search."""

import numpy as np
import pytest

from cbir_utils.explorer.answers import ON_THE_MAP, distance_to, map_codes, occlusion_map
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


def test_covering_background_changes_nothing():
    image = np.zeros((28, 28, 1), np.uint8)
    image[10:14, 10:14] = 255
    found = occlusion_map(lambda images: images.sum(axis=(1, 2, 3)), image)
    assert found[11:13, 11:13].max() < 0 and not found[20:].any() and not found[:, 20:].any()


@pytest.mark.parametrize("metric", METRICS)
def test_the_distance_to_a_hit_is_the_search_s(finished, metric):
    retriever = Retriever(*finished, "hog", metric)
    images = finished[1].queries.images[:3]
    hits = retriever.search(images, 4)
    measured = distance_to(retriever, int(hits.ids[1, 2]))(images)
    assert measured[1] == hits.distances[1, 2]


def test_a_map_of_codes_holds_the_share_of_variance_that_it_says():
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(500, 4)) * (3, 2, 1, 1)).astype(np.float32)  # variances 9, 4, 1, 1
    code_map = map_codes(codes)
    assert abs(code_map.share - 13 / 15) < 0.03
    assert sorted(code_map.rows) == list(range(500)) and code_map.project(codes).shape == (500, 2)
    assert len(map_codes(np.repeat(codes, 5, axis=0)).rows) == ON_THE_MAP
    assert map_codes(np.ones((5, 3), np.float32)).share == 1
