"use strict";
// Servers as their frameworks are by default, and some as careless as they can be set up, each over TLS on a free port. Each counts the requests
// that reached what the rules deny, and the log-ins. The first line of output says where they are; GET / on `counts` tells the counts.
//
// Usage: node servers.cjs KEY CERT, with the packages of package.json in NODE_PATH.

require("reflect-metadata");
const { readFileSync } = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const methodOverride = require("method-override");

const tls = { key: readFileSync(process.argv[2]), cert: readFileSync(process.argv[3]) };
const LOGINS = ["/auth", "/auth/login", "/auth/refresh", "/patient/auth"];
const counts = {};
const ports = {};

// What a handler that must not be reached does. The field tells the caller which one it was.
function reached(server, what, response) {
  counts[server] = (counts[server] ?? 0) + 1;
  (response.header ? (name, value) => response.header(name, value) : (name, value) => response.setHeader(name, value)).call(response, "x-reached", what);
}

async function listen(name, start) {
  ports[name] = await start();
}

function express(name, make, prepare = () => {}) {
  return listen(name, () => {
    const app = make();
    prepare(app);
    const handler = (what) => (request, response) => {
      reached(name, what, response);
      response.json({ reached: what });
    };
    app.all("/customers/:id/ssn", handler("deny"));
    app.delete("/customers/:id", handler("deny"));
    app.get("/reports", handler("deny"));
    app.get("/reports/:year", handler("deny"));
    app.get("/reports/:year/:month", handler("deny"));
    for (const path of LOGINS) app.all(path, handler("login"));
    app.use((request, response) => response.status(404).json({}));
    return new Promise((resolve) => {
      const server = https.createServer(tls, app).listen(0, "127.0.0.1", () => resolve(server.address().port));
    });
  });
}

function fastify(name, make, options = {}) {
  return listen(name, async () => {
    const app = make({ https: tls, ...options });
    const handler = (what) => async (request, reply) => {
      reached(name, what, reply);
      return { reached: what };
    };
    app.all("/customers/:id/ssn", handler("deny"));
    app.delete("/customers/:id", handler("deny"));
    app.get("/reports", handler("deny"));
    app.get("/reports/*", handler("deny"));
    for (const path of LOGINS) app.all(path, handler("login"));
    await app.listen({ port: 0, host: "127.0.0.1" });
    return app.server.address().port;
  });
}

// Controllers as TypeScript's decorators would make them.
function nest(name, adapter, prepare = () => {}) {
  return listen(name, async () => {
    const { All, Controller, Delete, Get, Module, Res } = require("@nestjs/common");
    const { NestFactory } = require("@nestjs/core");
    const handles = (type, method, decorators, what) => {
      type.prototype[method] = function (response) {
        reached(name, what, response);
        response.send({ reached: what });
      };
      Res()(type.prototype, method, 0);
      for (const decorator of decorators) decorator(type.prototype, method, Object.getOwnPropertyDescriptor(type.prototype, method));
    };
    class Customers {}
    handles(Customers, "ssn", [All(":id/ssn")], "deny");
    handles(Customers, "remove", [Delete(":id")], "deny");
    Controller("customers")(Customers);
    class Reports {}
    handles(Reports, "all", [Get()], "deny");
    handles(Reports, "one", [Get([":year", ":year/:month"])], "deny");
    Controller("reports")(Reports);
    class LogIns {}
    LOGINS.forEach((path, at) => handles(LogIns, `log${at}`, [All(path)], "login"));
    Controller()(LogIns);
    class Root {}
    Module({ controllers: [Customers, Reports, LogIns] })(Root);
    const app = await NestFactory.create(Root, ...adapter(), { logger: false, httpsOptions: tls, abortOnError: false });
    prepare(app);
    await app.listen(0, "127.0.0.1");
    return app.getHttpServer().address().port;
  });
}

// A server that makes of a path whatever some server makes of it.
function careless() {
  return listen("careless", () => {
    const read = (target) => {
      let path = target.replace(/^https?:\/\/[^/]*/i, "");
      for (let pass = 0; pass < 4; pass += 1) {
        try {
          path = decodeURIComponent(path);
        } catch {
          break;
        }
      }
      path = path.normalize("NFKC").replaceAll("\\", "/").replaceAll(/[\u2044\u2215\uff0f]/g, "/").replace(/[?#\0].*$/s, "");
      path = path.replaceAll(/[\s\p{Cf}\p{Cc}\u00ad]/gu, "");
      const names = [];
      for (const segment of path.split("/").map((each) => each.replace(/;.*$/, ""))) {
        if (segment === "..") names.pop();
        else if (segment && segment !== ".") names.push(segment.toLowerCase().replace(/(\.json)?[.+]*$/, ""));
      }
      if (names[0] === "index.php") names.shift();
      return `/${names.join("/")}`;
    };
    const server = https.createServer(tls, (request, response) => {
      const overrides = ["x-http-method-override", "x-http-method", "x-method-override"].map((name) => request.headers[name]);
      const method = (overrides.find(Boolean) ?? request.method).toUpperCase();
      const path = read(request.headers["x-original-url"] ?? request.headers["x-rewrite-url"] ?? request.url);
      const login = LOGINS.includes(path);
      const denied = /^\/customers\/[^/]+\/ssn$/.test(path) || (method === "DELETE" && /^\/customers\/[^/]+$/.test(path)) ||
        ((method === "GET" || method === "HEAD") && /^\/reports(\/|$)/.test(path));
      if (login || denied) reached("careless", login ? "login" : "deny", response);
      response.end("{}");
    });
    return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
  });
}

async function main() {
  const overrides = (app) => ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"].forEach((name) => app.use(methodOverride(name)));
  await express("express 4", require("express4"));
  await express("express 5", require("express5"));
  await express("express 4, method-override", require("express4"), overrides);
  await fastify("fastify 4", require("fastify4"));
  await fastify("fastify 5", require("fastify5"));
  const lenient = { ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, caseSensitive: false, useSemicolonDelimiter: true };
  await fastify("fastify 4, lenient", require("fastify4"), lenient);
  await fastify("fastify 5, lenient", require("fastify5"), { routerOptions: lenient });
  await nest("nest 11", () => []);
  await nest("nest 11 on fastify", () => [new (require("@nestjs/platform-fastify").FastifyAdapter)({ https: tls })]);
  await careless();
  const admin = http.createServer((request, response) => response.end(JSON.stringify(counts)));
  admin.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ ports, counts: admin.address().port })));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
