"""The figures of notebooks 06 to 09."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from figures import nothing_is_shown, texts

from cbir_utils.methods import plots
from cbir_utils.methods.corruptions import CORRUPTIONS
from cbir_utils.training import History

__all__ = ["nothing_is_shown"]


def result(method, quality, **more):
    return {"method": method, "mAP": quality, "mAP_interval": [quality - 0.01, quality + 0.01], "P@5": 0.9, **more}


def test_reconstruction_against_retrieval_names_the_best_of_each():
    rows = [
        result(str(i), q, reconstruction_error=e, collapsed=i == 0) for i, (q, e) in enumerate([(1, 3), (2, 2), (3, 1)])
    ]
    ax = plt.figure().add_subplot()
    plots.reconstruction_against_retrieval(ax, rows)
    assert ax.get_title() == "The best reconstruction (2)\nis also the best retrieval"
    ax = plt.figure().add_subplot()
    plots.reconstruction_against_retrieval(ax, [{**rows[0], "reconstruction_error": 9}, {**rows[1], "mAP": 0}])
    assert ax.get_title() == "The best reconstruction (1)\nis not the best retrieval (0)"
    ax = plt.figure().add_subplot()
    plots.reconstruction_against_retrieval(ax, rows)
    assert [line.get_marker() for line in ax.lines] == ["X", "o", "o"]


def test_hard_queries_have_a_panel_per_corruption_and_a_line_per_method():
    values = {kind: np.linspace(1, 0.5, len(c.strengths)) for kind, c in CORRUPTIONS.items()}
    curves = {"good": values, "bad": {k: v / 2 for k, v in values.items()}}
    figure = plots.hard_queries_chart(curves, "P@5", CORRUPTIONS)
    panels = [ax for ax in figure.axes if ax.lines]
    assert [ax.get_title().split("\n")[0] for ax in panels] == list(CORRUPTIONS)
    assert all(len(ax.lines) == 2 and ax.get_title().endswith("best: good 0.75") for ax in panels)
    assert {"good", "bad", "degrees"} <= set(texts(figure))


def test_the_small_charts_state_their_number():
    ax = plt.figure().add_subplot()
    plots.novelty_histogram(ax, {"own": [0.1, 0.5], "other": [1.5, 90.0]}, 0.987)
    assert ax.get_title() == "AUROC 0.987 (0.5: no better than chance)"
    ax = plt.figure().add_subplot()
    plots.eigenvalues(ax, np.array([1.0, 0.9, 0.5, -0.1]), 3)  # .9³ = .729
    assert ax.get_title() == "After 3 steps 2 of 4 directions keep more than half"
    # frequencies √(1 - λ): 0, .32, .71, 1.05 (of -.1); the largest gap is from .32 to .71
    assert "largest gap of frequencies, behind 2" in {text.get_text() for text in ax.get_legend().get_texts()}
    ax = plt.figure().add_subplot()
    plots.quantization(ax, {16: (4.0, [3.0, 2.0]), 32: (4.0, [4.0, 3.0])})
    assert ax.get_title() == "Rotating saves up to 50 % of the quantisation loss"
    ax = plt.figure().add_subplot()
    plots.teaching(ax, History([3.0, 2.0, 1.5], seconds=[1.0] * 3))
    assert ax.get_title() == "Loss 3.00 → 1.50 in 3 s"


def test_bits_against_quality_names_the_best_bits_and_marks_published_figures():
    rows = [
        {"method": "m", "bits": b, "bytes_per_image": s, "mAP": q}
        for b, s, q in [(0, 256, 0.9), (16, 2, 0.7), (64, 8, 0.8)]
    ]
    ax = plt.figure().add_subplot()
    plots.bits_against_quality(ax, rows, [("paper", 4, 0.5)])
    assert ax.get_title() == "64 bits keep mAP 0.800 (m)"
    assert ax.lines[0].get_xdata().tolist() == [2, 8, 256] and "paper" in [t.get_text() for t in ax.texts]
