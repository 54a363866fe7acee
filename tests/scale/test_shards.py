"""Encoding on many workers: Parquet shards that equal plain encoding, whatever dies, fails or is there already."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cbir_utils.artifacts.files import sha256
from cbir_utils.datasets import load_dataset
from cbir_utils.folders.files import read_image
from cbir_utils.folders.folder import read_folder
from cbir_utils.models import keras
from cbir_utils.scale import shards as scale
from cbir_utils.scale import workers
from cbir_utils.scale.shards import Encoded, ShardError, encode_shards, load_codes, read_shards
from cbir_utils.training import encode

ROOT = Path(__file__).resolve().parents[2]
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)


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
    """The worker that Ray would start, called in this process; returns how many rows each shard has that it made."""
    made = []

    def encoded(tables, content, read, *_):
        worker = workers.Encoder(content, lambda: read)
        for table in tables:
            made.append(len(table))
            yield worker(table)

    monkeypatch.setattr(scale, "encoded", encoded)
    monkeypatch.setattr(workers, "THREADS", ())
    return made


def photos(folder, count=20):
    """A folder of images and of files that are none."""
    for row in range(count):
        path = folder / ("a" if row % 2 else "b") / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[row % len(IMAGES)]).save(path)
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "a" / "half.png").write_bytes((folder / "b" / "0.png").read_bytes()[:300])
    (folder / "empty.png").write_text("")
    (folder / "nowhere.png").symlink_to("gone.png")
    return folder


@pytest.fixture
def finished(in_process, model, tmp_path):
    """A folder of images, and its shards."""
    source = photos(tmp_path / "photos")
    encode_shards(source, model[1], tmp_path / "shards", shard_size=6)
    in_process.clear()
    return source, tmp_path / "shards"


def shards(folder):
    return sorted(folder.glob("shard-*.parquet"))


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in shards(folder)}


def rejects_of(folder):
    with open(folder / "rejects.csv", newline="", encoding="utf-8") as file:
        return tuple(map(tuple, csv.reader(file)))[1:]


def check_codes(folder, encoder, ids, images):
    """The shards hold these ids, each once and in this order, and the codes of plain encoding."""
    found, codes = load_codes(folder)
    assert found == list(ids)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, encode(encoder, images), atol=1e-5)


# -- with Ray -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_ray():
    """A Ray that is started as encode_shards starts one."""
    import ray.data

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else Ray's workers wait for whatever else keeps the machine busy
        workers._start(2, None)
    ray.data.DataContext.get_current().target_max_block_size = 1000  # bytes: no shard may be cut
    yield ray
    ray.shutdown()


@pytest.mark.long
def test_killed_workers_lose_nothing_and_double_nothing(local_ray, model, tmp_path, monkeypatch):
    source, target, killed = photos(tmp_path / "photos", 196), tmp_path / "shards", []
    for row in range(10):  # so that each shard takes a while
        Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(source / "ab"[row % 2] / f"{row}0 slow.png")
    write = pq.write_table

    def kill(*arguments, **options):  # all workers, once, as the first shard is written
        if not killed:
            processes = psutil.Process().children(recursive=True)
            killed.extend(p for p in processes if "Encoder" in str(p.as_dict(["cmdline"])))
            for worker in killed:
                worker.kill()
        write(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", kill)
    result = encode_shards(source, model[1], target, shard_size=25)
    assert killed
    plain = read_folder(source, size=28, channels=1)
    check_codes(target, model[0], plain.ids, plain.images)
    assert result == Encoded(images=206, rejects=4, shards=9, skipped=0)
    assert rejects_of(target) == plain.rejects
    assert len(list(target.iterdir())) == 12  # with .run.lock, manifest.json and rejects.csv
    assert local_ray.is_initialized()  # as it ran before


@pytest.mark.long
def test_a_worker_that_fails_ends_in_a_sentence(local_ray, model, tmp_path, monkeypatch):
    source, encoded = photos(tmp_path / "photos"), scale.encoded
    with pytest.raises(ShardError, match="Ray has 2 cores, fewer than workers=3; lower workers"):
        encode_shards(source, model[1], tmp_path / "shards", workers=3)

    def lose_the_source(*arguments):
        source.rename(tmp_path / "elsewhere")
        yield from encoded(*arguments)

    monkeypatch.setattr(scale, "encoded", lose_the_source)
    with pytest.raises(ShardError, match=r"^the workers failed \(.*photos is not there on .*; all machines must se"):
        encode_shards(source, model[1], tmp_path / "shards")
    assert not shards(tmp_path / "shards")


@pytest.mark.long
def test_a_shard_that_kills_every_worker_is_given_up(local_ray, model, tmp_path, monkeypatch):
    monkeypatch.setattr(local_ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", 20)
    monkeypatch.setattr(scale, "_open", lambda source: (["0"], lambda *_: os._exit(1), "0" * 64, ()))
    with pytest.raises(ShardError, match="^the workers failed"):
        encode_shards("digits", model[1], tmp_path / "shards")


@pytest.mark.long
def test_a_cluster_is_used_by_its_address_and_left_running(local_ray, tmp_path):
    code = (
        "import sys; from cbir_utils.scale.shards import encode_shards;"
        "print(encode_shards('shapes', sys.argv[1], sys.argv[2], shard_size=400, workers=1, address=sys.argv[3]))"
    )
    encoder = small_encoder(shape=(28, 14, 1))
    encoder.save(tmp_path / "encoder.keras")
    address = local_ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "encoder.keras"), str(tmp_path / "shards"), address],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Encoded(images=600, rejects=0, shards=2, skipped=0)\n"
    assert "600/600" in done.stderr and "core_worker" not in done.stderr and "logging.cc" not in done.stderr
    check_codes(tmp_path / "shards", encoder, map(str, range(600)), load_dataset("shapes").database.images)
    assert local_ray.cluster_resources()["CPU"] == 2


def test_an_address_where_nothing_listens_is_refused_at_once(monkeypatch, model, tmp_path):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # of the other tests' Ray
    start = time.monotonic()
    with pytest.raises(ShardError, match=r"no Ray answers at 127.0.0.1:9 \(.*refused\); start one with `ray start"):
        encode_shards("digits", model[1], tmp_path / "shards", address="127.0.0.1:9")
    assert time.monotonic() - start < 10


# -- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_size, made", [(1000, [1000, 437]), (4096, [1437])])
def test_a_dataset_by_name_is_its_database(in_process, model, tmp_path, shard_size, made):
    result = encode_shards("digits", model[1], tmp_path / "shards", shard_size=shard_size)
    assert in_process == made and result == Encoded(images=1437, rejects=0, shards=len(made), skipped=0)
    check_codes(tmp_path / "shards", model[0], map(str, range(1437)), load_dataset("digits").database.images)
    assert rejects_of(tmp_path / "shards") == ()


def test_images_in_a_folder_are_fitted_to_what_the_encoder_takes_and_names_need_not_be_utf8(in_process, tmp_path):
    encoder, folder = small_encoder(shape=(16, 12, 3)), tmp_path / "shards"
    encoder.save(tmp_path / "encoder.keras")
    source = photos(tmp_path / "photos", 2)
    for old, new in (("a/1.png", b"a/\xff.png"), ("empty.png", b"\xfe.png")):
        os.rename(source / old, os.path.join(os.fsencode(source), new))
    encode_shards(source, tmp_path / "encoder.keras", folder)
    images = [read_image(source / name, (16, 12, 3)) for name in ("a/\udcff.png", "b/0.png")]
    check_codes(folder, encoder, ["a/\\udcff.png", "b/0.png"], np.stack(images))
    assert ("\\udcfe.png", "empty (zero bytes)") in rejects_of(folder)


def test_a_folder_without_one_readable_image_ends_with_all_rejected(in_process, model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("no image")
    result = encode_shards(tmp_path / "photos", model[1], tmp_path / "shards")
    assert result == Encoded(images=0, rejects=1, shards=1, skipped=0)
    assert load_codes(tmp_path / "shards")[1].shape == (0, 8)


# -- starting again -------------------------------------------------------------------------------------------------


def test_a_start_after_an_interruption_makes_the_rest_and_another_one_nothing(in_process, model, tmp_path, monkeypatch):
    source, folder, write = photos(tmp_path / "photos"), tmp_path / "shards", pq.write_table

    def stop(table, path, **options):
        write(table, path, **options)
        if len(in_process) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pq, "write_table", stop)
        encode_shards(source, model[1], folder, shard_size=6)
    assert len(shards(folder)) == 2
    with pytest.raises(ShardError, match="shard-000002.parquet is missing or damaged; run encode_shards again"):
        load_codes(folder)
    plain = read_folder(source)
    for skipped in (2, 4):
        result = encode_shards(source, model[1], folder, shard_size=6)
        assert result == Encoded(images=20, rejects=4, shards=4, skipped=skipped)
        assert len(in_process) == 5  # the third, which was not kept, was made twice
        check_codes(folder, model[0], plain.ids, plain.images)
        assert rejects_of(folder) == plain.rejects
    assert not list(folder.glob(".partial-*"))


def test_shards_of_another_encoder_source_or_size_are_refused_and_left_alone(finished, model, in_process, tmp_path):
    source, folder = finished
    small_encoder(seed=1).save(tmp_path / "other.keras")
    before = times(folder), (folder / "manifest.json").read_bytes()
    for images, encoder, size, what in (
        (source, tmp_path / "other.keras", 6, "encoder"),
        ("digits", model[1], 6, "source"),
        (source, model[1], 7, "shard_size"),
    ):
        with pytest.raises(ShardError, match=f"000000.parquet is of another {what}; choose another folder, or delete"):
            encode_shards(images, encoder, folder, shard_size=size)
    shutil.copy(source / "a" / "1.png", source / "b" / "0.png")
    with pytest.raises(ShardError, match="is of another source"):  # it has changed
        encode_shards(source, model[1], folder, shard_size=6)
    assert in_process == [] and before == (times(folder), (folder / "manifest.json").read_bytes())
    shutil.copyfile(shards(folder)[0], shards(folder)[1])
    with pytest.raises(ShardError, match="shard-000001.parquet is of another shard; choose another folder, or delete"):
        load_codes(folder)


def test_two_at_once_in_one_folder_are_refused(model, tmp_path, in_process, monkeypatch):
    write = pq.write_table

    def second(*arguments, **options):
        with pytest.raises(ShardError, match="shards is being written to by another process; wait for it to end"):
            encode_shards("digits", model[1], tmp_path / "shards")
        write(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", second)
    assert encode_shards("digits", model[1], tmp_path / "shards").shards == 1


# -- faults ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_written_file(in_process, model, tmp_path):
    folder, (soft, hard) = tmp_path / "shards", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (model[1].stat().st_size + 100, hard))  # Python ignores its signal
    try:
        with pytest.raises(ShardError, match=r"shards cannot be written \(.*File too large.*\); finished shards are"):
            encode_shards("digits", model[1], folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(file.name for file in folder.iterdir()) == [".run.lock", "manifest.json"]
    assert encode_shards("digits", model[1], folder).images == 1437


def test_encoders_that_are_none_are_refused(in_process, tmp_path):
    image, diverged, path = keras.Input((28, 28, 1)), small_encoder(), tmp_path / "file.keras"
    diverged.layers[-1].set_weights([np.full((784, 8), np.nan), np.zeros(8)])
    convolution = keras.Model(image, keras.layers.Conv2D(1, 1)(image))
    for save, message in (
        (lambda path: path.write_bytes(b"no model"), "file.keras is not a Keras model that can be loaded in safe mode"),
        (convolution.save, r"is no encoder: its output has the shape \(None, 28"),
        (diverged.save, "the encoder gives codes that are not finite; train it again"),
    ):
        save(path)
        with pytest.raises((ShardError, ValueError), match=message):
            encode_shards("digits", path, tmp_path / "shards")
        assert not shards(tmp_path / "shards")


def test_unfit_arguments_are_refused_before_anything_is_written(model, tmp_path):
    source, empty, folder = photos(tmp_path / "photos"), tmp_path / "none", tmp_path / "shards"
    empty.mkdir()
    for images, target, size, message in (
        (source, source / "shards", 6, "lies in the source .*photos; choose another folder for the shards"),
        (source, folder, 0, "shard_size and workers must be 1 or more, not 0 and 2"),
        (empty, folder, 6, "there are no images in .*none"),
        (tmp_path / "gone", folder, 6, "there is no dataset '.*gone'"),
    ):
        with pytest.raises((ShardError, ValueError), match=message):
            encode_shards(images, model[1], target, shard_size=size)
        assert not target.exists()


@pytest.mark.parametrize("name", ["ray.data", "pyarrow"])
def test_a_missing_library_is_one_sentence(model, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ShardError, match=rf"^shards need the package {name}.*; install it: pip install -e '.\[sc"):
        encode_shards("digits", model[1], tmp_path / "shards")


# -- reading --------------------------------------------------------------------------------------------------------


def test_the_shards_are_plain_parquet_and_read_one_by_one(finished, model):
    source, folder = finished
    table = pq.read_table(shards(folder)[1])
    assert list(map(str, table.schema.types)) == ["int64", "string", "fixed_size_list<element: float>[8]", "string"]
    failed = dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert failed["a/half.png"] == "damaged or truncated" and table["code"].null_count == 2 and len(table) == 6
    ids, codes = load_codes(folder, encoder_hash=sha256(model[1]))
    parts = list(read_shards(folder))
    assert [name for part, _ in parts for name in part] == ids and len(parts) == 4
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), codes)


def test_a_manifest_tells_what_the_shards_are_and_what_does_not_fit_it_is_refused(finished, model, tmp_path):
    source, folder = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["encoder"] == sha256(model[1]) and manifest["images"] == 23
    assert manifest["source_name"] == str(source)
    with pytest.raises(ShardError, match=r"holds codes of another encoder \([0-9a-f]{12}…, not 0{12}…\); encode"):
        load_codes(folder, encoder_hash="0" * 64)
    (folder / "manifest.json").write_text("{")
    for without in (folder, tmp_path):
        with pytest.raises(ShardError, match="has no manifest.json that can be read; run encode_shards first"):
            load_codes(without)


@pytest.mark.parametrize("column", ["id", "code", None])
def test_a_changed_byte_in_a_shard_is_noticed_and_the_shard_made_anew(finished, model, column):
    source, folder = finished
    path, before = shards(folder)[1], load_codes(folder)
    data, group, last = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(0), -1
    for at in range(group.num_columns):
        if column and group.column(at).path_in_schema.startswith(column):  # the last byte of the column's page
            last = group.column(at).data_page_offset + group.column(at).total_compressed_size - 1
    data[last] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match="shard-000001.parquet is missing or damaged; run encode_shards again, it is"):
        load_codes(folder)
    assert encode_shards(source, model[1], folder, shard_size=6).skipped == 3
    assert load_codes(folder)[0] == before[0]
