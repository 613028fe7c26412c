// Node's http module (HTTP/1.1).

import assert from "node:assert/strict";
import http from "node:http";
import { assertEcho, assertEvents, assertProblem, assertUploaded, attempt, base, bytes, numbers, sha256, sum, user } from "./cases.mjs";

const agent = new http.Agent({ keepAlive: true });
const attempted = (name, body) => attempt("HTTP/1.1", name, body);

/** Resolves with the answer's head, body still to be read. */
function open(path, { write = (request) => request.end(), ...options } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(base + path, { agent, ...options }, (answer) => resolve(Object.assign(answer, { request })));
    request.on("error", reject);
    write(request);
  });
}

async function call(path, options) {
  const answer = await open(path, options);
  const chunks = [];
  for await (const chunk of answer) chunks.push(chunk);
  return Object.assign(answer, { body: Buffer.concat(chunks) });
}

const post = (path, body, more = {}) => call(path, { method: "POST", write: (request) => request.end(body), ...more });
const streamed = (request) => {
  for (let at = 0; at < pattern.length; at += 50_000) request.write(pattern.subarray(at, at + 50_000));
  request.end();
};

const { body: pattern } = await call(`/_sim/download?bytes=${bytes}`);

await attempted("GET", async () => {
  assertEcho((await call("/_sim/echo?a=%20b&c")).body.toString(), { target: "/_sim/echo?a=%20b&c" });
});
await attempted("download", () => assert.equal(sum(pattern), sha256));
await attempted("download of unannounced length", async () => {
  assert.equal(sum((await call(`/_sim/download?bytes=${bytes}&chunked=1`)).body), sha256);
});
await attempted("upload", async () => assertUploaded((await post("/_sim/upload", pattern)).body));
await attempted("chunked upload", async () => assertUploaded((await call("/_sim/upload", { method: "POST", write: streamed })).body));
await attempted("chunked upload, Expect: 100-continue", async () => {
  let continued = false;
  const answer = await call("/_sim/upload", {
    method: "POST",
    headers: { expect: "100-continue" },
    write: (request) => {
      request.on("continue", () => {
        continued = true;
        streamed(request);
      });
      request.flushHeaders();
    },
  });
  assert.ok(continued);
  assertUploaded(answer.body);
});
await attempted("mirror, both ways at once", async () => {
  assert.equal(sum((await call("/_sim/mirror", { method: "POST", write: streamed })).body), sha256);
});
await attempted("HEAD", async () => {
  const answer = await call(`/_sim/download?bytes=${bytes}`, { method: "HEAD" });
  assert.equal(answer.headers["content-length"], String(bytes));
  assert.equal(answer.body.length, 0);
});
await attempted("204, 304, 404, 500 on one connection", async () => {
  for (const [place, status] of [204, 304, 404, 500].entries()) {
    const answer = await call(`/_sim/status/${status}`);
    assert.equal(answer.statusCode, status);
    assert.ok(place === 0 || answer.request.reusedSocket, `a new connection for ${status}`);
  }
});
await attempted("409", async () => {
  const body = user();
  assert.equal((await post("/users", body)).statusCode, 201);
  assert.equal((await post("/users", body)).statusCode, 409);
});
await attempted("problem+json", async () => {
  const answer = await post("/patient/auth", "{}");
  assertProblem(answer.statusCode, (name) => answer.headers[name], answer.body);
});
await attempted("server-sent events", async () => assertEvents(await open("/_sim/sse?events=5&interval_ms=80")));
await attempted("drip", async () => {
  assert.deepEqual((await call("/_sim/drip?bytes=20&interval_ms=5")).body, pattern.subarray(0, 20));
});
await attempted("trailers down", async () => {
  const answer = await call("/_sim/trailers", { headers: { te: "trailers", connection: "te" } });
  assert.equal(answer.trailers["x-checksum"], sum(answer.body));
});
await attempted("trailers up", async () => {
  const answer = await call("/_sim/trailers", {
    method: "POST",
    headers: { trailer: "x-up" },
    write: (request) => {
      request.write("body");
      request.addTrailers({ "x-up": "there", authorization: "Bearer mine" });
      request.end();
    },
  });
  assert.deepEqual(JSON.parse(answer.body).trailers, [["x-up", "there"]]);
});
await attempted("50 in parallel", async () => {
  await Promise.all(
    numbers.map(async (number) => {
      const answer = await post(`/_sim/echo?number=${number}`, `number ${number}`);
      assertEcho(answer.body.toString(), { method: "POST", target: `/_sim/echo?number=${number}`, body: `number ${number}` });
    }),
  );
});
await attempted("a body cut short", async () => {
  for (const query of ["", "&chunked=1"]) await assert.rejects(call(`/_sim/reset?after=1000${query}`));
});
await attempted("an Upgrade that nobody knows is served as HTTP/1.1", async () => {
  const headers = { connection: "Upgrade, HTTP2-Settings", upgrade: "h2c", "http2-settings": "AAMAAABkAAQAAP__" };
  const named = assertEcho((await call("/_sim/echo", { headers })).body.toString(), { target: "/_sim/echo" });
  assert.deepEqual(["upgrade", "http2-settings", "connection"].map(named), [[], [], []]);
});
await attempted("413 before the upload's end", async () => {
  const answer = await call("/_sim/early?status=413", {
    method: "POST",
    write: (request) => {
      for (let piece = 0; piece < 80; piece++) request.write(Buffer.alloc(100_000));
      request.end();
    },
  });
  assert.equal(answer.statusCode, 413);
});
agent.destroy();
