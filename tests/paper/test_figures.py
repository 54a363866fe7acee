"""What a run's data say of the paper's figures and equations."""

import numpy as np

from cbir_utils.models import build_convolutional
from cbir_utils.paper import figures
from cbir_utils.paper.evidence import FAILS, HOLDS, IN_PART, UNKNOWN


def test_the_figures_say_what_the_data_say(run, evidence, digits):
    made = dict(enumerate(figures.figures(evidence), 1))
    assert len(made) == 8 and made[7].title == "Figure 7: The query: one handwritten 9."
    labels, labels_queries = digits.database.labels, digits.queries.labels
    assert made[1].verdict == HOLDS and "For 20 of 20 queries" in made[1].sentence
    codes, queries = (rows.astype(float) for rows in run.load_codes("convolutional"))
    three, asked = run.load_codes("three_numbers")
    right = labels[[np.argmin(np.linalg.norm(three - code, axis=1)) for code in asked]] == labels_queries
    assert f"for {right.mean():.1%} [" in made[3].sentence  # of ten classes it knows three, and confuses the others
    assert made[3].verdict == FAILS and right.mean() < 0.5
    assert made[4].verdict == HOLDS and "0.1000" in made[4].sentence and "0.2000" in made[4].sentence
    counts = np.bincount(labels)
    assert f"between {counts.min()} images" in made[6].sentence and f"and {counts.max()} (" in made[6].sentence
    follows = np.mean(labels[1:] == labels[:-1])
    assert made[6].verdict == HOLDS and f"follows itself {follows:.1%} [" in made[6].sentence
    assert f"would {np.sum((counts / len(labels)) ** 2):.1%} of the time, so the order is random" in made[6].sentence
    first = int(np.argmax(labels_queries == 9))
    precision = evidence.values["convolutional", "euclidean"]["AP"]
    easier = np.mean(precision[labels_queries == 9] < precision[first])
    assert f"number {first}, the first of class 9" in made[7].sentence and f"than {easier:.0%} of" in made[7].sentence
    assert made[7].verdict == (HOLDS if 0.25 <= easier <= 0.75 else IN_PART)
    nearest = np.argsort(np.linalg.norm(codes - queries[first], axis=1))[:5]
    assert f"query, {(labels[nearest] == 9).sum()} are of class 9" in made[8].sentence
    assert all(f"No picture: figures/figure_0{number}_" in figure.sentence for number, figure in made.items())

    run.save_json("convolutional/history.json", {"held_out_loss": [0.3], "best_epoch": 1, "constant_loss": 0.2})
    assert evidence.find(figures.reconstructions).verdict == FAILS


def test_nearer_to_its_own_class():
    codes, labels = np.array([[0.0], [1.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])
    assert figures.nearer(codes, labels).all() and len(figures.nearer(codes, labels)) == 4000
    around = np.array([[0.0], [10.0], [4.0], [6.0]])  # the first class lies about the second
    assert not figures.nearer(around, labels, 0, 1).any()
    assert figures.nearer(around, labels, 1, 0).all()
    assert not len(figures.nearer(codes, np.zeros(4))) and not len(figures.nearer(codes, np.arange(4)))


def test_the_equations_are_checked_on_the_kept_network(run, evidence, digits):
    assert figures.distance([0, 3], [4, 0]) == 5.0 and figures.mean_squared_error([0, 3], [4, 0]) == 12.5
    first, second = (build_convolutional(digits.database.images.shape[1:], seed=seed) for seed in (0, 1))
    assert [found.verdict for found in figures.equations(evidence)] == [UNKNOWN, HOLDS, UNKNOWN]
    for name in ("encoder", "autoencoder"):
        with run.writing(f"convolutional/{name}.keras") as path:
            getattr(first, name).save(path)
    assert [found.verdict for found in figures.equations(evidence)] == [HOLDS, HOLDS, HOLDS]
    with run.writing("convolutional/encoder.keras") as path:
        second.encoder.save(path)
    assert evidence.find(figures.autoencoder).verdict == FAILS
