// Applications and their keys.

import * as api from "./api.js";
import { h } from "./dom.js";
import { ago, compact, full } from "./format.js";
import { link } from "./router.js";
import { badge, check, confirm, dialog, empty, field, heading, loaded, methodSelect, notice, select, showKey } from "./widgets.js";

const windows = ["second", "minute", "hour", "day", "month"];

export function applications(view, page) {
  const list = h("div", { class: "applications", id: "applications", "data-test": "applications" });
  const body = loaded(page, list, async (signal) => {
    const { applications: all } = await api.get("/applications", {}, signal);
    list.replaceChildren(...(all.length ? all.map((a) => card(a, body.again)) : [
      empty("No application yet.", h("p", {}, "An application has keys, which its agents connect with."), h("button", { type: "button", class: "primary", onclick: () => create(body.again) }, "Create one"))]));
  });
  view.append(heading("Applications", h("button", { type: "button", class: "primary", id: "create-application", "data-test": "create-application", onclick: () => create(body.again) }, "New application")), ...body.node);
}

async function create(again) {
  const name = h("input", { autocomplete: "off", spellcheck: "false", maxlength: 200, "data-test": "application-name" });
  let made;
  const done = await dialog({
    name: "application", title: "New application", action: "Create",
    body: field("Name", name, "It names the ledgers, and stays."),
    ready: () => name.value.trim() !== "",
    submit: async () => (made = await api.post("/applications", { name: name.value.trim() })),
  });
  if (!done) return;
  again();
  await showKey(made.application.name, made.key);
  notice("Application created.");
}

function card(a, again) {
  const where = ["applications", a.name];
  const two = a.keys.length > 1;
  const oldest = two && [...a.keys].sort((x, y) => x.createdAt - y.createdAt)[0];
  const facts = [
    [a.policies.length, a.policies.length === 1 ? "policy" : "policies", link("policies", { application: a.name })],
    [a.blockedEndpoints.length, "blocked", link("blocked", { application: a.name })],
    [a.whitelistEndpoints.length, "whitelisted"],
  ];
  const remove = () => confirm({
    name: "delete-application", title: "Delete the application?", action: "Delete", typed: a.name,
    text: "Its keys stop at once. Its ledgers stay.",
    submit: async () => {
      await api.remove(api.path(...where));
      notice("Application deleted.");
      again();
    },
  });
  return h("section", { class: "card application", "data-test": "application", "data-name": a.name, "aria-label": a.name },
    h("div", { class: "heading" },
      h("h2", { class: "wrap" }, a.name, " ", badge(a.source), a.accountReachLimit && badge("not metering", "warn"), a.discoveryDisabled && badge("discovery off")),
      h("div", { class: "tools" },
        h("button", { type: "button", "data-test": "edit-application", onclick: () => edit(a.name, again) }, "Settings"),
        h("button", { type: "button", class: "danger-quiet", "data-test": "delete-application", onclick: remove }, "Delete"))),
    h("p", { class: "facts-line" },
      facts.map(([n, name, href]) => h(href ? "a" : "span", { href }, h("b", {}, n), " " + name)),
      h("span", {}, "plan ", h("b", {}, a.planCap ? compact(a.planCap.limit) + " / " + a.planCap.window : "without cap")),
      h("span", { class: "hint" }, "changed " + full(a.updatedAt))),
    h("ul", { class: "keys", "aria-label": "Keys" }, a.keys.map((k) => keyItem(a, k, k === oldest, again))),
    a.keys.length === 0 && h("p", { class: "hint" }, "No key: no agent can connect."),
    h("div", { class: "row" },
      h("button", { type: "button", "data-test": "rotate-key", disabled: two, onclick: () => rotate(a, again) }, a.keys.length ? "Rotate key" : "New key"),
      two && h("span", { class: "hint" }, "Two keys are live, the most there may be. Revoke the old one once every agent has the new one.")));
}

function keyItem(a, k, old, again) {
  const revoke = () => confirm({
    name: "revoke-key", title: "Revoke " + k.prefix + "…?", action: "Revoke",
    text: a.keys.length > 1 ? "Its connections are closed at once. The other key goes on." : "It is the only key: no agent can connect until there is a new one.",
    submit: async () => {
      await api.remove(api.path("applications", a.name, "keys", k.id));
      notice("Key revoked.");
      again();
    },
  });
  return h("li", { "data-test": "key", "data-prefix": k.prefix },
    h("code", {}, k.prefix + "…"), h("span", { class: "label" }, k.label || "", " ", badge(k.source), old && badge("old", "warn")),
    h("span", { class: "hint dates" }, h("span", {}, k.lastUsedAt ? "used " + ago(k.lastUsedAt, api.now()) : "never used"), h("span", {}, "made " + full(k.createdAt))),
    h("button", { type: "button", class: "danger-quiet", "data-test": "revoke-key", "aria-label": "Revoke " + k.prefix, onclick: revoke }, "Revoke"));
}

async function rotate(a, again) {
  const label = h("input", { autocomplete: "off", maxlength: 100, "data-test": "key-label" });
  let made;
  const done = await dialog({
    name: "key", title: (a.keys.length ? "Rotate the key of " : "New key for ") + a.name, action: "Create the new key",
    body: [a.keys.length > 0 && h("ol", { class: "plain" }, h("li", {}, "Create a second key: both work."), h("li", {}, "Give it to every agent."), h("li", {}, "Revoke the old one.")), field("Label", label, "Where the key is used. Optional.")],
    submit: async () => (made = await api.post(api.path("applications", a.name, "keys"), { label: label.value.trim() })),
  });
  if (!done) return;
  again();
  await showKey(a.name, made.key);
}

/** endpoints edits a list of methods and paths. */
function endpoints(name, title, hint, values) {
  const list = h("div", { class: "stack" });
  const add = (e) => {
    const method = methodSelect({ "aria-label": "Method", "data-field": "method" }, e.method || "*");
    const url = h("input", { value: e.url, "aria-label": "Path", placeholder: "/path/:id or *", spellcheck: "false", "data-field": "url" });
    const row = h("div", { class: "row endpoint" }, method, url, h("button", { type: "button", class: "quiet icon", "aria-label": "Remove", onclick: () => row.remove() }, "×"));
    list.append(row);
    return url;
  };
  values.forEach(add);
  const node = h("fieldset", { "data-test": name }, h("legend", {}, title), h("small", {}, hint), list,
    h("button", { type: "button", class: "quiet", "data-test": name + "-add", onclick: () => add({ method: "*", url: "" }).focus() }, "Add"));
  const read = () => [...list.children].map((row) => ({ method: row.querySelector("select").value, url: row.querySelector("input").value.trim() })).filter((e) => e.url);
  return { node, read };
}

async function edit(name, again) {
  const where = api.path("applications", name);
  let a, etag;
  try {
    ({ value: a, etag } = await api.getTagged(where));
  } catch (problem) {
    if (problem.status !== 401) notice(problem.message);
    return;
  }
  const monitored = endpoints("monitoring", "Metered", "Without an entry, everything is.", a.monitoringPaths);
  const whitelist = endpoints("whitelist", "Whitelisted", "Never metered, limited or blocked.", a.whitelistEndpoints);
  const cap = h("input", { type: "number", min: 0, step: "any", value: a.planCap ? a.planCap.limit : "", placeholder: "none", "aria-label": "Plan cap", "data-test": "plan-limit" });
  const capWindow = select({ "aria-label": "Window of the plan cap", "data-test": "plan-window" }, windows, a.planCap ? a.planCap.window : "month");
  const reached = check("Stop metering: requests pass uncounted", { checked: a.accountReachLimit, "data-test": "account-reach-limit" });
  const discovery = check("Discovery off: agents do not report their routes", { checked: a.discoveryDisabled, "data-test": "discovery-disabled" });
  const done = await dialog({
    name: "settings", title: "Settings of " + name, wide: true,
    body: [monitored.node, whitelist.node,
      h("fieldset", {}, h("legend", {}, "Plan cap"), h("small", {}, "What the whole application may use."), h("div", { class: "row" }, cap, capWindow)),
      h("div", { class: "stack" }, reached, discovery)],
    submit: async () => {
      try {
        await api.put(where, {
          policies: a.policies, blockedEndpoints: a.blockedEndpoints, monitoringPaths: monitored.read(), whitelistEndpoints: whitelist.read(),
          planCap: cap.value === "" ? null : { limit: Number(cap.value), window: capWindow.value },
          accountReachLimit: reached.firstChild.checked, discoveryDisabled: discovery.firstChild.checked,
        }, etag);
      } catch (problem) {
        if (problem.status === 412) throw new Error("Somebody else has changed it meanwhile. Cancel, and open it again.");
        throw problem;
      }
    },
  });
  if (!done) return;
  notice("Settings saved.");
  again();
}
