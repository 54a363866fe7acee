"""Names as people have them, at every place where they are handed to another language."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cbir_utils import plots
from cbir_utils.lessons.cells import use_style
from cbir_utils.names import LONGEST, plain, printable

NASTY = (
    "a$_$.png", "$x^$.png", "Ba$$in.png", r"a$\b$.png", r"\$", "$", "_^{}", "quote'\".png", "<b>&amp;</b>.png",
    "two\nlines.png", "tab\t.png", "bell\a\x1b[31m.png", "\udcff\udcfe.png", "日本語.png", "🙂.png",
    "é" * 120 + ".png", " ", "{0}",
)  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_a_printable_name_can_be_shown_everywhere(name):
    shown = printable(name)
    assert shown.isprintable() and shown.encode() and (shown == name or not name.isprintable())


@pytest.mark.parametrize("name", NASTY)
def test_a_name_in_a_figure_is_drawn_as_it_is(name):
    figure, axes = plt.subplots(1, 2)
    image = np.zeros((4, 4, 1), np.uint8)
    use_style()
    plots.show_image(axes[0], image, name)
    drawn = axes[0].title
    assert not drawn.get_usetex() and drawn._preprocess_math(drawn.get_text())[1] is False
    names = plots.image_grid(np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1]), (name, "other"))
    rows = plots.several_queries([image], [[image]], [[0.5]], None, [name])
    for each in (figure, names, rows):
        each.canvas.draw()
        plt.close(each)


def test_a_long_name_keeps_its_ends():
    assert plain("a" * 40 + "z" * 40) == "a" * 15 + " … " + "z" * 15
    assert plain("b" * LONGEST) == "b" * LONGEST and plain("first\nAP 0.50") == "first\nAP 0.50"
