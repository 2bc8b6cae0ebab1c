// The page of one router, service or middleware.
import { get, maybe } from "./api.js";
import { element } from "./dom.js";
import { priority } from "./lists.js";
import { maintenance } from "./maintenance.js";
import { options } from "./options.js";
import { errors, heading, link, named, pairs, qualified, quiet, split, status, title } from "./parts.js";
import { picture } from "./picture.js";
import { href } from "./router.js";
import { numbers, trafficOf } from "./statistics.js";

const OWN = ["name", "provider", "status", "error", "using", "usedBy", "serverStatus", "priorityStr", "priority", "type", "rule", "service", "middlewares", "entryPoints", "inMaintenance"];
const MAX_DEPTH = 4;
const MAX_SERVICES = 24;
const MAX_USERS = 50;

/** Returns the names of the services to which a service passes requests, with a note about each. */
function children(service) {
  const found = [];
  for (const one of service.weighted?.services ?? []) found.push([one.name, `weight ${one.weight}`]);
  for (const one of service.highestRandomWeight?.services ?? []) found.push([one.name, `weight ${one.weight}`]);
  if (service.mirroring) {
    found.push([service.mirroring.service, "responds"]);
    for (const one of service.mirroring.mirrors ?? []) found.push([one.name, `copy of ${one.percent ?? 0} %`]);
  }
  if (service.failover) found.push([service.failover.service, "first"], [service.failover.fallback, "fallback"]);
  return found.filter(([name]) => name);
}

function servers(service, from) {
  const known = service.serverStatus ?? {};
  const listed = (service.loadBalancer?.servers ?? []).map((server) => [server.url ?? server.address, server.weight]);
  const all = listed.length ? listed : Object.keys(known).map((url) => [url]);
  return all.filter(([url]) => url).map(([url, weight]) => ({ kind: "server", text: url.replace(/^\w+:\/\//, ""), state: known[url], from,
    note: [/^\w+(?=:\/\/)/.exec(url)?.[0], weight && `weight ${weight}`].filter(Boolean).join(", "),
  }));
}

/** Returns columns for a service, the services below it and their servers. */
async function below(family, name, note = "") {
  const columns = [];
  const ends = [];
  let wanted = [[name, note, undefined]];
  let budget = MAX_SERVICES;
  const seen = new Set();
  for (let depth = 0; depth < MAX_DEPTH && wanted.length && budget > 0; depth += 1) {
    wanted = wanted.filter(([one, , from]) => !seen.has(`${from} ${one}`)).slice(0, budget);
    budget -= wanted.length;
    const objects = await Promise.all(wanted.map(([one]) => maybe(family, "services", one)));
    const nodes = [];
    const following = [];
    objects.forEach((object, at) => {
      const [one, about, from] = wanted[at];
      seen.add(`${from} ${one}`);
      const key = `${depth} ${from ?? ""} ${one}`;
      nodes.push({ kind: "service", text: one, note: about || object?.type || "", state: object?.status ?? "disabled", key, from, href: object && href([family, "services", one]) });
      if (!object) return;
      for (const [child, word] of children(object)) following.push([qualified(child, one), word, key]);
      ends.push(...servers(object, key).map((server) => ({ ...server, depth })));
    });
    columns.push({ title: depth === 0 ? "Service" : "Services", nodes });
    wanted = following;
  }
  // Servers of different depths share a column; only those of the last depth can be joined to their service.
  const last = columns.length - 1;
  const text = (server) => (server.depth === last ? server : { ...server, note: `of ${split(server.from.split(" ").at(-1))[0]}` });
  columns.push({ title: "Servers", nodes: ends.map(text) });
  return columns;
}

async function routerPicture(family, name, router) {
  const middlewares = (router.middlewares ?? []).map((one) => qualified(one, name));
  const [states, after] = await Promise.all([
    Promise.all(middlewares.slice(0, MAX_SERVICES).map((one) => maybe(family, "middlewares", one))),
    router.service ? below(family, qualified(router.service, name)) : [],
  ]);
  const chain = middlewares.slice(0, MAX_SERVICES).map((one, at) => ({
    title: `Middleware ${at + 1}`,
    nodes: [{ kind: "middleware", text: one, note: states[at]?.type ?? "", state: states[at]?.status ?? "disabled", href: states[at] && href([family, "middlewares", one]) }],
  }));
  return picture(`The path of a request through ${name}`, [
    { title: "Entry points", nodes: (router.using ?? []).map((one) => ({ kind: "entry point", text: one, href: href(["entrypoints", one]) })) },
    { title: "TLS", nodes: router.tls ? [{ kind: "TLS", text: router.tls.passthrough ? "passed through" : "TLS", note: router.tls.certResolver ? `by ${router.tls.certResolver}` : router.tls.options ?? "", href: href(["certificates"]) }] : [] },
    { title: "Router", nodes: [{ kind: "router", text: name, note: router.rule ?? "", state: router.status }] },
    ...chain, ...after,
  ]);
}

async function servicePicture(family, name, service) {
  const users = (service.usedBy ?? []).map((one) => ({ kind: "router", text: one, href: href([family, "routers", one]) }));
  return picture(`The path of a request through ${name}`, [{ title: "Routers", nodes: users }, ...await below(family, name)]);
}

async function middlewarePicture(family, name, middleware) {
  const users = (middleware.usedBy ?? []).map((one) => ({ kind: "router", text: one, href: href([family, "routers", one]) }));
  return picture(`Who uses ${name}`, [{ title: "Routers", nodes: users }, { title: "Middleware", nodes: [{ kind: "middleware", text: name, note: middleware.type ?? "", state: middleware.status }] }]);
}

const PICTURES = { routers: routerPicture, services: servicePicture, middlewares: middlewarePicture };

function users(family, object) {
  const all = object.usedBy ?? [];
  const shown = all.slice(0, MAX_USERS).map((one) => element("li", {}, named(family, "routers", one)));
  return [element("ul", { class: "plain" }, shown), all.length > MAX_USERS && quiet(`and ${all.length - MAX_USERS} more`)];
}

/** Returns a question about a request that the router might get. */
function question({ rule = "", tls, using }) {
  const first = (matcher) => new RegExp(`\\b${matcher}\\(\\s*[\`"']([^\`"']+)`).exec(rule)?.[1];
  const path = first("Path") ?? first("PathPrefix") ?? "/";
  return { url: `${tls ? "https" : "http"}://${first("Host") ?? "localhost"}${path}`, entryPoint: using?.[0] };
}

/** Shows one object. */
export async function object(family, group, name) {
  const counted = family === "http" && group !== "middlewares";
  const [shown, origin, problems, found] = await Promise.all([
    get(family, group, name), maybe("origins", family, group, name), get("problems"), counted ? numbers(name) : undefined,
  ]);
  const own = problems.filter((problem) => problem.name && (problem.name === name || name.endsWith(`-${problem.name}`)) && shown.error?.includes(problem.message));
  const word = group.slice(0, -1);
  return {
    title: `${family.toUpperCase()} ${word} ${name}`,
    heading: [element("span", { class: "quiet" }, link([family, group], title(family, group)), " / "), split(name)[0], element("span", { class: "provider" }, name.includes("@") && `@${split(name)[1]}`)],
    content: [
      pairs(
        ["Status", [status(shown.status), ...errors(shown)]],
        ["Maintenance", family === "http" && group === "routers" ? maintenance(shown) : undefined],
        ["Problem at", own.map((problem) => element("div", {}, element("code", {}, problem.origin)))],
        ["Defined in", origin && element("code", {}, origin.origin)],
        ["Provider", shown.provider && shown.provider !== "internal" ? link(["providers", shown.provider], shown.provider) : shown.provider],
        ["Type", shown.type],
        ["Rule", shown.rule && element("code", { class: "rule" }, shown.rule)],
        ["Priority", priority(shown)],
        ["Entry points", (shown.using ?? []).map((one) => element("div", {}, link(["entrypoints", one], one)))],
        ["Middlewares", (shown.middlewares ?? []).map((one) => element("div", {}, named(family, "middlewares", qualified(one, name))))],
        ["Service", shown.service && named(family, "services", qualified(shown.service, name))],
        ["Used by", shown.usedBy?.length ? users(family, shown) : undefined],
      ),
      group === "routers" && family === "http" && element("p", {}, link(["explain"], "Explain a request to this router", question(shown))),
      ...(counted ? trafficOf(found, group, name) : []),
      heading(group === "middlewares" ? "Use" : "Path of a request"),
      await PICTURES[group](family, name, shown),
      heading("Options"),
      element("div", { class: "panel padded" }, options(shown, OWN)),
    ],
  };
}
