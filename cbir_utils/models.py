"""The autoencoders. Each builder returns encoder, decoder and autoencoder as three named Keras models.

Keras 3, backend-neutral: nothing here knows TensorFlow from JAX or PyTorch.
"""

import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import NamedTuple


@contextmanager
def _notes_held_back():
    """Hold back what TensorFlow writes to file descriptor 2 when it is imported: that there is no GPU, and the like.

    No setting silences these notes. Another process holds them, so that they still appear if the import fails or kills
    this process.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for TensorFlow's later notes; set it to 0 to read them
    hold = [sys.executable, "-ISc", "import sys; sys.stderr.buffer.write(sys.stdin.buffer.read())"]
    holder = subprocess.Popen(hold, stdin=subprocess.PIPE, start_new_session=True)
    saved = os.dup(2)
    os.dup2(holder.stdin.fileno(), 2)
    holder.stdin.close()
    try:
        yield
        holder.kill()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        holder.wait()


try:
    with _notes_held_back():
        import keras
        from keras import layers
except (ModuleNotFoundError, ValueError) as error:
    wish = os.environ.get("KERAS_BACKEND", "what its settings file names")
    raise ImportError(
        f"Keras cannot use {wish}, the backend that it was told to use ({error}); unset KERAS_BACKEND, or install it"
    ) from None

# Whatever the user's settings file says: images here are (N, H, W, C), and codes float32.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")

# TensorFlow warns when a notebook builds many networks, as a comparison does.
logging.getLogger("tensorflow").setLevel(logging.ERROR)


class Autoencoder(NamedTuple):
    """Three models over the same weights: ``autoencoder(x) = decoder(encoder(x))`` (paper, equation 1)."""

    encoder: keras.Model
    decoder: keras.Model
    autoencoder: keras.Model  #: the one to train; noise and penalties act in training only

    @property
    def plain(self):
        """``decoder(encoder(x))`` without what only training needs, so that any Keras program loads it."""
        image = keras.Input(self.encoder.input_shape[1:], name="image")
        return keras.Model(image, self.decoder(self.encoder(image)), name="autoencoder")


def build_convolutional(input_shape=(28, 28, 1), *, seed=0):
    """The paper's convolutional autoencoder, layer by layer from its listing (section VI-E).

    At 28×28×1 it has 4,385 weights and a code of (4, 4, 8) flattened to 128 numbers, all ≥ 0 (they leave a
    ReLU). The listing's one convolution without padding brings 16 back to 14, so that the output is 28 again.
    That works out only where height and width are 4 more than a multiple of 8; at other sizes this
    convolution is padded as well and the surplus rows and columns are cropped.

    Parameters
    ----------
    input_shape : tuple of int
        ``(H, W, C)`` of the images, float32 in [0, 1].
    seed : int
        Seed of the weights (Glorot uniform, Keras's default, which the listing leaves unnamed).

    Returns
    -------
    Autoencoder
        The models ``encoder`` (images → codes ``(N, D)``), ``decoder`` (codes → images in [0, 1]) and
        ``autoencoder``.

    >>> build_convolutional((28, 28, 1)).encoder.output_shape
    (None, 128)
    """
    height, width, channels = input_shape
    as_listed = height % 8 == 4 and width % 8 == 4
    seeds = iter(range(7 * seed, 7 * seed + 7))  # the network has seven convolutions: no seed serves two

    def convolution(filters, activation="relu", padding="same"):
        initializer = keras.initializers.GlorotUniform(seed=next(seeds))
        return layers.Conv2D(filters, (3, 3), activation=activation, padding=padding, kernel_initializer=initializer)

    image = keras.Input(input_shape, name="image")
    x = image
    for filters in (16, 8, 8):
        x = convolution(filters)(x)
        x = layers.MaxPooling2D((2, 2), padding="same")(x)
    grid = x.shape[1:]
    encoder = keras.Model(image, layers.Flatten()(x), name="encoder")

    code = keras.Input(encoder.output_shape[1:], name="code")
    x = layers.Reshape(grid)(code)
    for filters, padding in ((8, "same"), (8, "same"), (16, "valid" if as_listed else "same")):
        x = convolution(filters, padding=padding)(x)
        x = layers.UpSampling2D((2, 2))(x)
    x = convolution(channels, activation="sigmoid")(x)
    if not as_listed:
        x = layers.Cropping2D(((0, x.shape[1] - height), (0, x.shape[2] - width)))(x)
    decoder = keras.Model(code, x, name="decoder")
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))
