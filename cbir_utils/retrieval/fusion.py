"""From an image to its codes by all that notebook 08 made."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.index import Hits
from cbir_utils.methods import descriptors
from cbir_utils.methods.manifold import DiffusionMap, fuse


class Look(NamedTuple):
    """What :class:`Fusion` sees in ``Q`` images."""

    joint: np.ndarray  #: (Q, D) float32: the network's codes beside HOG
    hits: Hits  #: (Q, K): the candidates in the database, matched
    mapped: np.ndarray  #: (Q, M) float32: the diffusion map's codes
    fused: np.ndarray  #: (Q, M + D) float32


class Fusion:
    """The way of an image through what notebook 08 made: network, HOG, candidates, diffusion map.

    ``network`` turns images ``(Q, H, W, C)`` uint8 into the codes ``(Q, D)`` of the method ``taught``.
    """

    def __init__(self, run, data, network):
        self.network = network
        self.edges = descriptors.Projection.load(run.checked_path("joint/edges.npz"))
        self.weight = run.manifest["edge_weight"]
        self.run, self.data = run, data

    @cached_property
    def search(self):
        """The :class:`MatchedSearch` of the database."""
        from cbir_utils.methods.distortion import MatchedSearch  # only here: Numba takes a second to load

        return MatchedSearch(self.run.load_codes("joint")[0], self.data.database.images)

    @cached_property
    def manifold(self):
        """The diffusion map; ArtifactError if the run's codes come from another one."""
        name = "manifold/diffusion_map.npz"
        manifold = DiffusionMap.load(self.run.checked_path(name))
        if not np.array_equal(manifold.codes, self.run.load_codes("manifold")[0]):
            remedy = self.run.remedy(name)
            raise ArtifactError(f"{self.run.path(name)} is not the map that the codes come from; run {remedy}")
        return manifold

    def joint(self, images):
        """The joint codes of images, ``(Q, D)`` float32."""
        from cbir_utils.methods.steps import join  # only here: Keras takes seconds to load

        return join(images, self.network(images), self.edges, self.weight)

    def look(self, images):
        """Everything at once: :class:`Look`."""
        joint = self.joint(images)
        hits = self.search.search(joint, images)
        mapped = self.manifold.embed(hits)
        return Look(joint, hits, mapped, fuse(mapped, joint))
