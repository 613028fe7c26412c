"""urllib.request and http.client of the standard library (HTTP/1.1, a connection for each request; and HTTP/1.0)."""

import http.client
import socket
import urllib.error
import urllib.request

from cases import BASE, BYTES, attempt, check_echo, check_events, check_problem, check_sum, check_uploaded, end, equal, pieces, user

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(path, data=None, method=None, headers={}):
    """Status, headers, body; what urllib makes an exception of is an answer, too."""
    request = urllib.request.Request(BASE + path, data=data, method=method, headers=headers)
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


_, _, pattern = call(f"/_sim/download?bytes={BYTES}")
http1 = attempt("HTTP/1.1")


@http1
def _():
    "GET"
    check_echo(call("/_sim/echo?a=%20b&c")[2], "/_sim/echo?a=%20b&c")


@http1
def _():
    "download"
    check_sum(pattern)


@http1
def _():
    "download of unannounced length"
    check_sum(call(f"/_sim/download?bytes={BYTES}&chunked=1")[2])


@http1
def _():
    "upload"
    check_uploaded(call("/_sim/upload", pattern)[2])


@http1
def _():
    "chunked upload"
    check_uploaded(call("/_sim/upload", pieces(pattern), "POST")[2])


@http1
def _():
    "HEAD"
    _, headers, body = call(f"/_sim/download?bytes={BYTES}", method="HEAD")
    equal((headers["content-length"], body), (str(BYTES), b""))


@http1
def _():
    "204, 304, 404, 500"
    for status in [204, 304, 404, 500]:
        equal(call(f"/_sim/status/{status}")[0], status)


@http1
def _():
    "409"
    body = user().encode()
    equal(call("/users", body)[0], 201)
    equal(call("/users", body)[0], 409)


@http1
def _():
    "problem+json"
    check_problem(*call("/patient/auth", b"{}"))


@http1
def _():
    "server-sent events"
    with opener.open(f"{BASE}/_sim/sse?events=5&interval_ms=80", timeout=20) as answer:
        check_events(answer)


@http1
def _():
    "keep-alive (http.client)"
    connection = http.client.HTTPConnection(BASE.removeprefix("http://"), timeout=20)
    connection.connect()
    kept = connection.sock
    for status in [200, 404, 204, 304, 500]:
        connection.request("POST", f"/_sim/status/{status}", "x")
        answer = connection.getresponse()
        answer.read()
        equal((answer.status, connection.sock), (status, kept))
    connection.close()


@http1
def _():
    "a body cut short"
    for query in ["", "&chunked=1"]:
        try:
            body = call(f"/_sim/reset?after=1000{query}")[2]
        except (http.client.IncompleteRead, ConnectionError):
            continue
        raise AssertionError(f"looked whole: {len(body)} bytes")


@http1
def _():
    "413 before the upload's end"
    equal(call("/_sim/early?status=413", bytes(8_000_000))[0], 413)


class Http10(http.client.HTTPConnection):
    _http_vsn, _http_vsn_str = 10, "HTTP/1.0"


def call_10(path, method="GET", body=None):
    connection = Http10(BASE.removeprefix("http://"), timeout=20)
    connection.request(method, path, body)
    answer = connection.getresponse()
    read = answer.status, answer.read()
    connection.close()
    return read


http10 = attempt("HTTP/1.0")


@http10
def _():
    "GET"
    check_echo(call_10("/_sim/echo?a=%20b&c")[1], "/_sim/echo?a=%20b&c")


@http10
def _():
    "GET without Host"
    host, port = BASE.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"GET /_sim/echo?bare HTTP/1.0\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"200", head
    assert b"transfer-encoding" not in head.lower(), head
    check_echo(body, "/_sim/echo?bare")


@http10
def _():
    "download of unannounced length"
    check_sum(call_10(f"/_sim/download?bytes={BYTES}&chunked=1")[1])


@http10
def _():
    "upload"
    check_uploaded(call_10("/_sim/upload", "POST", pattern)[1])


@http10
def _():
    "a body cut short"
    for query in ["", "&chunked=1"]:
        try:
            body = call_10(f"/_sim/reset?after=1000{query}")[1]
        except (http.client.IncompleteRead, ConnectionError):
            continue
        raise AssertionError(f"looked whole ({query}): {len(body)} bytes")


end()
