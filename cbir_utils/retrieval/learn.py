"""What the best method needs, learned in one call: the steps of notebook 08."""

import numpy as np

from cbir_utils.methods import steps
from cbir_utils.methods.manifold import DiffusionMap

#: Neighbours of an image in the rounds and in the graph, and numbers of the map; fewer where the database is small.
NEIGHBOURS, DIMENSIONS = 10, 47


def learn_fused(run, data, *, epochs=None, rounds=5, seed=0, verbose=True):
    """Train, without labels, what ``fused`` and the methods under it need, and keep it in the run.

    ``epochs`` come before the first round guided by retrieval; by default as many as show a million images, 10 to 40.
    ``rounds``, ``seed`` and ``verbose`` are those of :func:`~cbir_utils.methods.contrastive.fit_contrastive`. Returns
    the ``ContrastiveHistory``. Raises ValueError for fewer than three images.
    """
    count = len(data.database)
    if count < 3:
        raise ValueError(f"{data.name} has {count} images; a graph of neighbours needs three or more")
    epochs = epochs or int(np.clip(1_000_000 // count, 10, 40))
    neighbours, batch_size = min(NEIGHBOURS, count - 1), 256 if count > 20_000 else 128
    settings = {"epochs": epochs, "rounds": rounds, "neighbours": neighbours, "batch_size": batch_size, "seed": seed}
    model, history = steps.train_contrastive(data, verbose=verbose, **settings)
    codes = steps.encode_both(model.encoder, data)
    steps.keep_contrastive(run, model, history, codes, **settings)
    edges = steps.fit_edges(data, seed)
    joint = steps.join_both(data, codes, edges)
    steps.keep_joint(run, edges, joint)
    manifold = DiffusionMap.fit(joint[0], k=neighbours, dimensions=min(DIMENSIONS, count - 2), seed=seed)
    mapped = steps.map_both(manifold, joint, data)
    steps.keep_map(run, manifold, mapped, steps.fuse_both(mapped, joint))
    return history
