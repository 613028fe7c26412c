"use strict";
// Reads /status every 2 s and shows it. Text is inserted as text only; countdowns go by the sidecar's clock.

const NOT_SERVED = ["refusing", "unreachable", "failing"];
const POLL = 2000, PATIENCE = 4000, STEPS = 60, HEIGHT = 40;
const $ = (id) => document.getElementById(id);

let shown = null;      // the last answer
let received = 0;      // when it came, by performance.now()
let failures = 0;      // polls without an answer since then
let timer, flight;

// ---- Words and numbers

const compact = (value) => new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
const number = (value, digits = 0) => new Intl.NumberFormat("en", { maximumFractionDigits: digits }).format(value);
const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;
const rate = (value) => value < 10000 ? number(value, value < 1 ? 2 : value < 10 ? 1 : 0) : compact(value);
const inASecond = (value) => `${rate(value)} ${rate(value) === "1" ? "request" : "requests"}/s`;
const latency = (ms) => ms < 1000 ? `${number(ms, ms < 10 ? 1 : 0)} ms` : `${number(ms / 1000, ms < 10000 ? 1 : 0)} s`;
const moment = (text) => text ? Date.parse(text) : NaN;
const tally = (value) => value < 100000 ? number(value) : compact(value);
// Joins facts in a row that breaks between them.
const strung = (facts) => facts.filter(Boolean).map((each) => each.replaceAll(" ", "\u00a0")).join(" · ");
const pad = (value) => String(value).padStart(2, "0");

function lasting(ms) {
  const all = Math.max(0, Math.round(ms / 1000));
  const [d, h, m, s] = [Math.floor(all / 86400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60, all % 60];
  if (d) return `${d} d ${h} h ${pad(m)} min`;
  if (h) return `${h} h ${pad(m)} min ${pad(s)} s`;
  return m ? `${m} min ${pad(s)} s` : `${s} s`;
}
function ago(ms) {
  const all = Math.max(0, ms / 1000);
  if (all < 60) return `${Math.floor(all)} s ago`;
  if (all < 3600) return `${Math.floor(all / 60)} min ago`;
  return all < 86400 ? `${Math.floor(all / 3600)} h ${pad(Math.floor(all / 60) % 60)} min ago` : `${Math.floor(all / 86400)} d ago`;
}
function clock(time, now) {
  const iso = new Date(time).toISOString();
  return (iso.slice(0, 10) === new Date(now).toISOString().slice(0, 10) ? "" : iso.slice(0, 10) + " ") + iso.slice(11, 19);
}
function names(list) {
  const some = list.slice(0, 3).map((each) => each.name), more = list.length - some.length;
  if (more) return `${some.join(", ")} and ${more} more`;
  return some.length < 2 ? some.join("") : `${some.slice(0, -1).join(", ")} and ${some.at(-1)}`;
}

// ---- States in words

// Describes an account's state: tone (colour), sign (shape), word, whether it serves, and what to do.
function reading(account) {
  if (account.state === "logged_out") return { tone: "off", word: "logged out", works: false, book: "Logged out", advice: "run `careportals-sidecar login`, or restart the sidecar." };
  if (account.trouble === "token_refused") return { tone: "bad", word: "token refused", works: true, refused: true, book: "Rejected", advice: "check that the account may use this API, and that organization and upstream belong together; then ask CarePortals." };
  if (account.trouble) {
    const rejected = account.state === "rejected", ends = account.trouble === "token_ending", works = account.trouble !== "no_token";
    const word = account.state === null ? "no organization" : rejected ? "log-in rejected" : account.last_error_code ? "log-in failing" : "log-in hangs";
    return { tone: works && !ends ? "warn" : "bad", word, works, ends, book: rejected ? "Rejected" : ends ? "Token expiring" : works || account.last_error_code === "login_throttled" ? "Logins failing" : "No token",
      advice: rejected ? "check organization, user name, password and log-in URL. A changed credential file is used at once; after any other change run `careportals-sidecar login`."
        : "nothing for now, it tries again by itself. If this lasts, run `careportals-sidecar check --online`: it looks at DNS, network, egress proxy and log-in." };
  }
  switch (account.state) {
    case null: return { tone: account.usable ? "off" : "busy", sign: "none", word: "no log-in needed", works: account.usable };
    case "ready": return { tone: "ok", word: "ready", works: true };
    case "refreshing": return { tone: "busy", word: "refreshing", works: account.usable };
    case "logging_in": return { tone: "busy", word: "logging in", works: false };
    default: return { tone: "off", sign: "none", word: String(account.state), works: account.usable };
  }
}
const begun = (each) => clock(moment(each.since), moment(shown.now)).slice(0, -3);
const advised = (account) => account.advice ?? account.view.advice ?? "";

const sum = (list) => list.reduce((total, each) => total + each, 0);

function traffic(api) {
  const past = (shown.history?.apis ?? []).find((each) => each.name === api.name) ?? {};
  const step = shown.history?.step_seconds || 5;
  const [requests, errors, p50, p99, upstream, own] = [past.requests, past.errors, past.p50_ms, past.p99_ms, past.upstream_p50_ms, past.own_p50_ms].map((each) => (each ?? []).slice(-STEPS));
  const minute = -Math.max(1, Math.round(60 / step));
  const lately = { requests: sum(requests.slice(minute)), errors: sum(errors.slice(minute)) };
  return { step, requests, errors, p50, p99, upstream, own, failing: lately.errors >= 5 && lately.errors > lately.requests / 20 };
}

// Gives the verdict, what to do, the runbook's section, and the tab's title. Nothing counts down: screen readers
// read changes aloud.
function verdict(accounts, apis) {
  const say = (tone, tab, says, todo = "", book = "", sign = tone) => ({ tone, tab, says, todo: todo && (tone === "ok" || /^(Nothing|Requests)/.test(todo) ? todo : `What to do: ${todo}`), book, sign });
  if (shown.phase === "draining") return say("busy", "Draining", "Draining: it finishes what is in flight, then ends.", "Nothing to do if this was meant.", "", "off");
  if (shown.phase === "stopped") return say("off", "Stopped", "Stopped.");
  if (shown.phase === "starting") return say("busy", "Starting", "Starting.");
  const broken = accounts.filter((each) => !each.view.works), ending = accounts.filter((each) => each.view.ends), shaky = accounts.filter((each) => each.view.tone === "warn");
  if (broken.length) return outage(broken, accounts.length > broken.length ? "Partly working: " : "Not working: ", say);
  if (ending.length) return say("bad", "Token ends", `About to stop working: ${renewal(ending)}, and little is left of it.`, advised(ending[0]), ending[0].view.book);
  const refused = accounts.filter((each) => each.view.refused);
  if (refused.length) return say("bad", "Refused", `${accounts.length > refused.length ? "Partly working" : "Not working"}: CarePortals refuses the token with every answer to ${names(refused)}, since ${begun(refused[0])}.`, advised(refused[0]), refused[0].view.book);
  for (const [state, what, tab, book] of [["refusing", "every request is refused", "Refusing", "Nothing succeeds"], ["unreachable", "CarePortals can’t be reached", "Unreachable", "Upstream unreachable"], ["failing", "most answers of CarePortals are errors", "Failing", "Errors"]]) {
    const hit = apis.filter((each) => each.state === state);
    if (!hit.length) continue;
    const some = apis.some((each) => !NOT_SERVED.includes(each.state));
    return say("bad", tab, `${some ? "Partly working" : "Not working"}: ${what}${apis.length > 1 ? ` by ${names(hit)}` : ""} (${hit[0].reason ?? hit[0].last_error}), since ${begun(hit[0])}.`.replace("errors by", "errors for"), hit[0].advice ?? "", book);
  }
  if (shaky.length) return say("warn", "Attention", `Working for now, but ${renewal(shaky)}.`, advised(shaky[0]), shaky[0].view.book);
  const busy = apis.filter((each) => each.state === "busy");
  if (busy.length) return say("warn", "Busy", `Working, but requests to ${names(busy)} are refused: too many at once.`, busy[0].advice ?? "", "Saturated");
  const failing = apis.filter((each) => each.past.failing);
  if (failing.length) return say("warn", "Errors", `Working, but many requests to ${names(failing)} failed in the last minute.`, "look at the errors by code below, and at the log’s lines with that `code`.", "Errors");
  const observed = apis.filter((each) => each.observe);
  if (observed.length) return say("warn", "Rules off", `Working, but the rules of ${names(observed)} are not enforced: observe = true.`, "when no request that should pass is counted any more, take `observe` out of the settings, and reload.");
  if (!apis.every((each) => each.requests === 0)) return say("ok", "OK", "Working.");
  const door = apis.flatMap((each) => each.listen ?? []).find((each) => /:\d+$/.test(each));
  return say("ok", "OK", "Working. No request has come yet.", door ? `Your app’s base URL: http://${door}` : "");
}

function renewal(list) {
  const many = list.length > 1;
  if (list.every((each) => each.state === "rejected")) return `CarePortals refuses to log ${names(list)} in again`;
  return `${names(list)} can’t renew ${many ? "their tokens" : "its token"}`;
}

function outage(broken, start, say) {
  const who = names(broken), { view: { book } } = broken[0], todo = advised(broken.find(advised) ?? broken[0]);
  const all = (test) => broken.every(test);
  if (all((each) => !each.trouble && each.state !== "logged_out")) return say("busy", "Logging in", `${broken[0].state ? "Logging in" : "Starting"} ${who}.`, "Requests wait until that is done.");
  if (all((each) => each.state === "logged_out")) return say("off", "Logged out", `${start}${who} ${broken.length > 1 ? "are" : "is"} logged out.`, todo, book);
  if (all((each) => each.state === "rejected")) return say("bad", "Rejected", `${start}CarePortals refuses to log ${who} in.`, todo, book);
  if (all((each) => each.state === null)) return say("bad", "No organization", `${start}the organization of ${who} is missing.`, todo, book);
  if (all((each) => each.trouble && each.state !== null)) return say("bad", "No token", `${start}${who} can’t log in.`, todo, book);
  return say("bad", "No token", `${start}no valid token for ${who}.`, todo, book);
}

// ---- Building and patching the page

const SIGNS = {
  ok: ["M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm3.9 5.4-4.7 5.2-3.1-3 1.1-1.2 1.9 1.9 3.6-4z", "●"],
  busy: ["M8 1a7 7 0 1 0 7 7h-2.2A4.8 4.8 0 1 1 8 3.2z", "◔"],
  warn: ["M8 1 .6 14.5h14.8zM7.1 6h1.8v4.6H7.1zm0 5.6h1.8v1.7H7.1z", "▲"],
  bad: ["M5 1h6l4 4v6l-4 4H5l-4-4V5zm-.1 5.1L6.8 8l-1.9 1.9 1.2 1.2L8 9.2l1.9 1.9 1.2-1.2L9.2 8l1.9-1.9-1.2-1.2L8 6.8 6.1 4.9z", "■"],
  off: ["M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 2.2a4.8 4.8 0 1 1 0 9.6 4.8 4.8 0 0 1 0-9.6z", "○"],
  none: ["M2 6.9h12v2.2H2z", "–"],
  gone: ["M8 1a7 7 0 0 1 4.4 1.5l-1.6 1.6a4.8 4.8 0 0 0-6.7 6.7l-1.6 1.6A7 7 0 0 1 8 1zm5.5 2.6A7 7 0 0 1 3.6 13.5l1.6-1.6a4.8 4.8 0 0 0 6.7-6.7z", "✕"],
};

function make(tag, attributes = {}, ...children) {
  const made = tag === "svg" || tag === "path" || tag === "rect" ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
// Backticks mark what a user types.
function putCode(node, text) {
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren(...text.split("`").map((part, at) => at % 2 ? make("code", {}, part) : part));
}
const mark = (node, name, value) => { if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value); };
const cell = (label, ...children) => make("td", { role: "cell", "data-label": label }, ...children);

function sign(svg, name) {
  if (svg.dataset.sign === name) return;
  svg.dataset.sign = name;
  svg.replaceChildren(make("path", { d: SIGNS[name][0], fill: "currentColor", "fill-rule": "evenodd", class: name === "busy" ? "turning" : "" }));
}
function stateMark() {
  const svg = make("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }), word = make("span");
  return { node: make("span", { class: "state" }, svg, word), show(view) {
    mark(this.node, "data-tone", view.tone);
    sign(svg, view.sign ?? view.tone);
    put(word, view.word);
  } };
}

// A row stays while its name is listed, so that a selection or a screen reader's position survives an update.
const tables = new Map();
function rows(id, list, build) {
  const key = JSON.stringify(list.map((each) => each.name));
  if (tables.get(id)?.key !== key) {
    const built = list.map(build);
    $(id).replaceChildren(...built.flatMap((each) => each.nodes));
    tables.set(id, { key, built });
  }
  return tables.get(id).built;
}

function accountRow(account) {
  const state = stateMark(), [token, at, next, nextAt, login, loginAt, fault, advice] = ["span", "span", "span", "span", "span", "span", "p", "p"].map((tag) => make(tag));
  for (const node of [at, nextAt, loginAt]) node.className = "aside";
  token.className = next.className = "countdown";
  const left = make("rect", { class: "left", y: 2, height: 4 }), due = make("rect", { class: "due", width: .8, height: 8 });
  const life = make("svg", { class: "life", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, make("rect", { class: "all", y: 2, width: 100, height: 4 }), left, due);
  const note = make("tr", { role: "row", class: "note" }, make("td", { role: "cell", colspan: 5 }, fault, advice));
  const row = make("tr", { role: "row" }, make("th", { role: "rowheader", scope: "row" }, make("b", {}, account.name)),
    cell("State", state.node), cell("Token", token, life, at), cell("Next", next, nextAt), cell("Last log-in", login, loginAt));
  return { nodes: [row, note], show(account, now, said) {
    const { view } = account;
    state.show(view);
    const [end, refresh, retry, since, failed] = ["expires_at", "refresh_at", "retry_at", "last_login_at", "last_error_at"].map((key) => moment(account[key]));
    const valid = end > now, none = account.state === null;
    put(token, isNaN(end) ? (none ? "none needed" : "none") : valid ? `expires in ${lasting(end - now)}` : `expired ${ago(now - end)}`);
    put(at, isNaN(end) ? "" : `at ${clock(end, now)}`);
    life.toggleAttribute("hidden", !(valid && since < end));
    if (valid && since < end) {
      mark(row, "data-tone", view.tone);
      mark(left, "width", (100 * Math.min(1, (end - now) / (end - since))).toFixed(1));
      mark(due, "x", refresh > now ? (100 * (end - refresh) / (end - since)).toFixed(1) : -9);
    }
    const waits = Boolean(account.trouble), began = moment(account.login_began_at);
    const [when, what] = waits && !isNaN(retry) ? [retry, "tries again"] : [refresh, "refreshes"];
    const idle = none || account.state === "logged_out";
    put(next, !isNaN(began) ? `log-in under way${now - began > 5000 ? ` for ${lasting(now - began)}` : ""}` : idle || isNaN(when) ? "–" : when > now ? `${what} in ${lasting(when - now)}` : `${what} now`);
    put(nextAt, idle || !isNaN(began) || isNaN(when) || !(when > now) ? "" : `at ${clock(when, now)}`);
    put(login, isNaN(since) ? (none ? "–" : "none yet") : ago(now - since));
    put(loginAt, isNaN(since) ? "" : `at ${clock(since, now)}`);
    // A sidecar that others can reach gives codes only.
    const error = account.last_error ?? (account.last_error_code && `${account.last_error_code} (“careportals-sidecar status” says more)`);
    note.hidden = !error;
    if (!error) return;
    mark(note, "data-tone", view.tone);
    put(fault, `Last failure${isNaN(failed) ? "" : ` ${ago(now - failed)}`}: ${error}`);
    // The verdict says it already.
    advice.hidden = said.endsWith(advised(account));
    putCode(advice, `What to do: ${advised(account)}`);
  } };
}

function ceiling(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((each) => each * power).find((each) => each >= most * .999) ?? most;
}
// Draws a step for each value, with a gap where there is none.
function line(values, top, closed = false) {
  let path = "", joined = false;
  values.forEach((value, at) => {
    const x = STEPS - values.length + at, y = value == null ? 0 : (HEIGHT * (1 - value / top)).toFixed(1);
    if (value != null) path += `${joined ? "V" : closed ? `M${x} ${HEIGHT}V` : `M${x} `}${y}H${x + 1}`;
    else if (joined && closed) path += `V${HEIGHT}z`;
    joined = value != null;
  });
  return path + (joined && closed ? `V${HEIGHT}z` : "");
}
const area = (values, top) => line(values, top, true);

function chart(label, reading, ...classes) {
  const paths = classes.map((name) => make("path", { class: name }));
  const svg = make("svg", { class: "plot", role: "img", viewBox: `0 0 ${STEPS} ${HEIGHT}`, preserveAspectRatio: "none" }, ...paths);
  const most = make("span"), past = make("span"), axis = (...marks) => make("div", { class: "axis", "aria-hidden": "true" }, ...marks);
  return { node: cell(label, make("div", { class: "reading" }, ...reading), axis(most), svg, axis(past, make("span", {}, "now"))),
    show(top, step, summary, shapes) {
      const span = `${number(STEPS * step / 60, 1)} min`;
      put(most, top);
      put(past, `${span} ago`);
      mark(svg, "aria-label", `${label}, last ${span}: ${summary}`);
      shapes.forEach((shape, at) => mark(paths[at], "d", shape));
    } };
}

function apiRow(api) {
  const state = stateMark(), [where, target, whose] = [1, 2, 3].map(() => make("span", { class: "aside" }));
  const [now, bad, typical, slow, flying] = [1, 2, 3, 4, 5].map(() => make("b"));
  const [total, share, ever, everBad] = [1, 2, 3, 4].map(() => make("span", { class: "aside" })), since = make("span", { class: "aside" }, "since start");
  const key = (name) => make("span", { class: `aside key ${name}` }, name);
  const requests = chart("Requests", [now, total], "area"), errors = chart("Errors (5xx)", [bad, share], "faults");
  const times = chart("Latency", [make("span", {}, typical, " ", key("p50")), make("span", { class: "slow" }, slow, " ", key("p99"))], "soft", "p99", "p50");
  const [upstreamPart, ownPart] = [1, 2].map(() => make("span", { class: "aside" })), fault = make("p"), advice = make("p");
  times.node.append(upstreamPart, ownPart);
  const note = make("tr", { role: "row", class: "note" }, make("td", { role: "cell", colspan: 5 }, fault, advice));
  const row = make("tr", { role: "row" }, make("th", { role: "rowheader", scope: "row" }, make("b", {}, api.name), make("br"), state.node, where, target, whose),
    requests.node, errors.node, times.node, cell("In flight", make("div", { class: "reading" }, flying), ever, everBad, since));
  return { nodes: [row, note], show({ past, ...api }, view, among, at, said) {
    state.show(view);
    note.hidden = !api.last_error;
    mark(note, "data-tone", view.tone);
    const codes = Object.entries(api.errors_by_code ?? {}).sort((one, other) => other[1] - one[1]).map(([code, count]) => `${tally(count)} ${code}`).join(", ");
    put(fault, `Last error ${ago(at - moment(api.last_error_at))}: ${api.last_error}.${codes && ` Since the start: ${codes}.`}`);
    advice.hidden = !api.advice || api.state === "no_token" || said.endsWith(api.advice);
    putCode(advice, `What to do: ${api.advice}`);
    put(where, `at ${(api.listen ?? []).join(", ")}`);
    put(target, `to ${api.upstream}`);
    put(whose, among > 1 ? `account ${api.account}` : "");
    const { step } = past, perSecond = past.requests.map((each) => each / step), all = sum(past.requests), faults = sum(past.errors);
    const span = `${number(STEPS * step / 60, 1)} min`, most = Math.max(0, ...perSecond), top = ceiling(most);
    const none = !perSecond.length;
    put(now, none ? "–" : `${rate(perSecond.at(-1))}/s`);
    put(total, none ? "no figures yet" : `${tally(all)} in ${span}`);
    requests.show(`scale to ${rate(top)}/s`, step, none ? "no figures yet" : `now ${now.textContent}, at most ${rate(most)}/s, ${plural(all, "request")} in all`, [area(perSecond, top)]);
    // A single error must not fill the chart.
    const worst = Math.max(0, ...past.errors), height = ceiling(Math.max(5, worst));
    put(bad, none ? "–" : tally(faults));
    put(share, faults ? `${number(100 * faults / Math.max(all, faults), 1)} %` : "");
    errors.show(`scale to ${number(height)} per ${step} s`, step, none ? "no figures yet" : faults ? `${plural(faults, "error")}, at most ${number(worst)} in ${step} s` : "none", [area(past.errors, height)]);
    const longest = Math.max(0, ...past.p99), limit = ceiling(longest);
    const [p50, p99] = [past.p50, past.p99].map((each) => each.findLast((value) => value != null)).map((each) => each == null ? "–" : latency(each));
    const [theirs, ours] = [past.upstream, past.own].map((each) => each.findLast((value) => value != null));
    put(upstreamPart, theirs == null || api.state === "unreachable" ? "" : `CarePortals p50 ${latency(theirs)}`);
    put(ownPart, ours == null ? "" : `sidecar p50 ${ours < 1 ? `${number(1000 * ours)} µs` : latency(ours)}`);
    put(typical, p50);
    put(slow, p99);
    times.show(longest ? `scale to ${latency(limit)}` : "", step, longest ? `now p50 ${p50}, p99 ${p99}, at most ${latency(longest)}` : "no request", [area(past.p99, limit), line(past.p99, limit), line(past.p50, limit)]);
    put(flying, number(api.in_flight ?? 0));
    put(ever, api.requests == null ? "" : plural(api.requests, "request"));
    put(everBad, api.errors == null ? "" : plural(api.errors, "error"));
    since.hidden = api.requests == null;
  } };
}

// ---- Updating the page

function render() {
  const gone = failures > 1 || (failures > 0 && !shown);
  document.body.classList.toggle("gone", gone);
  if (!shown) {
    return conclude(gone ? { tone: "bad", sign: "gone", tab: "No answer", says: "The sidecar does not answer.", todo: "This page asks again every 2 s." }
      : { tone: "off", sign: "busy", tab: "…", says: "Reading the status…", todo: "" });
  }
  const asOf = moment(shown.now), now = gone ? asOf : asOf + performance.now() - received;
  const accounts = (shown.accounts ?? []).map((each) => ({ ...each, view: reading(each) }));
  const apis = (shown.apis ?? []).map((each) => ({ ...each, past: traffic(each) }));
  const outcome = gone ? { tone: "bad", sign: "gone", tab: "No answer", says: `No answer since ${clock(asOf, asOf + performance.now() - received)} UTC.`,
    todo: "What to do: see whether the sidecar still runs, and read its log. Below is what it said last. This page goes on by itself once it answers." } : verdict(accounts, apis);
  conclude(outcome);
  put($("facts"), strung([shown.host, shown.version, gone ? "" : shown.phase, gone ? "" : `up ${lasting(1000 * shown.uptime_seconds + now - asOf)}`, `${gone ? "last answer" : "updated"} ${clock(asOf, asOf)}`]));
  const counted = accounts.filter((each) => each.state !== null), valid = counted.filter((each) => moment(each.expires_at) > now).length;
  const tokens = counted.length > 1 ? `${valid} of ${counted.length} tokens valid` : counted.length && (valid ? "Token valid" : "No valid token");
  const down = apis.filter((each) => ["no_token", ...NOT_SERVED].includes(each.state)).length;
  put($("gist"), gone ? "" : strung([tokens, `${plural(apis.length, "API")}${down ? `, ${down} not served` : ""}`, apis.some((each) => each.past.requests.length) && inASecond(sum(apis.map((each) => (each.past.requests.at(-1) ?? 0) / each.past.step))), `${number(sum(apis.map((each) => each.in_flight ?? 0)))} in flight`]));
  rows("accounts", accounts, accountRow).forEach((row, at) => row.show(accounts[at], now, outcome.todo));
  rows("apis", apis, apiRow).forEach((row, at) => row.show(apis[at], service(apis[at], accounts), accounts.length, now, outcome.todo));
  for (const part of document.querySelectorAll(".figures")) part.hidden = false;
}

function service(api, accounts) {
  if (shown.phase === "draining") return { tone: "busy", sign: "off", word: "draining" };
  const account = accounts.find((each) => each.name === api.account), since = `since ${clock(moment(api.since), moment(shown.now))}`;
  if (account && !account.view.works) return account.view.tone === "busy" ? { tone: "busy", word: "waits for the account" } : { tone: account.view.tone, word: `no token ${since}` };
  if (NOT_SERVED.includes(api.state)) return { tone: "bad", word: `${api.state} ${since}` };
  if (api.state === "busy") return { tone: "warn", word: `busy ${since}` };
  if (api.observe) return { tone: "warn", word: `rules not enforced: ${plural(api.would_refuse ?? 0, "request")} would have been refused` };
  return api.past.failing ? { tone: "warn", word: "many errors" } : { tone: "ok", word: "served" };
}

function refresh() {
  try {
    render();
  } catch (error) {
    console.error(error);
    conclude({ tone: "bad", sign: "gone", tab: "Unreadable", says: "This page can’t read the sidecar’s answer.", todo: "What to do: reload it. If that does not help, read /status." });
  }
}

function conclude({ tone, sign: shape, tab, says, todo, book = "" }) {
  mark(document.body, "data-tone", tone);
  sign($("sign"), shape);
  put($("says"), says);
  putCode($("todo"), todo);
  put($("book"), book && `Runbook (docs/runbook.md): ${book}`);
  const title = `${SIGNS[shape][1]} ${tab} — careportals-sidecar`;
  if (document.title !== title) document.title = title;
}

async function poll() {
  clearTimeout(timer);
  flight?.abort();
  const mine = flight = new AbortController(), limit = setTimeout(() => mine.abort(), PATIENCE);
  try {
    const answer = await fetch("status", { cache: "no-store", redirect: "error", signal: mine.signal });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const next = await answer.json();
    if (mine !== flight) return;
    // A sidecar of another version may send what this page does not know.
    if (shown && shown.version !== next.version) return location.reload();
    [shown, received, failures] = [next, performance.now(), 0];
  } catch {
    if (mine !== flight) return;
    failures += 1;
  } finally {
    clearTimeout(limit);
  }
  if (!document.hidden) timer = setTimeout(poll, POLL);
  refresh();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return poll();
  clearTimeout(timer);
  flight?.abort();
  flight = null;
});
setInterval(() => { if (!document.hidden) refresh(); }, 1000);
refresh();
poll();
