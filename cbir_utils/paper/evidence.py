"""What a run holds, as the report needs it: rows, codes, the quality of every query; and what a finding is."""

import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2
import numpy as np

from cbir_utils import metrics
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import DatasetError
from cbir_utils.index import Index
from cbir_utils.methods import descriptors
from cbir_utils.retrieval.retriever import run_data

ROOT = Path(__file__).resolve().parents[2]

#: The verdict on a claim, an equation or a figure of the paper.
HOLDS, IN_PART, FAILS, UNKNOWN = "holds", "holds in part", "does not hold", "not measured yet"

#: The methods that are compared pair by pair, besides the best of the other kinds of autoencoder.
COMPARED = ("pixels", "convolutional", "hog", "taught", "manifold", "fused")

#: This folder's templates; in them ``x|as(".3f")`` is ``format(x, ".3f")``.
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)
TEMPLATES.filters["as"] = format


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim, a figure or an equation of the paper, and the sentence with the numbers behind it."""

    name: str
    title: str
    verdict: str
    sentence: str
    picture: Path | None = None  #: of a figure: this run's
    functions: tuple = ()  #: of an equation: what implements it


class Evidence:
    """A run's artifacts, each loaded when it is first asked for; what is not there raises :class:`ArtifactError`."""

    def __init__(self, run):
        self.run, self.manifest = run, run.manifest
        self.left_out = {}  # methods whose queries could not be ranked, and why
        if not self.manifest:
            raise ArtifactError(f"{run.folder} holds no run; make one with {run.remedy('manifest.json')}")

    def find(self, rule, **facts):
        """The finding of a rule: its docstring is the title; it returns the verdict and the numbers of its sentence.

        The sentence may show the evidence, too. The verdict is "not measured yet" where an artifact is missing.
        """
        sentences = TEMPLATES.get_template("sentences.j2")
        try:
            verdict, numbers = rule(self)
            context = sentences.new_context({"evidence": self, **numbers})
            sentence = "".join(sentences.blocks[rule.__name__](context))
        except ArtifactError as error:
            verdict, sentence = UNKNOWN, self.plain(error)
        title, sentence = (" ".join(text.split()) for text in (rule.__doc__, sentence))
        return Finding(rule.__name__, title, verdict, sentence, **facts)

    def plain(self, text):
        """An error as the page shows it: commands as typed in the repository's folder, no paths of this machine."""
        results = self.run.results.resolve()
        shown = "results" if results == ROOT / "results" else str(self.run.results)
        text = str(text).replace(f"{self.run.folder}/", "").replace(shlex.quote(sys.executable), "python")
        return text.replace(str(results), shown)

    def measured(self, experiment, name):
        """What an experiment of :mod:`cbir_utils.paper.experiments` kept; ``cbir measure`` makes it."""
        try:
            return self.run.load_json(name)
        except ArtifactError as error:
            folder = shlex.quote(self.plain(self.run.folder.resolve()))
            command = f"`python -m cbir_utils measure {experiment} --results {folder}`"
            raise ArtifactError(f"{name} is missing or damaged; {command} makes it.") from error

    @cached_property
    def rows(self):
        """The rows of ``metrics.json``, ``{(method, distance): row}``."""
        return {(row["method"], row["distance"]): row for row in self.run.load_json("metrics.json")}

    @cached_property
    def data(self):
        """The dataset, with labels and five images or more to search."""
        try:
            data = run_data(self.run)
        except DatasetError as error:
            raise ArtifactError(f"The images themselves are not at hand ({error}).") from error
        if data.database.labels is None:
            raise ArtifactError("The dataset has no labels, and without them nothing can be evaluated.")
        if len(data.database) - (data.own_rows is not None) < 5:
            raise ArtifactError("Five hits need a database of five images or more.")
        return data

    def codes(self, method="convolutional"):
        """A method's codes, database and queries: by default the paper's; of pixels, the images themselves as rows."""
        if method == "pixels":
            return descriptors.pixels(self.data.database.images), descriptors.pixels(self.data.queries.images)
        return self.run.load_codes(method)

    def bytes_per_image(self, method):
        """What a method's code of an image takes; ``None`` if the codes are not there."""
        with suppress(ArtifactError):
            return self.codes(method)[0][0].nbytes

    def hits(self, rows):
        """The five nearest images of these queries (row numbers or a slice) by the paper's codes: ``Hits``."""
        database, queries = self.codes()
        return Index("euclidean").add(database).search(queries[rows], 5, exclude_self=self.data.own(rows))

    @cached_property
    def other_kinds(self):
        """The other kinds of autoencoder than the paper's, best mAP first."""
        rows = sorted(self.run.load_json("autoencoders.json"), key=lambda row: -row["mAP"])
        kinds = [row["method"] for row in rows if row["weights"] and row["method"] != "convolutional"]
        if not kinds:
            raise ArtifactError("There is no kind of autoencoder but the paper's in autoencoders.json.")
        return kinds

    @cached_property
    def values(self):
        """``{(method, distance): {"AP": (Q,), "P@5": (Q,)}}`` of the methods that the run has; of one training each.

        What cannot be ranked is in ``left_out``, with the reason.
        """
        methods = list(COMPARED)
        with suppress(ArtifactError):
            methods[2:2] = self.other_kinds
        ways = [*((method, "cosine") for method in methods), ("pixels", "euclidean"), ("convolutional", "euclidean")]
        values = {}
        for method, distance in ways:
            try:
                values[method, distance] = self._evaluate(method, distance)
            except ArtifactError as error:
                self.left_out[method] = self.plain(error)
        if not values:
            raise ArtifactError(self.left_out["convolutional"])
        return values

    def first_hit(self, method):
        """Whether the nearest image by a method's codes is of the query's class: bool ``(Q,)``."""
        database, queries = self.codes(method)
        found = Index("euclidean").add(database).search(queries, 1, exclude_self=self.data.own())
        return metrics.relevance(found.ids, self.data.queries.labels, self.data.database.labels)[:, 0]

    def value(self, method, distance):
        """The values of one method's queries."""
        if (method, distance) not in self.values:
            raise ArtifactError(self.left_out[method])
        return self.values[method, distance]

    def _evaluate(self, method, distance):
        """AP and P@5 of every query, kept under the hash of the codes: a full ranking of MNIST takes a minute."""
        codes, origin = self.codes(method), [self.data.content_hash]
        if method != "pixels":
            origin += [self.run.file_hash(f"{method}/codes_{split}.npy") for split in ("database", "queries")]
        name, kept = f"report/{method}_{distance}.json", {}
        with suppress(ArtifactError):  # not there, or damaged: made anew
            kept = self.run.load_json(name)
        if kept.get("origin") != origin:
            measured = metrics.evaluate(self.data, *codes, distance)
            kept = {"origin": origin, "AP": measured["AP"].tolist(), "P@5": measured["P@5"].tolist()}
            self.run.save_json(name, kept)
        return {metric: np.array(kept[metric]) for metric in ("AP", "P@5")}
