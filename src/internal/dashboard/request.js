// What happened to one request.
import { get } from "./api.js";
import { element } from "./dom.js";
import { options } from "./options.js";
import { heading, link, moment, nested, pairs, quiet, seconds, table } from "./parts.js";
import { picture } from "./picture.js";
import { off, outcome } from "./requests.js";
import { href } from "./router.js";

const OWN = ["id", "time", "entryPoint", "method", "host", "path", "client", "status", "origin", "reason", "description", "router", "service", "server",
  "middlewares", "reachedService", "attempts", "headers", "durationMs", "timings"];

const TIMES = [
  ["connectionAgeMs", "Age of the connection when the head was complete"], ["routedMs", "Router found"], ["sentToServerMs", "Sent to the server"],
  ["responseStartedMs", "Response began"], ["endedMs", "Ended"],
];

function path(request) {
  const reached = (yes) => (yes ? "reached" : "not reached");
  const routers = nested(request.router);
  return picture("The path of this request", [
    { title: "Entry point", nodes: [{ kind: "entry point", text: request.entryPoint, href: href(["entrypoints", request.entryPoint]) }] },
    ...(routers.length ? routers.map((name) => ({ title: "Router", nodes: [{ kind: "router", text: name, href: href(["http", "routers", name]) }] }))
      : [{ title: "Router", nodes: [{ kind: "router", text: "none matches" }] }]),
    ...(request.middlewares ?? []).map((one, at) => ({ title: `Middleware ${at + 1}`, nodes: [{ kind: "middleware", text: one.name, note: reached(one.reached), href: href(["http", "middlewares", one.name]) }] })),
    { title: "Service", nodes: request.service ? [{ kind: "service", text: request.service, note: reached(request.reachedService), href: href(["http", "services", request.service]) }] : [] },
    { title: "Attempts", nodes: (request.attempts ?? []).map((one) => ({ kind: "server", text: one.server?.replace(/^\w+:\/\//, "") ?? "no server", note: one.status ? `status ${one.status}` : "no response" })) },
  ]);
}

/** Returns the question what would happen to the same request now. */
function question({ tls, method, host, path, headers, client, entryPoint }) {
  return {
    method: method === "GET" ? "" : method, url: `${tls ? "https" : "http"}://${host || "localhost"}${path?.startsWith("/") ? path : "/"}`,
    headers: (headers ?? []).join("\n"), from: client, entryPoint,
  };
}

function attempts(request) {
  if (!request.attempts?.length) return [];
  const time = (value) => (value === undefined ? "" : seconds(value));
  return [heading("Attempts"), table("Attempts", [
    ["Server", (row) => element("code", {}, row.server ?? "none")], ["Service", (row) => (row.service ? link(["http", "services", row.service], row.service) : "")],
    ["Sent after", (row) => time(row.afterMs)], ["Connecting", (row) => time(row.connectMs)], ["TLS", (row) => time(row.tlsMs)],
    ["Response after", (row) => time(row.tookMs) || "none"], ["Status", (row) => row.status ?? ""], ["Replaced by a retry", (row) => (row.replaced ? "yes" : "no")],
  ], request.attempts)];
}

function timings({ timings: known = {} }) {
  const rows = TIMES.filter(([key]) => known[key] !== undefined);
  return [heading("Times"), table("Times, counted from the complete request head", [["What", ([, text]) => text], ["Time", ([key]) => seconds(known[key])]], rows)];
}

const middlewares = (request) => (request.middlewares?.length ? table("Middlewares", [
  ["Middleware", (row) => link(["http", "middlewares", row.name], row.name)], ["Reached", (row) => (row.reached ? "yes" : element("span", { class: "quiet" }, "no"))],
], request.middlewares) : undefined);

/** Shows one request. */
export async function request(id) {
  const breadcrumb = element("span", { class: "quiet" }, link(["requests"], "Requests"), " / ");
  let shown;
  try {
    shown = await get("requests", id);
  } catch (error) {
    if (error.status !== 404) throw error;
    return { title: `Request ${id}`, every: 0, heading: [breadcrumb, id], content: [quiet(`The gateway does not have this request, or no longer: ${error.reason}`), off()] };
  }
  const name = `${shown.method} ${shown.host}${shown.path}`;
  return {
    title: `Request ${name}`,
    // It has ended, and may be dropped while it is read.
    every: 0,
    heading: [breadcrumb, name],
    content: [
      pairs(
        ["Status", outcome(shown)], ["Response from", shown.origin], ["Why", shown.description], ["Time", moment(shown.time)], ["Duration", seconds(shown.durationMs)],
        ["Client", shown.client], ["Headers", (shown.headers ?? []).map((line) => element("div", {}, element("code", {}, line)))],
      ),
      element("p", {}, link(["explain"], "Explain this request", question(shown))),
      heading("Path of the request"), path(shown), middlewares(shown),
      ...attempts(shown), ...timings(shown),
      heading("Details"), element("div", { class: "panel padded" }, options(shown, OWN)),
    ],
  };
}
