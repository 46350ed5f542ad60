// What several pages show: states, bars, fields, dialogs.

import { h, poll, setText } from "./dom.js";
import { compact, number } from "./format.js";

/** notice says briefly, on the page and to screen readers, that something was done. */
export function notice(text) {
  const box = document.getElementById("notice");
  box.textContent = text;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => (box.textContent = ""), 4000);
}

/** heading is a page's title, with what belongs beside it. */
export const heading = (title, ...beside) => h("div", { class: "heading" }, h("h1", { tabindex: -1 }, title), ...beside);

/** empty is what stands where there is nothing yet. */
export const empty = (title, ...more) => h("div", { class: "empty", "data-test": "empty" }, h("p", { class: "empty-title" }, title), ...more);

/** skeleton stands in for content that is on its way. */
const skeleton = () => h("div", { class: "skeleton", role: "status" }, h("span", { class: "sr" }, "Loading"), h("i"), h("i"), h("i"));

// What was last focused on the page, by its data-test: redrawing may take the focus away.
let lastFocus = "";
document.addEventListener("focusin", ({ target }) => {
  if (target.closest("main")) lastFocus = target.dataset.test || "";
});

/** keepFocus gives a focus that was lost by redrawing to the same control, or else to the page's title. */
function keepFocus() {
  if (document.activeElement !== document.body) return;
  const same = lastFocus ? document.querySelectorAll(`main [data-test="${CSS.escape(lastFocus)}"]`) : [];
  (same.length === 1 ? same[0] : document.querySelector("main h1"))?.focus({ preventScroll: true });
}

/**
 * loaded fills a box: a skeleton until work has succeeded for the first time, an error where it fails.
 * With ms, work is done again and again; the content stays, marked, while the service is away.
 */
export function loaded(page, content, work, ms = 0) {
  const status = h("div", { class: "status" }, skeleton());
  content.hidden = true;
  let ready = false, again;
  const attempt = async () => {
    try {
      await work(page.signal);
      if (!ready || content.classList.contains("stale")) status.replaceChildren();
      if (ready && !ms) keepFocus();
      ready = true;
      content.hidden = false;
      content.classList.remove("stale");
    } catch (problem) {
      if (page.signal.aborted || problem.status === 401) return;
      content.classList.add("stale");
      if (ready && ms) {
        if (!status.firstChild) status.append(h("p", { class: "error", role: "alert" }, problem.message + " What is shown may be old."));
        return;
      }
      status.replaceChildren(h("div", { class: "empty", role: "alert" }, h("p", { class: "error", "data-test": "load-error" }, problem.message),
        h("button", { type: "button", onclick: () => again() }, "Try again")));
    }
  };
  again = ms ? poll(page.signal, ms, attempt) : attempt;
  if (!ms) attempt();
  return { node: [status, content], again: () => again() };
}

/** meter is a bar of what is used and held of a limit. */
export function meter(className = "") {
  const used = h("i", { class: "used" }), held = h("i", { class: "held" });
  const node = h("div", { class: "meter " + className, role: "img" }, used, held);
  return {
    node,
    update(l) {
      const sum = l.used + l.held, limited = l.limit !== null && l.limit !== undefined;
      const whole = limited ? Math.max(l.limit, sum) : 0;
      used.style.width = (whole ? (100 * l.used) / whole : 0) + "%";
      held.style.width = (whole ? (100 * l.held) / whole : 0) + "%";
      node.dataset.level = level(l);
      const text = "used " + number(l.used) + ", held " + number(l.held) + (limited ? " of " + number(l.limit) : ", no limit");
      if (node.getAttribute("aria-label") !== text) node.setAttribute("aria-label", text);
    },
  };
}

/** level says how near its limit a ledger is. */
export function level(l) {
  if (l.limit === null || l.limit === undefined) return "none";
  const share = l.limit > 0 ? (l.used + l.held) / l.limit : 1;
  return share >= 1 ? "full" : share >= 0.8 ? "near" : "fine";
}

/** percent is the share of its limit that a ledger has used and holds. */
export const percent = (l) => (l.limit > 0 ? Math.round((100 * (l.used + l.held)) / l.limit) : 100) + "%";

/** amounts says 3 + 1 held of 5. */
export const amounts = (l) => compact(l.used) + (l.held > 0 ? " + " + compact(l.held) + " held" : "") +
  (l.limit === null || l.limit === undefined ? "" : " of " + compact(l.limit));

export const legend = (...names) => h("ul", { class: "legend" }, names.map((n) => h("li", { class: n }, n)));

export const badge = (text, kind = "") => h("span", { class: "badge " + kind }, text);

/** route shows a method and a path. */
export const route = (method, path) => h("span", { class: "route" }, h("span", { class: "method" }, method === "*" ? "ANY" : method), h("code", {}, path));

export const methods = ["*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

export const select = (attributes, options, value) => {
  const node = h("select", attributes, options.map((o) => (Array.isArray(o) ? h("option", { value: o[0] }, o[1]) : h("option", { value: o }, o))));
  if (value !== undefined) {
    if (![...node.options].some((o) => o.value === value)) node.append(h("option", { value }, value));
    node.value = value;
  }
  return node;
};

export const methodSelect = (attributes, value = "GET") => select(attributes, methods.map((m) => [m, m === "*" ? "any" : m]), value);

let fields = 0;
/** field puts a label, and a hint, to a control. */
export function field(label, control, hint) {
  control.id ||= "field-" + ++fields;
  const about = hint && h("small", { id: control.id + "-hint" }, hint);
  if (about) control.setAttribute("aria-describedby", about.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, about);
}

/** check is a box to tick, with its label behind it. */
export const check = (label, attributes) => h("label", { class: "check" }, h("input", { type: "checkbox", ...attributes }), h("span", {}, label));

/**
 * dialog shows a form. submit does the work: what it throws is said in the form, which stays open.
 * The promise tells whether it was done.
 */
export function dialog({ name, title, body, action = "Save", danger = false, wide = false, ready = () => true, submit }) {
  return new Promise((done) => {
    let result = false;
    const problem = h("p", { class: "error", role: "alert", "data-test": "form-error", hidden: true });
    const go = h("button", { type: "submit", class: danger ? "danger" : "primary", "data-test": name + "-submit" }, action);
    const titleId = "dialog-title-" + ++fields;
    const form = h("form", { novalidate: true, "data-test": name + "-form" },
      h("h2", { id: titleId }, title), h("div", { class: "dialog-body" }, body), problem,
      h("div", { class: "actions" }, h("button", { type: "button", class: "quiet", "data-test": name + "-cancel", onclick: () => box.close() }, "Cancel"), go));
    const box = h("dialog", { "aria-labelledby": titleId, class: wide ? "wide" : "", "data-test": name + "-dialog" }, form);
    const allow = () => (go.disabled = !ready());
    form.addEventListener("input", allow);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (go.disabled) return;
      go.disabled = true;
      go.setAttribute("aria-busy", "true");
      problem.hidden = true;
      try {
        await submit();
        result = true;
        box.close();
      } catch (failure) {
        problem.textContent = failure.message;
        problem.hidden = false;
        problem.scrollIntoView({ block: "nearest" });
      }
      go.removeAttribute("aria-busy");
      allow();
    });
    show(box, () => done(result));
    allow();
  });
}

/** show opens a dialog; it is closed, too, when its page is left. */
function show(box, closed) {
  const leave = () => box.close();
  window.addEventListener("hashchange", leave);
  box.addEventListener("close", () => {
    window.removeEventListener("hashchange", leave);
    box.remove();
    closed();
  });
  document.body.append(box);
  box.showModal();
}

/** confirm asks before work that cannot be taken back. With typed, the name must be typed. */
export function confirm({ name, title, text, action, typed, submit }) {
  const input = typed && h("input", { autocomplete: "off", spellcheck: "false", "data-test": name + "-typed" });
  return dialog({
    name, title, action, danger: true, submit,
    body: [h("p", {}, text), typed && field(["Type ", h("code", {}, typed), " to confirm"], input)],
    ready: () => !typed || input.value === typed,
  });
}

/** showKey shows a new key, this once. */
export function showKey(application, key) {
  return new Promise((done) => {
    const value = h("input", { id: "new-key", class: "key", readonly: true, value: key, spellcheck: "false", "aria-label": "Key", "data-test": "new-key" });
    const said = h("span", { class: "hint", role: "status" });
    const copy = async () => {
      value.select();
      try {
        await navigator.clipboard.writeText(key);
      } catch {
        if (!document.execCommand("copy")) return setText(said, "Copy it by hand: it is selected.");
      }
      setText(said, "Copied.");
    };
    const box = h("dialog", { "aria-labelledby": "key-title", class: "wide", "data-test": "key-dialog" },
      h("h2", { id: "key-title" }, "New key of " + application),
      h("div", { class: "dialog-body" }, h("p", {}, "Copy it now: it is shown this once, and kept as a hash only."),
        h("div", { class: "row" }, value, h("button", { type: "button", class: "primary", "data-test": "copy-key", onclick: copy }, "Copy")), said),
      h("div", { class: "actions" }, h("button", { type: "button", "data-test": "key-done", onclick: () => box.close() }, "Done")));
    box.addEventListener("cancel", (event) => event.preventDefault()); // Escape alone shall not lose the key
    show(box, done);
    value.select();
  });
}

/** applicationSelect chooses an application; all: "" stands for every one. */
export const applicationSelect = (names, value, all, onchange) => {
  const node = select({ id: "application", "aria-label": "Application", "data-test": "application-filter", onchange: () => onchange(node.value) },
    [...(all ? [["", "All applications"]] : []), ...names], value || undefined);
  return node;
};
