"""A library of pictures that lives: what its folder gained, lost and renamed since the run, without training."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.folders.files import image_or_reason
from cbir_utils.folders.folder import list_files, save_rejects
from cbir_utils.retrieval.library import add_images, content_of, contents
from cbir_utils.retrieval.notes import LIBRARY, library

#: Held by whoever changes it, from its reading to its writing.
LOCK = ".library.lock"

#: Learning anew is worth a thought once this share of the images has come or gone since.
MUCH = 0.3

#: Images encoded, and held in memory, at a time.
BATCH = 500


class Synced(NamedTuple):
    """How many files are new or changed, renamed, gone, and could not be read; and whether much has changed."""

    added: int
    renamed: int
    gone: int
    rejects: int
    much: bool


def sync(run, data):
    """Bring what a run searches up to date with the folder it was made from: :class:`Synced`.

    New and changed files are encoded by the methods that the run has, files that are gone are found no more, a file
    that moved keeps its codes: it is recognised by its pixels. Files of the size and time that were noted last are not
    read. Nothing is trained, and a second call changes nothing. Files that cannot be read are listed in
    ``rejects_added.csv``. Raises ArtifactError if the run was not made from a folder.
    """
    with run.locked(LOCK):
        return _follow(run, data)


def _follow(run, data):
    folder = _folder_of(run)
    names, rejects = list_files(folder, without=run.results)
    noted, rejects, files = library(run), list(rejects), {}
    rows = contents(run, data)
    for name in tqdm(names, "reading files", leave=False, delay=1):
        facts = (folder / name).stat()
        facts = [facts.st_size, facts.st_mtime_ns]
        if noted["files"].get(name, [])[:2] == facts:
            files[name] = noted["files"][name]
            continue
        image = image_or_reason(folder / name, data.database.images.shape[1:])
        if isinstance(image, str):
            rejects.append((name, image))
            continue
        files[name] = [*facts, content_of(image)]
    present, renamed, pending = {content for *_, content in files.values()}, {}, []
    moved = {content: name for name, content in rows.items() if name not in files and content in present}
    for name, (*_, content) in files.items():
        if rows.get(name) == content or name in noted["removed"]:
            continue
        if moved.get(content, name) not in {name, *renamed}:
            renamed[moved[content]] = name
        else:
            pending.append(name)
    added = _add(run, data, folder, pending, rejects)
    own = {*data.ids, *noted["files"]}  # images of other folders were added by hand, and stay
    gone = sorted(name for name in rows if name in own and name not in files and name not in renamed)
    notes = {"files": files, "renamed": renamed, "removed": noted["removed"], "gone": gone}
    run.save_json(LIBRARY, {"content_hash": data.content_hash, **notes})
    if rejects:
        with run.writing("rejects_added.csv") as partial:
            save_rejects(partial, rejects)
    later = set(files) - set(data.ids) - set(renamed.values())
    return Synced(
        added,
        sum(noted["renamed"].get(old) != new for old, new in renamed.items()),
        len(set(gone) - noted["gone"]),
        len(rejects),
        len(gone) + len(later) > MUCH * len(data.database),
    )


def _add(run, data, folder, names, rejects):
    """Read and add these files, some at a time; returns how many. What has become unreadable joins ``rejects``."""
    added = 0
    for start in tqdm(range(0, len(names), BATCH), "adding images", leave=False, delay=1):
        read = {name: image_or_reason(folder / name, data.database.images.shape[1:]) for name in names[start:][:BATCH]}
        rejects += [(name, image) for name, image in read.items() if isinstance(image, str)]
        whole = {name: image for name, image in read.items() if not isinstance(image, str)}
        if whole:
            added += len(add_images(run, data, np.stack(list(whole.values())), list(whole), replace=True))
    return added


def remove(run, data, ids):
    """Take images out of what a run searches, by their ids; their files stay, and ``sync`` does not bring them back.

    Raises ArtifactError for an id that the run does not have.
    """
    with run.locked(LOCK):
        noted = library(run)
        original = {noted["renamed"].get(name, name): name for name in contents(run, data)}
        unknown = [name for name in ids if name not in original]
        if unknown:
            raise ArtifactError(f"{run.folder} has no image {unknown[0]!r}; a query prints the ids")
        taken = sorted({*noted["removed"], *(original[name] for name in ids)})
        notes = {
            **noted,
            "removed": taken,
            "gone": sorted(noted["gone"] - set(taken)),
            "content_hash": data.content_hash,
        }
        run.save_json(LIBRARY, notes)


def _folder_of(run):
    folder = Path(run.manifest.get("source", ""))
    if not folder.is_absolute():
        raise ArtifactError(f"{run.folder} was not made from a folder of images, so there is nothing to follow")
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not there; if it was moved, run the notebooks on it again")
    return folder
