// The console: signs in, and shows the page that the address names.

import * as api from "./api.js";
import { poll } from "./dom.js";
import { current } from "./router.js";
import { applications } from "./applications.js";
import { blocked } from "./blocked.js";
import { events } from "./events.js";
import { ledger } from "./ledger.js";
import { ledgers } from "./ledgers.js";
import { overview } from "./overview.js";
import { policies } from "./policies.js";
import { signIn } from "./signin.js";
import { empty, heading } from "./widgets.js";

const pages = { overview, ledgers, ledger, policies, blocked, applications, events };
const titles = { overview: "Overview", ledgers: "Ledgers", ledger: "Ledger", policies: "Policies", blocked: "Blocked", applications: "Applications", events: "Events" };

const view = document.getElementById("view");
const nav = document.getElementById("nav");
const connection = document.getElementById("connection");
const signOut = document.getElementById("sign-out");

let left = new AbortController(); // aborted when the page is left
let heartbeat = null;

function setConnection(state, text) {
  if (connection.dataset.state === state && connection.textContent === text) return;
  connection.dataset.state = state;
  connection.textContent = text;
}

function frame(signedIn) {
  nav.hidden = !signedIn;
  signOut.hidden = !signedIn || !api.session.tokenRequired;
  document.body.classList.toggle("signed-out", !signedIn);
}

function show(focus) {
  left.abort();
  left = new AbortController();
  const { name, params } = current();
  const title = titles[name] || "Not found";
  document.title = title + " · UsageFlow";
  for (const a of nav.children) {
    const here = a.hash === "#/" + (name === "ledger" ? "ledgers" : name);
    if (here) {
      a.setAttribute("aria-current", "page");
      a.scrollIntoView({ block: "nearest", inline: "center" }); // on a narrow screen the list is wider
    }
    else a.removeAttribute("aria-current");
    if (here) nav.scrollTo({ left: a.offsetLeft - nav.clientWidth / 2 + a.offsetWidth / 2 });
  }
  view.replaceChildren();
  view.dataset.page = name;
  if (Object.hasOwn(pages, name)) pages[name](view, { signal: left.signal, params });
  else view.append(heading("Not found"), empty("There is no such page."));
  scrollTo(0, 0);
  if (focus) view.querySelector("h1")?.focus({ preventScroll: true });
}

function enter(focus) {
  frame(true);
  heartbeat?.abort();
  heartbeat = new AbortController();
  poll(heartbeat.signal, 5000, async () => {
    try {
      const { connections } = await api.get("/stats", {}, heartbeat.signal);
      setConnection("live", connections === 1 ? "1 connection" : connections + " connections");
    } catch {
      // The bus says what there is to say.
    }
  });
  show(focus);
}

function askForToken() {
  if (view.dataset.page === "sign-in") return;
  left.abort();
  heartbeat?.abort();
  for (const box of document.querySelectorAll("dialog")) box.close();
  api.session.authenticated = false;
  frame(false);
  setConnection("waiting", "signed out");
  document.title = "Sign in · UsageFlow";
  view.dataset.page = "sign-in";
  view.replaceChildren();
  signIn(view, () => enter(true));
}

api.bus.addEventListener("signed-out", askForToken);
api.bus.addEventListener("link", (event) => {
  if (!event.detail.up) setConnection("lost", "no connection");
  else if (connection.dataset.state === "lost") setConnection("live", "connected");
});

signOut.addEventListener("click", async () => {
  try {
    await api.signOut();
  } catch {
    // A session that the service does not know any more has ended as well.
  }
  askForToken();
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  view.focus();
});

window.addEventListener("hashchange", () => {
  if (view.dataset.page !== "sign-in") show(true);
});

async function start() {
  for (;;) {
    try {
      const { authenticated, tokenRequired } = await api.readSession();
      if (authenticated || !tokenRequired) enter(false);
      else askForToken();
      return;
    } catch (problem) {
      setConnection("lost", "no connection");
      if (problem.status === 403) {
        view.replaceChildren(heading("Not allowed"), empty(problem.message));
        return;
      }
      await new Promise((resume) => setTimeout(resume, 2000));
    }
  }
}

start();
