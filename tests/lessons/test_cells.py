"""How lessons show figures: the style, the size, and the words."""

import base64
import io

import matplotlib
import matplotlib.pyplot as plt
import pytest
from figures import nothing_is_shown
from PIL import Image

from cbir_utils import plots
from cbir_utils.lessons import cells

__all__ = ["nothing_is_shown"]


def test_a_figure_in_words_says_its_titles_its_axes_and_its_caption():
    figure, ax = plt.subplots()
    figure.suptitle("Two\nlines.")
    ax.set(title="mAP .5", xlabel="epoch", ylabel="loss")
    plots.caption(figure, "Look here.")
    assert cells.described(figure) == "Two lines. mAP .5. loss against epoch. Look here"


def test_a_notebook_keeps_a_figure_as_a_small_png_with_words():
    figure, ax = plt.subplots(figsize=(4, 3))
    ax.set_title("mAP .5")
    kept, words = cells._with_words(figure)
    image = Image.open(io.BytesIO(base64.b64decode(kept["image/png"])))
    assert image.width == pytest.approx(4 * 110, rel=0.25) and image.mode == "P"
    assert words == {"image/png": {"alt": "mAP .5"}}


def test_the_style_is_used_only_when_asked():
    with plt.rc_context():
        matplotlib.rcdefaults()
        assert plt.rcParams["image.interpolation"] != "nearest"
        cells.use_style()
        assert plt.rcParams["image.interpolation"] == "nearest"
