"""CarePortals through the sidecar, with httpx: python-httpx.py FILE"""

import os
import sys

import httpx

# The three lines that matter.
base = os.environ.get("CAREPORTALS_BASE_URL", "http://127.0.0.1:2273")
account = httpx.get(base + "/users/account")
print("account:", account.status_code)

# The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.
socket = os.environ.get("CAREPORTALS_SOCKET")
client = httpx.Client(
    base_url=base,
    transport=httpx.HTTPTransport(uds=socket) if socket else None,
    timeout=90,  # Longer than the sidecar waits itself, so that its own error tells what happened.
)


def checked(answer):
    if answer.status_code < 400:
        return answer
    answer.read()  # one that was to be streamed
    try:
        error = answer.json()
    except ValueError:  # What is no JSON comes from a gateway on the way.
        error = {}
    error = error if isinstance(error, dict) else {}
    if answer.headers.get("proxy-status", "").startswith("careportals-sidecar"):
        retry = answer.headers.get("retry-after")
        retry = f" (retry after {retry} s)" if retry else ""
        raise RuntimeError(f"sidecar {answer.status_code} {error.get('code')}: {error.get('detail')}{retry}")
    raise RuntimeError(f"CarePortals {answer.status_code}: {error.get('message', answer.reason_phrase)}")


try:
    answer = checked(client.get("/customers/lookups", params={"keyword": "+15550100150"}))
    found = answer.json()[0]
    print("query:", answer.status_code, found["firstName"], found["lastName"])

    answer = checked(client.post("/v2/carts", json={"items": [{"product": "Crème", "quantity": 2}]}))
    cart = answer.json()
    print(f"post: {answer.status_code} {cart['status']}, {cart['items'][0]['quantity']} x {cart['items'][0]['product']}")

    with open(sys.argv[1], "rb") as file:
        answer = checked(client.post("/_sim/upload", content=file, headers={"content-type": "application/octet-stream"}))
    print(f"upload: {answer.status_code} {answer.json()['bytes']} bytes, {answer.json()['sha256']}")

    with client.stream("GET", "/_sim/sse", params={"events": 3, "interval_ms": 100}) as answer:
        for line in checked(answer).iter_lines():
            if line.startswith("data: "):
                print("stream:", line.removeprefix("data: "), flush=True)

    checked(client.get("/customers/000000000000000000000000"))  # nobody has this id
except RuntimeError as error:
    sys.exit(f"error: {error}")
