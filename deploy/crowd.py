"""Clients that ask for much, for the checks of the image, of `kubernetes` and of `compose`; `memory.py` runs them.

    crowd.py burst|crowd PORT REQUESTS CONNECTIONS

They call the sidecar at PORT of both loopback addresses, with the simulator behind it. The standard library suffices.
"""

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# How long the crowd reads fast, and how long it hardly reads after that, in seconds.
FAST, SLOW = 3, 10
# A part of a head; the limit is 64 KiB.
PARTIAL = b"GET /users/account HTTP/1.1\r\nhost: localhost\r\n" + b"x-fill: %s\r\n" % (b"v" * 1000) * 60


def connect(address):
    connection = socket.create_connection(address, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def head(method, target, *fields):
    return "\r\n".join([f"{method} {target} HTTP/1.1", "host: localhost", *fields, "", ""]).encode()


def answer(connection):
    """Everything up to the end of the connection."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def burst(addresses, requests, _):
    """Ordinary work, all at once: large uploads and downloads that are read."""
    def call(number):
        with connect(addresses[number % len(addresses)]) as connection:
            if number % 2:
                connection.sendall(head("GET", "/_sim/download?bytes=3000000", "connection: close"))
            else:
                body = b"u" * 300_000
                connection.sendall(head("POST", "/_sim/mirror", f"content-length: {len(body)}", "connection: close") + body)
            return answer(connection)

    with ThreadPoolExecutor(requests) as pool:
        answers = list(pool.map(call, range(requests)))
    good = [len(each) for each in answers if each.startswith(b"HTTP/1.1 200 ")]
    assert len(good) == requests, answers[0][:200]
    return {"answered": len(good), "bytes": sum(good)}


def crowd(addresses, requests, connections):
    """Large answers that are read fast and then hardly; on the other connections, idle ones and heads that lack their end."""
    places = [address for address in addresses for _ in range(connections)]
    others = [connect(address) for address in places[requests:]]
    idle, partial = others[::2], others[1::2]
    for each in idle:
        each.sendall(head("GET", "/users/account"))
        assert each.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    downloads = [connect(address) for address in places[:requests]]
    for each in downloads:
        each.sendall(head("GET", "/_sim/download?bytes=1000000000"))
    for each in partial:
        offer(each, PARTIAL)
    taken = sum(take(each, 1 << 18) for each in rounds(downloads, FAST, 0))
    for each in rounds(downloads, SLOW, 1):
        taken += take(each, 1024)
    return {"downloads": len(downloads), "idle": len(idle), "partial heads": len(partial), "bytes": taken}


def rounds(connections, seconds, pause):
    """Each connection in turn, over and over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield from connections
        time.sleep(pause)


def take(connection, most):
    """Reads what is there."""
    connection.setblocking(False)
    try:
        return len(connection.recv(most))
    except OSError:
        return 0


def offer(connection, data):
    """Writes what the other side takes at once."""
    connection.setblocking(False)
    try:
        connection.send(data)
    except OSError:
        pass


def main(stage, *numbers):
    port, requests, connections = map(int, numbers)
    addresses = []
    for host in ("127.0.0.1", "::1"):
        try:
            connect((host, port)).close()
            addresses.append((host, port))
        except OSError:
            pass
    assert addresses, f"nobody listens at port {port}"
    print(json.dumps({"addresses": len(addresses), **{"burst": burst, "crowd": crowd}[stage](addresses, requests, connections)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
