// The page that asks for the admin token.

import * as api from "./api.js";
import { h } from "./dom.js";
import { field } from "./widgets.js";

export function signIn(view, done) {
  const token = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, "data-test": "token" });
  const problem = h("p", { id: "sign-in-error", class: "error", role: "alert", "data-test": "sign-in-error", hidden: true });
  const go = h("button", { id: "sign-in-submit", class: "primary", "data-test": "sign-in-submit" }, "Sign in");

  const say = (text) => {
    problem.textContent = text;
    problem.hidden = false;
    token.setAttribute("aria-invalid", "true");
    token.select();
  };

  const submit = async (event) => {
    event.preventDefault();
    const text = token.value.trim();
    if (!text || go.disabled) return token.focus();
    go.disabled = true;
    try {
      await api.signIn(text);
      token.value = "";
      return done();
    } catch (failure) {
      if (failure.status === 401) say("That is not the token of this service.");
      else if (failure.status === 429) say("Too many attempts. Try again " + (failure.retryAfter ? "in " + failure.retryAfter + " seconds." : "in a minute."));
      else say(failure.message);
    } finally {
      go.disabled = false;
    }
  };

  view.append(h("form", { id: "sign-in", class: "card sign-in", onsubmit: submit, novalidate: true },
    h("h1", {}, "Sign in"),
    h("input", { type: "text", autocomplete: "username", value: "admin", hidden: true }), // for password managers
    field("Admin token", token, ["The value of ", h("code", {}, "USAGEFLOW_ADMIN_TOKEN")]),
    problem, go));
  token.focus();
}
