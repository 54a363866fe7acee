"""Fitting, the collapse check, loading and encoding, on a few hundred drawn shapes."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cbir_utils import training
from cbir_utils.datasets import load_dataset, scale
from cbir_utils.methods.contrastive import CollapsedCodesError, build_contrastive, fit_contrastive, nt_xent
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


def test_the_same_seed_gives_the_same_weights_twice(images):
    runs = []
    for _ in range(2):
        network = build_convolutional(images.shape[1:], seed=3).autoencoder
        fit(network, images, seed=3, **OPTIONS)
        runs.append(network.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_training_changes_the_weights_and_lowers_the_loss(images, model):
    before = model.autoencoder.get_weights()
    history = fit(model.autoencoder, images, seed=0, **{**OPTIONS, "epochs": 3})
    assert not np.array_equal(before[0], model.autoencoder.get_weights()[0])
    assert history.loss[-1] < history.loss[0]
    assert len(history.loss) == len(history.held_out_loss) == len(history.seconds) == 3


def test_a_network_that_learned_nothing_has_collapsed(images, model):
    with pytest.raises(CollapsedAutoencoderError, match="the mean.*binary_crossentropy") as caught:
        fit(model.autoencoder, images, **{**OPTIONS, "check_collapse": True}, learning_rate=1e-9, loss="mse")
    assert caught.value.loss > caught.value.constant_loss > 0
    assert f"{caught.value.loss:.4f}" in str(caught.value) and f"{caught.value.constant_loss:.4f}" in str(caught.value)


@pytest.mark.parametrize("loss", training.LOSSES)
def test_no_constant_image_is_better_than_the_mean(images, loss):
    best = training._constant_loss(loss, images, images)
    rng = np.random.default_rng(0)
    function = training.LOSSES[loss]()
    mean = scale(images.mean(axis=0))
    for _ in range(10):
        other = np.clip(mean + rng.normal(scale=0.05, size=mean.shape), 1e-4, 1 - 1e-4).astype(np.float32)
        assert float(function(scale(images), np.broadcast_to(other, images.shape))) > best


def test_the_best_weights_are_kept(images, model, monkeypatch):
    kept, losses = [], iter([3.0, 1.0, 2.0])

    def pretend(autoencoder, loss, held):
        kept.append(autoencoder.get_weights())
        return next(losses)

    monkeypatch.setattr(training, "_held_out_loss", pretend)
    history = fit(model.autoencoder, images, **{**OPTIONS, "epochs": 3})
    assert (history.best_epoch, history.best_loss) == (2, 1.0)
    assert np.array_equal(model.autoencoder.get_weights()[0], kept[1][0])


def test_training_stops_when_patience_ends(images, model, monkeypatch):
    losses = iter([1.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(training, "_held_out_loss", lambda *_: next(losses))
    history = fit(model.autoencoder, images, **{**OPTIONS, "epochs": 5}, patience=2)
    assert len(history.held_out_loss) == 3


def test_few_images_are_passed_over_more_often(images, model, monkeypatch):
    # 40 images less the 4 held out are 4 steps of 8: 2 epochs make 8 steps, and 3 times as many 24 ≥ 20.
    monkeypatch.setattr(training, "_held_out_loss", lambda *_: 1.0)
    options = {**OPTIONS, "epochs": 2, "batch_size": 8}
    assert len(fit(model.autoencoder, images[:40], **options, min_steps=20, patience=9).loss) == 6
    assert len(fit(model.autoencoder, images[:40], **options, min_steps=20, patience=1).loss) == 4
    assert len(fit(model.autoencoder, images[:40], **options, min_steps=8, patience=9).loss) == 2


def test_ctrl_c_keeps_the_best_weights_so_far(images, model, monkeypatch, capsys):
    train, kept = training._train_epoch, []

    def interrupted(autoencoder, *rest):
        if kept:
            raise KeyboardInterrupt
        loss = train(autoencoder, *rest)
        kept.extend(autoencoder.get_weights())
        return loss

    monkeypatch.setattr(training, "_train_epoch", interrupted)
    history = fit(model.autoencoder, images, epochs=5, verbose=True)
    assert history.interrupted and len(history.held_out_loss) == 1
    assert np.array_equal(model.autoencoder.get_weights()[0], kept[0])
    assert "stopped by hand after 1 epochs" in capsys.readouterr().out


def test_a_diverged_training_names_the_epoch(images, model, monkeypatch):
    monkeypatch.setattr(training, "_train_epoch", lambda *_: float("nan"))
    with pytest.raises(FloatingPointError, match="diverged: the loss is nan in epoch 1"):
        fit(model.autoencoder, images, **OPTIONS)


def test_the_held_out_part_takes_no_part_in_training(images, model, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "_train_epoch", lambda _, train, *rest: seen.append(train) or 1.0)
    monkeypatch.setattr(training, "_held_out_loss", lambda _, loss, held: seen.append(held) or 1.0)
    fit(model.autoencoder, images, **OPTIONS, held_out=0.25)
    train, held = seen
    assert (len(train), len(held)) == (144, 48)
    together = sorted(x.tobytes() for x in np.concatenate([train, held]))
    assert together == sorted(x.tobytes() for x in images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "there is no loss 'hinge'; choose one of binary_crossentropy, mse"),
        ({"epochs": 0}, "must be 1 or more"),
        ({"held_out": 1.0}, "cannot hold out 1.0 of 192 images"),
    ],
)
def test_bad_arguments_are_named(images, model, change, message):
    with pytest.raises(ValueError, match=message):
        fit(model.autoencoder, images, **{**OPTIONS, **change})


def test_images_of_another_form_are_named(images, model):
    with pytest.raises(ValueError, match=r"must be a non-empty uint8 \(N, H, W, C\) array, not float32"):
        fit(model.autoencoder, scale(images), **OPTIONS)
    with pytest.raises(ValueError, match=r"takes images of shape \(28, 14, 1\), but these are \(14, 28, 1\)"):
        encode(model.encoder, images.transpose(0, 2, 1, 3))
    with pytest.raises(ValueError, match=r"takes codes of shape \(N, 64\)"):
        decode(model.decoder, np.zeros((2, 3)))


def test_encode_and_decode_equal_one_image_at_a_time(images, model):
    codes = encode(model.encoder, images[:10], batch_size=4)
    slow = np.stack([model.encoder(scale(i)[None])[0] for i in images[:10]])
    np.testing.assert_allclose(codes, slow, atol=1e-6)
    assert codes.dtype == np.float32 and codes.shape == (10, 64)
    outputs = decode(model.decoder, codes, batch_size=3)
    slow = np.stack([model.decoder(c[None])[0] for c in codes])
    np.testing.assert_allclose(outputs, slow, atol=1e-6)


def test_a_saved_model_gives_the_same_codes(images, model, tmp_path):
    model.encoder.save(tmp_path / "encoder.keras")
    loaded = load_model(tmp_path / "encoder.keras")
    assert np.array_equal(encode(loaded, images[:5]), encode(model.encoder, images[:5]))


def test_a_file_that_is_no_model_or_holds_code_is_refused(tmp_path):
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(ValueError, match=r"text\.keras is not a Keras model that can be loaded in safe mode"):
        load_model(tmp_path / "text.keras")
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "code.keras")
    with pytest.raises(ValueError, match=r"code\.keras is not a Keras model that can be loaded in safe mode"):
        load_model(tmp_path / "code.keras")


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


# -- penalties and contrastive training --------------------------------------------------------------------------------

CONTRASTIVE = {"epochs": 1, "batch_size": 32, "verbose": False}


def test_the_held_out_loss_is_the_reconstruction_s_alone(images):
    model = build_sparse(images.shape[1:], weight=1000.0)
    history = fit(model.autoencoder, images, **OPTIONS)
    assert history.loss[0] > 10 * history.held_out_loss[0]


def test_nt_xent_is_the_formula_pair_by_pair():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 5)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    losses = []
    for i in range(8):
        j = (i + 4) % 8
        others = [np.exp(unit[i] @ unit[k] / 0.2) for k in range(8) if k != i]
        losses.append(-np.log(np.exp(unit[i] @ unit[j] / 0.2) / sum(others)))
    np.testing.assert_allclose(float(nt_xent(rows, 0.2)), np.mean(losses), rtol=1e-5)


def test_contrastive_training_lowers_the_loss_and_repeats_itself(images):
    runs = []
    for _ in range(2):
        model = build_contrastive(images.shape[1:], seed=1)
        history = fit_contrastive(model, images, seed=1, rounds=1, **{**CONTRASTIVE, "epochs": 4})
        runs.append(model.encoder.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    assert history.loss[3] < history.loss[0]
    assert len(history.loss) == len(history.seconds) == 5 and len(history.mutual_share) == 1
    assert 0 < history.mutual_share[0] < 1


def test_partners_in_a_round_are_mutual_hits_or_the_image_itself(images, monkeypatch):
    seen = []

    class Model:
        def train_on_batch(self, pairs):
            seen.append(pairs)
            return 0.0

    hits, right = np.array([[1, 2], [0, 2], [0, 1]]), np.array([[False, True], [False, False], [True, True]])
    few = np.stack([np.full((2, 2, 1), v, np.uint8) for v in (0, 51, 102)])
    for seed in range(20):
        training._contrastive_epoch(Model(), few, (hits, right), 3, np.random.default_rng(seed))
    pairs = {tuple((5 * pair.mean(axis=(1, 2, 3))).round().astype(int)) for batch in seen for pair in batch}
    assert pairs == {(0, 2), (1, 1), (2, 0), (2, 1)}


def test_rounds_end_when_neither_loss_nor_mutual_hits_improve():
    history = training.ContrastiveHistory(loss=[9], plain_epochs=1)
    for loss, share, goes_on in [(5, 0.5, True), (4, 0.5, True), (3, 0.4, True), (3.5, 0.6, True), (3.2, 0.6, False)]:
        history.mutual_share.append(share)
        assert training._improving(history) is goes_on
        history.loss.append(loss)


def test_images_that_are_all_alike_collapse_the_codes(images):
    same = np.repeat(images[:1], 64, axis=0)
    with pytest.raises(CollapsedCodesError, match="all images have the same one. Are the images all alike"):
        fit_contrastive(build_contrastive(images.shape[1:]), same, **CONTRASTIVE)


def test_a_diverged_contrastive_training_names_the_epoch(images):
    with pytest.raises(FloatingPointError, match="training diverged: the loss is nan in epoch 1"):
        fit_contrastive(build_contrastive(images.shape[1:]), images, learning_rate=1e30, **CONTRASTIVE)


def test_divergence_in_the_very_last_step_is_noticed(images):
    # One step only: its loss is that of the weights before it.
    with pytest.raises(FloatingPointError, match="training diverged: the codes are not finite after epoch 1"):
        fit_contrastive(build_contrastive(images.shape[1:]), images[:32], learning_rate=1e38, **CONTRASTIVE)


@pytest.mark.parametrize(
    "count, options, message",
    [
        (1, {}, "one image cannot be told apart from others"),
        (8, {"rounds": 1, "neighbours": 10}, "10 neighbours of each need more than 10 images, and there are 8"),
        (8, {"epochs": 0}, "epochs must be 1 or more"),
    ],
)
def test_contrastive_training_refuses_what_it_cannot_do(images, count, options, message):
    with pytest.raises(ValueError, match=message):
        fit_contrastive(build_contrastive(images.shape[1:]), images[:count], **{**CONTRASTIVE, **options})


def test_fewer_images_than_a_batch_are_one_batch(images):
    history = fit_contrastive(build_contrastive(images.shape[1:]), images[:20], epochs=1, batch_size=256, verbose=False)
    assert np.isfinite(history.loss[0])


def test_ctrl_c_ends_contrastive_training_with_the_weights_as_they_are(images, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_contrastive_epoch", interrupted)
    history = fit_contrastive(build_contrastive(images.shape[1:]), images, epochs=3, batch_size=32)
    assert history.interrupted and "stopped by hand after 0 epochs" in capsys.readouterr().out


def test_reconstruct_is_what_the_autoencoder_says(images, model):
    direct = model.autoencoder.predict_on_batch(scale(images[:5]))
    np.testing.assert_allclose(reconstruct(model.autoencoder, images[:5], batch_size=2), direct, atol=1e-6)
