"""Training without labels: fitting an autoencoder, noticing its collapse, saving, loading and encoding."""

import time
from dataclasses import dataclass, field

import numpy as np

from cbir_utils.datasets import scale
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
    images = check_images(images, autoencoder.input_shape[1:])
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


def check_images(images, input_shape=None):
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
    return _in_batches(encoder, check_images(images, encoder.input_shape[1:]), scale, batch_size)


def reconstruct(autoencoder, images, batch_size=512):
    """What an autoencoder makes of images: ``(N, H, W, C)`` uint8 → float32 in [0, 1] of the same shape."""
    return _in_batches(autoencoder, check_images(images, autoencoder.input_shape[1:]), scale, batch_size)


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
