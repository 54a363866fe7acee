"""Contrastive training and its rounds, on a few hundred drawn shapes."""

import numpy as np
import pytest

from cbir_utils.datasets import load_dataset
from cbir_utils.methods import contrastive
from cbir_utils.methods.contrastive import CollapsedCodesError, build_contrastive, fit_contrastive, mutual, nt_xent

OPTIONS = {"epochs": 1, "batch_size": 32, "verbose": False}


@pytest.fixture(scope="module")
def images():
    return load_dataset("shapes").database.images[:192]


def test_nt_xent_is_the_formula_pair_by_pair():
    rows = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    losses = []
    for i in range(8):
        j = (i + 4) % 8
        others = [np.exp(unit[i] @ unit[k] / 0.2) for k in range(8) if k != i]
        losses.append(-np.log(np.exp(unit[i] @ unit[j] / 0.2) / sum(others)))
    np.testing.assert_allclose(float(nt_xent(rows)), np.mean(losses), rtol=1e-5)


def test_a_hit_is_mutual_if_the_image_is_among_the_hits_of_its_hit():
    rng = np.random.default_rng(0)
    hits = np.array([rng.permutation(np.delete(np.arange(40), i))[:6] for i in range(40)])
    assert mutual(hits).tolist() == [[i in hits[j] for j in row] for i, row in enumerate(hits)]


def test_training_lowers_the_loss_and_repeats_itself(images):
    runs = []
    for _ in range(2):
        model = build_contrastive(images.shape[1:], seed=1)
        history = fit_contrastive(model, images, seed=1, rounds=1, **{**OPTIONS, "epochs": 4})
        runs.append(model.encoder.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    assert history.loss[3] < history.loss[0] and len(history.loss) == len(history.seconds) == 5
    assert len(history.mutual_share) == 1 and 0 < history.mutual_share[0] < 1


def test_partners_are_mutual_hits_or_the_image_itself():
    # 0 and 1 name each other; 2 names 1, whose two nearest are 0 and 3.
    degrees = np.radians([0, 10, 35, 18])
    codes = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    drawn = {i: set() for i in range(4)}
    for seed in range(20):
        partners, share = contrastive._partners(codes, 2, np.random.default_rng(seed))
        for image, partner in enumerate(partners):
            drawn[image].add(int(partner))
    # Hits: 0 → 1, 3;  1 → 3, 0;  2 → 3, 1;  3 → 1, 2. Mutual: 0-1, 1-3, 2-3.
    assert drawn == {0: {1}, 1: {0, 3}, 2: {3}, 3: {1, 2}} and share == 6 / 8
    alone, _ = contrastive._partners(codes, 1, np.random.default_rng(0))  # 0 → 1, 1 → 3, 2 → 3, 3 → 1
    assert alone.tolist() == [0, 3, 2, 1]


def test_rounds_end_when_neither_loss_nor_mutual_hits_improve():
    history = contrastive.ContrastiveHistory(loss=[9], plain_epochs=1)
    for loss, share, goes_on in [(5, 0.5, True), (4, 0.5, True), (3, 0.4, True), (3.5, 0.6, True), (3.2, 0.6, False)]:
        history.mutual_share.append(share)
        assert contrastive._improving(history) is goes_on
        history.loss.append(loss)


def test_divergence_in_the_very_last_step_is_noticed(images):
    # One step only: its loss is that of the weights before it.
    with pytest.raises(FloatingPointError, match="training diverged: the codes are not finite after epoch 1"):
        fit_contrastive(build_contrastive(images.shape[1:]), images[:32], learning_rate=1e38, **OPTIONS)


def test_images_that_are_all_alike_collapse_the_codes(images):
    with pytest.raises(CollapsedCodesError, match="all images have the same code; are they all alike"):
        fit_contrastive(build_contrastive(images.shape[1:]), np.repeat(images[:1], 64, axis=0), **OPTIONS)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (1, {}, "one image cannot be told apart from others"),
        (8, {"rounds": 1, "neighbours": 10}, "10 neighbours need more than 10 images, and there are 8"),
        (8, {"epochs": 0}, "must be at least 1, 0, 2: 0, 0, 32"),
    ],
)
def test_what_it_cannot_do_is_refused(images, count, options, message):
    with pytest.raises(ValueError, match=message):
        fit_contrastive(build_contrastive(images.shape[1:]), images[:count], **{**OPTIONS, **options})


def test_ctrl_c_ends_the_training_with_the_weights_as_they_are(images, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(contrastive, "train_epoch", interrupted)
    history = fit_contrastive(build_contrastive(images.shape[1:]), images, epochs=3)
    assert history.interrupted and "stopped by hand after 0 epochs" in capsys.readouterr().out
