"""Codes that need no training: the baselines that an autoencoder has to beat."""

import numpy as np

from cbir_utils.datasets import scale


def pixels(images):
    """The images themselves as codes: ``(N, H, W, C)`` uint8 → ``(N, H·W·C)`` float32 in [0, 1]."""
    return scale(images).reshape(len(images), -1)


def oriented_gradients(images, *, cells=4, orientations=9):
    """Histograms of oriented gradients (Dalal and Triggs 2005): ``(N, H, W, C)`` uint8 → ``(N, D)`` float32.

    The image is cut into ``cells`` × ``cells`` cells. Each pixel votes, with the length of its gradient, for the two
    nearest of ``orientations`` directions between 0° and 180°. The histograms of each block of 2 × 2 cells are scaled
    to unit length, cut at .2 and scaled again, so ``D = (cells - 1)² · 4 · orientations``. The grey value is the mean
    over the channels.
    """
    if len(images) > 5000:  # in blocks, for the sake of memory
        blocks = [images[start : start + 5000] for start in range(0, len(images), 5000)]
        return np.concatenate([oriented_gradients(b, cells=cells, orientations=orientations) for b in blocks])
    grey = scale(images).mean(axis=-1)
    count, height, width = grey.shape
    if min(height, width) < cells:
        raise ValueError(f"images of {height} × {width} pixels cannot be cut into {cells} × {cells} cells; lower cells")
    down, right = np.gradient(grey, axis=(1, 2))
    length = np.hypot(down, right)
    angle = np.arctan2(down, right) % np.pi * (orientations / np.pi)  # in bins; the first bin's centre is at 0
    lower = np.floor(angle).astype(np.int64)
    upper_share = angle - lower

    row = np.arange(height)[:, None] * cells // height
    column = np.arange(width)[None, :] * cells // width
    cell = np.arange(count)[:, None, None] * cells**2 + row * cells + column
    votes = np.zeros(count * cells**2 * orientations)
    for direction, share in ((lower, 1 - upper_share), (lower + 1, upper_share)):
        place = cell * orientations + direction % orientations
        votes += np.bincount(place.ravel(), (length * share).ravel(), minlength=len(votes))

    histograms = votes.reshape(count, cells, cells, orientations)
    corners = [histograms[:, y : cells - 1 + y, x : cells - 1 + x] for y in (0, 1) for x in (0, 1)]
    blocks = np.concatenate(corners, axis=-1)
    blocks = _unit(np.minimum(_unit(blocks), 0.2))
    return blocks.reshape(count, -1).astype(np.float32)


def _unit(blocks):
    """Scaled to unit length along the last axis; a block without gradients stays zero."""
    return blocks / np.sqrt(np.square(blocks).sum(axis=-1, keepdims=True) + 1e-10)


class Projection:
    """Rows on their leading principal directions: ``(N, D)`` float32 → ``(N, L)`` float32.

    Attributes
    ----------
    mean : ndarray
        ``(D,)``, of the rows that it was fitted to.
    directions : ndarray
        ``(L, D)``, of unit length, by falling variance.
    """

    def __init__(self, mean, directions):
        self.mean, self.directions = mean, directions

    @classmethod
    def fit(cls, rows, length, *, seed=0):
        """PCA of ``(N, D)`` rows with ``length`` directions, fewer if the rows have not so many (Jolliffe 2002)."""
        from sklearn.decomposition import PCA  # only here: loading what was fitted should be quick

        pca = PCA(min(length, *rows.shape), random_state=seed).fit(rows)
        return cls(pca.mean_, pca.components_)

    def __call__(self, rows):
        return ((rows - self.mean) @ self.directions.T).astype(np.float32)

    def restore(self, codes):
        """Rows from codes, ``(N, L)`` → ``(N, D)`` float32: what the directions kept of them."""
        return (codes @ self.directions + self.mean).astype(np.float32)

    def save(self, path):
        """Write it to ``path`` (``.npz``)."""
        np.savez(path, mean=self.mean, directions=self.directions)

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["mean"], stored["directions"])
