"""A folder of images: the files in it, their pixels, their dataset, and a packed copy that opens at once."""

import csv
import hashlib
import io
import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.artifacts.files import atomic_path, read_sealed, sealed, sha256, write_json
from cbir_utils.datasets import Dataset, DatasetError, Split, dataset_name
from cbir_utils.folders.files import image_or_reason

#: Of a folder with more images than this, so many are the queries.
MAX_QUERIES = 10_000
#: Folders that systems keep among people's own: thumbnails of a file server, deleted files, a copy of a Mac's notes.
SYSTEMS = {"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "#recycle"}
#: Folders above the classes that only say what a file is meant for.
PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}
#: What the reading of files is called; with another number, packed folders are read anew.
READER = 4
#: Files decoded at once: it bounds the memory of reading a folder.
CHUNK = 256
#: How many files are looked at to tell whether a folder is in colour.
COLOUR_SAMPLE = 200
#: Side of the square that images are fitted to by default: the paper's for grey; in colour, enough for textures.
GREY_SIZE, COLOUR_SIZE = 28, 128


class ImageFolder(NamedTuple):
    """The readable images of a folder ``(N, H, W, C)`` uint8, their ids, and pairs ``(id, reason)`` of other files."""

    images: np.ndarray
    ids: tuple[str, ...]
    rejects: tuple[tuple[str, str], ...]


def list_files(folder, *, without=None):
    """The files in a folder and its subfolders, in an order that does not depend on the file system.

    Hidden names (that begin with a dot) are skipped, and so is the folder ``without``. Folders of :data:`SYSTEMS` are
    rejected as wholes. A link counts if it leads to a file in the folder; links to
    folders are rejected, so that no circle is walked and no file is met twice.

    Returns ``(ids, rejects)``: the files' relative paths with forward slashes, sorted as plain strings, and the pairs
    ``(id, reason)`` of what cannot be opened as a file. Raises :class:`DatasetError` if ``folder`` is not one.
    """
    root, ids, rejects = os.path.realpath(folder), [], []

    def closed(error):
        if error.filename == root:
            raise DatasetError(f"{folder} is not a folder that can be read ({error.strerror})") from error
        rejects.append((os.path.relpath(error.filename, root), f"it cannot be read ({error.strerror})"))

    for inside, folders, files in os.walk(root, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if without is not None:
            folders[:] = [name for name in folders if Path(inside, name).resolve() != Path(without).resolve()]
        for name in SYSTEMS & {*folders}:
            count = sum(len(files) for _, _, files in os.walk(os.path.join(inside, name)))
            reason = f"left out with {count:,} files: a system keeps thumbnails or deleted files there"
            rejects.append((os.path.relpath(os.path.join(inside, name), root), reason))
            folders.remove(name)
        links = [name for name in folders if os.path.islink(os.path.join(inside, name))]
        for name in links + [name for name in files if not name.startswith(".")]:
            path = os.path.join(inside, name)
            if reason := _why_not_opened(path, root):
                rejects.append((os.path.relpath(path, root), reason))
            else:
                ids.append(os.path.relpath(path, root))
    return tuple(sorted(ids)), tuple(sorted(rejects))


def _why_not_opened(path, root):
    """Why a path in a folder, itself no folder, is not opened; ``None`` for a file."""
    if os.path.islink(path):
        if not os.path.exists(path):
            return "a link that leads nowhere"
        if not Path(os.path.realpath(path)).is_relative_to(root):
            return "a link that leaves the folder"
        if os.path.isdir(path):
            return "a link to a folder; its files are read where they lie"
    return None if os.path.isfile(path) else "not a file"


def read_folder(folder, *, size=None, channels=None, path=None, without=None):
    """Read all images in a folder and its subfolders (:func:`list_files`), each fitted to a square by ``read_image``.

    ``size`` is the side of the squares, by default 28 for grey and 128 for colour. ``channels`` is 1 for grey, 3 for
    colour: by default 3 if one of up to 200 files, evenly spread over the sorted list, is in colour. It is if at 32×32
    the channels of more than 1 % of its pixels lie more than 16 levels apart; so neither the noise of a grey JPEG nor
    a speck counts. ``path`` is a ``.npy`` file to write the images to, one by one; they come back memory-mapped,
    read-only. By default they stay in memory. Raises :class:`DatasetError` if no file is a readable image.
    """
    names, rejects = list_files(folder, without=without)
    ids, rejects = [], list(rejects)
    # Warning filters belong to the whole process, so this stands around the threads, never inside one.
    with warnings.catch_warnings(action="ignore"), quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
        if channels is None:
            channels = 3 if _in_colour(folder, names, pool) else 1
        size = size or (GREY_SIZE if channels == 1 else COLOUR_SIZE)
        shape = (size, size, channels)
        with nullcontext(io.BytesIO()) if path is None else open(path, "wb") as file:
            _write_header(file, 0, *shape)
            start, results = file.tell(), _results(folder, names, shape, pool)
            for name, result in tqdm(results, "reading images", len(names), leave=False, delay=1):
                if isinstance(result, str):
                    rejects.append((name, result))
                else:
                    file.write(result.data)
                    ids.append(name)
            file.seek(0)
            _write_header(file, len(ids), *shape)  # NumPy leaves room in it for the count to grow
    rejects = tuple(sorted(rejects))
    if not ids:
        reasons = Counter(reason for _, reason in rejects).most_common(1)
        most = "".join(f" (of {count:,} the reason is: {reason})" for reason, count in reasons)
        raise DatasetError(f"none of the {len(rejects):,} files in {folder} is a readable image{most}; add some")
    if path is None:
        images = np.frombuffer(file.getbuffer(), np.uint8, offset=start).reshape(-1, *shape)
    else:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    return ImageFolder(images, tuple(ids), rejects)


@contextmanager
def quiet():
    """Spare the reader what a library's C part says on file descriptor 2; Python's own lines still get there."""
    with open(os.dup(2), "w") as terminal, open(os.devnull, "w") as nowhere, redirect_stderr(terminal):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal.fileno(), 2)


def _write_header(file, *shape):
    """Begin a ``.npy`` file of uint8."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _results(folder, names, shape, pool):
    """Yield each file's name with its image, or with the reason (a text) why it has none, in order."""
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        yield from zip(chunk, pool.map(lambda name: image_or_reason(Path(folder, name), shape), chunk), strict=True)


def _in_colour(folder, names, pool):
    """Whether one of some files, evenly spread over ``names``, is in colour, as :func:`read_folder` states it."""
    rows = np.linspace(0, len(names) - 1, min(len(names), COLOUR_SAMPLE)).round().astype(int)
    sample = _results(folder, [names[row] for row in rows], (32, 32, 3), pool)
    return any((np.ptp(image, axis=-1) > 16).mean() > 0.01 for _, image in sample if not isinstance(image, str))


def save_rejects(path, rejects):
    """Write pairs ``(id, reason)`` as a CSV file with the columns ``file`` and ``reason``."""
    # A file name need not be valid UTF-8; what is not is written as \udc… rather than not at all.
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "reason"))
        # Spreadsheets take a cell that begins with one of these for a formula.
        writer.writerows(("'" * name.startswith(("=", "+", "-", "@", "\t", "\r")) + name, why) for name, why in rejects)


def folder_dataset(folder, *, size=None, labels=False, path=None):
    """The dataset of a folder of images, as :func:`~cbir_utils.datasets.load_dataset` describes it.

    The other parameters are those of :func:`read_folder`. Raises :class:`DatasetError` if the folder holds fewer than
    two readable images, or has the name of a dataset.
    """
    name = dataset_name(folder)
    images, ids, rejects = read_folder(folder, size=size, path=path)
    if len(ids) < 2:
        raise DatasetError(f"{folder} holds one readable image ({ids[0]}), and a search needs two or more; add some")
    digest = hashlib.sha256(f"{images.dtype}{images.shape}".encode())
    for start in range(0, len(images), 1000):  # memory-mapped images are read piece by piece
        digest.update(np.ascontiguousarray(images[start : start + 1000]).data)
    digest.update(b"\0".join(map(os.fsencode, ids)))  # no file name holds a zero byte
    return _dataset(name, images, ids, rejects, labels, digest.hexdigest())


def _dataset(name, images, ids, rejects, labelled, content_hash, asked=None):
    """A folder's images as a dataset: the first ``MAX_QUERIES`` by the SHA-256 of their ids are the queries.

    ``asked`` are their images, where they have been copied before.
    """
    class_names, labels = (), None
    if labelled:
        class_names, labels = np.unique([_class_of(name) for name in ids], return_inverse=True)
    database = queries = Split(images, labels)
    rows = np.arange(len(ids))
    if len(ids) > MAX_QUERIES:
        by_hash = sorted(rows, key=lambda row: hashlib.sha256(os.fsencode(ids[row])).digest())
        rows = np.sort(by_hash[:MAX_QUERIES])
        queries = Split(images[rows] if asked is None else asked, labels[rows] if labelled else None)
    return Dataset(name, database, queries, tuple(map(str, class_names)), content_hash, ids, rows, rejects)


def _class_of(name):
    """The class that an id's folders name: ``cat`` for ``cat/1.png`` and ``train/cat/1.png``."""
    folders = PurePosixPath(name).parent
    above, *inside = folders.parts or (".",)
    return str(PurePosixPath(*inside)) if above.lower() in PARTS and inside else str(folders)


def pack_folder(folder, target, *, size=None, labels=False, shape=None):
    """Read a folder of images once and keep them in ``target``, which :func:`load_dataset` opens at once.

    ``target`` gets ``images.npy``, ``(N, H, W, C)`` uint8, ``queries.npy`` where these are fewer, and ``dataset.json``
    with the rest of the dataset. Nothing is read again where both are there, made by the same rules (``READER``) with
    the same ``size`` and ``labels`` from files of the same names, sizes and times of change. ``shape``, (H, W, C), is
    that of the images that were added to the run, which these must have, too.

    Returns the dataset of ``load_dataset(folder, size=size, labels=labels)``, its images memory-mapped, read-only.
    ``target`` is made if need be, and must not lie in ``folder``. Raises :class:`DatasetError` as ``load_dataset``
    does, if ``target`` holds other images, of another folder, or the images have another ``shape``; nothing is changed
    then.
    """
    folder, target = Path(folder), Path(target)
    made_from = {
        "name": dataset_name(folder),
        "source": str(folder.resolve()),
        "size": size,
        "labelled": labels,
        "signature": _signature(folder),
        "reader": READER,
    }
    try:
        known = read_sealed(target / "dataset.json")
        if made_from.items() <= known.items():
            return load_packed(target)
    except (OSError, ValueError):  # missing or damaged: it is made anew
        known = {}
    target.mkdir(parents=True, exist_ok=True)
    with atomic_path(target / "images.npy") as partial:
        dataset = folder_dataset(folder, size=size, labels=labels, path=partial)
        other = known.get("source", made_from["source"])
        if other != made_from["source"] and known.get("content_hash") != dataset.content_hash:
            raise DatasetError(f"{target} holds the images of {other}, not of {folder}; choose another with --results")
        now = dataset.database.images.shape[1:]
        if shape not in (None, now):
            raise DatasetError(
                f"{folder} is now read as images of {now}, and those that were added to its run are of {shape}: a "
                f"picture in colour is new, or --size is another; take it out, or delete {target.parent / 'added'} "
                "and add its images again afterwards"
            )
    note = {"content_hash": dataset.content_hash, "ids": dataset.ids, "rejects": dataset.rejects}
    note["sha256"] = sha256(target / "images.npy")
    if len(dataset.queries) < len(dataset.database):  # opened from a file of their own, they take no memory
        with atomic_path(target / "queries.npy") as partial:
            np.save(partial, dataset.queries.images)
        note["queries_sha256"] = sha256(target / "queries.npy")
    note = {**made_from, **note}
    write_json(target / "dataset.json", sealed(note))
    return dataset


def load_packed(target):
    """The dataset that :func:`pack_folder` left in ``target``, its images memory-mapped, read-only."""
    try:
        note = read_sealed(Path(target) / "dataset.json")
        ids, rejects = tuple(note["ids"]), tuple((name, reason) for name, reason in note["rejects"])
        images = _mapped(Path(target) / "images.npy", note["sha256"])
        asked = _mapped(Path(target) / "queries.npy", note["queries_sha256"]) if "queries_sha256" in note else None
        if len(ids) != len(images) or len({*ids}) != len(ids) or any(".." in Path(name).parts for name in ids):
            raise ValueError("the ids are not those of its images")
        return _dataset(note["name"], images, ids, rejects, note["labelled"], note["content_hash"], asked)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{target}: its packed images are damaged ({error}); pack the folder again") from error


def _mapped(path, digest):
    """An array in a file with this SHA-256, memory-mapped, read-only; ValueError if the file is another."""
    if sha256(path) != digest:
        raise ValueError(f"{path.name} differs from its hash in dataset.json")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _signature(folder):
    """SHA-256 over the names, sizes and times of change of a folder's files; no file is opened."""
    ids, rejects = list_files(folder)
    facts = [(name, file.st_size, file.st_mtime_ns) for name in ids for file in [os.stat(Path(folder, name))]]
    return hashlib.sha256(repr((facts, rejects)).encode()).hexdigest()
