"""websockets."""

import asyncio

import websockets
from cases import BASE, attempt, end, equal

URL = BASE.replace("http", "ws", 1)


def connect(path="/_sim/websocket", **more):
    return websockets.connect(URL + path, max_size=None, open_timeout=20, proxy=None, **more)


def case(body):
    def run():
        asyncio.run(asyncio.wait_for(body(), 20))

    run.__doc__ = body.__doc__
    attempt("WebSocket")(run)


@case
async def _():
    "text and a clean end"
    async with connect() as socket:
        for text in ["hello", "", "Grüße, 世界"]:
            await socket.send(text)
            equal(await socket.recv(), text)
    equal(socket.close_code, 1000)


@case
async def _():
    "4 MiB of bytes"
    message = bytes(range(256)) * 16384
    async with connect() as socket:
        await socket.send(message)
        assert await socket.recv() == message


@case
async def _():
    "1000 messages without waiting"
    async with connect() as socket:

        async def send():
            for number in range(1000):
                await socket.send(f"message {number}")

        async def receive():
            for number in range(1000):
                equal(await socket.recv(), f"message {number}")

        await asyncio.gather(send(), receive())


@case
async def _():
    "fragments"
    async with connect(compression=None) as socket:
        await socket.send(["one ", "message ", "in pieces"])
        equal(await socket.recv(), "one message in pieces")


@case
async def _():
    "ping"
    async with connect() as socket:
        await (await socket.ping())


@case
async def _():
    "50 at once"

    async def one(number):
        async with connect() as socket:
            await socket.send(f"number {number}")
            equal(await socket.recv(), f"number {number}")

    await asyncio.gather(*(one(number) for number in range(50)))


@case
async def _():
    "an endpoint that does not upgrade, and a refusal"
    for path, status in [("/_sim/status/404", 404), ("/patient/auth", 403)]:
        try:
            async with connect(path):
                raise AssertionError("a WebSocket where there is none")
        except websockets.exceptions.InvalidStatus as refused:
            equal(refused.response.status_code, status)


end()
