"""Figures: that they draw what they are given, that their numbers are right, that none touches the screen."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cbir_utils import plots
from cbir_utils.methods.contrastive import ContrastiveHistory
from cbir_utils.methods.corruptions import CORRUPTIONS
from cbir_utils.training import History

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 28, 28, 1), np.uint8)
CODES = RNG.normal(size=(20, 32)).astype(np.float32)


@pytest.fixture(autouse=True)
def nothing_is_shown(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("a plot function called show"))
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


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


def test_a_neuron_s_picture_states_the_sum_and_the_answer():
    image = np.array([[1.0, 0.5], [0.0, 0.0]])
    figure = plots.pixels_and_weights(image, np.array([2.0, -1.0, 5.0, 5.0]), bias=-1.5)  # 2 - 0.5 = 1.5; tanh(0) = 0
    assert "Products summed: +1.50; the neuron's answer: +0.00" in texts(figure)
    shown = [ax.images[0].get_array().tolist() for ax in figure.axes[:3]]
    assert shown == [[[1.0, 0.5], [0.0, 0.0]], [[2.0, -1.0], [5.0, 5.0]], [[2.0, -0.5], [0.0, 0.0]]]


def test_right_and_wrong_guesses_differ_by_more_than_colour():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    figure = plots.guesses(IMAGES[:2], probabilities, np.array([0, 1]), ("rectangle", "square", "circle"))
    assert {"1 of 2 answers are right", "rectangle 0.70", "circle 0.60"} <= set(texts(figure))
    frames = [figure.axes[i].spines["top"].get_linestyle() for i in (0, 1)]
    hatched = [[bar.get_hatch() for bar in figure.axes[i].patches] for i in (2, 3)]
    assert frames == ["-", "--"] and hatched == [["", None, None], [None, None, "//"]]
    assert [bar.get_width() for bar in figure.axes[3].patches] == [0.1, 0.3, 0.6]


@pytest.mark.parametrize(("slope", "words"), [(0.5, "down"), (-0.5, "up")])
def test_the_slope_is_drawn_as_a_tangent_and_says_where_to_go(slope, words):
    ax = plt.figure().add_subplot()
    values = np.linspace(-1, 1, 21)
    plots.loss_along_weight(ax, values, 1 + slope * values, 0.0, slope)  # the loss is straight: its own tangent
    x, y = ax.lines[1].get_data()
    np.testing.assert_allclose(y, 1 + slope * x)
    assert ax.get_title() == f"Slope at +0.000: {slope:+.4f}, so the weight should go {words}"


def test_the_primer_s_charts_state_their_numbers():
    first, second = plt.figure().subplots(1, 2)
    plots.gradient_check(first, np.array([0.1, -0.2]), np.array([0.1, -0.2]), 3e-8)
    assert first.get_title() == "2 weights, largest relative difference 3e-08"
    plots.two_losses(second, [0, 2], [1.0, 0.5], [1.0, 0.7, 0.5], 2e-15)
    assert second.get_title() == "After 3 steps no weight differs by more than 2e-15"
    measured = np.array([[1.1, 0.3], [0.4, 0.8], [0.6, 0.9]])
    figure = plots.learning_curves(np.array([0, 10, 20]), measured, measured - 0.05 * np.array([0, 1]))
    assert {"Held-out: lowest 0.40, step 10", "In the end 90 % and 85 %"} <= set(texts(figure))
    before = RNG.normal(size=(28 * 14, 3))
    figure = plots.weights_as_images(before, 2 * before, (28, 14))
    assert "After training: 2.0 times as large" in texts(figure)
    np.testing.assert_array_equal(figure.axes[4].images[0].get_array(), 2 * before[:, 1].reshape(28, 14))


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
    plots.latent_map(ax, points, IMAGES[:3], cells=4)
    canvas = ax.images[0].get_array()
    assert np.array_equal(canvas[3 * 28 :, :28], IMAGES[1, ..., 0])  # bottom left, nearer to its cell's centre
    assert np.array_equal(canvas[:28, 3 * 28 :], IMAGES[2, ..., 0])  # top right
    canvas[3 * 28 :, :28] = canvas[:28, 3 * 28 :] = 150
    assert (canvas == 150).all()


def test_a_map_of_points_that_are_all_alike_is_drawn():
    ax = plt.figure().add_subplot()
    plots.latent_map(ax, np.ones((3, 2)), IMAGES[:3], cells=4)
    assert np.isfinite(ax.images[0].get_array()).all()


def test_a_decoded_path_leads_from_the_query_to_the_hit():
    steps = IMAGES[:5] / 255
    figure = plots.decoded_path(IMAGES[6], IMAGES[7], steps, 2, 0.25)
    shown = [ax.images[0].get_array() for ax in figure.axes]
    expected = [IMAGES[6], *steps, IMAGES[7]]
    assert all(np.array_equal(a, b[..., 0]) for a, b in zip(shown, expected, strict=True))
    assert {"query", "0 %", "50 %", "100 %", "hit 2"} <= set(texts(figure))
    assert figure.get_suptitle() == "From the query's code to that of hit 2, at distance 0.25"


def test_occlusion_marks_with_signs_what_matters_most():
    changes = np.zeros((28, 28), np.float32)
    changes[3, 5], changes[20, 9] = 0.5, -0.25
    figure = plots.occlusion(IMAGES[0], IMAGES[1], changes, 1, 2.0)
    assert figure.get_suptitle() == "Distance 2.00: covering a part changes it by -0.25 to +0.5"
    marks = {text.get_text(): text.get_position() for text in figure.axes[2].texts}
    assert marks == {"+": (5, 3), "–": (9, 20)}
    nothing = plots.occlusion(np.zeros((28, 28, 1), np.uint8), IMAGES[1], np.zeros((28, 28)), 1, 2.0)
    assert not nothing.axes[2].texts


def test_query_and_hits_stand_where_they_are_on_the_map():
    points = np.array([[0, 0], [0, 4], [4, 4], [1, 3]], float)  # a map of 4 × 4 cells, of 28 pixels each
    ax = plt.figure().add_subplot()
    plots.where_it_is(ax, points, IMAGES[:4], query=3, hits=[2, 0], share=0.42, cells=4)
    assert ax.get_title() == "Two axes hold 42 % of the codes' variance"
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert (star.get_xdata(), star.get_ydata()) == ([27.5], [27.5])  # a cell from the left, a cell from the top
    numbers = {text.get_text(): tuple(text.xy) for text in ax.texts}
    assert numbers == {"1": (111.5, -0.5), "2": (-0.5, 111.5)}  # the corners at the upper right and the lower left


def test_metrics_chart_names_the_best_by_map():
    names = ("P@1", "P@5", "P@10", "R-precision", "mAP")
    rows = [{"method": m, "distance": "cosine", **dict.fromkeys(names, v), "mAP_interval": [v - 0.1, v + 0.1]}
            for m, v in (("a", 0.3), ("b", 0.6))]  # fmt: skip
    ax = plt.figure().add_subplot()
    plots.metrics_chart(ax, rows)
    assert ax.get_title() == "Best mAP: 0.600 (b, cosine)"
    assert [text.get_text() for text in ax.texts].count("0.600") == len(names)


@pytest.mark.parametrize("colour", [False, True])
def test_the_drawings_of_the_steps_take_any_image(colour):
    images = np.repeat(IMAGES, 3, axis=3) if colour else IMAGES
    steps = plots.retrieval_steps(images[:4], CODES[:4], images[4], CODES[4], images[5:10], np.arange(1.0, 6))
    ranked = plots.ranked_codes(images[0], CODES[0], images[1:4], CODES[1:4], [1.0, 2.0, 8.0], [1, 2, 1437])
    for figure in (steps, ranked):
        plots.caption(figure, "below").canvas.draw()
        assert "below" in texts(figure)
    assert {"1.00", "5.00", "query"} <= set(texts(steps))
    assert {"rank 1,437", "8.00", "Ranked by distance: the last image is 8.0 times as far as the first"} <= set(
        texts(ranked)
    )


@pytest.mark.parametrize("width", [3.0, 5.0, 8.0])
def test_a_caption_keeps_within_its_figure(width):
    plots.use_style()
    figure = plt.figure(figsize=(width, 3))
    long = "Each thumbnail stands at its code's place. No label was used: alike images came together."
    plots.caption(figure, long).canvas.draw()
    drawn = next(text for text in figure.findobj(matplotlib.text.Text) if text.get_text().startswith("Each"))
    assert drawn.get_text().split() == long.split()
    assert drawn.get_window_extent().x0 >= 0 and drawn.get_window_extent().x1 <= figure.bbox.width


def test_other_figures_draw(tmp_path):
    three = plots.codes_on_three_axes(CODES[:, :3], np.arange(20) % 2, ("0", "1"), np.array([0.4, 0.2, 0.1]))
    assert "Three axes hold 70 % of the codes' variance" in texts(three)
    path = plots.interpolation([IMAGES[:3], IMAGES[3:6]], ["pixels", "codes"], IMAGES[6:8])
    many = plots.several_queries(IMAGES[:2], [IMAGES[2:4]] * 2, [[1, 2]] * 2, [[True, False]] * 2, ["a", "b"])
    for figure in (three, path, many):
        figure.savefig(tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 1000


def test_the_style_is_used_only_when_asked():
    with plt.rc_context():
        matplotlib.rcdefaults()
        assert plt.rcParams["image.interpolation"] != "nearest"
        plots.use_style()
        assert plt.rcParams["image.interpolation"] == "nearest"


# -- comparing methods, hard queries, the manifold, binary codes ------------------------------------------------------


def result(method, quality, **more):
    return {"method": method, "mAP": quality, "mAP_interval": [quality - 0.01, quality + 0.01], "P@5": 0.9, **more}


def test_methods_are_ranked_by_map_and_trained_ones_look_different():
    ax = plt.figure().add_subplot()
    plots.methods_ranked(ax, [result("a", 0.5, weights=9), result("b", 0.7, weights=0), result("c", 0.6, weights=9)])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "c", "b"]
    assert ax.get_title() == "Best mAP: 0.700 (b)"
    assert [bar.get_hatch() for bar in ax.patches[:3]] == ["", "", "//"]


def test_reconstruction_against_retrieval_states_the_correlation():
    rows = [
        result(str(i), q, reconstruction_error=e, collapsed=i == 0) for i, (q, e) in enumerate([(1, 3), (2, 2), (3, 1)])
    ]
    ax = plt.figure().add_subplot()
    plots.reconstruction_against_retrieval(ax, rows)
    assert ax.get_title() == "Correlation over 3 kinds: -1.00"
    assert [line.get_marker() for line in ax.lines] == ["X", "o", "o"]


def test_strips_show_each_row_with_its_title():
    figure = plots.strips([IMAGES[:3], IMAGES[3:6]], ["above", "below"], ["x", "y", "z"])
    assert {"above", "below", "x", "y", "z"} <= set(texts(figure))
    assert np.array_equal(figure.axes[4].images[0].get_array(), IMAGES[4, ..., 0])


def test_hard_queries_have_a_panel_per_corruption_and_a_line_per_method():
    values = {kind: np.linspace(1, 0.5, len(c.strengths)) for kind, c in CORRUPTIONS.items()}
    figure = plots.hard_queries({"good": values, "bad": {k: v / 2 for k, v in values.items()}}, "P@5", CORRUPTIONS)
    panels = [ax for ax in figure.axes if ax.lines]
    assert [ax.get_title().split("\n")[0] for ax in panels] == list(CORRUPTIONS)
    assert all(len(ax.lines) == 2 and ax.get_title().endswith("best: good 0.75") for ax in panels)
    assert {"good", "bad", "degrees"} <= set(texts(figure))


def test_the_small_charts_state_their_number():
    ax = plt.figure().add_subplot()
    plots.novelty(ax, {"own": [0.1, 0.5], "other": [1.5, 90.0]}, 0.987)
    assert ax.get_title() == "AUROC 0.987 (0.5: no better than chance)"
    ax = plt.figure().add_subplot()
    plots.eigenvalues(ax, np.array([1.0, 0.9, 0.5, -0.1]), 3)  # .9³ = .729
    assert ax.get_title() == "After 3 steps 2 of 4 directions keep more than half"
    ax = plt.figure().add_subplot()
    plots.quantization(ax, {16: (4.0, [3.0, 2.0]), 32: (4.0, [4.0, 3.0])})
    assert ax.get_title() == "Rotating saves up to 50 % of the quantisation loss"
    ax = plt.figure().add_subplot()
    plots.guided_training(ax, ContrastiveHistory([3.0, 2.0, 1.5], [1.0] * 3, [0.25, 0.5], plain_epochs=2))
    assert ax.get_title() == "Loss 3.00 → 1.50; mutual hits 25.0 → 50.0 %"


def test_bits_against_quality_names_the_best_bits_and_marks_published_figures():
    rows = [
        {"method": "m", "bits": b, "bytes_per_image": s, "mAP": q}
        for b, s, q in [(0, 256, 0.9), (16, 2, 0.7), (64, 8, 0.8)]
    ]
    ax = plt.figure().add_subplot()
    plots.bits_against_quality(ax, rows, [("paper", 4, 0.5)])
    assert ax.get_title() == "64 bits keep mAP 0.800 (m)"
    assert ax.lines[0].get_xdata().tolist() == [2, 8, 256] and "paper" in [t.get_text() for t in ax.texts]


def test_memory_by_kind_marks_what_is_chosen_and_names_the_largest():
    ax = plt.figure().add_subplot()
    needed = {"exact": [1e6, 1e9, 1e12], "ivfpq": [1e5, 1e8, 1e11]}
    plots.memory_by_kind(ax, [10, 10_000, 10_000_000], needed, ["exact", "ivfpq", None], 2e9)
    assert ax.get_title() == "In 2.0 GB: up to 10,000 images (ivfpq)"
    marked = [line.get_xdata().tolist() for line in ax.lines if line.get_linestyle() == "None"]
    assert marked == [[10], [10_000]]


def test_recall_against_speed_names_the_fastest_that_finds_enough():
    ax = plt.figure().add_subplot()
    plots.recall_against_speed(ax, {"a": [(0.9, 5000), (0.96, 2000)], "b": [(0.99, 1000)]}, 10)
    assert ax.get_title() == "a: 2,000 queries per second at recall 0.960"
    assert ax.get_xlabel() == "recall@10"
