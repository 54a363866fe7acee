"""Notebooks: parameters by their own types, running one, and what need not run again."""

import json
import os
import shlex
import signal
import sys

import nbformat
import pytest

from cbir_utils.run import Run
from cbir_utils.runner import cli, notebooks
from cbir_utils.runner.notebooks import (
    UsageError,
    load_profile,
    parameters_for,
    parse_assignment,
    select_notebooks,
    time_left,
)

# -- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, value", [
    ("epochs=3", 3), ("rate=1", 1.0), ("mode=9", "9"), ("mode=a=b", "a=b"), ("epochs=010", 10), ("rate=1e-3", 0.001),
    ("rate=.5", 0.5), ("mode=010", "010"),
])  # fmt: skip
def test_a_value_is_read_by_the_parameter_s_own_type(folder, text, value):
    name, given = parse_assignment(text)
    used = parameters_for(select_notebooks(1, 2), {}, {name: given})
    found = [parameters[name] for parameters in used.values() if name in parameters]
    assert found == [value] and type(found[0]) is type(value)


@pytest.mark.parametrize("text", ["1:30", "0x10", "1_0", "", "1.5", "0", "-1", "nan"])
def test_a_value_of_another_type_or_out_of_range_names_the_parameter(folder, text):
    with pytest.raises(UsageError, match="epochs in 01_first_step must be"):
        parameters_for(select_notebooks(1, 2), {}, {"epochs": text})
    if text not in ("1.5",):
        with pytest.raises(UsageError, match="rate in 01_first_step must be"):
            parameters_for(select_notebooks(1, 2), {}, {"rate": text})


@pytest.mark.parametrize("text", ["inf", "-inf", "1e999"])
def test_a_number_is_finite(folder, text):
    with pytest.raises(UsageError, match="rate in 01_first_step must be above 0"):
        parameters_for(select_notebooks(1, 2), {}, {"rate": text})


def test_own_values_go_before_the_profile_s_and_those_before_the_notebook_s(folder):
    first, second = parameters_for(select_notebooks(0, 99), load_profile("paper"), {"rate": "1"}).values()
    where = {"dataset": "digits", "results": "../results"}
    assert first == {**where, "epochs": 7, "rate": 1.0} and second == {**where, "mode": "good"}


def test_the_project_s_own_profile_fits_its_notebooks():
    used = parameters_for(select_notebooks(0, 99), load_profile("paper"), {})
    assert {path.stem: parameters for path, parameters in used.items()}["02_train_autoencoder"]["epochs"] == 10


# -- running --------------------------------------------------------------------------------------------------------


def test_notebooks_run_in_their_folder_with_their_parameters(folder, run, capsys):
    assert run("-p", "epochs=3", "--log") == 0
    said = capsys.readouterr().out.splitlines()
    assert f"{folder} shapes" in said  # what a notebook prints, with --log
    lines = [line.split() for line in said if line.startswith("[")]
    assert [line[:2] for line in lines] == [["[1/2]", "01_first_step"], ["[2/2]", "02_second_step"]]
    kept = Run("shapes", folder.parent / "results")
    executed = nbformat.read(kept.checked_path("notebooks/01_first_step.ipynb"), 4)
    assert executed.cells[-1].outputs[0].text.split() == [str(folder), "shapes"]
    assert "epochs = 3" in executed.cells[1].source
    noted = kept.manifest
    assert noted["parameters"]["01_first_step"] == dict(executed.metadata.papermill.parameters)
    assert noted["timings"]["01_first_step"] == round(executed.metadata.papermill.duration, 1)


def test_results_may_lie_under_braces_and_the_shell_s_backend_does_not_matter(folder, write, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    write("01_first_step.ipynb", "", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    results = folder.parent / "{2019} trip {"
    assert cli.main(["run", "--dataset", "shapes", "--results", str(results), "--to", "1"]) == 0
    (path,) = results.glob("shapes/notebooks/*.ipynb")
    assert "image/png" in nbformat.read(path, 4).cells[-1].outputs[-1].data
    assert os.environ["MPLBACKEND"] == "agg"


def test_solutions_and_checks_of_exercises_are_left_out(folder, write, run):
    path = write("01_first_step.ipynb", "", "x = 1", "answer = 1 / 0", "assert False", "print('the end')")
    lesson = nbformat.read(path, 4)
    lesson.cells[2].metadata["tags"], lesson.cells[3].metadata["tags"] = ["solution"], ["check", "hide-input"]
    nbformat.write(lesson, path)
    assert run("--to", "1") == 0
    executed = nbformat.read(folder.parent / "results/shapes/notebooks/01_first_step.ipynb", 4)
    assert executed.cells[-1].outputs[0].text == "the end\n" and "1 / 0" not in str(executed.cells)


def test_a_notebook_of_which_no_cell_ran_does_not_replace_an_earlier_copy(folder, run, monkeypatch):
    assert run("--to", "1") == 0
    kept = folder.parent / "results/shapes/notebooks/01_first_step.ipynb"
    before = kept.read_bytes()
    monkeypatch.setattr(notebooks, "KERNEL", "no_such_kernel")
    assert run("--to", "1") == 1 and kept.read_bytes() == before


def test_another_folder_to_add_is_meant_from_where_the_user_stands(folder, write, run, monkeypatch, tmp_path):
    write("10_more.ipynb", 'more = ""', "print(more)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, meant in (("../extra", tmp_path.parent / "extra"), ("~/x", tmp_path / "home" / "x")):
        assert run("--from", "10", "--to", "10", "-p", f"more={given}") == 0
        executed = nbformat.read(folder.parent / "results/shapes/notebooks/10_more.ipynb", 4)
        assert executed.cells[-1].outputs[0].text == f"{meant}\n"


def test_a_failing_notebook_is_kept_and_named_with_the_command_to_resume(folder, run, capsys):
    assert run("-p", "epochs=3", "-p", "mode=bad") == 1
    captured = capsys.readouterr()
    assert "02_second_step failed in cell [3]: AssertionError: the mode is bad" in captured.err
    assert (folder.parent / "results/shapes/notebooks/02_second_step.ipynb").exists()
    words = shlex.split(captured.err.split("resume with:")[1])
    assert words[:3] == [sys.executable, "-m", "cbir_utils"] and words[-1] == "--resume"
    assert cli.main(words[3:]) == 1  # it fails where it failed before
    assert "01_first_step              done before" in capsys.readouterr().out


def test_a_notebook_without_a_kernel_is_named(run, capsys, monkeypatch):
    monkeypatch.setattr(notebooks, "KERNEL", "no_such_kernel")
    assert run() == 1
    assert "01_first_step could not be run: NoSuchKernel" in capsys.readouterr().err


def test_ctrl_c_leaves_no_half_file_and_says_how_to_resume(folder, run, write, capsys):
    press = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)"
    write("03_third_step.ipynb", "", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        assert run("--from", "3") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    words = shlex.split(capsys.readouterr().err.split("resume with:")[1])
    assert words[:4] == [sys.executable, "-m", "cbir_utils", "run"] and words[-3:] == ["--from", "3", "--resume"]
    assert list((folder.parent / "results/shapes/notebooks").iterdir()) == []


# -- resuming -------------------------------------------------------------------------------------------------------

SAVE = "from cbir_utils.run import Run\nrun = Run('shapes', results)\n"


@pytest.fixture
def three(folder, write, monkeypatch):
    """Three notebooks: the second writes an artifact, the third reads it; run in this process, which takes no time."""

    def execute(path, output, parameters, **options):
        names, cells = {}, [cell.source for cell in nbformat.read(path, 4).cells]
        exec(cells[0], names)
        names.update(parameters)
        for cell in cells[1:]:
            exec(cell, names)
        output.parent.mkdir(exist_ok=True)
        output.write_text(json.dumps(parameters))
        return 90.0

    monkeypatch.setattr(notebooks, "execute", execute)
    write("02_second_step.ipynb", "rounds = 1\nseeds = 1", SAVE + "run.save_json('value.json', rounds)")
    write("03_third_step.ipynb", "last = 1", SAVE + "run.load_json('value.json')")
    return Run("shapes", folder.parent / "results")


def test_a_second_start_passes_over_what_is_done(three, run, ran, resume):
    assert resume() == ["01", "02", "03"]
    assert resume() == resume("--skip", "2") == []
    assert run() == 0 and ran() == ["01", "02", "03"]  # without --resume everything runs
    moved = three.results.rename(three.results.with_name("moved"))
    assert resume("--results", str(moved)) == []


def test_what_has_changed_runs_again_with_all_that_follows(three, run, resume, write):
    assert resume() == ["01", "02", "03"]
    assert resume("-p", "rounds=2") == ["02", "03"]  # another parameter
    assert resume() == ["02", "03"]
    write("03_third_step.ipynb", "last = 1", "x = 2")  # another code
    assert resume() == ["03"]
    three.path("value.json").unlink()  # a file that a notebook wrote
    assert resume() == ["02", "03"]
    three.path("value.json").write_text("3")  # it is there, but not as the notebook wrote it
    assert resume() == ["02", "03"]
    three.path("notebooks/02_second_step.ipynb").write_text("{}")  # saved by a reader
    assert resume() == []
    write("01_first_step.ipynb", "seed = 4", "x = 1")  # the shapes are drawn from it
    assert resume() == ["01", "02", "03"]
    assert resume("-p", "seed=5") == ["01", "02", "03"]  # other data under the same name


def test_a_step_whose_files_another_step_made_anew_is_not_done(three, run, resume, write):
    """What a step has read counts by its content: new cells in 02 make 03 stale, also where 02 ran alone."""
    assert resume()
    write("02_second_step.ipynb", "rounds = 1", SAVE + "run.save_json('value.json', 'another')")
    assert run("--from", "2", "--to", "2") == 0
    assert resume() == ["03"]
    assert resume() == []
    three.save_json("value.json", "another")  # made anew, and the same
    assert resume() == []


def test_a_table_that_several_steps_fill_leaves_them_done(three, resume, write):
    """Each reads it and adds a row; each gets its row back if the table is lost."""
    code = SAVE + "run.add_rows('table.json', [{'step': %r}], ('step',))\nrun.load_json('table.json')"
    for name in ("01_first_step", "02_second_step"):
        write(f"{name}.ipynb", "", code % name)
    read = SAVE + "run.load_json('table.json')"
    write("03_third_step.ipynb", "", read)
    assert resume() and resume() == []
    three.path("table.json").unlink()
    assert resume() == ["01", "02", "03"]
    assert [row["step"] for row in three.load_json("table.json")] == ["01_first_step", "02_second_step"]
    # A later step reads first and fills after: the earlier ones' rows are as they were.
    write("03_third_step.ipynb", "", read + "\nrun.add_rows('table.json', [{'step': 3}], ['step'])")
    assert resume() == ["03"]
    assert resume() == []


def test_more_trainings_than_requested_count_as_done(three, resume):
    assert resume()
    assert resume("--from", "2", "--to", "2", "-p", "seeds=5") == ["02"]
    assert three.manifest["steps"]["02_second_step"]["seeds"] == {"seeds": 5}
    assert resume() == []
    assert resume("-p", "seeds=6") == ["02", "03"]


def test_each_step_notes_what_it_was_run_with(three, run, monkeypatch):
    monkeypatch.setattr(notebooks, "current_commit", lambda: "first")
    assert run("--resume") == 0
    monkeypatch.setattr(notebooks, "current_commit", lambda: "second")
    monkeypatch.setattr(notebooks, "package_versions", lambda: {"numpy": "9"})
    monkeypatch.setattr(notebooks, "machine", lambda: {"cores": 99})
    assert run("--resume", "-p", "last=2") == 0
    steps = three.manifest["steps"]
    assert [step["commit"] for step in steps.values()] == ["first", "first", "second"]
    assert steps["01_first_step"]["packages"] == three.manifest["packages"]
    assert steps["03_third_step"]["packages"] == {"numpy": "9"} and steps["03_third_step"]["machine"] == {"cores": 99}
    assert steps["02_second_step"]["wrote"] == ["value.json"] and steps["02_second_step"]["read"] == {}
    assert steps["03_third_step"]["read"] == {"value.json": three.file_hash("value.json")}


@pytest.mark.parametrize("error, status", [(notebooks.NotebookFailed("it failed"), 1), (KeyboardInterrupt(), 130)])
def test_what_failed_or_was_stopped_is_not_done(three, run, resume, monkeypatch, capsys, error, status):
    def stop(*words, **options):
        raise error

    assert resume()
    with monkeypatch.context() as patch:
        patch.setattr(notebooks, "execute", stop)
        assert run("--from", "2", "--to", "2") == status
    assert (str(error) or "interrupted") in capsys.readouterr().err
    assert resume() == ["02", "03"]  # what 03 read is the same, but 02 comes before it


def test_the_time_left_is_that_of_the_last_run_with_the_same_parameters(three, run):
    where = {"dataset": "shapes", "results": str(three.results)}
    items = list(parameters_for(select_notebooks(1, 3), {}, where).items())
    assert time_left(three, items) == ""
    assert run() == 0
    assert time_left(three, items) == "(~4 min left)" and time_left(three, items[2:]) == "(~2 min left)"
    assert time_left(three, [(items[0][0], {"epochs": 1})]) == ""
