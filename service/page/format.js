// Numbers and times as people read them.

const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 6 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const dayFormat = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" });
const minuteFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });

export const number = (n) => exact.format(n);
export const compact = (n) => (Math.abs(n) < 10000 ? exact.format(Math.round(n * 100) / 100) : short.format(n));
export const rate = (n) => (n >= 100 ? compact(Math.round(n)) : exact.format(Math.round(n * 10) / 10));
export const day = (ms) => dayFormat.format(ms);
export const minute = (ms) => minuteFormat.format(ms);
export const clock = (ms) => clockFormat.format(ms);
export const full = (ms) => fullFormat.format(ms);

const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** duration says ms in its two greatest units: 2 h 5 min. */
export function duration(ms) {
  let rest = Math.max(0, Math.ceil(ms / 1000));
  const parts = [];
  for (const [unit, size] of units) {
    const n = Math.floor(rest / size);
    rest %= size;
    if (n > 0) parts.push(n + " " + unit);
    else if (parts.length > 0) break;
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}

/** ago says how long ago at was. */
export function ago(at, now) {
  if (!at) return "never";
  const ms = now - at;
  if (ms < 5000) return "just now";
  return duration(ms).split(" ").slice(0, 2).join(" ") + " ago";
}

/** limit says a policy's limit: 5 / minute, burst 10. */
export const limit = (l) => compact(l.limit) + " / " + l.window + (l.burst > 0 ? ", burst " + compact(l.burst) : "");
