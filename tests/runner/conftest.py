"""Small notebooks in a folder of their own, instead of the project's, and a run of them."""

import re

import nbformat
import pytest

from cbir_utils.runner import cli, notebooks

PARAMETERS = 'dataset = "digits"  # which\nresults = "../results"  # where\n'


@pytest.fixture
def write(tmp_path):
    """A function that writes a notebook of a parameters cell and more code cells, and returns its path."""

    def write(name, parameters, *cells):
        made = nbformat.v4.new_notebook()
        made.cells = [nbformat.v4.new_code_cell(text) for text in (PARAMETERS + parameters, *cells)]
        made.cells[0].metadata["tags"] = ["parameters"]
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
        path = tmp_path / "notebooks" / name
        nbformat.write(made, path)
        return path

    return write


@pytest.fixture
def folder(tmp_path, monkeypatch, write):
    """A folder of two notebooks, and a profile."""
    here = tmp_path / "notebooks"
    (here / "parameters").mkdir(parents=True)
    write("01_first_step.ipynb", "epochs = 2  # passes\nrate = 0.5", "import os\nprint(os.getcwd(), dataset)")
    write("02_second_step.ipynb", 'mode = "good"', "assert mode == 'good', 'the mode is ' + mode")
    (here / "parameters" / "paper.yaml").write_text("epochs: 7\n")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", here)
    return here


@pytest.fixture
def run(folder):
    """A function that runs the notebooks on the drawn shapes, and returns the exit status."""
    return lambda *words: cli.main(["run", "--dataset", "shapes", "--results", str(folder.parent / "results"), *words])


@pytest.fixture
def ran(capsys):
    """A function that tells which notebooks were executed since, by number; the others were passed over."""

    def ran():
        lines = re.findall(r"^\[\d/\d\] (\d\d)(.*)", capsys.readouterr().out, flags=re.M)
        assert lines
        return [number for number, rest in lines if "done before" not in rest]

    return ran


@pytest.fixture
def resume(run, ran, capsys):
    """A function that runs the notebooks with ``--resume``, and tells which were executed."""

    def resume(*words):
        capsys.readouterr()
        assert run("--resume", *words) == 0
        return ran()

    return resume
