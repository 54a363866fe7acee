"""The paper's eight figures, its two equations and its loss, and what a run's data say of each.

The docstring of a figure's rule is what the paper's figure shows; the paper's figures are described, not copied.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
from scipy.spatial.distance import cdist

from cbir_utils import metrics
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import scale
from cbir_utils.distances import pair_distances
from cbir_utils.models import Autoencoder
from cbir_utils.paper.claims import share
from cbir_utils.paper.evidence import FAILS, HOLDS, IN_PART
from cbir_utils.training import LOSSES, decode, encode, load_model, reconstruct


def figures(evidence):
    """The findings on the paper's figures, in their order, each with this run's own."""
    rules = retrieval_steps, latent_map, three_axes, reconstructions, ranked_codes, dataset, query, hits
    made = []
    for number, rule in enumerate(rules, 1):
        found = evidence.find(rule)
        try:
            found = replace(found, picture=evidence.run.checked_path(f"figures/figure_{number:02}_{found.name}.png"))
        except ArtifactError as error:
            found = replace(found, sentence=f"{found.sentence} No picture: {evidence.plain(error)}")
        made.append(replace(found, title=f"Figure {number}: {found.title}"))
    return made


def retrieval_steps(evidence):
    """Steps of a query: images are encoded once, the query is encoded and compared."""
    (database, queries), own = evidence.codes(), evidence.data.own_rows
    found, distances = evidence.hits(slice(20)), cdist(queries[:20], database)
    if own is not None:
        distances[np.arange(len(distances)), own[:20]] = np.inf
    nearest = np.sort(distances, axis=1)[:, :5]
    agree = np.isclose(nearest, found.distances, rtol=1e-6).all(axis=1)
    return HOLDS if agree.all() else FAILS, {"agree": agree.sum(), "queries": len(agree)}


def latent_map(evidence):
    """The latent space as a map; “all the 2's have much more similarity” than 2's with 5's."""
    codes, labels, names = evidence.codes()[0], evidence.data.database.labels, evidence.data.class_names
    near, example = nearer(codes, labels), None
    if not len(near):
        raise ArtifactError("Groups need two classes, and two images in one of them.")
    if {"2", "5"} <= {names[label] for label in np.unique(labels)}:
        example = nearer(codes, labels, names.index("2"), names.index("5")).mean()
    found = share(near)
    verdict = HOLDS if found.low >= 0.9 else FAILS if found.high < 0.5 else IN_PART
    return verdict, {"near": found, "example": example}


def nearer(codes, labels, own=None, other=None):
    """Of up to 4,000 random triples, a and b of one class and c of another: is a nearer to b than to c?

    ``own`` and ``other`` are the classes of a and c, ``None`` for any. Bool, empty where there is no such triple.
    """
    a, b, c = np.random.default_rng(0).integers(len(codes), size=(3, 1_000_000))
    wanted = (a != b) & (labels[a] == labels[b]) & (labels[a] != labels[c])
    wanted &= (own is None or labels[a] == own) & (other is None or labels[c] == other)
    a, b, c = (codes[rows[wanted][:4000]] for rows in (a, b, c))
    return np.linalg.norm(a - b, axis=1) < np.linalg.norm(a - c, axis=1)


def three_axes(evidence):
    """A point of the latent space, “a vector containing 3 dimensions (x, y, and z)”."""
    first = {method: evidence.first_hit(method) for method in ("three_numbers", "convolutional")}
    found, numbers = share(first["three_numbers"]), evidence.codes()[0].shape[1]
    verdict = HOLDS if found.low >= 0.9 else FAILS if found.high < 0.5 else IN_PART
    return verdict, {"found": found, "own": first["convolutional"].mean(), "numbers": numbers}


def reconstructions(evidence):
    """A digit goes through the encoder into a short code; the decoder draws it again."""
    history = evidence.run.load_json("convolutional/history.json")
    loss, constant = history["held_out_loss"][history["best_epoch"] - 1], history["constant_loss"]
    return HOLDS if loss < constant else FAILS, {"loss": loss, "constant": constant}


def ranked_codes(evidence):
    """Retrieval by codes: the query's code is compared with each code of the database."""
    row = evidence.rows.get(("convolutional", "euclidean"))
    if row is None:
        raise ArtifactError("metrics.json has no row of the convolutional network by Euclidean distance.")
    precisions = {name: row[name] for name in ("P@1", "P@5", "P@10", "P@100") if name in row}
    falls = list(precisions.values()) == sorted(precisions.values(), reverse=True)
    return HOLDS if falls else IN_PART, {"precisions": precisions, "falls": falls}


def dataset(evidence):
    """Examples of the handwritten dataset: the digits 0 to 9 “being randomly repeated”."""
    data = evidence.data
    searched, asked = (Counter(data.class_names[i] for i in split.labels) for split in (data.database, data.queries))
    both = searched.keys() == asked.keys()
    # In random order a class follows itself as often as its share of the images says.
    expected = sum((count / len(data.database)) ** 2 for count in searched.values())
    follows = share(np.diff(data.database.labels) == 0)
    random = follows.low <= expected <= follows.high
    verdict = HOLDS if random and both and sorted(searched) == list("0123456789") else IN_PART
    numbers = {"counts": searched.most_common(), "both": both}
    return verdict, {**numbers, "follows": follows, "expected": expected, "random": random}


def shown_query(evidence):
    """The query of figures 7 and 8, as notebook 05 chooses it, the first of a class: its row, the class's name."""
    wanted = evidence.manifest.get("parameters", {}).get("05_query_images", {}).get("query_class", "9")
    names = [evidence.data.class_names[label] for label in evidence.data.queries.labels]
    row = names.index(wanted) if wanted in names else 0
    return row, names[row]


def query(evidence):
    """The query: one handwritten 9."""
    row, name = shown_query(evidence)
    precision, labels = evidence.value("convolutional", "euclidean")["AP"], evidence.data.queries.labels
    easier = float(np.mean(precision[labels == labels[row]] < precision[row]))  # than which share of its class
    usual = 0.25 <= easier <= 0.75
    return HOLDS if name == "9" and usual else IN_PART, {"row": row, "name": name, "easier": easier, "usual": usual}


def hits(evidence):
    """The query's result: five images, all of them 9s."""
    (row, name), data = shown_query(evidence), evidence.data
    found = evidence.hits([row])
    right = metrics.relevance(found.ids, data.queries.labels[[row]], data.database.labels).sum()
    return HOLDS if right == 5 else IN_PART if right else FAILS, {"right": right, "name": name}


def equations(evidence):
    """The findings on the paper's two equations and its loss (docstrings are the titles), with their functions."""
    return [
        evidence.find(autoencoder, functions=(Autoencoder, encode, decode)),
        evidence.find(euclidean_distance, functions=(distance, pair_distances)),
        evidence.find(loss, functions=(mean_squared_error,)),
    ]


def distance(q, s):
    """The Euclidean distance of two codes ``(n,)``, term by term (the paper, equation 2); a float."""
    return sum((float(a) - float(b)) ** 2 for a, b in zip(q, s, strict=True)) ** 0.5


def mean_squared_error(x, output):
    """The mean of the squared differences of two arrays of the same shape (the paper, section VI-E); a float."""
    return float(np.mean((np.asarray(x, np.float64) - np.asarray(output, np.float64)) ** 2))


def autoencoder(evidence):
    """Equation 1: encoding and decoding"""
    paths = [evidence.run.checked_path(f"convolutional/{name}.keras") for name in ("encoder", "autoencoder")]
    (encoder, whole), images = map(load_model, paths), evidence.data.queries.images[:100]
    rebuilt = decode(whole.get_layer("decoder"), encode(encoder, images))
    apart = float(np.abs(reconstruct(whole, images) - rebuilt).max())
    return HOLDS if apart < 1e-5 else FAILS, {"queries": len(images), "apart": apart}


def euclidean_distance(evidence):
    """Equation 2: distance of a query and a sample"""
    database, queries = evidence.codes()
    found = evidence.hits(slice(50))
    formula = [[distance(q, database[row]) for row in rows] for q, rows in zip(queries, found.ids, strict=False)]
    apart = float((np.abs(found.distances - formula) / np.maximum(formula, 1e-12)).max())
    return HOLDS if apart < 1e-6 else FAILS, {"queries": len(formula), "distances": found.ids.size, "apart": apart}


def loss(evidence):
    """The loss of the listing (loss='mse'), as this project also has it"""
    images = evidence.data.queries.images[:100]
    output = reconstruct(load_model(evidence.run.checked_path("convolutional/autoencoder.keras")), images)
    by_keras, by_formula = float(LOSSES["mse"]()(scale(images), output)), mean_squared_error(scale(images), output)
    facts = {"queries": len(images), "by_keras": by_keras, "by_formula": by_formula}
    return HOLDS if abs(by_keras - by_formula) < 1e-5 * by_formula else FAILS, facts
