"""From an image to its nearest images: the methods of a finished run behind one interface.

A run keeps codes and networks of several methods (:mod:`cbir_utils.run`). Here each becomes a
:class:`Retriever`, which encodes any image as the method encoded its database, and searches. Images can be added
later without training anew.
"""

import json
from functools import cached_property, partial
from pathlib import PurePosixPath

import numpy as np

from cbir_utils.datasets import is_light, load_dataset
from cbir_utils.index import Index
from cbir_utils.methods import descriptors
from cbir_utils.methods.manifold import DiffusionMap, fuse
from cbir_utils.run import ArtifactError

#: What each method needs besides its codes, best method first (by mAP on MNIST, README). A method without a
#: network of its own uses another's.
NEEDS = {
    "fused": ("contrastive/encoder.keras", "joint/edges.npz", "manifold/diffusion_map.npz"),
    "manifold": ("contrastive/encoder.keras", "joint/edges.npz", "manifold/diffusion_map.npz"),
    "contrastive": ("contrastive/encoder.keras",),
    "joint": ("contrastive/encoder.keras", "joint/edges.npz"),
    "hog": (),
    "denoising": ("denoising/encoder.keras",),
    "convolutional": ("convolutional/encoder.keras",),
    "pca": ("pca/projection.npz",),
    "undercomplete": ("undercomplete/encoder.keras",),
    "deep": ("deep/encoder.keras",),
    "sparse": ("sparse/encoder.keras",),
    "variational": ("variational/encoder.keras",),
    "contractive": ("contractive/encoder.keras",),
    "pixels": (),
}

#: The network that a method's codes come from, for the methods that have one.
NETWORK = {method: needs[0].split("/")[0] for method, needs in NEEDS.items() if needs and "encoder" in needs[0]}


def available_methods(run):
    """The methods whose artifacts the run holds, best first; ``pixels``, which needs none, is always the last.

    Codes of other data than the run has now (a folder that has changed since) do not count.
    """
    manifest = run.manifest
    files, codes, content_hash = (manifest.get(key) for key in ("files", "codes", "content_hash"))
    current = {method for method, origin in (codes or {}).items() if origin["content_hash"] == content_hash}
    return tuple(
        method for method, needs in NEEDS.items()
        if method == "pixels" or (method in current and all(name in files for name in needs))
    )  # fmt: skip


def run_data(run):
    """The dataset that a run was made from: its packed folder of images, or else the source that its manifest names."""
    if not run.manifest:
        raise ArtifactError(
            f"{run.folder} holds no run (there is no manifest.json); make one with {run.remedy_for('manifest.json')}"
        )
    packed = run.path("dataset")
    if (packed / "dataset.json").is_file():
        data = load_dataset(packed)
    else:
        known = run.manifest
        seed = known.get("parameters", {}).get("01_load_dataset", {}).get("seed", 0)
        data = load_dataset(
            known.get("source", run.dataset), seed=seed, size=known.get("size"), labels=known.get("labels", False)
        )
    run.same_data(data.content_hash)
    return data


def fit_query(image, data):
    """A query ``(H, W, C)`` uint8 as the database's images are: a grey one on the other ground becomes its negative.

    Ink on paper is dark on light; in MNIST it is light on dark, and the two have hardly a pixel in common. Colours
    are left alone.
    """
    return 255 - image if image.shape[-1] == 1 and is_light(image[None]) != data.light else image


def load_encoder(run, method):
    """The function that turns images ``(Q, H, W, C)`` uint8 into a method's codes ``(Q, D)`` float32.

    Raises :class:`ArtifactError`, with the command that helps, for an unknown method or missing artifacts.
    """
    if method not in NEEDS:
        raise ArtifactError(f"there is no method {method!r}; {run.folder} has {', '.join(available_methods(run))}")
    if method == "pixels":
        return descriptors.pixels
    if method == "hog":
        return descriptors.oriented_gradients
    if method == "pca":
        directions = descriptors.Projection.load(run.checked_path("pca/projection.npz"))
        return lambda images: directions(descriptors.pixels(images))
    from cbir_utils.training import encode, load_model  # only here: Keras takes seconds to load

    network = partial(encode, load_model(run.checked_path(f"{NETWORK[method]}/encoder.keras")))
    if NETWORK[method] == method:
        return network
    edges = descriptors.Projection.load(run.checked_path("joint/edges.npz"))
    weight = run.manifest["edge_weight"]

    def joint(images):
        return fuse(network(images), edges(descriptors.oriented_gradients(images)), weight)

    if method == "joint":
        return joint
    manifold = DiffusionMap.load(run.checked_path("manifold/diffusion_map.npz"), run.load_codes("joint")[0])
    if method == "manifold":
        return lambda images: manifold.embed(joint(images))

    def fused(images):
        codes = joint(images)
        return fuse(manifold.embed(codes), codes)

    return fused


class Retriever:
    """Finds the images of a run's database that are nearest to any image, by one of the run's methods.

    Parameters
    ----------
    run : Run
    data : Dataset
        What the run was made from, as :func:`run_data` loads it.
    method : str, optional
        One of :func:`available_methods`; by default the first.
    metric : {"cosine", "euclidean", "manhattan"}
        By which codes are compared.

    Attributes
    ----------
    images : ndarray
        ``(N, H, W, C)`` uint8: the database, then what was added later (:func:`add_images`).
    ids : tuple of str
        Their names: relative paths for a folder of images, row numbers otherwise.
    codes : ndarray
        ``(N, D)`` float32.
    encoder_hash : str or None
        SHA-256 of the encoder's file; ``None`` where nothing was trained.

    Raises
    ------
    ArtifactError
        If the run lacks the method's files or they do not belong together; says which command makes them.
    """

    def __init__(self, run, data, method=None, metric="cosine"):
        self.run, self.data = run, data
        self.method = method or available_methods(run)[0]
        self.metric = metric
        self.shape = data.database.images.shape[1:]
        self.encode = load_encoder(run, self.method)
        self.encoder_hash = None
        if self.method == "pixels":
            parts = [self.encode(data.database.images)]
        else:
            parts = [run.load_codes(self.method)[0]]
            self.encoder_hash = run.manifest["codes"][self.method]["encoder_hash"]
        images, ids = [data.database.images], list(data.ids or map(str, range(len(data.database))))
        known = set(data.ids or ())
        for batch in (_load_batch(run, name, self.shape) for name in _batches(run)):
            # An image that was added and is in the database by now, after another run, is there once.
            new = [row for row, name in enumerate(batch["ids"]) if name not in known]
            images.append(batch["images"][new])
            parts.append(self._codes_of(batch)[new])
            ids += [str(batch["ids"][row]) for row in new]
        self.images, self.ids, self.codes = _joined(images), tuple(ids), _joined(parts)
        self._index = Index(metric, encoder_hash=self.encoder_hash).add(self.codes)

    def __len__(self):
        return len(self.ids)

    def search(self, images, k, *, exclude_self=None):
        """The ``k`` nearest database images of each of ``images`` ``(Q, H, W, C)`` uint8: :class:`index.Hits`.

        ``exclude_self`` gives the row of each query, for queries that are in the database.
        """
        return self._index.search(self.encode(images), k, exclude_self=exclude_self)

    def between(self, first, second, steps=7):
        """Images decoded on the way from one image's code to another's: ``(steps, H, W, C)`` float32 in [0, 1].

        Where a method's own codes cannot be decoded, the way leads through those of the network that it builds on;
        ``None`` if there is none.
        """
        if self._decodable is None:
            return None
        encode, decode = self._decodable
        ends = encode(np.stack([first, second]))
        share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
        return decode((1 - share) * ends[0] + share * ends[1])

    @cached_property
    def _decodable(self):
        """An encoder and the decoder of its codes, or ``None``."""
        if self.method == "pixels":
            return self.encode, lambda codes: codes.reshape(-1, *self.shape)
        network = NETWORK.get(self.method)
        if network is None:
            return None
        from cbir_utils.training import decode, load_model

        autoencoder = load_model(self.run.checked_path(f"{network}/autoencoder.keras"))
        return load_encoder(self.run, network), partial(decode, autoencoder.get_layer("decoder"))

    def _codes_of(self, batch):
        """The codes of images added later: those kept with them, unless the encoder has been trained anew since."""
        origin = self.run.manifest.get("codes", {}).get(self.method)
        if origin is not None and json.loads(str(batch["origins"])).get(self.method) == origin:
            return batch[f"codes_{self.method}"]
        return self.encode(batch["images"])


# -- everything that the best method needs, in one call ----------------------------------------------------------------


def learn(run, data, *, epochs=None, rounds=5, neighbours=10, dimensions=47, edge_weight=0.3, seed=0, verbose=True):
    """Train, without labels, what ``fused`` and the methods under it need, and keep it in the run: notebook 08's steps.

    Parameters
    ----------
    run, data : Run, Dataset
    epochs : int, optional
        Before the first round guided by retrieval; by default a million images' worth, 10 at least and 40 at most.
    rounds, neighbours, seed, verbose
        As in :func:`training.fit_contrastive`; fewer neighbours where the database is small.
    dimensions : int
        Of the diffusion map, fewer where the database is small.
    edge_weight : float
        Of HOG beside the network's codes in the graph.

    Returns
    -------
    training.ContrastiveHistory
    """
    from cbir_utils.methods.contrastive import build_contrastive, fit_contrastive
    from cbir_utils.methods.views import Augmentation
    from cbir_utils.training import encode

    images, queries, count = data.database.images, data.queries.images, len(data.database)
    neighbours, dimensions = min(neighbours, count - 1), min(dimensions, count - 2)
    if dimensions < 1:
        raise ValueError(f"{data.name} has {count} images; a graph of neighbours needs three or more")
    model = build_contrastive(images.shape[1:], seed=seed)
    history = fit_contrastive(
        model, images, epochs=epochs or int(np.clip(1_000_000 // count, 10, 40)), rounds=rounds, neighbours=neighbours,
        batch_size=256 if count > 20_000 else 128, augment=Augmentation(seed, light=data.light), seed=seed,
        verbose=verbose,
    )  # fmt: skip
    for name in ("encoder", "autoencoder"):
        with run.writing(f"contrastive/{name}.keras") as path:
            getattr(model, name).save(path)
    edges = descriptors.Projection.fit(descriptors.oriented_gradients(images), 64, seed=seed)
    with run.writing("joint/edges.npz") as path:
        edges.save(path)
    run.record(edge_weight=edge_weight)

    plain = [encode(model.encoder, split) for split in (images, queries)]
    joint = [
        fuse(codes, edges(descriptors.oriented_gradients(split)), edge_weight)
        for codes, split in zip(plain, (images, queries), strict=True)
    ]
    manifold = DiffusionMap.fit(joint[0], k=neighbours, dimensions=dimensions, seed=seed)
    with run.writing("manifold/diffusion_map.npz") as path:
        manifold.save(path)
    mapped = [manifold.codes, manifold.embed(joint[1], exclude_self=data.own_rows)]
    fused = [fuse(*parts) for parts in zip(mapped, joint, strict=True)]
    for method, codes in {"contrastive": plain, "joint": joint, "manifold": mapped, "fused": fused}.items():
        run.save_codes(method, *codes, encoder="contrastive/encoder.keras")
    return history


# -- images added later ---------------------------------------------------------------------------------------------


def add_images(run, data, images, ids):
    """Encode images by every method of a run and add them to what is searched; nothing is trained anew.

    Parameters
    ----------
    run, data : Run, Dataset
    images : ndarray
        ``(M, H, W, C)`` uint8, of the database's form.
    ids : sequence of str
        Their names. Those that the run has already are passed over, so that adding twice adds once.

    Returns
    -------
    list of str
        The names that were added. They are saved as one file, ``added/NNNN.npz``: all of them or none.
    """
    images, shape = np.asarray(images), data.database.images.shape[1:]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        raise ValueError(f"images must be uint8 (M, {', '.join(map(str, shape))}), not {images.dtype} {images.shape}")
    known = {*(data.ids or ())}
    for name in _batches(run):
        known.update(map(str, _load_batch(run, name, shape)["ids"]))
    new = [row for row, name in enumerate(ids) if name not in known]
    if not new:
        return []
    images, ids = images[new], [ids[row] for row in new]
    methods = [method for method in available_methods(run) if method != "pixels"]
    codes = {f"codes_{method}": load_encoder(run, method)(images) for method in methods}
    origins = {method: run.manifest["codes"][method] for method in methods}
    number = 1 + max((int(PurePosixPath(name).stem) for name in _batches(run)), default=0)
    with run.writing(f"added/{number:04d}.npz") as partial_path:
        np.savez(partial_path, images=images, ids=np.array(ids), origins=np.array(json.dumps(origins)), **codes)
    return ids


def _batches(run):
    """The artifacts that hold added images, in the order of adding; a batch whose file was deleted is none."""
    files = run.manifest.get("files", {})
    return sorted(name for name in files if name.startswith("added/") and run.path(name).exists())


def _load_batch(run, name, shape):
    """One batch of added images of ``shape`` ``(H, W, C)``, ``{name: array}``, after checking its hash."""
    with np.load(run.checked_path(name), allow_pickle=False) as arrays:
        batch = dict(arrays)
    if batch["images"].shape[1:] != shape:
        raise ArtifactError(
            f"{run.path(name)} holds images of {batch['images'].shape[1:]}, and the run's are of {shape} now; "
            "delete it and add the images again"
        )
    return batch


def _joined(parts):
    """Arrays one under another; a single one is not copied, so that a memory-mapped file stays on disk."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
