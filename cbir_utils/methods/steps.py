"""Small steps that lessons and the package share.

From images to fused codes: notebook 08 shows what lies between the steps, ``learn`` takes them at once. Codes come in
pairs here: the database's ``(N, D)`` and the queries' ``(Q, D)``, float32.
"""

import time

import numpy as np
import sklearn.decomposition  # noqa: F401  imported here so that no timed step imports it first

from cbir_utils.methods.descriptors import Projection, oriented_gradients
from cbir_utils.methods.distillation import build_strided, distil
from cbir_utils.methods.manifold import fuse
from cbir_utils.methods.views import Augmentation
from cbir_utils.models import Autoencoder
from cbir_utils.training import History, encode, load_model

#: The artifact that all codes here come from.
ENCODER = "taught/encoder.keras"

#: How strong the views are from which a network learns the map's codes, beside those of ``Augmentation``.
STRENGTH = 0.7

#: How many numbers of HOG stand beside the network's codes, and with which weight.
EDGE_NUMBERS, EDGE_WEIGHT = 64, 0.3


def timed(call, *arguments, **options):
    """What ``call(*arguments, **options)`` returns, and the seconds that it took."""
    start = time.perf_counter()
    result = call(*arguments, **options)
    return result, time.perf_counter() - start


def kept_model(run, method, **settings):
    """The ``(Autoencoder, History)`` that a run keeps for a method, if it was trained with these settings; or None."""
    history = run.load_json(f"{method}/history.json")
    if not settings.items() <= history.pop("settings", {}).items():
        return None
    encoder, whole = (load_model(run.checked_path(f"{method}/{name}.keras")) for name in ("encoder", "autoencoder"))
    return Autoencoder(encoder, whole.get_layer("decoder"), whole), History(**history)


def teach(data, manifold, hits, *, epochs, batch_size=128, seed=0, verbose=True):
    """Train a new network on the database, without labels: ``(Autoencoder, History)``.

    It learns what the map knows (:func:`distil`); ``hits`` are the database's candidates that the map was made from.
    """
    model = build_strided(data.database.images.shape[1:], seed=seed)
    settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "verbose": verbose}
    augment = Augmentation(seed, light=data.light, strength=STRENGTH)
    return model, distil(model, data.database.images, manifold.codes, hits, augment=augment, **settings)


def encode_both(encoder, data):
    """The network's codes of database and queries."""
    return encode(encoder, data.database.images), encode(encoder, data.queries.images)


def fit_edges(data, seed=0):
    """The leading principal directions of the database's HOG: a :class:`Projection` to 64 numbers."""
    return Projection.fit(oriented_gradients(data.database.images), EDGE_NUMBERS, seed=seed)


def project_both(data, edges):
    """The edges of database and queries, as codes ``(N, L)`` and ``(Q, L)``."""
    return tuple(edges(oriented_gradients(split.images)) for split in (data.database, data.queries))


def join(images, codes, edges, weight=EDGE_WEIGHT):
    """The joint codes of images: the network's ``codes (N, D)`` beside their edges, which have a smaller weight."""
    return fuse(codes, edges(oriented_gradients(images)), weight)


def join_both(data, codes, edges, weight=EDGE_WEIGHT):
    """The joint codes of database and queries."""
    return join(data.database.images, codes[0], edges, weight), join(data.queries.images, codes[1], edges, weight)


def candidates_both(search, codes, data):
    """The candidates of database and queries, :class:`Hits` ``(N, K)`` and ``(Q, K)``; no image finds itself.

    ``search`` is the :class:`MatchedSearch` of the database's codes, ``codes[0]``.
    """
    images, own = data.database.images, np.arange(len(data.database))
    database = search.search(codes[0], images, exclude_self=own)
    return database, search.search(codes[1], data.queries.images, exclude_self=data.own_rows)


def map_both(manifold, hits):
    """The codes that a fitted :class:`DiffusionMap` gives database and queries, from the candidates of both."""
    return manifold.codes, manifold.embed(hits[1])


def fuse_both(mapped, joint):
    """The map's codes beside the joint ones, for database and queries."""
    return fuse(mapped[0], joint[0]), fuse(mapped[1], joint[1])


# -- keeping what the steps made -----------------------------------------------------------------------------------


def keep_taught(run, model, history, codes, **settings):
    """Keep the network, how it was trained, and its codes."""
    run.keep_model("taught", model, history, **settings)
    run.keep("taught", *codes, encoder=ENCODER)


def keep_pca(run, projection, codes):
    """Keep the principal directions of the pixels, and the codes on them."""
    with run.writing("pca/projection.npz") as path:
        projection.save(path)
    run.keep("pca", *codes, encoder="pca/projection.npz")


def keep_joint(run, edges, joint, weight=EDGE_WEIGHT):
    """Keep the directions of the edges, their weight (in the manifest), and the joint codes."""
    with run.writing("joint/edges.npz") as path:
        edges.save(path)
    run.record(edge_weight=weight)
    run.keep("joint", *joint, encoder=ENCODER)


def keep_map(run, manifold, mapped, fused, matched):
    """Keep the diffusion map, its codes, the fused ones, and the queries' candidates in their final order.

    ``matched`` are :class:`Hits` ``(Q, K)``; behind them, images follow by fused code.
    """
    with run.writing("manifold/diffusion_map.npz") as path:
        manifold.save(path)
    for method, codes in {"manifold": mapped, "fused": fused, "matched": fused}.items():
        run.keep(method, *codes, encoder=ENCODER)
    run.save_array("matched/reranked.npy", matched.ids.astype(np.int32))
