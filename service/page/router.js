// Pages by the hash of the address: #/ledger?application=acme&alias=GET+%2F

/** link is the address of a page. */
export function link(name, params) {
  const text = new URLSearchParams(Object.entries(params || {}).filter(([, v]) => v)).toString();
  return "#/" + name + (text ? "?" + text : "");
}

export function current() {
  const [name, query] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { name: name || "overview", params: new URLSearchParams(query || "") };
}

/** remember keeps a page's choices in its address, without leaving the page. */
export function remember(name, params) {
  history.replaceState(null, "", link(name, params));
}
