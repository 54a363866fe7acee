"""Matrices of codes, ids and k: the checks that every kind of index shares. No search library is needed here."""

import numpy as np


def unit_length(rows, dtype=np.float32):
    """Rows ``(N, D)`` scaled to unit Euclidean length, in ``dtype``; rows of zeros stay as they are.

    >>> unit_length(np.array([[3, 4], [0, 0]]), np.float64)
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    rows = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return (rows / np.where(lengths > 0, lengths, 1)).astype(dtype, copy=False)


def checked_codes(codes, what, dimension=None):
    """``codes`` as a contiguous ``(N, D)`` float32 matrix, or a ValueError that says what is wrong with them."""
    codes = np.asarray(codes)
    if codes.dtype != np.float32:
        raise ValueError(f"{what} must be float32, not {codes.dtype}; convert with .astype('float32')")
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(f"{what} must be a non-empty (N, D) matrix, not of shape {codes.shape}")
    if dimension not in (None, codes.shape[1]):
        raise ValueError(f"{what} have {codes.shape[1]} numbers each, but the index has {dimension}")
    finite = np.isfinite(codes)
    if not finite.all():
        bad = np.flatnonzero(~finite.all(axis=1))
        raise ValueError(f"{what} have NaN or infinity in {len(bad)} row(s), first in row {bad[0]}")
    return np.ascontiguousarray(codes)


def checked_queries(queries, dimension=None):
    """Queries ``(Q, D)``, or ``(D,)`` for a single one, as :func:`checked_codes` returns them."""
    queries = np.asarray(queries)
    return checked_codes(queries[None] if queries.ndim == 1 else queries, "queries", dimension)


def checked_k(k, most, without_self=False):
    """``k``, of any type of whole number, as an int from 1 to ``most``, the number of rows that are searched.

    ``without_self``: each query is one of these rows and not among its own hits, so ``k`` is one less at most.

    >>> checked_k(np.int64(3), 3)
    3
    """
    if not most:
        raise ValueError("the index is empty; add codes before searching it")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of 1 or more, not {k!r}")
    most -= without_self
    if k > most:
        besides = " besides the query itself" if without_self else ""
        raise ValueError(f"k is {k}, but the index holds only {most} rows{besides}")
    return int(k)


def whole_numbers(ids, what):
    """``ids``, a sequence of int or a single one, as a non-empty integer array ``(M,)``; otherwise a ValueError."""
    ids = np.atleast_1d(np.asarray(ids))
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise ValueError(f"{what} must be a non-empty sequence of whole numbers, not {ids.dtype} of shape {ids.shape}")
    return ids


def rows_of(ids, known, what):
    """The row number ``(M,)`` of each of ``ids`` in ``known``, the ascending ids ``(N,)`` of an index.

    Raises ValueError for ids that are no whole numbers or are not in ``known``.

    >>> rows_of([9, 4], np.array([2, 4, 9]), "ids")
    array([2, 1])
    """
    ids = whole_numbers(ids, what)
    rows = np.searchsorted(known, ids)
    there = rows < len(known)
    there[there] = known[rows[there]] == ids[there]
    if not there.all():
        absent = ids[~there]
        raise ValueError(f"{what} name {len(absent)} id(s) that are not in the index, first {absent[0]}")
    return rows


def own_rows(exclude_self, known, count):
    """The row of each of ``count`` queries that are in the index, ``(Q,)``: one id each, as :func:`rows_of` has it."""
    rows = rows_of(exclude_self, known, "exclude_self")
    if len(rows) != count:
        raise ValueError(f"exclude_self has {len(rows)} id(s) for {count} queries; give one for each")
    return rows
