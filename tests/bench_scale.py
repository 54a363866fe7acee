"""Ten million handwritten images on this machine: what a compact index costs and finds (`make bench-scale`).

Seeded deformations of a run's database make a stream of distinct images. The run's encoder encodes it in batches, and
a file keeps the codes as float16: never are all images, or all codes, in memory. For each number of images an index is
built from the file and asked for the neighbours of the run's own queries. A second start continues the stream.

    python tests/bench_scale.py --dataset mnist --method taught --sizes 100000 1000000 3000000 10000000
"""

import argparse
import json
import os
import platform
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates, maximum_filter, minimum_filter, zoom
from tqdm import tqdm

from cbir_utils.artifacts.files import sha256, write_json
from cbir_utils.artifacts.store import machine
from cbir_utils.codes import unit_length
from cbir_utils.datasets import load_dataset
from cbir_utils.lessons.tables import markdown_table
from cbir_utils.run import Run
from cbir_utils.scale.approximate import make_index

SIZES = [100_000, 1_000_000, 3_000_000, 10_000_000]
K, QUERIES, BATCH, GROUP, GRID = 10, 1000, 20_000, 250, 5

#: Of the stream's deformations: another one goes on with nothing of this one's.
STREAM = 2

#: Figures of a size: its title, its name in the rows, its form in the table, and the limits of its axis (or "log").
COLUMNS = [
    ("encode (s)", "encode_seconds", ",.0f", "log"),
    ("build (s)", "build_seconds", ",.0f", "log"),
    ("bytes/image", "index_bytes_per_image", ".1f", (0, None)),
    ("memory (GB)", "peak_memory_gb", ".2f", (0, None)),
    ("queries/s", "queries_per_second", ",.0f", "log"),
    ("recall@10", "recall@10", ".3f", (0.9, 1.0)),
    ("one query (ms)", "single_query_ms", ".2f", None),
]

#: Bytes of a compressed code in the index, images that the quantiser learns from, and the recall@10 asked for.
PQ_BYTES, SAMPLE, TARGET = 24, 330_000, 0.95


# -- the stream -------------------------------------------------------------------------------------------------


def deformed(images, rng):
    """The images ``(N, H, W)`` uint8, all rotated, sheared, shifted, bent and thickened or thinned alike."""
    height, width = images.shape[1:]
    pixel = height / 28
    y, x = np.mgrid[:height, :width] - np.array([[[height - 1]], [[width - 1]]]) / 2
    x = x + rng.uniform(-0.2, 0.2) * y
    angle = rng.uniform(-0.3, 0.3)
    place = np.stack([np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x])
    for axis, length in enumerate((height, width)):
        bend = zoom(rng.normal(0, 1.5 * pixel, (GRID, GRID)), (height / GRID, width / GRID), order=3)
        place[axis] += bend + rng.uniform(-2, 2) * pixel + (length - 1) / 2
    sampled = {"order": 1, "mode": "grid-constant", "output": np.float32}  # bilinear, with black beyond the edge
    views = np.stack([map_coordinates(image, place, **sampled) for image in images])
    stroke = rng.uniform(-0.5, 0.5)
    extreme = maximum_filter if stroke > 0 else minimum_filter
    views += abs(stroke) * (extreme(views, size=(1, 3, 3)) - views)
    return np.rint(views).astype(np.uint8)


def stream(images, number, seed=0):
    """Batch ``number`` of the stream: ``(BATCH, H, W, 1)`` uint8; GROUP images at a time share one deformation."""
    rng = np.random.default_rng([seed, number])
    rows = (number * BATCH + np.arange(BATCH)) % len(images)
    views = [deformed(images[rows[start : start + GROUP], :, :, 0], rng) for start in range(0, BATCH, GROUP)]
    return np.concatenate(views)[..., None]


# -- what is kept of it -----------------------------------------------------------------------------------------


def encode_stream(folder, images, queries, encoder, encoder_hash, count):
    """Encode the first ``count`` images of the stream; go on where the folder ends.

    Writes ``codes.f16`` (rows of unit length, float16), ``queries.npy``, and ``state.json`` with the seconds until each
    number of rows.
    """
    from cbir_utils.training import encode  # TensorFlow takes seconds to import

    state_path = folder / "state.json"
    folder.mkdir(parents=True, exist_ok=True)
    asked = unit_length(encode(encoder, queries))
    np.save(folder / "queries.npy", asked)
    facts = {"stream": STREAM, "encoder": encoder_hash, "dimension": asked.shape[1], "queries": len(asked)}
    state = {**facts, "rows": 0, "seconds": 0.0, "seconds_at": {}, "encode_memory_gb": 0.0}
    if state_path.is_file():
        state = json.loads(state_path.read_text())
        if any(state.get(name) != value for name, value in facts.items()):
            raise SystemExit(f"{folder} holds the stream of another encoder; remove it and start again")
    with open(folder / "codes.f16", "r+b" if state["rows"] else "wb") as file:
        file.truncate(state["rows"] * asked.shape[1] * 2)
        file.seek(0, os.SEEK_END)
        for number in tqdm(range(state["rows"] // BATCH, count // BATCH), unit=f" x {BATCH:,} images"):
            views, start = stream(images, number), time.perf_counter()
            codes = unit_length(encode(encoder, views)).astype(np.float16)
            state["seconds"] += time.perf_counter() - start
            file.write(codes.tobytes())
            file.flush()
            state["rows"] += BATCH
            state["seconds_at"][str(state["rows"])] = state["seconds"]
            state["encode_memory_gb"] = max(memory(), state["encode_memory_gb"])
            write_json(state_path, state)


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
    index = make_index("ivfpq", "euclidean", rows=count, pq_bytes=PQ_BYTES, originals=codes)
    sample = np.sort(np.random.default_rng(0).permutation(count)[: min(count, SAMPLE)])
    build = seconds(lambda: index.fit(codes[sample].astype(np.float32)))
    for first in tqdm(range(0, count, 100_000)):
        build += seconds(lambda part=codes[first : first + 100_000]: index.add(part.astype(np.float32)))
    tune = seconds(lambda: index.tune(codes, recall=TARGET + 0.02))  # on rows; the queries may be harder
    index.save(folder / "index.faiss")
    batch = float(np.median([seconds(lambda: index.search(queries, K)) for _ in range(3)]))
    single = seconds(lambda: [index.search(query, K) for query in queries[:200]]) / 200
    return {
        "rows": count,
        "encode_seconds": state["seconds_at"][str(count)],
        "build_seconds": build,
        "tune_seconds": tune,
        "index_bytes_per_image": (folder / "index.faiss").stat().st_size / count,
        "dimension": state["dimension"],
        "peak_memory_gb": max(memory(), state["encode_memory_gb"]),
        "queries_per_second": len(queries) / batch,
        "single_query_ms": 1e3 * single,
        "recall@10": index.recall(codes, queries, K),  # its exact search reads the file: after the memory is taken
        "nprobe": index.nprobe,
        "refine": index.refine,
        "pq_bytes": PQ_BYTES,
        "threads": faiss.omp_get_max_threads(),
    }


def seconds(do):
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


# -- what is written --------------------------------------------------------------------------------------------


def plot(rows, path):
    """Each figure against the number of images; of costs, with the exponent that is fitted by least squares."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from cbir_utils import plots
    from cbir_utils.lessons.cells import use_style

    use_style()
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    sizes = [row["rows"] for row in rows]
    for ax, (title, name, form, limits) in zip(axes.ravel(), COLUMNS[:6], strict=True):
        values, grows = [row[name] for row in rows], ""
        if limits == "log" and len(sizes) > 1:
            grows = f", as N^{np.polyfit(np.log(sizes), np.log(values), 1)[0]:.2f}"
        ax.plot(sizes, values, "o-", color=plots.BLUE)
        ax.set(xscale="log", xlabel="images", title=f"{title}: {values[-1]:{form}}{grows}")
        ax.set(yscale="log") if limits == "log" else ax.set_ylim(*limits)
    axes[1, 2].axhline(TARGET, color=plots.GREY, linestyle=":")
    where = "candidates measured again from the disk; titles: the largest, and the fitted exponent"
    plots.caption(figure, f"inverted lists, {rows[-1]['pq_bytes']} bytes per code, {where}")
    figure.savefig(path, dpi=110)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--method", default="taught", help="a method with an encoder (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--results", default=os.environ.get("CBIR_RESULTS", "results"))
    given = parser.parse_args(arguments)
    sizes = sorted(given.sizes)
    if any(size % BATCH or size < BATCH for size in sizes):
        parser.error(f"sizes must be multiples of {BATCH:,}")
    folder = Path(given.results) / "bench" / "scale" / f"{given.dataset}_{given.method}"
    from cbir_utils.training import load_model  # TensorFlow takes seconds to import

    run, data = Run(given.dataset, given.results), load_dataset(given.dataset)
    path = run.checked_path(f"{given.method}/encoder.keras")
    queries = data.queries.images[:QUERIES]
    encode_stream(folder, data.database.images, queries, load_model(path), sha256(path), sizes[-1])
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:  # each with its own memory
        rows = list(processes.map(measure, [folder] * len(sizes), sizes))
    facts = {"machine": machine() | {"date": str(date.today())}, "dataset": given.dataset, "method": given.method}
    facts["rows"] = rows
    path = Path(given.results) / "bench" / f"scale_{given.dataset}.json"
    write_json(path, facts)
    path.with_suffix(".md").write_text(table(facts))
    plot(rows, path.with_suffix(".png"))
    print(table(facts), f"written to {path} and {path.with_suffix('.png').name}", sep="\n")


def table(facts):
    """The rows as a Markdown table, with where they come from."""
    lines = [[f"{row['rows']:,}", *(f"{row[name]:{form}}" for _, name, form, _ in COLUMNS)] for row in facts["rows"]]
    last, where = facts["rows"][-1], facts["machine"]
    return markdown_table(["images", *(title for title, *_ in COLUMNS)], lines) + (
        f"\n\nCodes of {facts['method']}, {last['dimension']} numbers, of {facts['dataset']}'s images, deformed; "
        f"{QUERIES:,} queries that are not; {last['threads']} threads. In memory is the index; candidates are measured "
        f"again by codes on the disk ({2 * last['dimension']} bytes each). Measured {where['date']}, "
        f"{where['system']} {where['architecture']}, {where['cores']} cores.\n"
    )


if __name__ == "__main__":
    main()
