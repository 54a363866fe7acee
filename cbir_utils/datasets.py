"""Images to search: bundled digits, MNIST and its family of IDX files, folders of images, and drawn shapes.

Every source gives a :class:`Dataset`: a *database* to search, *queries*, and labels that only the evaluation may use.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

SOURCES = ("digits", "mnist", "fashion_mnist", "shapes")
DIGIT_NAMES = "0123456789"


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

    def own(self, queries=slice(None)):
        """The rows of queries in the database, to leave each out of its own hits; None where no query is in it."""
        return None if self.own_rows is None else self.own_rows[queries]


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
        For a folder of images: the side of the squares they are fitted to; by default 28 for grey, 128 for colour.
    labels : bool
        For a folder of images: whether an image's folder names its class (``"."`` for the folder itself;
        ``train``, ``test`` and the like above it do not count).

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
        from cbir_utils.folders.mnist import read_idx_folder  # files are read only where they are asked for

        return make_dataset(dataset_name(source), *read_idx_folder(source))
    if kind:
        from cbir_utils.folders.folder import folder_dataset, load_packed

        return load_packed(source) if kind == "packed" else folder_dataset(source, size=size, labels=labels)
    if name not in SOURCES:
        raise DatasetError(f"there is no dataset {name!r}: choose one of {', '.join(SOURCES)}, or give a folder")
    if name in ("mnist", "fashion_mnist"):
        from cbir_utils.folders.mnist import load_mnist

        return load_mnist(name, path)
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
    from cbir_utils.folders.mnist import idx_files

    return "idx" if idx_files(source) else "images"


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


def make_dataset(name, x_database, y_database, x_queries, y_queries, class_names=None):
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
    return make_dataset("digits", images[:n], bunch.target[:n], images[n:], bunch.target[n:], DIGIT_NAMES)


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
    return make_dataset("shapes", images[:n], labels[:n], images[n:], labels[n:], ("rectangle", "square", "circle"))
