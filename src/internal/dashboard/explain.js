// What would happen to a request: a form, and the answer as a picture and tables.
import { all, ask } from "./api.js";
import { element } from "./dom.js";
import { errors, heading, left, link, moment, named, pairs, quiet, status, table } from "./parts.js";
import { picture } from "./picture.js";
import { href, refine } from "./router.js";

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const MAX_CHAIN = 24;
const MAX_DEPTH = 4;
const CHOSEN_BY = { __proto__: null, given: "as asked", port: "listens on the port of the URL", guess: "a guess: no entry point listens on the port of the URL" };

/** Returns a link to an object, if its name has a provider: others are not listed. */
const linked = (group, name) => (name?.includes("@") ? named("http", group, name) : name ?? "");
const to = (group, name) => (name?.includes("@") ? href(["http", group, name]) : undefined);
const origin = (text) => (text ? element("code", {}, text) : "");

const field = (label, input, size) => element("div", { class: size }, element("label", { for: input.id }, label), input);

function form(query, points) {
  const text = (id, value, more) => element("input", { type: "text", id, value, autocomplete: "off", spellcheck: "false", ...more });
  const names = points.filter((point) => !point.address?.endsWith("/udp")).map((point) => point.name);
  if (query.entryPoint && !names.includes(query.entryPoint)) names.push(query.entryPoint);
  const inputs = {
    method: text("explain-method", query.method || "GET", { list: "methods" }),
    url: text("explain-url", query.url ?? "", { placeholder: "https://app.example/path", inputmode: "url", required: true }),
    headers: element("textarea", { id: "explain-headers", rows: 3, spellcheck: "false", placeholder: "Accept: text/html" }, query.headers ?? ""),
    from: text("explain-from", query.from ?? "", { placeholder: "127.0.0.1" }),
    entryPoint: element("select", { id: "explain-entry-point" }, ["", ...names].map((name) => element("option", { value: name, selected: name === (query.entryPoint ?? "") }, name || "by the URL"))),
  };
  const shown = element("form", { class: "panel padded question", id: "question" },
    field("Method", inputs.method), field("URL", inputs.url, "double"), field("Client's address", inputs.from), field("Entry point", inputs.entryPoint),
    field("Headers, one per line", inputs.headers, "wide"),
    element("datalist", { id: "methods" }, METHODS.map((name) => element("option", { value: name }))),
    element("div", {}, element("button", { type: "submit", id: "ask" }, "Explain")));
  shown.addEventListener("submit", () => {
    const values = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]));
    refine({ ...values, method: values.method === "GET" ? "" : values.method });
  });
  return shown;
}

/** Returns the headers of a text with one per line, or throws what is wrong with it. */
function headersOf(text) {
  const found = new Map();
  for (const line of text.split("\n").map((one) => one.trim()).filter(Boolean)) {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error("invalid header: expected `Name: value` in each line");
    const name = line.slice(0, colon).trim();
    found.set(name, [...found.get(name) ?? [], line.slice(colon + 1).trim()]);
  }
  return Object.fromEntries(found);
}

async function answer({ method, url, headers, from, entryPoint }) {
  // A body, since access logs contain queries.
  const body = JSON.stringify({ method: method || undefined, url, headers: headersOf(headers ?? ""), from: from || undefined, entryPoint: entryPoint || undefined });
  return (await ask(["explain"], {}, { method: "POST", headers: { "Content-Type": "application/json" }, body })).json();
}

function who({ origin: by, response, service }) {
  const [kind, name] = by.includes(":") ? [by.slice(0, by.indexOf(":")), by.slice(by.indexOf(":") + 1)] : [by, ""];
  if (kind === "server") return ["A server of ", linked("services", service), " responds."];
  if (kind === "middleware") return ["The middleware ", linked("middlewares", name), " responds"];
  if (kind === "tcpRouter") return ["The TCP router ", name.includes("@") ? named("tcp", "routers", name) : name, " gets the connection."];
  if (kind === "handshake") return ["The TLS handshake fails."];
  return [response ? "The gateway responds" : "A service of the gateway responds."];
}

function summary({ result }) {
  const { response } = result;
  const isGood = response ? response.status < 400 : result.origin !== "handshake";
  return [
    element("p", { class: `banner ${isGood ? "good" : "bad"}`, role: "status", id: "result" },
      isGood ? "✓ " : "✕ ", who(result),
      response && [` with ${response.status}`, response.reason && `, ${response.reason}`, response.description ? `: ${response.description}` : ".", response.location && ` It redirects to ${response.location}.`]),
    ...(result.revised ?? []).map((text) => quiet(text)),
    !result.certain && element("p", { class: "warn" }, `! This is not certain: it depends on ${(result.dependsOn ?? []).join(", ") || "more than the request"}.`),
  ];
}

const verdictNote = (one) => (one.verdict === "responds" && one.response ? `responds with ${one.response.status}` : { __proto__: null, passes: "passes it on", depends: "depends", notReached: "not reached" }[one.verdict] ?? one.verdict);

function chain(middlewares, title) {
  const columns = middlewares.slice(0, MAX_CHAIN).map((one, at) => ({
    title: `${title} ${at + 1}`,
    nodes: [{ kind: "middleware", text: one.name, note: verdictNote(one), state: one.verdict, href: to("middlewares", one.name) }],
  }));
  if (middlewares.length > MAX_CHAIN) columns.push({ title, nodes: [{ kind: "middleware", text: `and ${middlewares.length - MAX_CHAIN} more` }] });
  return columns;
}

/** Returns columns for a service, those below it and its servers: what is next comes first. */
function destination(service, depth = 0) {
  if (!service || depth >= MAX_DEPTH) return [];
  const first = (list) => [...list ?? []].sort((one, other) => Number(other.next) - Number(one.next));
  const next = (item, text) => [item.next && "next", text].filter(Boolean).join(", ");
  const child = service.services?.find((one) => one.next && one.service);
  const own = depth === 0 ? [{ title: "Service", nodes: [{ kind: "service", text: service.name, note: service.kind, href: to("services", service.name) }] }] : [];
  const columns = [...own, ...chain(service.middlewares ?? [], "Of the service")];
  if (service.services?.length) {
    columns.push({ title: "Services", nodes: first(service.services).map((one) => ({ kind: "service", text: one.name, note: next(one, one.role), state: one.up ? "up" : "down", key: one.name, href: to("services", one.name) })) });
    const [following, ...rest] = destination(child?.service, depth + 1);
    // Only what is next is explained further.
    if (following) columns.push({ ...following, nodes: following.nodes.map((node) => ({ ...node, from: child.name })) }, ...rest);
  }
  if (service.servers?.length) {
    columns.push({ title: "Servers", nodes: first(service.servers).map((one) => ({ kind: "server", text: one.url.replace(/^\w+:\/\//, ""), note: next(one, `weight ${one.weight}`), state: one.state })) });
  }
  return columns;
}

function drawn({ entryPoint, tls, routing, service, request }) {
  const levels = routing.flatMap(({ router }) => [
    { title: "Router", nodes: [router ? { kind: "router", text: router.name, state: router.status, href: to("routers", router.name) } : { kind: "router", text: "none matches", state: "fails" }] },
    ...chain(router?.middlewares ?? [], "Middleware"),
  ]);
  return picture(`The path of ${request.method} ${request.url}`, [
    { title: "Entry point", nodes: [{ kind: "entry point", text: entryPoint.name, note: entryPoint.address, href: href(["entrypoints", entryPoint.name]) }] },
    { title: "TLS", nodes: tls ? [{ kind: "TLS", text: tls.serverName ?? "no server name", note: `options ${tls.options}`, href: href(["certificates"]) }] : [] },
    ...levels, ...destination(service),
  ]);
}

const condition = ({ failed }) => (failed ? [element("code", {}, failed.condition), ` (${failed.because})`] : "");

function candidates(routing) {
  return routing.flatMap(({ candidates: found, omitted }, level) => [
    heading(level === 0 ? "Routers" : `Routers below, level ${level + 1}`),
    found.length ? table(`Routers in the order of evaluation${level ? `, level ${level + 1}` : ""}`, [
      ["Router", (row) => linked("routers", row.router)], ["Priority", (row) => row.priority],
      ["Result", (row) => [status(row.chosen ? "chosen" : row.matches ? "matches" : "fails"), " ", condition(row)]],
      ["Rule", (row) => element("code", { class: "rule" }, row.rule)], ["Defined in", (row) => origin(row.origin)],
    ], found) : quiet("No router of this entry point is a candidate."),
    omitted > 0 && quiet(`and ${omitted} more, none of which matches`),
  ]);
}

function effects({ notes, changes, response }) {
  const { path, host, requestHeaders, removedRequestHeaders, responseHeaders } = changes ?? {};
  return [
    response && [`${response.status}`, response.reason && `, ${response.reason}`, response.description && `: ${response.description}`, response.location && `, to ${response.location}`].filter(Boolean).join(""),
    ...notes ?? [],
    path && `path ${path.from} becomes ${path.to}`, host && `host ${host.from} becomes ${host.to}`,
    requestHeaders && `sets request headers ${requestHeaders.join(", ")}`, removedRequestHeaders && `removes request headers ${removedRequestHeaders.join(", ")}`,
    responseHeaders && `sets response headers ${responseHeaders.join(", ")}`,
  ].filter(Boolean).map((text) => element("div", {}, text));
}

function middlewareTable(caption, rows) {
  if (!rows?.length) return [];
  return [table(caption, [
    ["Middleware", (row) => [linked("middlewares", row.name), row.via?.length > 0 && element("div", { class: "quiet" }, `part of ${row.via.join(", ")}`)]],
    ["Type", (row) => row.kind], ["Verdict", (row) => status(row.verdict)], ["What it does", effects], ["Defined in", (row) => origin(row.origin)],
  ], rows)];
}

function routerDetails(routing) {
  const found = routing.map(({ router }) => router).filter(Boolean);
  return found.flatMap((router) => [
    router.errors?.length > 0 && errors({ error: router.errors, status: router.status }),
    ...(router.middlewares.length ? [heading(found.length > 1 ? `Middlewares of ${router.name}` : "Middlewares")] : []),
    ...middlewareTable(`Middlewares of ${router.name}`, router.middlewares),
  ]).flat();
}

/** Returns a service and what is next below it. */
function serviceDetails(service, depth = 0) {
  if (!service || depth >= MAX_DEPTH) return [];
  const choice = { __proto__: null, next: "", random: "The next one is chosen at random.", none: "None is usable." }[service.choice] ?? "";
  const next = (row) => (row.next ? element("strong", {}, "next") : "");
  const child = service.services?.find((one) => one.next && one.service);
  return [
    heading(`Service ${service.name}`),
    pairs(["Service", linked("services", service.name)], ["Type", service.kind], ["Defined in", origin(service.origin)], ["Choice", choice]),
    ...middlewareTable(`Middlewares of the service ${service.name}`, service.middlewares),
    service.services?.length > 0 && table(`Services of ${service.name}`, [
      ["Service", (row) => linked("services", row.name)], ["Role", (row) => row.role], ["State", (row) => status(row.up ? "up" : "down")], ["Next", next],
    ], service.services),
    service.servers?.length > 0 && table(`Servers of ${service.name}`, [
      ["Server", (row) => element("code", {}, row.url)], ["State", (row) => status(row.state)], ["Weight", (row) => row.weight], ["In flight", (row) => row.inFlight], ["Next", next],
    ], service.servers),
    service.omitted > 0 && quiet(`and ${service.omitted} more`),
    ...serviceDetails(child?.service, depth + 1),
  ];
}

function connection({ request, entryPoint, tls, forwarded }) {
  const { certificate } = tls ?? {};
  return [
    heading("Connection"),
    pairs(
      ["Request", `${request.method} ${request.url} from ${request.from}`], ["As routers see it", `host ${request.host}, path ${request.path}`],
      ["Entry point", [link(["entrypoints", entryPoint.name], entryPoint.name), ` ${entryPoint.address}, ${CHOSEN_BY[entryPoint.chosenBy] ?? ""}`]],
      ["TLS options", tls && [tls.options, " ", origin(tls.optionsOrigin)]], ["Client certificate", tls?.clientCertificate],
      ["Certificate", certificate && [link(["certificates", certificate.fingerprint], certificate.names.join(", ") || certificate.fingerprint.slice(0, 16)), ` (${certificate.source}) `, moment(certificate.notAfter), ` ${left(certificate.notAfter)} `, origin(certificate.origin)]],
      ["About TLS", tls?.notes?.map((text) => element("div", {}, text))],
      ["Server gets", forwarded && `${forwarded.method} ${forwarded.path} for host ${forwarded.host}`],
    ),
  ];
}

/** Shows what would happen to the request of the query. */
export async function explain(query) {
  const title = "Explain a request";
  const points = await all(["entrypoints"]);
  const intro = quiet("Shows what the gateway would do with a request, without sending it. The question is part of the address of this page: leave out secrets before you pass it on.");
  const page = (...content) => ({ title, every: 0, content: [intro, form(query, points), ...content] });
  if (!query.url) return page();
  try {
    const explained = await answer(query);
    return page(...summary(explained), drawn(explained), ...candidates(explained.routing), ...routerDetails(explained.routing), ...serviceDetails(explained.service), ...connection(explained));
  } catch (error) {
    // An invalid question is corrected in the form.
    return page(element("p", { class: "banner bad", role: "alert", id: "result" }, `✕ ${error.reason ?? error.message}`));
  }
}
