"""Photographs as bags of visual words: which small patches they are made of, and how many of each.

The words are learned from the database alone, without labels (Sivic and Zisserman 2003, *Video Google*). k-means over
whitened patches is about the simplest autoencoder there is, one unit for each word (Coates and Ng 2011, *The importance
of encoding versus training with sparse coding and vector quantization*). Colour and texture are in the same word.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from tqdm.auto import tqdm

from cbir_utils.datasets import scale

#: Side of a patch, and from one patch to the next, in pixels.
SIDE, STEP = 6, 3

#: Words at most; patches that they are learned from.
WORDS, SAMPLE = 800, 60_000

#: Added to the variance of each principal direction, so that whitening does not raise noise to the level of edges.
NOISE = 1e-5


class VisualWords:
    """A dictionary of visual words, made by :meth:`fit` or :meth:`load`; called, it turns images into codes.

    ``mean (P,)`` and ``whitening (P, P)`` prepare patches of P numbers, ``words (W, P)`` are the dictionary; float32.
    """

    def __init__(self, mean, whitening, words):
        self.mean, self.whitening, self.words = mean, whitening, words

    @classmethod
    def fit(cls, images, *, seed=0):
        """Learn the words from patches of images ``(N, H, W, C)`` uint8: k-means of 60,000 whitened ones."""
        from sklearn.cluster import MiniBatchKMeans  # only here: what was learned opens without it

        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(len(images), min(len(images), 2000), replace=False))
        each = -(-SAMPLE // len(chosen))
        some = (rng.permutation(found)[:each] for found in map(_patches, images[chosen]))
        patches = np.concatenate(list(some))
        mean = patches.mean(axis=0)
        centred = (patches - mean).astype(np.float64)
        variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
        whitening = (directions / np.sqrt(np.maximum(variances, 0) + NOISE)) @ directions.T
        whitening = whitening.astype(np.float32)
        means = MiniBatchKMeans(min(WORDS, len(patches)), n_init=1, max_iter=30, batch_size=2048, random_state=seed)
        return cls(mean, whitening, means.fit((patches - mean) @ whitening).cluster_centers_.astype(np.float32))

    def __call__(self, images):
        """The roots of the shares of each word: images ``(N, H, W, C)`` uint8 → codes ``(N, W)`` float32.

        A patch counts for the nearest word. The codes have unit length; their cosine is Bhattacharyya's coefficient of
        the two histograms, and their Euclidean distance √2 times Hellinger's.
        """
        codes = np.empty((len(images), len(self.words)), np.float32)
        lengths = np.square(self.words).sum(axis=1) / 2
        for row, image in enumerate(tqdm(images, "counting words", leave=False, delay=2)):
            nearest = ((_patches(image) - self.mean) @ self.whitening @ self.words.T - lengths).argmax(axis=1)
            codes[row] = np.sqrt(np.bincount(nearest, minlength=len(self.words)) / len(nearest))
        return codes

    def save(self, path):
        """Write it to ``path`` (``.npz``)."""
        np.savez(path, mean=self.mean, whitening=self.whitening, words=self.words)

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["mean"], stored["whitening"], stored["words"])


def _patches(image):
    """The patches of an image ``(H, W, C)`` uint8 as rows ``(M, C·SIDE·SIDE)`` float32 in [0, 1]."""
    if min(image.shape[:2]) < SIDE:
        raise ValueError(f"images of {image.shape[0]} × {image.shape[1]} pixels hold no patch of {SIDE} × {SIDE}")
    windows = sliding_window_view(scale(image), (SIDE, SIDE), axis=(0, 1))[::STEP, ::STEP]
    return windows.reshape(-1, SIDE * SIDE * image.shape[2])
