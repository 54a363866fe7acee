"""Exact search, held equal to a slow loop over queries and rows; saving and loading; every refusal."""

import json
import os

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cbir_utils.artifacts.files import read_sealed, sealed
from cbir_utils.artifacts.index_files import FORMAT, IndexFileError
from cbir_utils.index import METRICS, SPARE, Hits, Index

EXACT = ("euclidean", "manhattan")  # on small whole numbers their float64 sums are exact, in whatever order


def slow_distance(q, r, metric):
    q, r = q.astype(np.float64), r.astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(((q - r) ** 2).sum())
    if metric == "manhattan":
        return np.abs(q - r).sum()
    if not q.any() or not r.any():
        return 1.0
    return 1 - (q / np.linalg.norm(q)) @ (r / np.linalg.norm(r))


def slow_ranking(rows, queries, metric, own=None):
    """Every row for every query, sorted by (distance, id): float32 distances and ids, both (Q, N) or (Q, N - 1)."""
    distances, ids = [], []
    for number, query in enumerate(queries):
        pairs = [(np.float32(slow_distance(query, row, metric)), i) for i, row in enumerate(rows)]
        pairs = sorted(pair for pair in pairs if own is None or pair[1] != own[number])
        distances.append([d for d, _ in pairs])
        ids.append([i for _, i in pairs])
    return np.array(distances, np.float32), np.array(ids)


def build(rows, metric="euclidean", **options):
    index = Index(metric, **options)
    index.add(np.asarray(rows, np.float32))
    return index


def assert_nearest(hits, distances, ids, metric):
    """Hits are the first K of the slow ranking: exactly, but for cosine only as far as rounding decides nothing."""
    k = hits.ids.shape[1]
    assert hits.distances.dtype == np.float32 and hits.ids.dtype == np.int64
    if metric in EXACT:
        np.testing.assert_array_equal(hits.ids, ids[:, :k])
        np.testing.assert_array_equal(hits.distances, distances[:, :k])
        return
    np.testing.assert_allclose(hits.distances, distances[:, :k], rtol=0, atol=1e-6)
    gaps = np.pad(np.diff(distances, axis=1), ((0, 0), (1, 1)), constant_values=np.inf)
    separated = (np.minimum(gaps[:, :-1], gaps[:, 1:]) > 1e-5)[:, :k]
    np.testing.assert_array_equal(hits.ids[separated], ids[:, :k][separated])
    for found, near, all_distances, all_ids in zip(hits.ids, hits.distances, distances, ids, strict=True):
        of_id = dict(zip(all_ids, all_distances, strict=True))  # in a tie, too, each id has the distance it came with
        np.testing.assert_allclose(near, [of_id[i] for i in found], rtol=0, atol=1e-6)
        pairs = list(zip(near, found, strict=True))
        assert pairs == sorted(set(pairs))


def assert_ranked(ranked, distances, ids, metric):
    """A ranking equals the slow one: exactly, but for cosine only as far as rounding decides nothing."""
    assert ranked.dtype == np.int64
    if metric in EXACT:
        np.testing.assert_array_equal(ranked, ids)
        return
    np.testing.assert_array_equal(np.sort(ranked), np.sort(ids))
    by_id = np.take_along_axis(distances, np.argsort(ids, axis=1), axis=1)
    places = np.argsort(np.argsort(ranked, axis=1), axis=1)
    np.testing.assert_allclose(np.take_along_axis(by_id, places, axis=1), distances, rtol=0, atol=1e-6)


def small_integers(seed, n, d, low=-3, high=4):
    return np.random.default_rng(seed).integers(low, high, (n, d)).astype(np.float32)


# -- search and rank against the slow loop ---------------------------------------------------------------------


@st.composite
def problems(draw):
    n, d = draw(st.integers(1, 70)), draw(st.integers(1, 5))
    whole = st.integers(-3, 3)
    rows = draw(hnp.arrays(np.int8, (n, d), elements=whole)).astype(np.float32)
    if n > 1 and draw(st.booleans()):
        own = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4))
        return rows, rows[own], own, draw(st.integers(1, n - 1))
    queries = draw(hnp.arrays(np.int8, (draw(st.integers(1, 4)), d), elements=whole)).astype(np.float32)
    return rows, queries, None, draw(st.integers(1, n))


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_search_and_rank_equal_the_slow_loop_on_small_integers(metric, problem):
    rows, queries, own, k = problem
    index = build(rows, metric)
    distances, ids = slow_ranking(rows, queries, metric, own)
    assert_nearest(index.search(queries, k, exclude_self=own), distances, ids, metric)
    ranked = np.concatenate(list(index.rank(queries, exclude_self=own)))
    assert_ranked(ranked, distances, ids, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1, 2, SPARE, SPARE + 1, SPARE + 2, 4 * SPARE, 5 * SPARE + 7, 130])
def test_search_is_right_for_databases_around_the_number_of_candidates(metric, n):
    rows, queries = small_integers(n, n, 3), small_integers(100, 3, 3)
    rows[n // 2 :] = rows[: n - n // 2]  # every row twice: ties, also at the last candidate
    distances, ids = slow_ranking(rows, queries, metric)
    index = build(rows, metric)
    for k in {1, min(2, n), (n + 1) // 2, n}:
        assert_nearest(index.search(queries, k), distances, ids, metric)
        assert_nearest(index.search(queries[1], k), distances[1:2], ids[1:2], metric)


@pytest.mark.parametrize("metric", METRICS)
def test_of_many_rows_at_equal_distance_the_lowest_ids_come_first(metric):
    rows = small_integers(2, 5000, 3, low=1, high=3)  # eight different rows, each some 600 times
    query = np.array([1, 1, 2], np.float32)
    same = np.flatnonzero((rows == query).all(axis=1))
    index = build(rows, metric)
    hits = index.search(query, 300)
    np.testing.assert_array_equal(hits.ids[0], same[:300])
    np.testing.assert_array_equal(next(index.rank(query))[0, : len(same)], same)
    np.testing.assert_allclose(hits.distances, 0, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_exclude_self_leaves_out_each_query_of_several_blocks_and_only_it(metric):
    rows = small_integers(5, 278, 3)
    rows[100:120] = rows[:20]  # a twin of the query stays in
    own = np.random.default_rng(6).permutation(len(rows))
    distances, ids = slow_ranking(rows, rows[own], metric, own)
    index = build(rows, metric)
    hits = index.search(rows[own], 9, exclude_self=own)
    assert_nearest(hits, distances, ids, metric)
    assert not (hits.ids == own[:, None]).any()
    blocks = list(index.rank(rows[own], exclude_self=own, block=100))
    assert [len(block) for block in blocks] == [100, 100, 78]
    assert_ranked(np.concatenate(blocks), distances, ids, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_that_is_filled_up_for_faiss_finds_the_same(metric):
    rows, queries, before = (
        small_integers(8, 300, 3),
        small_integers(9, 40, 3),
        faiss.cvar.distance_compute_blas_threshold,
    )
    try:
        faiss.cvar.distance_compute_blas_threshold = 3 * 101  # of 101 queries or more FAISS makes a matrix product
        assert_nearest(build(rows, metric).search(queries, 9), *slow_ranking(rows, queries, metric), metric)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


@pytest.mark.parametrize("metric", METRICS)
def test_rank_equals_a_full_slow_sort_and_begins_with_the_hits_of_search(metric):
    rng = np.random.default_rng(7)
    rows, queries = rng.normal(size=(300, 16)).astype(np.float32), rng.normal(size=(20, 16)).astype(np.float32)
    rows[200:] = rows[:100]
    index = build(rows, metric)
    ranked = np.concatenate(list(index.rank(queries, block=7)))
    assert (ranked == slow_ranking(rows, queries, metric)[1]).mean() > 0.99
    for k in (1, 50, 300):
        np.testing.assert_array_equal(ranked[:, :k], index.search(queries, k).ids)


def test_a_single_query_gives_one_row_of_hits():
    index = build([[0, 0], [3, 4], [0, 1]])
    distances, ids = index.search(np.zeros(2, np.float32), 3)
    assert ids.tolist() == [[0, 2, 1]] and distances.tolist() == [[0, 1, 5]]
    assert index.search(np.zeros(2, np.float32), np.int64(2), exclude_self=0).ids.tolist() == [[2, 1]]


# -- numerical traps -------------------------------------------------------------------------------------------


def offset_codes():
    """Codes near 10,000 that differ by single float32 steps there (2^-10), so that float64 differences are exact."""
    return (10_000 + np.random.default_rng(10).integers(0, 4, (300, 784)) * 2.0**-10).astype(np.float32)


@pytest.mark.parametrize("metric", EXACT)
def test_search_survives_the_cancellation_that_spoils_a_float32_product(metric):
    rows = offset_codes()
    queries = rows[:20]
    distances, ids = slow_ranking(rows, queries, metric)
    naive = (rows * rows).sum(axis=1) - 2 * (queries @ rows.T)
    assert (naive.argmin(axis=1) != ids[:, 0]).mean() > 0.5  # what the product alone would answer
    assert_nearest(build(rows, metric).search(queries, 10), distances, ids, metric)
    assert_nearest(build(rows, metric).search(queries[0], 10), distances[:1], ids[:1], metric)
    np.testing.assert_array_equal(np.concatenate(list(build(rows, metric).rank(queries))), ids)


@pytest.mark.parametrize("groups", [1, 60])
@pytest.mark.parametrize("metric", EXACT)
def test_rows_at_one_distance_are_tied_though_float32_sums_of_it_differ(metric, groups):
    rng = np.random.default_rng(20)
    base = rng.uniform(0.1, 1, 64)
    rows = np.float32([rng.permutation(base) + i % groups for i in range(300)])  # the same numbers in another order
    queries = np.full((2, 64), 0.7, np.float32)
    distances, ids = slow_ranking(rows, queries, metric)
    assert len(np.unique(distances)) == groups < len(np.unique(np.abs(rows - queries[0]).sum(axis=1)))
    for k in (1, 4, 7, 50):
        assert_nearest(build(rows, metric).search(queries, k), distances, ids, metric)
        assert_nearest(build(rows, metric).search(queries[0], k), distances[:1], ids[:1], metric)


@pytest.mark.parametrize("metric", EXACT)
def test_rows_whose_distances_round_to_the_same_float32_are_tied(metric):
    rows = np.random.default_rng(21).uniform(0, 1e-3, (200, 4)).astype(np.float32)
    queries = np.full((2, 4), 1000, np.float32)  # float32 steps there are 6e-5 and more
    distances, ids = slow_ranking(rows, queries, metric)
    assert len(np.unique(distances)) < 40
    assert_nearest(build(rows, metric).search(queries, 9), distances, ids, metric)
    assert_ranked(next(build(rows, metric).rank(queries)), distances, ids, metric)


def test_rank_and_search_agree_on_rows_that_differ_by_one_rounding_in_cosine():
    rows = np.random.default_rng(11).uniform(1, 2, (1, 8)).astype(np.float32) * np.linspace(1, 3, 50)[:, None]
    index = build(rows, "cosine")  # the same direction 50 times, but for the last bit
    queries = rows[25:30].astype(np.float32)
    np.testing.assert_array_equal(next(index.rank(queries)), index.search(queries, 50).ids)


@pytest.mark.parametrize("exponent", [-140, -77, -30, 30, 60, 64, 100])
@pytest.mark.parametrize("metric", EXACT)
def test_search_is_right_where_float32_squares_overflow_or_vanish(metric, exponent):
    rows, queries = small_integers(12, 200, 8, -8, 9), small_integers(13, 15, 8, -8, 9)
    rows, queries = (np.ldexp(codes, exponent).astype(np.float32) for codes in (rows, queries))
    distances, ids = slow_ranking(rows, queries, metric)
    for k in (1, 10):
        assert_nearest(build(rows, metric).search(queries, k), distances, ids, metric)


def test_a_zero_row_does_not_displace_a_nearer_row_in_cosine():
    hits = build([[0, 0], [1, 5]], "cosine").search(np.float32([[1, 0], [0, 1]]), 1)  # 0.804 and 0.019, both below 1
    assert hits.ids.tolist() == [[1], [1]]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_zero_query_is_at_cosine_distance_1_from_every_row_in_order(k):
    index = build([[1, 0], [0, 0], [5, -5]], "cosine")
    hits = index.search(np.zeros((1, 2), np.float32), k)
    assert hits.ids.tolist() == [[0, 1, 2][:k]] and hits.distances.tolist() == [[1.0] * k]
    assert next(index.rank(np.zeros(2, np.float32))).tolist() == [[0, 1, 2]]


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_after_removing_rows_the_others_are_found_under_their_ids(metric, tmp_path):
    rows, queries = small_integers(50, 90, 3), small_integers(20, 3, 3)
    index = build(rows, metric)
    gone = np.array([0, 7, 8, 89])
    index.remove(gone)
    left = np.setdiff1d(np.arange(90), gone)
    assert (index.ids == left).all()
    distances, order = slow_ranking(rows[left], queries, metric)
    assert_nearest(index.search(queries, 10), distances, left[order], metric)
    assert_ranked(np.concatenate(list(index.rank(queries))), distances, left[order], metric)
    own = left[:20]
    with_own = index.search(rows[own], 5, exclude_self=own)
    assert not (with_own.ids == own[:, None]).any()

    index.save(tmp_path / "index.faiss")
    again = Index.load(tmp_path / "index.faiss")
    assert (again.ids == left).all()
    assert (again.search(queries, 10).ids == index.search(queries, 10).ids).all()
    for part in (index, again):
        part.add(rows[:2])  # no id is given twice, the last one's neither
        assert part.ids[-2:].tolist() == [90, 91]


@pytest.mark.parametrize("metric", METRICS)
def test_a_subset_is_searched_like_an_index_of_its_rows(metric):
    rows, queries = small_integers(51, 120, 3), small_integers(21, 40, 3)
    index = build(rows, metric)
    subset = np.array([90, 3, 4, 5, 50, 51, 52, 3])  # in any order, one of them twice
    within = np.unique(subset)
    distances, order = slow_ranking(rows[within], queries, metric)
    assert_nearest(index.search(queries, 4, subset=subset), distances, within[order], metric)
    assert len(index) == 120
    own = np.array([3, 119])  # one is in the subset, the other is not
    hits = index.search(rows[own], 6, exclude_self=own, subset=subset)
    assert sorted(hits.ids[0]) == [4, 5, 50, 51, 52, 90]
    distances, order = slow_ranking(rows[within], rows[[119]], metric)
    assert_nearest(Hits(hits.distances[1:], hits.ids[1:]), distances, within[order], metric)


def test_an_empty_index_can_be_neither_searched_nor_ranked_nor_saved(tmp_path):
    query = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="the index is empty; add codes before searching"):
        Index().search(query, 1)
    with pytest.raises(ValueError, match="the index is empty; add codes before searching"):
        next(Index().rank(query))
    with pytest.raises(ValueError, match="the index is empty; add codes before saving"):
        Index().save(tmp_path / "index.faiss")
    assert not list(tmp_path.iterdir())


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no metric 'hamming'; choose one of euclidean, cosine, manhattan"):
        Index("hamming")


# -- saving and loading ----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    build(small_integers(14, 60, 4), encoder_hash="abc123").save(tmp_path / "index.faiss")
    return tmp_path / "index.faiss"


@pytest.mark.parametrize("metric", METRICS)
def test_a_loaded_index_gives_the_same_hits(tmp_path, metric):
    queries = small_integers(15, 6, 4)
    index = build(small_integers(16, 60, 4), metric, encoder_hash="abc123")
    index.save(tmp_path / "method" / "index.faiss")
    loaded = Index.load(tmp_path / "method" / "index.faiss", encoder_hash="abc123")
    assert (loaded.metric, loaded.encoder_hash, len(loaded), loaded.dimension) == (metric, "abc123", 60, 4)
    for one, other in zip(loaded.search(queries, 20), index.search(queries, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(p.name for p in (tmp_path / "method").iterdir()) == ["index.faiss", "index.json"]


def test_a_loaded_index_can_grow(saved):
    grown = Index.load(saved)
    grown.add(small_integers(17, 40, 4))
    rows, queries = np.concatenate([small_integers(14, 60, 4), small_integers(17, 40, 4)]), small_integers(18, 3, 4)
    assert_nearest(grown.search(queries, 30), *slow_ranking(rows, queries, "euclidean"), "euclidean")


def test_plain_faiss_reads_and_searches_a_saved_index(saved):
    flat = faiss.read_index(str(saved))
    assert (flat.ntotal, flat.d, flat.metric_type) == (60, 4, faiss.METRIC_L2)
    rows = small_integers(14, 60, 4)
    squared, ids = flat.search(rows[:5], 1)
    assert not squared.any()
    np.testing.assert_array_equal(rows[ids[:, 0]], rows[:5])


def test_the_description_beside_an_index_says_what_it_holds(saved):
    facts = json.loads(saved.with_suffix(".json").read_text())
    assert len(facts.pop("sha256")) == len(facts.pop("seal")) == 64
    assert facts == {
        "kind": "exact",
        "metric": "euclidean",
        "dimension": 4,
        "rows": 60,
        "next_id": 60,
        "encoder_hash": "abc123",
        "format": FORMAT,
    }


def test_an_index_of_a_newer_format_is_refused_and_an_older_one_too(saved):
    facts_path = saved.with_suffix(".json")
    facts = json.loads(facts_path.read_text())
    facts_path.write_text(json.dumps(sealed(facts | {"format": FORMAT + 1})))
    with pytest.raises(IndexFileError, match=f"has format {FORMAT + 1}, and this version reads up to {FORMAT}; update"):
        Index.load(saved)
    del facts["seal"]
    facts_path.write_text(json.dumps(facts))
    with pytest.raises(IndexFileError, match="index.json was made by an older version, or is damaged.*; build the ind"):
        Index.load(saved)


@pytest.mark.parametrize("rename", [1, 2])
def test_a_save_that_is_killed_between_its_renames_leaves_one_of_the_two_indexes_whole(saved, monkeypatch, rename):
    """The process dies before the first or the second rename; its temporary files stay as they are."""
    index, renames, replace = Index.load(saved).remove([0]), [], os.replace

    def die(*paths):
        renames.append(paths)
        if len(renames) == rename:
            raise KeyboardInterrupt  # no handler of save's catches it
        replace(*paths)

    monkeypatch.setattr("cbir_utils.artifacts.index_files.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        index.save(saved)
    monkeypatch.undo()
    assert len(Index.load(saved)) == 60
    index.save(saved)
    assert len(Index.load(saved)) == 59


def test_a_reader_beside_a_writer_looks_again(saved, monkeypatch):
    """Between its two looks at the files, somebody has replaced both."""
    index, looks = Index.load(saved).remove([0]), []

    def replaced_meanwhile(path):
        facts = read_sealed(path)
        if not looks:
            looks.append(index.save(saved))
        return facts

    monkeypatch.setattr("cbir_utils.artifacts.index_files.read_sealed", replaced_meanwhile)
    assert len(Index.load(saved)) == 59


@pytest.mark.parametrize("fails", ["faiss", "json", "rename"])
def test_an_index_that_cannot_be_written_leaves_the_old_one(saved, monkeypatch, fails):
    """FAISS's file, its description, or the first of the two renames: the old pair stays, whole."""

    def full(*_):
        raise OSError("No space left on device")

    index = Index.load(saved).remove([0])
    name = {"faiss": "faiss.write_index", "json": "Path.write_text", "rename": "os.replace"}[fails]
    monkeypatch.setattr(f"cbir_utils.artifacts.index_files.{name}", full)
    with pytest.raises(IndexFileError, match="could not be written .*No space left on device.*; what was there before"):
        index.save(saved)
    monkeypatch.undo()
    assert len(Index.load(saved)) == 60
    assert sorted(p.name for p in saved.parent.iterdir()) == ["index.faiss", "index.json"]


def test_a_file_that_no_longer_has_its_hash_is_refused_before_faiss_reads_it(saved, monkeypatch):
    saved.write_bytes(saved.read_bytes()[:-1])
    monkeypatch.setattr(
        "cbir_utils.artifacts.index_files.faiss.read_index", lambda *_: pytest.fail("a damaged file was parsed")
    )
    with pytest.raises(IndexFileError, match="is not the file that index.json describes"):
        Index.load(saved)


@pytest.mark.parametrize("ending", [".faiss", ".json"])
def test_a_missing_file_is_named(saved, ending):
    saved.with_suffix(ending).unlink()
    with pytest.raises(IndexFileError, match=rf"index\{ending} does not exist; build the index and save it"):
        Index.load(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"a text, no index\n",
        lambda data: b"",
    ],
)
def test_a_truncated_index_and_one_that_is_text_are_refused(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(IndexFileError, match="index.faiss is not the file that index.json describes"):
        Index.load(saved)


def test_the_description_of_another_save_is_refused(saved, tmp_path):
    build(small_integers(19, 60, 4), encoder_hash="abc123").save(tmp_path / "other.faiss")
    (tmp_path / "other.json").replace(saved.with_suffix(".json"))
    with pytest.raises(IndexFileError, match="is not the file that index.json describes"):
        Index.load(saved)


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"metric": "hamming", "encoder_hash": null}', "\0\1"])
def test_a_description_that_describes_nothing_is_refused(saved, text):
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(IndexFileError, match="index.faiss has no description .index.json .*; build the index anew"):
        Index.load(saved)


def test_the_index_of_another_encoder_is_refused(saved):
    with pytest.raises(IndexFileError, match="codes of another encoder .abc123…, not fedcba987654….*anew"):
        Index.load(saved, encoder_hash="fedcba9876543210")


def test_an_index_without_an_encoder_hash_is_refused_where_one_is_asked_for(tmp_path):
    build([[0, 1]]).save(tmp_path / "index.faiss")
    assert len(Index.load(tmp_path / "index.faiss")) == 1
    with pytest.raises(IndexFileError, match="another encoder"):
        Index.load(tmp_path / "index.faiss", encoder_hash="abc123")


# -- novelty ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_novelty_is_the_mean_distance_relative_to_the_database_s_own(metric):
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(80, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    own = np.sort([[slow_distance(r, s, metric) for s in np.delete(rows, i, axis=0)] for i, r in enumerate(rows)])
    limit = np.quantile(own[:, :3].mean(axis=1), 0.99)
    slow = np.sort([[slow_distance(q, r, metric) for r in rows] for q in queries])[:, :3].mean(axis=1) / limit
    np.testing.assert_allclose(Index(metric).add(rows).novelty(queries, 3), slow, rtol=1e-4)


def test_an_empty_index_knows_nothing_new():
    with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
        Index().novelty(np.zeros((1, 2), np.float32))


def test_far_queries_are_novel_and_near_ones_are_not():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 4)).astype(np.float32)
    index = Index().add(rows)
    assert (index.novelty(rows[:50] + np.float32(0.01)) < 1.1).all()
    assert (index.novelty(rows[:50] + np.float32(20)) > 5).all()
    few = Index().add(np.float32([[0], [1], [3]]))  # each has two others: mean distances 2, 1.5 and 2.5
    np.testing.assert_allclose(few.novelty(np.float32([[1]]), exclude_self=[1]), 1.5 / 2.5, rtol=0.01)
    assert np.isfinite(Index().add(np.ones((30, 2), np.float32)).novelty(np.ones((1, 2), np.float32))).all()
