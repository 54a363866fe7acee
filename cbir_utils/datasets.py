"""Images to search: bundled digits, MNIST and its family of IDX files, folders of images, and drawn shapes.

Every source gives a :class:`Dataset`: a *database* to search, *queries*, and labels that only the evaluation may use.
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

SOURCES = ("digits", "mnist", "fashion_mnist", "shapes")
DIGIT_NAMES = "0123456789"
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

#: MNIST's content hash, whatever the format of its files (see :class:`Dataset`).
MNIST_SHA256 = "526a7da5e00568f43cde5a861d0182cc15664e8b5171c6f91b58ab6db17945a4"
#: From where Keras downloads its datasets. They are kept in Keras's own cache, so either finds the other's.
KERAS_ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
#: The files there: MNIST's SHA-256 (keras/src/datasets/mnist.py) and Fashion-MNIST's MD5, as its authors publish them.
DOWNLOADS = {
    "mnist": {"mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
#: Where they may lie in ``$CBIR_DATA_HOME``; Fashion-MNIST's files have the names of MNIST's, so they need a folder.
PLACES = {"mnist": ("mnist.npz", "", "mnist"), "fashion_mnist": ("fashion_mnist",)}
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

    ``content_hash`` is the same for the same data: a SHA-256 over all four arrays or, for a folder of images, over
    the database's images and their ids. ``ids`` are the relative paths of a folder's images. ``own_rows`` is ``(Q,)``
    int64: each query's row in the database, which the evaluation leaves out; ``None`` where no query is in the
    database. ``rejects`` are the files of a folder that could not be read, as pairs ``(id, reason)``.
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

    In a folder of images (see :mod:`cbir_utils.folders`) every image is in the database, and the same images are the
    queries: all of them, or 10,000 chosen by the SHA-256 of their ids.

    Parameters
    ----------
    source : str or Path
        ``"digits"`` (bundled with scikit-learn), ``"mnist"``, ``"fashion_mnist"``, ``"shapes"`` (drawn), or a folder
        of IDX files of the MNIST family (``*train*-images-idx*`` and so on, plain or gzipped), or of images, also in
        subfolders, or one that ``pack_folder`` made. A ``Path`` means a folder where there is one, a text never does
        if it names a dataset. IDX images are taken as stored (EMNIST's are transposed there).
    path : str or Path, optional
        MNIST's ``.npz`` file, or a folder of IDX files of MNIST or Fashion-MNIST; no other place is looked at then.
    seed : int
        For ``shapes``: the seed they are drawn from.
    size : int, optional
        For a folder of images: the side of the squares they are fitted to; by default 28 for grey, 32 for colour.
    labels : bool
        For a folder of images: whether an image's folder names its class (``"."`` for the folder itself).

    Raises
    ------
    DatasetError
        If the data are missing, damaged, or not what the name says; no other data take their place.

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
        raise DatasetError(f"there is no dataset {name!r}: choose one of {', '.join(SOURCES)}, or give a folder")
    if name in PLACES:
        return _mnist_like(name, path)
    return _digits() if name == "digits" else _shapes(seed)


def folder_kind(source):
    """The kind of folder that a source is: ``"packed"``, ``"idx"`` or ``"images"``; ``None`` if it is none.

    A text that names a dataset is no folder, though there may be one of that name; ``Path("digits")`` would be it.
    """
    if source in SOURCES or not Path(source).is_dir():
        return None
    note = Path(source, "dataset.json")  # a folder of somebody's images may hold one, too
    if note.is_file() and (Path(source, "images.npy").exists() or b'"content_hash"' in note.read_bytes()):
        return "packed"
    return "idx" if any(re.search("(images|labels)-idx", path.name) for path in Path(source).iterdir()) else "images"


def dataset_name(folder):
    """A folder's name, which is that of its dataset and its run."""
    if (name := Path(folder).resolve().name) in SOURCES:
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
    """A dataset of four arrays; ``None`` stands for missing labels."""
    digest, splits = hashlib.sha256(), []
    for images, labels in ((x_database, y_database), (x_queries, y_queries)):
        images = np.ascontiguousarray(images[..., None] if images.ndim == 3 else images, np.uint8)
        labels = None if labels is None else np.ascontiguousarray(labels, np.int64)
        splits.append(Split(images, labels))
        for array in (images, labels):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(array.data)
    if class_names is None:
        highest = max((int(s.labels.max()) for s in splits if s.labels is not None), default=-1)
        class_names = map(str, range(highest + 1))
    return Dataset(name, *splits, tuple(class_names), digest.hexdigest())


def _digits():
    """scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), 8×8 in 0–16, brought to 28×28.

    As in MNIST, a digit fills 20×20 pixels in a frame of four black ones; without the frame the paper's collapse does
    not show. The first 1,437 are the database, the last 360 the queries.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch, n = load_digits(), 1437
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(i).resize((20, 20), Image.Resampling.BICUBIC)) for i in small])
    images = np.pad(large, ((0, 0), (4, 4), (4, 4)))
    return _make_dataset("digits", images[:n], bunch.target[:n], images[n:], bunch.target[n:], DIGIT_NAMES)


def _shapes(seed):
    """Filled rectangles, squares and circles of random size, place and brightness (paper, section IV: 28 by 14)."""
    rng, n = np.random.default_rng(seed), 600
    labels = np.arange(720) % 3
    rng.shuffle(labels)
    rows, columns = np.mgrid[:28, :14] + 0.5
    images = np.empty((len(labels), 28, 14), np.uint8)
    for image, label in zip(images, labels, strict=True):
        half_width = rng.uniform(2.5, 5.5)
        # A rectangle is at least 1.4 times as tall as wide; a square and a circle are as tall as wide.
        half_height = half_width * rng.uniform(1.4, 2.2) if label == 0 else half_width
        y = rows - rng.uniform(half_height + 0.5, 28 - half_height - 0.5)
        x = columns - rng.uniform(half_width + 0.5, 14 - half_width - 0.5)
        box, circle = np.minimum(half_width - abs(x), half_height - abs(y)), half_width - np.hypot(x, y)
        # A pixel that the edge crosses is partly covered: brightness falls over the width of one pixel.
        covered = np.clip((circle if label == 2 else box) + 0.5, 0, 1)
        image[:] = np.round(rng.uniform(150, 255) * covered)
    return _make_dataset("shapes", images[:n], labels[:n], images[n:], labels[n:], ("rectangle", "square", "circle"))


def _mnist_like(name, path):
    """MNIST or Fashion-MNIST from ``path``, or else from ``$CBIR_DATA_HOME``, or else from Keras's cache."""
    if path:
        return _verified(name, Path(path))
    home = os.environ.get("CBIR_DATA_HOME")
    places = [Path(home, place) for place in PLACES[name] if home]
    for place in places:
        if place.is_file() or (place.is_dir() and _idx_file(place, "train", "images")):
            return _verified(name, place)
    folder = "datasets" if name == "mnist" else "datasets/fashion-mnist"
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), folder)
    try:
        for file, want in DOWNLOADS[name].items():
            if not (cache / file).exists():
                _download(file, want, cache)
    except (OSError, http.client.HTTPException) as error:  # no name, no route, a time-out, a broken transfer
        raise DatasetError(
            f"{name} is not on this machine and cannot be downloaded ({getattr(error, 'reason', error)}). Put "
            f"{', '.join(DOWNLOADS[name])} into one of: {'; '.join(map(str, [*places, cache]))} (the environment "
            "variable CBIR_DATA_HOME names a folder of your own), or run with --dataset digits"
        ) from error
    return _verified(name, cache / "mnist.npz" if name == "mnist" else cache)


def _download(file, want, folder):
    """Fetch a file with the hash ``want`` from Keras's server; ``keras.utils.get_file`` would load TensorFlow."""
    with urllib.request.urlopen(KERAS_ORIGIN + file, timeout=20) as response:
        data = response.read()
    if hashlib.new("sha256" if len(want) == 64 else "md5", data).hexdigest() != want:
        raise DatasetError(f"{KERAS_ORIGIN}{file} answered with another file (not {want}); try another network")
    with atomic_path(folder / file) as partial:
        partial.write_bytes(data)


def _verified(name, place):
    """What a ``.npz`` file or a folder of IDX files holds, after making sure that it is what it is called."""
    for file, want in DOWNLOADS[name].items() if name == "fashion_mnist" else ():
        path = place / file
        if not path.is_file() or hashlib.md5(path.read_bytes()).hexdigest() != want:
            raise DatasetError(f"{path} is missing or not Fashion-MNIST's (MD5 {want}); fetch it again")
    try:
        if place.is_dir():
            arrays = _read_idx_folder(place)
        else:
            with np.load(place, allow_pickle=False) as npz:
                arrays = [npz[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        data = _make_dataset(name, *arrays, DIGIT_NAMES if name == "mnist" else FASHION_NAMES)
    except Exception as error:  # a damaged zip surfaces as one of six exceptions of three libraries
        raise DatasetError(f"{place} cannot be read ({error}); fetch it again, or run with --dataset digits") from error
    if name == "mnist" and data.content_hash != MNIST_SHA256:
        raise DatasetError(f"{place} is not MNIST (its content hash is not {MNIST_SHA256}); fetch it again")
    return data


def read_idx(path):
    """Read one IDX file, plain or gzipped (by its ``.gz`` ending), into an array of the shape its header gives.

    Raises :class:`DatasetError` for a file that is missing, damaged, too short or too long, or no IDX file.
    """
    path = Path(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = file.read()
        if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or data[3] == 0:
            raise ValueError(f"wrong magic number {data[:4].hex()}")
        dtype, ndim = np.dtype(IDX_TYPES[data[2]]), data[3]
        shape = np.frombuffer(data, ">u4", ndim, offset=4).tolist()
        array = np.frombuffer(data, dtype, offset=4 + 4 * ndim).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read as an IDX file ({error}); fetch it again") from error
    return array.astype(dtype.newbyteorder("="))


def _idx_file(folder, split, what):
    """The one file of a folder with the images or labels of a split (``"train"``, ``"t10k|test"``), or ``None``."""
    found = sorted(p for p in Path(folder).iterdir() if re.search(f"({split}).*{what}-idx", p.name, re.IGNORECASE))
    if len(found) > 1:
        raise DatasetError(f"{folder}: {' and '.join(p.name for p in found)} hold the same {what}; keep one")
    return next(iter(found), None)


def _read_idx_folder(folder):
    """The four arrays of a folder in MNIST's layout; labels are ``None`` where their file is missing."""
    arrays = []
    for split in ("train", "t10k|test"):
        path, labels_path = _idx_file(folder, split, "images"), _idx_file(folder, split, "labels")
        if path is None:
            raise DatasetError(f"{folder}: there is no file {split.split('|')[0]}-images-idx3-ubyte.gz; add it")
        images, labels = read_idx(path), None if labels_path is None else read_idx(labels_path)
        if images.ndim not in (3, 4) or images.dtype != np.uint8 or not images.size:
            raise DatasetError(f"{path}: images must be uint8 (N, H, W), but this holds {images.dtype} {images.shape}")
        if labels is not None and len(labels) != len(images):
            raise DatasetError(f"{labels_path} has {len(labels)} labels for {len(images)} images; fetch both again")
        # QMNIST's labels have the class in the first of eight columns.
        arrays += [images, labels[:, 0] if labels is not None and labels.ndim == 2 else labels]
    return arrays
