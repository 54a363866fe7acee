"""Small experiments for the report on the paper: collapse by seed, training guided by retrieval, other machines.

Each writes one artifact of a run, with the settings that it was measured with.
"""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
from tqdm.auto import tqdm

from cbir_utils import metrics
from cbir_utils.artifacts.store import ArtifactError, package_versions
from cbir_utils.datasets import Split, load_dataset, scale
from cbir_utils.index import Index
from cbir_utils.models import build_convolutional, keras
from cbir_utils.paper.claims import gain
from cbir_utils.training import LOSSES, History, encode, fit, train_epoch

#: How the same training is repeated: whether on one core, and TensorFlow's switch for oneDNN.
SETTINGS = {
    "all cores, oneDNN on": (False, "1"),
    "the same once more": (False, "1"),
    "one core, oneDNN on": (True, "1"),
    "all cores, oneDNN off": (False, "0"),
    "one core, oneDNN off": (True, "0"),
}

#: Images in a batch of training by retrieval.
BATCH = 32


def collapse(run, data, *, seeds=20):
    """Train the paper's network as printed, and with binary cross-entropy, from many seeds: how often does it collapse?

    The run gets ``collapse.json``. The trainings are as long as those of notebook 02. No labels are used.
    """
    count, epochs, batch_size = (6400, 3, 32) if len(data.database) >= 6400 else (512, 4, 16)
    images = data.database.images[:count]
    settings = {"images": len(images), "epochs": epochs, "batch_size": batch_size, "content_hash": data.content_hash}

    def train(loss, seed):
        network = build_convolutional(images.shape[1:], seed=seed).autoencoder
        options = {"epochs": epochs, "patience": epochs, "batch_size": batch_size, "loss": loss, "seed": seed}
        history = fit(network, images, **options, check_collapse=False, verbose=False)
        losses = {"held_out_loss": history.best_loss, "constant_loss": history.constant_loss}
        return {**losses, "collapsed": history.collapsed, "seconds": round(sum(history.seconds), 1)}

    jobs = [{"loss": loss, "seed": seed} for loss in ("mse", "binary_crossentropy") for seed in range(seeds)]
    return _measure(run, "collapse.json", "networks", settings, jobs, train)


def guided(run, data, *, seeds=3, images=4000, queries=2000, epochs=10, rounds=10):
    """Train the paper's network by retrieval (section V-D) and without it, with all else equal: what does it add?

    A seed's network is trained on the first ``images`` of the database for ``epochs`` epochs, as an autoencoder. Then
    follow ``rounds`` of one epoch. In a round guided by retrieval the network encodes and retrieves its images, and
    learns to draw a correct hit of each image instead of the image itself (:func:`partners`). The plain rounds go on as
    before. The run gets ``guided.json``; labels enter the evaluation alone.
    """
    asked = np.arange(len(data.queries)) if data.own_rows is None else np.flatnonzero(data.own_rows < images)
    asked = asked[:queries]
    part = replace(
        data,
        database=Split(data.database.images[:images], data.database.labels[:images]),
        queries=Split(data.queries.images[asked], data.queries.labels[asked]),
        own_rows=data.own(asked),
    )
    known = part.database.images
    settings = {"images": len(known), "queries": len(part.queries), "epochs": epochs, "rounds": rounds}
    settings["content_hash"] = data.content_hash

    def train(seed):
        first = build_convolutional(known.shape[1:], seed=seed)
        fit(first.autoencoder, known, epochs=epochs, batch_size=BATCH, seed=seed, check_collapse=False, verbose=False)
        training, values = {}, {}
        for name in ("guided", "plain"):
            model = build_convolutional(known.shape[1:], seed=seed)
            model.autoencoder.set_weights(first.autoencoder.get_weights())
            shares = train_rounds(model, known, rounds, seed=seed, by_retrieval=name == "guided")
            codes = (encode(model.encoder, split.images) for split in (part.database, part.queries))
            values[name] = metrics.evaluate(part, *codes)
            training[name] = {**_means(values[name]), "mutual_share": shares}
        differences = {name: values["guided"][name] - values["plain"][name] for name in ("P@5", "AP")}
        return {**training, "gain": {"P@5": gain(differences["P@5"]), "mAP": gain(differences["AP"])}}

    return _measure(run, "guided.json", "trainings", settings, [{"seed": seed} for seed in range(seeds)], train)


def train_rounds(model, images, rounds, *, seed, by_retrieval):
    """Train an :class:`Autoencoder` on in rounds of an epoch; returns the share of mutual hits in each guided one."""
    order, choice = np.random.default_rng(seed).spawn(2)  # apart, so that both ways see the same batches
    wanted, shares = np.arange(len(images)), []

    def batch_of(rows):
        return scale(images[rows]), scale(images[wanted[rows]])

    model.autoencoder.compile(keras.optimizers.Adam(), LOSSES["binary_crossentropy"](), jit_compile=False)
    for _ in range(rounds):
        if by_retrieval:
            wanted[:], share = partners(encode(model.encoder, images), choice)
            shares.append(share)
        train_epoch(model.autoencoder, History(), order.permutation(len(images)), min(BATCH, len(images)), batch_of)
    return shares


def partners(codes, rng, neighbours=10):
    """A mutual hit of each image, chosen at random, or itself ``(N,)``; and the share of hits that are mutual.

    A hit is mutual if each of the two is among the other's nearest ``neighbours`` by ``codes (N, D)``.
    """
    rows = np.arange(len(codes))
    hits = Index("cosine").add(codes).search(codes, min(neighbours, len(codes) - 1), exclude_self=rows).ids
    right = (hits[hits] == rows[:, None, None]).any(axis=2)
    chosen = (right * rng.random(right.shape)).argmax(axis=1)
    return np.where(right.any(axis=1), hits[rows, chosen], rows), float(right.mean())


def sensitivity(run):
    """Repeat one training, same data and seed, with other threads and another library: do the metrics change?

    The paper's network on the bundled digits, as in notebook 02, in a process of its own for each of ``SETTINGS``. The
    run gets ``sensitivity.json``: the metrics and a hash of the weights for each. RuntimeError if a training fails.
    """
    options = {"dataset": "digits", "epochs": 12, "batch_size": 32, "seed": 0}
    settings = {**options, "cores": os.cpu_count(), "tensorflow": package_versions()["tensorflow"]}

    def train(name):
        one_core, onednn = SETTINGS[name]
        code = f"from cbir_utils.paper import experiments; experiments._train_once({one_core}, {options})"
        environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn}
        process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        if process.returncode:
            last = (process.stderr.strip() or f"exit status {process.returncode}").splitlines()[-1]
            raise RuntimeError(f"the training '{name}' failed: {last}")
        return json.loads(process.stdout)

    names = [name for name in SETTINGS if hasattr(os, "sched_setaffinity") or not SETTINGS[name][0]]  # not on macOS
    return _measure(run, "sensitivity.json", "rows", settings, [{"name": name} for name in names], train)


def _train_once(one_core, options):
    """Print, as JSON, the metrics of one training; this process has done nothing else, so its threads can be chosen."""
    if one_core:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # TensorFlow counts them when its first operation runs
    data = load_dataset(options.pop("dataset"))
    model = build_convolutional(data.database.images.shape[1:], seed=options["seed"])
    fit(model.autoencoder, data.database.images, **options, check_collapse=False, verbose=False)
    codes = (encode(model.encoder, split.images) for split in (data.database, data.queries))
    weights = hashlib.sha256(b"".join(array.tobytes() for array in model.autoencoder.get_weights())).hexdigest()
    print(json.dumps({**_means(metrics.evaluate(data, *codes, "euclidean")), "weights": weights}))


def _means(values):
    """The means that the experiments keep of what :func:`metrics.evaluate` returns."""
    return {name: float(np.nanmean(values[key])) for name, key in (("P@1", "P@1"), ("P@5", "P@5"), ("mAP", "AP"))}


def _measure(run, name, key, settings, jobs, measure):
    """The artifact ``name``: ``measure(**job)`` of each job, under ``key``. It is saved after each.

    What was measured before is kept, unless with other settings or in a damaged file. Returns what was written.
    """
    found = {"settings": settings, key: []}
    with suppress(ArtifactError):
        known = run.load_json(name)
        found = known if known["settings"] == settings else found
    for job in tqdm(jobs, name):
        if not any(job.items() <= row.items() for row in found[key]):
            found[key].append({**job, **measure(**job)})
            run.save_json(name, found)
    return found
