"""The experiments for the report: what they write, and that they go on where they were stopped."""

import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cbir_utils.datasets import Split, scale
from cbir_utils.models import build_convolutional
from cbir_utils.paper import experiments
from cbir_utils.run import Run
from cbir_utils.training import History


@pytest.fixture
def run(tmp_path):
    return Run("digits", tmp_path)


@pytest.fixture
def fits(monkeypatch):
    """Trainings that only note what was asked for: as printed all but seed 1 collapse; one can be told to stop."""
    asked = SimpleNamespace(done=[], stop=None)

    def fit(network, images, *, loss, seed, **options):
        if (loss, seed) == asked.stop:
            raise KeyboardInterrupt
        asked.done.append((loss, seed, len(images), options["epochs"]))
        found = 0.3 if loss == "mse" and seed != 1 else 0.1
        return History(held_out_loss=[found], seconds=[1.0], constant_loss=0.2, best_epoch=1)

    monkeypatch.setattr(experiments, "fit", fit)
    monkeypatch.setattr(experiments, "build_convolutional", lambda *a, **k: SimpleNamespace(autoencoder=None))
    return asked


def test_collapse_is_noted_for_each_seed_and_loss_and_goes_on_where_it_was_stopped(run, fits, digits):
    fits.stop = ("mse", 2)
    with pytest.raises(KeyboardInterrupt):
        experiments.collapse(run, digits, seeds=3)
    assert len(run.load_json("collapse.json")["networks"]) == 2
    fits.stop = None
    found = experiments.collapse(run, digits, seeds=3)
    assert found == experiments.collapse(run, digits, seeds=3) == run.load_json("collapse.json")
    assert found["settings"] == {"images": 512, "epochs": 4, "batch_size": 16, "content_hash": digits.content_hash}
    collapsed = {(network["loss"], network["seed"]): network["collapsed"] for network in found["networks"]}
    assert [key for key, flag in collapsed.items() if flag] == [("mse", 0), ("mse", 2)]
    assert len(fits.done) == 6 and {asked[2:] for asked in fits.done} == {(512, 4)}  # nothing twice

    other = replace(digits, content_hash="another hash")  # other data start anew
    assert len(experiments.collapse(run, other, seeds=1)["networks"]) == 2 and len(fits.done) == 8


def test_guided_and_plain_trainings_are_measured_over_the_same_queries(run, digits):
    found = experiments.guided(run, digits, seeds=1, images=150, queries=40, epochs=1, rounds=1)
    (training,) = run.load_json("guided.json")["trainings"]
    assert found["settings"]["images"] == 150 and found["settings"]["queries"] == 40
    assert len(training["guided"]["mutual_share"]) == 1 and training["plain"]["mutual_share"] == []
    for metric in ("P@5", "mAP"):
        gain, low, high = training["gain"][metric]
        assert gain == pytest.approx(training["guided"][metric] - training["plain"][metric], abs=1e-12)
        assert low <= gain <= high


def test_of_a_folder_a_query_does_not_find_itself(run, digits, monkeypatch):
    """Queries that are images of the database, the second half of which is left out."""
    split, rows = Split(digits.database.images[:100], digits.database.labels[:100]), np.array([80, 3, 41, 7])
    data = replace(digits, database=split, queries=Split(split.images[rows], split.labels[rows]), own_rows=rows)
    searched, evaluate = [], experiments.metrics.evaluate
    monkeypatch.setattr(experiments.metrics, "evaluate", lambda d, *a: searched.append(d.own_rows) or evaluate(d, *a))
    found = experiments.guided(run, data, seeds=1, images=50, queries=2, epochs=1, rounds=0)
    assert [list(own) for own in searched] == [[3, 41]] * 2
    assert list(found["trainings"][0]["gain"]["mAP"]) == [0, 0, 0]  # no round: both are the first training


def test_partners_are_mutual_hits_or_the_image_itself():
    # 0 and 1 name each other; 2 names 1, whose two nearest are 0 and 3.
    degrees = np.radians([0, 10, 35, 18])
    codes = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    chosen = {i: set() for i in range(4)}
    for seed in range(20):
        found, share = experiments.partners(codes, np.random.default_rng(seed), 2)
        for image, partner in enumerate(found):
            chosen[image].add(int(partner))
    # Hits: 0 → 1, 3;  1 → 3, 0;  2 → 3, 1;  3 → 1, 2. Mutual: 0-1, 1-3, 2-3.
    assert chosen == {0: {1}, 1: {0, 3}, 2: {3}, 3: {1, 2}} and share == 6 / 8
    alone, _ = experiments.partners(codes, np.random.default_rng(0), 1)  # 0 → 1, 1 → 3, 2 → 3, 3 → 1
    assert alone.tolist() == [0, 3, 2, 1]


def test_a_guided_round_learns_to_draw_what_it_retrieved_and_a_plain_one_the_image_itself(digits, monkeypatch):
    images, seen = digits.database.images[:40], []
    monkeypatch.setattr(experiments, "encode", lambda *_: None)
    monkeypatch.setattr(experiments, "partners", lambda codes, rng: (np.roll(np.arange(40), 1), rng.random() and 0.25))
    monkeypatch.setattr(experiments, "train_epoch", lambda m, h, *how: seen.append((how[0], how[2]([3, 5]))))
    model = build_convolutional(images.shape[1:])
    assert experiments.train_rounds(model, images, 2, seed=0, by_retrieval=True) == [0.25, 0.25]
    assert experiments.train_rounds(model, images, 1, seed=0, by_retrieval=False) == []
    np.testing.assert_array_equal(seen[0][0], seen[2][0])  # the same batches both ways: all else is equal
    for (_, (given, wanted)), rows in zip(seen, ([2, 4], [2, 4], [3, 5]), strict=True):
        np.testing.assert_array_equal(given, scale(images[[3, 5]]))
        np.testing.assert_array_equal(wanted, scale(images[rows]))


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
        compile(words[-1], "the child's program", "exec")
        assert "from cbir_utils.paper import experiments" in words[-1]
        started.append((env["TF_ENABLE_ONEDNN_OPTS"], "_train_once(True" in words[-1]))
        if len(started) == 2:
            return subprocess.CompletedProcess(words, 1, "", "Traceback\nMemoryError: no room")
        return subprocess.CompletedProcess(words, 0, '{"P@1": 0.9, "P@5": 0.8, "mAP": 0.5, "weights": "ab"}\n', "")

    monkeypatch.setattr(experiments.subprocess, "run", start)
    with pytest.raises(RuntimeError, match="the training 'the same once more' failed: MemoryError: no room"):
        experiments.sensitivity(run)
    found = experiments.sensitivity(run)
    assert [row["name"] for row in found["rows"]] == list(experiments.SETTINGS)
    assert started == [("1", False), ("1", False), ("1", False), ("1", True), ("0", False), ("0", True)]
    assert found == run.load_json("sensitivity.json") and found["settings"]["cores"] >= 1
