// The overview: numbers, states, traffic, entry points, providers and features.
import { all, get } from "./api.js";
import { element } from "./dom.js";
import { bars } from "./picture.js";
import { GROUPS, capital, heading, link, quiet, table, title } from "./parts.js";
import { href } from "./router.js";
import { age, recent, seconds } from "./requests.js";

const SPAN = 60;
const BARS = 30;
const MAX_ROWS = 10;

function count(number, word, sign, tone) {
  return element("span", { class: number ? tone : "quiet" }, element("span", { "aria-hidden": "true" }, number ? `${sign} ` : ""),
    `${number} ${word}${number === 1 ? "" : "s"}`);
}

function card(name, parts, { total, warnings, errors }) {
  return element("li", {}, element("a", { class: "card", href: href(parts) }, name, element("b", {}, total),
    count(errors, "error", "✕", "bad"), " · ", count(warnings, "warning", "!", "warn")));
}

function cards(data) {
  const shown = [];
  for (const [family, groups] of Object.entries(GROUPS)) {
    for (const group of groups) {
      const numbers = data[family]?.[group];
      if (numbers && (numbers.total > 0 || family === "http")) shown.push(card(title(family, group), [family, group], numbers));
    }
  }
  if (data.certificates) shown.push(card("Certificates", ["certificates"], data.certificates));
  return element("ul", { class: "cards" }, shown);
}

const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];

function traffic({ requests, span }, key, term, parts) {
  const groups = new Map();
  for (const request of requests) {
    if (request[key]) groups.set(request[key], [...groups.get(request[key]) ?? [], request]);
  }
  const rows = [...groups].map(([name, own]) => {
    const times = own.map((request) => request.durationMs).sort((a, b) => a - b);
    const counts = Array(BARS).fill(0);
    for (const request of own) counts[BARS - 1 - Math.min(BARS - 1, Math.floor(age(request) / (span / BARS)))] += 1;
    return { name, own, times, counts, failed: own.filter((request) => request.status >= 500).length };
  }).sort((a, b) => b.own.length - a.own.length).slice(0, MAX_ROWS);
  return table(`Recent requests by ${term.toLowerCase()}`, [
    [term, (row) => link([...parts, row.name], row.name)],
    ["Rate", (row) => [bars(`Requests of ${row.name} over time`, row.counts), ` ${(row.own.length / span).toFixed(2)}/s`]],
    ["Failed", (row) => element("span", { class: row.failed ? "bad" : "quiet" }, `${((row.failed / row.own.length) * 100).toFixed(1)} %`)],
    ["Median", (row) => seconds(percentile(row.times, 0.5))],
    ["99 %", (row) => seconds(percentile(row.times, 0.99))],
  ], rows);
}

async function live() {
  const found = await recent(SPAN);
  if (!found) return [];
  if (found.requests.length === 0) return [heading("Traffic"), quiet("No requests in the last minute.")];
  return [
    heading("Traffic"), quiet(`Of the requests of the last ${Math.round(found.span)} seconds that are kept.`),
    traffic(found, "entryPoint", "Entry point", ["entrypoints"]),
    traffic(found, "router", "Router", ["http", "routers"]),
    traffic(found, "service", "Service", ["http", "services"]),
  ];
}

function features(data) {
  const shown = Object.entries(data.features ?? {}).map(([name, value]) => element("li", {},
    `${capital(name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`))}: `, element("strong", {}, value === true ? "on" : value || "off")));
  return element("ul", { class: "panel plain" }, shown);
}

/** Shows the overview. */
export async function overview() {
  const [data, problems, points, traffics] = await Promise.all([get("overview"), get("problems"), all(["entrypoints"]), live()]);
  const providers = data.providers ?? [];
  return {
    title: "Overview",
    content: [
      problems.length
        ? element("p", { class: "banner bad" }, "✕ ", link(["problems"], `${problems.length} problem${problems.length === 1 ? "" : "s"}`), " in the configuration.")
        : element("p", { class: "banner good" }, "✓ No problems."),
      cards(data),
      ...traffics,
      heading("Entry points"),
      table("Entry points", [["Name", (point) => link(["entrypoints", point.name], point.name)], ["Address", (point) => element("code", {}, point.address)]], points),
      heading("Providers"),
      providers.length ? element("ul", { class: "panel plain" }, providers.map((name) => element("li", {}, link(["providers", name], name)))) : quiet("None."),
      heading("Features"), features(data),
    ],
  };
}
