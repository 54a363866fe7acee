"""The explorer in a real browser: in JupyterLab, where notebook 05 is run, and as the page of `make app`.

Each test starts from whatever the one before it left, as a person does.
"""

import io
import json
import os
import platform
import re
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime

import numpy as np
import psutil
import pytest
import websocket
from browser.pages import KEPT, Page, app_serving
from PIL import Image
from playwright.sync_api import expect

from cbir_utils.datasets import load_dataset

STROKES = 100


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def upload(explorer, name, content):
    with explorer.page.expect_file_chooser() as chooser:
        explorer.control("upload").click()
    chooser.value.set_files({"name": name, "mimeType": "", "buffer": content})


# -- in JupyterLab and as a page ------------------------------------------------------------------------------------


def test_it_opens_with_a_query_and_its_hits(opened):
    expect(opened.status).to_have_text(
        re.compile(r"^Searched with query 0, by \w+ \(.*\) and \w+ distance: 5 of 1,437")
    )
    expect(opened.error).to_be_empty()
    assert opened.strip.get_by_test_id("rank").all_text_contents() == list("12345")
    assert len(set(opened.ids())) == 5
    opened.screenshot("opened")


def test_every_control_has_a_name(opened):
    expect(opened.page.get_by_role("slider", name="hits")).to_have_count(1)
    nameless = opened.page.locator(".cbir-explorer").last.evaluate(
        """root => [...root.querySelectorAll("button, input, select, canvas, img, [role=slider]")].filter(element =>
            element.type !== "file" && !(element.getAttribute("aria-label") || element.alt || element.textContent.trim()
            || element.labels?.length)).map(element => element.outerHTML)"""
    )
    assert nameless == []


def test_a_slider_spoils_the_query(opened):
    clean = opened.ids()
    opened.control("corruption").locator("select").select_option("rotation")
    handle = opened.control("strength").get_by_role("slider")
    expect(handle).to_have_attribute("aria-valuemax", "60.0")
    expect(handle).to_have_attribute("aria-label", "strength")
    for _ in range(8):
        handle.press("PageUp")  # an eighth of the slider
    expect(opened.status).to_contain_text("with rotation 60")
    assert opened.ids() != clean and len(opened.ids()) == 5
    opened.screenshot("slider_moved")
    opened.after(lambda: handle.press("Home"))
    expect(opened.status).not_to_contain_text("rotation")
    assert opened.ids() == clean


def test_a_click_or_enter_searches_on_and_back_leads_back(opened):
    first, back = opened.ids(), opened.strip.get_by_test_id("back")
    for hit, choose in ((1, lambda: opened.hits.nth(1).click()), (2, lambda: opened.page.keyboard.press("Enter"))):
        opened.hits.nth(hit).focus()
        found = opened.after(choose)
        expect(opened.strip.get_by_test_id("query")).to_have_text(f"image {first[hit]}")
        expect(opened.hits.nth(hit)).to_be_focused()
        assert found != first and first[hit] not in found
        opened.screenshot("hit_chosen")
        expect(back).to_have_text("← back (1)")
        assert opened.after(back.click) == first
        expect(back).to_be_disabled()


def test_hits_follow_the_pen(opened):
    before = opened.ids()
    while_drawing = opened.after(lambda: opened.draw((0.3, 0.2), (0.7, 0.2), (0.5, 0.5), lift=False))
    expect(opened.status).to_contain_text("Searched with a drawing")
    expect(opened.pad.get_by_test_id("pad-state")).to_have_text("pen down")
    assert while_drawing != before
    opened.page.mouse.up()
    one = opened.settled_ids()
    opened.screenshot("drawn")
    opened.draw((0.2, 0.9), (0.8, 0.9))
    assert opened.settled_ids() != one
    opened.pad.get_by_test_id("pad-undo").click()
    assert opened.settled_ids() == one
    opened.pad.get_by_test_id("pad-clear").click()
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
    found = opened.after(lambda: upload(opened, "digit.png", png(np.kron(image, np.ones((9, 9), np.uint8)))))
    expect(opened.strip.get_by_test_id("query")).to_have_text("digit.png")
    assert "700" in found
    opened.screenshot("uploaded")
    upload(opened, "notes.txt", b"this is no image")
    expect(opened.error).to_have_text(re.compile("⚠ notes.txt cannot be a query: .+"))
    assert opened.ids() == found
    opened.screenshot("text_refused")


def test_labels_method_and_number_of_hits(opened):
    labels, before = opened.strip.get_by_test_id("label"), opened.strip.get_attribute("data-method")
    assert set(labels.all_text_contents()) == {""}
    opened.after(opened.control("labels").get_by_role("checkbox").check)
    expect(labels.first).to_have_text(re.compile(r"^\d$"))
    opened.after(lambda: opened.control("method").locator("select").select_option("pixels"))
    expect(opened.strip).to_have_attribute("data-method", "pixels")
    opened.after(lambda: opened.control("count").get_by_role("slider").press("ArrowRight"))
    expect(opened.hits).to_have_count(6)
    opened.screenshot("pixels_with_labels")
    opened.after(lambda: opened.control("count").get_by_role("slider").press("ArrowLeft"))
    opened.after(lambda: opened.control("method").locator("select").select_option(before))
    opened.after(opened.control("labels").get_by_role("checkbox").uncheck)
    expect(opened.hits).to_have_count(5)


def test_why_and_where_open_and_follow(opened):
    opened.control("why").get_by_role("checkbox").check()
    occlusion = opened.page.get_by_role("img", name=re.compile("^Map of the query: covering a part changes"))
    expect(occlusion.last).to_be_visible()
    opened.control("where").get_by_role("checkbox").check()
    on_the_map = opened.page.get_by_role("img", name=re.compile("^Map of the codes with the query and its 5 hits"))
    expect(on_the_map.last).to_be_visible()
    opened.screenshot("why_and_where")
    picture = on_the_map.last.get_attribute("src")
    opened.after(lambda: opened.hits.first.click())
    expect(on_the_map.last).not_to_have_attribute("src", picture)
    opened.control("why").get_by_role("checkbox").uncheck()
    opened.control("where").get_by_role("checkbox").uncheck()
    expect(on_the_map).to_have_count(0)


def test_the_time_from_a_stroke_to_its_hits(opened):
    """Measured, never asserted: for each stroke, from lifting the pen to the hits on the page, and in the kernel."""
    opened.pad.get_by_test_id("pad-clear").click()
    opened.page.evaluate(
        """() => {
            const pad = [...document.querySelectorAll(".cbir-pad")].at(-1);
            const strip = [...document.querySelectorAll(".cbir-strip")].at(-1);
            const lifted = new Map();
            window.measured = [];
            pad.querySelector("canvas").addEventListener("pointerup", event =>
                lifted.set(pad.dataset.number, event.timeStamp));
            new MutationObserver(() => {
                const start = lifted.get(strip.dataset.drawing);
                if (start === undefined) return;
                lifted.delete(strip.dataset.drawing);
                window.measured.push([performance.now() - start, Number(strip.dataset.ms)]);
            }).observe(strip, { attributes: true, attributeFilter: ["data-drawing"] });
        }"""
    )
    rng = np.random.default_rng(0)
    for i in range(STROKES):
        if i % 4 == 0:
            opened.pad.get_by_test_id("pad-clear").click()
        opened.draw(*rng.uniform(0.1, 0.9, (3, 2)))
        opened.page.wait_for_function("count => window.measured.length > count", arg=i)
    measured = np.array(opened.page.evaluate("window.measured"))
    row = {"strokes": len(measured), "method": opened.strip.get_attribute("data-method"), "images": 1437}
    row |= {"cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0]}
    row["date"] = datetime.now(UTC).date().isoformat()
    for name, values in (("stroke to hits, in the browser", measured[:, 0]), ("in the kernel", measured[:, 1])):
        row[name] = {f"p{p}_ms": round(float(np.percentile(values, p)), 1) for p in (50, 95)}
    path = KEPT / "latency.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, opened.name: row}, indent=2) + "\n")
    print(f"\n{opened.name}: {json.dumps(row)}")
    assert len(measured) == STROKES


# -- the app only ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_of_app(browser, app):
    """Another browser's page of the app, with the requests that it made and the address of its kernel."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    requests, sockets = [], []
    page.on("requestfinished", lambda request: requests.append(request.url))
    page.on("websocket", lambda opened: sockets.append(opened.url))
    page.goto(app[0])
    explorer = Page(page, "phone")
    expect(explorer.hits).to_have_count(5, timeout=240_000)
    yield explorer, requests, sockets
    context.close()


def test_two_browsers_do_not_disturb_each_other(app, browser, page_of_app):
    first = page_of_app[0]
    context = browser.new_context()
    second = Page(context.new_page(), "second")
    second.page.goto(app[0])
    expect(second.hits).to_have_count(5, timeout=240_000)
    before = first.ids()
    assert second.ids() == before
    assert second.after(lambda: second.hits.nth(3).click()) != before
    assert first.ids() == before
    expect(first.strip.get_by_test_id("query")).to_have_text("query 0")
    first.after(lambda: first.hits.nth(4).click())
    expect(second.strip.get_by_test_id("query")).to_have_text(f"image {before[3]}")
    context.close()


def test_it_fits_a_phone(page_of_app):
    explorer = page_of_app[0]
    width = explorer.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    explorer.draw((0.4, 0.2), (0.6, 0.8))
    assert len(explorer.settled_ids()) == 5
    explorer.screenshot("drawn")


def test_it_stays_on_this_machine(app, page_of_app):
    _, requests, _ = page_of_app
    assert [url for url in requests if not url.startswith((app[0], "data:", "blob:"))] == []
    server = psutil.Process(app[1].pid)
    connections = [c for p in (server, *server.children(recursive=True)) for c in p.net_connections()]
    assert {c.laddr.ip for c in connections if c.status == "LISTEN"} == {"127.0.0.1"}


def test_the_source_is_not_served(app, page_of_app):
    assert "open_explorer" not in page_of_app[0].page.content()
    names = "explorer.ipynb", "voila.json", "../explorer.ipynb", "../../cbir_utils/__init__.py", "%2e%2e/README.md"
    closed = [f"/api/{what}" for what in ("contents", "kernels", "terminals", "sessions")]
    others = ["/static/explorer.ipynb", "/voila/static/../app.py", "/terminals/1"]
    for path in [*(f"/voila/files/{name}" for name in names), *closed, *others]:
        try:
            with urllib.request.urlopen(app[0] + path, timeout=120) as response:
                text = response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            assert error.code in (403, 404, 405), (path, error.code)
        else:  # Voilà takes any other path for its page
            assert "open_explorer" not in text and "cbir_utils" not in text, path
    for path in closed[1:]:
        with pytest.raises(urllib.error.HTTPError, match="40[345]"):
            urllib.request.urlopen(app[0] + path, data=b"{}", timeout=120)


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_nobody_can_run_code_in_its_kernel(page_of_app, tmp_path, channel):
    """The kernel's own websocket takes messages of widgets, and drops a request to execute."""
    proof, session = tmp_path / "proof", uuid.uuid4().hex
    connection = websocket.create_connection(page_of_app[2][-1].split("?")[0] + f"?session_id={session}", timeout=30)

    def send(kind, content):
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": session, "username": "", "version": "5.3"}
        header["date"] = datetime.now(UTC).isoformat()
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        connection.send(json.dumps({**message, "channel": channel, "buffers": []}))

    code = {"code": f"open({str(proof)!r}, 'w').close()", "silent": False, "store_history": False}
    send("execute_request", {**code, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True})
    send("kernel_info_request", {})  # answered in order, so nothing is left of the request before it
    kinds = []
    while "kernel_info_reply" not in kinds:
        kinds.append(json.loads(connection.recv())["header"]["msg_type"])
    connection.close()
    assert not {"execute_reply", "execute_input", "error"} & set(kinds) and not proof.exists()


def test_without_artifacts_it_says_what_to_run(browser, tmp_path):
    context = browser.new_context(viewport={"width": 900, "height": 400})
    page = context.new_page()
    with app_serving(tmp_path) as (address, _):
        page.goto(address)
        sentence = page.get_by_test_id("nothing")
        expect(sentence).to_have_text(re.compile(r"holds no run; make one with .*cbir_utils run"), timeout=240_000)
        page.screenshot(path=KEPT / "app_without_artifacts.png")
        context.close()
