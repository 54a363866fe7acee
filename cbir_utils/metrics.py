"""How good a ranking is, judged by labels: precision@k, R-precision, average precision, and their intervals."""

import numpy as np
from scipy.stats import bootstrap
from tqdm.auto import tqdm

from cbir_utils.index import Index

#: The cut-offs k at which precision is reported.
CUTOFFS = (1, 5, 10, 100)

#: Queries ranked at a time: all rankings of MNIST at once would fill 4.8 GB.
BLOCK = 64


def relevance(ids, labels_queries, labels_database):
    """Which hits are relevant, that is, of their query's class: ids ``(Q, K)`` → bool ``(Q, K)``.

    >>> relevance([[2, 0]], labels_queries=[7], labels_database=[5, 5, 7])
    array([[ True, False]])
    """
    return np.asarray(labels_database)[ids] == np.asarray(labels_queries)[:, None]


def precision_at_k(relevant, k):
    """The share of relevant images among the first ``k``: bool ``(Q, K)`` → float64 ``(Q,)`` in [0, 1].

    >>> precision_at_k([[True, False, True, True]], k=2)
    array([0.5])
    """
    relevant = np.asarray(relevant, dtype=bool)
    if not 1 <= k <= relevant.shape[1]:
        raise ValueError(f"precision@{k} needs rankings of {k} or more images, not {relevant.shape[1]}")
    return relevant[:, :k].mean(axis=1)


def r_precision(relevant):
    """Precision@R, where R is how many images of the database are relevant to the query.

    ``relevant`` is bool ``(Q, N)`` over the *whole* ranking. A query without a relevant image gives NaN.
    """
    relevant = np.asarray(relevant, dtype=bool)
    totals = relevant.sum(axis=1)
    early = relevant & (np.arange(relevant.shape[1]) < totals[:, None])
    return share(early.sum(axis=1), totals)


def average_precision(relevant):
    """Average precision over the *whole* ranking: bool ``(Q, N)`` → float64 ``(Q,)`` in [0, 1].

    ``AP = (1/R) Σ precision@r`` over the ranks ``r`` of the R relevant images (Manning, Raghavan and Schütze 2008,
    Introduction to Information Retrieval, section 8.4). A query without a relevant image gives NaN.

    >>> average_precision([[True, False, False, True]])  # (1/1 + 2/4) / 2
    array([0.75])
    """
    relevant = np.asarray(relevant, dtype=bool)
    totals = relevant.sum(axis=1)
    query, position = np.nonzero(relevant)  # only these count, a tenth of the ranking where there are ten classes
    found = np.arange(1, len(query) + 1) - np.repeat(np.cumsum(totals) - totals, totals)
    return share(np.bincount(query, found / (position + 1), minlength=len(relevant)), totals)


def bootstrap_interval(values):
    """The 95 % percentile bootstrap interval for the mean of ``values (Q,)``: (low, high); NaN values are left out.

    Queries are drawn with replacement (Efron 1979): it says how much the mean would vary over other queries of the
    same kind, not over other training runs.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2 or np.ptp(values) == 0:
        return (float(values[0]),) * 2 if len(values) else (float("nan"),) * 2
    found = bootstrap((values,), np.mean, n_resamples=1000, batch=100, method="percentile", rng=0)
    return tuple(map(float, found.confidence_interval))


def evaluate(data, database, queries, distance="cosine", *, first=None):
    """Rank the database for every query, and measure every ranking.

    Parameters
    ----------
    data : Dataset
        With labels; where its queries are in the database, each is left out of its own ranking.
    database, queries : ndarray
        Codes ``(N, D)`` and ``(Q, D)`` float32, in the dataset's order; fewer queries are the first ones.
    distance : {"cosine", "euclidean", "manhattan"}
    first : ndarray, optional
        Ids ``(Q, K)`` int that come first in each ranking, such as re-ranked hits; the others follow by code.

    Returns a dict of float64 ``(Q,)``, as :func:`per_query` does.
    """
    own = data.own(slice(len(queries)))
    rankings = Index(distance).add(database).rank(queries, exclude_self=own, block=BLOCK)
    if first is not None:
        rankings = (put_first(ids, first[block * BLOCK :]) for block, ids in enumerate(rankings))
    rankings = tqdm(rankings, f"ranking by {distance} distance", -(-len(queries) // BLOCK), leave=False, delay=2)
    return per_query(rankings, data.queries.labels[: len(queries)], data.database.labels)


def put_first(ids, first):
    """Rankings ``(B, N)`` of all ids with those of ``first (B, K)`` moved to the front, in its order.

    >>> put_first(np.array([[0, 1, 2, 3]]), np.array([[3, 1]]))
    array([[3, 1, 0, 2]])
    """
    first, moved = first[: len(ids)], np.zeros((len(ids), ids.max() + 1), bool)
    np.put_along_axis(moved, first, True, axis=1)
    others = ids[~np.take_along_axis(moved, ids, axis=1)].reshape(len(ids), -1)
    return np.concatenate([first, others], axis=1)


def per_query(rankings, labels_queries, labels_database):
    """Every metric of every query.

    Parameters
    ----------
    rankings : iterable of ndarray
        Blocks of full rankings ``(B, N)``, such as ``Index.rank`` yields; together one row per query.
    labels_queries, labels_database : ndarray
        ``(Q,)`` and ``(N,)`` int.

    Returns
    -------
    dict of str to ndarray
        ``"P@1"``, ``"P@5"``, ``"P@10"``, ``"P@100"`` (as far as the rankings reach), ``"R-precision"`` and ``"AP"``,
        each float64 ``(Q,)``.
    """
    labels_queries = np.asarray(labels_queries)
    blocks, done = [], 0
    for ids in rankings:
        these, done = labels_queries[done : done + len(ids)], done + len(ids)
        if done > len(labels_queries):
            break
        relevant = relevance(ids, these, labels_database)
        block = {f"P@{k}": precision_at_k(relevant, k) for k in CUTOFFS if k <= relevant.shape[1]}
        block["R-precision"] = r_precision(relevant)
        block["AP"] = average_precision(relevant)
        blocks.append(block)
    if done != len(labels_queries):
        raise ValueError(f"there are rankings for {done} queries, but labels for {len(labels_queries)}")
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def summarize(trainings, data, first_seed=0):
    """The means over queries and trainings, the 95 % interval of mAP and the protocol: a row of ``metrics.json``.

    Parameters
    ----------
    trainings : list of dict
        What :func:`evaluate` returns, one for each training; the interval is over queries, after taking each query's
        mean over the trainings. Queries without a relevant image are left out of R-precision and mAP.
    data : Dataset
        What was searched.
    first_seed : int
        Of the first training; the others' follow it.
    """
    values = {name: np.mean([training[name] for training in trainings], axis=0) for name in trainings[0]}
    row = {name: float(np.nanmean(v)) for name, v in values.items() if name != "AP"}
    row["mAP"] = float(np.nanmean(values["AP"]))
    row["mAP_interval"] = list(bootstrap_interval(values["AP"]))
    row["mAP_by_seed"] = [float(np.nanmean(training["AP"])) for training in trainings]
    row["seeds"] = seeds = list(range(first_seed, first_seed + len(trainings)))
    if data.own_rows is None:
        against = f"against a database of {len(data.database):,} images, fitted on the database only"
    else:
        against = f"each against the other {len(data.database) - 1:,} images of the folder that it is in"
    row["protocol"] = (
        f"{len(values['AP']):,} queries {against}, without labels; average precision over the full ranking; "
        f"95 % bootstrap interval over queries; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    )
    return row


def share(part, whole):
    """``part / whole``, NaN where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
