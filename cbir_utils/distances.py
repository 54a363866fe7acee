"""Distances between codes, in float64 and rounded to float32 at the end, and hits in their order."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

#: Distances by name. ``euclidean`` is the paper's equation 2; ``cosine`` is 1 - cos(angle), in [0, 2];
#: ``manhattan`` is the sum of absolute differences.
METRICS = ("euclidean", "cosine", "manhattan")

#: Numbers of codes measured at a time, which fit into a core's cache.
NUMBERS = 2**17


class Hits(NamedTuple):
    """The nearest rows of each query, nearest first; of rows at equal distance the lower id comes first."""

    distances: np.ndarray  #: (Q, K) float32
    ids: np.ndarray  #: (Q, K) int64; ids, which differ from row numbers once rows have been removed


def measured(rows_at, queries, ids, metric):
    """The distance of each query ``(Q, D)`` from the codes with its ids ``(Q, C)``, in float64 and rounded to float32.

    ``rows_at(ids)`` gives the codes as ``(M, D)`` float32. For cosine, all are of unit length. Id -1 is infinitely far.
    """
    flat, distances, step = ids.ravel(), np.empty(ids.size, np.float32), max(1, NUMBERS // queries.shape[1])

    def measure(start):
        these = slice(start, min(start + step, ids.size))
        of_query = np.arange(these.start, these.stop) // ids.shape[1]
        distances[these] = pair_distances(queries[of_query], rows_at(flat[these]), metric)

    if ids.size <= step:
        measure(0)
    else:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(measure, range(0, ids.size, step)))
    distances[flat < 0] = np.inf
    return distances.reshape(ids.shape)


def pair_distances(queries, rows, metric):
    """The distance of each query from the row beside it, ``(M, D)`` both → ``(M,)`` float64."""
    apart = np.subtract(queries, rows, dtype=np.float64)
    if metric == "manhattan":
        return np.abs(apart).sum(axis=1)
    squared = squared_lengths(apart)
    if metric == "euclidean":
        return np.sqrt(squared)
    # |q - r|² = 2 - 2 q·r at unit length; a row of zeros is at distance 1 from everything.
    return np.where(queries.any(axis=1) & rows.any(axis=1), squared / 2, 1.0)


def nearest_first(distances, ids, k):
    """The first ``k`` of each row of ``(Q, C)`` distances and ids, by distance and then by id, as :class:`Hits`."""
    if (distances[:, 1:] > distances[:, :-1]).all():
        return Hits(distances[:, :k], ids[:, :k])
    order = np.lexsort((ids, distances))[:, :k]
    return Hits(np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1))


def without(hits, own):
    """Hits without each query's own id ``(Q,)``; where that is not among them, the last hit is one too many."""
    others = hits.ids != own[:, None]
    others[others.all(axis=1), -1] = False
    return Hits(*(part[others].reshape(len(own), -1) for part in hits))


def greatest_score(queries, distances, metric):
    """The greatest score ``(Q,)`` that FAISS, in float32, may give to a row at these distances ``(Q,)`` from queries.

    Scores are squared distances; for cosine 1 - q·r, and distances for Manhattan.

    A sum of D products in float32 has an error of at most D u times the sum of their sizes, u = 2⁻²⁴ (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, section 3.1), and of D times the smallest float32 where they
    vanish. A row at distance d is at most |q| + d long.
    """
    reach = distances.astype(np.float64) * (1 + 2.0**-22) + 2.0**-149  # whatever rounds to the same float32 is as near
    rounding, least = (queries.shape[1] + 8) * 2.0**-24, (queries.shape[1] + 8) * 2.0**-125
    if metric == "manhattan":
        return reach * (1 + rounding) + least
    if metric == "cosine":
        return reach + rounding
    size = (2 * np.sqrt(squared_lengths(queries.astype(np.float64))) + reach) ** 2
    return np.where(size < 1e38, reach**2 + rounding * size + least, np.inf)  # float32 overflows


def all_distances(queries, rows, norms, metric):
    """Every distance from ``queries`` to ``rows`` (float64, with their squared lengths): ``(Q, N)`` float32."""
    queries = queries.astype(np.float64)
    if metric == "manhattan":
        return cdist(queries, rows, "cityblock").astype(np.float32)
    lengths = squared_lengths(queries)[:, None] + norms
    squared = lengths - 2 * (queries @ rows.T)
    # Where the difference all but vanishes, too few of its digits are right: measure these pairs one by one.
    of_query, close = np.divmod(np.flatnonzero(squared < 1e-6 * lengths), len(rows))
    squared[of_query, close] = 0
    if metric == "cosine":
        squared[:, norms == 0] = squared[~queries.any(axis=1)] = 2  # no direction: distance 1
    distances = (np.sqrt(squared) if metric == "euclidean" else squared / 2).astype(np.float32)
    distances[of_query, close] = pair_distances(queries[of_query], rows[close], metric)
    return distances


def cores():
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def squared_lengths(rows):
    """The squared Euclidean length of each row."""
    return np.einsum("nd,nd->n", rows, rows)
