"""What every committed notebook keeps to; that it runs is nbval's to check (`make test`)."""

import re
import statistics
from pathlib import Path

import nbformat
import pytest
from tidy import tidy

from cbir_utils.runner.notebooks import declared_parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@each_notebook
def test_name_and_kernel(path):
    assert re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)+", path.stem)
    assert nbformat.read(path, 4).metadata.kernelspec.name == "python3"


@each_notebook
def test_opens_with_a_goal_and_closes_with_a_recap(path):
    cells = nbformat.read(path, 4).cells
    opening = cells[0].source
    assert opening.startswith("# ")
    assert all(words in opening for words in ("**You will**", "**You will learn**", "**You need**"))
    assert cells[-1].cell_type == "markdown" and cells[-1].source.startswith("## Recap")


@each_notebook
def test_parameters_are_tagged_once_and_annotated(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert all(re.fullmatch(r"\w+ = \S+  # .+", line) for line in tagged[0].source.splitlines())
    assert {"dataset", "results", "seed"} <= set(declared_parameters(path))


@each_notebook
def test_cells_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    assert max(lengths) <= 15
    assert statistics.median(lengths) <= 6  # of lines that do not scroll sideways (notebooks/ruff.toml)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_every_cell_is_executed_in_order_without_error(path):
    """nbval silently compares nothing where the execution count is missing."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@each_notebook
def test_some_output_is_compared_and_some_picture_shown(path):
    cells = code_cells(path)
    compared = [cell for cell in cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert compared and all(cell.outputs for cell in compared)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@each_notebook
def test_pictures_have_words_and_exercises_have_stars_and_kinds(path):
    cells = nbformat.read(path, 4).cells
    pictures = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert all(len(output.metadata["image/png"]["alt"]) > 5 for output in pictures)
    heads = [line for cell in cells for line in cell.source.splitlines() if line.startswith("### Exercise")]
    kinds = "read|work out|predict first|build|break it|mend it|open question"
    number = int(path.stem[:2])
    pattern = rf"### Exercise {number}\.(\d) ★{{1,3}} ({kinds}): [A-Z].+"
    assert [re.fullmatch(pattern, head)[1] for head in heads] == [str(n + 1) for n in range(len(heads))]
    assert sum("solution" in cell.metadata.get("tags", []) for cell in cells) >= 2
    folded = [cell for cell in cells if {"solution", "check"} & set(cell.metadata.get("tags", []))]
    assert all(cell.metadata.jupyter.source_hidden for cell in folded)


@each_notebook
def test_no_progress_bar_is_kept_and_what_a_cell_prints_is_one_text(path):
    notebook = nbformat.read(path, 4)
    assert tidy(nbformat.read(path, 4)) == notebook


@each_notebook
def test_size_and_metadata(path):
    assert path.stat().st_size <= 600_000
    text = path.read_text()
    assert "papermill" not in str(nbformat.read(path, 4).metadata)
    assert not re.search(r"/(home|root|Users|tmp|work)/", text), "a path of the machine it ran on"


def test_every_figure_has_a_number_of_its_own_and_is_listed():
    names = [
        name for path in NOTEBOOKS for name in re.findall(r'"figure_(\d\d)_(\w+)"', path.read_text().replace("\\", ""))
    ]
    numbers = [number for number, _ in names]
    assert len(names) > 40 and len(numbers) == len(set(numbers)), sorted(n for n in numbers if numbers.count(n) > 1)
    listed = (ROOT / "notebooks" / "README.md").read_text().split("## Figures and parameters")[1]
    assert not [f"{number} {name}" for number, name in names if number not in listed]
