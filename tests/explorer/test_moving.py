"""Figures that move: what they hand to their script. How they move under a hand is tried in tests/browser."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from cbir_utils.explorer.moving import film, pad


def data_of(figure):
    """What the page's script is given."""
    return json.loads(re.search(r"\(root, data\)\)\)\((.*)\);</script>$", figure._repr_html_())[1])


def test_the_frames_of_all_panels_share_their_axes():
    low, high = np.zeros((2, 3, 2)), np.full((2, 3, 2), [4.0, 2.0])
    data = data_of(film({"a": low, "b": high}, [0, 1, 0], ("zero", "one"), captions=["first", "last"]))
    assert [panel["title"] for panel in data["panels"]] == ["a", "b"]
    assert data["panels"][0]["frames"][0] == [[0, 0]] * 3 and data["panels"][1]["frames"][1] == [[1000, 1000]] * 3
    assert data["kinds"] == [0, 1, 0] and data["names"] == ["ze", "on"]
    assert data["captions"] == ["first", "last"] and data["start"] == 1


def test_points_that_are_all_alike_are_drawn():
    assert data_of(film({"a": np.ones((1, 2, 3))}, [0, 0], (), captions=[""]))["panels"][0]["frames"] == [[[0] * 3] * 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_pad_has_the_image_of_each_place(channels):
    def decode(codes):  # black at the lower left, light at the upper right
        return np.ones((len(codes), 8, 8, channels)) * (codes.sum(axis=1) / 6)[:, None, None, None]

    data = data_of(pad(decode, np.array([[0.0, 1.0], [2.0, 4.0]]), [0, 1], ("a", "b"), cells=3))
    assert data["low"] == [0, 1] and data["high"] == [2, 4] and data["points"] == [[0, 0], [1000, 1000]]
    sheet = Image.open(io.BytesIO(base64.b64decode(data["sprite"].split(",")[1]))).convert("L")
    assert sheet.size == (24, 24)
    # Line y and column x of the sheet hold the code at (x, 1 + 1.5 y): its sum is the grey, of 6.
    expected = 255 * np.array([[x + 1 + 1.5 * y for x in range(3)] for y in range(3)]) / 6
    assert np.allclose(np.asarray(sheet)[4::8, 4::8], expected, atol=4)


def test_no_name_ends_the_script():
    figure = film({"</script><b>": np.zeros((1, 1, 2))}, [0], ("<!",), captions=["</script>"])
    assert figure._repr_html_().count("</script>") == 1 and "<b>" not in figure._repr_html_()
    assert repr(figure) == "a figure that moves: </script><b>"
