"""Images to search: bundled digits, MNIST and its family of IDX files, folders of images, and drawn shapes.

Every source gives the same thing, a :class:`Dataset`: a *database* (the images searched) and *queries*, as ``uint8``
images, with labels that only the evaluation may look at.
"""

import gzip
import hashlib
import http.client
import os
import re
import urllib.request
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cbir_utils.run import atomic_path

#: The sources that :func:`load_dataset` knows by name.
SOURCES = ("digits", "mnist", "fashion_mnist", "shapes")

DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

#: SHA-256 of MNIST's four arrays (raw bytes, original order): what makes a file "MNIST" whatever its format.
MNIST_SHA256 = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}

#: Where Keras downloads its datasets from; they are kept in Keras's own cache, so either finds the other's.
KERAS_ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

#: SHA-256 of the files as Keras downloads them (for MNIST: keras/src/datasets/mnist.py; for Fashion-MNIST MD5, as
#: its authors publish it: github.com/zalandoresearch/fashion-mnist).
DOWNLOADS = {
    "mnist": {"mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}

#: IDX's element types: the third byte of the file (yann.lecun.com/exdb/mnist, "the IDX file format").
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class DatasetError(ValueError):
    """A dataset is missing, damaged or not what it says; the message names the file and what to do."""


@dataclass(frozen=True)
class Split:
    """Images ``(N, H, W, C)`` uint8 and their labels ``(N,)`` int64, or ``None`` where there are none."""

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self):
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A database to search and the queries to search it with.

    ``class_names[label]`` names a class. Two runs with the same ``content_hash`` saw the same data: it is a SHA-256
    over all four arrays, their shapes and dtypes; for a folder of images, over the database's images and their ids.

    ``ids`` names the images of the database (of a folder: their relative paths), ``None`` where they have no names.
    ``own_rows`` is ``(Q,)`` int64, each query's row in the database, which the evaluation leaves out; ``None`` where
    no query is in the database. ``rejects`` are the files of a folder that could not be read, as pairs
    ``(id, reason)``.
    """

    name: str
    database: Split
    queries: Split
    class_names: tuple[str, ...]
    content_hash: str
    ids: tuple[str, ...] | None = None
    own_rows: np.ndarray | None = None
    rejects: tuple[tuple[str, str], ...] = ()

    @cached_property
    def light(self):
        """Whether the database's images have a light background (:func:`is_light` of the first 2,000)."""
        return is_light(self.database.images[:2000])


def load_dataset(source, *, path=None, seed=0, size=None, labels=False):
    """Load a dataset by name, or a folder of IDX files or of images by its path.

    In a folder of images every image is in the database, and the queries are the same images: all of them, or 10,000
    chosen by the SHA-256 of their ids. :mod:`cbir_utils.folders` says which files are read and how they are fitted to
    one size. The folder may also be one that :func:`~cbir_utils.folders.folder.pack_folder` made.

    Parameters
    ----------
    source : str or Path
        ``"digits"`` (bundled with scikit-learn), ``"mnist"``, ``"fashion_mnist"``, ``"shapes"`` (drawn), or a folder:
        with IDX files of the MNIST family, plain or gzipped (``*train*-images-*`` and so on), or else with images,
        also in subfolders. A text that is a dataset's name always means the dataset; a ``Path`` means the folder where
        there is one. IDX images are taken as stored (EMNIST's are transposed there).
    path : str or Path, optional
        For ``mnist`` the ``.npz`` file, for it and ``fashion_mnist`` the folder of IDX files; no other place is
        looked at then.
    seed : int
        For ``shapes``: the seed they are drawn from.
    size : int, optional
        For a folder of images: the side of the squares they are fitted to; by default 28 for grey, 32 for colour.
    labels : bool
        For a folder of images: whether the folder that an image lies in names its class (``"."`` for the folder
        itself). By default there are no labels.

    Returns
    -------
    Dataset
        Images ``uint8 (N, H, W, C)`` in 0–255, labels int64 ``(N,)`` or ``None``.

    Raises
    ------
    DatasetError
        If the data cannot be found, are damaged, or are not what the name says. A dataset that is missing is never
        replaced by another.

    Examples
    --------
    >>> load_dataset("shapes").database.images.shape
    (600, 28, 14, 1)
    """
    kind, name = folder_kind(source), str(source)
    if kind != "images" and (size is not None or labels):
        raise DatasetError(f"size and labels are for a folder of images, and {source} is not one; leave them out")
    if kind == "idx":
        return _make_dataset(dataset_name(source), *_read_idx_folder(source))
    if kind:
        from cbir_utils.folders.folder import folder_dataset, load_packed

        return load_packed(source) if kind == "packed" else folder_dataset(source, size=size, labels=labels)
    if name not in SOURCES:
        raise DatasetError(
            f"there is no dataset {name!r}: choose one of {', '.join(SOURCES)}, or give a folder of IDX files or images"
        )
    if name == "digits":
        return _digits()
    return _shapes(seed) if name == "shapes" else _mnist_like(name, path)


def folder_kind(source):
    """What kind of folder a source is: ``"packed"``, ``"idx"``, ``"images"``, or ``None`` for a dataset's name.

    ``None`` is also for what is no folder. A text that is a dataset's name is never a folder; a ``Path`` is one if it
    is there.

    >>> folder_kind("digits") is None
    True
    """
    if source in SOURCES or not Path(source).is_dir():
        return None
    folder = Path(source)
    note = folder / "dataset.json"
    # A folder of somebody's images may hold a dataset.json of its own.
    if note.is_file() and ((folder / "images.npy").exists() or b'"content_hash"' in note.read_bytes()):
        return "packed"
    return "idx" if any(re.search("(images|labels)-idx", path.name) for path in folder.iterdir()) else "images"


def dataset_name(folder):
    """A folder's name, which is that of its dataset and its run."""
    name = Path(folder).resolve().name
    if name in SOURCES:
        raise DatasetError(f"{folder}: a folder may not be named like a dataset ({', '.join(SOURCES)}); rename it")
    return name


def is_light(images):
    """Whether the background of images ``(N, H, W, C)`` is light: the median of their outermost pixels is over 127.

    >>> is_light(np.full((2, 4, 4, 1), 200, np.uint8))
    True
    """
    edges = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    return bool(np.median(np.concatenate([edge.ravel() for edge in edges])) > 127)


def scale(images):
    """Images as networks take them: float32 in [0, 1], from uint8 in 0–255; any shape.

    >>> scale(np.uint8([0, 51, 255])).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    return np.asarray(images, dtype=np.float32) / np.float32(255)


def _make_dataset(name, x_database, y_database, x_queries, y_queries, class_names=None):
    """Bring four arrays into the common form; ``None`` stands for missing labels."""
    digest = hashlib.sha256()
    splits = []
    for images, labels in ((x_database, y_database), (x_queries, y_queries)):
        images = np.ascontiguousarray(images, dtype=np.uint8)
        images = images[..., None] if images.ndim == 3 else images
        labels = None if labels is None else np.ascontiguousarray(labels, dtype=np.int64)
        splits.append(Split(images, labels))
        for array in (images, labels):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(array.data)
    if class_names is None:
        highest = max((int(s.labels.max()) for s in splits if s.labels is not None), default=-1)
        class_names = [str(c) for c in range(highest + 1)]
    return Dataset(name, *splits, tuple(class_names), digest.hexdigest())


# -- bundled digits -----------------------------------------------------------------------------------------


def _digits():
    """scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), 8×8 in 0–16, brought to 28×28.

    As in MNIST, a digit fills 20×20 pixels and four black ones frame it. The frame matters: without it the
    images hold so little black that the paper's collapse does not show. The first 1,437 are the database, the
    last 360 the queries.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(i).resize((20, 20), Image.Resampling.BICUBIC)) for i in small])
    images = np.pad(large, ((0, 0), (4, 4), (4, 4)))
    n = 1437
    return _make_dataset("digits", images[:n], bunch.target[:n], images[n:], bunch.target[n:], DIGIT_NAMES)


# -- MNIST and Fashion-MNIST ----------------------------------------------------------------------------------


def _mnist_like(name, path):
    """MNIST or Fashion-MNIST from ``path``, or else from ``$CBIR_DATA_HOME``, Keras's cache or Keras's server."""
    places = [Path(path)] if path else []
    if not path and (home := os.environ.get("CBIR_DATA_HOME")):
        # MNIST's IDX files may lie there directly; Fashion-MNIST's have the same names, so they need a folder.
        home = Path(home)
        places = [home / "mnist.npz", home, home / "mnist"] if name == "mnist" else [home / "fashion_mnist"]
    for place in places:
        if (place.is_file() and name == "mnist") or (place.is_dir() and _idx_file(place, "train", "images")):
            return _verified(name, place)
    if path:
        raise DatasetError(f"{path}: there is no mnist.npz and no folder with IDX files of {name}; check the path")
    return _verified(name, _download(name, places))


def _download(name, places):
    """Fetch what is missing of a dataset from Keras's server into Keras's cache; returns where it lies there.

    Done here in a few lines, not through ``keras.utils.get_file``, because importing Keras loads TensorFlow.
    """
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"
    cache = cache if name == "mnist" else cache / "fashion-mnist"
    try:
        for file, want in DOWNLOADS[name].items():
            if (cache / file).exists():
                continue
            with urllib.request.urlopen(KERAS_ORIGIN + file, timeout=20) as response:
                data = response.read()
            if hashlib.new("sha256" if len(want) == 64 else "md5", data).hexdigest() != want:
                raise DatasetError(f"{KERAS_ORIGIN}{file} answered with another file (not {want}); try another network")
            with atomic_path(cache / file) as partial:
                partial.write_bytes(data)
    except (OSError, http.client.HTTPException) as error:  # no name, no route, a time-out, a broken transfer
        raise DatasetError(
            f"{name} is not on this machine and cannot be downloaded ({getattr(error, 'reason', error)}). Put "
            f"{', '.join(DOWNLOADS[name])} into one of: {'; '.join(map(str, [*places, cache]))} (the environment "
            "variable CBIR_DATA_HOME names a folder of your own), or run with --dataset digits"
        ) from error
    return cache / "mnist.npz" if name == "mnist" else cache


def _verified(name, place):
    """The dataset in a ``.npz`` file or a folder of IDX files, after making sure that it is what it is called."""
    if name == "fashion_mnist":
        for file, want in DOWNLOADS[name].items():
            path = place / file
            if not path.is_file() or hashlib.md5(path.read_bytes()).hexdigest() != want:
                raise DatasetError(f"{path} is missing or not Fashion-MNIST's (MD5 {want}); fetch it again")
        return _make_dataset(name, *_read_idx_folder(place), FASHION_NAMES)
    arrays = _read_npz(place) if place.is_file() else _read_idx_folder(place)
    for (key, want), array in zip(MNIST_SHA256.items(), arrays, strict=True):
        right_form = array is not None and array.ndim == (3 if key.startswith("x") else 1)
        if not right_form or hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() != want:
            raise DatasetError(
                f"{place}: {key} is not MNIST's (SHA-256 {want}); fetch it again, or run with --dataset digits"
            )
    return _make_dataset(name, *arrays, DIGIT_NAMES)


def _read_npz(path):
    """The four arrays of a Keras-style ``.npz`` file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays[key] for key in MNIST_SHA256)
    except Exception as error:  # a damaged zip surfaces as one of six exceptions of three libraries
        raise DatasetError(
            f"{path} cannot be read as an .npz file with {', '.join(MNIST_SHA256)} ({error}); fetch it again, or run "
            "with --dataset digits"
        ) from error


# -- IDX files ------------------------------------------------------------------------------------------------


def read_idx(path):
    """Read one IDX file, plain or gzipped (by its ``.gz`` ending), into an array of the shape its header gives.

    Raises :class:`DatasetError` if there is no such file, for a wrong magic number, and for damaged, missing or
    surplus data.
    """
    path = Path(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = file.read()
        if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or data[3] == 0:
            raise ValueError(f"wrong magic number {data[:4].hex() or '(empty file)'}")
        dtype, ndim = np.dtype(IDX_TYPES[data[2]]), data[3]
        shape = np.frombuffer(data, ">u4", ndim, offset=4).tolist()
        array = np.frombuffer(data, dtype, offset=4 + 4 * ndim).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read as an IDX file ({error}); fetch it again") from error
    return array.astype(dtype.newbyteorder("="))


def _idx_file(folder, split, what):
    """The one file of ``folder`` with the images or labels of a split, or ``None``."""
    words = ("train",) if split == "train" else ("t10k", "test")
    found = sorted(
        p for p in Path(folder).iterdir() if f"{what}-idx" in p.name and any(w in p.name.lower() for w in words)
    )
    if len(found) > 1:
        raise DatasetError(f"{folder}: {' and '.join(p.name for p in found)} could be the {split} {what}; keep one")
    return found[0] if found else None


def _read_idx_folder(folder):
    """The four arrays of a folder in MNIST's layout; labels are ``None`` where their file is missing."""
    arrays = []
    for split, stem in (("train", "train"), ("test", "t10k")):
        path, labels_path = _idx_file(folder, split, "images"), _idx_file(folder, split, "labels")
        if path is None:
            raise DatasetError(f"{folder}: there are no {split} images; add {stem}-images-idx3-ubyte.gz")
        images, labels = read_idx(path), None if labels_path is None else read_idx(labels_path)
        if images.ndim not in (3, 4) or images.dtype != np.uint8 or not images.size:
            raise DatasetError(f"{path}: images must be uint8 (N, H, W), but this holds {images.dtype} {images.shape}")
        if labels is not None and len(labels) != len(images):
            raise DatasetError(
                f"{path} has {len(images)} images, but {labels_path.name} has {len(labels)} labels; take both from one "
                "download"
            )
        # QMNIST's labels have the class and seven more columns.
        arrays += [images, labels[:, 0] if labels is not None and labels.ndim == 2 else labels]
    return arrays


# -- drawn shapes -----------------------------------------------------------------------------------------------


def _shapes(seed, n_database=600, n_queries=120, height=28, width=14):
    """Filled rectangles, squares and circles of random size, place and brightness (paper, section IV: 28 by 14)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_database + n_queries) % 3
    rng.shuffle(labels)
    rows, columns = np.mgrid[:height, :width] + 0.5
    images = np.empty((len(labels), height, width), np.uint8)
    for image, label in zip(images, labels, strict=True):
        half_width = rng.uniform(2.5, 5.5)
        # A rectangle is at least 1.4 times as tall as wide; a square and a circle are as tall as wide.
        half_height = half_width * rng.uniform(1.4, 2.2) if label == 0 else half_width
        y = rows - rng.uniform(half_height + 0.5, height - half_height - 0.5)
        x = columns - rng.uniform(half_width + 0.5, width - half_width - 0.5)
        if label == 2:
            inside = half_width - np.hypot(x, y)
        else:
            inside = np.minimum(half_width - abs(x), half_height - abs(y))
        # A pixel that the edge crosses is partly covered: brightness falls over the width of one pixel.
        image[:] = np.round(rng.uniform(150, 255) * np.clip(inside + 0.5, 0, 1))
    n, names = n_database, ("rectangle", "square", "circle")
    return _make_dataset("shapes", images[:n], labels[:n], images[n:], labels[n:], names)
