"""The figures of notebook 11."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from figures import nothing_is_shown

from cbir_utils.scale import plots

__all__ = ["nothing_is_shown"]


def test_memory_by_kind_marks_what_is_chosen_and_names_the_largest():
    ax = plt.figure().add_subplot()
    needed = {"exact": [1e6, 1e9, 1e12], "ivfpq": [1e5, 1e8, 1e11]}
    plots.memory_by_kind(ax, [10, 10_000, 10_000_000], needed, ["exact", "ivfpq", None], 2e9)
    assert ax.get_title() == "In 2.0 GB: up to 200,000 images (ivfpq)"
    assert [line.get_markevery() for line in ax.lines[:2]] == [[0], [1]]


def test_recall_against_speed_names_the_fastest_that_finds_enough():
    ax = plt.figure().add_subplot()
    plots.recall_against_speed(ax, {"a": [(0.9, 5000), (0.96, 2000)], "b": [(0.99, 1000)]}, 10)
    assert ax.get_title() == "a: 2,000 queries per second at recall 0.960"
    assert ax.get_xlabel() == "recall@10"
