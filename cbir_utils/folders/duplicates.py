"""Images that are there twice, or nearly so."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cbir_utils.index import Index


def near_duplicates(codes):
    """Pairs of images whose codes are nearer to each other than chance would bring any two of them.

    Among points that lie at random in m dimensions the distance d to the nearest other follows Weibull's law,
    ``P(d < r) = 1 - exp(-(r / s)^m)`` (Clark and Evans 1954 for m = 2). Here m and s come from the quartiles of the
    rows' nearest distances that are not 0. The limit is the distance below which half a row is expected. Where some
    rows lie denser than others, m comes out smaller, and fewer pairs count. Of each row the five nearest are looked at.

    ``codes`` are ``(N, D)`` float32, N 2 or more, compared by Euclidean distance. Returns the pairs of rows ``(P, 2)``
    int64, the lower row first, the nearest pair first; their distances ``(P,)`` float32; and the limit, a float.
    """
    count = len(codes)
    hits = Index().add(codes).search(codes, min(5, count - 1), exclude_self=np.arange(count))
    usual = hits.distances[:, 0][hits.distances[:, 0] > 0].astype(np.float64)
    low, high = np.log(np.quantile(usual, [0.25, 0.75])) if len(usual) else (0, 0)
    limit = 0.0
    if high > low:
        m = (np.log(np.log(4)) - np.log(np.log(4 / 3))) / (high - low)
        log_s = high - np.log(np.log(4)) / m
        limit = float(np.exp(log_s + np.log(0.5 / count) / m))
    row, place = np.nonzero(hits.distances <= limit)
    pairs = np.sort(np.stack([row, hits.ids[row, place]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)  # most pairs are found from both ends
    distances = hits.distances[row, place][first]
    order = np.argsort(distances, kind="stable")
    return pairs[order], distances[order], limit


def groups_of(pairs):
    """The groups that pairs ``(P, 2)`` of rows make, each a list of rows, in order; no row is in two.

    >>> groups_of(np.array([[4, 7], [0, 2], [2, 3]]))
    [[0, 2, 3], [4, 7]]
    """
    if not len(pairs):
        return []
    rows, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    _, group = connected_components(coo_array((np.ones(len(ends)), ends.T), shape=(len(rows), len(rows))))
    return sorted(rows[group == number].tolist() for number in np.unique(group))


def folded(rows, codes, limit):
    """The first of each group of near-duplicates among some rows, with the others: ``{row: [row, ...]}``.

    ``codes`` are those of the rows, ``(N, D)`` float32; two are near-duplicates within the distance ``limit``.

    >>> folded([7, 4, 9], np.array([[0, 0], [5, 5], [0, 1]], np.float32), 1.5)
    {7: [9], 4: []}
    """
    groups = {int(row): [] for row in rows}
    if len(rows) < 2:
        return groups
    hits = Index().add(codes).search(codes, min(5, len(rows) - 1), exclude_self=np.arange(len(rows)))
    place, beside = np.nonzero(hits.distances <= limit)
    for first, *others in groups_of(np.stack([place, hits.ids[place, beside]], axis=1)):
        groups[int(rows[first])] = [int(rows[other]) for other in others]
        for other in others:
            del groups[int(rows[other])]
    return groups
