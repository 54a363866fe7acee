"""Tables: what stands where a ranking is too short for a metric."""

from cbir_utils.lessons.tables import family_table, results_table

ROW = {"P@1": 0.9, "R-precision": 0.5, "mAP": 0.6, "mAP_interval": [0.59, 0.61]}


def cells(table):
    """The first line under the header, cell by cell."""
    return [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]


def test_results_have_a_dash_where_rankings_are_too_short():
    found = cells(results_table([{"method": "deep", "distance": "cosine", "seeds": [0], **ROW}]))
    assert found == ["deep", "cosine", "0.900", "–", "–", "0.500", "0.600 [0.590, 0.610]", "1", "–"]


def test_kinds_of_autoencoder_have_dashes_for_what_their_rankings_lack():
    measured = {"weights": 1234, "bytes_per_image": 512, "train_seconds": 3.0, "trainings": 3, "collapsed": 1}
    found = cells(family_table([{"method": "sparse", "reconstruction_error": None, **measured, **ROW}]))
    assert found[:6] == ["sparse", "0.900", "–", "–", "0.500", "0.600 [0.590, 0.610]"]
    assert found[6:] == ["1,234", "512", "3", "–", "1 of 3"]
