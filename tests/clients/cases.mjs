// For the Node clients: what every one of them is given, and one case after the other.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";

const [, , baseUrl, bytesText, sha256Text] = process.argv;

export const base = baseUrl;
export const bytes = Number(bytesText);
export const sha256 = sha256Text;

export const sum = (body) => createHash("sha256").update(body).digest("hex");
export const user = () => JSON.stringify({ email: `node${Math.random()}@example.test` });
export const numbers = Array.from({ length: 50 }, (_, number) => number);

/** Runs one case and prints its line of the report. */
export async function attempt(protocol, name, body) {
  let timer;
  const tooLong = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("takes longer than 20 s")), 20_000);
  });
  try {
    await Promise.race([body(), tooLong]);
    console.log(`ok ${protocol} ${name}`);
  } catch (fault) {
    const why = [fault.message, fault.cause?.message].filter(Boolean).join(": ");
    console.log(`not ok ${protocol} ${name}: ${why.replace(/\s+/g, " ").slice(0, 300)}`);
    process.exitCode = 1;
  } finally {
    clearTimeout(timer);
  }
}

/** What `/_sim/echo` must say of a request that came through. */
export function assertEcho(text, { method = "GET", target, body = "" }) {
  const echo = JSON.parse(text);
  assert.equal(echo.method, method);
  assert.equal(echo.target, target);
  assert.equal(echo.body, body);
  const named = (name) => echo.headers.filter(([known]) => known === name).map(([, value]) => value);
  assert.equal(named("authorization").length, 1);
  assert.match(named("authorization")[0], /^Bearer /);
  assert.deepEqual(named("organization"), ["demo"]);
  return named;
}

/** What `/_sim/upload` must say of the whole pattern. */
export function assertUploaded(text) {
  assert.deepEqual(JSON.parse(text), { bytes, pattern_ok: true, sha256 });
}

/** The five events of `/_sim/sse?events=5&interval_ms=80`, and that they came one by one. */
export async function assertEvents(chunks) {
  let text = "";
  let first;
  for await (const chunk of chunks) {
    first ??= performance.now();
    text += Buffer.from(chunk).toString();
  }
  assert.equal(text.split("data: ").length - 1, 5);
  assert.ok(performance.now() - first > 150, "all events came at once");
}

/** A refusal of the sidecar's own. */
export function assertProblem(status, header, text) {
  assert.equal(status, 403);
  assert.equal(header("content-type"), "application/problem+json");
  assert.match(header("proxy-status"), /^careportals-sidecar; error=/);
  assert.equal(JSON.parse(text).code, "login_path");
}
