// Lists of routers, services and middlewares, and of certificates: searched, sorted and paged by the API.
import { page } from "./api.js";
import { element } from "./dom.js";
import { GROUPS, choice, errors, named, pager, qualified, quiet, search, stateOf, status, table, title } from "./parts.js";
import { href } from "./router.js";

export const PER_PAGE = 50;
// The largest numbers are what the gateway gives its own routers.
const INTERNAL_PRIORITY = 9e18;
const MAX_SERVERS = 5;

const name = (family, group) => ["Name", (item) => named(family, group, item.name), "name"];
const state = ["Status", (item) => [status(item.status), ...errors(item)], "status"];
const type = ["Type", (item) => item.type ?? "", "type"];

function servers(item) {
  const known = Object.entries(item.serverStatus ?? {});
  // The API has no states of UDP servers.
  const all = known.length ? known : (item.loadBalancer?.servers ?? []).map((server) => [server.url ?? server.address]);
  const shown = all.slice(0, MAX_SERVERS).map(([url, health]) => element("div", {}, health && [status(health), " "], element("code", {}, url)));
  if (all.length > MAX_SERVERS) {
    const down = all.filter(([, health]) => health === "DOWN").length;
    shown.push(element("div", { class: "quiet" }, `and ${all.length - MAX_SERVERS} more; ${down} of ${all.length} down`));
  }
  return shown;
}

const users = (family) => ["Used by", (item) => (item.usedBy ?? []).slice(0, MAX_SERVERS).map((router) => element("div", {}, named(family, "routers", router)))
  .concat(item.usedBy?.length > MAX_SERVERS ? [element("div", { class: "quiet" }, `and ${item.usedBy.length - MAX_SERVERS} more`)] : [])];

/** Returns the name of a priority. */
export const priority = (item) => (Number(item.priorityStr) > INTERNAL_PRIORITY ? "internal" : item.priorityStr ?? "");

function columns(family, group) {
  if (group === "services") return [name(family, group), state, type, ["Servers", servers, "servers"], users(family)];
  if (group === "middlewares") return [name(family, group), state, type, users(family)];
  return [
    name(family, group), state, ...(family === "udp" ? [] : [["Rule", (item) => element("code", { class: "rule" }, item.rule ?? ""), "rule"]]),
    ["Entry points", (item) => (item.using ?? []).join(", "), "entryPoints"],
    ["Service", (item) => (item.service ? named(family, "services", qualified(item.service, item.name)) : ""), "service"],
    ...(family === "udp" ? [] : [["Middlewares", (item) => (item.middlewares ?? []).map((one) => element("div", {}, named(family, "middlewares", qualified(one, item.name))))],
      ["Priority", priority, "priority"]]),
  ];
}

/** Returns links to the other lists of a kind. */
function families(family, group) {
  return element("nav", { class: "tabs", "aria-label": "Protocols" }, Object.keys(GROUPS).filter((one) => GROUPS[one].includes(group)).map((one) =>
    element("a", { href: href([one, group]), "aria-current": one === family && "true" }, one.toUpperCase())));
}

const STATES = [["", "all"], ["enabled", "enabled"], ["warning", "warning"], ["disabled", "disabled"]];

/** Shows a list of objects. */
export async function list(family, group, query) {
  const number = Number(query.page) || 1;
  const asked = { ...query, page: number, per_page: PER_PAGE };
  let found;
  try {
    found = await page([family, group], asked);
  } catch (error) {
    // A page that is no more.
    if (error.status !== 400 || number === 1) throw error;
    found = { data: [], next: 1 };
  }
  const { data, next } = found;
  const told = data.length ? `${data.length} shown${query.status ? `, ${stateOf(query.status)[1]}` : ""}` : "Nothing found.";
  return {
    title: title(family, group),
    content: [
      families(family, group),
      element("form", { class: "filters", role: "search" }, search("Search names and rules", query.search ?? ""),
        choice("Status", "status", query.status ?? "", STATES), element("span", { role: "status", class: "quiet", id: "told" }, told)),
      data.length ? table(title(family, group), columns(family, group), data, query) : quiet("No objects fit."),
      ...pager(number, next),
    ],
  };
}
