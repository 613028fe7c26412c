// Node's own fetch (HTTP/1.1), and undici's, which is the same code in a version of its own: `node-fetch.mjs … undici`.

import assert from "node:assert/strict";
import { assertEcho, assertEvents, assertProblem, assertUploaded, attempt, base, bytes, numbers, sha256, sum, user } from "./cases.mjs";

const { fetch } = process.argv[5] === "undici" ? await import(process.env.UNDICI) : globalThis;

const post = (path, body, more = {}) => fetch(base + path, { method: "POST", body, ...more });
const attempted = (name, body) => attempt("HTTP/1.1", name, body);

const pattern = Buffer.from(await (await fetch(`${base}/_sim/download?bytes=${bytes}`)).arrayBuffer());
const pieces = async function* () {
  for (let at = 0; at < pattern.length; at += 50_000) yield pattern.subarray(at, at + 50_000);
};

await attempted("GET", async () => {
  const answer = await fetch(`${base}/_sim/echo?a=%20b&c`);
  assert.equal(answer.status, 200);
  assertEcho(await answer.text(), { target: "/_sim/echo?a=%20b&c" });
});
await attempted("download", () => assert.equal(sum(pattern), sha256));
await attempted("download of unannounced length", async () => {
  const answer = await fetch(`${base}/_sim/download?bytes=${bytes}&chunked=1`);
  assert.equal(answer.headers.get("content-length"), null);
  assert.equal(sum(Buffer.from(await answer.arrayBuffer())), sha256);
});
await attempted("upload", async () => assertUploaded(await (await post("/_sim/upload", pattern)).text()));
await attempted("streamed upload", async () => {
  assertUploaded(await (await post("/_sim/upload", pieces(), { duplex: "half" })).text());
});
await attempted("mirror, both ways at once", async () => {
  const answer = await post("/_sim/mirror", pieces(), { duplex: "half" });
  assert.equal(sum(Buffer.from(await answer.arrayBuffer())), sha256);
});
await attempted("HEAD", async () => {
  const answer = await fetch(`${base}/_sim/download?bytes=${bytes}`, { method: "HEAD" });
  assert.equal(answer.headers.get("content-length"), String(bytes));
  assert.equal(await answer.text(), "");
});
await attempted("204, 304, 404, 500", async () => {
  for (const status of [204, 304, 404, 500]) {
    const answer = await fetch(`${base}/_sim/status/${status}`);
    assert.equal(answer.status, status);
    await answer.text();
  }
});
await attempted("409", async () => {
  const body = user();
  assert.equal((await post("/users", body)).status, 201);
  const answer = await post("/users", body);
  assert.equal(answer.status, 409);
  assert.deepEqual(await answer.json(), { message: "Account Exists Already" });
});
await attempted("problem+json", async () => {
  const answer = await post("/patient/auth", "{}");
  assertProblem(answer.status, (name) => answer.headers.get(name), await answer.text());
});
await attempted("server-sent events", async () => {
  await assertEvents((await fetch(`${base}/_sim/sse?events=5&interval_ms=80`)).body);
});
await attempted("drip", async () => {
  const answer = await fetch(`${base}/_sim/drip?bytes=20&interval_ms=5`);
  assert.deepEqual(Buffer.from(await answer.arrayBuffer()), pattern.subarray(0, 20));
});
await attempted("gzip", async () => {
  assert.equal((await (await fetch(`${base}/_sim/gzip`)).json()).gzipped, true);
});
await attempted("50 in parallel", async () => {
  await Promise.all(
    numbers.map(async (number) => {
      const answer = await post(`/_sim/echo?number=${number}`, `number ${number}`);
      assertEcho(await answer.text(), { method: "POST", target: `/_sim/echo?number=${number}`, body: `number ${number}` });
    }),
  );
});
await attempted("a body cut short", async () => {
  for (const query of ["", "&chunked=1"]) {
    const answer = await fetch(`${base}/_sim/reset?after=1000${query}`);
    assert.equal(answer.status, 200);
    await assert.rejects(answer.arrayBuffer());
  }
});
await attempted("a request given up", async () => {
  await assert.rejects(fetch(`${base}/_sim/hang`, { signal: AbortSignal.timeout(100) }), { name: "TimeoutError" });
  assert.equal((await fetch(`${base}/customers`)).status, 200);
});
await attempted("413 before the upload's end", async () => {
  const zeros = async function* () {
    for (let piece = 0; piece < 80; piece++) yield Buffer.alloc(100_000);
  };
  const answer = await post("/_sim/early?status=413", zeros(), { duplex: "half" });
  assert.equal(answer.status, 413);
  await answer.text();
});
// Node 20's own fetch keeps its process alive after a 304 with Content-Length, whoever sends it.
process.exit();
