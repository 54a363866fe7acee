"""The contract of every index on the exact one and on Milvus's embedded engine, and what can go wrong with a file."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from contract import QUERIES, ROWS, Contract, EngineContract, assert_nearest

from cbir_utils.index import Index
from cbir_utils.scale.collection import CONNECT, FACTS, SEAL, Collection, EngineError

ROOT = Path(__file__).resolve().parents[2]


class TestExactIndex(Contract):
    def make(self, metric="euclidean", encoder_hash=None):
        return Index(metric, encoder_hash=encoder_hash)


@pytest.fixture(scope="module")
def engine_address(tmp_path_factory):
    return tmp_path_factory.mktemp("engine") / "codes.db"


class TestFile(EngineContract):
    pass


# -- the embedded engine's file ----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    """A file with a collection of 300 codes, closed."""
    with Collection(tmp_path / "codes.db", "codes", encoder_hash="abc") as index:
        index.add(ROWS)
    return tmp_path / "codes.db"


def in_another_program(code, path, **options):
    prepare = "import os, sys; from contract import *; index = Collection(sys.argv[1], 'codes')\n"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, "-c", prepare + code, str(path)], env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def test_codes_that_are_written_in_many_files_are_all_found_when_these_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr("cbir_utils.scale.collection.NUMBERS", 16 * 10)
    with Collection(tmp_path / "codes.db", "codes") as index:
        index.add(ROWS, progress=lambda done, total: index._client.flush("codes"))
        index.add(ROWS[:50], np.arange(50), progress=lambda done, total: index._client.flush("codes"))
    files = list(tmp_path.rglob("data_*.parquet"))
    assert 0 < len(files) < 35  # of 35 that were written
    with Collection(tmp_path / "codes.db", "codes") as index:
        assert len(index) == 300
        assert_nearest(index.search(QUERIES, 300), ROWS, QUERIES, "euclidean")


def test_two_collections_in_a_file(path):
    with Collection(path, "codes") as one, Collection(path, "others", metric="cosine") as other:
        other.add(ROWS[:5, :3].copy())
        one.close()
        assert (len(other), other.dimension) == (5, 3)
    with Collection(path, "codes") as one, Collection(path, "others") as other:
        assert (len(one), len(other), other.metric) == (300, 5, "cosine")


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
@pytest.mark.parametrize("pattern", ["manifest.json", "schema.json", "data_*.parquet", "*.idx"])
def test_a_damaged_file_is_refused_and_left_as_it_is(path, pattern, damage):
    file = next(path.rglob(pattern))
    content = file.read_bytes()
    half = len(content) // 2
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:half] + (b"" if damage == "cut" else b"\xff" + content[half + 1 :]))
    for _ in range(2):
        with pytest.raises(EngineError, match=rf"codes\.db is damaged, or another program .*: .*{file.name} is not wh"):
            Collection(path, "codes")
    file.write_bytes(content)
    with Collection(path, "codes") as index:
        assert len(index) == 300


def test_a_program_that_is_killed_loses_nothing_that_had_arrived(path):
    program = in_another_program("index.add(ROWS[:100] + 9); index.remove([7]); os._exit(1)", path)
    assert program.communicate() == ("", "") and program.returncode == 1
    with pytest.warns(UserWarning, match=r"codes\.db was not closed properly: if an add was cut off, repeat it"):
        index = Collection(path, "codes")
    assert len(index) == 399
    index.add(ROWS[:100] + 9, np.arange(300, 400))
    assert len(index) == 399
    assert index.search(ROWS[5] + 9, 1).ids.tolist() == [[305]]
    index.close()


def test_a_file_that_was_not_closed_and_lacks_codes_is_refused(path):
    (path / SEAL).unlink()
    next(path.rglob("data_*.parquet")).unlink()
    with (
        pytest.warns(UserWarning),
        pytest.raises(EngineError, match="is damaged .*missing data file.*add the codes an"),
    ):
        Collection(path, "codes")


def test_a_file_is_open_in_one_program_only_which_seals_it_as_it_ends(path):
    program = in_another_program("print(len(index.add(ROWS[:9])), flush=True); sys.stdin.read()", path)
    assert program.stdout.readline() == "309\n"
    with pytest.raises(EngineError, match=r"codes\.db is open in another program; close it there first$"):
        Collection(path, "codes")
    assert program.communicate("") == ("", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Collection(path, "codes") as index:
            assert len(index) == 309


def test_a_full_disk_is_named_and_what_was_there_survives(path):
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow larger, as on a full disk
try:
    index.add(np.zeros((5000, 16), np.float32), np.arange(300, 5300))
except EngineError as error:
    print(error)
"""
    program = in_another_program(code, path)
    said, errors = program.communicate()
    assert re.fullmatch(
        r"the embedded engine cannot work with .*codes\.db: .*File too large.*; 0 of 5,000 codes had arrived: add the "
        r"same codes with the same ids again, from 300 to 5299, and none is lost or doubled\n", said
    ), said + errors  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = Collection(path, "codes")
    assert_nearest(index.search(QUERIES, 10, subset=range(300)), ROWS, QUERIES, "euclidean")
    index.add(np.zeros((5000, 16), np.float32), np.arange(300, 5300))
    assert len(index) == 5300
    index.close()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EngineError, match="codes.db cannot be written"):
        Collection(tmp_path / "file" / "codes.db", "codes")
    (tmp_path / "old.db").write_text("of another program")
    with pytest.raises(EngineError, match="old.db is a file that the embedded engine did not write; choose another"):
        Collection(tmp_path / "old.db", "codes")
    assert (tmp_path / "old.db").read_text() == "of another program"


def test_a_collection_of_others_or_of_a_newer_version_is_refused(path):
    index = Collection(path, "codes")
    index._client.alter_collection_properties("codes", {FACTS: json.dumps({"format": 2, "metric": "euclidean",
                                                        "dimension": 16, "encoder_hash": None})})  # fmt: skip
    with pytest.raises(
        EngineError, match="codes at .* has format 2, and this version reads up to 1; update cbir_utils"
    ):
        Collection(path, "codes")
    index._client.alter_collection_properties("codes", {FACTS: "7"})
    with pytest.raises(EngineError, match="codes at .* was not made by cbir_utils; choose another name"):
        Collection(path, "codes")
    index.close()


# -- addresses and what is installed -----------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_named_within_10_seconds(capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        port = closed.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(EngineError) as caught:
            Collection(f"http://me:secret@127.0.0.1:{port}", "codes")
    assert time.monotonic() - start < 10
    assert str(caught.value).startswith(f"no Milvus server answers at http://127.0.0.1:{port}; start it, or correct")
    assert capfd.readouterr() == ("", "")  # no log of the library's


def test_a_server_that_does_not_answer_is_named_within_10_seconds(monkeypatch):
    assert CONNECT < 9
    monkeypatch.setattr("cbir_utils.scale.collection.CONNECT", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(EngineError, match="no Milvus server answers at http://127.0.0.1"):
            Collection(f"http://127.0.0.1:{silent.getsockname()[1]}", "codes")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("address", ["codes", "ftp://host:1", "http://", "codes.db/"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match=r"is no address of an engine; give a path that ends in \.db, or http://host"):
        Collection(address, "codes")


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "é", "x" * 256])
def test_what_is_no_name_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is no name of a collection: letters, digits and _ only, and no digit first"):
        Collection(tmp_path / "codes.db", name)
    assert not list(tmp_path.iterdir())


def test_an_unknown_metric_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no metric 'hamming'; choose one of euclidean, cosine"):
        Collection(tmp_path / "codes.db", "codes", metric="hamming")


def test_without_the_extra_its_name_is_given(monkeypatch, tmp_path):
    for package in ("milvus_lite", "pymilvus"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(EngineError, match=rf"needs the package {package}; install it: pip install -e '.\[scale\]'"):
            Collection(tmp_path / "codes.db", "codes")


def test_importing_the_module_does_not_load_what_it_may_need():
    code = (
        "import sys, cbir_utils.scale.collection; "
        "print({'pymilvus', 'milvus_lite', 'grpc', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
