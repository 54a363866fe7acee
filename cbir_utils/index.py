"""Nearest-neighbour search: exact, by Euclidean, cosine or Manhattan distance.

The paper's retrieval step (sections V-B and VI-D): the code of a query is compared with the code of every image
of the database, and the nearest images are returned first.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import faiss
import numpy as np

from cbir_utils.artifacts.index_files import IndexFileError, read_index, write_index
from cbir_utils.codes import checked_codes, checked_k, checked_queries, own_rows, rows_of, unit_length
from cbir_utils.distances import (
    METRICS,
    Hits,
    all_distances,
    cores,
    greatest_score,
    measured,
    nearest_first,
    squared_lengths,
    without,
)

#: What FAISS calls them, so that any FAISS program can search a saved index.
FAISS_METRICS = {
    "euclidean": faiss.METRIC_L2,
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "manhattan": faiss.METRIC_L1,
}

#: Candidates that FAISS is asked for beyond k, and how many times as many if these are too few; those held at once.
SPARE, WIDER, HELD = 4, 4, 2**22


class Index:
    """Exact nearest-neighbour search over float32 rows, which FAISS keeps and saves.

    FAISS finds candidates in float32. Their distances are measured again in float64 and returned as float32; ties are
    decided on what is returned.

    Parameters
    ----------
    metric : {"euclidean", "cosine", "manhattan"}
        A row of zeros has no direction; its cosine distance to everything is 1, as in scikit-learn.
    encoder_hash : str, optional
        Hash of the encoder that made the codes; saved with the index, so that ``load`` can refuse another's.

    Examples
    --------
    >>> index = Index().add(np.float32([[0, 0], [3, 4], [0, 1]]))
    >>> index.search(np.float32([0, 0]), 2)
    Hits(distances=array([[0., 1.]], dtype=float32), ids=array([[0, 2]]))
    """

    def __init__(self, metric="euclidean", *, encoder_hash=None):
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}; choose one of {', '.join(METRICS)}")
        self.metric = metric
        self.encoder_hash = encoder_hash
        self._faiss = None
        self._ids = np.empty(0, np.int64)  # of the rows; they ascend
        self._next_id = 0

    def __len__(self):
        return len(self._ids)

    @property
    def dimension(self):
        """The code length D, or ``None`` while the index is empty."""
        return None if self._faiss is None else self._faiss.d

    @property
    def ids(self):
        """The ids of the rows, ``(N,)`` int64, ascending: 0 to N - 1 unless rows have been removed."""
        return self._ids.copy()

    @property
    def _rows(self):
        """The rows, ``(N, D)`` float32 (scaled to unit length for cosine): FAISS's own memory, not a copy."""
        return faiss.rev_swig_ptr(self._faiss.get_xb(), len(self) * self.dimension).reshape(len(self), -1)

    def add(self, codes):
        """Append ``(N, D)`` float32 codes; their ids continue the numbering, from 0 on. Returns the index."""
        codes = checked_codes(codes, "codes", self.dimension)
        if self.metric == "cosine":
            codes = unit_length(codes)
        if self._faiss is None:
            self._faiss = faiss.IndexFlat(codes.shape[1], FAISS_METRICS[self.metric])
        self._faiss.add(codes)
        self._ids = np.append(self._ids, np.arange(self._next_id, self._next_id + len(codes)))
        self._next_id += len(codes)
        return self

    def remove(self, ids):
        """Remove the rows with these ids, a sequence of int; the others keep theirs, and none is used again.

        Returns the index. Raises ValueError if an id is not in the index; then nothing is removed.
        """
        rows = rows_of(ids, self._ids, "ids")
        return self._keep(np.setdiff1d(np.arange(len(self)), rows))

    def search(self, queries, k, *, exclude_self=None, subset=None):
        """The ``k`` nearest rows of each query.

        Parameters
        ----------
        queries : ndarray
            ``(Q, D)`` float32, or ``(D,)`` for one query (which then counts as Q = 1).
        k : int
            1 ≤ k ≤ the number of rows (less one with ``exclude_self``).
        exclude_self : sequence of int, optional
            For queries that are in the database: the id of each, left out of its own hits.
        subset : sequence of int, optional
            Ids to search within.

        Returns
        -------
        Hits
            ``distances (Q, K)`` float32 and ``ids (Q, K)`` int64, nearest first.

        Raises
        ------
        ValueError
            For k out of range, an empty index, unknown ids, or queries that do not fit or are not finite.
        """
        queries, own = self._checked(queries, exclude_self)
        searched = self if subset is None else copy(self)._keep(np.unique(rows_of(subset, self._ids, "subset")))
        k = checked_k(k, len(searched), own is not None)
        hits = searched._search(queries, k + (own is not None))  # one more, in case the query itself is there
        return hits if own is None else without(hits, own)

    def rank(self, queries, *, exclude_self=None, block=64):
        """Rank the whole database for each query: yields ``(B, N)`` int64 ids, nearest first, block by block.

        In blocks, because 10,000 full rankings of 60,000 rows would fill 4.8 GB. With ``exclude_self`` each
        ranking has N - 1 ids.
        """
        queries, own = self._checked(queries, exclude_self)
        rows = self._rows.astype(np.float64)
        norms = squared_lengths(rows)

        def ranking(start):
            distances = all_distances(queries[start : start + block], rows, norms, self.metric)
            if own is not None:
                distances[self._ids == own[start : start + block, None]] = np.nan
            # Non-negative floats, and NaN after them, sort like their bits taken as integers. With the distance in the
            # high half and the row in the low half of a 64-bit key, sorting the keys sorts by distance, then by row.
            keys = distances.view(np.uint32).astype(np.uint64) << np.uint64(32)
            keys |= np.arange(len(self), dtype=np.uint64)
            keys.sort(axis=1)
            keys &= np.uint64(0xFFFFFFFF)
            return self._ids[keys.view(np.int64)][:, : len(self) - (own is not None)]

        # Each core sorts a block of its own while the caller looks at the last one. A block takes some 100 MB at 60,000
        # rows: no more than eight at once.
        waiting, workers = deque(), min(8, cores())
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(queries), block):
                waiting.append(pool.submit(ranking, start))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def novelty(self, queries, k=10, *, exclude_self=None):
        """How unlike the database each query is: ``(Q,)`` float64, more than 1 for what hardly belongs to it.

        The mean distance to a query's ``k`` nearest rows (all others, if there are no more), divided by the 99th
        percentile of the same for 2,000 rows of the database, always the same, each without itself. ``exclude_self`` is
        that of :meth:`search`.
        """
        k = min(k, len(self) - 1)
        own = self.search(queries, k, exclude_self=exclude_self).distances.mean(axis=1, dtype="f8")
        drawn = np.sort(np.random.default_rng(0).choice(len(self), min(2000, len(self)), replace=False))
        usual = self.search(self._rows[drawn], k, exclude_self=self._ids[drawn]).distances.mean(axis=1, dtype="f8")
        return own / max(np.quantile(usual, 0.99), np.finfo("f4").tiny)  # a database of duplicates has limit 0

    def save(self, path):
        """Write the rows to ``path`` (``index.faiss``) and their description beside it (``index.json``).

        Both become valid together. Raises :class:`IndexFileError` if one cannot be written; what was there stays.
        """
        if not len(self):
            raise ValueError("the index is empty; add codes before saving it")
        stored = self._faiss
        if len(self) != self._next_id:  # rows have been removed, so the ids are kept beside the rows
            stored = faiss.IndexIDMap(faiss.IndexFlat(self.dimension, FAISS_METRICS[self.metric]))
            stored.add_with_ids(self._rows, self._ids)
        facts = {"kind": "exact", "metric": self.metric, "dimension": self.dimension, "rows": len(self)}
        write_index(path, stored, facts | {"next_id": self._next_id, "encoder_hash": self.encoder_hash})

    @classmethod
    def load(cls, path, *, encoder_hash=None):
        """Read an index that :meth:`save` wrote.

        With ``encoder_hash``, refuse an index whose codes another encoder made. Raises :class:`IndexFileError`,
        naming the file, if either file is missing, damaged, no index, of a newer format, or another encoder's.
        """
        stored, facts = read_index(path, encoder_hash=encoder_hash)
        if facts["kind"] != "exact":
            raise IndexFileError(f"{path} is an index of the kind {facts['kind']}; read it with approximate.load_index")
        index = cls(facts["metric"], encoder_hash=facts["encoder_hash"])
        index._next_id = facts["next_id"]
        index._ids = np.arange(stored.ntotal)
        if isinstance(stored, faiss.IndexIDMap):
            index._ids = faiss.vector_to_array(stored.id_map)
            stored = faiss.clone_index(faiss.downcast_index(stored.index))
        index._faiss = stored
        return index

    def _checked(self, queries, exclude_self):
        """Queries as ``(Q, D)`` (unit length for cosine), and the id of each as an array, or ``None``."""
        if not len(self):
            raise ValueError("the index is empty; add codes before searching it")
        queries = checked_queries(queries, self.dimension)
        own = None if exclude_self is None else self._ids[own_rows(exclude_self, self._ids, len(queries))]
        return unit_length(queries) if self.metric == "cosine" else queries, own

    def _keep(self, rows):
        """Keep these rows only (row numbers, ascending), in memory of their own."""
        kept = faiss.IndexFlat(self.dimension, FAISS_METRICS[self.metric])
        kept.add(self._rows[rows])
        self._ids, self._faiss = self._ids[rows], kept
        return self

    def _search(self, queries, k):
        """The ``k`` nearest rows of queries that have been checked; there are ``k`` rows or more."""
        distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        left, ask = np.arange(len(queries)), k + SPARE
        while len(left):
            unsure, step = [], max(1, HELD // ask)
            for start in range(0, len(left), step):
                these = left[start : start + step]
                (distances[these], rows[these]), sure = self._nearest(queries[these], k, min(ask, len(self)))
                unsure.append(these[~sure])
            left, ask = np.concatenate(unsure), WIDER * ask
        return Hits(distances, self._ids[rows])

    def _nearest(self, queries, k, ask):
        """The ``k`` nearest among ``ask`` candidates, as row numbers, and for which queries no other row can be nearer.

        No row is missing if the last candidate's score is greater than that of any row as near as the k-th hit can be.
        """
        if ask == len(self):
            scores, rows = np.full((len(queries), 1), np.inf), np.tile(np.arange(ask), (len(queries), 1))
        else:
            scores, rows = _scores(self._faiss, queries, ask)
        hits = nearest_first(measured(self._rows.__getitem__, queries, rows, self.metric), rows, k)
        limit = greatest_score(queries, hits.distances[:, -1], self.metric)
        return hits, (scores[:, -1] > limit) | (ask == len(self))


def _scores(index, queries, ask):
    """FAISS's scores and rows ``(Q, ask)``, nearest first, as ``greatest_score`` has them.

    From many queries on FAISS multiplies matrices, ten times as fast. A batch not too small is filled up to that.
    """
    count, many = len(queries), -(-faiss.cvar.distance_compute_blas_threshold // index.d)
    if index.metric_type != faiss.METRIC_L1 and many / 8 < count < many:
        queries = np.resize(queries, (many, index.d))
    scores, rows = (found[:count] for found in index.search(queries, ask))
    return (1 - scores if index.metric_type == faiss.METRIC_INNER_PRODUCT else scores), rows
