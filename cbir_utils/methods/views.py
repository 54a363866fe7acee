"""Random views of images for training: what a writer could have drawn just as well.

Keras 3, backend-neutral: a view is computed with ``keras.ops``, inside the training step.
"""

import numpy as np
from scipy.interpolate import CubicSpline

from cbir_utils.models import keras

ops = keras.ops

#: Points along each side of the elastic deformation's grid; it is smooth between them.
GRID = 5

#: What a view changes: attributes of :class:`Augmentation`.
CHANGES = ("rotation", "stretch", "shear", "shift", "elastic", "stroke", "gamma")


class Augmentation(keras.layers.Layer):
    """Turns images ``(N, H, W, C)`` float32 in [0, 1] into random views of the same shape.

    A view is rotated, scaled, sheared, shifted and bent (elastic deformation, Simard, Steinkraus and Platt 2003), all
    in one bilinear resampling with black beyond the edge; then its strokes grow or shrink, and its greys are changed.
    The attributes say how much, at most; for other images set others, before training.

    ``seed`` is that of the views; ``strength`` multiplies all attributes. ``light`` says that the images are dark on
    light (``Dataset.light``): then their negatives are changed, so that the ground beyond the edge is light too.
    """

    rotation = 0.35  #: angle, radians
    stretch = 0.18  #: logarithm of the scale along each axis
    shear = 0.2
    shift = 2.5  #: along each axis, in pixels of an image 28 high (on larger images more)
    elastic = 1.8  #: standard deviation of the grid points' displacement, in the same pixels
    stroke = 0.7  #: weight, in [0, 1], of the image with strokes a pixel wider, or narrower, on each side
    gamma = 0.5  #: logarithm of the exponent of the greys

    def __init__(self, seed=0, *, light=False, strength=1.0):
        super().__init__()  # a layer, so that Keras carries the generator's state from step to step on every backend
        self.generator, self.light = keras.random.SeedGenerator(seed), light
        for name in CHANGES:
            setattr(self, name, strength * getattr(self, name))

    def call(self, images):
        """One view of each image."""
        return 1 - self._view(1 - images) if self.light else self._view(images)

    def _view(self, images):
        views = sample(images, *self._positions(images))
        if self.stroke:
            change = self._uniform(images, self.stroke)[..., None]
            views = views + ops.maximum(change, 0) * (_widest(views) - views)
            views = views + ops.maximum(-change, 0) * (-_widest(-views) - views)
        exponent = ops.exp(self._uniform(images, self.gamma))[..., None]
        return ops.exp(exponent * ops.log(ops.clip(views, 1e-4, 1.0)))

    def _positions(self, images):
        """From where each pixel of each view is taken: rows and columns, each ``(N, H, W)``, in pixels."""
        height, width = images.shape[1:3]
        pixel = height / 28
        y, x = np.mgrid[:height, :width].astype(np.float32)
        y, x = y - (height - 1) / 2, x - (width - 1) / 2
        x = x + self._uniform(images, self.shear) * y
        angle = self._uniform(images, self.rotation)
        sine, cosine = ops.sin(angle), ops.cos(angle)
        y, x = cosine * y - sine * x, sine * y + cosine * x
        y = y * ops.exp(self._uniform(images, self.stretch)) + self._uniform(images, pixel * self.shift)
        x = x * ops.exp(self._uniform(images, self.stretch)) + self._uniform(images, pixel * self.shift)
        shape = (2, ops.shape(images)[0], GRID, GRID)
        bend = pixel * self.elastic * keras.random.normal(shape, seed=self.generator)
        bend = ops.einsum("hi,cnij,wj->cnhw", _spline(height), bend, _spline(width))
        return y + bend[0] + (height - 1) / 2, x + bend[1] + (width - 1) / 2

    def _uniform(self, images, reach):
        """One number in ±reach for each image: ``(N, 1, 1)``."""
        return keras.random.uniform((ops.shape(images)[0], 1, 1), -reach, reach, seed=self.generator)


def sample(images, rows, columns):
    """The images' values at fractional positions, by bilinear interpolation; black (0) beyond the edge.

    ``images`` ``(N, H, W, C)``; ``rows`` and ``columns`` ``(N, H', W')`` in pixels; returns ``(N, H', W', C)``.
    """
    height, width, channels = images.shape[1:]
    framed = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = ops.clip(rows + 1, 0, height + 0.999)  # beyond the edge is on the frame
    columns = ops.clip(columns + 1, 0, width + 0.999)
    top, left = ops.floor(rows), ops.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    first = ops.arange(ops.shape(images)[0], dtype="int32")[:, None, None] * ((height + 2) * (width + 2))
    first = first + ops.cast(top, "int32") * (width + 2) + ops.cast(left, "int32")
    pixels = ops.reshape(framed, (-1, channels))

    def corner(below, beside):
        return ops.take(pixels, first + below * (width + 2) + beside, axis=0)

    upper = (1 - right) * corner(0, 0) + right * corner(0, 1)
    lower = (1 - right) * corner(1, 0) + right * corner(1, 1)
    return (1 - down) * upper + down * lower


def _spline(length):
    """The matrix ``(length, GRID)`` that draws a cubic spline through GRID evenly spaced values."""
    knots = np.linspace(0, length - 1, GRID)
    return CubicSpline(knots, np.eye(GRID))(np.arange(length)).astype(np.float32)


def _widest(images):
    """The largest value among each pixel and its eight neighbours (a dilation)."""
    return ops.max_pool(images, 3, strides=1, padding="same")
