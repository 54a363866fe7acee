"""Images to search: bundled digits, MNIST and its family of IDX files, folders of images, and drawn shapes.

Every source gives the same thing, a :class:`Dataset`: a *database* split (the images searched) and a *query*
split, as ``uint8`` images, with labels that only the evaluation may look at.
"""

import gzip
import hashlib
import http.client
import json
import os
import re
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np

from cbir_utils.folders.files import UnreadableImageError, list_files, read_folder
from cbir_utils.run import atomic_path, sha256, write_json

#: The sources that :func:`load_dataset` knows by name.
SOURCES = ("digits", "mnist", "fashion_mnist", "shapes")

#: Of a folder with more images than this, so many are the queries.
MAX_QUERIES = 10_000

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

#: SHA-256 of the file ``mnist.npz`` as Keras downloads it (keras/src/datasets/mnist.py).
KERAS_MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"

#: MD5 of Fashion-MNIST's four files, as its authors publish them (github.com/zalandoresearch/fashion-mnist).
FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}

#: Where Keras downloads its datasets from; they are kept in Keras's own cache, so either finds the other's.
KERAS_ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

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

    ``class_names[label]`` names a class; ``content_hash`` is a SHA-256 over all four arrays, their shapes
    and dtypes, so that two runs can tell whether they saw the same data. Of a folder of images it covers the
    images of the database and their ids, which the rest follows from.

    ``ids`` names the images of the database (of a folder: their relative paths), ``None`` where they have no names.
    ``own_rows`` is ``(Q,)`` int64, each query's row in the database (``exclude_self`` of the evaluation), ``None``
    where queries and database are apart. ``rejects`` are the files of a folder that could not be read, as pairs
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

    In a folder of images every image is in the database, and the queries are the same images: all of them, or of more
    than ``MAX_QUERIES`` so many, chosen by the SHA-256 of their ids. Which files are read, and how they are fitted to
    one size, is said in :mod:`cbir_utils.folders.files`. The folder may also be a packed one (:func:`pack_folder`).

    Parameters
    ----------
    source : str or Path
        ``"digits"`` (bundled with scikit-learn), ``"mnist"``, ``"fashion_mnist"``, ``"shapes"`` (drawn), or
        a folder with IDX files of the MNIST family, plain or gzipped (``*train*-images-*`` and so on), or else
        with images, also in folders of its own. IDX images are taken as stored (EMNIST's are transposed there).
    path : str or Path, optional
        For ``mnist`` the ``.npz`` file, for it and ``fashion_mnist`` the folder of IDX files: looked at instead of
        the usual places.
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
        If the data cannot be found, are damaged, or are not what the name says. Nothing is ever
        substituted for a dataset that is missing.
    """
    kind = folder_kind(source)
    if kind != "images" and (size is not None or labels):
        raise DatasetError(f"size and labels are for a folder of images, and {source} is not one; leave them out")
    if source == "digits":
        return _digits()
    if source == "shapes":
        return _shapes(seed)
    if source in ("mnist", "fashion_mnist"):
        return _mnist_like(str(source), path)
    if kind is None:
        raise DatasetError(
            f"there is no dataset {str(source)!r}: choose one of {', '.join(SOURCES)}, "
            "or give a folder of IDX files or images"
        )
    folder = Path(source)
    if kind == "packed":
        return _load_packed(folder)
    if kind == "idx":
        return _make_dataset(_folder_name(folder), *_read_idx_folder(folder))
    return _folder_dataset(_folder_name(folder), *_read_images(folder, size=size), labels)


def folder_kind(source):
    """What a source given to :func:`load_dataset` is as a folder.

    ``"packed"`` (by :func:`pack_folder`), ``"idx"`` (it holds IDX files), ``"images"`` (any other folder), or ``None``
    for the name of a dataset and for what is no folder.
    """
    if source in SOURCES or not Path(source).is_dir():
        return None
    folder = Path(source)
    note = folder / "dataset.json"
    # A folder of somebody's images may hold a dataset.json of its own.
    if note.is_file() and ((folder / "images.npy").exists() or b'"content_hash"' in note.read_bytes()):
        return "packed"
    return "idx" if any(re.search("(images|labels)-idx", path.name) for path in folder.iterdir()) else "images"


def is_light(images):
    """Whether the background of images ``(N, H, W, C)`` is light: the median of their outermost pixels is over 127."""
    edges = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    return bool(np.median(np.concatenate([edge.ravel() for edge in edges])) > 127)


def scale(images):
    """Images as networks take them: float32 in [0, 1], from uint8 in 0–255; any shape."""
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
    """MNIST or Fashion-MNIST from ``path``, or else from the first place that has it, or else downloaded."""
    looked = []
    places = [Path(path)] if path else _usual_places(name)
    for place in places:
        looked.append(str(place))
        if place.is_file() and name == "mnist":
            return _verified_mnist(place, _read_npz(place))
        if place.is_dir() and _idx_file(place, "train", "images") and not _half_downloaded(name, place):
            return _load_idx(name, place)
    if path:
        wanted = "no mnist.npz and no folder with MNIST's" if name == "mnist" else "no folder with Fashion-MNIST's"
        raise DatasetError(f"{path}: there is {wanted} IDX files; check the path")
    try:
        return _download(name)
    except (OSError, http.client.HTTPException) as error:  # no name, no route, a time-out, a broken transfer
        wanted = "mnist.npz" if name == "mnist" else "train-images-idx3-ubyte.gz and its three companions"
        hashes = MNIST_SHA256 if name == "mnist" else FASHION_MD5
        check = "; ".join(f"{'SHA-256' if name == 'mnist' else 'MD5'} of {k}: {v}" for k, v in hashes.items())
        raise DatasetError(
            f"{name} is not on this machine and cannot be downloaded ({getattr(error, 'reason', error)}). "
            f"Put {wanted} ({check}) into one of: {'; '.join(looked)} "
            "(the environment variable CBIR_DATA_HOME names a folder of your own), or run with --dataset digits"
        ) from error


def _usual_places(name):
    """Where a dataset is looked for, in order: ``$CBIR_DATA_HOME``, then Keras's cache."""
    places = []
    if home := os.environ.get("CBIR_DATA_HOME"):
        # MNIST's IDX files may lie there directly; Fashion-MNIST's have the same names, so they need a folder.
        home = Path(home)
        places = [home / "mnist.npz", home, home / "mnist"] if name == "mnist" else [home / "fashion_mnist"]
    cache = _keras_cache()
    return [*places, cache / "mnist.npz" if name == "mnist" else cache / "fashion-mnist"]


def _keras_cache():
    """The folder where Keras keeps downloaded datasets."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"


def _download(name):
    """Fetch a dataset from Keras's server into Keras's cache, and load it from there.

    Done here in a few lines, not through ``keras.utils.get_file``, because importing Keras loads TensorFlow.
    """
    cache = _keras_cache()
    if name == "mnist":
        _fetch("mnist.npz", cache / "mnist.npz", "sha256", KERAS_MNIST_SHA256)
        return _verified_mnist(cache / "mnist.npz", _read_npz(cache / "mnist.npz"))
    for file, md5 in FASHION_MD5.items():
        _fetch(file, cache / "fashion-mnist" / file, "md5", md5)
    return _load_idx(name, cache / "fashion-mnist")


def _fetch(file, target, algorithm, want):
    """Download one file to ``target``, whole and with the right hash, or not at all."""
    if target.exists():
        return
    with urllib.request.urlopen(KERAS_ORIGIN + file, timeout=20) as response:
        data = response.read()
    if hashlib.new(algorithm, data).hexdigest() != want:
        raise DatasetError(
            f"{KERAS_ORIGIN}{file} answered with something else than the file ({algorithm.upper()} {want} expected); "
            "try another network"
        )
    with atomic_path(target) as partial:
        partial.write_bytes(data)


def _half_downloaded(name, folder):
    """Whether ``folder`` is Keras's cache of Fashion-MNIST with some of the four files still missing."""
    cache = _keras_cache() / "fashion-mnist"
    return name == "fashion_mnist" and folder == cache and not all((cache / file).exists() for file in FASHION_MD5)


def _read_npz(path):
    """The four arrays of a Keras-style ``.npz`` file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except KeyError as error:
        raise DatasetError(f"{path}: {error.args[0]}; it must hold x_train, y_train, x_test and y_test") from error
    except Exception as error:  # a damaged zip surfaces as one of six exceptions of three libraries
        raise DatasetError(
            f"{path}: not a readable .npz file ({error}); delete it and fetch it again, or run with --dataset digits"
        ) from error


def _load_idx(name, folder):
    """MNIST or Fashion-MNIST from a folder of IDX files, verified."""
    if name == "mnist":
        return _verified_mnist(folder, _read_idx_folder(folder))
    _check_fashion_files(folder)
    return _make_dataset(name, *_read_idx_folder(folder), FASHION_NAMES)


def _verified_mnist(place, arrays):
    """Make the dataset after making sure that ``arrays`` really are MNIST's."""
    for (key, want), array in zip(MNIST_SHA256.items(), arrays, strict=True):
        right_form = array is not None and array.ndim == (3 if key.startswith("x") else 1)
        if not right_form or hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() != want:
            raise DatasetError(
                f"{place}: {key} is not MNIST's (SHA-256 {want} expected); "
                "delete the file and fetch it again, or run with --dataset digits"
            )
    return _make_dataset("mnist", *arrays, DIGIT_NAMES)


def _check_fashion_files(folder):
    """Compare Fashion-MNIST's gzipped files with the MD5 sums that its authors publish."""
    for file, want in FASHION_MD5.items():
        path = Path(folder) / file
        if not path.is_file():
            raise DatasetError(f"{path} is missing; Fashion-MNIST needs {', '.join(FASHION_MD5)}")
        with open(path, "rb") as stream:
            have = hashlib.file_digest(stream, "md5").hexdigest()
        if have != want:
            raise DatasetError(
                f"{path} is not Fashion-MNIST's (MD5 {want} expected, {have} found); delete it and fetch it again"
            )


# -- IDX files ------------------------------------------------------------------------------------------------


def read_idx(path):
    """Read one IDX file, plain or gzipped (by its ``.gz`` ending), into an array of the shape its header gives.

    Raises :class:`DatasetError` for a wrong magic number, truncated or surplus data, and damaged gzip.
    """
    path = Path(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist") from error
    except (EOFError, OSError, gzip.zlib.error) as error:
        raise DatasetError(f"{path}: damaged or truncated gzip data ({error}); fetch it again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or data[3] == 0:
        raise DatasetError(f"{path}: wrong magic number {data[:4].hex() or '(empty file)'}; this is no IDX file")
    dtype, ndim = np.dtype(IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * ndim
    if len(data) < start:
        raise DatasetError(f"{path}: truncated, its header of {start} bytes ends after {len(data)}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, offset=4))
    want, have = prod(shape) * dtype.itemsize, len(data) - start
    if have != want:
        what = "truncated" if have < want else "too long"
        raise DatasetError(f"{path}: {what}, its header promises {want} bytes for shape {shape} and {have} follow")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _idx_file(folder, split, what):
    """The one file of ``folder`` with the images or labels of a split, or ``None``."""
    words = ("train",) if split == "train" else ("t10k", "test")
    found = sorted(
        p for p in Path(folder).iterdir() if f"{what}-idx" in p.name and any(w in p.name.lower() for w in words)
    )
    if len(found) > 1:
        raise DatasetError(
            f"{folder}: {len(found)} files could be the {split} {what} ({', '.join(p.name for p in found)}); keep one"
        )
    return found[0] if found else None


def _read_idx_folder(folder):
    """The four arrays of a folder in MNIST's layout; labels are ``None`` where their file is missing."""
    arrays = []
    for split in ("train", "test"):
        path = _idx_file(folder, split, "images")
        if path is None:
            raise DatasetError(
                f"{folder}: no file with the {split} images, such as "
                f"{'train' if split == 'train' else 't10k'}-images-idx3-ubyte.gz"
            )
        images = read_idx(path)
        if images.ndim not in (3, 4) or images.dtype != np.uint8 or not images.size:
            raise DatasetError(f"{path}: images must be uint8 (N, H, W), but this holds {images.dtype} {images.shape}")
        labels_path = _idx_file(folder, split, "labels")
        labels = None if labels_path is None else read_idx(labels_path)
        if labels is not None:
            labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: the class and seven more columns
            if len(labels) != len(images):
                raise DatasetError(
                    f"{path} has {len(images)} images, but {labels_path.name} has {len(labels)} labels; "
                    "they must come from the same download"
                )
        arrays += [images, labels]
    return arrays


# -- folders of images ------------------------------------------------------------------------------------------


def pack_folder(folder, target, *, size=None, labels=False, progress=None):
    """Read a folder of images once and keep them in ``target``, from where :func:`load_dataset` takes them at once.

    ``target`` gets ``images.npy``, ``(N, H, W, C)`` uint8, and ``dataset.json`` with the rest of the dataset. Where
    both are there already, made with the same ``size`` and ``labels`` from files of the same names, sizes and times
    of change, nothing is read again.

    Parameters
    ----------
    folder, size, labels
        As for :func:`load_dataset`.
    target : str or Path
        The folder to keep them in; it is made if need be, and must not lie in ``folder``.
    progress : callable, optional
        Called now and then as ``progress(done, total)``, in files.

    Returns
    -------
    Dataset
        That of ``load_dataset(folder, size=size, labels=labels)``, with the images memory-mapped, read-only.

    Raises
    ------
    DatasetError
        As from :func:`load_dataset`.
    """
    folder, target = Path(folder), Path(target)
    name = _folder_name(folder)
    made_from = {"name": name, "size": size, "labelled": labels, "signature": _signature(folder)}
    if _packed_from(target) == made_from:
        try:
            return _load_packed(target)
        except DatasetError:
            pass  # damaged: it is made anew
    target.mkdir(parents=True, exist_ok=True)
    with atomic_path(target / "images.npy") as partial:
        images, ids, rejects = _read_images(folder, size=size, progress=progress, path=partial)
        dataset = _folder_dataset(name, images, ids, rejects, labels)
    note = {
        **made_from,
        "content_hash": dataset.content_hash,
        "sha256": sha256(target / "images.npy"),
        "labels": list(dataset.class_names) if labels else None,
        "ids": ids,
        "rejects": rejects,
    }
    write_json(target / "dataset.json", note)
    return dataset


def _folder_name(folder):
    """A folder's name, which is that of its dataset and its run."""
    name = folder.resolve().name
    if name in SOURCES:
        raise DatasetError(f"{folder}: a folder may not be named like a dataset ({', '.join(SOURCES)}); rename it")
    return name


def _read_images(folder, **how):
    """:func:`read_folder`, but with errors that speak of a dataset, and at least two images."""
    try:
        read = read_folder(folder, **how)
    except UnreadableImageError as error:
        raise DatasetError(
            f"{folder} is no dataset: it holds no IDX files (such as train-images-idx3-ubyte.gz), and {error}"
        ) from error
    if len(read.ids) < 2:
        raise DatasetError(
            f"{folder} holds one readable image ({read.ids[0]}), and a search needs two or more; add some"
        )
    return read


def _folder_dataset(name, images, ids, rejects, labelled, content_hash=None):
    """The dataset of a folder's images: see :func:`load_dataset` for what is a query and what a class."""
    class_names, labels = (), None
    if labelled:
        classes = [str(PurePosixPath(i).parent) for i in ids]
        class_names = tuple(sorted(set(classes)))
        number = {name: label for label, name in enumerate(class_names)}
        labels = np.array([number[name] for name in classes], np.int64)
    database = queries = Split(images, labels)
    rows = np.arange(len(ids))
    if len(ids) > MAX_QUERIES:
        by_hash = sorted(rows, key=lambda row: hashlib.sha256(_as_bytes(ids[row])).digest())
        rows = np.sort(by_hash[:MAX_QUERIES])
        queries = Split(images[rows], labels[rows] if labelled else None)
    content_hash = content_hash or _content_hash(images, ids)
    return Dataset(name, database, queries, class_names, content_hash, tuple(ids), rows, tuple(rejects))


def _content_hash(images, ids):
    """SHA-256 over a folder's images ``(N, H, W, C)`` uint8 and their ids."""
    digest = hashlib.sha256(f"{images.dtype}{images.shape}".encode())
    for start in range(0, len(images), 1000):  # memory-mapped images are read piece by piece
        digest.update(np.ascontiguousarray(images[start : start + 1000]).data)
    digest.update(b"\0".join(_as_bytes(i) for i in ids))  # no file name holds a zero byte
    return digest.hexdigest()


def _as_bytes(name):
    """A file's name as bytes, also where it is not valid UTF-8."""
    return name.encode(errors="surrogateescape")


def _signature(folder):
    """SHA-256 over what the file system says of a folder's files: it changes when a file is added, changed or removed.

    No file is opened.
    """
    try:
        ids, rejects = list_files(folder)
    except UnreadableImageError as error:
        raise DatasetError(str(error)) from error
    digest = hashlib.sha256(repr(rejects).encode(errors="surrogateescape"))
    for name in ids:
        try:
            facts = os.stat(folder / name)
            digest.update(_as_bytes(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\0"))
        except OSError:  # removed since it was listed: reading will tell
            digest.update(_as_bytes(f"{name}\0"))
    return digest.hexdigest()


def _packed_from(target):
    """What the packed images in ``target`` were made from, or ``None`` if there are none."""
    try:
        note = json.loads((target / "dataset.json").read_text())
        return {key: note[key] for key in ("name", "size", "labelled", "signature")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load_packed(target):
    """The dataset that :func:`pack_folder` left in ``target``, its images memory-mapped, read-only."""
    path, again = target / "images.npy", "run the command that made it again"
    try:
        note = json.loads((target / "dataset.json").read_text())
        name, content_hash, ids = str(note["name"]), str(note["content_hash"]), tuple(note["ids"])
        rejects = tuple((file, reason) for file, reason in note["rejects"])
        labelled, noted = note["labels"] is not None, note["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{target / 'dataset.json'} is damaged; {again}") from error
    if not path.is_file():
        raise DatasetError(f"{path} is missing; {again}")
    if sha256(path) != noted:
        raise DatasetError(f"{path} differs from its hash in dataset.json (damaged or changed); {again}")
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(ids):
        raise DatasetError(f"{path} holds other images than dataset.json says; {again}")
    return _folder_dataset(name, images, ids, rejects, labelled, content_hash)


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
