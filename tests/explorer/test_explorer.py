"""The explorer's answers, asked for as the page asks."""

import base64
import io
import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from cbir_utils.datasets import Split, load_dataset
from cbir_utils.explorer.drawing import drawing_to_image, measure_hand
from cbir_utils.explorer.explorer import PER_PAGE, Explorer
from cbir_utils.retrieval.library import add_images
from cbir_utils.retrieval.query import usual_distance
from cbir_utils.retrieval.retriever import UNTAUGHT, Retriever
from cbir_utils.run import Run

HOG = {"do": "search", "query": {"query": 0}, "method": "hog", "metric": "cosine", "k": 5}


@pytest.fixture(scope="module")
def explorer(finished):
    yield Explorer(*finished)
    assert not plt.get_fignums()


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of 40 colour pictures in two folders, two of them the same, and its explorer."""
    folder, rng = tmp_path_factory.mktemp("pictures") / "album", np.random.default_rng(0)
    for number in range(40):
        path = folder / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(np.kron(image, np.ones((30, 30, 1), np.uint8))).save(path)
    (folder / "a" / "copy.png").write_bytes((folder / "a" / "04.png").read_bytes())
    data, run = load_dataset(folder, size=32, labels=True), Run("album", tmp_path_factory.mktemp("results"))
    run.belongs_to(folder, data.content_hash)
    return Explorer(run, data), folder


def asked(explorer, **changes):
    """The answer to :data:`HOG` with changes, which JSON can hold."""
    answer = explorer.ask({**HOG, **changes})
    assert json.loads(json.dumps(answer)) == answer
    return answer


def ids(answer):
    return [hit["id"] for hit in answer["hits"]]


def file(image, name="a.png", form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return {"file": base64.b64encode(buffer.getvalue()).decode(), "name": name}


def stroke(column=30):
    ink = np.zeros((112, 112), np.uint8)
    ink[20:90, column : column + 9] = 255
    return ink


def test_what_a_page_needs_to_know(explorer, album):
    known = explorer.ask({"do": "open"})
    assert known["start"] == {"method": "distortion", "metric": "cosine", "k": 5}
    assert [one["name"] for one in known["methods"]] == list(UNTAUGHT)
    assert known["classes"] == [str(digit) for digit in range(10)] and not known["files"] and not known["folders"]
    assert known["corruptions"]["rotation"][1:] == (60, "degrees")
    known = album[0].ask({"do": "open"})
    assert known["files"] and known["folders"] == known["classes"] == ["a", "b"] and known["name"] == "album"


def test_the_hits_are_those_of_the_retriever(explorer, finished):
    run, data = finished
    answer = asked(explorer)
    assert ids(answer) == [str(row) for row in Retriever(run, data, "hog").search(data.queries.images[:1], 5).ids[0]]
    assert answer["status"].startswith("Searched with query 0, by hog (no encoder) and cosine distance: 5 of 1,437")
    assert answer["query"]["asked"] == {"query": 0} and answer["ms"] > 0
    by_pixels = asked(explorer, method="pixels", metric="manhattan", k=8)
    expected = Retriever(run, data, "pixels", "manhattan").search(data.queries.images[:1], 8)
    assert ids(by_pixels) == [str(row) for row in expected.ids[0]]


def test_pages_follow_one_another_to_the_last_image(album):
    explorer = album[0]
    everything = ids(asked(explorer, k=60))
    assert len(everything) == 40  # all but the query
    pages = [asked(explorer, k=15, page=page) for page in range(3)]
    assert sum(map(ids, pages), []) == everything
    assert [page["more"] for page in pages] == [True, True, False] and [p["first"] for p in pages] == [0, 15, 30]
    assert asked(explorer, k=15, page=3)["hits"] == []


def test_a_hit_becomes_the_query_and_is_no_hit_of_itself(explorer):
    row = asked(explorer)["hits"][1]["row"]
    answer = asked(explorer, query={"row": row})
    assert answer["query"]["what"] == f"image {row}" and str(row) not in ids(answer)


def test_a_query_at_random_says_which_it_was(explorer):
    answer = asked(explorer, query={"query": "random"})
    assert asked(explorer, query=answer["query"]["asked"])["hits"] == answer["hits"]


def test_a_query_of_the_database_is_not_its_own_hit_and_has_its_name(album):
    explorer, _ = album
    answer = asked(explorer, query={"query": 3})
    assert answer["query"] == {**answer["query"], "what": "a/06.png", "asked": {"row": 3}} and "a/06.png" not in ids(
        answer
    )
    assert asked(explorer, query={"id": "b/07.png"})["query"]["what"] == "image b/07.png"
    assert asked(explorer, query={"id": "COPY"})["query"]["what"] == "image a/copy.png"
    assert asked(explorer, query={"id": "zebra"}) == {"error": "no image of this collection is called 'zebra'"}


@pytest.mark.parametrize("fit", [True, False])
def test_a_drawing_is_searched_in_the_database_s_hand(explorer, finished, fit):
    run, data = finished
    ink = base64.b64encode(stroke().tobytes()).decode()
    answer = asked(explorer, query={"ink": ink, "fit": fit})
    hand = measure_hand(data.database.images) if fit else None
    image = drawing_to_image(stroke(), (28, 28, 1), hand)
    assert ids(answer) == [str(row) for row in Retriever(run, data, "hog").search(image[None], 5).ids[0]]


def test_a_file_is_searched_on_the_database_s_ground_and_again_by_what_became_of_it(explorer, finished):
    image = finished[1].database.images[12, ..., 0]
    for given, name in ((image, "twelve.png"), (255 - image, "on paper.png")):
        answer = asked(explorer, query=file(np.kron(given, np.ones((4, 4), np.uint8)), name))
        assert answer["query"]["what"] == name and ids(answer)[0] == "12"
        assert asked(explorer, query=answer["query"]["asked"])["hits"] == answer["hits"]
        assert len(answer["query"]["asked"]["file"]) < 2000


def test_corruptions_spoil_the_query(explorer):
    clean = asked(explorer)
    spoilt = asked(explorer, spoil=["rotation", 60])
    assert ids(spoilt) != ids(clean) and "query 0 with rotation 60, by" in spoilt["status"]
    assert (
        spoilt["query"]["src"] != clean["query"]["src"]
        and asked(explorer, spoil=["rotation", 0])["hits"] == clean["hits"]
    )


def test_examples_refine_the_search_and_are_no_hits(explorer, finished):
    run, data = finished
    plus, minus = (hit["row"] for hit in asked(explorer)["hits"][1:3])
    answer = asked(explorer, plus=[plus], minus=[minus])
    images = data.database.images
    expected = Retriever(run, data, "hog").search_like(
        [data.queries.images[0], images[plus]], 5, unlike=images[[minus]], exclude=[plus, minus]
    )
    assert ids(answer) == [str(row) for row in expected.ids[0]]
    assert [one["row"] for one in answer["plus"] + answer["minus"]] == [plus, minus]
    assert "query 0 and 1 more like it, unlike 1, by" in answer["status"]


def test_labels_are_shown_on_demand_and_images_added_later_have_none(explorer, finished):
    assert {hit["label"] for hit in asked(explorer)["hits"]} == {""}
    known = finished[1].database.labels
    assert all(hit["label"] == str(known[hit["row"]]) for hit in asked(explorer, labels=True)["hits"])


def test_a_largest_distance_is_a_share_of_the_usual_one(explorer, finished):
    usual = usual_distance(Retriever(*finished, "hog"))
    far = asked(explorer, k=60)["hits"][-1]["exact"]
    assert len(asked(explorer, k=60, limit=far / usual * 1.0001)["hits"]) == 60
    some = asked(explorer, k=60, limit=0.5)["hits"]
    assert 0 < len(some) < 60 and some[-1]["exact"] <= 0.5 * usual
    nothing = asked(explorer, limit=0.001)
    assert nothing["hits"] == [] and "nothing here is alike" in nothing["status"]


def test_near_duplicates_are_folded_into_the_nearest(album):
    explorer, _ = album
    everything = asked(explorer, k=60)
    folded = asked(explorer, k=60, fold=True)
    assert len(folded["hits"]) == len(everything["hits"]) - 1
    (group,) = (hit for hit in folded["hits"] if hit["copies"])
    assert {group["id"], *group["copies"]} == {"a/04.png", "a/copy.png"}
    assert len(asked(explorer, k=10, fold=True)["hits"]) == 10


def test_thumbnails_are_of_the_original_files_and_kept(album):
    explorer, folder = album
    hit = asked(explorer)["hits"][0]
    assert hit["src"].startswith("data:image/jpeg;base64,")
    small = Image.open(io.BytesIO(base64.b64decode(hit["src"].split(",")[1])))
    assert small.size == (256, 256)  # of 360 × 360, where the network sees 32 × 32
    kept = explorer.run.path("thumbnails")
    count = len(list(kept.iterdir()))
    assert asked(explorer)["hits"][0]["src"] == hit["src"] and len(list(kept.iterdir())) == count
    path = folder / hit["id"]
    content = path.read_bytes()
    path.unlink()  # then the pixels that are searched stand for it
    assert asked(explorer)["hits"][0]["src"].startswith("data:image/png;base64,")
    path.write_bytes(content)


def test_an_original_is_opened_with_its_path_and_facts(album, explorer):
    shown = album[0].ask({"do": "original", "row": 2})
    assert shown["path"] == str(album[1] / "a" / "04.png") and shown["about"].startswith("360 × 360 pixels, ")
    shown = explorer.ask({"do": "original", "row": 2})
    assert shown["path"] == "" and shown["about"] == "28 × 28 pixels"


def test_the_collection_is_shown_by_pages_and_filters(album, explorer):
    def browsed(explorer, **filters):
        return explorer.ask({**HOG, "do": "browse", **filters})

    first = browsed(explorer)
    assert (first["found"], first["pages"], len(first["images"])) == (1437, 24, PER_PAGE)
    assert [one["row"] for one in browsed(explorer, page=1)["images"]] == list(range(60, 120))
    assert browsed(explorer, label="3")["found"] == (explorer.data.database.labels == 3).sum()
    assert browsed(album[0], folder="b")["found"] == 20
    assert [one["id"] for one in browsed(album[0], text="Copy")["images"]] == ["a/copy.png"]
    assert browsed(album[0], text="zebra") == {"found": 0, "page": 0, "pages": 0, "images": []}


def test_paths_can_be_exported(album, explorer):
    files = album[0].ask({"do": "export", "rows": [0, 2]})["files"]
    assert files == [{"id": name, "path": str(album[1] / name)} for name in ("a/00.png", "a/04.png")]
    assert explorer.ask({"do": "export", "rows": [7]})["files"] == [{"id": "7", "path": None}]


def test_the_map_shows_all_images_and_where_the_hits_are(album):
    explorer, _ = album
    shown = explorer.ask({**HOG, "do": "map"})
    assert json.loads(json.dumps(shown)) == shown and shown["rows"] == list(range(41))
    points = np.array(shown["points"])
    assert points.shape == (41, 2) and points.min() == 0 and points.max() == 1
    assert shown["ids"][2] == "a/04.png" and shown["labels"][2] == "a" and "all images" in shown["text"]
    answer = asked(explorer, map=True)
    assert answer["places"][1:] == [shown["points"][hit["row"]] for hit in answer["hits"]]
    assert answer["places"][0] == shown["points"][0]


def test_why_explains_the_hit_that_the_page_names(explorer):
    hit = asked(explorer)["hits"][2]
    figures = asked(explorer, do="why", rank=3, row=hit["row"], exact=hit["exact"])["figures"]
    assert figures[0] == {"text": "The codes of hog cannot be decoded: there is no path to show.", "src": None}
    assert figures[1]["text"].startswith("Map of the query: covering a part changes the distance to hit 3")
    by_pixels = asked(explorer, do="why", method="pixels", rank=1, row=hit["row"], exact=0.5)["figures"]
    assert by_pixels[0]["text"] == "7 images decoded on the way from the query's code to that of hit 1"
    assert all(figure["src"].startswith("data:image/png;base64,") for figure in by_pixels)


def test_the_first_answer_is_that_of_query_0(explorer, finished):
    answer = explorer.answer({"method": "hog"})
    np.testing.assert_array_equal(answer.image, finished[1].queries.images[0])
    assert [str(row) for row in answer.rows] == ids(asked(explorer))


def test_images_added_later_are_found(finished, tmp_path):
    run, data = Run("digits", tmp_path), finished[1]
    run.record(source="digits", content_hash=data.content_hash)
    add_images(run, data, data.queries.images[:1], ["new"])
    answer = asked(Explorer(run, data), labels=True)
    assert answer["hits"][0] == {**answer["hits"][0], "id": "new", "label": "", "row": 1437}


# -- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query": {"file": "anVzdCB0ZXh0", "name": "notes.txt"}}, "notes.txt cannot be a query: "),  # "just text"
        ({"query": {"ink": base64.b64encode(bytes(112 * 112)).decode()}}, "the drawing is empty; draw something first"),
        ({"query": {"query": 360}}, "the query's number must be a whole number from 0 to 359, not 360"),
        ({"query": {"row": -1}}, "the image's row must be a whole number from 0 to 1,436, not -1"),
        ({"query": {"row": "1"}}, "the image's row must be a whole number from 0 to 1,436, not '1'"),
        ({"k": 0}, "k must be a whole number from 1 to 500, not 0"),
        ({"page": -1}, "page must be a whole number"),
        ({"method": "deep"}, "deep"),
        ({"metric": "hamming"}, "hamming"),
        ({"plus": [5000]}, "index 5000 is out of bounds"),
        ({"query": {}}, "the request cannot be understood (KeyError"),
        ({"do": "rm"}, "the explorer has nothing to do by the name 'rm'"),
        ({"spoil": ["magic", 1]}, "there is no corruption 'magic'"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_sentence(explorer, changes, sentence):
    error = asked(explorer, **changes)["error"]
    assert sentence in error and "\n" not in error


def test_without_labels_none_are_offered(finished):
    run, data = finished
    without = Explorer(run, replace(data, database=Split(data.database.images)))
    assert without.ask({"do": "open"})["classes"] == [] and {
        hit["label"] for hit in asked(without, labels=True)["hits"]
    } == {""}
