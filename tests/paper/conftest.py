"""A run on the digits whose codes nothing was trained for: random directions of pixels, or labels and noise."""

import shutil

import numpy as np
import pytest

from cbir_utils import metrics
from cbir_utils.datasets import load_dataset
from cbir_utils.methods import descriptors
from cbir_utils.paper.evidence import Evidence
from cbir_utils.run import Run

DIGITS = load_dataset("digits")


@pytest.fixture(scope="session")
def digits():
    return DIGITS


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    run = Run("digits", tmp_path_factory.mktemp("run"))
    run.same_data(DIGITS.content_hash)
    splits, rng = (DIGITS.database, DIGITS.queries), np.random.default_rng(0)

    def noisy(noise):
        rows = [np.eye(10)[split.labels] + rng.normal(scale=noise, size=(len(split), 10)) for split in splits]
        return [part.astype(np.float32) for part in rows]

    pixels = [descriptors.pixels(split.images) for split in splits]
    directions = rng.normal(size=(pixels[0].shape[1], 8)).astype(np.float32)
    codes = {"convolutional": [rows @ directions for rows in pixels], "denoising": noisy(0.3), "fused": noisy(0.1)}
    for method, both in {**codes, "three_numbers": [rows[:, :3] for rows in noisy(0.1)]}.items():
        run.keep(method, *both)
    for method, both in {"pixels": pixels, **codes}.items():
        for distance in ("euclidean", "cosine"):
            values = metrics.evaluate(DIGITS, *both, distance)
            run.score(method, values, DIGITS, distance=distance, train_seconds=12.5, weights=7)
    rows = Evidence(run).rows
    run.save_json("autoencoders.json", [rows[method, "cosine"] for method in ("convolutional", "denoising")])
    run.save_json("convolutional/collapse.json", {"mse": [True, True, False], "bce": [False, False, False]})
    history = {"held_out_loss": [0.3, 0.1], "best_epoch": 2, "constant_loss": 0.2, "seconds": [30.0, 4.0]}
    run.save_json("convolutional/history.json", history)
    run.record(parameters={"05_query_images": {"query_class": "9"}})
    Evidence(run).values  # noqa: B018 — ranked once for all tests
    return run.folder


@pytest.fixture
def run(original, tmp_path):
    shutil.copytree(original, tmp_path / "digits")
    return Run("digits", tmp_path)


@pytest.fixture
def evidence(run):
    return Evidence(run)
