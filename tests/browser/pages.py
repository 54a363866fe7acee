"""Servers of JupyterLab and the app, and the explorer on a page, for the tests in this folder."""

import os
import re
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
from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "results" / "browser"  # screenshots and latencies, for people to look at
NOTEBOOK = "05_query_images.ipynb"

expect.set_options(timeout=20_000)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command, url, log, *, cwd, **environment):
    """Run a server until the block ends; wait until ``url`` answers."""
    with open(log, "wb") as output:
        options = {"env": {**os.environ, **environment}, "stdout": output, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, cwd=cwd, start_new_session=True, **options)
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
def app_serving(results, port=None):
    """The app as `make app` serves it, on a free port: yields the address to open, and the process."""
    port, log = port or free_port(), KEPT / "app.log"
    command = [sys.executable, "-m", "cbir_utils", "app", "--results", str(results), "--port", str(port)]
    with open(log, "wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            if found := re.search(r"open (\S+)\n", log.read_text()):
                break
            assert server.poll() is None, f"the app ended; see {log}"
            time.sleep(0.1)
        else:
            pytest.fail(f"the app prints no address; see {log}")
        yield found[1], server
    finally:
        server.terminate()
        server.wait(20)


class Page:
    """The explorer on an open page, as a person meets it: what it says, and what can be done."""

    def __init__(self, page, name):
        self.page, self.name, self.shots = page, name, 0
        self.root = page.locator(".cbir-explorer").last
        self.strip = self.root.get_by_test_id("strip")
        self.pad = self.root.get_by_test_id("pad")
        self.hits = self.strip.get_by_test_id("hits").get_by_test_id("hit")
        self.beside = self.strip.get_by_test_id("beside").get_by_test_id("hit")
        self.status = self.root.get_by_test_id("status")
        self.error = self.root.get_by_test_id("error")

    def control(self, name):
        return self.root.get_by_test_id(name)

    def ids(self):
        return self.hits.get_by_test_id("id").all_text_contents()

    def set(self, name, value):
        """Move a slider to a value, as its keys would."""
        self.control(name).fill(str(value))

    def open(self, name):
        """Unfold a part of the page."""
        part = self.control(name)
        if part.get_attribute("open") is None:
            part.locator("summary").click()
        return part

    def after(self, action):
        """Do something, wait for the answer to it, and return the ids of the hits."""
        serial = self.strip.get_attribute("data-serial")
        action()
        expect(self.strip).not_to_have_attribute("data-serial", serial)
        return self.ids()

    def settled_ids(self):
        """The ids of the hits, once every picture that the pad has sent is answered."""
        expect(self.strip).to_have_attribute("data-drawing", self.pad.get_attribute("data-number"))
        return self.ids()

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
        self.root.screenshot(path=KEPT / f"{self.name}_{self.shots:02d}_{what}.png")


def run_notebook(page, address, wanted=".cbir-explorer"):
    """Open a notebook in JupyterLab, run all its cells by the menu, and scroll to the last of what is wanted."""
    page.goto(address)
    page.locator(".jp-Notebook").wait_for()
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=120_000)  # else it asks for a kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    scrolled = page.locator(".jp-WindowedPanel-outer")
    for attempt in range(300):  # JupyterLab keeps on the page only what is near to what is in view
        if page.locator(wanted).count():
            page.locator(wanted).last.scroll_into_view_if_needed()
            return
        scrolled.evaluate("(notebook, to) => { notebook.scrollTop = to % notebook.scrollHeight; }", 700 * attempt)
        page.wait_for_timeout(500)
    page.screenshot(path=KEPT / "lab_failed.png")
    pytest.fail(f"{wanted} does not appear in the notebook; see the screenshot lab_failed.png")
