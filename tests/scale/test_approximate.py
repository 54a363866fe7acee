"""Approximate search, held against exact search: what is found, what is measured, saved and refused, in every kind."""

import json
import os
import subprocess
import sys
from copy import copy
from functools import cache

import faiss
import numpy as np
import pytest
from contract import full_disk
from threadpoolctl import threadpool_limits

from cbir_utils.index import FORMAT, Hits, Index, IndexFileError
from cbir_utils.scale.approximate import ApproximateIndex, bytes_per_row, choose_kind, load_index, make_index
from cbir_utils.scale.kinds import KINDS
from cbir_utils.scale.recall import exact_search

N, D, Q = 2000, 16, 40


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So little work is done sooner without threads that wait for each other, and a graph is the same each time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        yield
    faiss.omp_set_num_threads(before)


@cache
def data():
    """Codes of a database and of queries, in 30 clusters whose spread falls from number to number."""
    rng = np.random.default_rng(0)
    centres, spread = 3 * rng.normal(size=(30, D)), np.linspace(1.5, 0.3, D)
    codes = centres[rng.integers(0, 30, N + Q)] + rng.normal(size=(N + Q, D)) * spread
    codes = (codes @ np.linalg.qr(rng.normal(size=(D, D)))[0]).astype(np.float32)
    return codes[:N], codes[N:]


FLOAT_KINDS = [kind for kind in KINDS if kind != "binary"]

#: Each kind as it is mostly used: what it is built with.
CASES = {
    "hnsw": {"kind": "hnsw"},
    "hnsw_short": {"kind": "hnsw", "short": 8, "originals": "memory"},
    "hnsw_array": {"kind": "hnsw", "short": 8, "originals": "array"},
    "sq8": {"kind": "sq8"},
    "sq8_memory": {"kind": "sq8", "originals": "memory"},
    "ivfpq": {"kind": "ivfpq", "pq_bytes": 4, "originals": "array"},
    "ivfpq_fast": {"kind": "ivfpq_fast", "short": 10, "pq_bytes": 4, "originals": "memory"},
}
MEASURED = [case for case in CASES if case != "sq8"]  # these give the distances of full codes
METRICS = ("euclidean", "cosine")


def build(case, metric="euclidean", rows=None):
    options = dict(CASES[case])
    rows = data()[0] if rows is None else rows
    if options.get("originals") == "array":
        options["originals"] = rows
    return ApproximateIndex(options.pop("kind"), metric, encoder_hash="abc123", **options).add(rows)


@cache
def _built(case, metric):
    return build(case, metric)


def built(case, metric="euclidean"):
    """An index of all codes, to change as one likes except for adding to it: built once."""
    return copy(_built(case, metric))


def exhaustive(index):
    """The same index, set to look at everything."""
    index.ef, index.nprobe = N, 10**6
    index.refine = N
    return index


def bits():
    codes, queries = data()
    return np.packbits(np.hstack([codes > 0, codes > 1]), axis=1), np.packbits(
        np.hstack([queries > 0, queries > 1]), axis=1
    )


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.distances, other.distances)


def hamming(queries, codes):
    return (np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(codes, axis=1)).sum(axis=2)


def slow_recall(found, codes, queries, k, metric):
    exact = Index(metric).add(codes).search(queries, k)
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(found, exact.ids, strict=True)])


# -- what is found -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_nearly_all_of_the_nearest_are_found(case, metric):
    codes, queries = data()
    index = built(case, metric)
    hits = index.search(queries, 10)
    assert hits.distances.dtype == np.float32 and hits.ids.dtype == np.int64 and hits.ids.shape == (Q, 10)
    assert (np.diff(hits.distances, axis=1) >= 0).all()
    found = slow_recall(hits.ids, codes, queries, 10, metric)
    assert found > 0.93
    assert index.recall(codes, queries) == pytest.approx(found, abs=0.002)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", MEASURED)
def test_looking_at_everything_and_measuring_it_is_exact_search(case, metric):
    codes, queries = data()
    exact = Index(metric).add(codes).search(queries, 10)
    hits = exhaustive(built(case, metric)).search(queries, 10)
    np.testing.assert_array_equal(hits.ids, exact.ids)
    np.testing.assert_allclose(hits.distances, exact.distances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["hnsw_short", "hnsw_array", "ivfpq", "ivfpq_fast"])
def test_without_measuring_candidates_much_less_is_found(case):
    codes, queries = data()
    index = built(case)
    index.refine = 1
    rough = index.recall(codes, queries)
    index.refine = 8
    assert rough < index.recall(codes, queries) - 0.05


@pytest.mark.parametrize("kind", ["ivfpq", "ivfpq_fast"])
def test_product_quantisation_rotates_codes_and_balances_its_groups(kind):
    searched = ApproximateIndex(kind, pq_bytes=2 if kind == "ivfpq_fast" else 4).fit(data()[0])._searched
    short_codes = searched.shortening[-1].apply(data()[0])
    np.testing.assert_allclose(np.linalg.norm(short_codes[0] - short_codes[1]),
                               np.linalg.norm(data()[0][0] - data()[0][1]), rtol=1e-4)  # fmt: skip
    logarithms = np.log(short_codes.var(axis=0))
    in_order = np.sort(logarithms)[::-1].reshape(searched.inner.pq.M, -1).sum(axis=1)
    assert np.ptp(logarithms.reshape(searched.inner.pq.M, -1).sum(axis=1)) < np.ptp(in_order) / 3


def test_codes_may_be_shorter_than_the_bytes_they_get_or_not_divide_by_them():
    rows = data()[0][:600]
    for kind in ("ivfpq", "ivfpq_fast"):
        for dimension, pq_bytes in ((5, 16), (7, 2)):
            part = np.ascontiguousarray(rows[:, :dimension])
            index = exhaustive(ApproximateIndex(kind, originals=part, pq_bytes=pq_bytes).add(part))
            assert index.recall(part, part[:20]) == 1


def test_an_array_on_disk_and_in_half_precision_measures_candidates(tmp_path):
    codes, queries = data()
    np.save(tmp_path / "codes.npy", codes.astype(np.float16))
    on_disk = np.load(tmp_path / "codes.npy", mmap_mode="r")
    index = built("hnsw_array")
    index.originals = on_disk
    exact = Index().add(on_disk.astype(np.float32)).search(queries, 10)
    hits = exhaustive(index).search(queries, 10)
    np.testing.assert_array_equal(hits.ids, exact.ids)
    np.testing.assert_array_equal(hits.distances, exact.distances)


def test_pixels_kept_as_bytes_measure_candidates_as_the_full_codes_do(tmp_path):
    rng = np.random.default_rng(3)
    pixels, queries = (rng.integers(0, 256, (count, 24)).astype(np.float32) for count in (2000, 20))
    found = {}
    for originals in ("memory", "uint8"):
        index = make_index("hnsw", short=12, originals=originals).add(pixels)
        index.ef, index.refine = 300, 20
        index.save(tmp_path / "index.faiss")
        assert_same(load_index(tmp_path / "index.faiss").search(queries, 10), index.search(queries, 10))
        found[originals] = index.search(queries, 10)
    assert_same(found["uint8"], found["memory"])
    assert index.tune(recall=0.9) >= 0.9  # by the pixels that it keeps
    assert (index.search(queries, 3, subset=np.arange(50)).ids < 50).all()  # measured exactly
    with pytest.raises(ValueError, match="originals='uint8' needs whole numbers from 0 to 255; row 1 has others"):
        index.add(np.array([[0.0] * 24, [0.5] * 24], np.float32))


def test_the_number_of_lists_follows_from_the_rows_as_far_as_the_codes_allow():
    for options, lists in (
        ({"lists": 16}, 16),
        ({}, 32),  # 39 codes or more for each
        ({"rows": 100}, 32),  # 4 roots are 40, and log2 of it is 5.3
        ({"rows": 30}, 16),  # 21.9, 4.45
        ({"rows": 10**7}, 32),
    ):
        assert ApproximateIndex("sq8", **options).fit(data()[0])._searched.inner.nlist == lists


@pytest.mark.parametrize("case", MEASURED)
def test_of_rows_at_equal_distance_the_lower_id_comes_first(case):
    rows = np.tile(data()[0][:60], (6, 1))[np.random.default_rng(0).permutation(360)]
    hits = exhaustive(build(case, rows=rows)).search(rows[:50], 7)
    same = [np.flatnonzero((rows == row).all(axis=1)) for row in rows[:50]]
    np.testing.assert_array_equal(hits.ids[:, :6], same)
    assert not hits.distances[:, :6].any() and hits.distances[:, 6].all()


@pytest.mark.parametrize("case", CASES)
def test_rows_and_queries_of_zeros_are_at_cosine_distance_1(case):
    codes, queries = data()[0][:600].copy(), data()[1][:5].copy()
    codes[[4, 500]], queries[2] = 0, 0
    index = exhaustive(build(case, "cosine", codes))
    exact = Index("cosine").add(codes).search(queries, 600)
    hits = index.search(queries, 600)
    np.testing.assert_array_equal(np.sort(hits.ids), np.arange(600) + np.zeros((5, 1)))
    rough = 0.02 if case == "sq8" else 1e-5
    np.testing.assert_allclose(hits.distances, exact.distances, atol=rough)
    assert (hits.distances[hits.ids == 4] == 1).all() and (hits.distances[2] == 1).all()
    np.testing.assert_array_equal(hits.ids[2], np.arange(600))
    assert index.search(queries[:1], 2, subset=[4, 500]).ids.tolist() == [[4, 500]]
    index.remove([4])
    assert 4 not in index.search(queries, 599).ids and 500 in index.search(queries, 599).ids


# -- adding, removing, searching a part ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_rows_can_be_added_to_what_a_sample_was_fitted_to(case):
    codes, queries = data()
    options = dict(CASES[case])
    options["originals"] = codes if options.get("originals") == "array" else options.get("originals")
    index = ApproximateIndex(**options).fit(codes[::3])
    assert len(index) == 0 and index.dimension == D and not len(index.ids)
    index.add(codes[:1000]).add(codes[1000:])
    np.testing.assert_array_equal(index.ids, np.arange(N))
    assert index.recall(codes, queries) > 0.9


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_removed_rows_are_found_no_more_and_the_others_as_before(case, metric):
    codes, queries = data()
    index = built(case, metric)
    gone = np.unique(index.search(queries, 5).ids)
    assert len(gone) > 100
    assert index.remove(gone[::-1]) is index and len(index) == N - len(gone)
    kept = np.setdiff1d(np.arange(N), gone)
    np.testing.assert_array_equal(index.ids, kept)
    exact = Index(metric).add(codes).remove(gone).search(queries, 10)
    hits = exhaustive(index).search(queries, 10)
    assert not np.isin(hits.ids, gone).any()
    same = np.mean(hits.ids == exact.ids)
    assert same == 1 if case in MEASURED else same > 0.8
    for again in ([gone[0]], [N]):
        with pytest.raises(ValueError, match=f"ids name 1 id.s. that are not in the index, first {again[0]}"):
            index.remove(again)
    with pytest.raises(ValueError, match=f"subset name 1 id.s. that are not in the index, first {gone[3]}"):
        index.search(queries, 1, subset=[kept[0], gone[3]])
    assert built(case, metric).search(queries, 5).ids.max() < N  # the one that was copied has kept all its rows
    assert len(built(case, metric)) == N


def test_ids_of_removed_rows_are_not_used_again():
    codes = data()[0]
    index = ApproximateIndex("hnsw").add(codes[:100]).remove([99]).add(codes[100:102])
    np.testing.assert_array_equal(index.ids, [*range(99), 100, 101])
    np.testing.assert_array_equal(index.search(codes[100:102], 1).ids[:, 0], [100, 101])
    with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
        index.remove(index.ids).search(codes[:1], 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("small", [0, 10_000])
def test_a_subset_is_searched_like_an_index_of_its_rows(case, metric, small, monkeypatch):
    """With and without the exact search that a small subset gets where there are full codes."""
    monkeypatch.setattr("cbir_utils.scale.approximate.SMALL", small)
    codes, queries = data()
    index = built(case, metric)
    rng = np.random.default_rng(1)
    for count in (12, 300, 2000):
        part = rng.permutation(N)[:count]
        hits = index.search(queries, 10, subset=part)
        assert np.isin(hits.ids, part).all()
        assert all(len(set(ids)) == 10 for ids in hits.ids)
        exact = Index(metric).add(codes).search(queries, 10, subset=part)
        same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.ids, exact.ids, strict=True)])
        assert same > 0.93
        if case in MEASURED and small:
            np.testing.assert_array_equal(hits.ids, exact.ids)
    whole = index.search(queries, 12, subset=part[:12])  # all there is, in whatever corner it lies
    np.testing.assert_array_equal(np.sort(whole.ids), np.sort(part[:12]) + np.zeros((Q, 1)))


@pytest.mark.parametrize("case", CASES)
def test_a_narrow_search_still_fills_its_hits(case, monkeypatch):
    monkeypatch.setattr("cbir_utils.scale.approximate.SMALL", 0)
    codes, queries = data()
    index = built(case)
    index.ef = index.nprobe = index.refine = 1
    order = np.argsort(((codes - queries[0]) ** 2).sum(axis=1))
    far = order[-40:]  # the farthest rows of the first query: no walk or list near it leads there
    hits = index.search(queries[:1], 40, subset=far)
    np.testing.assert_array_equal(np.sort(hits.ids[0]), np.sort(far))
    if case in MEASURED:
        true = np.linalg.norm(codes[hits.ids[0]].astype(np.float64) - queries[0], axis=1)
        np.testing.assert_allclose(hits.distances[0], true, rtol=1e-5)
    np.testing.assert_array_equal(np.sort(index.search(queries[:2], N).ids), np.arange(N) + np.zeros((2, 1)))


@pytest.mark.parametrize("case", CASES)
def test_exclude_self_leaves_out_each_query_and_only_it(case):
    codes, _ = data()
    own = np.arange(0, N, 100)
    index = exhaustive(built(case))
    hits = index.search(codes[own], 5, exclude_self=own)
    assert hits.ids.shape == (20, 5) and not (hits.ids == own[:, None]).any()
    exact = Index().add(codes).search(codes[own], 5, exclude_self=own)
    same = np.mean(hits.ids == exact.ids)
    assert same == 1 if case in MEASURED else same > 0.8
    part = np.arange(0, N, 200)  # every other query is in it
    hits = index.search(codes[own], 5, exclude_self=own, subset=part)
    assert np.isin(hits.ids, part).all() and not (hits.ids == own[:, None]).any()
    exact = Index().add(codes).search(codes[own], 5, exclude_self=own, subset=part)
    same = np.mean(hits.ids == exact.ids)
    assert same == 1 if case in MEASURED else same > 0.8
    assert index.search(codes[:1], N - 1, exclude_self=[0]).ids.shape == (1, N - 1)


# -- bits ----------------------------------------------------------------------------------------------------------


def test_binary_codes_are_searched_like_by_a_slow_loop(tmp_path):
    codes, queries = bits()
    index = ApproximateIndex("binary", "hamming").add(codes[:1000]).add(codes[1000:])
    assert (len(index), index.dimension) == (N, 32)
    slow = hamming(queries, codes)

    def same(hits, rows, slow, k):
        np.testing.assert_array_equal(hits.distances, np.sort(slow[:, rows], axis=1)[:, :k])
        np.testing.assert_array_equal(hits.distances, np.take_along_axis(slow, hits.ids, axis=1))
        assert np.isin(hits.ids, rows).all() and hits.distances.dtype == np.float32

    same(index.search(queries, 7), np.arange(N), slow, 7)
    part = np.arange(5, N, 9)
    same(index.search(queries, 7, subset=part), part, slow, 7)
    index.remove(part)
    index.save(tmp_path / "index.faiss")
    left = np.setdiff1d(np.arange(N), part)
    for same_index in (index, load_index(tmp_path / "index.faiss")):
        same(same_index.search(queries, 7), left, slow, 7)
        np.testing.assert_array_equal(same_index.ids, left)
    own = left[:40]
    hits = index.search(codes[own], 7, exclude_self=own)
    assert not (hits.ids == own[:, None]).any() and np.isin(hits.ids, left).all()


def test_bits_that_do_not_fit_are_refused():
    codes, queries = bits()
    index = ApproximateIndex("binary", "hamming").add(codes)
    with pytest.raises(ValueError, match=r"queries must be packed, non-empty uint8 \(N, B\), not float32 \(40, 4\)"):
        index.search(queries.astype(np.float32), 1)
    with pytest.raises(ValueError, match="codes have 24 bits each, but the index has 32"):
        index.add(codes[:, :3])
    with pytest.raises(ValueError, match="binary codes are searched exactly; there is no recall to measure or to tune"):
        index.tune()


# -- recall and tuning ---------------------------------------------------------------------------------------------


def test_recall_counts_rows_by_their_true_distance():
    # The true two nearest of 0 are at 1 and 2 (the rows 1 and 2, or 3 in place of 2); of 10 they are 4 and 3 or 2.
    codes = np.array([[9.0], [1], [2], [-2], [10]], np.float32)
    index = ApproximateIndex("hnsw").add(codes)
    for ids, expected in (([[1, 2], [4, 0]], 1), ([[1, 3], [4, 0]], 1), ([[1, 0], [4, 2]], 0.5), ([[4, 0], [3, 1]], 0)):
        index.search = lambda queries, k, exclude_self, ids=ids: Hits(np.zeros((2, 2), np.float32), np.array(ids))
        assert index.recall(codes, np.array([[0.0], [10]], np.float32), 2) == expected


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_by_pieces_is_that_of_the_index(metric, monkeypatch):
    codes, queries = data()
    monkeypatch.setattr("cbir_utils.scale.recall.ROWS", 700)
    own, ids = np.arange(3, 43), np.setdiff1d(np.arange(N), np.arange(100, 200))
    index = Index(metric).add(codes).remove(np.arange(100, 200))
    for found, expected in (
        (exact_search(codes, queries, 900, metric, ids=ids), index.search(queries, 900)),
        (
            exact_search(codes, codes[own], 9, metric, ids=ids, exclude_self=own),
            index.search(codes[own], 9, exclude_self=own),
        ),
    ):
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("case", CASES)
def test_tuning_reaches_the_recall_that_is_asked_for_by_rows_of_the_database_without_themselves(case, monkeypatch):
    monkeypatch.setattr("cbir_utils.scale.recall.QUERIES", 200)
    codes, asked = data()[0], []
    index = built(case).remove(np.arange(1000, 1100))
    search = index.search

    def spy(queries, k, exclude_self):
        asked.append(exclude_self)
        np.testing.assert_array_equal(queries, codes[exclude_self])
        return search(queries, k, exclude_self=exclude_self)

    index.search = spy
    reached = index.tune(codes, recall=0.9, seed=3)
    assert 0.9 <= reached <= 1 and all(len(set(own)) == 200 for own in asked)
    before = index.ef, index.nprobe, index.refine
    assert index.tune(None if index._vectors is not None else codes, recall=0.9, seed=3) == reached
    assert before == (index.ef, index.nprobe, index.refine)
    assert index.tune(codes, recall=0.97, seed=3) >= 0.97
    assert sum((index.ef, index.nprobe, index.refine)) >= sum(before)


def numbers_read(index, k):
    width = index.ef if index.kind == "hnsw" else index.nprobe
    return index._searched.numbers_read(k, width, 0 if index.originals is None else index.refine * k)


@pytest.mark.parametrize("case", ["hnsw_array", "ivfpq_fast"])
def test_tuning_finds_the_cheapest_of_all_settings(case, monkeypatch):
    monkeypatch.setattr("cbir_utils.scale.recall.QUERIES", 100)
    codes, index = data()[0], built(case)
    index.tune(codes, recall=0.9)
    chosen = numbers_read(index, 10)
    own = np.sort(np.random.default_rng(0).permutation(N)[:100])
    enough = []
    for wide in (8, 11, 16, 23, 32, 45) if case == "hnsw_array" else (1, 2, 3, 4, 6, 8, 11, 16):
        for index.refine in (1, 2, 4, 8, 16, 32, 64):
            index.ef = index.nprobe = wide
            if index.recall(codes, codes[own], 10, exclude_self=own) >= 0.9:
                enough.append(numbers_read(index, 10))
    assert chosen == min(enough)


def test_a_search_is_as_dear_as_the_numbers_it_reads_are_many():
    graph, lists = built("hnsw_short"), built("ivfpq_fast")
    for graph.ef, graph.refine, numbers in (
        (10, 1, 10 * 32 * 8 + 5 * D),  # candidates on the way, 32 links each, to codes of 8; 5 full codes
        (10, 4, 20 * 32 * 8 + 20 * D),  # 20 candidates are asked for
    ):
        assert numbers_read(graph, 5) == numbers
    lists.nprobe, lists.refine = 4, 2
    width = lists._searched.inner.d
    assert width >= 10 and numbers_read(lists, 5) == 32 * width + 4 * N / 32 * 4 + 10 * D


def test_a_recall_out_of_reach_is_named_and_nothing_changed():
    codes, _ = data()
    index = ApproximateIndex("ivfpq", pq_bytes=1).add(codes)
    index.nprobe, index.refine = 7, 3
    with pytest.raises(ValueError, match=r"recall@10 of 0.99 is out of reach: this index finds 0\.\d+ of the nearest"):
        index.tune(codes, recall=0.99)
    assert (index.nprobe, index.refine) == (7, 3)
    with pytest.raises(ValueError, match="an index of the kind ivfpq does not keep the codes; give them, row number"):
        index.tune()
    with pytest.raises(ValueError, match=r"codes must be \(2000, 16\), a row for each id, not \(1999, 16\)"):
        index.tune(codes[1:])


# -- saving and loading --------------------------------------------------------------------------------------------


def array_of(case):
    return data()[0] if CASES[case].get("originals") == "array" else None


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_a_loaded_index_is_the_one_that_was_saved(case, metric, tmp_path):
    queries = data()[1]
    index = built(case, metric).remove([5, 7])
    index.ef, index.nprobe, index.refine = 33, 9, 5
    path = tmp_path / "method" / "index.faiss"
    index.save(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.faiss", "index.json"]
    loaded = load_index(path, encoder_hash="abc123", originals=array_of(case))
    assert type(loaded) is ApproximateIndex
    for name in ("kind", "metric", "encoder_hash", "dimension", "short", "pq_bytes", "ef", "nprobe", "refine"):
        assert getattr(loaded, name) == getattr(index, name)
    np.testing.assert_array_equal(loaded.ids, index.ids)
    for options in ({}, {"subset": range(0, N, 20)}, {"exclude_self": np.arange(10, 10 + Q)}):
        assert_same(loaded.search(queries, 10, **options), index.search(queries, 10, **options))


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_index_can_grow_and_be_saved_again(case, tmp_path):
    codes, queries = data()
    index = build(case, rows=codes[:1500])
    index.save(tmp_path / "index.faiss")
    originals = array_of(case)
    grown = load_index(tmp_path / "index.faiss", originals=originals).add(codes[1500:])
    grown.save(tmp_path / "index.faiss")
    again = load_index(tmp_path / "index.faiss", originals=originals)
    assert len(again) == N
    assert again.recall(codes, queries) > 0.9


def test_the_description_beside_an_index_says_what_it_holds(tmp_path):
    built("hnsw_short", "cosine").remove([5]).save(tmp_path / "index.faiss")
    facts = json.loads((tmp_path / "index.json").read_text())
    assert len(facts.pop("sha256")) == 64 and len(facts.pop("fingerprint")) == 12  # of rows 0, 1, 2, 4, …, 1024
    assert facts == {
        "kind": "hnsw",
        "metric": "cosine",
        "dimension": D,
        "rows": N,
        "next_id": N,
        "encoder_hash": "abc123",
        "settings": {"short": 8, "rows": None, "pq_bytes": 16, "seed": 0, "ef": 64, "nprobe": 16, "refine": 4},
        "originals": "memory",
        "removed": [5],
        "zeros": [],
        "format": FORMAT,
    }


def test_originals_apart_from_an_index_are_asked_for_and_checked(tmp_path):
    codes, queries = data()
    path = tmp_path / "index.faiss"
    built("hnsw_array").save(path)
    with pytest.raises(ValueError, match="index.faiss measures candidates by codes that are kept apart from it; give"):
        load_index(path)
    for other in (codes[:-1], codes[:, 1:], codes.astype(np.float64), codes[0]):
        with pytest.raises(ValueError, match=r"originals must be \(2000, 16\) float32 or float16, with a row for each"):
            load_index(path, originals=other)
    with pytest.raises(ValueError, match="originals are not the codes that .*index.faiss was built from; give those"):
        load_index(path, originals=codes[::-1])
    assert load_index(path, originals=codes.astype(np.float16)).recall(codes, queries) > 0.9
    with pytest.raises(ValueError, match=r"originals must be \(2001, 16\)"):
        load_index(path, originals=codes).add(codes[:1])


def test_other_originals_are_refused_though_the_index_was_saved_without_any(tmp_path):
    codes, path = data()[0], tmp_path / "index.faiss"
    ApproximateIndex("sq8").add(codes[:700]).add(codes[700:]).save(path)
    assert load_index(path, originals=codes).recall(codes, codes[:50], 1) == 1
    facts = json.loads(path.with_suffix(".json").read_text())
    for fingerprint, other in ((facts["fingerprint"], codes[::-1]), ([], codes), ([], codes[::-1])):
        path.with_suffix(".json").write_text(json.dumps(facts | {"fingerprint": fingerprint}))
        with pytest.raises(ValueError, match="originals are not the codes that .*index.faiss was built from"):
            load_index(path, originals=other)


def bitwise():
    return ApproximateIndex("binary", "hamming", encoder_hash="abc123").add(bits()[0])


@pytest.mark.parametrize("kind", [*FLOAT_KINDS, "binary"])
def test_files_of_another_index_are_refused(kind, tmp_path):
    """What exact indexes refuse, too, is tested with these."""
    path = tmp_path / "index.faiss"
    (bitwise() if kind == "binary" else built(kind)).save(path)
    facts = json.loads(path.with_suffix(".json").read_text())
    changes = [{"settings": {}}, {"removed": [N]}, {"removed": ["five"]}, {"kind": "tree"}]
    for change in (
        changes[: 3 if kind == "binary" else 4] + [{"kind": "sq8" if kind == "hnsw" else "hnsw"}][: kind != "binary"]
    ):
        path.with_suffix(".json").write_text(json.dumps(facts | change))
        with pytest.raises(IndexFileError, match="index.faiss is not the index that its description speaks of; build"):
            load_index(path, originals=array_of(kind) if kind in CASES else None)
    path.unlink()
    with pytest.raises(IndexFileError, match="index.faiss does not exist"):
        load_index(path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["hnsw", "binary"])
def test_a_full_disk_leaves_the_old_index(kind, tmp_path, monkeypatch):
    path, index = tmp_path / "index.faiss", bitwise() if kind == "binary" else built(kind)
    index.save(path)
    before = [p.read_bytes() for p in sorted(tmp_path.iterdir())]
    monkeypatch.setattr("builtins.open", full_disk(open))
    with pytest.raises(IndexFileError, match="No space left on device.*what was there before is unchanged"):
        index.remove([0]).save(path)
    monkeypatch.undo()
    assert before == [p.read_bytes() for p in sorted(tmp_path.iterdir())]
    assert len(load_index(path)) == N


def test_an_index_is_read_by_the_class_that_wrote_it(tmp_path):
    Index().add(data()[0]).save(tmp_path / "exact.faiss")
    assert type(load_index(tmp_path / "exact.faiss")) is Index
    with pytest.raises(IndexFileError, match="exact.faiss is an exact index; read it with Index.load"):
        ApproximateIndex.load(tmp_path / "exact.faiss")
    built("hnsw").save(tmp_path / "index.faiss")
    with pytest.raises(IndexFileError, match="is an index of the kind hnsw; read it with approximate.load_index"):
        Index.load(tmp_path / "index.faiss")


# -- which kind, and how large -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, options",
    [
        *[(kind, {}) for kind in ("exact", *KINDS)],
        ("hnsw", {"short": 8, "originals": "memory"}),
        ("ivfpq", {"short": 6, "pq_bytes": 3}),
        ("ivfpq", {"pq_bytes": 99}),
        ("ivfpq_fast", {"pq_bytes": 4}),
    ],
    ids=str,
)
def test_bytes_per_row_are_what_a_file_grows_by(kind, options, tmp_path):
    rows, metric = (bits()[0], "hamming") if kind == "binary" else (data()[0], "euclidean")
    index = make_index(kind, metric, **options)
    sizes = []
    for part in (rows[:1000], np.tile(rows, (2, 1))):
        index.add(part)
        index.save(tmp_path / "index.faiss")
        sizes.append((tmp_path / "index.faiss").stat().st_size)
    dimension = 32 if kind == "binary" else D
    assert (sizes[1] - sizes[0]) / 4000 == pytest.approx(bytes_per_row(kind, dimension, **options), rel=0.1)


@pytest.mark.parametrize(
    "rows, dimension, memory, options, kind",
    [
        (1437, 64, 2**31, {}, "exact"),
        (156_250, 64, 2**31, {}, "exact"),  # ten million numbers
        (156_251, 64, 2**31, {}, "hnsw"),
        (1_000, 64, 256_000, {}, "exact"),
        (1_000, 64, 255_999, {}, "sq8"),  # hnsw has the codes and links besides
        (1_000, 64, 71_999, {}, "ivfpq"),
        (10_000_000, 128, 2**30, {}, "ivfpq"),
        (10_000_000, 784, 2**31, {"short": 15}, "hnsw"),
        (10_000_000, 784, 2**31, {"short": 15, "originals": "memory"}, None),
        (100_000_000, 128, 2**31, {"pq_bytes": 8}, "ivfpq"),
        (1_000_000_000, 128, 2**31, {}, None),
    ],
)
def test_the_kind_is_chosen_by_rows_dimension_and_memory(rows, dimension, memory, options, kind):
    if kind is None:
        with pytest.raises(ValueError, match=r"codes need [\d.]+ GiB at least, more than the 2.0 GiB there are; allow"):
            choose_kind(rows, dimension, memory, **options)
        return
    assert choose_kind(rows, dimension, memory, **options) == kind


def test_make_index_gives_an_index_of_the_kind_that_is_due():
    small = make_index(rows=1437, dimension=64, metric="cosine", encoder_hash="abc123", short=8)
    assert type(small) is Index and (small.metric, small.encoder_hash) == ("cosine", "abc123")
    large = make_index(rows=10**6, dimension=64, metric="cosine", encoder_hash="abc123", short=8, originals="memory")
    assert (large.kind, large.metric, large.encoder_hash) == ("hnsw", "cosine", "abc123")
    assert (large.short, large.originals, large.rows) == (8, "memory", 10**6)
    assert type(make_index(rows=10**7, dimension=64, metric="manhattan")) is Index
    assert make_index(rows=10, dimension=64, metric="hamming").kind == "binary"
    assert make_index("sq8", rows=5).kind == "sq8" and type(make_index("exact")) is Index
    with pytest.raises(ValueError, match="kind='auto' chooses by the size of the database; give rows and dimension"):
        make_index(rows=5)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"kind": "tree"},
            "no approximate index of the kind 'tree'; choose one of hnsw, sq8, ivfpq, ivfpq_fast, binary",
        ),
        (
            {"kind": "hnsw", "metric": "manhattan"},
            "hnsw searches by euclidean or cosine, not by 'manhattan'; use kind='ex",
        ),
        ({"kind": "binary"}, "binary searches by hamming, not by 'euclidean'"),
        ({"kind": "binary", "metric": "hamming", "short": 8}, "binary codes are searched as they are; leave out short"),
        ({"kind": "sq8", "originals": "disk"}, r"originals must be 'memory', 'uint8' or an \(N, D\) array, not 'disk'"),
        (
            {"kind": "sq8", "metric": "cosine", "originals": "uint8"},
            "originals='uint8' keeps pixels as they are, for euclidean",
        ),
        ({"kind": "sq8", "short": 0}, "short and pq_bytes must be 1 or more, not 0 and 16"),
        ({"kind": "ivfpq", "pq_bytes": 0}, "short and pq_bytes must be 1 or more, not None and 0"),
    ],
)
def test_an_index_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ApproximateIndex(**arguments)


@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_too_few_codes_to_learn_from_are_refused(kind):
    codes = data()[0]
    if kind == "hnsw":
        assert len(ApproximateIndex(kind).add(codes[:1])) == 1
        assert len(ApproximateIndex(kind, short=8).add(codes[:9])) == 9
        with pytest.raises(
            ValueError, match="hnsw learns from 9 codes or more, and these are 8; fit it to more of the"
        ):
            ApproximateIndex(kind, short=8).add(codes[:8])
        return
    assert len(ApproximateIndex(kind, pq_bytes=2).add(codes[:256])) == 256
    with pytest.raises(ValueError, match=f"{kind} learns from 256 codes or more, and these are 255; fit it to more of"):
        ApproximateIndex(kind).add(codes[:255])


def test_unfit_codes_and_queries_are_refused():
    index = ApproximateIndex("sq8").add(data()[0][:300])
    for codes, message in (
        (np.zeros((300, D)), "must be float32, not float64"),
        (np.zeros((300, D - 1), np.float32), f"have {D - 1} numbers each, but the index has {D}"),
        (np.full((300, D), np.nan, np.float32), "have NaN or infinity"),
    ):
        for method, what in ((index.add, "codes"), (lambda rows: index.search(rows, 1), "queries")):
            with pytest.raises(ValueError, match=f"{what} {message}"):
                method(codes)
    with pytest.raises(ValueError, match="codes must be float32, not float64"):
        ApproximateIndex("sq8").fit(np.zeros((300, D)))
    assert len(index) == 300


@pytest.mark.parametrize(
    "k, options, message",
    [
        (True, {}, "k must be a whole number of 1 or more, not True"),
        (N, {"exclude_self": [4, 5]}, f"k is {N}, but the index holds only {N - 1} rows besides the query itself"),
        (3, {"subset": [1, 2]}, "k is 3, but the index holds only 2 rows"),
        (1, {"exclude_self": [4]}, r"exclude_self has 1 id\(s\) for 2 queries; give one for each"),
        (1, {"subset": [-1]}, r"subset name 1 id\(s\) that are not in the index, first -1"),
    ],
)
def test_a_search_that_cannot_be_is_refused(k, options, message):
    with pytest.raises(ValueError, match=message):
        built("hnsw").search(data()[1][:2], k, **options)


def test_what_is_done_too_early_or_twice_is_refused(tmp_path):
    codes, queries = data()
    new, index = ApproximateIndex("hnsw", short=8), ApproximateIndex("hnsw").fit(codes)
    assert (len(new), new.dimension) == (0, None) and not len(new.ids)
    for empty in (new, index):
        with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
            empty.search(queries, 1)
        with pytest.raises(ValueError, match="the index is empty; add codes before saving it"):
            empty.save(tmp_path / "index.faiss")
        with pytest.raises(ValueError, match="ids name 1 id.s. that are not in the index, first 0"):
            empty.remove([0])
        with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
            empty.tune(codes)
    with pytest.raises(ValueError, match="the index has been fitted already; make a new one to learn anew"):
        index.fit(codes)
    with pytest.raises(ValueError, match="short is 17, but the codes have only 16 numbers"):
        ApproximateIndex("hnsw", short=17).fit(codes)
    with pytest.raises(ValueError, match=r"originals must be \(2000, 16\) float32 or float16.*not float64 of shape"):
        ApproximateIndex("hnsw", originals=codes.astype(np.float64)).add(codes)


def test_learning_prints_nothing(capfd):
    for kind in FLOAT_KINDS:
        ApproximateIndex(kind, pq_bytes=2).add(data()[0][:300])
    assert capfd.readouterr() == ("", "")


# -- beside TensorFlow ---------------------------------------------------------------------------------------------

SEARCH = """
import numpy as np
from cbir_utils.scale.approximate import ApproximateIndex
codes = np.random.default_rng(0).normal(size=(500, 8)).astype('float32')
found = [ApproximateIndex(kind, pq_bytes=2, originals='memory').add(codes).search(codes, 1).ids[:, 0]
         for kind in ('hnsw', 'sq8', 'ivfpq')]
assert all((ids == range(500)).mean() > .99 for ids in found)
"""
TRAIN = """
import numpy as np, keras
model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(8)])
model.compile('adam', 'mse')
model.fit(np.ones((64, 8)), np.ones((64, 8)), verbose=0)
assert np.isfinite(model.predict(np.ones((64, 8)), verbose=0)).all()
"""


@pytest.mark.parametrize("code", [SEARCH + TRAIN + SEARCH, TRAIN + SEARCH + TRAIN], ids=["first", "second"])
def test_searching_works_beside_tensorflow_in_whatever_order_they_are_imported(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
