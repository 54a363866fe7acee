"""Searching a finished run with image files: one or several, with a limit, as a list, a picture or a page."""

import hashlib
import os
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader

from cbir_utils import plots
from cbir_utils.artifacts.files import atomic_path
from cbir_utils.folders.duplicates import groups_of, near_duplicates
from cbir_utils.folders.files import UnreadableImageError, data_url, preview, read_image
from cbir_utils.names import printable
from cbir_utils.retrieval.retriever import ELSEWHERE, Retriever, fit_query

#: The share of database images whose nearest other is within the limit that ``max_distance="auto"`` means.
ALIKE = 0.99


def query_file(
    run,
    data,
    file,
    k=5,
    *,
    also=(),
    unlike=(),
    max_distance=None,
    method=None,
    metric="cosine",
    picture=None,
    page=None,
):
    """Search a run with an image file, or with one of its own images, and draw the query and its hits.

    Parameters
    ----------
    run, data, method, metric : Run, Dataset, str, str
        As for :class:`Retriever`.
    file : str or Path
        An image file; or the id of an image of the run, which is not among its own hits.
    k : int
        How many hits, at most as many as images are searched.
    also, unlike : sequences of str or Path
        More examples of what is wanted, and of what is not (``Retriever.search_like``).
    max_distance : float or "auto", optional
        Hits farther than this are left out, maybe all. ``"auto"`` is the distance within which 99 of 100 images of the
        database have another.
    picture, page : str or Path, optional
        Where the drawing goes, by default into ``queries`` in the run's folder; where a page of the hits goes, with
        the original pictures.

    Returns a dict that JSON can hold; its ``negative`` says whether the image was searched as its negative, and
    ``background`` that the database's is light or dark. Raises UnreadableImageError for a file that is no image,
    ArtifactError for a method that the run lacks, ValueError for a ``k`` or a picture's format that cannot be.
    """
    retriever = Retriever(run, data, method, metric)
    (image, own), *others = (_example(retriever, name) for name in (file, *also))
    unlike = [_example(retriever, name) for name in unlike]
    searched = fit_query(image, data)
    if others or unlike:
        liked, unliked = ([fit_query(other, data) for other, _ in group] for group in ([(image, own), *others], unlike))
        exclude = [row for _, row in [(image, own), *others, *unlike] if row is not None]
        (distances,), (rows,) = retriever.search_like(liked, k, unlike=unliked, exclude=exclude)
    else:
        (distances,), (rows,) = retriever.search(searched[None], k, exclude_self=None if own is None else [own])
    if max_distance is not None:
        limit = usual_distance(retriever) if max_distance == "auto" else float(max_distance)
        near = distances <= limit
        distances, rows = distances[near], rows[near]
    found = [
        {"rank": rank, "id": printable(name), "distance": round(float(distance), 6), "path": path_of(run, name)}
        for rank, (name, distance) in enumerate(zip((retriever.ids[row] for row in rows), distances, strict=True), 1)
    ]
    drawn = None
    if len(rows):
        drawn = _draw(run, file, picture, searched, retriever.images[rows], distances)
    how = {"method": retriever.method, "metric": metric, "encoder": retriever.encoder_hash, "images": len(retriever)}
    ground = {"negative": searched is not image, "background": "light" if data.light else "dark"}
    answer = {"query": printable(file), **ground, **how, "hits": found, "picture": drawn and str(drawn)}
    if page:
        write_gallery(page, answer, searched, retriever.images[rows])
    for hit in found:
        hit["path"] = hit["path"] and printable(hit["path"])
    return answer


def _draw(run, file, picture, *what):
    """Draw a query and its hits where the user says, or else into the run; returns the picture's path.

    In the run, queries of one name from two folders have a picture each. Where it cannot be written there (the results
    may be another's), there is none: the hits are what was asked for.
    """
    mark = hashlib.sha256(os.path.abspath(file).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    drawn = Path(picture or run.path(f"queries/{printable(Path(file).stem)[:40]}_{mark}.png"))
    with plots.plt.style.context(plots.STYLE), nullcontext() if picture else suppress(OSError):
        figure = plots.query_and_hits(*what)
        with atomic_path(drawn) as partial:
            figure.savefig(partial)
        plots.plt.close(figure)
    return drawn if drawn.exists() else None


def _example(retriever, name):
    """The image of a file, or of an id of the run; and the row of the latter, else ``None``."""
    if not os.path.exists(name):
        ids = [printable(known) for known in retriever.ids]  # as a query prints them
        if printable(name) in ids:
            row = ids.index(printable(name))
            return np.asarray(retriever.images[row]), row
    try:
        return read_image(name, retriever.shape), None
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{printable(name)}: {error}") from error


def usual_distance(retriever, sample=300):
    """The distance within which :data:`ALIKE` of the images have another, from some of them, evenly spread."""
    rows = np.unique(np.linspace(0, len(retriever.images) - 1, sample).astype(int))
    nearest = retriever.search(np.stack([retriever.images[row] for row in rows]), 1, exclude_self=rows).distances
    return float(np.quantile(nearest, ALIKE))


def path_of(run, name):
    """Where the file of an id lies, as a text; ``None`` if it is not in the folder that the run was made from."""
    path = Path(run.manifest.get("source", "")) / name
    return str(path) if path.is_absolute() and path.is_file() else None


def duplicates(run, data, page=None):
    """Groups of near-duplicates in what a run searches, by pixels (``folders.duplicates``): ``[[{id, path, bytes}]]``.

    The largest file of a group comes first. ``page`` is where a page to review them goes. Nothing is deleted.
    """
    retriever = Retriever(run, data, "pixels", "euclidean")
    rows = np.setdiff1d(np.arange(len(retriever.ids)), retriever.gone)
    pairs, *_ = near_duplicates(retriever.codes[rows])
    groups = []
    for group in groups_of(rows[pairs]):
        files = [{"id": retriever.ids[row], "path": path_of(run, retriever.ids[row]), "row": row} for row in group]
        files = [file | {"bytes": os.path.getsize(file["path"]) if file["path"] else None} for file in files]
        groups.append(sorted(files, key=lambda file: -(file["bytes"] or 0)))
    if page:
        shown = [[_shown(file, retriever.images[file["row"]]) for file in group] for group in groups]
        _write_page(page, title=f"{len(groups)} groups of near-duplicates", groups=shown)
    return [[{name: file[name] for name in ("id", "path", "bytes")} for file in group] for group in groups]


def write_gallery(page, answer, query, images):
    """A page that holds the query and its hits, each with a link to its file; it needs no other file."""
    hits = [_shown(hit, image) for hit, image in zip(answer["hits"], images, strict=True)]
    captions = [f"{hit['rank']}: {hit['id']} ({hit['distance']})" for hit in answer["hits"]]
    hits = [hit | {"caption": caption} for hit, caption in zip(hits, captions, strict=True)]
    title = f"{len(hits)} images like {answer['query']}, by {ELSEWHERE.get(answer['method'], answer['method'])}"
    _write_page(page, title=title, groups=[[{"src": data_url(query), "caption": "query"}, *hits]])


def _shown(hit, image):
    """What a page shows of an image of the run: a small copy of its file where there is one, else its pixels here."""
    shown = {
        "caption": printable(hit["id"]) + (f", {hit['bytes']:,} bytes" if hit.get("bytes") else ""),
        "src": data_url(image),
    }
    if hit["path"]:
        with suppress(UnreadableImageError):  # a file that vanished meanwhile
            shown |= {"src": data_url(preview(hit["path"], 320)), "href": Path(hit["path"]).as_uri()}
    return shown


def _write_page(page, **facts):
    pages = Environment(loader=PackageLoader("cbir_utils.retrieval", ""), autoescape=True)
    with atomic_path(page) as partial:
        partial.write_text(pages.get_template("gallery.html.j2").render(**facts), encoding="utf-8")
