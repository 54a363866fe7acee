"""Encoding on many workers: Parquet shards that equal plain encoding, whatever dies, fails or is there already."""

import csv
import errno
import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cbir_utils.datasets import DatasetError, load_dataset
from cbir_utils.folders.folder import read_folder
from cbir_utils.models import keras
from cbir_utils.run import sha256
from cbir_utils.scale import shards as scale
from cbir_utils.scale.shards import Encoded, ShardError, encode_shards, load_codes, read_shards
from cbir_utils.training import encode

ROOT = Path(__file__).resolve().parents[2]
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)
IDS = [f"image {row}" for row in range(len(IMAGES))]


def small_encoder(seed=0, shape=(28, 28, 1)):
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape)
    return keras.Model(image, keras.layers.Dense(8)(keras.layers.Flatten()(image)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An encoder and the file it is saved in."""
    encoder, path = small_encoder(), tmp_path_factory.mktemp("encoder") / "encoder.keras"
    encoder.save(path)
    return encoder, path


@pytest.fixture
def in_process(monkeypatch):
    """The worker that Ray would start, called in this process."""

    def results(todo, arguments, workers, address):
        worker = scale._Worker(*arguments)
        return (worker(row) for row in todo)

    monkeypatch.setattr(scale, "_results", results)
    monkeypatch.setattr(scale, "ONE_THREAD", {})


@pytest.fixture
def no_encoding(monkeypatch):
    """An encoding is an error."""

    def results(todo, *_):
        raise AssertionError(f"{len(todo)} shards would be made")

    monkeypatch.setattr(scale, "_results", results)


def silent(done, total):
    pass


def png(image, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.ndim == 3 else image).save(file, format)
    return file.getvalue()


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.tobytes())
    return path


def write_table(path, images, ids=IDS, **how):
    columns = {"label": pyarrow.array(range(len(images))), "image": images, "id": pyarrow.array(ids)}
    pq.write_table(pyarrow.table(columns), path, **how)
    return path


def photos(folder, count=20):
    """A folder of images and of files that are none."""
    for row in range(count):
        path = folder / ("a" if row % 2 else "b") / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(IMAGES[row % len(IMAGES)]))
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "a" / "half.png").write_bytes(png(IMAGES[0])[:300])
    (folder / "empty.png").write_text("")
    (folder / "nowhere.png").symlink_to("gone.png")
    return folder


def shards(folder):
    return sorted(folder.glob("shard-*.parquet"))


def state(folder):
    """Of each file in a folder, its content and time of change, but for the lock."""
    paths = [path for path in folder.rglob("*") if path.name != ".run.lock" and path.is_file()]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def rejects_of(folder):
    with open(folder / "rejects.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "reason"]
    return tuple(map(tuple, rows))


def check_codes(folder, encoder, ids, images):
    """The shards hold these ids, each once and in this order, and the codes of plain encoding."""
    found, codes = load_codes(folder)
    assert found == list(ids)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, encode(encoder, images), atol=1e-5)


# -- with Ray -------------------------------------------------------------------------------------------------------


def ray_processes():
    """The processes of Ray that this one has started, and theirs."""
    names = ("raylet", "gcs_server", "ray::")
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline()[:1])
            if any(name in command for name in names):
                found.append(process)
        except psutil.Error:
            pass
    return found


@pytest.fixture(scope="module")
def local_ray():
    """A Ray that is started as encode_shards starts one, and leaves nothing behind."""
    import ray

    niceness = "RAY_worker_niceness"
    os.environ[niceness] = "0"  # else Ray's workers wait for whatever else keeps the machine busy
    before = os.environ.get("PYTHONPATH")
    with scale._ray(2, None):
        started = ray_processes()
        assert len(started) >= 2
        yield ray
        started += ray_processes()
    assert not ray.is_initialized()
    assert os.environ.get("PYTHONPATH") == before
    del os.environ[niceness]
    gone, alive = psutil.wait_procs(started, timeout=60)
    assert not alive


@pytest.fixture(scope="module")
def killed_run(local_ray, model, tmp_path_factory):
    """A run whose workers were killed in the middle: source, folder, result, what was seen, and the folder plainly."""
    folder = tmp_path_factory.mktemp("killed")
    source, target = photos(folder / "photos", 196), folder / "shards"
    slow = png(np.zeros((7000, 7000), np.uint8))
    for row in range(10):  # so that each shard takes a while
        (source / "ab"[row % 2] / f"{row}0 slow.png").write_bytes(slow)
    seen = []

    def kill(done, total):
        if not seen:
            workers = [p for p in ray_processes() if "_Worker" in " ".join(p.cmdline())]
            for worker in workers:
                os.kill(worker.pid, signal.SIGKILL)
            psutil.wait_procs(workers, timeout=30)
            seen.append((len(workers), sum(worker.is_running() for worker in workers), len(shards(target))))
        seen.append((done, total))

    result = encode_shards(source, model[1], target, shard_size=25, progress=kill)
    return source, target, result, seen, read_folder(source, size=28, channels=1)


@pytest.mark.long
def test_killed_workers_lose_nothing_and_double_nothing(killed_run, model):
    _, target, result, seen, plain = killed_run
    (killed, still_running, finished), *progress = seen
    assert killed >= 1 and still_running == 0 and finished < 9  # they died, and there was work left
    assert progress[-1] == (209, 209) and [done for done, _ in progress] == sorted({done for done, _ in progress})
    check_codes(target, model[0], plain.ids, plain.images)
    assert result == Encoded(images=206, rejects=4, shards=9, skipped=0)
    assert rejects_of(target) == plain.rejects
    assert {path.name for path in target.iterdir()} == {
        ".run.lock", "manifest.json", "rejects.csv", *(f"shard-00000{number}.parquet" for number in range(9))
    }  # fmt: skip


@pytest.mark.long
def test_ray_that_was_running_before_is_left_running(killed_run, local_ray):
    assert local_ray.is_initialized()


@pytest.mark.long
def test_a_write_that_fails_ends_in_a_sentence_and_the_next_start_makes_only_what_is_missing(
    killed_run, model, tmp_path, request
):
    source, target, plain = killed_run[0], tmp_path / "shards", killed_run[-1]
    shutil.copytree(killed_run[1], target)
    before = {path.name: path.stat().st_mtime_ns for path in shards(target)}
    for number in (3, 4):
        before.pop(f"shard-00000{number}.parquet")
        (target / f"shard-00000{number}.parquet").unlink()
    (target / "shard-000003.parquet").mkdir()  # nothing can be written there
    message = r"shard-000003.parquet cannot be written \(Is a directory\); make room or choose another folder: the fin"
    with pytest.raises(ShardError, match=message):
        encode_shards(source, model[1], target, shard_size=25, workers=1, progress=silent)
    assert not list(target.glob(".partial-*"))
    (target / "shard-000003.parquet").rmdir()
    skipped = len(shards(target))
    assert skipped in (7, 8)
    request.getfixturevalue("in_process")
    result = encode_shards(source, model[1], target, shard_size=25, progress=silent)
    assert result == Encoded(images=206, rejects=4, shards=9, skipped=skipped)
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in shards(target)}.items()
    check_codes(target, model[0], plain.ids, plain.images)
    assert rejects_of(target) == plain.rejects


@pytest.mark.long
def test_a_cluster_is_used_by_its_address_and_left_running(local_ray, model, tmp_path):
    address = local_ray.get_runtime_context().gcs_address
    code = (
        "import sys; from cbir_utils.scale.shards import encode_shards;"
        "print(encode_shards('shapes', sys.argv[1], sys.argv[2], shard_size=400, workers=1, address=sys.argv[3]))"
    )
    keras_file = tmp_path / "encoder.keras"
    encoder = small_encoder(shape=(28, 14, 1))
    encoder.save(keras_file)
    done = subprocess.run(
        [sys.executable, "-c", code, str(keras_file), str(tmp_path / "shards"), address],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "Encoded(images=600, rejects=0, shards=2, skipped=0)"
    assert lines[-1].startswith("encoded 600 of 600 images ")
    assert done.stderr == ""
    images = load_dataset("shapes").database.images
    check_codes(tmp_path / "shards", encoder, map(str, range(600)), images)
    assert local_ray.cluster_resources()["CPU"] == 2


@pytest.mark.long
def test_more_workers_than_cores_are_refused(local_ray, model, tmp_path):
    with pytest.raises(ShardError, match="Ray has 2 cores, fewer than workers=3; lower workers"):
        encode_shards("digits", model[1], tmp_path / "shards", workers=3)


@pytest.mark.long
def test_a_failure_of_ray_is_a_sentence(local_ray, model, tmp_path, monkeypatch):
    class Rows:
        def map(self, *_, **how):
            return self

        def iter_rows(self):
            raise local_ray.exceptions.RayActorError(error_msg="first\nThe actor died.")

    monkeypatch.setattr(local_ray.data, "from_items", lambda *_, **__: Rows())
    with pytest.raises(ShardError, match=r"^the workers failed \(The actor died.\); finished shards are kept$"):
        encode_shards("digits", model[1], tmp_path / "shards")


def test_an_address_where_nothing_listens_is_refused_at_once(monkeypatch, model, tmp_path):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    start = time.monotonic()
    with pytest.raises(
        ShardError, match=r"no Ray answers at 127.0.0.1:9 \(.*refused\); start one there with `ray start"
    ):
        encode_shards("digits", model[1], tmp_path / "shards", address="127.0.0.1:9")
    assert time.monotonic() - start < 10


# -- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_size", [7, 40, 1000])
@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file(in_process, model, tmp_path, packed, shard_size):
    path = write_idx(tmp_path / "train-images-idx3-ubyte", IMAGES[..., 0])
    if packed:
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".gz")
    result = encode_shards(path, model[1], tmp_path / "shards", shard_size=shard_size, progress=silent)
    assert result == Encoded(images=40, rejects=0, shards=-(-40 // shard_size), skipped=0)
    check_codes(tmp_path / "shards", model[0], map(str, range(40)), IMAGES)
    assert rejects_of(tmp_path / "shards") == ()


def test_a_dataset_by_name_is_its_database(in_process, model, tmp_path):
    encode_shards("digits", model[1], tmp_path / "shards", shard_size=1000, progress=silent)
    check_codes(tmp_path / "shards", model[0], map(str, range(1437)), load_dataset("digits").database.images)


FORMS = {
    "files": lambda: pyarrow.array([png(image) for image in IMAGES]),
    "large files": lambda: pyarrow.array([png(image) for image in IMAGES], pyarrow.large_binary()),
    "structs": lambda: pyarrow.array([{"bytes": png(image), "path": "x"} for image in IMAGES]),
    "lists": lambda: pyarrow.array(list(IMAGES.reshape(40, -1)), pyarrow.list_(pyarrow.uint8())),
    "fixed lists": lambda: pyarrow.FixedSizeListArray.from_arrays(IMAGES.ravel(), 784),
    "fixed binary": lambda: pyarrow.array([image.tobytes() for image in IMAGES], pyarrow.binary(784)),
}


@pytest.mark.parametrize("form", FORMS)
def test_parquet_files_of_every_form(in_process, model, tmp_path, form):
    write_table(tmp_path / "a.parquet", FORMS[form](), row_group_size=9)  # shards begin and end within row groups
    write_table(tmp_path / "b.parquet", FORMS[form]()[:5], ids=range(100, 105))
    result = encode_shards(tmp_path, model[1], tmp_path / "shards", shard_size=15, progress=silent)
    assert result == Encoded(images=45, rejects=0, shards=4, skipped=0)
    ids = IDS + [str(number) for number in range(100, 105)]
    check_codes(tmp_path / "shards", model[0], ids, np.concatenate([IMAGES, IMAGES[:5]]))


def test_parquet_rows_are_read_in_batches_across_row_groups(in_process, model, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "BATCH", 4)
    path = write_table(tmp_path / "a.parquet", FORMS["fixed lists"](), row_group_size=10)
    encode_shards(path, model[1], tmp_path / "shards", shard_size=17, progress=silent)
    check_codes(tmp_path / "shards", model[0], IDS, IMAGES)


def test_parquet_rows_that_are_no_image_are_rejected(in_process, model, tmp_path):
    images = [png(IMAGES[0]), None, b"no image", png(IMAGES[3])[:200], b"", png(IMAGES[5])]
    write_table(tmp_path / "a.parquet", pyarrow.array(images), ids=["0", "1", "2", "3", "4", None])
    pixels = [IMAGES[6].ravel(), IMAGES[7].ravel()[:-1], [None] * 784]
    write_table(tmp_path / "b.parquet", pyarrow.array(pixels, pyarrow.list_(pyarrow.uint8())), ids=["6", "7", "8"])
    result = encode_shards(tmp_path, model[1], tmp_path / "shards", shard_size=2, progress=silent)
    assert result == Encoded(images=2, rejects=7, shards=5, skipped=0)
    check_codes(tmp_path / "shards", model[0], ["0", "6"], IMAGES[[0, 6]])
    assert rejects_of(tmp_path / "shards") == (
        ("1", "empty (null)"),
        ("2", "not an image (PNG, JPEG, GIF, BMP, TIFF or WebP)"),
        ("3", "damaged or truncated"),
        ("4", "empty (zero bytes)"),
        ("7", "783 values of type uint8, not 784 of type uint8"),
        ("8", "784 values of type float64, not 784 of type uint8"),
        ("a.parquet:5", "it has no id"),
    )


def test_a_damaged_part_of_a_parquet_file_is_rejected_and_the_rest_read(in_process, model, tmp_path):
    path = write_table(
        tmp_path / "a.parquet", FORMS["files"](), row_group_size=10, write_page_checksum=True, use_dictionary=False
    )
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(2).column(1)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 255
    path.write_bytes(data)
    result = encode_shards(path, model[1], tmp_path / "shards", shard_size=25, progress=silent)
    assert result == Encoded(images=30, rejects=10, shards=2, skipped=0)
    kept = [*range(20), *range(30, 40)]
    check_codes(tmp_path / "shards", model[0], [IDS[row] for row in kept], IMAGES[kept])
    reason = "its Parquet file is damaged here"
    assert rejects_of(tmp_path / "shards") == tuple((f"a.parquet:{row}", reason) for row in range(20, 30))


def test_a_parquet_file_that_changes_under_way_is_an_error_not_a_reject(in_process, model, tmp_path):
    first = write_table(tmp_path / "a.parquet", FORMS["files"]())
    second = write_table(tmp_path / "b.parquet", FORMS["files"]())

    def change(done, total):
        second.write_bytes(b"")

    with pytest.raises(ShardError, match="b.parquet cannot be read any more; was it changed?"):
        encode_shards(tmp_path, model[1], tmp_path / "shards", progress=change)
    second.unlink()
    with pytest.raises(ShardError, match="from another source, or before it changed"):
        encode_shards(first, model[1], tmp_path / "shards")
    assert [path.name for path in shards(tmp_path / "shards")] == ["shard-000000.parquet"]


def test_images_in_a_folder_are_fitted_to_what_the_encoder_takes(in_process, tmp_path):
    encoder = small_encoder(shape=(16, 12, 3))
    encoder.save(tmp_path / "encoder.keras")
    source = photos(tmp_path / "photos", 6)
    encode_shards(source, tmp_path / "encoder.keras", tmp_path / "shards", progress=silent)
    ids, codes = load_codes(tmp_path / "shards")
    images = np.stack([scale.read_image(source / name, (16, 12, 3)) for name in ids])
    np.testing.assert_allclose(codes, encode(encoder, images), atol=1e-5)


def test_a_folder_without_one_readable_image_ends_with_all_rejected(in_process, model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("no image")
    result = encode_shards(tmp_path / "photos", model[1], tmp_path / "shards", progress=silent)
    assert result == Encoded(images=0, rejects=1, shards=1, skipped=0)
    ids, codes = load_codes(tmp_path / "shards")
    assert ids == [] and codes.shape == (0, 8)


def test_a_file_name_that_is_not_utf8(in_process, model, tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for name in (b"\xff.png", b"\xfe.png"):
        with open(os.path.join(os.fsencode(source), name), "wb") as file:
            file.write(png(IMAGES[0]) if name[0] == 255 else b"")
    encode_shards(source, model[1], tmp_path / "shards", progress=silent)
    check_codes(tmp_path / "shards", model[0], ["\\udcff.png"], IMAGES[:1])
    assert rejects_of(tmp_path / "shards") == (("\\udcfe.png", "empty (zero bytes)"),)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: p / "gone", "there is no dataset '.*gone'"),
        (lambda p: p / "gone.parquet", "gone.parquet does not exist"),
        (lambda p: p.joinpath("none").mkdir() or p / "none", "there are no images in .*none"),
        (lambda p: write_table(p / "a.parquet", FORMS["files"]()[:0], ids=[]), "there are no images in .*a.parquet"),
        (lambda p: write_table(p / "a.parquet", pyarrow.array(["x"]), ids=["0"]), "must be binary .* not string"),
        (
            lambda p: pq.write_table(pyarrow.table({"id": ["0"], "label": [1]}), p / "a.parquet") or p / "a.parquet",
            "a.parquet has the columns id, label; the columns id and image are needed",
        ),
        (
            lambda p: (p / "a.parquet").write_bytes(b"PAR1 and no more PAR1") and p / "a.parquet",
            "a.parquet is not a Parquet file that can be read",
        ),
        (lambda p: write_idx(p / "labels-idx1-ubyte", IMAGES[:, 0, 0, 0]), r"must be uint8 \(N, H, W\), .* \(40,\)"),
        (lambda p: (p / "a.bin").write_bytes(b"abc") and p / "a.bin", "a.bin: wrong magic number .* no IDX file"),
    ],
)  # fmt: skip
def test_a_source_that_is_none_is_refused_before_anything_is_written(no_encoding, model, tmp_path, make, message):
    source = make(tmp_path)
    with pytest.raises(DatasetError, match=message):
        encode_shards(source, model[1], tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


# -- starting again -------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(in_process, model, tmp_path):
    """A folder of images, and its shards."""
    source = photos(tmp_path / "photos")
    encode_shards(source, model[1], tmp_path / "shards", shard_size=6, progress=silent)
    return source, tmp_path / "shards"


def test_a_second_start_encodes_nothing_and_keeps_every_reject(finished, model, no_encoding):
    source, folder = finished
    before, rejects = state(folder), rejects_of(folder)
    assert encode_shards(source, model[1], folder, shard_size=6) == Encoded(images=20, rejects=4, shards=4, skipped=4)
    after = state(folder)
    assert {name for name in before if before[name] != after[name]} <= {"manifest.json", "rejects.csv"}
    assert rejects_of(folder) == rejects == read_folder(source).rejects


def test_a_start_after_an_interruption_makes_the_rest(in_process, model, tmp_path):
    source, folder, seen = photos(tmp_path / "photos"), tmp_path / "shards", []

    def stop(done, total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_shards(source, model[1], folder, shard_size=6, progress=stop)
    assert len(shards(folder)) == 2
    with pytest.raises(
        ShardError, match="2 of 4 shards are missing, .*shard-000002.parquet first; run encode_shards again"
    ):
        load_codes(folder)
    result = encode_shards(source, model[1], folder, shard_size=6, progress=lambda *now: seen.append(now))
    assert result == Encoded(images=20, rejects=4, shards=4, skipped=2)
    assert seen == [(18, 23), (23, 23)]
    plain = read_folder(source)
    check_codes(folder, model[0], plain.ids, plain.images)


def test_shards_of_another_encoder_source_or_size_are_refused_and_left_alone(finished, model, no_encoding, tmp_path):
    source, folder = finished
    small_encoder(seed=1).save(tmp_path / "other.keras")
    before = state(folder)
    with pytest.raises(
        ShardError, match="shard-000000.parquet was made by another encoder; choose another folder, or del"
    ):
        encode_shards(source, tmp_path / "other.keras", folder, shard_size=6)
    with pytest.raises(
        ShardError, match="shard-000000.parquet was made from another source, or before it changed; choose"
    ):
        encode_shards("digits", model[1], folder, shard_size=6)
    with pytest.raises(ShardError, match="was made with shard_size=6; go on with that, or choose another folder"):
        encode_shards(source, model[1], folder, shard_size=7)
    (source / "new.png").write_bytes(png(IMAGES[0]))
    with pytest.raises(ShardError, match="from another source, or before it changed"):
        encode_shards(source, model[1], folder, shard_size=6)
    (source / "new.png").unlink()
    (source / "b" / "0.png").write_bytes(png(IMAGES[1]))
    with pytest.raises(ShardError, match="from another source, or before it changed"):
        encode_shards(source, model[1], folder, shard_size=6)
    assert state(folder) == before


def test_a_damaged_or_misnamed_shard_is_made_anew(finished, model):
    source, folder = finished
    first, second, third, fourth = shards(folder)
    first.write_bytes(first.read_bytes()[:-9])
    third.rename(second)
    before = state(folder)
    result = encode_shards(source, model[1], folder, shard_size=6, progress=silent)
    assert result == Encoded(images=20, rejects=4, shards=4, skipped=1)
    assert state(folder)[fourth.name] == before[fourth.name]
    plain = read_folder(source)
    check_codes(folder, model[0], plain.ids, plain.images)


def test_a_folder_without_shards_may_go_to_another_encoder(in_process, model, tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"no model")
    with pytest.raises(ShardError, match="broken.keras is not a Keras model that can be loaded in safe mode"):
        encode_shards("digits", tmp_path / "broken.keras", tmp_path / "shards", progress=silent)
    assert not shards(tmp_path / "shards")
    encode_shards("digits", model[1], tmp_path / "shards", progress=silent)
    assert len(load_codes(tmp_path / "shards", encoder_hash=sha256(model[1]))[0]) == 1437


def test_two_at_once_in_one_folder_are_refused(model, tmp_path, in_process):
    def second(*_):
        with pytest.raises(ShardError, match="shards is being written to by another process; wait for it to end"):
            encode_shards("digits", model[1], tmp_path / "shards")
        seen.append(True)

    seen = []
    encode_shards("digits", model[1], tmp_path / "shards", progress=second)
    assert seen == [True]


# -- faults ---------------------------------------------------------------------------------------------------------


@contextmanager
def files_no_larger_than(size):
    """Writing more is an error, as on a full disk; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_half_written_file(in_process, model, tmp_path):
    folder, size = tmp_path / "shards", model[1].stat().st_size
    message = r"shard-000000.parquet cannot be written \(File too large\); make room or choose another folder: the fin"
    with files_no_larger_than(size + 100), pytest.raises(ShardError, match=message):
        encode_shards("digits", model[1], folder, progress=silent)
    assert sorted(file.name for file in folder.iterdir()) == [".run.lock", "manifest.json"]
    with files_no_larger_than(size - 1), pytest.raises(ShardError, match=r"encoder.keras cannot be written \(File too"):
        encode_shards("digits", model[1], folder, progress=silent)
    encode_shards("digits", model[1], folder, progress=silent)
    assert len(load_codes(folder)[0]) == 1437 and shards(folder)[0].stat().st_size > size + 100


def test_a_disk_that_fills_up_during_a_manifest_is_a_sentence(no_encoding, model, tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(scale, "write_json", full)
    with pytest.raises(ShardError, match=r"manifest.json cannot be written \(No space left on device\); make room or"):
        encode_shards("digits", model[1], tmp_path / "shards")


def test_encoders_that_are_none_are_refused(in_process, model, tmp_path):
    with pytest.raises(ShardError, match="gone.keras does not exist; give the encoder's .keras file"):
        encode_shards("digits", tmp_path / "gone.keras", tmp_path / "shards")
    image = keras.Input((28, 28, 1))
    keras.Model(image, keras.layers.Conv2D(1, 1)(image)).save(tmp_path / "autoencoder.keras")
    with pytest.raises(
        ShardError, match=r"autoencoder.keras is no encoder: its output has the shape \(None, 28, 28, 1\)"
    ):
        encode_shards("digits", tmp_path / "autoencoder.keras", tmp_path / "shards", progress=silent)
    broken = small_encoder()
    broken.layers[-1].set_weights([np.full((784, 8), np.nan), np.zeros(8)])
    broken.save(tmp_path / "nan.keras")
    with pytest.raises(ShardError, match="nan.keras gives codes that are not finite; train it again"):
        encode_shards("digits", tmp_path / "nan.keras", tmp_path / "shards", progress=silent)
    path = write_idx(tmp_path / "images-idx3-ubyte", IMAGES[:, :20, :20, 0])
    with pytest.raises(ShardError, match=r"the model takes images of shape \(28, 28, 1\), but these are \(20, 20, 1\)"):
        encode_shards(path, model[1], tmp_path / "shards", progress=silent)
    assert not shards(tmp_path / "shards")


def test_a_shard_that_kills_every_worker_is_given_up(model, finished, monkeypatch):
    source, folder = finished
    facts = {name: json.loads((folder / "manifest.json").read_text())[name] for name in ("encoder", "source")}
    worker = scale._Worker(model[1].read_bytes(), "encoder.keras", "images", str(source), str(folder), facts)
    row = {"shard": 0, "item": json.dumps({"ids": ["b/0.png"], "start": 0, "rows": 1})}

    def die(table, path, **_):
        Path(path).write_bytes(b"half of a sh")
        raise SystemExit

    before = state(folder)
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", die)
        for _ in range(scale.TRIES):
            with pytest.raises(SystemExit):
                worker(row)
    assert re.search("shard-000000.parquet: 4 workers have died of this shard", worker(row)["error"])
    assert state(folder) == before  # what was there is whole
    shards(folder)[0].unlink()
    encode_shards(source, model[1], folder, shard_size=6, progress=silent)  # a new start tries it again
    assert len(load_codes(folder)[0]) == 20 and not list(folder.glob(".tries-*"))


@pytest.mark.parametrize("lost", ["photos", "shards"])
def test_a_worker_that_does_not_see_a_folder_says_so_and_rejects_nothing(model, finished, tmp_path, lost):
    source, folder = finished
    facts = {"source": "", "encoder": ""}
    worker = scale._Worker(model[1].read_bytes(), "encoder.keras", "images", str(source), str(folder), facts)
    shutil.rmtree(tmp_path / lost)
    answer = worker({"shard": 0, "item": json.dumps({"ids": ["b/0.png"], "start": 0, "rows": 1})})
    assert "all machines of a cluster must see the source and the folder of the shards" in answer["error"]
    assert str(tmp_path / lost) in answer["error"] and not (tmp_path / lost).exists()


def test_a_worker_that_sees_another_source_says_so(model, finished):
    worker = scale._Worker(model[1].read_bytes(), "encoder.keras", "dataset", "digits", finished[1], {"source": "x"})
    answer = worker({"shard": 0, "item": json.dumps({"start": 0, "rows": 1})})
    assert answer["error"].startswith("digits on ") and "differs from where encode_shards was called" in answer["error"]


def test_shards_do_not_go_into_their_source(no_encoding, model, tmp_path):
    source = photos(tmp_path / "photos")
    for folder in (source, source / "shards"):
        with pytest.raises(ShardError, match="lies in the source .*photos; choose another folder for the shards"):
            encode_shards(source, model[1], folder)
    assert not (source / "shards").exists() and not shards(source)


@pytest.mark.parametrize("size, workers", [(0, 2), (10, 0)])
def test_sizes_below_one_are_refused(no_encoding, model, tmp_path, size, workers):
    with pytest.raises(ValueError, match=f"shard_size and workers must be 1 or more, not {size} and {workers}"):
        encode_shards("digits", model[1], tmp_path / "shards", shard_size=size, workers=workers)


@pytest.mark.parametrize("name", ["ray.data", "pyarrow"])
def test_a_missing_library_is_one_sentence(no_encoding, model, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    library = name.split(".")[0]
    with pytest.raises(ShardError, match=rf"needs {library}, which is not installed: pip install -e '.\[scale\]'$"):
        encode_shards("digits", model[1], tmp_path / "shards")


# -- reading --------------------------------------------------------------------------------------------------------


def test_the_shards_are_plain_parquet_and_the_manifest_tells_what_they_are(finished, model):
    source, folder = finished
    table = pq.read_table(shards(folder)[0])
    assert table.schema.field("id").type == pyarrow.string()
    assert table.schema.field("code").type == pyarrow.list_(pyarrow.float32(), 8)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["encoder"] == sha256(model[1]) and manifest["rows"] == [6, 6, 6, 5]
    assert manifest["place"] == str(source) and manifest["kind"] == "images"
    assert manifest["rejects"] == [["nowhere.png", "a link that leads nowhere"]]


def test_shards_are_read_one_by_one(finished):
    _, folder = finished
    parts = list(read_shards(folder))
    ids, codes = load_codes(folder)
    assert [len(part) for part, _ in parts] == [len(part) for _, part in parts]
    assert [name for part, _ in parts for name in part] == ids
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), codes)
    shards(folder)[-1].unlink()
    with pytest.raises(ShardError, match="1 of 4 shards are missing"):  # at once, not after three shards
        read_shards(folder)


def test_codes_of_another_encoder_are_refused(finished, model):
    _, folder = finished
    load_codes(folder, encoder_hash=sha256(model[1]))
    with pytest.raises(
        ShardError, match=r"holds codes of another encoder \([0-9a-f]{12}…, not 0{12}…\); encode the images"
    ):
        load_codes(folder, encoder_hash="0" * 64)


@pytest.mark.parametrize("place", ["ids", "codes", "end"])
def test_a_changed_byte_in_a_shard_is_noticed(finished, place):
    path = shards(finished[1])[1]
    data, columns = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(0)
    last = {"ids": 0, "codes": 1, "end": None}[place]
    if last is not None:  # the last byte of the column's page
        last = columns.column(last).data_page_offset + columns.column(last).total_compressed_size - 1
    data[-1 if last is None else last] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match="shard-000001.parquet is damaged; delete it and run encode_shards again"):
        load_codes(finished[1])


def test_a_shard_that_came_from_elsewhere_is_refused(finished, model, tmp_path):
    source, folder = finished
    other = tmp_path / "other"
    encode_shards("digits", model[1], other, shard_size=6, progress=silent)
    shutil.copyfile(shards(other)[1], shards(folder)[1])
    with pytest.raises(ShardError, match="shard-000001.parquet does not belong to the other shards; delete it and run"):
        load_codes(folder)


def test_a_manifest_that_is_missing_damaged_or_newer_is_refused(finished, tmp_path):
    _, folder = finished
    manifest = folder / "manifest.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "format": scale.FORMAT + 1}))
    with pytest.raises(ShardError, match=r"holds shards of a newer format \(2\); update cbir_utils"):
        load_codes(folder)
    manifest.write_text("{")
    with pytest.raises(ShardError, match="manifest.json is damaged; run encode_shards again"):
        load_codes(folder)
    manifest.unlink()
    with pytest.raises(ShardError, match="shards has no manifest.json; make the shards with encode_shards"):
        load_codes(folder)


def test_an_id_that_stands_twice_is_refused(in_process, model, tmp_path):
    path = write_table(tmp_path / "a.parquet", FORMS["files"](), ids=[*IDS[:-1], IDS[3]])
    encode_shards(path, model[1], tmp_path / "shards", shard_size=15, progress=silent)
    with pytest.raises(
        ShardError, match="shards: the id 'image 3' stands twice; the source must give each image an id"
    ):
        load_codes(tmp_path / "shards")


# -- progress and imports -------------------------------------------------------------------------------------------


def test_progress_is_a_line_for_each_tenth(in_process, model, tmp_path, capsys):
    path = write_idx(tmp_path / "images-idx3-ubyte", IMAGES[..., 0])
    encode_shards(path, model[1], tmp_path / "shards", shard_size=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" images ")[0] for line in lines] == [f"encoded {done} of 40" for done in range(4, 41, 4)]


def test_importing_the_module_loads_neither_ray_nor_pyarrow_nor_tensorflow():
    code = "import sys, cbir_utils.scale.shards; print({'ray', 'pyarrow', 'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
