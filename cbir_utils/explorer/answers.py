"""What the explorer answers, without widgets: the hits of a query, why they are hits, and where they lie."""

from typing import NamedTuple

import numpy as np

from cbir_utils.explorer import plots
from cbir_utils.index import Index
from cbir_utils.methods.descriptors import Projection
from cbir_utils.plots import short

#: Images on the map of codes: more would be slower and show no more.
ON_THE_MAP = 2000


class Query(NamedTuple):
    """An image to search with, and where it is from."""

    image: np.ndarray  #: (H, W, C) uint8
    what: str  #: in words
    row: int | None = None  #: of the image in the database, which is then left out of its own hits
    drawing: int | None = None  #: the number of the pad's picture, for a drawing


class CodeMap(NamedTuple):
    """A map of a method's codes: their two principal directions, fitted to a sample of them."""

    rows: np.ndarray  #: (M,) which codes are shown
    project: Projection  #: codes (Q, D) → points (Q, 2)
    share: float  #: of the codes' variance that the two directions hold


class Answer:
    """The ``k`` nearest images of ``image`` ``(H, W, C)`` uint8, and the figures that explain them.

    ``own`` is the row of a query that is in the database. ``rows`` and ``distances`` are those of the hits, ``(K,)``.
    A figure comes with a text that says what it shows.
    """

    def __init__(self, retriever, image, k, own=None):
        found = retriever.search(image[None], k, exclude_self=None if own is None else [own])
        self.retriever, self.image = retriever, image
        self.rows, self.distances = found.ids[0], found.distances[0]
        self.images = retriever.images[self.rows]

    def path(self, rank):
        """The images decoded on the way to the hit of this rank; no figure where the method has no decoder."""
        hit = self.images[rank - 1]
        decoded = self.retriever.between(self.image, hit)
        if decoded is None:
            return None, f"The codes of {self.retriever.method} cannot be decoded: there is no path to show."
        figure = plots.decoded_path(self.image, hit, decoded, rank, self.distances[rank - 1])
        return figure, f"{len(decoded)} images decoded on the way from the query's code to that of hit {rank}"

    def occlusion(self, rank):
        """Which parts of the query speak for the hit of this rank."""
        by = self.retriever
        hit = Index(by.metric).add(by.codes[[self.rows[rank - 1]]])

        def measure(images):
            return hit.search(by.encode(images), 1).distances[:, 0]

        distance = measure(self.image[None])[0]  # of the codes alone, where a method has a second look
        changes = occlusion_map(measure, self.image, 255 * by.data.light)
        return plots.occlusion(self.image, self.images[rank - 1], changes, rank, distance), (
            f"Map of the query: covering a part changes the distance to hit {rank} of {short(distance)} "
            f"by {changes.min():+.2g} to {changes.max():+.2g}"
        )

    def where(self, code_map):
        """Where the query and its hits lie on a :class:`CodeMap`."""
        rows = np.concatenate([code_map.rows, self.rows])
        codes = np.concatenate([self.retriever.encode(self.image[None]), self.retriever.codes[rows]])
        images = np.concatenate([self.image[None], self.retriever.images[rows]])
        hits = range(len(codes) - len(self.rows), len(codes))
        figure = plots.where_it_is(code_map.project(codes), images, query=0, hits=hits, share=code_map.share)
        return figure, f"Map of the codes with the query and its {len(hits)} hits"


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
    """A :class:`CodeMap` of codes ``(N, D)`` float32, fitted to at most ``ON_THE_MAP`` of them, drawn at random."""
    rows = np.random.default_rng(0).permutation(len(codes))[:ON_THE_MAP]
    some = np.asarray(codes[rows])
    project = Projection.fit(some, 2)
    return CodeMap(rows, project, float(project(some).var(axis=0).sum() / max(some.var(axis=0).sum(), 1e-12)))
