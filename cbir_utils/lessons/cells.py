"""What the cells of every lesson call: the style of figures, checks of exercises, an end where labels are missing.

An exercise is three cells: the task (Markdown), a cell tagged ``solution``, and one tagged ``check``.
"""

import base64
import io
import warnings

import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from PIL import Image

from cbir_utils.plots import STYLE


def use_style():
    """Use the project's figure style from here on in this notebook, and keep its figures with alternative texts."""
    plt.style.use(STYLE)
    warnings.filterwarnings("ignore", "Glyph .* missing from")  # names in other scripts show boxes; once is enough
    if InteractiveShell.initialized():
        InteractiveShell.instance().display_formatter.mimebundle_formatter.for_type(Figure, _with_words)


def _with_words(figure):
    """A figure as a notebook keeps it: a PNG of 110 dots per inch and 128 colours, and its alternative text."""
    drawn, kept = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=110, bbox_inches="tight")
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(kept, "png", optimize=True)
    return {"image/png": base64.b64encode(kept.getvalue()).decode()}, {"image/png": {"alt": described(figure)}}


def described(figure):
    """What a figure says, in words: its titles, the axes' names and the caption, for those who hear the page."""
    said = [figure.get_suptitle()]
    for ax in figure.axes[:4]:
        said += [ax.get_title(), " against ".join(filter(None, [ax.get_ylabel(), ax.get_xlabel()]))]
    return ". ".join(" ".join(text.split()).rstrip(".") for text in [*said, figure.get_supxlabel()] if text.strip())


class NotYet(AssertionError):
    """An exercise is not solved yet; the message is a hint. A notebook shows one line, without a traceback."""

    def _render_traceback_(self):
        """What IPython prints instead of a traceback."""
        return [str(self)]


def check(answer, is_right, hint):
    """Print "right" if an exercise is solved.

    Parameters
    ----------
    answer : callable
        Without arguments, returns the answer: ``lambda: answer_1_1``, so that an answer that is not there yet is no
        error of Python's.
    is_right : callable
        Says whether an answer is right; never asked without one.
    hint : str
        What to think of, without giving the answer away.

    Raises
    ------
    NotYet
        If there is no answer (or ``None``), it is not right, or of a kind that ``is_right`` fails with.

    Examples
    --------
    >>> answer_0_1 = 4
    >>> check(lambda: answer_0_1, lambda answer: answer == 2 + 2, "count on your fingers")
    right
    """
    try:
        given = answer()
    except NameError as error:
        raise NotYet(f"not yet: {error.name} is not set; write your answer in the cell above and run it") from None
    try:
        right = given is not None and bool(is_right(given))
    except Exception as error:  # an answer of any kind may come
        raise NotYet(f"not yet: {hint} (the check stopped with {type(error).__name__}: {error})") from None
    if not right:
        raise NotYet(f"not yet: {hint}")
    print("right")


def stop_without_labels(data):
    """End the notebook that calls this, quietly, if there is nothing to evaluate by: no labels, or no class of two.

    Papermill takes an exit with status 0 for a good end.
    """
    labels = data.database.labels
    if labels is None or len(set(labels)) == len(labels):
        lacks = "labels" if labels is None else "two images of one class"
        print(f"{data.name} has no {lacks}: this notebook ends here, and nothing is missing but the evaluation")
        raise SystemExit(0)
