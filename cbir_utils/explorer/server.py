"""The explorer as a page on this machine: one process, one run, and a door that only its own address opens.

Whoever knows the token in the printed address may ask; nobody else may, least of all another page in the same browser.
"""

import asyncio
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import tornado.httpserver
import tornado.web

#: The names by which this machine calls itself. Others could be made to lead here (DNS rebinding).
OURS = ("127.0.0.1", "localhost", "::1")
#: A request carries an uploaded image; the page refuses files of more than 30 MB, which are 40 MB as text.
MOST_BYTES = 42_000_000
#: Requests that need no search, answered even while one runs.
AT_ONCE = ("alive", "open")
HERE = Path(__file__).parent
#: The page's script is in three files, which only together are one module: a widget takes a single one.
SCRIPTS = ("drawing_pad.js", "code_map.js", "explorer.js")
SENTENCES = {
    403: "Open the whole address that make app printed: its token is what lets you in.",
    404: "There is nothing here; the explorer is at /.",
    413: "That is too large.",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guarded(tornado.web.RequestHandler):
    """Answers only what comes from this machine, by its own name, from its own page, with the token."""

    def initialize(self, token):
        self.token = token

    def set_default_headers(self):
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self):
        origin = self.request.headers.get("Origin")
        ours = urlsplit(f"//{self.request.host}").hostname in OURS
        if not ours or (origin and origin != f"http://{self.request.host}"):
            raise tornado.web.HTTPError(403)
        self.cookie = f"cbir_{urlsplit(f'//{self.request.host}').port or 80}"  # cookies do not tell ports apart
        given = self.get_query_argument("token", None) or self.get_cookie(self.cookie) or ""
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            raise tornado.web.HTTPError(403)

    def get(self, *_):
        raise tornado.web.HTTPError(404)

    def write_error(self, status_code, **_):
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(SENTENCES.get(status_code, HTTPStatus(status_code).phrase) + "\n")


class Page(Guarded):
    """The page; the token moves from its address into a cookie."""

    def get(self):
        if self.get_query_argument("token", None):
            self.set_cookie(self.cookie, self.token, httponly=True, samesite="Strict")
            return self.redirect("/")
        self.finish((HERE / "page.html").read_bytes())


class Script(Guarded):
    """What the page loads: its script and its style."""

    def get(self, name):
        if name == "explorer.css":
            self.set_header("Content-Type", "text/css; charset=utf-8")
            return self.finish((HERE / name).read_bytes())
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        files = ["page.js"] if name == "page.js" else SCRIPTS
        self.finish(b"\n".join((HERE / file).read_bytes() for file in files))


class Ask(Guarded):
    """Answers the page's requests, one after the other, in a thread of its own; that it lives it can always say."""

    def initialize(self, token, answer, worker):
        super().initialize(token)
        self.answer, self.worker = answer, worker

    async def post(self):
        try:
            request = json.loads(self.request.body)
            if not isinstance(request, dict):
                raise ValueError("no JSON object")
        except (ValueError, RecursionError):
            raise tornado.web.HTTPError(400) from None
        if request.get("do") in AT_ONCE:
            return self.finish(self.answer(request))
        self.finish(await asyncio.get_running_loop().run_in_executor(self.worker, self.answer, request))


def make_application(answer, token, worker):
    """The web application: ``answer`` takes a request and returns an answer, both dicts (``Explorer.ask``)."""
    known = {"token": token}
    return tornado.web.Application(
        [
            (r"/", Page, known),
            (r"/(page\.js|explorer\.js|explorer\.css)", Script, known),
            (r"/ask", Ask, {**known, "answer": answer, "worker": worker}),
        ],
        default_handler_class=Guarded,
        default_handler_args=known,
        log_function=lambda handler: None,
    )


async def serve(answer, port, tell):
    """Serve until cancelled; ``tell`` gets the one address to open. OSError if the port is taken."""
    token, worker = secrets.token_urlsafe(24), ThreadPoolExecutor(1)
    application = make_application(answer, token, worker)
    server = tornado.httpserver.HTTPServer(application, max_body_size=MOST_BYTES)
    server.listen(port, "127.0.0.1")
    # Searched once before anybody asks: the first search of a network takes longer than all others.
    first = answer({"do": "open"})["start"]
    worker.submit(answer, {"do": "search", "query": {"query": 0}, **first})
    try:
        tell(f"http://127.0.0.1:{port}/?token={token}")
        await asyncio.Event().wait()
    finally:
        server.stop()
        worker.shutdown(wait=False, cancel_futures=True)
