"""A browser, JupyterLab with a copy of the notebooks, and the app, for the tests in this folder."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "results" / "browser"  # screenshots and latencies, for people to look at
NOTEBOOK = "05_query_images.ipynb"

#: Quiet, and without a sandbox, which root cannot have.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")  # fmt: skip

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for path in map(shutil.which, names) if path), None)
    if path is None:
        pytest.fail(f"no browser is found; install chromium, so that one of {', '.join(names)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command, url, log, *, cwd, **environment):
    """Run a server until the block ends; wait until ``url`` answers."""
    with open(log, "wb") as output:
        server = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(url, timeout=60).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert server.poll() is None, f"{command[0]} ended; see {log}"
                    time.sleep(0.5)
            else:
                pytest.fail(f"{url} does not answer; see {log}")
            yield server
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # the server and its kernels, which it started
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def tool(name):
    """A command of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def app_serving(results, **environment):
    """The app as `make app` serves it, on a free port: yields its address and process."""
    folder, port = KEPT / "notebooks" / "app", free_port()
    command = [tool("voila"), "--no-browser", "--port", str(port), "explorer.ipynb"]
    address = f"http://127.0.0.1:{port}"
    # Its front page would start a kernel, so another one tells when it is there.
    with serving(command, f"{address}/voila/static/voila.js", KEPT / f"app-{port}.log", cwd=folder,
                 CBIR_RESULTS=str(results), **environment) as server:  # fmt: skip
        yield address, server


@pytest.fixture(scope="session")
def app():
    with app_serving(KEPT / "results") as served:
        yield served


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of notebook 05 in a JupyterLab that knows nobody's settings."""
    path = KEPT / "notebooks" / NOTEBOOK
    port, token, own = free_port(), secrets.token_hex(16), tmp_path_factory.mktemp("lab")
    command = [
        tool("jupyter"), "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        f"--IdentityProvider.token={token}", f"--notebook-dir={path.parent}",
    ]  # fmt: skip
    settings = own / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Else it asks, on every picture, whether to fetch news.
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    address = f"http://127.0.0.1:{port}"
    with serving(command, f"{address}/api/status?token={token}", KEPT / "lab.log", cwd=path.parent,
                 JUPYTER_CONFIG_DIR=str(own), JUPYTERLAB_WORKSPACES_DIR=str(own),
                 JUPYTERLAB_SETTINGS_DIR=str(own)):  # fmt: skip
        yield f"{address}/lab/tree/{NOTEBOOK}?reset&token={token}"


class Page:
    """The explorer on an open page, as a person meets it: what it says, and what can be done."""

    def __init__(self, page, name):
        self.page, self.name, self.shots = page, name, 0
        self.strip = page.locator(".cbir-strip").last
        self.pad = page.get_by_test_id("pad").last
        self.hits = self.strip.get_by_test_id("hit")
        self.status = self.strip.get_by_test_id("status")
        self.error = self.strip.get_by_test_id("error")

    def control(self, name):
        return self.page.locator(f".cbir-control-{name}").last

    def ids(self):
        return self.strip.get_by_test_id("id").all_text_contents()

    def after(self, action):
        """Do something, wait for the answer to it, and return the ids of the hits."""
        serial = self.strip.get_attribute("data-serial")
        action()
        expect(self.strip).not_to_have_attribute("data-serial", serial)
        return self.ids()

    def settle(self):
        """Wait until every picture that the pad has sent is answered."""
        expect(self.strip).to_have_attribute("data-drawing", self.pad.get_attribute("data-number"))

    def draw(self, *points, lift=True):
        """Draw a line through points, given as shares of the pad."""
        canvas = self.pad.locator("canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=6)
        if lift:
            self.page.mouse.up()

    def screenshot(self, what):
        """Keep a picture of the explorer in results/browser."""
        self.shots += 1
        self.page.locator(".cbir-explorer").last.screenshot(path=KEPT / f"{self.name}_{self.shots:02d}_{what}.png")


def run_notebook(page, address):
    """Open a notebook in JupyterLab, run all its cells by the menu, and scroll to the explorer."""
    page.goto(address)
    page.locator(".jp-Notebook").wait_for()
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=120_000)  # else it asks for a kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    scrolled = page.locator(".jp-WindowedPanel-outer")
    for attempt in range(300):  # JupyterLab keeps on the page only what is near to what is in view
        if page.locator(".cbir-strip").count():
            page.locator(".cbir-strip").last.scroll_into_view_if_needed()
            return
        scrolled.evaluate("(notebook, to) => { notebook.scrollTop = to % notebook.scrollHeight; }", 700 * attempt)
        page.wait_for_timeout(500)
    page.screenshot(path=KEPT / "lab_failed.png")
    pytest.fail("the explorer does not appear in the notebook; see the screenshot lab_failed.png")


@pytest.fixture(scope="session", params=["lab", "app"])
def opened(request, browser):
    """The explorer in JupyterLab and as a page, with five hits of query 0."""
    context = browser.new_context(viewport={"width": 1500, "height": 1800})
    page = context.new_page()
    if request.param == "lab":
        run_notebook(page, request.getfixturevalue("lab"))
    else:
        page.goto(request.getfixturevalue("app")[0])
    explorer = Page(page, request.param)
    expect(explorer.hits).to_have_count(5, timeout=240_000)
    yield explorer
    context.close()
