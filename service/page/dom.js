// Building the page. Whatever comes from the service becomes a text node or an attribute, never markup.

const svgNamespace = document.querySelector("svg").namespaceURI;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (name === "checked") node.checked = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** h makes an HTML element: h("a", {href: "#/x", onclick: f}, "text", child). */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** s makes an SVG element. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(svgNamespace, tag), attributes, children);

/** setText writes only what changed: a screen reader, a selection and the layout are left in peace. */
export function setText(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

/** sync makes list's children those of items, keeping the nodes (and the focus) of those that stay. */
export function sync(list, items, keyOf, make, update) {
  const old = new Map([...list.children].map((node) => [node.dataset.key, node]));
  let at = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = old.get(key);
    old.delete(key);
    if (!node) {
      node = make(item);
      node.dataset.key = key;
    }
    update(node, item);
    if (node === at) at = at.nextElementSibling;
    else list.insertBefore(node, at);
  }
  for (const node of old.values()) node.remove();
}

/** poll runs work now and then every ms after its end, until signal is aborted; not while the tab is hidden. */
export function poll(signal, ms, work) {
  let timer, busy = false;
  const run = async () => {
    clearTimeout(timer);
    if (busy || signal.aborted || document.hidden) return;
    busy = true;
    try {
      await work();
    } finally {
      busy = false;
      if (!signal.aborted) timer = setTimeout(run, ms);
    }
  };
  document.addEventListener("visibilitychange", run, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  run();
  return run;
}

/** soon runs work once typing has stopped. */
export function soon(work, ms = 250) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(work, ms, ...args);
  };
}
