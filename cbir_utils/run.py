"""Where a run keeps things: codes, models, figures and the table of results of one dataset.

A run is one folder, ``results/<dataset>/``. Its files appear whole or not at all, and are checked when they are loaded.
"""

import json
from pathlib import Path

from cbir_utils.artifacts.files import sha256, write_npy
from cbir_utils.artifacts.store import Store


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

    def score(self, method, trainings, data, /, *, distance, first_seed=0, **facts):
        """Put a row into ``metrics.json``, and return it.

        ``trainings`` is what ``metrics.evaluate`` returns, or a list of it, one for each training; the seeds of these
        start at ``first_seed``. ``facts`` enter the row as they are (``train_seconds=12.3``).
        """
        from cbir_utils.metrics import summarize  # only here: a run knows nothing else of metrics

        trainings = [trainings] if isinstance(trainings, dict) else trainings
        row = {"method": method, "distance": distance, **summarize(trainings, data, first_seed), **facts}
        return self.add_rows("metrics.json", [row], ("method", "distance"))[0]

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
