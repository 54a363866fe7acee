"""From an image to its nearest images: the methods of a finished run behind one interface.

Each becomes a :class:`Retriever`, which encodes any image as the method encoded its database, and searches. Images
that were added later (:mod:`cbir_utils.retrieval.library`) are searched too.
"""

import json
from functools import cached_property, partial

import numpy as np

from cbir_utils.datasets import is_light, load_dataset
from cbir_utils.index import Index
from cbir_utils.methods import descriptors
from cbir_utils.methods.manifold import DiffusionMap, fuse
from cbir_utils.store import ArtifactError

#: What each method needs besides its codes, best method first (by mAP on MNIST). A method without a network of its own
#: uses another's.
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
    files, codes = manifest.get("files", {}), manifest.get("codes", {})

    def is_there(method):
        current = method in codes and codes[method]["content_hash"] == manifest.get("content_hash")
        return method == "pixels" or (current and all(name in files for name in NEEDS[method]))

    return tuple(filter(is_there, NEEDS))


def run_data(run):
    """The dataset that a run was made from: its packed folder of images, or else the source that its manifest names."""
    known = run.manifest
    if not known:
        raise ArtifactError(f"{run.folder} holds no run; make one with {run.remedy('manifest.json')}")
    if run.path("dataset/dataset.json").is_file():
        data = load_dataset(run.path("dataset"))
    else:
        seed = known.get("parameters", {}).get("01_load_dataset", {}).get("seed", 0)
        options = {name: known[name] for name in ("size", "labels") if known.get(name)}
        data = load_dataset(known.get("source", run.dataset), seed=seed, **options)
    run.same_data(data.content_hash)
    return data


def fit_query(image, data):
    """An image ``(H, W, C)`` uint8 on the database's ground: a grey one on the other ground becomes its negative.

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
    from cbir_utils.methods.steps import join

    edges = descriptors.Projection.load(run.checked_path("joint/edges.npz"))
    weight = run.manifest["edge_weight"]

    def joint(images):
        return join(images, network(images), edges, weight)

    if method == "joint":
        return joint
    manifold = DiffusionMap.load(run.checked_path("manifold/diffusion_map.npz"), run.load_codes("joint")[0])

    def mapped(images):
        codes = joint(images)
        place = manifold.embed(codes)
        return place if method == "manifold" else fuse(place, codes)

    return mapped


class Retriever:
    """Finds the images of a run's database that are nearest to any image, by one of the run's methods.

    ``data`` is what the run was made from (:func:`run_data`), ``method`` one of :func:`available_methods`, by default
    the first, and ``metric`` is cosine, euclidean or manhattan. Raises :class:`ArtifactError` if the run lacks the
    method's files, or was made from other data.

    ``images`` are ``(N, H, W, C)`` uint8: the database, then what was added later. ``ids`` are their names: relative
    paths for a folder of images, row numbers otherwise. ``codes`` are ``(N, D)`` float32. ``encoder_hash`` is the
    SHA-256 of the encoder's file, ``None`` where nothing was trained.
    """

    def __init__(self, run, data, method=None, metric="cosine"):
        batches = added_batches(run, data)
        self.run, self.data = run, data
        self.method, self.metric = method or available_methods(run)[0], metric
        self.shape = data.database.images.shape[1:]
        self.encode = load_encoder(run, self.method)
        self.encoder_hash = None
        if self.method == "pixels":
            codes = self.encode(data.database.images)
        else:
            codes = run.load_codes(self.method)[0]
            self.encoder_hash = run.manifest["codes"][self.method]["encoder_hash"]
        ids = data.ids or map(str, range(len(data.database)))
        self.ids = (*ids, *(str(name) for batch in batches for name in batch["ids"]))
        self.images = _joined([data.database.images, *(batch["images"] for batch in batches)])
        self.codes = _joined([codes, *(self._codes_of(batch) for batch in batches)])
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
        if self.method != "pixels" and self.method not in NETWORK:
            return None
        encode, decode = self._encode_and_decode
        ends = encode(np.stack([first, second]))
        share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
        return decode((1 - share) * ends[0] + share * ends[1])

    @cached_property
    def _encode_and_decode(self):
        if self.method == "pixels":
            return self.encode, lambda codes: codes.reshape(-1, *self.shape)
        from cbir_utils.training import decode, load_model

        network = NETWORK[self.method]
        autoencoder = load_model(self.run.checked_path(f"{network}/autoencoder.keras"))
        return load_encoder(self.run, network), partial(decode, autoencoder.get_layer("decoder"))

    def _codes_of(self, batch):
        """The codes of images added later: those kept with them, unless the encoder has been trained anew since."""
        origin = self.run.manifest.get("codes", {}).get(self.method)
        if origin is not None and json.loads(str(batch["origins"])).get(self.method) == origin:
            return batch[f"codes_{self.method}"]
        return self.encode(batch["images"])


def added_batches(run, data):
    """The images added to a run, without those that are in its folder by now: a list of ``{name: array}``.

    Each holds ``ids (M,)``, ``images (M, H, W, C)`` uint8, ``codes_<method> (M, D)`` float32, and as JSON, in
    ``origins``, what the manifest said of these codes. Raises :class:`ArtifactError` for a damaged batch, and if the
    run was made from other data: what was added to one folder is never found in another of the same name.
    """
    if run.manifest:
        run.same_data(data.content_hash)
    batches, shape, known = [], data.database.images.shape[1:], set(data.ids or ())
    names = sorted(name for name in run.manifest.get("files", {}) if name.startswith("added/"))
    for name in filter(lambda name: run.path(name).exists(), names):  # a batch whose file was deleted is none
        with np.load(run.checked_path(name), allow_pickle=False) as file:
            batch = dict(file)
        if (other := batch["images"].shape[1:]) != shape:
            raise ArtifactError(
                f"{run.path(name)} holds images of {other}, not of {shape}; delete it and add them again"
            )
        new = [row for row, image_id in enumerate(batch["ids"]) if image_id not in known]
        if new:
            batches.append({key: array[new] if array.ndim else array for key, array in batch.items()})
    return batches


def _joined(parts):
    """Arrays one under another; a single one is not copied, so that a memory-mapped file stays on disk."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
