"""What a page can search with: an image of the dataset or of the collection, a file, a drawing."""

import base64
import io
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image

from cbir_utils.explorer.drawing import drawing_to_image
from cbir_utils.folders.files import UnreadableImageError, read_image
from cbir_utils.names import printable
from cbir_utils.retrieval.retriever import fit_query


class Query(NamedTuple):
    """An image to search with, and where it is from."""

    image: np.ndarray  #: (H, W, C) uint8
    what: str  #: in words
    asked: dict  #: what asks for it again
    row: int | None = None  #: of the image in what is searched, which is then left out of its own hits


def query_of_dataset(data, number, rng):
    """The dataset's query with this number, or one at random."""
    if number == "random":
        number = int(rng.integers(len(data.queries)))
    number = whole(number, "the query's number", 0, len(data.queries) - 1)
    image, own = np.asarray(data.queries.images[number]), None if data.own_rows is None else int(data.own_rows[number])
    if data.ids:
        return Query(image, printable(data.ids[own]), {"row": own}, own)
    return Query(image, f"query {number}", {"query": number}, own)


def query_of_collection(retriever, asked):
    """An image of those searched, by its row, or by its id or a part of it."""
    row = asked["row"] if "row" in asked else _row_of(retriever.ids, asked["id"])
    row = whole(row, "the image's row", 0, len(retriever.ids) - 1)
    return Query(np.asarray(retriever.images[row]), f"image {printable(retriever.ids[row])}", {"row": row}, row)


def _row_of(ids, text):
    """The row of an id, or else of the first id that holds ``text``, as the page shows them."""
    ids = [printable(name) for name in ids]
    with suppress(ValueError):
        return ids.index(text)
    row = next((row for row, name in enumerate(ids) if text and text.lower() in name.lower()), None)
    if row is None:
        raise ValueError(f"no image of this collection is called {text!r}")
    return row


def query_of_drawing(data, asked, hand):
    """What was drawn on the pad, in the database's hand unless the page asks for it as it is."""
    ink = np.frombuffer(base64.b64decode(asked["ink"]), np.uint8)
    ink = ink.reshape(round(len(ink) ** 0.5), -1)
    hand = hand if asked.get("fit", True) else None
    return Query(drawing_to_image(ink, data.database.images.shape[1:], hand, light=data.light), "a drawing", asked)


def query_of_file(data, asked):
    """A file from the browser; it is asked for again by what became of it, which is small and read as it is."""
    shape = data.database.images.shape[1:]
    try:
        image = fit_query(read_image(base64.b64decode(asked["file"]), shape), data)
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{asked['name']} cannot be a query: {error}") from error
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if shape[-1] == 1 else image).save(buffer, "PNG")
    again = {"file": base64.b64encode(buffer.getvalue()).decode(), "name": asked["name"]}
    return Query(image, asked["name"], again)


def whole(value, what, low, high):
    """A whole number from a request; ValueError with one sentence if it is none, or out of range."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{what} must be a whole number from {low} to {high:,}, not {value!r}")
    return value
