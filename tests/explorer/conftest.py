"""A run for the tests in this folder."""

import pytest

from cbir_utils.datasets import load_dataset
from cbir_utils.methods.descriptors import oriented_gradients
from cbir_utils.run import Run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run on digits with the codes of hog, which needs no network."""
    data, run = load_dataset("digits"), Run("digits", tmp_path_factory.mktemp("results"))
    run.record(source="digits", content_hash=data.content_hash)
    run.keep("hog", *(oriented_gradients(split.images) for split in (data.database, data.queries)))
    return run, data
