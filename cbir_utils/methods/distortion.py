"""The image distortion model: how far one image is from another if each pixel may move a little.

Keysers, Deselaers, Gollan and Ney 2007, *Deformation models for image recognition*. It compares pairs of images and has
no codes, so it re-ranks the candidates that a search by codes has found.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numba import njit
from numba.core import event
from tqdm.auto import tqdm

from cbir_utils.codes import unit_length
from cbir_utils.distances import cores, nearest_first
from cbir_utils.index import Index
from cbir_utils.methods.descriptors import shrunk

#: Hits of each query that are looked at again.
CANDIDATES = 50

#: Hits that the second look puts first; behind them, images follow by code.
FIRST = 10

#: Gradients much longer than this count alike, shorter ones less; images are in [0, 1].
SOFTNESS = 0.5

#: The model suits images whose fifth candidate is less than this share of the last one's distance away.
CONTRAST = 0.5

#: Database images from which :class:`MatchedSearch` learns whether the model suits them.
SAMPLE = 200

#: Each window is a pixel and this many on each side of it: 3 × 3.
MARGIN = 1

#: Queries that a core takes at a time.
BLOCK = 64


def warp_of(images):
    """How far a pixel may move in images ``(N, H, W, C)``: a tenth of the shorter side, in whole pixels, 1 at least.

    >>> warp_of(np.zeros((1, 28, 28, 1))), warp_of(np.zeros((1, 32, 32, 1)))
    (2, 3)
    """
    return max(1, min(images.shape[1:3]) // 10)


def distortion(queries, images, ids, *, warp=None):
    """How far queries are from images, by the distortion model: a distance for each pair.

    ``d(A, B) = Σ_p min_s Σ_u |a(p + u) - b(p + s + u)|²``: each pixel p of the query A takes the window u around it to
    the best place s in B, at most ``warp`` pixels away in both directions. a and b are the images' gradients g (Sobel
    filter) as ``g / (|g| + SOFTNESS)``; beyond the edge they are 0. It is not symmetric: the query is explained by the
    image. The negative of both images has the same distance.

    Parameters
    ----------
    queries, images : ndarray
        ``(Q, H, W, C)`` and ``(N, H, W, C)`` uint8.
    ids : ndarray
        ``(Q, K)`` int: the images to which each query is compared.
    warp : int, optional
        By default that of :func:`warp_of`.

    Returns distances ``(Q, K)`` float32, 0 or more; a pair has the same distance in any batch. It needs 8·H·W·C bytes
    for each image named. Raises ValueError for images that are not uint8 or of different sizes.
    """
    queries, images, ids = np.asarray(queries), np.asarray(images), np.asarray(ids)
    if images.dtype != np.uint8 or queries.dtype != np.uint8:
        raise ValueError(f"images must be uint8, not {images.dtype} and {queries.dtype}")
    if images.ndim != 4 or queries.shape[1:] != images.shape[1:]:
        raise ValueError(f"queries and images must be of one size, not {queries.shape[1:]} and {images.shape[1:]}")
    if ids.ndim != 2 or len(ids) != len(queries):
        raise ValueError(f"ids must be a row for each of {len(queries)} queries, not of shape {ids.shape}")
    warp = warp_of(images) if warp is None else warp
    named, places = np.unique(ids, return_inverse=True)
    known, places = _laid_out(images[named], warp), places.reshape(ids.shape)
    distances, kernel = np.empty(ids.shape, np.float32), _kernel()

    def compare(start):
        rows = slice(start, start + BLOCK)
        kernel(_laid_out(queries[rows], warp), known, places[rows], *images.shape[1:3], warp, distances[rows])

    starts = range(0, len(queries), BLOCK)
    with ThreadPoolExecutor(cores()) as pool:
        try:
            list(tqdm(pool.map(compare, starts), "comparing images", len(starts), leave=False, delay=2))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return distances


class MatchedSearch:
    """Finds images in two steps: the nearest by code, then those :data:`CANDIDATES` in order of their distortion.

    ``codes`` are the database's ``(N, D)`` float32; ``images`` ``(N, H, W, C)`` uint8 are compared :func:`shrunk`.
    ``suits`` says whether the second step tells near images from far ones; where it does not (photographs, noise),
    hits stay as the codes have them. A database's own images decide that, without labels: the fifth candidate of the
    median image must be at less than half the last one's distance. Handwriting has .3 to .4 here, photographs .7, noise
    .9 (HOG's candidates).
    """

    def __init__(self, codes, images):
        self.images, self.index, self.suits = shrunk(images), Index("cosine").add(codes), True
        some = np.unique(np.linspace(0, len(images) - 1, SAMPLE, dtype=int))
        if len(images) > 1:
            self.suits = contrast(self.search(codes[some], images[some], exclude_self=some)) < CONTRAST

    def search(self, codes, queries, *, exclude_self=None):
        """The candidates of queries, ``codes (Q, D)`` and images ``(Q, H, W, C)``: :class:`Hits` ``(Q, K)``.

        K is :data:`CANDIDATES`, less where the database is smaller. The distances are squared ones: distortion, or
        1 - cos of the codes. ``exclude_self`` is that of :meth:`Index.search`.
        """
        most = min(CANDIDATES, len(self.index) - (exclude_self is not None))
        hits = self.index.search(codes, most, exclude_self=exclude_self)
        if not self.suits:
            return hits
        return nearest_first(distortion(shrunk(queries), self.images, hits.ids), hits.ids, most)


def blend(hits, queries, codes, weight=4.0):
    """Look at candidates once more, with other codes beside: the first ten :class:`Hits` ``(Q, 10)``.

    A candidate's distance is that of ``hits (Q, K)``, as a share of the query's median, plus ``weight`` · (1 - cos) of
    ``queries (Q, M)`` and ``codes (N, M)``, such as a diffusion map's. The weight was chosen on the last 10,000
    training images of MNIST as queries; from 1 to 8 it hardly mattered.
    """
    middle = np.median(hits.distances, axis=1, keepdims=True)
    near = unit_length(codes[hits.ids.ravel()]).reshape(*hits.ids.shape, -1)  # of the candidates alone
    apart = 1 - np.einsum("qkd,qd->qk", near, unit_length(queries))
    distances = hits.distances / np.where(middle > 0, middle, 1) + weight * apart
    return nearest_first(distances.astype(np.float32), hits.ids, min(FIRST, hits.ids.shape[1]))


def contrast(hits):
    """The distance of the median query's fifth hit, as a share of its last one's: in [0, 1]."""
    near, far = hits.distances[:, min(4, hits.ids.shape[1] - 1)], hits.distances[:, -1]
    return float(np.median(np.divide(near, far, out=np.zeros_like(near), where=far > 0)))


def gradients(images):
    """The gradients of images ``(N, H, W, C)`` uint8, ``g / (|g| + SOFTNESS)``: ``(N, 2C, H, W)`` float32 in (-1, 1).

    For each channel the differences to the right, then downwards (Sobel filter; the edge's pixels go on beyond it).
    """
    grey = np.moveaxis(images, -1, 1).astype(np.float32) / np.float32(255)
    grey = np.pad(grey, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    smooth = grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
    right = smooth[..., 2:] - smooth[..., :-2]
    smooth = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
    down = smooth[:, :, 2:] - smooth[:, :, :-2]
    length = np.hypot(right, down) + np.float32(SOFTNESS)
    return np.stack([right / length, down / length], axis=2).reshape(len(images), -1, *images.shape[1:3])


def _laid_out(images, warp):
    """The gradients of images as the kernel reads them: ``(N, 2C, L)`` float32.

    The rows of an image stand one after another, with zeros between them and around, so that to move by (y, x) is to
    move by one number.
    """
    count, height, width, channels = images.shape
    margin = warp + MARGIN
    flat = np.zeros((count, 2 * channels, _length(height, width, margin)), np.float32)

    def fill(start):
        block = gradients(images[start : start + 1000])
        for row in range(height):
            first = (row + margin) * (width + margin) + margin
            flat[start : start + 1000, :, first : first + width] = block[:, :, row]

    with ThreadPoolExecutor(cores()) as pool:  # in blocks, to save memory
        list(pool.map(fill, range(0, count, 1000)))
    return flat


def _length(height, width, margin):
    """The numbers of an image with ``margin`` zeros around; rows share the zeros between them."""
    return (height + 2 * margin) * (width + margin) + margin


@cache
def _kernel():
    """The compiled kernel. Numba keeps it beside this file, or in the user's cache folder, where it may write there."""
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nnan", "nsz"}}
    try:
        compiled, kept = njit(cache=True, **options)(_compare), "once"
    except RuntimeError:  # Numba found no folder that it may write to
        compiled, kept = njit(**options)(_compare), "each time: its cache folder cannot be written"
    listener = _Telling(f"compiling the distortion model ({kept}) …")
    blank = np.zeros((1, 2, _length(4, 4, 1 + MARGIN)), np.float32)
    with event.install_listener("numba:compile", listener):
        compiled(blank, blank, np.zeros((1, 1), np.int64), 4, 4, 1, np.empty((1, 1), np.float32))
    return compiled


class _Telling(event.Listener):
    """Says a sentence when Numba starts to compile; not when it finds the result of an earlier time."""

    def __init__(self, sentence):
        self.sentence = sentence

    def on_start(self, event):
        if self.sentence:
            print(self.sentence, file=sys.stderr, flush=True)
        self.sentence = ""

    def on_end(self, event):
        pass


def _compare(queries, images, ids, height, width, warp, distances):
    """Fill ``distances (Q, K)`` with those of gradients ``(Q, 2C, L)`` from those of images ``(N, 2C, L)``.

    For each shift: the squared difference of all pixels, its sum over each window (first down, then across), and the
    smallest so far. The inner loops run over a whole image, so that the compiler makes them vector instructions.
    """
    margin = warp + 1
    step = width + margin  # from a pixel to the one below it
    first, size = margin * step + margin, height * step - margin  # the first pixel; from there to behind the last
    reach = size + 2 * step + 2  # with the windows of the first and the last
    apart = np.empty(reach, np.float32)
    column = np.empty(size + 2, np.float32)
    least = np.empty(size, np.float32)
    for q in range(len(ids)):
        for j in range(ids.shape[1]):
            query, image = queries[q], images[ids[q, j]]
            least[:] = np.float32(3e38)
            for y in range(-warp, warp + 1):
                for x in range(-warp, warp + 1):
                    start = first - step - 1
                    moved = start + y * step + x
                    apart[:] = np.float32(0)
                    for part in range(0, len(query), 2):
                        a_right, a_down = query[part, start : start + reach], query[part + 1, start : start + reach]
                        b_right, b_down = image[part, moved : moved + reach], image[part + 1, moved : moved + reach]
                        for i in range(reach):
                            right, down = a_right[i] - b_right[i], a_down[i] - b_down[i]
                            apart[i] += right * right + down * down
                    above, middle, below = apart[: size + 2], apart[step : step + size + 2], apart[2 * step :]
                    for i in range(size + 2):
                        column[i] = above[i] + middle[i] + below[i]
                    for i in range(size):
                        least[i] = min(least[i], column[i] + column[i + 1] + column[i + 2])
            total = np.float32(0)
            for row in range(height):
                for i in range(row * step, row * step + width):
                    total += least[i]
            distances[q, j] = total
