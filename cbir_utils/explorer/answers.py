"""An explorer of a finished run: a query of your own, its hits while the pen moves, and why they are hits.

First pure functions, from an image to an answer; then :class:`Explorer`, ipywidgets over them. What it shows can
also be had as figures (:meth:`Explorer.snapshot`), for those who read a notebook without running it.

Two parts are anywidgets, a file of JavaScript each: the pad to draw on and the strip of hits. (ipycanvas sends every
movement of the mouse to the kernel, which draws and sends back; on the pad the ink follows the pen in the browser, and
the kernel gets a picture every 70 ms.)
"""

import base64
import io
import time
from contextlib import contextmanager
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from typing import NamedTuple

import anywidget
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import traitlets

from cbir_utils import plots
from cbir_utils.datasets import DatasetError
from cbir_utils.explorer.drawing import centre
from cbir_utils.folders.files import UnreadableImageError, read_image
from cbir_utils.index import METRICS, Index
from cbir_utils.methods.corruptions import CORRUPTIONS, corrupt
from cbir_utils.methods.descriptors import Projection
from cbir_utils.retrieval.retriever import Retriever, available_methods, fit_query, run_data
from cbir_utils.run import ArtifactError, Run

#: Images on the latent map: more would be slower and tell the eye no more.
ON_THE_MAP = 2000

#: Images on the way from a query to a hit.
STEPS = 7


class Query(NamedTuple):
    """An image to search with, and where it is from."""

    image: np.ndarray  #: (H, W, C) uint8
    what: str  #: in words
    row: int | None = None  #: of the image in the database, which is then no hit of itself
    drawing: int | None = None  #: the number of the pad's picture, for a drawing


class CodeMap(NamedTuple):
    """A map of a method's codes: their two principal directions, fitted to a sample of them."""

    rows: np.ndarray  #: (M,) which codes are shown
    project: Projection  #: codes (Q, D) → points (Q, 2)
    share: float  #: of the codes' variance that the two directions hold


# -- pure functions -------------------------------------------------------------------------------------------------


def drawing_to_image(ink, shape, *, fit=True, light=False):
    """An image of the database's form from a drawing.

    Parameters
    ----------
    ink : ndarray
        ``(S, S)`` uint8: light ink on black, of any size.
    shape : tuple
        ``(H, W, C)`` of the result.
    fit : bool
        Scale and centre the ink as MNIST does (:func:`cbir_utils.explorer.drawing.centre`), in the largest square that
        fits; otherwise the whole pad becomes the image.
    light : bool
        Whether the database's images are dark on light; then the result is too.

    Returns
    -------
    ndarray
        ``(H, W, C)`` uint8. Raises ValueError if there is no ink.
    """
    from PIL import Image

    height, width, channels = shape
    if fit:
        square = centre(ink, side=min(height, width))
        top, left = (height - square.shape[0]) // 2, (width - square.shape[1]) // 2
        image = np.zeros((height, width), np.uint8)
        image[top : top + square.shape[0], left : left + square.shape[1]] = square[..., 0]
    elif ink.any():
        image = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    else:
        raise ValueError("the drawing is empty; draw something first")
    image = 255 - image if light else image
    return np.repeat(image[..., None], channels, axis=2)


def occlusion_map(distance, image, *, background=0, patch=None, stride=None):
    """How much each part of a query matters for its distance to a hit (Zeiler and Fergus 2014, section 4.2).

    A square patch of ``background`` is put over every part of the image in turn.

    Parameters
    ----------
    distance : callable
        Images ``(Q, H, W, C)`` uint8 → distances ``(Q,)``.
    image : ndarray
        ``(H, W, C)`` uint8, the query.
    background : int
        The value that covers: 0 for black, 255 for white.
    patch : int, optional
        Side of the patch in pixels; by default a fifth of the image's shorter side, at least 1.
    stride : int, optional
        By how many pixels the patch moves; by default half a patch.

    Returns
    -------
    ndarray
        ``(H, W)`` float32: for each pixel the mean change of the distance over all patches that cover it. Above 0 the
        part speaks for the hit: without it the hit is farther away.
    """
    height, width = image.shape[:2]
    patch = max(1, min(height, width) // 5) if patch is None else patch
    stride = max(1, patch // 2) if stride is None else stride
    starts = np.arange(1 - patch, max(height, width), stride)  # over the edges too, so that every pixel is covered
    rows, columns = (
        (i >= starts[:, None]) & (i < starts[:, None] + patch) for i in (np.arange(height), np.arange(width))
    )
    rows, columns = rows[rows.any(axis=1)], columns[columns.any(axis=1)]
    covered = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, height, width)
    images = np.where(covered[..., None], np.uint8(background), image)
    distances = np.asarray(distance(np.concatenate([image[None], images])), dtype=np.float64)
    change = np.einsum("p,phw->hw", distances[1:] - distances[0], covered)
    return (change / np.maximum(covered.sum(axis=0), 1)).astype(np.float32)


def distance_to(retriever, row):
    """The function that measures how far images are from one of the database, as ``retriever`` measures it."""
    index = Index(retriever.metric).add(np.ascontiguousarray(retriever.codes[[row]]))
    return lambda images: index.search(retriever.encode(images), 1).distances[:, 0]


def map_codes(codes, *, sample=ON_THE_MAP, seed=0):
    """A :class:`CodeMap` of codes ``(N, D)`` float32, fitted to at most ``sample`` of them, drawn at random."""
    rows = np.random.default_rng(seed).permutation(len(codes))[:sample]
    some = np.asarray(codes[rows])
    with np.errstate(invalid="ignore"):  # of codes that are all alike
        project = Projection.fit(some, 2, seed=seed)
    total = some.var(axis=0).sum()
    return CodeMap(rows, project, float(project(some).var(axis=0).sum() / total) if total > 0 else 1.0)


# -- the parts that are drawn in the browser ------------------------------------------------------------------------


class DrawingPad(anywidget.AnyWidget):
    """A pad to draw on with mouse, pen, finger or keys. Each picture comes with a ``number``, observe that.

    ``pixels`` are ``side`` × ``side`` bytes, light ink on black whatever the pad looks like.
    """

    _esm = Path(__file__).with_name("drawing_pad.js")
    side = traitlets.Int(112).tag(sync=True)
    light = traitlets.Bool(False).tag(sync=True)  # black ink on white
    # Not echoed: a picture need not come back to the browser that it is from.
    pixels = traitlets.Bytes(b"").tag(sync=True, echo_update=False, from_json=lambda value, _: bytes(value))
    pen_down = traitlets.Bool(False).tag(sync=True, echo_update=False)
    number = traitlets.Int(0).tag(sync=True, echo_update=False)

    def ink(self):
        """The drawing as ``(side, side)`` uint8."""
        pixels = np.frombuffer(self.pixels, np.uint8)
        if pixels.size != self.side**2:
            return np.zeros((self.side, self.side), np.uint8)
        return pixels.reshape(self.side, self.side)


class HitStrip(anywidget.AnyWidget):
    """Query, hits and status. It sends ``{"pick": rank}`` for a click on a hit and ``{"back": true}``."""

    _esm = Path(__file__).with_name("hit_strip.js")
    _css = Path(__file__).with_name("explorer.css")
    answer = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)


# -- the explorer ---------------------------------------------------------------------------------------------------


class Explorer:
    """Choose or draw a query, see its hits, spoil it, search on with a hit, and look why it is one.

    Parameters
    ----------
    run : Run
        With the artifacts of at least one method; pixels need none.
    data : Dataset
        What the run was made from (:func:`cbir_utils.retrieval.retriever.run_data`).
    method : str, optional
        The method to start with; by default the best that the run has.
    metric : {"cosine", "euclidean", "manhattan"}
    k : int
        Number of hits.
    seed : int
        For the query at random and for what is random in corruptions.

    Attributes
    ----------
    widget : ipywidgets.VBox
        To be displayed.
    query : Query
        What is searched with, before corruption.
    hits : Hits
        ``distances`` and ``ids`` (rows of the database) of the last answer, each ``(K,)``.

    What goes wrong (an upload that is no image, an empty drawing, a method without artifacts) leaves everything as it
    was and appears as one sentence, ``strip.error``.
    """

    def __init__(self, run, data, *, method=None, metric="cosine", k=5, seed=0):
        self.run, self.data, self.seed, self.light = run, data, seed, data.light
        self.query, self.hits, self.retriever = None, None, None
        self._past, self._serial = [], 0
        self._rng = np.random.default_rng(seed)
        self._load = lru_cache(maxsize=4)(partial(_load, run, data))
        self._map = lru_cache(maxsize=4)(lambda method: map_codes(self._load(method, self.metric.value).codes))
        methods = available_methods(run)
        self._make_controls(methods, metric, k)
        failure = None
        try:
            self.retriever = self._load(method or methods[0], metric)
        except (ArtifactError, ValueError) as error:
            failure = error
            self.retriever = self._load("pixels", metric)
        self.method.value = self.retriever.method
        self._observe()
        self._ask_row()
        if failure:
            self._tell(failure)

    # -- what it consists of --------------------------------------------------------------------------------------

    def _make_controls(self, methods, metric, k):
        """Make the widgets and lay them out."""
        last = len(self.data.queries.images) - 1
        wide = {"layout": widgets.Layout(width="100%", max_width="320px"), "style": {"description_width": "96px"}}
        tick = {"indent": False, "layout": widgets.Layout(width="auto")}
        self.pad = DrawingPad(light=self.light)
        self.fit = widgets.Checkbox(True, description="fit as MNIST does", **tick)
        self.row = widgets.BoundedIntText(0, 0, last, description="query number", **wide)
        self.random = widgets.Button(description="a query at random", icon="random", layout=tick["layout"])
        self.upload = widgets.FileUpload(
            accept="image/*", multiple=False, description="upload an image", layout=tick["layout"]
        )
        self.method = widgets.Dropdown(options=methods, description="method", **wide)
        self.metric = widgets.Dropdown(options=METRICS, value=metric, description="metric", **wide)
        self.count = widgets.IntSlider(k, 1, max(20, k), description="hits", **wide)
        self.corruption = widgets.Dropdown(options=list(CORRUPTIONS), description="spoil with", **wide)
        self.strength = widgets.FloatSlider(0, min=0, max=1, description="strength", **wide)
        self.unit = widgets.HTML()
        self.labels = widgets.Checkbox(False, description="show labels", **tick)
        self.labels.disabled = self.data.database.labels is None
        self.strip = HitStrip()
        self.hit = widgets.Dropdown(options=range(1, k + 1), description="for hit", **wide)
        self.why = widgets.Checkbox(False, description="why this hit", **tick)
        self.why_view = widgets.HTML()
        self.where = widgets.Checkbox(False, description="where it is", **tick)
        self.where_view = widgets.HTML()
        self._set_strength()

        def column(name, *children):
            box = (widgets.HBox if name == "row" else widgets.VBox)(children)
            box.add_class(f"cbir-{name}")
            return box

        def row(*children):
            return column("row", *children)

        draw = column("draw", _heading("Draw a query ..."), self.pad, self.fit)
        choose = column(
            "choose", _heading("... or choose one"), self.row, row(self.random, self.upload),
            _heading("Spoil it"), self.corruption, self.strength, self.unit,
        )  # fmt: skip
        found = column(
            "found", _heading("Hits"), row(self.method, self.metric), row(self.count, self.labels), self.strip,
            row(self.why, self.hit), self.why_view, self.where, self.where_view,
        )  # fmt: skip
        columns = widgets.Box([draw, found, choose])
        columns.add_class("cbir-columns")
        self.widget = widgets.VBox([columns])
        self.widget.add_class("cbir-explorer")
        for name in ("fit", "row", "random", "upload", "method", "metric", "count", "corruption", "strength", "labels",
                     "hit", "why", "where"):  # fmt: skip
            getattr(self, name).add_class(f"cbir-control-{name}")
        for view in (self.why_view, self.where_view):
            view.add_class("cbir-view")

    def _observe(self):
        """Connect the widgets with what they do."""
        self.pad.observe(lambda _: self._draw(), "number")
        self.fit.observe(lambda _: self._draw() if self.query and self.query.drawing is not None else None, "value")
        self.row.observe(lambda _: self._ask_row(), "value")
        self.random.on_click(lambda _: self._ask_at_random())
        self.upload.observe(lambda change: self._take_upload(change["new"]), "value")
        for control in (self.method, self.metric):
            control.observe(lambda _: self._change_retriever(), "value")
        self.count.observe(lambda _: self._answer(), "value")
        self.corruption.observe(lambda _: self._set_strength(), "value")
        self.strength.observe(lambda _: self._answer(), "value")
        self.labels.observe(lambda _: self._answer(), "value")
        self.strip.on_msg(lambda _, message, __: self.back() if message.get("back") else self.pick(message["pick"]))
        for control in (self.hit, self.why, self.where):
            control.observe(lambda _: self._explain(), "value")

    # -- from an input to a query -----------------------------------------------------------------------------------

    def ask(self, query, *, begun=None):
        """Search with a :class:`Query`; the one before it can be had back."""
        going_on = self.query is not None and query.drawing is not None and self.query.drawing is not None
        if self.query is not None and not going_on:  # the pictures of one drawing are one step
            self._past.append(self.query)
        self.query = query
        self._answer(begun)

    def pick(self, rank):
        """Search with the hit of this rank, 1 for the nearest."""
        if self.hits is None or not 1 <= rank <= len(self.hits.ids):
            return
        row = int(self.hits.ids[rank - 1])
        self.ask(Query(np.asarray(self.retriever.images[row]), f"image {self.retriever.ids[row]}", row))

    def back(self):
        """Search with the query before this one again."""
        if self._past:
            self.query = self._past.pop()
            self._answer()

    def _ask_row(self):
        row = self.row.value
        own = self.data.own_rows
        image = np.asarray(self.data.queries.images[row])
        self.ask(Query(image, f"query {row}", None if own is None else int(own[row])))

    def _ask_at_random(self):
        others = self.row.max
        if others:
            row = int(self._rng.integers(others))
            self.row.value = row + (row >= self.row.value)  # another one, so that something happens

    def _draw(self):
        begun = time.perf_counter()
        with self._telling():
            image = drawing_to_image(self.pad.ink(), self.retriever.shape, fit=self.fit.value, light=self.light)
            self.ask(Query(image, "a drawing", drawing=self.pad.number), begun=begun)

    def _take_upload(self, files):
        if not files:
            return
        begun = time.perf_counter()
        name = files[0]["name"]
        with self._telling():
            try:
                image = read_image(bytes(files[0]["content"]), self.retriever.shape)
            except UnreadableImageError as error:
                raise UnreadableImageError(f"{name} cannot be a query: {error}") from error
            self.ask(Query(fit_query(image, self.data), name), begun=begun)
        self.upload.value = ()  # so that the same file can be chosen again, and is not kept

    def _change_retriever(self):
        method, metric = self.method.value, self.metric.value
        with self._telling():
            try:
                self.retriever = self._load(method, metric)
            except Exception:
                self.method.value, self.metric.value = self.retriever.method, self.retriever.metric
                raise
            self._answer()

    def _set_strength(self):
        """Give the slider the range of the chosen corruption, and no strength."""
        corruption = CORRUPTIONS[self.corruption.value]
        low, high = min(corruption.strengths), max(corruption.strengths)
        with self.strength.hold_trait_notifications():  # the old value may lie outside the new range
            self.strength.min, self.strength.max, self.strength.value = low, high, 0
            self.strength.step = (high - low) / 40
        self.unit.value = f"<p class='cbir-note'>In {escape(corruption.unit)}; 0 leaves the query as it is.</p>"

    # -- from a query to its answer -----------------------------------------------------------------------------------

    def searched(self):
        """The image that is searched with, ``(H, W, C)`` uint8: the query as the corruption leaves it."""
        strength = round(self.strength.value, 6)  # the slider's steps add up to almost nothing, not to 0
        image = self.query.image[None]
        return corrupt(image, self.corruption.value, strength, seed=self.seed, light=self.light)[0]

    def _answer(self, begun=None):
        """Search, and show hits and status; ``begun`` is when the input came in."""
        begun = time.perf_counter() if begun is None else begun
        with self._telling():
            image, own = self.searched(), self.query.row
            found = self.retriever.search(image[None], self.count.value, exclude_self=None if own is None else [own])
            self.hits = type(found)(found.distances[0], found.ids[0])
            hits = [self._hit(row, distance) for distance, row in zip(*self.hits, strict=True)]
            src = data_url(image)
            ms = 1000 * (time.perf_counter() - begun)
            self._serial += 1
            self.strip.error = ""
            self.strip.answer = {
                "serial": self._serial, "drawing": self.query.drawing, "ms": round(ms, 1), "past": len(self._past),
                "method": self.retriever.method, "status": self._status(ms), "hits": hits,
                "query": {"src": src, "what": self.query.what},
            }  # fmt: skip
            self._explain()

    def _hit(self, row, distance):
        """What the strip shows of a hit."""
        labels = self.data.database.labels
        known = self.labels.value and labels is not None and row < len(labels)  # images added later have none
        return {
            "row": int(row), "id": self.retriever.ids[row], "distance": plots.short(distance),
            "src": data_url(self.retriever.images[row]), "label": self.data.class_names[labels[row]] if known else "",
        }  # fmt: skip

    def _status(self, ms):
        spoilt = f" with {self.corruption.value} {self.strength.value:.3g}" if self.strength.value else ""
        encoder = self.retriever.encoder_hash
        encoder = f"encoder {encoder[:12]}" if encoder else "no encoder"
        return (
            f"Searched with {self.query.what}{spoilt}, by {self.retriever.method} ({encoder}) and "
            f"{self.retriever.metric} distance: {len(self.hits.ids)} of {len(self.retriever):,} images in {ms:.1f} ms."
        )

    @contextmanager
    def _telling(self):
        """Let a failure be told in one sentence, instead of a traceback that nobody sees."""
        try:
            yield
        except (ArtifactError, ValueError, OSError, MemoryError) as error:
            self._tell(error)

    def _tell(self, error):
        self.strip.error = " ".join(str(error).split()) or type(error).__name__

    # -- why and where ------------------------------------------------------------------------------------------------

    def _explain(self):
        """Refresh the views that are open; not while the pen is down, since they take longer than a search."""
        ranks = list(range(1, len(self.hits.ids) + 1)) if self.hits else []
        if list(self.hit.options) != ranks:
            self.hit.options = ranks
        if self.pad.pen_down or not ranks:
            return
        with self._telling(), plt.style.context(plots.STYLE):
            self.why_view.value = self._why() if self.why.value else ""
            self.where_view.value = _picture(*self._where()) if self.where.value else ""

    def _why(self):
        path = self._path(self.hit.value)
        if path is None:
            first = f"<p>The codes of {escape(self.retriever.method)} cannot be decoded: there is no path to show.</p>"
        else:
            first = _picture(*path)
        return first + _picture(*self._occlusion(self.hit.value))

    def _hit_of_rank(self, rank):
        row = int(self.hits.ids[rank - 1])
        return row, np.asarray(self.retriever.images[row]), float(self.hits.distances[rank - 1])

    def _path(self, rank):
        """The figure of the decoded path and what it shows in words, or ``None`` without a decoder."""
        query = self.searched()
        _, hit, distance = self._hit_of_rank(rank)
        images = self.retriever.between(query, hit, STEPS)
        if images is None:
            return None
        text = f"{STEPS} images decoded on the way from the query's code to that of hit {rank}"
        return plots.decoded_path(query, hit, images, rank, distance), text

    def _occlusion(self, rank):
        query = self.searched()
        row, hit, distance = self._hit_of_rank(rank)
        changes = occlusion_map(distance_to(self.retriever, row), query, background=255 * self.light)
        text = (
            f"Map of the query: covering a part changes the distance to hit {rank} of {plots.short(distance)} "
            f"by {changes.min():+.2g} to {changes.max():+.2g}"
        )
        return plots.occlusion(query, hit, changes, rank, distance), text

    def _where(self):
        code_map = self._map(self.retriever.method)
        rows = np.concatenate([code_map.rows, self.hits.ids])
        codes = np.concatenate([self.retriever.encode(self.searched()[None]), self.retriever.codes[rows]])
        images = np.concatenate([self.searched()[None], self.retriever.images[rows]])
        figure, ax = plt.subplots(figsize=(5.4, 5.4))
        k = len(self.hits.ids)
        plots.where_it_is(ax, code_map.project(codes), images, query=0, hits=range(len(codes) - k, len(codes)),
                          share=code_map.share)  # fmt: skip
        text = f"Map of the codes with the query and its {k} hits"
        return figure, text

    # -- the same without widgets -------------------------------------------------------------------------------------

    def snapshot(self, hit=1):
        """What the explorer shows now, as figures, for the hit of rank ``hit``.

        Returns ``{"hits": Figure, "path": Figure or None, "occlusion": Figure, "where": Figure}``; the path is ``None``
        where the method has no decoder.
        """
        with plt.style.context(plots.STYLE):
            path = self._path(hit)
            ids, distances = self.hits.ids, self.hits.distances
            return {
                "hits": plots.query_and_hits(self.searched(), self.retriever.images[ids], distances),
                "path": path and path[0],
                "occlusion": self._occlusion(hit)[0],
                "where": self._where()[0],
            }


def open_explorer(dataset, results):
    """The widget of an :class:`Explorer` of ``results/dataset``, or a sentence that says why there is none."""
    try:
        run = Run(Path(dataset).name, results)
        return Explorer(run, run_data(run)).widget
    except (ArtifactError, DatasetError) as error:
        return widgets.HTML(f"<p role='alert' class='cbir-nothing' data-testid='nothing'>{escape(str(error))}</p>")


def _load(run, data, method, metric):
    """A retriever that has searched once: the first search of a network takes longer than all others."""
    retriever = Retriever(run, data, method, metric)
    retriever.search(np.zeros((1, *retriever.shape), np.uint8), 1)
    return retriever


def _heading(text):
    return widgets.HTML(f"<h3>{text}</h3>")


def data_url(image):
    """An image ``(H, W, C)`` uint8 as the text of a ``data:`` URL (PNG), for ``<img src>``."""
    from PIL import Image

    buffer = io.BytesIO()
    image = np.asarray(image)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _picture(figure, text):
    """A figure as ``<img>`` with a text for those who do not see it; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{source}" alt="{escape(text)}">'
