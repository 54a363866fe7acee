"""A browser, JupyterLab with a copy of the notebooks, and the app, for the tests in this folder."""

import secrets
import shutil

import pytest
from browser.pages import KEPT, NOTEBOOK, Page, app_serving, free_port, run_notebook, serving, tool
from playwright.sync_api import expect, sync_playwright

#: Quiet, and without a sandbox, which root cannot have.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for path in map(shutil.which, names) if path), None)
    if path is None:
        pytest.fail(f"no browser is found; install chromium, so that one of {', '.join(names)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def app():
    with app_serving(KEPT / "results" / "digits") as served:
        yield served


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of notebook 05 in a JupyterLab that knows nobody's settings."""
    path = KEPT / "notebooks" / NOTEBOOK
    port, token, own = free_port(), secrets.token_hex(16), tmp_path_factory.mktemp("lab")
    command = [tool("jupyter"), "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--notebook-dir={path.parent}"]
    settings = own / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Else it asks, on every picture, whether to fetch news.
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    address = f"http://127.0.0.1:{port}"
    names = "JUPYTER_CONFIG_DIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTERLAB_SETTINGS_DIR"
    environment = dict.fromkeys(names, str(own))
    with serving(command, f"{address}/api/status?token={token}", KEPT / "lab.log", cwd=path.parent, **environment):
        yield f"{address}/lab/tree/{NOTEBOOK}?reset&token={token}"


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
    expect(explorer.hits.first).to_be_visible(timeout=240_000)
    yield explorer
    context.close()
