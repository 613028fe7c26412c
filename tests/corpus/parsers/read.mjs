// What Node's parser makes of bytes: of requests as a server reads them, of an answer as a client does. Jobs come as JSON lines, and
// what was read goes out as JSON lines.
import http from "node:http";
import { createInterface } from "node:readline";
import { Duplex } from "node:stream";

// A connection whose other side writes these bytes, and then ends its side if `ends`.
function connection(bytes) {
  let at = bytes.length;
  let ended = false;
  const stream = new Duplex({
    read() {
      if (at < bytes.length) this.push(bytes.subarray(at, (at += 16 * 1024)));
      else if (ended) this.push(null);
    },
    write: (chunk, encoding, done) => done(),
  });
  stream.setTimeout = stream.setNoDelay = stream.setKeepAlive = stream.ref = stream.unref = () => stream;
  stream.on("end", () => setImmediate(() => stream.destroy()));
  stream.say = (ends) => {
    at = 0;
    ended = ends;
    stream._read();
  };
  return stream;
}

const pairs = (raw) => Array.from({ length: raw.length / 2 }, (_, at) => [raw[2 * at].toLowerCase(), raw[2 * at + 1]]);

async function content(message) {
  const pieces = [];
  for await (const piece of message) pieces.push(piece);
  return { body: Buffer.concat(pieces).toString("latin1"), trailers: pairs(message.rawTrailers) };
}

// One more request follows, which shows that all those before were read.
const LAST = Buffer.from("GET /last HTTP/1.1\r\nHost: localhost\r\n\r\n");

function requests(bytes) {
  return new Promise((resolve) => {
    const reading = [];
    const done = () => Promise.all(reading).then((read) => resolve({ read }), (error) => resolve({ error: error.code ?? error.message }));
    const server = http.createServer();
    server.on("request", (request, response) => {
      if (request.url === "/last") return done();
      const head = { line: `${request.method} ${request.url}`, fields: pairs(request.rawHeaders) };
      reading.push(content(request).then((rest) => ({ ...head, ...rest })));
      response.end();
    });
    // It asks for a tunnel, and what follows would be the tunnel's.
    server.on("upgrade", (request) => {
      reading.push({ line: `${request.method} ${request.url}`, fields: pairs(request.rawHeaders), body: "", trailers: [] });
      done();
    });
    server.on("clientError", (error) => resolve({ error: error.code ?? error.message }));
    const stream = connection(Buffer.concat([bytes, LAST]));
    stream.on("close", () => setImmediate(() => resolve({ error: "closed" })));
    server.emit("connection", stream);
    stream.say(false);
  });
}

function answer(bytes, method) {
  return new Promise((resolve) => {
    const stream = connection(bytes);
    const agent = new http.Agent();
    agent.createConnection = () => stream;
    const request = http.request({ method, agent });
    request.on("error", (error) => resolve({ error: error.code ?? error.message }));
    request.on("response", async (response) => {
      try {
        const status = response.statusCode;
        resolve({ read: [{ status, fields: pairs(response.rawHeaders), ...(await content(response)) }] });
      } catch (error) {
        resolve({ cut: error.code });
      }
    });
    request.end();
    stream.say(true);
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  const bytes = Buffer.from(job.bytes, "latin1");
  const read = job.kind === "requests" ? await requests(bytes) : await answer(bytes, job.method);
  console.log(JSON.stringify(read));
}
