// WebSocket clients on Node: `ws`, and with `node-ws.mjs … undici` undici's WebSocket, which is the browsers' interface.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { attempt, base, numbers } from "./cases.mjs";

const url = base.replace(/^http/, "ws");
const browserLike = process.argv[5] === "undici";
const WebSocket = browserLike ? (await import(process.env.UNDICI)).WebSocket : createRequire(import.meta.url)(process.env.WS);

function opened(path = "/_sim/websocket", ...more) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url + path, ...more);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => resolve(socket));
    socket.addEventListener("error", (event) => reject(event.error ?? new Error(event.message ?? "refused")));
  });
}

const next = (socket) => new Promise((resolve) => socket.addEventListener("message", ({ data }) => resolve(data), { once: true }));
const closed = (socket) => new Promise((resolve) => socket.addEventListener("close", resolve, { once: true }));

async function over(socket, code = 1000) {
  const end = closed(socket);
  socket.close(code, "bye");
  const { code: answered, wasClean } = await end;
  assert.deepEqual([answered, wasClean], [code, true]);
}

await attempt("WebSocket", "text and a clean end", async () => {
  const socket = await opened();
  for (const text of ["hello", "", "Grüße, 世界"]) {
    const answer = next(socket);
    socket.send(text);
    assert.equal(await answer, text);
  }
  await over(socket, 3000);
});
await attempt("WebSocket", "1 MiB of bytes", async () => {
  const socket = await opened();
  const message = Buffer.alloc(1024 * 1024, "abcdefg");
  const answer = next(socket);
  socket.send(message);
  assert.deepEqual(Buffer.from(await answer), message);
  await over(socket);
});
await attempt("WebSocket", "1000 messages without waiting", async () => {
  const socket = await opened();
  const got = [];
  const all = new Promise((resolve) => {
    socket.addEventListener("message", ({ data }) => got.push(data) === 1000 && resolve());
  });
  const sent = Array.from({ length: 1000 }, (_, number) => `message ${number}`);
  for (const text of sent) socket.send(text);
  await all;
  assert.deepEqual(got, sent);
  await over(socket);
});
await attempt("WebSocket", "a subprotocol", async () => {
  const socket = await opened("/_sim/websocket", ["chat", "other"]);
  assert.equal(socket.protocol, "chat");
  await over(socket);
});
await attempt("WebSocket", "50 at once", async () => {
  await Promise.all(
    numbers.map(async (number) => {
      const socket = await opened();
      const answer = next(socket);
      socket.send(`number ${number}`);
      assert.equal(await answer, `number ${number}`);
      await over(socket);
    }),
  );
});
if (!browserLike) {
  await attempt("WebSocket", "ping", async () => {
    const socket = await opened();
    const pong = new Promise((resolve) => socket.once("pong", resolve));
    socket.ping("are you there");
    assert.equal((await pong).toString(), "are you there");
    await over(socket);
  });
  await attempt("WebSocket", "an endpoint that does not upgrade", async () => {
    await assert.rejects(opened("/_sim/status/404"), /404/);
  });
  await attempt("WebSocket", "a log-in path is refused", async () => {
    await assert.rejects(opened("/patient/auth"), /403/);
  });
}
