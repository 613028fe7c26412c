#!/usr/bin/env node
// What a page of another origin can do to a sidecar, tried in headless Chromium; see README.md.
//
//   node tests/page/attack.mjs API TELEMETRY
//
// API and TELEMETRY are the ports of a sidecar on loopback that runs with `quitquitquit = true`. The page calls both in every way
// that a browser has. It fails if a request of the page is forwarded, or if the daemon ends.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [api, telemetry] = process.argv.slice(2).map(Number);
if (!api || !telemetry) {
  console.error('usage: node tests/page/attack.mjs API TELEMETRY');
  process.exit(2);
}
const chromium = process.env.CHROMIUM ?? '/usr/bin/chromium';
const profile = mkdtempSync(join(tmpdir(), 'attack-'));
// The name of the attacker's page; only the browser resolves it.
const evil = 'evil.example.test';

// Runs in the page.
const attack = async (api, telemetry) => {
  const at = `http://localhost:${api}/users/account`;
  const quit = `http://localhost:${telemetry}/quitquitquit`;
  const framed = (name, fill) => {
    const frame = document.createElement('iframe');
    frame.name = name;
    document.documentElement.append(frame);
    fill(frame);
  };
  const posted = (name, action) =>
    framed(name, () => {
      const form = Object.assign(document.createElement('form'), { method: 'POST', action, target: name });
      document.documentElement.append(form);
      form.submit();
    });
  const attempts = {
    'fetch': () => fetch(at),
    'fetch without CORS': () => fetch(at, { mode: 'no-cors' }),
    'fetch without CORS and referrer': () => fetch(at, { mode: 'no-cors', referrerPolicy: 'no-referrer' }),
    'POST without CORS': () => fetch(at, { mode: 'no-cors', method: 'POST', body: 'x' }),
    'PUT with a preflight': () => fetch(at, { method: 'PUT', body: 'x' }),
    'image': () => Object.assign(new Image(), { src: at }),
    'script': () => document.documentElement.append(Object.assign(document.createElement('script'), { src: at })),
    'beacon': () => navigator.sendBeacon(at, 'x'),
    'frame': () => framed('frame', (frame) => (frame.src = at)),
    'frame without referrer': () => framed('bare', (frame) => Object.assign(frame, { referrerPolicy: 'no-referrer', src: at })),
    'form': () => posted('form', at),
    'WebSocket': () => new WebSocket(at.replace('http', 'ws')),
    'quitquitquit by fetch': () => fetch(quit, { mode: 'no-cors', method: 'POST' }),
    'quitquitquit by form': () => posted('quit', quit),
  };
  for (const run of Object.values(attempts)) {
    try {
      await run();
    } catch {
      // That the page may not read the answer is no concern here.
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  await fetch('/done', { method: 'POST' });
};

let finish;
const finished = new Promise((resolve) => (finish = resolve));
const page = `<!doctype html><meta charset=utf-8><script type=module>(${attack})(${api}, ${telemetry})</script>`;
const server = http.createServer((request, response) => {
  if (request.url === '/done') finish();
  response.setHeader('content-type', 'text/html');
  response.end(page);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

// Opens a page for as long as `until` takes.
const open = async (url, until) => {
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'];
  const names = `--host-resolver-rules=MAP ${evil} 127.0.0.1`;
  const browser = spawn(chromium, [...flags, names, `--user-data-dir=${profile}`, '--remote-debugging-pipe', url], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  });
  await until();
  browser.kill();
  await new Promise((resolve) => browser.once('exit', resolve));
};

const seconds = (count) => new Promise((resolve) => setTimeout(resolve, 1000 * count));
// The requests that were forwarded, and those that were refused as a browser's.
const counts = async () => {
  const text = await (await fetch(`http://127.0.0.1:${telemetry}/metrics`)).text();
  const sum = (pattern) => [...text.matchAll(pattern)].reduce((total, [, count]) => total + Number(count), 0);
  return {
    forwarded: sum(/^careportals_sidecar_requests_total\{[^}]*code=""[^}]*\} (\d+)/gm),
    refused: sum(/^careportals_sidecar_refusals_total\{[^}]*reason="cross_site"[^}]*\} (\d+)/gm),
  };
};

// What a step changes.
const counted = async (step) => {
  const before = await counts();
  await step();
  const after = await counts();
  return { forwarded: after.forwarded - before.forwarded, refused: after.refused - before.refused };
};

const paged = await counted(() => open(`http://${evil}:${server.address().port}/`, () => Promise.race([finished, seconds(60)])));
// A link, as from a mail. The browser asks for an icon too, by itself, for the refusal that it shows: that is of the same origin.
const linked = await counted(() => open(`http://localhost:${api}/users/account`, () => seconds(3)));
server.close();
server.closeAllConnections();
rmSync(profile, { recursive: true, force: true });
console.log(`a page: ${paged.refused} requests refused, ${paged.forwarded} forwarded; a link: ${linked.refused} refused; the daemon runs`);
process.exit(paged.forwarded === 0 && paged.refused >= 12 && linked.refused >= 1 ? 0 : 1);
