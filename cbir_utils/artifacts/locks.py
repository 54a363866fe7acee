"""Locks of a run's folder: of a shared file while it is changed, and of the whole folder while a run writes to it."""

import fcntl
import os
from contextlib import contextmanager

from cbir_utils.artifacts.files import ArtifactError


@contextmanager
def locked(path):
    """Hold a lock file, waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive(folder):
    """Hold this results folder for one run; raises :class:`ArtifactError` at once if another run holds it.

    The lock belongs to the process and goes with it, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".run.lock"
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ArtifactError(
                f"another run (process {lock.read().strip() or 'unknown'}) is writing to {folder}; "
                "wait for it to end, or choose another folder with --results"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for partial in folder.rglob(".partial-*"):  # what killed processes left
            if not _is_alive(partial.name.split("-")[1]):
                partial.unlink(missing_ok=True)
        yield


def _is_alive(process):
    """Whether a process, named by its number, is running."""
    try:
        os.kill(int(process), 0)
    except (ValueError, OSError) as error:
        return isinstance(error, PermissionError)  # somebody else's
    return True
