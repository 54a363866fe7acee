"""The report on the paper: its numbers are the run's, its verdicts follow rules, and what is missing is named."""

import dataclasses
import itertools
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cbir_utils import metrics
from cbir_utils.datasets import load_dataset
from cbir_utils.index import Index
from cbir_utils.methods import descriptors
from cbir_utils.paper import report
from cbir_utils.paper.report import FAILS, HOLDS, IN_PART, UNKNOWN, Evidence, Figure, Table, Verdict
from cbir_utils.run import ArtifactError, Run
from cbir_utils.runner import cli as pipeline

DIGITS = load_dataset("digits")
CLAIMS = ("five hits", "pixels", "as printed", "days", "by retrieval", "without labels", "other kinds")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run on the digits whose codes nothing was trained for: random directions of pixels, or labels and noise."""
    run = Run("digits", tmp_path_factory.mktemp("run"))
    run.same_data(DIGITS.content_hash)
    labels, labels_queries = DIGITS.database.labels, DIGITS.queries.labels
    run.save_array("labels_database.npy", labels)
    run.save_array("labels_queries.npy", labels_queries)
    rng, pixels = np.random.default_rng(0), [descriptors.pixels(s.images) for s in (DIGITS.database, DIGITS.queries)]
    directions = rng.normal(size=(pixels[0].shape[1], 8)).astype(np.float32)
    codes = {"pixels": pixels, "convolutional": [rows @ directions for rows in pixels]}
    for method, noise in (("denoising", 0.3), ("fused", 0.1)):
        codes[method] = [
            (np.eye(10)[of] + rng.normal(scale=noise, size=(len(of), 10))).astype(np.float32)
            for of in (labels, labels_queries)
        ]
    rows = []
    for method, (database, queries) in codes.items():
        if method != "pixels":
            run.save_codes(method, database, queries, encoder=None)
        for distance in ("euclidean", "cosine"):
            values = metrics.per_query(Index(distance).add(database).rank(queries), labels_queries, labels)
            row = metrics.summarize([values], n_database=len(labels), first_seed=0)
            rows.append({"method": method, "distance": distance, "train_seconds": 12.5, "weights": 7, **row})
    run.add_metrics(rows)
    family = [row for row in rows if row["method"] in ("convolutional", "denoising") and row["distance"] == "cosine"]
    run.save_json("autoencoders.json", family)
    run.save_json("convolutional/collapse.json", {"mse": [True, True, False], "bce": [False, False, False]})
    run.save_json("convolutional/history.json", {"held_out_loss": [0.3, 0.1], "best_epoch": 2, "constant_loss": 0.2})
    run.record(timings={"convolutional/train": 34.0}, parameters={"05_query_images": {"query_class": "9"}})
    Evidence(run).values  # noqa: B018 — ranked once for all tests
    return run.folder


@pytest.fixture
def run(original, tmp_path):
    shutil.copytree(original, tmp_path / "digits")
    return Run("digits", tmp_path)


def claim(run, name):
    return report.claims(run if isinstance(run, Evidence) else Evidence(run))[CLAIMS.index(name)]


def texts(parts):
    """Everything that sections say, as one text."""
    said = []
    for block in (block for part in parts for block in part.blocks):
        cells = [" | ".join(row) for row in block.rows] if isinstance(block, Table) else []
        said += cells or [block if isinstance(block, str) else block.sentence]
    return "\n".join(said)


# -- the page -------------------------------------------------------------------------------------------------------


class Checker(HTMLParser):
    """Collects tags, addresses and ids, and sees that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_outside(run, monkeypatch):
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    figure = run.path("figures/figure_08_hits.png")
    figure.parent.mkdir()
    figure.write_bytes(b"\x89PNG stand-in")
    run.record_files("figures/figure_08_hits.png")
    page, pdf, parts, said = report.write_report(run)
    assert page == run.path("report/index.html") and pdf is None and "install one" in said
    checker = Checker()
    checker.feed(page.read_text())
    assert not checker.open and "script" not in checker.tags
    assert checker.tags.count("img") == 1
    for address in checker.addresses:
        assert address.startswith("data:") or address.removeprefix("#") in checker.ids, address
    assert 'name="viewport"' in page.read_text() and "url(" not in page.read_text()
    assert [part.title for part in parts][:3] == ["The claims", "The eight figures", "The two equations"]


def test_one_number_changed_in_the_artifacts_is_changed_in_the_report(run):
    def shown():
        return report.render(report.sections(Evidence(run)), "digits")

    rows = run.load_json("metrics.json")
    row = next(row for row in rows if (row["method"], row["distance"]) == ("fused", "cosine"))
    before = shown()
    assert f"{row['mAP']:.3f} [" in before and "0.123 [" not in before
    row["mAP"] = 0.123
    run.save_json("metrics.json", rows)
    after = shown()
    assert "0.123 [" in after
    assert sum(a != b for a, b in zip(before.splitlines(), after.splitlines(), strict=True)) <= 3

    run.record(timings={"convolutional/train": 200_000.0})
    assert "200,000 seconds (55.6 hours)" in shown() and "200,000" not in after


def test_a_number_changed_behind_the_manifest_s_back_is_not_shown(run):
    path = run.path("metrics.json")
    path.write_text(path.read_text().replace("12.5", "99.5"))
    said = texts(report.sections(Evidence(run)))
    assert "99.5" not in said and "metrics.json is damaged or was changed by hand; `python -m cbir_utils run" in said


def test_where_everything_is_missing_each_part_says_which_command_makes_it(tmp_path):
    run = Run("digits", tmp_path)
    with pytest.raises(ArtifactError, match="holds no run; make one with `"):
        Evidence(run)
    run.same_data(DIGITS.content_hash)
    parts = report.sections(Evidence(run))
    verdicts = [block.verdict for part in parts for block in part.blocks if isinstance(block, Verdict | Figure)]
    assert verdicts.count(UNKNOWN) == len(verdicts) - 1  # whether labels can get in stands in the source
    assert report.summary(parts) == "Of the paper's claims, 1 holds, 6 not measured yet."
    commands = re.findall(r"`python -m cbir_utils ([^`]+)`", texts(parts))
    assert len(commands) > 10
    for command in commands:
        assert pipeline.parser().parse_args(shlex.split(command)).command
    report.render(parts, "digits")


def test_what_comes_from_the_artifacts_is_escaped(run):
    rows = run.load_json("metrics.json")
    rows[0]["method"] = "<b>bold</b>"
    run.save_json("metrics.json", rows)
    page = report.render(report.sections(Evidence(run)), "<i>")
    assert "&lt;b&gt;bold" in page and "<b>" not in page and "<i>" not in page


# -- the claims -----------------------------------------------------------------------------------------------------


def test_all_five_right_is_counted_over_every_query(run):
    found = claim(run, "five hits")
    database, queries = run.load_codes("convolutional")
    right = 0
    for query, label in zip(queries, DIGITS.queries.labels, strict=True):
        nearest = np.argsort(((database.astype(float) - query) ** 2).sum(axis=1), kind="stable")[:5]
        right += (DIGITS.database.labels[nearest] == label).all()
    assert f"for {100 * right / 360:.1f}\u00a0% [" in found.sentence and "Over all 360 queries" in found.sentence
    assert "Beside it: pixels " in found.sentence and ", fused " in found.sentence


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        (np.ones(1000), HOLDS),
        (np.ones(5), IN_PART),
        (np.arange(200) % 5 > 0, IN_PART),
        (np.arange(200) % 5 == 0, FAILS),
    ],
)
def test_the_verdict_on_five_hits_follows_its_interval(run, right, verdict):
    evidence = Evidence(run)
    evidence.values = {("convolutional", "euclidean"): {"P@5": np.where(right, 1.0, 0.8), "AP": np.ones(len(right))}}
    assert claim(evidence, "five hits").verdict == verdict


@pytest.mark.parametrize(
    ("first", "whole", "verdict"),
    [
        (0.1, 0.1, HOLDS),
        (-0.1, 0.1, IN_PART),
        (0.1, 0.0, IN_PART),
        (-0.1, -0.1, FAILS),
        (-0.1, 0.0, FAILS),
        (0.0, 0.0, IN_PART),
    ],
)
def test_codes_are_better_than_pixels_only_where_both_measures_say_so(run, first, whole, verdict):
    wave = np.tile([-0.05, 0.05], 100)
    evidence = Evidence(run)
    evidence.values = {
        ("convolutional", "euclidean"): {"P@5": 0.5 + first + wave, "AP": 0.5 + whole + wave},
        ("pixels", "euclidean"): {"P@5": np.full(200, 0.5), "AP": np.full(200, 0.5)},
    }
    found = claim(evidence, "pixels")
    assert found.verdict == verdict
    assert found.sentence.endswith("They are 8 numbers instead of 784.")


def test_collapse_is_counted_over_the_seeds_measured_or_else_those_of_notebook_02(run):
    found = claim(run, "as printed")
    assert found.verdict == IN_PART  # 2 of 3 leaves both open
    assert found.sentence.startswith("2 of 3 networks") and "with binary cross-entropy 0 of 3 do" in found.sentence
    assert "measure collapse" in found.sentence
    networks = [
        {"loss": loss, "seed": s, "collapsed": loss == "mse" and s != 4}
        for loss in ("mse", "binary_crossentropy") for s in range(20)
    ]  # fmt: skip
    run.save_json("collapse.json", {"settings": {"images": 512, "epochs": 4}, "networks": networks})
    found = claim(run, "as printed")
    assert found.verdict == FAILS and found.sentence.startswith("19 of 20 networks")
    assert "(95.0\u00a0% [76.4\u00a0%, 99.1\u00a0%])" in found.sentence and "measure" not in found.sentence


def test_days_are_compared_with_the_seconds_noted(run):
    found = claim(run, "days")
    assert (
        found.verdict == FAILS and "trained in 34 seconds, on " in found.sentence and "1,437 images" in found.sentence
    )
    assert "A day has room for 2,541 such trainings" in found.sentence  # 86,400 / 34
    rows = run.load_json("metrics.json")
    rows[-1]["train_seconds"] = 100.0
    run.save_json("metrics.json", rows)
    assert "method of the table (fused) in 100 seconds" in claim(run, "days").sentence
    run.record(timings={"convolutional/train": 90_000.0})
    found = claim(run, "days")
    assert (
        found.verdict == HOLDS
        and "90,000 seconds (25.0 hours), on " in found.sentence
        and "fused" not in found.sentence
    )


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [([[0.02, 0.01, 0.03]] * 2, HOLDS), ([[0.02, 0.01, 0.03], [0.0, -0.01, 0.01]], IN_PART),
     ([[-0.02, -0.03, -0.01], [0.0, -0.01, 0.01]], FAILS), ([[0.0, -0.01, 0.01]], IN_PART)],
)  # fmt: skip
def test_training_by_retrieval_holds_if_every_training_gains(run, gains, verdict):
    assert claim(run, "by retrieval").verdict == UNKNOWN
    guided = {"mutual_share": [0.5, 0.6], "rounds": 3}
    trainings = [{"gain": {"P@5": gain, "mAP": gain}, "guided": guided} for gain in gains]
    settings = {"images": 600, "queries": 200, "epochs": 8, "rounds": 2}
    run.save_json("guided.json", {"settings": settings, "trainings": trainings})
    found = claim(run, "by retrieval")
    assert found.verdict == verdict
    assert (
        "55.0\u00a0% of the hits are mutual" in found.sentence and f"({', '.join('3' * len(gains))};" in found.sentence
    )
    assert f"{gains[0][0]:+.3f}".replace("-", "−") in found.sentence


def test_the_other_kinds_are_compared_with_the_paper_s(run):
    found = claim(run, "other kinds")
    values = Evidence(run).values
    gain = (values["denoising", "cosine"]["AP"] - values["convolutional", "cosine"]["AP"]).mean()
    assert found.verdict == HOLDS and f"mAP {gain:+.3f} [" in found.sentence
    assert "Of 1 other kinds 1 are better by P@5 and 1 by mAP" in found.sentence
    assert "correction for 2 tests). Better by both: denoising (P@5 +" in found.sentence


@pytest.mark.parametrize(("first", "whole", "verdict"), [(0.1, -0.1, IN_PART), (0.0, 0.0, FAILS), (-0.1, -0.1, FAILS)])
def test_another_kind_improves_if_it_is_better_by_both_measures(run, first, whole, verdict):
    wave = np.tile([-0.05, 0.05], 100)
    evidence = Evidence(run)
    evidence.values = {
        ("convolutional", "cosine"): {"P@5": np.full(200, 0.5), "AP": np.full(200, 0.5)},
        ("denoising", "cosine"): {"P@5": 0.5 + first + wave, "AP": 0.5 + whole + wave},
    }
    found = claim(evidence, "other kinds")
    assert found.verdict == verdict and found.sentence.endswith("Better by both: none.")


def test_an_argument_for_labels_would_be_seen(run, monkeypatch):
    assert claim(run, "without labels").verdict == HOLDS
    monkeypatch.setattr(report, "LEARNERS", (("index", "search"), ("metrics", "relevance")))
    found = claim(run, "without labels")
    assert found.verdict == FAILS and found.sentence.startswith("2 of ")
    monkeypatch.setattr(report, "LEARNERS", (("index", "gone"),))
    assert claim(run, "without labels").verdict == UNKNOWN


# -- figures and equations ------------------------------------------------------------------------------------------


def test_the_figures_say_what_the_data_say(run):
    made = {figure.number: figure for figure in report.figures(Evidence(run))}
    assert list(made) == list(range(1, 9))
    labels, labels_queries = DIGITS.database.labels, DIGITS.queries.labels
    assert made[1].verdict == HOLDS and "For 20 of 20 queries" in made[1].sentence
    codes = run.load_codes("convolutional")[0].astype(float)
    variances = np.sort(np.linalg.svd(codes - codes.mean(axis=0), compute_uv=False) ** 2)[::-1]
    assert f"{100 * variances[:3].sum() / variances.sum():.1f}\u00a0% of their variance" in made[3].sentence
    assert made[4].verdict == HOLDS and "0.1000" in made[4].sentence and "0.2000" in made[4].sentence
    counts = np.bincount(labels)
    assert f"between {counts.min()} images" in made[6].sentence and f"and {counts.max()} (" in made[6].sentence
    first = int(np.argmax(labels_queries == 9))
    assert made[7].verdict == HOLDS and f"number {first}, the first of class 9" in made[7].sentence
    hits = np.argsort(np.linalg.norm(codes - run.load_codes("convolutional")[1][first], axis=1))[:5]
    assert f"query, {(labels[hits] == 9).sum()} are of class 9" in made[8].sentence
    assert made[3].verdict == (IN_PART if variances[:3].sum() / variances.sum() >= 0.5 else FAILS)
    assert all(f"picture: figures/figure_0{n}_" in figure.sentence for n, figure in made.items())
    assert all("--from 01 --to 05" in figure.sentence for figure in made.values())

    run.save_json("convolutional/history.json", {"held_out_loss": [0.3], "best_epoch": 1, "constant_loss": 0.2})
    assert report.figures(Evidence(run))[3].verdict == FAILS


def test_nearer_to_its_own_class():
    codes, labels = np.array([[0.0], [1.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])
    assert report._nearer(codes, labels) == [True] * 4
    around = np.array([[0.0], [10.0], [4.0], [6.0]])  # the first class lies about the second
    assert report._nearer(around, labels, 0, 1) == [False] * 2
    assert report._nearer(around, labels, 1, 0) == [True] * 2
    assert len(report._nearer(np.arange(30.0)[:, None], np.arange(30) % 2, most=10)) == 10
    assert report._nearer(codes, np.zeros(4)) == [] == report._nearer(codes, np.arange(4))


def test_groups_hold_from_nine_in_ten_on_and_need_two_classes(run):
    labels, labels_queries = DIGITS.database.labels, DIGITS.queries.labels
    one_hot = np.eye(10, dtype=np.float32)
    run.save_codes("convolutional", one_hot[labels], one_hot[labels_queries], encoder=None)
    assert report.figures(Evidence(run))[1].verdict == HOLDS
    run.save_array("labels_database.npy", np.zeros_like(labels))
    found = report.figures(Evidence(run))[1]
    assert found.verdict == UNKNOWN and "need two classes" in found.sentence


def test_equation_2_is_the_norm_of_the_difference():
    q, s = np.random.default_rng(0).normal(size=(2, 30))
    assert report.equation_2(q, s) == pytest.approx(np.linalg.norm(q - s), rel=1e-12)
    assert report.equation_2([0, 3], [4, 0]) == 5.0


def test_the_equations_are_checked_on_the_kept_network(run):
    from cbir_utils.models import build_convolutional

    first, second = (build_convolutional(DIGITS.database.images.shape[1:], seed=seed) for seed in (0, 1))
    assert [e.verdict for e in report.equations(Evidence(run))] == [UNKNOWN, HOLDS, UNKNOWN]
    for name in ("encoder", "autoencoder"):
        with run.writing(f"convolutional/{name}.keras") as path:
            getattr(first, name).save(path)
    equations = report.equations(Evidence(run))
    assert [e.verdict for e in equations] == [HOLDS, HOLDS, HOLDS]
    assert "<msqrt>" in equations[1].mathml and equations[1].functions[0] is report.equation_2
    with run.writing("convolutional/encoder.keras") as path:
        second.encoder.save(path)
    assert report.equations(Evidence(run))[0].verdict == FAILS


# -- methods compared -----------------------------------------------------------------------------------------------


def test_the_table_has_interval_seeds_seconds_and_bytes(run):
    few = np.linspace(0, 1, 40)
    trainings = [{"P@1": few, "AP": few**power} for power in (1, 2, 3, 4, 5)]
    row = metrics.summarize(trainings, n_database=100, first_seed=0)
    run.add_metrics([{"method": "fused", "distance": "cosine", "train_seconds": 1234.5, **row}])
    rows = {cells[0]: cells for cells in report.methods_table(Evidence(run)).rows}
    low, high = row["mAP_interval"]
    assert rows["fused, cosine"][1] == f"{row['mAP']:.3f} [{low:.3f}, {high:.3f}]"
    assert rows["fused, cosine"][6] == f"5 ({(few**5).mean():.3f} to {few.mean():.3f})"
    assert rows["fused, cosine"][7:] == ("1,234", "40") and rows["pixels, cosine"][8] == "3,136"
    assert rows["fused, euclidean"][6] == "1"
    assert f"fused (cosine) {few.mean() - (few**5).mean():.4f} over 5 seeds" in texts(report.sections(Evidence(run)))


def test_randomization_test_is_the_share_of_all_signs():
    differences = np.array([0.3, -0.1, 0.25, 0.2, 0.05, 0.4, -0.15, 0.1, 0.2])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean()
    p = report.randomization_tests(np.stack([differences, 0 * differences], axis=1))
    assert p[0] == pytest.approx(exact, abs=0.01) and 0.01 < exact < 0.1
    assert p[1] == 1
    assert report.randomization_tests(np.full((100, 1), 0.1), resamples=999) == 0.001  # 1 in 1,000


def test_holm_by_hand():
    # ascending .01 .02 .03 .04, times 4, 3, 2, 1: .04 .06 .06 .04, and none below the one before: .04 .06 .06 .06
    np.testing.assert_allclose(report.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(report.holm([0.9, 0.8]), [1, 1])


def test_every_pair_is_tested_once_the_better_one_first(run):
    tests = report.paired_tests(Evidence(run))
    values = Evidence(run).values
    assert len(tests) == 6 + 1  # pairs of pixels, convolutional, denoising and fused; and the paper's by Euclid
    assert {test["distance"] for test in tests} == {"cosine", "euclidean"}
    for test in tests:
        a, b = (values[test[name], test["distance"]]["AP"] for name in "ab")
        assert test["gain"][0] == pytest.approx((a - b).mean()) and test["gain"][0] >= 0
        assert 0 < test["p"] <= 1
    assert next(t for t in tests if {t["a"], t["b"]} == {"fused", "convolutional"})["p"] == pytest.approx(0.0007)


def test_values_of_queries_are_kept_until_codes_or_labels_change(run, monkeypatch):
    asked = []
    rank = Evidence._rank
    monkeypatch.setattr(Evidence, "_rank", lambda self, *how: asked.append(how) or rank(self, *how))
    values = Evidence(run).values
    assert not asked and list(values)[0] == ("pixels", "euclidean")
    row = next(r for r in run.load_json("metrics.json") if (r["method"], r["distance"]) == ("fused", "cosine"))
    assert values["fused", "cosine"]["AP"].mean() == row["mAP"]

    database, queries = run.load_codes("fused")
    run.save_codes("fused", database[::-1].copy(), queries, encoder=None)
    changed = Evidence(run).values
    assert asked == [("fused", "cosine")]
    assert changed["fused", "cosine"]["AP"].mean() < values["fused", "cosine"]["AP"].mean()

    kept = run.path("ap_per_query.npz").read_bytes()
    with np.load(run.path("ap_per_query.npz")) as file:
        assert len(file.files) == 2 * len(values)  # what came from the codes of before is gone
    for damaged in (b"no archive", kept[:-100]):
        with run.writing("ap_per_query.npz") as path:  # by a process that noted its hash
            path.write_bytes(damaged)
        asked.clear()
        assert len(Evidence(run).values) == len(values) == len(asked)


def test_values_changed_behind_the_manifest_s_back_are_ranked_anew(run):
    values, path = Evidence(run).values, run.path("ap_per_query.npz")
    with np.load(path) as file:
        changed = {name: np.ones_like(array) for name, array in file.items()}
    np.savez_compressed(path, **changed)
    again = Evidence(run).values
    assert all((again[how]["AP"] == values[how]["AP"]).all() for how in values)


def test_a_method_whose_codes_are_damaged_is_named(run):
    run.path("fused/codes_database.npy").write_bytes(b"no codes")
    run.path("ap_per_query.npz").unlink()
    said = texts(report.sections(Evidence(run)))
    assert "Left out: hog (hog/codes_database.npy is not there yet; `" in said
    assert "; fused (fused/codes_database.npy is damaged or was changed by hand; `" in said
    assert next(row for row in report.methods_table(Evidence(run)).rows if row[0] == "fused, cosine")[-1] == "–"


def test_without_labels_the_report_says_so_once_and_names_no_command(run, monkeypatch):
    run.path("ap_per_query.npz").unlink()
    split = dataclasses.replace(DIGITS.database, labels=None)
    monkeypatch.setattr(report, "run_data", lambda run: dataclasses.replace(DIGITS, database=split))
    found = claim(run, "five hits")
    assert found.verdict == UNKNOWN and found.sentence.startswith("The dataset has no labels")


def test_other_threads_are_reported_beside_the_first(run):
    said = texts(report.sections(Evidence(run)))
    assert "libraries move them: sensitivity.json is not there yet; `python -m cbir_utils measure machines" in said
    measured = (("all", 0.5, "a"), ("again", 0.5, "a"), ("one core", 0.5125, "b"))
    rows = [{"name": name, "P@1": 0.9, "P@5": 0.8, "mAP": value, "weights": w} for name, value, w in measured]
    run.save_json("sensitivity.json", {"settings": {"dataset": "digits", "cores": 4}, "rows": rows})
    said = texts(report.sections(Evidence(run)))
    assert "0.0000 in P@5 and 0.0125 in mAP" in said
    assert "again | 0.9000 | 0.8000 | 0.5000 | +0.0000 | the first's" in said
    assert "one core | 0.9000 | 0.8000 | 0.5125 | +0.0125 | others" in said


def test_provenance_names_data_versions_and_parameters_and_no_folder_of_the_machine(run):
    run.record(parameters={"02_train_autoencoder": {"epochs": 3, "results": "/somewhere", "dataset": "digits"}})
    said = texts(report.sections(Evidence(run)))
    assert DIGITS.content_hash in said and f"numpy {np.__version__}" in said
    assert "02_train_autoencoder | – | – | epochs = 3" in said and "/somewhere" not in said
    run.record(steps={"02_train_autoencoder": {"commit": "a" * 40 + " with changes"}})
    said = texts(report.sections(Evidence(run)))
    assert f"02_train_autoencoder | – | {'a' * 10} with changes | epochs = 3" in said
    run.path("metrics.json").unlink()
    assert DIGITS.content_hash in texts(report.sections(Evidence(run)))


# -- the PDF ----------------------------------------------------------------------------------------------------------


def test_the_pdf_is_printed_by_a_browser_that_can(run, tmp_path, monkeypatch):
    page = tmp_path / "index.html"
    page.write_text("<p>words</p>")
    fake = tmp_path / "browser"
    fake.write_text('#!/bin/sh\nfor word; do case $word in --print-to-pdf=*) echo %PDF-1 > "${word#*=}";; esac; done\n')
    fake.chmod(0o755)
    monkeypatch.setattr(report.shutil, "which", lambda name: str(fake) if name == "chromium" else None)
    pdf, said = report.print_pdf(page)
    assert pdf == tmp_path / "report.pdf" and pdf.read_bytes().startswith(b"%PDF") and "report.pdf" in said

    fake.write_text("#!/bin/sh\nexit 3\n")  # fails: the old PDF would tell of other numbers
    pdf, said = report.print_pdf(page)
    assert pdf is None and "browser could not print it" in said
    assert sorted(path.name for path in Path(tmp_path).glob("*.*")) == ["index.html"]


def test_the_command_writes_the_report(run, monkeypatch, capsys):
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    assert pipeline.main(["report", "--results", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert "Of the paper's claims, " in out and "index.html" in out and "No PDF" in out
    assert pipeline.main(["report", "--results", str(run.folder.parent / "none")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_the_table_of_verdicts_has_a_line_for_each(run):
    lines = report.verdict_table(report.sections(Evidence(run))).splitlines()
    assert len(lines) == 2 + 7 + 8 + 3
    assert all(any(f"**{v}**" in line for v in (HOLDS, IN_PART, FAILS, UNKNOWN)) for line in lines[2:])
