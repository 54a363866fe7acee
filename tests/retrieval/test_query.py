"""A finished run searched with files: one, several, with a limit; as a list, a picture and a page."""

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbir_utils.artifacts.store import ArtifactError
from cbir_utils.datasets import load_dataset
from cbir_utils.folders.files import UnreadableImageError
from cbir_utils.retrieval.query import duplicates, query_file, usual_distance
from cbir_utils.retrieval.retriever import Retriever
from cbir_utils.run import Run


@pytest.fixture
def pictures(tmp_path):
    """A run of twelve pictures: four each of bars at the left, in the middle and at the right, with some noise."""
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        image = rng.integers(0, 20, (28, 28), dtype=np.uint8)
        image[4:24, 4 + 7 * (number // 4) :][:, :6] += 200
        Image.fromarray(image).save(folder / f"{number}.png")
    data, run = load_dataset(folder), Run("pictures", tmp_path / "results")
    run.belongs_to(folder, data.content_hash)
    return run, data


def test_a_file_is_searched_and_its_hits_are_drawn(pictures, tmp_path):
    answer = query_file(*pictures, tmp_path / "pictures" / "7.png", 3)
    assert answer == json.loads(json.dumps(answer))
    path = str(tmp_path / "pictures" / "7.png")
    assert answer["hits"][0] == {"rank": 1, "id": "7.png", "distance": 0.0, "path": path} and len(answer["hits"]) == 3
    assert (answer["method"], answer["metric"], answer["encoder"], answer["images"]) == (
        "distortion",
        "cosine",
        None,
        12,
    )
    assert not answer["negative"] and answer["background"] == "dark"
    (picture,) = pictures[0].path("queries").iterdir()
    assert answer["picture"] == str(picture) and picture.name.startswith("7_")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_searched_is_named(pictures, tmp_path):
    image = tmp_path / "pictures" / "0.png"
    for error, message, arguments in (
        (UnreadableImageError, "nothing.png: there is no such file", {"file": "nothing.png"}),
        (ValueError, "k is 13, but the index holds only 12 rows", {"k": 13}),
        (ArtifactError, "make it anew with", {"method": "fused"}),
        (ValueError, "Format 'xyz' is not supported", {"picture": tmp_path / "hits.xyz"}),
    ):
        with pytest.raises(error, match=message):
            query_file(*pictures, **{"file": image, **arguments})


def ids(answer):
    return [hit["id"] for hit in answer["hits"]]


def test_an_id_of_the_run_is_searched_without_itself(pictures):
    assert set(ids(query_file(*pictures, "4.png", 3))) == {"5.png", "6.png", "7.png"}


def test_more_examples_count_alike_and_those_not_meant_push_away(pictures):
    both = ids(query_file(*pictures, "0.png", 6, also=["4.png"]))
    assert set(both) == {f"{number}.png" for number in (1, 2, 3, 5, 6, 7)}
    pushed = query_file(*pictures, "0.png", 9, also=["4.png"], unlike=["5.png"])
    assert set(ids(pushed)[:3]) == {"1.png", "2.png", "3.png"}


def test_a_mean_code_by_hand(pictures):
    retriever = Retriever(*pictures, "pixels", "euclidean")
    images = retriever.images[:3]
    codes = images.reshape(3, -1).astype(np.float64) / 255
    wanted = codes[:2].mean(axis=0) - codes[2] / 2
    right = np.sqrt(np.square(images[1].ravel() / 255 - wanted).sum())
    hits = retriever.search_like(images[:2], 12, unlike=images[2:])
    assert hits.distances[0][hits.ids[0] == 1][0] == pytest.approx(right, rel=1e-5)


def test_nothing_alike_is_an_answer(pictures, tmp_path):
    retriever = Retriever(*pictures)
    nearest = retriever.search(retriever.images, 1, exclude_self=np.arange(12)).distances
    assert usual_distance(retriever) == pytest.approx(np.quantile(nearest, 0.99))
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(tmp_path / "other.png")
    answer = query_file(*pictures, tmp_path / "other.png", 5, max_distance="auto", page=tmp_path / "page.html")
    assert answer["hits"] == [] and answer["picture"] is None and (tmp_path / "page.html").exists()
    assert 1 <= len(query_file(*pictures, "0.png", 5, max_distance="auto")["hits"]) <= 3
    assert len(query_file(*pictures, "0.png", 5, max_distance=9)["hits"]) == 5


def test_a_page_holds_the_original_pictures_and_no_markup_of_a_name(pictures, tmp_path):
    strange = tmp_path / "a<b>&'.png"
    strange.write_bytes((tmp_path / "pictures" / "0.png").read_bytes())
    query_file(*pictures, strange, 3, page=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "a<b>" not in page and "a&lt;b&gt;&amp;" in page
    assert page.count("data:image/jpeg;base64,") == 3 and (tmp_path / "pictures" / "0.png").as_uri() in page


def test_duplicates_come_in_groups_with_the_largest_file_first(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(rng.integers(0, 100, (28, 28), dtype=np.uint8)).save(folder / f"{number:02}.png")
    with Image.open(folder / "03.png") as image:
        image.save(folder / "copy.bmp")
        image.save(folder / "copy.tif")
    data, run = load_dataset(folder), Run("album", tmp_path / "results")
    run.belongs_to(folder, data.content_hash)
    (group,) = duplicates(run, data, tmp_path / "page.html")
    assert {file["id"] for file in group} == {"03.png", "copy.bmp", "copy.tif"}
    assert [file["bytes"] for file in group] == sorted((file["bytes"] for file in group), reverse=True)
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg;base64,") == 3


def test_queries_of_one_name_have_a_picture_each_whatever_the_name(pictures, tmp_path):
    names = ["7.png", "n" * 240 + ".png", "a$_$\n<b>.png", os.fsdecode(b"\xff\xfe.png")]
    drawn = []
    for name, folder in product(names, ("one", "two")):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / "pictures" / "7.png").read_bytes())
        answer = query_file(*pictures, path, 3)
        drawn.append(answer["picture"])
        assert json.dumps(answer).encode() and "\\ud" not in json.dumps(answer).replace("\\\\ud", "")
    assert len(set(drawn)) == 8 and all(Path(path).is_file() for path in drawn)


def test_hits_are_the_answer_even_where_no_picture_can_be_kept(pictures, tmp_path):
    pictures[0].path("queries").write_text("no folder can be made here")
    answer = query_file(*pictures, tmp_path / "pictures" / "7.png", 3)
    assert answer["picture"] is None and len(answer["hits"]) == 3
    with pytest.raises(OSError, match="/dev/null"):  # but what the user asks for is made or named
        query_file(*pictures, tmp_path / "pictures" / "7.png", 3, picture="/dev/null/nowhere.png")


def test_images_whose_names_are_no_text_are_found_and_asked_for_by_what_is_printed(tmp_path):
    folder = tmp_path / "card"
    folder.mkdir()
    for number, name in enumerate((b"\xff.png", b"two\nlines.png", b"c.png")):
        Image.fromarray(np.full((28, 28), 40 * number, np.uint8)).save(folder / os.fsdecode(name))
    data, run = load_dataset(folder), Run("card", tmp_path / "results")
    run.belongs_to(folder, data.content_hash)
    answer = query_file(run, data, folder / "c.png", 3)
    assert set(ids(answer)) == {"\\udcff.png", "two\\nlines.png", "c.png"}
    assert "two\\nlines.png" not in ids(query_file(run, data, "two\\nlines.png", 2))
