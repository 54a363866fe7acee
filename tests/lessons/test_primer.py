"""The figures of notebook 00: that their numbers are right."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import IMAGES, RNG, nothing_is_shown, texts

from cbir_utils.lessons import primer

__all__ = ["nothing_is_shown"]


def test_a_neuron_s_picture_states_the_sum_and_the_answer():
    image = np.array([[1.0, 0.5], [0.0, 0.0]])
    figure = primer.pixels_and_weights(image, np.array([2.0, -1.0, 5.0, 5.0]), bias=-1.5)  # 2 - 0.5 = 1.5; tanh(0) = 0
    assert "Products summed: +1.50; the neuron's answer: +0.00" in texts(figure)
    shown = [ax.images[0].get_array().tolist() for ax in figure.axes[:3]]
    assert shown == [[[1.0, 0.5], [0.0, 0.0]], [[2.0, -1.0], [5.0, 5.0]], [[2.0, -0.5], [0.0, 0.0]]]


def test_right_and_wrong_guesses_differ_by_more_than_colour():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    figure = primer.guesses(IMAGES[:2], probabilities, np.array([0, 1]), ("rectangle", "square", "circle"))
    assert {"1 of 2 answers are right", "rectangle 0.70", "circle 0.60"} <= set(texts(figure))
    frames = [figure.axes[i].spines["top"].get_linestyle() for i in (0, 1)]
    hatched = [[bar.get_hatch() for bar in figure.axes[i].patches] for i in (2, 3)]
    assert frames == ["-", "--"] and hatched == [["", None, None], [None, None, "//"]]
    assert [bar.get_width() for bar in figure.axes[3].patches] == [0.1, 0.3, 0.6]


@pytest.mark.parametrize(("slope", "words"), [(0.5, "down"), (-0.5, "up")])
def test_the_slope_is_drawn_as_a_tangent_and_says_where_to_go(slope, words):
    ax = plt.figure().add_subplot()
    values = np.linspace(-1, 1, 21)
    primer.loss_along_weight(ax, values, 1 + slope * values, 0.0, slope)  # the loss is straight: its own tangent
    x, y = ax.lines[1].get_data()
    np.testing.assert_allclose(y, 1 + slope * x)
    assert ax.get_title() == f"Slope at +0.000: {slope:+.4f}, so the weight should go {words}"


def test_the_primer_s_charts_state_their_numbers():
    first, second = plt.figure().subplots(1, 2)
    primer.gradient_check(first, np.array([0.1, -0.2]), np.array([0.1, -0.2]), 3e-8)
    assert first.get_title() == "2 weights, largest relative difference 3e-08"
    primer.two_losses(second, [0, 2], [1.0, 0.5], [1.0, 0.7, 0.5], 2e-15)
    assert second.get_title() == "After 3 steps no weight differs by more than 2e-15"
    measured = np.array([[1.1, 0.3], [0.4, 0.8], [0.6, 0.9]])
    figure = primer.learning_curves(np.array([0, 10, 20]), measured, measured - 0.05 * np.array([0, 1]))
    assert {"Held-out: lowest 0.40, step 10", "In the end 90 % and 85 %"} <= set(texts(figure))
    before = RNG.normal(size=(28 * 14, 3))
    figure = primer.weights_as_images(before, 2 * before, (28, 14))
    assert "After training: 2.0 times as large" in texts(figure)
    np.testing.assert_array_equal(figure.axes[4].images[0].get_array(), 2 * before[:, 1].reshape(28, 14))
