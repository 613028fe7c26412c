"""CarePortals through the sidecar, with requests: python-requests.py FILE"""

import os
import sys
from urllib.parse import quote

import requests

# The three lines that matter.
base = os.environ.get("CAREPORTALS_BASE_URL", "http://127.0.0.1:2273")
account = requests.get(base + "/users/account", timeout=90)
print("account:", account.status_code)

# The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.
session = requests.Session()
if socket := os.environ.get("CAREPORTALS_SOCKET"):
    import requests_unixsocket  # pip install requests-unixsocket2

    session = requests_unixsocket.Session()
    base = "http+unix://" + quote(socket, safe="")


def call(method, path, **options):
    # Longer than the sidecar waits itself, so that its own error tells what happened.
    answer = session.request(method, base + path, timeout=90, **options)
    if answer.status_code < 400:
        return answer
    try:
        error = answer.json()
    except ValueError:  # What is no JSON comes from a gateway on the way.
        error = {}
    error = error if isinstance(error, dict) else {}
    if answer.headers.get("proxy-status", "").startswith("careportals-sidecar"):
        retry = answer.headers.get("retry-after")
        retry = f" (retry after {retry} s)" if retry else ""
        raise RuntimeError(f"sidecar {answer.status_code} {error.get('code')}: {error.get('detail')}{retry}")
    raise RuntimeError(f"CarePortals {answer.status_code}: {error.get('message', answer.reason)}")


try:
    answer = call("GET", "/customers/lookups", params={"keyword": "+15550100150"})
    found = answer.json()[0]
    print("query:", answer.status_code, found["firstName"], found["lastName"])

    answer = call("POST", "/v2/carts", json={"items": [{"product": "Crème", "quantity": 2}]})
    cart = answer.json()
    print(f"post: {answer.status_code} {cart['status']}, {cart['items'][0]['quantity']} x {cart['items'][0]['product']}")

    with open(sys.argv[1], "rb") as file:
        answer = call("POST", "/_sim/upload", data=file, headers={"content-type": "application/octet-stream"})
    print(f"upload: {answer.status_code} {answer.json()['bytes']} bytes, {answer.json()['sha256']}")

    with call("GET", "/_sim/sse", params={"events": 3, "interval_ms": 100}, stream=True) as answer:
        for line in answer.iter_lines(decode_unicode=True):
            if line.startswith("data: "):
                print("stream:", line.removeprefix("data: "), flush=True)

    call("GET", "/customers/000000000000000000000000")  # nobody has this id
except RuntimeError as error:
    sys.exit(f"error: {error}")
