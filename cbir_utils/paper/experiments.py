"""Small experiments for the report on the paper: collapse by seed, training guided by retrieval, other machines.

Each writes one artifact of a run, saves what it has on the way, and goes on there when it is started again.
"""

import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np

from cbir_utils import metrics
from cbir_utils.datasets import load_dataset
from cbir_utils.index import Index
from cbir_utils.methods.contrastive import build_contrastive, fit_contrastive
from cbir_utils.methods.views import Augmentation
from cbir_utils.models import build_convolutional
from cbir_utils.run import ArtifactError, package_versions
from cbir_utils.training import encode, fit


def collapse(run, data, *, seeds=20, verbose=True):
    """Train the paper's network as printed, and with binary cross-entropy, from many seeds: how often does it collapse?

    The budget is that of notebook 02: 6,400 images, 3 epochs, batches of 32; of a smaller database 512, 4 and 16.

    Parameters
    ----------
    run : Run
        Gets ``collapse.json``: the settings, and for each network its loss function, its seed, its loss on held-out
        images, that of the best constant image, and whether it collapsed.
    data : Dataset
        Only the database's images are looked at.
    seeds : int
        Networks per loss function; their seeds are 0, 1, 2, ...
    verbose : bool
        Print a line per network.

    Returns
    -------
    dict
        What was written.
    """
    count, epochs, batch_size = (6400, 3, 32) if len(data.database) >= 6400 else (512, 4, 16)
    images = data.database.images[:count]
    settings = {"images": len(images), "epochs": epochs, "batch_size": batch_size, "content_hash": data.content_hash}
    found = _known(run, "collapse.json", settings) or {"settings": settings, "networks": []}
    done = {(network["loss"], network["seed"]) for network in found["networks"]}
    for loss in ("mse", "binary_crossentropy"):
        for seed in range(seeds):
            if (loss, seed) in done:
                continue
            network = build_convolutional(images.shape[1:], seed=seed).autoencoder
            history = fit(
                network, images, epochs=epochs, batch_size=batch_size, patience=epochs, loss=loss, seed=seed,
                check_collapse=False, verbose=False,
            )  # fmt: skip
            found["networks"].append({
                "loss": loss, "seed": seed, "held_out_loss": history.best_loss,
                "constant_loss": history.constant_loss, "collapsed": history.collapsed,
                "seconds": round(sum(history.seconds), 1),
            })  # fmt: skip
            run.save_json("collapse.json", found)
            _say(verbose, f"{loss}, seed {seed}: {'COLLAPSED' if history.collapsed else 'learns'}")
    return found


def guided(run, data, *, seeds=3, images=4000, queries=2000, epochs=10, rounds=4, verbose=True):
    """Train by retrieval (the paper's section V-D) and without it, alike in everything else: what do the rounds give?

    Both trainings of a seed are the same for ``epochs`` epochs. Then one takes mutual neighbours for partners, for
    ``rounds`` epochs or until nothing improves; the other goes on with two views of one image for ``rounds`` epochs.

    Parameters
    ----------
    run : Run
        Gets ``guided.json``: the settings, and for each seed the metrics of both trainings, the shares of mutual hits,
        and the gain of guiding with its 95 % interval over queries.
    data : Dataset
        Trained on the first ``images`` of the database and searched there with the first ``queries``; labels enter the
        evaluation alone.
    seeds, epochs, rounds : int
    verbose : bool
        Print a line per training.

    Returns
    -------
    dict
        What was written.
    """
    database, labels = data.database.images[:images], data.database.labels[:images]
    chosen, own = np.arange(len(data.queries)), None
    if data.own_rows is not None:  # the queries are images of the database, and do not find themselves
        chosen = np.flatnonzero(data.own_rows < images)
        own = data.own_rows[chosen[:queries]]
    asked, labels_asked = data.queries.images[chosen[:queries]], data.queries.labels[chosen[:queries]]
    settings = {
        "images": len(database), "queries": len(asked), "epochs": epochs, "rounds": rounds,
        "content_hash": data.content_hash,
    }  # fmt: skip
    found = _known(run, "guided.json", settings) or {"settings": settings, "trainings": []}
    for seed in range(len(found["trainings"]), seeds):
        training, values = {"seed": seed}, {}
        for name, these in (("guided", rounds), ("plain", 0)):
            start = time.perf_counter()
            model = build_contrastive(database.shape[1:], seed=seed)
            history = fit_contrastive(
                model, database, epochs=epochs + rounds - these, rounds=these, batch_size=128, seed=seed,
                augment=Augmentation(seed, light=data.light), verbose=False,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            ranking = Index("cosine").add(encode(model.encoder, database)).rank(
                encode(model.encoder, asked), exclude_self=own
            )  # fmt: skip
            values[name] = metrics.per_query(ranking, labels_asked, labels)
            training[name] = _means(values[name]) | {
                "rounds": len(history.loss) - history.plain_epochs, "mutual_share": history.mutual_share,
                "seconds": round(seconds, 1),
            }  # fmt: skip
            _say(verbose, f"seed {seed}, {name}: mAP {training[name]['mAP']:.3f}, {seconds:.0f} s")
        training["gain"] = {}
        for metric, key in (("P@5", "P@5"), ("mAP", "AP")):
            gain = values["guided"][key] - values["plain"][key]
            training["gain"][metric] = [float(np.nanmean(gain)), *metrics.bootstrap_interval(gain)]
        found["trainings"].append(training)
        run.save_json("guided.json", found)
    return found


#: How the same training is repeated: a name, whether on one core, and TensorFlow's switch for oneDNN.
SETTINGS = (
    ("all cores, oneDNN on", False, "1"),
    ("the same once more", False, "1"),
    ("one core, oneDNN on", True, "1"),
    ("all cores, oneDNN off", False, "0"),
    ("one core, oneDNN off", True, "0"),
)


def sensitivity(run, *, verbose=True):
    """Repeat one training, same data and seed, with other threads and another library: do the metrics change?

    The paper's network on the bundled digits, as in notebook 02, in a process of its own for each of ``SETTINGS``. The
    run gets ``sensitivity.json``: the metrics and a hash of the weights for each. Returns what was written.
    """
    options = {"dataset": "digits", "epochs": 12, "batch_size": 32, "seed": 0}
    settings = {**options, "cores": os.cpu_count(), "tensorflow": package_versions()["tensorflow"]}
    found = _known(run, "sensitivity.json", settings) or {"settings": settings, "rows": []}
    done = {row["name"] for row in found["rows"]}
    for name, one_core, onednn in SETTINGS:
        if name in done or (one_core and not hasattr(os, "sched_setaffinity")):  # macOS cannot be told its cores
            continue
        code = f"from cbir_utils import experiments; experiments._train_once({one_core}, {options})"
        environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn}
        process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        if process.returncode:
            last = (process.stderr.strip() or f"exit status {process.returncode}").splitlines()[-1]
            raise RuntimeError(f"the training '{name}' failed: {last}")
        found["rows"].append({"name": name, **json.loads(process.stdout)})
        run.save_json("sensitivity.json", found)
        _say(verbose, f"{name}: mAP {found['rows'][-1]['mAP']:.6f}")
    return found


def _train_once(one_core, options):
    """Print, as JSON, the metrics of one training; this process has done nothing else, so its threads can be chosen."""
    if one_core:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # TensorFlow counts them when its first operation runs
    data = load_dataset(options.pop("dataset"))
    model = build_convolutional(data.database.images.shape[1:], seed=options["seed"])
    fit(model.autoencoder, data.database.images, **options, check_collapse=False, verbose=False)
    ranking = Index("euclidean").add(encode(model.encoder, data.database.images)).rank(
        encode(model.encoder, data.queries.images)
    )  # fmt: skip
    weights = hashlib.sha256(b"".join(array.tobytes() for array in model.autoencoder.get_weights())).hexdigest()
    print(json.dumps(
        _means(metrics.per_query(ranking, data.queries.labels, data.database.labels)) | {"weights": weights}
    ))  # fmt: skip


def _means(values):
    """The means that the experiments keep of what :func:`metrics.per_query` returns."""
    return {name: float(np.nanmean(values[key])) for name, key in (("P@1", "P@1"), ("P@5", "P@5"), ("mAP", "AP"))}


def _known(run, name, settings):
    """The artifact ``name`` if it is there, whole, and was made with the same settings, else ``None``."""
    try:
        found = run.load_json(name)
    except ArtifactError:  # not there, or damaged: measured anew
        return None
    return found if found["settings"] == settings else None


def _say(verbose, text):
    if verbose:
        print(text, flush=True)
