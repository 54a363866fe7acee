"""What the explorer answers: the hits of a query, why they are hits, and where they lie on a map of the codes."""

from typing import NamedTuple

import numpy as np

from cbir_utils.codes import unit_length
from cbir_utils.explorer import plots
from cbir_utils.index import Index
from cbir_utils.plots import short

#: Images on the map of codes: more would be slower and show no more.
ON_THE_MAP = 2000


class CodeMap(NamedTuple):
    """A map of a method's codes on which near points have near codes: t-SNE of some of them."""

    rows: np.ndarray  #: (M,) which codes are shown
    points: np.ndarray  #: (M, 2) float32
    codes: np.ndarray  #: (M, D) float32, of unit length

    def shares(self, points):
        """Points as shares of the map's width and height, a list of pairs from 0 to 1."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return np.round((points - low) / np.maximum(high - low, 1e-9), 4).tolist()

    def place(self, codes):
        """Where other codes ``(Q, D)`` lie, ``(Q, 2)``: at their nearest code's point; t-SNE itself moves no others."""
        return self.points[(unit_length(codes) @ self.codes.T).argmax(axis=1)]


class Answer:
    """The ``k`` nearest images of ``image`` ``(H, W, C)`` uint8, and the figures that explain them.

    ``own`` is the row of a query that is in the database. ``rows`` and ``distances`` are those of the hits, ``(K,)``.
    ``more`` and ``unlike`` are images of examples beside the query (``Retriever.search_like``); the rows ``exclude``
    are no hits. A figure comes with a text that says what it shows.
    """

    def __init__(self, retriever, image, k, own=None, *, more=(), unlike=(), exclude=()):
        if len(more) or len(unlike):
            exclude = [*exclude, *([] if own is None else [own])]
            found = retriever.search_like([image, *more], k, unlike=unlike, exclude=exclude)
        else:
            found = retriever.search(image[None], k, exclude_self=None if own is None else [own])
        self.retriever, self.image = retriever, image
        self.rows, self.distances = found.ids[0], found.distances[0]

    @property
    def images(self):
        """The hits' images ``(K, H, W, C)`` uint8."""
        return self.retriever.images[self.rows]

    def path(self, rank):
        """The images decoded on the way to the hit of this rank; no figure where the method has no decoder.

        Nor where the decoder has not learned these images: its error is no smaller than that of their mean image.
        """
        by, hit = self.retriever, self.retriever.images[self.rows[rank - 1]]
        decoded = by.between(self.image, hit)
        if decoded is None:
            return None, f"The codes of {by.method} cannot be decoded: there is no path to show."
        if by.method != "pixels":
            error, of_mean = by.decoding_error
            if error >= of_mean:
                return None, (
                    f"There is no path to show: the decoder has not learned these images. Its mean squared error is "
                    f"{error:.3f}, and that of the mean image is {of_mean:.3f}."
                )
        figure = plots.decoded_path(self.image, hit, decoded, rank, self.distances[rank - 1])
        return figure, f"{len(decoded)} images decoded on the way from the query's code to that of hit {rank}"

    def occlusion(self, rank):
        """Which parts of the query speak for the hit of this rank."""
        by, row = self.retriever, self.rows[rank - 1]
        hit = Index(by.metric).add(by.codes[[row]])

        def measure(images):
            return hit.search(by.encode(images), 1).distances[:, 0]

        distance = measure(self.image[None])[0]  # of the codes alone, where a method has a second look
        changes = occlusion_map(measure, self.image, 255 * by.data.light)
        return plots.occlusion(self.image, by.images[row], changes, rank, distance), (
            f"Map of the query: covering a part changes the distance to hit {rank} of {short(distance)} "
            f"by {changes.min():+.2g} to {changes.max():+.2g}"
        )

    def where(self, code_map):
        """Where the query and its hits lie on a :class:`CodeMap`."""
        codes = np.concatenate([self.retriever.encode(self.image[None]), self.retriever.codes[self.rows]])
        points = np.concatenate([code_map.place(codes), code_map.points])
        images = np.concatenate([self.image[None], self.images, self.retriever.images[code_map.rows]])
        figure = plots.where_it_is(points, images, query=0, hits=range(1, len(codes)), of=len(self.retriever))
        return figure, f"Map of the codes with the query and its {len(self.rows)} hits"


def occlusion_map(distance, image, background=0):
    """How much each part of a query matters for its distance to a hit (Zeiler and Fergus 2014, section 4.2).

    A square patch of ``background`` (0 for black, 255 for white) covers every part of ``image`` ``(H, W, C)`` uint8 in
    turn: a fifth of its shorter side, half a patch apart. ``distance`` takes images ``(Q, H, W, C)``, returns ``(Q,)``.
    Returns ``(H, W)`` float32: for each pixel the mean change of the distance over all patches that cover it. Above 0
    the part speaks for the hit: without it the hit is farther away.
    """
    height, width = image.shape[:2]
    patch = max(1, min(height, width) // 5)
    starts = np.arange(1 - patch, max(height, width), max(1, patch // 2))  # over the edges too: every pixel is covered
    rows, columns = (
        (i >= starts[:, None]) & (i < starts[:, None] + patch) for i in (np.arange(height), np.arange(width))
    )
    rows, columns = rows[rows.any(axis=1)], columns[columns.any(axis=1)]
    covered = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, height, width)
    images = np.where(covered[..., None], np.uint8(background), image)
    distances = np.asarray(distance(np.concatenate([image[None], images])), dtype=np.float64)
    change = np.einsum("p,phw->hw", distances[1:] - distances[0], covered)
    return (change / covered.sum(axis=0)).astype(np.float32)


def map_codes(codes):
    """A :class:`CodeMap` of at most ``ON_THE_MAP`` of the codes ``(N, D)`` float32, drawn at random.

    t-SNE of cosine distances (van der Maaten and Hinton 2008); two codes and fewer lie side by side.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(codes))[:ON_THE_MAP])
    some = unit_length(np.asarray(codes[rows]))
    if len(rows) < 4:
        return CodeMap(rows, np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2), some)
    from sklearn.manifold import TSNE  # only here: it takes a second to load

    # Of vectors of unit length the squared Euclidean distance is twice the cosine distance.
    points = TSNE(perplexity=min(30, (len(rows) - 1) / 3), init="pca", random_state=0).fit_transform(some)
    return CodeMap(rows, points.astype(np.float32), some)
