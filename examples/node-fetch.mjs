// CarePortals through the sidecar, with Node's fetch: node node-fetch.mjs FILE
import { openAsBlob } from "node:fs";

// The three lines that matter.
const base = process.env.CAREPORTALS_BASE_URL ?? "http://127.0.0.1:2273";
const account = await fetch(base + "/users/account");
console.log(`account: ${account.status}`);

// The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.
const socketPath = process.env.CAREPORTALS_SOCKET;
// Node's own fetch knows no Unix sockets, that of the package undici does.
const undici = socketPath && (await import("undici"));
const send = undici?.fetch ?? fetch;
const dispatcher = undici && new undici.Agent({ connect: { socketPath } });

async function call(path, options) {
  const answer = await send(base + path, { dispatcher, ...options });
  if (answer.ok) return answer;
  // What is no JSON comes from a gateway on the way.
  const error = await answer.json().catch(() => null);
  if (answer.headers.get("proxy-status")?.startsWith("careportals-sidecar")) {
    const retry = answer.headers.get("retry-after");
    throw new Error(`sidecar ${answer.status} ${error?.code}: ${error?.detail}${retry ? ` (retry after ${retry} s)` : ""}`);
  }
  throw new Error(`CarePortals ${answer.status}: ${error?.message ?? answer.statusText}`);
}

try {
  let answer = await call(`/customers/lookups?${new URLSearchParams({ keyword: "+15550100150" })}`);
  const [found] = await answer.json();
  console.log(`query: ${answer.status} ${found.firstName} ${found.lastName}`);

  answer = await call("/v2/carts", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ items: [{ product: "Crème", quantity: 2 }] }),
  });
  const cart = await answer.json();
  console.log(`post: ${answer.status} ${cart.status}, ${cart.items[0].quantity} x ${cart.items[0].product}`);

  // Read from the disk as it is sent, and its length is known beforehand.
  const body = await openAsBlob(process.argv[2], { type: "application/octet-stream" });
  answer = await call("/_sim/upload", { method: "POST", body });
  const { bytes, sha256 } = await answer.json();
  console.log(`upload: ${answer.status} ${bytes} bytes, ${sha256}`);

  answer = await call("/_sim/sse?events=3&interval_ms=100");
  let rest = "";
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((line) => line.startsWith("data: "))) console.log(`stream: ${line.slice(6)}`);
  }

  await call("/customers/000000000000000000000000"); // nobody has this id
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
