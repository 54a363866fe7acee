"""The other kinds of autoencoder that the paper's section III lists, each as encoder, decoder and autoencoder."""

import math

from cbir_utils.models import Autoencoder, build_convolutional, keras

layers, ops = keras.layers, keras.ops


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

    The codes leave a ReLU, so that a number can be exactly zero (Goodfellow, Bengio and Courville 2016, Deep Learning).
    """
    model = _dense_autoencoder(input_shape, (), code_length, seed, activation="relu")
    penalty = _Penalty(weight / math.prod(input_shape), lambda codes: ops.sum(ops.abs(codes), axis=1))
    return _between(model, penalty)


def build_contractive(input_shape=(28, 28, 1), *, code_length=128, weight=0.1, seed=0):
    """Codes that move little when the image does: loss = reconstruction + weight · ‖∂z/∂x‖²_F / pixels.

    The Jacobian's squared Frobenius norm is exact: for z = sigmoid(W x + b) it is
    ``Σ_j (z_j (1 - z_j))² Σ_i W_ij²``, averaged over the batch (Rifai et al. 2011, Contractive auto-encoders).
    """
    model = _dense_autoencoder(input_shape, (), code_length, seed, activation="sigmoid")

    def steepness(codes):
        rows = ops.sum(ops.square(model.encoder.layers[-1].kernel), axis=0)
        return ops.sum(ops.square(codes * (1 - codes)) * rows, axis=1)

    return _between(model, _Penalty(weight / math.prod(input_shape), steepness))


def build_denoising(input_shape=(28, 28, 1), *, code_length=128, noise=0.5, seed=0):
    """The deep network, shown noisy images and asked for clean ones (Vincent et al. 2008).

    Loss: the reconstruction's, of the clean image. In training, normal noise of standard deviation ``noise`` is added
    to each pixel, one of the kinds of noise in Vincent et al. 2010.
    """
    model = build_deep(input_shape, code_length=code_length, seed=seed)
    return _between(model, before=layers.GaussianNoise(noise, seed=seed))


def build_variational(input_shape=(28, 28, 1), *, code_length=128, seed=0):
    """Codes drawn from a normal distribution: loss = reconstruction + KL(q(z|x) ‖ N(0, 1)) / pixels.

    ``KL = ½ Σ_j (μ_j² + σ_j² - 1 - log σ_j²)`` (Kingma and Welling 2014). The decoder is trained on
    ``z = μ + σ ε`` with ε from N(0, 1); the encoder gives the posterior mean μ, and so does ``plain``.
    """
    model = build_deep(input_shape, code_length=code_length, seed=seed)
    trunk = model.encoder.layers[-2].output
    spread = layers.Dense(code_length, name="log_variance", kernel_initializer="zeros")(trunk)
    codes = _Sampling(1 / math.prod(input_shape), seed)([model.encoder.output, spread])
    return model._replace(autoencoder=keras.Model(model.encoder.input, model.decoder(codes), name="autoencoder"))


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


def _between(model, after=lambda codes: codes, *, before=lambda image: image):
    """The model with a layer before its encoder, or after it, in training."""
    image = keras.Input(model.encoder.input_shape[1:], name="image")
    codes = after(model.encoder(before(image)))
    return model._replace(autoencoder=keras.Model(image, model.decoder(codes), name="autoencoder"))


def _dense_autoencoder(input_shape, widths, code_length, seed, activation="linear"):
    """Dense layers of ``widths`` down to the code, and the same back up to the image."""
    seeds = iter(range(10 * seed, 10 * seed + 10))

    def initializer():
        return keras.initializers.GlorotUniform(seed=next(seeds))

    image = keras.Input(input_shape, name="image")
    x = layers.Flatten()(pooled(image))
    for width in widths:
        x = layers.Dense(width, activation="relu", kernel_initializer=initializer())(x)
    code = layers.Dense(code_length, activation=activation, kernel_initializer=initializer())(x)
    encoder = keras.Model(image, code, name="encoder")
    decoder = dense_decoder(input_shape, widths[::-1], code_length, initializer)
    return Autoencoder(encoder, decoder, keras.Model(image, decoder(encoder(image)), name="autoencoder"))


def dense_decoder(input_shape, widths, code_length, initializer):
    """Dense layers of ``widths`` from the code up to an image in [0, 1]; a large one is enlarged from squares."""
    code = keras.Input((code_length,), name="code")
    grid = pooled(keras.Input(input_shape)).shape[1:]
    x = code
    for width in widths:
        x = layers.Dense(width, activation="relu", kernel_initializer=initializer())(x)
    x = layers.Dense(math.prod(grid), activation="sigmoid", kernel_initializer=initializer())(x)
    x = layers.Reshape(grid)(x)
    if grid != tuple(input_shape):
        x = layers.Resizing(*input_shape[:2], interpolation="nearest")(x)
    return keras.Model(code, x, name="decoder")


def pooled(image):
    """Images ``(N, H, W, C)``, those of 64 pixels a side or more averaged over squares, to about 32.

    Photographs are read larger than the layers here can afford.
    """
    side = min(image.shape[1:3]) // 32
    return layers.AveragePooling2D(side)(image) if side > 1 else image


class _Penalty(layers.Layer):
    """Passes codes on and adds ``weight`` times what ``penalty`` says of each, averaged over the batch, to the loss."""

    def __init__(self, weight, penalty):
        super().__init__()
        self.weight, self.penalty = weight, penalty

    def call(self, codes):
        self.add_loss(self.weight * ops.mean(self.penalty(codes)))
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
