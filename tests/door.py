"""What the explorer answers to whom it must not let in: ``python tests/door.py ADDRESS``, as ``make app`` printed it.

Each line is an attempt, what came back, and whether that was right. The status is 1 if an answer was wrong.
"""

import http.client
import sys
from urllib.parse import parse_qs, urlsplit


def ask(port, method="GET", path="/", body=None, host=None, **headers):
    """The status of an answer, and its headers and text; status 0 if the server hung up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"Host": host or f"127.0.0.1:{port}", **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    except OSError:
        return 0, {}, ""
    finally:
        connection.close()


def attempts(address):
    """Each attempt on the explorer at ``address`` as ``(what, answer, right)``."""
    parts = urlsplit(address)
    port, token = parts.port, parse_qs(parts.query)["token"][0]
    own = {"Cookie": f"cbir_{port}={token}", "Content-Type": "application/json"}
    search = b'{"do": "search", "query": {"query": 0}, "k": 3}'

    def refused(what, *arguments, right=(403,), **options):
        status, _, text = ask(port, *arguments, **options)
        answer = f"{status} {text.strip()}" if status else "the connection is closed"
        return what, answer, status in right

    yield refused("the page without its token", "GET", "/")
    yield refused("an <img> or <iframe> of a foreign page: no cookie", "GET", "/explorer.js")
    yield refused("a wrong token", "GET", "/?token=" + "x" * 32)
    yield refused("DNS rebinding: Host evil.example, with the cookie", "GET", "/", host=f"evil.example:{port}", **own)
    foreign = {**own, "Origin": "http://evil.example"}
    yield refused("a foreign page asks in the user's name", "POST", "/ask", search, **foreign)
    yield refused("an upload of 120 MB", "POST", "/ask", b"x" * 120_000_000, right=(400, 413, 0), **own)
    yield refused("no JSON", "POST", "/ask", b"[" * 1000, right=(400,), **own)
    status, headers, _ = ask(port, "GET", "/", **own)
    framed = headers.get("X-Frame-Options") == "DENY" and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    yield "the page in a frame of a foreign one", f"{status}, frames forbidden: {framed}", framed
    pages = [ask(port, *words, **own)[0] for _ in range(10) for words in (("GET", "/"), ("POST", "/ask", search))]
    yield "ten visits of the user's own, each with a search", f"{pages.count(200)} of 20 answered", pages == [200] * 20


if __name__ == "__main__":
    if len(sys.argv) != 2 or "token=" not in sys.argv[1]:
        sys.exit(__doc__)
    wrong = 0
    for what, answer, right in attempts(sys.argv[1]):
        print(f"{'right' if right else 'WRONG'}  {what}: {answer}")
        wrong += not right
    sys.exit(bool(wrong))
