"""MNIST and its family: the files that Keras downloads, and folders of IDX files."""

import gzip
import hashlib
import http.client
import math
import os
import re
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from cbir_utils.artifacts.files import atomic_path
from cbir_utils.datasets import DIGIT_NAMES, DatasetError, make_dataset

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
IDX_NAMES = re.compile("(images|labels)[-.]idx", re.IGNORECASE)
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_mnist(name, path):
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
            arrays = read_idx_folder(place)
        else:
            with np.load(place, allow_pickle=False) as npz:
                arrays = [npz[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        data = make_dataset(name, *arrays, DIGIT_NAMES if name == "mnist" else FASHION_NAMES)
    except Exception as error:  # a damaged zip surfaces as one of six exceptions of three libraries
        raise DatasetError(f"{place} cannot be read ({error}); fetch it again, or run with --dataset digits") from error
    if name == "mnist" and data.content_hash != MNIST_SHA256:
        raise DatasetError(f"{place} is not MNIST (its content hash is not {MNIST_SHA256}); fetch it again")
    return data


def read_idx(path):
    """Read one IDX file, plain or gzipped (its first bytes say which), into an array of the shape its header gives.

    No more is read than the header promises. Raises :class:`DatasetError` for a file that is missing, damaged, too
    short or too long, or no IDX file.
    """
    try:
        with _opened(path) as file:
            start = file.read(4)
            if start[:2] != b"\0\0" or start[2] not in IDX_TYPES:
                raise ValueError(f"wrong magic number {start.hex()}")
            dtype, ndim = np.dtype(IDX_TYPES[start[2]]), start[3]
            shape = np.frombuffer(file.read(4 * ndim), ">u4", ndim).tolist()
            data = file.read(math.prod(shape) * dtype.itemsize + 1)
        array = np.frombuffer(data, dtype).reshape(shape)
    except (OSError, EOFError, LookupError, ValueError, OverflowError, MemoryError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read as an IDX file ({error}); fetch it again") from error
    return array.astype(dtype.newbyteorder("="))


def _opened(path):
    """A binary file, unpacked if its content is gzipped, whatever its name."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")


def is_idx(path):
    """Whether a file begins as IDX files do, plain or gzipped."""
    try:
        with _opened(path) as file:
            start = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in IDX_TYPES and 0 < start[3] < 6


def idx_files(folder):
    """The IDX files in a folder, and in folders in it that are named like the files (some programs unpack so)."""
    named = [path for path in Path(folder).iterdir() if IDX_NAMES.search(path.name) and not path.name.startswith(".")]
    inside = [path for place in named if place.is_dir() for path in place.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in (*named, *inside) if path.is_file() and is_idx(path))


def _idx_file(folder, split, what):
    """The file of a folder with the images or labels of a split (``"train"``, ``"t10k|test"``), or ``None``."""
    found = [path for path in idx_files(folder) if re.search(f"({split}).*{what}[-.]idx", path.name, re.IGNORECASE)]
    if len(found) > 1 and not all(np.array_equal(read_idx(path), read_idx(found[0])) for path in found[1:]):
        raise DatasetError(f"{folder}: {' and '.join(p.name for p in found)} hold different {what}; keep one")
    return next(iter(found), None)


def read_idx_folder(folder):
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
