"""An app that asks now and then, for `idle-timeouts`: `idle_app.py PORT SECONDS IDLE LONGEST SEED`.

Between two requests it waits from 0.1 s to LONGEST; every third time about IDLE, when the server may be closing the connection. Prints a
JSON line for each request: method, name, sent, ended, code (empty for a good answer), times by the machine's monotonic clock.
"""

import asyncio
import json
import random
import sys
import time

from http1 import BROKEN, Client

PORT, SECONDS, IDLE, LONGEST, SEED = int(sys.argv[1]), *map(float, sys.argv[2:5]), sys.argv[5]
PATIENCE = 30


async def ask(client, method, name):
    answer = await client.exchange(method, f"/app/{name}", name.encode() if method == "POST" else b"")
    if code := answer.code():
        return code
    if answer.status != 200:
        return str(answer.status)
    return "" if name.encode() in answer.body or answer.body == b"-" else "another_answer"


async def main():
    chance, client, number = random.Random(SEED), Client(PORT), 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        # Now and then several at once, so that several connections idle afterwards.
        notes = await asyncio.gather(*(one(client, chance.choice(("GET", "POST")), f"app-{SEED}-{number + each}")
                                       for each in range(chance.choice((1, 1, 1, 4)))))
        number += len(notes)
        for note in notes:
            print(json.dumps(note), flush=True)
        pause = 0.1 * (LONGEST / 0.1) ** chance.random()
        if chance.random() < 1 / 3 and IDLE <= LONGEST:
            pause = max(0.1, IDLE + chance.uniform(-0.05, 0.02))
        await asyncio.sleep(min(pause, max(0, end - time.monotonic())))
    client.close()


async def one(client, method, name):
    sent = time.monotonic()
    try:
        code = await asyncio.wait_for(ask(client, method, name), PATIENCE)
    except TimeoutError:
        code = "no_answer_in_time"
    except BROKEN as fault:
        code = type(fault).__name__
    return method, name, sent, time.monotonic(), code


asyncio.run(main())
