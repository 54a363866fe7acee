"""Ten million handwritten images on this machine: what a compact index costs and finds (`make bench-scale`).

A stream of distinct images is made from a run's database by seeded deformations, encoded in batches with the run's
encoder, and written as float16 codes to a file; never are all images, or all codes, in memory. For each number of
images an index is built from the file and asked for the neighbours of the run's own queries. The stream goes on where
an earlier start left it.

    python tests/bench_scale.py --dataset mnist --method contrastive --sizes 100000 1000000 3000000 10000000
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from cbir_utils.codes import unit_length
from cbir_utils.datasets import load_dataset
from cbir_utils.index import Hits, Index
from cbir_utils.run import Run, sha256, write_json
from cbir_utils.scale.approximate import make_index

SIZES = [100_000, 1_000_000, 3_000_000, 10_000_000]
K, QUERIES, BATCH, GROUP, GRID = 10, 1000, 20_000, 250, 5

#: Bytes of a compressed code in the index, images that the quantiser learns from, and the recall@10 asked for.
PQ_BYTES, SAMPLE, TARGET = 24, 330_000, 0.95


# -- the stream -------------------------------------------------------------------------------------------------


def deformed(images, rng):
    """The images ``(N, H, W)`` uint8, all rotated, sheared, shifted, bent and thickened or thinned alike."""
    count, height, width = images.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    x = x + rng.uniform(-0.2, 0.2) * y
    angle, pixel = rng.uniform(-0.3, 0.3), height / 28
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    bend = [spline(height) @ rng.normal(0, 1.5 * pixel, (GRID, GRID)) @ spline(width).T for _ in "yx"]
    y = np.clip(y + bend[0] + rng.uniform(-2, 2) * pixel + (height - 1) / 2 + 1, 0, height + 0.999)
    x = np.clip(x + bend[1] + rng.uniform(-2, 2) * pixel + (width - 1) / 2 + 1, 0, width + 0.999)
    # Bilinear, with a black frame. One deformation for all: each pixel of all images is one row of the matrix.
    framed = np.zeros(((height + 2) * (width + 2), count), np.float32)
    framed.reshape(height + 2, width + 2, count)[1:-1, 1:-1] = images.transpose(1, 2, 0)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = y - top, x - left
    views = np.zeros((height * width, count), np.float32)
    for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (down if below else 1 - down) * (right if beside else 1 - right)
        place = (top + below) * (width + 2) + left + beside
        views += weight.reshape(-1, 1).astype(np.float32) * framed[place.ravel()]
    views = views.reshape(height, width, count)
    stroke = rng.uniform(-0.5, 0.5)
    views += abs(stroke) * (neighbourhood(views, np.maximum if stroke > 0 else np.minimum) - views)
    return np.ascontiguousarray(np.rint(views).astype(np.uint8).transpose(2, 0, 1))


def spline(length):
    """The matrix ``(length, GRID)`` that draws a cubic spline through GRID evenly spaced values."""
    return CubicSpline(np.linspace(0, length - 1, GRID), np.eye(GRID))(np.arange(length))


def neighbourhood(views, extreme):
    """The largest (or least) value among each pixel and its eight neighbours, ``(H, W, N)``."""
    for axis in (0, 1):
        ahead, behind = views.copy(), views.copy()
        inner, outer = [slice(None)] * 3, [slice(None)] * 3
        inner[axis], outer[axis] = slice(1, None), slice(None, -1)
        extreme(views[tuple(outer)], views[tuple(inner)], out=ahead[tuple(outer)])
        extreme(views[tuple(inner)], views[tuple(outer)], out=behind[tuple(inner)])
        views = extreme(ahead, behind)
    return views


def stream(images, number, seed=0):
    """Batch ``number`` of the stream: ``(BATCH, H, W, 1)`` uint8, the same whenever it is made.

    The images ``(N, H, W, 1)`` come in turn, again and again; GROUP of them at a time share one deformation.
    """
    rng = np.random.default_rng([seed, number])
    rows = (number * BATCH + np.arange(BATCH)) % len(images)
    views = [deformed(images[rows[start : start + GROUP], :, :, 0], rng) for start in range(0, BATCH, GROUP)]
    return np.concatenate(views)[..., None]


# -- what is kept of it -----------------------------------------------------------------------------------------


def encode_stream(folder, images, queries, encoder, encoder_hash, sizes):
    """Encode the stream up to the largest of ``sizes``; go on where the folder ends.

    Writes ``codes.f16`` (rows of unit length, float16) and ``state.json``: rows, seconds, and the exact K nearest
    rows of each query at each of the sizes, found as the codes pass by.
    """
    from cbir_utils.training import encode  # TensorFlow takes seconds to import

    state_path, codes_path = folder / "state.json", folder / "codes.f16"
    folder.mkdir(parents=True, exist_ok=True)
    asked = unit_length(encode(encoder, queries))
    np.save(folder / "queries.npy", asked)
    facts = {"encoder": encoder_hash, "batch": BATCH, "dimension": asked.shape[1], "queries": len(asked)}
    state = json.loads(state_path.read_text()) if state_path.is_file() else {**facts, "rows": 0, "seconds": 0.0}
    if any(state[name] != value for name, value in facts.items()):
        raise SystemExit(f"{folder} holds the stream of another encoder or other settings; remove it and start again")
    nearest = Hits(np.full((len(asked), K), np.inf, np.float32), np.full((len(asked), K), -1))
    if state["rows"]:
        with np.load(folder / f"exact_{state['rows']}.npz") as kept:
            nearest = Hits(kept["distances"], kept["ids"])
    with open(codes_path, "r+b" if state["rows"] else "wb") as file:
        file.truncate(state["rows"] * asked.shape[1] * 2)
        file.seek(0, os.SEEK_END)
        while state["rows"] < max(sizes):
            start = time.perf_counter()
            codes = unit_length(encode(encoder, stream(images, state["rows"] // BATCH))).astype(np.float16)
            file.write(codes.tobytes())
            state["seconds"] += time.perf_counter() - start
            nearest = merged(nearest, asked, codes.astype(np.float32), state["rows"])
            state["rows"] += BATCH
            if state["rows"] in sizes or state["rows"] % 500_000 == 0:
                file.flush()
                np.savez(folder / f"exact_{state['rows']}.npz", distances=nearest.distances, ids=nearest.ids)
                state.setdefault("seconds_at", {})[str(state["rows"])] = state["seconds"]
                write_json(state_path, state)
                rate = state["rows"] / state["seconds"]
                state["encode_memory_gb"] = max(memory(), state.get("encode_memory_gb", 0))
                print(f"  {state['rows']:>12,} images encoded, {rate:,.0f} a second, {memory():.2f} GB", flush=True)


def merged(nearest, queries, codes, first):
    """The nearest so far and the nearest of these codes, whose first row has the number ``first``."""
    found = Index("euclidean").add(codes).search(queries, K)
    distances = np.hstack([nearest.distances, found.distances])
    ids = np.hstack([nearest.ids, found.ids + first])
    order = np.argsort(distances, axis=1, kind="stable")[:, :K]
    return Hits(np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1))


def memory():
    """The most memory that this process has held, in GB."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# -- one size ---------------------------------------------------------------------------------------------------


def measure(folder, count):
    """Build an index of the first ``count`` codes of the stream, and ask it; returns a row of figures."""
    import faiss

    state = json.loads((folder / "state.json").read_text())
    codes = np.memmap(folder / "codes.f16", np.float16, "r", shape=(count, state["dimension"]))
    queries = np.load(folder / "queries.npy")
    with np.load(folder / f"exact_{count}.npz") as kept:
        exact = Hits(kept["distances"], kept["ids"])

    start = time.perf_counter()
    index = make_index("ivfpq", "euclidean", rows=count, pq_bytes=PQ_BYTES, originals=codes)
    sample = np.sort(np.random.default_rng(0).permutation(count)[: min(count, SAMPLE)])
    index.fit(codes[sample].astype(np.float32))
    for first in range(0, count, 100_000):
        index.add(codes[first : first + 100_000].astype(np.float32))
        print(f"\r  {min(count, first + 100_000):>12,} of {count:,} added", end="", flush=True)
    build = time.perf_counter() - start
    start = time.perf_counter()
    index.tune(codes, recall=TARGET + 0.02)  # on rows of the database; the queries may be harder
    tune = time.perf_counter() - start
    path = folder / "index.faiss"
    index.save(path)

    times = []
    for _ in range(3):
        start = time.perf_counter()
        index.search(queries, K)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    for query in queries[:200]:
        index.search(query, K)
    single = (time.perf_counter() - start) / 200
    print()
    return {
        "rows": count,
        "encode_seconds": state["seconds_at"][str(count)],
        "build_seconds": build,
        "tune_seconds": tune,
        "index_bytes_per_image": path.stat().st_size / count,
        "dimension": state["dimension"],
        "codes_bytes_per_image_on_disk": 2 * state["dimension"],
        "peak_memory_gb": max(memory(), state["encode_memory_gb"]),
        "queries_per_second": len(queries) / float(np.median(times)),
        "single_query_ms": 1e3 * single,
        "recall@10": index.recall(codes, queries, K, exact=exact),
        "lists": index._inner.nlist,
        "nprobe": index.nprobe,
        "refine": index.refine,
        "pq_bytes": PQ_BYTES,
        "threads": faiss.omp_get_max_threads(),
    }


# -- what is written --------------------------------------------------------------------------------------------


def exponent(sizes, costs):
    """The b of ``cost = a N^b``, by least squares in logarithms; and a."""
    b, log_a = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(b), float(np.exp(log_a))


def extrapolate(rows, target=10**9):
    """What ``target`` images would take, by formulas and the fits: a dictionary of figures, on paper only."""
    largest = rows[-1]
    sizes = [row["rows"] for row in rows]
    lists = 4 * np.sqrt(target)
    seconds = {}
    for name in ("encode_seconds", "build_seconds"):
        b, a = exponent(sizes, [row[name] for row in rows])
        seconds[name] = a * target**b
    index_bytes = target * (largest["pq_bytes"] + 8) + lists * largest["dimension"] * 4
    b, a = exponent(sizes, [1 / row["queries_per_second"] for row in rows])
    return {
        "rows": target,
        "index_gb": index_bytes / 1e9,
        "codes_on_disk_gb": target * largest["codes_bytes_per_image_on_disk"] / 1e9,
        "shards_of_64_gb": int(np.ceil(index_bytes / 64e9)),
        "lists": int(lists),
        "codes_read_per_query": int(largest["nprobe"] * target / lists),
        "queries_per_second_on_one_machine": float(1 / (a * target**b)),
        **{name: float(value) for name, value in seconds.items()},
    }


#: What is drawn: name in the rows, title, and whether it is a cost that grows (its exponent is fitted).
COSTS = [
    ("encode_seconds", "encoding (s)"),
    ("build_seconds", "building (s)"),
    ("index_bytes_per_image", "bytes per image"),
    ("peak_memory_gb", "peak memory (GB)"),
    ("queries_per_second", "queries per second"),
    ("recall@10", "recall@10"),
]


def plot(rows, path):
    """Each cost against the number of images, with its fitted exponent."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from cbir_utils import plots

    plots.use_style()
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    sizes = [row["rows"] for row in rows]
    for ax, (name, title) in zip(axes.ravel(), COSTS, strict=True):
        values = [row[name] for row in rows]
        ax.plot(sizes, values, "o-", color=plots.BLUE)
        ax.set(xscale="log", xlabel="images")
        if name == "recall@10":
            ax.set(ylim=(0.9, 1.0), title=f"{title}: {values[-1]:.3f}")
            ax.axhline(TARGET, color=plots.GREY, linestyle=":")
        elif name in ("index_bytes_per_image", "peak_memory_gb"):
            ax.set(ylim=(0, None), title=f"{title}: {values[-1]:.3g}")
        else:
            b, _ = exponent(sizes, values) if len(sizes) > 1 else (0.0, 0.0)
            ax.set(yscale="log", title=f"{title}: {values[-1]:,.0f}, as N^{b:.2f}")
        ax.title.set_fontsize(13)
    where = "candidates measured again from the disk; titles: the largest, and the fitted exponent"
    plots.caption(figure, f"inverted lists, {rows[-1]['pq_bytes']} bytes per code, {where}")
    figure.savefig(path, dpi=110)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--method", default="contrastive", help="a method with an encoder (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--results", default=os.environ.get("CBIR_RESULTS", "results"))
    parser.add_argument("--only", type=int, metavar="SIZE", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    sizes = sorted(given.sizes)
    if any(size % BATCH or size < BATCH for size in sizes):
        parser.error(f"sizes must be multiples of {BATCH:,}")
    folder = Path(given.results) / "bench" / "scale" / f"{given.dataset}_{given.method}"
    if given.only:  # in a process of its own, whose memory is measured
        print(json.dumps(measure(folder, given.only)))
        return
    encode_all(given, folder, sizes)
    lacking = [size for size in sizes if not (folder / f"exact_{size}.npz").is_file()]
    if lacking:
        raise SystemExit(f"the stream in {folder} went past {lacking[0]:,} without stopping; remove it and start again")
    rows = []
    for size in sizes:
        command = [sys.executable, __file__, "--only", str(size), "--dataset", given.dataset]
        command += ["--method", given.method, "--results", given.results, "--sizes", *map(str, sizes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{size:,} images: failed; its error stands above")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        print(
            f"  {size:>12,}: built in {row['build_seconds']:,.0f} s, {row['index_bytes_per_image']:.1f} bytes each, "
            f"{row['peak_memory_gb']:.2f} GB, {row['queries_per_second']:,.0f} queries a second, "
            f"recall@10 {row['recall@10']:.3f}",
            flush=True,
        )
    path = Path(given.results) / "bench" / f"scale_{given.dataset}.json"
    facts = {"machine": machine(), "dataset": given.dataset, "method": given.method, "rows": rows}
    write_json(path, facts | {"on paper": extrapolate(rows)})
    path.with_suffix(".md").write_text(table(facts))
    plot(rows, path.with_suffix(".png"))
    print(f"written to {path} and {path.with_suffix('.png').name}")


def table(facts):
    """The rows as a Markdown table, with where they come from."""
    lines = [
        "| images | encode (s) | build (s) | bytes/image | memory (GB) | queries/s | one query (ms) | recall@10 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in facts["rows"]:
        lines.append(
            f"| {row['rows']:,} | {row['encode_seconds']:,.0f} | {row['build_seconds']:,.0f} | "
            f"{row['index_bytes_per_image']:.1f} | {row['peak_memory_gb']:.2f} | {row['queries_per_second']:,.0f} | "
            f"{row['single_query_ms']:.2f} | {row['recall@10']:.3f} |"
        )
    last, where = facts["rows"][-1], facts["machine"]
    lines.append(
        f"\nCodes of {facts['method']}, {last['dimension']} numbers, of {facts['dataset']}'s images, deformed; "
        f"{QUERIES:,} queries that are not; {last['threads']} threads. In memory is the index; candidates are measured "
        f"again by codes on the disk ({last['codes_bytes_per_image_on_disk']} bytes each). Measured {where['date']}, "
        f"{where['system']}, {where['cores']} cores.\n"
    )
    return "\n".join(lines)


def encode_all(given, folder, sizes):
    """The stream, encoded with the run's encoder, up to the largest size; in this process, as it needs TensorFlow."""
    from cbir_utils.training import load_model

    run, data = Run(given.dataset, given.results), load_dataset(given.dataset)
    path = run.checked_path(f"{given.method}/encoder.keras")
    queries = data.queries.images[:QUERIES]
    encode_stream(folder, data.database.images, queries, load_model(path), sha256(path), sizes)


def machine():
    """Where the figures come from."""
    system = f"{platform.system()} {platform.machine()}"
    return {"system": system, "cores": os.cpu_count(), "date": str(date.today())}


if __name__ == "__main__":
    main()
