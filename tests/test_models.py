"""The paper's network: held to its listing, and how it behaves at other sizes."""

import numpy as np
import pytest

from cbir_utils.methods.contrastive import build_contrastive
from cbir_utils.methods.family import FAMILY
from cbir_utils.models import build_convolutional, keras

# Section VI-E of the paper, from input to output: layer, filters, padding.
LISTING = [
    ("Conv2D", 16, "same"), ("MaxPooling2D", None, "same"),
    ("Conv2D", 8, "same"), ("MaxPooling2D", None, "same"),
    ("Conv2D", 8, "same"), ("MaxPooling2D", None, "same"),
    ("Conv2D", 8, "same"), ("UpSampling2D", None, None),
    ("Conv2D", 8, "same"), ("UpSampling2D", None, None),
    ("Conv2D", 16, "valid"), ("UpSampling2D", None, None),
    ("Conv2D", 1, "same"),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return build_convolutional(seed=0)


def test_layers_are_those_of_the_paper_s_listing(model):
    layers = [*model.encoder.layers, *model.decoder.layers]
    layers = [x for x in layers if type(x).__name__ not in ("InputLayer", "Flatten", "Reshape")]
    found = [(type(x).__name__, getattr(x, "filters", None), getattr(x, "padding", None)) for x in layers]
    assert found == LISTING
    convolutions = [x for x in layers if type(x).__name__ == "Conv2D"]
    assert [x.kernel_size for x in convolutions] == [(3, 3)] * 7
    assert [x.activation.__name__ for x in convolutions] == ["relu"] * 6 + ["sigmoid"]


def test_sizes_are_those_of_the_paper(model):
    assert model.autoencoder.count_params() == 4385
    assert model.encoder.output_shape == (None, 128)
    assert model.autoencoder.output_shape == (None, 28, 28, 1)
    assert [m.name for m in model] == ["encoder", "decoder", "autoencoder"]


def test_autoencoder_is_decoder_after_encoder(model):
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    by_halves = model.decoder.predict_on_batch(model.encoder.predict_on_batch(images))
    np.testing.assert_allclose(model.autoencoder.predict_on_batch(images), by_halves, atol=1e-6)
    assert by_halves.min() >= 0 and by_halves.max() <= 1


@pytest.mark.parametrize("shape", [(28, 14, 1), (32, 32, 3), (20, 20, 1), (105, 64, 1)])
def test_other_sizes_come_back_at_their_size(shape):
    assert build_convolutional(shape).autoencoder.output_shape == (None, *shape)


def test_the_seed_decides_the_weights(model):
    same, other = build_convolutional(seed=0), build_convolutional(seed=1)
    ours = model.autoencoder.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(ours, same.autoencoder.get_weights(), strict=True))
    kernels = [(a, b) for a, b in zip(ours, other.autoencoder.get_weights(), strict=True) if a.ndim == 4]
    assert not any(np.array_equal(a, b) for a, b in kernels)


# -- the family ----------------------------------------------------------------------------------------------------

SHAPE = (12, 10, 1)
IMAGES = np.random.default_rng(0).random((6, *SHAPE), np.float32)
PIXELS = 120


@pytest.mark.parametrize("kind", [k for k in FAMILY if k != "convolutional"])
def test_each_kind_has_codes_of_128_and_images_in_0_to_1(kind):
    model = FAMILY[kind](SHAPE, seed=0)
    assert model.encoder.output_shape == (None, 128) and model.decoder.output_shape == (None, *SHAPE)
    assert [m.name for m in model] == ["encoder", "decoder", "autoencoder"]
    by_halves = model.decoder.predict_on_batch(model.encoder.predict_on_batch(IMAGES))
    np.testing.assert_allclose(model.plain.predict_on_batch(IMAGES), by_halves, atol=1e-6)
    np.testing.assert_allclose(model.autoencoder.predict_on_batch(IMAGES), by_halves, atol=1e-6)
    assert by_halves.min() >= 0 and by_halves.max() <= 1


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64, 3)])
@pytest.mark.parametrize("build", [*FAMILY.values(), build_contrastive])
def test_every_kind_takes_colour_images(build, shape):
    model = build(shape)
    images = np.random.default_rng(0).random((2, *shape), np.float32)
    assert model.plain.predict_on_batch(images).shape == (2, *shape)
    assert model.encoder.predict_on_batch(images).shape == (2, *model.encoder.output_shape[1:])


@pytest.mark.parametrize("kind", FAMILY)
def test_what_is_saved_loads_without_this_package(kind, tmp_path):
    model = FAMILY[kind](SHAPE, seed=0)
    for name, network in (("encoder", model.encoder), ("autoencoder", model.plain)):
        network.save(tmp_path / f"{name}.keras")
        again = keras.saving.load_model(tmp_path / f"{name}.keras", safe_mode=True)
        assert {type(layer).__module__.split(".")[0] for layer in again.layers} == {"keras"}
        np.testing.assert_allclose(again.predict_on_batch(IMAGES), network.predict_on_batch(IMAGES), atol=1e-6)


@pytest.mark.parametrize("build", [*FAMILY.values(), build_contrastive])
def test_the_seed_decides_the_weights_of_each_kind(build):
    one, same, other = (build(SHAPE, seed=seed).plain.get_weights() for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True) if a.ndim > 1)


def penalty(model):
    """What a kind adds to the loss for IMAGES."""
    model.autoencoder(IMAGES)
    return float(sum(np.asarray(loss) for loss in model.autoencoder.losses))


def test_the_contractive_penalty_is_the_jacobian_s_squared_norm_by_finite_differences():
    model = FAMILY["contractive"](SHAPE, weight=0.1, seed=0)
    dense = model.encoder.layers[-1]
    kernel, bias = (np.asarray(w, np.float64) for w in dense.get_weights())

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


def test_the_contrastive_encoder_is_the_lean_one():
    model = build_contrastive((28, 28, 1), seed=0)
    convolutions = [x for x in model.encoder.layers if type(x).__name__ == "Conv2D"]
    assert [(x.filters, x.kernel_size, x.strides) for x in convolutions] == [
        (24, (5, 5), (2, 2)), (64, (3, 3), (2, 2)), (128, (3, 3), (2, 2)),
    ]  # fmt: skip
    assert model.encoder.output_shape == (None, 64) and model.decoder.output_shape == (None, 28, 28, 1)
