"""Exercises in the notebooks: checks that say right or not yet, and the participants' copies without solutions.

The committed notebooks hold each exercise as three cells: the task (Markdown), a cell tagged ``solution``, and a cell
tagged ``check``. What participants get is derived from them: ``python -m cbir_utils workshop``.
"""

import re

from cbir_utils.run import atomic_path

#: What stands in the place of a solution.
PROMPT = "# your answer here"


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


def has_tag(cell, tag):
    """Whether a notebook's cell has a tag."""
    return tag in cell.metadata.get("tags", [])


def participants_notebook(notebook):
    """Turn a notebook with solutions into a participant's, in place, and return it.

    Solutions are emptied, checks folded (they know the answers) and allowed to fail, so that "run all" goes on to the
    next exercise. The run's files are kept beside the notebook, so that the folder can be carried to another machine.
    """
    for cell in notebook.cells:
        if has_tag(cell, "solution"):
            cell.source = PROMPT
        if has_tag(cell, "check"):
            cell.metadata["tags"] = [*cell.metadata["tags"], "raises-exception"]
            cell.metadata["jupyter"] = {"source_hidden": True}
        if has_tag(cell, "solution") or has_tag(cell, "check"):
            cell.outputs, cell.execution_count = [], None
        if has_tag(cell, "parameters"):
            cell.source = cell.source.replace('results = "../results"', 'results = "results"')
    return notebook


def write_workshop(notebooks, folder):
    """Write the participants' copies of ``notebooks`` and a page about them to ``folder``; returns (written, kept).

    Notebooks without exercises are left out. A copy that holds answers is kept as it is: nobody's work is overwritten.
    Both results are lists of paths.
    """
    import nbformat

    written, kept, lines = [], [], []
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        exercises = sum(has_tag(cell, "solution") for cell in notebook.cells)
        if not exercises:
            continue
        lines.append(f"| [{path.stem}]({path.name}) | {_minutes(notebook)} | {exercises} |")
        copy = folder / path.name
        if copy.exists() and _has_answers(nbformat.read(copy, as_version=4)):
            kept.append(copy)
            continue
        with atomic_path(copy) as partial:
            nbformat.write(participants_notebook(notebook), partial)
        written.append(copy)
    with atomic_path(folder / "README.md") as partial:
        partial.write_text(INDEX.format(lines="\n".join(lines)))
    return written, kept


def _has_answers(notebook):
    """Whether somebody has written into a participant's notebook."""
    return any(has_tag(cell, "solution") and cell.source.strip() not in ("", PROMPT) for cell in notebook.cells)


def _minutes(notebook):
    """How long a notebook takes on digits, as its first cell says: ``"About 10 seconds"``."""
    found = re.search(r"About ([^.,]+?)( on digits| on two cores)?[.,]", " ".join(notebook.cells[0].source.split()))
    return found[1] if found else ""


#: The page beside the participants' notebooks.
INDEX = """\
# Exercises

Open a notebook in JupyterLab and run it from the top. The exercises stand at its end, each with a cell for your answer
and, under it, a folded check. Run the check: it says *right*, or *not yet* with a hint. (Its code knows the answer;
unfold it when you have yours.) The notebooks build on each other, and keep their files in `results/` in this folder.

| notebook | time to run it | exercises |
|---|---|---|
{lines}
"""
