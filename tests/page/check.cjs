// What `run` asserts of the status page, in each width and colour scheme.
"use strict";
const { mkdirSync } = require("node:fs");
const { join } = require("node:path");
const { chromium } = require("playwright-core");
const { AxeBuilder } = require("@axe-core/playwright");

const [executablePath, url, directory] = process.argv.slice(2);
const WIDTHS = [1200, 360], SCHEMES = ["light", "dark"];
// The countdown of a token that lives for days shows minutes.
const TICK = 5000, LONG_TICK = 65000;

let failed = 0;
const report = (where, what, faults) => {
  failed += faults.length ? 1 : 0;
  console.log(`${faults.length ? "not ok" : "ok"} ${where} ${what}${faults.length ? `: ${faults.join("; ")}` : ""}`);
};

// Everything that the page asks for, and all that the browser has to say about it.
function watched(page) {
  const foreign = [], complaints = [], { origin } = new URL(url);
  page.on("request", (request) => new URL(request.url()).origin === origin || foreign.push(request.url()));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  return { foreign, complaints };
}

// Before any script of the page.
function listenForViolations() {
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
}

async function verdict(page) {
  const says = (await page.locator("[role=status] p").first().textContent()).trim(), title = await page.title();
  const faults = [];
  if (!/^(Working|Partly working|Not working|About to stop working|Logging in|Starting|Draining|Stopped)\b/.test(says)) faults.push(`it says “${says}”`);
  if (!/^\S (?!No answer|…).+ — careportals-sidecar$/.test(title)) faults.push(`the title is “${title}”`);
  return faults;
}

// What a script shows that read something that is not there.
async function nonsense(page) {
  const texts = await page.evaluate(() => [document.body.innerText, ...[...document.querySelectorAll("[aria-label]")].map((node) => node.getAttribute("aria-label"))]);
  return texts.flatMap((text) => text.match(/^.*\b(NaN|undefined|Infinity)\b.*$/gm) ?? []);
}

async function countdown(page) {
  const status = await (await fetch(new URL("status", url))).json();
  if (!status.accounts.some((account) => Date.parse(account.expires_at) > Date.parse(status.now))) return null;
  const texts = () => page.locator(".countdown").allTextContents();
  const first = await texts(), running = first.filter((text) => / in \d/.test(text));
  if (!running.length) return ["there is none"];
  const timeout = running.every((text) => / d /.test(text)) ? LONG_TICK : TICK;
  const moved = (before) => [...document.querySelectorAll(".countdown")].some((node, at) => node.textContent !== before[at]);
  return page.waitForFunction(moved, first, { timeout }).then(() => [], () => [`still “${running[0]}” after ${timeout / 1000} s`]);
}

// Tab reaches each link, and the one it reached is outlined.
async function keyboard(page) {
  const links = await page.locator("a:visible").count(), faults = [], reached = new Set();
  for (let at = 0; at < links; at++) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => {
      const { activeElement } = document, style = getComputedStyle(activeElement);
      return { name: activeElement.textContent, link: activeElement.tagName === "A", outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
    });
    if (!focus.link) faults.push("Tab stops at something that is no link");
    else if (!focus.outlined) faults.push(`${focus.name} shows no focus`);
    reached.add(focus.name);
  }
  for (const name of ["/status", "/readyz", "/metrics"]) if (!reached.has(name)) faults.push(`Tab does not reach ${name}`);
  return faults;
}

async function look(browser, width, colorScheme) {
  const where = `${width} ${colorScheme}`;
  const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme });
  try {
    const page = await context.newPage(), { foreign, complaints } = watched(page);
    await page.addInitScript(listenForViolations);
    const answer = await page.goto(url);
    const policy = answer.headers()["content-security-policy"] ?? "";
    report(where, "policy", /default-src 'none'/.test(policy) && !/unsafe|\*/.test(policy) ? [] : [`it is “${policy}”`]);
    const filled = await page.locator("#accounts tr").first().waitFor({ timeout: TICK }).then(() => true, () => false);
    if (!filled) return report(where, "shows accounts", [`none after ${TICK / 1000} s`, ...foreign, ...complaints]);
    if (directory) await page.screenshot({ path: join(directory, `page-${width}-${colorScheme}.png`), fullPage: true });
    report(where, "verdict", await verdict(page));
    report(where, "makes sense", await nonsense(page));
    const counted = await countdown(page);
    if (counted) report(where, "countdown moves", counted);
    else console.log(`skip ${where} countdown moves: no account holds a token`);
    report(where, "keyboard", await keyboard(page));
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    report(where, "fits its width", wide > 0 ? [`${wide} px too wide`] : []);
    const { violations } = await new AxeBuilder({ page }).analyze();
    report(where, "axe", violations.map(({ id, nodes }) => `${id} (${nodes.map((node) => node.target).join(", ")})`));
    report(where, "asks nobody else", foreign);
    report(where, "no complaint of the browser", [...complaints, ...(await page.evaluate(() => window.violations))]);
  } finally {
    await context.close();
  }
}

async function main() {
  if (directory) mkdirSync(directory, { recursive: true });
  const args = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"];
  // Chromium has no sandbox for root.
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  const browser = await chromium.launch({ executablePath, args });
  try {
    for (const width of WIDTHS) for (const scheme of SCHEMES) await look(browser, width, scheme);
  } finally {
    await browser.close();
  }
  process.exitCode = failed ? 1 : 0;
}

main().catch((error) => {
  console.log(`not ok: ${error.message}`);
  process.exitCode = 1;
});
