"""Retrievers of a finished run: the same codes as the notebooks', what is refused, and that no label is used."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import Split, load_dataset
from cbir_utils.index import Index
from cbir_utils.methods import descriptors
from cbir_utils.methods.binary import IterativeQuantization
from cbir_utils.methods.distortion import CANDIDATES, distortion
from cbir_utils.retrieval.learn import learn_fused
from cbir_utils.retrieval.retriever import UNTAUGHT, Retriever, available_methods, fit_query, load_encoder, run_data
from cbir_utils.run import Run

LEARNED = ("matched", "fused", "manifold", "taught", "joint")
BY_CODE = LEARNED[1:]


@pytest.fixture(scope="module")
def finished(finished_run, tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("results"))


def test_the_data_of_a_run_are_found_again_and_its_methods_listed_best_first(finished, finished_run, tmp_path):
    run, data = finished
    assert run_data(run).content_hash == data.content_hash
    assert available_methods(run) == (*LEARNED, *UNTAUGHT)
    assert available_methods(Run("nothing", tmp_path)) == tuple(UNTAUGHT)
    other, _ = finished_run(tmp_path)
    other.record(content_hash="0" * 64)
    assert available_methods(other) == tuple(UNTAUGHT)  # codes of other data do not count
    with pytest.raises(ArtifactError, match="was made from other data"):
        run_data(other)


@pytest.mark.parametrize("method", BY_CODE)
def test_a_query_is_encoded_as_the_notebook_encoded_it(finished, method):
    run, data = finished
    codes = load_encoder(run, method, data)(data.queries.images)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, run.load_codes(method)[1], atol=1e-4)
    hits = Retriever(run, data, method, "euclidean").search(data.queries.images[:3], 4)
    np.testing.assert_array_equal(hits.ids, Index().add(run.load_codes(method)[0]).search(codes[:3], 4).ids)


def test_matched_puts_the_notebook_s_hits_first_and_the_others_follow_by_fused_code(finished):
    run, data = finished
    images, retriever = data.queries.images[:6], Retriever(run, data, "matched")
    first = run.load_array("matched/reranked.npy", (None, 10), "int32")[:6]
    hits = retriever.search(images, 14)
    np.testing.assert_array_equal(hits.ids[:, :10], first)
    assert (np.diff(hits.distances) >= 0).all()
    by_code = Retriever(run, data, "fused").search(images, 600).ids
    for found, put_first, ranked in zip(hits.ids, first, by_code, strict=True):
        assert found[10:].tolist() == [row for row in ranked if row not in put_first][:4]
    np.testing.assert_array_equal(retriever.search(images[:1], 3).ids[0], hits.ids[0, :3])
    assert retriever.search(data.database.images[:2], 1).ids.tolist() == [[0], [1]]
    assert not np.isin(
        np.arange(2), np.diag(retriever.search(data.database.images[:2], 2, exclude_self=[0, 1]).ids)
    ).any()
    assert len(np.unique(retriever.search(images[:1], 600).ids)) == 600
    with pytest.raises(ValueError, match="k is 601, but the index holds only 600 rows"):
        retriever.search(images[:1], 601)


def test_a_map_that_the_codes_do_not_come_from_is_refused(finished_run, tmp_path):
    run, data = finished_run(tmp_path)
    with run.writing("manifold/diffusion_map.npz") as path, np.load(run.path("manifold/diffusion_map.npz")) as stored:
        np.savez(path, **{**stored, "time": stored["time"] + 1})
    with pytest.raises(ArtifactError, match="is not the map that the codes come from; run .*--from 08"):
        Retriever(run, data, "manifold").search(data.queries.images[:1], 1)


@pytest.mark.parametrize("method", [None, *UNTAUGHT])
def test_what_learns_nothing_needs_no_artifacts_and_finds_the_image_itself(tmp_path, method):
    data = load_dataset("shapes")
    retriever = Retriever(Run("shapes", tmp_path), data, method)
    assert retriever.method == (method or "distortion")
    assert len(retriever) == 600 and retriever.ids[:2] == ("0", "1")
    assert retriever.search(data.database.images[[5]], 1).ids.tolist() == [[5]]
    assert retriever.search(data.database.images[[5]], 1, exclude_self=[5]).ids.tolist() != [[5]]


def test_distortion_orders_the_candidates_of_hog_and_the_others_follow(tmp_path):
    data = load_dataset("shapes")
    run, images = Run("shapes", tmp_path), data.queries.images[:4]
    retriever, hits = Retriever(run, data, "distortion"), Retriever(run, data, "hog").search(images, 600).ids
    found = retriever.search(images, 60)
    apart = distortion(images, data.database.images, hits[:, :CANDIDATES])
    for row in range(4):
        by_hand = [hits[row, place] for place in np.argsort(apart[row], kind="stable")]
        assert found.ids[row].tolist() == [*by_hand, *hits[row, CANDIDATES:60]]
    assert (np.diff(found.distances) >= 0).all()


def test_the_way_between_two_images_starts_and_ends_with_what_is_made_of_them(finished):
    run, data = finished
    first, second = data.queries.images[:2]
    pixels = Retriever(run, data, "pixels").between(first, second, 3)
    np.testing.assert_allclose(pixels[0], first / 255, atol=1e-6)
    np.testing.assert_allclose(pixels[1], (first / 255.0 + second / 255.0) / 2, atol=1e-6)
    # The map's own codes cannot be decoded; the way leads through the network's.
    fused, plain = (Retriever(run, data, method).between(first, second) for method in ("fused", "taught"))
    assert fused.shape == (7, 28, 14, 1)
    np.testing.assert_array_equal(fused, plain)
    run.keep("hog", *(descriptors.oriented_gradients(split.images) for split in (data.database, data.queries)))
    assert Retriever(run, data, "hog").between(first, second) is None


def test_the_decoding_error_stands_beside_that_of_the_mean_image(finished, monkeypatch):
    run, data = finished
    retriever = Retriever(run, data, "pixels")
    images = data.database.images[:10]
    monkeypatch.setattr(retriever, "images", images)
    monkeypatch.setattr(Retriever, "_encode_and_decode", (lambda images: images, lambda codes: codes / 510))
    error, of_mean = retriever.decoding_error
    assert error == pytest.approx(np.square(images / 510).mean(), rel=1e-4)
    assert of_mean == pytest.approx((images / 255).var(axis=0).mean(), rel=1e-4)


def test_missing_artifacts_and_unknown_methods_are_named(finished, tmp_path):
    with pytest.raises(ArtifactError, match=r"convolutional.* does not exist yet; make it anew with .*--from 02"):
        Retriever(*finished, "convolutional")
    with pytest.raises(ArtifactError, match="there is no method 'magic'; .* has matched, fused"):
        Retriever(*finished, "magic")
    with pytest.raises(ArtifactError, match="holds no run"):
        run_data(Run("nothing", tmp_path))


def test_a_grey_query_takes_the_lightness_of_the_database_s_background():
    data = load_dataset("shapes")  # light on dark
    dark = data.queries.images[0]
    np.testing.assert_array_equal(fit_query(dark, data), dark)
    np.testing.assert_array_equal(fit_query(255 - dark, data), dark)
    colour = np.full((28, 14, 3), 250, np.uint8)
    assert fit_query(colour, data) is colour


# -- learning -------------------------------------------------------------------------------------------------------


def test_learning_from_a_folder_of_colour_images(tmp_path):
    """Discs of three colours on grey: in the end each finds discs of its colour, by every method."""
    rng, folder = np.random.default_rng(0), tmp_path / "discs"
    folder.mkdir()
    y, x = np.mgrid[:48, :48]
    for number in range(60):
        image = np.full((48, 48, 3), 90, np.uint8)
        inside = np.hypot(*(grid - 24 + rng.uniform(-6, 6) for grid in (y, x))) < rng.uniform(8, 14)
        image[inside] = ((230, 30, 30), (30, 220, 30), (40, 40, 240))[number % 3]
        Image.fromarray(image).save(folder / f"{number % 3}_{number:02d}.png")
    data, run = load_dataset(folder, size=64), Run("discs", tmp_path / "results")
    run.same_data(data.content_hash)
    history = learn_fused(run, data, epochs=4, verbose=False)
    assert data.database.images.shape == (60, 64, 64, 3) and len(history.loss) == 4
    assert available_methods(run) == (*LEARNED, *UNTAUGHT)
    for method in ("taught", "pixels"):
        hits = Retriever(run, data, method).search(data.database.images, 1, exclude_self=np.arange(60))
        right = [data.ids[row][0] == data.ids[hit][0] for row, hit in enumerate(hits.ids[:, 0])]
        assert np.mean(right) > 0.9, method


def test_labels_change_no_network_no_code_and_no_stopping_point(tmp_path):
    """With labels, with shuffled ones and without: the same history, the same codes, bits and hits."""
    shapes = load_dataset("shapes")
    images, labels = shapes.database.images[:60], shapes.database.labels[:60]
    outcomes = []
    for number, known in enumerate((labels, np.random.default_rng(1).permutation(labels), None)):
        data, run = replace(shapes, database=Split(images, known)), Run("shapes", tmp_path / str(number))
        history = learn_fused(run, data, epochs=2, verbose=False)
        for method in LEARNED:
            codes = load_encoder(run, method, data)(data.queries.images)
            np.testing.assert_allclose(codes, run.load_codes(method)[1], atol=1e-4)
        fused = run.load_codes("fused")[0]
        bits, hits = IterativeQuantization(16).fit(fused).encode(fused), Index("cosine").add(fused).search(fused, 3)
        codes = [array for method in LEARNED for array in run.load_codes(method)]
        outcomes.append(([history.loss], *codes, bits, hits.ids))
    for outcome in outcomes[1:]:
        for array, first in zip(outcome, outcomes[0], strict=True):
            np.testing.assert_array_equal(array, first)
    with pytest.raises(ValueError, match="a graph of neighbours needs three images or more, and there are 2"):
        learn_fused(run, replace(shapes, database=Split(images[:2])))
