"""MNIST and its family: each way a file on disk can be wrong; nothing here uses the network."""

import gzip
import hashlib
import io
import os
import struct
import tracemalloc
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from cbir_utils.datasets import DatasetError, load_dataset
from cbir_utils.folders import mnist
from cbir_utils.folders.mnist import read_idx

DATA_HOME = os.environ.get("CBIR_DATA_HOME")
needs_mnist = pytest.mark.skipif(not DATA_HOME, reason="CBIR_DATA_HOME is unset; it names the folder with mnist.npz")

KEYS = ("x_train", "y_train", "x_test", "y_test")
STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


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


def content_hash(arrays):
    """Of four arrays, as it has always been: else results made before would pass for those of other data."""
    x, y, queries, y_queries = arrays
    digest = hashlib.sha256()
    for array in (x[..., None], y.astype(np.int64), queries[..., None], y_queries.astype(np.int64)):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@pytest.fixture
def small_mnist(monkeypatch):
    """Let the small arrays pass as MNIST: their hash stands in for the real one."""
    monkeypatch.setattr(mnist, "MNIST_SHA256", content_hash(small_arrays()))


@pytest.fixture
def fashion_folder(monkeypatch, tmp_path):
    """A folder of small IDX files that passes as Fashion-MNIST, in the place where it is looked for."""
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    folder = write_folder(tmp_path / "data" / "fashion_mnist")
    md5 = {f"{stem}.gz": hashlib.md5((folder / f"{stem}.gz").read_bytes()).hexdigest() for stem in STEMS}
    monkeypatch.setitem(mnist.DOWNLOADS, "fashion_mnist", md5)
    return folder


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_read_idx_gives_back_the_array_in_native_byte_order(tmp_path, dtype):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    array[0, 0, 0] = 200 if dtype == "u1" else -100
    for ending in ("", ".gz"):
        read = read_idx(write_idx(tmp_path / f"some-idx3{ending}", array))
        np.testing.assert_array_equal(read, array)
        assert read.dtype == np.dtype(dtype) and read.dtype.isnative
    # Two bytes of zero, type 0x0B (16 bits), one dimension, of length 2; then 1 and -2, the high byte first.
    (tmp_path / "x").write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 0x00, 0x01, 0xFF, 0xFE]))
    assert read_idx(str(tmp_path / "x")).tolist() == [1, -2]


IDX = idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 5, 4))  # a header of 16 bytes and 60 of data


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x", b"\1" + IDX[1:], "wrong magic number 01000803"),
        ("x", IDX[:2] + b"\x0a" + IDX[3:], "wrong magic number 00000a03"),
        ("x", IDX[:3] + b"\0" + IDX[4:], r"array of size 2 into shape \(\)"),
        ("x", IDX[:2], "index out of range"),
        ("x.gz", b"", "wrong magic number "),
        ("x", IDX[:10], "buffer is smaller than requested size"),
        ("x", IDX[:-1], r"array of size 59 into shape \(3,5,4\)"),
        ("x", IDX[:4] + b"\xff" * 12, ""),
        ("x", IDX + b"\0", r"array of size 61 into shape \(3,5,4\)"),
        ("x.gz", gzip.compress(IDX)[:-10], "file ended before"),
        ("x.gz", gzip.compress(IDX)[:10] + b"\xff" * 20, "decompressing"),
        ("x.gz", gzip.compress(IDX)[:-8] + bytes(8), "CRC"),
        ("x", None, "No such file"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, name, data, reason):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{name} cannot be read as an IDX file \(.*{reason}.*; fetch it again"):
        read_idx(tmp_path / name)


def test_a_folder_of_idx_files_is_a_dataset_named_after_it(tmp_path):
    dataset = load_dataset(write_folder(tmp_path / "letters"))
    assert same_images(dataset, small_arrays()) and dataset.content_hash == content_hash(small_arrays())
    assert dataset.name == "letters" and dataset.class_names == tuple("0123456789")
    write_folder(tmp_path / "emnist", prefix="emnist-letters-")
    for path in (tmp_path / "emnist").glob("*t10k*"):
        path.rename(str(path).replace("t10k", "test"))
    assert same_images(load_dataset(str(tmp_path / "emnist")), small_arrays())


@pytest.mark.parametrize(
    "layout", ["dots", "unpacked", "upper", "named .gz", "not named .gz", "folders", "macOS", "twice"]
)
def test_idx_files_are_read_as_people_have_them(tmp_path, layout):
    """The first bytes decide, not the name."""
    write_folder(tmp_path / "plain", ending="")
    expected, folder = load_dataset(tmp_path / "plain"), tmp_path / "theirs" / "plain"
    write_folder(folder, ending=".gz" if layout in ("upper", "not named .gz", "macOS", "twice") else "")
    for path in sorted(folder.iterdir()):
        if layout == "dots":
            path.rename(folder / path.name.replace("-idx", ".idx"))
        elif layout == "upper":
            path.rename(folder / path.name.upper())
        elif layout == "named .gz":
            path.rename(folder / (path.name + ".gz"))
        elif layout == "not named .gz":
            path.rename(folder / path.stem)
        elif layout == "folders":
            (folder / "new").mkdir()
            path.rename(folder / "new" / path.name)
            (folder / "new").rename(folder / path.name)
        elif layout == "macOS":
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
        elif layout == "twice":
            (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    found = load_dataset(folder)
    assert found.content_hash == expected.content_hash and same_images(found, small_arrays())


def test_a_picture_named_like_idx_files_does_not_make_a_folder_one_of_them(tmp_path):
    for number in range(2):
        Image.fromarray(np.full((4, 4), 90 * number, np.uint8)).save(tmp_path / f"my-images-idx{number}.png")
    assert load_dataset(tmp_path).ids == ("my-images-idx0.png", "my-images-idx1.png")


def test_no_more_is_unpacked_than_the_header_promises(tmp_path):
    bomb = gzip.compress(IDX + bytes(300_000_000), compresslevel=1)
    (tmp_path / "bomb").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(DatasetError, match="array of size 61"):
        read_idx(tmp_path / "bomb")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


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


def test_missing_labels_are_none_colours_stay_and_of_qmnists_label_columns_the_first_is_the_class(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    dataset = load_dataset(write_folder(tmp_path / "colour", (colour, None, colour[:2], None)))
    assert dataset.database.labels is None and dataset.queries.labels is None and dataset.class_names == ()
    np.testing.assert_array_equal(dataset.database.images, colour)
    x, y, queries, y_queries = small_arrays()
    columns = np.arange(12 * 8, dtype=np.int32).reshape(12, 8) + 1000
    columns[:, 0] = y
    write_folder(tmp_path / "qmnist", (x, None, queries, y_queries))
    write_idx(tmp_path / "qmnist/qmnist-train-labels-idx2-int.gz", columns)
    assert same_images(load_dataset(tmp_path / "qmnist"), small_arrays())


X, Y, _, _ = small_arrays()


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        (f"{STEMS[2]}.gz", None, f"there is no file {STEMS[2]}.gz; add it"),
        (STEMS[2], 255 - X, f"{STEMS[2]} and {STEMS[2]}.gz hold different images; keep one"),
        (f"{STEMS[1]}.gz", Y[:-1], f"{STEMS[1]}.gz has 11 labels for 12 images; fetch both again"),
        (f"{STEMS[0]}.gz", X.reshape(12, 24), r"images must be uint8 \(N, H, W\), but this holds uint8 \(12, 24\)"),
        (f"{STEMS[0]}.gz", X.astype(np.float32), r"images must be uint8 .* float32 \(12, 6, 4\)"),
        (f"{STEMS[0]}.gz", X[:0], r"images must be uint8 .* uint8 \(0, 6, 4\)"),
    ],
)
def test_a_spoilt_folder_of_idx_files_is_refused(tmp_path, file, array, message):
    write_folder(tmp_path)
    (tmp_path / file).unlink(missing_ok=True) if array is None else write_idx(tmp_path / file, array)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path)


@needs_mnist
def test_real_mnist_loads():
    mnist = load_dataset("mnist", path=Path(DATA_HOME) / "mnist.npz")
    assert mnist.database.images.shape == (60_000, 28, 28, 1) and mnist.queries.images.shape == (10_000, 28, 28, 1)
    assert mnist.database.labels[:5].tolist() == [5, 0, 4, 1, 9] and mnist.queries.labels[:3].tolist() == [7, 2, 1]
    assert mnist.name == "mnist" and mnist.class_names == tuple("0123456789")


def test_one_changed_value_and_missing_labels_are_noticed(tmp_path, small_mnist):
    x, y, queries, y_queries = small_arrays()
    changed = y_queries.copy()
    changed[-1] ^= 1
    for number, arrays in enumerate([(x, y, queries, changed), (x, None, queries, y_queries)]):
        with pytest.raises(DatasetError, match=r"is not MNIST \(its content hash is not .*; fetch it again"):
            load_dataset("mnist", path=write_folder(tmp_path / str(number), arrays))


class MakesAFolder:
    """Unpickling this has an effect that can be seen."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>404 Not Found</html>",
        b"",
        b"PK\x03\x04 but no zip",
        dict.fromkeys(KEYS, np.array([MakesAFolder()], dtype=object)),
        dict(zip(KEYS[:3], small_arrays(), strict=False)),
        None,
    ],
    ids=["page", "empty", "no zip", "pickled", "one missing", "no file"],
)
def test_an_npz_that_is_something_else_is_refused_and_never_unpickled(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    if isinstance(data, bytes):
        (tmp_path / "mnist.npz").write_bytes(data)
    elif data:
        np.savez(tmp_path / "mnist.npz", **data)
    with pytest.raises(DatasetError, match="mnist.npz cannot be read .*; fetch it again, or run with --dataset digits"):
        load_dataset("mnist", path=tmp_path / "mnist.npz")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("place", ["data/mnist.npz", "data", "data/mnist", "keras/datasets/mnist.npz"])
def test_mnist_is_found_in_each_usual_place(tmp_path, monkeypatch, small_mnist, place):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    (write_npz if place.endswith(".npz") else write_folder)(tmp_path / place)
    dataset = load_dataset("mnist")
    assert same_images(dataset, small_arrays())
    assert dataset.name == "mnist" and dataset.class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("source", "places"),
    [
        ("mnist", ("data/mnist.npz", "data", "data/mnist", "keras/datasets")),
        ("fashion_mnist", ("data/fashion_mnist", "keras/datasets/fashion-mnist")),
    ],
)
def test_without_a_file_and_a_network_the_error_says_what_to_put_where(tmp_path, monkeypatch, source, places):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(DatasetError) as caught:
        load_dataset(source)
    message = str(caught.value)
    assert message.startswith(f"{source} is not on this machine and cannot be downloaded (no network in tests)")
    assert f"into one of: {'; '.join(str(tmp_path / place) for place in places)} " in message
    assert all(file in message for file in mnist.DOWNLOADS[source])
    assert "CBIR_DATA_HOME" in message and "--dataset digits" in message


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist"])
def test_nothing_stands_in_for_a_path_that_is_not_there_or_a_damaged_file_in_the_first_place(
    tmp_path, monkeypatch, small_mnist, source
):
    monkeypatch.setenv("CBIR_DATA_HOME", str(tmp_path / "data"))
    write_npz(tmp_path / "data" / "mnist.npz")
    with pytest.raises(DatasetError, match="elsewhere.* (cannot be read|is missing)"):
        load_dataset(source, path=tmp_path / "elsewhere")
    (tmp_path / "data" / "mnist.npz").write_bytes(b"damaged")
    write_npz(tmp_path / "keras" / "datasets" / "mnist.npz")
    with pytest.raises(DatasetError, match="data/mnist.npz cannot be read"):
        load_dataset("mnist")


def test_a_download_is_kept_in_keras_cache_and_not_repeated(tmp_path, monkeypatch, small_mnist):
    data, asked = write_npz(tmp_path / "served.npz").read_bytes(), []
    monkeypatch.setitem(mnist.DOWNLOADS, "mnist", {"mnist.npz": hashlib.sha256(data).hexdigest()})

    def serve(url, timeout):
        asked.append(url)
        return io.BytesIO(data)

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    assert same_images(load_dataset("mnist"), small_arrays())
    assert same_images(load_dataset("mnist"), small_arrays())
    assert asked == [mnist.KERAS_ORIGIN + "mnist.npz"]
    assert (tmp_path / "keras" / "datasets" / "mnist.npz").read_bytes() == data


class Broken(io.BytesIO):
    def read(self, *args):
        raise ConnectionResetError("the line went dead")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Broken(), "cannot be downloaded .the line went dead"),
        (io.BytesIO(b"<html>log in first</html>"), "mnist.npz answered with another file .not 731c5ac6"),
    ],
)
def test_a_download_that_breaks_off_or_is_something_else_is_not_kept(tmp_path, monkeypatch, answer, message):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: answer)
    with pytest.raises(DatasetError, match=message):
        load_dataset("mnist")
    assert not list((tmp_path / "keras").rglob("*.npz"))


def test_of_fashion_mnist_only_the_missing_files_are_downloaded(fashion_folder, tmp_path, monkeypatch):
    served, asked = fashion_folder.rename(tmp_path / "served"), []
    cache = tmp_path / "keras" / "datasets" / "fashion-mnist"
    cache.mkdir(parents=True)
    (cache / f"{STEMS[1]}.gz").write_bytes((served / f"{STEMS[1]}.gz").read_bytes())

    def serve(url, timeout):
        asked.append(url.removeprefix(mnist.KERAS_ORIGIN))
        return io.BytesIO((served / asked[-1]).read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    assert same_images(load_dataset("fashion_mnist"), small_arrays())
    assert asked == [f"{STEMS[0]}.gz", f"{STEMS[2]}.gz", f"{STEMS[3]}.gz"]


def test_fashion_mnist_has_its_class_names_and_is_refused_with_a_wrong_or_missing_file(fashion_folder):
    dataset = load_dataset("fashion_mnist")
    assert same_images(dataset, small_arrays()) and dataset.name == "fashion_mnist"
    assert dataset.class_names[0] == "T-shirt/top" and len(dataset.class_names) == 10
    for spoil in (lambda path: write_idx(path, Y[::-1]), Path.unlink):
        spoil(fashion_folder / f"{STEMS[1]}.gz")
        with pytest.raises(DatasetError, match=rf"{STEMS[1]}.gz is missing or not Fashion-MNIST's \(MD5 \w{{32}}\); f"):
            load_dataset("fashion_mnist")
