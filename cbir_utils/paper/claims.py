"""The paper's seven claims, the verdict that a run's data give on each, and the statistics behind the verdicts."""

import ast
import re
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, permutation_test

from cbir_utils import metrics
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.paper.evidence import COMPARED, FAILS, HOLDS, IN_PART

PACKAGE = Path(__file__).resolve().parents[1]

#: What learns or searches: all functions of these modules, less those that draw, are looked at for labels.
LEARNS_OR_SEARCHES = "codes index models training methods/* folders/duplicates retrieval/* scale/*"


class Estimate(NamedTuple):
    """A mean with its 95% interval. It is formatted like a number: ``f"{gain:+.2f}"`` is ``+0.09 [+0.07, +0.11]``."""

    mean: float
    low: float
    high: float

    @property
    def sign(self):
        """1 or -1 if the interval lies on one side of zero, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def __format__(self, form):
        mean, low, high = (format(value, form).replace("-", "−") for value in self)
        return f"{mean} [{low}, {high}]"


def gain(differences):
    """The mean of differences over queries ``(Q,)``, with a bootstrap interval; NaN values are left out."""
    return Estimate(float(np.nanmean(differences)), *metrics.bootstrap_interval(differences))


def share(flags):
    """The share of true ones among ``flags (N,)``, with Wilson's interval (a bootstrap's has no width if all are)."""
    interval = binomtest(int(np.sum(flags)), len(flags)).proportion_ci(method="wilson")
    return Estimate(float(np.mean(flags)), float(interval.low), float(interval.high))


def randomization_tests(differences):
    """Two-sided p-values that mean differences are zero: ``(Q, T)``, a column for each test → ``(T,)``.

    Under the null hypothesis each query's difference has either sign with the same chance; p is the share of random
    signs whose mean is at least as far from zero (Fisher's test; Smucker, Allan and Carterette 2007, A comparison of
    statistical significance tests for information retrieval evaluation). Queries with a NaN are left out.
    """
    differences = differences[~np.isnan(differences).any(axis=1)]
    ones = np.ones(len(differences))  # SciPy draws the signs of one sample: these, for all tests at once
    return permutation_test(
        (ones,), lambda signs, axis: signs @ differences, permutation_type="samples", n_resamples=9999,
        vectorized=True, batch=100, rng=0,
    ).pvalue  # fmt: skip


def holm(p):
    """p-values corrected for their number (Holm 1979): ``(T,)`` → ``(T,)``, each at most 1.

    In ascending order the i-th of T is multiplied by T - i + 1, and none may be below the one before it.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.take(p, order) * np.arange(len(p), 0, -1)))
    return corrected


def paired_tests(evidence):
    """Every pair of compared methods (cosine), and the paper's against pixels (Euclidean), over the same queries.

    Returns a list of dicts: ``a``, ``b``, ``distance``, ``gain`` (an :class:`Estimate`: average precision of a minus
    b) and ``p`` (:func:`randomization_tests`, corrected by :func:`holm`). The better one is ``a``.
    """
    precision = {way: values["AP"] for way, values in evidence.values.items()}
    others = [method for method, _ in precision if method not in COMPARED]  # best first: one stands for all
    ways = [way for way in precision if way[0] not in others[1:]]
    pairs = [(a, b) for a, b in combinations(ways, 2) if a[1] == b[1]]  # of the same distance
    if not pairs:
        raise ArtifactError(f"There are no two methods to compare: {'; '.join(evidence.left_out.values())}")
    pairs = [sorted(pair, key=lambda way: -np.nanmean(precision[way])) for pair in pairs]
    differences = np.stack([precision[a] - precision[b] for a, b in pairs], axis=1)
    tests = zip(pairs, differences.T, holm(randomization_tests(differences)), strict=True)
    return [
        {"a": a, "b": b, "distance": distance, "gain": gain(column), "p": float(p)}
        for ((a, distance), (b, _)), column, p in tests
    ]


# -- the claims: each rule's docstring is the claim, and its section in the paper -----------------------------------


def claims(evidence):
    """The findings on the paper's claims."""
    rules = five_hits, codes_or_pixels, as_printed, days, by_retrieval, without_labels, other_kinds
    return [evidence.find(rule) for rule in rules]


def clear(signs):
    """The verdict on "better": holds if all signs of differences say so, fails if some say worse and none better."""
    return HOLDS if set(signs) == {1} else FAILS if -1 in signs and 1 not in signs else IN_PART


def five_hits(evidence):
    """The system retrieved 5 images, and “all the images are similar to the query image” (section VI-G)."""
    right = evidence.value("convolutional", "euclidean")["P@5"] == 1
    ways = [way for way in (("pixels", "euclidean"), ("fused", "cosine")) if way in evidence.values]
    beside = {method: np.mean(evidence.values[method, distance]["P@5"] == 1) for method, distance in ways}
    found = share(right)
    verdict = HOLDS if found.low >= 0.99 else FAILS if found.high < 0.5 else IN_PART
    return verdict, {"queries": len(right), "right": found, "beside": beside}


def codes_or_pixels(evidence):
    """Comparing codes is better than comparing the images directly (section II)."""
    codes, pixels = (evidence.value(method, "euclidean") for method in ("convolutional", "pixels"))
    first, whole = (gain(codes[metric] - pixels[metric]) for metric in ("P@5", "AP"))
    return clear([first.sign, whole.sign]), {"first": first, "whole": whole, "numbers": evidence.codes()[0].shape[1]}


def as_printed(evidence):
    """The network trains as its listing prints it, with the mean squared error (section VI-E)."""
    try:
        found = evidence.measured("collapse", "collapse.json")
        printed = [network["collapsed"] for network in found["networks"] if network["loss"] == "mse"]
        other = [network["collapsed"] for network in found["networks"] if network["loss"] != "mse"]
        told = {"settings": found["settings"]}
    except ArtifactError as missing:  # then the few of notebook 02
        printed, other = evidence.run.load_json("convolutional/collapse.json").values()
        told = {"settings": None, "missing": str(missing)}
    part = share(printed)
    verdict = FAILS if part.low > 0.5 else HOLDS if part.high < 0.5 else IN_PART
    return verdict, {"printed": printed, "other": other, "part": part, **told}


def days(evidence):
    """“The training period may last for days, weeks, or even months depending upon the size of the database”
    (section V-D).
    """
    seconds = sum(evidence.run.load_json("convolutional/history.json")["seconds"])
    slowest = max(evidence.rows.values(), key=lambda row: row.get("train_seconds") or 0)
    longest, day = max(seconds, slowest.get("train_seconds") or 0), 24 * 60 * 60
    verdict = FAILS if longest < day else HOLDS if seconds > day else IN_PART
    return verdict, {"seconds": seconds, "longest": longest, "slowest": slowest["method"]}


def by_retrieval(evidence):
    """By checking what it retrieves, the system “will train itself eventually” (section V-D)."""
    found = evidence.measured("guided", "guided.json")
    gains = {m: [Estimate(*training["gain"][m]) for training in found["trainings"]] for m in ("P@5", "mAP")}
    mutual = np.mean([training["guided"]["mutual_share"] for training in found["trainings"]])
    facts = {"gains": gains, "mutual": mutual, "settings": found["settings"]}
    return clear([one.sign for these in gains.values() for one in these]), facts


def without_labels(evidence):
    """“The overall process does not use any labels or tags” (section VII)."""
    paths = sorted(path for pattern in LEARNS_OR_SEARCHES.split() for path in PACKAGE.glob(f"{pattern}.py"))
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in paths if path.stem not in ("__init__", "plots")}
    arguments = [
        (f"{node.arg} ({name}, line {node.lineno})", node.arg)
        for name, path in modules.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.arg)
    ]
    found = [where for where, name in arguments if re.search("label|target|class", name)]
    return FAILS if found else HOLDS, {"modules": list(modules), "arguments": len(arguments), "found": found}


def other_kinds(evidence):
    """Autoencoders other than the convolutional one may improve the results (section VII)."""
    own = evidence.value("convolutional", "cosine")
    kinds = [kind for kind in evidence.other_kinds if (kind, "cosine") in evidence.values]
    if not kinds:
        raise ArtifactError(evidence.left_out[evidence.other_kinds[0]])
    differences = np.array([[evidence.values[kind, "cosine"][m] - own[m] for m in ("P@5", "AP")] for kind in kinds])
    p = holm(randomization_tests(differences.reshape(2 * len(kinds), -1).T)).reshape(-1, 2)
    better = (p < 0.05) & (np.nanmean(differences, axis=2) > 0)  # (kinds, measures)
    both = {kind: [gain(row) for row in differences[i]] for i, kind in enumerate(kinds) if better[i].all()}
    first, whole = better.sum(axis=0)
    verdict = HOLDS if both else IN_PART if better.any() else FAILS
    return verdict, {"kinds": len(kinds), "first": first, "whole": whole, "both": both}
