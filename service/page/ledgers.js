// Ledgers: search, sort, filter and page through all of them.

import { get, now } from "./api.js";
import { h, poll, setText, soon, sync } from "./dom.js";
import { ago, duration } from "./format.js";
import { link, remember } from "./router.js";
import { amounts, applicationSelect, empty, heading, legend, level, loaded, meter, percent, select } from "./widgets.js";

const size = 50;
const sorts = [["recent", "Last used"], ["share", "Nearest the limit"], ["used", "Most used"], ["held", "Most held"], ["alias", "Name"]];

export function ledgers(view, page) {
  const state = {
    q: page.params.get("q") || "",
    sort: page.params.get("sort") || "recent",
    application: page.params.get("application") || "",
    offset: Number(page.params.get("offset")) || 0,
  };
  const list = h("ul", { id: "ledgers", class: "ledgers", "aria-label": "Ledgers", "data-test": "ledgers" });
  const none = h("div", { id: "no-ledgers" });
  const where = h("span", { class: "hint", role: "status", "data-test": "page-position" });
  const back = h("button", { type: "button", "data-test": "previous-page", onclick: () => turn(-size) }, "Previous");
  const on = h("button", { type: "button", "data-test": "next-page", onclick: () => turn(size) }, "Next");
  const pager = h("div", { class: "pager" }, where, back, on);
  const content = h("div", {}, list, none, pager);
  let shown = [];

  const change = (part) => {
    Object.assign(state, { offset: 0 }, part);
    remember("ledgers", { ...state, sort: state.sort === "recent" ? "" : state.sort });
    body.again();
  };
  const turn = (by) => {
    change({ offset: Math.max(0, state.offset + by) });
    scrollTo(0, 0);
  };

  const filter = h("span", {}, applicationSelect([], "", true, () => {}));
  const search = h("input", { id: "search", type: "search", placeholder: "Search", "aria-label": "Search ledgers", maxlength: 200, autocomplete: "off", value: state.q, "data-test": "search", oninput: soon(() => change({ q: search.value.trim() })) });
  const sort = select({ id: "sort", "aria-label": "Sort", "data-test": "sort", onchange: () => change({ sort: sort.value }) }, sorts, state.sort);
  view.append(heading("Ledgers", h("div", { class: "tools", role: "search" }, search, filter, sort)), legend("used", "held"));

  get("/applications", {}, page.signal).then(
    ({ applications }) => filter.replaceChildren(applicationSelect(applications.map((a) => a.name), state.application, true, (application) => change({ application }))),
    () => {}); // the filter alone is missing

  function item() {
    const bar = meter();
    const parts = { bar, name: h("a", { class: "alias" }), app: h("span", { class: "hint app" }), share: h("b", { class: "share" }), facts: h("span", { class: "amounts" }), reset: h("span", { class: "hint reset" }) };
    const node = h("li", { "data-test": "ledger" }, h("div", { class: "who" }, parts.name, parts.app), h("div", { class: "bars" }, bar.node), h("div", { class: "facts" }, parts.share, parts.facts), parts.reset);
    return Object.assign(node, { parts });
  }

  function update(node, l) {
    const { bar, name, app, share, facts } = node.parts, limited = level(l) !== "none";
    setText(name, l.alias);
    name.href = link("ledger", { application: l.application, alias: l.alias });
    node.dataset.alias = l.alias;
    node.dataset.level = level(l);
    setText(app, l.application + (l.policy && !l.alias.startsWith(l.policy) ? " · " + l.policy : ""));
    bar.update(l);
    setText(share, limited ? percent(l) : "");
    setText(facts, amounts(l) + (limited ? " / " + l.window : " used"));
    setText(node.parts.reset, when(l));
  }

  const when = (l) => (l.resetAt ? "resets in " + duration(l.resetAt - now()) : ago(l.lastUsed, now()));

  const body = loaded(page, content, async (signal) => {
    const asked = JSON.stringify(state);
    const found = await get("/ledgers", { ...state, limit: size }, signal);
    if (asked !== JSON.stringify(state)) return void setTimeout(() => body.again()); // the wish has changed meanwhile
    shown = found.ledgers;
    sync(list, shown, (l) => l.application + "\n" + l.alias, item, update);
    none.replaceChildren(...(shown.length ? [] : [state.q || state.application
      ? empty("No ledger fits.", h("button", { type: "button", onclick: reset }, "Show all"))
      : empty("No ledger yet.", h("p", {}, "The first metered request makes one."))]));
    const total = found.total ?? state.offset + shown.length;
    setText(where, shown.length ? state.offset + 1 + "–" + (state.offset + shown.length) + " of " + total : "");
    pager.hidden = total <= size && state.offset === 0;
    back.disabled = state.offset === 0;
    on.disabled = state.offset + shown.length >= total;
  }, 2000);
  view.append(...body.node);

  function reset() {
    search.value = "";
    filter.firstChild.value = "";
    change({ q: "", application: "" });
    search.focus();
  }

  poll(page.signal, 1000, () => shown.forEach((l, i) => list.children[i] && setText(list.children[i].parts.reset, when(l))));
}
