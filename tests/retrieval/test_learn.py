"""What is learned from a dataset, chosen by its images alone."""

from dataclasses import replace

import numpy as np
import pytest

from cbir_utils.datasets import Split, load_dataset, make_dataset
from cbir_utils.models import keras
from cbir_utils.retrieval import learn as module
from cbir_utils.retrieval.learn import keep_pretrained, learn
from cbir_utils.retrieval.library import add_images
from cbir_utils.retrieval.retriever import UNTAUGHT, Retriever, available_methods
from cbir_utils.run import Run


@pytest.fixture
def noise():
    """Images whose neighbours are hardly nearer than any others, as photographs' are."""
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    return make_dataset("noise", images[:50], None, images[50:], None)


def started(data, folder):
    run = Run(data.name, folder)
    run.record(source=data.name, content_hash=data.content_hash)
    return run


def test_drawings_are_matched_and_noise_is_described_by_words(noise, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "learn_fused", lambda run, data, **options: asked.append(data.name))
    shapes = load_dataset("shapes")
    assert learn(started(shapes, tmp_path), shapes) == "matched"
    assert learn(started(noise, tmp_path), noise) == "photo"
    assert asked == ["shapes"]


def test_labels_choose_nothing(noise, tmp_path):
    labels = np.random.default_rng(1).integers(0, 3, 50)
    labelled = replace(noise, database=Split(noise.database.images, labels))
    runs = [started(noise, tmp_path / "a"), started(labelled, tmp_path / "b")]
    assert [learn(run, data) for run, data in zip(runs, (noise, labelled), strict=True)] == ["photo", "photo"]
    np.testing.assert_array_equal(*(run.load_codes("photo")[0] for run in runs))


def test_what_the_run_has_is_kept(noise, tmp_path, monkeypatch):
    run = started(noise, tmp_path)
    learn(run, noise)
    monkeypatch.setattr(module, "learn_photo", None)
    assert learn(run, noise) == "photo"
    assert available_methods(run) == ("photo", *UNTAUGHT)


def test_photographs_are_queried_and_added_as_they_were_learned(noise, tmp_path):
    run = started(noise, tmp_path)
    learn(run, noise)
    database, queries = run.load_codes("photo")
    retriever = Retriever(run, noise)
    np.testing.assert_allclose(retriever.encode(noise.queries.images), queries, atol=1e-6)
    assert retriever.search(noise.database.images[:5], 1).ids.ravel().tolist() == [0, 1, 2, 3, 4]
    assert retriever.between(*noise.database.images[:2]) is None
    add_images(run, noise, noise.queries.images, [f"later/{row}" for row in range(10)])
    assert Retriever(run, noise).search(noise.queries.images[:1], 1).ids.tolist() == [[len(database)]]


def test_a_model_from_elsewhere_is_searched_by_and_says_so(noise, tmp_path):
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Flatten()(image)).save(tmp_path / "model.keras")
    run = started(noise, tmp_path)
    keep_pretrained(run, noise, tmp_path / "model.keras")
    assert available_methods(run) == ("pretrained", *UNTAUGHT)
    retriever = Retriever(run, noise)
    np.testing.assert_allclose(retriever.encode(noise.queries.images), run.load_codes("pretrained")[1], rtol=1e-5)
    assert retriever.between(*noise.database.images[:2]) is None
