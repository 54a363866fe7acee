"""What a run keeps: models, codes, an index, figures and the table of results."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import Dataset, Split
from cbir_utils.index import Index
from cbir_utils.run import Run

CODES = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def run(tmp_path):
    return Run("digits", tmp_path / "results")


def tiny_figure():
    figure = Figure(figsize=(1, 1))
    FigureCanvasAgg(figure)
    figure.subplots().plot([0, 1])
    return figure


def test_two_runs_of_one_results_folder_do_not_mix(tmp_path):
    Run("digits", tmp_path).save_json("history.json", 1)
    Run("mnist", tmp_path).save_json("history.json", 2)
    assert Run("digits", tmp_path).load_json("history.json") == 1
    assert Run("mnist", tmp_path).manifest["dataset"] == "mnist"


def test_a_figure_is_saved_as_png_and_pdf_and_two_savings_are_the_same_bytes(run):
    path = run.save_figure(tiny_figure(), "figure_01_line")
    assert path == run.folder / "figures" / "figure_01_line.png"
    png, pdf = path.read_bytes(), path.with_suffix(".pdf").read_bytes()
    assert png.startswith(b"\x89PNG") and b"Software" not in png
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf
    before = {name: facts["sha256"] for name, facts in run.manifest["files"].items()}
    run.save_figure(tiny_figure(), "figure_01_line")
    assert {name: facts["sha256"] for name, facts in run.manifest["files"].items()} == before


@dataclass
class History:
    loss: list


def test_a_model_is_kept_with_its_history_and_settings(run):
    saves = [SimpleNamespace(save=lambda path, text=text: path.write_text(text)) for text in ("encoder", "plain")]
    run.keep_model("deep", SimpleNamespace(encoder=saves[0], plain=saves[1]), History([0.5]), epochs=3, seed=0)
    assert run.checked_path("deep/encoder.keras").read_text() == "encoder"
    assert run.checked_path("deep/autoencoder.keras").read_text() == "plain"
    assert run.load_json("deep/history.json") == {"loss": [0.5], "settings": {"epochs": 3, "seed": 0}}


def test_codes_come_back_while_their_encoder_and_data_are_the_run_s(run):
    run.save_json("contrastive/encoder.keras", "first")
    run.same_data("a" * 64)
    run.keep("manifold", CODES, CODES[:2], encoder="contrastive/encoder.keras")
    run.keep("hog", CODES, CODES[:2])
    for method in ("manifold", "hog"):
        database, queries = run.load_codes(method)
        assert np.array_equal(database, CODES) and np.array_equal(queries, CODES[:2])
    run.record(content_hash="b" * 64)
    with pytest.raises(ArtifactError, match="another encoder or other data.*--from 06 --to 06"):
        run.load_codes("hog")
    run.record(content_hash="a" * 64)
    run.save_json("contrastive/encoder.keras", "second")
    assert run.load_codes("hog")
    with pytest.raises(ArtifactError, match="another encoder or other data.*--from 08 --to 08"):
        run.load_codes("manifold")


def test_codes_of_two_lengths_are_refused(run):
    run.keep("deep", CODES, CODES[:, :2])
    with pytest.raises(ArtifactError, match=r"of shape \(4, 2\) float32, but \(None, 3\) float32"):
        run.load_codes("deep")


def test_codes_of_which_only_half_are_new_are_refused(run, monkeypatch):
    """As after a kill between the two renames: each file is known, but they do not belong together."""
    run.keep("deep", CODES, CODES[:2])
    queries = run.path("deep/codes_queries.npy").read_bytes()
    run.keep("deep", 2 * CODES, 2 * CODES[:2])
    run.path("deep/codes_queries.npy").write_bytes(queries)
    assert run.checked_path("deep/codes_queries.npy")
    with pytest.raises(ArtifactError, match="another encoder or other data"):
        run.load_codes("deep")


def test_an_index_is_kept_with_its_description(run):
    run.keep_index("deep", Index("cosine").add(CODES))
    assert len(Index.load(run.checked_path("deep/index.faiss"))) == 4
    assert run.load_json("deep/index.json")["metric"] == "cosine"


@pytest.mark.parametrize("moment", range(1, 7))
def test_a_kill_at_any_rename_leaves_one_of_two_indexes_whole(run, monkeypatch, moment):
    """Of the new index's own two files and its description's copy, of the manifest, and of the two artifacts."""
    run.keep_index("deep", Index("cosine").add(CODES))
    renames, replace = [], os.replace

    def die(*paths):
        renames.append(paths)
        if len(renames) == moment:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        run.keep_index("deep", Index("cosine").add(CODES[:3]))
    monkeypatch.undo()
    assert run.load_json("deep/index.json")["rows"] in (3, 4)
    assert len(Index.load(run.checked_path("deep/index.faiss"))) == 4
    assert not list(run.folder.rglob(".partial-*"))
    run.keep_index("deep", Index("cosine").add(CODES[:3]))
    assert len(Index.load(run.checked_path("deep/index.faiss"))) == 3


# -- whose run it is ----------------------------------------------------------------------------------------------


def test_other_data_than_the_run_s_are_refused(run):
    run.same_data("a" * 64)
    run.same_data("a" * 64)
    with pytest.raises(ArtifactError, match="made from other data .hash aaaaaaaaaaaa…, not bbbb.*--from 01 --to 05"):
        run.same_data("b" * 64)


def test_a_folder_of_the_same_name_is_refused_unless_it_holds_the_same_images(tmp_path):
    run, folders = Run("stamps", tmp_path / "results"), [tmp_path / name / "stamps" for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    run.belongs_to(folders[0], "a" * 64)
    run.belongs_to(folders[0], "b" * 64)  # its images may change
    with pytest.raises(ArtifactError, match="belongs to .*a/stamps, and .*b/stamps holds other images; .*--results"):
        run.belongs_to(folders[1], "c" * 64)
    run.belongs_to(folders[1], "b" * 64)  # a copy
    assert run.manifest["source"] == str(folders[0]) and run.manifest["content_hash"] == "b" * 64
    folders[0].rmdir()
    run.belongs_to(folders[1], "b" * 64)  # it was moved
    assert run.manifest["source"] == str(folders[1])


# -- the table of results -----------------------------------------------------------------------------------------


def row(method, distance="cosine", value=0.5):
    return {"method": method, "distance": distance, "mAP": value}


def add(run, *rows):
    return run.add_rows("metrics.json", list(rows), ("method", "distance"))


def test_rows_replace_those_of_the_same_keys_and_keep_the_others(run):
    add(run, row("pixels", "euclidean", 1), row("pixels", "cosine", 2), row("deep", "cosine", 3))
    today = datetime.now(UTC).date().isoformat()
    assert add(run, row("pixels", "cosine", 4)) == [{**row("pixels", "cosine", 4), "measured": today}]
    expected = [row("pixels", "euclidean", 1), row("pixels", "cosine", 4), row("deep", "cosine", 3)]
    assert run.load_json("metrics.json") == [{**r, "measured": today} for r in expected]


def add_many(results, who):
    for number in range(40):
        add(Run("digits", results), row(f"{who}{number}"))


def test_two_processes_that_add_rows_at_once_lose_none(run):
    workers = [get_context("fork").Process(target=add_many, args=(run.results, who)) for who in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(run.load_json("metrics.json")) == 80


def test_rows_outlive_a_hash_that_does_not_match(run):
    add(run, row("pixels"))
    table = json.loads(run.path("metrics.json").read_text())
    run.path("metrics.json").write_text(json.dumps(table))  # the same rows, written by somebody else
    add(run, row("deep"))
    assert [r["method"] for r in run.load_json("metrics.json")] == ["pixels", "deep"]


@pytest.mark.parametrize("damage", ["not JSON", "[1]", '[{"method": "pixels"}]', "7"])
def test_a_table_that_cannot_be_read_is_refused_and_not_overwritten(run, damage):
    add(run, row("pixels"))
    run.path("metrics.json").write_text(damage)
    with pytest.raises(ArtifactError, match="metrics.json is damaged; delete it and run .*--from 05 --to 08"):
        add(run, row("deep"))
    assert run.path("metrics.json").read_text() == damage


def test_a_score_is_a_row_of_the_table(run):
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 0, 1, 1])
    data = Dataset("digits", Split(images, labels), Split(images[:2], labels[:2]), ("a", "b"), "")
    first, second = ({"P@1": np.array([1.0, 0.0]), "AP": np.array([1.0, value])} for value in (0.5, 0.7))
    made = run.score("deep", [first, second], data, distance="cosine", first_seed=3, train_seconds=1.5)
    assert made["P@1"] == 0.5 and made["mAP"] == pytest.approx(0.8) and made["mAP_by_seed"] == [0.75, 0.85]
    assert (
        made["seeds"] == [3, 4]
        and made["train_seconds"] == 1.5
        and "2 queries against a database of 4" in made["protocol"]
    )
    assert run.load_json("metrics.json") == [made]
    run.score("deep", first, data, distance="cosine")
    assert run.load_json("metrics.json")[0]["seeds"] == [0]
