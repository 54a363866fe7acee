"""Every image source, what it promises, and each way a file on disk can be wrong; nothing here uses the network."""

import gzip
import hashlib
import io
import json
import os
import struct
import urllib.request
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cbir_utils import datasets
from cbir_utils.datasets import DatasetError, load_dataset, pack_folder, read_idx, scale

DATA_HOME = os.environ.get("CBIR_DATA_HOME")
needs_mnist = pytest.mark.skipif(not DATA_HOME, reason="CBIR_DATA_HOME is unset; it names the folder with mnist.npz")

KEYS = ("x_train", "y_train", "x_test", "y_test")
STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, no data folder, and an empty Keras cache, whatever this machine has."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("CBIR_DATA_HOME", raising=False)


def small_arrays():
    """Four arrays like MNIST's, but of 12 and 5 images of 6 by 4 pixels."""
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 256, (12, 6, 4), dtype=np.uint8),
        rng.permutation(np.arange(12, dtype=np.uint8) % 10),
        rng.integers(0, 256, (5, 6, 4), dtype=np.uint8),
        np.array([3, 1, 4, 1, 5], np.uint8),
    )


def idx_bytes(array):
    """``array`` in the IDX format, by the letter of its description."""
    code = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_folder(folder, arrays=None, ending=".gz", prefix=""):
    """A folder in MNIST's layout; an array that is ``None`` gets no file."""
    for stem, array in zip(STEMS, arrays or small_arrays(), strict=True):
        if array is not None:
            write_idx(folder / f"{prefix}{stem}{ending}", array)
    return folder


def write_npz(path, arrays=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **dict(zip(KEYS, arrays or small_arrays(), strict=True)))
    return path


def same_images(dataset, arrays):
    splits = (dataset.database, dataset.queries)
    for split, images, labels in zip(splits, arrays[::2], arrays[1::2], strict=True):
        np.testing.assert_array_equal(split.images, images[..., None])
        np.testing.assert_array_equal(split.labels, labels)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int64 and len(split) == len(images)
    return True


@pytest.fixture
def small_mnist(monkeypatch):
    """Let the small arrays pass as MNIST: their hashes stand in for the real ones."""
    hashes = {key: hashlib.sha256(array.tobytes()).hexdigest() for key, array in zip(KEYS, small_arrays(), strict=True)}
    monkeypatch.setattr(datasets, "MNIST_SHA256", hashes)


@pytest.fixture
def fashion_folder(monkeypatch, tmp_path):
    """A folder of small IDX files that passes as Fashion-MNIST, in the place where it is looked for."""
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    folder = write_folder(tmp_path / "data" / "fashion_mnist")
    md5 = {f"{stem}.gz": hashlib.md5((folder / f"{stem}.gz").read_bytes()).hexdigest() for stem in STEMS}
    monkeypatch.setattr(datasets, "FASHION_MD5", md5)
    return folder


# -- bundled digits --------------------------------------------------------------------------------------------


def test_digits_are_1437_and_360_uint8_images_with_scikit_learns_labels():
    digits = load_dataset("digits")
    assert digits.name == "digits" and digits.class_names == tuple("0123456789")
    assert digits.database.images.shape == (1437, 28, 28, 1) and digits.queries.images.shape == (360, 28, 28, 1)
    labels = np.concatenate([digits.database.labels, digits.queries.labels])
    np.testing.assert_array_equal(labels, load_digits().target)
    assert digits.database.images.dtype == np.uint8 and labels.dtype == np.int64


def test_digits_have_a_black_frame_of_exactly_four_pixels():
    images = load_dataset("digits").database.images[..., 0]
    lit = images.any(axis=0)
    assert lit[4:24, 4:24].any(axis=1).all() and lit[4:24, 4:24].any(axis=0).all()
    lit[4:24, 4:24] = False
    assert not lit.any()


def test_digits_show_scikit_learns_pictures_upright_and_at_full_contrast():
    images = load_dataset("digits").queries.images[..., 0]
    middles = 4 + ((np.arange(8) + 0.5) * 20 / 8).astype(int)
    sampled = images[:, middles][:, :, middles]
    assert np.corrcoef(sampled.ravel(), load_digits().images[1437:].ravel())[0, 1] > 0.95
    assert images.min() == 0 and images.max() == 255


def test_the_content_hash_of_digits_is_reproducible():
    assert load_dataset("digits").content_hash == load_dataset("digits").content_hash
    assert len(load_dataset("digits").content_hash) == 64


def test_scale_maps_0_to_255_to_float32_in_0_to_1():
    images = np.array([[0, 51], [102, 255]], np.uint8)
    scaled = scale(images)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.float32([[0, 0.2], [0.4, 1]]))
    assert images.tolist() == [[0, 51], [102, 255]]


# -- drawn shapes ----------------------------------------------------------------------------------------------


def shape_images(label, seed):
    shapes = load_dataset("shapes", seed=seed)
    images = np.concatenate([shapes.database.images, shapes.queries.images])[..., 0]
    return images[np.concatenate([shapes.database.labels, shapes.queries.labels]) == label].astype(float)


def width_and_height(image):
    """Of a filled shape, in pixels and parts of them: the lengths of its shadows on the two axes."""
    return image.max(axis=0).sum() / image.max(), image.max(axis=1).sum() / image.max()


def filled_share(image):
    """How much of its bounding box a shape fills: all of it, or a circle π/4 = 0.79."""
    return image.sum() / image.max() / np.prod(width_and_height(image))


def brightest_corner(image):
    """Of the box around all pixels that are not black, as a share of the shape's brightness."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return image[np.ix_(rows[[0, -1]], columns[[0, -1]])].max() / image.max()


def test_shapes_are_600_and_120_images_of_28_by_14_in_three_equal_classes():
    shapes = load_dataset("shapes")
    assert shapes.name == "shapes" and shapes.class_names == ("rectangle", "square", "circle")
    assert shapes.database.images.shape == (600, 28, 14, 1) and shapes.queries.images.shape == (120, 28, 14, 1)
    assert shapes.database.images.dtype == np.uint8
    labels = np.concatenate([shapes.database.labels, shapes.queries.labels])
    assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [240, 240, 240]
    assert set(shapes.queries.labels) == {0, 1, 2}


def test_the_same_seed_draws_the_same_shapes_and_another_seed_others():
    first, again, other = load_dataset("shapes", seed=1), load_dataset("shapes", seed=1), load_dataset("shapes", seed=2)
    np.testing.assert_array_equal(first.database.images, again.database.images)
    assert first.content_hash == again.content_hash != other.content_hash
    assert (first.database.images != other.database.images).any(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_rectangles_are_taller_than_wide_and_fill_their_box(seed):
    for image in shape_images(0, seed):
        width, height = width_and_height(image)
        assert 1.35 < height / width < 2.25
        assert filled_share(image) > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_squares_are_as_tall_as_wide_and_fill_their_box(seed):
    for image in shape_images(1, seed):
        width, height = width_and_height(image)
        assert 0.97 < height / width < 1.03
        assert filled_share(image) > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_circles_are_as_tall_as_wide_and_leave_their_corners_empty(seed):
    for image in shape_images(2, seed):
        width, height = width_and_height(image)
        assert 0.9 < height / width < 1.1
        assert brightest_corner(image) < 0.25 and 0.7 < filled_share(image) < 0.87


def test_shapes_vary_in_size_place_and_brightness():
    images = shape_images(1, seed=0)
    widths = np.array([width_and_height(image)[0] for image in images])
    assert widths.min() < 6 and widths.max() > 10
    assert images.max(axis=(1, 2)).min() < 170 and images.max(axis=(1, 2)).max() > 235
    first_lit_row = (images.max(axis=2) > 0).argmax(axis=1)
    assert first_lit_row.min() < 3 and first_lit_row.max() > 15


# -- IDX files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_read_idx_gives_back_the_array_in_native_byte_order(tmp_path, dtype, ending):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    array[0, 0, 0] = 200 if dtype == "u1" else -100
    read = read_idx(write_idx(tmp_path / f"some-idx3{ending}", array))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype) and read.dtype.isnative


def test_read_idx_reads_a_file_written_byte_by_byte(tmp_path):
    # Two bytes of zero, type 0x0B (16 bits), one dimension, of length 2; then 1 and -2, the high byte first.
    (tmp_path / "x").write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 0x00, 0x01, 0xFF, 0xFE]))
    assert read_idx(str(tmp_path / "x")).tolist() == [1, -2]


IDX = idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 5, 4))  # a header of 16 bytes and 60 of data


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("x", b"\1" + IDX[1:], "wrong magic number 01000803; this is no IDX file"),
        ("x", IDX[:2] + b"\x0a" + IDX[3:], "wrong magic number 00000a03"),
        ("x", IDX[:3] + b"\0" + IDX[4:], "wrong magic number 00000800"),
        ("x", b"\0\0", "wrong magic number 0000; this is no IDX file"),
        ("x", b"", r"wrong magic number \(empty file\)"),
        ("x.gz", b"", r"wrong magic number \(empty file\)"),
        ("x", IDX[:10], "truncated, its header of 16 bytes ends after 10"),
        ("x", IDX[:-1], r"truncated, its header promises 60 bytes for shape \(3, 5, 4\) and 59 follow"),
        ("x", IDX[:16], "truncated, its header promises 60 bytes.* and 0 follow"),
        ("x", IDX + b"\0", r"too long, its header promises 60 bytes for shape \(3, 5, 4\) and 61 follow"),
        ("x.gz", gzip.compress(IDX)[:-10], "damaged or truncated gzip data"),
        ("x.gz", gzip.compress(IDX)[:10] + b"\xff" * 20, "damaged or truncated gzip data"),
        ("x.gz", gzip.compress(IDX)[:-8] + bytes(8), "damaged or truncated gzip data .CRC"),
        ("x.gz", IDX, "damaged or truncated gzip data"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=f"{name}: {message}"):
        read_idx(tmp_path / name)


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match="nothing-idx1 does not exist"):
        read_idx(tmp_path / "nothing-idx1")


# -- folders of IDX files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_folder_of_idx_files_is_a_dataset_named_after_it(tmp_path, ending):
    dataset = load_dataset(write_folder(tmp_path / "letters", ending=ending))
    assert same_images(dataset, small_arrays())
    assert dataset.name == "letters" and dataset.class_names == tuple("0123456789")


def test_a_folder_in_emnists_naming_is_a_dataset(tmp_path):
    write_folder(tmp_path, prefix="emnist-letters-")
    for path in tmp_path.glob("*t10k*"):
        path.rename(str(path).replace("t10k", "test"))
    assert same_images(load_dataset(str(tmp_path)), small_arrays())


def test_the_content_hash_covers_pixels_labels_shape_and_split_but_not_the_file_format(tmp_path):
    x, y, queries, y_queries = small_arrays()
    pixel, label = x.copy(), y_queries.copy()
    pixel[3, 2, 1] ^= 1
    label[0] += 1
    variants = [
        small_arrays(),
        (pixel, y, queries, y_queries),
        (x, y, queries, label),
        (x, None, queries, y_queries),
        (x.reshape(12, 4, 6), y, queries, y_queries),
        (x[:-1], y[:-1], queries, y_queries),
    ]
    hashes = [load_dataset(write_folder(tmp_path / str(i), arrays)).content_hash for i, arrays in enumerate(variants)]
    assert len(set(hashes)) == len(variants)
    assert load_dataset(write_folder(tmp_path / "plain", ending="")).content_hash == hashes[0]


def test_missing_labels_are_none(tmp_path):
    x, _, queries, _ = small_arrays()
    dataset = load_dataset(write_folder(tmp_path, (x, None, queries, None)))
    assert dataset.database.labels is None and dataset.queries.labels is None and dataset.class_names == ()
    np.testing.assert_array_equal(dataset.queries.images, queries[..., None])


def test_of_qmnists_label_columns_the_first_is_the_class(tmp_path):
    x, y, queries, y_queries = small_arrays()
    columns = np.arange(12 * 8, dtype=np.int32).reshape(12, 8) + 1000
    columns[:, 0] = y
    write_folder(tmp_path, (x, None, queries, y_queries))
    write_idx(tmp_path / "qmnist-train-labels-idx2-int.gz", columns)
    assert same_images(load_dataset(tmp_path), small_arrays())


def test_colour_images_keep_their_channels(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    dataset = load_dataset(write_folder(tmp_path, (colour, None, colour[:2], None)))
    np.testing.assert_array_equal(dataset.database.images, colour)


def test_another_number_of_labels_than_of_images_is_refused(tmp_path):
    x, y, queries, y_queries = small_arrays()
    write_folder(tmp_path, (x, y[:-1], queries, y_queries))
    with pytest.raises(
        DatasetError, match="train-images-idx3-ubyte.gz has 12 images, but train-labels.* has 11 labels"
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize("stem, split", [(STEMS[0], "train"), (STEMS[2], "test")])
def test_missing_images_are_refused(tmp_path, stem, split):
    write_folder(tmp_path)
    (tmp_path / f"{stem}.gz").unlink()
    with pytest.raises(DatasetError, match=f"no file with the {split} images, such as {stem}.gz"):
        load_dataset(tmp_path)


def test_two_files_for_one_split_are_refused_by_name(tmp_path):
    write_folder(tmp_path)
    write_idx(tmp_path / STEMS[2], small_arrays()[2])
    message = rf"2 files could be the test images \({STEMS[2]}, {STEMS[2]}.gz\); keep one"
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "images, held",
    [
        (np.zeros((3, 24), np.uint8), r"uint8 \(3, 24\)"),
        (np.zeros((3, 6, 4), np.float32), r"float32 \(3, 6, 4\)"),
        (np.zeros((0, 6, 4), np.uint8), r"uint8 \(0, 6, 4\)"),
    ],
)
def test_idx_files_without_images_are_refused(tmp_path, images, held):
    write_folder(tmp_path, (images, None, images, None))
    with pytest.raises(DatasetError, match=rf"images must be uint8 \(N, H, W\), but this holds {held}"):
        load_dataset(tmp_path)


# -- MNIST -----------------------------------------------------------------------------------------------------


@needs_mnist
def test_real_mnist_loads():
    mnist = load_dataset("mnist", path=Path(DATA_HOME) / "mnist.npz")
    assert mnist.database.images.shape == (60_000, 28, 28, 1) and mnist.queries.images.shape == (10_000, 28, 28, 1)
    assert mnist.database.labels[:5].tolist() == [5, 0, 4, 1, 9] and mnist.queries.labels[:3].tolist() == [7, 2, 1]
    assert mnist.name == "mnist" and mnist.class_names == tuple("0123456789")


@needs_mnist
def test_a_copy_of_real_mnist_with_a_flipped_byte_or_a_lost_end_is_refused(tmp_path):
    data = bytearray((Path(DATA_HOME) / "mnist.npz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    for damaged in (data, data[: len(data) // 2]):
        (tmp_path / "mnist.npz").write_bytes(damaged)
        with pytest.raises(DatasetError, match="mnist.npz: not a readable .npz file.*--dataset digits"):
            load_dataset("mnist", path=tmp_path / "mnist.npz")


def test_an_npz_with_other_content_is_refused_with_the_hash_expected(tmp_path):
    message = "x_train is not MNIST's .SHA-256 741c9888.*; delete the file.*--dataset digits"
    with pytest.raises(DatasetError, match="mnist.npz: " + message):
        load_dataset("mnist", path=write_npz(tmp_path / "mnist.npz"))


@pytest.mark.parametrize("number, key", list(enumerate(KEYS)))
def test_one_changed_value_in_any_array_is_noticed(tmp_path, small_mnist, number, key):
    arrays = small_arrays()
    arrays[number].flat[-1] ^= 1
    with pytest.raises(DatasetError, match=f"{key} is not MNIST's"):
        load_dataset("mnist", path=write_npz(tmp_path / "mnist.npz", arrays))


def test_arrays_with_mnists_bytes_in_another_shape_are_refused(tmp_path, small_mnist):
    x, y, queries, y_queries = small_arrays()
    flat = write_npz(tmp_path / "mnist.npz", (x.reshape(12, -1), y, queries.reshape(5, -1), y_queries))
    with pytest.raises(DatasetError, match="x_train"):
        load_dataset("mnist", path=flat)


def test_an_npz_with_a_missing_array_is_refused(tmp_path):
    np.savez(tmp_path / "mnist.npz", **dict(zip(KEYS[:3], small_arrays(), strict=False)))
    with pytest.raises(DatasetError, match="y_test.*; it must hold x_train, y_train, x_test and y_test"):
        load_dataset("mnist", path=tmp_path / "mnist.npz")


@pytest.mark.parametrize("data", [b"<html>404 Not Found</html>", b"", b"PK\x03\x04 but no zip", b"\x93NUMPY\x01\x00"])
def test_an_npz_that_is_something_else_is_refused(tmp_path, data):
    (tmp_path / "mnist.npz").write_bytes(data)
    with pytest.raises(DatasetError, match="mnist.npz: not a readable .npz file .*--dataset digits"):
        load_dataset("mnist", path=tmp_path / "mnist.npz")


class MakesAFolder:
    """Unpickling this has an effect that can be seen."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_an_npz_of_pickled_objects_is_refused_and_not_unpickled(tmp_path):
    trap = np.array([MakesAFolder(tmp_path / "unpickled")], dtype=object)
    np.savez(tmp_path / "mnist.npz", **dict.fromkeys(KEYS, trap))
    with pytest.raises(DatasetError, match="not a readable .npz file .*allow_pickle=False"):
        load_dataset("mnist", path=tmp_path / "mnist.npz")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("place", ["data/mnist.npz", "data", "data/mnist", "keras/datasets/mnist.npz"])
def test_mnist_is_found_in_each_usual_place(tmp_path, monkeypatch, small_mnist, place):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    (write_npz if place.endswith(".npz") else write_folder)(tmp_path / place)
    dataset = load_dataset("mnist")
    assert same_images(dataset, small_arrays())
    assert dataset.name == "mnist" and dataset.class_names == tuple("0123456789")


def test_mnist_from_idx_files_has_the_content_hash_of_mnist_from_npz(tmp_path, small_mnist):
    from_npz = load_dataset("mnist", path=write_npz(tmp_path / "mnist.npz"))
    from_idx = load_dataset("mnist", path=write_folder(tmp_path / "idx"))
    assert from_npz.content_hash == from_idx.content_hash


def test_mnist_without_labels_is_refused(tmp_path, small_mnist):
    x, _, queries, y_queries = small_arrays()
    with pytest.raises(DatasetError, match="y_train is not MNIST's"):
        load_dataset("mnist", path=write_folder(tmp_path, (x, None, queries, y_queries)))


def test_nothing_stands_in_for_a_damaged_file_in_the_first_place(tmp_path, monkeypatch, small_mnist):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    write_npz(tmp_path / "keras" / "datasets" / "mnist.npz")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist.npz").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="data/mnist.npz: not a readable"):
        load_dataset("mnist")


def test_without_mnist_and_network_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist")
    message = str(caught.value)
    assert message.startswith("mnist is not on this machine and cannot be downloaded (no network in tests)")
    for key, digest in datasets.MNIST_SHA256.items():
        assert f"SHA-256 of {key}: {digest}" in message
    for place in ("data/mnist.npz", "data", "data/mnist", "keras/datasets/mnist.npz"):
        assert f"{tmp_path / place};" in message or f"{tmp_path / place} " in message
    assert "Put mnist.npz" in message and "CBIR_DATA_HOME" in message and "--dataset digits" in message


def test_without_network_and_data_folder_keras_cache_is_named(tmp_path):
    with pytest.raises(DatasetError, match=f"into one of: {tmp_path}/keras/datasets/mnist.npz "):
        load_dataset("mnist")


@pytest.mark.parametrize("source, wanted", [("mnist", "no mnist.npz and no folder"), ("fashion_mnist", "no folder")])
def test_an_explicit_path_that_is_not_there_is_refused_without_looking_elsewhere(
    tmp_path, monkeypatch, small_mnist, source, wanted
):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    write_npz(tmp_path / "data" / "mnist.npz")
    with pytest.raises(DatasetError, match=f"elsewhere: there is {wanted} with .*MNIST's IDX files; check the path"):
        load_dataset(source, path=tmp_path / "elsewhere")


def test_a_download_is_kept_in_keras_cache_and_not_repeated(tmp_path, monkeypatch, small_mnist):
    data, asked = write_npz(tmp_path / "served.npz").read_bytes(), []
    monkeypatch.setattr(datasets, "KERAS_MNIST_SHA256", hashlib.sha256(data).hexdigest())

    def serve(url, timeout):
        asked.append(url)
        return io.BytesIO(data)

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    assert same_images(load_dataset("mnist"), small_arrays())
    assert same_images(load_dataset("mnist"), small_arrays())
    assert asked == [datasets.KERAS_ORIGIN + "mnist.npz"]
    assert (tmp_path / "keras" / "datasets" / "mnist.npz").read_bytes() == data


def test_a_download_that_breaks_off_leaves_nothing_behind(tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, *args):
            raise ConnectionResetError("the line went dead")

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Broken())
    with pytest.raises(DatasetError, match="cannot be downloaded .the line went dead"):
        load_dataset("mnist")
    assert not list((tmp_path / "keras").rglob("*.npz"))


def test_a_download_of_something_else_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO(b"<html>log in first</html>"))
    with pytest.raises(DatasetError, match="answered with something else than the file .SHA256 731c5ac6"):
        load_dataset("mnist")
    assert not list((tmp_path / "keras").rglob("*.npz"))


def test_a_folder_named_like_a_dataset_is_refused(tmp_path):
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DatasetError, match="a folder may not be named like a dataset"):
        load_dataset(tmp_path / "mnist")


# -- Fashion-MNIST and the rest --------------------------------------------------------------------------------


def test_fashion_mnist_loads_with_its_class_names(fashion_folder):
    dataset = load_dataset("fashion_mnist")
    assert same_images(dataset, small_arrays())
    assert (
        dataset.name == "fashion_mnist" and dataset.class_names[0] == "T-shirt/top" and len(dataset.class_names) == 10
    )


def test_of_fashion_mnist_only_the_missing_files_are_downloaded(fashion_folder, tmp_path, monkeypatch):
    served, asked = fashion_folder.rename(tmp_path / "served"), []
    cache = tmp_path / "keras" / "datasets" / "fashion-mnist"
    cache.mkdir(parents=True)
    (cache / f"{STEMS[1]}.gz").write_bytes((served / f"{STEMS[1]}.gz").read_bytes())

    def serve(url, timeout):
        asked.append(url.removeprefix(datasets.KERAS_ORIGIN))
        return io.BytesIO((served / asked[-1]).read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    assert same_images(load_dataset("fashion_mnist"), small_arrays())
    assert asked == [f"{STEMS[0]}.gz", f"{STEMS[2]}.gz", f"{STEMS[3]}.gz"]


def test_fashion_mnist_with_a_wrong_md5_is_refused(fashion_folder):
    write_idx(fashion_folder / f"{STEMS[3]}.gz", np.array([3, 1, 4, 1, 6], np.uint8))
    with pytest.raises(
        DatasetError, match=rf"{STEMS[3]}.gz is not Fashion-MNIST's \(MD5 \w{{32}} expected, \w{{32}} fo"
    ):
        load_dataset("fashion_mnist")


@pytest.mark.parametrize("stem", STEMS[1:])
def test_fashion_mnist_with_a_missing_companion_is_refused(fashion_folder, stem):
    (fashion_folder / f"{stem}.gz").unlink()
    with pytest.raises(DatasetError, match=f"{stem}.gz is missing; Fashion-MNIST needs {STEMS[0]}.gz, "):
        load_dataset("fashion_mnist")


def test_mnist_does_not_pass_as_fashion_mnist(tmp_path):
    with pytest.raises(DatasetError, match="MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d expected"):
        load_dataset("fashion_mnist", path=write_folder(tmp_path))


def test_without_fashion_mnist_and_network_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(DatasetError) as caught:
        load_dataset("fashion_mnist")
    message = str(caught.value)
    for name, digest in datasets.FASHION_MD5.items():
        assert f"MD5 of {name}: {digest}" in message
    for place in ("data/fashion_mnist", "keras/datasets/fashion-mnist"):
        assert str(tmp_path / place) in message
    assert "--dataset digits" in message


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(
        DatasetError, match="no dataset 'cifar': choose one of digits, mnist, fashion_mnist, shapes, or"
    ):
        load_dataset("cifar")


# -- folders of images -----------------------------------------------------------------------------------------


LEVELS_BY_ID = {"a.png": 10, "cats/big/1.png": 20, "cats/small.png": 30, "dogs/9.png": 40}


@pytest.fixture
def pictures(tmp_path):
    """Four images of one grey level each, in folders, and two files that are no images."""
    folder = tmp_path / "pictures"
    for name, level in LEVELS_BY_ID.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), level).save(folder / name)
    (folder / "dogs" / "empty.png").touch()
    (folder / "notes.txt").write_text("words")
    return folder


def levels(split):
    return split.images[:, 0, 0, 0].tolist()


def test_in_a_folder_of_images_all_are_database_and_queries(pictures):
    dataset = load_dataset(pictures)
    assert dataset.name == "pictures" and dataset.ids == tuple(LEVELS_BY_ID)
    assert dataset.database.images.shape == (4, 28, 28, 1) and dataset.database.images.dtype == np.uint8
    assert levels(dataset.database) == list(LEVELS_BY_ID.values())
    assert dataset.queries is dataset.database  # no second copy
    assert dataset.own_rows.tolist() == [0, 1, 2, 3] and dataset.own_rows.dtype == np.int64
    assert dataset.database.labels is None and dataset.class_names == ()
    assert dict(dataset.rejects) == {
        "dogs/empty.png": "empty (zero bytes)",
        "notes.txt": "not an image (PNG, JPEG, GIF, BMP, TIFF or WebP)",
    }


def test_folders_name_the_classes_if_asked(pictures):
    dataset = load_dataset(str(pictures), labels=True)
    assert dataset.class_names == (".", "cats", "cats/big", "dogs")
    assert dataset.database.labels.tolist() == [0, 2, 1, 3] and dataset.database.labels.dtype == np.int64


def test_the_size_of_images_in_a_folder_can_be_chosen(pictures):
    assert load_dataset(pictures, size=9).database.images.shape == (4, 9, 9, 1)
    Image.new("RGB", (4, 4), "red").save(pictures / "red.png")
    assert load_dataset(pictures).database.images.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("labels", [False, True])
def test_of_a_large_folder_some_are_queries_chosen_by_the_hash_of_their_ids(pictures, monkeypatch, labels):
    # The ids' hashes begin with 7f, b3, a9 and 06 (`printf a.png | sha256sum`): all but the second are the least three.
    expected = [0, 2, 3]
    monkeypatch.setattr(datasets, "MAX_QUERIES", 3)
    dataset = load_dataset(pictures, labels=labels)
    assert dataset.own_rows.tolist() == expected
    assert levels(dataset.queries) == [list(LEVELS_BY_ID.values())[row] for row in expected]
    assert levels(dataset.database) == list(LEVELS_BY_ID.values())
    if labels:
        assert dataset.queries.labels.tolist() == dataset.database.labels[expected].tolist()


def test_the_content_hash_of_a_folder_covers_pixels_size_and_ids_but_neither_labels_nor_format(pictures):
    hashes = [load_dataset(pictures).content_hash, load_dataset(pictures, size=9).content_hash]
    assert load_dataset(pictures, labels=True).content_hash == hashes[0]
    (pictures / "notes.txt").unlink()
    Image.open(pictures / "a.png").save(pictures / "a.bmp")
    (pictures / "a.bmp").replace(pictures / "a.png")
    assert load_dataset(pictures).content_hash == hashes[0]
    (pictures / "a.png").rename(pictures / "b.png")
    hashes.append(load_dataset(pictures).content_hash)
    Image.new("L", (4, 4), 11).save(pictures / "b.png")
    hashes.append(load_dataset(pictures).content_hash)
    assert len(set(hashes)) == 4


def test_the_content_hash_of_other_datasets_is_that_of_their_four_arrays(tmp_path):
    """As it has always been: else results made before would pass for those of other data."""
    digest = hashlib.sha256()
    x, y, queries, y_queries = small_arrays()
    for array in (x[..., None], y.astype(np.int64), queries[..., None], y_queries.astype(np.int64)):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    assert load_dataset(write_folder(tmp_path)).content_hash == digest.hexdigest()


def test_datasets_of_two_apart_splits_have_no_ids_own_rows_or_rejects():
    digits = load_dataset("digits")
    assert digits.ids is None and digits.own_rows is None and digits.rejects == ()


def test_a_background_is_light_by_the_border_and_not_by_the_middle(pictures):
    assert load_dataset("digits").light is False and load_dataset(pictures).light is False
    for name in LEVELS_BY_ID:
        pixels = np.zeros((28, 28), np.uint8)
        pixels[0], pixels[:, 0], pixels[:, -1] = 200, 200, 200  # three of the four sides are light, all else is black
        Image.fromarray(pixels).save(pictures / name)
    assert load_dataset(pictures).light is True


@pytest.mark.parametrize("options", [{"size": 28}, {"labels": True}])
def test_size_and_labels_are_for_folders_of_images_only(tmp_path, options):
    for source in ("digits", "cifar", write_folder(tmp_path / "idx")):
        with pytest.raises(DatasetError, match=f"size and labels are for a folder of images, and {source} is not one"):
            load_dataset(source, **options)


def test_a_folder_with_neither_idx_files_nor_images_is_refused_with_both_named(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no IDX files \(such as train-images.*\), and there are no files in"):
        load_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(DatasetError, match="holds no IDX files .*, and none of the 1 files in .* is a readable image"):
        load_dataset(tmp_path)


def test_one_image_is_no_dataset(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "only.png")
    with pytest.raises(DatasetError, match=r"holds one readable image \(only.png\), and a search needs two or more"):
        load_dataset(tmp_path)


def test_a_folder_of_images_named_like_a_dataset_is_refused(pictures):
    named = pictures.rename(pictures.with_name("shapes"))
    for attempt in (load_dataset, lambda folder: pack_folder(folder, folder.with_name("packed"))):
        with pytest.raises(DatasetError, match="a folder may not be named like a dataset"):
            attempt(named)


def test_a_folder_of_images_may_hold_a_file_named_dataset_json(pictures):
    (pictures / "dataset.json").write_text('{"title": "Pictures"}')
    assert load_dataset(pictures).ids == tuple(LEVELS_BY_ID)


# -- packed ------------------------------------------------------------------------------------------------------


def same_dataset(one, other):
    for split in ("database", "queries"):
        np.testing.assert_array_equal(getattr(one, split).images, getattr(other, split).images)
        np.testing.assert_array_equal(getattr(one, split).labels, getattr(other, split).labels)
    np.testing.assert_array_equal(one.own_rows, other.own_rows)
    names = ("name", "class_names", "content_hash", "ids", "rejects")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    return True


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("most", [3, 4])
def test_a_packed_folder_is_the_same_dataset(pictures, tmp_path, monkeypatch, labels, most):
    monkeypatch.setattr(datasets, "MAX_QUERIES", most)
    plain = load_dataset(pictures, size=9, labels=labels)
    made = pack_folder(pictures, tmp_path / "packed", size=9, labels=labels)
    again = load_dataset(tmp_path / "packed")
    assert same_dataset(plain, made) and same_dataset(plain, again)
    for dataset in (made, again):
        assert isinstance(dataset.database.images, np.memmap) and not dataset.database.images.flags.writeable
        assert (dataset.queries is dataset.database) == (most == 4)
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["dataset.json", "images.npy"]


def test_what_packing_writes_can_be_read_by_other_programs(pictures, tmp_path):
    pack_folder(pictures, tmp_path / "packed", labels=True)
    images = np.load(tmp_path / "packed" / "images.npy", allow_pickle=False)
    assert images.shape == (4, 28, 28, 1) and images.dtype == np.uint8
    note = json.loads((tmp_path / "packed" / "dataset.json").read_text())
    assert note["name"] == "pictures" and note["ids"] == list(LEVELS_BY_ID) and len(note["rejects"]) == 2
    assert note["labels"] == [".", "cats", "cats/big", "dogs"] and note["size"] is None
    assert note["sha256"] == hashlib.sha256((tmp_path / "packed" / "images.npy").read_bytes()).hexdigest()


@pytest.fixture
def readings(monkeypatch):
    """A list that grows whenever a folder's images are read."""
    seen, read_folder = [], datasets.read_folder

    def counted(*args, **options):
        seen.append(args[0])
        return read_folder(*args, **options)

    monkeypatch.setattr(datasets, "read_folder", counted)
    return seen


def change_nothing(folder):
    pass


def add_a_file(folder):
    Image.new("L", (4, 4), 50).save(folder / "z.png")


def remove_a_file(folder):
    (folder / "a.png").unlink()


def rename_a_file(folder):
    (folder / "a.png").rename(folder / "b.png")


def touch_a_file(folder):
    os.utime(folder / "a.png", ns=(1, 1))


def make_a_file_longer(folder):
    facts = (folder / "a.png").stat()
    with open(folder / "a.png", "ab") as file:
        file.write(b"more")
    os.utime(folder / "a.png", ns=(facts.st_atime_ns, facts.st_mtime_ns))


def break_a_link(folder):
    (folder / "link.png").symlink_to("nothing")


@pytest.mark.parametrize(
    ("change", "options", "times"),
    [
        (change_nothing, {}, 1),
        (add_a_file, {}, 2),
        (remove_a_file, {}, 2),
        (rename_a_file, {}, 2),
        (touch_a_file, {}, 2),
        (make_a_file_longer, {}, 2),
        (break_a_link, {}, 2),
        (change_nothing, {"size": 9}, 2),
        (change_nothing, {"labels": True}, 2),
    ],
)
def test_a_folder_is_packed_anew_only_if_it_or_the_wish_changed(pictures, tmp_path, readings, change, options, times):
    pack_folder(pictures, tmp_path / "packed")
    change(pictures)
    made = pack_folder(pictures, tmp_path / "packed", **options)
    assert len(readings) == times
    assert same_dataset(made, load_dataset(pictures, **options))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("images.npy", lambda data: data[:-1] + b"\1", "images.npy differs from its hash in dataset.json"),
        ("images.npy", lambda data: data[:100], "images.npy differs from its hash in dataset.json"),
        ("images.npy", None, "images.npy is missing"),
        ("dataset.json", lambda data: data[:40], "dataset.json is damaged"),
        ("dataset.json", lambda data: b"[]", "dataset.json is damaged"),
        ("dataset.json", lambda data: data.replace(b'"ids"', b'"idx"'), "dataset.json is damaged"),
        (
            "dataset.json",
            lambda data: data.replace(b'"a.png",', b""),
            "images.npy holds other images than dataset.json",
        ),
    ],
)
def test_a_damaged_packed_folder_is_refused_and_made_anew(pictures, tmp_path, readings, file, damage, message):
    pack_folder(pictures, tmp_path / "packed")
    path = tmp_path / "packed" / file
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=f"{message}.*; run the command that made it again"):
        load_dataset(tmp_path / "packed")
    assert same_dataset(pack_folder(pictures, tmp_path / "packed"), load_dataset(pictures))
    assert len(readings) == 3  # packed, packed anew, and loaded just now


def test_a_packed_folder_that_cannot_be_made_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "folder" / "only.png")
    with pytest.raises(DatasetError, match="holds one readable image"):
        pack_folder(tmp_path / "folder", tmp_path / "packed")
    assert list((tmp_path / "packed").iterdir()) == []


def test_packing_tells_its_progress(pictures, tmp_path):
    calls = []
    pack_folder(pictures, tmp_path / "packed", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(6, 6)]


def test_a_size_or_labels_for_a_packed_folder_come_too_late(pictures, tmp_path):
    pack_folder(pictures, tmp_path / "packed")
    with pytest.raises(DatasetError, match="size and labels are for a folder of images, and .*packed is not one"):
        load_dataset(tmp_path / "packed", size=28)


@pytest.mark.skipif(not DATA_HOME, reason="CBIR_DATA_HOME is unset; it names the folder with Omniglot's zip file")
def test_real_omniglot_loads(tmp_path):
    with zipfile.ZipFile(Path(DATA_HOME) / "omniglot_background_small1.zip") as archive:
        archive.extractall(tmp_path)
    dataset = load_dataset(tmp_path / "images_background_small1", labels=True)
    assert dataset.database.images.shape == (2720, 28, 28, 1) and dataset.rejects == () and dataset.light
    assert len(dataset.class_names) == 136 and np.bincount(dataset.database.labels).tolist() == [20] * 136
