"""Codes that need no training: the baselines that an autoencoder has to beat."""

import numpy as np
from PIL import Image

from cbir_utils.datasets import scale

#: HOG's cells along each side of an image, and its directions.
CELLS, ORIENTATIONS = 4, 9
#: Pixels of images that HOG looks at at once; each takes about 100 bytes.
HOG_PIXELS = 2_000_000


def pixels(images):
    """The images themselves, :func:`shrunk`, as codes: ``(N, H, W, C)`` uint8 → ``(N, H·W·C)`` float32 in [0, 1].

    >>> pixels(np.full((2, 28, 28, 1), 51, np.uint8)).shape
    (2, 784)
    """
    return scale(shrunk(images)).reshape(len(images), -1)


def shrunk(images):
    """Images ``(N, H, W, C)`` uint8; those of 64 pixels a side or more as means of squares, to about 32 a side.

    >>> shrunk(np.zeros((2, 28, 28, 1), np.uint8)).shape, shrunk(np.zeros((2, 128, 130, 3), np.uint8)).shape
    ((2, 28, 28, 1), (2, 32, 32, 3))
    """
    side = min(images.shape[1:3]) // 32
    if side < 2:
        return images
    small = np.empty((len(images), images.shape[1] // side, images.shape[2] // side, images.shape[3]), np.uint8)
    for row, image in enumerate(images):
        inside = image[: small.shape[1] * side, : small.shape[2] * side]
        squares = inside.reshape(small.shape[1], side, small.shape[2], side, -1)
        small[row] = squares.mean(axis=(1, 3), dtype=np.float32).round()
    return small


def colour(images):
    """Which colours, and roughly where: ``(N, H, W, C)`` uint8 → ``(N, 2560)`` float32 of unit length.

    Histograms of hue, saturation and value in 16 × 4 × 4 bins, of the whole image and of 3 × 3 regions; the roots of
    their shares, so that the cosine of two codes is Bhattacharyya's coefficient.
    """
    codes = np.empty((len(images), 10, 256), np.float32)
    for row, image in enumerate(images):
        rgb = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
        hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(rgb).convert("HSV")).astype(int), -1, 0)
        codes[row] = _by_region(hue // 16 * 16 + saturation // 64 * 4 + value // 64, 256)
    return codes.reshape(len(images), -1)


def texture(images):
    """How grey changes around each pixel: ``(N, H, W, C)`` uint8 → ``(N, 2560)`` float32 of unit length.

    Local binary patterns (Ojala, Pietikäinen and Mäenpää 2002): for each pixel eight bits, one for each neighbour that
    is as light or lighter. Histograms and codes as in :func:`colour`.
    """
    codes = np.empty((len(images), 10, 256), np.float32)
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    for row, image in enumerate(images):
        grey = image.mean(axis=-1)
        height, width = (length - 2 for length in grey.shape)
        middle = grey[1:-1, 1:-1]
        lighter = (grey[y : y + height, x : x + width] >= middle for y, x in around)
        codes[row] = _by_region(sum(bits.astype(int) << place for place, bits in enumerate(lighter)), 256)
    return codes.reshape(len(images), -1)


def _by_region(bins, count):
    """The roots of a histogram's shares, for bins ``(H, W)`` int as a whole and by 3 × 3 regions: ``(10, count)``."""
    regions = [part for band in np.array_split(bins, 3) for part in np.array_split(band, 3, axis=1)]
    shares = [np.bincount(part.ravel(), minlength=count) / max(1, part.size) for part in (bins, *regions)]
    return np.sqrt(np.stack(shares) * np.array([[0.5], *[[0.5 / 9]] * 9]))


def oriented_gradients(images):
    """Histograms of oriented gradients (HOG, Dalal and Triggs 2005): ``(N, H, W, C)`` uint8 → ``(N, 324)`` float32.

    The image is cut into 4 × 4 cells. Each pixel votes, with the length of its gradient, for the two nearest of nine
    directions between 0° and 180°. The histograms of each block of 2 × 2 cells are scaled to unit length, cut at .2
    and scaled again; there are 9 blocks of 36 numbers. The grey value is the mean over the channels.
    """
    block = max(1, HOG_PIXELS // (images.shape[1] * images.shape[2]))
    if len(images) > block:  # to save memory
        return np.concatenate([oriented_gradients(images[i : i + block]) for i in range(0, len(images), block)])
    grey = scale(images).mean(axis=-1)
    count, height, width = grey.shape
    if min(height, width) < CELLS:
        raise ValueError(f"images of {height} × {width} pixels cannot be cut into {CELLS} × {CELLS} cells")
    down, right = np.gradient(grey, axis=(1, 2))
    length = np.hypot(down, right)
    angle = np.arctan2(down, right) % np.pi * (ORIENTATIONS / np.pi)  # in bins; the first bin's centre is at 0
    lower = np.floor(angle).astype(np.int64)
    upper_share = angle - lower

    row = np.arange(height)[:, None] * CELLS // height
    column = np.arange(width)[None, :] * CELLS // width
    cell = np.arange(count)[:, None, None] * CELLS**2 + row * CELLS + column
    votes = np.zeros(count * CELLS**2 * ORIENTATIONS)
    for direction, share in ((lower, 1 - upper_share), (lower + 1, upper_share)):
        place = cell * ORIENTATIONS + direction % ORIENTATIONS
        votes += np.bincount(place.ravel(), (length * share).ravel(), minlength=len(votes))

    histograms = votes.reshape(count, CELLS, CELLS, ORIENTATIONS)
    corners = [histograms[:, y : CELLS - 1 + y, x : CELLS - 1 + x] for y in (0, 1) for x in (0, 1)]
    blocks = np.concatenate(corners, axis=-1)
    blocks = _unit(np.minimum(_unit(blocks), 0.2))
    return blocks.reshape(count, -1).astype(np.float32)


def _unit(blocks):
    """Scaled to unit length along the last axis; a block without gradients stays zero."""
    return blocks / np.sqrt(np.square(blocks).sum(axis=-1, keepdims=True) + 1e-10)


class Projection:
    """Rows on their leading principal directions: ``(N, D)`` float32 → ``(N, L)`` float32.

    ``mean (D,)`` is that of the rows it was fitted to; ``directions (L, D)`` have unit length and falling variance.
    """

    def __init__(self, mean, directions):
        self.mean, self.directions = mean, directions

    @classmethod
    def fit(cls, rows, length, *, seed=0):
        """PCA of ``(N, D)`` rows with ``length`` directions, or as many as the rows have (Jolliffe 2002)."""
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
