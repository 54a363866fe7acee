"""The explorer's widgets, driven without a browser by setting what a browser would set."""

import io
from dataclasses import replace
from datetime import UTC, datetime

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from cbir_utils.datasets import Split
from cbir_utils.explorer.drawing import drawing_to_image
from cbir_utils.explorer.widgets import Explorer, open_explorer
from cbir_utils.retrieval.retriever import Retriever


@pytest.fixture
def opened(finished):
    yield Explorer(*finished)
    plt.close("all")


def ids(opened):
    return [hit["id"] for hit in opened.strip.answer["hits"]]


def draw(opened, ink, *, pen_down=False):
    """What the pad in the browser sends."""
    number = opened.pad.number + 1
    opened.pad.set_state({"pixels": memoryview(ink.tobytes()), "pen_down": pen_down, "number": number})


def one_stroke(column=30):
    ink = np.zeros((112, 112), np.uint8)
    ink[20:90, column : column + 9] = 255
    return ink


def upload(opened, name, content):
    file = {"name": name, "type": "", "size": len(content), "last_modified": datetime.now(UTC)}
    opened.upload.value = ({**file, "content": memoryview(content)},)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_it_opens_with_the_best_method_and_the_first_query(opened, finished):
    run, data = finished
    expected = Retriever(run, data, "hog").search(data.queries.images[:1], 5)
    assert ids(opened) == [str(row) for row in expected.ids[0]]
    answer = opened.strip.answer
    assert answer["status"].startswith("Searched with query 0, by hog (no encoder) and cosine distance: 5 of 1,437")
    assert answer["ms"] > 0 and opened.strip.error == ""
    assert opened.method.options == ("hog", "pixels")


def test_a_hit_becomes_the_query_and_is_no_hit_of_itself(opened):
    before = ids(opened)
    opened.strip._handle_custom_msg({"pick": 2}, [])  # as the browser sends it
    assert opened.query.what == f"image {before[1]}" and before[1] not in ids(opened)
    third = ids(opened)[2]
    opened.pick(3)
    assert opened.query.what == f"image {third}" and opened.strip.answer["past"] == 2
    opened.strip._handle_custom_msg({"back": True}, [])
    opened.back()
    assert ids(opened) == before and opened.strip.answer["past"] == 0
    opened.back()  # no further
    opened.pick(6)  # there is none
    assert ids(opened) == before


def test_a_drawing_is_searched_while_the_pen_moves_and_is_one_step_back(opened, finished):
    first = ids(opened)
    for column in (30, 40, 50):
        draw(opened, one_stroke(column), pen_down=True)
        assert opened.strip.answer["drawing"] == opened.pad.number
    retriever = Retriever(*finished, "hog")
    for fit in (True, False):
        opened.fit.value = fit
        image = drawing_to_image(one_stroke(50), (28, 28, 1), fit=fit)
        assert ids(opened) == [str(row) for row in retriever.search(image[None], 5).ids[0]]
    opened.back()
    assert ids(opened) == first


def test_a_query_by_number_or_at_random_does_not_find_itself_in_the_database(finished):
    run, data = finished
    opened = Explorer(run, replace(data, queries=Split(data.database.images[:10]), own_rows=np.arange(10)))
    opened.row.value = 4
    assert opened.query.what == "query 4" and "4" not in ids(opened) and opened.answer.distances[0] > 0
    opened.random.click()
    assert opened.row.value != 4 and opened.query.what == f"query {opened.row.value}"


def test_an_upload_is_the_query(opened, finished):
    image = finished[1].database.images[12, ..., 0]
    upload(opened, "twelve.png", png(image))
    assert opened.query.what == "twelve.png" and ids(opened)[0] == "12" and opened.upload.value == ()
    upload(opened, "on paper.png", png(255 - image))
    assert opened.query.what == "on paper.png" and ids(opened)[0] == "12"


def test_corruptions_spoil_the_query_and_leave_the_database(opened):
    clean, image = ids(opened), opened.answer.image
    opened.corruption.value = "rotation"
    assert opened.strength.max == 60 and opened.strength.value == 0 and "degrees" in opened.unit.value
    opened.strength.value = 60
    assert ids(opened) != clean and "with rotation 60" in opened.strip.answer["status"]
    assert not np.array_equal(opened.answer.image, image) and np.array_equal(opened.query.image, image)
    opened.corruption.value = "stroke width"  # takes the strength back
    assert opened.strength.min < 0 and opened.strength.value == 0 and ids(opened) == clean


def test_method_metric_number_of_hits_and_labels_follow_the_controls(opened, finished):
    run, data = finished
    opened.method.value, opened.metric.value, opened.count.value = "pixels", "manhattan", 8
    expected = Retriever(*finished, "pixels", "manhattan").search(opened.query.image[None], 8)
    assert ids(opened) == [str(row) for row in expected.ids[0]]
    assert "by pixels (no encoder) and manhattan distance: 8 of" in opened.strip.answer["status"]
    assert {hit["label"] for hit in opened.strip.answer["hits"]} == {""}
    opened.labels.value = True
    shown = [hit["label"] for hit in opened.strip.answer["hits"]]
    assert shown == [str(data.database.labels[row]) for row in opened.answer.rows]
    without = Explorer(run, replace(data, database=Split(data.database.images)))
    assert without.labels.disabled


def test_why_and_where_are_shown_on_demand_and_wait_for_the_pen(opened):
    assert opened.why_view.value == opened.where_view.value == ""
    opened.why.value = opened.where.value = True
    why = opened.why_view.value
    assert "The codes of hog cannot be decoded" in why and 'alt="Map of the query: covering a part changes' in why
    assert 'alt="Map of the codes with the query and its 5 hits' in opened.where_view.value
    draw(opened, one_stroke(), pen_down=True)
    assert opened.why_view.value == why
    draw(opened, one_stroke())
    assert opened.why_view.value != why and not plt.get_fignums()
    opened.count.value, opened.hit.value = 3, 3
    assert opened.hit.options == (1, 2, 3) and "to hit 3" in opened.why_view.value
    opened.method.value = "pixels"
    assert 'alt="7 images decoded on the way' in opened.why_view.value
    opened.why.value = opened.where.value = False
    assert opened.why_view.value == opened.where_view.value == ""


def test_every_view_has_a_figure(opened):
    assert opened.snapshot()["path"] is None
    opened.method.value = "pixels"
    opened.corruption.value, opened.strength.value = "noise", 0.3
    figures = opened.snapshot(hit=2)
    assert list(figures) == ["hits", "path", "occlusion", "where"]
    assert np.array_equal(figures["hits"].axes[0].images[0].get_array(), opened.answer.image[..., 0])
    assert "to that of hit 2" in figures["path"].get_suptitle()


# -- what goes wrong ------------------------------------------------------------------------------------------------


def test_an_upload_that_is_no_image_is_named_and_changes_nothing(opened):
    before = opened.strip.answer
    for name, content in (("notes.txt", b"just text"), ("cut.png", png(np.eye(50, dtype=np.uint8))[:60])):
        upload(opened, name, content)
        assert opened.strip.error.startswith(f"{name} cannot be a query: ") and "\n" not in opened.strip.error
        assert opened.strip.answer is before and opened.upload.value == ()
    opened.row.value += 1
    assert opened.strip.error == ""


def test_an_empty_drawing_and_more_hits_than_images_are_named(opened, finished):
    before = ids(opened)
    draw(opened, np.zeros((112, 112), np.uint8))
    assert opened.strip.error == "the drawing is empty; draw something first" and ids(opened) == before
    opened = Explorer(*finished, k=2000)
    assert opened.strip.error == "k is 2000, but the index holds only 1437 rows" and opened.strip.answer == {}
    opened.count.value = 4
    assert opened.strip.error == "" and len(ids(opened)) == 4


def test_a_method_without_artifacts_is_named_and_pixels_or_the_one_before_answer(finished):
    opened = Explorer(*finished, method="deep")
    assert "deep" in opened.strip.error and "python" in opened.strip.error  # the command that makes them
    assert opened.method.value == "pixels" and opened.strip.answer["method"] == "pixels"
    before = ids(opened)
    codes = finished[0].path("hog/codes_database.npy")
    moved = codes.rename(codes.with_suffix(".gone"))
    opened.method.value = "hog"
    moved.rename(codes)
    assert "codes_database.npy" in opened.strip.error
    assert opened.method.value == "pixels" and ids(opened) == before


def test_opening_says_what_is_missing(tmp_path, finished):
    widget = open_explorer("digits", tmp_path)
    assert "holds no run" in widget.value and "cbir_utils run" in widget.value
    assert "cbir-explorer" in open_explorer("digits", finished[0].results)._dom_classes
