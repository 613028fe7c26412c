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

PORT, RATE, SECONDS = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
# Longer than any time-out of the sidecar that a drill waits for.
PATIENCE = 40

idle = []
done = []


async def body_of(reader, head):
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"])), fields.get(b"connection") != b"close"
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body, fields.get(b"connection") != b"close"


async def exchange(number, method):
    word = f"drill-{number}"
    if method == "GET":
        request = f"GET /_sim/echo?id={word} HTTP/1.1\r\nhost: localhost\r\n\r\n"
    else:
        body = json.dumps({"items": [word]})
        request = (
            f"POST /v2/carts HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"idempotency-key: {word}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        )
    # One that was closed while it idled must not count against the sidecar.
    while idle and idle[-1][0].at_eof():
        idle.pop()[1].close()
    connection = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", PORT)
    reader, writer = connection
    try:
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        answer, kept = await body_of(reader, head)
    except BaseException:
        writer.close()
        raise
    if kept:
        idle.append(connection)
    else:
        writer.close()
    status = int(head.split(b" ", 2)[1])
    if b"application/problem+json" in head.lower():
        return status, json.loads(answer)["code"]
    if status in (200, 201) and word.encode() not in answer:
        return 0, "another_request's_answer"
    return status, ""


async def one(number):
    method = "POST" if number % 2 else "GET"
    sent = time.monotonic()
    try:
        status, code = await asyncio.wait_for(exchange(number, method), PATIENCE)
    except TimeoutError:
        status, code = 0, "no_answer_in_time"
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as fault:
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
