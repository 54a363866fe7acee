"""Approximate and compact nearest-neighbour search, for databases that exact search is too slow or too large for.

The kinds are FAISS's (Douze et al. 2024): a graph of near rows, ``hnsw`` (Malkov and Yashunin 2016); lists around
k-means centres, a few of which are searched, with 8 bits per number, ``sq8``, or product-quantised, ``ivfpq``
(Jégou et al. 2011) and its 4-bit form ``ivfpq_fast``.
"""

import json
from pathlib import Path

import numpy as np

from cbir_utils.artifacts.index_files import IndexFileError, read_index, write_index
from cbir_utils.codes import checked_codes, checked_k, own_rows, rows_of, unit_length
from cbir_utils.index import Hits, Index, measured, nearest_first, without
from cbir_utils.scale.kinds import Searched, bytes_per_row, check_settings, choose_kind, trained
from cbir_utils.scale.recall import all_codes, cheapest, exact_search, reader

__all__ = ["ApproximateIndex", "bytes_per_row", "choose_kind", "exact_search", "load_index", "make_index"]

#: A subset of up to so many rows is searched exactly.
SMALL = 10_000

#: What is saved of an index beside its rows.
SETTINGS = ("short", "rows", "pq_bytes", "seed", "ef", "nprobe", "refine")


class ApproximateIndex:
    """Nearest-neighbour search that finds nearly all of the nearest rows, in less time or memory than :class:`Index`.

    Ids number the rows in the order of adding. Equal codes that are added together are one row of a graph. A removed
    row is left out of searches; its bytes are freed when the index is built anew. A search that finds fewer than ``k``
    rows looks at all of them.

    Parameters
    ----------
    kind : {"hnsw", "sq8", "ivfpq", "ivfpq_fast"}
        :func:`bytes_per_row` says how much memory each takes.
    metric : {"euclidean", "cosine"}
        Distances have :class:`Index`'s units; they are approximate unless the kind keeps full codes or candidates are
        measured again.
    encoder_hash : str, optional
        Hash of the encoder that made the codes, as in :class:`Index`.
    short : int, optional
        Search the first ``short`` principal components of the codes.
    originals : "memory", "uint8" or array-like, optional
        Measure candidates again by their full codes. ``"memory"`` keeps these in the index, ``"uint8"`` keeps them as
        bytes (for whole numbers from 0 to 255, such as pixels). An ``(N, D)`` float32 or float16 array, whose row
        numbers are the ids, may be memory-mapped; it is not saved with the index.
    rows, lists : int, optional
        How many rows there will be (those of :meth:`fit` if not given), which sets the number of lists; or that number.
    pq_bytes : int
        Bytes of a code of ``ivfpq`` and ``ivfpq_fast``.
    seed : int
        Of the samples that are learned from.

    Attributes
    ----------
    ef, nprobe, refine : int
        How wide a search is, see :meth:`tune`: candidates kept on the way through the graph, lists searched, and
        candidates measured again per hit.
    inside : bool
        Whether the index keeps the full codes beside those that it searches.
    """

    def __init__(
        self, kind, metric="euclidean", *, encoder_hash=None, short=None, originals=None, rows=None, lists=None,
        pq_bytes=16, seed=0,
    ):  # fmt: skip
        check_settings(kind, metric, short, originals, pq_bytes)
        self.kind, self.metric, self.encoder_hash = kind, metric, encoder_hash
        self.short, self.originals, self.rows, self.lists = short, originals, rows, lists
        self.pq_bytes, self.seed = pq_bytes, seed
        self.ef, self.nprobe, self.refine = 64, 16, 4
        self.inside = isinstance(originals, str)
        self._searched = None  # FAISS's index, once it has been trained
        self._removed = np.empty(0, np.int64)
        self._zeros = np.empty(0, np.int64)  # rows of zeros: at cosine distance 1 from all, which L2 cannot say
        self._fingerprint = []

    def __len__(self):
        return self._added - len(self._removed)

    @property
    def _added(self):
        return 0 if self._searched is None else len(self._searched)

    @property
    def dimension(self):
        """The code length D, or ``None`` before :meth:`fit`."""
        return None if self._searched is None else self._searched.faiss.d

    @property
    def ids(self):
        """The ids of the rows, ``(N,)`` int64, ascending."""
        return np.delete(np.arange(self._added), self._removed)

    def fit(self, codes):
        """Learn what the kind needs from ``(N, D)`` codes of the database: components, lists, quantiser. Returns self.

        A sample will do, best of 39 rows for each of the 4 √N lists that N rows get; fewer codes make fewer lists.
        """
        if self._searched is not None:
            raise ValueError("the index has been fitted already; make a new one to learn anew")
        self._searched = trained(self, self._checked(codes, "codes"))
        return self

    def add(self, codes):
        """Append ``(N, D)`` codes as :meth:`Index.add` does; an index that has not been fitted is fitted to them."""
        codes, first = self._checked(codes, "codes"), self._added
        _check_originals(self.originals, codes, first + len(codes))
        if self._searched is None:
            self.fit(codes)
        self._searched.add(codes)
        if self.metric == "cosine":
            self._zeros = np.append(self._zeros, first + np.flatnonzero(~codes.any(axis=1)))
        marks = _marks(self._added)
        self._fingerprint = self._fingerprint + _projections(codes[marks[marks >= first] - first])
        return self

    def remove(self, ids):
        """Leave the rows with these ids out from now on; refuses like :meth:`Index.remove`. Returns the index."""
        self._removed = np.union1d(self._removed, self.ids[rows_of(ids, self.ids, "ids")])
        self._zeros = np.setdiff1d(self._zeros, self._removed)
        return self

    def search(self, queries, k, *, exclude_self=None, subset=None):
        """The ``k`` nearest rows of each query, as far as they are found: see :meth:`Index.search`.

        Of rows found at equal distance the lower id comes first. The smaller a subset, the wider the search; one of
        up to 10,000 rows is searched exactly where there are full codes.
        """
        queries = self._checked(np.atleast_2d(queries), "queries")
        own = None if exclude_self is None else self.ids[own_rows(exclude_self, self.ids, len(queries))]
        allowed = None if subset is None else self.ids[np.unique(rows_of(subset, self.ids, "subset"))]
        k = checked_k(k, len(self) if allowed is None else len(allowed), own is not None)
        ask = k + (own is not None)
        if allowed is not None and len(allowed) <= SMALL and self._vectors is not None:
            hits = exact_search(self._vectors, queries, ask, self.metric, ids=allowed)
        else:
            hits = self._search(queries, ask, allowed)
        return hits if own is None else without(hits, own)

    def tune(self, codes=None, *, recall=0.95, seed=0):
        """Set ``ef`` or ``nprobe``, and ``refine``, to the cheapest that reach a recall@10; returns the recall reached.

        It is measured on 1,000 rows of the database, drawn with ``seed``, each left out of its own hits: no later
        query takes part. Cheap is what reads few numbers; nothing is timed. ``codes`` are all codes by id (they may be
        memory-mapped), not needed where the index has them. Raises ValueError with the best recall there is, and
        changes nothing, if ``recall`` cannot be reached.
        """
        return cheapest(self, all_codes(self, codes), recall, seed)

    def recall(self, codes, queries, k=10, *, exact=None, exclude_self=None):
        """Recall@k of ``queries``, in [0, 1]: the share of hits that are no farther than the true k-th nearest row.

        ``codes`` are those of :meth:`tune`, or ``None``; ``exact`` the hits of exact search, if they are at hand.
        """
        codes = all_codes(self, codes)
        if exact is None:
            exact = exact_search(codes, queries, k, self.metric, ids=self.ids, exclude_self=exclude_self)
        found = self.search(queries, k, exclude_self=exclude_self).ids
        distances = measured(reader(codes, self.metric), self._checked(queries, "queries"), found, self.metric)
        limit = exact.distances[:, k - 1 : k].astype(np.float64)
        return float((distances <= limit * (1 + 1e-6) + 1e-12).mean())

    def save(self, path):
        """Write the index to ``path`` and its description beside it, as :meth:`Index.save` does."""
        if not len(self):
            raise ValueError("the index is empty; add codes before saving it")
        facts = {name: getattr(self, name) for name in ("kind", "metric", "dimension", "encoder_hash")}
        facts["rows"] = facts["next_id"] = self._added  # with the removed rows, which are in the file, too
        facts["settings"] = {name: getattr(self, name) for name in SETTINGS}
        facts["originals"] = self.originals if self.inside or self.originals is None else "array"
        facts |= {"fingerprint": self._fingerprint, "removed": self._removed.tolist(), "zeros": self._zeros.tolist()}
        facts["shared"] = None if self._searched.copies is None else self._searched.copies.rows.tolist()
        write_index(path, self._searched.faiss, facts)

    @classmethod
    def load(cls, path, *, encoder_hash=None, originals=None):
        """Read an index that :meth:`save` wrote, with the checks of :meth:`Index.load`.

        ``originals`` is the array that candidates are measured by, where there is one. Raises ValueError unless it
        holds the codes that were added.
        """
        stored, facts = read_index(path, encoder_hash=encoder_hash)
        if facts["kind"] == "exact":
            raise IndexFileError(f"{path} is an exact index; read it with Index.load")
        known = facts["originals"]
        kept = known if known in ("memory", "uint8") else originals
        index = cls(facts["kind"], facts["metric"], encoder_hash=facts["encoder_hash"], originals=kept)
        vars(index).update({name: facts["settings"][name] for name in SETTINGS})
        index._removed, index._zeros = (np.array(facts[name], np.int64) for name in ("removed", "zeros"))
        index._fingerprint = facts["fingerprint"]
        index._searched = Searched(stored, index.kind, index.inside, facts["shared"])
        if not index.inside and (known is not None or originals is not None):
            _check_same(originals, index, path)
        return index

    @property
    def _vectors(self):
        """The full codes by id, an array or like one (unit length for cosine if the index keeps them), or ``None``."""
        return self._searched.vectors() if self.originals is None or self.inside else self.originals

    def _search(self, queries, k, allowed):
        """Search with queries that have been checked, among ids that are known to be there (``None``: all)."""
        zeros = self._zeros if allowed is None else np.intersect1d(self._zeros, allowed)
        may_be_found, count = None, self._added
        if allowed is not None or len(self._removed) or len(zeros):
            may_be_found = np.setdiff1d(self.ids if allowed is None else allowed, zeros, assume_unique=True)
            count = len(may_be_found)
        zeros = np.tile(zeros[:k], (len(queries), 1))
        if not count:
            return Hits(np.ones(zeros.shape, np.float32), zeros)
        distances, ids = self._nearest(queries, min(k, count), may_be_found, count)
        distances = np.hstack([distances, np.ones(zeros.shape, np.float32)])
        return nearest_first(distances, np.hstack([ids, zeros]), k)

    def _nearest(self, queries, k, allowed, count):
        """Distances and ids of ``k`` rows or more for each query, in any order, out of the ``count`` allowed."""
        many = k if self.originals is None else min(count, max(k, int(k * self.refine)))
        width = self.ef if self.kind == "hnsw" else self.nprobe
        squared, ids = self._searched.look(queries, many, width * self._added / count, allowed)
        few = np.flatnonzero(ids[:, k - 1] < 0)
        if len(few):
            squared[few], ids[few] = self._searched.look(queries[few], many, np.inf, allowed)
        if self.originals is not None:
            return measured(reader(self._vectors, self.metric), queries, ids, self.metric), ids
        if self.metric == "euclidean":
            return np.sqrt(squared), ids
        return np.where(queries.any(axis=1)[:, None] | (ids < 0), squared / 2, np.float32(1)), ids

    def _checked(self, codes, what):
        """``codes`` as a contiguous matrix that fits the index, of unit length for cosine; or a ValueError."""
        codes = checked_codes(codes, what, self.dimension)
        return unit_length(codes) if self.metric == "cosine" else codes


def _check_originals(originals, codes, rows):
    """A ValueError unless ``originals`` can keep or measure ``codes``, the last of ``rows``."""
    if isinstance(originals, str) and originals == "uint8":
        other = ((codes != np.rint(codes)) | (codes < 0) | (codes > 255)).any(axis=1)
        if other.any():
            raise ValueError(f"originals='uint8' needs whole numbers from 0 to 255; row {other.argmax()} has others")
    if originals is None or isinstance(originals, str):
        return
    shape, dtype = np.shape(originals), getattr(originals, "dtype", None)
    if len(shape) != 2 or shape[0] < rows or shape[1] != codes.shape[1] or dtype not in (np.float32, np.float16):
        raise ValueError(
            f"originals must be ({rows}, {codes.shape[1]}) float32 or float16, with a row for each id, not {dtype} "
            f"of shape {shape}"
        )


def _check_same(originals, index, path):
    """A ValueError unless ``originals`` are the codes that the index at ``path`` was built from."""
    if originals is None:
        raise ValueError(
            f"{path} measures candidates by codes that are kept apart from it; give them, for instance "
            "originals=np.load('codes_database.npy', mmap_mode='r')"
        )
    _check_originals(originals, np.empty((0, index.dimension)), index._added)
    found = _projections(originals[_marks(index._added)])
    if len(found) != len(index._fingerprint) or not np.allclose(found, index._fingerprint, rtol=0, atol=5e-3):
        raise ValueError(f"originals are not the codes that {path} was built from; give those, or build it anew")


def make_index(kind="auto", metric="euclidean", *, rows=None, dimension=None, encoder_hash=None, **options):
    """An empty index: :class:`Index` for ``kind="exact"``, else :class:`ApproximateIndex` with the ``options``.

    ``"auto"`` asks :func:`choose_kind` with the number of ``rows`` there will be and their ``dimension``; Manhattan
    distances are those of ``exact`` alone. Exact search ignores the options.
    """
    if kind == "auto":
        if rows is None or dimension is None:
            raise ValueError("kind='auto' chooses by the size of the database; give rows and dimension")
        sized = {name: options[name] for name in ("short", "originals", "pq_bytes") if name in options}
        kind = "exact" if metric == "manhattan" else choose_kind(rows, dimension, **sized)
    if kind == "exact":
        return Index(metric, encoder_hash=encoder_hash)
    return ApproximateIndex(kind, metric, encoder_hash=encoder_hash, rows=rows, **options)


def load_index(path, *, encoder_hash=None, originals=None):
    """Read an index of any kind: see :meth:`Index.load` and :meth:`ApproximateIndex.load`."""
    try:
        kind = json.loads(Path(path).with_suffix(".json").read_text())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = "exact"  # its load says what is wrong
    if kind == "exact":
        return Index.load(path, encoder_hash=encoder_hash)
    return ApproximateIndex.load(path, encoder_hash=encoder_hash, originals=originals)


def _marks(count):
    """The ids 0, 1, 2, 4, 8, … below ``count``."""
    return np.array([0, *(2**power for power in range((count - 1).bit_length()))])


def _projections(codes):
    """Each code as a number between -1 and 1 that float16 would change by little."""
    return (unit_length(codes, np.float64) @ np.cos(np.arange(codes.shape[1]))).tolist()
