"""The participants' copies: no solution is in them, and nobody's answers are lost."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from cbir_utils.runner import cli
from cbir_utils.runner.workshop import has_tag

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The workshop, as the command writes it: its folder."""
    results = tmp_path_factory.mktemp("results")
    assert cli.main(["workshop", "--results", str(results)]) == 0
    return results / "workshop"


def tagged(path, tag):
    return [cell for cell in nbformat.read(path, 4).cells if has_tag(cell, tag)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_copy_differs_in_solutions_checks_and_where_files_are_kept_only(path, copies):
    copied = nbformat.read(copies / path.name, 4)
    nbformat.validate(copied)
    for original, copy in zip(nbformat.read(path, 4).cells, copied.cells, strict=True):
        emptied, check = has_tag(original, "solution"), has_tag(original, "check")
        source = original.source.replace("[RESULTS.md](../RESULTS.md)", "RESULTS.md")
        if has_tag(original, "parameters"):
            source = source.replace('"../results"', '"results"')
        assert copy.id == original.id and copy.source == ("# your answer here" if emptied else source)
        if emptied or check:
            assert not copy.outputs and copy.execution_count is None
        else:
            assert copy.get("outputs") == original.get("outputs")
        assert has_tag(copy, "raises-exception") == check  # "run all" goes on behind it
        assert bool(copy.metadata.get("jupyter")) == check
    assert 'results = "results"' in tagged(copies / path.name, "parameters")[0].source

    # No answer is left, not even as code of another cell, or in an output.
    text = json.dumps(copied, ensure_ascii=False)
    for solution in tagged(path, "solution"):
        last = max(solution.source.splitlines(), key=len).strip()
        assert json.dumps(last, ensure_ascii=False)[1:-1] not in text, last
        for name in re.findall(r"^(?:def )?(\w+_\d+_\d+)\b", solution.source, flags=re.M):
            assert not re.search(rf"\b{name} =|def {name}\b", text)


def test_every_notebook_with_exercises_is_copied_and_listed_and_every_link_leads_somewhere(copies):
    names = [path.name for path in sorted(copies.glob("*.ipynb"))]
    assert names == [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if tagged(path, "solution")]
    assert set(names) >= {path.name for path in NOTEBOOKS}
    lines = re.findall(r"^\| \[(\w+)\]\((\S+)\) \| (.+?) \| (\d+) \|$", (copies / "README.md").read_text(), flags=re.M)
    assert [line[1] for line in lines] == names
    for stem, name, minutes, count in lines:
        assert name == f"{stem}.ipynb" and re.fullmatch(r"[\w ]+ (seconds|minutes?)", minutes)
        assert int(count) == len(tagged(ROOT / "notebooks" / name, "solution"))
    for path in copies.glob("*"):
        links = re.findall(r"\]\(((?!https?:)[\w./-]+\.(?:ipynb|md|png))\)", path.read_text())
        assert all((copies / link).exists() for link in links), path.name


def test_a_copy_with_answers_is_kept(copies, capsys):
    path = copies / NOTEBOOKS[0].name
    fresh, notebook = path.read_text(), nbformat.read(path, 4)
    next(cell for cell in notebook.cells if has_tag(cell, "solution")).source = "answer_1_1 = 3"
    nbformat.write(notebook, path)
    mine = path.read_text()
    assert cli.main(["workshop", "--results", str(copies.parent)]) == 0
    assert path.read_text() == mine
    assert f"kept, because they hold answers: {path.stem}; delete them" in capsys.readouterr().out
    path.unlink()
    assert cli.main(["workshop", "--results", str(copies.parent)]) == 0
    assert path.read_text() == fresh and "kept" not in capsys.readouterr().out
