// Overview: what happens now, and which ledgers are near their limit.

import { get, now } from "./api.js";
import { chart, key, sparkline } from "./charts.js";
import { h, setText, sync } from "./dom.js";
import { clock, compact, duration, minute, rate } from "./format.js";
import { link } from "./router.js";
import { amounts, heading, level, loaded, meter, percent } from "./widgets.js";

const span = 300; // seconds
const series = [{ name: "allowed", className: "allowed" }, { name: "denied", className: "denied" }];
const heldHistory = []; // as seen by this tab

function tile(id, title, className) {
  const value = h("dd", { id, "data-test": id }, "–"), aside = h("dd", { class: "aside" });
  const line = className && sparkline(className);
  return { node: h("div", { class: "tile" }, h("dt", {}, title), value, aside, line && line.node), value, aside, line };
}

export function overview(view, page) {
  const requests = tile("requests-rate", "Requests / s", "allowed"), denials = tile("denials-rate", "Denials / s", "denied");
  const held = tile("held-now", "Held now", "held"), used = tile("used-day", "Used, 24 h", "used");
  const connections = tile("connections", "Connections");
  const activity = chart({
    name: "Requests of the last 5 minutes", series, kind: "area", steps: [60e3, 120e3, 300e3], title: clock, label: minute,
    more: (p) => [["settled", compact(p.settled)], ["voided", compact(p.voided)]],
  });
  const busy = h("ul", { class: "busy", "data-test": "busiest" });
  const nobody = h("p", { class: "hint" }, "No ledger has a limit yet.");
  const steps = h("ol", { class: "steps" });
  const welcome = h("section", { class: "card welcome", id: "welcome", "data-test": "welcome", hidden: true }, h("h2", {}, "Meter your first request"), steps);
  const grid = h("div", {}, welcome,
    h("dl", { class: "tiles", "aria-label": "Now" }, [requests, denials, held, used, connections].map((t) => t.node)),
    h("div", { class: "split" },
      h("section", { class: "card" }, h("div", { class: "heading" }, h("h2", {}, "Last 5 minutes"), key(series)), activity.node),
      h("section", { class: "card" }, h("div", { class: "heading" }, h("h2", {}, "Nearest their limit"), h("a", { href: link("ledgers", { sort: "share" }) }, "All")), busy, nobody)));

  function showRates({ seconds }) {
    const byTime = new Map(seconds.map((one) => [one.at, one]));
    const whole = Math.floor(now() / 1000) - 1; // the present second is not over
    const newest = Math.min(seconds.at(-1)?.at ?? whole, whole), end = whole - newest < 3 ? newest : whole, points = [];
    for (let at = end - span + 1; at <= end; at++) {
      const one = byTime.get(at);
      points.push({ at: at * 1000, values: [one?.reserved || 0, one?.denied || 0], settled: one?.settled || 0, voided: one?.voided || 0 });
    }
    activity.update(points);
    const mean = (k) => points.slice(-5).reduce((sum, p) => sum + p.values[k], 0) / 5;
    const course = (k) => points.slice(-60).map((p) => p.values[k]);
    setText(requests.value, rate(mean(0) + mean(1)));
    setText(denials.value, rate(mean(1)));
    requests.line.update(points.slice(-60).map((p) => p.values[0] + p.values[1]));
    denials.line.update(course(1));
    const share = mean(0) + mean(1) > 0 ? Math.round((100 * mean(1)) / (mean(0) + mean(1))) : 0;
    setText(denials.aside, share + "% of what agents asked");
  }

  function showStats(stats) {
    setText(held.value, compact(stats.ledger.held));
    heldHistory.push(stats.ledger.held);
    if (heldHistory.length > 60) heldHistory.shift();
    held.line.update(heldHistory);
    setText(held.aside, "reservations");
    setText(connections.value, compact(stats.connections));
    setText(connections.aside, "up " + duration(stats.now - stats.startedAt));
    welcome.hidden = stats.ledger.ledgers > 0;
    if (welcome.hidden) return;
    const step = (done, ...text) => h("li", { class: done ? "done" : "" }, h("span", {}, ...text));
    steps.replaceChildren(
      step(stats.applications > 0, h("a", { href: "#/applications" }, "Create an application"), ", and copy its key"),
      step(stats.connections > 0, "Start your API with ", h("code", {}, "USAGEFLOW_URL=" + location.origin.replace(/^http/, "ws") + "/ws")),
      step(stats.connections > 0, "Put one line before your routes: ", h("code", {}, "r.Use(usageflow.Gin(key))")),
      step(false, "Send a request, and watch it here"));
  }

  function busyItem() {
    const bar = meter();
    const name = h("a", { class: "alias" }), share = h("b", { class: "share" }), facts = h("span", { class: "hint" });
    const item = h("li", {}, h("div", { class: "between" }, name, share), bar.node, facts);
    Object.assign(item, { bar, name, share, facts });
    return item;
  }

  const body = loaded(page, grid, async (signal) => {
    const [rates, stats] = await Promise.all([get("/rates", {}, signal), get("/stats", {}, signal)]);
    grid.hidden = false; // a chart is drawn to the size it has
    showRates(rates);
    showStats(stats);
  }, 1000);
  view.append(heading("Overview"), ...body.node);

  loaded(page, busy, async (signal) => {
    const { ledgers } = await get("/ledgers", { sort: "share", limit: 8 }, signal);
    const limited = ledgers.filter((l) => l.limit !== null && l.limit !== undefined);
    nobody.hidden = limited.length > 0;
    sync(busy, limited, (l) => l.application + "\n" + l.alias, busyItem, (item, l) => {
      setText(item.name, l.alias);
      item.name.href = link("ledger", { application: l.application, alias: l.alias });
      item.dataset.level = level(l);
      setText(item.share, percent(l));
      setText(item.facts, amounts(l) + " / " + l.window);
      item.bar.update(l);
    });
  }, 2000);

  loaded(page, h("div"), async (signal) => {
    const hour = 3600e3, to = now(), from = Math.floor(to / hour) * hour - 23 * hour;
    const { usage } = await get("/usage", { from, to: Math.ceil(to), group_by: "application", bucket: "hour" }, signal);
    const hours = new Array(24).fill(0);
    for (const row of usage) {
      const i = Math.floor((row.at - from) / hour);
      if (i >= 0 && i < 24) hours[i] += row.amount;
    }
    setText(used.value, compact(hours.reduce((a, b) => a + b, 0)));
    setText(used.aside, compact(hours[23]) + " this hour");
    used.line.update(hours);
  }, 5000);
}
