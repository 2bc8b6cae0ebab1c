// Rates, errors and times of the last minutes, as tables and plots.
import { page } from "./api.js";
import { element, svg } from "./dom.js";
import { heading, link, moment, nested, quiet, seconds, table } from "./parts.js";

const MAX_ROWS = 20;
const MAX_PLOTS = 8;
const MAX_SERVERS = 100;
// Rates cover five minutes at most.
const LONGEST = 300_000;
// Milliseconds until statistics that are off are asked for again: browsers log each 404.
const ASKED_AGAIN = 60_000;

let offSince = -ASKED_AGAIN;

/** Returns the numbers of all objects or those with this name, or undefined if statistics are off. */
export async function numbers(name = "") {
  if (performance.now() - offSince < ASKED_AGAIN) return undefined;
  try {
    return (await page(["statistics"], { name, limit: name ? MAX_SERVERS : MAX_ROWS })).data;
  } catch (error) {
    if (error.status !== 404) throw error;
    offSince = performance.now();
    return undefined;
  }
}

/** Returns how to switch statistics on. */
export const off = () => quiet("Statistics are off. To switch them on, set ", element("code", {}, "api.statistics.maxObjects"), " to a number above 0, such as 1000.");

/** Returns since when requests are counted, if that is less than the rates cover. */
function since({ countedSince, lost }) {
  const start = countedSince ? new Date(countedSince) : undefined;
  return [
    start && Date.now() - start < LONGEST && quiet("Counting since ", moment(countedSince), ": rates over longer times are still incomplete."),
    lost > 0 && quiet(`${lost} requests are missing here: the gateway was too busy to count them.`),
  ];
}

const rate = (value) => (value === undefined ? "" : value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2));
const time = (value) => (value === undefined || value === null ? "–" : seconds(value));

function failed(row) {
  const [all, errors] = [row.requestsPerSecond?.["1m"] ?? 0, row.errorsPerSecond?.["1m"] ?? 0];
  const share = all > 0 ? Math.min(100, (errors / all) * 100) : 0;
  return element("span", { class: errors > 0 ? "bad" : "quiet" }, `${rate(errors)}/s`, errors > 0 && ` (${share.toFixed(1)} %)`);
}

const COLUMNS = [
  ["Rate, 10 s", (row) => `${rate(row.requestsPerSecond?.["10s"])}/s`], ["Rate, 1 min", (row) => `${rate(row.requestsPerSecond?.["1m"])}/s`],
  ["Rate, 5 min", (row) => `${rate(row.requestsPerSecond?.["5m"])}/s`], ["Errors, 1 min", failed],
  ["p50", (row) => time(row.p50Ms)], ["p99", (row) => time(row.p99Ms)],
];

const busy = (row) => (row.requestsPerSecond?.["5m"] ?? 0) > 0;

function rates(caption, first, rows) {
  return table(caption, [first, ...COLUMNS], rows);
}

/** Returns a plot of numbers, and of a part of each in front of it: `kind` is its class, `told` describes the plot, `span` is its length. */
export function bars(caption, told, span, numbers, parts, kind) {
  const top = Math.max(...numbers, 0);
  const [width, height, step] = [240, 56, 8];
  const bar = (kind, value, at) => {
    const tall = value > 0 ? Math.max(2, (value / top) * height) : 0;
    return value > 0 && svg("rect", { class: kind, x: at * step, y: height - tall, width: step - 2, height: tall });
  };
  return element("figure", {}, element("figcaption", {}, caption),
    svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height + 16}`, width, height: height + 16, role: "img", "aria-label": told },
      svg("title", {}, told),
      numbers.map((value, at) => bar("requests", value, at)), parts.map((value, at) => bar(kind, value, at)),
      svg("path", { class: "axis", d: `M0 ${height + 0.5}H${width}` }),
      svg("text", { x: 0, y: height + 13 }, `${span} ago`), svg("text", { x: width, y: height + 13, "text-anchor": "end" }, "now")));
}

/** Returns a plot of the requests of the last minutes. */
function plot({ name, history }) {
  const { requests = [], errors = [], stepSeconds = 10 } = history ?? {};
  const top = Math.max(...requests, 0);
  const sum = (values) => values.reduce((all, value) => all + value, 0);
  const span = `${Math.round((requests.length * stepSeconds) / 60)} minutes`;
  const told = `${name}: ${sum(requests)} requests and ${sum(errors)} errors in ${span}, at most ${top} requests in ${stepSeconds} seconds`;
  return bars([link(["entrypoints", name], name), ` at most ${top} in ${stepSeconds} seconds`], told, span, requests, errors, "failed");
}

function plots(points) {
  const shown = points.filter((row) => row.history?.requests?.some((value) => value > 0)).slice(0, MAX_PLOTS);
  if (shown.length === 0) return [];
  return [element("div", { class: "panel plots" }, shown.map(plot),
    element("p", { class: "legend quiet" }, element("span", { class: "key requests" }), " requests ", element("span", { class: "key failed" }), " errors (status 500 or more), per 10 seconds"))];
}

/** Returns the traffic of the busiest objects. */
export function traffic(found) {
  if (!found) return [heading("Traffic"), off()];
  const [points, routers, services] = [found.entryPoints, found.routers, found.services].map((rows) => (rows ?? []).filter(busy));
  return [
    heading("Traffic"), ...since(found), ...plots(points),
    ...(points.length ? [rates("Traffic by entry point", ["Entry point", (row) => link(["entrypoints", row.name], row.name)], points)]
      : [quiet("No requests have been counted in the last five minutes.")]),
    ...(routers.length ? [rates("Traffic by router", ["Router", (row) => nested(row.name).map((name) => element("div", {}, link(["http", "routers", name], name)))], routers)] : []),
    ...(services.length ? [rates("Traffic by service", ["Service", (row) => link(["http", "services", row.name], row.name)], services)] : []),
  ];
}

/** Returns the traffic of one object: `kind` is `entryPoints`, `routers` or `services`. */
export function trafficOf(found, kind, name) {
  if (!found) return [heading("Traffic"), off()];
  const own = (found[kind] ?? []).filter((row) => row.name === name);
  const servers = kind === "services" ? (found.servers ?? []).filter((row) => row.service === name).slice(0, MAX_SERVERS) : [];
  return [
    heading("Traffic"), ...since(found), ...plots(own),
    own.some(busy) ? rates(`Traffic of ${name}`, ["Name", (row) => row.name], own) : quiet("No requests have been counted in the last five minutes."),
    servers.length > 0 && rates(`Traffic of the servers of ${name}`, ["Server", (row) => element("code", {}, row.url)], servers),
  ];
}
