// Node's http2 module: HTTP/2 by prior knowledge, every request on one connection.

import assert from "node:assert/strict";
import http2 from "node:http2";
import { assertEcho, assertEvents, assertProblem, assertUploaded, attempt, base, bytes, numbers, sha256, sum, user } from "./cases.mjs";

let session;
const attempted = (name, body) =>
  attempt("HTTP/2", name, async () => {
    if (session === undefined || session.destroyed || session.closed) {
      session = http2.connect(base);
      // Each stream reports it, too.
      session.on("error", () => {});
    }
    await body();
  });

/** Resolves with the stream, its head in `head`, its body still to be read. */
function open(path, headers = {}, write = (stream) => stream.end()) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":path": path, ...headers }, { waitForTrailers: "trailer" in headers });
    stream.on("error", reject);
    stream.on("close", () => reject(new Error("the stream ended without an answer")));
    stream.on("trailers", (trailers) => Object.assign(stream, { trailers }));
    stream.on("response", (head) => resolve(Object.assign(stream, { head, status: head[":status"] })));
    write(stream);
  });
}

async function call(path, headers, write) {
  const stream = await open(path, headers, write);
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal(stream.rstCode, http2.constants.NGHTTP2_NO_ERROR);
  return Object.assign(stream, { body: Buffer.concat(chunks) });
}

const post = (path, body, headers = {}) => call(path, { ":method": "POST", ...headers }, (stream) => stream.end(body));
const streamed = (stream) => {
  for (let at = 0; at < pattern.length; at += 50_000) stream.write(pattern.subarray(at, at + 50_000));
  stream.end();
};

let pattern = Buffer.alloc(0);
await attempted("download", async () => {
  ({ body: pattern } = await call(`/_sim/download?bytes=${bytes}`));
  assert.equal(sum(pattern), sha256);
});
await attempted("GET", async () => {
  assertEcho((await call("/_sim/echo?a=%20b&c")).body.toString(), { target: "/_sim/echo?a=%20b&c" });
});
await attempted("download of unannounced length", async () => {
  assert.equal(sum((await call(`/_sim/download?bytes=${bytes}&chunked=1`)).body), sha256);
});
await attempted("upload", async () => {
  assertUploaded((await post("/_sim/upload", pattern, { "content-length": String(bytes) })).body);
});
await attempted("streamed upload", async () => assertUploaded((await call("/_sim/upload", { ":method": "POST" }, streamed)).body));
await attempted("mirror, both ways at once", async () => {
  assert.equal(sum((await call("/_sim/mirror", { ":method": "POST" }, streamed)).body), sha256);
});
await attempted("HEAD", async () => {
  const answer = await call(`/_sim/download?bytes=${bytes}`, { ":method": "HEAD" });
  assert.equal(answer.head["content-length"], String(bytes));
  assert.equal(answer.body.length, 0);
});
await attempted("204, 304, 404, 500", async () => {
  for (const status of [204, 304, 404, 500]) assert.equal((await call(`/_sim/status/${status}`)).status, status);
});
await attempted("409", async () => {
  const body = user();
  assert.equal((await post("/users", body)).status, 201);
  assert.equal((await post("/users", body)).status, 409);
});
await attempted("problem+json", async () => {
  const answer = await post("/patient/auth", "{}");
  assertProblem(answer.status, (name) => answer.head[name], answer.body);
});
await attempted("server-sent events", async () => assertEvents(await open("/_sim/sse?events=5&interval_ms=80")));
await attempted("drip", async () => {
  assert.deepEqual((await call("/_sim/drip?bytes=20&interval_ms=5")).body, pattern.subarray(0, 20));
});
await attempted("trailers down", async () => {
  const answer = await call("/_sim/trailers", { te: "trailers" });
  assert.equal(answer.trailers?.["x-checksum"], sum(answer.body));
});
await attempted("trailers up", async () => {
  const answer = await call("/_sim/trailers", { ":method": "POST", trailer: "x-up" }, (stream) => {
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-up": "there", authorization: "Bearer mine" }));
    stream.end("body");
  });
  assert.deepEqual(JSON.parse(answer.body).trailers, [["x-up", "there"]]);
});
await attempted("50 in parallel on one connection", async () => {
  await Promise.all(
    numbers.map(async (number) => {
      const answer = await post(`/_sim/echo?number=${number}`, `number ${number}`);
      assertEcho(answer.body.toString(), { method: "POST", target: `/_sim/echo?number=${number}`, body: `number ${number}` });
    }),
  );
});
await attempted("a slow stream does not stop the others", async () => {
  const slow = await open(`/_sim/download?bytes=${bytes * 4}`);
  assert.equal((await call(`/_sim/download?bytes=${bytes}`)).body.length, bytes);
  let rest = 0;
  for await (const chunk of slow) rest += chunk.length;
  assert.equal(rest, bytes * 4);
});
await attempted("a body cut short", async () => {
  for (const query of ["", "&chunked=1"]) {
    const stream = await open(`/_sim/reset?after=1000${query}`);
    await assert.rejects(async () => {
      for await (const _ of stream);
      assert.equal(stream.rstCode, http2.constants.NGHTTP2_NO_ERROR);
    });
  }
});
await attempted("a stream given up", async () => {
  const given = session.request({ ":path": "/_sim/hang" });
  given.on("error", () => {});
  given.close(http2.constants.NGHTTP2_CANCEL);
  assert.equal((await call("/customers")).status, 200);
});
await attempted("413 before the upload's end", async () => {
  const answer = await open("/_sim/early?status=413", { ":method": "POST" }, (stream) => {
    for (let piece = 0; piece < 80; piece++) stream.write(Buffer.alloc(100_000));
    stream.end();
  });
  assert.equal(answer.status, 413);
  answer.on("error", () => {});
  answer.close();
});
await attempted("the connection was kept", async () => {
  const kept = session;
  assert.equal((await call("/customers")).status, 200);
  assert.equal(session, kept);
});
// Destroying the session would have Node 20 wait for the rest of the upload that was answered early.
process.exit();
