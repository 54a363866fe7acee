"""What looking twice costs and is worth: training, graph and query by ``learn_fused``, over several seeds.

    python tests/bench_matched.py --dataset mnist --seeds 3

Writes results/bench/matched_<dataset>.json and .md. A folder of labelled images is measured too: ``--dataset FOLDER``.
Nothing else should run on the machine.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from cbir_utils.artifacts.store import machine
from cbir_utils.codes import unit_length
from cbir_utils.datasets import load_dataset
from cbir_utils.lessons.tables import markdown_table
from cbir_utils.methods import steps
from cbir_utils.methods.distortion import MatchedSearch, blend, distortion, gradients, warp_of
from cbir_utils.methods.manifold import DiffusionMap
from cbir_utils.metrics import evaluate
from cbir_utils.retrieval.learn import learn_fused
from cbir_utils.retrieval.retriever import Retriever
from cbir_utils.run import Run

LEARNED = ("taught", "manifold", "fused", "matched")
NAMES = ("P@1", "P@5", "P@100", "AP")


def untaught(data):
    """The metrics of the map of HOG's candidates, alone and looked at twice, and the seconds of both."""
    start = time.perf_counter()
    codes = steps.project_both(data, steps.fit_edges(data))
    hits = steps.candidates_both(MatchedSearch(codes[0], data.database.images), codes, data)
    mapped = steps.map_both(DiffusionMap.fit(hits[0]), hits)
    first = blend(hits[1], mapped[1], mapped[0]).ids
    seconds = time.perf_counter() - start
    found = {"hog, mapped": evaluate(data, *mapped), "hog, matched": evaluate(data, *mapped, first=first)}
    return {method: [means(values)] for method, values in found.items()}, seconds


def means(values):
    return {name: float(np.nanmean(values[name])) for name in NAMES if name in values}


def votes(data, hits):
    """The share of queries whose class most of the first 3, or 5, hits have (the nearest decides a tie)."""
    seen = data.database.labels[hits]
    rate = {}
    for k in (3, 5):
        winners = [max(row[:k], key=lambda label, row=row: list(row[:k]).count(label)) for row in seen]
        rate[f"vote of {k}"] = float(np.mean(winners == data.queries.labels))
    return rate


def learned(data, seed, results):
    """The metrics of every learned method, the seconds of learning, and the run."""
    run = Run(f"{data.name}_{seed}", results)
    run.record(source=data.name, content_hash=data.content_hash)
    start = time.perf_counter()
    learn_fused(run, data, seed=seed, verbose=False)
    seconds = time.perf_counter() - start
    found = {}
    for method in LEARNED:
        first = run.load_array("matched/reranked.npy", (None, None), "int32") if method == "matched" else None
        found[method] = means(evaluate(data, *run.load_codes(method), first=first))
    found["matched"] |= votes(data, first)
    return found, seconds, run


def latency(run, data, count=200):
    """Milliseconds from one image to ten hits, each method warm: {method: (p50, p99)}."""
    found = {}
    for method in LEARNED:
        retriever, spent = Retriever(run, data, method), []
        for image in data.queries.images[: count + 10]:
            start = time.perf_counter()
            retriever.search(image[None], 10)
            spent.append(1000 * (time.perf_counter() - start))
        found[method] = tuple(np.percentile(spent[10:], (50, 99)))
    return found


def numpy_pairs(images, warp, count):
    """The distortion of neighbouring images by NumPy, a pair at a time: the same sums without a compiler."""
    for query, image in zip(images[:count], images[1:], strict=False):
        a, b = (np.pad(gradients(part[None])[0], ((0, 0), (warp + 1,) * 2, (warp + 1,) * 2)) for part in (query, image))
        height, width = query.shape[:2]
        least = np.full((height, width), np.inf)
        for y, x in np.ndindex(2 * warp + 1, 2 * warp + 1):
            apart = (
                a[:, warp : warp + height + 2, warp : warp + width + 2] - b[:, y : y + height + 2, x : x + width + 2]
            )
            sums = np.square(apart).sum(axis=0).cumsum(axis=0).cumsum(axis=1)
            sums = np.pad(sums, ((1, 0), (1, 0)))
            least = np.minimum(least, sums[3:, 3:] - sums[:-3, 3:] - sums[3:, :-3] + sums[:-3, :-3])
        least.sum()


def kernel(data):
    """Pairs a second: compiled, by NumPy, and compiled for the same images enlarged to 64 × 64."""
    images, draw = data.database.images[:2000], np.random.default_rng(0)
    _, fast = steps.timed(distortion, images, images, draw.integers(0, len(images), (len(images), 500)))
    _, slow = steps.timed(numpy_pairs, images, warp_of(images), 200)
    large = zoom(images, (1, 64 / images.shape[1], 64 / images.shape[2], 1), order=1)
    _, at_64 = steps.timed(distortion, large, large, draw.integers(0, len(large), (len(large), 20)))
    return len(images) * 500 / fast, min(200, len(images) - 1) / slow, len(large) * 20 / at_64


def clustering(data, run):
    """The clusters of the map, as many as stand before its largest gap, and the share of queries in the right one.

    Ten starts of k-means on the database's codes. Each cluster stands for one class, each class for one cluster, as
    fits the queries best: the field's clustering accuracy. Labels enter only there.
    """
    manifold = DiffusionMap.load(run.checked_path("manifold/diffusion_map.npz"))
    frequencies = np.sqrt(1 - np.minimum(manifold.eigenvalues, 1))
    count = int(np.argmax(np.diff(frequencies))) + 2  # the constant eigenvector makes one more
    codes, queries = (unit_length(part) for part in run.load_codes("manifold"))
    found = KMeans(count, n_init=10, random_state=0).fit(codes).predict(queries)
    classes, labels = np.unique(data.queries.labels, return_inverse=True)
    table = np.zeros((count, len(classes)), int)
    np.add.at(table, (found, labels), 1)
    return count, float(table[linear_sum_assignment(-table)].sum() / len(labels))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args()
    data = load_dataset(given.dataset, **({"labels": True} if Path(given.dataset).is_dir() else {}))
    facts = {"machine": machine(), "dataset": data.name, "seeds": given.seeds, "day": time.strftime("%Y-%m-%d")}
    facts["pairs_per_second"] = kernel(data)
    print("pairs a second (compiled, by NumPy, compiled at 64 × 64):", facts["pairs_per_second"], flush=True)
    trainings, facts["untaught_seconds"] = untaught(data)
    print(trainings, f"{facts['untaught_seconds']:.0f} s", flush=True)
    facts["learn_seconds"], facts["clustering"] = [], []
    for seed in range(given.seeds):
        found, seconds, run = learned(data, seed, given.results / "bench" / "runs")
        facts["learn_seconds"].append(seconds)
        facts["clustering"].append(clustering(data, run))
        for method, values in found.items():
            trainings.setdefault(method, []).append(values)
        print(f"seed {seed}: {seconds:.0f} s,", found["fused"], found["matched"], facts["clustering"][-1], flush=True)
    facts["milliseconds"] = latency(run, data)
    facts["trainings"] = trainings
    write(facts, given.results / "bench" / f"matched_{data.name}")


def write(facts, path):
    """The JSON, and a table of the means over the trainings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = []
    for method, trainings in facts["trainings"].items():
        numbers = [f"{np.mean([t[name] for t in trainings]):.4f}" if name in trainings[0] else "–" for name in NAMES]
        worst = f"{min(t['AP'] for t in trainings):.4f}"
        time_of = facts["milliseconds"].get(method)
        asked = "{:.1f} / {:.1f}".format(*time_of) if time_of else "–"
        lines.append([method, *numbers, worst, str(len(trainings)), asked])
    header = ["method", "P@1", "P@5", "P@100", "mAP", "lowest mAP", "trainings", "one query, ms (p50 / p99)"]
    last = facts["trainings"]["matched"]
    voted = {name: np.mean([t[name] for t in last]) for name in ("vote of 3", "vote of 5")}
    compiled, plain, large = facts["pairs_per_second"]
    counts = ", ".join(str(count) for count, _ in facts["clustering"])
    shares = ", ".join(f"{share:.4f}" for _, share in facts["clustering"])
    where, least, most = facts["machine"], min(facts["learn_seconds"]), max(facts["learn_seconds"])
    text = f"""{markdown_table(header, lines)}

{facts["dataset"]}, measured {facts["day"]}, {where["system"]} {where["architecture"]}, {where["cores"]} cores. To learn
all of it took {least:.0f} to {most:.0f} s a training; *hog, mapped* and *hog, matched* train nothing and took
{facts["untaught_seconds"]:.0f} s. The distortion model compared {compiled:,.0f} pairs a second, NumPy {plain:,.0f};
of the same images enlarged to 64 × 64, {large:,.0f}. The vote of the first 3 (5) hits of *matched* was right for
{voted["vote of 3"]:.4f} ({voted["vote of 5"]:.4f}) of queries. K-means on the map, with as many clusters as stand
before its largest gap ({counts}), put {shares} of queries into the cluster of their class.
"""
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
