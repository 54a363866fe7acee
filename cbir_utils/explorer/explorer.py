"""The explorer: requests from a page, answered in words and pictures. A notebook and a server bring it the requests.

It keeps no state of a page: each request says everything, so a page can be reloaded, and two do not disturb each other.
"""

import time
from functools import cached_property, lru_cache
from pathlib import PurePosixPath

import numpy as np

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.explorer.answers import Answer, map_codes
from cbir_utils.explorer.drawing import measure_hand
from cbir_utils.explorer.pictures import original, sprite, thumbnail
from cbir_utils.explorer.plots import figure_url
from cbir_utils.explorer.queries import query_of_collection, query_of_dataset, query_of_drawing, query_of_file, whole
from cbir_utils.folders.duplicates import folded, near_duplicates
from cbir_utils.index import METRICS
from cbir_utils.methods.corruptions import CORRUPTIONS, corrupt
from cbir_utils.methods.descriptors import pixels
from cbir_utils.names import printable
from cbir_utils.plots import short
from cbir_utils.retrieval.query import path_of, usual_distance
from cbir_utils.retrieval.retriever import ELSEWHERE, Retriever, available_methods

#: Images on one page of the whole collection.
PER_PAGE = 60
#: Images from which it is learned how near two must be to count as near-duplicates.
SAMPLE = 2000
#: What may go wrong with an input or a method; it is told in one sentence.
FAILURES = (ArtifactError, ValueError, OSError, MemoryError)


class Explorer:
    """The explorer of a run, made from ``data``. Show its ``widget`` in a notebook, or serve it (``server``).

    ``method`` (by default the best that the run has), ``metric`` and ``k`` are what a page begins with; ``seed`` is for
    what is random in corruptions.
    """

    def __init__(self, run, data, *, method=None, metric="cosine", k=5, seed=0):
        self.run, self.data, self.seed = run, data, seed
        self.methods = available_methods(run)
        self.start = {"method": method or self.methods[0], "metric": metric, "k": k}
        self._load = lru_cache(maxsize=4)(lambda method, metric: Retriever(run, data, method, metric))
        self._map = lru_cache(maxsize=4)(lambda method, metric: map_codes(self._load(method, metric).codes))
        self._usual = lru_cache(maxsize=None)(lambda method, metric: usual_distance(self._load(method, metric)))
        self._rng = np.random.default_rng()

    @property
    def widget(self):
        """The explorer as a widget, for the output of a notebook's cell."""
        from cbir_utils.explorer.widget import ExplorerWidget  # only here: a server needs no widgets

        return ExplorerWidget(self)

    def ask(self, request):
        """Answer a request, a dict that names what to do (``do``), with a dict that JSON can hold.

        What goes wrong (a file that is no image, an empty drawing, a method without artifacts) comes back as one
        sentence, ``{"error": ...}``.
        """
        tasks = {
            "alive": lambda _: {"alive": True},
            "open": lambda _: _known(self),
            "search": self._search,
            "why": self._why,
            "map": self._show_map,
            "browse": self._browse,
            "original": lambda request: original(self.run, *self._named(request["row"])),
            "export": self._export,
        }
        if request.get("do") not in tasks:
            return {"error": f"the explorer has nothing to do by the name {request.get('do')!r}"}
        try:
            return tasks[request["do"]](request)
        except FAILURES as error:
            return {"error": " ".join(str(error).split()) or type(error).__name__}
        except (KeyError, TypeError, IndexError) as error:  # not from our own page
            return {"error": f"the request cannot be understood ({type(error).__name__}: {error})"}

    def answer(self, request=None):
        """The :class:`Answer` of a request to search; by default, of the first query."""
        request = {"query": {"query": 0}, **self.start, **(request or {})}
        query = self._query(request)
        return self._answered(query, self._spoilt(query, request), request, request["k"])

    # -- the requests -----------------------------------------------------------------------------------------------

    def _search(self, request):
        """The hits of a query, as the page shows them."""
        begun = time.perf_counter()
        retriever, k, page = self._retriever(request), whole(request["k"], "k", 1, 500), request.get("page", 0)
        query = self._query(request)
        image = self._spoilt(query, request)
        fold = bool(request.get("fold"))
        examples = [*request.get("plus", ()), *request.get("minus", ())]
        most = len(retriever) - len({*examples, query.row} - {None})
        wanted = whole(page, "page", 0, most) * k + k + 1  # one more tells whether there is another page
        answer = self._answered(query, image, request, min(most, wanted * (1 + fold)))
        rows, distances, limit = answer.rows, answer.distances, None
        if request.get("limit") is not None:
            limit = float(request["limit"]) * self._usual(retriever.method, retriever.metric)
            rows, distances = rows[distances <= limit], distances[distances <= limit]
        copies = folded(rows, pixels(retriever.images[rows]), self._apart) if fold else {}
        kept = [place for place, row in enumerate(rows) if not fold or row in copies]
        shown = kept[page * k : page * k + k]
        places = None
        if request.get("map"):  # where the query and its hits lie on it
            code_map = self._map(retriever.method, retriever.metric)
            codes = np.concatenate([retriever.encode(image[None]), retriever.codes[rows[shown]]])
            places = code_map.shares(code_map.place(codes))
        ms = round(1000 * (time.perf_counter() - begun), 1)
        hits = [self._hit(retriever, rows[place], distances[place], request) for place in shown]
        for hit in hits:
            hit["copies"] = [printable(retriever.ids[row]) for row in copies.get(hit["row"], ())]
        return {
            "query": {"src": self._source(retriever, query, image), "what": query.what, "asked": query.asked},
            "plus": [self._example(retriever, row) for row in request.get("plus", ())],
            "minus": [self._example(retriever, row) for row in request.get("minus", ())],
            "hits": hits,
            "first": page * k,
            "more": len(kept) > page * k + k,
            "ms": ms,
            "status": _status(retriever, query, request, len(hits), limit, ms),
            "places": places,
        }

    def _why(self, request):
        """The figures that explain one hit of a query, each with its text."""
        query, rank = self._query(request), whole(request["rank"], "the hit's rank", 1, 100_000)
        answer = self._answered(query, self._spoilt(query, request), request, 1)
        # The page names the hit: folding and a largest distance leave out others of the search.
        answer.rows, answer.distances = np.full(rank, request["row"]), np.full(rank, request["exact"])
        figures = [answer.path(rank), answer.occlusion(rank)]
        return {"figures": [{"text": text, "src": figure_url(figure)} for figure, text in figures]}

    def _show_map(self, request):
        """All codes, or a sample of them, as points with thumbnails."""
        retriever = self._retriever(request)
        code_map = self._map(retriever.method, retriever.metric)
        rows = np.setdiff1d(code_map.rows, retriever.gone)
        points = code_map.points[np.isin(code_map.rows, rows)]
        picture, side, columns = sprite(retriever.images[rows])
        some = f"{len(rows):,} of {len(retriever):,} images, drawn at random"
        return {
            "points": code_map.shares(points),
            "rows": rows.tolist(),
            "ids": [printable(retriever.ids[row]) for row in rows],
            "labels": [self._label(row) for row in rows],
            "sprite": {"src": picture, "side": side, "columns": columns},
            "text": f"Near points have near codes, by t-SNE: {some if len(rows) < len(retriever) else 'all images'}.",
        }

    def _browse(self, request):
        """One page of the whole collection, filtered by folder, label and part of the name."""
        retriever, text, page = self._retriever(request), request.get("text", "").lower(), request.get("page", 0)
        folder, label = request.get("folder"), request.get("label")
        rows = [
            row
            for row, name in enumerate(retriever.ids)
            if text in printable(name).lower()
            and (not folder or str(PurePosixPath(name).parent) == folder)
            and (not label or self._label(row) == label)
        ]
        rows = np.setdiff1d(rows, retriever.gone)
        shown = rows[whole(page, "page", 0, len(retriever)) * PER_PAGE :][:PER_PAGE]
        return {
            "found": len(rows),
            "page": page,
            "pages": -(-len(rows) // PER_PAGE),
            "images": [self._example(retriever, int(row)) for row in shown],
        }

    def _export(self, request):
        """The ids and paths of some rows."""
        named = [self._named(row) for row in request["rows"]]
        paths = [(name, path_of(self.run, name)) for name, _ in named]
        return {"files": [{"id": printable(name), "path": path and printable(path)} for name, path in paths]}

    # -- what they share --------------------------------------------------------------------------------------------

    def _retriever(self, request):
        return self._load(request["method"], request["metric"])

    def _query(self, request):
        """The :class:`Query` that a request asks for."""
        asked = request["query"]
        if "query" in asked:
            return query_of_dataset(self.data, asked["query"], self._rng)
        if "ink" in asked:
            return query_of_drawing(self.data, asked, self._hand)
        if "file" in asked:
            return query_of_file(self.data, asked)
        return query_of_collection(self._retriever(request), asked)

    @cached_property
    def _hand(self):
        return measure_hand(self.data.database.images, self.data.light)

    def _spoilt(self, query, request):
        """The query's image as the corruption leaves it."""
        kind, strength = request.get("spoil") or ("noise", 0)
        return corrupt(query.image[None], kind, round(float(strength), 6), seed=self.seed, light=self.data.light)[0]

    def _answered(self, query, image, request, k):
        """The :class:`Answer` with ``k`` hits."""
        retriever = self._retriever(request)
        plus, minus = ([int(row) for row in request.get(name, ())] for name in ("plus", "minus"))
        more, unlike = ([np.asarray(retriever.images[row]) for row in rows] for rows in (plus, minus))
        examples = {"more": more, "unlike": unlike, "exclude": plus + minus}
        return Answer(retriever, image, k, query.row, **examples)

    def _hit(self, retriever, row, distance, request):
        label = self._label(row) if request.get("labels") else ""
        return {
            **self._example(retriever, int(row)),
            "distance": short(distance),
            "exact": float(distance),
            "label": label,
        }

    def _example(self, retriever, row):
        row = whole(row, "the image's row", 0, len(retriever.ids) - 1)
        return {
            "row": row,
            "id": printable(retriever.ids[row]),
            # To look for a file reads the manifest, so it is not done where there are none.
            "src": thumbnail(self.run, retriever.ids[row] if self.data.ids else None, retriever.images[row]),
        }

    def _named(self, row):
        """The id of a row, and its image."""
        retriever = self._load(self.start["method"], self.start["metric"])
        row = whole(row, "the image's row", 0, len(retriever.ids) - 1)
        return retriever.ids[row], retriever.images[row]

    def _source(self, retriever, query, image):
        """The query's picture: its file's, if it is one of the collection's and not spoilt, else what is searched."""
        spoilt = not np.array_equal(image, query.image)
        name = retriever.ids[query.row] if query.row is not None and not spoilt else None
        return thumbnail(self.run, name, image)

    def _label(self, row):
        known = self.data.database.labels  # images added later have none
        return "" if known is None or row >= len(known) else self.data.class_names[known[row]]

    @cached_property
    def _apart(self):
        """How near two images' pixels must be to count as near-duplicates, learned from some of the database."""
        images = self.data.database.images
        rows = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int))
        return near_duplicates(pixels(images[rows]))[2]


def _known(explorer):
    """What a page needs to know before it asks."""
    data = explorer.data
    parents = sorted({str(PurePosixPath(name).parent) for name in data.ids or ()})
    known = {kind: (min(one.strengths), max(one.strengths), one.unit) for kind, one in CORRUPTIONS.items()}
    return {
        "name": explorer.run.dataset,
        "images": len(data.database),
        "queries": len(data.queries),
        "methods": [
            {"name": name, "text": f"{name} ({ELSEWHERE[name]})" if name in ELSEWHERE else name}
            for name in dict.fromkeys([*explorer.methods, explorer.start["method"]])
        ],  # fmt: skip
        "metrics": list(METRICS),
        "corruptions": known,
        "classes": list(data.class_names) if data.database.labels is not None else [],
        "folders": parents[:500] if len(parents) > 1 else [],
        "files": bool(data.ids),
        "light": bool(data.light),
        "start": explorer.start,
    }


def _status(retriever, query, request, count, limit, ms):
    """What was searched with, by what, and how many hits there are, in a sentence."""
    kind, strength = request.get("spoil") or ("", 0)
    spoilt = f" with {kind} {float(strength):.3g}" if strength else ""
    plus, minus = len(request.get("plus", ())), len(request.get("minus", ()))
    examples = (f" and {plus} more like it" if plus else "") + (f", unlike {minus}" if minus else "")
    encoder = f"encoder {retriever.encoder_hash[:12]}" if retriever.encoder_hash else "no encoder"
    encoder = ELSEWHERE.get(retriever.method, encoder)
    method = f"{retriever.method} ({encoder}) and {retriever.metric} distance"
    by = f"Searched with {query.what}{spoilt}{examples}, by {method}"
    if not count and limit is not None:
        return f"{by}: nothing here is alike, no image lies within a distance of {short(limit)}."
    within = f" within a distance of {short(limit)}" if limit is not None else ""
    return f"{by}: {count} of {len(retriever):,} images{within} in {ms} ms."
