"""The diffusion map: held to a dense, slow computation, and what it does with duplicates, islands and few images."""

import numpy as np
import pytest

from cbir_utils.methods.manifold import DiffusionMap, fuse


def ring(n=60, seed=0):
    """Noisy points on a circle, float32 ``(n, 2)``."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    return (np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(scale=0.02, size=(n, 2))).astype(np.float32)


def islands(sizes=(30, 40), apart=1000.0, seed=0):
    """Clusters far apart, float32, and the cluster of each row."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    return (rng.normal(size=(len(cluster), 3)) + apart * cluster[:, None]).astype(np.float32), cluster


def slow_walk(codes, k):
    """The walk's matrix, pair by pair from the formulas, with Euclidean distances."""
    n = len(codes)
    distance = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in codes.astype(float)] for a in codes.astype(float)])
    nearest = [[j for j in np.argsort(distance[i], kind="stable") if j != i][:k] for i in range(n)]
    scale = [distance[i, nearest[i][-1]] for i in range(n)]
    weights = np.zeros((n, n))
    for i in range(n):
        for j in nearest[i]:
            weights[i, j] = weights[j, i] = np.exp(-(distance[i, j] ** 2) / (scale[i] * scale[j]))
    return weights / weights.sum(axis=1, keepdims=True), scale, distance


def test_eigenpairs_are_those_of_the_slow_walk():
    codes = ring()
    walk, _, _ = slow_walk(codes, 5)
    fast = DiffusionMap.fit(codes, k=5, dimensions=8, metric="euclidean")
    values = np.sort(np.linalg.eigvals(walk).real)[::-1]
    np.testing.assert_allclose(values[0], 1)
    np.testing.assert_allclose(fast.eigenvalues, values[1:9], atol=1e-6)
    np.testing.assert_allclose(walk @ fast.eigenvectors, fast.eigenvectors * fast.eigenvalues, atol=1e-4)
    fast.time = 64
    weights = (fast.eigenvalues / fast.eigenvalues[0]) ** 64
    np.testing.assert_allclose(fast.codes, fast.eigenvectors * weights, rtol=1e-5, atol=1e-7)


def test_an_image_of_the_database_can_enter_as_if_it_were_not_there():
    """By the slow walk, which has no edge from a row to itself: one step of it to the neighbours that the row names."""
    codes = ring()
    fast = DiffusionMap.fit(codes, k=5, dimensions=8, time=3, metric="euclidean")
    _, scale, distance = slow_walk(codes, 5)
    nearest = [j for j in np.argsort(distance[20], kind="stable") if j != 20][:5]
    weights = np.array([np.exp(-(distance[20, j] ** 2) / (scale[20] * scale[j])) for j in nearest])
    mean = weights @ fast.eigenvectors[nearest] / weights.sum()
    slow = mean * (fast.eigenvalues / fast.eigenvalues[0]) ** 3 / fast.eigenvalues
    np.testing.assert_allclose(fast.embed(codes[[20]], exclude_self=[20])[0], slow, rtol=1e-4, atol=1e-6)
    assert not np.allclose(fast.embed(codes[[20]])[0], slow, rtol=1e-4, atol=1e-6)


def test_a_query_is_the_nystroem_mean_of_its_neighbours():
    codes, query = ring(), np.array([0.9, 0.5], np.float32)
    fast = DiffusionMap.fit(codes, k=5, dimensions=8, time=3, metric="euclidean")
    _, scale, _ = slow_walk(codes, 5)
    distance = np.sqrt(((codes.astype(float) - query) ** 2).sum(axis=1))
    nearest = np.argsort(distance)[:5]
    weights = np.array([np.exp(-(distance[j] ** 2) / (distance[nearest[-1]] * scale[j])) for j in nearest])
    mean = (weights[:, None] * fast.eigenvectors[nearest]).sum(axis=0) / weights.sum()
    weights = (fast.eigenvalues / fast.eigenvalues[0]) ** 3
    np.testing.assert_allclose(fast.embed(query)[0], mean / fast.eigenvalues * weights, rtol=1e-4, atol=1e-6)


def test_one_query_alone_gets_the_code_it_gets_in_a_batch():
    rng = np.random.default_rng(1)
    codes, queries = rng.normal(size=(300, 6)).astype(np.float32), rng.normal(size=(200, 6)).astype(np.float32)
    graph = DiffusionMap.fit(codes, k=7, dimensions=12)
    batch = graph.embed(queries)
    assert all(np.array_equal(graph.embed(query)[0], code) for query, code in zip(queries, batch, strict=True))
    assert np.array_equal(graph.embed(queries[::-1]), batch[::-1])


def test_two_far_islands_are_told_apart_by_every_image_and_query():
    codes, cluster = islands()
    graph = DiffusionMap.fit(codes, k=5, dimensions=4, metric="euclidean")
    np.testing.assert_allclose(graph.eigenvalues[0], 1, atol=1e-6)
    assert graph.eigenvalues[1] < 1 - 1e-3, "the constant vector is not among them"
    first = graph.codes[:, 0]
    assert np.sign(first[cluster == 0]).std() == np.sign(first[cluster == 1]).std() == 0
    assert np.sign(first[0]) != np.sign(first[-1])
    unit = graph.codes / np.linalg.norm(graph.codes, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = cluster[:, None] == cluster
    assert cosine[same].min() > cosine[~same].max()
    queries, of = islands((5, 5), seed=3)
    assert np.array_equal(np.sign(graph.embed(queries)[:, 0]) == np.sign(first[0]), of == 0)


def test_many_islands_share_the_eigenvalue_one():
    codes, cluster = islands((12, 12, 12, 12))
    graph = DiffusionMap.fit(codes, k=4, dimensions=6, metric="euclidean")
    np.testing.assert_allclose(graph.eigenvalues[:3], 1, atol=1e-6)
    unit = graph.codes[:, :3] / np.linalg.norm(graph.codes[:, :3], axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = cluster[:, None] == cluster
    assert cosine[same].min() > 0.999 and cosine[~same].max() < 0.5


def test_directions_that_no_walk_keeps_count_for_nothing_in_database_and_queries():
    codes = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    graph = DiffusionMap.fit(codes, k=5, dimensions=47, time=1)
    dead = graph.eigenvalues <= 0
    assert dead.any() and not graph.codes[:, dead].any() and not graph.embed(codes)[:, dead].any()
    constant = graph.eigenvectors.std(axis=0) < 1e-6
    assert not constant.any(), "the constant vector must not come back"


def test_a_long_walk_does_not_fade_to_zero():
    graph = DiffusionMap.fit(ring(), k=5, dimensions=5, time=1e5)
    assert np.abs(graph.codes).max() > 1e-3 and np.isfinite(graph.embed(ring())).all()


def test_more_islands_than_dimensions_are_refused():
    codes, _ = islands((8,) * 6)
    with pytest.raises(ValueError, match="falls into 6 components, which 4 dimensions cannot tell apart; raise k"):
        DiffusionMap.fit(codes, k=4, dimensions=4, metric="euclidean")


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_duplicates_and_their_queries_stay_finite(metric):
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.ones((20, 3)), rng.normal(size=(30, 3))]).astype(np.float32)
    graph = DiffusionMap.fit(codes, k=5, dimensions=6, metric=metric)
    assert np.isfinite(graph.codes).all() and np.isfinite(graph.embed(codes[[0, 30]])).all()
    np.testing.assert_allclose(graph.codes[1], graph.codes[2], atol=1e-5)


def test_images_that_are_all_alike_stay_finite():
    graph = DiffusionMap.fit(np.ones((40, 3), np.float32), k=5, dimensions=6)
    assert np.isfinite(graph.codes).all() and np.isfinite(graph.embed(np.ones((2, 3), np.float32))).all()


@pytest.mark.parametrize(
    "n, k, dimensions, message",
    [
        (10, 10, 3, "a graph of 10 neighbours needs more than 10 codes, and there are 10; lower k"),
        (1, 10, 3, "a graph of 10 neighbours needs more than 10 codes, and there are 1; lower k"),
        (20, 5, 19, "19 dimensions need 21 codes or more, and there are 20"),
    ],
)
def test_too_few_codes_are_refused(n, k, dimensions, message):
    with pytest.raises(ValueError, match=message):
        DiffusionMap.fit(ring(n), k=k, dimensions=dimensions)


def test_no_dimension_and_no_step_are_refused():
    for wrong in ({"dimensions": 0}, {"time": 0.5}, {"time": float("nan")}):
        with pytest.raises(ValueError, match="dimensions and time must be 1 or more"):
            DiffusionMap.fit(ring(), k=5, **{"dimensions": 5, **wrong})


def test_codes_of_a_diverged_training_are_refused():
    codes = ring()
    codes[7] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 row.* first in row 7"):
        DiffusionMap.fit(codes)


def test_the_time_follows_from_the_largest_gap_of_the_eigenvalues():
    # The largest gap is from .98 to .9: .9^t = .1 after log(.1) / log(.9) = 21.85 steps.
    graph = DiffusionMap(None, None, np.array([0.99, 0.98, 0.9, 0.88]), None, k=5, time=None)
    np.testing.assert_allclose(graph.time, 21.854, atol=1e-3)
    assert DiffusionMap(None, None, np.array([0.5, -0.1]), None, k=5, time=None).time == 1
    assert DiffusionMap(None, None, np.array([0.5, -0.1]), None, k=5, time=7).time == 7
    codes, cluster = islands((30, 30, 30))
    graph = DiffusionMap.fit(codes, k=5, dimensions=8, metric="euclidean")
    np.testing.assert_allclose(graph.eigenvalues[2] ** graph.time, 0.1)


def test_the_seed_of_the_solver_does_not_change_the_codes():
    one, other = (DiffusionMap.fit(ring(), k=5, dimensions=5, metric="euclidean", seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(one.codes, other.codes, atol=1e-4)


def test_it_comes_back_from_its_file(tmp_path):
    codes = ring()
    graph = DiffusionMap.fit(codes, k=5, dimensions=5, time=8, metric="euclidean")
    graph.save(tmp_path / "map.npz")
    again = DiffusionMap.load(tmp_path / "map.npz", codes)
    assert (again.k, again.time, again.index.metric) == (5, 8, "euclidean")
    np.testing.assert_allclose(again.embed(codes[:3]), graph.embed(codes[:3]), rtol=1e-5, atol=1e-7)
    for other in (codes[:-1], codes[::-1]):
        with pytest.raises(ValueError, match="was fitted to other codes than these; make it anew with notebook 08"):
            DiffusionMap.load(tmp_path / "map.npz", other)
    (tmp_path / "map.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="holds no diffusion map.*notebook 08"):
        DiffusionMap.load(tmp_path / "map.npz", codes)


def test_the_cosine_of_fused_codes_is_the_blend_of_both_cosines():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 4)), rng.normal(size=(5, 7))

    def cosine(rows):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit @ unit.T

    blended = (cosine(a) + 0.5 * cosine(b)) / 1.5
    np.testing.assert_allclose(cosine(fuse(a, b, 0.5)), blended, atol=1e-6)
    assert fuse(a, b).dtype == np.float32 and fuse(a, b).shape == (5, 11)
    assert np.isfinite(fuse(np.zeros((1, 4)), b[:1])).all()
