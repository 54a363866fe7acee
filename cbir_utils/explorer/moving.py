"""Figures that move under the hand: turn, play, drag.

Each is one piece of HTML with its numbers and its script inside. So it needs no kernel and no server: it still moves in
a stored notebook and on a page of the site. (JupyterLab runs scripts only in notebooks that it trusts: run the cell.)
"""

import hashlib
import html
import json
from pathlib import Path

import numpy as np
from PIL import Image

from cbir_utils.folders.files import data_url
from cbir_utils.plots import CLASS_COLOURS

SCRIPT = Path(__file__).with_name("moving.js")


class Moving:
    """What a cell shows of a figure that moves: its HTML, and in plain text what it is."""

    def __init__(self, data):
        self.data = data

    def _repr_html_(self):
        data = json.dumps(self.data, separators=(",", ":")).replace("<", "\\u003c")
        name = f"moving-{hashlib.sha256(data.encode()).hexdigest()[:12]}"  # the same figure, the same output
        wait = f"{html.escape(self.data['title'])}: run this cell to move the figure."
        views = f'document.querySelectorAll("#{name}").forEach((root) => ({SCRIPT.read_text()})(root, data))'
        return f'<div id="{name}" class="moving">{wait}</div>\n<script>((data) => {views})({data});</script>'

    def __repr__(self):
        return f"a figure that moves: {self.data['title']}"


def film(panels, kinds, names, *, captions, caption="", slider="frame", start=None):
    """Points that move from frame to frame, on axes that stay; those of three numbers turn under the pointer.

    Parameters
    ----------
    panels : dict
        ``{title: (F, N, 2) or (F, N, 3) array}``, the same F and N in each: side by side, on the same axes.
    kinds, names : ndarray, sequence of str
        ``(N,)`` int, each point's class, and what is drawn for each class; dots where there are no names.
    captions, caption, slider : list of str, str, str
        A line for each frame; one for all; what the slider moves through, for those who hear the page.
    start : int, optional
        The frame that is shown first, by default the last.

    Returns
    -------
    Moving
        Shown at the end of a cell.
    """
    whole = np.concatenate([np.reshape(frames, (-1, np.shape(frames)[-1])) for frames in panels.values()])
    low, high = whole.min(axis=0), whole.max(axis=0)
    return Moving({
        "kind": "points", "title": next(iter(panels)), "caption": caption, "captions": list(captions), "slider": slider,
        "panels": [{"title": name, "frames": _placed(f, low, high)} for name, f in panels.items()],
        "kinds": np.asarray(kinds).tolist(), "names": [name[:2] for name in names], "colours": CLASS_COLOURS,
        "start": len(captions) - 1 if start is None else start,
    })  # fmt: skip


def pad(decode, codes, kinds, names, *, cells=15, title="codes"):
    """A point to drag over codes of two numbers, and beside it the image that ``decode`` makes of it.

    ``decode`` turns codes ``(N, 2)`` into images ``(N, H, W, C)`` in [0, 1]. It is asked once, for ``cells × cells``
    codes that span ``codes (N, 2)``; the point shows the nearest of these. ``kinds`` and ``names`` as in :func:`film`.
    """
    low, high = codes.min(axis=0), codes.max(axis=0)
    x, y = np.meshgrid(*(np.linspace(low[axis], high[axis], cells) for axis in (0, 1)))
    images = np.rint(255 * decode(np.column_stack([x.ravel(), y.ravel()]))).astype(np.uint8)
    height, width, channels = images.shape[1:]
    sheet = images.reshape(cells, cells, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(cells * height, cells * width, channels)
    return Moving({
        "kind": "pad", "title": title, "caption": "Drag the point, or move it with the arrow keys.",
        "sprite": data_url(Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet).convert("RGB")),
        "cells": cells, "height": height, "width": width, "low": low.tolist(), "high": high.tolist(),
        "points": _placed(codes, low, high), "kinds": np.asarray(kinds).tolist(),
        "names": [name[:2] for name in names], "colours": CLASS_COLOURS,
    })  # fmt: skip


def _placed(points, low, high):
    """Coordinates as whole numbers, 0 to 1000 from ``low`` to ``high``: short to write."""
    return np.rint(1000 * (points - low) / np.where(high > low, high - low, 1)).astype(int).tolist()
