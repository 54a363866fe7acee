"""What every index promises, whatever keeps the codes: the exact one, an engine in a file, or a server.

``Contract`` is inherited by the tests of each; a subclass says how to make one. ``EngineContract`` adds what an engine
promises beyond, as it keeps what it gets and takes ids.
"""

import numpy as np
import pytest

from cbir_utils.codes import unit_length
from cbir_utils.scale.collection import Collection, EngineError, drop

METRICS = ("euclidean", "cosine")
ROWS = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(12, 16)).astype(np.float32)


def brute_force(rows, queries, metric):
    """All distances and the order of the rows, ``(Q, N)`` float64 and int: by distance, then by row."""
    if metric == "cosine":
        distances = 1 - unit_length(queries, np.float64) @ unit_length(rows, np.float64).T
    else:
        distances = np.linalg.norm(queries[:, None].astype(np.float64) - rows[None], axis=2)
    return np.sort(distances, axis=1), np.argsort(distances, axis=1, kind="stable")


def assert_nearest(hits, rows, queries, metric, ids=None):
    """The hits are the nearest of ``rows``, whose ids are ``ids`` (the row numbers if not given)."""
    distances, order = brute_force(rows, queries, metric)
    k = hits.ids.shape[1]
    assert hits.ids.shape == hits.distances.shape == (len(queries), k)
    assert hits.distances.dtype == np.float32 and hits.ids.dtype == np.int64
    np.testing.assert_array_equal(hits.ids, (order if ids is None else ids[order])[:, :k])
    np.testing.assert_allclose(hits.distances, distances[:, :k], rtol=0, atol=1e-5)


def full_disk(open_file):
    """``open``, but whatever is written to an index is written to a full disk."""

    def opened(path, mode="r", *args, **kwargs):
        full = "w" in mode and "index.faiss" in str(path)
        return open_file("/dev/full" if full else path, mode, *args, **kwargs)

    return opened


class Contract:
    def make(self, metric="euclidean", encoder_hash=None):
        """An empty index."""
        raise NotImplementedError

    def filled(self, metric="euclidean"):
        return self.make(metric).add(ROWS)

    def test_what_is_added_is_counted(self):
        index = self.make(encoder_hash="abc")
        assert (len(index), index.dimension, index.metric, index.encoder_hash) == (0, None, "euclidean", "abc")
        assert index.add(ROWS[:200]) is index
        assert (len(index), index.dimension) == (200, 16)
        assert len(index.add(ROWS[200:])) == 300

    @pytest.mark.parametrize("metric", METRICS)
    def test_search_is_that_of_brute_force(self, metric):
        index = self.filled(metric)
        for k in (1, 10, 300):
            assert_nearest(index.search(QUERIES, k), ROWS, QUERIES, metric)
        assert_nearest(index.search(QUERIES[3], np.int64(5)), ROWS, QUERIES[3:4], metric)

    @pytest.mark.parametrize("metric", METRICS)
    def test_a_query_is_left_out_of_its_own_hits(self, metric):
        own = np.array([5, 0, 299])
        hits = self.filled(metric).search(ROWS[own], 9, exclude_self=own)
        for row, i in enumerate(own):
            others = np.delete(np.arange(300), i)
            part = type(hits)(*(array[row : row + 1] for array in hits))
            assert_nearest(part, ROWS[others], ROWS[i : i + 1], metric, ids=others)

    @pytest.mark.parametrize("metric", METRICS)
    def test_a_subset_is_searched_like_an_index_of_its_rows(self, metric, monkeypatch):
        monkeypatch.setattr("cbir_utils.scale.collection.IDS", 10)  # several calls
        index, subset = self.filled(metric), np.array([250, 3, *range(40, 60), 3])
        within = np.unique(subset)
        assert_nearest(index.search(QUERIES, 8, subset=subset), ROWS[within], QUERIES, metric, ids=within)
        hits = index.search(ROWS[[45, 0]], 21, subset=subset, exclude_self=[45, 0])  # one is in the subset
        assert set(hits.ids[0]) == set(within) - {45}
        assert set(hits.ids[1]) < set(within)

    @pytest.mark.parametrize("metric", METRICS)
    def test_removed_rows_are_not_found_and_their_ids_not_given_again(self, metric):
        index, gone = self.filled(metric), np.array([299, 0, 17])
        assert index.remove(gone) is index
        left = np.setdiff1d(np.arange(300), gone)
        assert len(index) == 297
        assert_nearest(index.search(QUERIES, 297), ROWS[left], QUERIES, metric, ids=left)
        index.add(ROWS[gone])
        assert_nearest(index.search(QUERIES, 300), ROWS[[*left, *gone]], QUERIES, metric,
                       ids=np.array([*left, 300, 301, 302]))  # fmt: skip

    @pytest.mark.parametrize("metric", METRICS)
    def test_of_rows_at_equal_distance_the_lowest_ids_come_first(self, metric):
        index = self.make(metric).add(np.repeat(ROWS[:3], 40, axis=0))
        assert index.search(ROWS[1], 7).ids.tolist() == [list(range(40, 47))]

    def test_zeros_are_at_cosine_distance_1_from_everything(self):
        rows = ROWS[:30].copy()
        rows[[4, 9]] = 0
        hits = self.make("cosine").add(rows).search(np.stack([rows[0], 0 * rows[0]]), 30)
        assert hits.distances[0, np.isin(hits.ids[0], [4, 9])] == pytest.approx(1)
        assert set(hits.ids[0]) == set(range(30)) and (np.diff(hits.distances[0]) >= 0).all()
        assert hits.ids[1].tolist() == list(range(30)) and (hits.distances[1] == 1).all()

    @pytest.mark.parametrize("scale", [1e-20, 1e20])
    def test_cosine_does_not_depend_on_length(self, scale):
        hits = self.make("cosine").add(ROWS * np.float32(scale)).search(QUERIES, 10)
        assert_nearest(hits, ROWS, QUERIES, "cosine")

    def test_a_search_out_of_range_is_refused(self):
        index = self.filled()
        for k, options, message in (
            (301, {}, "k is 301, but the index holds only 300 rows$"),
            (300, {"exclude_self": [0]}, "k is 300, but the index holds only 299 rows besides the query itself"),
            (4, {"subset": [1, 2, 3]}, "k is 4, but the index holds only 3 rows"),
            (3, {"subset": [1, 2, 3], "exclude_self": [9]}, "k is 3, but the index holds only 2 rows besides"),
            (0, {}, "k must be a whole number of 1 or more, not 0"),
            (True, {}, "k must be a whole number of 1 or more, not True"),
            (2.0, {}, "k must be a whole number of 1 or more, not 2.0"),
            (1, {"exclude_self": [0, 1]}, r"exclude_self has 2 id\(s\) for 1 queries; give one for each"),
            (1, {"exclude_self": [300]}, r"exclude_self name 1 id\(s\) that are not in the index, first 300"),
            (1, {"subset": [7, -1, 300]}, r"subset name 2 id\(s\) that are not in the index, first -1"),
            (1, {"subset": []}, "subset must be a non-empty sequence of whole numbers, not float64"),
        ):
            with pytest.raises(ValueError, match=message):
                index.search(QUERIES[0], k, **options)

    def test_unfit_codes_and_queries_are_refused(self):
        index = self.filled()
        for codes, message in (
            (np.zeros((1, 3), np.float32), "have 3 numbers each, but the index has 16"),
            (np.full((2, 16), np.nan, np.float32), r"have NaN or infinity in 2 row\(s\), first in row 0"),
            (np.zeros((1, 16)), "must be float32, not float64"),
            (np.zeros((0, 16), np.float32), r"must be a non-empty \(N, D\) matrix, not of shape \(0, 16\)"),
        ):
            with pytest.raises(ValueError, match=f"^codes {message}"):
                index.add(codes)
            with pytest.raises(ValueError, match=f"^queries {message}"):
                index.search(codes, 1)
        assert len(index) == 300

    def test_ids_to_remove_must_be_there(self):
        index = self.filled()
        with pytest.raises(ValueError, match=r"ids name 1 id\(s\) that are not in the index, first 300"):
            index.remove([5, 300])
        with pytest.raises(ValueError, match="ids must be a non-empty sequence of whole numbers"):
            index.remove([])
        assert len(index) == 300

    def test_an_empty_index_can_be_neither_searched_nor_emptied(self):
        index = self.make()
        with pytest.raises(ValueError, match="the index is empty; add codes before searching it"):
            index.search(QUERIES, 1)
        with pytest.raises(ValueError, match=r"ids name 1 id\(s\) that are not in the index, first 0"):
            index.remove([0])


class EngineContract(Contract):
    """A subclass has a fixture that sets ``self.address``; each test has a collection of its own."""

    @pytest.fixture(autouse=True)
    def clean(self, engine_address):
        self.address, self.opened = engine_address, []
        yield
        for index in self.opened:
            index.close()
        drop(self.address, "codes")

    def make(self, metric=None, encoder_hash=None):
        self.opened.append(Collection(self.address, "codes", metric=metric, encoder_hash=encoder_hash))
        return self.opened[-1]

    def test_the_same_id_again_replaces_its_row(self):
        index = self.make().add(ROWS).add(ROWS)  # the numbering is continued
        assert len(index) == 600
        index.add(ROWS, ids=np.arange(300)).add(ROWS[:10], range(590, 600))
        assert len(index) == 600
        assert_nearest(index.search(QUERIES, 10, subset=range(300)), ROWS, QUERIES, "euclidean")
        assert index.search(ROWS[4], 3).ids.tolist() == [[4, 304, 594]]

    def test_ids_are_kept_and_the_numbering_goes_on_behind_them(self):
        index = self.make().add(ROWS[:3], [1000, 7, 500])
        index.add(ROWS[3:5]).add(ROWS[5:6], [2**62]).add(ROWS[6:7])
        found = index.search(ROWS[:7], 1).ids[:, 0]
        assert found.tolist() == [1000, 7, 500, 1001, 1002, 2**62, 2**62 + 1]
        index.close()
        assert self.make().add(ROWS[7:9], [1, 2]).search(ROWS[5], 1).ids.tolist() == [[2**62]]

    def test_what_goes_over_in_several_calls(self, monkeypatch):
        monkeypatch.setattr("cbir_utils.scale.collection.NUMBERS", 16 * 70)
        index = self.make().add(ROWS)
        assert len(index) == 300
        monkeypatch.setattr("cbir_utils.scale.collection.QUERIES", 5)
        assert_nearest(index.search(QUERIES, 10), ROWS, QUERIES, "euclidean")
        own = np.arange(12)
        assert not (index.search(ROWS[own], 3, exclude_self=own).ids == own[:, None]).any()

    @pytest.mark.parametrize("metric", METRICS)
    def test_opened_again_everything_is_there(self, metric):
        self.make(metric, encoder_hash="abc").add(ROWS[:299]).close()
        index = self.make(encoder_hash="abc")
        assert (len(index), index.dimension, index.metric, index.encoder_hash) == (299, 16, metric, "abc")
        index.add(ROWS[299:])
        assert_nearest(index.search(QUERIES, 10), ROWS, QUERIES, metric)
        index.remove([299])
        index.close()
        index = self.make()
        assert index.encoder_hash == "abc"
        index.add(ROWS[299:])
        assert index.search(ROWS[299], 1).ids.tolist() == [[300]]

    def test_a_collection_that_another_program_makes_is_found(self):
        one, other, third = self.make(), self.make(), self.make()
        one.add(ROWS[:200])
        other.add(ROWS[200:], range(200, 300))
        assert len(third) == 300
        assert_nearest(third.search(QUERIES, 10), ROWS, QUERIES, "euclidean")
        third._create(16)  # as if both had begun to make it at the same moment
        assert len(third) == 300
        with pytest.raises(EngineError, match="has just been made for codes of 16 numbers, not 3"):
            third._create(3)

    def test_another_encoder_s_or_metric_s_collection_is_refused(self):
        self.make("cosine", encoder_hash="abc").add(ROWS).close()
        with pytest.raises(EngineError, match="codes at .* has the encoder_hash abc, not xyz; choose another name"):
            self.make(encoder_hash="xyz")
        with pytest.raises(EngineError, match=r"codes at .* has the metric cosine, not euclidean; choose another name"):
            self.make("euclidean")
        with pytest.raises(ValueError, match="codes have 3 numbers each, but the index has 16"):
            self.make().add(ROWS[:, :3].copy())

    def test_a_dropped_collection_is_gone(self):
        self.make("cosine", encoder_hash="abc").add(ROWS).close()
        drop(self.address, "codes")
        assert len(self.make("euclidean", encoder_hash="xyz")) == 0

    def test_unfit_ids_are_refused(self):
        index = self.filled()
        for ids, message in (
            ([1, 2], r"ids has 2 id\(s\) for 3 codes; give one for each"),
            ([1, 2, 1], r"ids name 1 id\(s\) more than once, first 1"),
            ([1, 2, -3], r"ids must be from 0 to 2\*\*63 - 1, not -3"),
            (np.array([1, 2, 2**63], np.uint64), r"ids must be from 0 to 2\*\*63 - 1, not 9223372036854775808"),
            ([1.0, 2.0, 3.0], "ids must be a non-empty sequence of whole numbers, not float64"),
        ):
            with pytest.raises(ValueError, match=message):
                index.add(ROWS[:3] + 1, ids)
        assert_nearest(index.search(QUERIES, 3), ROWS, QUERIES, "euclidean")

    def test_what_milvus_cannot_do_is_refused(self):
        with pytest.raises(ValueError, match="Milvus has no metric 'manhattan'; choose one of euclidean, cosine, or"):
            self.make("manhattan")
        index = self.filled()
        with pytest.raises(ValueError, match="k is 16385, but Milvus returns 16384 hits at most; ask for fewer"):
            index.search(QUERIES, 16_385)
        with pytest.raises(ValueError, match="k is 16384, but Milvus returns 16383 hits at most; ask for fewer"):
            index.search(ROWS[:1], 16_384, exclude_self=[0])
        with pytest.raises(ValueError, match=r"ef must be from k \+ 2 = 12 to 32768, not 11"):
            index.search(QUERIES, 10, ef=11)
        with pytest.raises(ValueError, match="k is 16384, but the index holds only 300 rows"):
            index.search(QUERIES, 16_384)

    def test_a_closed_collection_says_so(self):
        index = self.filled()
        index.close()
        index.close()
        with pytest.raises(EngineError, match="has been closed; open it again with Collection"):
            index.search(QUERIES, 1)
