// Pages of entry points and providers, problems and the cluster.
import { all, get, page } from "./api.js";
import { element } from "./dom.js";
import { options } from "./options.js";
import { GROUPS, heading, link, named, pairs, quiet, search, status, table, title } from "./parts.js";
import { numbers, trafficOf } from "./statistics.js";

const MAX_ROUTERS = 100;
const LISTS = { "router": "http/routers", "service": "http/services", "middleware": "http/middlewares" };

/** Shows one entry point. */
export async function entryPoint(name) {
  const families = Object.keys(GROUPS);
  const [shown, found, ...routers] = await Promise.all([get("entrypoints", name), numbers(name), ...families.map((family) => all([family, "routers"]))]);
  const own = families.flatMap((family, at) => routers[at].filter((router) => router.using?.includes(name)).map((router) => ({ family, ...router })));
  return {
    title: `Entry point ${name}`,
    content: [
      pairs(["Address", element("code", {}, shown.address)], ["Routers", own.length]),
      ...trafficOf(found, "entryPoints", name),
      heading("Routers"),
      own.length ? table(`Routers of ${name}`, [
        ["Name", (item) => named(item.family, "routers", item.name)], ["Protocol", (item) => item.family.toUpperCase()], ["Status", (item) => status(item.status)],
        ["Rule", (item) => element("code", { class: "rule" }, item.rule ?? "")],
      ], own.slice(0, MAX_ROUTERS)) : quiet("None."),
      own.length > MAX_ROUTERS && quiet(`and ${own.length - MAX_ROUTERS} more`),
      heading("Options"), element("div", { class: "panel padded" }, options(shown, ["name", "address"])),
    ],
  };
}

/** Shows what a provider has delivered. */
export async function provider(name) {
  const suffix = `@${name.toLowerCase()}`;
  const lists = Object.entries(GROUPS).flatMap(([family, groups]) => groups.map((group) => [family, group]));
  const [problems, ...found] = await Promise.all([get("problems"), ...lists.map(([family, group]) => all([family, group], { search: suffix }))]);
  const rows = lists.map(([family, group], at) => {
    const own = found[at].filter((item) => `@${item.provider}` === suffix);
    const with_ = (state) => own.filter((item) => item.status === state).length;
    return { family, group, total: own.length, warnings: with_("warning"), errors: with_("disabled") };
  }).filter((row) => row.total > 0);
  const wrong = problems.filter((problem) => problem.name?.endsWith(suffix));
  return {
    title: `Provider ${name}`,
    content: [
      rows.length ? table(`Objects from ${name}`, [
        ["Objects", (row) => link([row.family, row.group], title(row.family, row.group), { search: suffix })], ["Total", (row) => row.total],
        ["Errors", (row) => element("span", { class: row.errors ? "bad" : "quiet" }, row.errors)],
        ["Warnings", (row) => element("span", { class: row.warnings ? "warn" : "quiet" }, row.warnings)],
      ], rows) : quiet("It has delivered no objects."),
      heading("Problems"), wrong.length ? problemTable(wrong) : quiet("No problems."),
    ],
  };
}

function about(problem) {
  const path = LISTS[problem.kind]?.split("/");
  if (!problem.name) return "";
  return [`${problem.kind} `, path ? named(...path, problem.name) : problem.name];
}

const problemTable = (rows) => table("Problems", [
  ["Object", about], ["What is wrong", (row) => element("span", { class: "bad" }, row.message)], ["Where", (row) => element("code", {}, row.origin)],
], rows);

/** Shows the problems. */
export async function problems(query) {
  const rows = await get("problems");
  const wanted = (query.search ?? "").toLowerCase();
  const shown = rows.filter((row) => Object.values(row).some((value) => String(value).toLowerCase().includes(wanted)));
  return {
    title: "Problems",
    content: [
      element("form", { class: "filters", role: "search" }, search("Search problems", query.search ?? ""),
        element("span", { role: "status", class: "quiet", id: "told" }, `${shown.length} of ${rows.length} shown`)),
      shown.length ? problemTable(shown) : quiet(rows.length ? "Nothing fits the search." : "No problems."),
    ],
  };
}

/** Shows the cluster. */
export async function cluster() {
  const { data } = await page(["cluster"]);
  const alone = !data.store;
  const yes = (value) => (value ? "yes" : "no");
  const orders = data.certificates ?? [];
  return {
    title: "Cluster",
    content: [
      element("p", {}, alone ? "This gateway is alone. " : `Members meet in ${data.store}. `,
        data.announcementsError && element("span", { class: "bad" }, `Announcements cannot be read: ${data.announcementsError} `),
        !alone && !data.connected && element("span", { class: "bad" }, `${data.error || "Not reached yet."} `),
        element("span", { class: data.sameConfiguration ? "good" : "warn" }, data.sameConfiguration ? "All serve the same configuration." : "Configurations differ.")),
      table("Members", [
        ["Member", (row) => (row.self ? `${row.id} (this one)` : row.id)], ["Address", (row) => row.address ?? ""], ["Version", (row) => row.version],
        ["Since", (row) => row.since], ["Configuration", (row) => element("code", {}, row.snapshot)], ["Ready", (row) => yes(row.ready)],
        ["Problems", (row) => row.problems ?? ""], ...(alone ? [] : [["Announcement", (row) => row.announcement]]), ["Leads", (row) => yes(row.leader)],
      ], data.members),
      ...(orders.length ? [heading("Certificates are ordered by"), table("Who orders certificates", [
        ["Resolver", (row) => row.resolver], ["Leader", (row) => row.leader ?? ""], ["Since", (row) => row.since ?? ""], ["Members", (row) => row.members],
        ["Error", (row) => element("span", { class: "bad" }, row.error ?? "")],
      ], orders)] : []),
    ],
  };
}
