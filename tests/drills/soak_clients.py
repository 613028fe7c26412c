"""The clients of `soak`: each kind is a coroutine that goes on until it is told to stop, and notes what became of each request."""

import asyncio
import base64
import hashlib
import json
import os
import time
from collections import namedtuple

from hostile import DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, field, fields, frame
from http1 import BROKEN, Client, Cut

# `sent` and `ended` by the monotonic clock; `code` is empty for a good answer.
Note = namedtuple("Note", "kind method sent ended code")
# No request of a soak may take longer.
PATIENCE = 60
PERIOD = 65521
PATTERN = bytes((position * 0x9E3779B1 >> 24) & 0xFF for position in range(PERIOD))


def pattern(size):
    return (PATTERN * (size // PERIOD + 1))[:size]


class Wrong(Exception):
    """A whole answer that is not the one that was due."""


class Load:
    """All clients of one sidecar. `chance`: where pauses and sizes come from."""

    def __init__(self, port, chance, rate):
        self.port, self.chance, self.rate = port, chance, rate
        self.notes, self.keys, self.number = [], set(), 0
        self.stopped, self.tasks = asyncio.Event(), []

    def start(self):
        self.stopped = asyncio.Event()
        kinds = [self.gets] * 2 + [self.posts] * 2 + [self.uploads, self.downloads, self.slow, self.events]
        kinds += [self.websocket] * 3 + [self.http2] * 2 + [self.idle] * 10
        self.tasks = [asyncio.create_task(kind()) for kind in kinds]

    async def stop(self):
        self.stopped.set()
        await asyncio.gather(*self.tasks)

    async def pause(self, mean):
        """A random time, which the end of the load cuts short. Tells whether the load goes on."""
        try:
            await asyncio.wait_for(self.stopped.wait(), min(self.chance.expovariate(1 / mean), 10 * mean))
        except TimeoutError:
            return True
        return False

    def name(self):
        self.number += 1
        return f"soak-{os.getpid()}-{self.number}"

    async def note(self, kind, method, request):
        """Awaits a request that gives its code, and notes it."""
        sent = time.monotonic()
        try:
            code = await asyncio.wait_for(request, PATIENCE)
        except TimeoutError:
            code = "no_answer_in_time"
        except Cut:
            code = "cut"
        except Wrong as fault:
            code = f"wrong: {fault}"
        except BROKEN as fault:
            code = type(fault).__name__
        self.notes.append(Note(kind, method, sent, time.monotonic(), code))
        return code

    # --- small requests -----------------------------------------------------------------------------------------------------

    async def gets(self):
        client = Client(self.port)
        while await self.pause(2 / self.rate):
            await self.note("GET", "GET", self.get(client))
        client.close()

    async def get(self, client, pace=None):
        word = self.name()
        answer = await client.exchange("GET", f"/_sim/echo?id={word}", pace=pace)
        return self.judged(answer, 200, lambda body: word.encode() in body)

    async def posts(self):
        client = Client(self.port)
        while await self.pause(4 / self.rate):
            await self.note("POST", "POST", self.post(client))
        client.close()

    async def post(self, client):
        word = self.name()
        self.keys.add(word)
        sent = ("content-type: application/json", f"idempotency-key: {word}")
        answer = await client.exchange("POST", "/v2/carts", json.dumps({"items": [word]}).encode(), sent)
        return self.judged(answer, 201, lambda body: word.encode() in body)

    @staticmethod
    def judged(answer, status, right):
        if code := answer.code():
            return code
        if answer.status != status:
            return str(answer.status)
        if not right(answer.body):
            raise Wrong("another body")
        return ""

    async def idle(self):
        """A connection that is asked now and then, and is kept in between."""
        client = Client(self.port)
        while await self.pause(30):
            await self.note("GET after a pause", "GET", self.get(client))
        client.close()

    # --- bodies -------------------------------------------------------------------------------------------------------------

    async def uploads(self):
        client = Client(self.port)
        while await self.pause(10 / self.rate):
            body = pattern(self.chance.randrange(1, 3 << 20))
            await self.note("upload", "POST", self.upload(client, body))
        client.close()

    async def upload(self, client, body):
        answer = await client.exchange("POST", "/_sim/upload", body)
        digest = hashlib.sha256(body).hexdigest().encode()
        return self.judged(answer, 200, lambda told: digest in told)

    async def downloads(self):
        client = Client(self.port)
        while await self.pause(10 / self.rate):
            size = self.chance.randrange(1, 3 << 20)
            await self.note("download", "GET", self.download(client, size))
        client.close()

    async def download(self, client, size, pace=None):
        chunked = "&chunked=1" if size % 2 and not pace else ""
        answer = await client.exchange("GET", f"/_sim/download?bytes={size}{chunked}", pace=pace)
        return self.judged(answer, 200, lambda body: body == pattern(size))

    async def slow(self):
        """Reads a body at 64 KiB a second."""
        client = Client(self.port)
        while await self.pause(10):
            size = self.chance.randrange(1 << 16, 1 << 19)
            await self.note("slow download", "GET", self.download(client, size, lambda piece: asyncio.sleep(piece / (1 << 16))))
        client.close()

    async def events(self):
        while await self.pause(10):
            await self.note("events", "GET", self.stream())

    async def stream(self):
        client = Client(self.port)
        try:
            answer = await client.exchange("GET", "/_sim/sse?events=20&interval_ms=200")
            return self.judged(answer, 200, lambda body: body.count(b"data:") == 20)
        finally:
            client.close()

    # --- WebSockets ---------------------------------------------------------------------------------------------------------

    async def websocket(self):
        while await self.pause(5):
            await self.note("WebSocket", "tunnel", self.echoes())

    async def echoes(self):
        """A tunnel that lives for a minute or so, with a message each second."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            writer.write(f"GET /_sim/websocket HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                         f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                body = await Client.body_of(reader, head, None)
                return json.loads(body)["code"] if b"problem+json" in head else head.split(b" ")[1].decode()
            for _ in range(self.chance.randrange(5, 40)):
                if not await self.pause(1):
                    break
                message = os.urandom(60)
                writer.write(b"\x82" + bytes([0x80 | len(message)]) + bytes(4) + message)
                try:
                    echoed = await asyncio.wait_for(reader.readexactly(2 + len(message)), 15)
                except (TimeoutError, EOFError, OSError) as fault:
                    raise Cut from fault
                if echoed[2:] != message:
                    raise Wrong("another message")
            return ""
        finally:
            writer.close()

    # --- h2c ----------------------------------------------------------------------------------------------------------------

    async def http2(self):
        """A connection with several streams at once, which is renewed when it breaks."""
        connection = None
        while await self.pause(8 / self.rate):
            if not connection or connection.ended:
                connection = await Http2Client.open(self.port)
            await asyncio.gather(*(self.note("h2c", method, self.ask(connection, method)) for method in ("GET", "GET", "POST")))
        if connection:
            connection.close()

    async def ask(self, connection, method):
        word = self.name()
        if method == "GET":
            body = await connection.ask(b"GET", b"/_sim/echo?id=" + word.encode())
        else:
            self.keys.add(word)
            more = [(b"content-type", b"application/json"), (b"idempotency-key", word.encode())]
            body = await connection.ask(b"POST", b"/v2/carts", json.dumps({"items": [word]}).encode(), *more)
        if b"urn:careportals-sidecar:problem" in body:
            return json.loads(body)["code"]
        if word.encode() not in body:
            return "401" if b"jwt" in body else body[:60].decode(errors="replace")
        return ""


class Http2Client:
    """HTTP/2 by prior knowledge, for answers that are told by their bodies: it reads no field."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.stream, self.ended = reader, writer, -1, False
        self.waiting, self.bodies = {}, {}
        self.task = asyncio.create_task(self.read())

    @classmethod
    async def open(cls, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        grant = frame(WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65535).to_bytes(4, "big"))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0) + grant)
        return cls(reader, writer)

    async def ask(self, method, target, body=b"", *more):
        self.stream += 2
        block = fields(method, target, *more) + (field(b"content-length", str(len(body)).encode()) if body else b"")
        sent = frame(HEADERS, END_HEADERS | (0 if body else END_STREAM), self.stream, block)
        self.waiting[self.stream], self.bodies[self.stream] = asyncio.get_running_loop().create_future(), b""
        if self.ended:
            raise ConnectionError("closed")
        self.writer.write(sent + (frame(DATA, END_STREAM, self.stream, body) if body else b""))
        return await self.waiting[self.stream]

    async def read(self):
        fault = ConnectionError("closed")
        try:
            while True:
                head = await self.reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big")
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                if kind == DATA:
                    self.bodies[stream] += payload
                elif kind == 6 and not flags & 1:
                    self.writer.write(frame(6, 1, 0, payload))
                elif kind == 7:
                    self.ended = True
                elif kind == 3 and stream in self.waiting:
                    self.finish(stream, Cut("reset"))
                if kind in (DATA, HEADERS) and flags & END_STREAM:
                    self.finish(stream)
        except (OSError, EOFError) as broken:
            fault = broken
        self.ended = True
        for stream in list(self.waiting):
            self.finish(stream, fault)

    def finish(self, stream, fault=None):
        waiting, body = self.waiting.pop(stream), self.bodies.pop(stream)
        if waiting.done():
            return
        if fault:
            waiting.set_exception(fault)
        else:
            waiting.set_result(body)

    def close(self):
        self.task.cancel()
        self.writer.close()
