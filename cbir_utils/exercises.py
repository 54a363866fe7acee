"""What lessons need besides their subject: exercises that check themselves, and an end where labels are missing.

An exercise is three cells: the task (Markdown), a cell tagged ``solution``, and one tagged ``check``.
"""


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
