"""The explorer: choose or draw a query, see its hits while the pen moves, spoil it, and see why an image was returned.

Two parts are anywidgets, a file of JavaScript each: the pad and the strip of hits. The ink follows the pen in the
browser, and the kernel gets a picture every 70 ms. (ipycanvas sends every movement to the kernel and back.)
"""

import time
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets

from cbir_utils.datasets import DatasetError
from cbir_utils.explorer.answers import Answer, Query, map_codes
from cbir_utils.explorer.drawing import drawing_to_image
from cbir_utils.explorer.plots import picture
from cbir_utils.folders.files import UnreadableImageError, data_url, read_image
from cbir_utils.index import METRICS
from cbir_utils.methods.corruptions import CORRUPTIONS, corrupt
from cbir_utils.plots import query_and_hits, short
from cbir_utils.retrieval.retriever import Retriever, available_methods, fit_query, run_data
from cbir_utils.run import Run
from cbir_utils.store import ArtifactError

#: What may go wrong with an input or a method; it is told in one sentence.
FAILURES = (ArtifactError, ValueError, OSError, MemoryError)


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
        return np.frombuffer(self.pixels, np.uint8).reshape(self.side, -1)


class HitStrip(anywidget.AnyWidget):
    """Query, hits and status. It sends ``{"pick": rank}`` for a click on a hit and ``{"back": true}``."""

    _esm = Path(__file__).with_name("hit_strip.js")
    _css = Path(__file__).with_name("explorer.css")
    answer = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)


class Explorer:
    """The explorer of a run, made from ``data``; display its ``widget``.

    It starts with a method (by default the best that the run has), a metric and a number of hits; ``seed`` is for the
    query at random and for what is random in corruptions. ``query`` is what was chosen, and ``answer`` what came of it.
    What goes wrong (an upload that is no image, an empty drawing, a method without artifacts) leaves everything as it
    was and appears as one sentence, ``strip.error``.
    """

    def __init__(self, run, data, *, method=None, metric="cosine", k=5, seed=0):
        self.data, self.seed = data, seed
        self.query = self.answer = failure = None
        self._past, self._rng = [], np.random.default_rng(seed)
        self._load = lru_cache(maxsize=4)(lambda method, metric: _warm(Retriever(run, data, method, metric)))
        self._map = lru_cache(maxsize=4)(lambda method: map_codes(self._load(method, self.metric.value).codes))
        methods = available_methods(run)
        try:
            self.retriever = self._load(method or methods[0], metric)
        except FAILURES as error:
            failure, self.retriever = error, self._load("pixels", metric)
        self._make_controls(methods, k)
        self.widget = self._laid_out()
        self._observe()
        self._ask_row()
        if failure:
            self._tell(failure)

    def _make_controls(self, methods, k):
        self.pad, self.strip = DrawingPad(light=self.data.light), HitStrip()
        self.fit = widgets.Checkbox(True, description="fit as MNIST does", indent=False)
        self.row = widgets.BoundedIntText(0, 0, len(self.data.queries) - 1, description="query number")
        self.random = widgets.Button(description="a query at random", icon="random")
        self.upload = widgets.FileUpload(accept="image/*", description="upload an image")
        self.corruption = widgets.Dropdown(options=list(CORRUPTIONS), description="spoil with")
        self.strength, self.unit = widgets.FloatSlider(description="strength"), widgets.HTML()
        self.method = widgets.Dropdown(options=methods, value=self.retriever.method, description="method")
        self.metric = widgets.Dropdown(options=METRICS, value=self.retriever.metric, description="metric")
        self.count = widgets.IntSlider(k, 1, max(20, k), description="hits")
        self.labels, self.why, self.where = (
            widgets.Checkbox(False, description=what, indent=False)
            for what in ("show labels", "why this hit", "where it is")
        )
        self.labels.disabled = self.data.database.labels is None
        self.hit = widgets.Dropdown(options=range(1, k + 1), description="for hit")
        self.why_view, self.where_view = widgets.HTML(), widgets.HTML()
        for name, control in vars(self).items():
            if isinstance(control, widgets.DOMWidget):
                control.add_class(f"cbir-control-{name}")
        self._set_strength()

    def _laid_out(self):
        """The widgets in their boxes, a text as a heading; the style sheet says where these are."""

        def box(name, *children):
            made = widgets.Box([widgets.HTML(f"<h3>{c}</h3>") if isinstance(c, str) else c for c in children])
            made.add_class(f"cbir-{name}")
            return made

        draw = box("draw", "Draw a query ...", self.pad, self.fit)
        settings = box("row", self.method, self.metric, self.count, self.labels)
        explained = box("row", self.why, self.hit), self.why_view, self.where, self.where_view
        found = box("found", "Hits", settings, self.strip, *explained)
        spoil = "Spoil it", self.corruption, self.strength, self.unit
        choose = box("choose", "... or choose one", self.row, box("row", self.random, self.upload), *spoil)
        return box("explorer", box("columns", draw, found, choose))

    def _observe(self):
        """Connect the widgets with what they do."""
        reactions = {
            self._draw_again: [self.fit],
            self._ask_row: [self.row],
            self._take_upload: [self.upload],
            self._change_retriever: [self.method, self.metric],
            self._set_strength: [self.corruption],
            self._search: [self.count, self.strength, self.labels],
            self._explain: [self.hit, self.why, self.where],
        }
        for react, controls in reactions.items():
            for control in controls:
                control.observe(lambda _, react=react: react(), "value")
        self.pad.observe(lambda _: self._draw(), "number")
        self.random.on_click(lambda _: self._ask_at_random())
        self.strip.on_msg(lambda _, message, __: self.back() if message.get("back") else self.pick(message["pick"]))

    def ask(self, query):
        """Search with a :class:`Query`; the one before it can be had back."""
        if self.query and not (query.drawing and self.query.drawing):  # the pictures of one drawing are one step
            self._past.append(self.query)
        self.query = query
        self._search()

    def pick(self, rank):
        """Search with the hit of this rank, 1 for the nearest."""
        if self.answer and 1 <= rank <= len(self.answer.rows):
            row = int(self.answer.rows[rank - 1])
            self.ask(Query(np.asarray(self.retriever.images[row]), f"image {self.retriever.ids[row]}", row))

    def back(self):
        """Search with the query before this one again."""
        if self._past:
            self.query = self._past.pop()
            self._search()

    def _ask_row(self):
        row, own = self.row.value, self.data.own_rows
        image = np.asarray(self.data.queries.images[row])
        self.ask(Query(image, f"query {row}", None if own is None else int(own[row])))

    def _ask_at_random(self):
        others = np.delete(np.arange(len(self.data.queries)), self.row.value)  # so that something happens
        if len(others):
            self.row.value = int(self._rng.choice(others))

    def _draw(self):
        with self._telling():
            image = drawing_to_image(self.pad.ink(), self.retriever.shape, fit=self.fit.value, light=self.data.light)
            self.ask(Query(image, "a drawing", drawing=self.pad.number))

    def _draw_again(self):
        if self.query.drawing:
            self._draw()

    def _take_upload(self):
        for file in self.upload.value:
            with self._telling():
                try:
                    image = read_image(bytes(file["content"]), self.retriever.shape)
                except UnreadableImageError as error:
                    raise UnreadableImageError(f"{file['name']} cannot be a query: {error}") from error
                self.ask(Query(fit_query(image, self.data), file["name"]))
        self.upload.value = ()  # so that the same file can be chosen again, and is not kept

    def _change_retriever(self):
        with self._telling():
            try:
                self.retriever = self._load(self.method.value, self.metric.value)
            except FAILURES:
                self.method.value, self.metric.value = self.retriever.method, self.retriever.metric
                raise
            self._search()

    def _set_strength(self):
        """Give the slider the range of the chosen corruption, and no strength."""
        corruption = CORRUPTIONS[self.corruption.value]
        low, high = min(corruption.strengths), max(corruption.strengths)
        with self.strength.hold_trait_notifications():  # the old value may lie outside the new range
            self.strength.min, self.strength.max, self.strength.value = low, high, 0
            self.strength.step = (high - low) / 40
        self.unit.value = f"<p class='cbir-note'>In {escape(corruption.unit)}; 0 leaves the query as it is.</p>"

    def _search(self):
        """Search with the query as the corruption leaves it, and show the answer."""
        begun = time.perf_counter()
        with self._telling():
            kind, strength = self.corruption.value, round(self.strength.value, 6)  # the slider's 0 is almost 0
            image = corrupt(self.query.image[None], kind, strength, seed=self.seed, light=self.data.light)[0]
            self.answer = Answer(self.retriever, image, self.count.value, self.query.row)
            shown = {"query": {"src": data_url(image), "what": self.query.what}, "hits": list(self._hits())}
            ms = round(1000 * (time.perf_counter() - begun), 1)
            by, spoilt = self.retriever, f" with {kind} {strength:.3g}" if strength else ""
            encoder = f"encoder {by.encoder_hash[:12]}" if by.encoder_hash else "no encoder"
            shown["status"] = (
                f"Searched with {self.query.what}{spoilt}, by {by.method} ({encoder}) and {by.metric} distance: "
                f"{len(self.answer.rows)} of {len(by):,} images in {ms} ms."
            )
            facts = {"ms": ms, "past": len(self._past), "method": by.method, "drawing": self.query.drawing}
            serial = self.strip.answer.get("serial", 0) + 1
            self.strip.error, self.strip.answer = "", {**shown, **facts, "serial": serial}
            self._explain()

    def _hits(self):
        """What the strip shows of each hit."""
        known = self.data.database.labels if self.labels.value else ()
        for row, distance, image in zip(self.answer.rows, self.answer.distances, self.answer.images, strict=True):
            label = self.data.class_names[known[row]] if row < len(known) else ""  # images added later have none
            yield {"id": self.retriever.ids[row], "distance": short(distance), "label": label, "src": data_url(image)}

    def _explain(self):
        """Refresh the views that are open; not while the pen is down, since they take longer than a search."""
        if self.answer is None:
            return
        self.hit.options = tuple(range(1, len(self.answer.rows) + 1))
        if self.pad.pen_down:
            return
        with self._telling():
            rank, code_map = self.hit.value, self._map(self.retriever.method) if self.where.value else None
            why = (self.answer.path(rank), self.answer.occlusion(rank)) if self.why.value else ()
            self.why_view.value = _html(*why)
            self.where_view.value = _html(self.answer.where(code_map)) if code_map else ""

    def snapshot(self, hit=1):
        """All that explains the hit of rank ``hit``, ``{name: Figure}``; the path is ``None`` without a decoder."""
        return {
            "hits": query_and_hits(self.answer.image, self.answer.images, self.answer.distances),
            "path": self.answer.path(hit)[0],
            "occlusion": self.answer.occlusion(hit)[0],
            "where": self.answer.where(self._map(self.retriever.method))[0],
        }

    @contextmanager
    def _telling(self):
        """Let a failure be told in one sentence, instead of a traceback that nobody sees."""
        try:
            yield
        except FAILURES as error:
            self._tell(error)

    def _tell(self, error):
        self.strip.error = " ".join(str(error).split()) or type(error).__name__


def open_explorer(dataset, results):
    """The widget of an :class:`Explorer` of ``results/dataset``, or a sentence that says why there is none."""
    try:
        run = Run(Path(dataset).name, results)
        return Explorer(run, run_data(run)).widget
    except (ArtifactError, DatasetError) as error:
        return widgets.HTML(f"<p role='alert' class='cbir-nothing' data-testid='nothing'>{escape(str(error))}</p>")


def _warm(retriever):
    """The retriever after one search: the first of a network takes longer than all others."""
    retriever.search(np.zeros((1, *retriever.shape), np.uint8), 1)
    return retriever


def _html(*figures):
    """Figures with their texts, for those who do not see them; a text alone where there is no figure."""
    return "".join(
        f'<img src="{data_url(picture(figure))}" alt="{escape(text)}">' if figure else f"<p>{escape(text)}</p>"
        for figure, text in figures
    )
