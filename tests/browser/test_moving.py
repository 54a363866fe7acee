"""The figures that move, in a real browser: turned, played and dragged, by pointer and by keys."""

import nbformat
import numpy as np
import pytest
from browser.pages import KEPT, NOTEBOOK, run_notebook
from playwright.sync_api import expect

from cbir_utils.explorer.moving import film, pad


def figures():
    """A cloud that turns, a film, and a pad whose image is as light as its code is large."""
    rng = np.random.default_rng(0)
    kinds, names = np.arange(60) % 3, ("a", "b", "c")
    growing = rng.normal(size=(60, 2)) * np.arange(1, 5)[:, None, None]
    yield film({"a cloud": rng.normal(size=(1, 60, 3))}, kinds, names, captions=[""], caption="Drag to turn.")
    yield film({"left": growing, "right": -growing}, kinds, (), captions=["one", "two", "three", "four"])

    def decode(codes):
        return np.ones((len(codes), 8, 8, 1)) * codes.mean(axis=1)[:, None, None, None]

    yield pad(decode, rng.uniform(size=(60, 2)), kinds, names, cells=9)


@pytest.fixture(scope="module", params=["page", "lab"])
def shown(request, browser):
    """The three figures, on a page from the disk and in JupyterLab."""
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    failures = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    if request.param == "page":
        path = KEPT / "moving.html"
        path.write_text('<meta charset="utf-8">' + "<br>".join(figure._repr_html_() for figure in figures()))
        page.goto(path.as_uri())
    else:
        address, folder = request.getfixturevalue("lab"), KEPT / "notebooks"
        pieces = [f"display(HTML({figure._repr_html_()!r}))" for figure in figures()]
        cells = [nbformat.v4.new_code_cell("from IPython.display import HTML"), *map(nbformat.v4.new_code_cell, pieces)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "moving.ipynb")
        run_notebook(page, address.replace(NOTEBOOK, "moving.ipynb"), ".moving canvas")
        expect(page.locator(".moving canvas")).to_have_count(5)
    yield page.locator(".moving"), request.param
    page.screenshot(path=KEPT / f"moving_{request.param}.png", full_page=True)
    assert not failures
    page.close()


def picture(canvas):
    return canvas.evaluate("canvas => canvas.toDataURL()")


def drag(canvas, start, end):
    """Drag over a canvas, between two places given as shares of it."""
    canvas.scroll_into_view_if_needed()
    box, mouse = canvas.bounding_box(), canvas.page.mouse
    (x, y), (u, v) = ((box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in (start, end))
    mouse.move(x, y)
    mouse.down()
    mouse.move(u, v, steps=5)
    mouse.up()


def test_a_cloud_turns_under_the_pointer_and_the_keys(shown):
    canvas = shown[0].nth(0).locator("canvas")
    seen = [picture(canvas)]
    drag(canvas, (0.3, 0.5), (0.7, 0.6))
    seen.append(picture(canvas))
    for key in ("ArrowLeft", "ArrowUp"):
        canvas.press(key)
        seen.append(picture(canvas))
    assert len(set(seen)) == 4
    assert "arrow keys" in canvas.get_attribute("aria-label")


def test_a_film_plays_and_stops_at_its_end_and_the_slider_leads_back(shown):
    figure = shown[0].nth(1)
    slider, first = figure.get_by_role("slider"), figure.locator("canvas").first
    expect(figure).to_contain_text("four")  # it opens at its end
    end = picture(first)
    slider.fill("0")
    expect(figure).to_contain_text("one")
    assert picture(first) != end
    slider.press("ArrowRight")
    expect(figure).to_contain_text("two")
    figure.get_by_role("button").click()
    expect(figure).to_contain_text("four")
    expect(figure.get_by_role("button")).to_have_text("▶ play")
    assert picture(first) == end


def test_the_pad_shows_what_the_place_decodes_to(shown):
    figure = shown[0].nth(2)
    codes, decoded = figure.locator("canvas").all()
    grey = "canvas => canvas.getContext('2d').getImageData(20, 20, 1, 1).data[0]"
    drag(codes, (0.5, 0.5), (0.05, 0.95))
    dark = decoded.evaluate(grey)
    drag(codes, (0.5, 0.5), (0.95, 0.05))
    light = decoded.evaluate(grey)
    assert dark < 20 and light > 235
    said = figure.inner_text()
    codes.press("ArrowLeft")
    assert decoded.evaluate(grey) < light and figure.inner_text() != said
