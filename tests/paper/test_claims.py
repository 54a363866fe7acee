"""The verdicts on the claims follow rules, and the statistics behind them are those of the textbook."""

import itertools

import numpy as np
import pytest

from cbir_utils.paper import claims
from cbir_utils.paper.claims import Estimate
from cbir_utils.paper.evidence import FAILS, HOLDS, IN_PART, UNKNOWN, Evidence

WAVE = np.tile([-0.05, 0.05], 100)


def test_an_estimate_is_formatted_like_a_number():
    assert f"{Estimate(-0.5, -0.75, 0.25):+.2f}" == "−0.50 [−0.75, +0.25]"
    assert f"{claims.share([True] * 19 + [False]):.1%}" == "95.0% [76.4%, 99.1%]"  # Wilson's, by hand
    assert [Estimate(0, *ends).sign for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == [1, -1, 0]


def test_randomization_test_is_the_share_of_all_signs():
    differences = np.array([0.3, -0.1, 0.25, 0.2, 0.05, 0.4, -0.15, 0.1, 0.2])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean()
    columns = np.stack([differences, 0 * differences], axis=1)
    np.testing.assert_allclose(claims.randomization_tests(columns), [exact, 1])
    with_nan = np.vstack([columns, [np.nan, 1]])  # a query without a relevant image
    np.testing.assert_allclose(claims.randomization_tests(with_nan), [exact, 1])
    assert claims.randomization_tests(np.full((100, 1), 0.1)) == pytest.approx(2 / 10_000)


def test_holm_by_hand():
    # ascending .01 .02 .03 .04, times 4, 3, 2, 1: .04 .06 .06 .04, and none below the one before: .04 .06 .06 .06
    np.testing.assert_allclose(claims.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(claims.holm([0.9, 0.8]), [1, 1])


def test_every_pair_is_tested_once_the_better_one_first(evidence):
    tests = claims.paired_tests(evidence)
    assert len(tests) == 6 + 1  # pairs of pixels, convolutional, denoising and fused; and the paper's by Euclid
    for test in tests:
        a, b = (evidence.values[test[name], test["distance"]]["AP"] for name in "ab")
        assert test["gain"].mean == pytest.approx((a - b).mean()) and test["gain"].mean >= 0
        assert 0 < test["p"] <= 1
    best = next(test for test in tests if {test["a"], test["b"]} == {"fused", "convolutional"})
    assert best["a"] == "fused" and best["p"] == pytest.approx(7 * 2 / 10_000)


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        (np.ones(1000), HOLDS),
        (np.ones(5), IN_PART),
        (np.arange(200) % 5 > 0, IN_PART),
        (np.arange(200) % 5 == 0, FAILS),
    ],
)
def test_the_verdict_on_five_hits_follows_its_interval(evidence, right, verdict):
    values = {"P@5": np.where(right, 1.0, 0.8)}
    evidence.values = {("convolutional", "euclidean"): values, ("pixels", "euclidean"): values}
    found = evidence.find(claims.five_hits)
    assert found.verdict == verdict and found.sentence.startswith(f"Of {len(right):,} queries, {right.mean():.1%} [")
    assert found.sentence.endswith(f"For comparison: pixels {right.mean():.1%}.")


@pytest.mark.parametrize(
    ("first", "whole", "compared", "improved"),
    [
        (0.1, 0.1, HOLDS, HOLDS),
        (-0.1, 0.1, IN_PART, IN_PART),
        (0.1, 0.0, IN_PART, IN_PART),
        (-0.1, 0.0, FAILS, FAILS),
        (0.0, 0.0, IN_PART, FAILS),
    ],
)
def test_better_is_what_both_measures_say(evidence, first, whole, compared, improved):
    """Of codes beside pixels, and of another kind of autoencoder beside the paper's."""
    plain = dict.fromkeys(("P@5", "AP"), np.full(200, 0.5))
    better = {"P@5": 0.5 + first + WAVE, "AP": 0.5 + whole + WAVE}
    evidence.values = {
        ("convolutional", "euclidean"): better,
        ("pixels", "euclidean"): plain,
        ("denoising", "cosine"): better,
        ("convolutional", "cosine"): plain,
    }
    said = {0.1: "better than pixels", 0.0: "not detectably different from pixels", -0.1: "worse than pixels"}
    found = evidence.find(claims.codes_or_pixels)
    assert found.verdict == compared and found.sentence.endswith("A code has 8 numbers, an image 784.")
    assert f"{said[first]} (P@5 {first:+.3f} [".replace("-", "−") in found.sentence
    assert f"{said[whole]} (mAP {whole:+.3f} [" in found.sentence

    found = evidence.find(claims.other_kinds)
    assert found.verdict == improved and "Holm's correction for 2 tests" in found.sentence
    assert found.sentence.endswith("none." if improved != HOLDS else "mAP +0.100 [+0.093, +0.107]).")


def test_collapse_is_counted_over_the_seeds_measured_or_else_those_of_notebook_02(run, evidence):
    found = evidence.find(claims.as_printed)
    assert found.verdict == IN_PART  # 2 of 3 leaves both open
    assert found.sentence.startswith("2 of 3 networks") and "cross-entropy 0 of 3 do" in found.sentence
    assert "measure collapse" in found.sentence
    jobs = [(loss, seed) for loss in ("mse", "binary_crossentropy") for seed in range(20)]
    networks = [{"loss": loss, "seed": s, "collapsed": loss == "mse" and s != 4} for loss, s in jobs]
    run.save_json("collapse.json", {"settings": {"images": 512, "epochs": 4}, "networks": networks})
    found = evidence.find(claims.as_printed)
    assert found.verdict == FAILS and found.sentence.startswith("19 of 20 networks")
    assert "(95.0% [76.4%, 99.1%]);" in found.sentence and "measure" not in found.sentence


def test_days_are_compared_with_the_seconds_of_training(run):
    found = Evidence(run).find(claims.days)
    assert found.verdict == FAILS and "1,437 images" in found.sentence and "in 34 seconds, on " in found.sentence
    assert "A day has room for 2,541 such trainings" in found.sentence  # 86,400 / 34
    run.save_json("convolutional/history.json", {"seconds": [90_000.0]})
    assert Evidence(run).find(claims.days).verdict == HOLDS
    slow = {**Evidence(run).rows["fused", "cosine"], "train_seconds": 1e6}
    run.add_rows("metrics.json", [slow], ("method", "distance"))
    assert "the slowest method of the table (fused) in 1,000,000, on" in Evidence(run).find(claims.days).sentence


def test_training_by_retrieval_holds_if_every_training_gains(run, evidence):
    assert evidence.find(claims.by_retrieval).verdict == UNKNOWN
    gains = [[0.02, 0.01, 0.03], [0.0, -0.01, 0.01]]
    guided = {"mutual_share": [0.5, 0.6]}
    trainings = [{"gain": {"P@5": gain, "mAP": gain}, "guided": guided} for gain in gains]
    settings = {"images": 600, "queries": 200, "epochs": 8, "rounds": 2}
    run.save_json("guided.json", {"settings": settings, "trainings": trainings})
    found = evidence.find(claims.by_retrieval)
    assert found.verdict == IN_PART
    assert "55.0% of the hits are mutual" in found.sentence and "in 2 rounds of an epoch" in found.sentence
    assert "P@5 +0.020 [+0.010, +0.030], +0.000 [" in found.sentence


def test_an_argument_for_labels_is_seen_in_every_module_that_learns_or_searches(evidence, tmp_path, monkeypatch):
    found = evidence.find(claims.without_labels)
    assert found.verdict == HOLDS and found.sentence.startswith("None of the ")
    for module in ("index.py", "methods/distillation.py", "retrieval/retriever.py", "scale/approximate.py"):
        assert module in found.sentence
    (tmp_path / "scale").mkdir()
    (tmp_path / "index.py").write_text("def add(codes): pass")
    (tmp_path / "scale/new.py").write_text("class A:\n def f(self, *, labels=1): 0")
    monkeypatch.setattr(claims, "PACKAGE", tmp_path)
    found = evidence.find(claims.without_labels)
    assert found.verdict == FAILS and found.sentence.startswith("labels (scale/new.py, line 2) of the 3 function")
