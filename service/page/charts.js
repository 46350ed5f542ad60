// Charts as SVG: axes, gridlines, a crosshair for mouse and keyboard, a table for those who do not see them.

import { h, s, setText } from "./dom.js";
import { compact } from "./format.js";

/** sparkline draws the course of values, without axes. */
export function sparkline(className) {
  const line = s("path", { class: "line" }), area = s("path", { class: "area" });
  const node = s("svg", { class: "sparkline " + className, viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  return {
    node,
    update(all) {
      const values = all.length === 1 ? [all[0], all[0]] : all;
      const top = Math.max(...values, 1e-9);
      const points = values.map((v, i) => ((100 * i) / (values.length - 1)).toFixed(1) + " " + (26.5 - (24 * v) / top).toFixed(1));
      line.setAttribute("d", "M" + points.join("L"));
      area.setAttribute("d", "M0 28L" + points.join("L") + "L100 28Z");
    },
  };
}

/** ticks are round numbers from 0 to above top. */
function ticks(top, count) {
  const raw = Math.max(top, 1e-6) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const all = [];
  for (let i = 0; i === 0 || all[i - 1] < top; i++) all.push(i * step);
  return all;
}

const edge = { top: 12, right: 12, bottom: 26 };

/**
 * chart draws series over time, stacked. series: [{name, className}]; kind: "area" or "bars";
 * label(at) names a point on the axis, title(at) in full; steps are the distances, in ms, that labels may have;
 * more(point) adds lines to what the crosshair tells.
 * update takes points [{at, values: [one for each series]}], evenly spaced.
 */
export function chart({ name, series, kind, steps, label, title, more = () => [] }) {
  const svg = s("svg", { class: "chart-svg", tabindex: 0, role: "group", "aria-roledescription": "chart", "aria-label": name + ". Left and right arrow keys read the values.", "data-test": "chart" });
  const tip = h("div", { class: "tip", hidden: true });
  const read = h("div", { class: "sr", role: "status" });
  const table = h("table", {});
  const details = h("details", { class: "table-of", ontoggle: () => details.open && fillTable() }, h("summary", {}, "As a table"), h("div", { class: "scroll" }, table));
  const plot = h("div", { class: "plot" }, svg, tip, read);
  const node = h("figure", { class: "chart", "data-test": "chart-figure" }, plot, details);
  let points = [], at = -1, place = { x: () => 0, slot: 1, left: 0, height: 0 };

  function draw() {
    const width = plot.clientWidth, height = plot.clientHeight;
    if (!width || !height) return;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const sums = points.map((p) => p.values.reduce((a, b) => a + b, 0));
    const marks = ticks(Math.max(...sums, 0) || 4, height > 240 ? 4 : 3), top = marks[marks.length - 1];
    const left = 14 + 7 * Math.max(...marks.map((m) => compact(m).length));
    const inner = width - left - edge.right, floor = height - edge.bottom;
    const n = Math.max(points.length, 1), slot = kind === "bars" ? inner / n : inner / Math.max(n - 1, 1);
    const x = (i) => left + (kind === "bars" ? (i + 0.5) * slot : i * slot);
    const y = (v) => floor - ((floor - edge.top) * v) / top;
    place = { x, slot, left, height: floor };

    const parts = marks.map((m) => [
      s("line", { class: "grid", x1: left, x2: width - edge.right, y1: y(m), y2: y(m) }),
      s("text", { class: "axis", x: left - 8, y: y(m) + 4, "text-anchor": "end" }, compact(m))]);
    const under = points.map(() => 0);
    series.forEach((one, k) => {
      const low = [...under];
      points.forEach((p, i) => (under[i] += p.values[k]));
      if (kind === "bars") {
        const w = Math.max(1, slot - (slot > 8 ? 3 : 1));
        parts.push(s("g", { class: one.className }, points.map((p, i) => p.values[k] > 0 &&
          s("rect", { class: "bar", x: x(i) - w / 2, width: w, y: Math.min(y(under[i]), floor - 1), height: Math.max(1, y(low[i]) - y(under[i])), rx: Math.min(2, w / 3) }))));
        return;
      }
      if (points.length < 2) return;
      const upper = points.map((_, i) => x(i).toFixed(1) + " " + y(under[i]).toFixed(1));
      const lower = points.map((_, i) => x(i).toFixed(1) + " " + y(low[i]).toFixed(1)).reverse();
      // Where a series has nothing, its line would only hide the one below.
      const some = (i) => k === 0 || [i - 1, i, i + 1].some((j) => points[j]?.values[k] > 0);
      const line = upper.map((place, i) => some(i) && (i > 0 && some(i - 1) ? "L" : "M") + place).filter(Boolean).join("");
      parts.push(s("g", { class: one.className }, s("path", { class: "area", d: "M" + upper.join("L") + "L" + lower.join("L") + "Z" }), s("path", { class: "line", d: line })));
    });
    // Labels at round times, as many as there is room for.
    const apart = n > 1 ? points[1].at - points[0].at : 1;
    const every = steps.find((ms) => (ms / apart) * slot >= 58) || steps[steps.length - 1];
    points.forEach((p, i) => {
      if (p.at % every !== 0) return;
      const text = label(p.at), half = 4 * text.length;
      if (x(i) - half < 0 || x(i) + half > width) return;
      parts.push(s("text", { class: "axis", x: x(i), y: height - 7, "text-anchor": "middle" }, text));
    });
    const cross = s("line", { class: "cross", y1: edge.top, y2: floor, visibility: "hidden" });
    svg.replaceChildren(...parts.flat(), cross);
    place.cross = cross;
    if (at >= 0) point(Math.min(at, points.length - 1), false);
  }

  function point(i, aloud) {
    at = i;
    const p = points[i];
    if (!p || !place.cross) return leave();
    const px = place.x(i);
    place.cross.setAttribute("x1", px);
    place.cross.setAttribute("x2", px);
    place.cross.setAttribute("visibility", "visible");
    const lines = [...series.map((one, k) => [one.name, compact(p.values[k]), one.className]), ...more(p)];
    tip.replaceChildren(h("b", {}, title(p.at)), ...lines.map(([text, value, className]) => h("span", { class: className || "" }, text, h("b", {}, value))));
    tip.hidden = false;
    const room = plot.clientWidth - tip.offsetWidth - 4;
    tip.style.left = Math.max(4, Math.min(room, px + 12 + tip.offsetWidth > plot.clientWidth ? px - tip.offsetWidth - 12 : px + 12)) + "px";
    if (aloud) setText(read, title(p.at) + ": " + lines.map(([text, value]) => text + " " + value).join(", "));
  }

  function leave() {
    at = -1;
    tip.hidden = true;
    if (place.cross) place.cross.setAttribute("visibility", "hidden");
  }

  function fillTable() {
    table.replaceChildren(h("caption", { class: "sr" }, name),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), series.map((one) => h("th", { scope: "col", class: "number" }, one.name)))),
      h("tbody", {}, [...points].reverse().map((p) => h("tr", {}, h("th", { scope: "row" }, title(p.at)), p.values.map((v) => h("td", { class: "number" }, compact(v)))))));
  }

  svg.addEventListener("pointermove", (event) => {
    if (!points.length) return;
    const px = event.clientX - svg.getBoundingClientRect().left - place.left;
    const i = kind === "bars" ? Math.floor(px / place.slot) : Math.round(px / place.slot);
    point(Math.max(0, Math.min(points.length - 1, i)), false);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const last = points.length - 1, from = at < 0 ? last + 1 : at;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, PageUp: from - 10, PageDown: from + 10, Home: 0, End: last }[event.key];
    if (event.key === "Escape") leave();
    if (to === undefined || last < 0) return;
    event.preventDefault();
    point(Math.max(0, Math.min(last, to)), true);
  });
  new ResizeObserver(draw).observe(plot);

  return {
    node,
    update(next) {
      points = next;
      draw();
    },
  };
}

/** key names the colours of a chart. */
export const key = (series) => h("ul", { class: "legend" }, series.map((one) => h("li", { class: one.className }, one.name)));
