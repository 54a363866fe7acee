"""One run at a time: a second is refused, and what killed processes left is swept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cbir_utils.artifacts.locks import exclusive
from cbir_utils.artifacts.store import ArtifactError, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "digits")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


HOLD = """
import sys
from pathlib import Path
from cbir_utils.artifacts.locks import exclusive

with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(store):
    """Another process that holds the folder until its input ends; it says so when it has it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(store.folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)


@pytest.mark.parametrize("end", [lambda process: process.stdin.close(), lambda process: process.kill()])
def test_a_second_run_is_refused_until_the_first_ends_or_is_killed(store, end):
    with holder(store) as process:
        assert process.stdout.readline() == "held\n"
        refused = pytest.raises(ArtifactError, match=rf"another run \(process {process.pid}\) .*--results")
        with refused, exclusive(store.folder):
            pytest.fail("two runs held one folder")
        end(process)
        process.wait(timeout=20)
        with exclusive(store.folder):
            assert store.path(".run.lock").read_text() == str(os.getpid())


def test_a_run_that_fails_leaves_no_lock_and_others_may_save_meanwhile(store):
    with pytest.raises(ZeroDivisionError), exclusive(store.folder):
        Store(store.folder).save_json("history.json", 1)
        raise ZeroDivisionError
    with exclusive(store.folder):
        assert store.load_json("history.json") == 1


def test_only_what_killed_processes_left_is_swept(store):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    left, alive = (store.path(f"method/.partial-{pid}-x-codes.npy") for pid in (gone.pid, os.getpid()))
    left.parent.mkdir(parents=True)
    left.touch(), alive.touch()
    with exclusive(store.folder):
        assert names_in(left.parent) == [alive.name]
