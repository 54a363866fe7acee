"""Fitting, the collapse check, loading and encoding, on a few hundred drawn shapes."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from cbir_utils import training
from cbir_utils.datasets import load_dataset, scale
from cbir_utils.methods.family import build_sparse
from cbir_utils.models import build_convolutional, keras
from cbir_utils.training import CollapsedAutoencoderError, decode, encode, fit, load_model, reconstruct

OPTIONS = {"epochs": 1, "batch_size": 32, "verbose": False, "check_collapse": False}


@pytest.fixture(scope="module")
def images():
    return load_dataset("shapes").database.images[:192]


@pytest.fixture
def model(images):
    return build_convolutional(images.shape[1:], seed=0)


@pytest.fixture
def held_out_losses(monkeypatch):
    """A function that sets what the epochs' held-out losses shall be; the constant image's is 9."""

    def pretend(*losses):
        losses = iter((9.0, *losses))
        monkeypatch.setattr(training, "_mean_loss", lambda *_: next(losses))

    return pretend


def test_training_lowers_the_loss_and_repeats_itself(images):
    runs = []
    for _ in range(2):
        network = build_convolutional(images.shape[1:], seed=3).autoencoder
        before = network.get_weights()
        history = fit(network, images, seed=3, **{**OPTIONS, "epochs": 3})
        runs.append(network.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    assert not np.array_equal(before[0], runs[0][0])
    assert history.loss[-1] < history.loss[0]
    assert len(history.loss) == len(history.held_out_loss) == len(history.seconds) == 3


def test_the_loss_of_an_epoch_is_the_mean_of_its_batches_whatever_keras_returns(images, monkeypatch):
    """Before 3.15, ``train_on_batch`` returned the mean of all losses since the last reset. Here they are 0, 1, 2 …"""
    losses, since_reset = itertools.count(), []

    def old_train_on_batch(*_):
        since_reset.append(next(losses))
        return np.mean(since_reset)

    monkeypatch.setattr(keras.Model, "train_on_batch", old_train_on_batch)
    monkeypatch.setattr(keras.Model, "reset_metrics", lambda _: since_reset.clear())
    network = build_convolutional(images.shape[1:]).autoencoder
    history = fit(network, images, **{**OPTIONS, "epochs": 2})  # 173 images are trained on, 19 held out
    assert history.loss == [np.mean([0, 1, 2, 3, 4]), np.mean([5, 6, 7, 8, 9])]


def test_a_network_that_learned_nothing_has_collapsed(images, model):
    with pytest.raises(CollapsedAutoencoderError, match="the mean.*binary_crossentropy") as caught:
        fit(model.autoencoder, images, **{**OPTIONS, "check_collapse": True}, learning_rate=1e-9, loss="mse")
    assert caught.value.loss > caught.value.constant_loss > 0 and caught.value.history.collapsed
    assert f"{caught.value.loss:.4f}" in str(caught.value) and f"{caught.value.constant_loss:.4f}" in str(caught.value)


def test_the_best_weights_are_kept_and_patience_ends_the_training(images, model, monkeypatch, held_out_losses):
    held_out_losses(3.0, 1.0, 2.0, 2.0, 0.0)
    kept, train = [], training.train_epoch
    monkeypatch.setattr(
        training, "train_epoch", lambda network, *rest: train(network, *rest) or kept.append(network.get_weights())
    )
    history = fit(model.autoencoder, images, **{**OPTIONS, "epochs": 5}, patience=2)
    assert (history.best_epoch, history.best_loss, len(history.loss)) == (2, 1.0, 4)
    assert np.array_equal(model.autoencoder.get_weights()[0], kept[1][0])


@pytest.mark.parametrize(("min_steps", "patience", "epochs"), [(20, 9, 6), (20, 1, 4), (8, 9, 2)])
def test_few_images_are_passed_over_more_often(images, model, held_out_losses, min_steps, patience, epochs):
    # 40 images less the 4 held out are 4 steps of 8: 2 epochs make 8 steps, and 3 times as many 24 ≥ 20.
    held_out_losses(*[1.0] * 9)
    options = {**OPTIONS, "epochs": 2, "batch_size": 8, "min_steps": min_steps, "patience": patience}
    assert len(fit(model.autoencoder, images[:40], **options).loss) == epochs


def test_ctrl_c_keeps_the_best_weights_so_far(images, model, monkeypatch, capfd):
    train, kept = training.train_epoch, []

    def interrupted(network, *rest):
        if kept:
            raise KeyboardInterrupt
        train(network, *rest)
        kept.extend(network.get_weights())

    monkeypatch.setattr(training, "train_epoch", interrupted)
    history = fit(model.autoencoder, images, epochs=5, verbose=True)
    assert history.interrupted and len(history.held_out_loss) == 1
    assert np.array_equal(model.autoencoder.get_weights()[0], kept[0])
    said = capfd.readouterr()
    assert "stopped by hand after 1 epochs" in said.out and "held_out=" in said.err


def test_a_diverged_training_names_the_epoch(images, model, monkeypatch):
    monkeypatch.setattr(model.autoencoder, "train_on_batch", lambda *_: float("nan"))
    with pytest.raises(FloatingPointError, match="diverged: the loss is nan in epoch 1"):
        fit(model.autoencoder, images, **OPTIONS)


def test_a_tenth_is_held_out_and_its_loss_is_the_reconstruction_s_alone(images):
    held, train = training._split(images, np.random.default_rng(0))
    assert len(held) == 19
    assert sorted(x.tobytes() for x in [*train, *held]) == sorted(x.tobytes() for x in images)
    history = fit(build_sparse(images.shape[1:], weight=1000.0).autoencoder, images, **OPTIONS)
    assert history.loss[0] > 10 * history.held_out_loss[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "there is no loss 'hinge'; choose one of binary_crossentropy, mse"),
        ({"epochs": 0}, "must be 1 or more"),
        ({"images": np.zeros((1, 28, 14, 1), np.uint8)}, "one image is too few"),
        ({"images": np.zeros((9, 28, 14, 1))}, r"must be a non-empty uint8 \(N, H, W, C\) array, not float64"),
        ({"images": np.zeros((9, 14, 28, 1), np.uint8)}, r"shape \(28, 14, 1\), but these are \(14, 28, 1\)"),
    ],
)
def test_bad_arguments_are_named(images, model, change, message):
    with pytest.raises(ValueError, match=message):
        fit(model.autoencoder, **{"images": images, **OPTIONS, **change})


def test_blocks_give_the_same_as_one_image_at_a_time(images, model, monkeypatch):
    monkeypatch.setattr(training, "BLOCK", 4)
    codes, ten = encode(model.encoder, images[:10]), scale(images[:10])
    assert codes.dtype == np.float32 and codes.shape == (10, 64)
    np.testing.assert_allclose(codes, np.stack([model.encoder(image[None])[0] for image in ten]), atol=1e-6)
    drawn = decode(model.decoder, codes)
    np.testing.assert_allclose(drawn, np.stack([model.decoder(code[None])[0] for code in codes]), atol=1e-6)
    np.testing.assert_allclose(reconstruct(model.autoencoder, images[:10]), drawn, atol=1e-6)
    with pytest.raises(ValueError, match=r"takes codes of shape \(N, 64\)"):
        decode(model.decoder, np.zeros((2, 3)))


def test_a_saved_model_gives_the_same_codes_and_others_are_refused(images, model, tmp_path):
    model.encoder.save(tmp_path / "encoder.keras")
    assert np.array_equal(encode(load_model(tmp_path / "encoder.keras"), images[:5]), encode(model.encoder, images[:5]))
    (tmp_path / "text.keras").write_text("not a model")
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "code.keras")
    for name in ("text", "code"):
        with pytest.raises(ValueError, match=rf"{name}\.keras is not a Keras model that can be loaded in safe mode"):
            load_model(tmp_path / f"{name}.keras")


def test_one_step_under_jax():
    pytest.importorskip("jax", reason="JAX is not installed, so the backend-neutral code is tested on TensorFlow alone")
    code = (
        "import numpy as np; from cbir_utils import training, models; b = models.keras.backend.backend();"
        "m = models.build_convolutional((28, 14, 1)); x = np.random.default_rng(0).integers(0, 255, (40, 28, 14, 1));"
        "h = training.fit(m.autoencoder, x.astype('uint8'), epochs=1, check_collapse=False, verbose=False);"
        "print(b, np.isfinite(h.loss[0]), training.encode(m.encoder, x.astype('u1')).shape)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "jax True (40, 64)"
