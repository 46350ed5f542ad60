// Policies of an application: list, create, edit, delete, and try what applies to a request.

import * as api from "./api.js";
import { h } from "./dom.js";
import { limit as limitText } from "./format.js";
import { link, remember } from "./router.js";
import { applicationSelect, badge, check, confirm, dialog, empty, field, heading, loaded, methodSelect, notice, route, select } from "./widgets.js";

const windows = ["second", "minute", "hour", "day", "month"];
const places = [["", "nowhere: all callers count as one"], ["headers", "header"], ["query", "query parameter"], ["path_params", "path parameter"], ["body", "JSON body"], ["bearer_token", "bearer token (JWT claim)"], ["cookie", "cookie"]];

export function policies(view, page) {
  let chosen = page.params.get("application") || "";
  const tools = h("div", { class: "tools" });
  const list = h("div", {});
  const tryBox = h("div", {});
  const content = h("div", { class: "split" }, list, tryBox);
  let tried = "";

  const body = loaded(page, content, async (signal) => {
    const { applications } = await api.get("/applications", {}, signal);
    const names = applications.map((a) => a.name);
    if (!names.length) {
      tools.replaceChildren();
      tryBox.replaceChildren();
      content.classList.remove("split");
      list.replaceChildren(empty("No application yet.", h("p", {}, h("a", { href: "#/applications" }, "Create an application"), " first.")));
      return;
    }
    content.classList.add("split");
    if (!names.includes(chosen)) chosen = names[0];
    const { policies: all } = await api.get(api.path("applications", chosen, "policies"), {}, signal);
    tools.replaceChildren(applicationSelect(names, chosen, false, (name) => {
      chosen = name;
      remember("policies", { application: name });
      body.again();
    }), h("button", { type: "button", class: "primary", id: "create-policy", "data-test": "create-policy", onclick: () => edit(chosen, null, body.again) }, "New policy"));
    list.replaceChildren(all.length
      ? h("ul", { class: "policies", id: "policies", "data-test": "policies" }, all.map((p) => item(chosen, p, body.again)))
      : empty("No policy yet.", h("p", {}, "Without one, requests are counted and none is limited."), h("button", { type: "button", class: "primary", onclick: () => edit(chosen, null, body.again) }, "Create one")));
    if (tried !== chosen) tryBox.replaceChildren(matcher(chosen));
    tried = chosen;
  });
  view.append(heading("Policies", tools), ...body.node);
}

const identityText = (p) => (p.identityFieldName ? (places.find(([v]) => v === p.identityFieldLocation)?.[1] || p.identityFieldLocation) + " " + p.identityFieldName : "");

function item(application, p, again) {
  const remove = () => confirm({
    name: "delete-policy", title: "Delete the policy?", action: "Delete",
    text: ["Its limits end at once: ", h("b", { class: "wrap" }, p.name || p.method + " " + p.url)],
    submit: async () => {
      await api.remove(api.path("applications", application, "policies", p.id));
      notice("Policy deleted.");
      again();
    },
  });
  const limits = p.hasRateLimit ? p.limits || [] : [];
  return h("li", { class: "card policy", "data-test": "policy", "data-id": p.id, "data-name": p.name },
    h("div", { class: "who" },
      p.scope === "identity" ? h("span", { class: "route" }, h("span", { class: "method budget" }, "BUDGET"), h("span", {}, "of each identity, over all routes")) : route(p.method, p.url),
      h("span", { class: "hint wrap" }, [p.name !== p.method + " " + p.url && p.name, identityText(p) && "by " + identityText(p), p.isResponseTrackingEnabled && "amount " + p.responseTrackingField, p.type === "FUNCTION" && "function"].filter(Boolean).join(" · "))),
    h("div", { class: "chips" }, limits.length ? limits.map((l) => badge(limitText(l), "limit")) : badge("no limit")),
    h("div", { class: "tools" },
      h("button", { type: "button", "data-test": "edit-policy", "aria-label": "Edit " + p.name, onclick: () => edit(application, p, again) }, "Edit"),
      h("button", { type: "button", class: "danger-quiet", "data-test": "delete-policy", "aria-label": "Delete " + p.name, onclick: remove }, "Delete")));
}

/** limitRows edits several limits. */
function limitRows(values) {
  const list = h("div", { class: "stack" });
  const add = (l) => {
    const amount = h("input", { type: "number", min: 0, step: "any", value: l.limit, "data-test": "limit-amount" });
    const row = h("div", { class: "limit-row", "data-test": "limit-row" },
      field("Limit", amount), field("per", select({ "data-test": "limit-window" }, windows, l.window)),
      field("Burst", h("input", { type: "number", min: 0, step: "any", value: l.burst || "", placeholder: "none", "data-test": "limit-burst" })),
      h("button", { type: "button", class: "quiet icon", "aria-label": "Remove the limit", "data-test": "limit-remove", onclick: () => row.remove() }, "×"));
    list.append(row);
    return amount;
  };
  values.forEach(add);
  const node = h("fieldset", { class: "limits-of" }, h("legend", {}, "Limits"), h("small", {}, "All of them hold. A burst is the most at once."), list,
    h("button", { type: "button", class: "quiet", "data-test": "limit-add", onclick: () => add({ limit: "", window: "minute" }).focus() }, "Add a limit"));
  const read = () => [...list.children].map((row) => {
    const [amount, burst] = row.querySelectorAll("input");
    return { limit: Number(amount.value), window: row.querySelector("select").value, burst: Number(burst.value) };
  });
  return { node, read };
}

async function edit(application, old, again) {
  const p = old || { name: "", method: "GET", url: "", type: "API", identityFieldName: "", identityFieldLocation: "", hasRateLimit: true, limits: [{ limit: "", window: "minute" }], scope: "alias", responseTrackingField: "", isResponseTrackingEnabled: false };
  const name = h("input", { value: p.name, autocomplete: "off", placeholder: "method and path", "data-test": "policy-name" });
  const scope = select({ "data-test": "policy-scope" }, [["alias", "each route and identity"], ["identity", "each identity, over all routes"]], p.scope || "alias");
  const type = select({ "data-test": "policy-type" }, [["API", "API"], ["FUNCTION", "function"]], p.type || "API");
  const method = methodSelect({ "data-test": "policy-method" }, p.method || "*");
  const url = h("input", { value: p.url, spellcheck: "false", autocomplete: "off", placeholder: "/api/users/:id", "data-test": "policy-url" });
  const place = select({ "data-test": "policy-identity-location" }, places, p.identityFieldLocation || "");
  const who = h("input", { value: p.identityFieldName, spellcheck: "false", autocomplete: "off", placeholder: "X-User", "data-test": "policy-identity-name" });
  const limited = check("Limit the rate", { checked: p.hasRateLimit, "data-test": "policy-limited" });
  const limits = limitRows(p.limits || []);
  const undecided = select({ "data-test": "policy-undecided" }, [["", "as the agent is set"], ["refuse", "are refused"], ["pass", "pass"]], p.failClosed === undefined ? "" : p.failClosed ? "refuse" : "pass");
  const undecidedField = field("Requests without a decision", undecided, "While agents can't reach this service");
  const tracked = h("input", { value: p.responseTrackingField, spellcheck: "false", autocomplete: "off", placeholder: "a request is 1", "data-test": "policy-tracking" });
  const routeFields = h("div", { class: "columns" }, field("Method", method), field("Path", url, [":id is a segment, * the rest"]));
  const whoField = field("Its name", who);
  const arrange = () => {
    routeFields.hidden = scope.value === "identity";
    whoField.hidden = place.value === "";
    limits.node.hidden = undecidedField.hidden = !limited.firstChild.checked;
  };
  const body = h("div", { class: "stack", oninput: arrange, onchange: arrange },
    h("div", { class: "columns even" }, field("A budget for", scope), field("Type", type)), routeFields,
    h("div", { class: "columns even" }, field("Identity stands in", place), whoField),
    limited, limits.node, undecidedField,
    h("div", { class: "columns even" }, field("Amount from the response", tracked, "A field of the answer: usage.total_tokens"), field("Name", name)));
  arrange();
  const done = await dialog({
    name: "policy", title: old ? "Edit the policy" : "New policy", body, wide: true,
    submit: async () => {
      const whole = scope.value === "identity", rated = limited.firstChild.checked;
      const next = {
        name: name.value.trim(), method: whole ? "*" : method.value, url: whole ? "*" : url.value.trim(), type: type.value, scope: scope.value,
        identityFieldLocation: place.value, identityFieldName: place.value ? who.value.trim() : "",
        hasRateLimit: rated, limits: rated ? limits.read() : [],
        ...(rated && undecided.value ? { failClosed: undecided.value === "refuse" } : {}),
        responseTrackingField: tracked.value.trim(), isResponseTrackingEnabled: tracked.value.trim() !== "",
      };
      const where = ["applications", application, "policies"];
      if (old) await api.put(api.path(...where, old.id), { id: old.id, ...next });
      else await api.post(api.path(...where), next);
    },
  });
  if (!done) return;
  notice("Policy saved. Limits count at once.");
  again();
}

/** matcher asks the service what applies to a request. */
function matcher(application) {
  const method = methodSelect({ "data-test": "match-method" }, "GET");
  const url = h("input", { placeholder: "/api/users/42", spellcheck: "false", autocomplete: "off", "data-test": "match-url" });
  const identity = h("input", { placeholder: "acme", spellcheck: "false", autocomplete: "off", "data-test": "match-identity" });
  const result = h("div", { id: "match-result", class: "match", role: "status", "data-test": "match-result" });
  const ask = async (event) => {
    event.preventDefault();
    try {
      const m = await api.post(api.path("applications", application, "match"), { method: method.value, url: url.value.trim(), identity: identity.value.trim() });
      result.replaceChildren(...answer(application, m));
    } catch (problem) {
      result.replaceChildren(h("p", { class: "error", "data-test": "form-error" }, problem.message));
    }
  };
  return h("form", { class: "card try", id: "match-form", "data-test": "match-form", novalidate: true, onsubmit: ask },
    h("h2", {}, "Try a request"),
    h("div", { class: "columns" }, field("Method", method), field("Path", url)),
    field("Identity", identity),
    h("button", { class: "primary", "data-test": "match-submit" }, "Try"), result);
}

function answer(application, m) {
  const verdict = m.whitelisted ? ["whitelisted", "good", "Passes, uncounted"] : m.blocked ? ["blocked", "bad", "Turned away with 403"] : !m.monitored ? ["not metered", "", "Passes, uncounted"] : m.policy || m.budgets?.length ? ["limited", "limit", "Counted and limited"] : ["metered", "good", "Counted, without a limit"];
  const line = (p) => h("li", { "data-test": "match-policy" }, h("span", { class: "wrap" }, p.name || p.method + " " + p.url), h("div", { class: "chips" }, (p.limits || []).map((l) => badge(limitText(l), "limit"))));
  const applying = m.whitelisted || m.blocked ? [] : [m.policy, ...(m.budgets || [])].filter(Boolean);
  return [
    h("p", { class: "verdict" }, badge(verdict[0], verdict[1]), " ", verdict[2]),
    m.alias && h("p", {}, h("small", {}, "Ledger"), h("a", { class: "alias", href: link("ledger", { application, alias: m.alias }) }, m.alias)),
    applying.length > 0 && h("div", {}, h("small", {}, "What limits it"), h("ul", { class: "matched" }, applying.map(line))),
    h("small", {}, (m.matches || []).length + " of the policies fit"),
  ].filter(Boolean);
}
