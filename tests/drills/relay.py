"""A TCP relay that can be killed in the simulator's stead: `relay.py LISTEN_PORT TARGET_PORT…`.

To a client the relay's death is that of its server: connections end without a TLS goodbye, new ones are refused. The
simulator lives on, with its certificates, its tokens and its memory of what arrived. Of several targets each connection gets the
next one that listens, as behind a load balancer.
"""

import asyncio
import itertools
import sys

LISTEN, *TARGETS = map(int, sys.argv[1:])
turn = itertools.cycle(TARGETS)


async def pour(reader, writer):
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def relay(reader, writer):
    for port in itertools.islice(turn, len(TARGETS)):
        try:
            target = await asyncio.open_connection("127.0.0.1", port)
            break
        except OSError:
            pass
    else:
        writer.close()
        return
    await asyncio.gather(pour(reader, target[1]), pour(target[0], writer), return_exceptions=True)


async def main():
    async with await asyncio.start_server(relay, "0.0.0.0", LISTEN, backlog=1024) as server:
        print("ready", flush=True)
        await server.serve_forever()


asyncio.run(main())
