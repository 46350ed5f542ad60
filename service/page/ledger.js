// One ledger: its usage over time, its limits, its latest requests.

import * as api from "./api.js";
import { chart, key } from "./charts.js";
import { h, poll, setText, sync } from "./dom.js";
import { ago, clock, compact, day, duration, full, minute, number } from "./format.js";
import { link, remember } from "./router.js";
import { amounts, badge, empty, heading, legend, level, loaded, meter, percent } from "./widgets.js";

const hour = 3600e3;
const buckets = { hour: { ms: hour, count: 48, label: (at) => (new Date(at).getHours() === 0 ? new Date(at).toLocaleDateString(undefined, { weekday: "short" }) : minute(at)) }, day: { ms: 24 * hour, count: 30, label: day } };
const series = [{ name: "used", className: "used" }];

export function ledger(view, page) {
  const application = page.params.get("application") || "", alias = page.params.get("alias") || "";
  let bucket = page.params.get("bucket") === "day" ? "day" : "hour";
  document.title = alias + " · UsageFlow";

  view.append(h("p", { class: "crumbs" }, h("a", { href: "#/ledgers" }, "Ledgers"), " / ", h("a", { href: link("ledgers", { application }) }, application)),
    heading(h("span", { class: "alias", "data-test": "ledger-alias" }, alias)));

  // Usage over time.
  const csv = h("a", { class: "button quiet", download: "usage.csv", "data-test": "usage-csv" }, "CSV");
  const buttons = Object.keys(buckets).map((name) => h("button", { type: "button", "data-test": "bucket-" + name, onclick: () => choose(name) }, name === "hour" ? "Hours" : "Days"));
  const total = h("b", { "data-test": "usage-total" });
  const titleOf = (at) => (bucket === "day" ? day(at) + " (UTC)" : full(at));
  const drawing = chart({
    name: "Usage of " + alias, series, kind: "bars", steps: [1, 2, 3, 6, 12, 24, 48, 96, 192].map((n) => n * hour), title: titleOf, label: (at) => buckets[bucket].label(at),
    more: (p) => ["requests", "voided", "expired", "flagged"].filter((n) => n === "requests" || p[n]).map((n) => [n, compact(p[n])]),
  });
  const usageBody = loaded(page, drawing.node, async (signal) => {
    const { ms, count } = buckets[bucket], asked = bucket;
    const last = Math.floor(api.now() / ms) * ms, from = last - (count - 1) * ms;
    const query = { from, to: Math.ceil(api.now()), group_by: "alias", bucket, application, alias };
    csv.href = api.url("/usage", { ...query, format: "csv" });
    const { usage } = await api.get("/usage", query, signal);
    if (asked !== bucket) return void setTimeout(() => usageBody.again());
    const points = Array.from({ length: count }, (_, i) => ({ at: from + i * ms, values: [0], requests: 0, voided: 0, expired: 0, flagged: 0 }));
    for (const row of usage) {
      const p = points[Math.floor((row.at - from) / ms)];
      if (!p) continue;
      p.values[0] += row.amount;
      for (const n of ["requests", "voided", "expired", "flagged"]) p[n] += row[n] || 0;
    }
    drawing.node.hidden = false;
    drawing.update(points);
    setText(total, compact(points.reduce((sum, p) => sum + p.values[0], 0)));
  }, 5000);
  const choose = (name) => {
    bucket = name;
    remember("ledger", { application, alias, bucket: name === "day" ? "day" : "" });
    press();
    usageBody.again();
  };
  const press = () => buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(Object.keys(buckets)[i] === bucket)));
  press();

  // Limits.
  const limits = h("ul", { class: "limits", "data-test": "limits" });
  const facts = h("dl", { class: "pairs" });
  const limitsContent = h("div", {}, limits, facts);
  let shown = null;
  const limitItem = () => {
    const bar = meter("thick");
    const parts = { bar, name: h("span", {}), share: h("b", { class: "share" }), facts: h("span", { class: "hint" }), reset: h("span", { class: "hint reset" }) };
    return Object.assign(h("li", {}, h("div", { class: "between" }, parts.name, parts.share), bar.node, h("div", { class: "between" }, parts.facts, parts.reset)), { parts });
  };
  const limitsBody = loaded(page, limitsContent, async (signal) => {
    const l = await api.get("/ledger", { application, alias }, signal);
    shown = l;
    const all = l.limits || [];
    sync(limits, all.map((one, i) => ({ ...one, i })), (one) => String(one.i), limitItem, (item, one) => {
      const p = item.parts;
      item.dataset.level = level(one);
      p.name.replaceChildren(h("b", {}, compact(one.limit) + (one.burst ? " burst" : " / " + one.window)), " ", h("span", { class: "hint" }, one.policy || ""));
      setText(p.share, percent(one));
      setText(p.facts, amounts(one));
      p.bar.update(one);
    });
    const pairs = [["Identity", l.identity || "everybody"], ["Ever used", compact(l.total ?? l.used)], ["Held", number(l.held)], ["Last used", ago(l.lastUsed, api.now())]];
    if (!all.length) pairs.unshift(["Limit", "none"]);
    facts.replaceChildren(...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    tick();
  }, 2000);
  const tick = () => (shown?.limits || []).forEach((one, i) => limits.children[i] && setText(limits.children[i].parts.reset, one.resetAt ? "resets in " + duration(one.resetAt - api.now()) : ""));
  poll(page.signal, 1000, tick);

  // Latest requests.
  const rows = h("tbody", {});
  const table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Latest requests" }, h("table", { class: "cards", id: "allocations", "data-test": "allocations" },
    h("thead", {}, h("tr", {}, ["Time", "State", "Reserved", "Charged", "Status", "Took"].map((t, i) => h("th", { scope: "col", class: i > 1 ? "number" : "" }, t)))), rows));
  const none = empty("No request yet.");
  const requests = h("div", {}, table, none);
  const requestsBody = loaded(page, requests, async (signal) => {
    const { allocations } = await api.get("/allocations", { application, alias, limit: 50 }, signal);
    none.hidden = allocations.length > 0;
    table.hidden = allocations.length === 0;
    const print = (a) => a.state + (a.endedAt || "") + a.charged + (a.flags || []).join();
    sync(rows, allocations, (a) => a.id, () => h("tr", { "data-test": "allocation" }), (row, a) => {
      if (row.dataset.print === print(a)) return;
      row.dataset.print = print(a);
      row.dataset.state = a.state;
      row.title = a.id;
      const m = a.metadata || {};
      const cell = (name, text, className = "number") => h("td", { "data-label": name, class: className }, text);
      row.replaceChildren(
        cell("Time", clock(a.reservedAt), ""),
        cell("State", [badge(a.state, a.state), (a.flags || []).map((f) => badge(f, "flag"))], ""),
        cell("Reserved", compact(a.reserved)), cell("Charged", a.state === "settled" ? compact(a.charged) : "–"),
        cell("Status", m.responseStatusCode || "–"), cell("Took", m.requestDuration === undefined ? "–" : compact(m.requestDuration) + " ms"));
    });
  }, 2000);

  view.append(
    h("div", { class: "split" },
      h("section", { class: "card" }, h("div", { class: "heading" }, h("h2", {}, "Usage"), h("div", { class: "tools" }, key(series), total, h("div", { class: "switch", role: "group", "aria-label": "Bucket" }, buttons), csv)), ...usageBody.node),
      h("section", { class: "card" }, h("div", { class: "heading" }, h("h2", {}, "Limits"), legend("used", "held")), ...limitsBody.node)),
    h("section", { class: "card" }, h("div", { class: "heading" }, h("h2", {}, "Latest requests")), ...requestsBody.node));
}
