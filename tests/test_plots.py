"""Figures: that they draw what they are given, that their numbers are right, that none touches the screen."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import CODES, IMAGES, RNG, nothing_is_shown, texts
from sklearn.metrics import roc_auc_score

from cbir_utils import plots
from cbir_utils.lessons.cells import use_style
from cbir_utils.training import History

__all__ = ["nothing_is_shown"]


def history(*losses, constant=1.0):
    best = int(np.argmin(losses))
    return History(list(losses), list(losses), [0.1] * len(losses), constant, best + 1)


def test_image_grid_takes_the_first_of_each_class_in_order():
    labels = np.arange(20) % 2
    figure = plots.image_grid(IMAGES, labels, ("even", "odd"), columns=3)
    grid = figure.axes[0].images[0].get_array()
    shown = [grid[y : y + 28, x : x + 28] for y in (1, 31) for x in (1, 31, 61)]
    expected = [IMAGES[i, ..., 0] for i in (0, 2, 4, 1, 3, 5)]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
    assert {"even", "odd"} <= set(texts(figure))


def test_pixel_redundancy_states_the_fewest_directions_that_hold_90_percent():
    ax = plt.figure().add_subplot()
    plots.pixel_redundancy(ax, [0.5, 0.3, 0.15, 0.05])  # sums: .5, .8, .95, 1
    assert ax.get_title() == "3 of 4 directions hold 90 % of the pixels' variance"


def test_collapse_counts_the_collapsed():
    figure = plots.collapse({"one": [history(2.0, 1.5), history(2.0, 0.5)], "two": [history(0.4, 0.6)]})
    assert {"one\n1 of 2 seeds collapsed", "two\n0 of 1 seeds collapsed"} <= set(texts(figure))
    styles = [line.get_linestyle() for line in figure.axes[0].lines[:2]]
    assert styles == ["--", "-"]


def test_loss_curves_mark_the_epoch_whose_weights_are_kept():
    ax = plt.figure().add_subplot()
    plots.loss_curves(ax, history(0.9, 0.4, 0.6))
    assert ax.get_title() == "Held-out loss 0.400 (epoch 2); constant image 1.000"


def test_reconstruction_error_is_the_mean_over_pixels():
    decoded = IMAGES[:3] / 255 + 0.1
    assert "mean squared error 0.0100 per pixel" in " ".join(
        texts(plots.reconstructions(IMAGES[:3], CODES[:3], decoded))
    )


def test_distance_distributions_state_one_minus_auroc():
    within, between = RNG.normal(3, 1, 300), RNG.normal(5, 1, 400)
    ax = plt.figure().add_subplot()
    plots.distance_distributions(ax, within, between)
    labels = np.repeat([0, 1], (300, 400))
    expected = 1 - roc_auc_score(labels, np.concatenate([within, between]))
    assert ax.get_title().startswith(f"In {100 * expected:.0f} % of comparisons")


@pytest.mark.parametrize(
    "within, between, said", [([1, 1, 1], [1, 1], 50), ([1, 2], [1, 2], 50), ([1, 2], [2, 3], 13), ([2], [1], 100)]
)
def test_ties_mislead_half_of_the_time(within, between, said):
    """By hand: of the pairs (1, 2), (1, 3), (2, 2), (2, 3) only (2, 2) is a tie: 0.5 of 4 is 12.5 %."""
    ax = plt.figure().add_subplot()
    plots.distance_distributions(ax, within, between)
    assert ax.get_title().startswith(f"In {said} % of") or (said == 13 and ax.get_title().startswith("In 12 % of"))


@pytest.mark.parametrize(
    ("within", "between", "kind"), [([1.0], [], "two classes"), ([], [2.0], "one class"), ([], [], "one class")]
)
def test_pairs_of_one_kind_alone_are_not_compared(within, between, kind):
    ax = plt.figure().add_subplot()
    plots.distance_distributions(ax, np.array(within), np.array(between))
    assert ax.get_title() == f"No pairs of {kind}: nothing to compare"


def test_right_and_wrong_hits_differ_by_more_than_colour():
    figure = plots.query_and_hits(IMAGES[0], IMAGES[1:3], [0.5, 1.25], [True, False])
    assert {"1: 0.50 ✓", "2: 1.25 ✗ wrong", "1 of 2 hits are of the query's class"} <= set(texts(figure))
    right, wrong = (ax.spines["left"].get_linestyle() for ax in figure.axes[1:])
    assert right != wrong


def test_without_relevance_hits_are_neither_right_nor_wrong():
    figure = plots.query_and_hits(IMAGES[0], IMAGES[1:4], [0.0012, 0.5, 1.25])
    assert {"1: 0.0012", "2: 0.50", "3 nearest images, at distances from 0.0012 to 1.25"} <= set(texts(figure))
    assert not any("✓" in text or "✗" in text for text in texts(figure))


def test_a_short_distance_keeps_two_digits_that_count():
    assert [plots.short(d) for d in (0, 0.1, 0.0996, 0.00213, 12.345)] == ["0.00", "0.10", "0.1", "0.0021", "12.35"]


def test_latent_map_draws_one_thumbnail_per_occupied_cell():
    ax = plt.figure().add_subplot()
    points = np.array([[0, 0], [0.01, 0.01], [1, 1]])
    drawn = plots.latent_map(ax, points, IMAGES[:3], cells=4)
    canvas = ax.images[0].get_array()
    assert np.array_equal(canvas[3 * 28 :, :28], IMAGES[1, ..., 0])  # bottom left, nearer to its cell's centre
    assert np.array_equal(canvas[:28, 3 * 28 :], IMAGES[2, ..., 0])  # top right
    canvas[3 * 28 :, :28] = canvas[:28, 3 * 28 :] = 255
    assert (canvas == 255).all() and drawn == 2


def test_a_map_of_points_that_are_all_alike_is_drawn():
    ax = plt.figure().add_subplot()
    plots.latent_map(ax, np.ones((3, 2)), IMAGES[:3], cells=4)
    assert np.isfinite(ax.images[0].get_array()).all()


def test_metrics_chart_names_the_best_by_map_and_leaves_out_what_a_short_ranking_lacks():
    row = {"distance": "cosine", "P@1": 0.9, "R-precision": 0.5}
    rows = [{"method": m, **row, "mAP": v, "mAP_interval": [v - 0.1, v + 0.1]} for m, v in (("a", 0.6), ("b", 0.3))]
    ax = plt.figure().add_subplot()
    plots.metrics_chart(ax, rows)
    assert ax.get_title() == "Best mAP: 0.600 (a, cosine)"
    assert [text.get_text() for text in ax.texts] == ["0.300", "0.600"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b, cosine", "a, cosine"]
    drawn = {line.get_label(): line.get_xdata() for line in ax.lines}
    assert drawn["mAP"].tolist() == [0.3, 0.6] and np.isnan(drawn["P@5"]).all()


@pytest.mark.parametrize("width", [3.0, 5.0, 8.0])
def test_a_caption_keeps_within_its_figure(width):
    use_style()
    figure = plt.figure(figsize=(width, 3))
    long = "Each thumbnail stands at its code's place. No label was used: alike images came together."
    plots.caption(figure, long).canvas.draw()
    drawn = next(text for text in figure.findobj(matplotlib.text.Text) if text.get_text().startswith("Each"))
    assert drawn.get_text().split() == long.split()
    assert drawn.get_window_extent().x0 >= 0 and drawn.get_window_extent().x1 <= figure.bbox.width


def test_other_figures_draw(tmp_path):
    three = plots.codes_on_three_axes(CODES[:, :3], np.arange(20) % 2, ("0", "1"))
    assert {"20 codes of three numbers", "x", "y", "z"} <= set(texts(three))
    many = plots.several_queries(IMAGES[:2], [IMAGES[2:4]] * 2, [[1, 2]] * 2, [[True, False]] * 2, ["a", "b"])
    for figure in (three, many):
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 1000


def test_strips_show_each_row_with_its_title():
    figure = plots.strips([IMAGES[:3], IMAGES[3:6]], ["above", "below"], ["x", "y", "z"])
    assert {"above", "below", "x", "y", "z"} <= set(texts(figure))
    assert np.array_equal(figure.axes[4].images[0].get_array(), IMAGES[4, ..., 0])
