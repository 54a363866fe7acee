"""The contract of every index on the exact one and on Milvus's embedded engine, and what can go wrong with a file."""

import pytest
from contract import Contract, EngineContract

from cbir_utils.index import Index


class TestExactIndex(Contract):
    def make(self, metric="euclidean", encoder_hash=None):
        return Index(metric, encoder_hash=encoder_hash)


@pytest.fixture(scope="module")
def engine_address(tmp_path_factory):
    return tmp_path_factory.mktemp("engine") / "codes.db"


class TestFile(EngineContract):
    pass
