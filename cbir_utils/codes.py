"""Matrices of codes: what is checked about them, and their length."""

import numpy as np


def checked_codes(codes, what, dimension=None):
    """``codes`` as a contiguous ``(N, D)`` float32 matrix, or a ValueError that says what is wrong with them."""
    codes = np.asarray(codes)
    if codes.dtype != np.float32:
        raise ValueError(f"{what} must be float32, not {codes.dtype}; convert with .astype('float32')")
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(f"{what} must be a non-empty (N, D) matrix, not of shape {codes.shape}")
    if dimension not in (None, codes.shape[1]):
        raise ValueError(f"{what} have {codes.shape[1]} numbers each, but the index has {dimension}")
    if not np.isfinite(codes).all():
        bad = np.flatnonzero(~np.isfinite(codes).all(axis=1))
        raise ValueError(f"{what} have NaN or infinity in {len(bad)} row(s), first in row {bad[0]}")
    return np.ascontiguousarray(codes)


def unit_length(rows, dtype=np.float32):
    """Rows ``(N, D)`` scaled to unit Euclidean length, in ``dtype``; rows of zeros stay as they are."""
    rows = rows.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return (rows / np.where(lengths > 0, lengths, 1)).astype(dtype, copy=False)
