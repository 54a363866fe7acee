"""What the explorer answers, against slow loops and against the search."""

import numpy as np
import pytest

from cbir_utils.explorer import answers
from cbir_utils.explorer.answers import ON_THE_MAP, Answer, map_codes, occlusion_map
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


def test_a_map_of_codes_holds_the_share_of_variance_that_it_says():
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(500, 4)) * (3, 2, 1, 1)).astype(np.float32)  # variances 9, 4, 1, 1
    code_map = map_codes(codes)
    assert abs(code_map.share - 13 / 15) < 0.03
    assert sorted(code_map.rows) == list(range(500)) and code_map.project(codes).shape == (500, 2)
    assert len(map_codes(np.repeat(codes, 5, axis=0)).rows) == ON_THE_MAP
