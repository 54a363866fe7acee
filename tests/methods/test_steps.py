"""The steps that notebook 08 and ``learn`` share, on drawn shapes; and what a second is a second of."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cbir_utils.datasets import load_dataset
from cbir_utils.methods import steps
from cbir_utils.methods.descriptors import oriented_gradients
from cbir_utils.methods.distortion import MatchedSearch, blend
from cbir_utils.methods.manifold import DiffusionMap, fuse
from cbir_utils.run import Run
from cbir_utils.training import encode, load_model

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def test_every_step_is_kept_with_what_it_needs_to_encode_a_query(tmp_path):
    data, run = load_dataset("shapes"), Run("shapes", tmp_path)
    edges = steps.fit_edges(data)
    outlines = steps.project_both(data, edges)
    search = MatchedSearch(outlines[0], data.database.images)
    hits = steps.candidates_both(search, outlines, data)
    first = DiffusionMap.fit(hits[0], dimensions=8)
    model, history = steps.teach(data, first, hits[0], epochs=1, verbose=False)
    codes = steps.encode_both(model.encoder, data)
    steps.keep_taught(run, model, history, codes, epochs=1)
    joint = steps.join_both(data, codes, edges, 0.5)
    steps.keep_joint(run, edges, joint, 0.5)
    search = MatchedSearch(joint[0], data.database.images)
    hits = steps.candidates_both(search, joint, data)
    manifold = DiffusionMap.fit(hits[0], dimensions=8)
    mapped = steps.map_both(manifold, hits)
    matched = blend(hits[1], mapped[1], mapped[0])
    steps.keep_map(run, manifold, mapped, steps.fuse_both(mapped, joint), matched)

    assert run.load_json("taught/history.json")["settings"] == {"epochs": 1}
    assert run.manifest["edge_weight"] == 0.5
    one = data.queries.images[:1]
    plain = encode(load_model(run.checked_path("taught/encoder.keras")), one)
    beside = fuse(plain, steps.Projection.load(run.checked_path("joint/edges.npz"))(oriented_gradients(one)), 0.5)
    found = DiffusionMap.load(run.checked_path("manifold/diffusion_map.npz")).embed(search.search(beside, one))
    expected = {"taught": plain, "joint": beside, "manifold": found, "fused": fuse(found, beside)}
    for method, query in expected.items():
        np.testing.assert_allclose(run.load_codes(method)[1][:1], query, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(run.load_codes("matched")[0], run.load_codes("fused")[0])
    np.testing.assert_array_equal(run.load_array("matched/reranked.npy", (None, 10), "int32"), matched.ids)


def test_timed_times_the_call_alone():
    result, seconds = steps.timed(lambda wait, *, told: time.sleep(wait) or told, 0.05, told="result")
    assert result == "result" and 0.05 <= seconds < 1
    code = "import sys, cbir_utils.methods.steps; print('sklearn.decomposition' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True", "else the first projection's seconds are those of an import"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("0[6-9]_*.ipynb")), ids=lambda path: path.stem)
def test_no_notebook_reads_a_clock_of_its_own(path):
    """A timer that is started in one cell and read in the next times the reader."""
    cells = json.loads(path.read_text())["cells"]
    assert not [cell["source"] for cell in cells if "perf_counter" in "".join(cell["source"])]
