"""Images that come later: adding them to what a run searches, without training."""

import fcntl
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

    In the folder that the run was made from, ids go on as they are; the ids of another begin with its name. The files
    that cannot be read are listed in ``rejects_added.csv``. Raises DatasetError if no file is a readable image.
    """
    folder, (size, _, channels) = Path(folder).resolve(), data.database.images.shape[1:]
    read = read_folder(folder, size=size, channels=channels)
    source = Path(run.manifest.get("source", ""))
    inside = source.is_absolute() and folder.is_relative_to(source)
    start = folder.relative_to(source) if inside else Path(folder.name)
    ids = [(start / name).as_posix() for name in read.ids]
    added = add_images(run, data, read.images, ids)
    if read.rejects:
        with run.writing("rejects_added.csv") as partial:
            save_rejects(partial, read.rejects)
    return Added(len(added), len(ids) - len(added), len(read.rejects))


def add_images(run, data, images, ids, *, replace=False):
    """Encode images by every method of a run and add them to what is searched; nothing is trained anew.

    ``images`` ``(M, H, W, C)`` uint8 have the database's form. Like a query, a grey image on the other ground is added
    as its negative (:func:`fit_query`). ``ids`` are their names. Those that the run has already are passed over, so
    that adding twice adds once; with ``replace`` the new images take the place of the old ones. Returns the names that
    were added. They are saved as one file, ``added/NNNN.npz``: all of them or none.
    """
    if images.shape[1:] != data.database.images.shape[1:]:
        raise ValueError(f"images must be of {data.database.images.shape[1:]}, not of {images.shape[1:]}")
    path = run.path("added/.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # not Run.exclusive: a notebook adds images while its runner holds that
        known = {*(data.ids or ()), *(name for batch in added_batches(run, data) for name in batch["ids"])}
        new = [row for row, name in enumerate(ids) if replace or name not in known]
        if not new:
            return []
        images, ids = np.stack([fit_query(images[row], data) for row in new]), [ids[row] for row in new]
        methods = [method for method in available_methods(run) if method in run.manifest.get("codes", {})]
        # Noted first: if a network is trained anew meanwhile, the codes no longer count and are made again.
        origins = {method: run.manifest["codes"][method] for method in methods}
        codes = {f"codes_{method}": load_encoder(run, method, data)(images) for method in methods}
        number = 1 + max((int(batch.stem) for batch in path.parent.glob("[0-9]*.npz")), default=0)
        with run.writing(f"added/{number:04d}.npz") as partial:
            notes = {"origins": np.array(json.dumps(origins)), "replaces": np.array(data.content_hash * replace)}
            np.savez(partial, images=images, ids=np.array(ids), **notes, **codes)
        return ids
