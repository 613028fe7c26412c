"""requests (urllib3, HTTP/1.1)."""

from concurrent.futures import ThreadPoolExecutor

import requests
from cases import BASE, BYTES, attempt, check_echo, check_events, check_problem, check_sum, check_uploaded, end, equal, pieces, user

session = requests.Session()
session.trust_env = False
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=50))


def call(method, path, **more):
    return session.request(method, BASE + path, timeout=20, **more)


pattern = call("GET", f"/_sim/download?bytes={BYTES}").content
http1 = attempt("HTTP/1.1")


@http1
def _():
    "GET"
    check_echo(call("GET", "/_sim/echo?a=%20b&c").text, "/_sim/echo?a=%20b&c")


@http1
def _():
    "download"
    check_sum(pattern)


@http1
def _():
    "download of unannounced length"
    check_sum(call("GET", f"/_sim/download?bytes={BYTES}&chunked=1").content)


@http1
def _():
    "upload"
    check_uploaded(call("POST", "/_sim/upload", data=pattern).text)


@http1
def _():
    "chunked upload"
    check_uploaded(call("POST", "/_sim/upload", data=pieces(pattern)).text)


@http1
def _():
    "HEAD"
    answer = call("HEAD", f"/_sim/download?bytes={BYTES}")
    equal((answer.headers["content-length"], answer.content), (str(BYTES), b""))


@http1
def _():
    "204, 304, 404, 500"
    for status in [204, 304, 404, 500]:
        equal(call("GET", f"/_sim/status/{status}").status_code, status)


@http1
def _():
    "409"
    body = user()
    equal(call("POST", "/users", data=body).status_code, 201)
    answer = call("POST", "/users", data=body)
    equal((answer.status_code, answer.json()), (409, {"message": "Account Exists Already"}))


@http1
def _():
    "problem+json"
    answer = call("POST", "/patient/auth", json={})
    check_problem(answer.status_code, answer.headers, answer.text)


@http1
def _():
    "server-sent events"
    check_events(call("GET", "/_sim/sse?events=5&interval_ms=80", stream=True).iter_content(None))


@http1
def _():
    "drip"
    equal(call("GET", "/_sim/drip?bytes=20&interval_ms=5").content, pattern[:20])


@http1
def _():
    "gzip"
    equal(call("GET", "/_sim/gzip").json()["gzipped"], True)


@http1
def _():
    "keep-alive"
    before = session.get_adapter(BASE).poolmanager.connection_from_url(BASE).num_connections
    for _ in range(5):
        call("POST", "/_sim/echo", data="x")
    equal(session.get_adapter(BASE).poolmanager.connection_from_url(BASE).num_connections, before)


@http1
def _():
    "50 in parallel"

    def one(number):
        target = f"/_sim/echo?number={number}"
        check_echo(call("POST", target, data=f"number {number}").text, target, "POST", f"number {number}")

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(one, range(50)))


@http1
def _():
    "a body cut short"
    for query in ["", "&chunked=1"]:
        try:
            answer = call("GET", f"/_sim/reset?after=1000{query}")
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
            continue
        raise AssertionError(f"looked whole: {len(answer.content)} bytes")


@http1
def _():
    "absolute form, as to a proxy"
    answer = requests.get("http://localhost/_sim/echo?absolute", proxies={"http": BASE}, timeout=20)
    check_echo(answer.text, "/_sim/echo?absolute")


@http1
def _():
    "413 before the upload's end"
    equal(call("POST", "/_sim/early?status=413", data=bytes(8_000_000)).status_code, 413)


end()
