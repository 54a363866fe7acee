"""The pictures that the explorer's page shows: thumbnails of original files, originals, all in one sheet."""

import hashlib
import os
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from cbir_utils.artifacts.files import atomic_path
from cbir_utils.folders.files import UnreadableImageError, data_url, preview
from cbir_utils.names import printable
from cbir_utils.retrieval.query import path_of

#: The longer side of a thumbnail, of an opened original, and of an image on the map, in pixels.
THUMBNAIL, ORIGINAL, SMALL = 256, 1600, 40


def thumbnail(run, name, image):
    """The ``data:`` URL of a small copy of the file with this id, kept in the run; of ``image`` where there is none."""
    path = path_of(run, name) if name else None
    if path is None:
        return data_url(image)
    try:
        file = os.stat(path)
        key = hashlib.sha256(f"{path}\0{file.st_size}\0{file.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        kept = run.path(f"thumbnails/{key.hexdigest()[:32]}.jpg")
        if not kept.exists():
            with atomic_path(kept) as partial:
                preview(path, THUMBNAIL).save(partial, quality=85)
        with Image.open(kept) as small:
            return data_url(small)
    except (UnreadableImageError, OSError):  # it vanished or cannot be read any more; results may be read-only
        return data_url(image)


def original(run, name, image):
    """The file with an id, as large as a screen shows it, and what is known of it; ``image`` where there is no file."""
    path = path_of(run, name)
    if path is None:
        return {
            "id": printable(name),
            "src": data_url(image),
            "path": "",
            "about": f"{image.shape[1]} × {image.shape[0]} pixels",
        }
    file, shown = os.stat(path), preview(path, ORIGINAL)
    with Image.open(path) as opened:
        width, height = opened.size
    changed = datetime.fromtimestamp(file.st_mtime).strftime("%Y-%m-%d %H:%M")
    about = f"{width:,} × {height:,} pixels, {file.st_size:,} bytes, changed {changed}"
    return {"id": printable(name), "src": data_url(shown), "path": printable(Path(path).resolve()), "about": about}


def sprite(images):
    """All of some images ``(N, H, W, C)`` uint8 in one sheet: its ``data:`` URL, their side in it, and its columns."""
    columns = int(np.ceil(np.sqrt(len(images))))
    side = min(SMALL, max(images.shape[1:3]))
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for place, image in enumerate(images):
        small = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
        small.thumbnail((side, side))
        sheet.paste(small, (place % columns * side, place // columns * side))
    return data_url(sheet), side, columns
