"""Images that are there twice, or nearly so."""

import numpy as np


def near_duplicates(index, neighbours=5):
    """Pairs of rows that are nearer to each other than chance would bring any two rows of this index.

    Among points that lie at random in m dimensions the distance d to the nearest other follows Weibull's law,
    ``P(d < r) = 1 - exp(-(r / s)^m)`` (Clark and Evans 1954 for m = 2). Here m and s are taken from the quartiles of
    the rows' own nearest distances, as far as these are not 0, and what counts is the distance below which half a
    row is expected. Where rows lie denser in some places than in others, m comes out smaller, and fewer pairs count.

    Parameters
    ----------
    index : Index
        Of two rows or more.
    neighbours : int
        So many nearest rows of each row are looked at.

    Returns
    -------
    tuple
        The pairs ``(P, 2)`` int64 of ids, the lower first, from the nearest pair on; their distances ``(P,)`` float32;
        and the largest distance that counts, a float.
    """
    count = len(index)
    if count < 2:
        raise ValueError(f"pairs need two rows or more, and the index has {count}")
    hits = index.search(index._rows, min(neighbours, count - 1), exclude_self=index.ids)
    usual = hits.distances[:, 0][hits.distances[:, 0] > 0].astype(np.float64)
    limit = 0.0
    if len(usual):
        low, high = np.log(np.quantile(usual, [0.25, 0.75]))
        if high > low:
            m = (np.log(np.log(4)) - np.log(np.log(4 / 3))) / (high - low)
            log_s = high - np.log(np.log(4)) / m
            limit = float(np.exp(log_s + np.log(0.5 / count) / m))
    row, place = np.nonzero(hits.distances <= limit)
    pairs = np.sort(np.stack([index.ids[row], hits.ids[row, place]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)  # most pairs are found from both ends
    distances = hits.distances[row, place][first]
    order = np.argsort(distances, kind="stable")
    return pairs[order], distances[order], limit
