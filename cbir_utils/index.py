"""Nearest-neighbour search: exact, by Euclidean, cosine or Manhattan distance.

The paper's retrieval step (sections V-B and VI-D): the code of a query is compared with the code of every image
of the database, and the nearest come back first.
"""

import json
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
from scipy.spatial.distance import cdist
from threadpoolctl import ThreadpoolController

from cbir_utils.codes import checked_codes, unit_length
from cbir_utils.run import atomic_path, sha256, write_json

#: Distances by name. ``euclidean`` is the paper's equation 2; ``cosine`` is 1 - cos(angle), in [0, 2];
#: ``manhattan`` is the sum of absolute differences.
METRICS = ("euclidean", "cosine", "manhattan")

#: What FAISS calls them, so that any FAISS program can search a saved index.
FAISS_METRICS = {
    "euclidean": faiss.METRIC_L2,
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "manhattan": faiss.METRIC_L1,
}

#: Of a saved index. Format 1 had no ``next_id``: its ids were row numbers.
FORMAT = 2

#: Handled at a time: queries by a core, scores of a product (they fit into a core's cache), pairs (query, row).
QUERIES, SCORES, PAIRS = 256, 2**17, 2**16

#: Rows in a group whose least score is kept (they are scored again if it is good), and groups in a group of groups.
FINE, COARSE = 8, 8

#: To keep BLAS to one thread while several blocks of queries are searched side by side.
_THREADS = ThreadpoolController()


class IndexFileError(ValueError):
    """A saved index is missing, damaged or another encoder's; the message names the file."""


class Hits(NamedTuple):
    """The nearest rows of each query, nearest first; of rows at equal distance the lower id comes first."""

    distances: np.ndarray  #: (Q, K) float32
    ids: np.ndarray  #: (Q, K) int64, row numbers of the database


class Index:
    """Exact nearest-neighbour search over float32 rows, which FAISS keeps and saves.

    Distances are computed in float64 from the float32 rows and returned as float32; ties are decided on what is
    returned. Where both were timed (``make bench``), a batch took on two threads about half the time of FAISS's own
    exact search and on one thread as long; a single query took on one thread up to twice as long. Euclidean and cosine
    search go through one matrix product, which also settles ties, and Manhattan, which has none, goes through FAISS.

    Parameters
    ----------
    metric : {"euclidean", "cosine", "manhattan"}
        A row of zeros has no direction; its cosine distance to everything is 1, as in scikit-learn.
    encoder_hash : str, optional
        Hash of the encoder that made the codes; saved with the index, so that ``load`` can refuse another's.
    """

    def __init__(self, metric="euclidean", *, encoder_hash=None):
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}; choose one of {', '.join(METRICS)}")
        self.metric = metric
        self.encoder_hash = encoder_hash
        self._faiss = None
        self._norms = np.empty(0, np.float32)  # squared lengths of the rows
        self._ids = np.empty(0, np.int64)  # of the rows; they ascend
        self._next_id = 0

    def __len__(self):
        return 0 if self._faiss is None else self._faiss.ntotal

    @property
    def dimension(self):
        """The code length D, or ``None`` while the index is empty."""
        return None if self._faiss is None else self._faiss.d

    @property
    def _rows(self):
        """The rows, ``(N, D)`` float32 (scaled to unit length for cosine): FAISS's own memory, not a copy."""
        count = len(self) * self.dimension
        return faiss.rev_swig_ptr(self._faiss.get_xb(), count).reshape(len(self), self.dimension)

    @property
    def ids(self):
        """The ids of the rows, ``(N,)`` int64, ascending: 0 to N - 1 unless rows have been removed."""
        return self._ids.copy()

    def add(self, codes):
        """Append ``(N, D)`` float32 codes; their ids continue the numbering, from 0 on. Returns the index."""
        codes = self._checked(codes, "codes")
        if self.metric == "cosine":
            codes = unit_length(codes)
        if self._faiss is None:
            self._faiss = faiss.IndexFlat(codes.shape[1], FAISS_METRICS[self.metric])
        self._faiss.add(codes)
        self._norms = self._squared_norms()
        self._ids = np.concatenate([self._ids, np.arange(self._next_id, self._next_id + len(codes))])
        self._next_id += len(codes)
        return self

    def remove(self, ids):
        """Remove the rows with these ids, a sequence of int; the others keep theirs, and none is used again.

        Returns the index. Raises ValueError if an id is not in the index; then nothing is removed.
        """
        rows = self._rows_of(ids, "ids")
        self._keep(np.setdiff1d(np.arange(len(self)), rows))
        return self

    def search(self, queries, k, *, exclude_self=None, subset=None):
        """The ``k`` nearest rows of each query.

        Parameters
        ----------
        queries : ndarray
            ``(Q, D)`` float32, or ``(D,)`` for one query (which then counts as Q = 1).
        k : int
            1 ≤ k ≤ the number of rows (less one with ``exclude_self``).
        exclude_self : sequence of int, optional
            For queries that are in the database: the row id of each, left out of its own hits.
        subset : sequence of int, optional
            Ids to search within.

        Returns
        -------
        Hits
            ``distances (Q, K)`` float32 and ``ids (Q, K)`` int64, nearest first.

        Raises
        ------
        ValueError
            For k out of range, an empty index, or queries of the wrong dtype, rank or length, or not finite.
        """
        queries, own = self._checked_queries(queries, exclude_self)
        if subset is not None:
            part = copy(self)
            part._keep(np.unique(self._rows_of(subset, "subset")))
            if own is not None:  # as rows of the part; -1 where a query is not in it
                place = np.minimum(np.searchsorted(part._ids, self._ids[own]), len(part) - 1)
                own = np.where(part._ids[place] == self._ids[own], place, -1)
            return part._search(queries, k, own)
        return self._search(queries, k, own)

    def _search(self, queries, k, own):
        """Search with queries that have been checked; ``own`` are row numbers (-1: none) or ``None``."""
        most = len(self) - (own is not None)
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"k must be a whole number of 1 or more, not {k!r}")
        if k > most:
            without = " besides the query itself" if own is not None else ""
            raise ValueError(f"k is {k}, but the index holds only {most} rows{without}")

        cores = _cores()
        size = min(QUERIES, max(QUERIES // 8, -(-len(queries) // cores)))
        starts = range(0, len(queries), size)
        if len(starts) == 1:
            return self._with_ids(self._search_block(queries, k, own))
        blocks = [slice(start, start + size) for start in starts]
        # A block of queries to each core, and within a block one thread: the steps between products profit too.
        with _THREADS.limit(limits=1, user_api="blas"), ThreadPoolExecutor(cores) as pool:
            parts = pool.map(lambda b: self._search_block(queries[b], k, None if own is None else own[b]), blocks)
            return self._with_ids(Hits(*(np.concatenate(part) for part in zip(*parts, strict=True))))

    def rank(self, queries, *, exclude_self=None, block=64):
        """Rank the whole database for each query: yields ``(B, N)`` int64 ids, nearest first, block by block.

        In blocks, because 10,000 full rankings of 60,000 rows would fill 4.8 GB. With ``exclude_self`` each
        ranking has N - 1 ids.
        """
        queries, own = self._checked_queries(queries, exclude_self)
        rows = self._rows.astype(np.float64)
        norms = _squared_lengths(rows)

        def ranking(start):
            distances = self._all_distances(queries[start : start + block], rows, norms)
            if own is not None:
                distances[np.arange(len(distances)), own[start : start + block]] = np.inf
            # Non-negative floats sort like their bits taken as integers. With the distance in the high half and
            # the row id in the low half of one 64-bit key, sorting the keys sorts by distance, then by id.
            keys = distances.view(np.uint32).astype(np.uint64) << np.uint64(32)
            keys |= np.arange(len(self), dtype=np.uint64)
            keys.sort(axis=1)
            keys &= np.uint64(0xFFFFFFFF)
            ids = self._ids[keys.view(np.int64)]
            return ids[:, :-1] if own is not None else ids

        # Each core sorts a block of its own while the caller looks at the last one.
        # (No more than eight at once: at 60,000 rows a block takes some 100 MB.)
        starts, cores = range(0, len(queries), block), min(8, _cores())
        with ThreadPoolExecutor(cores) as pool:
            waiting = deque(pool.submit(ranking, start) for start in starts[:cores])
            for following in [*starts[cores:], *[None] * len(waiting)]:
                ids = waiting.popleft().result()
                if following is not None:
                    waiting.append(pool.submit(ranking, following))
                yield ids

    def novelty(self, queries, k=10, *, exclude_self=None, sample=2000, seed=0):
        """How unlike the database each query is: ``(Q,)`` float64, more than 1 for what hardly belongs to it.

        The mean distance to a query's ``k`` nearest rows, divided by the value that 99 of 100 rows keep below with
        their own nearest (of ``sample`` rows drawn with ``seed``). No labels are needed. ``exclude_self`` is that of
        :meth:`search`.
        """
        if not len(self):
            raise ValueError("the index is empty; add codes before asking what is new to it")
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(len(self), min(sample, len(self)), replace=False))
        usual = self.search(self._rows[drawn], k, exclude_self=self._ids[drawn]).distances.mean(
            axis=1, dtype=np.float64
        )
        limit = np.quantile(usual, 0.99)
        own = self.search(queries, k, exclude_self=exclude_self).distances.mean(axis=1, dtype=np.float64)
        return own / max(limit, np.finfo(np.float32).tiny)  # a database of duplicates has limit 0

    def save(self, path):
        """Write the rows to ``path`` (``index.faiss``) and their description beside it (``index.json``)."""
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
        index._next_id = facts.get("next_id", facts["rows"])  # files of format 1 never had rows removed
        index._ids = np.arange(stored.ntotal)
        if isinstance(stored, faiss.IndexIDMap):
            index._ids = faiss.vector_to_array(stored.id_map)
            stored = faiss.clone_index(faiss.downcast_index(stored.index))
        if not hasattr(stored, "get_xb"):
            raise IndexFileError(f"{path} is not the file that its description speaks of; build the index anew")
        index._faiss = stored
        index._norms = index._squared_norms()
        return index

    # -- how it is computed -----------------------------------------------------------------------------------

    def _keep(self, rows):
        """Keep these rows only (row numbers, ascending), in memory of their own."""
        kept = faiss.IndexFlat(self.dimension, FAISS_METRICS[self.metric])
        kept.add(self._rows[rows])
        self._ids, self._norms, self._faiss = self._ids[rows], self._norms[rows], kept

    def _with_ids(self, hits):
        """Row numbers replaced by ids."""
        return Hits(hits.distances, self._ids[hits.ids])

    def _squared_norms(self):
        """The squared length of each row; 1 for a row without direction, which puts it at cosine distance 1."""
        norms = _squared_lengths(self._rows)
        return np.where(norms == 0, np.float32(1), norms) if self.metric == "cosine" else norms

    def _search_block(self, queries, k, own):
        """Search with a few queries: find candidates that surely include the nearest, then measure them exactly."""
        candidates = self._manhattan_candidates if self.metric == "manhattan" else self._product_candidates
        of_query, rows = candidates(queries, k + (own is not None))  # one more, in case the query itself is there
        exact = self._exact(queries, of_query, rows)
        if own is not None:
            others = rows != own[of_query]
            of_query, rows, exact = of_query[others], rows[others], exact[others]
        order = np.lexsort((rows, exact, of_query))
        first = np.searchsorted(of_query[order], np.arange(len(queries)))
        nearest = order[first[:, None] + np.arange(k)]
        return Hits(exact[nearest], rows[nearest])

    def _product_candidates(self, queries, k):
        """Pairs (query, row) that include each query's ``k`` nearest rows, by a matrix product.

        ``|q - r|² = |q|² + |r|² - 2 q·r``: without ``|q|²``, which ranks nothing, one score per row. Each score
        has a rounding error, so a row is a candidate up to twice the error's bound above the k-th best.
        """
        # |error| ≤ (D + 2) u (2 |q| |r| + |r|²) with u = 2⁻²⁴ (Higham 2002, Accuracy and Stability of Numerical
        # Algorithms, section 3.1), and (D + 2) times the smallest float32 where numbers vanish.
        lengths = np.sqrt(_squared_lengths(queries), dtype=np.float64)
        longest = np.sqrt(self._norms.max(), dtype=np.float64)
        reach = longest * (2 * lengths + longest)
        if not reach.max() < 1e38:  # float32 overflows: every row has to be measured exactly
            return self._every_pair(len(queries))
        error = (self.dimension + 2) * (2.0**-24 * reach + 2.0**-125)
        spread = float(self._norms.max() - self._norms.min())
        alike = spread <= 1e-5 * longest**2  # as for cosine: then |r|² ranks next to nothing, and need not be added
        norms = np.zeros_like(self._norms) if alike else self._norms
        error += spread * alike

        # The rows are scored in slabs whose scores stay in the cache, and of each group of rows only the least score
        # is kept: for FINE rows, and for COARSE such groups together. The k smallest minima of the large groups
        # belong to k different rows, so the k-th best score is no greater than the k-th of them, and finding it among
        # the minima is a fraction of the work of finding it among the scores.
        small = len(self) < 2 * FINE * COARSE * k  # too few large groups
        fine, coarse = (1, 1) if small else (FINE, COARSE)
        step = fine * coarse
        height = step * -(-min(SCORES // len(queries), len(self)) // step)
        places, slabs = height // fine, -(-len(self) // height)
        minima = np.empty((slabs, places, len(queries)), np.float32)
        scores = np.empty((height, len(queries)), np.float32)
        doubled = -2 * queries
        columns = np.ascontiguousarray(doubled.T)
        for slab in range(slabs):
            these = slice(slab * height, min((slab + 1) * height, len(self)))
            known = scores[: these.stop - these.start]
            np.matmul(self._rows[these], columns, out=known)
            if not alike:
                known += norms[these, None]
            scores[len(known) :] = np.inf  # where the last slab has no rows
            scores.reshape(fine, places, -1).min(axis=0, out=minima[slab])
        minima = minima.reshape(coarse, -1, len(queries))  # a large group: one place of each of so many parts
        least = minima.min(axis=0) if coarse > 1 else minima[0]
        limit = np.partition(least.T, k - 1, axis=1)[:, k - 1].astype(np.float64)
        # The last term covers the rounding of distances to float32, which makes ties.
        limit = (limit + 2 * error + 2.0**-22 * (np.abs(limit) + longest**2 + lengths**2)).astype(np.float32)

        # From the large groups within the limit to their groups, to their rows.
        place, of_query = np.nonzero(least <= limit)
        part, pair = np.nonzero(minima[:, place, of_query] <= limit[of_query])
        group, of_query = part * least.shape[0] + place[pair], of_query[pair]
        slab, place = np.divmod(group, places)
        rows = (slab * height + place)[:, None] + places * np.arange(fine)
        pair, member = np.nonzero(rows < len(self))
        rows, of_query = rows[pair, member], of_query[pair]
        if fine > 1:
            scores = np.einsum("pd,pd->p", self._rows[rows], doubled[of_query]) + norms[rows]
            near = scores <= limit[of_query]
            rows, of_query = rows[near], of_query[near]
        return of_query, rows

    def _manhattan_candidates(self, queries, k):
        """Pairs (query, row) that include each query's ``k`` nearest rows, by FAISS's search."""
        ask, cut = k, True
        while cut and ask < len(self):
            ask = min(len(self), 2 * ask)
            distances, ids = self._faiss.search(queries, ask)
            # FAISS sums in float32 and may cut a tie anywhere: ask for more until the last is clearly beyond.
            cut = (distances[:, -1] <= distances[:, k - 1] * (1 + 2.0**-22 * self.dimension)).any()
        if cut:
            return self._every_pair(len(queries))
        return np.repeat(np.arange(len(queries)), ids.shape[1]), ids.ravel()

    def _every_pair(self, n_queries):
        """All pairs (query, row)."""
        return np.divmod(np.arange(n_queries * len(self)), len(self))

    def _exact(self, queries, of_query, rows):
        """The distance of each pair: float64 arithmetic on the float32 rows, rounded to float32 at the end."""
        distances = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), PAIRS):
            q = queries[of_query[start : start + PAIRS]].astype(np.float64)
            r = self._rows[rows[start : start + PAIRS]]
            if self.metric == "manhattan":
                pairs = np.abs(q - r).sum(axis=1)
            else:
                pairs = _squared_lengths(q - r)
            if self.metric == "euclidean":
                pairs = np.sqrt(pairs)
            elif self.metric == "cosine":  # |q - r|² = 2 - 2 q·r at unit length; zero rows are 1 from all
                pairs = np.where(q.any(axis=1) & r.any(axis=1), pairs / 2, 1.0)
            distances[start : start + PAIRS] = pairs
        return distances

    def _all_distances(self, queries, rows, norms):
        """Every distance from ``queries`` to ``rows`` (float64, with their squared lengths): ``(Q, N)`` float32."""
        if self.metric == "manhattan":
            return cdist(queries.astype(np.float64), rows, "cityblock").astype(np.float32)
        lengths = _squared_lengths(queries.astype(np.float64))[:, None] + norms
        squared = lengths - 2 * (queries.astype(np.float64) @ rows.T)
        # Where the difference all but vanishes, too few of its digits are right: measure these pairs one by one.
        of_query, close = np.divmod(np.flatnonzero(squared < 1e-6 * lengths), len(rows))
        squared[of_query, close] = 0
        if self.metric == "euclidean":
            distances = np.sqrt(squared, out=squared).astype(np.float32)
        else:
            squared[:, norms == 0] = squared[~queries.any(axis=1)] = 2  # no direction: distance 1
            distances = (squared / 2).astype(np.float32)
        distances[of_query, close] = self._exact(queries, of_query, close)
        return distances

    # -- what is checked --------------------------------------------------------------------------------------

    def _checked(self, codes, what):
        """``codes`` as a contiguous float32 matrix that fits the index; else a ValueError that says what is wrong."""
        return checked_codes(codes, what, self.dimension)

    def _rows_of(self, ids, what):
        """The row numbers of ids, which must be in the index."""
        if not len(self):
            raise ValueError("the index is empty; add codes first")
        ids = np.atleast_1d(np.asarray(ids))
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
            raise ValueError(
                f"{what} must be a non-empty sequence of whole numbers, not {ids.dtype} of shape {ids.shape}"
            )
        rows = np.minimum(np.searchsorted(self._ids, ids), len(self) - 1)
        absent = ids[self._ids[rows] != ids]
        if len(absent):
            raise ValueError(f"{what} name {len(absent)} id(s) that are not in the index, first {absent[0]}")
        return rows

    def _checked_queries(self, queries, exclude_self):
        """Queries as ``(Q, D)`` (unit length for cosine) and their own row ids as an array, or ``None``."""
        if not len(self):
            raise ValueError("the index is empty; add codes before searching it")
        queries = np.asarray(queries)
        queries = self._checked(queries[None] if queries.ndim == 1 else queries, "queries")
        if self.metric == "cosine":
            queries = unit_length(queries)
        if exclude_self is None:
            return queries, None
        own = self._rows_of(exclude_self, "exclude_self")
        if len(own) != len(queries):
            raise ValueError(f"exclude_self has {len(own)} id(s) for {len(queries)} queries; give one for each")
        return queries, own


def write_index(path, stored, facts):
    """Write a FAISS index to ``path``, and ``facts`` about it with its SHA-256 to a JSON file beside it.

    Each file appears whole or not at all. Raises :class:`IndexFileError` if it cannot be written; what was there stays.
    """
    path = Path(path)
    write = faiss.write_index_binary if isinstance(stored, faiss.IndexBinary) else faiss.write_index
    try:
        with atomic_path(path) as partial:
            write(stored, str(partial))
            facts = facts | {"format": FORMAT, "sha256": sha256(partial)}
        write_json(path.with_suffix(".json"), facts)
    except (RuntimeError, OSError) as error:  # FAISS raises RuntimeError
        raise IndexFileError(f"{path} could not be written ({error}); what was there before is unchanged") from error


def read_index(path, *, encoder_hash=None, mmap=False):
    """What :func:`write_index` wrote: the FAISS index and the facts about it, checked.

    With ``mmap`` the vectors stay in the file until they are asked for, and the file's hash is not computed. Raises
    :class:`IndexFileError`, see :meth:`Index.load`.
    """
    path = Path(path)
    facts_path = path.with_suffix(".json")
    for file in (path, facts_path):
        if not file.is_file():
            raise IndexFileError(f"{file} does not exist; build the index with notebook 04_build_index")
    try:
        facts = json.loads(facts_path.read_text())
        newer = facts.get("format", 1) > FORMAT
        known = facts["encoder_hash"]
        same = newer or mmap or sha256(path) == facts["sha256"]
        # The approximate kinds search by L2 whatever the metric is, so that of the file says nothing about theirs.
        metric = FAISS_METRICS[facts["metric"]] if facts["kind"] == "exact" else None
        expected = (facts["dimension"], facts["rows"], metric, facts["kind"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexFileError(f"{facts_path} is no description of an index; build the index anew") from error
    if newer:
        raise IndexFileError(
            f"{path} has format {facts['format']}, and this version reads up to {FORMAT}; update cbir_utils, "
            "or build the index anew"
        )
    if encoder_hash is not None and known != encoder_hash:
        raise IndexFileError(
            f"{path} holds the codes of another encoder ({str(known)[:12]}…, not "
            f"{encoder_hash[:12]}…); encode the database and build the index anew (notebooks 03 and 04)"
        )
    read = faiss.read_index_binary if expected[-1] == "binary" else faiss.read_index
    try:
        stored = read(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except RuntimeError as error:
        raise IndexFileError(f"{path} is no FAISS index, or a truncated one; build the index anew") from error
    found = (stored.d, stored.ntotal, stored.metric_type if expected[2] is not None else None)
    if not same or found != expected[:3]:
        raise IndexFileError(f"{path} is not the file that {facts_path.name} describes; build the index anew")
    return stored, facts


def _cores():
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _squared_lengths(rows):
    """The squared Euclidean length of each row."""
    return np.einsum("nd,nd->n", rows, rows)
