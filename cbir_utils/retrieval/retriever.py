"""From an image to its nearest images: the methods of a finished run behind one interface.

Each becomes a :class:`Retriever`, which encodes any image as the method encoded its database, and searches. Images
that were added later (:mod:`cbir_utils.retrieval.library`) are searched too.
"""

import json
from functools import cached_property, partial

import numpy as np

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.codes import checked_k, unit_length
from cbir_utils.datasets import is_light, load_dataset, scale
from cbir_utils.index import Hits, Index
from cbir_utils.methods import descriptors
from cbir_utils.methods.words import VisualWords
from cbir_utils.retrieval.fusion import Fusion
from cbir_utils.retrieval.notes import library

#: What the network's codes beside HOG, and their map, need.
FUSION = ("taught/encoder.keras", "joint/edges.npz", "manifold/diffusion_map.npz")

#: What each method needs besides its codes, best method first: what the user named, then what was made for photographs,
#: then by mAP on MNIST. A method without a network of its own uses another's.
NEEDS = {
    "pretrained": ("pretrained/encoder.keras",),
    "photo": ("photo/words.npz", "photo/projection.npz"),
    "matched": FUSION,
    "fused": FUSION,
    "manifold": FUSION,
    "taught": ("taught/encoder.keras",),
    "joint": ("taught/encoder.keras", "joint/edges.npz"),
    "distortion": (),
    "hog": (),
    "denoising": ("denoising/encoder.keras",),
    "convolutional": ("convolutional/encoder.keras",),
    "pca": ("pca/projection.npz",),
    "undercomplete": ("undercomplete/encoder.keras",),
    "deep": ("deep/encoder.keras",),
    "sparse": ("sparse/encoder.keras",),
    "variational": ("variational/encoder.keras",),
    "contractive": ("contractive/encoder.keras",),
    "colour": (),
    "texture": (),
    "pixels": (),
}

#: Methods that learn nothing: they search any run, whatever it keeps. ``distortion`` looks at HOG's candidates twice.
UNTAUGHT = {
    "distortion": descriptors.oriented_gradients,
    "hog": descriptors.oriented_gradients,
    "colour": descriptors.colour,
    "texture": descriptors.texture,
    "pixels": descriptors.pixels,
}

#: What every table and page says beside a method that learned outside this repository.
ELSEWHERE = {"pretrained": "pretrained elsewhere, with labels"}

#: The network that a method's codes come from, for the methods that have one.
NETWORK = {method: needs[0].split("/")[0] for method, needs in NEEDS.items() if needs and "encoder" in needs[0]}


def available_methods(run):
    """The methods whose artifacts the run holds, and those of :data:`UNTAUGHT`, which need none; best first.

    Codes of other data than the run has now (a folder that has changed since) do not count.
    """
    manifest = run.manifest
    files, codes = manifest.get("files", {}), manifest.get("codes", {})

    def is_there(method):
        current = method in codes and codes[method]["content_hash"] == manifest.get("content_hash")
        return method in UNTAUGHT or (current and all(name in files for name in NEEDS[method]))

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


def load_encoder(run, method, data):
    """The function that turns images ``(Q, H, W, C)`` uint8 into a method's codes ``(Q, D)`` float32.

    ``data`` is what the run was made from. Raises :class:`ArtifactError`, with the command that helps, for an unknown
    method or missing artifacts.
    """
    if method not in NEEDS:
        raise ArtifactError(f"there is no method {method!r}; {run.folder} has {', '.join(available_methods(run))}")
    if method in UNTAUGHT:
        return UNTAUGHT[method]
    if method == "pca":
        directions = descriptors.Projection.load(run.checked_path("pca/projection.npz"))
        return lambda images: directions(descriptors.pixels(images))
    if method == "photo":
        words = VisualWords.load(run.checked_path("photo/words.npz"))
        shares = descriptors.Projection.load(run.checked_path("photo/projection.npz"))
        return lambda images: shares(words(images))
    if NETWORK[method] == method:
        from cbir_utils.training import encode, load_model  # only here: Keras takes seconds to load

        return partial(encode, load_model(run.checked_path(f"{method}/encoder.keras")))
    fusion = Fusion(run, data, load_encoder(run, "taught", data))
    if method == "joint":
        return fusion.joint
    return lambda images: getattr(fusion.look(images), "mapped" if method == "manifold" else "fused")


class Retriever:
    """Finds the images of a run's database that are nearest to any image, by one of the run's methods.

    ``data`` is what the run was made from (:func:`run_data`), ``method`` one of :func:`available_methods`, by default
    the first, and ``metric`` is cosine, euclidean or manhattan. Raises :class:`ArtifactError` if the run lacks the
    method's files, or was made from other data.

    ``images`` are ``(N, H, W, C)`` uint8: the database, then what was added later. ``ids`` are their names: relative
    paths for a folder of images, row numbers otherwise; the rows ``gone`` are never found. ``codes`` are ``(N, D)``
    float32. ``encoder_hash`` is the SHA-256 of the encoder's file, ``None`` where nothing was trained.
    """

    def __init__(self, run, data, method=None, metric="cosine"):
        batches = added_batches(run, data)
        self.run, self.data = run, data
        self.method, self.metric = method or available_methods(run)[0], metric
        self.shape = data.database.images.shape[1:]
        if self.method == "matched":
            self._fusion = Fusion(run, data, load_encoder(run, "taught", data))
            self.encode = lambda images: self._fusion.look(images).fused
        else:
            self.encode = load_encoder(run, self.method, data)
        self.encoder_hash = None
        if self.method in UNTAUGHT:
            codes = self.encode(data.database.images)
        else:
            codes = run.load_codes(self.method)[0]
            self.encoder_hash = run.manifest["codes"][self.method]["encoder_hash"]
        ids = data.ids or map(str, range(len(data.database)))
        ids = (*ids, *(str(name) for batch in batches for name in batch["ids"]))
        noted, last = library(run), {name: row for row, name in enumerate(ids)}
        # A changed file was added under its own id: the row before counts no more.
        self.gone = np.array([row for row, i in enumerate(ids) if last[i] != row or i in noted["gone"]], int)
        self.ids = tuple(noted["renamed"].get(name, name) for name in ids)
        self.images = _joined([data.database.images, *(batch["images"] for batch in batches)])
        self.codes = _joined([codes, *(self._codes_of(batch) for batch in batches)])
        self._index = Index(metric, encoder_hash=self.encoder_hash).add(self.codes)
        self._candidates = None  # what is looked at twice
        if self.method == "matched":
            self._candidates = self._fusion.search if not batches else self._search_of_all(batches)
        elif self.method == "distortion":
            from cbir_utils.methods.distortion import MatchedSearch  # only here: Numba takes a second to load

            self._candidates = MatchedSearch(self.codes, self.images)

    def __len__(self):
        """How many images are searched: those removed are not."""
        return len(self.ids) - len(self.gone)

    def search(self, images, k, *, exclude_self=None):
        """The ``k`` nearest database images of each of ``images`` ``(Q, H, W, C)`` uint8: :class:`index.Hits`.

        ``exclude_self`` gives the row of each query, for queries that are in the database. By ``matched``, the nearest
        by joint code come first, in order of their distortion and their place on the map (``distortion.blend``); by
        ``distortion`` the nearest by HOG, in order of their distortion. The others follow by code.
        """
        k = checked_k(k, len(self), exclude_self is not None)
        return _without(self.gone, self._search(images, k + len(self.gone), exclude_self), k)

    def search_like(self, images, k, *, unlike=(), exclude=()):
        """The ``k`` images nearest to the mean code of some images, less half the mean code of others: ``(1, k)`` hits.

        Relevance feedback by Rocchio (1971). ``images`` and ``unlike`` are ``(Q, H, W, C)`` uint8; the rows ``exclude``
        are no hits.
        """
        left_out = np.union1d(self.gone, exclude)
        k = checked_k(k, len(self.ids) - len(left_out))
        code = self._mean_code(images) - (self._mean_code(unlike) / 2 if len(unlike) else 0)
        return _without(left_out, self._index.search(code[None], k + len(left_out)), k)

    def _mean_code(self, images):
        codes = self.encode(np.stack(images))
        return (unit_length(codes) if self.metric == "cosine" else codes).mean(axis=0)

    def _search(self, images, k, exclude_self):
        if self._candidates is None:
            return self._index.search(self.encode(images), k, exclude_self=exclude_self)
        if self.method == "distortion":
            codes = self.encode(images)
            hits = self._candidates.search(codes, images, exclude_self=exclude_self)
            return self._with_others(hits, codes, k, exclude_self)
        from cbir_utils.methods.distortion import blend  # only here: Numba takes a second to load

        look = self._fusion.look(images)
        hits, length = look.hits, look.mapped.shape[1]
        if exclude_self is not None or self._candidates is not self._fusion.search:
            hits = self._candidates.search(look.joint, images, exclude_self=exclude_self)
        hits = blend(hits, look.mapped, self.codes[:, :length])
        return self._with_others(hits, look.fused, k, exclude_self)

    def _with_others(self, hits, codes, k, exclude_self):
        """The first ``k`` of hits that were looked at twice; where there are fewer, the others follow by code."""
        if k > hits.ids.shape[1]:
            hits = followed(hits, self._index.search(codes, k, exclude_self=exclude_self))
        return Hits(hits.distances[:, :k], hits.ids[:, :k])

    def between(self, first, second, steps=7):
        """Images decoded on the way from one image's code to another's: ``(steps, H, W, C)`` float32 in [0, 1].

        Where a method's own codes cannot be decoded, the way leads through those of the network that it builds on;
        ``None`` if there is none.
        """
        if self.method == "pixels":
            share = np.linspace(0, 1, steps, dtype=np.float32)[:, None, None, None]
            return (1 - share) * scale(first) + share * scale(second)
        if self.method in ELSEWHERE or self.method not in NETWORK:
            return None
        encode, decode = self._encode_and_decode
        ends = encode(np.stack([first, second]))
        share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
        return decode((1 - share) * ends[0] + share * ends[1])

    @cached_property
    def decoding_error(self):
        """The decoder's mean squared error, and that of the mean image, on some images evenly spread: two floats.

        Pixels are in [0, 1]. Only for methods that :meth:`between` decodes by a network.
        """
        rows = np.unique(np.linspace(0, len(self.images) - 1, 200).astype(int))
        images = np.stack([self.images[row] for row in rows])
        encode, decode = self._encode_and_decode
        decoded, images = decode(encode(images)), scale(images)
        return float(np.square(decoded - images).mean()), float(np.square(images.mean(axis=0) - images).mean())

    @cached_property
    def _encode_and_decode(self):
        from cbir_utils.training import decode, load_model

        network = NETWORK[self.method]
        autoencoder = load_model(self.run.checked_path(f"{network}/autoencoder.keras"))
        return load_encoder(self.run, network, self.data), partial(decode, autoencoder.get_layer("decoder"))

    def _codes_of(self, batch):
        """The codes of images added later: those kept with them, unless the encoder has been trained anew since."""
        origin = self.run.manifest.get("codes", {}).get(self.method)
        if origin is not None and json.loads(str(batch["origins"])).get(self.method) == origin:
            return batch[f"codes_{self.method}"]
        return self.encode(batch["images"])

    def _search_of_all(self, batches):
        """The :class:`MatchedSearch` of the database and the images added later."""
        from cbir_utils.methods.distortion import MatchedSearch

        added = [self._fusion.joint(batch["images"]) for batch in batches]
        return MatchedSearch(_joined([self.run.load_codes("joint")[0], *added]), self.images)


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
        if not {"ids", "images", "origins"} <= batch.keys():
            raise ArtifactError(f"{run.path(name)} is no batch of images; delete it and add its images again")
        if (other := batch["images"].shape[1:]) != shape:
            raise ArtifactError(
                f"{run.path(name)} holds images of {other}, not of {shape}; delete it and add them again"
            )
        if any(len(array) != len(batch["ids"]) for array in batch.values() if array.ndim):
            raise ArtifactError(
                f"{run.path(name)} is damaged: its parts do not fit; delete it and add its images again"
            )
        changed = str(batch.get("replaces", "")) == data.content_hash  # these stand for the folder's of the same names
        new = [row for row, image_id in enumerate(batch["ids"]) if changed or image_id not in known]
        if new:
            batches.append({key: array[new] if array.ndim else array for key, array in batch.items()})
    return batches


def followed(first, later):
    """Hits ``(Q, K)``, and behind them those of ``later`` ``(Q, L)`` that are not among them, up to L in all.

    >>> first = Hits(np.array([[0.5]]), np.array([[7]]))
    >>> followed(first, Hits(np.array([[0.0, 0.25, 1.0]]), np.array([[3, 7, 4]])))
    Hits(distances=array([[0.5, 0.5, 1.5]]), ids=array([[7, 3, 4]]))
    """
    new = (later.ids[:, :, None] != first.ids[:, None, :]).all(axis=2)
    order = np.argsort(~new, axis=1, kind="stable")[:, : later.ids.shape[1] - first.ids.shape[1]]
    rest = Hits(*(np.take_along_axis(part, order, axis=1) for part in later))
    distances = first.distances[:, -1:] + rest.distances
    return Hits(np.hstack([first.distances, distances]), np.hstack([first.ids, rest.ids]))


def _without(rows, hits, k):
    """The first ``k`` hits of each query that are not among ``rows``."""
    order = np.argsort(np.isin(hits.ids, rows), axis=1, kind="stable")[:, :k]
    return Hits(*(np.take_along_axis(part, order, axis=1) for part in hits))


def _joined(parts):
    """Arrays one under another; a single one is not copied, so that a memory-mapped file stays on disk."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
