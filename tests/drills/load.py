"""A constant load that does not slow down with its answers: `load.py PORT REQUESTS_PER_SECOND SECONDS`.

Every other request is a POST. Each has an id, and an answer counts only when it bears that id. Connections are kept and
used again; a request that finds none idle opens one. Prints a JSON line for each request, in the order of their ends:
[id, method, sent, ended, status, code], times by the machine's monotonic clock; status 0 and a word where no whole
answer came.
"""

import asyncio
import json
import sys
import time

from http1 import BROKEN, Client

PORT, RATE, SECONDS = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
# Longer than any time-out of the sidecar that a drill waits for.
PATIENCE = 40

client = Client(PORT)
done = []


async def exchange(number, method):
    word = f"drill-{number}"
    if method == "GET":
        answer = await client.exchange("GET", f"/_sim/echo?id={word}")
    else:
        fields = ("content-type: application/json", f"idempotency-key: {word}")
        answer = await client.exchange("POST", "/v2/carts", json.dumps({"items": [word]}).encode(), fields)
    if answer.status in (200, 201) and word.encode() not in answer.body:
        return 0, "another_request's_answer"
    return answer.status, answer.code()


async def one(number):
    method = "POST" if number % 2 else "GET"
    sent = time.monotonic()
    try:
        status, code = await asyncio.wait_for(exchange(number, method), PATIENCE)
    except TimeoutError:
        status, code = 0, "no_answer_in_time"
    except BROKEN as fault:
        status, code = 0, type(fault).__name__
    done.append((number, method, sent, time.monotonic(), status, code))


async def main():
    start = time.monotonic()
    running = set()
    for number in range(int(RATE * SECONDS)):
        delay = start + number / RATE - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    for line in done:
        print(json.dumps(line))


asyncio.run(main())
