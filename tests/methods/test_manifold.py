"""The diffusion map: held to a dense, slow computation, and what it does with duplicates, islands and few images."""

import numpy as np
import pytest

from cbir_utils.distances import Hits
from cbir_utils.index import Index
from cbir_utils.methods.manifold import DiffusionMap, fuse


def unit(rows):
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def ring(n=60, seed=0):
    """Noisy directions around a circle, float32 ``(n, 2)``, of various lengths."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, n)) + rng.normal(scale=0.02, size=n)
    return (rng.uniform(1, 3, (n, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


def islands(sizes=(30, 40), seed=0):
    """Clusters at right angles, float32, and the cluster of each row."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    return (rng.normal(size=(len(cluster), 6)) + 100 * np.eye(6)[cluster]).astype(np.float32), cluster


def near(codes, queries=None, row=None, k=5):
    """The ``k`` nearest codes of each code, without itself, or of queries: squared distances of unit length, halved."""
    index = Index("cosine").add(codes)
    if queries is None:
        return index.search(codes, k, exclude_self=np.arange(len(codes)))
    return index.search(queries, k, exclude_self=None if row is None else [row])


def slow_walk(codes, k):
    """The walk's matrix, pair by pair from the formulas."""
    n, codes = len(codes), unit(codes)
    distance = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in codes] for a in codes])
    nearest = [[j for j in np.argsort(distance[i], kind="stable") if j != i][:k] for i in range(n)]
    scale = [distance[i, nearest[i][-1]] for i in range(n)]
    weights = np.zeros((n, n))
    for i in range(n):
        for j in nearest[i]:
            weights[i, j] = weights[j, i] = np.exp(-(distance[i, j] ** 2) / (scale[i] * scale[j]))
    return weights / weights.sum(axis=1, keepdims=True), np.array(scale), distance


def test_eigenpairs_are_those_of_the_slow_walk():
    codes = ring()
    walk, _, _ = slow_walk(codes, 5)
    fast = DiffusionMap.fit(near(codes), dimensions=8, time=64)
    values = np.sort(np.linalg.eigvals(walk).real)[::-1]
    np.testing.assert_allclose(values[0], 1)
    np.testing.assert_allclose(fast.eigenvalues, values[1:9], atol=1e-5)
    np.testing.assert_allclose(walk @ fast.eigenvectors, fast.eigenvectors * fast.eigenvalues, atol=1e-3)
    weights = (fast.eigenvalues / fast.eigenvalues[0]) ** 64
    np.testing.assert_allclose(fast.codes, fast.eigenvectors * weights, rtol=1e-5, atol=1e-7)
    other = DiffusionMap.fit(near(codes), dimensions=8, time=64, seed=1)
    np.testing.assert_allclose(other.codes, fast.codes, atol=1e-4)
    queries = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    assert np.array_equal(
        np.concatenate([fast.embed(near(codes, query)) for query in queries]), fast.embed(near(codes, queries))
    )


@pytest.mark.parametrize("row", [None, 20])
def test_a_query_is_the_nystroem_mean_of_its_neighbours(row):
    """``row``: an image of the database, which enters as if it were not there."""
    codes = ring()
    query = codes[row] if row else np.array([0.9, 0.5], np.float32)
    fast = DiffusionMap.fit(near(codes), dimensions=8, time=3)
    _, scale, _ = slow_walk(codes, 5)
    distance = np.linalg.norm(unit(codes) - unit(query[None]), axis=1)
    nearest = [j for j in np.argsort(distance) if j != row][:5]
    weights = np.exp(-(distance[nearest] ** 2) / (distance[nearest[-1]] * scale[nearest]))
    mean = weights @ fast.eigenvectors[nearest] / weights.sum()
    slow = mean / fast.eigenvalues * (fast.eigenvalues / fast.eigenvalues[0]) ** 3
    found = fast.embed(near(codes, query, row))[0]
    np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-6)
    assert row is None or not np.allclose(fast.embed(near(codes, query))[0], slow, rtol=1e-4, atol=1e-6)


def test_two_islands_are_told_apart_by_every_image_and_query():
    codes, cluster = islands()
    graph = DiffusionMap.fit(near(codes), dimensions=4)
    np.testing.assert_allclose(graph.eigenvalues[0], 1, atol=1e-6)
    assert graph.eigenvalues[1] < 1 - 1e-3, "the constant vector is not among them"
    first = np.sign(graph.codes[:, 0])
    assert np.array_equal(first == first[0], cluster == 0)
    cosine, same = unit(graph.codes) @ unit(graph.codes).T, cluster[:, None] == cluster
    assert cosine[same].min() > cosine[~same].max()
    queries, of = islands((5, 5), seed=3)
    assert np.array_equal(np.sign(graph.embed(near(codes, queries))[:, 0]) == first[0], of == 0)


def test_many_islands_share_the_eigenvalue_one_but_not_more_than_dimensions():
    codes, cluster = islands((12, 12, 12, 12))
    graph = DiffusionMap.fit(near(codes), k=4, dimensions=6)
    np.testing.assert_allclose(graph.eigenvalues[:3], 1, atol=1e-6)
    cosine, same = unit(graph.codes[:, :3]) @ unit(graph.codes[:, :3]).T, cluster[:, None] == cluster
    assert cosine[same].min() > 0.999 and cosine[~same].max() < 0.5
    codes, _ = islands((8,) * 6)
    with pytest.raises(ValueError, match="falls into 6 components, which 4 dimensions cannot tell apart; give more hi"):
        DiffusionMap.fit(near(codes), k=4, dimensions=4)


def test_bursts_are_joined_by_their_nearest_pairs():
    """60 bursts of six shots, on a ring: each shot's five nearest are its own burst, the sixth leads to the next."""
    rng, angle = np.random.default_rng(0), np.repeat(2 * np.pi * np.arange(60) / 60, 6)
    codes = np.column_stack([np.cos(angle), np.sin(angle)]) + rng.normal(size=(360, 2)) / 1e4
    burst, graph = np.arange(360) // 6, DiffusionMap.fit(near(codes.astype(np.float32), k=20))
    assert graph.eigenvalues[0] < 1 - 1e-5, "one component is left"
    cosine, apart = unit(graph.codes) @ unit(graph.codes).T, np.abs(burst[:, None] - burst)
    assert cosine[apart == 0].min() > 0.9 and cosine[apart == 0].min() > cosine[apart == 30].max()


@pytest.mark.parametrize("count", [3, 4, 12])
def test_few_images_have_fewer_neighbours_and_dimensions(count):
    graph = DiffusionMap.fit(near(ring(count), k=min(5, count - 1)))
    assert graph.k == min(5, count - 1) and graph.codes.shape == (count, count - 2)
    assert np.isfinite(graph.embed(near(ring(count), ring(count)[:2], k=min(5, count - 1)))).all()


def test_directions_that_no_walk_keeps_count_for_nothing_and_a_long_walk_does_not_fade():
    codes = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    graph = DiffusionMap.fit(near(codes), dimensions=47, time=1)
    dead = graph.eigenvalues <= 0
    assert dead.any() and not graph.codes[:, dead].any() and not graph.embed(near(codes, codes))[:, dead].any()
    assert not (graph.eigenvectors.std(axis=0) < 1e-6).any(), "the constant vector must not come back"
    graph = DiffusionMap.fit(near(ring()), dimensions=5, time=1e5)
    assert np.abs(graph.codes).max() > 1e-3 and np.isfinite(graph.embed(near(ring(), ring()))).all()


@pytest.mark.parametrize("others", [0, 30])
def test_duplicates_and_their_queries_stay_finite(others):
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.ones((20, 3)), rng.normal(size=(others, 3))]).astype(np.float32)
    graph = DiffusionMap.fit(near(codes), dimensions=6)
    assert np.isfinite(graph.codes).all() and np.isfinite(graph.embed(near(codes, codes[[0, -1]]))).all()
    if others:
        np.testing.assert_allclose(graph.codes[1], graph.codes[2], atol=1e-5)


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (ring(20), {"k": 10}, "a graph of 10 neighbours needs 10 hits of each image, and there are 9"),
        (ring(20), {"k": 0}, "a graph of 0 neighbours needs 0 hits"),
        (ring(), {"dimensions": 0}, "dimensions and time must be 1 or more"),
        (ring(), {"time": 0.5}, "dimensions and time must be 1 or more"),
        (ring(), {"time": float("nan")}, "dimensions and time must be 1 or more"),
    ],
)
def test_what_cannot_be_mapped_is_refused(codes, options, message):
    with pytest.raises(ValueError, match=message):
        DiffusionMap.fit(near(codes, k=9), **{"dimensions": 5, **options})


def test_only_the_first_neighbours_count_and_no_scale_of_distances_does():
    hits = near(ring(), k=9)
    few, more = (DiffusionMap.fit(Hits(*(part[:, :n] for part in hits)), k=4, dimensions=5) for n in (4, 9))
    scaled = DiffusionMap.fit(Hits(1000 * hits.distances, hits.ids), k=4, dimensions=5)
    assert np.array_equal(few.codes, more.codes) and np.array_equal(few.embed(hits), more.embed(hits))
    np.testing.assert_allclose(scaled.codes, few.codes, atol=1e-4)


def test_the_time_follows_from_the_largest_gap_of_the_eigenvalues():
    def time(*values, given=None):
        return DiffusionMap(None, np.array(values), None, k=5, time=given).time

    # The largest gap is from .98 to .9: .9^t = .1 after log(.1) / log(.9) = 21.85 steps.
    np.testing.assert_allclose(time(0.99, 0.98, 0.9, 0.88), 21.854, atol=1e-3)
    assert time(0.5, -0.1) == 1 and time(0.5, -0.1, given=7) == 7
    graph = DiffusionMap.fit(near(islands((30, 30, 30))[0]), dimensions=8)
    np.testing.assert_allclose(graph.eigenvalues[2] ** graph.time, 0.1)


def test_it_comes_back_from_its_file(tmp_path):
    hits = near(ring())
    graph = DiffusionMap.fit(hits, dimensions=5, time=8)
    graph.save(tmp_path / "map.npz")
    again = DiffusionMap.load(tmp_path / "map.npz")
    assert (again.k, again.time) == (5, 8)
    assert np.array_equal(again.codes, graph.codes) and np.array_equal(again.embed(hits), graph.embed(hits))
    (tmp_path / "map.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="holds no diffusion map.*notebook 08"):
        DiffusionMap.load(tmp_path / "map.npz")


def test_the_cosine_of_fused_codes_is_the_blend_of_both_cosines():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 4)), rng.normal(size=(5, 7))
    fused = fuse(a, b, 0.5)
    assert fused.dtype == np.float32 and fused.shape == (5, 11)
    blended = (unit(a) @ unit(a).T + 0.5 * unit(b) @ unit(b).T) / 1.5
    np.testing.assert_allclose(unit(fused) @ unit(fused).T, blended, atol=1e-6)
    assert np.isfinite(fuse(np.zeros((1, 4)), b[:1])).all()


def test_two_images_make_no_graph():
    with pytest.raises(ValueError, match="a graph of neighbours needs three images or more, and there are 2"):
        DiffusionMap.fit(near(ring(2), k=1))
