"""Clients that ask for much and read nothing, for `memory`: bytes on sockets, no library that would behave better."""

import select
import socket
import struct
import time

HOST = b"host: localhost\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE, CONTINUATION = 0, 1, 4, 8, 9
END_STREAM, END_HEADERS = 1, 4


def connect(address, buffer=None):
    """`buffer`: how much the kernel may take for a client that does not read; by itself it takes megabytes."""
    connection = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(10)
    connection.connect(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def offer(connection, data):
    """Writes what the other side takes at once; tells how much that was. A connection that it has closed takes nothing."""
    connection.setblocking(False)
    try:
        return connection.send(data)
    except (BlockingIOError, OSError):
        return 0
    finally:
        connection.setblocking(True)


def read_for(connections, seconds):
    """Reads everything from all of them for a while, as fast as it comes."""
    end = time.monotonic() + seconds
    poller, by_number = select.poll(), {each.fileno(): each for each in connections}
    for each in connections:
        poller.register(each, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        for number, _ in poller.poll(left * 1000):
            try:
                if by_number[number].recv(1 << 18):
                    continue
            except OSError:
                pass
            poller.unregister(number)


def head(method, target, *fields):
    return b"%s %s HTTP/1.1\r\n%s%s\r\n" % (method, target, HOST, b"".join(field + b"\r\n" for field in fields))


def large_head(method, target, size, *fields):
    """A whole head of about `size` bytes, in fifty fields."""
    value = b"v" * (size // 50 - 12)
    return head(method, target, *fields, *(b"x-fill-%02d: %s" % (number, value) for number in range(50)))


# --- HTTP/2 -----------------------------------------------------------------------------------------------------------------

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def text(value):
    """A string in HPACK, its length in seven bits and more."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, length = len(value) - 127, bytes([127])
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return length + bytes([rest]) + value


def field(name, value):
    """A field that enters no table."""
    return b"\0" + text(name) + text(value)


def fields(method, target, *more):
    return b"".join(field(*each) for each in (
        (b":method", method), (b":scheme", b"http"), (b":path", target), (b":authority", b"localhost"), *more))


class Http2:
    """One connection. `window`: how much of each stream the other side may send."""

    def __init__(self, address, window, buffer=None):
        self.socket, self.stream = connect(address, buffer), -1
        settings = struct.pack(">HI", 4, window)
        grant = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, 1, 0) + grant)

    def ask(self, method, target, *more, ends=True):
        return self.ask_block(fields(method, target, *more), ends)

    def ask_block(self, block, ends=True):
        """Sends a head that was encoded before; gives its stream."""
        self.stream += 2
        first, rest = block[:16384], block[16384:]
        frames = frame(HEADERS, (END_STREAM if ends else 0) | (0 if rest else END_HEADERS), self.stream, first)
        while rest:
            piece, rest = rest[:16384], rest[16384:]
            frames += frame(CONTINUATION, 0 if rest else END_HEADERS, self.stream, piece)
        self.socket.sendall(frames)
        return self.stream

    def fileno(self):
        return self.socket.fileno()
