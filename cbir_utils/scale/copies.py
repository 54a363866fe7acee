"""Equal codes as one row of an index: which ids share a row, and how they all come back."""

from functools import cached_property

import numpy as np


def distinct(codes):
    """The row of each code ``(N,)`` if equal ones share one, in the order of adding; and the first code of each row.

    >>> distinct(np.float32([[5], [2], [5]]))
    (array([0, 1, 0]), array([0, 1]))
    """
    _, first, which = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    order = np.sort(first)
    return np.searchsorted(order, first)[which.ravel()], order


class Copies:
    """The row of each id, ``rows (N,)`` int64; ids with equal codes share one."""

    def __init__(self, rows):
        self.rows = rows

    @cached_property
    def _all(self):
        return self._grouped(np.arange(len(self.rows)))

    def _grouped(self, ids):
        """``ids`` in the order of their rows, and where each row's begin ``(U + 1,)``."""
        rows = self.rows[ids]
        order = np.argsort(rows, kind="stable")
        return ids[order], np.searchsorted(rows[order], np.arange(self.rows.max() + 2))

    def expanded(self, squared, rows, allowed=None):
        """Squared distances and ids ``(Q, K)`` of the rows found ``(Q, K)``, nearest first, each with all its ids.

        -1 and infinity stand where there are no more. ``allowed`` are the ids that count, ascending; None: all.
        """
        ids, start = self._all if allowed is None else self._grouped(allowed)
        distances, found = np.full(squared.shape, np.inf, np.float32), np.full(rows.shape, -1)
        for query, these in enumerate(rows):
            these = these[these >= 0]
            every = np.concatenate([ids[:0], *(ids[start[row] : start[row + 1]] for row in these)])[: rows.shape[1]]
            found[query, : len(every)] = every
            times = start[these + 1] - start[these]
            distances[query, : len(every)] = np.repeat(squared[query, : len(these)], times)[: len(every)]
        return distances, found


class ById:
    """The rows ``kept (U, D)`` as if each id had its own: ``(N, D)``, not copied."""

    def __init__(self, kept, rows):
        self.kept, self.rows, self.dtype, self.shape = kept, rows, kept.dtype, (len(rows), kept.shape[1])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, ids):
        return self.kept[self.rows[ids]]
