"""Atomic files, checked loads, the manifest, and one run at a time."""

import hashlib
import json
import os
import re
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from cbir_utils.artifacts.files import atomic_path, sha256, write_json
from cbir_utils.artifacts.store import ArtifactError, Store

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results" / "digits")


def remedy(store, notebooks):
    """The command that an error must name, as a pattern; ``notebooks`` is a number or "01-05"."""
    start, stop = notebooks[:2], notebooks[-2:]
    words = f"--dataset digits --profile workshop --from {start} --to {stop} --results {store.folder.parent}"
    return re.escape(f"`{sys.executable} -m cbir_utils run {words}`")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# -- one file, whole or not at all ------------------------------------------------------------------------------


def test_atomic_path_replaces_the_file_only_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.json"
    with atomic_path(path) as partial:
        assert partial.parent == path.parent and partial.name.endswith("-a.json")
        partial.write_text("old")
        assert not path.exists()
    with open(path) as reader:
        with atomic_path(path) as partial:
            partial.write_text("new")
            assert path.read_text() == "old"
        assert reader.read() == "old"  # who has the old file open reads it to its end
    assert path.read_text() == "new" and names_in(path.parent) == ["a.json"]
    path.with_name("plain").write_text("")
    assert path.stat().st_mode == path.with_name("plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_and_nothing_else_after_an_exception(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("half of the n")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old" and names_in(tmp_path) == ["a.txt"]


def test_write_json_keeps_the_old_file_if_a_value_is_not_json(tmp_path):
    write_json(tmp_path / "a.json", {"k": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"k": {1, 2}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"k": 1} and names_in(tmp_path) == ["a.json"]


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# -- saving and the manifest ------------------------------------------------------------------------------------


def test_a_saved_array_is_a_plain_npy_file_and_its_hash_stands_in_the_manifest(store):
    assert store.manifest == {}
    store.save_array("labels_database.npy", ROWS)
    np.testing.assert_array_equal(np.load(store.path("labels_database.npy")), ROWS)
    loaded = store.load_array("labels_database.npy", shape=(None, 3), dtype="float32")
    assert np.array_equal(loaded, ROWS) and loaded.dtype == np.float32
    data = store.path("labels_database.npy").read_bytes()
    assert store.manifest["files"] == {
        "labels_database.npy": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    }
    store.save_array("labels_database.npy", ROWS[:2])
    assert store.load_array("labels_database.npy").shape == (2, 3)


def test_what_cannot_be_saved_leaves_the_old_artifact(store):
    store.save_json("history.json", {"loss": [0.5, 0.25]})
    with pytest.raises(ValueError, match="allow_pickle"):
        store.save_array("history.json", np.array([{}, None], dtype=object))
    with pytest.raises(ZeroDivisionError), store.writing("history.json", "other.json") as (partial, _):
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    assert store.load_json("history.json") == {"loss": [0.5, 0.25]} and list(store.manifest["files"]) == [
        "history.json"
    ]


@pytest.mark.parametrize("dies_in", ["manifest", "rename"])
def test_a_process_killed_in_the_middle_of_a_save_leaves_a_file_that_is_still_known(store, monkeypatch, dies_in):
    """Before the manifest or between it and the rename: the old file is whole; after the rename, the new one."""
    store.save_json("metrics.json", ["old"])

    class Killed(BaseException):
        pass

    def killed(source, target):
        if dies_in == "manifest" or Path(target).name != "manifest.json":
            raise Killed
        os.rename(source, target)

    monkeypatch.setattr("cbir_utils.artifacts.store.os.replace", killed)
    with pytest.raises(Killed):
        store.save_json("metrics.json", ["new"])
    monkeypatch.undo()
    assert store.load_json("metrics.json") == ["old"]
    store.save_json("metrics.json", ["newer"])
    assert store.load_json("metrics.json") == ["newer"]


def test_record_merges_dicts_key_by_key_and_replaces_the_rest(store):
    store.record(steps={"01": {"a": 1, "b": 2}, "02": {"c": 3}}, note="first", seeds=[1, 2])
    store.record(steps={"01": {"a": 4}}, note="second", seeds=[3])
    manifest = json.loads(store.path("manifest.json").read_text())
    assert manifest["steps"] == {"01": {"a": 4}, "02": {"c": 3}}
    assert manifest["note"] == "second" and manifest["seeds"] == [3]
    assert manifest["dataset"] == "digits" and manifest["packages"]["numpy"] == np.__version__
    assert manifest["machine"]["cores"] == os.cpu_count() and manifest["updated"].endswith("+00:00")


def record_many(folder, who):
    for number in range(20):
        Store(folder).record(notes={f"{who} {number}": number})


def test_two_processes_that_record_at_once_lose_nothing(store):
    workers = [get_context("fork").Process(target=record_many, args=(store.folder, who)) for who in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(store.manifest["notes"]) == 40


def test_reads_and_writes_are_told_to_whoever_asks(store, tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_STEP_LOG", str(tmp_path / "log"))
    store.save_json("a.json", 1)
    store.load_json("a.json")
    file_hash = sha256(store.path("a.json"))
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == [["wrote", "a.json", file_hash], ["read", "a.json", file_hash]]


# -- loading: what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, notebooks",
    [
        ("labels_database.npy", "01"),
        ("convolutional/encoder.keras", "02"),
        ("convolutional/history.json", "02"),
        ("convolutional/codes_queries.npy", "03"),
        ("convolutional/index.faiss", "04"),
        ("metrics.json", "05-08"),
        ("deep/encoder.keras", "06"),
        ("hog/codes_queries.npy", "06"),
        ("manifold/codes_queries.npy", "08"),
        ("made_by_nobody_known.png", "01-05"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(store, name, notebooks):
    with pytest.raises(ArtifactError, match=f"{name} does not exist yet; .*{remedy(store, notebooks)}"):
        store.checked_path(name)


def test_the_remedy_knows_where_the_run_came_from(store):
    store.record(source="/data/my digits", profile="paper", size=64, labels=True)
    words = "--dataset '/data/my digits' --size 64 --labels --profile paper --from 02 --to 02"
    assert words in store.remedy("convolutional/encoder.keras")


@pytest.mark.parametrize("load", [Store.checked_path, Store.load_array, Store.load_json, Store.file_hash])
def test_a_damaged_file_is_refused_by_every_way_to_it(store, load):
    store.save_array("labels_database.npy", ROWS)
    path = store.path("labels_database.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="differs from its hash in the manifest .*" + remedy(store, "01")):
        load(store, "labels_database.npy")


def test_a_file_that_is_not_in_the_manifest_is_refused(store):
    store.save_json("metrics.json", [])
    np.save(store.path("labels_queries.npy"), ROWS)
    with pytest.raises(ArtifactError, match="is not in the run's manifest; .*" + remedy(store, "01")):
        store.load_array("labels_queries.npy")


@pytest.mark.parametrize("shape", [(4, 2), (5, None), (None, None, None), (12,), ()])
def test_an_array_of_another_shape_or_dtype_is_refused(store, shape):
    store.save_array("labels_database.npy", ROWS)
    message = re.escape(f"of shape (4, 3) float32, but {shape} float32 is needed; ") + ".*" + remedy(store, "01")
    with pytest.raises(ArtifactError, match=message):
        store.load_array("labels_database.npy", shape=shape)
    with pytest.raises(ArtifactError, match="but .* int64 is needed"):
        store.load_array("labels_database.npy", dtype="int64")
    for fitting in ((4, 3), (None, 3), (None, None), None):
        assert np.array_equal(store.load_array("labels_database.npy", fitting), ROWS)


class MakesAFolder:
    """Unpickling this has an effect that can be seen."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickled_npy_is_refused_and_not_unpickled(store, tmp_path):
    with store.writing("labels_database.npy") as partial, open(partial, "wb") as file:
        np.save(file, np.array([MakesAFolder(tmp_path / "unpickled")], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="is no .npy file; .*" + remedy(store, "01")):
        store.load_array("labels_database.npy")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("data", [b"", b"text", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_a_registered_file_of_another_kind_is_refused(store, data):
    with store.writing("index.json", "labels_database.npy") as partials:
        for partial in partials:
            partial.write_bytes(data)
    with pytest.raises(ArtifactError, match="is no .npy file"):
        store.load_array("labels_database.npy")
    with pytest.raises(ArtifactError, match="is not valid JSON"):
        store.load_json("index.json")


NO_JSON, OLD = "is no JSON that can be read", "was made by an older version, or is damaged"
WRONG = {
    "{": NO_JSON, "": NO_JSON, "no json": NO_JSON, "[" * 200_000: NO_JSON,
    "[]": OLD, "{}": OLD, '{"files": {}}': OLD, '{"files": [], "seal": "0"}': "differs from its own hash",
}  # fmt: skip


@pytest.mark.parametrize(("text", "what"), WRONG.items(), ids=lambda text: text[:20])
def test_an_invalid_manifest_is_refused_and_not_overwritten(store, text, what):
    store.save_json("history.json", 1)
    store.path("manifest.json").write_text(text)
    for use in (lambda: store.load_json("history.json"), lambda: store.record(note="new")):
        command = remedy(store, "01-05")
        with pytest.raises(ArtifactError, match=f"manifest.json {what}; delete this file and run {command}"):
            use()
    assert store.path("manifest.json").read_text() == text
