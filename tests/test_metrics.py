"""Metrics on rankings short enough to work by hand, and against scikit-learn and slow loops."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cbir_utils import metrics
from cbir_utils.datasets import Dataset, Split

# One row a query, nearest first; a 1 is a relevant image. Below, the metrics worked by hand.
RANKINGS = np.array(
    [
        [1, 0, 1, 0],  # R = 2: R-precision = 1/2;  AP = (1/1 + 2/3) / 2 = 5/6
        [0, 1, 1, 1],  # R = 3: R-precision = 2/3;  AP = (1/2 + 2/3 + 3/4) / 3 = 23/36
        [0, 0, 0, 1],  # R = 1: R-precision = 0/1;  AP = (1/4) / 1 = 1/4
        [0, 0, 0, 0],  # R = 0: nothing to find, both undefined
        [1, 1, 1, 1],  # R = 4: R-precision = 4/4;  AP = (1/1 + 2/2 + 3/3 + 4/4) / 4 = 1
    ],
    dtype=bool,
)


# -- one ranking at a time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "k, by_hand", [(1, [1, 0, 0, 0, 1]), (3, [2 / 3, 2 / 3, 0, 0, 1]), (4, [0.5, 0.75, 0.25, 0, 1])]
)
def test_precision_at_k_is_the_relevant_share_of_the_first_k(k, by_hand):
    values = metrics.precision_at_k(RANKINGS, k)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, by_hand)


@pytest.mark.parametrize("k", [5, 0, -1])
def test_precision_at_a_k_beyond_the_ranking_is_refused(k):
    with pytest.raises(ValueError, match=rf"precision@{k} needs rankings of {k} or more images, not 4"):
        metrics.precision_at_k(RANKINGS, k)


def test_r_precision_is_worked_by_hand():
    np.testing.assert_allclose(metrics.r_precision(RANKINGS), [1 / 2, 2 / 3, 0, np.nan, 1])


def test_average_precision_is_worked_by_hand():
    np.testing.assert_allclose(metrics.average_precision(RANKINGS), [5 / 6, 23 / 36, 1 / 4, np.nan, 1])


def test_average_precision_equals_scikit_learns_on_scores_that_are_minus_the_distance():
    rng = np.random.default_rng(0)
    distances = np.stack([rng.permutation(200) for _ in range(30)]) / 7  # no ties
    relevant = rng.random((30, 200)) < rng.uniform(0.02, 0.9, (30, 1))
    relevant[:, 0] = True  # at least one
    ranked = np.take_along_axis(relevant, distances.argsort(axis=1), axis=1)
    theirs = [average_precision_score(r, -d) for r, d in zip(relevant, distances, strict=True)]
    np.testing.assert_allclose(metrics.average_precision(ranked), theirs, rtol=1e-12)


def test_average_precision_and_r_precision_equal_a_slow_loop():
    relevant = np.random.default_rng(1).random((20, 50)) < 0.3
    for row, ap, rp in zip(relevant, metrics.average_precision(relevant), metrics.r_precision(relevant), strict=True):
        ranks = [place for place, hit in enumerate(row, start=1) if hit]
        assert ap == pytest.approx(sum(found / rank for found, rank in enumerate(ranks, start=1)) / len(ranks))
        assert rp == pytest.approx(sum(rank <= len(ranks) for rank in ranks) / len(ranks))


def test_relevance_compares_each_hits_label_with_its_querys():
    ids = np.array([[2, 0, 1], [0, 1, 2]])
    # Labels of the hits: 7 5 5 and 5 5 7; of the queries: 5 and 7.
    relevant = metrics.relevance(ids, [5, 7], [5, 5, 7])
    assert relevant.tolist() == [[False, True, True], [False, False, True]]


# -- the bootstrap interval ------------------------------------------------------------------------------------


def test_the_interval_contains_the_mean_and_narrows_as_the_normal_approximation_says():
    values, widths = np.random.default_rng(5).random(1600), []
    for n in (100, 1600):
        low, high = metrics.bootstrap_interval(values[:n])
        assert low < values[:n].mean() < high
        assert high - low == pytest.approx(2 * 1.96 * values[:n].std() / np.sqrt(n), rel=0.15)
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_constant_values_give_an_interval_of_no_width():
    assert metrics.bootstrap_interval([0.25] * 10) == (0.25, 0.25)


def test_nan_values_are_left_out_of_the_interval():
    values = np.random.default_rng(7).random(50)
    with_gaps = np.insert(values, [0, 20, 50], np.nan)
    assert metrics.bootstrap_interval(with_gaps) == metrics.bootstrap_interval(values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_no_values_give_a_nan_interval(values):
    assert np.isnan(metrics.bootstrap_interval(values)).all()


# -- all queries -----------------------------------------------------------------------------------------------


def dataset(labels, labels_queries, own_rows=None):
    """A dataset of these labels; its images are of one pixel."""
    splits = [Split(np.zeros((len(each), 1, 1, 1), np.uint8), np.asarray(each)) for each in (labels, labels_queries)]
    return Dataset("test", *splits, ("a", "b"), "", own_rows=own_rows)


def random_rankings(queries=25, n=100, classes=4):
    rng = np.random.default_rng(8)
    ids = np.stack([rng.permutation(n) for _ in range(queries)])
    return ids, rng.integers(classes, size=queries), rng.integers(classes, size=n)


def test_per_query_gives_every_metric_of_a_ranking_worked_by_hand():
    # Labels of the ranked rows: 1 0 1 and 0 1 1; query 0 is a 1, query 1 is a 0.
    values = metrics.per_query([np.array([[1, 0, 2], [0, 2, 1]])], [1, 0], [0, 1, 1])
    assert list(values) == ["P@1", "R-precision", "AP"]  # five rows would be needed for P@5
    np.testing.assert_allclose(values["P@1"], [1, 1])
    np.testing.assert_allclose(values["R-precision"], [1 / 2, 1])
    np.testing.assert_allclose(values["AP"], [(1 + 2 / 3) / 2, 1])


def test_per_query_over_several_blocks_equals_one_block():
    ids, labels_queries, labels_database = random_rankings()
    whole = metrics.per_query([ids], labels_queries, labels_database)
    blocks = metrics.per_query((ids[i : i + 7] for i in range(0, 25, 7)), labels_queries, labels_database)
    assert list(whole) == ["P@1", "P@5", "P@10", "P@100", "R-precision", "AP"] == list(blocks)
    for name, values in whole.items():
        assert values.shape == (25,) and values.dtype == np.float64
        np.testing.assert_array_equal(blocks[name], values)
    relevant = labels_database[ids] == labels_queries[:, None]
    np.testing.assert_array_equal(whole["P@10"], metrics.precision_at_k(relevant, 10))


@pytest.mark.parametrize("rankings", [24, 26, 30])
def test_another_number_of_rankings_than_of_labels_is_refused(rankings):
    ids, labels_queries, labels_database = random_rankings(queries=30)
    with pytest.raises(ValueError, match=rf"there are rankings for {rankings} queries, but labels for 25"):
        metrics.per_query([ids[:20], ids[20:rankings]], labels_queries[:25], labels_database)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_evaluate_ranks_the_database_for_every_query(distance):
    """Worked by hand: two directions, so the order is the same by either distance."""
    codes = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)  # labels 0 1 0
    values = metrics.evaluate(dataset([0, 1, 0], [0, 1]), codes, codes[[0, 2]], distance)
    # Query 0 ranks rows 0 1 2: AP = (1/1 + 2/3) / 2; query 1, at row 2, ranks 2 1 0: its only one is second, AP = 1/2.
    np.testing.assert_allclose(values["AP"], [5 / 6, 1 / 2])
    itself = metrics.evaluate(dataset([0, 1, 0], [0, 1, 0], own_rows=np.arange(3)), codes, codes, distance)
    # Left out of its own ranking: query 0 ranks 1 2, AP = 1/2; query 1 has no other of its class; query 2 ranks 1 0.
    np.testing.assert_allclose(itself["AP"], [1 / 2, np.nan, 1 / 2])


def test_fewer_queries_are_the_first_ones():
    codes, data = np.eye(3, dtype=np.float32), dataset([0, 1, 1], [0, 1, 1], own_rows=np.arange(3))
    whole, part = metrics.evaluate(data, codes, codes), metrics.evaluate(data, codes, codes[:2])
    np.testing.assert_array_equal(part["AP"], whole["AP"][:2])


def test_summarize_averages_the_queries_that_have_something_to_find():
    # Means: P@1 = (1 + 0 + 0 + 0 + 1) / 5;  R-precision = (1/2 + 2/3 + 0 + 1) / 4 = 13/24;
    # mAP = (5/6 + 23/36 + 1/4 + 1) / 4 = (98/36) / 4 = 49/72.
    ap = metrics.average_precision(RANKINGS)
    values = {"P@1": metrics.precision_at_k(RANKINGS, 1), "R-precision": metrics.r_precision(RANKINGS), "AP": ap}
    row = metrics.summarize([values], dataset(np.zeros(60_000, int), np.zeros(5, int)), first_seed=3)
    assert list(row)[:4] == ["P@1", "R-precision", "mAP", "mAP_interval"]
    assert [row["P@1"], row["R-precision"], row["mAP"]] == pytest.approx([2 / 5, 13 / 24, 49 / 72])
    assert row["mAP_interval"] == list(metrics.bootstrap_interval(ap))
    assert row["seeds"] == [3] and row["mAP_by_seed"] == pytest.approx([49 / 72])
    for fact in ("5 queries", "60,000 images", "seed 3"):
        assert fact in row["protocol"]
    assert json.loads(json.dumps(row)) == row


def test_summarize_takes_the_mean_over_trainings_and_says_that_queries_were_left_out():
    # Two trainings of two queries: AP (1, 1/2) and (1/2, 0), so each query's mean is (3/4, 1/4) and mAP 1/2.
    trainings = [{"AP": np.array([1, 0.5])}, {"AP": np.array([0.5, 0])}]
    row = metrics.summarize(trainings, dataset([0, 0], [0, 0], own_rows=np.arange(2)), first_seed=4)
    assert row["mAP"] == 0.5 and row["mAP_by_seed"] == [0.75, 0.25] and row["seeds"] == [4, 5]
    assert row["mAP_interval"] == list(metrics.bootstrap_interval([0.75, 0.25]))
    assert "each against the other 1 images" in row["protocol"] and "seeds 4, 5" in row["protocol"]
