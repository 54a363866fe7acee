"""The explorer in a real browser: in JupyterLab, where notebook 05 is run, and as the page of `make app`.

Each test starts from whatever the one before it left, as a person does.
"""

import io
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from browser.pages import KEPT, ROOT, Page, app_serving, free_port
from PIL import Image
from playwright.sync_api import expect

from cbir_utils.datasets import load_dataset
from cbir_utils.retrieval.learn import learn_photo
from cbir_utils.run import Run

STROKES = 100


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def upload(explorer, name, content):
    explorer.control("upload").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


# -- in JupyterLab and as a page ------------------------------------------------------------------------------------


def test_it_opens_with_a_query_and_its_hits(opened):
    expect(opened.status).to_have_text(
        re.compile(r"^Searched with query 0, by \w+ \(.*\) and \w+ distance: \d+ of 1,437")
    )
    expect(opened.error).to_be_empty()
    opened.after(lambda: opened.set("count", 5))
    expect(opened.hits).to_have_count(5)
    assert opened.hits.get_by_test_id("rank").all_text_contents() == list("12345")
    assert len(set(opened.ids())) == 5
    opened.screenshot("opened")


def test_every_control_has_a_name_and_room_for_a_finger(opened):
    faults = opened.root.evaluate(
        """root => [...root.querySelectorAll("button, input, select, canvas, img, summary")].filter(element => {
            if (!element.checkVisibility()) return false;
            const { width, height } = element.getBoundingClientRect();
            const name = element.getAttribute("aria-label") || element.alt || element.textContent.trim()
                || element.labels?.length || element.title;
            return !name || (element.tagName !== "IMG" && Math.min(width, height + 0.5) < 24
                && !(element.closest("label")?.getBoundingClientRect().height >= 24));
        }).map(element => element.outerHTML.slice(0, 200))"""
    )
    assert faults == []


def test_a_slider_spoils_the_query(opened):
    clean = opened.ids()
    opened.open("spoil")
    opened.control("corruption").select_option("rotation")
    expect(opened.control("strength")).to_have_attribute("max", "60")
    opened.after(lambda: opened.control("strength").press("End"))
    expect(opened.status).to_contain_text("with rotation 60")
    assert opened.ids() != clean and len(opened.ids()) == 5
    opened.screenshot("slider_moved")
    opened.after(lambda: opened.control("strength").press("Home"))
    expect(opened.status).not_to_contain_text("rotation")
    assert opened.ids() == clean


def test_a_click_or_enter_searches_on_and_back_leads_back(opened):
    first, back = opened.ids(), opened.control("back")
    for hit, choose in ((1, lambda: opened.hits.nth(1).click()), (2, lambda: opened.page.keyboard.press("Enter"))):
        opened.hits.nth(hit).focus()
        found = opened.after(choose)
        expect(opened.control("query")).to_have_text(f"image {first[hit]}")
        expect(opened.hits.nth(hit)).to_be_focused()
        assert found != first and first[hit] not in found
        opened.screenshot("hit_chosen")
        expect(back).to_have_text("← back (1)")
        assert opened.after(back.click) == first
        expect(back).to_be_disabled()


def test_plus_and_minus_refine_the_search(opened):
    first = opened.ids()
    found = opened.after(opened.strip.get_by_test_id("plus").nth(2).click)
    assert first[2] not in found
    expect(opened.status).to_contain_text("and 1 more like it")
    unwanted = found[3]
    found = opened.after(opened.strip.get_by_test_id("minus").nth(3).click)
    assert unwanted not in found
    expect(opened.control("example-plus")).to_have_count(1)
    opened.screenshot("refined")
    opened.after(opened.control("example-minus").click)
    assert opened.after(opened.control("example-plus").click) == first
    for _ in range(4):
        opened.after(opened.control("back").click)
    assert opened.ids() == first


def test_hits_follow_the_pen(opened):
    before = opened.ids()
    while_drawing = opened.after(lambda: opened.draw((0.3, 0.2), (0.7, 0.2), (0.5, 0.5), lift=False))
    expect(opened.status).to_contain_text("Searched with a drawing")
    expect(opened.control("pad-state")).to_have_text("pen down")
    assert while_drawing != before
    opened.page.mouse.up()
    one = opened.settled_ids()
    opened.screenshot("drawn")
    opened.draw((0.2, 0.9), (0.8, 0.9))
    assert opened.settled_ids() != one
    opened.control("pad-undo").click()
    assert opened.settled_ids() == one
    opened.control("pad-clear").click()
    expect(opened.error).to_have_text("⚠ the drawing is empty; draw something first")
    assert opened.ids() == one


def test_the_keys_draw_too(opened):
    canvas = opened.pad.locator("canvas")
    before = opened.ids()
    canvas.focus()
    canvas.press("Space")
    for _ in range(8):
        canvas.press("ArrowDown")
    canvas.press("Space")
    assert opened.settled_ids() != before
    expect(opened.error).to_be_empty()
    expect(opened.pad).to_have_attribute("data-strokes", "1")
    canvas.press("Backspace")
    expect(opened.pad).to_have_attribute("data-strokes", "0")


def test_an_uploaded_image_is_the_query_and_a_text_is_not(opened):
    image = load_dataset("digits").database.images[700, ..., 0]
    content = png(np.kron(image, np.ones((9, 9), np.uint8)))
    found = opened.after(lambda: upload(opened, "digit.png", content))
    expect(opened.control("query")).to_have_text("digit.png")
    assert "700" in found
    opened.screenshot("uploaded")
    upload(opened, "notes.txt", b"this is no image")
    expect(opened.error).to_have_text(re.compile("⚠ notes.txt cannot be a query: .+"))
    assert opened.ids() == found
    opened.screenshot("text_refused")
    large = {"name": "film.png", "mimeType": "image/png", "buffer": bytes(31_000_000)}
    opened.control("upload").set_input_files(large)
    expect(opened.error).to_have_text(re.compile("⚠ film.png has 31 MB, and at most 30 MB can be searched with"))


def test_a_picture_is_dropped_or_pasted(opened):
    image = load_dataset("digits").database.images[701, ..., 0]
    give = """(root, [bytes, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, { type: "image/png" }));
        const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
        (kind === "drop" ? root : document).dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        opened.after(lambda kind=kind: opened.root.evaluate(give, [list(png(image)), kind]))
        expect(opened.control("query")).to_have_text(f"{kind}.png")
        assert opened.ids()[0] == "701"


def test_labels_method_number_of_hits_and_pages(opened):
    labels, before = opened.hits.get_by_test_id("label"), opened.strip.get_attribute("data-method")
    assert set(labels.all_text_contents()) == {""}
    opened.after(opened.control("labels").check)
    expect(labels.first).to_have_text(re.compile(r"^\d$"))
    opened.after(lambda: opened.control("method").select_option("pixels"))
    expect(opened.strip).to_have_attribute("data-method", "pixels")
    opened.after(lambda: opened.control("count").press("ArrowRight"))
    expect(opened.hits).to_have_count(6)
    opened.screenshot("pixels_with_labels")
    opened.after(lambda: opened.control("count").press("ArrowLeft"))
    first = opened.ids()
    assert not set(opened.after(opened.control("later").click)) & set(first)
    assert opened.hits.get_by_test_id("rank").all_text_contents() == ["6", "7", "8", "9", "10"]
    assert opened.after(opened.control("earlier").click) == first
    opened.after(lambda: opened.control("method").select_option(before))
    opened.after(opened.control("labels").uncheck)
    expect(opened.hits).to_have_count(5)


def test_two_methods_side_by_side(opened):
    opened.after(lambda: opened.control("other").select_option("texture"))
    expect(opened.beside).to_have_count(5)
    both = set(opened.ids()) & set(opened.beside.get_by_test_id("id").all_text_contents())
    expect(opened.control("common")).to_contain_text(f"{len(both)} of 5 hits in common")
    assert opened.root.locator(".cbir-alone").count() == 2 * (5 - len(both))
    opened.screenshot("two_methods")
    opened.after(lambda: opened.control("other").select_option(""))
    expect(opened.beside.first).to_be_hidden()


def test_a_largest_distance_leaves_hits_out(opened):
    opened.set("limit", 1)
    expect(opened.status).to_contain_text("within a distance of")
    assert len(opened.ids()) < 5
    opened.set("limit", 60)
    expect(opened.hits).to_have_count(5)


def test_why_opens_and_follows(opened):
    opened.open("why")
    occlusion = opened.root.get_by_role("img", name=re.compile("^Map of the query: covering a part changes"))
    expect(occlusion).to_be_visible()
    opened.screenshot("why")
    opened.control("why-for").select_option(index=2)
    expect(opened.root.get_by_role("img", name=re.compile("the distance to hit 3"))).to_be_visible()
    opened.control("why").locator("summary").click()


def test_the_map_zooms_selects_and_searches(opened):
    opened.open("where")
    expect(opened.control("where")).to_contain_text("Near points have near codes", timeout=90_000)
    canvas = opened.control("map-canvas")
    opened.screenshot("map")
    canvas.focus()
    for key in ("+", "ArrowLeft", "-"):
        canvas.press(key)
    opened.control("map-all").click()
    opened.control("map-lasso").click()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    opened.page.mouse.move(box["x"] + 3, box["y"] + 3)
    opened.page.mouse.down()
    for x, y in ((0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.02)):
        opened.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
    opened.page.mouse.up()
    expect(opened.control("selected")).to_have_text("1,437 images selected")
    opened.screenshot("lasso")
    with opened.page.expect_download() as download:
        opened.control("export-csv").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == '"id","path"' and len(lines) == 1438
    opened.control("map-lasso").click()
    expect(opened.control("selected")).to_contain_text("Lasso")
    place = opened.page.evaluate(
        """() => {  // where an image lies: a spot of the canvas that is not its grey ground
            const canvas = [...document.querySelectorAll("[data-testid=map-canvas]")].at(-1);
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            const ratio = canvas.clientWidth / canvas.width;
            for (let y = 40; y < canvas.height; y += 3) for (let x = 40; x < canvas.width; x += 3)
                if (pixels[4 * (y * canvas.width + x)] < 20) return [x * ratio, y * ratio];
        }"""
    )
    opened.after(lambda: canvas.click(position={"x": place[0], "y": place[1]}))
    expect(opened.control("query")).to_have_text(re.compile(r"^image \d+$"))
    opened.control("where").locator("summary").click()


def test_the_whole_collection_is_there(opened):
    opened.open("browse")
    expect(opened.control("grid-image")).to_have_count(60)
    opened.control("filter-label").select_option("7")
    expect(opened.control("grid-found")).not_to_contain_text("1,437")
    name = opened.control("grid-image").nth(3).text_content()
    opened.screenshot("grid")
    opened.after(opened.control("grid-image").nth(3).click)
    expect(opened.control("query")).to_have_text(f"image {name}")
    opened.control("browse").locator("summary").click()


def test_a_hit_opens_large(opened):
    opened.strip.get_by_test_id("open").first.click()
    expect(opened.control("original-about")).to_contain_text("28 × 28 pixels")
    opened.page.keyboard.press("Escape")
    expect(opened.control("original")).to_be_hidden()


def test_the_time_from_a_stroke_to_its_hits(opened):
    """Measured, never asserted: for each stroke, from lifting the pen to the hits on the page, and of the search."""
    opened.control("pad-clear").click()
    opened.page.evaluate(
        """() => {
            const root = [...document.querySelectorAll(".cbir-explorer")].at(-1);
            const [pad, strip] = ["pad", "strip"].map(name => root.querySelector(`[data-testid=${name}]`));
            const lifted = new Map();
            window.measured = [];
            pad.querySelector("canvas").addEventListener("pointerup", event =>
                lifted.set(pad.dataset.number, event.timeStamp));
            new MutationObserver(() => {
                const start = lifted.get(strip.dataset.drawing);
                if (start === undefined) return;
                lifted.delete(strip.dataset.drawing);
                window.measured.push([performance.now() - start, Number(strip.dataset.ms)]);
            }).observe(strip, { attributes: true, attributeFilter: ["data-serial"] });
        }"""
    )
    rng = np.random.default_rng(0)
    for i in range(STROKES):
        if i % 4 == 0:
            opened.control("pad-clear").click()
        opened.draw(*rng.uniform(0.1, 0.9, (3, 2)))
        opened.page.wait_for_function("count => window.measured.length > count", arg=i)
    measured = np.array(opened.page.evaluate("window.measured"))
    row = {"strokes": len(measured), "method": opened.strip.get_attribute("data-method"), "images": 1437}
    row |= {"cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0]}
    row["date"] = datetime.now(UTC).date().isoformat()
    for name, values in (("stroke to hits, in the browser", measured[:, 0]), ("of these the search", measured[:, 1])):
        row[name] = {f"p{p}_ms": round(float(np.percentile(values, p)), 1) for p in (50, 95)}
    path = KEPT / "latency.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, opened.name: row}, indent=2) + "\n")
    print(f"\n{opened.name}: {json.dumps(row)}")
    assert len(measured) == STROKES


# -- the app only ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_of_app(browser, app):
    """Another browser's page of the app, on a phone, with the requests that it made and what its console said."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    requests, said = [], []
    page.on("requestfinished", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(app[0])
    explorer = Page(page, "phone")
    expect(explorer.hits).to_have_count(10, timeout=240_000)
    yield explorer, requests, said
    context.close()


def test_two_browsers_do_not_disturb_each_other(app, browser, page_of_app):
    first = page_of_app[0]
    context = browser.new_context()
    second = Page(context.new_page(), "second")
    second.page.goto(app[0])
    expect(second.hits).to_have_count(10)
    before = first.ids()
    assert second.ids() == before
    assert second.after(lambda: second.hits.nth(3).click()) != before
    assert first.ids() == before
    expect(first.control("query")).to_have_text("query 0")
    first.after(lambda: first.hits.nth(4).click())
    expect(second.control("query")).to_have_text(f"image {before[3]}")
    context.close()


def test_it_fits_a_phone_in_the_dark(page_of_app):
    explorer = page_of_app[0]
    width = explorer.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    explorer.draw((0.4, 0.2), (0.6, 0.8))
    assert len(explorer.settled_ids()) == 10
    assert explorer.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
    assert explorer.page.locator("h1").count() == 1 and explorer.page.get_by_role("main").count() == 1
    explorer.control("pad-undo").focus()
    explorer.page.keyboard.press("Tab")
    assert explorer.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    explorer.page.screenshot(path=KEPT / "phone.png", full_page=True)


def test_a_reload_keeps_query_method_and_number(page_of_app):
    explorer = page_of_app[0]
    explorer.after(lambda: explorer.control("method").select_option("colour"))
    explorer.after(lambda: explorer.set("count", 7))
    explorer.after(lambda: explorer.hits.nth(2).click())
    before, query = explorer.ids(), explorer.control("query").text_content()
    assert "token" not in explorer.page.url
    explorer.page.reload()
    expect(explorer.control("query")).to_have_text(query)
    expect(explorer.hits).to_have_count(7)
    assert explorer.ids() == before
    expect(explorer.control("method")).to_have_value("colour")


def test_it_stays_on_this_machine(app, page_of_app):
    _, requests, said = page_of_app
    assert [url for url in requests if not url.startswith((origin(app[0]), "data:", "blob:"))] == [] and said == []
    server = psutil.Process(app[1].pid)
    assert {c.laddr.ip for c in server.net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}
    assert server.children() == []  # no kernel, whoever comes


def origin(address):
    return "{0.scheme}://{0.netloc}".format(urlsplit(address))


def test_a_web_page_that_the_user_visits_gets_nothing(app, browser, tmp_path):
    """It asks by image, frame, script, form and fetch, in the browser that holds the cookie."""
    context = browser.new_context()
    own = context.new_page()
    own.goto(app[0])
    expect(Page(own, "own").hits).to_have_count(10)
    address = origin(app[0]).replace("127.0.0.1", "localhost"), origin(app[0])
    port = free_port()
    (tmp_path / "index.html").write_text(
        "<body>"
        + "".join(f"<img src='{a}/'><iframe src='{a}/'></iframe><script src='{a}/page.js'></script>" for a in address)
    )
    evil = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--directory", str(tmp_path)], stderr=subprocess.DEVNULL
    )
    memory = psutil.Process(app[1].pid).memory_info().rss
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        page = context.new_page()
        answers = []
        page.on("response", lambda response: answers.append((urlsplit(response.url).port, response.status)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_timeout(500)
        asked = page.evaluate(
            """async addresses => Promise.all(addresses.flatMap(address => [
                fetch(`${address}/ask`, { method: "POST", body: '{"do": "open"}', credentials: "include" }),
                fetch(`${address}/ask`, { method: "POST", body: "{}", credentials: "include", mode: "no-cors" }),
            ].map(one => one.then(answer => answer.text(), () => "refused"))))""",
            list(address),
        )
        assert set(asked) <= {"refused", ""}
        framed = [frame.content() for frame in page.frames[1:]]
        assert not any("cbir" in content for content in framed)
    finally:
        evil.terminate()
        context.close()
    ours = {status for where, status in answers if where == urlsplit(app[0]).port}
    assert ours <= {403, 405} | {
        200
    }  # 127.0.0.1 is one site on all ports: the cookie comes along, the frame is refused
    assert psutil.Process(app[1].pid).memory_info().rss - memory < 50e6


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "0.0.0.0"])
def test_another_name_for_this_machine_is_not_served(app, host):
    """DNS rebinding: a page of another name whose address is made to be this machine's."""
    request = urllib.request.Request(app[0], headers={"Host": f"{host}:{urlsplit(app[0]).port}"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=30)


def test_ten_pages_opened_and_closed_leave_nothing(app, browser):
    server = psutil.Process(app[1].pid)
    before = server.memory_info().rss
    for _ in range(10):
        context = browser.new_context()
        page = Page(context.new_page(), "ten")
        page.page.goto(app[0])
        expect(page.hits).to_have_count(10)
        context.close()
    assert server.children() == [] and server.memory_info().rss - before < 50e6


def test_a_stopped_server_is_told_within_two_seconds(browser):
    context = browser.new_context()
    explorer = Page(context.new_page(), "stopped")
    with app_serving(KEPT / "results" / "digits") as (address, server):
        explorer.page.goto(address)
        expect(explorer.hits).to_have_count(10)
        before = explorer.ids()
        server.send_signal(signal.SIGSTOP)  # alive, but it does nothing
        explorer.hits.nth(1).click()
        expect(explorer.error).to_contain_text("The server does not answer.", timeout=5_000)
        server.send_signal(signal.SIGCONT)
        expect(explorer.error).to_be_empty()
        assert explorer.ids() != before
    explorer.hits.nth(1).click()
    expect(explorer.error).to_contain_text("The server does not answer. Start make app again", timeout=2_000)
    context.close()


def test_photographs_are_shown_as_they_are(browser, tmp_path):
    folder, rng = tmp_path / "trip", np.random.default_rng(0)
    folder.mkdir()
    for number in range(24):
        image = np.kron(rng.integers(0, 255, (5, 8, 3), dtype=np.uint8), np.ones((60, 60, 1), np.uint8))
        Image.fromarray(image).save(folder / f"<b>{number:02}<b>.jpg")
    data, run = load_dataset(folder), Run("trip", tmp_path / "results")
    run.belongs_to(folder, data.content_hash)
    learn_photo(run, data)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    explorer = Page(context.new_page(), "photos")
    with app_serving(run.folder) as (address, _):
        explorer.page.goto(address)
        expect(explorer.hits).to_have_count(10)
        expect(explorer.status).to_contain_text("by photo")
        expect(explorer.control("draw")).not_to_have_attribute("open", "")
        assert explorer.page.locator(".cbir-explorer b").count() == 0  # a name is text, never markup
        assert explorer.hits.first.locator("img").evaluate("image => image.naturalWidth") == 256
        explorer.screenshot("opened")
        explorer.strip.get_by_test_id("open").first.click()
        expect(explorer.control("original-about")).to_contain_text("480 × 300 pixels")
        explorer.page.screenshot(path=KEPT / "photos_original.png")
    context.close()


def test_without_artifacts_the_command_says_what_to_run(tmp_path):
    command = [sys.executable, "-m", "cbir_utils", "app", "--results", str(tmp_path / "digits")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(r"cbir: \S+ holds no run; make one with .*cbir_utils run.*\n", ended.stderr)
