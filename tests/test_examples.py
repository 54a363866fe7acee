"""The examples in the docstrings of the core run, and say what they say."""

import doctest
import importlib

import pytest

#: The modules of the core whose functions carry an example.
WITH_EXAMPLES = ("codes", "datasets", "index", "metrics", "training")
WITH_EXAMPLES += ("artifacts.chapters", "lessons.cells", "lessons.tables")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name):
    tried = doctest.testmod(importlib.import_module(f"cbir_utils.{name}"))
    assert tried.attempted and not tried.failed
