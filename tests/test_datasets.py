"""The image sources that are made on the spot, and what a source's name means."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cbir_utils.datasets import DatasetError, folder_kind, load_dataset, scale


def test_digits_are_1437_and_360_uint8_images_with_scikit_learns_labels():
    digits = load_dataset("digits")
    assert digits.name == "digits" and digits.class_names == tuple("0123456789")
    assert digits.database.images.shape == (1437, 28, 28, 1) and digits.queries.images.shape == (360, 28, 28, 1)
    labels = np.concatenate([digits.database.labels, digits.queries.labels])
    np.testing.assert_array_equal(labels, load_digits().target)
    assert digits.database.images.dtype == np.uint8 and labels.dtype == np.int64
    assert digits.ids is None and digits.own_rows is None and digits.rejects == () and digits.light is False
    assert digits.content_hash == load_dataset("digits").content_hash


def test_digits_are_upright_at_full_contrast_and_have_a_black_frame_of_four_pixels():
    images = load_dataset("digits").queries.images[..., 0]
    middles = 4 + ((np.arange(8) + 0.5) * 20 / 8).astype(int)
    sampled = images[:, middles][:, :, middles]
    assert np.corrcoef(sampled.ravel(), load_digits().images[1437:].ravel())[0, 1] > 0.95
    assert images.min() == 0 and images.max() == 255
    lit = load_dataset("digits").database.images[..., 0].any(axis=0)
    assert lit[4:24, 4:24].any(axis=1).all() and lit[4:24, 4:24].any(axis=0).all()
    lit[4:24, 4:24] = False
    assert not lit.any()


def test_own_rows_are_those_of_the_queries_asked_for():
    digits = load_dataset("digits")
    assert digits.own() is None and digits.own([0]) is None
    inside = replace(digits, own_rows=np.array([4, 2, 9]))
    assert inside.own().tolist() == [4, 2, 9] and inside.own(slice(2)).tolist() == [4, 2]
    assert inside.own([2, 0]).tolist() == [9, 4]


def test_scale_maps_0_to_255_to_float32_in_0_to_1():
    images = np.array([[0, 51], [102, 255]], np.uint8)
    scaled = scale(images)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.float32([[0, 0.2], [0.4, 1]]))
    assert images.tolist() == [[0, 51], [102, 255]]


def test_shapes_are_600_and_120_images_of_28_by_14_in_three_equal_classes():
    shapes, again, other = (load_dataset("shapes", seed=seed) for seed in (0, 0, 1))
    assert shapes.name == "shapes" and shapes.class_names == ("rectangle", "square", "circle")
    assert shapes.database.images.shape == (600, 28, 14, 1) and shapes.queries.images.shape == (120, 28, 14, 1)
    labels = np.concatenate([shapes.database.labels, shapes.queries.labels])
    assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [240, 240, 240]
    assert set(shapes.queries.labels) == {0, 1, 2} and shapes.database.images.dtype == np.uint8
    assert shapes.content_hash == again.content_hash
    assert (shapes.database.images != other.database.images).any(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_rectangles_are_tall_and_circles_leave_their_corners_empty(seed):
    shapes = load_dataset("shapes", seed=seed)
    images = shapes.database.images[..., 0] / shapes.database.images.max(axis=(1, 2, 3))[:, None, None]
    width, height = images.max(axis=1).sum(axis=1), images.max(axis=2).sum(axis=1)  # in pixels and parts of them
    filled = images.sum(axis=(1, 2)) / (width * height)
    rectangle, square, circle = (shapes.database.labels == label for label in range(3))
    assert (np.abs(height / width - 1.8)[rectangle] < 0.45).all()
    assert (np.abs(height / width - 1)[square] < 0.03).all() and (np.abs(height / width - 1)[circle] < 0.1).all()
    assert (filled[~circle] > 0.95).all() and (filled[circle] > 0.7).all()  # a circle fills π/4 = 0.79 of its box
    assert (filled[circle] < 0.87).all() and width.min() < 6 and width.max() > 10


def test_a_path_named_like_a_dataset_is_the_folder_where_there_is_one_and_a_text_never(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_dataset(Path("digits")).name == "digits" and folder_kind(Path("digits")) is None
    (tmp_path / "digits").mkdir()
    assert load_dataset("digits").name == "digits" and folder_kind("digits") is None
    assert folder_kind(Path("digits")) == "images"
    Path("digits/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3")
    assert folder_kind(Path("digits")) == "idx"
    with pytest.raises(DatasetError, match="digits: a folder may not be named like a dataset .*; rename it"):
        load_dataset(Path("digits"))


def test_an_unknown_source_and_options_of_another_source_are_refused(tmp_path):
    for source in ("cifar", tmp_path / "cifar"):
        with pytest.raises(DatasetError, match="no dataset '.*cifar': choose one of digits, mnist, fashion_mnist, sh"):
            load_dataset(source)
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3")
    for source in ("digits", "cifar", tmp_path / "idx"):
        for options in ({"size": 28}, {"labels": True}):
            with pytest.raises(DatasetError, match=f"size and labels are for a folder of images, and {source} is not"):
                load_dataset(source, **options)
