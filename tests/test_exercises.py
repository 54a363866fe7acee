"""The exercises: each has a task, a solution and a check; a check never passes without its answer.

That every solution is right is nbval's to see, which runs the committed notebooks (a check that is not right raises);
that every check of an emptied notebook fails, in its notebook, is ``make test-workshop``'s.
"""

import ast
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from cbir_utils.datasets import Dataset, Split
from cbir_utils.lessons.cells import NotYet, check, stop_without_labels
from cbir_utils.runner.workshop import has_tag

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def cells_of(path):
    return nbformat.read(path, 4).cells


def exercises(path):
    """A notebook's exercises as (task, solution, check)."""
    cells = cells_of(path)
    return [cells[i - 1 : i + 2] for i, cell in enumerate(cells) if has_tag(cell, "solution")]


EXERCISES = [
    pytest.param(*cells, id=re.search(r"Exercise (\S+) ", cells[0].source)[1])
    for path in NOTEBOOKS
    for cells in exercises(path)
]


def names_set(source):
    """The names that code sets at its top level."""
    tree = ast.parse(source)
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def names_used(source):
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def answers(solution, checking):
    """The names that a check asks for: the solution sets them, and they end with the exercise's number."""
    both = names_set(solution.source) & names_used(checking.source)
    return {name for name in both if re.search(r"_\d+_\d+$", name)}


# -- every exercise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_its_minutes_and_has_exercises_before_its_recap(path):
    cells = cells_of(path)
    assert re.search(r"About [\w ]+ (seconds|minutes?)", " ".join(cells[0].source.split()))
    headings = [cell.source.splitlines()[0] for cell in cells if cell.source.startswith("##")]
    at = headings.index("## Exercises")
    assert headings[at - len(headings) :][-1] == "## Recap"
    number = int(path.name[:2])
    found = [re.match(r"### Exercise (\d+)\.(\d+) ★", heading) for heading in headings[at + 1 : -1]]
    assert [(int(match[1]), int(match[2])) for match in found] == [(number, k + 1) for k in range(len(found))]
    checked = [
        heading for heading in headings if re.match(r"### Exercise .*: ", heading) and "open question" not in heading
    ]
    assert 2 <= len(exercises(path)) <= len(checked) <= len(found) <= 5
    tagged = [cell for cell in cells if has_tag(cell, "solution") or has_tag(cell, "check")]
    assert len(tagged) == 2 * len(exercises(path))


@pytest.mark.parametrize("task, solution, checking", EXERCISES)
def test_an_exercise_is_a_task_a_solution_and_a_check_that_said_right(task, solution, checking):
    assert task.cell_type == "markdown" and has_tag(checking, "check")
    asked = answers(solution, checking)
    assert asked and all(f"`{name}" in task.source for name in asked), "the task says what to set"
    assert checking.source.count("check(") == 1
    assert [output.text for output in checking.outputs] == ["right\n"]


@pytest.mark.parametrize("task, solution, checking", EXERCISES)
def test_an_empty_exercise_never_passes_its_check(task, solution, checking):
    """Nothing but the answer is asked for first; whatever the notebook's other names hold cannot make it pass."""
    call, asked = ast.parse(checking.source).body[-1], answers(solution, checking)
    assert names_used(ast.unparse(call.value.args[0])) == asked
    code = compile(ast.Module([call], []), "check", "exec")
    for missing in asked:
        with pytest.raises(NotYet, match=f"^not yet: {missing} is not set"):
            exec(code, {**dict.fromkeys(asked - {missing}, 0), "check": check})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_but_a_solution_sets_its_answer(path):
    """Otherwise an emptied exercise might pass; and no later cell may use what a participant has not written yet."""
    asked = [answers(solution, checking) for _, solution, checking in exercises(path)]
    for cell in cells_of(path):
        if cell.cell_type == "code":
            mentioned = [names for names in asked if names & names_used(cell.source) | names & names_set(cell.source)]
            assert len(mentioned) == (has_tag(cell, "solution") or has_tag(cell, "check"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_keep_nothing(path):
    for _, solution, checking in exercises(path):
        assert not re.search(r"\brun\.(save|record|writing|add_metrics)|\bopen\(", solution.source + checking.source)


# -- a check ----------------------------------------------------------------------------------------------------


def test_a_check_says_right(capsys):
    check(lambda: 2, lambda answer: answer == 2, "never shown")
    assert capsys.readouterr().out == "right\n"


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda: 3, "not yet: a hint"),
        (lambda: None, "not yet: a hint"),
        (lambda: an_answer, "not yet: an_answer is not set; write your answer in the cell above and run it"),  # noqa: F821
        (lambda: "2", "not yet: a hint (the check stopped with TypeError: "),
    ],
)
def test_a_check_says_not_yet(answer, message, capsys):
    with pytest.raises(NotYet) as caught:
        check(answer, lambda given: given is None or abs(given - 2) < 0.1, "a hint")
    assert str(caught.value).startswith(message)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "told"),
    [(None, "has no labels: this"), ([0, 1, 2], "has no two images of one class: this"), ([0, 1, 0], None)],
)
def test_an_evaluation_without_pairs_of_one_class_ends_quietly(labels, told, capsys):
    images = np.zeros((3, 8, 8, 1), np.uint8)
    split = Split(images, None if labels is None else np.array(labels))
    data = Dataset("album", split, split, (), "")
    if told is None:
        assert stop_without_labels(data) is None
        return
    with pytest.raises(SystemExit) as ended:
        stop_without_labels(data)
    assert ended.value.code == 0 and told in capsys.readouterr().out


def test_a_notebook_shows_one_line_instead_of_a_traceback(capsys):
    shell = InteractiveShell()
    shell.run_cell("from cbir_utils.lessons.cells import check\ncheck(lambda: answer, lambda a: a == 3, 'count again')")
    assert capsys.readouterr().out == "not yet: answer is not set; write your answer in the cell above and run it\n"


def test_the_index_page_of_the_notebooks_counts_their_exercises():
    """``notebooks/README.md`` lists every notebook; its links and its make targets exist."""
    page = (ROOT / "notebooks" / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[(\d\d_\w+)\]\(\1\.ipynb\) \|.*\| (\d*) ?\|$", page, flags=re.M))
    every = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert {name: int(count or 0) for name, count in rows.items()} == {
        path.stem: sum(cell.source.startswith("### Exercise") for cell in cells_of(path)) for path in every
    }
    assert all((ROOT / "notebooks" / link).exists() for link in re.findall(r"\]\(([^)]+)\)", page))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page, flags=re.M)) <= set(targets)
