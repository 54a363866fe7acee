"""Contrastive training, guided by its own retrieval."""

import time
from dataclasses import dataclass, field

import numpy as np

from cbir_utils.codes import unit_length
from cbir_utils.datasets import scale
from cbir_utils.index import Index
from cbir_utils.methods.family import dense_decoder, pooled
from cbir_utils.methods.views import Augmentation
from cbir_utils.models import Autoencoder, keras
from cbir_utils.training import REMEDY, check_images, encode, progress, train_epoch

layers, ops = keras.layers, keras.ops

#: Of NT-Xent: what divides the cosines, and its weight beside the reconstruction's loss.
TEMPERATURE, WEIGHT = 0.2, 0.1


def build_contrastive(input_shape=(28, 28, 1), *, code_length=64, seed=0):
    """A small encoder for :func:`fit_contrastive`, with a decoder of two dense layers.

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


class CollapsedCodesError(RuntimeError):
    """After contrastive training all images have the same code."""


@dataclass
class ContrastiveHistory:
    """What happened in :func:`fit_contrastive`: one entry per epoch; of the rounds, one per retrieval."""

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    mutual_share: list[float] = field(default_factory=list)  #: of all hits, how many are mutual
    plain_epochs: int = 0  #: epochs before the first round
    interrupted: bool = False


def fit_contrastive(
    autoencoder,
    images,
    *,
    epochs,
    rounds=0,
    neighbours=10,
    batch_size=256,
    learning_rate=1e-3,
    augment=None,
    seed=0,
    verbose=True,
):
    """Train an autoencoder to give two views of an image similar codes; then, by rounds, mutual neighbours too.

    The loss is ``reconstruction + WEIGHT · NT-Xent``. In the first ``epochs`` both views are of one image (SimCLR, Chen
    et al. 2020). Then each *round* retrieves the nearest ``neighbours`` of every image and trains an epoch in which the
    second view is of a mutual hit, drawn at random (neighbours as positives: Dwibedi et al. 2021): the paper's training
    by retrieval (section V-D), made label-free. A hit counts as correct if it is mutual: each image is among the
    other's hits. The rounds end once neither the loss nor the share of mutual hits improves.

    NT-Xent compares codes behind a projection head of two dense layers, which is dropped afterwards (Chen et al. 2020,
    section 4.2). The step size falls to zero along half a cosine. Ctrl-C ends the training early.

    Parameters
    ----------
    autoencoder, images : Autoencoder, ndarray
        Trained in place; ``(N, H, W, C)`` uint8, the database, never the queries. No labels.
    epochs, rounds, neighbours : int
        Epochs before the first round; rounds at most, each with an epoch of its own; hits per image in a round.
    batch_size, learning_rate : int, float
        Images per step, each with two views; Adam's step size at the start.
    augment : callable, optional
        Makes views; by default an ``Augmentation`` with this ``seed``.
    seed, verbose : int, bool
        Seed of the projection head, the views and the order of the batches; show progress.

    Returns a :class:`ContrastiveHistory`. Raises :class:`CollapsedCodesError` if all images end with the same code,
    FloatingPointError if the loss or the codes become NaN or infinite, ValueError for images of the wrong form or too
    few of them.
    """
    images = check_images(images, autoencoder.encoder.input_shape[1:])
    if epochs < 1 or rounds < 0 or batch_size < 2:
        raise ValueError(f"epochs, rounds, batch_size must be at least 1, 0, 2: {epochs}, {rounds}, {batch_size}")
    if len(images) < 2:
        raise ValueError("one image cannot be told apart from others; contrastive training needs two or more")
    if rounds and len(images) <= neighbours:
        raise ValueError(f"{neighbours} neighbours need more than {neighbours} images, and there are {len(images)}")
    batch_size = min(batch_size, len(images))
    rng = np.random.default_rng(seed)
    model = _Contrastive(autoencoder, augment or Augmentation(seed), seed)
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, (epochs + rounds) * (len(images) // batch_size))
    model.compile(keras.optimizers.Adam(decay), jit_compile=False)

    history = ContrastiveHistory(plain_epochs=epochs)
    with progress(epochs + rounds, history, verbose) as bar:
        for epoch in range(1, epochs + rounds + 1):
            start = time.perf_counter()
            partners = np.arange(len(images))
            if epoch > epochs:
                partners, share = _partners(_finite_codes(autoencoder.encoder, images, epoch - 1), neighbours, rng)
                history.mutual_share.append(share)
                bar.set_description(f"training, {share:.1%} of hits mutual")
                if not _improving(history):
                    break
            order = rng.permutation(len(images))
            pairs = np.stack([order, partners[order]], axis=1)
            train_epoch(model, history, pairs, batch_size, lambda rows: [scale(images[rows])])
            history.seconds.append(time.perf_counter() - start)
            bar.set_postfix(loss=f"{history.loss[-1]:.4f}")
            bar.update()
    if not history.interrupted:
        some = images[np.linspace(0, len(images) - 1, min(1000, len(images)), dtype=int)]
        codes = _finite_codes(autoencoder.encoder, some, len(history.loss))
        if unit_length(codes).std(axis=0).max() <= 1e-4:
            raise CollapsedCodesError("all images have the same code; are they all alike? Else lower the learning rate")
    return history


def _partners(codes, neighbours, rng):
    """A mutual hit of each image, drawn at random (the image itself where there is none); the share of mutual hits."""
    images = np.arange(len(codes))
    hits = Index("cosine").add(codes).search(codes, neighbours, exclude_self=images).ids
    right = mutual(hits)
    drawn = (right * rng.random(right.shape)).argmax(axis=1)
    return np.where(right.any(axis=1), hits[images, drawn], images), float(right.mean())


def _improving(history):
    """Whether the last round brought the lowest loss, or this retrieval the largest share of mutual hits, so far."""
    shares, losses = history.mutual_share, history.loss[history.plain_epochs :]
    return len(losses) < 2 or shares[-1] > max(shares[:-1]) or losses[-1] < min(losses[:-1])


class _Contrastive(keras.Model):
    """What is trained: an autoencoder with augmentation before it and a projection head beside the decoder."""

    def __init__(self, autoencoder, augment, seed):
        super().__init__(name="contrastive")
        self.encoder, self.decoder, self.augment = autoencoder.encoder, autoencoder.decoder, augment
        length = self.encoder.output_shape[1]
        first, second = (keras.initializers.GlorotUniform(seed=100 * seed + layer) for layer in (1, 2))
        hidden = layers.Dense(2 * length, activation="relu", kernel_initializer=first)
        self.head = keras.Sequential([keras.Input((length,)), hidden, layers.Dense(length, kernel_initializer=second)])

    def call(self, pairs, training=False):
        """``(N, 2, H, W, C)`` pairs of images → projections ``(2N, D)`` of their views, first views, and these rebuilt.

        Rebuilding the first view of each pair is enough to keep the code complete.
        """
        views = self.augment(ops.concatenate([pairs[:, 0], pairs[:, 1]]))
        codes = self.encoder(views, training=training)
        half = ops.shape(pairs)[0]
        return self.head(codes), views[:half], self.decoder(codes[:half])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        projections, views, rebuilt = y_pred
        return ops.mean(keras.losses.binary_crossentropy(views, rebuilt)) + WEIGHT * nt_xent(projections)


def nt_xent(projections, temperature=TEMPERATURE):
    """The normalised temperature-scaled cross-entropy of projections ``(2N, D)``; row i and row i + N are a pair.

    ``-log( exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ) )`` with s the cosine, averaged over all rows (Chen et al. 2020,
    equation 1).
    """
    unit = ops.normalize(projections, axis=1)
    count = ops.shape(unit)[0]
    similarity = ops.matmul(unit, ops.transpose(unit)) / temperature
    others = similarity - 1e9 * ops.eye(count)
    partners = ops.sum(unit * ops.roll(unit, count // 2, axis=0), axis=1) / temperature
    return ops.mean(ops.logsumexp(others, axis=1) - partners)


def _finite_codes(encoder, images, epoch):
    """The codes of images; FloatingPointError if the last step of ``epoch`` made the weights NaN or infinite."""
    codes = encode(encoder, images)
    if not np.isfinite(codes).all():
        raise FloatingPointError(f"training diverged: the codes are not finite after epoch {epoch}; {REMEDY}")
    return codes


def mutual(hits):
    """Which hits are mutual: ``hits (N, K)``, each image's nearest others, → bool ``(N, K)``.

    Hit j of image i is mutual if i is among the hits of j.

    >>> mutual(np.array([[1], [0], [1]]))
    array([[ True],
           [ True],
           [False]])
    """
    count = len(hits)
    images = np.arange(count)[:, None]
    known = np.sort((images * count + hits).ravel())  # each pair (image, hit) as one number
    reverse = (hits * count + images).ravel()
    place = np.minimum(np.searchsorted(known, reverse), len(known) - 1)
    return (known[place] == reverse).reshape(hits.shape)
