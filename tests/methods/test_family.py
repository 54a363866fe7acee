"""The kinds of autoencoder: their form, what each adds to the loss, and the small encoder that is taught."""

import numpy as np
import pytest

from cbir_utils.methods.distillation import build_strided
from cbir_utils.methods.family import FAMILY
from cbir_utils.models import keras

SHAPE = (12, 10, 1)
IMAGES = np.random.default_rng(0).random((6, *SHAPE), np.float32)
PIXELS = 120
EVERY = {**FAMILY, "strided": build_strided}


@pytest.mark.parametrize("kind", EVERY)
def test_form_seed_and_what_is_saved_loads_without_this_package(kind, tmp_path):
    model, same, other = (EVERY[kind](SHAPE, seed=seed) for seed in (0, 0, 1))
    assert [m.name for m in model] == ["encoder", "decoder", "autoencoder"]
    assert model.encoder.output_shape[1] == {"convolutional": 32, "strided": 64}.get(kind, 128)
    by_halves = model.decoder.predict_on_batch(model.encoder.predict_on_batch(IMAGES))
    assert by_halves.min() >= 0 and by_halves.max() <= 1
    for network in (model.plain, model.autoencoder):
        np.testing.assert_allclose(network.predict_on_batch(IMAGES), by_halves, atol=1e-6)

    one, again, another = (m.plain.get_weights() for m in (model, same, other))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, another, strict=True) if a.ndim > 1)

    for network in (model.encoder, model.plain):
        network.save(tmp_path / "saved.keras")
        again = keras.saving.load_model(tmp_path / "saved.keras", safe_mode=True)
        assert {type(layer).__module__.split(".")[0] for layer in again.layers} == {"keras"}
        np.testing.assert_allclose(again.predict_on_batch(IMAGES), network.predict_on_batch(IMAGES), atol=1e-6)


@pytest.mark.parametrize("build", EVERY.values(), ids=EVERY)
def test_every_kind_takes_colour_images(build):
    model = build((64, 32, 3))
    images = np.random.default_rng(0).random((2, 64, 32, 3), np.float32)
    assert model.plain.predict_on_batch(images).shape == images.shape
    assert model.encoder.predict_on_batch(images).shape == (2, *model.encoder.output_shape[1:])


def penalty(model):
    """What a kind adds to the loss for IMAGES."""
    model.autoencoder(IMAGES)
    return float(sum(np.asarray(loss) for loss in model.autoencoder.losses))


def test_the_contractive_penalty_is_the_jacobian_s_squared_norm_by_finite_differences():
    model = FAMILY["contractive"](SHAPE, weight=0.1, seed=0)
    kernel, bias = (np.asarray(w, np.float64) for w in model.encoder.layers[-1].get_weights())

    def code(x):
        return 1 / (1 + np.exp(-(x @ kernel + bias)))

    step, norms = 1e-5, []
    for x in IMAGES.reshape(6, -1).astype(np.float64):
        columns = [(code(x + step * e) - code(x - step * e)) / (2 * step) for e in np.eye(PIXELS)]
        norms.append(np.square(columns).sum())
    np.testing.assert_allclose(penalty(model), 0.1 / PIXELS * np.mean(norms), rtol=1e-4)


def test_the_sparse_penalty_is_the_sum_of_magnitudes():
    model = FAMILY["sparse"](SHAPE, weight=0.02, seed=0)
    codes = model.encoder.predict_on_batch(IMAGES)
    assert (codes == 0).any() and (codes > 0).any()
    np.testing.assert_allclose(penalty(model), 0.02 / PIXELS * np.abs(codes).sum() / len(IMAGES), rtol=1e-5)


def test_the_variational_penalty_is_the_divergence_from_the_normal_distribution():
    model = FAMILY["variational"](SHAPE, seed=0)
    model.autoencoder.get_layer("log_variance").bias.assign(np.full(128, 0.5, np.float32))
    means = model.encoder.predict_on_batch(IMAGES).astype(np.float64)
    variance = np.exp(0.5)  # its kernel starts at zero
    slow = [sum(0.5 * (m**2 + variance - 1 - 0.5) for m in row) for row in means]
    np.testing.assert_allclose(penalty(model), np.mean(slow) / PIXELS, rtol=1e-5)


@pytest.mark.parametrize("kind", ["denoising", "variational"])
def test_chance_plays_a_part_in_training_only(kind):
    autoencoder = FAMILY[kind](SHAPE, seed=0).autoencoder
    first, second = (np.asarray(autoencoder(IMAGES, training=True)) for _ in range(2))
    assert not np.allclose(first, second)
    first, second = (np.asarray(autoencoder(IMAGES, training=False)) for _ in range(2))
    assert np.array_equal(first, second)
