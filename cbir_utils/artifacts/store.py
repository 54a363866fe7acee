"""A folder of files whose hashes stand in its manifest."""

import json
import os
import platform
import shlex
import shutil
import sys
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from cbir_utils.artifacts.chapters import made_by
from cbir_utils.artifacts.files import ArtifactError, partial_path, read_sealed, sealed, sha256, write_json, write_npy
from cbir_utils.artifacts.locks import locked

#: The packages whose versions can change a result, noted in the manifest.
PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn", "faiss-cpu", "pillow", "matplotlib")


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

    def add_rows(self, name, rows, keys):
        """Put rows, dated today, into the table ``name``; they replace those with the same ``keys``. Returns them."""
        today = datetime.now(UTC).date().isoformat()
        rows = [{**row, "measured": today} for row in rows]
        with self.locked(), partial_path(self.path(name)) as partial:
            known = self._known_rows(name, keys)
            table = {tuple(row[key] for key in keys): row for row in [*known, *rows]}
            partial.write_text(json.dumps(list(table.values()), indent=2) + "\n")
            self._publish({name: partial})
        return rows

    def keep_index(self, method, index):
        """Save an index of a method's codes, as ``<method>/index.faiss`` and ``index.json``."""
        described, rows = (f"{method}/index.{ending}" for ending in ("json", "faiss"))
        with self.writing(described, rows) as (facts, partial):
            beside = partial.with_suffix(".json")
            try:
                with suppress(FileNotFoundError):  # so that the new description names the rows of before as well
                    shutil.copyfile(self.path(described), beside)
                index.save(partial)
                os.replace(beside, facts)
            finally:
                beside.unlink(missing_ok=True)

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

    def locked(self, name=".manifest.lock"):
        """Hold a lock file, waiting for it: whoever changes a shared file does so from its reading to its writing."""
        return locked(self.path(name))

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

    def _known_rows(self, name, keys):
        """The rows of a table, whatever its hash: rows are kept as long as they can be read."""
        if not self.path(name).exists():
            return []
        try:
            rows = json.loads(self.path(name).read_text())
            return [row for row in rows if [row[key] for key in keys]]
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{self.path(name)} is damaged; delete it and run {self.remedy(name)}") from error

    def _error(self, name, what):
        return ArtifactError(f"{self.path(name)} {what}; make it anew with {self.remedy(name)}")

    def same_data(self, content_hash):
        """Make sure that the run's files come from these data; the first call notes the dataset's content hash."""
        known = self.manifest.get("content_hash")
        if known is None:
            self.record(content_hash=content_hash)
        elif known != content_hash:
            raise ArtifactError(
                f"{self.folder} was made from other data (hash {known[:12]}…, not {content_hash[:12]}…); start anew "
                f"with {self.command('01', '05')}, or choose another folder with --results"
            )

    def belongs_to(self, source, content_hash):
        """Note the dataset's name, or its folder's whole path, and its content hash; other data's files count no more.

        Another folder of the same name, with other images, is refused.
        """
        source, known = str(source), self.manifest
        noted, same_content = known.get("source", source), known.get("content_hash") == content_hash
        if noted != source and not same_content:
            raise ArtifactError(
                f"{self.folder} belongs to {noted}, and {source} holds other images; choose another folder with "
                "--results"
            )
        moved = same_content and not Path(noted).exists()
        self.record(source=source if moved else noted, content_hash=content_hash)


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
