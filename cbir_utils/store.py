"""Files that appear whole or not at all, and a folder of them whose hashes stand in its manifest.

Nothing is ever unpickled.
"""

import fcntl
import hashlib
import json
import os
import platform
import secrets
import shlex
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from cbir_utils.chapters import made_by

#: The packages whose versions can change a result, noted in the manifest.
PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn", "faiss-cpu", "pillow", "matplotlib")


class ArtifactError(RuntimeError):
    """A run's file is missing, damaged or another's; the message names it and the command that makes it anew."""


@contextmanager
def partial_path(path):
    """Yield a temporary path beside ``path``, with the same ending; whatever is left of it is deleted at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{secrets.token_hex(4)}-{path.name[-60:]}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, delete it if not.

    The temporary name keeps the ending of ``path`` (Keras and Matplotlib choose their format by it).
    """
    with partial_path(path) as partial:
        yield partial
        os.replace(partial, path)


def sha256(path):
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path, value):
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


def sealed(facts):
    """A dict with the SHA-256 of what it says as its ``"seal"``, so that a damaged byte of its JSON file is noticed."""
    facts = {name: value for name, value in facts.items() if name != "seal"}
    return {**facts, "seal": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}


def read_sealed(path):
    """The dict in a JSON file that was written with :func:`sealed`; a ValueError says what is wrong with it."""
    path = Path(path)
    try:
        facts = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON that can be read") from error
    if not isinstance(facts, dict) or "seal" not in facts:
        raise ValueError(f"{path.name} was made by an older version, or is damaged")
    if sealed(facts) != facts:
        raise ValueError(f"{path.name} differs from its own hash")
    del facts["seal"]
    return facts


class Store:
    """A folder of artifacts. Each has its SHA-256 in ``manifest.json``, which loading checks first.

    Every ``name`` below is a path inside the folder, with forward slashes: ``"convolutional/encoder.keras"``.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def path(self, name):
        """Where the artifact ``name`` is kept."""
        return self.folder / name

    @property
    def manifest(self):
        """The manifest as a dict, empty before the first save."""
        try:
            return read_sealed(self.path("manifest.json"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ArtifactError(
                f"{self.folder}: {error}; delete this file and run {self.command('01', '05', {})}"
            ) from error

    def remedy(self, name):
        """The shell command, between backquotes, that makes the artifact ``name`` anew, from any folder."""
        return self.command(*made_by(name))

    def command(self, first, last, manifest=None):
        """The shell command, between backquotes, that runs notebooks ``first`` to ``last`` on this run's data."""
        manifest = self.manifest if manifest is None else manifest
        words = [sys.executable, "-m", "cbir_utils", "run", "--dataset", manifest.get("source", self.folder.name)]
        words += ["--size", str(manifest["size"])] if manifest.get("size") else []
        words += ["--labels"] if manifest.get("labels") else []
        words += ["--profile", manifest.get("profile", "workshop"), "--from", first, "--to", last]
        return f"`{shlex.join([*words, '--results', str(self.folder.parent.resolve())])}`"

    # -- saving ---------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, *names, note=None):
        """Yield a temporary path for each name; if the block succeeds, they become these artifacts together.

        So do the facts that ``note(paths)`` gives for the manifest.
        """
        with ExitStack() as stack:
            partials = [stack.enter_context(partial_path(self.path(name))) for name in names]
            yield partials[0] if len(names) == 1 else partials
            with self.locked():
                self._publish(dict(zip(names, partials, strict=True)), **(note(partials) if note else {}))

    def save_array(self, name, array):
        """Save a NumPy array as ``.npy``, without pickling."""
        with self.writing(name) as partial:
            write_npy(partial, array)

    def save_json(self, name, value):
        """Save ``value`` as JSON."""
        with self.writing(name) as partial:
            partial.write_text(json.dumps(value, indent=2) + "\n")

    def record(self, **facts):
        """Merge facts into the manifest: ``record(profile="paper", steps={"02_train_autoencoder": {...}})``.

        Dicts are merged key by key, everything else is replaced.
        """
        with self.locked():
            self._merge(facts)

    def record_files(self, *names):
        """Note files that were not written through :meth:`writing`, such as an executed notebook."""
        with self.locked():
            self._note_files({name: self.path(name) for name in names})

    @contextmanager
    def locked(self, name=".manifest.lock"):
        """Hold a lock file, waiting for it: whoever changes a shared file does so from its reading to its writing."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _publish(self, partials, **facts):
        """Note the hashes of temporary files, ``{name: path}``, and rename them to their names.

        The manifest comes first and names the hash of before as well: a process that is killed in between leaves files
        that are still known.
        """
        self._note_files(partials, **facts)
        for name, partial in partials.items():
            os.replace(partial, self.path(name))

    def _note_files(self, paths, **facts):
        known, noted = self.manifest.get("files", {}), {}
        for name, path in paths.items():
            now, old = self.path(name), known.get(name, {})
            previous = sha256(now) if path != now and now.exists() else None
            noted[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
            if previous in (old.get("sha256"), old.get("previous")) and previous:
                noted[name]["previous"] = previous
            _log("wrote", name, noted[name]["sha256"])
        self._merge({**facts, "files": noted})

    def _merge(self, facts):
        manifest = self.manifest
        facts = {"dataset": self.folder.name, "packages": package_versions(), "machine": machine(), **facts}
        for key, value in facts.items():
            manifest[key] = {**manifest.get(key, {}), **value} if isinstance(value, dict) else value
        manifest["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path("manifest.json"), sealed(manifest))

    # -- loading --------------------------------------------------------------------------------------

    def checked_path(self, name):
        """The path of the artifact ``name``, after comparing the file with its hash in the manifest.

        Raises :class:`ArtifactError`, with the command that makes it anew, if it is missing or differs.
        """
        self.file_hash(name)
        return self.path(name)

    def file_hash(self, name):
        """The SHA-256 of the artifact ``name``, after checking that it is the one noted in the manifest."""
        for _ in range(2):  # once more, in case somebody else has just replaced the file
            if not self.path(name).is_file():
                raise self._error(name, "does not exist yet")
            noted = self.manifest.get("files", {}).get(name)
            if noted is None:
                raise self._error(name, "is not in the run's manifest")
            found = sha256(self.path(name))
            if found in (noted["sha256"], noted.get("previous")):
                _log("read", name, found)
                return found
        raise self._error(name, "differs from its hash in the manifest (damaged or changed since it was written)")

    def load_array(self, name, shape=None, dtype=None):
        """Load a ``.npy`` artifact after checking hash, shape and dtype.

        ``shape`` may hold ``None`` where any length will do: ``(None, 128)``.
        """
        path = self.checked_path(name)
        try:
            with open(path, "rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self._error(name, "is no .npy file") from error
        wanted = array.shape if shape is None else shape
        fits = len(wanted) == array.ndim and all(w in (None, n) for w, n in zip(wanted, array.shape, strict=True))
        if not fits or dtype not in (None, array.dtype):
            need = f"{tuple(wanted)} {dtype or array.dtype}"
            raise self._error(name, f"holds an array of shape {array.shape} {array.dtype}, but {need} is needed")
        return array

    def load_json(self, name):
        """Load a JSON artifact after checking its hash."""
        try:
            return json.loads(self.checked_path(name).read_text())
        except (ValueError, RecursionError) as error:
            raise self._error(name, "is not valid JSON") from error

    def _error(self, name, what):
        return ArtifactError(f"{self.path(name)} {what}; make it anew with {self.remedy(name)}")

    # -- one run at a time ----------------------------------------------------------------------------

    @contextmanager
    def exclusive(self):
        """Hold this results folder for one run; raises :class:`ArtifactError` at once if another run holds it.

        The lock belongs to the process and goes with it, however it ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(".run.lock")
        with open(path, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise ArtifactError(
                    f"another run (process {lock.read().strip() or 'unknown'}) is writing to {self.folder}; "
                    "wait for it to end, or choose another folder with --results"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            for partial in self.folder.rglob(".partial-*"):  # what killed processes left
                if not _is_alive(partial.name.split("-")[1]):
                    partial.unlink(missing_ok=True)
            yield


def write_npy(path, array):
    """Write an array as ``.npy``, without pickling."""
    with open(path, "wb") as file:
        np.save(file, np.asarray(array), allow_pickle=False)


def _is_alive(process):
    """Whether a process, named by its number, is running."""
    try:
        os.kill(int(process), 0)
    except (ValueError, OSError) as error:
        return isinstance(error, PermissionError)  # somebody else's
    return True


def _log(verb, name, file_hash):
    """Tell the runner, where it asks by ``CBIR_STEP_LOG``, which artifacts this notebook reads and writes."""
    if path := os.environ.get("CBIR_STEP_LOG"):
        with open(path, "a") as log:
            log.write(json.dumps([verb, name, file_hash]) + "\n")


@cache
def package_versions():
    """The installed versions of the packages that can change a result; ``None`` for one that is missing."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


@cache
def machine():
    """What the run is made on: system, processor architecture and number of cores."""
    return {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count()}
