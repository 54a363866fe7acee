"""Visual words: patches, the dictionary, and the codes that count its words."""

import numpy as np
import pytest

from cbir_utils.methods import words as module
from cbir_utils.methods.words import SIDE, STEP, VisualWords, _patches


def stripes(count, across, colour, seed=0):
    """Images of stripes, of random phase, in one colour: ``(count, 32, 32, 3)`` uint8."""
    rng = np.random.default_rng(seed)
    lines = (np.arange(32)[None, :] + rng.integers(0, 4, (count, 1))) // 2 % 2
    image = np.broadcast_to(lines[:, None, :] if across else lines[:, :, None], (count, 32, 32))
    return (image[..., None] * np.uint8(colour)).astype(np.uint8)


@pytest.fixture(scope="module")
def kinds():
    """Four kinds of images: red or blue stripes, upright or lying."""
    made = [stripes(5, across, colour, seed=7) for across in (True, False) for colour in ((255, 0, 0), (0, 0, 255))]
    return np.concatenate(made), np.repeat(np.arange(4), 5)


def test_a_word_holds_colour_and_texture(kinds):
    images, kind = kinds
    codes = VisualWords.fit(images)(images)
    near = codes @ codes.T
    np.fill_diagonal(near, -1)
    assert (kind[near.argmax(axis=1)] == kind).all()


def test_codes_are_the_roots_of_the_shares_of_the_nearest_words(monkeypatch):
    monkeypatch.setattr(module, "WORDS", 30)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    words = VisualWords.fit(images)
    counts = np.zeros(len(words.words))
    for y in range(0, 32 - SIDE + 1, STEP):
        for x in range(0, 32 - SIDE + 1, STEP):
            patch = images[0, y : y + SIDE, x : x + SIDE].astype(np.float64).transpose(2, 0, 1).ravel() / 255
            apart = np.square((patch - words.mean) @ words.whitening - words.words).sum(axis=1)
            counts[apart.argmin()] += 1
    np.testing.assert_allclose(words(images[:1])[0], np.sqrt(counts / counts.sum()), atol=1e-5)


def test_whitened_patches_have_no_correlation_left():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 12, 12, 1), dtype=np.uint8)
    words = VisualWords.fit(images)
    patches = np.concatenate([_patches(image) for image in images])
    spread = np.cov((patches - words.mean) @ words.whitening, rowvar=False)
    assert np.abs(spread - np.eye(SIDE * SIDE)).max() < 0.2


def test_the_same_seed_gives_the_same_words_and_they_survive_a_file(tmp_path, kinds):
    images, _ = kinds
    words, again = VisualWords.fit(images, seed=3), VisualWords.fit(images, seed=3)
    np.testing.assert_array_equal(words(images), again(images))
    words.save(tmp_path / "words.npz")
    np.testing.assert_array_equal(VisualWords.load(tmp_path / "words.npz")(images), words(images))


def test_one_image_of_one_colour_and_one_that_is_too_small():
    flat = np.full((1, 8, 8, 3), 90, np.uint8)
    codes = VisualWords.fit(flat)(flat)
    assert np.isfinite(codes).all()
    assert np.linalg.norm(codes) == pytest.approx(1)
    with pytest.raises(ValueError, match="hold no patch"):
        VisualWords.fit(np.zeros((2, 4, 4, 1), np.uint8))


def test_an_image_alone_has_the_code_it_has_among_others(kinds, monkeypatch):
    monkeypatch.setattr(module, "WORDS", 20)
    images, _ = kinds
    words = VisualWords.fit(images)
    np.testing.assert_array_equal(words(images)[4], words(images[4:5])[0])
