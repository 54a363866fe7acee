"""The command line: folders of images, a finished run, and what is refused in one sentence."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from cbir_utils.artifacts.locks import exclusive
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import load_dataset
from cbir_utils.folders.folder import pack_folder
from cbir_utils.paper import experiments
from cbir_utils.run import Run
from cbir_utils.runner import cli
from cbir_utils.runner.notebooks import ROOT, select_notebooks


def test_a_run_is_the_paper_s_system_without_the_primer():
    arguments = cli.parser().parse_args(["run"])
    numbers = [path.name[:2] for path in select_notebooks(arguments.start, arguments.stop)]
    assert numbers == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("command", ["run", "results", "workshop", "query", "add", "report", "measure"])
def test_every_help_fits_one_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 24
    assert command != "run" or "changes of code are not noticed" in " ".join(said.split())


def test_a_second_run_into_the_same_folder_stops(tmp_path):
    words = ["run", "--dataset", "shapes", "--results", str(tmp_path)]
    with exclusive(tmp_path / "shapes"):
        done = subprocess.run([sys.executable, "-m", "cbir_utils", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"another run (process {os.getpid()}) is writing to" in done.stderr


def test_the_longer_trainings_are_made_once_and_their_report_is_always_written():
    rule = re.search(r"^paper-seeds:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert ["--resume" in line for line in rule[1].splitlines()] == [True, True, False]


# -- a folder of images ---------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, folder, write):
    """A folder of two images and four files that cannot be read, for notebooks that show which dataset they get."""
    here = tmp_path / "my photos"
    (here / "cats").mkdir(parents=True)
    for name, level in (("a.png", 10), ("cats/b.png", 20)):
        Image.new("L", (4, 4), level).save(here / name)
    for name in ("notes.txt", "readme.txt"):
        (here / name).write_text("words")
    (here / "empty.png").touch()
    Image.new("L", (64, 64), 5).save(here / "damaged.tif", compression="tiff_deflate")
    data = bytearray((here / "damaged.tif").read_bytes())
    data[10:20] = bytes(10)
    (here / "damaged.tif").write_bytes(data)
    return here


@pytest.fixture
def kept(folder):
    return Run("my photos", folder.parent / "results")


def test_a_folder_of_images_is_read_once_for_the_notebooks_and_anew_only_if_it_changed(run, photos, kept, capfd):
    words = ["--dataset", str(photos), "--to", "1", "--resume"]
    assert run(*words) == 0
    said = capfd.readouterr()
    assert "ZIPDecode" not in said.err  # libtiff writes past Python
    lines = said.out.splitlines()
    assert lines[0] == "[read] 2 images"
    assert re.fullmatch(r"4 of 6 files are left out \(2 not an image .*; 1 .*; 1 .*\): see .*rejects.csv", lines[1])
    data = load_dataset(kept.path("dataset"))
    assert data.name == "my photos" and data.ids == ("a.png", "cats/b.png") and data.class_names == ()
    rejects = kept.checked_path("rejects.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in rejects] == ["file", "damaged.tif", "empty.png", "notes.txt", "readme.txt"]
    assert str(kept.path("dataset")) in kept.path("notebooks/01_first_step.ipynb").read_text()

    for path in (*photos.glob("*.txt"), photos / "empty.png", photos / "damaged.tif"):
        path.unlink()
    assert run(*words) == 0  # the images are the same
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "[read] 2 images" and "done before" in lines[1]
    assert kept.path("rejects.csv").read_text() == "file,reason\n"  # the list from before would name missing files
    made = kept.path("dataset/images.npy").stat()
    assert run(*words) == 0 and "done before" in capfd.readouterr().out
    assert kept.path("dataset/images.npy").stat().st_ino == made.st_ino
    Image.new("L", (4, 4), 200).save(photos / "a.png")
    assert run(*words) == 0 and "done before" not in capfd.readouterr().out
    assert run(*words, "--labels") == 0 and "done before" not in capfd.readouterr().out


def test_the_flags_of_a_folder_are_kept_for_resuming(run, photos, kept, capsys):
    assert run("--dataset", str(photos), "--size", "12", "--labels", "-p", "mode=bad") == 1
    resume = shlex.split(capsys.readouterr().err.split("resume with:")[1])[3:]
    data = load_dataset(kept.path("dataset"))
    assert data.database.images.shape == (2, 12, 12, 1) and data.class_names == (".", "cats")
    for command in (resume, shlex.split(kept.remedy("convolutional/encoder.keras").strip("`"))[3:]):
        again = cli.parser().parse_args(command)
        assert (again.dataset, again.size, again.labels) == (str(photos), 12, True)


def test_another_folder_of_the_same_name_is_refused(run, photos, kept, capsys, tmp_path):
    """Their results would be mixed; what the first folder's run holds stays as it is."""
    assert run("--dataset", str(photos), "--to", "1") == 0
    packed, other = kept.path("dataset/images.npy").read_bytes(), tmp_path / "elsewhere" / "my photos"
    other.mkdir(parents=True)
    for level in (99, 199):
        Image.new("L", (4, 4), level).save(other / f"{level}.png")
    assert run("--dataset", str(other), "--to", "1") == 2
    said = capsys.readouterr().err
    assert f"holds the images of {photos}, not of {other}; choose another with --results" in said
    assert kept.path("dataset/images.npy").read_bytes() == packed
    assert run("--dataset", str(other), "--to", "1", "--results", str(tmp_path / "others")) == 0

    # What a run keeps of a folder: its run would be named "dataset", and the data in it "my photos".
    assert run("--dataset", str(kept.path("dataset"))) == 2
    assert "is what a run keeps of a folder of images; give the folder itself" in capsys.readouterr().err


def test_a_run_follows_its_folder(command, finished, capsys, tmp_path):
    run, folder = finished
    assert command("duplicates", "--html", tmp_path / "page.html") == 0
    assert capsys.readouterr().out == "0 groups of near-duplicates\n" and (tmp_path / "page.html").exists()
    assert command("remove", "01.png") == 0 and capsys.readouterr().out == "1 images removed\n"
    Image.new("L", (28, 28), 50).save(folder / "later.png")
    (folder / "02.png").unlink()
    for counts in ("1 images added, 0 renamed, 1 gone\n", "0 images added, 0 renamed, 0 gone\n"):
        assert command("sync") == 0
        assert capsys.readouterr().out == counts
    assert command("query", "00.png", "--max-distance", "0") == 0
    assert "nothing alike" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        ("-p epochs", "expected name=value, such as -p epochs=3"),
        ("-p epoch=3", "no notebook has a parameter 'epoch'; did you mean epochs?"),
        ("-p epochs=3 --from 2", "'epochs' is a parameter of 01_first_step, which this run"),
        ("-p epochs=many", "epochs in 01_first_step must be of type int, like 2, and 'many' is not"),
        ("-p epochs=true", "epochs in 01_first_step must be of type int, like 2, and 'true' is not"),
        ("-p epochs=[", "epochs in 01_first_step must be of type int, like 2, and '[' is not"),
        ("-p results=x", "give the results as --results, not with -p"),
        ("--profile fast", "there is no profile 'fast'; choose one of workshop, paper, wrong"),
        ("--profile wrong", "no notebook has a parameter 'epoch'"),
        ("--dataset mnits", "there is no dataset 'mnits': choose one of digits, mnist"),
        ("--from 7 --to 9", "no notebook is numbered from 07 to 09; there are 01_first_step, 02"),
        ("--from 2 --skip 02", "--skip leaves none of the notebooks from 02 to 05"),
        ("--size 28", "size and labels are for a folder of images, and shapes is not one; leave them out"),
        ("--dataset PHOTOS --size 7", "--size 7: images can be fitted to squares of 8 to 256 pixels"),
        ("--dataset PHOTOS --size 257", "--size 257: images can be fitted to squares of 8 to 256 pixels"),
        ("--dataset PHOTOS --results PHOTOS/results", "the results folder lies in the folder of images"),
        ("--dataset PHOTOS -p dataset=x", "give the dataset as --dataset, not with -p"),
        ("--dataset WORDS", "none of the 1 files in"),
        ("--dataset IDX --size 28", "size and labels are for a folder of images"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(folder, run, photos, capsys, tmp_path, words, message):
    (folder / "parameters" / "wrong.yaml").write_text("epoch: 7\n")
    places = {"PHOTOS": photos, "WORDS": tmp_path / "words", "IDX": tmp_path / "idx"}
    for name, file, content in (("WORDS", "notes.txt", b"words"), ("IDX", "train-images-idx3-ubyte", b"\0\0\x08\3")):
        places[name].mkdir()
        (places[name] / file).write_bytes(content)
    found = [re.sub("[A-Z]{3,}", lambda name: str(places[name[0]]), word) for word in words.split()]
    assert run(*found) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("manifest.json")) and not (photos / "results").exists()


# -- a finished run -------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """A run over a folder of twelve images that are searched by pixels, and the folder."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 100, (28, 28), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    finished = Run("pictures", tmp_path / "results")
    finished.belongs_to(str(folder), pack_folder(folder, finished.path("dataset")).content_hash)
    return finished, folder


@pytest.fixture
def command(finished):
    """A function that gives a command on the finished run, and returns the exit status."""
    return lambda name, *words: cli.main([name, "--results", str(finished[0].folder), *map(str, words)])


def test_a_colour_picture_among_grey_ones_is_refused_before_anything_changes(command, finished, capsys, tmp_path):
    """Images were added to the run as grey ones: with the folder read in colour they would fit no more."""
    run, folder = finished
    (tmp_path / "more").mkdir()
    Image.new("L", (28, 28), 60).save(tmp_path / "more" / "grey.png")
    assert command("add", tmp_path / "more") == 0
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and "lock" not in path.name}
    for number in range(9):
        Image.new("RGB", (28, 28), (200, 20, number)).save(folder / f"red{number}.png")
    words = ["run", "--dataset", str(folder), "--results", str(run.results)]
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert "is now read as images of (128, 128, 3), and those that were added to its run are of (28, 28, 1)" in told
    assert before == {path: path.read_bytes() for path in before}
    assert command("query", folder / "07.png") == 0


def test_query_prints_what_is_nearest_as_text_or_as_json(command, finished, capsys, tmp_path):
    ImageOps.invert(Image.open(finished[1] / "07.png")).save(tmp_path / "negative.png")
    assert command("query", tmp_path / "negative.png", "-k", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "method distortion, cosine distance, no encoder, 12 images"
    assert lines[1] == "searched as its negative: the database's background is dark"
    assert lines[2].split() == ["1", "0.0000", "07.png"] and len(lines) == 6
    (picture,) = finished[0].path("queries").glob("negative_*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert command("query", finished[1] / "07.png", "--json", "--picture", tmp_path / "hits.png") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (
        len(answer["hits"]) == 5 and answer["hits"][0].items() >= {"rank": 1, "id": "07.png", "distance": 0.0}.items()
    )
    assert answer["encoder"] is None and answer["picture"] == str(tmp_path / "hits.png")


def test_add_says_what_was_added(command, finished, capsys, tmp_path):
    (tmp_path / "more").mkdir()
    Image.new("L", (28, 28), 50).save(tmp_path / "more" / "grey.png")
    (tmp_path / "more" / "note.txt").write_text("no image")
    for counts in ("1 images added, 0", "0 images added, 1"):
        assert command("add", tmp_path / "more") == 0
        assert capsys.readouterr().out == f"{counts} there already, 1 files rejected (rejects_added.csv)\n"


@pytest.mark.parametrize(
    "words, message",
    [
        ("query nothing.png", "nothing.png: there is no such file"),
        ("query FOLDER/00.png --method fused", "does not exist yet; make it anew with"),
        ("add FOLDER/nothing", "nothing is not a folder that can be read (No such file or directory)"),
        ("measure collapse --seeds 0", "--seeds is 1 or more, for collapse and guided"),
        ("measure machines --seeds 2", "machines repeats one training from one seed"),
        ("measure guided", "pictures has no labels, so there is nothing to judge the trainings by"),
        ("query 00.png --results FOLDER/digts", "digts holds no run"),
        ("add . --results FOLDER/digts", "digts holds no run"),
        ("report --results FOLDER/digts", "digts holds no run"),
        ("measure machines --results FOLDER/digts", "digts holds no run"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(command, finished, capsys, words, message):
    assert command(*words.replace("FOLDER", str(finished[1])).split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (finished[1] / "digts").exists()


@pytest.mark.parametrize("error, status", [(RuntimeError("it failed"), 1), (ArtifactError("it is damaged"), 2)])
def test_an_experiment_that_fails_is_told_in_one_sentence(command, finished, capsys, monkeypatch, error, status):
    def fail(*words, **options):
        raise error

    monkeypatch.setattr(experiments, "collapse", fail)
    assert command("measure", "collapse") == status
    assert capsys.readouterr().err == f"cbir: {error}\n"
    with exclusive(finished[0].folder):
        assert command("measure", "collapse") == 2
    assert "another run" in capsys.readouterr().err


# -- from nothing to the table, on very few images ------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("count", [3, 12])
def test_the_paper_s_system_runs_on_a_folder_of_very_few_images(count, tmp_path, capsys):
    """Two classes of blots; rankings are shorter than ten images."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = tmp_path / "few" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        image = np.zeros((28, 28), np.uint8)
        image[4 + number : 10 + number, 6:20] = rng.integers(100, 255)
        Image.fromarray(image if number % 2 else image.T).save(place / f"{number}.png")
    small = ["min_steps=150", "collapse_seeds=1", "collapse_epochs=1"]
    words = ["--labels", "--results", str(tmp_path / "runs"), *(word for text in small for word in ("-p", text))]
    status = cli.main(["run", "--dataset", str(tmp_path / "few"), *words])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "| pixels        | euclidean |" in said.out and (tmp_path / "runs" / "few" / "metrics.json").exists()


@pytest.mark.parametrize("encoding, more", [("ascii", []), ("latin-1", ["--json"]), ("utf-8:strict", [])])
def test_a_terminal_that_lacks_letters_shows_escapes(finished, tmp_path, encoding, more):
    name = tmp_path / os.fsdecode("日本 \udcff.png".encode("utf-8", "surrogateescape"))
    shutil.copyfile(finished[1] / "07.png", name)
    command = [sys.executable, "-m", "cbir_utils", "query", name, "--results", finished[0].folder]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert not more or len(json.loads(ended.stdout)["hits"]) == 5
