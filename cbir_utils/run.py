"""Where a run keeps things: codes, models, figures and the table of results of one dataset.

A run is one folder, ``results/<dataset>/``. Its files appear whole or not at all, and are checked when they are loaded.
"""

import json
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cbir_utils.datasets import folder_kind
from cbir_utils.store import ArtifactError, Store, partial_path, sha256, write_npy


class Run(Store):
    """The artifacts of one dataset's run, ``<results>/<dataset>/``."""

    def __init__(self, dataset, results="results"):
        self.dataset = str(dataset)
        self.results = Path(results)
        super().__init__(self.results / self.dataset)

    def save_figure(self, figure, name):
        """Save a Matplotlib figure as ``figures/<name>.png`` and ``.pdf``; returns the PNG's path."""
        for ending in ("pdf", "png"):
            with self.writing(f"figures/{name}.{ending}") as partial:
                # No date or version in the file: the same picture has the same hash.
                stamp = {"CreationDate": None} if ending == "pdf" else {"Software": None}
                figure.savefig(partial, metadata=stamp)
            figure.set_layout_engine("none")  # laid out by the first save: many axes take seconds each time
        return self.path(f"figures/{name}.png")

    def keep_model(self, method, model, history, **settings):
        """Keep a trained ``Autoencoder``, its history, and the settings that it was trained with.

        They become ``<method>/encoder.keras``, ``autoencoder.keras`` and ``history.json``, together.
        """
        names = [f"{method}/{name}" for name in ("encoder.keras", "autoencoder.keras", "history.json")]
        with self.writing(*names) as (encoder, autoencoder, told):
            model.encoder.save(encoder)
            model.plain.save(autoencoder)
            told.write_text(json.dumps({**vars(history), "settings": settings}, indent=2) + "\n")

    def keep(self, method, database, queries, *, encoder=None):
        """Keep a method's codes, ``(N, D)`` and ``(Q, D)``, and note which encoder and data they come from.

        ``encoder`` is the artifact that made them, ``None`` where nothing was trained.
        """
        names = [f"{method}/codes_{split}.npy" for split in ("database", "queries")]

        def origin(paths):
            return {"codes": {method: {**self._origin(encoder), "files": [sha256(path) for path in paths]}}}

        with self.writing(*names, note=origin) as paths:
            for path, codes in zip(paths, (database, queries), strict=True):
                write_npy(path, codes)

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

    def score(self, method, trainings, data, /, *, distance, first_seed=0, **facts):
        """Put a row into ``metrics.json``, and return it.

        ``trainings`` is what ``metrics.evaluate`` returns, or a list of it, one for each training; the seeds of these
        start at ``first_seed``. ``facts`` enter the row as they are (``train_seconds=12.3``).
        """
        from cbir_utils.metrics import summarize  # only here: a run knows nothing else of metrics

        trainings = [trainings] if isinstance(trainings, dict) else trainings
        row = {"method": method, "distance": distance, **summarize(trainings, data, first_seed), **facts}
        return self.add_rows("metrics.json", [row], ("method", "distance"))[0]

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

    def load_codes(self, method):
        """A method's codes, database ``(N, D)`` and queries ``(Q, D)``; refused if another encoder made them."""
        names = [f"{method}/codes_{split}.npy" for split in ("database", "queries")]
        database = self.load_array(names[0], (None, None), "float32")
        queries = self.load_array(names[1], (None, database.shape[1]), "float32")
        noted = self.manifest.get("codes", {}).get(method, {})
        now = {**self._origin(noted.get("encoder")), "files": [self.file_hash(name) for name in names]}
        if noted != now:
            raise self._error(names[0], "comes from another encoder or other data than the run has now")
        return database, queries

    def _origin(self, encoder):
        return {
            "encoder": encoder,
            "encoder_hash": self.file_hash(encoder) if encoder else None,
            "content_hash": self.manifest.get("content_hash"),
        }

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
        """Note the dataset's name, or folder, and its content hash: what was made from other data counts no more.

        Another folder of the same name, with other images, is refused.
        """
        source = str(Path(source).resolve() if folder_kind(source) else source)
        known = self.manifest
        noted, same_content = known.get("source", source), known.get("content_hash") == content_hash
        if noted != source and not same_content:
            raise ArtifactError(
                f"{self.folder} belongs to {noted}, and {source} holds other images; choose another folder with "
                "--results"
            )
        moved = same_content and not Path(noted).exists()
        self.record(source=source if moved else noted, content_hash=content_hash)

    def _known_rows(self, name, keys):
        """The rows of a table, whatever its hash: rows are kept as long as they can be read."""
        if not self.path(name).exists():
            return []
        try:
            rows = json.loads(self.path(name).read_text())
            return [row for row in rows if [row[key] for key in keys]]
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"{self.path(name)} is damaged; delete it and run {self.remedy(name)}") from error
