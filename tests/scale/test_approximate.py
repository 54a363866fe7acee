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
from contract import METRICS, Contract, full_disk
from threadpoolctl import threadpool_limits

from cbir_utils.artifacts.index_files import FORMAT, IndexFileError
from cbir_utils.index import Hits, Index
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


def array_of(case, codes):
    """The originals that are kept apart from the index, where the case has such."""
    return codes if CASES[case].get("originals") == "array" else None


def empty(case, metric="euclidean", codes=None):
    """An index of the case that knows nothing yet; ``codes`` are those it will hold."""
    options, originals = dict(CASES[case]), array_of(case, data()[0] if codes is None else codes)
    if originals is not None:
        options["originals"] = originals
    return ApproximateIndex(options.pop("kind"), metric, encoder_hash="abc123", **options)


@cache
def _built(case, metric):
    return empty(case, metric).add(data()[0])


def built(case, metric="euclidean"):
    """An index of all codes, to change as one likes except for adding to it: built once."""
    return copy(_built(case, metric))


def exhaustive(index):
    """The same index, set to look at everything and to measure it all."""
    index.ef, index.nprobe, index.refine = N, 10**6, N
    return index


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.distances, other.distances)


def share(found, true):
    """The share of the true hits that are found."""
    return np.mean([np.isin(ids, others) for ids, others in zip(true.ids, found.ids, strict=True)])


# -- what is found -------------------------------------------------------------------------------------------------


class TestLookingAtEverything(Contract):
    """Set so, a search is exact: it keeps the promises of every index."""

    def make(self, metric="euclidean", encoder_hash=None):
        return exhaustive(make_index("hnsw", metric, encoder_hash=encoder_hash, short=8, originals="memory"))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_nearly_all_of_the_nearest_are_found(case, metric):
    codes, queries = data()
    index = built(case, metric)
    hits = index.search(queries, 10)
    assert hits.distances.dtype == np.float32 and hits.ids.dtype == np.int64 and hits.ids.shape == (Q, 10)
    assert (np.diff(hits.distances, axis=1) >= 0).all()
    found = share(hits, Index(metric).add(codes).search(queries, 10))
    assert found > 0.93
    assert index.recall(codes, queries) == pytest.approx(found, abs=0.002)


@pytest.mark.parametrize("small", [0, 10_000])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_looking_at_everything_is_exact_search(case, metric, small, monkeypatch):
    """Also among some rows, without the query itself and after rows have been removed.

    With and without the exact search that a small subset gets where there are full codes.
    """
    monkeypatch.setattr("cbir_utils.scale.approximate.SMALL", small)
    (codes, queries), own, part = data(), np.arange(0, N, 50), np.arange(0, N, 100)
    index, exact = exhaustive(built(case, metric)), Index(metric).add(codes)

    def check(rows, **options):
        hits, true = index.search(rows, 10, **options), exact.search(rows, 10, **options)
        assert np.isin(hits.ids, options.get("subset", exact.ids)).all()
        if case == "sq8":  # the others give the distances of full codes
            assert share(hits, true) > 0.9
        else:
            np.testing.assert_array_equal(hits.ids, true.ids)
            np.testing.assert_allclose(hits.distances, true.distances, rtol=1e-5, atol=1e-6)

    def check_all():
        check(queries)
        check(queries, subset=part)
        check(codes[own], exclude_self=own)
        check(codes[own], exclude_self=own, subset=part)
        assert not (index.search(codes[own], 5, exclude_self=own).ids == own[:, None]).any()

    check_all()
    gone = np.setdiff1d(exact.search(queries, 5).ids, own)
    assert len(gone) > 100 and index.remove(gone[::-1]) is index
    exact.remove(gone)
    np.testing.assert_array_equal(index.ids, exact.ids)
    check_all()
    assert len(built(case, metric)) == N  # the index that was copied has kept its rows
    with pytest.raises(ValueError, match=f"subset name 1 id.s. that are not in the index, first {gone[3]}"):
        index.search(queries, 1, subset=[own[0], gone[3]])
    with pytest.raises(ValueError, match=f"ids name 1 id.s. that are not in the index, first {gone[0]}"):
        index.remove(gone[:1])


@pytest.mark.parametrize("case", CASES)
def test_the_smaller_a_subset_the_wider_the_search(case, monkeypatch):
    monkeypatch.setattr("cbir_utils.scale.approximate.SMALL", 0)
    codes, queries = data()
    index, exact = built(case), Index().add(codes)
    for count in (12, 300, N):
        part = np.random.default_rng(1).permutation(N)[:count]
        hits = index.search(queries, 10, subset=part)
        assert np.isin(hits.ids, part).all()
        assert share(hits, exact.search(queries, 10, subset=part)) > 0.93


@pytest.mark.parametrize("case", CASES)
def test_a_narrow_search_still_fills_its_hits(case, monkeypatch):
    monkeypatch.setattr("cbir_utils.scale.approximate.SMALL", 0)
    codes, queries = data()
    index = built(case)
    index.ef = index.nprobe = index.refine = 1
    far = Index().add(codes).search(queries[0], N).ids[0, -40:]  # no walk or list near the query leads there
    hits = index.search(queries[0], 40, subset=far)
    np.testing.assert_array_equal(np.sort(hits.ids[0]), np.sort(far))
    if case != "sq8":
        true = np.linalg.norm(codes[hits.ids[0]].astype(np.float64) - queries[0], axis=1)
        np.testing.assert_allclose(hits.distances[0], true, rtol=1e-5)
    np.testing.assert_array_equal(np.sort(index.search(queries[:2], N).ids), np.arange(N) + np.zeros((2, 1)))
    assert index.search(codes[:1], N - 1, exclude_self=[0]).ids.shape == (1, N - 1)


@pytest.mark.parametrize("case", ["hnsw_short", "hnsw_array", "ivfpq", "ivfpq_fast"])
def test_without_measuring_candidates_much_less_is_found(case):
    codes, queries = data()
    index = built(case)
    index.refine = 1
    rough = index.recall(codes, queries)
    index.refine = 8
    assert rough < index.recall(codes, queries) - 0.05


@pytest.mark.parametrize("case", CASES)
def test_rows_and_queries_of_zeros_are_at_cosine_distance_1(case):
    codes, queries = data()[0][:600].copy(), data()[1][:5].copy()
    codes[[4, 500]], queries[2] = 0, 0
    index = exhaustive(empty(case, "cosine", codes).add(codes))
    hits, exact = index.search(queries, 600), Index("cosine").add(codes).search(queries, 600)
    np.testing.assert_array_equal(np.sort(hits.ids), np.arange(600) + np.zeros((5, 1)))
    np.testing.assert_allclose(hits.distances, exact.distances, atol=0.02 if case == "sq8" else 1e-5)
    assert (hits.distances[hits.ids == 4] == 1).all() and (hits.distances[2] == 1).all()
    np.testing.assert_array_equal(hits.ids[2], np.arange(600))
    assert index.search(queries[:1], 2, subset=[4, 500]).ids.tolist() == [[4, 500]]
    left = index.remove([4]).search(queries, 599).ids
    assert 4 not in left and 500 in left


def test_product_quantisation_rotates_codes_and_balances_its_groups():
    codes, searched = data()[0], ApproximateIndex("ivfpq_fast", pq_bytes=2).fit(data()[0])._searched
    turned, groups = searched.shortening[-1].apply(codes), searched.inner.pq.M
    lengths = [np.linalg.norm(rows[0] - rows[1]) for rows in (turned, codes)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
    logarithms = np.log(turned.var(axis=0))
    in_order = np.sort(logarithms)[::-1].reshape(groups, -1).sum(axis=1)
    assert np.ptp(logarithms.reshape(groups, -1).sum(axis=1)) < np.ptp(in_order) / 3


@pytest.mark.parametrize("kind", ["ivfpq", "ivfpq_fast"])
@pytest.mark.parametrize("dimension, pq_bytes", [(5, 16), (7, 2)])
def test_codes_may_be_shorter_than_the_bytes_they_get_or_not_divide_by_them(kind, dimension, pq_bytes):
    rows = np.ascontiguousarray(data()[0][:300, :dimension])
    index = exhaustive(ApproximateIndex(kind, originals=rows, pq_bytes=pq_bytes).add(rows))
    assert index.recall(rows, rows[:20]) == 1


def test_the_number_of_lists_follows_from_the_rows_as_far_as_the_codes_allow():
    for options, lists in (
        ({"lists": 16}, 16),
        ({}, 32),  # 39 codes or more for each
        ({"rows": 100}, 32),  # 4 roots are 40, and log2 of it is 5.3
        ({"rows": 30}, 16),  # 21.9, 4.45
        ({"rows": 10**7}, 32),
    ):
        assert ApproximateIndex("sq8", **options).fit(data()[0])._searched.inner.nlist == lists


def test_an_array_on_disk_and_in_half_precision_measures_candidates(tmp_path):
    codes, queries = data()
    np.save(tmp_path / "codes.npy", codes.astype(np.float16))
    index = exhaustive(built("hnsw_array"))
    index.originals = np.load(tmp_path / "codes.npy", mmap_mode="r")
    exact = Index().add(index.originals.astype(np.float32))
    assert_same(index.search(queries, 10), exact.search(queries, 10))


def test_pixels_kept_as_bytes_measure_candidates_as_the_full_codes_do(tmp_path):
    rng = np.random.default_rng(3)
    pixels, queries = (rng.integers(0, 256, (count, 24)).astype(np.float32) for count in (2000, 20))
    found = []
    for originals in ("memory", "uint8"):
        index = make_index("hnsw", short=12, originals=originals).add(pixels)
        index.ef, index.refine = 300, 20
        index.save(tmp_path / "index.faiss")
        found += [index.search(queries, 10), load_index(tmp_path / "index.faiss").search(queries, 10)]
    for hits in found[1:]:
        assert_same(hits, found[0])
    assert index.tune(recall=0.9) >= 0.9  # by the pixels that it keeps
    assert (index.search(queries, 3, subset=np.arange(50)).ids < 50).all()  # measured exactly
    with pytest.raises(ValueError, match="originals='uint8' needs whole numbers from 0 to 255; row 1 has others"):
        index.add(np.array([[0.0] * 24, [0.5] * 24], np.float32))


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
    monkeypatch.setattr("cbir_utils.scale.recall.ROWS", 700)
    (codes, queries), own, gone = data(), np.arange(3, 43), np.arange(100, 200)
    index, ids = Index(metric).add(codes).remove(gone), np.setdiff1d(np.arange(N), gone)
    assert_same(exact_search(codes, queries, 900, metric, ids=ids), index.search(queries, 900))
    found = exact_search(codes, codes[own], 9, metric, ids=ids, exclude_self=own)
    assert_same(found, index.search(codes[own], 9, exclude_self=own))


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


@pytest.mark.parametrize("case, widths", [
    ("hnsw_array", (8, 11, 16, 23, 32, 45)),
    ("ivfpq_fast", (1, 2, 3, 4, 6, 8, 11, 16)),
])  # fmt: skip
def test_tuning_finds_the_cheapest_of_all_settings(case, widths, monkeypatch):
    monkeypatch.setattr("cbir_utils.scale.recall.QUERIES", 100)
    codes, index, enough = data()[0], built(case), []
    index.tune(codes, recall=0.9)
    chosen = numbers_read(index, 10)
    own = np.sort(np.random.default_rng(0).permutation(N)[:100])
    for index.ef in widths:
        index.nprobe = index.ef
        for index.refine in (1, 2, 4, 8, 16, 32, 64):
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
    codes = data()[0]
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


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_a_loaded_index_is_the_one_that_was_saved(case, metric, tmp_path):
    queries, path = data()[1], tmp_path / "method" / "index.faiss"
    index = built(case, metric).remove([5, 7])
    index.ef, index.nprobe, index.refine = 33, 9, 5
    index.save(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.faiss", "index.json"]
    loaded = load_index(path, encoder_hash="abc123", originals=array_of(case, data()[0]))
    assert type(loaded) is ApproximateIndex
    for name in ("kind", "metric", "encoder_hash", "dimension", "short", "pq_bytes", "ef", "nprobe", "refine"):
        assert getattr(loaded, name) == getattr(index, name)
    np.testing.assert_array_equal(loaded.ids, index.ids)
    for options in ({}, {"subset": range(0, N, 20)}, {"exclude_self": np.arange(10, 10 + Q)}):
        assert_same(loaded.search(queries, 10, **options), index.search(queries, 10, **options))


@pytest.mark.parametrize("case", CASES)
def test_an_index_that_was_fitted_to_a_sample_grows_also_after_it_was_saved(case, tmp_path):
    (codes, queries), path = data(), tmp_path / "index.faiss"
    index = empty(case).fit(codes[::3])
    assert len(index) == 0 and index.dimension == D and not len(index.ids)
    index.add(codes[:1500]).save(path)
    for first, last in ((1500, 1800), (1800, N)):
        index = load_index(path, originals=array_of(case, codes)).add(codes[first:last])
        index.save(path)
    np.testing.assert_array_equal(index.ids, np.arange(N))
    assert index.recall(codes, queries) > 0.9


def test_the_description_beside_an_index_says_what_it_holds(tmp_path):
    built("hnsw_short", "cosine").remove([5]).save(tmp_path / "index.faiss")
    facts = json.loads((tmp_path / "index.json").read_text())
    assert len(facts.pop("seal")) == len(facts.pop("sha256")) == 64
    assert len(facts.pop("fingerprint")) == 12  # of rows 0, 1, 2, 4, …, 1024
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
        "shared": None,
        "format": FORMAT,
    }


def test_originals_apart_from_an_index_are_asked_for_and_checked(tmp_path):
    (codes, queries), path = data(), tmp_path / "index.faiss"
    built("hnsw_array").save(path)
    with pytest.raises(ValueError, match="index.faiss measures candidates by codes that are kept apart from it; give"):
        load_index(path)
    for other in (codes[:-1], codes[:, 1:], codes.astype(np.float64), codes[0]):
        with pytest.raises(ValueError, match=r"originals must be \(2000, 16\) float32 or float16, with a row for each"):
            load_index(path, originals=other)
    assert load_index(path, originals=codes.astype(np.float16)).recall(codes, queries) > 0.9
    with pytest.raises(ValueError, match=r"originals must be \(2001, 16\)"):
        load_index(path, originals=codes).add(codes[:1])


@pytest.mark.parametrize("case", ["hnsw_array", "sq8"])
def test_other_originals_are_refused_also_where_the_index_was_saved_without_any(case, tmp_path):
    codes, path = data()[0], tmp_path / "index.faiss"
    empty(case).add(codes[:700]).add(codes[700:]).save(path)
    assert load_index(path, originals=codes).recall(codes, codes[:50], 1) == 1
    with pytest.raises(ValueError, match="originals are not the codes that .*index.faiss was built from; give those"):
        load_index(path, originals=codes[::-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_that_was_changed_is_refused(kind, tmp_path):
    """What exact indexes refuse, too, is tested with these."""
    path = tmp_path / "index.faiss"
    built(kind).save(path)
    facts = json.loads(path.with_suffix(".json").read_text())
    for change in ({"settings": {}}, {"removed": [N]}, {"kind": "tree"}, {"fingerprint": []}):
        path.with_suffix(".json").write_text(json.dumps(facts | change))
        with pytest.raises(IndexFileError, match="index.json differs from its own hash.*; build the index anew"):
            load_index(path, originals=data()[0] if kind == "ivfpq" else None)
    path.unlink()
    with pytest.raises(IndexFileError, match="index.faiss does not exist"):
        load_index(path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_index(tmp_path, monkeypatch):
    path, index = tmp_path / "index.faiss", built("hnsw")
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


@pytest.mark.parametrize("kind, options", [
    ("exact", {}),
    ("hnsw", {}),
    ("hnsw", {"short": 8, "originals": "memory"}),
    ("sq8", {}),
    ("ivfpq", {"short": 6, "pq_bytes": 3}),
    ("ivfpq", {"short": 4, "pq_bytes": 99}),
    ("ivfpq_fast", {"pq_bytes": 4}),
    ("ivfpq_fast", {}),
], ids=str)  # fmt: skip
def test_bytes_per_row_are_what_a_file_grows_by(kind, options, tmp_path):
    rows = data()[0]
    index, sizes = make_index(kind, **options), []
    for part in (rows[:1000], np.concatenate([rows, rows + 1])):
        index.add(part).save(tmp_path / "index.faiss")
        sizes.append((tmp_path / "index.faiss").stat().st_size)
    grown = (sizes[1] - sizes[0]) / (2 * N)
    assert grown == pytest.approx(bytes_per_row(kind, index.dimension, **options), rel=0.1)


@pytest.mark.parametrize("rows, dimension, memory, options, kind", [
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
])  # fmt: skip
def test_the_kind_is_chosen_by_rows_dimension_and_memory(rows, dimension, memory, options, kind):
    if kind is None:
        with pytest.raises(ValueError, match=r"codes need [\d.]+ GiB at least, more than the 2.0 GiB there are; allow"):
            choose_kind(rows, dimension, memory, **options)
    else:
        assert choose_kind(rows, dimension, memory, **options) == kind


def test_make_index_gives_an_index_of_the_kind_that_is_due():
    small = make_index(rows=1437, dimension=64, metric="cosine", encoder_hash="abc123", short=8)
    assert type(small) is Index and (small.metric, small.encoder_hash) == ("cosine", "abc123")
    large = make_index(rows=10**6, dimension=64, metric="cosine", encoder_hash="abc123", short=8, originals="memory")
    assert (large.kind, large.metric, large.encoder_hash) == ("hnsw", "cosine", "abc123")
    assert (large.short, large.originals, large.rows) == (8, "memory", 10**6)
    assert type(make_index(rows=10**7, dimension=64, metric="manhattan")) is Index
    assert make_index("sq8", rows=5).kind == "sq8" and type(make_index("exact")) is Index
    with pytest.raises(ValueError, match="kind='auto' chooses by the size of the database; give rows and dimension"):
        make_index(rows=5)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, options, message", [
    ("tree", {}, "no approximate index of the kind 'tree'; choose one of hnsw, sq8, ivfpq, ivfpq_fast"),
    ("hnsw", {"metric": "manhattan"}, "hnsw searches by euclidean or cosine, not by 'manhattan'; use kind='exact'"),
    ("sq8", {"originals": "disk"}, r"originals must be 'memory', 'uint8' or an \(N, D\) array, not 'disk'"),
    ("sq8", {"metric": "cosine", "originals": "uint8"}, "originals='uint8' keeps pixels as they are, for euclidean"),
    ("sq8", {"short": 0}, "short and pq_bytes must be 1 or more, not 0 and 16"),
    ("ivfpq", {"pq_bytes": 0}, "short and pq_bytes must be 1 or more, not None and 0"),
])  # fmt: skip
def test_an_index_that_cannot_be_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        ApproximateIndex(kind, **options)


@pytest.mark.parametrize("kind, options, least", [
    ("hnsw", {}, 1),
    ("hnsw", {"short": 8}, 9),
    *((kind, {"pq_bytes": 2}, 256) for kind in list(KINDS)[1:]),
])  # fmt: skip
def test_learning_takes_some_codes_prints_nothing_and_is_done_once(kind, options, least, capfd):
    codes, index = data()[0], ApproximateIndex(kind, **options)
    if least > 1:
        with pytest.raises(
            ValueError, match=f"{kind} learns from {least} different codes or more, and these are {least - 1}"
        ):
            index.fit(codes[: least - 1])
    assert len(index.add(codes[:least])) == least
    with pytest.raises(ValueError, match="the index has been fitted already; make a new one to learn anew"):
        index.fit(codes)
    assert capfd.readouterr() == ("", "")


def test_what_is_done_too_early_or_does_not_fit_is_refused(tmp_path):
    codes, queries = data()
    for index in (ApproximateIndex("hnsw", short=8), ApproximateIndex("hnsw").fit(codes)):
        with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
            index.search(queries, 1)
        with pytest.raises(ValueError, match="the index is empty; add codes before saving it"):
            index.save(tmp_path / "index.faiss")
        with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
            index.tune(codes)
    with pytest.raises(ValueError, match="codes must be float32, not float64"):
        ApproximateIndex("sq8").fit(codes.astype(np.float64))
    with pytest.raises(ValueError, match="short is 17, but the codes have only 16 numbers"):
        ApproximateIndex("hnsw", short=17).fit(codes)
    with pytest.raises(ValueError, match=r"originals must be \(2000, 16\) float32 or float16.*not float64 of shape"):
        ApproximateIndex("hnsw", originals=codes.astype(np.float64)).add(codes)


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
