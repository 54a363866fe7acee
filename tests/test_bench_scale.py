"""The stream of `make bench-scale`, and the whole of it on 20,000 images."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bench_scale  # noqa: E402

from cbir_utils.codes import unit_length  # noqa: E402
from cbir_utils.datasets import load_dataset  # noqa: E402
from cbir_utils.run import Run  # noqa: E402


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits").database.images


def test_the_stream_is_the_same_whenever_it_is_made_its_images_distinct_and_still_handwriting(images, monkeypatch):
    monkeypatch.setattr(bench_scale, "BATCH", 3000)  # each image of the database twice
    views = bench_scale.stream(images, 0)
    assert views.shape == (3000, *images.shape[1:]) and views.dtype == np.uint8
    assert len({view.tobytes() for view in views}) == 3000
    ink = views.mean(axis=(1, 2, 3)) / images[np.arange(3000) % len(images)].mean(axis=(1, 2, 3))
    assert 0.7 < np.median(ink) < 1.3 and (ink > 0.1).all()
    assert (bench_scale.stream(images, 0) == views).all() and (bench_scale.stream(images, 1) != views).any()


def test_without_a_deformation_the_images_are_unchanged(images):
    class Still:
        def uniform(self, low, high):
            return 0.0

        def normal(self, mean, deviation, shape):
            return np.zeros(shape)

    few = images[:20, :, :, 0]
    assert (bench_scale.deformed(few, Still()) == few).all()


@pytest.mark.long
def test_the_whole_on_20_000_images(tmp_path):
    from cbir_utils.models import keras
    from cbir_utils.training import encode, load_model

    layers = keras.layers
    encoder = keras.Sequential([keras.Input((28, 28, 1)), layers.AveragePooling2D(4), layers.Flatten()], name="encoder")
    run = Run("digits", tmp_path)
    with run.writing("small/encoder.keras") as partial:
        encoder.save(partial)
    arguments = ["--dataset", "digits", "--method", "small", "--results", str(tmp_path), "--sizes", "20000", "40000"]
    bench_scale.main(arguments)
    found = json.loads((tmp_path / "bench" / "scale_digits.json").read_text())
    assert [row["rows"] for row in found["rows"]] == [20_000, 40_000]
    for row in found["rows"]:
        assert row["recall@10"] >= 0.8  # tuned to more on rows; the queries are unlike most of them
        assert row["index_bytes_per_image"] < 60  # the lists' centres weigh more the fewer images there are
    assert (tmp_path / "bench" / "scale_digits.png").stat().st_size > 10_000

    # The codes are those of the stream's images.
    folder = tmp_path / "bench" / "scale" / "digits_small"
    data, encoder = load_dataset("digits"), load_model(run.path("small/encoder.keras"))
    codes = np.fromfile(folder / "codes.f16", np.float16).reshape(40_000, -1)
    views = np.concatenate([bench_scale.stream(data.database.images, number) for number in range(2)])
    assert (codes == unit_length(encode(encoder, views)).astype(np.float16)).all()

    # A second start encodes nothing anew; another encoder's codes are not mixed in.
    state, images = (folder / "state.json").read_text(), (data.database.images, data.queries.images)
    bench_scale.encode_stream(folder, *images, encoder, run.file_hash("small/encoder.keras"), 20_000)
    assert (folder / "state.json").read_text() == state
    assert set(json.loads(state)["seconds_at"]) == {"20000", "40000"}  # what any size on the way took
    with pytest.raises(SystemExit, match="holds the stream of another encoder; remove it and start again"):
        bench_scale.encode_stream(folder, *images, encoder, "0" * 64, 60_000)
