"""A finished run, for the tests in this folder."""

import pytest

from cbir_utils.datasets import load_dataset
from cbir_utils.methods import steps
from cbir_utils.methods.distillation import build_strided
from cbir_utils.methods.distortion import MatchedSearch, blend
from cbir_utils.methods.manifold import DiffusionMap
from cbir_utils.run import Run
from cbir_utils.training import History


@pytest.fixture(scope="session")
def finished_run():
    """What notebooks 01 and 08 leave for the drawn shapes, with a network as it was born."""
    return make_run


def make_run(results, *, seed=0):
    data, run = load_dataset("shapes"), Run("shapes", results)
    run.record(source="shapes", content_hash=data.content_hash)
    model = build_strided(data.database.images.shape[1:], seed=seed)
    codes = steps.encode_both(model.encoder, data)
    steps.keep_taught(run, model, History(), codes)
    edges = steps.fit_edges(data)
    joint = steps.join_both(data, codes, edges)
    steps.keep_joint(run, edges, joint)
    hits = steps.candidates_both(MatchedSearch(joint[0], data.database.images), joint, data)
    manifold = DiffusionMap.fit(hits[0], dimensions=20)
    mapped = steps.map_both(manifold, hits)
    steps.keep_map(run, manifold, mapped, steps.fuse_both(mapped, joint), blend(hits[1], mapped[1], mapped[0]))
    return run, data
