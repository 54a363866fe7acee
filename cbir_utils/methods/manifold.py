"""The neighbour graph of a database's codes and its diffusion map: distance along the data instead of across.

Two handwritten nines may lie far apart and still be joined by a chain of nines, each close to the next. The diffusion
map (Coifman and Lafon 2006) gives codes whose cosine distance is short between images that many such chains join.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from cbir_utils.codes import unit_length
from cbir_utils.distances import Hits

#: An edge weighs no less than exp(-FARTHEST), so that no image is cut off by rounding to zero.
FARTHEST = 30.0

#: What a map is made of.
ARRAYS = ("scales", "eigenvalues", "eigenvectors")


class DiffusionMap:
    """The diffusion map of a database; queries enter it through their own neighbours.

    Made by :meth:`fit` or :meth:`load`. ``codes`` are the database's, :meth:`embed` gives those of queries.

    Attributes
    ----------
    scales : ndarray
        ``(N,)`` float64: the root of each image's squared distance to its k-th neighbour.
    eigenvalues, eigenvectors : ndarray
        ``(M,)`` float64 in (-1, 1], largest first, of the random walk on the graph, without the trivial 1; and the
        walk's right eigenvectors, ``(N, M)`` float64.
    k, time : int, float
        Neighbours per image; steps of the random walk, t.
    """

    def __init__(self, scales, eigenvalues, eigenvectors, *, k, time):
        self.scales, self.k = scales, k
        self.eigenvalues, self.eigenvectors = eigenvalues, eigenvectors
        self.time = _steps_to_forget(eigenvalues) if time is None else time

    @classmethod
    def fit(cls, hits, *, k=5, dimensions=47, time=None, seed=0):
        """Join each image with its neighbours and find the graph's leading eigenvectors.

        An edge weighs ``w_ij = exp(-d_ij² / (s_i s_j))``, with ``s_i`` the distance of i's k-th neighbour (local
        scaling, Zelnik-Manor and Perona 2004). One end that names the other is enough for an edge. ``P = D⁻¹W`` is the
        walk that takes an edge with a chance proportional to its weight. The new codes are P's eigenvectors, less the
        constant one, times their eigenvalues to the power of ``time`` (Coifman and Lafon 2006).

        Parameters
        ----------
        hits : Hits
            ``(N, K)``: each database image's neighbours, without itself, never those of queries. The distances, on any
            scale, are *squared* ones: the cosine distance of codes is one, and so is ``distortion``.
        k, dimensions, seed : int
            How many of the K count; length of the new codes, M, N - 2 at most; seed of the solver (ARPACK).
        time : float, optional
            t ≥ 1. In long walks only the coarse structure counts. By default it follows from the eigenvalues λ: the
            largest gap between frequencies, √(1 - λ), separates clusters from the detail inside them, and after t
            steps the first direction behind it has a tenth of its weight left.

        Raises ValueError for fewer than three images.
        """
        n = len(hits.ids)
        if n < 3:
            raise ValueError(f"a graph of neighbours needs three images or more, and there are {n}")
        k, dimensions = min(k, n - 1), min(dimensions, n - 2)
        first = _first(hits, k)
        if dimensions < 1 or (time is not None and not time >= 1):
            raise ValueError(f"dimensions and time must be 1 or more, not {dimensions} and {time}")
        scales = _scales(first)
        graph = _graph(_edge_weights(first, scales, scales), first.ids)
        if connected_components(graph, directed=False)[0] > dimensions:
            # Bursts of photographs know only each other. Their nearest pairs, among all K hits, join them; such an edge
            # weighs what one between usual neighbours does.
            tree = minimum_spanning_tree(_graph(hits.distances + np.finfo(np.float32).tiny, hits.ids))
            graph = graph.maximum(np.exp(-1) * (tree + tree.T > 0))
        eigenvalues, eigenvectors = _leading_eigenvectors(graph, dimensions, seed)
        return cls(scales, eigenvalues, eigenvectors, k=k, time=time)

    @property
    def codes(self):
        """The database's new codes, ``(N, M)`` float32."""
        return (self.eigenvectors * self._weights).astype(np.float32)

    def embed(self, hits):
        """The new codes of queries, from their first ``k`` of :class:`Hits` ``(Q, K)``: ``(Q, M)`` float32.

        A query takes the mean of its neighbours' eigenvectors, weighted by its edges and divided by the eigenvalues
        (the Nyström extension, Bengio et al. 2004). A query alone gets the same code as in a batch.
        """
        hits = _first(hits, self.k)
        weights = _edge_weights(hits, _scales(hits), self.scales)
        weights /= weights.sum(axis=1, keepdims=True)
        codes = np.zeros((len(weights), len(self.eigenvalues)))
        for place in range(self.k):  # neighbour by neighbour: the same sum whatever the batch
            codes += weights[:, place, None] * self.eigenvectors[hits.ids[:, place]]
        return (codes * self._weights / np.maximum(self.eigenvalues, 1e-9)).astype(np.float32)

    def save(self, path):
        """Write it to ``path`` (``.npz``)."""
        np.savez(path, **{name: getattr(self, name) for name in (*ARRAYS, "k", "time")})

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                parts = [stored[name] for name in ARRAYS]
                return cls(*parts, k=int(stored["k"]), time=float(stored["time"]))
        except Exception as error:  # a damaged zip surfaces as one of several exceptions of three libraries
            raise ValueError(f"{path} holds no diffusion map ({error}); make it anew with notebook 08") from error

    @property
    def _weights(self):
        """What t steps leave of each direction, relative to the first; 0 for one that no walk keeps.

        Dividing by the first changes no cosine, and keeps long walks from fading to zero.
        """
        positive = self.eigenvalues > 1e-9
        return np.where(positive, (np.where(positive, self.eigenvalues, 0) / self.eigenvalues[0]) ** self.time, 0)


def fuse(manifold_codes, codes, weight=0.1):
    """One code whose cosine blends two: ``(cos_manifold + weight · cos_plain) / (1 + weight)``.

    Each is brought to unit length and they are put side by side: ``(N, M)`` and ``(N, D)`` float32 → ``(N, M + D)``
    float32. The diffusion map knows which cluster an image is in, the plain code where in it. The default weight was
    chosen on the last 10,000 training images of MNIST as queries (of .05, .1, .2 and .3).

    >>> fuse(np.array([[2.0]]), np.array([[0.0, 5.0]]), weight=3.0).round(3)
    array([[0.5  , 0.   , 0.866]], dtype=float32)
    """
    parts = ((manifold_codes, 1.0), (codes, weight))
    scaled = [np.sqrt(share / (1 + weight)) * unit_length(part, np.float64) for part, share in parts]
    return np.concatenate(scaled, axis=1).astype(np.float32)


def before_gap(eigenvalues):
    """How many directions lie before the largest gap between two frequencies, √(1 - λ); 1 where there is only one."""
    frequencies = np.sqrt(1 - np.minimum(eigenvalues, 1))  # 1 - λ is the squared frequency, as of a drum
    return int(np.argmax(np.diff(frequencies))) + 1 if len(frequencies) > 1 else 1


def _steps_to_forget(eigenvalues):
    """After how many steps the first direction behind the largest gap of frequencies has a tenth left; 1 at least."""
    behind = eigenvalues[min(before_gap(eigenvalues), len(eigenvalues) - 1)]
    if not 0 < behind < 1:
        return 1.0
    return float(max(1.0, np.log(0.1) / np.log(behind)))


def _first(hits, k):
    """The first ``k`` of each query's hits."""
    if not 1 <= k <= hits.ids.shape[1]:
        raise ValueError(f"a graph of {k} neighbours needs {k} hits of each image, and there are {hits.ids.shape[1]}")
    return Hits(hits.distances[:, :k], hits.ids[:, :k])


def _graph(values, ids):
    """A symmetric matrix ``(N, N)`` of a value for each row's hits ``(N, K)``; of two directions, the greater."""
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    directed = sparse.csr_array((values.ravel(), (rows, ids.ravel())), shape=(len(ids), len(ids)))
    return directed.maximum(directed.T)


def _scales(hits):
    """The local scale of each row of :class:`Hits`: the distance to the last neighbour, ``(Q,)``."""
    return np.sqrt(hits.distances[:, -1].astype(np.float64))


def _edge_weights(hits, own, known):
    """The weights ``(Q, k)`` of edges, ``exp(-d² / (s s'))``: 1 between duplicates, whose scale may be 0.

    ``own (Q,)`` are the scales of the rows, ``known (N,)`` those of the database.
    """
    squared, product = hits.distances.astype(np.float64), own[:, None] * known[hits.ids]
    ratio = np.divide(squared, product, out=np.where(squared > 0, FARTHEST, 0.0), where=product > 0)
    return np.exp(-np.minimum(ratio, FARTHEST))


def _leading_eigenvectors(graph, count, seed):
    """The ``count`` leading eigenpairs of the walk on ``graph``, without the constant one.

    They are those of the symmetric ``S = D^-½ W D^-½``, divided by √degree. Each component of the graph has an
    eigenvalue 1 of its own, with a known vector: √degree on the component. A solver would find some of these, mixed
    with the constant one, so they are taken out beforehand.
    """
    parts, part = connected_components(graph, directed=False)
    if parts > count:
        raise ValueError(
            f"the graph falls into {parts} components, which {count} dimensions cannot tell apart; "
            "give more hits of each image, raise k (neighbours) or dimensions, or remove duplicates"
        )
    root = np.sqrt(graph.sum(axis=1))
    walk = sparse.diags_array(1 / root) @ graph @ sparse.diags_array(1 / root)
    known = root[:, None] * np.column_stack([np.ones(len(root)), part[:, None] == np.arange(parts - 1)])
    known, _ = np.linalg.qr(known)  # the first is the constant one; the others tell the components apart
    # Their eigenvalue 1 becomes -1, so that they are the last that the solver would find.
    rest = LinearOperator(walk.shape, matvec=lambda v: walk @ v - 2 * (known @ (known.T @ v)), dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(len(root))
    missing = count - parts + 1
    basis = min(len(root), max(20, 3 * missing))
    try:
        found = eigsh(rest, k=missing, which="LA", v0=start, ncv=basis, tol=1e-6, maxiter=5000)
    except ArpackNoConvergence as error:
        raise ValueError("the eigenvalues of the graph could not be found; raise k, or lower dimensions") from error
    order = np.argsort(-found[0], kind="stable")
    values = np.append(np.ones(parts - 1), found[0][order])
    vectors = np.column_stack([known[:, 1:], found[1][:, order]])
    vectors = vectors / root[:, None] * np.linalg.norm(root)
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])  # a solver's sign is arbitrary
    return values, vectors
