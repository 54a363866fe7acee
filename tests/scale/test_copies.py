"""Equal codes that share a row of an index: all their ids come back, as they would from exact search."""

import numpy as np
import pytest

from cbir_utils.index import Index
from cbir_utils.scale.approximate import ApproximateIndex, load_index
from cbir_utils.scale.copies import ById, Copies, distinct


def test_expanded_by_hand():
    """Ids 0, 2 and 3 share row 0, id 1 has row 1, id 4 row 2."""
    copies = Copies(np.array([0, 1, 0, 0, 2]))
    squared, rows = np.float32([[0.5, 1, 2], [0, 3, np.inf]]), np.array([[1, 0, 2], [0, 2, -1]])
    distances, ids = copies.expanded(squared, rows)
    np.testing.assert_array_equal(ids, [[1, 0, 2], [0, 2, 3]])
    np.testing.assert_array_equal(distances, np.float32([[0.5, 1, 1], [0, 0, 0]]))
    distances, ids = copies.expanded(squared, rows, np.array([3, 4]))
    np.testing.assert_array_equal(ids, [[3, 4, -1], [3, 4, -1]])
    np.testing.assert_array_equal(distances, np.float32([[1, 2, np.inf], [0, 3, np.inf]]))


def test_rows_by_id_are_as_if_each_id_had_its_own():
    codes = np.float32([[3, 3], [1, 1], [3, 3], [2, 0], [1, 1]])
    rows, first = distinct(codes)
    np.testing.assert_array_equal(first, [0, 1, 3])
    seen = ById(codes[first], rows)
    assert len(seen) == 5 and np.shape(seen) == (5, 2) and seen.dtype == np.float32
    np.testing.assert_array_equal(seen[:], codes)
    np.testing.assert_array_equal(seen[np.array([[4, 0]])], codes[[[4, 0]]])


@pytest.fixture(scope="module")
def many():
    """3,000 codes, 2,100 of which are copies of three; and queries near the others."""
    rng = np.random.default_rng(0)
    few, rest = rng.normal(size=(3, 16)), rng.normal(size=(900, 16))
    codes = np.concatenate([np.repeat(few, 700, axis=0), rest]).astype(np.float32)
    queries = np.concatenate([rest[:50] + rng.normal(size=(50, 16)) / 10, few]).astype(np.float32)
    return codes[rng.permutation(3000)], queries


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("options", "recall"), [({}, 0.98), ({"short": 12, "originals": "memory"}, 0.9)])
def test_a_graph_keeps_its_way_among_many_copies(many, metric, options, recall, tmp_path):
    codes, queries = many
    index = ApproximateIndex("hnsw", metric, **options).add(codes[:2000]).add(codes[2000:])
    assert len(index) == 3000 and index.recall(None, queries) > recall
    copies = np.flatnonzero((codes == queries[-1]).all(axis=1))
    assert len(copies) == 700
    found = index.search(queries[-1], 700)
    np.testing.assert_array_equal(found.ids[0], copies)
    index.save(tmp_path / "index.faiss")
    again = load_index(tmp_path / "index.faiss")
    np.testing.assert_array_equal(again.search(queries, 20).ids, index.search(queries, 20).ids)
    again.remove(copies[:690])
    np.testing.assert_array_equal(again.search(queries[-1], 10).ids[0], copies[690:])
    some = np.setdiff1d(np.arange(0, 3000, 3), copies[:690])
    exact = Index(metric).add(codes)
    np.testing.assert_array_equal(again.search(queries, 5, subset=some).ids, exact.search(queries, 5, subset=some).ids)
    own = again.search(codes[copies[690:692]], 5, exclude_self=copies[690:692])
    assert set(own.ids.ravel()) <= set(copies[690:])


def test_codes_of_which_too_few_differ_are_not_compressed_to_no_numbers(many):
    with pytest.raises(ValueError, match="ivfpq_fast learns from 256 different codes or more, and these are 3; fit it"):
        ApproximateIndex("ivfpq_fast").add(np.repeat(many[1][-3:], 200, axis=0))
