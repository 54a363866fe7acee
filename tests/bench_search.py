"""Nearest-neighbour search: this package beside the usual ways, in one run (`make bench`).

Two tasks, each with one thread and with two:

codes       the codes of MNIST that notebook 08 made (`make paper` first): batches of 10,000 queries and one query at a
            time, recall@10 in that space and P@10, the share of hits of the query's class; then one query from image
            to hits
mnist-784   the same images as raw pixels, k = 10, one query at a time, as ann-benchmarks has it

Within a task the ways take turns, round by round, so that a machine that slows down slows them all; medians are
written. Speed is measured here and asserted nowhere. Writes results/bench/search.json and search.png.
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
FILE = Path("bench") / "search.json"


# -- the ways ---------------------------------------------------------------------------------------------------


def loop(database, queries, k):
    """What tutorials do: one norm per row of the database."""
    return np.stack([np.argsort([np.linalg.norm(query - row) for row in database])[:k] for query in queries])


def product_and_partition(database, norms, queries, k):
    """NumPy: all scores of a few hundred queries by one product, then the k least of each, sorted."""
    ids = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), 250):
        scores = norms - 2 * (queries[start : start + 250] @ database.T)
        least = np.argpartition(scores, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(scores, least, 1), axis=1)
        ids[start : start + 250] = np.take_along_axis(least, order, 1)
    return ids


def exact_ways(database, threads):
    """Name → search(queries, k) → ids, for the exact ways; and the product alone, which finds nothing."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    from cbir_utils.index import Index

    norms = np.einsum("nd,nd->n", database, database)
    neighbours = NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=threads).fit(database)
    flat = faiss.IndexFlatL2(database.shape[1])
    flat.add(database)
    index = Index("euclidean").add(database)
    scores = np.empty((1000, len(database)), np.float32)

    def product(queries, k):
        for start in range(0, len(queries), 1000):
            part = queries[start : start + 1000]
            np.matmul(part, database.T, out=scores[: len(part)])

    return {
        "Python loop": partial(loop, database),
        "scikit-learn NearestNeighbors": lambda queries, k: neighbours.kneighbors(queries, k, return_distance=False),
        "NumPy product + argpartition": partial(product_and_partition, database, norms),
        "FAISS flat": lambda queries, k: flat.search(queries, k)[1],
        "cbir_utils exact": lambda queries, k: index.search(queries, k).ids,
        "matrix product alone": product,
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

    width, count = database.shape[1], len(database)
    links, ef_construction = 16, 100
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
    widths = [10, 14, 20, 28, 40, 56, 80, 120]
    ways = {
        "FAISS HNSW": (
            widths,
            lambda ef: setattr(graph.hnsw, "efSearch", ef),
            lambda queries, k: graph.search(queries, k)[1],
        ),
        "hnswlib": (widths, other.set_ef, lambda queries, k: other.knn_query(queries, k)[0]),
        "usearch": (
            widths,
            lambda ef: setattr(third, "expansion_search", ef),
            lambda queries, k: third.search(queries, k, threads=threads).keys.reshape(len(queries), -1),
        ),
    }
    own = make_index("hnsw", short=short, originals=None if short is None else "uint8").add(database)
    if short is None:
        settings = [(ef, 1) for ef in widths]
    else:
        settings = [(ef, ef / K) for ef in (20, 25, 30, 35, 38, 41, 45, 50, 60, 80)]

    def use_graph(setting):
        own.ef, own.refine = setting

    ways["cbir_utils hnsw"] = settings, use_graph, lambda queries, k: own.search(queries, k).ids
    if lists:
        half = 8 * -(-width // 8)  # four numbers to each sub-quantiser, and an even number of these
        padded = np.pad(database, ((0, 0), (0, half - width)))
        fast = faiss.index_factory(half, f"IVF256,PQ{half // 4}x4fs")
        fast.train(padded)
        fast.add(padded)

        def search_fast(queries, k):
            return fast.search(np.pad(queries, ((0, 0), (0, half - width))), k)[1]

        probes = [1, 2, 3, 4, 6, 8, 16]
        ways["FAISS IVF-PQ fast-scan"] = probes, lambda n: setattr(fast, "nprobe", n), search_fast
        compact = make_index("ivfpq_fast", lists=256, pq_bytes=half // 8).add(database)
        compact.refine = 1
        ways["cbir_utils ivfpq_fast"] = (
            probes,
            lambda n: setattr(compact, "nprobe", n),
            lambda queries, k: compact.search(queries, k).ids,
        )
    faiss.omp_set_num_threads(threads)
    return ways


# -- how it is measured -----------------------------------------------------------------------------------------


def seconds(search, queries):
    """Seconds per query of one call with all of them."""
    start = time.perf_counter()
    search(queries, K)
    return (time.perf_counter() - start) / len(queries)


def seconds_one_by_one(search, queries):
    """Seconds per query, asked one at a time."""
    start = time.perf_counter()
    for query in queries:
        search(query[None], K)
    return (time.perf_counter() - start) / len(queries)


def recall(database, queries, ids, limits):
    """The share of hits that are no farther than the true k-th neighbour; ``limits`` are its squared distances."""
    found = ((queries[:, None] - database[ids]) ** 2).sum(axis=2)
    return float((found <= limits[:, None] * (1 + 1e-5) + 1e-9).mean())


def squared_limits(database, queries):
    """The squared distance of each query's true k-th neighbour."""
    from cbir_utils.index import Index

    ids = Index("euclidean").add(database).search(queries, K).ids
    return ids, ((queries - database[ids[:, -1]]) ** 2).sum(axis=1)


def measure_exact(database, queries, threads, rounds):
    """Milliseconds per query of the exact ways: a batch, and one at a time."""
    ways, times = exact_ways(database, threads), {}
    for _ in range(rounds):
        for name, search in ways.items():
            if name != "Python loop":
                times.setdefault((name, "batch"), []).append(seconds(search, queries))
            some = queries[: 1 if name == "Python loop" else 30]
            times.setdefault((name, "single"), []).append(seconds_one_by_one(search, some))
    return [{"way": name, "asked": asked, "ms": 1e3 * float(np.median(t))} for (name, asked), t in times.items()]


def measure_approximate(ways, database, queries, exact, limits, rounds, *, classes=None, one_by_one=False):
    """The points of each way: setting, queries per second, recall@10, and with ``classes`` P@10.

    ``classes`` are those of the rows, of the queries, and a sample of rows: P@10 of the sample, each row left out of
    its own hits, is what a setting may be chosen by.
    """
    measure = seconds_one_by_one if one_by_one else seconds
    points, times = [], {}
    for _ in range(rounds):
        for name, (settings, use, search) in ways.items():
            for place, setting in enumerate(settings):
                use(setting)
                times.setdefault((name, place), []).append(measure(search, queries))
    for name, (settings, use, search) in ways.items():
        for place, setting in enumerate(settings):
            use(setting)
            ids = search(queries, K)
            point = {"way": name, "setting": setting, "queries_per_second": 1 / float(np.median(times[name, place]))}
            point["recall@10"] = recall(database, queries, ids, limits)
            if classes is not None:
                of_rows, of_queries, sample = classes
                point["P@10"] = float((of_rows[ids] == of_queries[:, None]).mean())
                point["P@10 of database rows"] = row_precision(search(database[sample], K + 1), sample, of_rows)
            points.append(point)
    return points


def row_precision(ids, rows, of_rows):
    """P@10 of database rows as queries, each left out of its own K + 1 hits."""
    others = ids != rows[:, None]
    others[others.all(axis=1), -1] = False
    return float((of_rows[ids[others].reshape(len(rows), K)] == of_rows[rows][:, None]).mean())


def measure(task, threads, rounds, dataset, method, results):
    """Everything about one task with so many threads."""
    from threadpoolctl import threadpool_limits

    from cbir_utils.codes import unit_length
    from cbir_utils.datasets import load_dataset
    from cbir_utils.run import Run

    rng = np.random.default_rng(SEED)
    with threadpool_limits(threads):
        if task == "mnist-784":
            data = load_dataset(dataset)
            database, queries = (
                part.images.reshape(len(part.images), -1).astype(np.float32) for part in (data.database, data.queries)
            )
            queries = queries[rng.permutation(len(queries))[:1000]]
            exact, limits = squared_limits(database, queries)
            ways = approximate_ways(database, threads, short=min(64, database.shape[1]), lists=False)
            found = {"exact": measure_exact(database, queries, threads, rounds)} if threads == 1 else {}
            points = measure_approximate(ways, database, queries, exact, limits, rounds, one_by_one=True)
            return {**found, "approximate": points, "rows": len(database), "dimension": database.shape[1]}
        run = Run(dataset, results)
        database, queries = (
            unit_length(run.load_array(f"{method}/codes_{part}.npy")) for part in ("database", "queries")
        )
        of_rows, of_queries = (run.load_array(f"labels_{part}.npy") for part in ("database", "queries"))
        exact, limits = squared_limits(database, queries)
        found = {"exact": measure_exact(database, queries, threads, rounds)}
        ways = approximate_ways(database, threads, short=None, lists=True)
        sample = np.sort(rng.permutation(len(database))[:5000])
        classes = of_rows, of_queries, sample
        found["approximate"] = measure_approximate(ways, database, queries, exact, limits, rounds, classes=classes)
        from cbir_utils.index import Index

        rows = Index("euclidean").add(database).search(database[sample], K + 1).ids
        found["exact P@10"] = float((of_rows[exact] == of_queries[:, None]).mean())
        found["exact P@10 of database rows"] = row_precision(rows, sample, of_rows)
        found["latency"] = latency(run, dataset, method)
        return {**found, "rows": len(database), "dimension": database.shape[1], "method": method}


def latency(run, dataset, method, count=300):
    """Milliseconds from an image to its hits (encode and search), one at a time: p50 and p99."""
    from cbir_utils.datasets import load_dataset
    from cbir_utils.retrieval.retriever import Retriever, available_methods

    if method not in available_methods(run):
        return None
    data = load_dataset(dataset)
    retriever, times = Retriever(run, data, method), []
    for image in data.queries.images[: count + 10]:
        start = time.perf_counter()
        retriever.search(image[None], K)
        times.append(1e3 * (time.perf_counter() - start))
    return {"p50_ms": float(np.median(times[10:])), "p99_ms": float(np.quantile(times[10:], 0.99)), "images": count}


# -- what is written --------------------------------------------------------------------------------------------


def fastest(points, least, key):
    """The fastest of the points whose ``key`` is ``least`` or more, or ``None``."""
    good = [point for point in points if point[key] >= least]
    return max(good, key=lambda point: point["queries_per_second"], default=None)


def summary(tasks):
    """What the README states: rows of a task, what is compared, and the value for each number of threads."""
    rows = {}

    def note(name, what, value):
        task, threads = name.split(", ")
        rows.setdefault((task, what), {"task": task, "what": what})[threads] = value

    for name, task in tasks.items():
        exact = {(row["way"], row["asked"]): row["ms"] for row in task.get("exact", [])}
        for asked in ("batch", "single") if exact else ():
            own = exact["cbir_utils exact", asked]
            note(name, f"exact, {asked}: ms per query", own)
            note(
                name,
                f"exact, {asked}: share of the speed of the bare product",
                exact["matrix product alone", asked] / own,
            )
            for way in ("FAISS flat", "scikit-learn NearestNeighbors", "NumPy product + argpartition"):
                note(name, f"exact, {asked}: times as fast as {way}", exact[way, asked] / own)
        ways = sorted({point["way"] for point in task["approximate"]})
        points = {way: [point for point in task["approximate"] if point["way"] == way] for way in ways}
        if "exact P@10" in task:  # the setting is chosen with database rows, the P@10 stated is that of the queries
            for way in ways:
                best = fastest(points[way], task["exact P@10 of database rows"] - 0.001, "P@10 of database rows")
                if best:
                    note(name, f"{way}: queries per second at P@10 within .001", best["queries_per_second"])
                    note(name, f"{way}: its P@10 less that of exact search", best["P@10"] - task["exact P@10"])
                    loop_seconds = exact["Python loop", "single"] / 1e3
                    note(name, f"{way}: times as fast as the Python loop", loop_seconds * best["queries_per_second"])
            if task["latency"]:
                note(name, "from an image to its hits: ms, p50", task["latency"]["p50_ms"])
                note(name, "from an image to its hits: ms, p99", task["latency"]["p99_ms"])
        found = {way: fastest(points[way], 0.99, "recall@10") for way in ways}
        for way in ways:
            if found[way]:
                note(name, f"{way}: queries per second at recall@10 ≥ .99", found[way]["queries_per_second"])
                if found["FAISS HNSW"] and way != "FAISS HNSW":
                    ratio = found[way]["queries_per_second"] / found["FAISS HNSW"]["queries_per_second"]
                    note(name, f"{way}: times as fast as FAISS HNSW at recall@10 ≥ .99", ratio)
    return list(rows.values())


def table(facts):
    """The summary as a Markdown table, with where it comes from."""
    lines = ["| task | | 1 thread | 2 threads |", "|---|---|---|---|"]
    for row in facts["summary"]:
        values = [number(row[threads]) if threads in row else "–" for threads in ("1 thread", "2 threads")]
        lines.append(f"| {row['task']} | {row['what']} | {values[0]} | {values[1]} |")
    where, versions = facts["machine"], facts["machine"]["versions"]
    lines.append(
        f"\n60,000 images and 10,000 queries of {facts['dataset']} (mnist-784: 1,000), k = {facts['k']}, medians "
        f"of {facts['rounds']} rounds. Measured {where['date']}, {where['system']}, {where['cores']} cores, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".\n"
    )
    return "\n".join(lines)


def number(value):
    """Three digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def plot(tasks, path):
    """Recall (or P@10) against queries per second, one thread; one line per way."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from cbir_utils import plots

    plots.use_style()
    shown = [(name, task) for name, task in tasks.items() if name.endswith("1 thread")]
    figure, axes = plt.subplots(1, 2 * len(shown) - 1, figsize=(16, 6), layout="constrained", squeeze=False)
    panels = []
    for name, task in shown:
        panels += [(name, task, key) for key in ("recall@10", "P@10") if key in task["approximate"][0]]
    markers = dict(zip(sorted({p["way"] for _, t in shown for p in t["approximate"]}), "o^svDP*X", strict=False))
    colours = dict(zip(markers, plots.CLASS_COLOURS, strict=False))
    for ax, (name, task, key) in zip(axes[0], panels, strict=False):
        for way in markers:
            points = [point for point in task["approximate"] if point["way"] == way]
            ax.plot(
                [point[key] for point in points],
                [point["queries_per_second"] for point in points],
                marker=markers[way],
                color=colours[way],
                linewidth=2.5 if way.startswith("cbir") else 1.2,
                label=way,
            )
        best = fastest([p for p in task["approximate"] if p["way"].startswith("cbir")], 0.99, "recall@10")
        title = f"{name.split(',')[0]}, one thread"
        ax.set(xlabel=key, yscale="log", title=title)
        if best and key == "recall@10":
            ax.set_title(f"{title}: {best['queries_per_second']:,.0f}/s at .99")
        if "exact P@10" in task and key == "P@10":
            ax.axvline(task["exact P@10"], color=plots.GREY, linestyle=":", label="exact")
            ax.set_xlim(task["exact P@10"] - 0.006, task["exact P@10"] + 0.001)
    axes[0][0].set_ylabel("queries per second")
    axes[0][0].set_xlim(0.985, 1.0005)
    axes[0][-1].set_xlim(0.9, 1.002)
    for ax in axes[0]:
        ax.title.set_fontsize(13)
    handles = {h.get_label(): h for ax in axes[0] for h in ax.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    plots.caption(figure, "up and to the right is better; each point is one setting of how widely is searched")
    figure.savefig(path, dpi=110)


def machine():
    """Where the figures come from."""
    versions = {name: importlib.metadata.version(name) for name in ("faiss-cpu", "hnswlib", "usearch", "numpy")}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "date": str(date.today()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--method", default="manifold", help="whose codes are searched (default: %(default)s)")
    parser.add_argument("--results", default=os.environ.get("CBIR_RESULTS", "results"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs=2, metavar=("TASK", "THREADS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:  # one task in a process of its own, so that its threads are limited from the start
        found = measure(given.only[0], int(given.only[1]), given.rounds, given.dataset, given.method, given.results)
        print(json.dumps(found))
        return
    tasks = {}
    for task in ("codes", "mnist-784"):
        for threads in (1, 2):
            name = f"{task}, {threads} thread{'s' * (threads > 1)}"
            print(f"{name} …", flush=True)
            start = time.perf_counter()
            tasks[name] = in_its_own_process(given, task, threads)
            print(f"  measured in {time.perf_counter() - start:,.0f} s", flush=True)
    from cbir_utils.store import write_json

    path = Path(given.results) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "dataset": given.dataset, "k": K, "rounds": given.rounds, "summary": summary(tasks)}
    write_json(path, facts | {"tasks": tasks})
    plot(tasks, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(table(facts))
    print(table(facts))
    print(f"written to {path} and {path.with_suffix('.png').name}")


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


if __name__ == "__main__":
    main()
