"""The faults of `faults`: what each does to a side, and what requests may come to while it lasts."""

import asyncio
import email.utils
import json
import time

from fault_server import LATENCY, Reply

LOGIN, UPSTREAM = "login", "upstream"
BOTH = (LOGIN, UPSTREAM)
# What a log-in that fails in this way does to an account.
NOTHING, FAILS, REJECTED = "nothing", "fails", "rejected"
AHEAD = 7200


class Fault:
    """A fault that changes nothing; others change a part of it."""

    sides = BOTH
    # What a GET and a POST may come to when the upstream has the fault, beside a good answer.
    codes = frozenset()
    # Connections end when it begins: a POST on one of them may have been carried out.
    aborts = False
    # What it does to an account if the log-in has it.
    effect = FAILS
    # It takes HTTP/2 to the upstream; names that it can change.
    http2 = names = False
    # How many streams a connection of HTTP/2 may have.
    streams = 100
    # Whether the side sees that it plays the fault, and how often it did.
    counts, met = True, 0
    # How many log-ins a fault of the upstream may cause while it lasts; the token's renewal comes on top.
    logins = 0

    def __init__(self, name, **changed):
        self.name = name
        for attribute, value in changed.items():
            setattr(self, attribute, value)

    def prepare(self, cell, side):
        """Called before the sidecar starts."""

    async def begin(self, cell, side):
        if self.aborts:
            side.abort_all()

    async def end(self, cell, side):
        pass

    async def accepted(self, connection):
        """Plays its part on a new connection; tells whether that is all."""
        return False

    def replace(self, side):
        """Another answer."""
        return None

    def refuses(self, target):
        """Whether a path is 401 for everybody."""
        return False

    def refuses_stream(self, http2, stream, name):
        """Whether a request of HTTP/2 gets no answer. `name`: of a POST."""
        return False

    async def write(self, connection, reply):
        return await connection.write(reply)


class Refused(Fault):
    """Nobody listens."""

    aborts, counts = True, False

    async def begin(self, cell, side):
        side.stop_listening()
        await super().begin(cell, side)

    async def end(self, cell, side):
        await side.listen_again()


class ConnectHangs(Refused):
    """The kernel answers no SYN."""

    async def begin(self, cell, side):
        side.stall_listening()
        side.abort_all()


class TlsHangs(Fault):
    aborts = True

    async def accepted(self, connection):
        self.met += 1
        await connection.forever()


class TlsFails(Fault):
    aborts = True

    async def accepted(self, connection):
        self.met += 1
        connection.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.writer.drain()
        return True


class Silence(Fault):
    """Whatever is sent disappears; connections that have met it stay silent."""

    async def begin(self, cell, side):
        for connection in side.connections:
            connection.silent = True
        self.met = len(side.connections)

    async def accepted(self, connection):
        self.met += 1
        await connection.forever()


class CertificateExpires(Fault):
    counts = False

    def prepare(self, cell, side):
        self.good, self.over = side.tls, int(time.time()) + (-60 if cell.moment == "first" else 4)
        side.tls = cell.authority.tls(end=self.over)

    async def begin(self, cell, side):
        cell.began = min(cell.began, time.monotonic() + self.over - time.time())
        await asyncio.sleep(max(0, self.over + 0.1 - time.time()))

    async def end(self, cell, side):
        side.tls = self.good


class Name(Fault):
    """The name of the side points elsewhere. `address`: `None` for nowhere."""

    names, address, counts = True, None, False

    async def begin(self, cell, side):
        cell.names.point(side, self.address)
        await super().begin(cell, side)

    async def end(self, cell, side):
        cell.names.point(side, "127.0.0.1")


class Moves(Name):
    """The name points to another address; the old one is drained and goes away."""

    address, effect = "127.0.0.2", NOTHING

    async def begin(self, cell, side):
        side.stop_listening()
        side.addresses = [self.address]
        await side.listen()
        cell.names.point(side, self.address)
        for connection in side.connections:
            connection.draining = True

    async def end(self, cell, side):
        pass


class Writes(Fault):
    """The answer is written in another way: `how` is a coroutine of the connection and the answer."""

    async def write(self, connection, reply):
        self.met += 1
        return await self.how(connection, reply)


async def closes_after(connection, reply):
    connection.draining = True
    return await connection.write(reply)


async def reset_before(connection, reply):
    connection.abort()


async def reset_in_head(connection, reply):
    await piece_then(connection, reply.bytes(connection.side)[:40])
    connection.abort()


async def reset_after_head(connection, reply):
    await piece_then(connection, reply.head(connection.side, "content-length: 1000"))
    connection.abort()


async def reset_in_body(connection, reply):
    await piece_then(connection, reply.head(connection.side, "content-length: 1000") + bytes(500))
    connection.abort()


async def piece_then(connection, piece):
    connection.writer.write(piece)
    await connection.writer.drain()
    # So that the piece is read before the reset comes.
    await asyncio.sleep(LATENCY)


async def half_close(connection, reply):
    connection.half_close()
    await connection.forever()


async def garbage(connection, reply):
    await piece_then(connection, b"\x16\x03 this is not HTTP\r\n\r\n")


async def truncated_chunk(connection, reply):
    head = reply.head(connection.side, "transfer-encoding: chunked")
    await piece_then(connection, head + b"400\r\n" + bytes(500))


async def too_short(connection, reply):
    head = reply.head(connection.side, f"content-length: {len(reply.body) + 100}")
    await piece_then(connection, head + reply.body)


async def too_long(connection, reply):
    await piece_then(connection, reply.bytes(connection.side) + b"surplus")
    return True


async def informational(connection, reply):
    for _ in range(10000):
        connection.writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 20)
        await connection.writer.drain()
        await asyncio.sleep(0.01)


async def drip(connection, reply):
    for byte in reply.bytes(connection.side):
        connection.writer.write(bytes([byte]))
        await connection.writer.drain()
        await asyncio.sleep(0.004)
    return True


class Answers(Fault):
    """Another answer: `what` makes it from the side."""

    def replace(self, side):
        self.met += 1
        return self.what(side)


def later(side):
    return email.utils.formatdate(side.clock() + 3, usegmt=True)


def token(**made):
    def reply(side):
        text = made["text"] if "text" in made else side.tokens.issue(**made)
        return Reply(201, json.dumps({"token": text}).encode(), content_type="application/json")
    return reply


class Revoked(Fault):
    """The tokens at hand are refused, or in the beginning the first one."""

    sides, logins, counts = (UPSTREAM,), 1, False

    async def begin(self, cell, side):
        self.codes = {"401"} if cell.moment == "first" else frozenset()
        side.tokens.refused = max(side.tokens.number, 1)


class Once(Fault):
    """One log-in is refused."""

    sides, effect = (LOGIN,), REJECTED

    def replace(self, side):
        self.met += 1
        return Reply(401) if self.met == 1 else None


class Forbids(Fault):
    """`path` is 401 for everybody; all paths if it is empty."""

    sides, logins, path = (UPSTREAM,), 3, ""

    def refuses(self, target):
        self.met += 1
        return target.startswith(self.path)


class Clock(Fault):
    """The server's clock is wrong by two hours: all of it if the log-in has the fault, else what the upstream tells."""

    effect, logins, counts = NOTHING, 2, False

    async def begin(self, cell, side):
        if side is cell.login:
            side.tokens.offset = self.by
        else:
            side.date_offset = self.by

    async def end(self, cell, side):
        side.tokens.offset = side.date_offset = 0


class RefusesOnce(Fault):
    """Requests of HTTP/2 are refused by `refuse`, each POST once. The server knows a GET from no other one, so it refuses none."""

    sides, http2 = (UPSTREAM,), True

    def __init__(self, name, **changed):
        super().__init__(name, **changed)
        self.refused = set()

    def refuses_stream(self, http2, stream, name):
        if not name or name in self.refused:
            return False
        self.refused.add(name)
        self.met += 1
        return self.refuse(http2, stream)


class GoAway(RefusesOnce):
    """GOAWAY says that the request was not processed, and the connection ends when the others are answered."""

    def refuse(self, http2, stream):
        if http2.served < 4:
            return False
        http2.go_away(stream - 2)
        asyncio.create_task(self.close(http2))
        return True

    async def close(self, http2):
        await asyncio.gather(*http2.answering)
        http2.connection.close()


class RefusesStreams(RefusesOnce):
    def refuse(self, http2, stream):
        http2.refuse(stream)
        return True


class RefusesAllStreams(Fault):
    sides, http2 = (UPSTREAM,), True

    def refuses_stream(self, http2, stream, name):
        self.met += 1
        http2.refuse(stream)
        return True


class ResetsConnections(Fault):
    """A connection is reset with its fourth request, and all that are on it."""

    sides, http2 = (UPSTREAM,), True

    def refuses_stream(self, http2, stream, name):
        if http2.served < 4:
            return False
        self.met += 1
        if name:
            http2.side.arrived[name] += 1
        http2.connection.abort()
        return True


class OneStream(Fault):
    sides, http2, streams, aborts, counts = (UPSTREAM,), True, 1, True, False


def one_of(*codes):
    return frozenset(codes)


CUT, CLOSED = one_of("cut"), one_of("upstream_closed")

FAULTS = [
    Refused("refused", codes=one_of("connect_failed")),
    Name("no route", address="198.51.100.7", aborts=True, codes=one_of("connect_failed")),
    Name("DNS fails", aborts=True, codes=one_of("dns_failed")),
    Moves("DNS moves"),
    ConnectHangs("connect hangs", codes=one_of("connect_timeout")),
    TlsHangs("TLS hangs", codes=one_of("connect_timeout")),
    TlsFails("TLS fails", codes=one_of("tls_failed")),
    CertificateExpires("certificate expires", codes=one_of("certificate_rejected")),
    Writes("reset before the head", how=reset_before, codes=CLOSED),
    Writes("reset in the head", how=reset_in_head, codes=CLOSED),
    Writes("reset after the head", how=reset_after_head, codes=CUT),
    Writes("reset in the body", how=reset_in_body, codes=CUT),
    Writes("half-close", how=half_close, codes=CLOSED),
    Writes("garbage", how=garbage, codes=one_of("upstream_protocol")),
    Writes("truncated chunk", how=truncated_chunk, codes=CUT),
    Writes("body too short", how=too_short, codes=CUT),
    Writes("body too long", how=too_long, effect=NOTHING),
    Writes("1xx flood", how=informational, codes=one_of("upstream_timeout")),
    Silence("silent drop", codes=one_of("upstream_timeout", "connect_timeout")),
    Silence("silent drop (HTTP/2)", sides=(UPSTREAM,), http2=True, codes=one_of("upstream_timeout", "connect_timeout", "upstream_closed")),
    Writes("drain", how=closes_after, effect=NOTHING),
    Writes("drip", how=drip, effect=NOTHING),
    Refused("refused (HTTP/2)", sides=(UPSTREAM,), http2=True, codes=one_of("connect_failed")),
    GoAway("GOAWAY"),
    RefusesStreams("REFUSED_STREAM"),
    RefusesAllStreams("REFUSED_STREAM always", codes=CLOSED),
    ResetsConnections("reset (HTTP/2)", codes=CLOSED),
    OneStream("one stream"),
    Revoked("401 once"),
    Once("401 once", sides=(LOGIN,)),
    Forbids("401 always", codes=one_of("401")),
    Answers("401 always", sides=(LOGIN,), what=lambda side: Reply(401), effect=REJECTED),
    Forbids("401 on one path", path="/odd", codes=one_of("401 /odd")),
    Answers("403", what=lambda side: Reply(403), effect=REJECTED, codes=one_of("403")),
    Answers("429 with seconds", what=lambda side: Reply(429, retry_after="3"), codes=one_of("429")),
    Answers("429 with a date", what=lambda side: Reply(429, retry_after=later(side)), codes=one_of("429")),
    Answers("429", what=lambda side: Reply(429), codes=one_of("429")),
    Answers("500", what=lambda side: Reply(500), codes=one_of("500")),
    Answers("503", what=lambda side: Reply(503), codes=one_of("503")),
    Answers("empty", what=lambda side: Reply(200), codes=one_of("empty")),
    Answers("no token", sides=(LOGIN,), what=lambda side: Reply(201, b'{"ok":true}')),
    Answers("expired token", sides=(LOGIN,), what=token(life=-3600)),
    Answers("token with line ends", sides=(LOGIN,), what=token(text="a\r\nb c")),
    Answers("opaque token", sides=(LOGIN,), what=token(text="opaque"), effect=NOTHING),
    Answers("token of 100 KB", sides=(LOGIN,), what=token(text="x" * 100_000)),
    Clock("clock ahead", by=AHEAD),
    Clock("clock behind", by=-AHEAD),
]
