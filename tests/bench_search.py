"""Nearest-neighbour search: this package beside the usual ways, in one run (`make bench`).

Each task with one thread and with two:

random-47, random-784   exact search of 60,000 rows: batches, and one query at a time
codes                   the same with the codes of MNIST of notebook 08 (`make paper` first); the approximate ways
                        by recall@10 and P@10, the share of hits of the query's class; and the way from image to hits
mnist-784               the approximate ways on raw pixels, one query at a time, as ann-benchmarks has it

Within a task the ways take turns, round by round, so that a machine that slows down slows them all; medians are
written. Speed is measured here and asserted nowhere. Writes results/bench/search.json, search.md and search.png.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

K, SEED = 10, 0
TASKS = ("random-47", "random-784", "codes", "mnist-784")


def exact_ways(database, threads):
    """Name → search(queries, k) → ids, for the exact ways."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    from cbir_utils.index import Index

    norms = np.einsum("nd,nd->n", database, database)
    neighbours = NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=threads).fit(database)
    flat = faiss.IndexFlatL2(database.shape[1])
    flat.add(database)
    index = Index("euclidean").add(database)

    def product_and_partition(queries, k):
        scores = [norms - 2 * (part @ database.T) for part in np.array_split(queries, -(-len(queries) // 250))]
        least = [np.argpartition(part, k - 1, axis=1)[:, :k] for part in scores]
        pairs = zip(scores, least, strict=True)
        return np.concatenate([np.take_along_axis(i, np.take_along_axis(s, i, 1).argsort(axis=1), 1) for s, i in pairs])

    def tutorials_loop(queries, k):
        return np.stack([np.argsort([np.linalg.norm(query - row) for row in database])[:k] for query in queries])

    return {
        "FAISS flat": lambda queries, k: flat.search(queries, k)[1],
        "cbir_utils exact": lambda queries, k: index.search(queries, k).ids,
        "scikit-learn NearestNeighbors": lambda queries, k: neighbours.kneighbors(queries, k, return_distance=False),
        "NumPy product + argpartition": product_and_partition,
        "Python loop": tutorials_loop,
    }


def approximate_ways(database, threads, short, lists):
    """Name → (settings, use(setting), search(queries, k) → ids) for the approximate ways.

    ``short`` is the length of the short code of this package's graph (``None``: none) and ``lists`` whether the kinds
    with lists are asked, too.
    """
    import faiss
    import hnswlib
    import usearch.index

    from cbir_utils.scale.approximate import make_index

    (count, width), links, ef_construction = database.shape, 16, 100
    faiss.omp_set_num_threads(os.cpu_count())  # building is not measured here
    graph = faiss.IndexHNSWFlat(width, links)
    graph.hnsw.efConstruction = ef_construction
    graph.add(database)
    other = hnswlib.Index("l2", width)
    other.init_index(count, ef_construction=ef_construction, M=links)
    other.add_items(database)
    other.set_num_threads(threads)
    third = usearch.index.Index(
        ndim=width, metric="l2sq", dtype="f32", connectivity=links, expansion_add=ef_construction
    )
    third.add(np.arange(count), database, threads=os.cpu_count())
    own = make_index("hnsw", short=short, originals=short and "uint8").add(database)
    widths = [10, 14, 20, 28, 40, 56, 80, 120]
    settings = (
        [(ef, ef / K) for ef in (20, 25, 30, 35, 38, 41, 45, 50, 60, 80)] if short else [(ef, 1) for ef in widths]
    )

    def search_third(queries, k):
        return third.search(queries, k, threads=threads).keys.reshape(len(queries), -1)

    ways = {
        "FAISS HNSW": (widths, partial(setattr, graph.hnsw, "efSearch"), lambda q, k: graph.search(q, k)[1]),
        "hnswlib": (widths, other.set_ef, lambda q, k: other.knn_query(q, k)[0]),
        "usearch": (widths, partial(setattr, third, "expansion_search"), search_third),
        "cbir_utils hnsw": (
            settings,
            lambda s: vars(own).update(ef=s[0], refine=s[1]),
            lambda q, k: own.search(q, k).ids,
        ),
    }
    if lists:
        half, probes = 8 * -(-width // 8), [1, 2, 3, 4, 6, 8, 16]  # four numbers to each sub-quantiser
        fast = faiss.index_factory(width, f"Pad{half},IVF256,PQ{half // 4}x4fs")
        fast.train(database)
        fast.add(database)
        inner = faiss.extract_index_ivf(fast)
        compact = make_index("ivfpq_fast", lists=256, pq_bytes=half // 8).add(database)
        ways["FAISS IVF-PQ fast-scan"] = probes, partial(setattr, inner, "nprobe"), lambda q, k: fast.search(q, k)[1]
        ways["cbir_utils ivfpq_fast"] = (
            probes,
            partial(setattr, compact, "nprobe"),
            lambda q, k: compact.search(q, k).ids,
        )
    faiss.omp_set_num_threads(threads)
    return ways


def milliseconds(search, queries, one_by_one):
    """Milliseconds per query, asked at once or one at a time."""
    start = time.perf_counter()
    for part in queries[:, None] if one_by_one else [queries]:
        search(part, K)
    return 1e3 * (time.perf_counter() - start) / len(queries)


def measure_exact(database, queries, threads, rounds):
    """Milliseconds per query of the exact ways: ``[{"way": …, "asked": "batch" or "single", "ms": …}]``."""
    ways, times = exact_ways(database, threads), {}
    for _ in range(rounds):
        for name, search in ways.items():
            if name != "Python loop":
                times.setdefault((name, "batch"), []).append(milliseconds(search, queries, False))
            some = queries[: 1 if name == "Python loop" else 50]
            times.setdefault((name, "single"), []).append(milliseconds(search, some, True))
    return [{"way": name, "asked": asked, "ms": float(np.median(t))} for (name, asked), t in times.items()]


def measure_approximate(ways, database, queries, rounds, one_by_one, classes=None):
    """The points of each way: setting, queries per second, recall@10, and with ``classes`` of rows and queries P@10."""
    from cbir_utils.index import Index

    far = Index("euclidean").add(database).search(queries, K).distances[:, -1:].astype(np.float64)
    points, times = [], {}
    for _ in range(rounds):
        for name, (settings, use, search) in ways.items():
            for place, setting in enumerate(settings):
                use(setting)
                times.setdefault((name, place), []).append(milliseconds(search, queries, one_by_one))
    for name, (settings, use, search) in ways.items():
        for place, setting in enumerate(settings):
            use(setting)
            ids = search(queries, K)
            found = np.linalg.norm(queries[:, None].astype(np.float64) - database[ids], axis=2)
            speed = 1e3 / float(np.median(times[name, place]))
            point = {"way": name, "setting": setting, "queries_per_second": speed}
            point["recall@10"] = float((found <= far * (1 + 1e-5) + 1e-9).mean())
            if classes is not None:
                point["P@10"] = float((classes[0][ids] == classes[1][:, None]).mean())
                point["P@10 of rows"] = row_precision(search(database[::12], K + 1), classes[0])
            points.append(point)
    return points


def row_precision(ids, classes):
    """P@10 of every twelfth row as a query, each left out of its own K + 1 hits: what a setting may be chosen by."""
    rows = np.arange(0, len(classes), 12)
    others = ids != rows[:, None]
    others[others.all(axis=1), -1] = False
    return float((classes[ids[others].reshape(-1, K)] == classes[rows][:, None]).mean())


def measure(task, threads, rounds, dataset, method, results):
    """Everything about one task with so many threads."""
    from threadpoolctl import threadpool_limits

    from cbir_utils.codes import unit_length
    from cbir_utils.datasets import load_dataset
    from cbir_utils.index import Index
    from cbir_utils.run import Run

    rng = np.random.default_rng(SEED)
    with threadpool_limits(threads):
        if task.startswith("random"):
            width = int(task.split("-")[1])
            database, queries = (rng.normal(size=(n, width)).astype(np.float32) for n in (60_000, 470_000 // width))
            found = {"exact": measure_exact(database, queries, threads, rounds)}
        elif task == "mnist-784":
            data = load_dataset(dataset)
            parts = (data.database.images, data.queries.images)
            database, queries = (part.reshape(len(part), -1).astype(np.float32) for part in parts)
            queries = queries[rng.permutation(len(queries))[:1000]]
            ways = approximate_ways(database, threads, short=min(64, database.shape[1]), lists=False)
            found = {"approximate": measure_approximate(ways, database, queries, rounds, True)}
        else:
            run = Run(dataset, results)
            database, queries = map(unit_length, run.load_codes(method))
            classes = [run.load_array(f"labels_{part}.npy") for part in ("database", "queries")]
            found = {
                "exact": measure_exact(database, queries, threads, rounds),
                "latency": latency(run, dataset, method),
            }
            ways = approximate_ways(database, threads, short=None, lists=True)
            found["approximate"] = measure_approximate(ways, database, queries, rounds, False, classes)
            truth = Index("euclidean").add(database)
            found["method"] = method
            found["P@10"] = float((classes[0][truth.search(queries, K).ids] == classes[1][:, None]).mean())
            found["P@10 of rows"] = row_precision(truth.search(database[::12], K + 1).ids, classes[0])
        return {**found, "rows": len(database), "queries": len(queries), "dimension": database.shape[1]}


def latency(run, dataset, method, count=300):
    """Milliseconds from an image to its hits (encode and search), one at a time: p50 and p99."""
    from cbir_utils.datasets import load_dataset
    from cbir_utils.retrieval.retriever import Retriever, available_methods

    if method not in available_methods(run):
        return None
    data = load_dataset(dataset)
    retriever = Retriever(run, data, method)
    images = data.queries.images[: count + 10]
    times = [milliseconds(lambda image, k: retriever.search(image, k), image[None], False) for image in images][10:]
    return {"p50": float(np.median(times)), "p99": float(np.quantile(times, 0.99))}


def summary(tasks):
    """Rows of the table: task, what is compared, and the value for each number of threads."""
    rows = {}

    def note(name, what, value):
        task, threads = name.split(", ")
        rows.setdefault((task, what), {"task": task, "what": what})[threads] = value

    for name, task in tasks.items():
        exact = {(row["way"], row["asked"]): row["ms"] for row in task.get("exact", [])}
        for way, asked in exact:
            own = exact["cbir_utils exact", asked]
            if way == "cbir_utils exact":
                note(name, f"exact, {asked}: ms per query", own)
            else:
                note(name, f"exact, {asked}: times as fast as {way}", exact[way, asked] / own)
        for quantile, value in (task.get("latency") or {}).items():
            note(name, f"from an image to its hits: ms, {quantile}", value)
        for way in dict.fromkeys(point["way"] for point in task.get("approximate", [])):
            points = [point for point in task["approximate"] if point["way"] == way]
            for key, least, what in (
                ("recall@10", 0.99, "recall@10 ≥ .99"),
                ("P@10 of rows", task.get("P@10 of rows", 2) - 0.001, "P@10 within .001"),
            ):
                good = [point for point in points if point.get(key, 0) >= least]
                if good:
                    best = max(good, key=lambda point: point["queries_per_second"])
                    note(name, f"{way}: queries per second at {what}", best["queries_per_second"])
                if good and key != "recall@10":
                    note(name, f"{way}: its P@10 less that of exact search", best["P@10"] - task["P@10"])
    return list(rows.values())


def table(facts):
    """The summary as a Markdown table, with where it comes from."""
    lines = ["| task | | 1 thread | 2 threads |", "|---|---|---|---|"]
    for row in facts["summary"]:
        values = [f"{row[threads]:,.3g}" if threads in row else "–" for threads in ("1 thread", "2 threads")]
        lines.append(f"| {row['task']} | {row['what']} | {values[0]} | {values[1]} |")
    where = facts["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines.append(f"\nk = {K}, medians of {facts['rounds']} rounds. Measured {where['date']}, {where['system']}, "
                 f"{where['cores']} cores, {versions}.\n")  # fmt: skip
    return "\n".join(lines)


def plot(tasks, path):
    """Recall@10 (and P@10) against queries per second, one thread; one line per way."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    from cbir_utils import plots
    from cbir_utils.lessons.cells import use_style

    use_style()
    shown = {name: task["approximate"] for name, task in tasks.items() if "approximate" in task and "1 thread" in name}
    panels = [(name, key) for name, points in shown.items() for key in ("recall@10", "P@10") if key in points[0]]
    figure, axes = plt.subplots(1, len(panels), figsize=(5.3 * len(panels), 5.6), layout="constrained", squeeze=False)
    ways = list(dict.fromkeys(point["way"] for points in shown.values() for point in points))
    for ax, (name, key) in zip(axes[0], panels, strict=True):
        for way, colour, marker in zip(ways, plots.CLASS_COLOURS, "o^svDP*X", strict=False):
            points = [(p[key], p["queries_per_second"]) for p in shown[name] if p["way"] == way]
            ax.plot(*zip(*points, strict=True) if points else ([], []), marker=marker, color=colour, label=way,
                    linewidth=2.5 if way.startswith("cbir") else 1.2)  # fmt: skip
        good = [point for point in shown[name] if point["recall@10"] >= 0.99]
        best = max(good, key=lambda point: point["queries_per_second"])
        title = f": {best['queries_per_second']:,.0f}/s at recall .99 ({best['way']})" if key == "recall@10" else ""
        ax.set_title(name.split(",")[0] + title, fontsize=12)
        values = [point[key] for point in good]
        ax.set(xlabel=key, yscale="log", xlim=(min(values) - 0.015, max(values) + 0.001))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_minor_formatter("")
    axes[0][0].set_ylabel("queries per second, one thread")
    axes[0][-1].legend(loc="lower left", fontsize=10)
    text = "Upwards and to the right is better; each point is one width of the search."
    methods = {task["method"] for task in tasks.values() if "method" in task}
    plots.caption(figure, text + "".join(f" The codes are those of {method}." for method in methods))
    figure.savefig(path, dpi=110)


def machine():
    """Where the figures come from."""
    there = {found.name.lower(): found.version for found in importlib.metadata.distributions()}
    versions = {name: there.get(name) for name in ("faiss-cpu", "hnswlib", "usearch", "numpy")}  # None: not installed
    where = {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count(), "date": str(date.today())}
    return {**where, "python": platform.python_version(), "versions": versions}


def in_its_own_process(given, task, threads):
    """What one task found, measured by a process that has so many threads and, where that can be set, cores."""
    environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, __file__, "--only", task, str(threads), "--rounds", str(given.rounds)]
    command += ["--dataset", given.dataset, "--method", given.method, "--results", given.results]
    cores = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_setaffinity") else None
    limit = partial(os.sched_setaffinity, 0, cores) if cores else None
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=limit)
    if done.returncode:
        raise SystemExit(f"the task {task} with {threads} thread(s) failed; its error stands above")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--method", default="manifold", help="whose codes are searched (default: %(default)s)")
    parser.add_argument("--results", default=os.environ.get("CBIR_RESULTS", "results"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--only", nargs=2, metavar=("TASK", "THREADS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:  # one task in a process of its own, so that its threads are limited from the start
        found = measure(given.only[0], int(given.only[1]), given.rounds, given.dataset, given.method, given.results)
        print(json.dumps(found))
        return
    tasks = {}
    for task in given.tasks:
        for threads in (1, 2):
            name = f"{task}, {threads} thread{'s' * (threads > 1)}"
            print(f"{name} …", flush=True)
            tasks[name] = in_its_own_process(given, task, threads)
    path = Path(given.results) / "bench" / "search.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "dataset": given.dataset, "k": K, "rounds": given.rounds, "summary": summary(tasks)}
    path.write_text(json.dumps(facts | {"tasks": tasks}, indent=2) + "\n")
    if any("approximate" in task for task in tasks.values()):
        plot(tasks, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(table(facts))
    print(table(facts))


if __name__ == "__main__":
    main()
