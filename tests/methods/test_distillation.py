"""Distillation: views lead to the codes that were asked for, the least sure images do not teach, seeds repeat."""

import numpy as np
import pytest

from cbir_utils.codes import unit_length
from cbir_utils.datasets import load_dataset
from cbir_utils.distances import Hits
from cbir_utils.methods import distillation
from cbir_utils.methods.distillation import build_strided, distil
from cbir_utils.methods.views import Augmentation
from cbir_utils.training import encode


@pytest.fixture(scope="module")
def shapes():
    """Images, a code by kind of shape for each, and neighbours of the same kind."""
    data = load_dataset("shapes").database
    codes = np.eye(10, dtype=np.float32)[data.labels]
    same = [np.flatnonzero(data.labels == label)[:5] for label in range(10)]
    return data.images, codes, Hits(None, np.array([same[label] for label in data.labels]))


def taught(images, codes, hits, **settings):
    model = build_strided(images.shape[1:])
    augment = Augmentation(strength=0.3)
    return model, distil(model, images, codes, hits, batch_size=64, augment=augment, verbose=False, **settings)


def test_images_of_one_wanted_code_get_similar_codes(shapes):
    images, codes, hits = shapes
    model, history = taught(*shapes, epochs=10)
    assert len(history.loss) == 10 and history.loss[-1] < 0.5 * history.loss[0]
    found = unit_length(encode(model.encoder, images))
    alike, same = found @ found.T, codes @ codes.T > 0
    assert alike[same].mean() > alike[~same].mean() + 0.08
    assert model.autoencoder.predict_on_batch(images[:2] / 255).shape == images[:2].shape


def test_the_same_seed_gives_the_same_codes_and_another_seed_others(shapes):
    images = shapes[0]
    first, again, other = (encode(taught(*shapes, epochs=1, seed=seed)[0].encoder, images[:5]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_images_that_disagree_with_their_neighbours_do_not_teach(shapes, monkeypatch):
    images, codes, hits = shapes
    odd = codes.copy()
    odd[::30] = np.roll(odd[::30], 1, axis=1)  # 20 of 600 lie elsewhere than their neighbours
    seen = []
    monkeypatch.setattr(distillation, "train_epoch", lambda model, history, order, *rest: seen.append(order))
    monkeypatch.setattr(distillation, "progress", lambda *arguments: _NoBar())
    taught(images, odd, hits, epochs=1)
    assert not np.isin(np.arange(0, 600, 30), seen[0]).any() and len(seen[0]) >= 500


class _NoBar:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return True  # nothing was trained, so there is no loss to show


def test_images_of_another_form_are_refused(shapes):
    images, codes, hits = shapes
    with pytest.raises(ValueError, match="the model takes images of shape"):
        distil(build_strided((28, 28, 1)), images, codes, hits, epochs=1, augment=Augmentation())
