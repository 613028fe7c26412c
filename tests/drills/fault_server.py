"""CarePortals as a script plays it: a log-in and an upstream over TLS, each of which does at any moment what its fault says.

It speaks HTTP/1.1, and HTTP/2 without reading a field: there a GET is a request without a body, and a POST's body is its name.
"""

import asyncio
import base64
import email.utils
import json
import socket
import ssl
import struct
import subprocess
import time
from collections import Counter

from hostile import DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, field, frame

PASSWORD = "drill-password-1"
RST_STREAM, PING, GOAWAY = 3, 6, 7
REFUSED_STREAM = 7
# How long an answer takes.
LATENCY = 0.02


def openssl(folder, *words):
    subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)


class Authority:
    """A throw-away authority, and certificates of it for all names of a cell."""

    NAMES = "IP:127.0.0.1,DNS:localhost,DNS:upstream.test,DNS:login.test"

    def __init__(self, folder):
        self.folder, self.serial = folder, 0
        self.new_key("ca.key")
        openssl(folder, "req", "-x509", "-new", "-key", "ca.key", "-days", 2, "-subj", "/CN=Drill", "-out", "ca.pem",
                "-addext", "keyUsage=critical,keyCertSign")
        (folder / "ca.conf").write_text(
            "[ca]\ndefault_ca=it\n[it]\ndatabase=index\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\npolicy=any\nunique_subject=no\n"
            f"[any]\ncommonName=supplied\n[leaf]\nsubjectAltName={self.NAMES}\n")
        (folder / "index").touch()

    def new_key(self, name):
        openssl(self.folder, "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", name)

    def tls(self, protocols=("http/1.1",), end=None):
        """What a server needs to show a certificate that is good until `end`."""
        self.serial += 1
        name, end = f"leaf{self.serial}", end or time.time() + 86400
        (self.folder / "serial").write_text(f"{self.serial:02X}\n")
        self.new_key(f"{name}.key")
        openssl(self.folder, "req", "-new", "-key", f"{name}.key", "-subj", "/CN=Drill server", "-out", f"{name}.csr")
        when = lambda at: time.strftime("%Y%m%d%H%M%SZ", time.gmtime(at))
        openssl(self.folder, "ca", "-batch", "-config", "ca.conf", "-extensions", "leaf", "-cert", "ca.pem", "-keyfile", "ca.key",
                "-startdate", when(time.time() - 86400), "-enddate", when(end), "-in", f"{name}.csr", "-out", f"{name}.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        tls.set_alpn_protocols(list(protocols))
        return tls


class Reply:
    """An answer before it is written."""

    def __init__(self, status, body=b"", **fields):
        self.status, self.body, self.fields = status, body, {name.replace("_", "-"): value for name, value in fields.items()}

    def head(self, side, length):
        lines = [f"HTTP/1.1 {self.status} Status", f"date: {email.utils.formatdate(side.clock(), usegmt=True)}", length]
        lines += [f"{name}: {value}" for name, value in self.fields.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def bytes(self, side):
        return self.head(side, f"content-length: {len(self.body)}") + self.body


class Tokens:
    """The tokens that were issued, and which of them the upstream takes."""

    def __init__(self, life):
        self.life, self.offset, self.number, self.refused = life, 0, 0, 0

    def clock(self):
        return time.time() + self.offset

    def issue(self, life=None):
        self.number += 1
        part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
        claims = {"number": self.number, "exp": int(self.clock() + (self.life if life is None else life))}
        return ".".join([part({"alg": "none"}), part(claims), part("signature")])

    def takes(self, bearer):
        try:
            part = bearer.removeprefix("Bearer ").split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        except (IndexError, ValueError):
            return True
        return claims["number"] > self.refused and claims["exp"] > self.clock()


class Side:
    """The log-in, or the upstream."""

    def __init__(self, port, tokens, tls):
        self.port, self.tokens, self.tls = port, tokens, tls
        self.addresses, self.listeners, self.fillers = ["127.0.0.1"], [], []
        self.connections, self.fault, self.date_offset = set(), None, 0
        # How often the side was asked, and how often each POST may have been carried out.
        self.requests, self.arrived = 0, Counter()

    def clock(self):
        """What its answers tell."""
        return self.tokens.clock() + self.date_offset

    async def listen(self):
        for address in self.addresses:
            self.listeners.append(await asyncio.start_server(self.accepted, address, self.port, backlog=256))

    def stop_listening(self):
        for listener in self.listeners:
            listener.close()
        self.listeners = []

    def stall_listening(self):
        """Leaves connections in the kernel's queue, and fills it: no further one is answered."""
        self.stop_listening()
        queue = socket.socket()
        queue.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        queue.bind(("127.0.0.1", self.port))
        queue.listen(0)
        self.fillers = [queue]
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)

    async def listen_again(self):
        for filler in self.fillers:
            filler.close()
        self.fillers = []
        self.stop_listening()
        await self.listen()

    def abort_all(self):
        for connection in list(self.connections):
            connection.abort()

    async def accepted(self, reader, writer):
        connection = self.connect(reader, writer)
        self.connections.add(connection)
        try:
            await connection.serve()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            self.connections.discard(connection)
            connection.close()

    def connect(self, reader, writer):
        return Connection(self, reader, writer)

    def reply(self, method, target, fields, body):
        raise NotImplementedError


class Login(Side):
    def reply(self, method, target, fields, body):
        if self.fault and (reply := self.fault.replace(self)):
            return reply
        if json.loads(body)["password"] != PASSWORD:
            return Reply(401, b'{"message":"wrong"}')
        return Reply(201, json.dumps({"token": self.tokens.issue()}).encode(), content_type="application/json")


class Upstream(Side):
    def reply(self, method, target, fields, body):
        name = body.decode() if method == "POST" else target.rsplit("/", 1)[1]
        if not self.tokens.takes(fields.get("authorization", "")):
            return Reply(401, b'{"message":"jwt"}')
        if self.fault and self.fault.refuses(target):
            return Reply(401, b'{"message":"not yours"}')
        if method == "POST":
            self.arrived[name] += 1
        if self.fault and (reply := self.fault.replace(self)):
            return reply
        return Reply(200, json.dumps({"name": name}).encode(), content_type="application/json")


class Connection:
    def __init__(self, side, reader, writer):
        self.side, self.reader, self.writer = side, reader, writer
        # Set by a fault: nothing that comes is answered any more.
        self.silent = False
        self.draining = False

    async def serve(self):
        fault = self.side.fault
        if fault and await fault.accepted(self):
            return
        await self.writer.start_tls(self.side.tls)
        if self.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            await self.http2().serve()
        else:
            while await self.exchange():
                pass

    def http2(self):
        return Http2(self)

    async def exchange(self):
        """One request and its answer; tells whether there may be another."""
        head = await self.head()
        first, *lines = head.decode("latin-1")[:-4].split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.body(fields)
        await asyncio.sleep(LATENCY)
        self.side.requests += 1
        fault, (method, target, _) = self.side.fault, first.split(" ")
        reply = self.side.reply(method, target, fields, body)
        self.answering(method, target, body)
        if self.silent:
            await self.forever()
        if fault:
            return await fault.write(self, reply)
        return await self.write(reply)

    async def head(self):
        return await self.reader.readuntil(b"\r\n\r\n")

    def answering(self, method, target, body):
        """A request has come whole."""

    async def write(self, reply):
        if self.draining:
            reply.fields["connection"] = "close"
        self.writer.write(reply.bytes(self.side))
        await self.writer.drain()
        return not self.draining

    async def body(self, fields):
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readuntil(b"\r\n")
        return body

    async def forever(self):
        await asyncio.Event().wait()

    def abort(self):
        """A reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    def half_close(self):
        self.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    def close(self):
        self.writer.close()


class Http2:
    """One connection of HTTP/2."""

    def __init__(self, connection):
        self.connection, self.side = connection, connection.side
        self.reader, self.writer = connection.reader, connection.writer
        self.bodies, self.last, self.served, self.answering = {}, 0, 0, set()

    def send(self, kind, flags, stream, payload=b""):
        if not self.connection.silent:
            self.writer.write(frame(kind, flags, stream, payload))

    async def serve(self):
        await self.reader.readexactly(24)
        fault = self.side.fault
        streams = fault.streams if fault else 100
        self.send(SETTINGS, 0, 0, struct.pack(">HI", 3, streams))
        while True:
            head = await self.reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & 1:
                self.send(SETTINGS, 1, 0)
            elif kind == PING and not flags & 1:
                self.send(PING, 1, 0, payload)
            elif kind in (HEADERS, DATA):
                self.bodies[stream] = self.bodies.get(stream, b"") + (payload if kind == DATA else b"")
                self.last = max(self.last, stream)
                if flags & END_STREAM:
                    self.whole(stream, self.bodies.pop(stream))

    def whole(self, stream, body):
        """A request has come whole; its answer takes its time."""
        self.served += 1
        fault = self.side.fault
        if fault and fault.refuses_stream(self, stream, body.decode()):
            return
        task = asyncio.create_task(self.answer(stream, body))
        self.answering.add(task)
        task.add_done_callback(self.answering.discard)

    async def answer(self, stream, body):
        self.side.requests += 1
        if body:
            self.side.arrived[body.decode()] += 1
        await asyncio.sleep(LATENCY)
        self.send(HEADERS, END_HEADERS, stream, b"\x88" + field(b"content-type", b"text/plain"))
        self.send(DATA, END_STREAM, stream, body or b"-")

    def refuse(self, stream):
        self.send(RST_STREAM, 0, stream, struct.pack(">I", REFUSED_STREAM))

    def go_away(self, last):
        self.send(GOAWAY, 0, 0, struct.pack(">II", last, 0))
