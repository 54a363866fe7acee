"""Contrastive training, guided by its own retrieval."""

import time
from dataclasses import dataclass, field

import numpy as np

from cbir_utils.codes import unit_length
from cbir_utils.datasets import scale
from cbir_utils.index import Index
from cbir_utils.methods.family import dense_decoder
from cbir_utils.methods.views import Augmentation
from cbir_utils.models import Autoencoder, keras
from cbir_utils.training import check_images, encode

layers = keras.layers


def build_contrastive(input_shape=(28, 28, 1), *, code_length=64, seed=0):
    """A small strided convolutional encoder for ``training.fit_contrastive``, with a decoder of two dense layers.

    Three convolutions of stride 2 (24, 64 and 128 filters) halve the image each; the second and third are batch
    normalised. The decoder is kept small because it costs time and retrieval never uses it.
    """
    seeds = iter(range(10 * seed, 10 * seed + 10))

    def initializer():
        return keras.initializers.HeNormal(seed=next(seeds))

    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(24, 5, strides=2, padding="same", activation="relu", kernel_initializer=initializer())(image)
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
    temperature=0.2,
    weight=0.1,
    learning_rate=1e-3,
    augment=None,
    seed=0,
    verbose=True,
):
    """Train an autoencoder so that two views of an image get like codes; then, by rounds, mutual neighbours too.

    The loss is ``reconstruction + weight · NT-Xent``. For the first ``epochs`` the two views are of one image (SimCLR,
    Chen et al. 2020, equation 1). Then each *round* retrieves the nearest ``neighbours`` of every image, takes a hit
    for right if it is mutual (each is among the other's hits), and trains an epoch in which the second view is of a
    mutual hit drawn at random (neighbours as positives: Dwibedi et al. 2021): the paper's training by retrieval
    (section V-D), made label-free. The rounds end early once neither the loss nor the share of mutual hits improves.

    NT-Xent compares codes behind a projection head of two dense layers, which is dropped afterwards (Chen et al. 2020,
    section 4.2). The step size falls to zero along half a cosine. Ctrl-C ends the training early.

    Parameters
    ----------
    autoencoder : Autoencoder
        Its encoder and decoder are trained in place.
    images : ndarray
        ``(N, H, W, C)`` uint8: the database, never the queries. No labels.
    epochs, rounds : int
        Epochs before the first round, and rounds at most, each with an epoch of its own.
    neighbours : int
        Hits per image in a retrieval.
    batch_size : int
        Images per step; each has two views.
    temperature, weight : float
        Of NT-Xent.
    learning_rate : float
        Adam's, at the start.
    augment : callable, optional
        Makes views, such as an ``Augmentation``; by default one with this ``seed``.
    seed : int
        Of the projection head, the views and the order of the batches.
    verbose : bool
        Print a line per epoch.

    Returns
    -------
    ContrastiveHistory

    Raises
    ------
    CollapsedCodesError
        If all images end with one and the same code.
    FloatingPointError
        If the loss becomes NaN or infinite; names the epoch.
    ValueError
        For images of the wrong form, or fewer of them than a batch of 2 or the neighbours need.
    """
    images = check_images(images, autoencoder.encoder.input_shape[1:])
    if epochs < 1 or rounds < 0 or batch_size < 2:
        raise ValueError(f"epochs must be 1 or more, rounds 0 or more and batch_size 2 or more: {epochs}, {rounds}, "
                         f"{batch_size}")  # fmt: skip
    if len(images) < 2:
        raise ValueError("one image cannot be told apart from others; contrastive training needs two or more")
    if rounds and len(images) <= neighbours:
        raise ValueError(f"{neighbours} neighbours of each need more than {neighbours} images, and there are "
                         f"{len(images)}; lower neighbours")  # fmt: skip
    batch_size = min(batch_size, len(images))
    steps = len(images) // batch_size
    rng = np.random.default_rng(seed)
    model = _Contrastive(autoencoder, augment or Augmentation(seed), temperature, weight, seed)
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, (epochs + rounds) * steps)
    model.compile(keras.optimizers.Adam(decay), jit_compile=False)

    history = ContrastiveHistory(plain_epochs=epochs)
    try:
        for epoch in range(1, epochs + rounds + 1):
            start = time.perf_counter()
            positives = None
            if epoch > epochs:
                codes = _finite_codes(autoencoder.encoder, images, epoch - 1)
                hits = Index("cosine").add(codes).search(codes, neighbours, exclude_self=np.arange(len(images))).ids
                right = mutual(hits)
                history.mutual_share.append(float(right.mean()))
                if not _improving(history):
                    if verbose:
                        print(f"mutual hits {history.mutual_share[-1]:.1%}: neither they nor the loss improve any more",
                              flush=True)  # fmt: skip
                    break
                positives = (hits, right)
            history.loss.append(_contrastive_epoch(model, images, positives, batch_size, rng))
            history.seconds.append(time.perf_counter() - start)
            if not np.isfinite(history.loss[-1]):
                raise FloatingPointError(
                    f"training diverged: the loss is {history.loss[-1]} in epoch {epoch}; use a lower learning rate"
                )
            if verbose:
                guided = f"   mutual hits {history.mutual_share[-1]:.1%}" if positives else ""
                print(f"epoch {epoch:>3}/{epochs + rounds}   loss {history.loss[-1]:.4f}   "
                      f"{history.seconds[-1]:.1f} s{guided}", flush=True)  # fmt: skip
    except KeyboardInterrupt:
        history.interrupted = True
        if verbose:
            print(f"stopped by hand after {len(history.seconds)} epochs; the weights are kept as they are", flush=True)
    if not history.interrupted:
        some = images[np.linspace(0, len(images) - 1, min(1000, len(images)), dtype=int)]
        _refuse_one_code(_finite_codes(autoencoder.encoder, some, len(history.loss)))
    return history


def _improving(history):
    """Whether the last round lowered the loss, or raised the share of mutual hits, below or above all earlier ones."""
    shares, losses = history.mutual_share, history.loss[history.plain_epochs :]
    return len(losses) < 2 or shares[-1] > max(shares[:-1]) or losses[-1] < min(losses[:-1])


class _Contrastive(keras.Model):
    """An autoencoder with augmentation before it and a projection head beside the decoder: the thing trained."""

    def __init__(self, autoencoder, augment, temperature, weight, seed):
        super().__init__(name="contrastive")
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        self.augment, self.temperature, self.weight = augment, temperature, weight
        length = self.encoder.output_shape[1]
        self.head = keras.Sequential(
            [
                keras.Input((length,)),
                keras.layers.Dense(2 * length, activation="relu", kernel_initializer=_glorot(100 * seed + 1)),
                keras.layers.Dense(length, kernel_initializer=_glorot(100 * seed + 2)),
            ]
        )

    def call(self, pairs, training=False):
        """``(N, 2, H, W, C)`` pairs of images → projections ``(2N, D)`` of their views, first views, and these rebuilt.

        Only the first view of a pair is rebuilt: the decoder keeps the code complete, and half of the views will do.
        """
        views = self.augment(keras.ops.concatenate([pairs[:, 0], pairs[:, 1]]))
        codes = self.encoder(views, training=training)
        half = keras.ops.shape(pairs)[0]
        return self.head(codes), views[:half], self.decoder(codes[:half])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        projections, views, rebuilt = y_pred
        reconstruction = keras.ops.mean(keras.losses.binary_crossentropy(views, rebuilt))
        return reconstruction + self.weight * nt_xent(projections, self.temperature)


def nt_xent(projections, temperature):
    """The normalised temperature-scaled cross-entropy of ``2N`` projections, row i and row i + N being a pair.

    ``-log( exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ) )`` with s the cosine, averaged over all rows (Chen et al. 2020,
    equation 1).
    """
    ops = keras.ops
    unit = ops.normalize(projections, axis=1)
    count = ops.shape(unit)[0]
    similarity = ops.matmul(unit, ops.transpose(unit)) / temperature
    others = similarity - 1e9 * ops.eye(count)
    partners = ops.sum(unit * ops.roll(unit, count // 2, axis=0), axis=1) / temperature
    return ops.mean(ops.logsumexp(others, axis=1) - partners)


def _contrastive_epoch(model, images, positives, batch_size, rng):
    """One pass over ``images`` with, as second views, those of mutual hits (or of the image itself); the mean loss."""
    partners = np.arange(len(images))
    if positives is not None:
        hits, right = positives
        drawn = (right * rng.random(right.shape)).argmax(axis=1)
        partners = np.where(right.any(axis=1), hits[partners, drawn], partners)
    order = rng.permutation(len(images))
    losses = []
    for start in range(0, len(images) - batch_size + 1, batch_size):
        batch = order[start : start + batch_size]
        losses.append(float(model.train_on_batch(scale(images[np.stack([batch, partners[batch]], axis=1)]))))
    return float(np.mean(losses))


def _finite_codes(encoder, images, epoch):
    """The codes of images; FloatingPointError if the last step of ``epoch`` left the weights without values."""
    codes = encode(encoder, images)
    if not np.isfinite(codes).all():
        raise FloatingPointError(
            f"training diverged: the codes are not finite after epoch {epoch}; use a lower learning rate"
        )
    return codes


def _refuse_one_code(codes):
    """Raise :class:`CollapsedCodesError` if all codes point in one direction."""
    if unit_length(codes).std(axis=0).max() <= 1e-4:
        raise CollapsedCodesError(
            "the codes have collapsed: all images have the same one. Are the images all alike? Otherwise use a lower "
            "learning rate or another seed"
        )


def _glorot(seed):
    return keras.initializers.GlorotUniform(seed=seed)


def mutual(hits):
    """Which hits are mutual: ``hits (N, K)``, each image's nearest others, → bool ``(N, K)``.

    Hit j of image i is mutual if i is among the hits of j.
    """
    count = len(hits)
    images = np.arange(count)[:, None]
    known = np.sort((images * count + hits).ravel())  # each pair (image, hit) as one number
    reverse = (hits * count + images).ravel()
    place = np.minimum(np.searchsorted(known, reverse), len(known) - 1)
    return (known[place] == reverse).reshape(hits.shape)
