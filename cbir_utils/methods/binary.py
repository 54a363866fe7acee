"""Binary codes: a few bits per image, learned from any method's codes without labels."""

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from cbir_utils.codes import checked_codes, checked_k, unit_length
from cbir_utils.index import Hits
from cbir_utils.metrics import share


class IterativeQuantization:
    """Iterative quantisation (ITQ): rotates codes so that their signs lose as little as possible.

    Codes are brought to unit length, centred, projected to their leading ``bits`` principal directions and rotated by
    R; bit j says whether number j is positive. R is found in turns: given ``B = sign(V R)``, the rotation that brings V
    nearest to B is ``R = U Wᵀ``, from the singular value decomposition ``Vᵀ B = U S Wᵀ`` (Gong and Lazebnik 2011).
    Where the codes are shorter than ``bits``, the missing directions are zeros, which the rotation fills.

    Parameters
    ----------
    bits, seed : int
        A multiple of 8; seed of the first rotation.

    Attributes
    ----------
    losses : list of float
        ``‖B - V R‖² / N`` with the first R and then after each turn; never grows.
    unrotated_loss : float
        The same without any rotation: the signs of the principal directions themselves.
    """

    def __init__(self, bits, *, seed=0):
        if bits < 8 or bits % 8:
            raise ValueError(f"bits must be a multiple of 8, not {bits}: they are kept in whole bytes")
        self.bits, self.seed, self.losses = bits, seed, []

    def fit(self, codes):
        """Learn from ``(N, D)`` float32 codes of the database; returns self."""
        codes = _unit(codes)
        self.mean = codes.mean(axis=0)
        centred = codes - self.mean
        kept = min(self.bits, codes.shape[1])
        _, directions = np.linalg.eigh(centred.T @ centred)  # by growing variance
        projection = np.zeros((codes.shape[1], self.bits))
        projection[:, :kept] = directions[:, ::-1][:, :kept]
        values = centred @ projection
        rng = np.random.default_rng(self.seed)
        rotation, _ = np.linalg.qr(rng.standard_normal((self.bits, self.bits)))
        self.unrotated_loss = _loss(values)
        self.losses = [_loss(values @ rotation)]
        with threadpool_limits(1, user_api="blas"):  # the matrices are small: a second thread would mostly wait
            for _ in range(50):  # as in the paper
                left, _, right = np.linalg.svd(values.T @ _signs(values @ rotation))
                rotation = left @ right
                self.losses.append(_loss(values @ rotation))
        self.matrix = projection @ rotation
        return self

    def encode(self, codes):
        """The binary codes of ``(N, D)`` codes: ``(N, bits / 8)`` uint8, eight bits to a byte."""
        codes = _unit(codes)
        if codes.shape[1] != len(self.mean):
            raise ValueError(f"these codes have {codes.shape[1]} numbers each, but it was fitted to {len(self.mean)}")
        return np.packbits((codes - self.mean) @ self.matrix > 0, axis=1)


def keep_binary(run, quantizer, database, queries):
    """Keep the binary codes of codes ``(N, D)`` and ``(Q, D)`` and what makes such codes; returns them.

    Bits of other codes: ``(codes at unit length - mean) @ matrix > 0``, with the arrays of ``binary/rotation.npz``.
    """
    packed = quantizer.encode(database), quantizer.encode(queries)
    names = "binary/codes_database.npy", "binary/codes_queries.npy", "binary/rotation.npz"
    with run.writing(*names) as (first, second, rotation):
        np.save(first, packed[0])
        np.save(second, packed[1])
        np.savez(rotation, mean=quantizer.mean, matrix=quantizer.matrix)
    return packed


def hamming_distances(queries, database):
    """In how many bits queries and images differ: packed ``(Q, B)`` and ``(N, B)`` uint8 → int16 ``(Q, N)``.

    >>> hamming_distances(np.array([[0b1011]], np.uint8), np.array([[0b1010], [0b0100]], np.uint8))
    array([[1, 4]], dtype=int16)
    """
    bits = 8 * database.shape[1]
    signs = [2 * np.unpackbits(rows, axis=1).astype(np.float32) - 1 for rows in (queries, database)]
    return ((bits - signs[0] @ signs[1].T) / 2).astype(np.int16)  # float32 is exact for whole numbers below 2^24


def _signs(values):
    return np.where(values > 0, 1.0, -1.0)


def _loss(values):
    """The mean squared distance of rows to the corners of the cube that their signs name."""
    return float(np.square(_signs(values) - values).sum() / len(values))


def _unit(codes):
    """Codes ``(N, D)`` float32 at unit length, float64; else a ValueError that says what is wrong with them."""
    return unit_length(checked_codes(codes, "codes"), np.float64)


class BinaryIndex:
    """Exact search through FAISS over binary codes ``(N, B)`` uint8, by the number of differing bits."""

    def __init__(self, codes):
        codes = _packed(codes)
        self._faiss = faiss.IndexBinaryFlat(8 * codes.shape[1])
        self._faiss.add(codes)

    def search(self, queries, k):
        """The ``k`` nearest of each query ``(Q, B)`` uint8: :class:`Hits`; FAISS decides the order of ties."""
        k = checked_k(k, self._faiss.ntotal)
        distances, ids = self._faiss.search(_packed(queries, self._faiss.d // 8), k)
        return Hits(distances.astype(np.float32), ids)


def _packed(codes, width=None):
    """Packed binary codes ``(N, B)``; else a ValueError that says what is wrong."""
    codes = np.asarray(codes)
    if codes.dtype != np.uint8 or codes.ndim != 2 or 0 in codes.shape or width not in (None, codes.shape[1]):
        raise ValueError(f"binary codes must be packed uint8 (N, {width or 'B'}), not {codes.dtype} {codes.shape}")
    return np.ascontiguousarray(codes)


def tied_average_precision(distances, relevant):
    """The mean of average precision over all orders of the images at equal distance.

    Whole-number distances, such as between binary codes, leave most of a ranking to chance; this is its expectation,
    whatever way a program breaks ties (McSherry and Najork 2008, Computing information retrieval performance measures
    efficiently in the presence of tied scores).

    Parameters
    ----------
    distances : ndarray
        ``(Q, N)`` whole numbers ≥ 0.
    relevant : ndarray
        ``(Q, N)`` bool, in the database's order.

    Returns
    -------
    ndarray
        ``(Q,)`` float64; NaN for a query without a relevant image.
    """
    distances, relevant = np.asarray(distances), np.asarray(relevant, dtype=bool)
    if distances.dtype.kind not in "iu":
        raise ValueError(f"distances must be whole numbers, not {distances.dtype}; use average_precision for others")
    if len(distances) > 100:  # in blocks, for the sake of memory
        blocks = range(0, len(distances), 100)
        return np.concatenate([tied_average_precision(distances[i : i + 100], relevant[i : i + 100]) for i in blocks])
    count, levels = len(distances), int(distances.max()) + 1
    place = (np.arange(count)[:, None] * levels + distances).ravel()
    tied = np.bincount(place, minlength=count * levels).reshape(count, levels)
    right = np.bincount(place, relevant.ravel(), minlength=count * levels).reshape(count, levels)
    before = np.cumsum(tied, axis=1) - tied
    right_before = np.cumsum(right, axis=1) - right

    # At place j of a tie of n images, r of them relevant, after c images, s of them relevant, stands a relevant image
    # with chance r/n, and then (r - 1)(j - 1)/(n - 1) relevant ones are expected in the tie before it: it adds
    # r/n · (s + 1 + (r - 1)(j - 1)/(n - 1)) / (c + j). Summed over j, with h = 1/(c + 1) + ... + 1/(c + n):
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, distances.shape[1] + 1))])
    h = harmonic[before + tied] - harmonic[before]
    slope = np.divide(right - 1, tied - 1, out=np.zeros(tied.shape), where=tied > 1)
    added = share(right, tied) * ((right_before + 1) * h + slope * (tied - (before + 1) * h))
    return share(np.nansum(added, axis=1), relevant.sum(axis=1))
