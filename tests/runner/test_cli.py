"""The runner: what it refuses before it starts, and how it ends when a notebook does not."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageOps

from cbir_utils.datasets import DatasetError, load_dataset, pack_folder
from cbir_utils.paper import experiments, report
from cbir_utils.run import ArtifactError, Run
from cbir_utils.runner import cli as pipeline
from cbir_utils.runner.notebooks import UsageError

PARAMETERS = 'dataset = "digits"  # which\nresults = "../results"  # where\n'


def notebook(path, parameters, *cells):
    """Write a notebook with a parameters cell and some more code cells."""
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(text) for text in (PARAMETERS + parameters, *cells)]
    made.cells[0].metadata["tags"] = ["parameters"]
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    nbformat.write(made, path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two notebooks in a folder of their own, instead of the project's."""
    here = tmp_path / "notebooks"
    (here / "parameters").mkdir(parents=True)
    notebook(here / "01_first_step.ipynb", "epochs = 2  # passes\nrate = 0.5", "import os\nprint(os.getcwd())")
    notebook(here / "02_second_step.ipynb", 'mode = "good"', "assert mode == 'good', 'the mode is ' + mode\nx = 1")
    (here / "parameters" / "paper.yaml").write_text("epochs: 7\n")
    monkeypatch.setattr(pipeline, "NOTEBOOKS", here)
    return here


def run(folder, *words):
    return pipeline.main(["run", "--dataset", "shapes", "--results", str(folder.parent / "results"), *words])


def test_assignments_are_read_by_the_type_of_the_parameter(folder):
    def read(text):
        name, value = pipeline.parse_assignment(text)
        first, second = pipeline.select_notebooks(0, 99)
        assigned = pipeline.assign_parameters({name: value}, [first, second], [first, second])
        return assigned[first].get(name, assigned[second].get(name))

    assert read("epochs=3") == 3
    assert read("rate=1") == 1.0 and type(read("rate=1")) is float
    assert read("mode=9") == "9"
    assert read("mode=a=b") == "a=b"
    with pytest.raises(UsageError, match="expected name=value, such as -p epochs=3"):
        pipeline.parse_assignment("epochs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "epoch=3"], "no notebook has a parameter 'epoch'; did you mean epochs?"),
        (
            ["-p", "epochs=3", "--from", "2"],
            "'epochs' is a parameter of 01_first_step, which this run does not include",
        ),
        (["-p", "epochs=many"], "epochs in 01_first_step must be of type int, like 2, and 'many' is not"),
        (["-p", "epochs=true"], "epochs in 01_first_step must be of type int, like 2, and True is not"),
        (["-p", "results=x"], "give the results as --results, not with -p"),
        (["--profile", "fast"], "there is no profile 'fast'; choose one of workshop, paper"),
        (["--dataset", "mnits"], "there is no dataset 'mnits': choose one of digits, mnist"),
        (
            ["--from", "7", "--to", "9"],
            "no notebook is numbered from 07 to 09; there are 01_first_step, 02_second_step",
        ),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(folder, capsys, words, message):
    assert run(folder, *words) == 2
    assert message in capsys.readouterr().err
    assert not (folder.parent / "results").exists()


def test_a_wrong_name_in_a_profile_is_refused(folder, capsys):
    (folder / "parameters" / "paper.yaml").write_text("epoch: 7\n")
    assert run(folder, "--profile", "paper") == 2
    assert "no notebook has a parameter 'epoch'" in capsys.readouterr().err


def test_the_project_s_own_profile_fits_its_notebooks():
    every = pipeline.select_notebooks(0, 99)
    assigned = pipeline.assign_parameters(pipeline.load_profile("paper"), every, every)
    assert {path.stem: given for path, given in assigned.items()}["02_train_autoencoder"]["epochs"] == 10


def test_a_run_leaves_the_primer_out_and_a_refresh_does_not():
    def numbers(command):
        arguments = pipeline.parser().parse_args([command])
        return [path.name[:2] for path in pipeline.select_notebooks(arguments.start, arguments.stop)]

    assert numbers("run") == ["01", "02", "03", "04", "05"]
    assert numbers("refresh")[:2] == ["00", "01"] and numbers("refresh")[-1] >= "10"


def test_a_notebook_without_a_kernel_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "KERNEL", "no_such_kernel")
    assert run(folder) == 1
    assert "01_first_step could not be run: NoSuchKernel" in capsys.readouterr().err


def test_own_values_go_before_the_profile_s_and_only_to_who_declares_them(folder):
    first, second = pipeline.select_notebooks(0, 99)
    profile = pipeline.load_profile("paper")
    given = pipeline.assign_parameters({**profile, "rate": 1}, [first, second], [first, second])
    assert given == {first: {"epochs": 7, "rate": 1}, second: {}}


def test_notebooks_run_in_their_folder_with_their_parameters(folder, capsys):
    assert run(folder, "-p", "epochs=3") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.split()[:2] for line in lines] == [["[1/2]", "01_first_step"], ["[2/2]", "02_second_step"]]
    results = folder.parent / "results" / "shapes"
    executed = nbformat.read(results / "notebooks" / "01_first_step.ipynb", 4)
    assert executed.cells[-1].outputs[0].text.strip() == str(folder)
    assert "epochs = 3" in executed.cells[1].source
    assert set(json.loads((results / "manifest.json").read_text())["timings"]) == {"01_first_step", "02_second_step"}


def test_with_log_the_notebooks_own_lines_are_shown(folder, capsys):
    assert run(folder, "--log", "--to", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["[1/1]", "01_first_step"] and str(folder) in lines
    assert lines[-1].split()[:2] == ["[1/1]", "01_first_step"] and lines[-1].endswith(" s")


def test_a_failing_notebook_is_kept_and_named_with_the_command_to_resume(folder, capsys):
    assert run(folder, "-p", "epochs=3", "-p", "mode=bad") == 1  # epochs is the first notebook's, which is done
    captured = capsys.readouterr()
    assert "02_second_step failed in cell [3]: AssertionError: the mode is bad" in captured.err
    resume = captured.err.split("resume with:")[1].strip()
    words = "run --dataset shapes --profile workshop --from 02 --to 05 --results"
    assert resume.startswith(f"{sys.executable} -m cbir_utils {words}") and resume.endswith("-p mode=bad")
    assert (folder.parent / "results/shapes/notebooks/02_second_step.ipynb").exists()
    assert pipeline.main(shlex.split(resume)[3:]) == 1  # it is accepted, and fails where it failed before


def test_a_second_run_into_the_same_folder_stops(folder, tmp_path):
    code = "import sys; from cbir_utils import pipeline; sys.exit(pipeline.main(sys.argv[1:]))"
    words = ["run", "--dataset", "shapes", "--results", str(tmp_path / "results")]
    with Run("shapes", tmp_path / "results").exclusive():
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"another run (process {os.getpid()}) is writing to" in done.stderr
    with Run("shapes", tmp_path / "results").exclusive():  # free again
        pass


def test_ctrl_c_leaves_no_half_file_and_says_how_to_resume(folder):
    notebook(folder / "03_third_step.ipynb", "", "open('started', 'w').close()\nimport time\ntime.sleep(60)")
    code = (
        "import sys; from pathlib import Path; from cbir_utils import pipeline;"
        "pipeline.NOTEBOOKS = Path(sys.argv[1]); sys.exit(pipeline.main(sys.argv[2:]))"
    )
    words = ["run", "--dataset", "shapes", "--results", str(folder.parent / "results"), "--from", "3"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, SIGINT is ignored, and the child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (folder / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"resume with: {sys.executable} -m cbir_utils run --dataset shapes --profile workshop --from 03" in errors
    assert list((folder.parent / "results/shapes/notebooks").iterdir()) == []


def row(**change):
    numbers = {"P@1": 0.9, "P@5": 0.8, "P@100": 0.7, "R-precision": 0.5, "mAP": 0.4567, "mAP_interval": [0.44, 0.47]}
    return {
        "method": "pixels",
        "distance": "cosine",
        **numbers,
        "seeds": [0, 1],
        "train_seconds": 3.2,
        "protocol": "All of them; seeds 0, 1.",
        "measured": "2026-01-02",
        **change,
    }


def test_the_table_has_a_row_per_method():
    table = pipeline.results_table([row(), row(method="a long name")]).splitlines()
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert cells == ["pixels", "cosine", "0.900", "0.800", "0.700", "0.500", "0.457 [0.440, 0.470]", "2", "3"]
    untrained = pipeline.results_table([row(train_seconds=0.0)]).splitlines()[2]
    assert untrained.strip("| ").endswith("–")


def test_the_table_of_autoencoders_has_the_best_first():
    costs = {"weights": 1234, "bytes_per_image": 512, "reconstruction_error": 0.01, "collapsed": 1, "trainings": 3}
    none = {**costs, "weights": 0, "reconstruction_error": None}
    table = pipeline.family_table([row(**none), row(method="best", mAP=0.9, **costs)]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [line[0] for line in cells[2:]] == ["best", "pixels"]
    assert cells[2][6:] == ["1,234", "512", "3", "0.0100", "1 of 3"] and cells[3][9:] == ["–", "–"]


def test_the_table_of_binary_codes_has_a_line_per_method():
    rows = [
        {"method": m, "bits": b, "bytes_per_image": b // 8 or 188, "mAP": b / 100}
        for m in "ab"
        for b in (0, 16, 32, 64)
    ]
    table = pipeline.binary_table(rows).splitlines()
    assert [cell.strip() for cell in table[3].strip("|").split("|")] == ["b", "0.160", "0.320", "0.640", "0.000", "188"]


def test_the_readme_s_table_is_written_from_metrics(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- results digits -->\nold\n<!-- end -->\nbetween\n<!-- results mnist -->\nkept\n<!-- end -->\n"
        "<!-- binary digits -->\nkept too\n<!-- end -->\n"
    )
    Run("digits", tmp_path).save_json("metrics.json", [row(mAP=0.321)])
    assert pipeline.update_readme(readme, tmp_path) == ["results digits"]
    text = readme.read_text()
    assert (
        "0.321" in text
        and "old" not in text
        and "kept\n" in text
        and "kept too" in text
        and text.startswith("before\n")
    )
    assert "All of them. Measured 2026-01-02, " in text
    pipeline.update_readme(readme, tmp_path)
    assert readme.read_text() == text


def test_the_readme_s_benchmarks_are_written_from_results_bench(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench search -->\nold\n<!-- end -->\n<!-- bench other -->\nkept\n<!-- end -->\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "search.md").write_text("| new |\n")
    assert pipeline.update_readme(readme, tmp_path) == ["bench search"]
    assert readme.read_text() == (
        "<!-- bench search -->\n| new |\n<!-- end -->\n<!-- bench other -->\nkept\n<!-- end -->\n"
    )


def test_normalising_keeps_tags_and_outputs_and_drops_the_rest():
    made = nbformat.v4.new_notebook(metadata={"papermill": {"x": 1}, "widgets": {}})
    cell = nbformat.v4.new_code_cell("1 + 1", metadata={"tags": ["parameters"], "papermill": {}}, execution_count=4)
    made.cells = [cell, nbformat.v4.new_code_cell("2", metadata={"execution": {}, "tags": []})]
    normal = pipeline.normalise(made)
    assert set(normal.metadata) == {"kernelspec", "language_info"}
    assert [c.metadata for c in normal.cells] == [{"tags": ["parameters"]}, {}]
    assert normal.cells[0].execution_count == 4


def test_a_damaged_table_is_named(tmp_path):
    Run("digits", tmp_path).save_json("metrics.json", [row()])
    Path(tmp_path / "digits/metrics.json").write_text("[]")
    with pytest.raises(ArtifactError, match="metrics.json differs from its hash"):
        pipeline._print_summary(Run("digits", tmp_path))


# -- a folder of images ------------------------------------------------------------------------------------------


@pytest.fixture
def photos(folder, tmp_path):
    """A folder of two images and four files that cannot be read, for notebooks that show which dataset they get."""
    here = tmp_path / "my photos"
    (here / "cats").mkdir(parents=True)
    for name, level in (("a.png", 10), ("cats/b.png", 20)):
        Image.new("L", (4, 4), level).save(here / name)
    (here / "notes.txt").write_text("words")
    (here / "readme.txt").write_text("words")
    (here / "empty.png").touch()
    Image.new("L", (64, 64), 5).save(here / "damaged.tif", compression="tiff_deflate")
    data = bytearray((here / "damaged.tif").read_bytes())
    data[10:20] = bytes(10)
    (here / "damaged.tif").write_bytes(data)
    notebook(folder / "01_first_step.ipynb", "epochs = 2", "print(dataset)")
    return here


def packed(folder):
    return folder.parent / "results" / "my photos" / "dataset"


def test_a_folder_of_images_is_read_once_for_the_notebooks(folder, photos, capfd):
    assert run(folder, "--dataset", str(photos), "--to", "1") == 0
    captured = capfd.readouterr()
    assert re.fullmatch(r"\[read\] 2 images, 4 rejected \(rejects.csv\) +\d+\.\d s", captured.out.splitlines()[0])
    results = packed(folder).parent
    assert captured.out.splitlines()[1] == (
        "4 of 6 files are left out (2 not an image (PNG, JPEG, GIF, BMP, TIFF or WebP); 1 damaged or truncated; "
        f"1 empty (zero bytes)): see {results / 'rejects.csv'}"
    )
    assert captured.err == ""  # libtiff writes its complaints there, past Python
    executed = nbformat.read(results / "notebooks" / "01_first_step.ipynb", 4)
    assert executed.cells[-1].outputs[0].text.strip() == str(packed(folder))
    data = load_dataset(packed(folder))
    assert data.name == "my photos" and data.ids == ("a.png", "cats/b.png") and data.class_names == ()
    assert Run("my photos", results.parent).checked_path("rejects.csv").read_text().splitlines() == [
        "file,reason",
        "damaged.tif,damaged or truncated",
        "empty.png,empty (zero bytes)",
        'notes.txt,"not an image (PNG, JPEG, GIF, BMP, TIFF or WebP)"',
        'readme.txt,"not an image (PNG, JPEG, GIF, BMP, TIFF or WebP)"',
    ]


def test_the_flags_of_a_folder_are_kept_for_resuming(folder, photos, capsys):
    words = ["--dataset", str(photos), "--size", "12", "--labels"]
    assert run(folder, *words, "-p", "mode=bad") == 1
    resume = shlex.split(capsys.readouterr().err.split("resume with:")[1])[3:]
    data = load_dataset(packed(folder))
    assert data.database.images.shape == (2, 12, 12, 1) and data.class_names == (".", "cats")
    kept = Run("my photos", folder.parent / "results")
    assert {key: kept.manifest[key] for key in ("source", "size", "labels")} == {
        "source": str(photos), "size": 12, "labels": True,
    }  # fmt: skip
    for command in (resume, shlex.split(kept.remedy_for("encoder.keras").strip("`"))[3:]):
        again = pipeline.parser().parse_args(command)
        assert (again.dataset, again.size, again.labels) == (str(photos), 12, True)


def test_a_folder_is_read_anew_only_if_it_changed(folder, photos, capsys):
    words = ["--dataset", str(photos), "--to", "1"]
    assert run(folder, *words) == 0
    made = (packed(folder) / "images.npy").stat()
    assert run(folder, *words) == 0
    assert (packed(folder) / "images.npy").stat().st_ino == made.st_ino
    for path in (*photos.glob("*.txt"), photos / "empty.png", photos / "damaged.tif"):
        path.unlink()
    capsys.readouterr()
    assert run(folder, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[read] 2 images  ") and lines[1].startswith("[1/1]")
    # The list from before would name files that are no longer there.
    assert (packed(folder).parent / "rejects.csv").read_text() == "file,reason\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "28"], "--size and --labels are for a folder of images, and shapes is not one; leave them out"),
        (["--labels"], "--size and --labels are for a folder of images, and shapes is not one; leave them out"),
        (["--dataset", "PHOTOS", "--size", "7"], "--size 7: images can be fitted to squares of 8 to 256 pixels"),
        (["--dataset", "PHOTOS", "--size", "257"], "--size 257: images can be fitted to squares of 8 to 256 pixels"),
        (["--dataset", "PHOTOS", "--results", "PHOTOS/results"], "my photos/results lies in the folder of images, and"),
        (["--dataset", "PHOTOS", "-p", "dataset=x"], "give the dataset as --dataset, not with -p"),
    ],
)
def test_flags_that_do_not_fit_are_refused(folder, photos, capsys, words, message):
    assert run(folder, *(word.replace("PHOTOS", str(photos)) for word in words)) == 2
    assert message in capsys.readouterr().err
    assert not (folder.parent / "results").exists() and not (photos / "results").exists()


def test_a_folder_of_idx_files_takes_no_size(folder, photos, capsys):
    (photos / "train-images-idx3-ubyte").touch()
    assert run(folder, "--dataset", str(photos), "--size", "28") == 2
    assert f"--size and --labels are for a folder of images, and {photos} is not one" in capsys.readouterr().err


def test_what_a_run_keeps_of_a_folder_is_no_source_of_its_own(folder, photos, capsys):
    """The run would be named ``dataset``, and the data in it ``my photos``."""
    assert run(folder, "--dataset", str(photos), "--to", "1") == 0
    assert run(folder, "--dataset", str(packed(folder))) == 2
    assert "is what a run keeps of a folder of images; give the folder itself" in capsys.readouterr().err


def test_a_folder_without_images_ends_the_run_with_one_sentence(folder, tmp_path, capsys):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "notes.txt").write_text("words")
    assert run(folder, "--dataset", str(tmp_path / "words")) == 2
    error = capsys.readouterr().err
    assert "holds no IDX files" in error and "none of the 1 files in" in error and error.count("\n") == 1
    assert not list((folder.parent / "results").rglob("manifest.json"))


# -- searching a finished run ---------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """A run over a folder of twelve images that are searched by pixels, and the folder."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 100, (28, 28), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    finished = Run("pictures", tmp_path / "results")
    data = pack_folder(folder, finished.path("dataset"))
    finished.record(source=str(folder), content_hash=data.content_hash)
    return finished, folder


def query(finished, *words):
    return pipeline.main(["query", *map(str, words), "--results", str(finished[0].folder)])


def test_query_prints_what_is_nearest_and_draws_it(finished, capsys):
    assert query(finished, finished[1] / "07.png", "-k", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "method pixels, cosine distance, no encoder, 12 images"
    assert lines[1].split() == ["1", "0.0000", "07.png"] and len(lines) == 5
    assert finished[0].path("queries/07.png").read_bytes().startswith(b"\x89PNG")


def test_query_prints_json(finished, capsys, tmp_path):
    assert query(finished, finished[1] / "07.png", "--json", "--picture", tmp_path / "hits.png") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4, 5]
    assert answer["hits"][0] == {"rank": 1, "id": "07.png", "distance": 0.0}
    assert answer["method"] == "pixels" and answer["encoder"] is None and not answer["negative"]
    assert (tmp_path / "hits.png").is_file() and answer["picture"] == str(tmp_path / "hits.png")


def test_a_query_on_the_other_ground_is_searched_as_its_negative(finished, capsys, tmp_path):
    ImageOps.invert(Image.open(finished[1] / "03.png")).save(tmp_path / "negative.png")
    assert query(finished, tmp_path / "negative.png", "-k", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "searched as its negative: the database's background is dark"
    assert lines[2].split() == ["1", "0.0000", "03.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png"], "nothing.png: there is no such file"),
        (["{folder}"], "a folder, not a file"),
        (["{folder}/00.png", "-k", "13"], "-k must be from 1 to the 12 images of the run, not 13"),
        (["{folder}/00.png", "-k", "0"], "-k must be from 1 to the 12 images of the run, not 0"),
        (["{folder}/00.png", "--method", "fused"], "make it with"),
        (["{folder}/00.png", "--method", "magic"], "there is no method 'magic'"),
        (["{folder}/00.png", "--picture", "hits.xyz"], "the picture is a PNG file"),
    ],
)
def test_what_cannot_be_queried_is_said_in_one_sentence(finished, capsys, words, message):
    assert query(finished, *(word.format(folder=finished[1]) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_folder_without_a_run_cannot_be_queried(finished, capsys, tmp_path):
    assert pipeline.main(["query", str(finished[1] / "00.png"), "--results", str(tmp_path / "empty")]) == 2
    assert "holds no run (there is no manifest.json)" in capsys.readouterr().err


def test_added_images_are_searched_and_named_after_their_folder(finished, capsys, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    Image.fromarray(np.tile(np.arange(0, 84, 3, dtype=np.uint8), (28, 1))).save(more / "ramp.png")
    (more / "note.txt").write_text("no image")
    words = ["add", str(more), "--results", str(finished[0].folder)]
    assert pipeline.main(words) == 0
    assert capsys.readouterr().out == "1 images added, 0 there already, 1 files rejected (rejects_added.csv)\n"
    assert "note.txt" in finished[0].path("rejects_added.csv").read_text()
    assert pipeline.main(words) == 0
    assert capsys.readouterr().out.startswith("0 images added, 1 there already")
    assert query(finished, more / "ramp.png", "-k", "1") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "0.0000", "more/ramp.png"]


def test_files_new_in_the_run_s_own_folder_are_added_under_their_own_names(finished, capsys):
    Image.fromarray(np.tile(np.arange(0, 84, 3, dtype=np.uint8), (28, 1))).save(finished[1] / "new.png")
    assert pipeline.main(["add", str(finished[1]), "--results", str(finished[0].folder)]) == 0
    assert capsys.readouterr().out == "1 images added, 12 there already\n"
    assert query(finished, finished[1] / "new.png", "-k", "1") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "0.0000", "new.png"]


def test_a_notebook_ends_quietly_where_labels_are_missing(folder, capsys, finished):
    """The cells above the call have run, those below have not, and the run goes on with the next notebook."""
    third = folder / "03_third_step.ipynb"
    cells = (
        "from cbir_utils.datasets import load_dataset\nfrom cbir_utils.runner.cli import stop_without_labels",
        f"stop_without_labels(load_dataset({str(finished[0].path('dataset'))!r}))",
        "raise AssertionError('not reached')",
    )
    notebook(third, "", *cells)
    assert run(folder) == 0
    executed = nbformat.read(folder.parent / "results" / "shapes" / "notebooks" / third.name, 4)
    assert "has no labels: this notebook ends here" in str(executed.cells[-2].outputs)
    assert executed.cells[-1].execution_count is None


def test_labels_do_not_end_a_notebook():
    pipeline.stop_without_labels(load_dataset("shapes"))


# -- resuming -----------------------------------------------------------------------------------------------------


def ran(capsys):
    """The notebooks of the last run by their numbers: those executed, those passed over."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    passed = [line.split()[1][:2] for line in lines if "done before" in line]
    return [line.split()[1][:2] for line in lines if "done before" not in line], passed


@pytest.fixture
def quick(monkeypatch):
    """Notebooks run in this process: what resuming decides does not depend on a kernel, and one takes a second."""

    def execute(path, output, parameters, *, log):
        names, cells = {}, [cell.source for cell in nbformat.read(path, 4).cells]
        exec(cells[0], names)
        names.update(parameters)
        try:
            for cell in cells[1:]:
                exec(cell, names)
        except AssertionError as error:
            raise pipeline.NotebookFailed(str(error)) from error
        output.parent.mkdir(exist_ok=True)
        output.write_text(json.dumps(parameters))

    monkeypatch.setattr(pipeline, "execute", execute)


@pytest.fixture
def three(folder, quick):
    """Three notebooks, of which the second writes an artifact."""
    code = "from cbir_utils.run import Run\nRun('shapes', results).save_json('value.json', 2)"
    notebook(folder / "02_second_step.ipynb", "rounds = 1", code)
    notebook(folder / "03_third_step.ipynb", "last = 1", "x = 1")
    return folder


def test_a_second_start_passes_over_what_is_done(three, capsys):
    assert run(three, "--resume") == 0
    assert ran(capsys) == (["01", "02", "03"], [])
    assert run(three, "--resume") == 0
    assert ran(capsys) == ([], ["01", "02", "03"])
    assert run(three) == 0  # without --resume everything runs
    assert ran(capsys) == (["01", "02", "03"], [])


def test_what_counts_as_done_is_said(three, capsys):
    assert run(three, "--resume", "--to", "1") == 0 and ran(capsys)
    assert run(three, "--resume", "--to", "1") == 0
    assert (
        "01_first_step              done before, with the same cells, parameters and data\n" in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        pipeline.main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "changes of the package's code or of library versions are not noticed" in said


def test_what_has_changed_runs_again_with_all_that_follows(three, capsys):
    assert run(three, "--resume") == 0 and ran(capsys)
    assert run(three, "--resume", "-p", "rounds=2") == 0  # another parameter
    assert ran(capsys) == (["02", "03"], ["01"])
    notebook(three / "03_third_step.ipynb", "last = 1", "x = 2")  # another code
    assert run(three, "--resume", "-p", "rounds=2") == 0
    assert ran(capsys) == (["03"], ["01", "02"])
    value = three.parent / "results" / "shapes" / "value.json"
    value.unlink()  # a file that a notebook wrote
    assert run(three, "--resume", "-p", "rounds=2") == 0
    assert ran(capsys) == (["02", "03"], ["01"])
    value.write_text("3")  # it is there, but not as the notebook wrote it
    assert run(three, "--resume", "-p", "rounds=2") == 0
    assert ran(capsys) == (["02", "03"], ["01"])
    (value.parent / "notebooks" / "02_second_step.ipynb").write_text("{}")  # saved by a reader
    assert run(three, "--resume", "-p", "rounds=2") == 0
    assert ran(capsys) == ([], ["01", "02", "03"])


def test_a_file_that_two_notebooks_write_is_written_by_both_again(three, capsys):
    """The first makes it anew without the second's part, after which it is there and whole."""
    code = "from cbir_utils.run import Run\nRun('shapes', results).add_metrics([{'method': %r, 'distance': 'x'}])"
    notebook(three / "01_first_step.ipynb", "epochs = 2", code % "first")
    notebook(three / "02_second_step.ipynb", "rounds = 1", code % "second")
    kept = Run("shapes", three.parent / "results")
    assert run(three, "--resume", "--to", "3") == 0 and ran(capsys)
    kept.path("metrics.json").unlink()
    assert run(three, "--resume", "--to", "3") == 0
    assert ran(capsys) == (["01", "02", "03"], [])
    assert [row["method"] for row in kept.load_json("metrics.json")] == ["first", "second"]


def test_more_trainings_than_wanted_will_do(three, capsys):
    notebook(three / "02_second_step.ipynb", "seeds = 1", "x = 1")
    assert run(three, "--resume") == 0 and ran(capsys)
    assert run(three, "--resume", "--from", "2", "--to", "2", "-p", "seeds=5") == 0
    assert ran(capsys) == (["02"], [])
    assert Run("shapes", three.parent / "results").manifest["steps"]["02_second_step"]["seeds"] == {"seeds": 5}
    assert run(three, "--resume") == 0
    assert ran(capsys) == ([], ["01", "02", "03"])
    assert run(three, "--resume", "-p", "seeds=6") == 0
    assert ran(capsys) == (["02", "03"], ["01"])


def test_the_longer_trainings_are_made_once_and_their_report_is_always_written():
    rule = re.search(r"^paper-seeds:.*\n((?:\t.*\n)+)", (pipeline.ROOT / "Makefile").read_text(), re.M)
    assert ["--resume" in line for line in rule[1].splitlines()] == [True, True, False]


def test_images_that_have_changed_are_noticed(folder, photos, capsys):
    words = ["--dataset", str(photos), "--to", "1", "--resume"]
    assert run(folder, *words) == 0 and ran(capsys)[0][-1] == "01"
    (photos / "notes.txt").unlink()  # the folder is read anew, and the images are the same
    assert run(folder, *words) == 0 and ran(capsys)[1] == ["01"]
    Image.new("L", (4, 4), 200).save(photos / "a.png")
    assert run(folder, *words) == 0 and ran(capsys)[1] == []
    assert run(folder, *words) == 0 and ran(capsys)[1] == ["01"]
    assert run(folder, *words, "--labels") == 0 and ran(capsys)[1] == []


def test_other_data_under_the_same_name_are_noticed(three, capsys, monkeypatch):
    def load(source, seed):
        assert source == "shapes"
        return SimpleNamespace(content_hash=f"{hashes[-1]} {seed}")

    hashes = ["first"]
    monkeypatch.setattr(pipeline, "load_dataset", load)
    notebook(three / "01_first_step.ipynb", "seed = 4", "x = 1")
    assert run(three, "--resume") == 0 and ran(capsys)
    assert run(three, "--resume") == 0 and ran(capsys) == ([], ["01", "02", "03"])
    hashes.append("second")
    assert run(three, "--resume") == 0 and ran(capsys) == (["01", "02", "03"], [])
    Run("shapes", three.parent / "results").record(content_hash="second 4")  # as notebook 01 does
    hashes.clear()  # what loads them now fails
    assert run(three) == 0 and ran(capsys)
    hashes.append("second")
    assert run(three, "--resume") == 0 and ran(capsys) == ([], ["01", "02", "03"])


def test_data_that_cannot_be_loaded_end_a_resumed_run_with_one_sentence(three, capsys, monkeypatch):
    def load(source, seed):
        raise DatasetError("the file is damaged")

    monkeypatch.setattr(pipeline, "load_dataset", load)
    assert run(three, "--resume") == 2
    assert capsys.readouterr().err == "cbir: the file is damaged\n"


def test_results_may_be_moved(folder, photos, quick, capsys):
    for dataset in ("shapes", str(photos)):
        words = ["--dataset", dataset, "--resume"]
        assert run(folder, *words) == 0 and ran(capsys)
        moved = folder.parent / f"moved {Path(dataset).name}"
        (folder.parent / "results").rename(moved)
        assert run(folder, *words, "--results", str(moved)) == 0
        assert ran(capsys)[1] == ["01", "02"]


def test_each_step_notes_what_it_was_run_with(three, capsys, monkeypatch):
    kept = Run("shapes", three.parent / "results")
    monkeypatch.setattr(report, "current_commit", lambda: "first")
    assert run(three, "--resume") == 0
    monkeypatch.setattr(report, "current_commit", lambda: "second")
    assert run(three, "--resume") == 0 and kept.manifest["commit"] == "first"  # nothing was made at the second
    monkeypatch.setattr(pipeline, "package_versions", lambda: {"numpy": "9"})
    monkeypatch.setattr(pipeline, "machine", lambda: {"cores": 99})
    assert run(three, "--resume", "-p", "last=2") == 0 and kept.manifest["commit"] == "second"
    steps = kept.manifest["steps"]
    assert [step["commit"] for step in steps.values()] == ["first", "first", "second"]
    assert steps["01_first_step"]["packages"] == kept.manifest["packages"]
    assert steps["01_first_step"]["machine"] == kept.manifest["machine"]
    assert steps["03_third_step"]["packages"] == {"numpy": "9"} and steps["03_third_step"]["machine"] == {"cores": 99}
    assert steps["02_second_step"]["wrote"] == ["value.json"] and steps["02_second_step"]["seeds"] == {}


def test_a_rerun_that_failed_leaves_no_step_done(three, capsys):
    code = "from cbir_utils.run import Run\nRun('shapes', results).save_json('value.json', 2)"
    notebook(three / "02_second_step.ipynb", 'mode = "good"', code, "assert mode == 'good', 'the mode is ' + mode")
    assert run(three, "--resume") == 0
    assert run(three, "--from", "2", "--to", "2", "-p", "mode=bad") == 1 and ran(capsys)
    assert run(three, "--resume") == 0
    assert ran(capsys) == (["02", "03"], ["01"])
    step = Run("shapes", three.parent / "results").manifest["steps"]["02_second_step"]
    assert step["wrote"] == ["value.json"]  # each time the same, so only the first note can have told


def test_what_an_interrupted_run_did_not_come_to_is_not_done(three, capsys, monkeypatch):
    assert run(three, "--resume") == 0 and ran(capsys)

    def stop(*words, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "execute", stop)
        assert run(three, "--from", "2") == 130 and ran(capsys)
    assert run(three, "--resume", "--from", "3") == 0
    assert ran(capsys) == (["03"], [])
    assert run(three, "--resume") == 0
    assert ran(capsys) == (["02", "03"], ["01"])


def test_resuming_begins_with_the_notebook_that_failed(three, capsys):
    notebook(three / "02_second_step.ipynb", 'mode = "good"', "assert mode == 'good', 'the mode is ' + mode")
    assert run(three, "--resume", "-p", "mode=bad") == 1
    captured = capsys.readouterr()
    assert "--from 02 --to 05 --resume --results" in captured.err
    assert run(three, "--resume") == 0
    assert ran(capsys) == (["02", "03"], ["01"])


def test_a_notebook_can_be_left_out(three, capsys):
    assert run(three, "--skip", "2", "--skip", "3") == 0
    assert ran(capsys) == (["01"], [])
    assert run(three, "--from", "3", "--skip", "3") == 2
    assert "--skip leaves none of the notebooks from 03 to 05" in capsys.readouterr().err


def test_the_time_left_is_that_of_earlier_runs_at_today_s_speed():
    first, second = Path("01_first_step.ipynb"), Path("02_second_step.ipynb")
    timings = {"01_first_step": 120.0, "02_second_step": 600.0}
    clock = pipeline._Clock("mnist", "paper", {"profile": "paper", "timings": timings})
    assert clock.left([first, second]) == "(~12 min left)"
    clock.done(first, 240.0)  # twice as slow as before
    assert clock.left([second]) == "(~20 min left)"
    assert pipeline._Clock("digits", "workshop", {}).left([first]) == "(~1 min left)"
    assert pipeline._Clock("digits", "workshop", {}).left([Path("77_unheard_of.ipynb")]) == ""


def test_no_time_is_said_where_none_is_known():
    first = Path("01_first_step.ipynb")
    assert pipeline._Clock("mnist", "workshop", {}).left([first]) == ""
    assert pipeline._Clock("digits", "paper", {}).left([first]) == ""
    own = {"profile": "paper", "timings": {first.stem: 300.0}}
    assert pipeline._Clock("digits", "paper", own).left([first]) == "(~5 min left)"
    assert pipeline._Clock("digits", "quick", own).left([first]) == ""  # those of another profile


# -- experiments for the report -----------------------------------------------------------------------------------


def measure(finished, *words):
    return pipeline.main(["measure", *words, "--results", str(finished[0].folder)])


@pytest.mark.parametrize("experiment", ["collapse", "guided", "machines"])
def test_nothing_is_measured_in_a_folder_without_a_run(capsys, tmp_path, experiment):
    assert pipeline.main(["measure", experiment, "--results", str(tmp_path / "digts")]) == 2
    assert "digts holds no run (there is no manifest.json)" in capsys.readouterr().err
    assert not (tmp_path / "digts").exists()


def test_nothing_is_measured_while_another_run_writes(finished, capsys):
    with finished[0].exclusive():
        assert measure(finished, "machines") == 2
    assert "another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collapse", "--seeds", "0"], "--seeds must be 1 or more, not 0"),
        (["guided", "--seeds", "-1"], "--seeds must be 1 or more, not -1"),
        (["machines", "--seeds", "0"], "--seeds is for collapse and guided"),
    ],
)
def test_a_number_of_trainings_that_makes_no_sense_is_refused(finished, capsys, words, message):
    assert measure(finished, *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("the training failed\nTraceback"), 1, "measuring collapse failed: the training failed"),
        (ValueError(), 1, "measuring collapse failed: ValueError"),
        (ArtifactError("collapse.json is damaged"), 2, "collapse.json is damaged"),
    ],
)
def test_an_experiment_that_fails_is_told_in_one_sentence(finished, capsys, monkeypatch, error, status, message):
    def fail(*words, **options):
        raise error

    monkeypatch.setattr(experiments, "collapse", fail)
    assert measure(finished, "collapse") == status
    assert capsys.readouterr().err == f"cbir: {message}\n"
