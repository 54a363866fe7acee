"""The autoencoders. Each builder returns encoder, decoder and autoencoder as three named Keras models.

Keras 3, backend-neutral: nothing here knows TensorFlow from JAX or PyTorch.
"""

import logging
import math
import os
from contextlib import contextmanager
from typing import NamedTuple


@contextmanager
def _quiet():
    """Silence file descriptor 2: TensorFlow writes notes there on import, before its logging can be set up.

    They say that there is no GPU, and fill the first cell of a notebook. Python's exceptions still come through.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the same for its later notes; set it to 0 to read them
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


with _quiet():
    import keras
    from keras import layers, ops

# TensorFlow warns when a notebook builds many networks, as a comparison does.
logging.getLogger("tensorflow").setLevel(logging.ERROR)


class Autoencoder(NamedTuple):
    """Three models over the same weights: ``autoencoder(x) = decoder(encoder(x))`` (paper, equation 1)."""

    encoder: keras.Model
    decoder: keras.Model
    autoencoder: keras.Model  #: the one to train; noise and penalties act in training only

    @property
    def plain(self):
        """``decoder(encoder(x))`` without what only training needs, so that any Keras program can load it."""
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


# -- the family: the kinds that the paper's section III lists ---------------------------------------------------------


def build_undercomplete(input_shape=(28, 28, 1), *, code_length=128, seed=0):
    """One layer down to a code shorter than the image, one layer back.

    Loss: the reconstruction's alone; what keeps it from copying is the short code. The code is linear: with squared
    error and a linear output such a network finds PCA's subspace (Baldi and Hornik 1989).
    """
    return _dense_autoencoder(input_shape, (), code_length, seed)


def build_deep(input_shape=(28, 28, 1), *, code_length=128, seed=0):
    """Several layers down and back, 512 and 256 wide (Hinton and Salakhutdinov 2006). Loss: the reconstruction's."""
    return _dense_autoencoder(input_shape, (512, 256), code_length, seed)


def build_sparse(input_shape=(28, 28, 1), *, code_length=128, weight=0.02, seed=0):
    """Codes of which most numbers are near zero: loss = reconstruction + weight · Σ_j |z_j| / pixels.

    The codes leave a ReLU, so that a number can be exactly zero (Goodfellow, Bengio and Courville 2016, Deep
    Learning).
    """
    model = _dense_autoencoder(input_shape, (), code_length, seed, activation="relu")
    image = keras.Input(input_shape, name="image")
    codes = _Sparsity(weight / math.prod(input_shape))(model.encoder(image))
    return model._replace(autoencoder=keras.Model(image, model.decoder(codes), name="autoencoder"))


def build_contractive(input_shape=(28, 28, 1), *, code_length=128, weight=0.1, seed=0):
    """Codes that move little when the image does: loss = reconstruction + weight · ‖∂z/∂x‖²_F / pixels.

    The Jacobian's squared Frobenius norm is exact: for z = sigmoid(W x + b) it is
    ``Σ_j (z_j (1 - z_j))² Σ_i W_ij²``, averaged over the batch (Rifai et al. 2011, Contractive auto-encoders).
    """
    model = _dense_autoencoder(input_shape, (), code_length, seed, activation="sigmoid")
    image = keras.Input(input_shape, name="image")
    codes = _Contraction(model.encoder.layers[-1], weight / math.prod(input_shape))(model.encoder(image))
    return model._replace(autoencoder=keras.Model(image, model.decoder(codes), name="autoencoder"))


def build_denoising(input_shape=(28, 28, 1), *, code_length=128, noise=0.5, seed=0):
    """The deep network, shown noisy images and asked for clean ones (Vincent et al. 2008).

    Loss: the reconstruction's, of the clean image. In training, normal noise of standard deviation ``noise`` is added
    to each pixel, one of the kinds of noise in Vincent et al. 2010.
    """
    model = build_deep(input_shape, code_length=code_length, seed=seed)
    image = keras.Input(input_shape, name="image")
    noisy = layers.GaussianNoise(noise, seed=seed)(image)
    autoencoder = keras.Model(image, model.decoder(model.encoder(noisy)), name="autoencoder")
    return model._replace(autoencoder=autoencoder)


def build_variational(input_shape=(28, 28, 1), *, code_length=128, seed=0):
    """Codes drawn from a normal distribution: loss = reconstruction + KL(q(z|x) ‖ N(0, 1)) / pixels.

    ``KL = ½ Σ_j (μ_j² + σ_j² - 1 - log σ_j²)`` (Kingma and Welling 2014). The decoder is trained on
    ``z = μ + σ ε`` with ε from N(0, 1); the encoder gives the posterior mean μ, and so does ``plain``.
    """
    trunk_and_mean = build_deep(input_shape, code_length=code_length, seed=seed)
    image = trunk_and_mean.encoder.input
    trunk = trunk_and_mean.encoder.layers[-2].output
    spread = layers.Dense(code_length, name="log_variance", kernel_initializer="zeros")(trunk)
    codes = _Sampling(1 / math.prod(input_shape), seed)([trunk_and_mean.encoder.output, spread])
    return trunk_and_mean._replace(autoencoder=keras.Model(image, trunk_and_mean.decoder(codes), name="autoencoder"))


#: The kinds by name, in the order of the paper's list, each a builder of ``(input_shape, seed=...)``.
FAMILY = {
    "undercomplete": build_undercomplete,
    "deep": build_deep,
    "sparse": build_sparse,
    "contractive": build_contractive,
    "denoising": build_denoising,
    "convolutional": build_convolutional,
    "variational": build_variational,
}


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
    decoder = _dense_decoder(input_shape, (256,), code_length, initializer)
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


def _dense_autoencoder(input_shape, widths, code_length, seed, activation="linear"):
    """Dense layers of ``widths`` down to the code, and the same back up to the image."""
    seeds = iter(range(10 * seed, 10 * seed + 10))

    def initializer():
        return keras.initializers.GlorotUniform(seed=next(seeds))

    image = keras.Input(input_shape, name="image")
    x = layers.Flatten()(image)
    for width in widths:
        x = layers.Dense(width, activation="relu", kernel_initializer=initializer())(x)
    code = layers.Dense(code_length, activation=activation, kernel_initializer=initializer())(x)
    encoder = keras.Model(image, code, name="encoder")
    decoder = _dense_decoder(input_shape, widths[::-1], code_length, initializer)
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


def _dense_decoder(input_shape, widths, code_length, initializer):
    """Dense layers of ``widths`` from the code up to an image in [0, 1]."""
    code = keras.Input((code_length,), name="code")
    x = code
    for width in widths:
        x = layers.Dense(width, activation="relu", kernel_initializer=initializer())(x)
    x = layers.Dense(math.prod(input_shape), activation="sigmoid", kernel_initializer=initializer())(x)
    return keras.Model(code, layers.Reshape(input_shape)(x), name="decoder")


class _Sparsity(layers.Layer):
    """Passes codes on and adds the sum of their magnitudes, averaged over the batch, to the loss."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def call(self, codes):
        self.add_loss(self.weight * ops.mean(ops.sum(ops.abs(codes), axis=1)))
        return codes


class _Contraction(layers.Layer):
    """Passes the codes of a sigmoid layer on and adds its Jacobian's squared Frobenius norm to the loss."""

    def __init__(self, dense, weight):
        super().__init__()
        self.dense, self.weight = dense, weight

    def call(self, codes):
        slopes = ops.square(codes * (1 - codes))
        steepness = ops.sum(ops.square(self.dense.kernel), axis=0)
        self.add_loss(self.weight * ops.mean(ops.sum(slopes * steepness, axis=1)))
        return codes


class _Sampling(layers.Layer):
    """Draws codes around their means, in training only, and adds their divergence from N(0, 1) to the loss."""

    def __init__(self, weight, seed):
        super().__init__()
        self.weight = weight
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        mean, log_variance = inputs
        divergence = ops.sum(ops.square(mean) + ops.exp(log_variance) - 1 - log_variance, axis=1) / 2
        self.add_loss(self.weight * ops.mean(divergence))
        if not training:
            return mean
        return mean + ops.exp(log_variance / 2) * keras.random.normal(ops.shape(mean), seed=self.generator)
