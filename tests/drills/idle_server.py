"""A server that closes idle connections, for `idle-timeouts`: `idle_server.py PORT FOLDER RECORD IDLE [--tells SECONDS] [--http2]`.

It is log-in and upstream in one. On SIGTERM it drains: it listens no more, closes idle connections, answers what is in flight, and
ends. RECORD gets a JSON line for each connection and each request: what, when by the machine's monotonic clock, which connection,
and of a request its method, and of a POST its name.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import ssl
import time
from pathlib import Path

from fault_server import Connection, Http2, Login, Tokens, Upstream

# A server ends after this time, even if an answer is not yet written.
DRAIN = 3


class Server(Upstream):
    def __init__(self, arguments, tls):
        super().__init__(arguments.port, Tokens(3600), tls)
        self.idle, self.tells, self.number = arguments.idle, arguments.tells, 0
        self.login = Login(0, self.tokens, None)
        self.record = os.open(arguments.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, what, connection, *more):
        os.write(self.record, json.dumps([what, time.monotonic(), connection.number, *more]).encode() + b"\n")

    def connect(self, reader, writer):
        return IdleConnection(self, reader, writer)

    def reply(self, method, target, fields, body):
        if target == "/auth":
            return self.login.reply(method, target, fields, body)
        reply = super().reply(method, target, fields, body)
        if self.tells:
            reply.fields["keep-alive"] = f"timeout={self.tells}"
        return reply


class IdleConnection(Connection):
    def __init__(self, side, reader, writer):
        super().__init__(side, reader, writer)
        side.number += 1
        self.number, self.busy, self.served, self.over_http2 = f"{os.getpid()}-{side.number}", True, False, False

    async def serve(self):
        self.side.note("connection", self)
        await super().serve()

    async def head(self):
        # A drain lets a new connection have its first answer.
        self.busy = not self.served
        head = await asyncio.wait_for(super().head(), self.side.idle)
        self.busy = self.served = True
        return head

    def answering(self, method, target, body):
        self.side.note("log-in" if target == "/auth" else "request", self, method, body.decode() if method == "POST" and target != "/auth" else "")

    def http2(self):
        self.over_http2 = True
        return IdleHttp2(self)

    def drain(self):
        self.draining = True
        if not self.busy and not self.over_http2:
            self.close()


class IdleHttp2(Http2):
    """Says GOAWAY when it was idle for long enough, and when it drains."""

    # The last stream that the GOAWAY named.
    told = None

    async def serve(self):
        watching = asyncio.create_task(self.watch())
        try:
            await super().serve()
        finally:
            watching.cancel()

    async def watch(self):
        quiet = time.monotonic()
        while True:
            await asyncio.sleep(0.05)
            if self.answering:
                quiet = time.monotonic()
            self.connection.busy = bool(self.answering)
            if self.connection.draining or time.monotonic() > quiet + self.side.idle:
                self.go_away(self.last)
                self.told = self.last
                # What is on its way may belong to a stream that was named.
                await asyncio.sleep(0.2)
                await asyncio.gather(*self.answering)
                self.connection.close()
                return

    def whole(self, stream, body):
        # What was sent before the GOAWAY was read is above its last stream, and is not processed.
        if self.told is not None and stream > self.told:
            return
        self.side.note("request", self.connection, "POST" if body else "GET", body.decode())
        super().whole(stream, body)


async def main():
    # It warns of each end of a TLS connection.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("record")
    parser.add_argument("idle", type=float)
    parser.add_argument("--tells", type=int)
    parser.add_argument("--http2", action="store_true")
    arguments = parser.parse_args()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(arguments.folder / "leaf1.pem", arguments.folder / "leaf1.key")
    tls.set_alpn_protocols(["h2", "http/1.1"] if arguments.http2 else ["http/1.1"])
    server, told = Server(arguments, tls), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await server.listen()
    print("ready", flush=True)
    await told.wait()
    server.stop_listening()
    for connection in list(server.connections):
        connection.drain()
    end = time.monotonic() + DRAIN
    while server.connections and time.monotonic() < end:
        await asyncio.sleep(0.02)
    os._exit(0)


asyncio.run(main())
