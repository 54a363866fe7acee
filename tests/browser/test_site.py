"""The site as pages on the disk: every lesson, the search, the dark, a phone, and an explorer that needs no kernel."""

import importlib.util
import re

import numpy as np
import pytest
from browser.pages import KEPT, ROOT
from playwright.sync_api import expect

from cbir_utils.datasets import load_dataset, scale
from cbir_utils.index import Index
from cbir_utils.run import Run
from cbir_utils.training import encode, load_model


@pytest.fixture(scope="module")
def pages():
    """The folder of the pages, made from the run of these tests."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "site" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.main(KEPT / "results", KEPT / "site") == 0
    return KEPT / "site" / "pages"


@pytest.fixture
def open_page(browser, pages):
    """Opens a page; at the end none has failed, none has fetched anything from elsewhere."""
    opened, failures, asked = [], [], []

    def opener(name, width=1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        file, _, question = name.partition("?")
        page.goto((pages / file).as_uri() + (f"?{question}" if question else ""))
        opened.append(page)
        return page

    yield opener
    for page in opened:
        page.close()
    assert not failures
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def test_every_lesson_is_there_with_its_pictures_and_moves(pages, open_page):
    lessons = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    index = open_page("index.html")
    links = index.locator("article a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert [link.removesuffix(".html") for link in links if re.match(r"\d\d_", link)] == lessons
    for lesson in lessons:
        assert "<img" in (pages / f"{lesson}.html").read_text()
    page = open_page("03_explore_latent_space.html")
    expect(page.locator(".moving canvas")).to_have_count(3)
    assert page.locator("article img:not([alt])").count() == 0
    page.screenshot(path=KEPT / "site_lesson.png")


def test_the_search_works_without_a_server(open_page):
    page = open_page("search.html?q=half-moons")
    expect(page.locator("#search-results")).to_contain_text("Follow the manifold")


@pytest.mark.parametrize("name", ["index.html", "08_follow_the_manifold.html", "explorer.html"])
def test_it_fits_a_phone_in_the_dark(open_page, name):
    page = open_page(name, 390, color_scheme="dark")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground)[:3])) < 60
    page.screenshot(path=KEPT / f"site_phone_{name.split('.')[0]}.png")


def test_the_page_encodes_and_ranks_as_the_package_does(open_page):
    data, run = load_dataset("digits"), Run("digits", KEPT / "results")
    page = open_page("explorer.html")
    expect(page.locator("#codes figure")).to_have_count(5)
    query = data.queries.images[3]
    here = np.array(page.evaluate("image => Array.from(encode(image))", scale(query).ravel().tolist()))
    code = encode(load_model(run.checked_path("convolutional/encoder.keras")), query[None])
    assert np.allclose(here, code[0], atol=1e-3)
    page.evaluate("Math.random = () => 100.5 / facts.count")
    page.get_by_role("button", name="any image").click()  # image 100
    codes, pixels = run.load_codes("convolutional")[0], scale(data.database.images).reshape(len(data.database), -1)
    for name, rows, tolerance in (("codes", codes, 0.1), ("pixels", pixels, 0.01)):
        found = Index("euclidean").add(rows).search(rows[100:101], 5)
        said = page.locator(f"#{name} figcaption").all_inner_texts()
        assert np.allclose([float(text.split()[0]) for text in said], found.distances[0], atol=tolerance)


def test_a_drawing_has_hits_and_a_hit_can_be_searched_with(open_page):
    page = open_page("explorer.html")
    expect(page.locator("#codes figure")).to_have_count(5)
    before = page.locator("#codes").inner_text()
    page.get_by_role("button", name="clear").click()
    expect(page.locator("#codes figure")).to_have_count(0)
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 140, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 240, steps=8)
    page.mouse.up()
    expect(page.locator("#codes figure")).to_have_count(5)
    drawn = page.locator("#codes").inner_text()
    assert drawn != before
    page.screenshot(path=KEPT / "site_drawn.png")
    page.locator("#codes button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#codes figcaption").first).to_contain_text("0.0")  # itself, but for rounding
