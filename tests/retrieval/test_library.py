"""Images added to a finished run later."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cbir_utils.artifacts.locks import exclusive
from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import load_dataset
from cbir_utils.retrieval.library import Added, add_folder, add_images
from cbir_utils.retrieval.query import query_file
from cbir_utils.retrieval.retriever import Retriever
from cbir_utils.run import Run

NAMES = ["a.png", "b.png", "c.png", "d.png", "e.png"]
NEW = load_dataset("shapes", seed=9).queries.images[:5]


def ink(seed, count):
    """Random images, light on dark: ``(count, 28, 28)`` uint8."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = np.random.default_rng(seed).integers(0, 256, (count, 20, 20))
    return images


def write(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def folder_run(folder, results):
    """A run of a folder of images that are searched by their pixels."""
    data, run = load_dataset(folder), Run(folder.name, results)
    run.belongs_to(folder, data.content_hash)
    return run, data


@pytest.fixture
def pictures(tmp_path):
    return folder_run(write(tmp_path / "pictures", ink(0, 12)), tmp_path / "results")


# -- images added later ---------------------------------------------------------------------------------------------


def test_added_images_are_found_and_adding_them_twice_adds_them_once(finished_run, tmp_path):
    run, data = finished_run(tmp_path)
    before = {method: Retriever(run, data, method).codes for method in ("fused", "taught")}
    assert add_images(run, data, NEW[:3], NAMES[:3]) == NAMES[:3]
    assert add_images(run, data, NEW, NAMES) == NAMES[3:]
    assert add_images(run, data, NEW, NAMES) == []
    for method in ("matched", "fused", "taught", "pixels"):
        retriever = Retriever(run, data, method)
        assert len(retriever) == 605 and list(retriever.ids[600:]) == NAMES
        assert retriever.search(NEW, 1).ids.ravel().tolist() == [600, 601, 602, 603, 604]
        np.testing.assert_array_equal(retriever.images[600:], NEW)
    for method, codes in before.items():  # the database's own rows stay as they were
        np.testing.assert_array_equal(Retriever(run, data, method).codes[:600], codes)


def test_added_images_are_encoded_anew_after_another_training(finished_run, tmp_path):
    run, data = finished_run(tmp_path)
    add_images(run, data, NEW, NAMES)
    finished_run(tmp_path, seed=5)
    retriever = Retriever(run, data, "taught")
    np.testing.assert_allclose(retriever.codes[600:], retriever.encode(NEW), atol=1e-5)


def test_a_folder_is_added_under_its_name_and_the_run_s_own_folder_under_none(pictures, tmp_path):
    more = write(tmp_path / "more", ink(1, 2))
    (more / "note.txt").write_text("no image")
    assert add_folder(*pictures, more) == Added(added=2, known=0, rejects=1)
    assert "note.txt" in pictures[0].path("rejects_added.csv").read_text()
    assert add_folder(*pictures, more) == Added(added=0, known=2, rejects=1)
    Image.fromarray(ink(2, 1)[0]).save(write(tmp_path / "pictures" / "new", []) / "x.png")
    assert add_folder(*pictures, tmp_path / "pictures" / "new") == Added(added=1, known=0, rejects=0)
    assert Retriever(*pictures).ids[12:] == ("more/0.png", "more/1.png", "new/x.png")


def test_a_scan_on_the_other_ground_is_found_by_its_own_file(pictures, tmp_path):
    """Dark on light, in a database of light on dark: it was searched as its negative, but not added as such."""
    scans = write(tmp_path / "scans", 255 - ink(1, 3))
    add_folder(*pictures, scans)
    for number in range(3):
        answer = query_file(*pictures, scans / f"{number}.png", 1)
        assert answer["negative"]
        assert answer["hits"] == [{"rank": 1, "id": f"scans/{number}.png", "distance": 0.0, "path": None}]


def test_images_added_to_one_folder_are_never_found_in_another_of_the_same_name(tmp_path):
    one, other = (write(tmp_path / name / "stamps", ink(seed, 5)) for seed, name in enumerate("ab"))
    run, data = folder_run(one, tmp_path / "results")
    add_folder(run, data, write(tmp_path / "more", ink(2, 2)))
    with pytest.raises(ArtifactError, match=r"belongs to .*stamps, and .*stamps holds other images; .*--results"):
        folder_run(other, tmp_path / "results")
    for ask in (Retriever, lambda *run_and_data: add_folder(*run_and_data, other)):  # whoever does not ask first
        with pytest.raises(ArtifactError, match="was made from other data"):
            ask(run, load_dataset(other))
    assert len(Retriever(run, data)) == 7


def test_adding_at_the_same_time_loses_nothing(pictures):
    """Under a runner too, which holds the run for the notebook that adds."""
    run, data = pictures
    images = ink(3, 12)[..., None]
    with exclusive(run.folder), ThreadPoolExecutor(6) as pool:
        added = list(pool.map(lambda row: add_images(run, data, images[[row]], [f"x/{row}.png"]), range(12)))
    assert added == [[f"x/{row}.png"] for row in range(12)]
    assert len(Retriever(run, data)) == 24


def test_an_added_image_that_is_in_the_folder_by_now_is_there_once(pictures, tmp_path):
    run, folder = pictures[0], tmp_path / "pictures"
    new = ink(4, 2)
    add_images(*pictures, new[..., None], ["x.png", "y.png"])
    Image.fromarray(new[0]).save(folder / "x.png")
    run, data = folder_run(folder, tmp_path / "results")
    retriever = Retriever(run, data)
    assert retriever.ids[-3:] == ("9.png", "x.png", "y.png")
    assert len(retriever.images) == len(retriever.codes) == 14
    larger = load_dataset(folder, size=32)
    run.belongs_to(folder, larger.content_hash)
    with pytest.raises(ArtifactError, match=r"0001.npz holds images of .28, 28, 1., not of .32, 32, 1.; delete it and"):
        Retriever(run, larger)
    run.path("added/0001.npz").unlink()
    assert len(Retriever(run, larger)) == 13


def test_a_damaged_batch_and_images_of_another_form_are_named(pictures):
    run, data = pictures
    with pytest.raises(ValueError, match=r"images must be of \(28, 28, 1\), not of \(28, 14, 1\)"):
        add_images(run, data, NEW[:1], ["a.png"])
    add_images(run, data, ink(1, 1)[..., None], ["a.png"])
    run.path("added/0001.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="added/0001.npz differs from its hash"):
        Retriever(run, data)


# -- content and place ----------------------------------------------------------------------------------------------


def searched(run, data):
    return set(Retriever(run, data, "pixels").ids)


def test_two_cards_with_one_name_and_other_pictures_are_both_searched(pictures, tmp_path):
    cards = [write(tmp_path / card / "DCIM", ink(number, 6)) for number, card in enumerate(("one", "two"), 1)]
    for card in (*cards, *cards):  # the second time, all is known
        added = add_folder(*pictures, card)
    assert added == Added(0, 6, 0)
    names = {f"{number}.png" for number in range(6)}
    later = {f"DCIM/{name}" for name in names} | {f"DCIM (2)/{name}" for name in names}
    assert searched(*pictures) == {f"{number}.png" for number in range(12)} | later


def test_the_same_picture_in_another_place_is_another_image(pictures, tmp_path):
    again = write(tmp_path / "again", ink(0, 2))
    assert add_folder(*pictures, again) == Added(2, 0, 0)


def test_the_folder_itself_moved_or_met_through_a_link_is_known(pictures, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    assert add_folder(*pictures, tmp_path / "link") == Added(0, 12, 0)
    (tmp_path / "linked").mkdir()
    for path in sorted((tmp_path / "pictures").iterdir()):
        (tmp_path / "linked" / path.name).hardlink_to(path)
    assert add_folder(*pictures, tmp_path / "linked") == Added(0, 12, 0)
    moved = (tmp_path / "pictures").rename(tmp_path / "moved")
    assert add_folder(*pictures, moved) == Added(0, 12, 0)


def test_a_picture_changed_in_the_run_s_own_folder_takes_the_old_one_s_place(pictures, tmp_path):
    Image.fromarray(ink(7, 1)[0]).save(tmp_path / "pictures" / "3.png")
    assert add_folder(*pictures, tmp_path / "pictures") == Added(1, 11, 0)
    retriever = Retriever(*pictures, "pixels")
    (row,) = retriever.search(ink(7, 1)[..., None], 1).ids[0]
    assert retriever.ids[row] == "3.png" and len(retriever) == 12


def test_the_results_are_no_images(pictures, tmp_path):
    run, data = pictures
    write(run.results / "pictures" / "queries", ink(5, 3))
    write(tmp_path / "more", ink(6, 2))
    (tmp_path / "pictures").rename(tmp_path / "more" / "old")
    assert add_folder(run, data, tmp_path) == Added(2, 12, 0)


@pytest.mark.parametrize("damage", ["an id less", "no ids", "no origins", "codes less"])
def test_a_batch_whose_parts_do_not_fit_is_refused(finished_run, tmp_path, damage):
    run, data = finished_run(tmp_path)
    add_images(run, data, NEW[:3], NAMES[:3])
    with np.load(run.path("added/0001.npz")) as file:
        batch = dict(file)
    if damage.startswith("no "):
        del batch[damage[3:]]
    else:
        part = "ids" if damage == "an id less" else "codes_taught"
        batch[part] = batch[part][:2]
    with run.writing("added/0001.npz") as partial:
        np.savez(partial, **batch)
    with pytest.raises(ArtifactError, match="0001.npz is .*; delete it and add its images again"):
        Retriever(run, data, "pixels")
