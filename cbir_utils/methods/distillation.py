"""Distillation: a network learns to give any view of an image the code that a diffusion map gave to the image."""

import time

import numpy as np

from cbir_utils.codes import unit_length
from cbir_utils.datasets import scale
from cbir_utils.methods.family import dense_decoder, pooled
from cbir_utils.models import Autoencoder, keras
from cbir_utils.training import History, check_images, progress, train_epoch

layers, ops = keras.layers, keras.ops

#: Weight of the reconstruction's loss beside that of the codes.
WEIGHT = 0.1

#: The share of images that teach, and how many neighbours each has: a map errs most where neighbours disagree.
TEACHING, NEIGHBOURS = 0.95, 5


def build_strided(input_shape=(28, 28, 1), *, code_length=64, seed=0):
    """A small encoder for :func:`distil`, with a decoder of two dense layers.

    Each of three convolutions (24, 64 and 128 filters) halves the image; the second and third are batch normalised.
    The decoder is small because it costs time and retrieval never uses it.
    """
    seeds = iter(range(10 * seed, 10 * seed + 10))

    def initializer():
        return keras.initializers.HeNormal(seed=next(seeds))

    image = keras.Input(input_shape, name="image")
    x = pooled(image)
    x = layers.Conv2D(24, 5, strides=2, padding="same", activation="relu", kernel_initializer=initializer())(x)
    for filters in (64, 128):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, kernel_initializer=initializer())(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))  # .99 would lag behind in a short training
    code = layers.Dense(code_length, kernel_initializer=initializer())(layers.Flatten()(x))
    encoder = keras.Model(image, code, name="encoder")
    decoder = dense_decoder(input_shape, (256,), code_length, initializer)
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


def distil(
    autoencoder, images, codes, hits, *, epochs, batch_size=256, learning_rate=3e-3, augment, seed=0, verbose=True
):
    """Train an autoencoder so that each view of an image leads to the image's code of another kind.

    The loss is ``1 - cos(head(z), code) + WEIGHT · reconstruction`` of the view, with z the code of a random view.
    The head is a dense layer, dropped afterwards. The images whose codes agree least with those of their neighbours do
    not teach (:data:`TEACHING`). The network smooths the rest: it cannot learn each error by heart, because it never
    sees the same view twice (distillation, Hinton, Vinyals and Dean 2015; learning from one's own clusters, Caron et
    al. 2018). The step size falls to zero along half a cosine. Ctrl-C ends the training early.

    Parameters
    ----------
    autoencoder, images : Autoencoder, ndarray
        Trained in place; ``(N, H, W, C)`` uint8, the database, never the queries. No labels.
    codes, hits : ndarray, Hits
        ``(N, M)`` float32, such as ``DiffusionMap.codes``; each image's neighbours ``(N, K)``.
    epochs, batch_size, learning_rate : int, int, float
        Passes over the images; images per step; Adam's step size at the start.
    augment : callable
        Makes views, such as an ``Augmentation``.
    seed, verbose : int, bool
        Seed of the head and of the order of the batches; show progress.

    Returns a ``History``. Raises FloatingPointError if the loss becomes NaN or infinite, ValueError for images of the
    wrong form.
    """
    images = check_images(images, autoencoder.encoder.input_shape[1:])
    wanted = unit_length(codes)
    agreement = np.einsum("nd,nkd->n", wanted, wanted[hits.ids[:, :NEIGHBOURS]])
    teaching = np.flatnonzero(agreement >= np.quantile(agreement, 1 - TEACHING))
    batch_size, rng = min(batch_size, len(teaching)), np.random.default_rng(seed)
    model = _Distillation(autoencoder, augment, wanted.shape[1], seed)
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * (len(teaching) // batch_size))
    model.compile(keras.optimizers.Adam(decay), jit_compile=False)
    history = History()
    with progress(epochs, history, verbose) as bar:
        for _ in range(epochs):
            start = time.perf_counter()
            order = rng.permutation(teaching)
            train_epoch(model, history, order, batch_size, lambda rows: (scale(images[rows]), wanted[rows]))
            history.seconds.append(time.perf_counter() - start)
            bar.set_postfix(loss=f"{history.loss[-1]:.4f}")
            bar.update()
    return history


class _Distillation(keras.Model):
    """What is trained: an autoencoder with augmentation before it and a head beside the decoder."""

    def __init__(self, autoencoder, augment, length, seed):
        super().__init__(name="distillation")
        self.encoder, self.decoder, self.augment = autoencoder.encoder, autoencoder.decoder, augment
        first = keras.initializers.GlorotUniform(seed=100 * seed + 3)
        self.head = keras.Sequential([layers.ReLU(), layers.Dense(length, kernel_initializer=first)])

    def call(self, images, training=False):
        """``(N, H, W, C)`` images → the directions ``(N, M)`` of their views, the views, and these rebuilt."""
        views = self.augment(images)
        codes = self.encoder(views, training=training)
        return ops.normalize(self.head(codes), axis=1), views, self.decoder(codes)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        directions, views, rebuilt = y_pred
        apart = 1 - ops.mean(ops.sum(directions * y, axis=1))
        return apart + WEIGHT * ops.mean(keras.losses.binary_crossentropy(views, rebuilt))
