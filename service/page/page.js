// The live page: it asks the API once a second and shows what it says, as text.
"use strict";

const tokenKey = "usageflow-admin-token";
const $ = (id) => document.getElementById(id);
const counterNames = ["connections", "reserved", "denied", "settled", "voided", "expired", "flagged", "held now", "ledgers"];
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });

let offset = 0; // the service's clock minus ours, in ms
let ledgers = [];

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

function setConnection(state, text) {
  $("connection").dataset.state = state;
  $("connection").textContent = text;
}

async function get(path) {
  const token = sessionStorage.getItem(tokenKey);
  const answer = await fetch(path, { headers: token ? { Authorization: "Bearer " + token } : {}, signal: AbortSignal.timeout(5000) });
  if (answer.status === 401) throw "unauthorized";
  if (!answer.ok) throw "status " + answer.status;
  return answer.json();
}

function askForToken() {
  $("sign-in-error").hidden = !sessionStorage.getItem(tokenKey);
  sessionStorage.removeItem(tokenKey);
  $("live").hidden = true;
  if ($("sign-in").hidden) {
    $("sign-in").hidden = false;
    $("token").focus();
  }
  setConnection("waiting", "signed out");
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(tokenKey, $("token").value.trim());
  $("token").value = "";
  refresh();
});

function showCounters(stats) {
  const l = stats.ledger;
  const values = [stats.connections, l.reserved, l.denied, l.settled, l.voided, l.expired, l.flagged, l.held, l.ledgers];
  const list = $("counters");
  counterNames.forEach((name, i) => {
    if (!list.children[i]) {
      const box = element("div");
      box.append(element("dt", "", name), element("dd"));
      list.append(box);
    }
    list.children[i].lastChild.textContent = numbers.format(values[i]);
  });
}

function ledgerItem() {
  const item = element("li");
  item.append(element("div", "alias"));
  const bar = element("div", "bar");
  bar.setAttribute("role", "img");
  bar.append(element("i", "used"), element("i", "held"));
  const facts = element("div", "facts");
  for (const name of ["used", "held", "limit", "reset"]) facts.append(element("span", name));
  item.append(bar, facts);
  return item;
}

function fact(span, name, value) {
  span.hidden = value === null;
  span.replaceChildren(name + " ", element("b", "", value === null ? "" : value));
}

function showLedger(item, l) {
  item.querySelector(".alias").textContent = l.alias;
  item.title = l.policy ? "policy " + l.policy : "no limit";
  const limited = l.limit !== null;
  const whole = limited ? Math.max(l.limit, l.used + l.held) : l.used + l.held;
  const share = (n) => (whole > 0 ? (100 * n) / whole : 0) + "%";
  item.querySelector(".bar").hidden = !limited; // a share of nothing is no picture
  item.querySelector(".bar .used").style.width = share(l.used);
  item.querySelector(".bar .held").style.width = share(l.held);
  item.classList.toggle("full", limited && l.used + l.held >= l.limit);
  const facts = item.querySelector(".facts");
  fact(facts.children[0], "used", numbers.format(l.used));
  fact(facts.children[1], "held", numbers.format(l.held));
  fact(facts.children[2], "of", limited ? numbers.format(l.limit) + " a " + l.window : null);
  item.querySelector(".bar").setAttribute("aria-label",
    "used " + l.used + ", held " + l.held + (limited ? " of " + l.limit : ", no limit"));
}

function duration(ms) {
  const s = Math.max(0, Math.ceil(ms / 1000));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return "now";
  return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => n + " " + unit).join(" ");
}

function showResets() {
  const now = Date.now() + offset;
  ledgers.forEach((l, i) => {
    const span = $("ledgers").children[i].querySelector(".reset");
    fact(span, "resets in", l.resetAt === null ? null : duration(l.resetAt - now));
  });
}

function showLedgers(found) {
  ledgers = found;
  const list = $("ledgers");
  while (list.children.length > found.length) list.lastChild.remove();
  found.forEach((l, i) => {
    if (!list.children[i]) list.append(ledgerItem());
    showLedger(list.children[i], l);
  });
  $("no-ledgers").hidden = found.length > 0;
  $("no-ledgers").textContent = $("search").value ? "No ledger has this in its name." : "No ledger yet. The first metered request makes one.";
  showResets();
}

function showAllocations(found) {
  $("no-allocations").hidden = found.length > 0;
  $("allocations").hidden = found.length === 0;
  const rows = found.map((a) => {
    const row = element("tr");
    const time = element("td", "", new Date(a.reservedAt).toLocaleTimeString());
    time.title = a.id;
    const state = element("td", "state-" + a.state, a.flags.length ? a.state + " (" + a.flags.join(", ") + ")" : a.state);
    const m = a.metadata;
    row.append(time, element("td", "ledger", a.alias), state,
      element("td", "number", numbers.format(a.reserved)),
      element("td", "number", a.state === "settled" ? numbers.format(a.charged) : "–"),
      element("td", "number", m.responseStatusCode || "–"),
      element("td", "number", m.requestDuration === undefined ? "–" : numbers.format(Math.round(m.requestDuration * 10) / 10) + " ms"));
    return row;
  });
  $("allocations").tBodies[0].replaceChildren(...rows);
}

async function refresh() {
  try {
    const [stats, l, a] = await Promise.all([
      get("/api/v1/stats"),
      get("/api/v1/ledgers?limit=100&q=" + encodeURIComponent($("search").value)),
      get("/api/v1/allocations?limit=50"),
    ]);
    offset = stats.now - Date.now();
    $("sign-in").hidden = true;
    $("live").hidden = false;
    showCounters(stats);
    showLedgers(l.ledgers);
    showAllocations(a.allocations);
    setConnection("live", "live");
  } catch (problem) {
    if (problem === "unauthorized") askForToken();
    else setConnection("lost", "no connection to the service");
  }
}

async function run() {
  for (;;) {
    if (!document.hidden && $("sign-in").hidden) await refresh();
    await new Promise((resume) => setTimeout(resume, 1000));
  }
}

$("search").addEventListener("input", refresh);
run();
