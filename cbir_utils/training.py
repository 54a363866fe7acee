"""Training without labels: fitting an autoencoder, noticing its collapse, saving, loading and encoding."""

import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from cbir_utils.datasets import scale
from cbir_utils.models import keras  # imported there, without TensorFlow's notes

#: Reconstruction losses by name: how far the output is from the input, averaged over pixels and images.
LOSSES = {"binary_crossentropy": keras.losses.BinaryCrossentropy, "mse": keras.losses.MeanSquaredError}

#: Images that a network takes at once outside training; what helps against a training that diverges.
BLOCK, REMEDY = 512, "use a lower learning rate, or look for broken images"


class CollapsedAutoencoderError(RuntimeError):
    """The autoencoder reconstructs held-out images no better than the best constant image does.

    Its output then hardly depends on its input, and its codes may not either.
    """

    def __init__(self, loss, constant_loss, history):
        self.loss, self.constant_loss, self.history = loss, constant_loss, history
        super().__init__(
            f"the autoencoder has collapsed: its loss on held-out images is {loss:.4f}, and showing the mean image for "
            f"each gives {constant_loss:.4f}. Are all images alike? Else train with loss='binary_crossentropy', start "
            "from another seed, or, if the loss was still falling, train for more epochs"
        )


@dataclass
class History:
    """What happened in :func:`fit`: one entry per epoch, and how it ended.

    >>> history = History(loss=[0.4, 0.3], held_out_loss=[0.4, 0.35], best_epoch=2, constant_loss=0.36)
    >>> history.best_loss, history.collapsed
    (0.35, False)
    """

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
    seed=0,
    check_collapse=True,
    verbose=True,
):
    """Train an autoencoder to reproduce its input (Adam, as in the paper), and keep its best weights.

    A tenth of ``images`` is held out; its loss decides which epoch's weights are kept and when to stop. Ctrl-C ends the
    training early. The same seed, images and machine give the same weights.

    Parameters
    ----------
    autoencoder, images : keras.Model, ndarray
        Trained in place; ``(N, H, W, C)`` uint8, the database, never the queries. No labels.
    epochs, batch_size, learning_rate : int, int, float
        At most this many passes over the images, in batches of this many; Adam's step size.
    min_steps : int
        Where few images make fewer steps (batches) than this, epochs and patience are multiplied until they are enough.
    loss : {"binary_crossentropy", "mse"}
        ``"mse"`` is what the paper prints; with it, networks collapse (on MNIST nearly all, notebook 02).
    patience, seed : int
        Stop after this many epochs without a better held-out loss; seed of the held-out choice and of the batches.
    check_collapse, verbose : bool
        Raise at the end if the autoencoder has collapsed; show progress.

    Returns a :class:`History`. Raises :class:`CollapsedAutoencoderError` if the held-out loss is no lower than that of
    the best constant image (the mean, which minimises both losses), FloatingPointError if the loss becomes NaN or
    infinite, ValueError for images of the wrong form or arguments out of range.
    """
    images = check_images(images, autoencoder.input_shape[1:])
    if loss not in LOSSES:
        raise ValueError(f"there is no loss {loss!r}; choose one of {', '.join(LOSSES)}")
    if epochs < 1 or batch_size < 1 or patience < 1:
        raise ValueError(f"epochs, batch_size and patience must be 1 or more: {epochs}, {batch_size}, {patience}")
    if len(images) < 2:
        raise ValueError("one image is too few: a part of the images is held out")
    rng = np.random.default_rng(seed)
    held, train = _split(images, rng)
    batch_size = min(batch_size, len(train))
    longer = max(1, -(-min_steps // (epochs * (len(train) // batch_size))))  # rounded up
    epochs, patience = longer * epochs, longer * patience

    measure, mean = LOSSES[loss](), scale(train.mean(axis=0))
    history = History(constant_loss=_mean_loss(measure, held, lambda batch: np.broadcast_to(mean, batch.shape)))
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(autoencoder.trainable_variables)  # else TensorFlow traces the first step twice
    # Without XLA: compiling takes longer than it saves in a training this short.
    autoencoder.compile(optimizer, measure, jit_compile=False)
    best_weights = None
    with progress(epochs, history, verbose) as bar:
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            order = rng.permutation(len(train))
            train_epoch(autoencoder, history, order, batch_size, lambda rows: [scale(train[rows])] * 2)
            history.held_out_loss.append(_mean_loss(measure, held, autoencoder.predict_on_batch))
            history.seconds.append(time.perf_counter() - start)
            if history.held_out_loss[-1] < history.best_loss:
                history.best_epoch, best_weights = epoch, autoencoder.get_weights()
            bar.set_postfix(loss=f"{history.loss[-1]:.4f}", held_out=f"{history.held_out_loss[-1]:.4f}")
            bar.update()
            if epoch - history.best_epoch >= patience:
                break
    if best_weights is not None:
        autoencoder.set_weights(best_weights)
    if check_collapse and history.collapsed and not history.interrupted:
        raise CollapsedAutoencoderError(history.best_loss, history.constant_loss, history)
    return history


@contextmanager
def progress(epochs, history, verbose):
    """A progress bar over at most ``epochs``, and a line at the end. Ctrl-C ends the block and is noted."""
    with tqdm(total=epochs, desc="training", unit="epoch", leave=False, disable=not verbose) as bar:
        try:
            yield bar
        except KeyboardInterrupt:
            history.interrupted = True
    if verbose:
        how = "stopped by hand" if history.interrupted else "trained"
        print(f"{how} after {len(history.seconds)} epochs, {sum(history.seconds):.0f} s")


def train_epoch(model, history, order, batch_size, batch_of):
    """One pass over rows in this order: full batches ``batch_of(rows)``; the mean of their losses enters the history.

    A plain loop, because on two cores Keras's own ``fit`` took more than twice as long for epochs of a second.
    """
    losses = []
    for start in range(0, len(order) - batch_size + 1, batch_size):
        model.reset_metrics()  # Keras before 3.15 returned the mean of all losses since the last reset
        losses.append(float(model.train_on_batch(*batch_of(order[start : start + batch_size]))))
    history.loss.append(float(np.mean(losses)))
    if not np.isfinite(history.loss[-1]):
        when = f"in epoch {len(history.loss)}"
        raise FloatingPointError(f"training diverged: the loss is {history.loss[-1]} {when}; {REMEDY}")


def _split(images, rng):
    """A tenth of the images, one at least, and the rest, each in the order of the images."""
    order, count = rng.permutation(len(images)), max(1, round(0.1 * len(images)))
    return images[np.sort(order[:count])], images[np.sort(order[count:])]


def _mean_loss(measure, images, rebuild):
    """The mean reconstruction loss over ``images``, without penalties, which act in training only."""
    total = 0.0
    for start in range(0, len(images), BLOCK):
        batch = scale(images[start : start + BLOCK])
        total += float(measure(batch, rebuild(batch))) * len(batch)
    return total / len(images)


def check_images(images, input_shape):
    """``images`` as an array, if they are ``(N, H, W, C)`` uint8 and fit the model; else a ValueError."""
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"images must be a non-empty uint8 (N, H, W, C) array, not {images.dtype} {images.shape}")
    if images.shape[1:] != tuple(input_shape):
        raise ValueError(f"the model takes images of shape {tuple(input_shape)}, but these are {images.shape[1:]}")
    return images


def _in_blocks(model, rows, prepare):
    """Apply a model to ``rows`` block by block; float32."""
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    return np.concatenate([model.predict_on_batch(prepare(b)) for b in blocks]).astype(np.float32, copy=False)


def encode(encoder, images):
    """The codes of images: ``(N, H, W, C)`` uint8 → ``(N, D)`` float32."""
    return _in_blocks(encoder, check_images(images, encoder.input_shape[1:]), scale)


def reconstruct(autoencoder, images):
    """What an autoencoder makes of images: ``(N, H, W, C)`` uint8 → float32 in [0, 1] of the same shape."""
    return _in_blocks(autoencoder, check_images(images, autoencoder.input_shape[1:]), scale)


def decode(decoder, codes):
    """The images of codes: ``(N, D)`` → ``(N, H, W, C)`` float32 in [0, 1]."""
    codes = np.asarray(codes, dtype=np.float32)
    if codes.ndim != 2 or codes.shape[1:] != decoder.input_shape[1:] or len(codes) == 0:
        raise ValueError(f"the decoder takes codes of shape (N, {decoder.input_shape[1]}), not {codes.shape}")
    return _in_blocks(decoder, codes, np.asarray)


def load_model(path):
    """Load a ``.keras`` file in safe mode (no code in it is run); raises ValueError if it is none."""
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file surfaces as one of many exceptions of zipfile, h5py and json
        raise ValueError(f"{path} is not a Keras model that can be loaded in safe mode ({error})") from error
