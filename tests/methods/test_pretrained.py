"""Keras models from elsewhere as encoders: of a file and of a name; never a download."""

import numpy as np
import pytest

from cbir_utils.methods import pretrained
from cbir_utils.methods.pretrained import PretrainedError, pretrained_encoder
from cbir_utils.models import keras
from cbir_utils.training import encode, load_model

layers = keras.layers


def model(shape, *inner):
    """A model of these layers over images of a shape."""
    image = keras.Input(shape)
    x = image
    for layer in inner:
        x = layer(x)
    return keras.Model(image, x)


def saved(tmp_path, *arguments):
    path = tmp_path / "model.keras"
    model(*arguments).save(path)
    return path


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def test_a_file_gives_the_means_of_its_maps(tmp_path, images):
    encoder = pretrained_encoder(saved(tmp_path, (16, 16, 3), layers.Identity()), (16, 16, 3))
    np.testing.assert_allclose(encode(encoder, images), images.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_a_model_that_scales_by_itself_gets_bytes(tmp_path, images):
    path = saved(tmp_path, (16, 16, 3), layers.Rescaling(1 / 255))
    np.testing.assert_allclose(
        encode(pretrained_encoder(path, (16, 16, 3)), images), images.mean(axis=(1, 2)) / 255, rtol=1e-5
    )


def test_size_and_channels_are_fitted(tmp_path, images):
    path = saved(tmp_path, (8, 8, 1), layers.Flatten())
    assert encode(pretrained_encoder(path, (16, 16, 3)), images).shape == (4, 64)
    path = saved(tmp_path, (None, None, 3), layers.Identity())
    grey = encode(pretrained_encoder(path, (16, 16, 1)), images[..., :1])
    np.testing.assert_allclose(grey[:, 0], grey[:, 2])


def test_it_can_be_saved_and_loaded_in_safe_mode(tmp_path, images):
    encoder = pretrained_encoder(saved(tmp_path, (8, 8, 1), layers.Flatten()), (16, 16, 3))
    encoder.save(tmp_path / "encoder.keras")
    np.testing.assert_allclose(encode(load_model(tmp_path / "encoder.keras"), images), encode(encoder, images))


@pytest.mark.parametrize(
    ("name", "family"),
    [("MobileNetV2", "mobilenet_v2"), ("ResNet50", "resnet50"), ("MobileNetV3Small", "mobilenet_v3")],
)
def test_a_name_is_prepared_as_keras_does(name, family, monkeypatch, images):
    monkeypatch.setattr(pretrained, "SIDE", 32)
    seen = pretrained_encoder(name, (32, 32, 3), weights=None)
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    inner = next(layer for layer in seen.layers if isinstance(layer, keras.Model))
    right = inner.predict(
        getattr(keras.applications, family).preprocess_input(large.astype(np.float32)), verbose=0
    ).mean(axis=(1, 2))
    np.testing.assert_allclose(encode(seen, large), right, rtol=1e-3, atol=1e-4)


def test_what_cannot_serve_is_refused_in_one_sentence(tmp_path, monkeypatch):
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(b"PK nothing")
    with pytest.raises(PretrainedError, match="not a Keras model"):
        pretrained_encoder(damaged, (16, 16, 3))
    with pytest.raises(PretrainedError, match="not a Keras model"):
        pretrained_encoder(tmp_path / "missing.keras", (16, 16, 3))
    with pytest.raises(PretrainedError, match="safe mode"):
        pretrained_encoder(saved(tmp_path, (8, 8, 3), layers.Lambda(lambda x: x)), (16, 16, 3))
    with pytest.raises(PretrainedError, match="there is no model"):
        pretrained_encoder("NoSuchNet", (16, 16, 3))
    with pytest.raises(PretrainedError, match="does not take one image"):
        pretrained_encoder(saved(tmp_path, (5,), layers.Dense(2)), (16, 16, 3))
    with pytest.raises(PretrainedError, match="5 channels"):
        pretrained_encoder(saved(tmp_path, (8, 8, 5), layers.Flatten()), (16, 16, 3))

    def no_network(**options):
        raise Exception("URL fetch failure on https://… : None -- unreachable\nmore")

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", no_network)
    with pytest.raises(PretrainedError, match="weights of MobileNetV3Small cannot be had"):
        pretrained_encoder("MobileNetV3Small", (16, 16, 3))
