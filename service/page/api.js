// The service's API, and what is known of the session and of the service's clock.

const root = "/api/v1";

export const session = { authenticated: false, tokenRequired: true, csrf: "" };

/** bus tells "signed-out" when the service asks for the token, and "link" {up} with every answer or lack of one. */
export const bus = new EventTarget();

let clockOffset = 0;
/** now is the service's time in ms, as far as it is known. */
export const now = () => Date.now() + clockOffset;

export class ApiError extends Error {
  constructor(status, code, message, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export function url(path, query) {
  const pairs = Object.entries(query || {}).filter(([, v]) => v !== undefined && v !== null && v !== "");
  const text = new URLSearchParams(pairs).toString();
  return root + path + (text ? "?" + text : "");
}

/** path joins the parts of a path, each encoded. */
export const path = (...parts) => parts.map((p) => "/" + encodeURIComponent(p)).join("");

async function request(method, where, { query, body, headers, signal, quiet } = {}) {
  const all = { ...headers };
  if (body !== undefined) all["Content-Type"] = "application/json";
  if (method !== "GET") all["X-CSRF-Token"] = session.csrf || "none";
  const limit = AbortSignal.timeout(15000);
  let answer, text;
  try {
    answer = await fetch(url(where, query), {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    text = await answer.text();
  } catch (problem) {
    if (signal && signal.aborted) throw problem;
    bus.dispatchEvent(new CustomEvent("link", { detail: { up: false } }));
    throw new ApiError(0, "unreachable", "The service does not answer.");
  }
  bus.dispatchEvent(new CustomEvent("link", { detail: { up: true } }));
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    // What stands between us and the service may answer with a page of its own: its status says enough.
  }
  if (answer.ok) {
    if (value && typeof value.now === "number") clockOffset = value.now - Date.now();
    return { value, etag: answer.headers.get("ETag") };
  }
  if (answer.status === 401 && !quiet) bus.dispatchEvent(new Event("signed-out"));
  const retry = Number(answer.headers.get("Retry-After"));
  throw new ApiError(answer.status, value?.error || "status_" + answer.status, value?.message || "The service answered " + answer.status + ".", retry || 0);
}

export const get = async (where, query, signal) => (await request("GET", where, { query, signal })).value;
export const getTagged = (where, signal) => request("GET", where, { signal });
export const post = async (where, body) => (await request("POST", where, { body })).value;
export const put = async (where, body, etag) => (await request("PUT", where, { body, headers: etag ? { "If-Match": etag } : {} })).value;
export const remove = async (where, query) => (await request("DELETE", where, { query })).value;

function learn(answer) {
  Object.assign(session, { csrf: "" }, answer.value);
  return session;
}

export const readSession = async () => learn(await request("GET", "/session", { quiet: true }));
export const signIn = async (token) => learn(await request("POST", "/session", { body: { token }, quiet: true }));

export async function signOut() {
  await request("DELETE", "/session", { quiet: true });
  Object.assign(session, { authenticated: false, csrf: "" });
}
