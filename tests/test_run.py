"""Atomic saves, checked loads, the manifest, the table of results, and one run at a time."""

import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cbir_utils.run import ArtifactError, Run, atomic_path, sha256, write_json

CODES = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def run(tmp_path):
    return Run("digits", tmp_path / "results")


def remedy(run, notebook):
    """The command that an error must name, as a pattern; ``notebook`` is a number or "01-05"."""
    start, stop = notebook[:2], notebook[-2:]
    words = f"--dataset digits --profile workshop --from {start} --to {stop} --results {run.results}"
    return re.escape(f"`{sys.executable} -m cbir_utils run {words}`")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def tiny_figure():
    figure = Figure(figsize=(1, 1))
    FigureCanvasAgg(figure)
    figure.subplots().plot([0, 1])
    return figure


# -- one file, whole or not at all ------------------------------------------------------------------------------


def test_atomic_path_replaces_the_file_only_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.json"
    with atomic_path(path) as partial:
        assert partial.parent == path.parent and partial.name.endswith("-a.json")
        partial.write_text("old")
        assert not path.exists()
    with open(path) as reader:
        with atomic_path(path) as partial:
            partial.write_text("new")
            assert path.read_text() == "old"
        assert reader.read() == "old"  # who has the old file open reads it to its end
    assert path.read_text() == "new" and names_in(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_and_nothing_else_after_an_exception(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("half of the n")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old" and names_in(tmp_path) == ["a.txt"]


def test_atomic_path_gives_a_file_the_usual_mode(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "atomic") as partial:
        partial.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_json_keeps_the_old_file_if_a_value_is_not_json(tmp_path):
    write_json(tmp_path / "a.json", {"k": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"k": {1, 2}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"k": 1} and names_in(tmp_path) == ["a.json"]


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# -- saving -----------------------------------------------------------------------------------------------------


def test_a_saved_array_is_a_plain_npy_file_and_loads_the_same(run):
    run.save_array("convolutional/codes_database.npy", CODES)
    path = run.results / "digits" / "convolutional" / "codes_database.npy"
    assert run.path("convolutional/codes_database.npy") == path
    np.testing.assert_array_equal(np.load(path), CODES)
    loaded = run.load_array("convolutional/codes_database.npy", shape=(None, 3), dtype="float32")
    np.testing.assert_array_equal(loaded, CODES)
    assert loaded.dtype == np.float32


def test_an_array_of_objects_is_not_saved(run):
    with pytest.raises(ValueError, match="allow_pickle"):
        run.save_array("labels_database.npy", np.array([{}, None], dtype=object))
    assert not names_in(run.folder) and run.manifest == {}


def test_saved_json_loads_the_same(run):
    run.save_json("convolutional/history.json", {"loss": [0.5, 0.25]})
    assert run.load_json("convolutional/history.json") == {"loss": [0.5, 0.25]}


def test_a_figure_is_saved_as_png_and_pdf_and_two_savings_are_the_same_bytes(run):
    path = run.save_figure(tiny_figure(), "figure_01_line")
    assert path == run.folder / "figures" / "figure_01_line.png"
    png, pdf = path.read_bytes(), path.with_suffix(".pdf").read_bytes()
    assert png.startswith(b"\x89PNG") and b"Software" not in png
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf
    before = dict(run.manifest["files"])
    assert set(before) == {"figures/figure_01_line.png", "figures/figure_01_line.pdf"}
    run.save_figure(tiny_figure(), "figure_01_line")
    assert run.manifest["files"] == before


def test_a_write_that_fails_leaves_the_old_artifact_loadable(run):
    run.save_array("labels_database.npy", CODES)
    with pytest.raises(ZeroDivisionError), run.writing("labels_database.npy") as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    np.testing.assert_array_equal(run.load_array("labels_database.npy"), CODES)


# -- the manifest -------------------------------------------------------------------------------------------------


def test_the_manifest_notes_hash_and_size_of_each_file(run):
    assert run.manifest == {}
    run.save_array("labels_database.npy", CODES)
    run.save_json("history.json", [1])
    data = run.path("labels_database.npy").read_bytes()
    files = run.manifest["files"]
    assert set(files) == {"labels_database.npy", "history.json"}
    assert files["labels_database.npy"] == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert run.file_hash("labels_database.npy") == hashlib.sha256(data).hexdigest()


def test_the_manifest_follows_a_file_that_is_saved_anew(run):
    run.save_array("labels_database.npy", CODES)
    run.save_array("labels_database.npy", CODES[:2])
    assert run.load_array("labels_database.npy").shape == (2, 3)


def test_record_merges_dicts_key_by_key_and_replaces_the_rest(run):
    run.record(parameters={"01": {"a": 1, "b": 2}, "02": {"c": 3}}, note="first", seeds=[1, 2])
    run.record(parameters={"01": {"a": 4}}, note="second", seeds=[3])
    manifest = run.manifest
    assert manifest["parameters"] == {"01": {"a": 4}, "02": {"c": 3}}
    assert manifest["note"] == "second" and manifest["seeds"] == [3]


def test_record_notes_the_dataset_the_versions_and_the_machine(run):
    run.record()
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["dataset"] == "digits" and manifest["packages"]["numpy"] == np.__version__
    assert manifest["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["machine"]["cores"] == os.cpu_count() and manifest["updated"].endswith("+00:00")


def test_two_runs_of_one_results_folder_do_not_mix(tmp_path):
    Run("digits", tmp_path).save_json("history.json", 1)
    Run("mnist", tmp_path).save_json("history.json", 2)
    assert Run("digits", tmp_path).load_json("history.json") == 1
    assert Run("mnist", tmp_path).manifest["dataset"] == "mnist"


# -- loading: what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, notebook",
    [
        ("labels_database.npy", "01"),
        ("encoder.keras", "02"),
        ("autoencoder.keras", "02"),
        ("history.json", "02"),
        ("codes_database.npy", "03"),
        ("codes_queries.npy", "03"),
        ("index.faiss", "04"),
        ("metrics.json", "05-08"),
        ("made_by_nobody_known.png", "01-05"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(run, name, notebook):
    with pytest.raises(ArtifactError, match=f"method/{name} does not exist yet; make it with {remedy(run, notebook)}"):
        run.checked_path(f"method/{name}")


@pytest.mark.parametrize("load", [Run.checked_path, Run.load_array, Run.file_hash])
def test_a_damaged_file_is_refused_by_every_way_to_it(run, load):
    run.save_array("convolutional/codes_queries.npy", CODES)
    path = run.path("convolutional/codes_queries.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = "codes_queries.npy differs from its hash in the manifest .*; make it anew with "
    with pytest.raises(ArtifactError, match=message + remedy(run, "03")):
        load(run, "convolutional/codes_queries.npy")


def test_damaged_json_is_refused(run):
    run.save_json("metrics.json", [])
    run.path("metrics.json").write_text("[1]\n")
    with pytest.raises(ArtifactError, match="metrics.json differs from its hash .*" + remedy(run, "05-08")):
        run.load_json("metrics.json")


def test_a_file_that_is_not_in_the_manifest_is_refused(run):
    run.save_json("metrics.json", [])
    np.save(run.path("labels_queries.npy"), CODES)
    message = "labels_queries.npy is not in the run's manifest; make it anew with "
    with pytest.raises(ArtifactError, match=message + remedy(run, "01")):
        run.load_array("labels_queries.npy")


@pytest.mark.parametrize("shape", [(4, 2), (5, None), (None, None, None), (12,), ()])
def test_an_array_of_another_shape_is_refused(run, shape):
    run.save_array("codes_database.npy", CODES)
    message = re.escape(f"holds an array of shape (4, 3), but {shape} is needed; make it anew with ")
    with pytest.raises(ArtifactError, match=message + remedy(run, "03")):
        run.load_array("codes_database.npy", shape=shape)


@pytest.mark.parametrize("shape", [(4, 3), (None, 3), (None, None), None])
def test_an_array_of_a_fitting_shape_is_loaded(run, shape):
    run.save_array("codes_database.npy", CODES)
    np.testing.assert_array_equal(run.load_array("codes_database.npy", shape=shape), CODES)


def test_an_array_of_another_dtype_is_refused(run):
    run.save_array("codes_database.npy", CODES.astype(np.float64))
    message = "codes_database.npy holds float64, but float32 is needed; make it anew with "
    with pytest.raises(ArtifactError, match=message + remedy(run, "03")):
        run.load_array("codes_database.npy", dtype=np.float32)


class MakesAFolder:
    """Unpickling this has an effect that can be seen."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickled_npy_is_refused_and_not_unpickled(run, tmp_path):
    with run.writing("labels_database.npy") as partial, open(partial, "wb") as file:
        np.save(file, np.array([MakesAFolder(tmp_path / "unpickled")], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="labels_database.npy is no .npy file; .*" + remedy(run, "01")):
        run.load_array("labels_database.npy")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("data", [b"", b"text", b"\x93NUMPY\x01\x00"])
def test_a_registered_file_of_another_kind_is_refused(run, data):
    for name in ("index.json", "codes_database.npy"):
        with run.writing(name) as partial:
            partial.write_bytes(data)
    with pytest.raises(ArtifactError, match="codes_database.npy is no .npy file; .*" + remedy(run, "03")):
        run.load_array("codes_database.npy")
    with pytest.raises(ArtifactError, match="index.json is not valid JSON; .*" + remedy(run, "04")):
        run.load_json("index.json")


@pytest.mark.parametrize("text", ["{", "", "no json", "[]"])
def test_an_invalid_manifest_is_refused_and_not_overwritten(run, text):
    run.save_json("history.json", 1)
    run.path("manifest.json").write_text(text)
    for use in (lambda: run.load_json("history.json"), lambda: run.record(note="new")):
        with pytest.raises(
            ArtifactError, match=f"manifest.json is not valid JSON; delete it and run {remedy(run, '01-05')}"
        ):
            use()
    assert run.path("manifest.json").read_text() == text


# -- what belongs together ----------------------------------------------------------------------------------------


def test_other_data_than_the_run_s_are_refused(run):
    run.same_data("a" * 64)
    run.same_data("a" * 64)
    with pytest.raises(
        ArtifactError, match="made from other data .hash aaaaaaaaaaaa…, not bbbb.*" + remedy(run, "01-05")
    ):
        run.same_data("b" * 64)


def test_codes_come_back_while_their_encoder_and_data_are_the_run_s(run):
    run.save_json("deep/encoder.keras", "first")
    run.same_data("a" * 64)
    run.save_codes("deep", CODES, CODES[:2])
    database, queries = run.load_codes("deep")
    assert np.array_equal(database, CODES) and np.array_equal(queries, CODES[:2])
    run.record(content_hash="b" * 64)
    with pytest.raises(ArtifactError, match="come from another encoder or other data.*" + remedy(run, "06")):
        run.load_codes("deep")
    run.record(content_hash="a" * 64)
    run.save_json("deep/encoder.keras", "second")
    with pytest.raises(ArtifactError, match="come from another encoder or other data.*" + remedy(run, "06")):
        run.load_codes("deep")


def test_codes_of_two_lengths_are_refused(run):
    run.save_json("deep/encoder.keras", "first")
    run.save_codes("deep", CODES, CODES[:, :2])
    with pytest.raises(ArtifactError, match=r"codes_queries.npy holds an array of shape \(4, 2\), but \(None, 3\)"):
        run.load_codes("deep")


def test_the_remedy_knows_where_the_run_came_from(run):
    run.record(source="/data/my digits", profile="paper")
    assert "--dataset '/data/my digits' --profile paper --from 02 --to 02" in run.remedy_for(
        "convolutional/encoder.keras"
    )
    assert "--from 06 --to 06" in run.remedy_for("deep/encoder.keras")
    assert "--from 06 --to 06" in run.remedy_for("deep/metrics.json")  # a method's folder goes before the name
    assert "--from 05 --to 08" in run.remedy_for("metrics.json")
    assert "--from 08 --to 08" in run.remedy_for("manifold/codes_queries.npy")


def test_codes_without_a_training_need_no_encoder_and_may_share_one(run):
    run.save_codes("pca", CODES, CODES[:2], encoder=None)
    assert np.array_equal(run.load_codes("pca")[0], CODES)
    run.save_json("contrastive/encoder.keras", "first")
    run.save_codes("manifold", CODES, CODES[:2], encoder="contrastive/encoder.keras")
    assert np.array_equal(run.load_codes("manifold")[1], CODES[:2])
    run.save_json("contrastive/encoder.keras", "second")
    with pytest.raises(ArtifactError, match="come from another encoder.*" + remedy(run, "08")):
        run.load_codes("manifold")


def test_an_npz_under_the_name_of_an_npy_is_refused(run):
    with run.writing("codes_database.npy") as partial, open(partial, "wb") as file:
        np.savez(file, CODES)
    with pytest.raises(ArtifactError, match="codes_database.npy is no .npy file"):
        run.load_array("codes_database.npy", (None,))


def test_what_a_killed_process_left_is_swept_when_the_next_run_starts(run):
    left = run.path("method/.partial-x-codes.npy")
    left.parent.mkdir(parents=True)
    left.touch()
    with run.exclusive():
        assert not left.exists()


# -- the table of results -----------------------------------------------------------------------------------------


def test_add_metrics_replaces_rows_of_the_same_method_and_distance_and_keeps_the_others(run):
    def row(method, distance, value):
        return {"method": method, "distance": distance, "mAP": value}

    run.add_metrics([row("pixels", "euclidean", 1), row("pixels", "cosine", 2), row("deep", "cosine", 3)])
    run.add_metrics([row("pixels", "cosine", 4), row("deep", "euclidean", 5)])
    expected = [("pixels", "euclidean", 1), ("pixels", "cosine", 4), ("deep", "cosine", 3), ("deep", "euclidean", 5)]
    table = run.load_json("metrics.json")
    today = datetime.now(UTC).date().isoformat()
    assert {row.pop("measured") for row in table} <= {today}
    assert table == [row(*values) for values in expected]


@pytest.mark.parametrize("damage", ["[]", "not JSON"])
def test_add_metrics_begins_a_damaged_table_anew(run, damage):
    """What its error tells the user to run writes it through add_metrics."""
    run.add_metrics([{"method": "pixels", "distance": "cosine"}])
    run.path("metrics.json").write_text(damage)
    run.add_metrics([{"method": "deep", "distance": "cosine"}])
    assert [row["method"] for row in run.load_json("metrics.json")] == ["deep"]


# -- one run at a time --------------------------------------------------------------------------------------------


HOLD = """
import sys
from cbir_utils.run import Run

with Run("digits", sys.argv[1]).exclusive():
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(results):
    """Another process that holds the results folder until its input ends; it says so when it has it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(results)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)


def test_a_second_run_is_refused_until_the_first_ends(run):
    with holder(run.results) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match=rf"another run \(process {process.pid}\) .*--results"), run.exclusive():
            pytest.fail("two runs held one folder")
        with Run("mnist", run.results).exclusive():  # another dataset's folder is free
            pass
        process.stdin.close()
        assert process.wait(timeout=20) == 0
        with run.exclusive():
            assert run.path(".run.lock").read_text() == str(os.getpid())


def test_a_run_that_is_killed_leaves_no_lock(run):
    with holder(run.results) as process:
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait(timeout=20)
        with run.exclusive():
            pass


def test_a_run_that_fails_leaves_no_lock_and_others_may_save_meanwhile(run):
    with pytest.raises(ZeroDivisionError), run.exclusive():
        Run("digits", run.results).save_json("history.json", 1)
        raise ZeroDivisionError
    with run.exclusive():
        assert run.load_json("history.json") == 1
