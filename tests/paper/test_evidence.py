"""What a run holds: the quality of every query, kept until codes change; what is missing is named."""

from dataclasses import replace

import numpy as np
import pytest

from cbir_utils import metrics
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import Split
from cbir_utils.paper import evidence as module
from cbir_utils.paper.claims import five_hits
from cbir_utils.paper.evidence import UNKNOWN, Evidence


@pytest.fixture
def ranked(monkeypatch):
    """The distances and first codes of what is ranked from here on."""
    asked, evaluate = [], metrics.evaluate
    monkeypatch.setattr(metrics, "evaluate", lambda data, *a: asked.append(a[-1]) or evaluate(data, *a))
    return asked


def test_values_are_kept_until_the_codes_change(run, ranked):
    found = Evidence(run)
    assert found.values["fused", "cosine"]["AP"].mean() == found.rows["fused", "cosine"]["mAP"]
    assert not ranked
    database, queries = run.load_codes("fused")
    run.keep("fused", database[::-1].copy(), queries)
    assert Evidence(run).values["fused", "cosine"]["AP"].mean() < found.rows["fused", "cosine"]["mAP"]
    assert ranked == ["cosine"]

    path = run.path("report/denoising_cosine.json")  # changed behind the manifest's back
    path.write_text(path.read_text().replace("0.", "1."))
    assert Evidence(run).values["denoising", "cosine"]["AP"].max() <= 1
    assert ranked == ["cosine", "cosine"]


def test_a_query_in_the_database_never_finds_itself(run, digits, monkeypatch):
    """Also where the folder was not packed into the run: own rows come from the dataset alone."""
    rows = np.arange(0, 400, 8)
    database = Split(digits.database.images[:400], digits.database.labels[:400])
    queries = Split(database.images[rows], database.labels[rows])
    data = replace(digits, database=database, queries=queries, own_rows=rows, content_hash="of the folder")
    codes = run.load_codes("convolutional")[0][:400]
    run.record(content_hash="of the folder")
    run.keep("convolutional", codes, codes[rows])
    monkeypatch.setattr(module, "run_data", lambda run: data)
    found = Evidence(run)
    labels, best = database.labels, []
    for row in rows:
        distances = np.linalg.norm(codes - codes[row], axis=1)
        distances[row] = np.inf
        best.append(np.mean(labels[np.argsort(distances)[:5]] == labels[row]))
    np.testing.assert_allclose(found.value("convolutional", "euclidean")["P@5"], best)
    assert not (found.hits(np.arange(50)).ids == rows[:, None]).any()


def test_a_method_whose_codes_are_missing_or_damaged_is_left_out_and_named(run):
    run.path("fused/codes_database.npy").write_bytes(b"no codes")
    found = Evidence(run)
    assert ("fused", "cosine") not in found.values
    assert found.left_out["hog"].startswith("hog/codes_database.npy does not exist yet; make it anew with `python -m")
    assert "fused/codes_database.npy differs from its hash" in found.left_out["fused"]
    with pytest.raises(ArtifactError, match="fused/codes_database"):
        found.value("fused", "cosine")
    assert found.bytes_per_image("fused") is None and found.bytes_per_image("pixels") == 3136


def test_a_rule_that_lacks_an_artifact_is_not_measured_and_says_why(run, digits, monkeypatch):
    def rule(evidence):
        """A claim."""
        return evidence.measured("guided", "guided.json")

    found = Evidence(run).find(rule)
    assert (found.title, found.verdict) == ("A claim.", UNKNOWN)
    said = "guided.json is missing or damaged; `python -m cbir_utils measure guided --results"
    assert found.sentence.startswith(said)

    few = Split(digits.database.images[:5], digits.database.labels[:5])
    for change, said in (
        ({"database": replace(few, labels=None)}, "The dataset has no labels"),
        ({"database": few, "own_rows": np.arange(5)}, "Five hits need a database of five images or more"),
    ):
        monkeypatch.setattr(module, "run_data", lambda run, change=change: replace(digits, **change))
        found = Evidence(run).find(five_hits)
        assert found.verdict == UNKNOWN and found.sentence.startswith(said)
