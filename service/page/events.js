// Events: a live tail of what the service decides.

import * as api from "./api.js";
import { h, setText, soon } from "./dom.js";
import { clock, compact } from "./format.js";
import { link, remember } from "./router.js";
import { applicationSelect, badge, empty, heading, select } from "./widgets.js";

const most = 500; // rows
const kinds = ["reserved", "denied", "settled", "voided", "refused"];

export function events(view, page) {
  const state = { type: page.params.get("type") || "", application: page.params.get("application") || "", q: page.params.get("q") || "", request: page.params.get("request") || "" };
  let source = null, timer = 0, paused = false, tries = 0, waiting = [], drawing = 0, fresh = false;
  let seen = new Set();

  const rows = h("tbody", {});
  const table = h("div", { class: "card scroll tail", tabindex: 0, role: "region", "aria-label": "Events", hidden: true }, h("table", { class: "cards", id: "events", "data-test": "events" },
    h("thead", {}, h("tr", {}, ["Time", "Event", "Ledger", "Amount", "Status", "Request", "Reason"].map((t) => h("th", { scope: "col", class: t === "Amount" || t === "Status" ? "number" : "" }, t)))), rows));
  const none = state.request ? empty("No event of this request.", h("p", {}, "The last 1,000 events are kept, of all requests."))
    : empty("No event yet.", h("p", {}, "They appear here as requests come."));
  const one = state.request && h("p", { class: "row one", "data-test": "request-filter" }, h("span", { class: "wrap" }, "Request ", h("code", {}, state.request)),
    h("a", { class: "button", href: link("events"), "data-test": "request-clear" }, "Show all requests"));
  const gap = h("p", { id: "gap", class: "warning", role: "status", "data-test": "gap", hidden: true });
  const link_ = h("span", { id: "stream", class: "stream", role: "status", "data-test": "stream-state", "data-state": "waiting" }, "connecting");
  const pause = h("button", { type: "button", id: "pause", "data-test": "pause", "aria-pressed": "false", onclick: toggle }, "Pause");
  const filter = h("span", {}, applicationSelect([], "", true, () => {}));
  const type = select({ id: "type", "aria-label": "Type", "data-test": "type-filter", onchange: () => change({ type: type.value }) }, [["", "All types"], ...kinds], state.type);
  const search = h("input", { id: "search", type: "search", placeholder: "Search", "aria-label": "Search events", maxlength: 200, autocomplete: "off", value: state.q, "data-test": "search", oninput: soon(() => change({ q: search.value.trim() })) });
  view.append(heading(state.request ? "Events of one request" : "Events", h("div", { class: "tools" }, link_, search, type, filter, pause)), ...(one ? [one] : []), gap, none, table);

  api.get("/applications", {}, page.signal).then(
    ({ applications }) => filter.replaceChildren(applicationSelect(applications.map((a) => a.name), state.application, true, (application) => change({ application }))),
    () => {}); // the filter alone is missing

  function change(part) {
    Object.assign(state, part);
    remember("events", state);
    clear();
    open();
  }

  function clear() {
    waiting = [];
    seen = new Set();
    rows.replaceChildren();
    gap.hidden = true;
    arrange();
  }

  function arrange() {
    const some = rows.firstChild !== null;
    table.hidden = !some;
    none.hidden = some;
  }

  function setStream(name, text) {
    link_.dataset.state = name;
    setText(link_, text);
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  function open() {
    close();
    if (page.signal.aborted || document.hidden) return;
    setStream("waiting", "connecting");
    const mine = (source = new EventSource(api.url("/events", state)));
    mine.addEventListener("open", () => {
      tries = 0;
      fresh = true; // the first event tells whether the replay reaches back to what is shown
      setStream("live", "live");
    });
    mine.addEventListener("usage", (message) => take(JSON.parse(message.data)));
    mine.addEventListener("gap", (message) => tellGap(JSON.parse(message.data).missed));
    mine.addEventListener("error", () => retry(mine));
  }

  async function retry(mine) {
    if (mine !== source) return;
    close();
    const wait = Math.min(15, 2 ** tries++);
    setStream("lost", "reconnecting");
    timer = setTimeout(open, wait * 1000);
    try {
      const { authenticated, tokenRequired } = await api.readSession(); // an EventSource does not tell a 401
      if (tokenRequired && !authenticated) api.bus.dispatchEvent(new Event("signed-out"));
    } catch {
      // Not there: the timer tries again.
    }
  }

  function tellGap(missed) {
    gap.textContent = missed ? compact(missed) + (missed === 1 ? " event is missing" : " events are missing") + ": they came faster than this page could take them." : "Events may be missing here: the connection was away.";
    gap.hidden = false;
  }

  function take(e) {
    const id = e.n + ":" + e.at;
    const known = seen.has(id);
    if (fresh && !known && seen.size > 0) tellGap(0);
    fresh = false;
    if (known) return;
    seen.add(id);
    if (seen.size > 2 * most) seen = new Set([...seen].slice(-most));
    waiting.push(e);
    if (waiting.length > most) waiting.shift();
    if (paused) setText(pause, "Resume (" + (waiting.length >= most ? most + "+" : waiting.length) + ")");
    else drawing ||= requestAnimationFrame(draw);
  }

  function draw() {
    drawing = 0;
    const add = waiting.reverse().map(row);
    waiting = [];
    rows.prepend(...add);
    while (rows.children.length > most) rows.lastChild.remove();
    arrange();
  }

  function toggle() {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    setText(pause, paused ? "Resume" : "Pause");
    if (!paused) draw();
  }

  function row(e) {
    const cell = (name, content, className = "") => h("td", { "data-label": name, class: className }, content);
    return h("tr", { "data-test": "event", "data-type": e.type, "data-n": e.n, title: e.allocationId || "" },
      cell("Time", clock(e.at)), cell("Event", badge(e.type, e.type)),
      cell("Ledger", e.alias ? [h("a", { class: "alias", href: link("ledger", { application: e.application, alias: e.alias }) }, e.alias), h("span", { class: "hint app" }, e.application)] : e.application || "–"),
      cell("Amount", e.amount === undefined || e.amount === null ? "–" : compact(e.amount), "number"),
      cell("Status", e.status || "–", "number"), cell("Request", request(e.requestId), "request"), cell("Reason", e.reason || "", "wrap reason"));
  }

  /** request is the short form of an id, which leads to the events of that request, at all its ledgers. */
  function request(id) {
    if (!id) return "";
    const short = h("code", { title: id }, id.slice(0, 8));
    return id === state.request ? short : h("a", { href: link("events", { request: id }), "aria-label": "Events of request " + id, "data-test": "request" }, short);
  }

  page.signal.addEventListener("abort", () => {
    close();
    cancelAnimationFrame(drawing);
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return open();
    close();
    setStream("waiting", "asleep");
  }, { signal: page.signal });
  open();
}
