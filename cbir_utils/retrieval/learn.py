"""What the best method needs, learned in one call: the steps of notebook 08."""

import numpy as np

from cbir_utils.methods import steps
from cbir_utils.methods.distortion import MatchedSearch, blend
from cbir_utils.methods.manifold import DiffusionMap

#: Neighbours of an image in the graph, and numbers of the map; fewer where the database is small.
NEIGHBOURS, DIMENSIONS = 5, 47


def learn_fused(run, data, *, epochs=None, seed=0, verbose=True):
    """Train, without labels, what ``matched`` and the methods under it need, and keep it in the run.

    ``epochs`` are passes over the database; by default as many as show a million images, 10 to 40. Returns the
    training's history. Raises ValueError for fewer than three images.
    """
    count = len(data.database)
    if count < 3:
        raise ValueError(f"{data.name} has {count} images; a graph of neighbours needs three or more")
    epochs = epochs or int(np.clip(1_000_000 // count, 10, 40))
    settings = {"epochs": epochs, "batch_size": 256 if count > 20_000 else 128, "seed": seed}

    def explore(codes):
        search = MatchedSearch(codes[0], data.database.images)
        hits = steps.candidates_both(search, codes, data)
        size = {"k": min(NEIGHBOURS, count - 1), "dimensions": min(DIMENSIONS, count - 2)}
        return search, hits, DiffusionMap.fit(hits[0], **size, seed=seed)

    edges = steps.fit_edges(data, seed)
    search, hits, manifold = explore(steps.project_both(data, edges))
    model, history = steps.teach(data, search, manifold, hits[0], verbose=verbose, **settings)
    codes = steps.encode_both(model.encoder, data)
    steps.keep_taught(run, model, history, codes, **settings)
    joint = steps.join_both(data, codes, edges)
    steps.keep_joint(run, edges, joint)
    search, hits, manifold = explore(joint)
    mapped = steps.map_both(manifold, hits)
    matched = blend(hits[1], mapped[1], mapped[0])
    steps.keep_map(run, manifold, mapped, steps.fuse_both(mapped, joint), matched)
    return history
