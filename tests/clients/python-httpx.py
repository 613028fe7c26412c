"""httpx: HTTP/1.1, and HTTP/2 by prior knowledge."""

import asyncio

import httpx
from cases import BASE, BYTES, attempt, check_echo, check_events, check_problem, check_sum, check_uploaded, end, equal, pieces, user


def cases(protocol, versions):
    client = httpx.Client(base_url=BASE, timeout=20, trust_env=False, **versions)
    case = attempt(protocol)
    pattern = b""

    @case
    def _():
        "download"
        nonlocal pattern
        answer = client.get(f"/_sim/download?bytes={BYTES}")
        equal(answer.http_version, protocol)
        pattern = answer.content
        check_sum(pattern)

    @case
    def _():
        "GET"
        check_echo(client.get("/_sim/echo?a=%20b&c").text, "/_sim/echo?a=%20b&c")

    @case
    def _():
        "download of unannounced length"
        check_sum(client.get(f"/_sim/download?bytes={BYTES}&chunked=1").content)

    @case
    def _():
        "upload"
        check_uploaded(client.post("/_sim/upload", content=pattern).text)

    @case
    def _():
        "streamed upload"
        check_uploaded(client.post("/_sim/upload", content=pieces(pattern)).text)

    @case
    def _():
        "HEAD"
        answer = client.head(f"/_sim/download?bytes={BYTES}")
        equal((answer.headers["content-length"], answer.content), (str(BYTES), b""))

    @case
    def _():
        "204, 304, 404, 500"
        for status in [204, 304, 404, 500]:
            equal(client.get(f"/_sim/status/{status}").status_code, status)

    @case
    def _():
        "409"
        body = user()
        equal(client.post("/users", content=body).status_code, 201)
        equal(client.post("/users", content=body).status_code, 409)

    @case
    def _():
        "problem+json"
        answer = client.post("/patient/auth", json={})
        check_problem(answer.status_code, answer.headers, answer.text)

    @case
    def _():
        "server-sent events"
        with client.stream("GET", "/_sim/sse?events=5&interval_ms=80") as answer:
            check_events(answer.iter_raw())

    @case
    def _():
        "drip"
        equal(client.get("/_sim/drip?bytes=20&interval_ms=5").content, pattern[:20])

    @case
    def _():
        "gzip"
        equal(client.get("/_sim/gzip").json()["gzipped"], True)

    @case
    def _():
        "50 in parallel"

        async def one(parallel, number):
            target = f"/_sim/echo?number={number}"
            answer = await parallel.post(target, content=f"number {number}")
            check_echo(answer.text, target, "POST", f"number {number}")

        async def all_of_them():
            async with httpx.AsyncClient(base_url=BASE, timeout=20, trust_env=False, **versions) as parallel:
                await asyncio.gather(*(one(parallel, number) for number in range(50)))

        asyncio.run(all_of_them())

    @case
    def _():
        "a body cut short"
        for query in ["", "&chunked=1"]:
            try:
                with client.stream("GET", f"/_sim/reset?after=1000{query}") as answer:
                    equal(answer.status_code, 200)
                    try:
                        body = answer.read()
                    except httpx.RemoteProtocolError:
                        continue
            except httpx.HTTPError as fault:
                raise AssertionError(f"no answer at all: {fault}") from fault
            raise AssertionError(f"looked whole: {len(body)} bytes")

    if protocol == "HTTP/2":
        print(f"skip {protocol} 413 before the upload's end: httpx looks for no answer while it waits for the window")
        return

    @case
    def _():
        "413 before the upload's end"
        with client.stream("POST", "/_sim/early?status=413", content=bytes(8_000_000)) as answer:
            equal(answer.status_code, 413)


cases("HTTP/1.1", {})
cases("HTTP/2", {"http1": False, "http2": True})
end()
