"""Images that come later: adding them to what a run searches, without training."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cbir_utils.folders.folder import read_folder, save_rejects
from cbir_utils.retrieval.retriever import added_batches, available_methods, fit_query, load_encoder


class Added(NamedTuple):
    """How many images of a folder were added, were there already, and could not be read."""

    added: int
    known: int
    rejects: int


def add_folder(run, data, folder):
    """Add the images of a folder to what a run searches, without training: :class:`Added`.

    In the folder that the run was made from, ids go on as they are; the ids of another begin with its name. An image is
    its content and its place: another picture of the same id gets a number behind the folder's name, or takes the old
    one's place in the run's own folder. A file of the run that was moved, or is met again through a link, is known. The
    results are never images. The files that cannot be read are listed in ``rejects_added.csv``. Raises DatasetError if
    no file is a readable image.
    """
    folder, (size, _, channels) = Path(folder).resolve(), data.database.images.shape[1:]
    read = read_folder(folder, size=size, channels=channels, without=run.results)
    source = Path(run.manifest.get("source", ""))
    inside = source.is_absolute() and folder.is_relative_to(source)
    start = folder.relative_to(source) if inside else Path(folder.name)
    known = contents(run, data)
    own = {content: source / name for name, content in known.items() if source.is_absolute() and name in set(data.ids)}
    rows, ids = [], []
    for row, (name, image) in enumerate(zip(read.ids, read.images, strict=True)):
        content, original = content_of(fit_query(image, data)), (start / name).as_posix()
        there = own.get(content)
        if not inside and there and (not there.exists() or there.samefile(folder / name)):
            continue
        image_id, number = original, 1
        while not inside and known.get(image_id, content) != content:
            number += 1
            image_id = f"{folder.name} ({number})/{name}"
        if known.get(image_id) != content:
            rows.append(row)
            ids.append(image_id)
    added = add_images(run, data, read.images[rows], ids, replace=inside) if rows else []
    if read.rejects:
        with run.writing("rejects_added.csv") as partial:
            save_rejects(partial, read.rejects)
    return Added(len(added), len(read.ids) - len(added), len(read.rejects))


def contents(run, data):
    """The ids of all images of a run, the last of each, with the hash of their pixels: ``{id: hash}``."""
    parts = [(data.ids or map(str, range(len(data.database))), data.database.images)]
    parts += [(map(str, batch["ids"]), batch["images"]) for batch in added_batches(run, data)]
    return {name: content_of(image) for ids, images in parts for name, image in zip(ids, images, strict=True)}


def shape_of_added(run):
    """The shape (H, W, C) of the images that were added to a run; ``None`` if there are none."""
    for name in run.manifest.get("files", {}):
        if name.startswith("added/") and run.path(name).exists():
            with np.load(run.checked_path(name), allow_pickle=False) as batch:
                return batch["images"].shape[1:]
    return None


def content_of(image):
    """A hash of an image's pixels, the same for its negative: a grey one may be searched as that."""
    return min(hashlib.sha256(np.ascontiguousarray(form).data).hexdigest()[:32] for form in (image, 255 - image))


def add_images(run, data, images, ids, *, replace=False):
    """Encode images by every method of a run and add them to what is searched; nothing is trained anew.

    ``images`` ``(M, H, W, C)`` uint8 have the database's form. Like a query, a grey image on the other ground is added
    as its negative (:func:`fit_query`). ``ids`` are their names. Those that the run has already are passed over, so
    that adding twice adds once; with ``replace`` the new images take the place of the old ones. Returns the names that
    were added. They are saved as one file, ``added/NNNN.npz``: all of them or none.
    """
    if images.shape[1:] != data.database.images.shape[1:]:
        raise ValueError(f"images must be of {data.database.images.shape[1:]}, not of {images.shape[1:]}")
    with run.locked("added/.lock"):  # not Run.exclusive: a notebook adds images while its runner holds that
        known = {*(data.ids or ()), *(name for batch in added_batches(run, data) for name in batch["ids"])}
        new = [row for row, name in enumerate(ids) if replace or name not in known]
        if not new:
            return []
        images, ids = np.stack([fit_query(images[row], data) for row in new]), [ids[row] for row in new]
        methods = [method for method in available_methods(run) if method in run.manifest.get("codes", {})]
        # Noted first: if a network is trained anew meanwhile, the codes no longer count and are made again.
        origins = {method: run.manifest["codes"][method] for method in methods}
        codes = {f"codes_{method}": load_encoder(run, method, data)(images) for method in methods}
        number = 1 + max((int(batch.stem) for batch in run.path("added").glob("[0-9]*.npz")), default=0)
        with run.writing(f"added/{number:04d}.npz") as partial:
            notes = {"origins": np.array(json.dumps(origins)), "replaces": np.array(data.content_hash * replace)}
            np.savez(partial, images=images, ids=np.array(ids), **notes, **codes)
        return ids
