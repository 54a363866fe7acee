"""The experiments for the report: what they write, and that they go on where they were stopped."""

import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from cbir_utils.datasets import Dataset, Split, load_dataset
from cbir_utils.methods.contrastive import ContrastiveHistory
from cbir_utils.paper import experiments
from cbir_utils.run import Run
from cbir_utils.runner import cli as pipeline
from cbir_utils.training import History

DIGITS = load_dataset("digits")


@pytest.fixture
def run(tmp_path):
    return Run("digits", tmp_path)


@pytest.fixture
def fits(monkeypatch):
    """Trainings that only note how they were asked for: with the mean squared error all but seed 1 collapse."""
    asked = []

    def fit(network, images, *, loss, seed, **options):
        asked.append((loss, seed, len(images), options["epochs"]))
        found = 0.3 if loss == "mse" and seed != 1 else 0.1
        return History(held_out_loss=[found], seconds=[1.0], constant_loss=0.2, best_epoch=1)

    monkeypatch.setattr(experiments, "fit", fit)
    monkeypatch.setattr(experiments, "build_convolutional", lambda *a, **k: SimpleNamespace(autoencoder=None))
    return asked


def test_collapse_is_noted_for_each_seed_and_loss(run, fits, capsys):
    found = experiments.collapse(run, DIGITS, seeds=3)
    assert found == run.load_json("collapse.json")
    assert found["settings"] == {"images": 512, "epochs": 4, "batch_size": 16, "content_hash": DIGITS.content_hash}
    collapsed = {(network["loss"], network["seed"]): network["collapsed"] for network in found["networks"]}
    assert [collapsed["mse", seed] for seed in range(3)] == [True, False, True]
    assert not any(collapsed["binary_crossentropy", seed] for seed in range(3))
    assert capsys.readouterr().out.splitlines()[:2] == ["mse, seed 0: COLLAPSED", "mse, seed 1: learns"]
    assert {asked[2:] for asked in fits} == {(512, 4)}


def test_collapse_goes_on_where_it_was_stopped(run, fits, monkeypatch):
    fit = experiments.fit

    def stop(*words, loss, seed, **options):
        if (loss, seed) == ("mse", 2):
            raise KeyboardInterrupt
        return fit(*words, loss=loss, seed=seed, **options)

    monkeypatch.setattr(experiments, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        experiments.collapse(run, DIGITS, seeds=3, verbose=False)
    assert len(run.load_json("collapse.json")["networks"]) == 2
    monkeypatch.setattr(experiments, "fit", fit)
    assert len(experiments.collapse(run, DIGITS, seeds=3, verbose=False)["networks"]) == 6
    assert [asked[:2] for asked in fits].count(("mse", 0)) == 1
    experiments.collapse(run, DIGITS, seeds=3, verbose=False)
    assert len(fits) == 6  # nothing left to do


def test_other_data_start_anew(run, fits):
    experiments.collapse(run, DIGITS, seeds=1, verbose=False)
    other = Dataset("digits", DIGITS.database, DIGITS.queries, DIGITS.class_names, "another hash")
    assert len(experiments.collapse(run, other, seeds=1, verbose=False)["networks"]) == 2 and len(fits) == 4


def test_guided_and_plain_trainings_are_measured_over_the_same_queries(run):
    found = experiments.guided(run, DIGITS, seeds=1, images=150, queries=40, epochs=1, rounds=1, verbose=False)
    assert found == run.load_json("guided.json")
    (training,) = found["trainings"]
    assert found["settings"]["images"] == 150 and found["settings"]["queries"] == 40
    assert training["guided"]["rounds"] == 1 and len(training["guided"]["mutual_share"]) == 1
    assert training["plain"]["rounds"] == 0 and training["plain"]["mutual_share"] == []
    for metric in ("P@5", "mAP"):
        gain, low, high = training["gain"][metric]
        assert gain == pytest.approx(training["guided"][metric] - training["plain"][metric], abs=1e-12)
        assert low <= gain <= high


def test_of_a_folder_a_query_does_not_find_itself(run, monkeypatch):
    """Queries that are images of the database, the second half of which is left out."""
    split = Split(DIGITS.database.images[:100], DIGITS.database.labels[:100])
    rows = np.array([80, 3, 41, 7])
    queries = Split(split.images[rows], split.labels[rows])
    data = Dataset("folder", split, queries, DIGITS.class_names, "hash", own_rows=rows)
    searched = []
    ranked = experiments.Index.rank

    def rank(self, codes, *, exclude_self):
        searched.append(exclude_self)
        return ranked(self, codes, exclude_self=exclude_self)

    monkeypatch.setattr(experiments.Index, "rank", rank)
    monkeypatch.setattr(experiments, "fit_contrastive", lambda *a, **k: ContrastiveHistory([1.0], plain_epochs=1))
    found = experiments.guided(run, data, seeds=1, images=50, queries=2, epochs=1, rounds=0, verbose=False)
    assert [list(own) for own in searched] == [[3, 41]] * 2
    assert found["trainings"][0]["gain"]["mAP"] == [0, 0, 0]  # neither was trained


def test_one_training_says_its_metrics_and_its_weights(capsys):
    said = []
    for seed in (0, 0, 1):
        experiments._train_once(False, {"dataset": "digits", "epochs": 1, "batch_size": 256, "seed": seed})
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1] and said[0]["weights"] != said[2]["weights"]
    assert set(said[0]) == {"P@1", "P@5", "mAP", "weights"} and 0.1 < said[0]["P@1"] <= 1


def test_the_same_training_is_started_with_other_threads_and_libraries(run, monkeypatch):
    started = []

    def start(words, *, env, capture_output, text):
        started.append((env["TF_ENABLE_ONEDNN_OPTS"], "_train_once(True" in words[-1]))
        if len(started) == 2:
            return subprocess.CompletedProcess(words, 1, "", "Traceback\nMemoryError: no room")
        return subprocess.CompletedProcess(words, 0, '{"P@1": 0.9, "P@5": 0.8, "mAP": 0.5, "weights": "ab"}\n', "")

    monkeypatch.setattr(experiments.subprocess, "run", start)
    with pytest.raises(RuntimeError, match="the training 'the same once more' failed: MemoryError: no room"):
        experiments.sensitivity(run, verbose=False)
    found = experiments.sensitivity(run, verbose=False)
    assert [row["name"] for row in found["rows"]] == [name for name, *_ in experiments.SETTINGS]
    assert started == [("1", False), ("1", False), ("1", False), ("1", True), ("0", False), ("0", True)]
    assert found == run.load_json("sensitivity.json") and found["settings"]["cores"] >= 1


def test_the_command_measures(run, fits, capsys):
    run.record(content_hash=DIGITS.content_hash)
    assert pipeline.main(["measure", "collapse", "--seeds", "2", "--results", str(run.folder)]) == 0
    assert len(run.load_json("collapse.json")["networks"]) == 4
    assert pipeline.main(["measure", "machines", "--seeds", "2", "--results", str(run.folder)]) == 2
    assert "--seeds is for collapse and guided" in capsys.readouterr().err
