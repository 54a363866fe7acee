"""The paper's network: held to its listing, and how it behaves at other sizes."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cbir_utils.models import build_convolutional

# Section VI-E of the paper, from input to output: layer, filters, padding.
LISTING = [
    ("Conv2D", 16, "same"), ("MaxPooling2D", None, "same"),
    ("Conv2D", 8, "same"), ("MaxPooling2D", None, "same"),
    ("Conv2D", 8, "same"), ("MaxPooling2D", None, "same"),
    ("Conv2D", 8, "same"), ("UpSampling2D", None, None),
    ("Conv2D", 8, "same"), ("UpSampling2D", None, None),
    ("Conv2D", 16, "valid"), ("UpSampling2D", None, None),
    ("Conv2D", 1, "same"),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return build_convolutional(seed=0)


def test_layers_and_sizes_are_those_of_the_paper_s_listing(model):
    layers = [*model.encoder.layers, *model.decoder.layers]
    layers = [x for x in layers if type(x).__name__ not in ("InputLayer", "Flatten", "Reshape")]
    assert [(type(x).__name__, getattr(x, "filters", None), getattr(x, "padding", None)) for x in layers] == LISTING
    convolutions = [x for x in layers if type(x).__name__ == "Conv2D"]
    assert [x.kernel_size for x in convolutions] == [(3, 3)] * 7
    assert [x.activation.__name__ for x in convolutions] == ["relu"] * 6 + ["sigmoid"]
    assert model.autoencoder.count_params() == 4385
    assert model.encoder.output_shape == (None, 128) and model.autoencoder.output_shape == (None, 28, 28, 1)
    assert [m.name for m in model] == ["encoder", "decoder", "autoencoder"]


def test_autoencoder_is_decoder_after_encoder(model):
    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    by_halves = model.decoder.predict_on_batch(model.encoder.predict_on_batch(images))
    np.testing.assert_allclose(model.autoencoder.predict_on_batch(images), by_halves, atol=1e-6)
    assert by_halves.min() >= 0 and by_halves.max() <= 1


@pytest.mark.parametrize("shape", [(28, 14, 1), (32, 32, 3), (20, 20, 1), (105, 64, 1)])
def test_other_sizes_come_back_at_their_size(shape):
    assert build_convolutional(shape).autoencoder.output_shape == (None, *shape)


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("os.abort()", -6),
        ("import no_such_module", 1),
        (
            "from types import SimpleNamespace as layers; Model = Input = None; "
            "config = layers(set_image_data_format=id, set_floatx=id)",
            0,
        ),
    ],
)
def test_what_the_import_writes_is_seen_only_if_it_fails(tmp_path, then, code):
    (tmp_path / "keras.py").write_text(f"import os; os.write(2, b'native words'); {then}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import cbir_utils.models"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == code and ("native words" in done.stderr) == (code != 0)


def test_tensorflow_s_own_notes_are_silent():
    done = subprocess.run(
        [sys.executable, "-c", "import cbir_utils.models"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("backend", ["no_such_backend", "torch"])
def test_a_backend_that_is_not_there_is_told_in_one_sentence(backend):
    if importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is installed here")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = [sys.executable, "-c", "import cbir_utils.models"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"ImportError: Keras cannot use {backend}, the backend that it was")


def test_the_user_s_settings_of_keras_change_nothing(tmp_path):
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow", "epsilon": 1e-7}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = (
        "import keras; from cbir_utils.models import build_convolutional\n"
        "model = build_convolutional((28, 28, 1)); print(model.autoencoder.output_shape, model.encoder.compute_dtype)"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "(None, 28, 28, 1) float32\n"
