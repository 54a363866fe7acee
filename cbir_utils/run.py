"""Where a run keeps things: atomic saves, checked loads, and the manifest that ties them together.

A run is one folder, ``results/<dataset>/``. A file in it appears whole or not at all, its SHA-256 is noted
in ``manifest.json``, and loading checks that hash first. Nothing is ever unpickled.
"""

import fcntl
import hashlib
import json
import os
import platform
import shlex
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath

import numpy as np

#: Which notebook writes everything in a method's folder, for the methods that one notebook makes from start to end.
METHOD_MADE_BY = {
    **dict.fromkeys(("undercomplete", "deep", "sparse", "contractive", "denoising", "variational"), "06"),
    **dict.fromkeys(("pca", "hog"), "06"),
    **dict.fromkeys(("contrastive", "joint", "manifold", "fused"), "08"),
    "binary": "09",
}

#: Which notebook writes a file, by its name, or from which to which: so that an error can say how to make it anew.
MADE_BY = {
    "labels_database.npy": "01",
    "labels_queries.npy": "01",
    "encoder.keras": "02",
    "autoencoder.keras": "02",
    "history.json": "02",
    "codes_database.npy": "03",
    "codes_queries.npy": "03",
    "index.faiss": "04",
    "index.json": "04",
    "metrics.json": "05-08",
    "autoencoders.json": "06",
    "hard_queries.json": "07",
    "novelty.json": "07",
    "binary_codes.json": "09",
}

#: The packages whose versions can change a result, noted in the manifest.
PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn", "faiss-cpu", "pillow", "matplotlib")


class ArtifactError(RuntimeError):
    """A run's file is missing, damaged or another's; the message names it and the command that makes it anew."""


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, delete it if not.

    The temporary name keeps the ending of ``path`` (Keras and Matplotlib choose their format by it).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=".partial-", suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    try:
        yield Path(partial)
        umask = os.umask(0)  # mkstemp makes files that nobody else can read; give them the usual mode
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def sha256(path):
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path, value):
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")


class Run:
    """The artifacts of one dataset's run, ``<results>/<dataset>/``.

    Every ``name`` below is a path inside that folder, with forward slashes: ``"convolutional/encoder.keras"``.
    """

    def __init__(self, dataset, results="results"):
        self.dataset = str(dataset)
        self.results = Path(results)
        self.folder = self.results / self.dataset

    def path(self, name):
        """Where the artifact ``name`` is kept."""
        return self.folder / name

    @property
    def manifest(self):
        """The manifest as a dict, empty before the first save."""
        path = self.path("manifest.json")
        if not path.exists():
            return {}
        try:
            manifest = json.loads(path.read_text())
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise ArtifactError(f"{path} is not valid JSON; delete it and run {self._remedy('01', '05', {})}")
        return manifest

    def remedy_for(self, name):
        """The shell command, between backquotes, that makes the artifact ``name`` anew, from any folder."""
        path = PurePosixPath(name)
        made_by = METHOD_MADE_BY.get(path.parts[0], MADE_BY.get(path.name, "01-05"))
        return self._remedy(made_by[:2], made_by[-2:], self.manifest)

    def _remedy(self, start, stop, manifest):
        words = [sys.executable, "-m", "cbir_utils", "run", "--dataset", manifest.get("source", self.dataset)]
        words += ["--size", str(manifest["size"])] if manifest.get("size") else []
        words += ["--labels"] if manifest.get("labels") else []
        words += ["--profile", manifest.get("profile", "workshop"), "--from", start, "--to", stop]
        return f"`{shlex.join([*words, '--results', str(self.results.resolve())])}`"

    # -- saving ---------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, name):
        """Yield a temporary path to write to; on success it becomes the artifact ``name`` and enters the manifest."""
        with atomic_path(self.path(name)) as partial:
            yield partial
        self.record_files(name)

    def save_array(self, name, array):
        """Save a NumPy array as ``.npy``, without pickling."""
        with self.writing(name) as partial, open(partial, "wb") as file:
            np.save(file, np.asarray(array), allow_pickle=False)

    def save_json(self, name, value):
        """Save ``value`` as JSON."""
        with self.writing(name) as partial:
            partial.write_text(json.dumps(value, indent=2) + "\n")

    def save_figure(self, figure, name):
        """Save a Matplotlib figure as ``figures/<name>.png`` and ``.pdf``; returns the PNG's path."""
        for ending in ("pdf", "png"):
            with self.writing(f"figures/{name}.{ending}") as partial:
                # No date or version in the file: the same picture has the same hash.
                stamp = {"CreationDate": None} if ending == "pdf" else {"Software": None}
                figure.savefig(partial, metadata=stamp)
            figure.set_layout_engine("none")  # laid out by the first save: many axes take seconds each time
        return self.path(f"figures/{name}.png")

    def record_files(self, *names):
        """Note the SHA-256 and size of saved artifacts in the manifest."""
        facts = {n: {"sha256": sha256(self.path(n)), "bytes": self.path(n).stat().st_size} for n in names}
        self.record(files=facts)

    def record(self, **facts):
        """Merge facts into the manifest: ``record(parameters={"02_train_autoencoder": {...}}, timings={...})``.

        Dicts are merged key by key, everything else is replaced.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path(".manifest.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two notebooks may save at once
            manifest = self.manifest
            facts = {"dataset": self.dataset, "packages": package_versions(), "machine": machine(), **facts}
            for key, value in facts.items():
                if isinstance(value, dict):
                    value = {**manifest.get(key, {}), **value}
                manifest[key] = value
            manifest["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(self.path("manifest.json"), manifest)

    # -- loading --------------------------------------------------------------------------------------

    def checked_path(self, name):
        """The path of the artifact ``name``, after comparing the file with its hash in the manifest.

        Raises :class:`ArtifactError`, with the command that makes it anew, if it is missing or differs.
        """
        path = self.path(name)
        if not path.is_file():
            raise ArtifactError(f"{path} does not exist yet; make it with {self.remedy_for(name)}")
        noted = self.manifest.get("files", {}).get(name)
        if noted is None:
            raise ArtifactError(f"{path} is not in the run's manifest; make it anew with {self.remedy_for(name)}")
        if sha256(path) != noted["sha256"]:
            raise ArtifactError(
                f"{path} differs from its hash in the manifest (damaged or changed since it was written); "
                f"make it anew with {self.remedy_for(name)}"
            )
        return path

    def load_array(self, name, shape=None, dtype=None):
        """Load a ``.npy`` artifact after checking hash, shape and dtype.

        ``shape`` may hold ``None`` where any length will do: ``(None, 128)``.
        """
        path = self.checked_path(name)
        try:
            with open(path, "rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ArtifactError(f"{path} is no .npy file; make it anew with {self.remedy_for(name)}") from error
        if shape is not None:
            fits = len(shape) == array.ndim and all(
                want in (None, have) for want, have in zip(shape, array.shape, strict=True)
            )
            if not fits:
                raise ArtifactError(
                    f"{path} holds an array of shape {array.shape}, but {tuple(shape)} is needed; "
                    f"make it anew with {self.remedy_for(name)}"
                )
        if dtype is not None and array.dtype != np.dtype(dtype):
            raise ArtifactError(
                f"{path} holds {array.dtype}, but {np.dtype(dtype)} is needed; "
                f"make it anew with {self.remedy_for(name)}"
            )
        return array

    def load_json(self, name):
        """Load a JSON artifact after checking its hash."""
        path = self.checked_path(name)
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ArtifactError(f"{path} is not valid JSON; make it anew with {self.remedy_for(name)}") from error

    def same_data(self, content_hash):
        """Make sure that the run's files come from these data; the first call notes the dataset's content hash."""
        known = self.manifest.get("content_hash")
        if known is None:
            self.record(content_hash=content_hash)
        elif known != content_hash:
            raise ArtifactError(
                f"{self.folder} was made from other data (hash {known[:12]}…, not {content_hash[:12]}…); "
                f"start anew with {self._remedy('01', '05', self.manifest)}, or choose another results folder"
            )

    def save_codes(self, method, database, queries, *, encoder="encoder.keras"):
        """Save a method's codes, ``(N, D)`` and ``(Q, D)`` float32, and note which encoder and data they come from.

        ``encoder`` is the artifact that made them, in the method's folder or (``"contrastive/encoder.keras"``) in
        another's; ``None`` for codes that nothing was trained for.
        """
        if encoder is not None and "/" not in encoder:
            encoder = f"{method}/{encoder}"
        self.save_array(f"{method}/codes_database.npy", database)
        self.save_array(f"{method}/codes_queries.npy", queries)
        self.record(codes={method: self._origin(encoder)})

    def load_codes(self, method):
        """A method's codes, database ``(N, D)`` and queries ``(Q, D)``; refused if another encoder made them."""
        database = self.load_array(f"{method}/codes_database.npy", (None, None), "float32")
        queries = self.load_array(f"{method}/codes_queries.npy", (None, database.shape[1]), "float32")
        noted = self.manifest.get("codes", {}).get(method)
        if noted is None or noted != self._origin(noted.get("encoder")):
            raise ArtifactError(
                f"the codes in {self.path(method)} come from another encoder or other data than the run has now; "
                f"make them anew with {self.remedy_for(f'{method}/codes_database.npy')}"
            )
        return database, queries

    def _origin(self, encoder):
        return {
            "encoder": encoder,
            "encoder_hash": self.file_hash(encoder) if encoder else None,
            "content_hash": self.manifest.get("content_hash"),
        }

    def file_hash(self, name):
        """The SHA-256 of the artifact ``name``, after checking that the file still has it."""
        self.checked_path(name)
        return self.manifest["files"][name]["sha256"]

    # -- the table of results ---------------------------------------------------------------------------

    def add_metrics(self, rows):
        """Put rows, dated today, into ``metrics.json``: they replace those of the same method and distance.

        A table that is damaged is begun anew, as if there were none: the notebooks that wrote it make it anew.
        """
        rows = [{**row, "measured": datetime.now(UTC).date().isoformat()} for row in rows]
        try:
            known = self.load_json("metrics.json")
        except ArtifactError:
            known = []
        table = {(row["method"], row["distance"]): row for row in [*known, *rows]}
        self.save_json("metrics.json", list(table.values()))

    # -- one run at a time --------------------------------------------------------------------------------

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
            for left in self.folder.rglob(".partial-*"):  # of a process that was killed in the middle of a save
                left.unlink()
            yield


def package_versions():
    """The installed versions of the packages that can change a result; ``None`` for one that is missing."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def machine():
    """What the run is made on: system, processor architecture and number of cores."""
    return {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count()}
