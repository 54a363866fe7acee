"""The explorer's figures."""

import numpy as np
from figures import IMAGES, nothing_is_shown, texts

from cbir_utils.explorer import plots

__all__ = ["nothing_is_shown"]


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
    ax = plots.where_it_is(points, IMAGES[:4], query=3, hits=[2, 0], of=1437, cells=4).axes[0]
    assert ax.get_title() == "t-SNE of the codes of 1 of 1,437 images"
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert (star.get_xdata(), star.get_ydata()) == ([27.5], [27.5])  # a cell from the left, a cell from the top
    numbers = {text.get_text(): tuple(text.xy) for text in ax.texts}
    assert numbers == {"1": (111.5, -0.5), "2": (-0.5, 111.5)}  # the corners at the upper right and the lower left
