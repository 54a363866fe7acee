"""Retrievers of a finished run: the same codes as the notebooks', images added later, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cbir_utils.datasets import Split, load_dataset
from cbir_utils.index import Index
from cbir_utils.methods import descriptors
from cbir_utils.methods.binary import IterativeQuantization
from cbir_utils.methods.contrastive import build_contrastive
from cbir_utils.methods.manifold import DiffusionMap, fuse
from cbir_utils.retrieval.retriever import (
    NEEDS,
    Retriever,
    add_images,
    available_methods,
    fit_query,
    learn,
    load_encoder,
    run_data,
)
from cbir_utils.run import ArtifactError, Run
from cbir_utils.training import encode


def finished_run(results, *, seed=0):
    """What notebooks 01 and 08 leave for the drawn shapes, with a network as it was born."""
    data, run = load_dataset("shapes"), Run("shapes", results)
    run.record(source="shapes", content_hash=data.content_hash, edge_weight=0.3)
    model = build_contrastive(data.database.images.shape[1:], seed=seed)
    for name in ("encoder", "autoencoder"):
        with run.writing(f"contrastive/{name}.keras") as path:
            getattr(model, name).save(path)
    images, queries = data.database.images, data.queries.images
    edges = descriptors.Projection.fit(descriptors.oriented_gradients(images), 64)
    with run.writing("joint/edges.npz") as path:
        edges.save(path)

    def joint(images):
        return fuse(encode(model.encoder, images), edges(descriptors.oriented_gradients(images)), 0.3)

    manifold = DiffusionMap.fit(joint(images), k=10, dimensions=20)
    with run.writing("manifold/diffusion_map.npz") as path:
        manifold.save(path)
    encoder = "contrastive/encoder.keras"
    run.save_codes("contrastive", encode(model.encoder, images), encode(model.encoder, queries))
    run.save_codes("joint", joint(images), joint(queries), encoder=encoder)
    mapped = manifold.codes, manifold.embed(joint(queries))
    run.save_codes("manifold", *mapped, encoder=encoder)
    fused = (fuse(m, joint(i)) for m, i in zip(mapped, (images, queries), strict=True))
    run.save_codes("fused", *fused, encoder=encoder)
    return run, data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("results"))


def test_the_methods_at_hand_are_listed_best_first(finished, tmp_path):
    assert available_methods(finished[0]) == ("fused", "manifold", "contrastive", "joint", "pixels")
    assert available_methods(Run("nothing", tmp_path)) == ("pixels",)
    assert list(NEEDS)[-1] == "pixels"


def test_the_data_of_a_run_are_found_again(finished, tmp_path):
    run, data = finished
    assert run_data(run).content_hash == data.content_hash
    with pytest.raises(ArtifactError, match="holds no run"):
        run_data(Run("nothing", tmp_path))
    other = Run("shapes", tmp_path)
    other.record(source="shapes", content_hash="0" * 64)
    with pytest.raises(ArtifactError, match="was made from other data"):
        run_data(other)


@pytest.mark.parametrize("method", ["fused", "manifold", "contrastive", "joint"])
def test_a_query_is_encoded_as_the_notebook_encoded_it(finished, method):
    run, data = finished
    known = run.load_codes(method)[1]
    codes = load_encoder(run, method)(data.queries.images)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, known, atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_hits_are_those_of_the_index(finished, metric):
    run, data = finished
    hits = Retriever(run, data, "contrastive", metric).search(data.queries.images[:3], 4)
    codes, queries = run.load_codes("contrastive")
    np.testing.assert_array_equal(hits.ids, Index(metric).add(codes).search(queries[:3], 4).ids)


def test_pixels_need_no_artifacts_and_find_the_image_itself(tmp_path):
    data, run = load_dataset("shapes"), Run("shapes", tmp_path)
    retriever = Retriever(run, data)
    assert retriever.method == "pixels" and len(retriever) == 600 and retriever.ids[:2] == ("0", "1")
    assert retriever.search(data.database.images[[5]], 1).ids.tolist() == [[5]]
    assert retriever.search(data.database.images[[5]], 1, exclude_self=[5]).ids.tolist() != [[5]]


def test_the_way_between_two_images_starts_and_ends_with_what_is_made_of_them(finished, tmp_path):
    run, data = finished
    first, second = data.queries.images[:2]
    pixels = Retriever(run, data, "pixels").between(first, second, 3)
    np.testing.assert_allclose(pixels[0], first / 255, atol=1e-6)
    np.testing.assert_allclose(pixels[1], (first / 255.0 + second / 255.0) / 2, atol=1e-6)
    # The map's own codes cannot be decoded; the way leads through the network's.
    fused, plain = (Retriever(run, data, method).between(first, second) for method in ("fused", "contrastive"))
    assert fused.shape == (7, 28, 14, 1)
    np.testing.assert_array_equal(fused, plain)
    run.save_codes("hog", *(descriptors.oriented_gradients(s.images) for s in (data.database, data.queries)),
                   encoder=None)  # fmt: skip
    assert Retriever(run, data, "hog").between(first, second) is None


def test_missing_artifacts_and_unknown_methods_are_named(finished, tmp_path):
    run, data = finished
    with pytest.raises(ArtifactError, match=r"convolutional.* does not exist yet; make it with .*--from 02"):
        Retriever(run, data, "convolutional")
    with pytest.raises(ArtifactError, match="there is no method 'magic'; .* has fused, manifold"):
        Retriever(run, data, "magic")


@pytest.mark.parametrize("side", [32, 64])
def test_learning_from_a_folder_of_colour_images(tmp_path, side):
    """Discs of three colours on grey: in the end each finds discs of its colour, by every method."""
    rng, folder = np.random.default_rng(0), tmp_path / "discs"
    folder.mkdir()
    y, x = np.mgrid[:48, :48]
    for number in range(60):
        image = np.full((48, 48, 3), 90, np.uint8)
        inside = np.hypot(*(grid - 24 + rng.uniform(-6, 6) for grid in (y, x))) < rng.uniform(8, 14)
        image[inside] = ((230, 30, 30), (30, 220, 30), (40, 40, 240))[number % 3]
        Image.fromarray(image).save(folder / f"{number % 3}_{number:02d}.png")
    data, run = load_dataset(folder, size=side), Run("discs", tmp_path / "results")
    run.same_data(data.content_hash)
    history = learn(run, data, epochs=4, rounds=1, verbose=False)
    assert data.database.images.shape == (60, side, side, 3) and len(history.loss) == 5
    for method in ("contrastive", "pixels"):
        retriever = Retriever(run, data, method)
        hits = retriever.search(data.database.images, 1, exclude_self=np.arange(60))
        right = [data.ids[row][0] == data.ids[hit][0] for row, hit in enumerate(hits.ids[:, 0])]
        assert np.mean(right) > 0.9, method
    for method in ("joint", "manifold", "fused"):  # greys alone do not tell colours apart
        assert load_encoder(run, method)(data.database.images[:3]).shape == (3, run.load_codes(method)[0].shape[1])


def test_what_is_learned_is_what_the_retrievers_search(tmp_path):
    data, run = load_dataset("shapes"), Run("shapes", tmp_path)
    run.same_data(data.content_hash)
    learn(run, data, epochs=1, rounds=0, verbose=False)
    assert available_methods(run) == ("fused", "manifold", "contrastive", "joint", "pixels")
    for method in ("fused", "manifold", "joint", "contrastive"):
        codes = load_encoder(run, method)(data.queries.images)
        np.testing.assert_allclose(codes, run.load_codes(method)[1], atol=1e-4)


def test_labels_change_no_network_no_code_and_no_stopping_point(tmp_path):
    """With labels, with shuffled ones and without: the same history, the same codes, bits and hits."""
    shapes = load_dataset("shapes")
    images, labels = shapes.database.images[:60], shapes.database.labels[:60]
    outcomes = []
    for number, known in enumerate((labels, np.random.default_rng(1).permutation(labels), None)):
        data, run = replace(shapes, database=Split(images, known)), Run("shapes", tmp_path / str(number))
        history = learn(run, data, epochs=2, rounds=2, verbose=False)
        codes = {method: run.load_codes(method) for method in ("contrastive", "joint", "manifold", "fused")}
        outcomes.append((history.loss, history.mutual_share, codes))
    for loss, mutual_share, codes in outcomes[1:]:
        assert loss == outcomes[0][0] and mutual_share == outcomes[0][1]
        for method, arrays in codes.items():
            for array, first in zip(arrays, outcomes[0][2][method], strict=True):
                np.testing.assert_array_equal(array, first)
    (first, _), *others = [codes["fused"] for *_, codes in outcomes]
    bits, hits = IterativeQuantization(16).fit(first).encode(first), Index("cosine").add(first).search(first, 3).ids
    for other, _ in others:
        assert (IterativeQuantization(16).fit(other).encode(other) == bits).all()
        assert (Index("cosine").add(other).search(other, 3).ids == hits).all()


def test_two_images_are_too_few_for_a_graph(tmp_path):
    shapes = load_dataset("shapes")
    data = replace(shapes, database=Split(shapes.database.images[:2]))
    with pytest.raises(ValueError, match="shapes has 2 images; a graph of neighbours needs three or more"):
        learn(Run("shapes", tmp_path), data, verbose=False)


# -- images added later ---------------------------------------------------------------------------------------------


def test_added_images_are_found_and_adding_them_twice_adds_them_once(tmp_path):
    run, data = finished_run(tmp_path)
    new = load_dataset("shapes", seed=9).queries.images[:5]
    before = {method: Retriever(run, data, method).codes for method in ("fused", "contrastive")}
    assert add_images(run, data, new[:3], ["a.png", "b.png", "c.png"]) == ["a.png", "b.png", "c.png"]
    assert add_images(run, data, new, ["a.png", "b.png", "c.png", "d.png", "e.png"]) == ["d.png", "e.png"]
    assert add_images(run, data, new, ["a.png", "b.png", "c.png", "d.png", "e.png"]) == []
    for method in ("fused", "contrastive", "pixels"):
        retriever = Retriever(run, data, method)
        assert len(retriever) == 605 and retriever.ids[600:] == ("a.png", "b.png", "c.png", "d.png", "e.png")
        assert retriever.search(new, 1).ids.ravel().tolist() == [600, 601, 602, 603, 604]
        np.testing.assert_array_equal(retriever.images[600:], new)
    for method, codes in before.items():  # the database's own rows stay as they were
        np.testing.assert_array_equal(Retriever(run, data, method).codes[:600], codes)


def test_added_images_are_encoded_anew_after_another_training(tmp_path):
    run, data = finished_run(tmp_path)
    new = load_dataset("shapes", seed=9).queries.images[:2]
    add_images(run, data, new, ["a.png", "b.png"])
    finished_run(tmp_path, seed=5)
    retriever = Retriever(run, data, "contrastive")
    np.testing.assert_allclose(retriever.codes[600:], retriever.encode(new), atol=1e-5)
    assert retriever.search(new, 1).ids.ravel().tolist() == [600, 601]


def test_a_damaged_batch_of_added_images_is_named(tmp_path):
    run, data = finished_run(tmp_path)
    add_images(run, data, data.queries.images[:1], ["a.png"])
    run.path("added/0001.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="added/0001.npz differs from its hash"):
        Retriever(run, data)


def test_an_added_image_that_is_in_the_folder_by_now_is_there_once(tmp_path):
    folder, run = tmp_path / "pictures", Run("pictures", tmp_path / "results")
    folder.mkdir()
    new = np.random.default_rng(0).integers(0, 100, (4, 28, 28), dtype=np.uint8)
    for number in range(3):
        Image.fromarray(new[number]).save(folder / f"{number}.png")
    data = load_dataset(folder)
    run.record(content_hash=data.content_hash)
    add_images(run, data, new[2:, ..., None], ["x.png", "y.png"])
    Image.fromarray(new[2]).save(folder / "x.png")
    data = load_dataset(folder)
    retriever = Retriever(run, data, "pixels")
    assert retriever.ids == ("0.png", "1.png", "2.png", "x.png", "y.png")
    assert len(retriever.images) == len(retriever.codes) == 5
    larger = load_dataset(folder, size=32)
    with pytest.raises(
        ArtifactError, match="0001.npz holds images of .28, 28, 1., and the run's are of .32, 32, 1. now"
    ):
        Retriever(run, larger, "pixels")
    run.path("added/0001.npz").unlink()
    assert len(Retriever(run, larger, "pixels")) == 4


def test_codes_of_other_data_do_not_count(tmp_path):
    run, _ = finished_run(tmp_path)
    run.record(content_hash="0" * 64)
    assert available_methods(run) == ("pixels",)


def test_images_of_another_form_cannot_be_added(finished):
    run, data = finished
    with pytest.raises(ValueError, match=r"images must be uint8 \(M, 28, 14, 1\), not uint8 \(1, 28, 28, 1\)"):
        add_images(run, data, np.zeros((1, 28, 28, 1), np.uint8), ["a.png"])


# -- queries of one's own -------------------------------------------------------------------------------------------


def test_a_grey_query_takes_the_lightness_of_the_database_s_background():
    data = load_dataset("shapes")  # light on dark
    dark = data.queries.images[0]
    np.testing.assert_array_equal(fit_query(dark, data), dark)
    np.testing.assert_array_equal(fit_query(255 - dark, data), dark)
    colour = np.full((28, 14, 3), 250, np.uint8)
    assert fit_query(colour, data) is colour
