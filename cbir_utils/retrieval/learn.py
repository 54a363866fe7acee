"""What the best method needs, learned in one call: the steps of notebook 08, or the words of photographs."""

from functools import partial

import numpy as np

from cbir_utils.methods import steps
from cbir_utils.methods.descriptors import Projection, oriented_gradients
from cbir_utils.methods.distortion import MatchedSearch, blend
from cbir_utils.methods.manifold import DiffusionMap
from cbir_utils.methods.words import VisualWords
from cbir_utils.retrieval.retriever import available_methods
from cbir_utils.training import encode

#: Numbers of a photograph's code.
PHOTO_NUMBERS = 128
#: Images, evenly spread over the database, that decide which method is learned.
DECIDING = 10_000


def learn(run, data, *, seed=0, verbose=True):
    """Learn from a dataset's images what searches them best, without labels, and keep it; returns the method's name.

    Where the image distortion model suits the images (``MatchedSearch.suits``: handwriting, drawings), it is
    ``matched``, else ``photo``. What the run has already is kept.
    """
    some = np.unique(np.linspace(0, len(data.database) - 1, DECIDING).astype(int))
    images = data.database.images[some]
    method, make = "photo", learn_photo
    if MatchedSearch(oriented_gradients(images), images).suits:
        method, make = "matched", partial(learn_fused, verbose=verbose)
    if method not in available_methods(run):
        make(run, data, seed=seed)
    return method


def learn_photo(run, data, *, seed=0):
    """Learn visual words from the database, and the principal directions of its histograms; keep them and the codes."""
    words = VisualWords.fit(data.database.images, seed=seed)
    counts = words(data.database.images)
    directions = Projection.fit(counts, PHOTO_NUMBERS, seed=seed)
    asked = words(data.queries.images) if data.own_rows is None else counts[data.own_rows]
    for name, part in {"photo/words.npz": words, "photo/projection.npz": directions}.items():
        with run.writing(name) as path:
            part.save(path)
    run.keep("photo", directions(counts), directions(asked), encoder="photo/words.npz")


def keep_pretrained(run, data, model):
    """Take a Keras model from elsewhere as the encoder, a name or a file, and keep it and its codes."""
    from cbir_utils.methods.pretrained import pretrained_encoder  # only here: rarely asked for

    encoder = pretrained_encoder(model, data.database.images.shape[1:])
    with run.writing("pretrained/encoder.keras") as path:
        encoder.save(path)
    codes = encode(encoder, data.database.images)
    asked = encode(encoder, data.queries.images) if data.own_rows is None else codes[data.own_rows]
    run.keep("pretrained", codes, asked, encoder="pretrained/encoder.keras")


def learn_fused(run, data, *, epochs=None, seed=0, verbose=True):
    """Train, without labels, what ``matched`` and the methods under it need, and keep it in the run.

    ``epochs`` are passes over the database; by default as many as show a million images, 10 to 40. Returns the
    training's history. Raises ValueError for fewer than three images.
    """
    count = len(data.database)
    epochs = epochs or int(np.clip(1_000_000 // count, 10, 40))
    settings = {"epochs": epochs, "batch_size": 256 if count > 20_000 else 128, "seed": seed}

    def explore(codes):
        hits = steps.candidates_both(MatchedSearch(codes[0], data.database.images), codes, data)
        return hits, DiffusionMap.fit(hits[0], seed=seed)

    edges = steps.fit_edges(data, seed)
    hits, manifold = explore(steps.project_both(data, edges))
    model, history = steps.teach(data, manifold, hits[0], verbose=verbose, **settings)
    codes = steps.encode_both(model.encoder, data)
    steps.keep_taught(run, model, history, codes, **settings)
    joint = steps.join_both(data, codes, edges)
    steps.keep_joint(run, edges, joint)
    hits, manifold = explore(joint)
    mapped = steps.map_both(manifold, hits)
    matched = blend(hits[1], mapped[1], mapped[0])
    steps.keep_map(run, manifold, mapped, steps.fuse_both(mapped, joint), matched)
    return history
