"""How much an approximate search finds: the true hits to compare with, and the cheapest setting that finds enough."""

import numpy as np

from cbir_utils.codes import checked_k, unit_length
from cbir_utils.index import Hits, Index, nearest_first, without

#: Rows read at a time.
ROWS = 2**16

#: Hits, and rows as queries, that a setting is chosen by.
K, QUERIES = 10, 1000


def exact_search(codes, queries, k, metric="euclidean", *, ids=None, exclude_self=None):
    """The true hits among ``codes``, an ``(N, D)`` array that is read piece by piece and may be memory-mapped.

    Searches the rows ``ids`` (ascending; all if not given). The rest is as in :meth:`Index.search`; ``exclude_self``
    are rows of ``ids``.
    """
    ids = np.arange(len(codes)) if ids is None else ids
    ask = k + (exclude_self is not None)
    hits = Hits(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
    for start in range(0, len(ids), ROWS):
        these = ids[start : start + ROWS]
        part = Index(metric).add(np.asarray(codes[these], np.float32)).search(queries, min(ask, len(these)))
        hits = nearest_first(np.hstack([hits.distances, part.distances]), np.hstack([hits.ids, these[part.ids]]), ask)
    return hits if exclude_self is None else without(hits, np.asarray(exclude_self))


def reader(codes, metric):
    """A function that returns the codes with some ids, at unit length for cosine."""
    return lambda ids: unit_length(codes[ids]) if metric == "cosine" else codes[ids]


def all_codes(index, codes):
    """All codes by id: those given, or else the index's own."""
    checked_k(1, len(index))
    codes = index._vectors if codes is None else codes
    if codes is None:
        raise ValueError(f"an index of the kind {index.kind} does not keep the codes; give them, row number = id")
    if np.shape(codes)[1:] != (index.dimension,) or len(codes) <= index.ids[-1]:
        shape = (index.ids[-1] + 1, index.dimension)
        raise ValueError(f"codes must be ({shape[0]}, {shape[1]}), a row for each id, not {np.shape(codes)}")
    return codes


def cheapest(index, codes, recall, seed):
    """Give ``index`` the setting that reads the fewest numbers and reaches ``recall``: see ApproximateIndex.tune."""
    own = np.sort(np.random.default_rng(seed).permutation(index.ids)[:QUERIES])
    queries = np.asarray(codes[own], np.float32)
    exact = exact_search(codes, queries, K, index.metric, ids=index.ids, exclude_self=own)
    name, first, widest = ("ef", 8, 2048) if index.kind == "hnsw" else ("nprobe", 1, index._searched.inner.nlist)
    widths = sorted({min(widest, round(first * 2 ** (i / 2))) for i in range(40)})
    refinements = [1] if index.originals is None else [64, 32, 16, 8, 4, 2, 1]
    before, best, found = (getattr(index, name), index.refine), 0.0, []
    # A stair along the border of what suffices: fewer candidates where a setting does, a wider search where not.
    while widths and refinements:
        setattr(index, name, widths[0])
        index.refine = refinements[0]
        reached = index.recall(codes, queries, K, exact=exact, exclude_self=own)
        best = max(best, reached)
        if reached < recall:
            widths.pop(0)
        else:
            again = 0 if index.originals is None else index.refine * K
            found.append((index._searched.numbers_read(K, widths[0], again), widths[0], refinements.pop(0), reached))
    _, width, index.refine, reached = min(found, default=(0, *before, best))
    setattr(index, name, width)
    if not found:
        raise ValueError(
            f"recall@{K} of {recall} is out of reach: this index finds {best:.3f} of the nearest rows at best; "
            "give it originals to measure candidates by, a longer short code or more pq_bytes"
        )
    return reached
