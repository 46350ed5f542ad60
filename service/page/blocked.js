// Blocked: whom and what agents turn away with 403.

import * as api from "./api.js";
import { h } from "./dom.js";
import { remember } from "./router.js";
import { applicationSelect, confirm, empty, field, heading, loaded, methodSelect, notice, route, select } from "./widgets.js";

export function blocked(view, page) {
  let chosen = page.params.get("application") || "";
  const filter = h("div", { class: "tools" });
  const list = h("div", {});
  const application = h("span", {});
  const method = methodSelect({ "data-test": "block-method" }, "*");
  const url = h("input", { placeholder: "/api/legacy or *", spellcheck: "false", autocomplete: "off", "data-test": "block-url" });
  const identity = h("input", { placeholder: "everybody", spellcheck: "false", autocomplete: "off", "data-test": "block-identity" });
  const problem = h("p", { class: "error", role: "alert", "data-test": "form-error", hidden: true });
  const go = h("button", { class: "primary", "data-test": "block-submit" }, "Block");
  let target;

  const add = async (event) => {
    event.preventDefault();
    go.disabled = true;
    problem.hidden = true;
    try {
      await api.post(api.path("applications", target.value, "blocked"), { method: method.value, url: url.value.trim(), identity: identity.value.trim() });
      url.value = identity.value = "";
      notice("Blocked. Agents know it within 30 s.");
      url.focus();
      body.again();
    } catch (failure) {
      problem.textContent = failure.message;
      problem.hidden = false;
    }
    go.disabled = false;
  };
  const form = h("form", { id: "block-form", class: "card inline", novalidate: true, "data-test": "block-form", onsubmit: add },
    h("h2", { class: "sr" }, "Block"), application, field("Method", method), field("Path", url), field("Identity", identity), go, problem);
  const content = h("div", {}, form, list);

  const body = loaded(page, content, async (signal) => {
    const { applications } = await api.get("/applications", {}, signal);
    const names = applications.map((a) => a.name);
    if (!names.includes(chosen)) chosen = "";
    filter.replaceChildren(applicationSelect(names, chosen, true, (name) => {
      chosen = name;
      remember("blocked", { application: name });
      body.again();
    }));
    form.hidden = names.length === 0;
    target = select({ "data-test": "block-application" }, names, chosen || target?.value || names[0]);
    application.replaceChildren(field("Application", target));
    const rows = applications.filter((a) => !chosen || a.name === chosen).flatMap((a) => a.blockedEndpoints.map((b) => ({ ...b, application: a.name })));
    list.replaceChildren(rows.length
      ? h("div", { class: "card scroll" }, h("table", { class: "cards", id: "blocked", "data-test": "blocked" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Route"), h("th", { scope: "col" }, "Identity"), h("th", { scope: "col" }, "Application"), h("th", {}, h("span", { class: "sr" }, "Remove")))),
        h("tbody", {}, rows.map(row))))
      : empty("Nothing is blocked.", names.length === 0 && h("p", {}, h("a", { href: "#/applications" }, "Create an application"), " first.")));
  });
  view.append(heading("Blocked", filter), ...body.node);

  function row(b) {
    const remove = () => confirm({
      name: "unblock", title: "Let it through again?", action: "Remove",
      text: [route(b.method, b.url), " for ", h("b", { class: "wrap" }, b.identity || "everybody")],
      submit: async () => {
        await api.remove(api.path("applications", b.application, "blocked"), { method: b.method, url: b.url, identity: b.identity });
        notice("Removed.");
        body.again();
      },
    });
    return h("tr", { "data-test": "blocked-row" },
      h("td", { "data-label": "Route" }, route(b.method, b.url)),
      h("td", { "data-label": "Identity", class: "wrap" }, b.identity || h("span", { class: "hint" }, "everybody")),
      h("td", { "data-label": "Application", class: "wrap" }, b.application),
      h("td", { class: "number" }, h("button", { type: "button", class: "danger-quiet", "data-test": "unblock", "aria-label": "Remove " + b.method + " " + b.url, onclick: remove }, "Remove")));
  }
}
