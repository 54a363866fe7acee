"""The contract of every index on a real Milvus server, and a server that dies."""

import time

import numpy as np
import pytest
from contract import QUERIES, ROWS, EngineContract, assert_nearest, brute_force

from cbir_utils.scale import collection, engine
from cbir_utils.scale.collection import Collection, EngineError, drop


@pytest.fixture(scope="module")
def engine_address(server):
    return server.address


class TestServer(EngineContract):
    pass


def test_a_graph_finds_nearly_all_of_the_nearest_and_more_with_a_larger_ef(server):
    """Enough rows for the server to build a graph of them, some time after they are written to its disk."""
    rng = np.random.default_rng(2)
    rows, queries = rng.normal(size=(20_000, 16)).astype(np.float32), rng.normal(size=(50, 16)).astype(np.float32)
    drop(server.address, "many")
    with Collection(server.address, "many") as index:
        index.add(rows)
        index._client.flush("many")
        for _ in range(120):
            about = index._client.describe_index("many", "code")
            if about["indexed_rows"] == 20_000:
                break
            time.sleep(1)
        assert (about["index_type"], about["indexed_rows"]) == ("HNSW", 20_000)
        index._client.release_collection("many")
    with Collection(server.address, "many") as index:  # loads the graph
        fast, usual, thorough = (index.search(queries, 10, ef=ef).ids for ef in (12, None, 400))
    nearest = brute_force(rows, queries, "euclidean")[1][:, :10]

    def recall(found):
        return np.mean([np.isin(a, b) for a, b in zip(found, nearest, strict=True)])

    assert recall(fast) < recall(usual) <= recall(thorough)
    assert recall(usual) >= 0.98 and recall(thorough) >= 0.99
    drop(server.address, "many")


def test_a_server_that_dies_between_two_batches_loses_and_doubles_nothing(server, monkeypatch):
    monkeypatch.setattr(collection, "NUMBERS", 16 * 50)
    drop(server.address, "interrupted")
    index = Collection(server.address, "interrupted", encoder_hash="abc")
    Collection(server.address, "bystander").add(ROWS).close()
    ask, upserts = engine.ask, []

    def die(address, call, *arguments, **options):
        upserts.extend(arguments if call.__name__ == "upsert" else ())
        if len(upserts) == 6:  # in the third batch: each call comes with the collection's name and the rows
            server.kill()
        return ask(address, call, *arguments, **options)

    try:
        with monkeypatch.context() as patch, pytest.raises(EngineError) as caught:
            patch.setattr(engine, "ask", die)
            index.add(ROWS)
        told = "100 of 300 codes had arrived: add the same codes with the same ids again, from 0 to 299"
        assert told in str(caught.value)
        with pytest.raises(EngineError, match=f"Milvus at {server.address} does not answer"):
            Collection(server.address, "interrupted")
    finally:
        server.start()

    index.close()
    with Collection(server.address, "bystander") as bystander:
        assert_nearest(bystander.search(QUERIES, 10), ROWS, QUERIES, "euclidean")
    with Collection(server.address, "interrupted", encoder_hash="abc") as again:
        assert len(again) == 100
        assert_nearest(again.search(QUERIES, 10), ROWS[:100], QUERIES, "euclidean")
        assert len(again.add(ROWS, np.arange(300))) == 300
        assert_nearest(again.search(QUERIES, 10), ROWS, QUERIES, "euclidean")
    drop(server.address, "interrupted")
    drop(server.address, "bystander")
