"""The report on the paper: what a run's artifacts say about its figures, equations and claims, as one HTML page.

Every number in it is read from the run (``metrics.json``, ``manifest.json``, codes, labels and what
:mod:`cbir_utils.paper.experiments` measured) when the report is written. What is missing is named, with the command
that makes it. Labels enter here, as everywhere, for the evaluation alone.
"""

import ast
import base64
import html
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zipfile
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from cbir_utils import metrics
from cbir_utils.datasets import DatasetError
from cbir_utils.index import Index
from cbir_utils.methods import descriptors
from cbir_utils.retrieval.retriever import run_data
from cbir_utils.run import ArtifactError, atomic_path

ROOT = Path(__file__).resolve().parents[2]

#: What a claim, an equation or a figure of the paper turns out to be.
HOLDS, IN_PART, FAILS, UNKNOWN = "holds", "holds in part", "does not hold", "not measured yet"

#: The methods that are compared pair by pair, besides the best of the other kinds of autoencoder.
COMPARED = ("pixels", "convolutional", "hog", "contrastive", "manifold", "fused")

#: The artifacts of :mod:`cbir_utils.paper.experiments`, and what ``cbir measure`` calls them.
MEASURED = {"collapse.json": "collapse", "guided.json": "guided", "sensitivity.json": "machines"}

#: The notebook that draws each of the eight figures; the paper's figures themselves are described, not copied.
FIGURES = {
    1: ("01_retrieval_steps", "04", "Steps of a query: images are encoded once, the query is encoded and compared."),
    2: ("02_latent_map", "03", "The latent space as a map; “all the 2's have much more similarity” than 2's with 5's."),
    3: ("03_three_axes", "03", "A point of the latent space, “a vector containing 3 dimensions (x, y, and z)”."),
    4: ("04_reconstructions", "03", "A digit goes through the encoder into a short code; the decoder draws it again."),
    5: ("05_ranked_codes", "04", "Retrieval by codes: the query's code is compared with each code of the database."),
    6: ("06_dataset", "01", "Examples of the handwritten dataset: the digits 0 to 9, again and again."),
    7: ("07_query", "05", "The query: one handwritten 9."),
    8: ("08_hits", "05", "Its result: five images, all of them 9s."),
}  # fmt: skip


class Missing(Exception):
    """Something that the report needs is not there; the message says what, and which command makes it."""


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper, where it stands, what becomes of it, and the sentence that says by which numbers."""

    claim: str
    where: str
    verdict: str
    sentence: str


@dataclass(frozen=True)
class Figure:
    """A figure of the paper in words, beside this run's: its file, and the verdict on it."""

    number: int
    shows: str
    path: Path | None
    verdict: str
    sentence: str


@dataclass(frozen=True)
class Equation:
    """An equation of the paper: its MathML, the functions that implement it, and the numerical check."""

    title: str
    mathml: str
    functions: tuple
    verdict: str
    sentence: str


@dataclass(frozen=True)
class Table:
    """A header and rows of texts; the first column names the row."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """A part of the report: its blocks are texts, tables, verdicts, figures and equations, in reading order."""

    title: str
    blocks: list


# -- what a run holds ---------------------------------------------------------------------------------------------


class Evidence:
    """A run's artifacts as the report needs them: loaded once, when first asked for; :class:`Missing` if not there."""

    def __init__(self, run, *, verbose=False):
        self.run, self.verbose = run, verbose
        self.manifest = run.manifest
        self.left_out = {}  # methods whose queries could not be ranked, and why
        if not self.manifest:
            raise ArtifactError(f"{run.folder} holds no run; make one with {run.remedy_for('manifest.json')}")

    def command(self, words):
        """A command as a user types it in the repository's folder."""
        results = self.run.results
        shown = "results" if results.resolve() == ROOT / "results" else results.as_posix()
        return f"`python -m cbir_utils {words} --results {shlex.quote(f'{shown}/{self.run.dataset}')}`"

    def missing(self, name, reason=None):
        """The error for the artifact ``name``: what is wrong with it, and the command that makes it."""
        if name in MEASURED:
            command = self.command(f"measure {MEASURED[name]}")
        else:
            remedy = self.run.remedy_for(name).replace(shlex.quote(sys.executable), "python")
            results = self.run.results.resolve()
            command = remedy.replace(str(results), "results" if results == ROOT / "results" else str(self.run.results))
        reason = reason or ("is damaged or was changed by hand" if self.run.path(name).exists() else "is not there yet")
        return Missing(f"{name} {reason}; {command} makes it.")

    def json(self, name):
        """A JSON artifact."""
        try:
            return self.run.load_json(name)
        except ArtifactError as error:
            raise self.missing(name) from error

    @cached_property
    def rows(self):
        """The rows of ``metrics.json``, ``{(method, distance): row}``."""
        return {(row["method"], row["distance"]): row for row in self.json("metrics.json")}

    def row(self, method, distance):
        """One row of ``metrics.json``."""
        if (method, distance) not in self.rows:
            raise self.missing(f"{method}/codes_database.npy", f"was not evaluated by {distance} distance")
        return self.rows[method, distance]

    def timing(self, name, artifact):
        """Seconds from the manifest."""
        if name not in self.manifest.get("timings", {}):
            raise self.missing(artifact, "was made without noting its seconds")
        return self.manifest["timings"][name]

    @cached_property
    def data(self):
        """The dataset."""
        try:
            return run_data(self.run)
        except (DatasetError, ArtifactError) as error:
            raise Missing(f"The images themselves are not at hand ({error}).") from error

    @cached_property
    def labels(self):
        """The labels of database and queries, ``(N,)`` and ``(Q,)`` int."""
        names = ("labels_database.npy", "labels_queries.npy")
        if self.data.database.labels is None:
            raise Missing("The dataset has no labels, and without them nothing can be evaluated.")
        try:
            return tuple(self.run.load_array(name, (None,)) for name in names)
        except ArtifactError as error:
            raise self.missing(names[0]) from error

    @cached_property
    def own_rows(self):
        """Each query's row in the database, where the queries are in it, else ``None``."""
        return self.data.own_rows if self.run.path("dataset/dataset.json").exists() else None

    def codes(self, method):
        """A method's codes, database and queries; of pixels, the images themselves as rows."""
        if method == "pixels":
            return descriptors.pixels(self.data.database.images), descriptors.pixels(self.data.queries.images)
        try:
            return self.run.load_codes(method)
        except ArtifactError as error:
            raise self.missing(f"{method}/codes_database.npy") from error

    @cached_property
    def paper_codes(self):
        """The codes of the paper's network."""
        return self.codes("convolutional")

    @cached_property
    def class_names(self):
        """What the classes are called, ``{label: name}``; by their numbers if the dataset is not at hand."""
        labels = np.unique(self.labels[0]).tolist()
        try:
            return {label: self.data.class_names[label] for label in labels}
        except Missing:
            return {label: str(label) for label in labels}

    @cached_property
    def other_kinds(self):
        """The rows of ``autoencoders.json`` of the kinds of autoencoder, the paper's own left out."""
        rows = [row for row in self.json("autoencoders.json") if row["weights"] and row["method"] != "convolutional"]
        if not rows:
            raise self.missing("autoencoders.json", "has no kind of autoencoder but the paper's")
        return rows

    @cached_property
    def best_kind(self):
        """The other kind of autoencoder with the highest mAP."""
        return max(self.other_kinds, key=lambda row: row["mAP"])["method"]

    @cached_property
    def values(self):
        """``{(method, distance): {"AP": (Q,), "P@5": (Q,)}}`` of the methods that the run has; of one training each.

        A full ranking of MNIST takes a minute, so they are kept in ``ap_per_query.npz``, each under the hash of
        the codes and labels that it comes from. What cannot be ranked is in ``left_out``, with the reason.
        """
        file_name, kept = "ap_per_query.npz", {}
        try:
            with np.load(self.run.checked_path(file_name), allow_pickle=False) as file:
                kept = dict(file)
        except (ArtifactError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            pass  # not there, or damaged: made anew
        methods = list(COMPARED)
        with suppress(Missing):
            methods[2:2] = [row["method"] for row in self.other_kinds]
        wanted = [("pixels", "euclidean"), ("convolutional", "euclidean"), *((method, "cosine") for method in methods)]
        values = {}
        for method, distance in wanted:
            try:
                key = f"{method} {distance} {self._origin(method)}"
                if f"{key} AP" not in kept:
                    measured = self._rank(method, distance)
                    for old in [name for name in kept if name.startswith(f"{method} {distance} ")]:
                        del kept[old]  # of codes that are no longer there
                    kept |= {f"{key} {metric}": measured[metric] for metric in ("AP", "P@5")}
                    with self.run.writing(file_name) as partial, open(partial, "wb") as file:
                        np.savez_compressed(file, **kept)
            except Missing as missing:
                self.left_out[method] = str(missing)
                continue
            values[method, distance] = {metric: kept[f"{key} {metric}"] for metric in ("AP", "P@5")}
        if not values:
            raise Missing(self.left_out["convolutional"])
        return values

    def value(self, method, distance):
        """The values of one method's queries."""
        if (method, distance) not in self.values:
            why = self.left_out.get(method)
            raise Missing(why) if why else self.missing(f"{method}/codes_database.npy")
        return self.values[method, distance]

    def _origin(self, method):
        """A hash of the codes and labels that a method's values come from."""
        files = self.manifest.get("files", {})
        names = ["labels_database.npy", "labels_queries.npy"]
        if method != "pixels":
            names += [f"{method}/codes_database.npy", f"{method}/codes_queries.npy"]
        absent = [name for name in names if name not in files]
        if absent:
            raise self.missing(absent[0])
        return "-".join([self.manifest.get("content_hash", "")[:12], *(files[name]["sha256"][:12] for name in names)])

    def _rank(self, method, distance):
        """Every metric of every query, by the exact ranking of the whole database."""
        if self.verbose:
            print(f"ranking the database for each query: {method}, {distance}", flush=True)
        labels, labels_queries = self.labels
        database, queries = self.codes(method)
        if len(database) - (self.own_rows is not None) < 5:
            raise Missing("P@5 needs a database of five images or more.")
        ranking = Index(distance).add(database).rank(queries, exclude_self=self.own_rows)
        return metrics.per_query(ranking, labels_queries, labels)


# -- the claims -----------------------------------------------------------------------------------------------------


def claims(evidence):
    """The paper's claims one by one, as :class:`Verdict`."""
    every = (
        ("The system retrieved 5 images, and “all the images are similar to the query image”.", "VI-G", _five_hits),
        ("Comparing codes is better than comparing the images directly.", "II", _codes_or_pixels),
        ("The network trains as its listing prints it, with the mean squared error.", "VI-E", _as_printed),
        (
            "“The training period may last for days, weeks, or even months depending upon the size of the database.”",
            "V-D",
            _days,
        ),
        ("By checking what it retrieves, the system “will train itself eventually”.", "V-D", _by_retrieval),
        ("“The overall process does not use any labels or tags.”", "VII", _without_labels),
        ("Autoencoders other than the convolutional one may improve the results.", "VII", _other_kinds),
    )
    return [Verdict(claim, where, *_found(judge, evidence)) for claim, where, judge in every]


def _found(judge, evidence):
    """What ``judge`` says, a verdict and a sentence; or that it could not be measured, and why."""
    try:
        return judge(evidence)
    except Missing as missing:
        return UNKNOWN, str(missing)


def _clear(signs):
    """The verdict on "better": holds if all signs of differences say so, fails if some say worse and none better."""
    return HOLDS if set(signs) == {1} else FAILS if -1 in signs and 1 not in signs else IN_PART


def _five_hits(evidence):
    """All five right: of how many queries?"""
    right = evidence.value("convolutional", "euclidean")["P@5"] == 1
    share, low, high = _share(right)
    others = [
        f"{method} {_percent(np.mean(evidence.values[method, distance]['P@5'] == 1))}"
        for method, distance in (("pixels", "euclidean"), ("fused", "cosine"))
        if (method, distance) in evidence.values
    ]
    verdict = HOLDS if low >= 0.99 else FAILS if high < 0.5 else IN_PART
    meaning = {
        HOLDS: "A result like the paper's is what one can count on.",
        IN_PART: "A result like the paper's is the usual one, not a certain one.",
        FAILS: "A result like the paper's is the exception.",
    }[verdict]
    beside = f" Beside it: {', '.join(others)}." if others else ""
    return verdict, (
        f"Over all {len(right):,} queries, the five nearest are all of the query's class for {_percent(share)} "
        f"[{_percent(low)}, {_percent(high)}] (the paper's network, one training, Euclidean distance; it would hold "
        f"from 99 % on).{beside} {meaning}"
    )


def _codes_or_pixels(evidence):
    """The paper's codes against raw pixels, Euclidean distance, over the same queries."""
    codes, pixels = evidence.value("convolutional", "euclidean"), evidence.value("pixels", "euclidean")
    first, whole = _mean(codes["P@5"] - pixels["P@5"]), _mean(codes["AP"] - pixels["AP"])
    said = {1: "better", 0: "no different as far as these queries tell", -1: "worse"}
    try:
        length, pixel_count = evidence.paper_codes[0].shape[1], evidence.data.database.images[0].size
        shorter = f" They are {length} numbers instead of {pixel_count:,}."
    except Missing:
        shorter = ""
    return _clear([_sign(first), _sign(whole)]), (
        f"Among the first five hits the codes are {said[_sign(first)]} than pixels (P@5 {_gain(first)}), over the "
        f"whole ranking {said[_sign(whole)]} (mAP {_gain(whole)}); one training, Euclidean distance.{shorter}"
    )


def _as_printed(evidence):
    """How often networks collapse, by loss function: over many seeds if measured, else those of notebook 02."""
    try:
        found = evidence.json("collapse.json")
        printed, other = (
            [network["collapsed"] for network in found["networks"] if network["loss"] == loss]
            for loss in ("mse", "binary_crossentropy")
        )
        settings = found["settings"]
        how = f"trained on {settings['images']:,} images for {settings['epochs']} epochs"
    except Missing as missing:
        if "damaged" in str(missing):
            raise
        printed, other = list(evidence.json("convolutional/collapse.json").values())
        command = evidence.command("measure collapse")
        how = f"the small networks of notebook 02; {command} trains 20 for each loss function"
    if not printed:
        raise evidence.missing("collapse.json", "counts no network")
    low, high = metrics.wilson_interval(sum(printed), len(printed))
    verdict = FAILS if low > 0.5 else HOLDS if high < 0.5 else IN_PART
    beside = f"; with binary cross-entropy {sum(other)} of {len(other)} do" if other else ""
    return verdict, (
        f"{sum(printed)} of {len(printed)} networks trained as printed end no better than one constant image "
        f"({_percent(sum(printed) / len(printed))} [{_percent(low)}, {_percent(high)}])"
        f"{beside} ({how})."
    )


def _days(evidence):
    """How long training takes at this size: the paper's network, and the slowest method of the table."""
    seconds = evidence.timing("convolutional/train", "convolutional/autoencoder.keras")
    slowest = max(evidence.rows.values(), key=lambda row: row.get("train_seconds") or 0)
    longest = max(seconds, slowest.get("train_seconds") or 0)
    count = f"{len(evidence.labels[0]):,} " if evidence.run.path("labels_database.npy").exists() else ""
    day = 24 * 60 * 60
    verdict = FAILS if longest < day else HOLDS if seconds > day else IN_PART
    other = f", and the slowest method of the table ({slowest['method']}) in {_duration(longest)}"
    return verdict, (
        f"On the {count}images of this database the paper's network trained in {_duration(seconds)}"
        f"{other if longest > seconds else ''}, on {evidence.manifest['machine']['cores']} cores. A day has room for "
        f"{day / longest:,.0f} such trainings. What larger databases take was not measured."
    )


def _by_retrieval(evidence):
    """What the rounds guided by retrieval add, over trainings alike in everything else."""
    found = evidence.json("guided.json")
    settings, trainings = found["settings"], found["trainings"]
    if not trainings:
        raise evidence.missing("guided.json", "counts no training")
    gains = {metric: [training["gain"][metric] for training in trainings] for metric in ("P@5", "mAP")}
    parts = [f"{metric} {', '.join(_gain(gain) for gain in these)}" for metric, these in gains.items()]
    rounds = [training["guided"]["rounds"] for training in trainings]
    shares = [share for training in trainings for share in training["guided"]["mutual_share"]]
    mutual = f" In a round, {_percent(np.mean(shares))} of the hits are mutual and taken for right." if shares else ""
    return _clear([_sign(gain) for these in gains.values() for gain in these]), (
        "Without labels “right” has to mean mutual: each image is among the other's nearest. The contrastive network "
        f"of notebook 08 was trained {len(trainings)} times for {settings['epochs']} epochs, and then either in such "
        f"rounds ({', '.join(map(str, rounds))}; they end by themselves when nothing improves) or for "
        f"{settings['rounds']} more plain epochs, alike in all else. The gain of each by the rounds: "
        f"{'; '.join(parts)} ({settings['images']:,} images, {settings['queries']:,} queries).{mutual}"
    )


#: What learns or searches: file and function, whose arguments :func:`_without_labels` looks at.
LEARNERS = (
    ("training", "fit"), ("training", "fit_contrastive"), ("training", "encode"), ("index", "add"), ("index", "search"),
    ("manifold", "fit"), ("descriptors", "fit"),
)  # fmt: skip


def _without_labels(evidence):
    """Whether a label can get into what learns or searches: its arguments, as they stand in the source."""
    arguments = []
    for module, function in LEARNERS:
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
        if not found:
            raise Missing(f"{module}.py has no function {function} any more; this check looks for it.")
        arguments += [argument.arg for node in found for argument in [*node.args.args, *node.args.kwonlyargs]]
    labelled = [name for name in arguments if re.search("label|target|class", name)]
    names = ", ".join(f"{module}.{function}" for module, function in LEARNERS)
    return (FAILS if labelled else HOLDS), (
        f"{len(labelled) or 'None'} of the {len(arguments)} arguments of what learns or searches ({names}) is for a "
        "label. The evaluation alone reads labels, from files of their own."
    )


def _other_kinds(evidence):
    """Each other kind of autoencoder against the paper's network, over the same queries, corrected for their number."""
    own, gains, columns = evidence.value("convolutional", "cosine"), {}, []
    kinds = [row["method"] for row in evidence.other_kinds if (row["method"], "cosine") in evidence.values]
    if not kinds:
        raise evidence.missing(f"{evidence.best_kind}/codes_database.npy")
    for kind in kinds:
        differences = {metric: evidence.values[kind, "cosine"][metric] - own[metric] for metric in ("P@5", "AP")}
        gains[kind] = [_mean(column) for column in differences.values()]
        columns += differences.values()
    p = holm(randomization_tests(np.stack(columns, axis=1))).reshape(-1, 2)
    better = {kind: [value < 0.05 and gain[0] > 0 for value, gain in zip(p[row], gains[kind], strict=True)]
              for row, kind in enumerate(kinds)}  # fmt: skip
    by_both = [kind for kind in kinds if all(better[kind])]
    verdict = HOLDS if by_both else IN_PART if any(map(any, better.values())) else FAILS
    named = [f"{kind} (P@5 {_gain(gains[kind][0])}, mAP {_gain(gains[kind][1])})" for kind in by_both]
    return verdict, (
        f"Of {len(kinds)} other kinds {sum(first for first, _ in better.values())} are better by P@5 and "
        f"{sum(whole for _, whole in better.values())} by mAP than the convolutional one (one training of each, the "
        f"same queries, cosine distance, p < 0.05 after Holm's correction for {p.size} tests). Better by both: "
        f"{', '.join(named) or 'none'}."
    )


# -- the equations --------------------------------------------------------------------------------------------------


def equations(evidence):
    """The paper's two equations, and the loss it trains with, beside the functions that implement them."""
    from cbir_utils import models, training  # only here: Keras takes seconds to load

    first = "<mi>O</mi><mo>=</mo><mi>D</mi><mo>(</mo><mi>E</mi><mo>(</mo><mi>x</mi><mo>)</mo><mo>)</mo>"
    second = (
        "<mi>d</mi><mo>(</mo><mi>q</mi><mo>,</mo><mi>s</mi><mo>)</mo><mo>=</mo>"
        f"<msqrt><mrow>{_squares('q', 's')}</mrow></msqrt>"
    )
    loss = f"<mi>L</mi><mo>=</mo><mfrac><mn>1</mn><mi>n</mi></mfrac><mo>(</mo>{_squares('x', 'O')}<mo>)</mo>"
    return [
        Equation("Equation 1: encoding and decoding", first, (models.Autoencoder, training.encode, training.decode),
                 *_found(_equation_1, evidence)),
        Equation("Equation 2: distance of a query and a sample", second, (equation_2, Index._exact),
                 *_found(_equation_2, evidence)),
        Equation("The loss of the listing (loss='mse'), as this project also has it", loss, (mean_squared_error,),
                 *_found(_loss, evidence)),
    ]  # fmt: skip


def _squares(a, b):
    """The sum of the squared differences of two vectors, written out as the paper does, in MathML."""

    def square(i):
        difference = f"<msub><mi>{a}</mi>{i}</msub><mo>−</mo><msub><mi>{b}</mi>{i}</msub>"
        return f"<msup><mrow><mo>(</mo>{difference}<mo>)</mo></mrow><mn>2</mn></msup>"

    terms = [square("<mn>1</mn>"), square("<mn>2</mn>"), "<mi>…</mi>", square("<mi>n</mi>")]
    return "<mo>+</mo>".join(terms)


def equation_2(q, s):
    """The Euclidean distance of two codes ``(n,)``, term by term (the paper, equation 2); a float."""
    total = 0.0
    for i in range(len(q)):
        total += (float(q[i]) - float(s[i])) ** 2
    return total**0.5


def mean_squared_error(x, output):
    """The mean of the squared differences of two arrays of the same shape (the paper, section VI-E); a float."""
    return float(np.mean((np.asarray(x, np.float64) - np.asarray(output, np.float64)) ** 2))


def _networks(evidence):
    """The paper's network as it was kept (encoder and autoencoder), and up to 100 queries."""
    from cbir_utils.training import load_model

    try:
        paths = [evidence.run.checked_path(f"convolutional/{name}.keras") for name in ("encoder", "autoencoder")]
    except ArtifactError as error:
        raise evidence.missing("convolutional/encoder.keras") from error
    return *map(load_model, paths), evidence.data.queries.images[:100]


def _equation_1(evidence):
    """The autoencoder's output against the decoder's output of the encoder's."""
    from cbir_utils.training import decode, encode, reconstruct

    encoder, autoencoder, images = _networks(evidence)
    whole = reconstruct(autoencoder, images)
    apart = float(np.abs(whole - decode(autoencoder.get_layer("decoder"), encode(encoder, images))).max())
    return (HOLDS if apart < 1e-5 else FAILS), (
        f"For {len(images)} queries, what the decoder makes of the encoder's codes was set against the autoencoder's "
        f"output; the largest difference of a pixel, from 0 to 1, is {apart:.1g} (it holds below 0.00001)."
    )


def _equation_2(evidence):
    """The index's distances against the formula."""
    database, queries = evidence.paper_codes
    queries, own = queries[:50], None if evidence.own_rows is None else evidence.own_rows[:50]
    hits = Index("euclidean").add(database).search(queries, min(5, len(database) - 1), exclude_self=own)
    formula = [[equation_2(q, database[row]) for row in rows] for q, rows in zip(queries, hits.ids, strict=True)]
    apart = float((np.abs(hits.distances - formula) / np.maximum(formula, 1e-12)).max())
    return (HOLDS if apart < 1e-6 else FAILS), (
        f"The {hits.ids.size} distances that the index gives for the nearest of {len(queries)} queries were set "
        f"against the formula; the largest relative difference is {apart:.1e} (it holds below 1e-06; float32 has "
        f"steps of {np.finfo(np.float32).eps:.1e})."
    )


def _loss(evidence):
    """Keras's loss against the formula, on real reconstructions."""
    from cbir_utils.datasets import scale
    from cbir_utils.training import LOSSES, reconstruct

    _, autoencoder, images = _networks(evidence)
    x, output = scale(images), reconstruct(autoencoder, images)
    by_keras, by_formula = float(LOSSES["mse"]()(x, output)), mean_squared_error(x, output)
    return (HOLDS if abs(by_keras - by_formula) < 1e-5 * by_formula else FAILS), (
        f"For {len(images)} queries and their reconstructions Keras's loss is {by_keras:.6f} and the "
        f"formula's {by_formula:.6f}."
    )


# -- the figures ----------------------------------------------------------------------------------------------------


def figures(evidence):
    """The paper's eight figures in words, each beside this run's, with what the run's data say about it."""
    judges = (_figure_1, _figure_2, _figure_3, _figure_4, _figure_5, _figure_6, _figure_7, _figure_8)
    made = []
    for judge, (number, (name, notebook, shows)) in zip(judges, FIGURES.items(), strict=True):
        verdict, sentence = _found(judge, evidence)
        file = f"figures/figure_{name}.png"
        try:
            path = evidence.run.checked_path(file)
        except ArtifactError:
            path = None
            sentence += f" Notebook {notebook} draws the picture: {evidence.missing(file)}"
        made.append(Figure(number, shows, path, verdict, sentence))
    return made


def _figure_1(evidence):
    """The index against comparing with every code in turn."""
    database, queries = evidence.paper_codes
    queries, own = queries[:20], None if evidence.own_rows is None else evidence.own_rows[:20]
    hits = Index("euclidean").add(database).search(queries, min(5, len(database) - 1), exclude_self=own)
    agree = 0
    for row, query in enumerate(queries):
        distances = np.sqrt(((database.astype(np.float64) - query) ** 2).sum(axis=1)).astype(np.float32)
        if own is not None:
            distances[own[row]] = np.inf
        agree += np.array_equal(np.sort(distances)[: hits.ids.shape[1]], hits.distances[row])
    return (HOLDS if agree == len(queries) else FAILS), (
        f"For {agree} of {len(queries)} queries the index's hits are those of comparing the query's code with each of "
        f"the {len(database):,} codes in turn, as the paper's steps say (it holds if that is so for all)."
    )


def _figure_2(evidence):
    """Is an image nearer to one of its class than to one of another?"""
    database, labels = evidence.paper_codes[0], evidence.labels[0]
    near = _nearer(database, labels)
    if not near:
        raise Missing("Groups need two classes, and two images in one of them.")
    share, low, high = _share(near)
    example = ""
    classes = {name: label for label, name in evidence.class_names.items()}
    if {"2", "5"} <= classes.keys():
        of_two = np.mean(_nearer(database, labels, classes["2"], classes["5"]))
        example = f" The paper's example: a 2 is nearer to another 2 than to a 5 {_percent(of_two)} of the time."
    return (HOLDS if low >= 0.9 else FAILS if high < 0.5 else IN_PART), (
        f"An image's code is nearer to one of its own class than to one of another class {_percent(share)} "
        f"[{_percent(low)}, {_percent(high)}] of the time, for a network that never saw a label (chance is half; it "
        f"would hold from 90 % on).{example}"
    )


def _nearer(codes, labels, own=None, other=None, *, most=4000):
    """Of random images a (``most`` at most): is a nearer to a random b of its class than to a random c of another?

    ``own`` and ``other`` are the classes of a and c; ``None`` for any. A list of bool, empty where there is no such c.
    """
    rng = np.random.default_rng(0)
    near = []
    for a in rng.permutation(np.flatnonzero(labels == own) if own is not None else len(labels))[:most]:
        like = np.flatnonzero(labels == labels[a])
        unlike = np.flatnonzero(labels != labels[a] if other is None else labels == other)
        like = like[like != a]
        if len(like) and len(unlike):
            b, c = codes[rng.choice(like)], codes[rng.choice(unlike)]
            near.append(bool(np.linalg.norm(codes[a] - b) < np.linalg.norm(codes[a] - c)))
    return near


def _figure_3(evidence):
    """How much of the codes' variance three axes can show."""
    codes = evidence.paper_codes[0].astype(np.float64)
    variances = np.linalg.eigvalsh(np.cov(codes.T))[::-1]
    share = variances[:3].sum() / variances.sum()
    return (HOLDS if codes.shape[1] == 3 else IN_PART if share >= 0.5 else FAILS), (
        f"A code has {codes.shape[1]} numbers. The three axes along which the codes vary most show {_percent(share)} "
        "of their variance (it holds for codes of three numbers, and in part if three axes show half of it)."
    )


def _figure_4(evidence):
    """The reconstruction's loss against that of the best constant image."""
    history = evidence.json("convolutional/history.json")
    loss, constant = history["held_out_loss"][history["best_epoch"] - 1], history["constant_loss"]
    return (HOLDS if loss < constant else FAILS), (
        f"On held-out images the loss of the reconstruction is {loss:.4f}, and that of showing the mean image each "
        f"time {constant:.4f}: the code {'keeps' if loss < constant else 'does not keep'} what the single image looks "
        "like. (What comes of the loss as printed, the claims say.)"
    )


def _figure_5(evidence):
    """Does nearness mean likeness: does precision fall with rank?"""
    row = evidence.row("convolutional", "euclidean")
    precisions = [(name, row[name]) for name in ("P@1", "P@5", "P@10", "P@100") if name in row]
    falling = all(a[1] >= b[1] for a, b in zip(precisions, precisions[1:], strict=False))
    listed = ", ".join(f"{name} {value:.3f}" for name, value in precisions)
    return (HOLDS if falling else IN_PART), (
        "“The smaller the distance, the more similar”: the share of right hits "
        f"{'falls' if falling else 'does not fall'} as one goes farther away: {listed}."
    )


def _figure_6(evidence):
    """The classes of database and queries."""
    labels, labels_queries = evidence.labels
    counts = Counter(labels.tolist())
    fewest, most = min(counts, key=counts.get), max(counts, key=counts.get)
    both = set(counts) == set(labels_queries.tolist())
    digits = sorted(evidence.class_names.values()) == list("0123456789")
    return (HOLDS if both and digits else IN_PART), (
        f"{len(labels):,} images to search and {len(labels_queries):,} queries, {len(counts)} classes in "
        f"{'both' if both else 'the database'}; the database has between {counts[fewest]:,} images of a class "
        f"({evidence.class_names[fewest]}) and {counts[most]:,} ({evidence.class_names[most]}). (It holds if these "
        "are the digits 0 to 9, in both.)"
    )


def _shown_query(evidence):
    """The query of figures 7 and 8, as notebook 05 chooses it, the first of the class: its row, the class's name."""
    labels_queries = evidence.labels[1]
    wanted = evidence.manifest.get("parameters", {}).get("05_query_images", {}).get("query_class")
    names = [evidence.class_names.get(label, str(label)) for label in labels_queries.tolist()]
    row = names.index(wanted) if wanted in names else 0
    return row, names[row]


def _figure_7(evidence):
    """The query of notebook 05."""
    row, name = _shown_query(evidence)
    return (HOLDS if name == "9" else IN_PART), (
        f"This run's query is number {row:,}, the first of class {name}: chosen by that rule, whatever comes of it."
    )


def _figure_8(evidence):
    """How many of that query's five nearest are right."""
    row, name = _shown_query(evidence)
    database, queries = evidence.paper_codes
    labels, labels_queries = evidence.labels
    own = None if evidence.own_rows is None else evidence.own_rows[[row]]
    if len(database) - (own is not None) < 5:
        raise Missing("Five hits need a database of five images or more.")
    hits = Index("euclidean").add(database).search(queries[row], 5, exclude_self=own)
    right = int(metrics.relevance(hits.ids, labels_queries[[row]], labels).sum())
    return (HOLDS if right == 5 else IN_PART if right else FAILS), (
        f"Of the five images nearest to this run's query, {right} are of class {name}. (It holds if all five are; the "
        "first claim counts all queries.)"
    )


# -- methods compared -----------------------------------------------------------------------------------------------


def methods_table(evidence):
    """A row for each method and distance: metrics with interval, seeds, seconds, bytes."""
    rows = []
    for row in sorted(evidence.rows.values(), key=lambda row: -row["mAP"]):
        low, high = row["mAP_interval"]
        numbers = [f"{row[name]:.3f}" if name in row else "–" for name in ("P@1", "P@5", "P@100", "R-precision")]
        by_seed = row.get("mAP_by_seed", [])
        spread = f" ({min(by_seed):.3f} to {max(by_seed):.3f})" if len(by_seed) > 1 else ""
        seconds, size = row.get("train_seconds"), _bytes_per_image(evidence, row["method"])
        rows.append((
            f"{row['method']}, {row['distance']}", f"{row['mAP']:.3f} [{low:.3f}, {high:.3f}]", *numbers,
            f"{len(row['seeds'])}{spread}", f"{max(1, seconds):,.0f}" if seconds else "–", f"{size:,}" if size else "–",
        ))  # fmt: skip
    header = ("method, distance", "mAP [95 % interval]", "P@1", "P@5", "P@100", "R-prec.", "seeds (their mAP)",
              "training (s)", "bytes per image")  # fmt: skip
    return Table(header, rows)


def _bytes_per_image(evidence, method):
    """What one image takes in the index: from a row that says it, or the shape of the codes; ``None`` if unknown."""
    for row in evidence.rows.values():
        if row["method"] == method and row.get("bytes_per_image"):
            return row["bytes_per_image"]
    with suppress(Missing):
        if method == "pixels":
            return evidence.data.database.images[0].size * np.dtype(np.float32).itemsize
        codes = evidence.codes(method)[0]
        return codes.shape[1] * codes.itemsize
    return None


#: Choices of signs in a randomization test.
RESAMPLES = 9999


def randomization_tests(differences, *, resamples=RESAMPLES):
    """Two-sided p-values that mean differences are zero: ``(Q, T)``, a column per test → ``(T,)``.

    Queries with a NaN (no image to find) are left out.

    Under the null hypothesis the two methods may be exchanged for each query, so each difference takes either sign with
    the same chance; p is the share of sign choices whose mean is at least as far from zero, the observed one counted
    (Smucker, Allan and Carterette 2007, A comparison of statistical significance tests for information retrieval
    evaluation; the test of Fisher).
    """
    differences = np.asarray(differences, dtype=np.float64)
    differences = differences[~np.isnan(differences).any(axis=1)]
    rng = np.random.default_rng(0)
    observed = np.abs(differences.sum(axis=0))
    at_least = np.ones(differences.shape[1])
    for start in range(0, resamples, 500):  # in blocks, for the sake of memory
        signs = rng.integers(0, 2, size=(min(500, resamples - start), len(differences)), dtype=np.int8) * 2.0 - 1
        at_least += (np.abs(signs @ differences) >= observed * (1 - 1e-12)).sum(axis=0)
    return at_least / (resamples + 1)


def holm(p):
    """p-values corrected for their number (Holm 1979): ``(T,)`` → ``(T,)``, each at most 1.

    In ascending order the i-th of T is multiplied by T - i + 1, and none may be below the one before it.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def paired_tests(evidence):
    """Every pair of compared methods (cosine), and the paper's against pixels (Euclidean), over the same queries.

    Returns
    -------
    list of dict
        ``a``, ``b``, ``distance``, ``gain`` (mean AP of a minus b, with its 95 % bootstrap interval) and ``p``
        (:func:`randomization_tests`, corrected by :func:`holm`); the better one is ``a``.
    """
    values, chosen = evidence.values, set(COMPARED)
    with suppress(Missing):
        chosen.add(evidence.best_kind)
    by_cosine = [method for method, distance in values if distance == "cosine" and method in chosen]
    pairs = [(a, b, "cosine") for a, b in combinations(by_cosine, 2)]
    if {("convolutional", "euclidean"), ("pixels", "euclidean")} <= values.keys():
        pairs.append(("convolutional", "pixels", "euclidean"))
    if not pairs:
        raise evidence.missing("contrastive/codes_database.npy")
    mean = {key: np.nanmean(of_key["AP"]) for key, of_key in values.items()}
    pairs = [(a, b, d) if mean[a, d] >= mean[b, d] else (b, a, d) for a, b, d in pairs]
    differences = np.stack([values[a, d]["AP"] - values[b, d]["AP"] for a, b, d in pairs], axis=1)
    corrected = holm(randomization_tests(differences))
    return [
        {"a": a, "b": b, "distance": d, "gain": _mean(column), "p": float(p)}
        for (a, b, d), column, p in zip(pairs, differences.T, corrected, strict=True)
    ]


def _paired_section(evidence):
    """The paired tests as a table, and how to read it."""
    tests = paired_tests(evidence)
    rows = [
        (f"{test['a']} − {test['b']}", _gain(test["gain"]), f"{test['p']:.4f}",
         "different" if test["p"] < 0.05 else "not told apart", test["distance"])
        for test in sorted(tests, key=lambda test: -test["gain"][0])
    ]  # fmt: skip
    told = sum(test["p"] < 0.05 for test in tests)
    try:
        best = evidence.best_kind
        family = (
            f" {best.capitalize()} stands for the family of autoencoders: it had the highest mAP on these queries, "
            "which flatters it a little."
        )
    except Missing:
        family = ""
    queries = len(next(iter(evidence.values.values()))["AP"])
    absent = [f"{method} ({why})" for method, why in evidence.left_out.items()]
    return [
        f"Each method ranked the database for the same {queries:,} queries, so differences are taken query by query. "
        f"{told} of {len(tests)} pairs differ at the 5 % level, after Holm's correction for {len(tests)} tests "
        f"(randomization test of the mean difference in average precision; its p cannot be below "
        f"{len(tests) / (RESAMPLES + 1):.4f} after the correction). The codes are those kept from the first seed, so "
        "this tells trainings apart, not kinds of training; how much other seeds change is in the table of "
        f"methods.{family}",
        *([f"Left out: {'; '.join(absent)}"] if absent else []),
        Table(("better − worse", "mAP [95 % interval]", "p (Holm)", "so they are", "distance"), rows),
    ]


# -- seeds, machines, provenance ------------------------------------------------------------------------------------


def _seeds_and_machines(evidence):
    """How far numbers move with the seed, the threads and the library."""
    blocks = []
    rows = {}
    with suppress(Missing):
        rows = evidence.rows
    spreads = [
        f"{method} ({distance}) {max(row['mAP_by_seed']) - min(row['mAP_by_seed']):.4f} over {len(row['seeds'])} seeds"
        for (method, distance), row in rows.items()
        if len(row.get("mAP_by_seed", [])) > 1
    ]
    if spreads:
        blocks.append(f"From the lowest to the highest mAP of different seeds: {'; '.join(spreads)}.")
    else:
        more = "; `make paper-seeds` trains the main ones with five (hours)" if evidence.run.dataset == "mnist" else ""
        blocks.append(f"Each method was trained with one seed{more}.")
    try:
        found = evidence.json("sensitivity.json")
        if "cores" not in found["settings"]:
            raise evidence.missing("sensitivity.json", "comes from an older version")
    except Missing as missing:
        return [*blocks, f"How far other threads and libraries move them: {missing}"]
    rows, first = found["rows"], found["rows"][0]
    header = ("setting", "P@1", "P@5", "mAP", "mAP − first", "weights")
    table = [
        (row["name"], *(f"{row[name]:.4f}" for name in ("P@1", "P@5", "mAP")), f"{row['mAP'] - first['mAP']:+.4f}",
         "the first's" if row["weights"] == first["weights"] else "others")
        for row in rows
    ]  # fmt: skip
    most = {name: max(abs(row[name] - first[name]) for row in rows) for name in ("P@1", "P@5", "mAP")}
    blocks.append(
        f"One training, the paper's network on the bundled {found['settings']['dataset']} from the same seed, was "
        f"repeated with other threads and with TensorFlow's oneDNN kernels on and off, {found['settings']['cores']} "
        "cores in all. "
        f"Metrics moved by at most {most['P@1']:.4f} in P@1, {most['P@5']:.4f} in P@5 and {most['mAP']:.4f} in mAP."
    )
    return [*blocks, Table(header, table)]


def _other_hardware(evidence):
    """What another machine would change, and what it would not."""
    machine = evidence.manifest["machine"]
    try:
        rows = evidence.json("sensitivity.json")["rows"]
        moved = max(abs(row["mAP"] - rows[0]["mAP"]) for row in rows)
        size = f"by about as much as other threads did, {moved:.4f} in mAP on the bundled digits"
    except Missing:
        size = f"by how much, {evidence.command('measure machines')} measures"
    same = "methods that train nothing"
    with suppress(Missing):
        same = ", ".join(dict.fromkeys(method for method, _ in evidence.rows if method in ("pixels", "hog"))) or same
    return [
        f"On another machine than this one ({machine['system']} {machine['architecture']}, {machine['cores']} cores) "
        f"the seconds change with its speed. The rows of {same} stay the same to rounding: nothing "
        f"is trained for them, and search is exact. Trained methods start from the same weights and see the same "
        f"batches, but sums are rounded in another order, so that their numbers move a little, {size}. "
        "A GPU rounds in its own way too. A verdict whose interval lies close to its limit may come out otherwise."
    ]


def _hygiene(evidence):
    """How labels are kept out, and which data these are."""
    labels = {name: evidence.manifest.get("files", {}).get(name, {}).get("sha256", "") for name in
              ("labels_database.npy", "labels_queries.npy")}  # fmt: skip
    noted = ", ".join(f"{name} (SHA-256 {value[:12]}…)" for name, value in labels.items() if value)
    return [
        "Labels are kept in files of their own and read by the evaluation only" + (f": {noted}." if noted else "."),
        "The tests hold it so: no argument, variable or attribute in the modules that learn or search may be named "
        "after labels, classes or targets (tests/test_project.py); training, encoding and indexing take images only. "
        "The database alone is trained on. Of an autoencoder a tenth of it, held out, decides which epoch is kept; the "
        "contrastive network ends when neither its loss nor the share of mutual hits improves. The figures above "
        "follow rules set beforehand.",
        "What labels did choose, outside a run: while this project was developed, the strength of the augmentation, "
        "the length of the walk and the weight of HOG in the graph were compared on training images with their labels "
        "(README, Results). And by these queries: which kind of autoencoder stands for its family in the paired tests, "
        "and which method the explorer offers first.",
    ]


def _provenance(evidence):
    """Dataset hash, versions, commit, machine, parameters and seconds."""
    manifest = evidence.manifest
    machine = manifest["machine"]
    facts = [
        ("dataset", f"{evidence.run.dataset}, content hash (SHA-256) {manifest.get('content_hash', 'not noted')}"),
        ("artifacts", f"last changed {manifest.get('updated', 'at a time not noted')}"),
        (
            "last run at commit",
            manifest.get("commit") or "not noted (made before commits were, or outside a git clone)",
        ),
        ("report written at commit", current_commit() or "unknown (not a git clone)"),
        ("machine", f"{machine['system']} {machine['architecture']}, {machine['cores']} cores"),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest["packages"].items() if version)),
    ]
    with suppress(Missing):
        protocols = {re.sub(r"; seeds? [\d, ]+\.$", ".", row["protocol"]) for row in evidence.rows.values()}
        facts.append(("protocol", " ".join(sorted(protocols))))
    seconds, steps = manifest.get("timings", {}), manifest.get("steps", {})
    rows = []
    for notebook, parameters in sorted(manifest.get("parameters", {}).items()):
        shown = ", ".join(f"{k} = {v}" for k, v in parameters.items() if k not in ("dataset", "results", "more"))
        commit = (steps.get(notebook) or {}).get("commit") or "–"
        took = f"{seconds[notebook]:,.0f}" if notebook in seconds else "–"
        rows.append((notebook, took, commit[:10] + commit[40:], shown or "–"))
    noted = [Table(("notebook", "seconds", "at commit", "parameters"), rows)] if rows else []
    return [Table(("", ""), facts), *noted]


def current_commit():
    """The commit that the repository is at, with a mark if files differ from it; ``None`` outside a git clone."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


# -- the whole --------------------------------------------------------------------------------------------------------


def sections(evidence):
    """The report as a list of :class:`Section`; a part that lacks an artifact says which command makes it."""
    parts = (
        ("The claims", claims),
        ("The eight figures", figures),
        ("The two equations", equations),
        ("Every method", _methods_section),
        ("Methods compared, query by query", _paired_section),
        ("Seeds and machines", _seeds_and_machines),
        ("What other hardware would change", _other_hardware),
        ("Labels", _hygiene),
        ("Where the numbers come from", _provenance),
    )
    made = []
    for title, blocks in parts:
        try:
            made.append(Section(title, blocks(evidence)))
        except Missing as missing:
            made.append(Section(title, [f"Not there yet: {missing}"]))
    return made


def _methods_section(evidence):
    """The table of methods, and what it holds."""
    dates = sorted({row["measured"] for row in evidence.rows.values() if "measured" in row})
    when = f" Measured {dates[0]}" + (f" to {dates[-1]}." if len(dates) > 1 else ".") if dates else ""
    said = (
        "The paper's method is convolutional; pixels compares the images themselves. Best mAP first; the interval is "
        f"over queries, after taking each query's mean over the seeds.{when}"
    )
    return [said, methods_table(evidence)]


def summary(parts):
    """How many claims hold, hold in part, do not hold, or are not measured: one sentence."""
    verdicts = Counter(v.verdict for part in parts for v in part.blocks if isinstance(v, Verdict))
    several = {HOLDS: "hold", IN_PART: "hold in part", FAILS: "do not hold", UNKNOWN: UNKNOWN}
    counted = [
        f"{verdicts[name]} {name if verdicts[name] == 1 else several[name]}" for name in several if verdicts[name]
    ]
    return f"Of the paper's claims, {', '.join(counted)}."


def verdict_table(parts):
    """The verdicts of claims, figures and equations as a Markdown table."""
    lines = ["| of the paper | verdict |", "| --- | --- |"]
    for block in (block for part in parts for block in part.blocks):
        if isinstance(block, Verdict):
            lines.append(f"| {block.claim} ({block.where}) | **{block.verdict}** |")
        elif isinstance(block, Figure):
            lines.append(f"| Figure {block.number}. {block.shows} | **{block.verdict}** |")
        elif isinstance(block, Equation):
            lines.append(f"| {block.title} | **{block.verdict}** |")
    return "\n".join(lines)


def write_report(run, *, verbose=False):
    """Write ``report/index.html`` and, where a browser is installed, ``report/report.pdf``.

    Returns
    -------
    tuple
        The page's path, the PDF's path or ``None``, the sections, and a sentence on the PDF.
    """
    parts = sections(Evidence(run, verbose=verbose))
    page = run.path("report/index.html")
    with run.writing("report/index.html") as partial:
        partial.write_text(render(parts, run.dataset), encoding="utf-8")
    pdf, said = print_pdf(page)
    return page, pdf, parts, said


def print_pdf(page):
    """Print the page beside itself as ``report.pdf`` through a browser: its path or ``None``, and what to say of it."""
    target = page.with_name("report.pdf")
    target.unlink(missing_ok=True)  # one from before would tell of other numbers
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return (
            None,
            "No PDF: it is printed through Chromium or Chrome; install one, or print the page from your browser.",
        )
    words = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
    words += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has none
    try:
        with tempfile.TemporaryDirectory() as profile, atomic_path(target) as partial:
            words += [f"--user-data-dir={profile}", f"--print-to-pdf={partial}", page.resolve().as_uri()]
            subprocess.run(words, capture_output=True, timeout=120, check=True)
            if partial.read_bytes()[:4] != b"%PDF":
                raise OSError("no PDF came out")
    except (OSError, subprocess.SubprocessError):
        return None, f"No PDF: {Path(browser).name} could not print it; print the page from your browser."
    return target, f"The same as a PDF: {target.name}"


# -- HTML -------------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --quiet: #566273; --line: #d8dee6; --ground: #f5f7fa; }
* { box-sizing: border-box; }
body { margin: 0; font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
       background: #fff; overflow-wrap: break-word; }
main { max-width: 1040px; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .6rem 0; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; padding-top: .8rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 0 0 .3rem; }
p { margin: .5rem 0; }
nav a { display: inline-block; margin: .15rem 1rem .15rem 0; padding: .2rem 0; }
a { color: #0b57a4; }
.lead { font-size: 1.1rem; }
.quiet { color: var(--quiet); font-size: .93rem; }
.card { border: 1px solid var(--line); border-left: 6px solid var(--mark); border-radius: 6px; padding: .8rem 1rem;
        margin: .8rem 0; break-inside: avoid; }
.chip { display: inline-block; padding: .05rem .6rem; border-radius: 1rem; font-weight: 650; font-size: .92rem;
        background: var(--tint); color: var(--mark); white-space: nowrap; }
.holds { --mark: #146b3a; --tint: #e2f3e8; } .part { --mark: #815200; --tint: #fdf0d5; }
.fails { --mark: #a32020; --tint: #fbe5e5; } .unknown { --mark: #4a5565; --tint: #e9edf2; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr); gap: .4rem 1.4rem; }
.beside img { width: 100%; height: auto; max-height: 30rem; object-fit: contain; object-position: left top; }
.beside img.small { max-width: 11rem; }
@media (min-width: 760px) { .beside { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); } }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; } td.long { white-space: normal; min-width: 15rem; overflow-wrap: anywhere; }
thead th { background: var(--ground); } tr:last-child > * { border-bottom: 0; }
tbody th { position: sticky; left: 0; background: #fff; font-weight: 600; white-space: nowrap; }
math { font-size: 1.25rem; } .formula { overflow-x: auto; padding: .4rem 0; }
pre { overflow-x: auto; background: var(--ground); border: 1px solid var(--line); border-radius: 6px; padding: .7rem;
      font-size: .82rem; line-height: 1.4; margin: .4rem 0 .8rem; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .88em;
       background: var(--ground); overflow-wrap: anywhere; } pre code { font-size: 1em; overflow-wrap: normal; }
@media (max-width: 600px) { tbody th { white-space: normal; min-width: 8rem; } th, td { padding: .4rem .5rem; } }
@media print {
  @page { margin: 14mm 12mm; } body { font-size: 10.5pt; } main { padding: 0; max-width: none; } nav { display: none; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; } td, tbody th { white-space: normal; position: static; }
  th, td { padding: .15rem .3rem; } td.long { min-width: 0; } pre { white-space: pre-wrap; font-size: 7.5pt; }
  h2, h3 { break-after: avoid; } tr { break-inside: avoid; } .beside { grid-template-columns: 2fr 3fr; }
}
"""

KINDS = {HOLDS: ("holds", "✓"), IN_PART: ("part", "≈"), FAILS: ("fails", "✗"), UNKNOWN: ("unknown", "?")}


def render(parts, dataset):
    """The sections as one HTML page that needs nothing from outside."""
    anchors = [f"part-{number}" for number in range(1, len(parts) + 1)]
    links = " ".join(f'<a href="#{a}">{_text(part.title)}</a>' for a, part in zip(anchors, parts, strict=True))
    body = "\n".join(
        f'<section id="{a}"><h2>{_text(part.title)}</h2>\n{"".join(map(_block, part.blocks))}</section>'
        for a, part in zip(anchors, parts, strict=True)
    )
    title = f"Does the paper hold? A reproduction on {dataset}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{_text(title)}</h1>
<p class="quiet">V. Rupapara, N. K. Gonda, M. Narra, K. Thipparthi and S. Gandhi: Auto-Encoders for Content-based Image
Retrieval with its Implementation Using Handwritten Dataset.</p>
<p class="lead">{_text(summary(parts))} The paper shows one query; here every query is counted, and each number below
was read from this run’s files when the page was written.</p>
<p class="quiet">How verdicts are given: the claims’ by 95 % intervals, in brackets. What is better by every measure
holds; what is worse by one and better by none does not; where measures disagree or leave it open, a claim holds in
part. A limit that another verdict has stands in its sentence.</p>
<nav>{links}</nav>
{body}
</main>
</body>
</html>
"""


def _block(block):
    """One block as HTML."""
    if isinstance(block, str):
        return f"<p>{_text(block)}</p>\n"
    if isinstance(block, Table):
        return _table(block)
    kind = KINDS[block.verdict][0]
    said = f"<p>{_chip(block.verdict)} {_text(block.sentence)}</p>"
    if isinstance(block, Verdict):
        where = f'<span class="quiet">(section {_text(block.where)})</span>'
        return f'<div class="card {kind}"><h3>{_text(block.claim)} {where}</h3>{said}</div>\n'
    if isinstance(block, Figure):
        picture = '<p class="quiet">(no picture)</p>'
        if block.path is not None:
            encoded = base64.b64encode(block.path.read_bytes()).decode()
            small = ' class="small"' if block.number == 7 else ""
            picture = f'<img{small} alt="This run: figure {block.number}" src="data:image/png;base64,{encoded}">'
        return (
            f'<div class="card {kind}"><h3>Figure {block.number}</h3><div class="beside"><div><p><span class="quiet">'
            f"The paper shows:</span> {_text(block.shows)}</p>{said}</div>{picture}</div></div>\n"
        )
    formula = f'<div class="formula"><math display="block">{block.mathml}</math></div>'
    sources = "".join(map(_source, block.functions))
    return f'<div class="card {kind}"><h3>{_text(block.title)}</h3>{formula}{said}{sources}</div>\n'


def _source(thing):
    """A function's or class's source, with the place where it stands."""
    lines, first = inspect.getsourcelines(thing)
    place = f"{Path(inspect.getsourcefile(thing)).name}, line {first}: {thing.__qualname__}"
    code = html.escape(textwrap.dedent("".join(lines)).rstrip())
    return f'<p class="quiet">cbir_utils/{_text(place)}</p><pre><code>{code}</code></pre>'


def _table(table):
    """A table that scrolls by itself where it is too wide."""
    head = "".join(f"<th>{_text(name)}</th>" for name in table.header)
    head = f"<thead><tr>{head}</tr></thead>" if any(table.header) else ""
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th>'
        + "".join(f"<td{' class=long' if len(cell) > 45 else ''}>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in table.rows
    )
    return f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>\n'


def _chip(verdict):
    kind, sign = KINDS[verdict]
    return f'<span class="chip {kind}">{sign} {_text(verdict)}</span>'


def _text(text):
    """Text as HTML, with what stands between backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(text)))


# -- numbers as text --------------------------------------------------------------------------------------------------


def _mean(values):
    """The mean over queries and its 95 % bootstrap interval: (mean, low, high)."""
    values = np.asarray(values, dtype=np.float64)
    return float(np.nanmean(values)), *metrics.bootstrap_interval(values)


def _share(flags):
    """The share of true ones and its 95 % interval: (share, low, high)."""
    return float(np.mean(flags)), *metrics.wilson_interval(int(np.sum(flags)), len(flags))


def _sign(mean):
    """1 or -1 if the interval of (mean, low, high) lies on one side of zero, else 0."""
    return 1 if mean[1] > 0 else -1 if mean[2] < 0 else 0


def _gain(mean):
    return f"{mean[0]:+.3f} [{mean[1]:+.3f}, {mean[2]:+.3f}]".replace("-", "−")


def _percent(share):
    return f"{100 * share:.1f}\u00a0%"


def _duration(seconds):
    """Seconds, and minutes or hours where that is easier to read."""
    if seconds < 120:
        return f"{seconds:,.0f} seconds"
    if seconds < 7200:
        return f"{seconds:,.0f} seconds ({seconds / 60:.0f} minutes)"
    return f"{seconds:,.0f} seconds ({seconds / 3600:.1f} hours)"
