// Recent requests as they end, and what happened to one of them.
import { get, page } from "./api.js";
import { element } from "./dom.js";
import { options } from "./options.js";
import { choice, heading, link, moment, pairs, quiet, search, table } from "./parts.js";
import { picture } from "./picture.js";
import { href, refine } from "./router.js";

const SHOWN = 100;
const KEPT = 1000;
const OWN = ["id", "time", "entryPoint", "method", "host", "path", "client", "status", "origin", "reason", "description", "router", "service", "server",
  "middlewares", "reachedService", "attempts", "headers", "durationMs"];

/** Returns milliseconds in words. */
export const seconds = (milliseconds) => (milliseconds >= 1000 ? `${(milliseconds / 1000).toFixed(2)} s` : `${milliseconds.toFixed(1)} ms`);

let kept;
/** Returns true if the gateway keeps requests. */
export async function exist() {
  try {
    kept ??= Boolean(await page(["requests"], { per_page: 1 }));
  } catch (error) {
    if (error.status !== 404) throw error;
    kept = false;
  }
  return kept;
}

/** Returns the age of a request in seconds. The clocks may differ. */
export const age = (request) => Math.max(0, (Date.now() - new Date(request.time)) / 1000);

/** Returns the requests of the last seconds and how many seconds they cover, or undefined if none are kept. */
export async function recent(seconds) {
  if (!(await exist())) return undefined;
  const { data } = await page(["requests"], { per_page: KEPT });
  // More requests than are asked for cover less time.
  const span = data.length < KEPT ? seconds : Math.min(seconds, Math.max(1, age(data.at(-1))));
  return { requests: data.filter((request) => age(request) <= span), span };
}

const outcome = (request) => element("span", { class: request.status >= 500 ? "bad" : request.status >= 400 ? "warn" : "good" },
  request.status || "none", request.reason && ` ${request.reason}`);

/** Shows recent requests. */
export async function requests(query) {
  const { data } = await page(["requests"], { search: query.search, filter: query.filter, per_page: SHOWN });
  const filter = element("input", { type: "text", id: "filter", value: query.filter ?? "", placeholder: "status >= 500", spellcheck: "false" });
  filter.addEventListener("change", () => refine({ filter: filter.value }));
  return {
    title: "Requests",
    every: query.live === "no" ? 0 : 2000,
    content: [
      element("form", { class: "filters", role: "search" }, search("Search hosts, paths and routers", query.search ?? ""),
        element("label", {}, "Expression ", filter),
        choice("Updates", "live", query.live ?? "", [["", "live"], ["no", "paused"]])),
      data.length ? table("Recent requests, newest first", [
        ["Request", (row) => link(["requests", row.id], `${row.method} ${row.host}${row.path}`)], ["Time", (row) => moment(row.time)],
        ["Status", outcome], ["Response from", (row) => row.origin], ["Router", (row) => (row.router ? link(["http", "routers", row.router], row.router) : "")],
        ["Duration", (row) => seconds(row.durationMs)],
      ], data) : quiet("No requests fit."),
    ],
  };
}

function path(request) {
  const reached = (yes) => (yes ? "reached" : "not reached");
  return picture("The path of this request", [
    { title: "Entry point", nodes: [{ kind: "entry point", text: request.entryPoint, href: href(["entrypoints", request.entryPoint]) }] },
    { title: "Router", nodes: [request.router ? { kind: "router", text: request.router, href: href(["http", "routers", request.router]) } : { kind: "router", text: "none fits" }] },
    ...(request.middlewares ?? []).map((one, at) => ({ title: `Middleware ${at + 1}`, nodes: [{ kind: "middleware", text: one.name, note: reached(one.reached), href: href(["http", "middlewares", one.name]) }] })),
    { title: "Service", nodes: request.service ? [{ kind: "service", text: request.service, note: reached(request.reachedService), href: href(["http", "services", request.service]) }] : [] },
    { title: "Attempts", nodes: (request.attempts ?? []).map((one) => ({ kind: "server", text: one.server ?? "no server", note: one.status ? `status ${one.status}` : "no response" })) },
  ]);
}

/** Shows one request. */
export async function request(id) {
  const shown = await get("requests", id);
  const name = `${shown.method} ${shown.host}${shown.path}`;
  return {
    title: `Request ${name}`,
    heading: [element("span", { class: "quiet" }, link(["requests"], "Requests"), " / "), name],
    content: [
      pairs(
        ["Status", outcome(shown)], ["Response from", shown.origin], ["Why", shown.description], ["Time", moment(shown.time)], ["Duration", seconds(shown.durationMs)],
        ["Client", shown.client], ["Attempts", shown.attempts?.length ? table("Attempts", [
          ["Server", (row) => row.server ?? "none"], ["After", (row) => seconds(row.afterMs)], ["Connecting", (row) => (row.connectMs === undefined ? "" : seconds(row.connectMs))],
          ["Response", (row) => (row.tookMs === undefined ? "none" : seconds(row.tookMs))], ["Status", (row) => row.status ?? ""],
        ], shown.attempts) : undefined],
        ["Headers", (shown.headers ?? []).map((line) => element("div", {}, element("code", {}, line)))],
      ),
      heading("Path of the request"), path(shown),
      heading("Details"), element("div", { class: "panel padded" }, options(shown, OWN)),
    ],
  };
}
