"""The participants' copies of the notebooks, without solutions: ``python -m cbir_utils workshop``."""

import re

import nbformat

from cbir_utils.artifacts.files import atomic_path

#: What stands in the place of a solution.
PROMPT = "# your answer here"

#: The page beside the participants' notebooks.
INDEX = """\
# Exercises

Open a notebook in JupyterLab and run it from the top. The exercises stand at its end, each with a cell for your answer
and, under it, a folded check. Run the check: it says *right*, or *not yet* with a hint. (Its code knows the answer;
unfold it when you have yours.) The notebooks build on each other, and keep their files in `results/` in this folder.

| notebook | time to run it | exercises |
|---|---|---|
"""


def has_tag(cell, tag):
    """Whether a notebook's cell has a tag."""
    return tag in cell.metadata.get("tags", [])


def participants_notebook(notebook):
    """Turn a notebook with solutions into a participant's, in place, and return it.

    Solutions are emptied. Checks are folded (they know the answers) and may fail, so that "run all" goes on to the
    next exercise. The run's files are kept beside the notebook, so that the folder can be carried to another machine.
    """
    for cell in notebook.cells:
        if has_tag(cell, "solution"):
            cell.source = PROMPT
            cell.metadata.pop("jupyter", None)  # in the repository a solution is folded
        if has_tag(cell, "check"):
            cell.metadata["tags"] = [*cell.metadata["tags"], "raises-exception"]
            cell.metadata["jupyter"] = {"source_hidden": True}
        if has_tag(cell, "solution") or has_tag(cell, "check"):
            cell.outputs, cell.execution_count = [], None
        if has_tag(cell, "parameters"):
            cell.source = cell.source.replace('results = "../results"', 'results = "results"')
        if cell.cell_type == "markdown":  # a link that leads out of the folder becomes its text
            cell.source = re.sub(r"\[([^]]*)\]\(\.\./[^)]*\)", r"\1", cell.source)
    return notebook


def write_workshop(notebooks, folder):
    """Write the participants' copies of ``notebooks`` and a page about them to ``folder``; returns (written, kept).

    Notebooks without exercises are left out. A copy that holds answers is kept: nobody's work is overwritten.
    """
    written, kept, page = [], [], INDEX
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        exercises = sum(has_tag(cell, "solution") for cell in notebook.cells)
        if not exercises:
            continue
        time = re.search(r"About ([^.,]+?)( on digits| on two cores)?[.,]", " ".join(notebook.cells[0].source.split()))
        page += f"| [{path.stem}]({path.name}) | {time[1] if time else ''} | {exercises} |\n"
        copy = folder / path.name
        cells = nbformat.read(copy, as_version=4).cells if copy.exists() else []
        if any(has_tag(cell, "solution") and cell.source.strip() not in ("", PROMPT) for cell in cells):
            kept.append(copy)
            continue
        with atomic_path(copy) as partial:
            nbformat.write(participants_notebook(notebook), partial)
        written.append(copy)
    with atomic_path(folder / "README.md") as partial:
        partial.write_text(page)
    return written, kept
