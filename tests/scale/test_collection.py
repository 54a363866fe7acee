"""The contract of every index on the exact one and on Milvus's embedded engine, and what can go wrong with a file."""

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
from cbir_utils.scale import engine
from cbir_utils.scale.collection import FACTS, Collection, EngineError

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


def in_another_program(code, path):
    prepare = "import os, sys; from contract import *; index = Collection(sys.argv[1], 'codes')\n"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command, pipe = [sys.executable, "-c", prepare + code, str(path)], subprocess.PIPE
    return subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def test_codes_that_are_written_in_many_files_are_all_found_when_these_are_merged(tmp_path):
    with Collection(tmp_path / "codes.db", "codes") as index:
        for start in [*range(0, 300, 10), *range(0, 50, 10)]:
            index.add(ROWS[start : start + 10], range(start, start + 10))
            index._client.flush("codes")
    assert 0 < len(list(tmp_path.rglob("data_*.parquet"))) < 35  # of 35 that were written
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


@pytest.mark.parametrize("pattern", ["manifest.json", "schema.json", "data_*.parquet", "*.idx"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_file_is_refused_and_left_as_it_is(path, pattern, gone):
    file = next(path.rglob(pattern))
    content = file.read_bytes()
    file.unlink() if gone else file.write_bytes(content[: len(content) // 2])
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


def test_a_file_that_was_not_closed_and_has_lost_rows_is_refused(tmp_path):
    """No seal says that it was damaged; the number of codes that had arrived does."""
    program = in_another_program("index.add(ROWS); index.remove([7]); os._exit(1)", tmp_path / "codes.db")
    assert program.wait() == 1
    (file,) = tmp_path.rglob("wal_data_*")
    content = file.read_bytes()
    file.write_bytes(content[:-300])
    with (
        pytest.warns(UserWarning, match="was not closed"),
        pytest.raises(EngineError, match=r"holds 0 codes of 299; del"),
    ):
        Collection(tmp_path / "codes.db", "codes")


def test_a_file_is_open_in_one_program_only_which_seals_it_as_it_ends(path, capfd):
    program = in_another_program("print(len(index.add(ROWS[:9])), flush=True); sys.stdin.read()", path)
    assert program.stdout.readline() == "309\n"
    with pytest.raises(EngineError, match=r"Milvus at .*codes\.db .*: it is open in another program, or none of the"):
        Collection(path, "codes")
    assert capfd.readouterr() == ("", "")  # no log of the library's
    assert program.communicate("") == ("", "")
    with warnings.catch_warnings(action="error"), Collection(path, "codes") as index:
        assert len(index) == 309


def test_a_full_disk_is_named_and_what_was_there_survives(path):
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file may grow larger, as on a full disk
index.add(np.zeros((5000, 16), np.float32), np.arange(300, 5300))
"""
    program = in_another_program(code, path)
    assert re.search(
        r"EngineError: Milvus at .*codes\.db does not answer, or refuses: .*File too large.*; 0 of 5,000 codes had "
        r"arrived: add the same codes with the same ids again, from 300 to 5299, and none is lost or doubled\n$",
        program.communicate()[1],
    )
    with warnings.catch_warnings(action="ignore"), Collection(path, "codes") as index:
        assert_nearest(index.search(QUERIES, 10, subset=range(300)), ROWS, QUERIES, "euclidean")
        assert len(index.add(np.zeros((5000, 16), np.float32), np.arange(300, 5300))) == 5300


@pytest.mark.parametrize("name", ["file/codes.db", "old.db"])
def test_a_path_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "old.db").write_text("of another program")
    with pytest.raises(EngineError, match=f"{name} cannot be written .*; choose another name"):
        Collection(tmp_path / name, "codes")
    assert (tmp_path / "old.db").read_text() == "of another program"


@pytest.mark.parametrize("facts, message", [
    ('{"format": 1, "metric": "", "dimension": 16, "encoder_hash": ""}', "codes at .* has the format 1, not 3; choose"),
    ("7", "codes at .* was not made by cbir_utils; choose another name"),
])  # fmt: skip
def test_a_collection_of_others_or_of_another_version_is_refused(path, facts, message):
    with Collection(path, "codes") as index:
        index._client.alter_collection_properties("codes", {FACTS: facts})
        with pytest.raises(EngineError, match=message):
            Collection(path, "codes")


# -- addresses and what is installed -----------------------------------------------------------------------------


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_does_not_answer_is_named_within_10_seconds(monkeypatch, capfd, listens):
    assert engine.CONNECT < 9
    monkeypatch.setattr(engine, "CONNECT", 1)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()  # and says nothing
        port, start = server.getsockname()[1], time.monotonic()
        with pytest.raises(EngineError) as caught:
            Collection(f"http://me:secret@127.0.0.1:{port}", "codes")
    assert time.monotonic() - start < 10
    assert str(caught.value).startswith(f"Milvus at http://127.0.0.1:{port} does not answer, or refuses: ")
    assert "secret" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # no log of the library's


def test_what_is_no_address_or_no_name_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"codes is illegal, needs start with .*http.*or a local file endswith"):
        Collection("codes", "codes")
    with pytest.raises(EngineError, match="codes.db does not answer, or refuses: .*collection_name.* is illegal"):
        Collection(tmp_path / "codes.db", "")


@pytest.mark.parametrize("package", ["milvus_lite", "pymilvus"])
def test_without_the_extra_its_name_is_given(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineError, match=rf"needs the package {package}; install it: pip install -e '.\[scale\]'"):
        Collection(tmp_path / "codes.db", "codes")


def test_importing_the_modules_does_not_load_what_they_may_need():
    code = (
        "import sys; from cbir_utils.scale import collection, shards;"
        "print({'pymilvus', 'milvus_lite', 'ray', 'pyarrow', 'keras', 'tensorflow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
