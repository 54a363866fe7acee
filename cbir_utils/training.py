"""Training without labels: fitting an autoencoder, noticing its collapse, saving, loading and encoding."""

import time
from dataclasses import dataclass, field

import numpy as np

from cbir_utils.methods.views import Augmentation
from cbir_utils.datasets import scale
from cbir_utils.index import Index, mutual, unit_length
from cbir_utils.models import keras  # imported there, quietly

#: Reconstruction losses by name: how far the output is from the input, averaged over pixels and images.
LOSSES = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "mse": keras.losses.MeanSquaredError,
}


class CollapsedAutoencoderError(RuntimeError):
    """The autoencoder reconstructs held-out images no better than the best constant image does.

    Its output then hardly depends on its input, so its codes need not either. Has ``loss`` (the autoencoder's),
    ``constant_loss`` (the best constant image's) and ``history``.
    """

    def __init__(self, loss, constant_loss, history):
        self.loss, self.constant_loss, self.history = loss, constant_loss, history
        super().__init__(
            f"the autoencoder has collapsed: its loss on held-out images is {loss:.4f}, and showing one and the same "
            f"image (the mean) for each gives {constant_loss:.4f}. Train with loss='binary_crossentropy', "
            "start from another seed, or, if the loss was still falling, train for more epochs"
        )


class CollapsedCodesError(RuntimeError):
    """After contrastive training all images have the same code."""


@dataclass
class History:
    """What happened while training: one entry per epoch, and how it ended."""

    loss: list[float] = field(default_factory=list)  #: mean over the epoch's batches, with any penalties
    held_out_loss: list[float] = field(default_factory=list)  #: the reconstruction's alone
    seconds: list[float] = field(default_factory=list)
    constant_loss: float = float("nan")  #: of the best constant image, on the held-out images
    best_epoch: int = 0  #: counted from 1; its weights are the ones kept
    interrupted: bool = False  #: stopped by hand (Ctrl-C, or the stop button of JupyterLab)

    @property
    def best_loss(self):
        """The held-out loss of the weights that were kept; infinite before the first epoch ends."""
        return self.held_out_loss[self.best_epoch - 1] if self.best_epoch else float("inf")

    @property
    def collapsed(self):
        """Whether the kept weights reconstruct held-out images no better than the best constant image."""
        return not self.best_loss < self.constant_loss


def fit(
    autoencoder,
    images,
    *,
    epochs,
    batch_size=128,
    min_steps=0,
    loss="binary_crossentropy",
    learning_rate=1e-3,
    patience=5,
    held_out=0.1,
    seed=0,
    check_collapse=True,
    verbose=True,
):
    """Train an autoencoder to reproduce its input (Adam, as in the paper), and keep its best weights.

    A part of ``images`` is held out; its loss decides which epoch's weights are kept and when to stop. Ctrl-C
    ends the training early and keeps the best weights so far. The same seed, images and machine give the same
    weights.

    Parameters
    ----------
    autoencoder : keras.Model
        Trained in place.
    images : ndarray
        ``(N, H, W, C)`` uint8: the database, never the queries. No labels.
    epochs, batch_size : int
        At most so many passes, in batches of so many images.
    min_steps : int
        Where few images make fewer steps (batches) of this than so many, epochs and patience are multiplied by the
        smallest whole number that makes them as many.
    loss : {"binary_crossentropy", "mse"}
        ``"mse"`` is what the paper prints; with it, networks collapse (on MNIST nearly all, notebook 02).
    learning_rate : float
        Adam's step size.
    patience : int
        Stop after so many epochs in a row without a better held-out loss.
    held_out : float
        The share of ``images`` held out, between 0 and 1.
    seed : int
        Of the held-out choice and the order of the batches.
    check_collapse : bool
        Raise at the end if the autoencoder has collapsed.
    verbose : bool
        Print a line per epoch.

    Returns
    -------
    History

    Raises
    ------
    CollapsedAutoencoderError
        If the held-out loss is no lower than that of the best constant image (the mean of the training part,
        which minimises both losses there).
    FloatingPointError
        If the loss becomes NaN or infinite; names the epoch.
    ValueError
        For images of the wrong form, or arguments out of range.
    """
    images = _check_images(images, autoencoder.input_shape[1:])
    if loss not in LOSSES:
        raise ValueError(f"there is no loss {loss!r}; choose one of {', '.join(LOSSES)}")
    if epochs < 1 or batch_size < 1 or patience < 1:
        raise ValueError(f"epochs, batch_size and patience must be 1 or more: {epochs}, {batch_size}, {patience}")
    if not 0 < held_out < 1 or len(images) < 2:
        raise ValueError(f"cannot hold out {held_out} of {len(images)} images; two or more are needed")

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    n_held_out = min(max(1, round(held_out * len(images))), len(images) - 1)
    held, train = images[np.sort(order[:n_held_out])], images[np.sort(order[n_held_out:])]

    steps = epochs * max(1, len(train) // batch_size)
    longer = max(1, -(-min_steps // steps))  # rounded up
    epochs, patience = longer * epochs, longer * patience

    history = History(constant_loss=_constant_loss(loss, train, held))
    best_weights = None
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(autoencoder.trainable_variables)  # else TensorFlow traces the first step twice
    # Without XLA: compiling takes longer than it saves in a training this short.
    autoencoder.compile(optimizer, LOSSES[loss](), jit_compile=False)
    try:
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            history.loss.append(_train_epoch(autoencoder, train, batch_size, rng))
            history.held_out_loss.append(_held_out_loss(autoencoder, LOSSES[loss](), held))
            history.seconds.append(time.perf_counter() - start)
            if not np.isfinite(history.loss[-1]):
                raise FloatingPointError(
                    f"training diverged: the loss is {history.loss[-1]} in epoch {epoch}; "
                    "use a lower learning rate, or look for broken images"
                )
            if history.held_out_loss[-1] < history.best_loss:
                history.best_epoch = epoch
                best_weights = autoencoder.get_weights()
            if verbose:
                print(
                    f"epoch {epoch:>3}/{epochs}   loss {history.loss[-1]:.4f}   "
                    f"held-out {history.held_out_loss[-1]:.4f}   {history.seconds[-1]:.1f} s",
                    flush=True,
                )
            if epoch - history.best_epoch >= patience:
                break
    except KeyboardInterrupt:
        history.interrupted = True
        if verbose:
            print(f"stopped by hand after {len(history.seconds)} epochs; the best weights so far are kept", flush=True)
    if best_weights is not None:
        autoencoder.set_weights(best_weights)
    if check_collapse and history.collapsed and not history.interrupted:
        raise CollapsedAutoencoderError(history.best_loss, history.constant_loss, history)
    return history


def _train_epoch(autoencoder, images, batch_size, rng):
    """One pass over ``images`` in a new random order; the mean loss of its batches.

    The images left over after the last full batch wait for another epoch's order. A plain loop, because on two
    cores Keras's own ``fit`` took more than twice as long for epochs of a second.
    """
    batch_size = min(batch_size, len(images))
    order = rng.permutation(len(images))
    losses = []
    for start in range(0, len(images) - batch_size + 1, batch_size):
        batch = scale(images[order[start : start + batch_size]])
        losses.append(float(autoencoder.train_on_batch(batch, batch)))
    return float(np.mean(losses))


def _held_out_loss(autoencoder, loss, images, batch_size=512):
    """The mean reconstruction loss over ``images``, without the penalties that some autoencoders add in training."""
    total = 0.0
    for start in range(0, len(images), batch_size):
        batch = scale(images[start : start + batch_size])
        total += float(loss(batch, autoencoder.predict_on_batch(batch))) * len(batch)
    return total / len(images)


def _constant_loss(loss, train, held):
    """The held-out loss of the best image that does not depend on the input: the mean of ``train``."""
    mean = scale(train.mean(axis=0))
    total = 0.0
    for start in range(0, len(held), 1024):
        batch = scale(held[start : start + 1024])
        constant = np.broadcast_to(mean, batch.shape)
        total += float(LOSSES[loss]()(batch, constant)) * len(batch)
    return total / len(held)


# -- contrastive training, guided by retrieval ----------------------------------------------------------------------


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
    images = _check_images(images, autoencoder.encoder.input_shape[1:])
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


def _check_images(images, input_shape=None):
    """``images`` as an array, if they are ``(N, H, W, C)`` uint8 and fit the model; else a ValueError."""
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"images must be a non-empty uint8 (N, H, W, C) array, not {images.dtype} {images.shape}")
    if input_shape is not None and images.shape[1:] != tuple(input_shape):
        raise ValueError(f"the model takes images of shape {tuple(input_shape)}, but these are {images.shape[1:]}")
    return images


def _in_batches(model, rows, prepare, batch_size):
    """Apply a model to ``rows`` batch by batch; float32."""
    parts = []
    for start in range(0, len(rows), batch_size):
        parts.append(model.predict_on_batch(prepare(rows[start : start + batch_size])))
    return np.concatenate(parts).astype(np.float32, copy=False)


def encode(encoder, images, batch_size=512):
    """The codes of images: ``(N, H, W, C)`` uint8 → ``(N, D)`` float32."""
    return _in_batches(encoder, _check_images(images, encoder.input_shape[1:]), scale, batch_size)


def reconstruct(autoencoder, images, batch_size=512):
    """What an autoencoder makes of images: ``(N, H, W, C)`` uint8 → float32 in [0, 1] of the same shape."""
    return _in_batches(autoencoder, _check_images(images, autoencoder.input_shape[1:]), scale, batch_size)


def decode(decoder, codes, batch_size=512):
    """The images of codes: ``(N, D)`` → ``(N, H, W, C)`` float32 in [0, 1]."""
    codes = np.asarray(codes, dtype=np.float32)
    if codes.ndim != 2 or codes.shape[1:] != decoder.input_shape[1:] or len(codes) == 0:
        raise ValueError(f"the decoder takes codes of shape (N, {decoder.input_shape[1]}), not {codes.shape}")
    return _in_batches(decoder, codes, np.asarray, batch_size)


def load_model(path):
    """Load a ``.keras`` file in safe mode (no code in it is run); raises ValueError if it is none."""
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file surfaces as one of many exceptions of zipfile, h5py and json
        raise ValueError(f"{path} is not a Keras model that can be loaded in safe mode ({error})") from error
