"""An HTTP/1.1 client for the drills: it keeps connections and uses them again, and hides nothing of what went wrong."""

import asyncio
import json

# What an exchange may raise when no whole answer came.
BROKEN = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


class Answer:
    def __init__(self, head, body):
        first, *rest = head.decode("latin-1").split("\r\n")
        self.status, self.body = int(first.split(" ", 2)[1]), body
        self.fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest if ": " in line)}

    def code(self):
        """The code of the sidecar's own error; empty for an answer of the upstream's."""
        own = self.fields.get("content-type") == "application/problem+json" and "proxy-status" in self.fields
        return json.loads(self.body)["code"] if own else ""


class Cut(EOFError):
    """The head came, and not the whole body."""


class Client:
    """Connections to one port, of which each exchange takes an idle one."""

    def __init__(self, port):
        self.port, self.idle = port, []

    async def connect(self):
        # One that was closed while it idled must not count against the sidecar.
        while self.idle and self.idle[-1][0].at_eof():
            self.idle.pop()[1].close()
        return self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, method, target, body=b"", fields=(), pace=None):
        """`pace`: waits after each piece of an answer's body, given its size."""
        reader, writer = await self.connect()
        lines = [f"{method} {target} HTTP/1.1", "host: localhost", *fields]
        if body or method == "POST":
            lines.append(f"content-length: {len(body)}")
        kept = False
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            try:
                answer = Answer(head[:-4], await self.body_of(reader, head, pace))
            except (EOFError, ConnectionError) as fault:
                raise Cut from fault
            kept = answer.fields.get("connection", "").lower() != "close"
            return answer
        finally:
            if kept:
                self.idle.append((reader, writer))
            else:
                writer.close()

    @staticmethod
    async def body_of(reader, head, pace):
        fields = Answer(head[:-4], b"").fields
        if "content-length" in fields:
            left, body = int(fields["content-length"]), b""
            while pace and left:
                piece = await reader.readexactly(min(left, 16384))
                left, body = left - len(piece), body + piece
                await pace(len(piece))
            return body + await reader.readexactly(left)
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readuntil(b"\r\n")
        return b"".join(pieces)

    def close(self):
        while self.idle:
            self.idle.pop()[1].close()
