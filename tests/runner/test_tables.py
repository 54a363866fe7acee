"""The measured tables, written into pages from results/."""

import pytest

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.run import Run
from cbir_utils.runner.tables import update_tables


def row(method="pixels", **change):
    numbers = {"P@1": 0.9, "P@5": 0.8, "P@100": 0.7, "R-precision": 0.5, "mAP": 0.4567, "mAP_interval": [0.44, 0.47]}
    facts = {"seeds": [0, 1], "protocol": "All of them; seeds 0, 1.", "measured": "2026-01-02"}
    return {"method": method, "distance": "cosine", **numbers, **facts, **change}


@pytest.fixture
def page(tmp_path):
    """A page with a block of each kind; only digits and one benchmark have results."""
    kinds = "results digits, results mnist, binary digits, summary digits, summary mnist digits, bench search"
    blocks = [f"<!-- {kind} -->\nold {kind}\n<!-- end -->\n" for kind in kinds.split(", ")]
    path = tmp_path / "PAGE.md"
    path.write_text("before\n" + "between\n".join(blocks))
    Run("digits", tmp_path).save_json("metrics.json", [row(mAP=0.321), row("fused", mAP=0.987)])
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "search.md").write_text("| new |\n")
    return path


def test_tables_are_written_where_there_are_results_and_kept_where_not(page):
    assert update_tables(page, page.parent) == ["results digits", "summary digits", "bench search"]
    text = page.read_text()
    assert text.startswith("before\n") and text.count("between\n") == 5
    for kept in ("results mnist", "binary digits", "summary mnist digits"):
        assert f"<!-- {kept} -->\nold {kept}\n<!-- end -->" in text
    assert "old results digits" not in text and "old bench" not in text
    assert "| pixels | cosine   | 0.900 | 0.800 | 0.700 | 0.500       | 0.321 [0.440, 0.470] | 2     | –" in text
    assert "All of them. Measured 2026-01-02, " in text and "<!-- bench search -->\n| new |\n<!-- end -->" in text
    update_tables(page, page.parent)
    assert page.read_text() == text
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["codes", "digits P@1", "digits P@5", "digits mAP"] in lines
    assert ["raw pixels, nothing learned", "0.900", "0.800", "0.321"] in lines
    assert ["the paper's network", "–", "–", "–"] in lines


def test_a_damaged_table_is_named(page):
    (page.parent / "digits" / "metrics.json").write_text("[]")
    with pytest.raises(ArtifactError, match="metrics.json differs from its hash"):
        update_tables(page, page.parent)
