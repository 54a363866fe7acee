"""Exact search over 60,000 codes of 128 numbers: this index beside the usual ways, in one run (`make bench`).

The ways take turns, round by round, so that a machine that slows down slows them all; the median of the rounds is
printed. Speed is measured here and asserted nowhere.
"""

import time

import faiss
import numpy as np
from sklearn.neighbors import NearestNeighbors

from cbir_utils.index import Index

N, D, Q, K, ROUNDS, SEED = 60_000, 128, 1_000, 10, 7, 0


def loop(database, query):
    """What tutorials do: one norm per row of the database."""
    distances = [np.linalg.norm(query - row) for row in database]
    return np.argsort(distances)[:K]


def main():
    rng = np.random.default_rng(SEED)
    database, queries = (np.maximum(rng.normal(size=(n, D)), 0).astype(np.float32) for n in (N, Q))
    index = Index("euclidean")
    index.add(database)
    flat = faiss.IndexFlatL2(D)
    flat.add(database)
    neighbours = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(database)
    scores = np.empty((Q, N), np.float32)
    batch = {
        "scikit-learn NearestNeighbors": lambda: neighbours.kneighbors(queries),
        "FAISS IndexFlatL2": lambda: flat.search(queries, K),
        "cbir_utils Index": lambda: index.search(queries, K),
        "matrix product alone (the limit)": lambda: np.matmul(queries, database.T, out=scores),
    }
    single = {
        "loop over rows": lambda i: loop(database, queries[i]),
        "scikit-learn NearestNeighbors": lambda i: neighbours.kneighbors(queries[i : i + 1]),
        "FAISS IndexFlatL2": lambda i: flat.search(queries[i : i + 1], K),
        "cbir_utils Index": lambda i: index.search(queries[i], K),
        "matrix product alone (the limit)": lambda i: np.matmul(database, queries[i]),
    }
    times = {}
    for _ in range(ROUNDS):
        for name, search in single.items():
            count = 1 if name == "loop over rows" else 20
            start = time.perf_counter()
            for i in range(count):
                search(i)
            times.setdefault((name, "single"), []).append(1e3 * (time.perf_counter() - start) / count)
        for name, search in batch.items():
            start = time.perf_counter()
            search()
            times.setdefault((name, "batch"), []).append(1e3 * (time.perf_counter() - start) / Q)

    print(f"{N:,} rows of {D}, {K} hits; milliseconds per query, median of {ROUNDS} rounds (and times this index)")
    for kind, title in (("single", "one query at a time"), ("batch", f"a batch of {Q:,}")):
        own = np.median(times["cbir_utils Index", kind])
        print(f"\n{title}")
        for name in single if kind == "single" else batch:
            value = np.median(times[name, kind])
            print(f"  {name:<34} {value:9.3f}   ({value / own:.2f}x)")


if __name__ == "__main__":
    main()
