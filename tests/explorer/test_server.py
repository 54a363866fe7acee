"""The explorer's door: who may ask, and what the server answers to everybody else."""

import asyncio
import json
import re
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import tornado.httpserver
import tornado.testing

from cbir_utils.explorer import server
from cbir_utils.explorer.server import make_application

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def door():
    """The port of a server that answers each request with itself; the requests that reached it."""
    reached, ready, ended = [], threading.Event(), []

    def answer(request):
        reached.append(request)
        return {"answer": request, "start": {}}

    async def serving():
        application = make_application(answer, TOKEN, ThreadPoolExecutor(1))
        served = tornado.httpserver.HTTPServer(application, max_body_size=1000)
        socket, port = tornado.testing.bind_unused_port()
        served.add_socket(socket)
        ended.extend([asyncio.get_running_loop(), asyncio.Event(), port])
        ready.set()
        await ended[1].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serving()))
    thread.start()
    ready.wait(30)
    yield ended[2], reached
    ended[0].call_soon_threadsafe(ended[1].set)
    thread.join(30)


def asked(door, path="/ask", body=b'{"do": "search"}', **headers):
    """Status, headers and text of an answer; by default of a request of the page's own. None leaves a header out."""
    port, _ = door
    own = {"Cookie": f"cbir_{port}={TOKEN}", "Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
    sent = {name: value for name, value in {**own, **headers}.items() if value is not None}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, sent)
    opener = urllib.request.build_opener(Quiet)
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


class Quiet(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def test_the_page_s_own_request_is_answered(door):
    assert asked(door)[:1] == (200,) and json.loads(asked(door)[2])["answer"] == {"do": "search"}
    assert asked(door, Origin=None)[0] == 200  # a program of the same user, with the token
    name = {"Host": f"localhost:{door[0]}", "Origin": f"http://localhost:{door[0]}"}
    assert asked(door, **name)[0] == 200


@pytest.mark.parametrize("path", ["/", "/ask", "/explorer.js", "/page.js", "/explorer.css", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": None},
        {"Cookie": "cbir_1=" + TOKEN},
        {"Cookie": "cbir_{port}=wrong"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:{port}"},  # its host is 127.0.0.1
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
def test_nobody_else_is_let_in(door, path, headers):
    port, reached = door
    before = len(reached)
    for body in (None, b'{"do": "search"}'):
        status, sent, text = asked(door, path, body, **{n: v and v.format(port=port) for n, v in headers.items()})
        assert status in (403, 405) and "cbir" not in text
        assert "Access-Control-Allow-Origin" not in sent
    assert len(reached) == before


def test_the_address_s_token_becomes_a_cookie_that_no_script_and_no_other_page_sends(door):
    status, headers, _ = asked(door, f"/?token={TOKEN}", None, Cookie=None, Origin=None)
    assert (status, headers["Location"]) == (302, "/")
    cookie = headers["Set-Cookie"]
    assert cookie.startswith(f"cbir_{door[0]}={TOKEN};") and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    status, _, text = asked(door, "/?token=wrong", None, Cookie=None, Origin=None)
    assert status == 403 and text == "Open the whole address that make app printed: its token is what lets you in.\n"


def test_the_page_loads_nothing_from_elsewhere_and_is_in_no_frame(door):
    status, headers, page = asked(door, "/", None)
    assert status == 200 and 'src="page.js"' in page and "//" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"] and headers["X-Frame-Options"] == "DENY"
    script = asked(door, "/explorer.js", None)
    assert script[0] == 200 and script[1]["Content-Type"].startswith("text/javascript")
    assert {"function drawing_pad", "function code_map", "export { start }"} <= set(
        re.findall(r"function drawing_pad|function code_map|export { start }", script[2])
    )


@pytest.mark.parametrize(
    "path", ["/nothing", "/../cli.py", "/%2e%2e/server.py", "/server.py", "/ask/x", "/explorer.py"]
)
def test_nothing_else_is_served(door, path):
    assert asked(door, path, None)[0] == 404


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b"[" * 900, b'"do"', b"\xff"])
def test_what_is_no_request_is_refused(door, body):
    _, reached = door
    before = len(reached)
    assert asked(door, body=body)[0] == 400 and len(reached) == before


def test_a_request_that_is_too_large_is_not_read(door):
    _, reached = door
    before = len(reached)
    with suppress(OSError):  # the connection may be closed before the body is sent
        assert asked(door, body=b'{"do": "' + b"x" * 2000 + b'"}')[0] in (400, 413)
    assert len(reached) == before


def test_served_as_the_command_line_does_it(monkeypatch):
    """It prints one address, which opens the page; it has searched once before; two do not fit on one port."""
    told, seen = [], []

    def answer(request):
        seen.append(request)
        return {"start": {"method": "hog"}}

    async def once():
        socket, port = tornado.testing.bind_unused_port()
        socket.close()
        task = asyncio.create_task(server.serve(answer, port, told.append))
        while not told:
            await asyncio.sleep(0.01)
        try:
            await asyncio.to_thread(lambda: urllib.request.build_opener(Quiet).open(told[0], timeout=30))
        finally:
            task.cancel()

    with pytest.raises(urllib.error.HTTPError, match="302"):
        asyncio.run(once())
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", told[0])
    assert {"do": "search", "query": {"query": 0}, "method": "hog"} in seen

    async def twice():
        socket, port = tornado.testing.bind_unused_port()
        await server.serve(answer, port, told.append)

    with pytest.raises(OSError, match="in use"):
        asyncio.run(twice())
