"""Near-duplicates: copies and all but copies are found among random codes, and nothing else."""

import numpy as np

from cbir_utils.folders.duplicates import near_duplicates


def test_near_duplicates_are_found_and_nothing_else():
    codes = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    codes[17], codes[250] = codes[3], codes[99] + np.float32(1e-3)  # one copy, one all but a copy
    pairs, distances, limit = near_duplicates(codes)
    assert pairs.tolist() == [[3, 17], [99, 250]] and pairs.dtype == np.int64
    assert distances[0] == 0 and 0 < distances[1] <= limit and distances.dtype == np.float32
    nothing, _, _ = near_duplicates(np.delete(codes, [17, 250], axis=0))
    assert nothing.shape == (0, 2)


def test_near_duplicates_among_nothing_but_copies():
    pairs, distances, limit = near_duplicates(np.ones((3, 2), np.float32))
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]] and not distances.any() and limit == 0
