"""Any Keras model as the encoder: of a file, or one of ``keras.applications`` with ImageNet's weights.

What such a model knows it learned elsewhere, mostly from labels; every table and page says so.
"""

import inspect
import os

import numpy as np

from cbir_utils.models import keras
from cbir_utils.training import load_model

layers, ops = keras.layers, keras.ops

#: Side of the images that models of ``keras.applications`` were trained on.
SIDE = 224

#: Layers by which a model brings 0–255 to its own range.
RANGES = (layers.Rescaling, layers.Normalization)


class PretrainedError(ValueError):
    """A model cannot serve as the encoder; the message says why, and what helps."""


def pretrained_encoder(model, input_shape, *, weights="imagenet"):
    """A model that turns images ``(N, H, W, C)`` float32 in [0, 1] into codes ``(N, D)``, ready to be saved.

    It fits images to the model's size and channels, and their values to its range. Models of ``keras.applications``
    get what their ``preprocess_input`` does, as a 1 × 1 convolution. Another model gets 0–255 if it has a layer
    ``Rescaling`` or ``Normalization``, and [0, 1] if not. Maps of features are averaged.

    Parameters
    ----------
    model : str or Path
        A ``.keras`` file, or a name such as ``"MobileNetV3Small"``, whose weights come from Keras's cache or download.
    input_shape : tuple of int
        ``(H, W, C)`` of the images; C is 1 or 3.
    weights : str or None
        For a name: those of Keras, or None for random ones.

    Raises :class:`PretrainedError` for an unknown name, a damaged file, one with Python code in it (a Lambda layer), a
    model that takes no images, or weights that cannot be downloaded.
    """
    image = keras.Input(input_shape, name="image")
    if os.path.exists(model) or str(model).endswith(".keras"):
        network, prepare = _of_file(model)
    else:
        network, prepare = _of_name(str(model), weights)
    if len(network.inputs) != 1 or len(network.outputs) != 1 or len(network.inputs[0].shape) != 4:
        raise PretrainedError(f"{model} does not take one image and give one code; name another model")
    height, width, channels = network.inputs[0].shape[1:]
    x = image
    if channels != input_shape[2]:
        x = layers.Concatenate()([x] * 3) if channels == 3 else ops.mean(x, axis=-1, keepdims=True)
    if channels not in (1, 3):
        raise PretrainedError(f"{model} takes {channels} channels, and images have 1 or 3; name another model")
    if (height or input_shape[0], width or input_shape[1]) != input_shape[:2]:
        x = layers.Resizing(height or input_shape[0], width or input_shape[1])(x)
    code = network(prepare(x))
    code = layers.GlobalAveragePooling2D()(code) if len(code.shape) == 4 else layers.Flatten()(code)
    return keras.Model(image, code, name="encoder")


def _of_file(path):
    """The model of a file, and the layer that prepares [0, 1] for it."""
    try:
        network = load_model(path)
    except ValueError as error:
        raise PretrainedError(f"{error}; name another file") from error
    whole = any(isinstance(layer, RANGES) for layer in getattr(network, "layers", ()))
    return network, layers.Rescaling(255.0) if whole else layers.Identity()


def _of_name(name, weights):
    """The model of a name, and the layer that does to [0, 1] what its ``preprocess_input`` does to 0–255."""
    build = getattr(keras.applications, name, None)
    if not inspect.isfunction(build):
        raise PretrainedError(
            f"there is no model {name!r} in keras.applications, and no file of that name; name one such as "
            "MobileNetV3Small, or a .keras file"
        )
    try:
        network = build(include_top=False, weights=weights, input_shape=(SIDE, SIDE, 3))
    except Exception as error:  # of the download: URLError, timeouts and more, as plain Exception
        raise PretrainedError(
            f"the weights of {name} cannot be had ({str(error).splitlines()[0]}); connect to a network once, so that "
            "Keras keeps them, or name a .keras file"
        ) from error
    probes = np.float32([[[[0, 0, 0]]], [[[255, 0, 0]]], [[[0, 255, 0]]], [[[0, 0, 255]]]])
    prepared = inspect.getmodule(build).preprocess_input(probes.copy())  # of the model's family
    black, *primaries = np.asarray(prepared, np.float32).reshape(4, 3)
    prepare = layers.Conv2D(3, 1, trainable=False, name="prepare")
    prepare.build((None, SIDE, SIDE, 3))
    prepare.set_weights([(np.stack(primaries) - black).reshape(1, 1, 3, 3), black])
    return network, prepare
