// Shows what the API says. Everything is put into the page as text, never as markup.
const api = document.body.dataset.api;
const view = document.getElementById("view");
const search = document.getElementById("search");

const routerColumns = ["name", "status", "rule", "using", "service", "middlewares", "priorityStr"];
const tabs = {
  Overview: overview,
  Routers: () => lists(["http/routers", routerColumns]),
  Services: () => lists(["http/services", ["name", "status", "type", "serverStatus", "usedBy"]]),
  Middlewares: () => lists(["http/middlewares", ["name", "status", "type", "usedBy"]]),
  "TCP and UDP": () => lists(
    ["tcp/routers", ["name", "status", "rule", "using", "service"], "TCP routers"],
    ["tcp/services", ["name", "status", "type", "usedBy"], "TCP services"],
    ["tcp/middlewares", ["name", "status", "type", "usedBy"], "TCP middlewares"],
    ["udp/routers", ["name", "status", "using", "service"], "UDP routers"],
    ["udp/services", ["name", "status", "type", "usedBy"], "UDP services"],
  ),
  Cluster: cluster,
  Problems: async () => [table((await get("problems")).data, ["kind", "name", "message", "origin"], "No problems.")],
};

const titles = {
  name: "Name", status: "Status", rule: "Rule", service: "Service", using: "Entry points", middlewares: "Middlewares", priorityStr: "Priority",
  version: "Version", since: "Since", snapshot: "Configuration", leader: "Leads", ready: "Ready", id: "Member", resolver: "Resolver", members: "Members",
  type: "Type", serverStatus: "Servers", usedBy: "Used by", address: "Address", kind: "What", message: "What is wrong", origin: "Where it stands",
};

// The largest numbers are what the gateway gives its own routers.
const internalPriority = 9e18;

const cells = {
  name: (item) => {
    const [name, provider] = split(item.name ?? "");
    return [name, ...(provider ? [element("span", `@${provider}`, { class: "provider" })] : [])];
  },
  status: (item) => [
    element("span", item.status, { class: `status ${item.status}` }),
    ...(item.error ?? []).map((error) => element("div", error, { class: `error ${item.status}` })),
  ],
  rule: (item) => [element("code", item.rule ?? "")],
  message: (item) => [element("span", item.message, { class: "disabled" })],
  origin: (item) => [element("code", item.origin)],
  priorityStr: (item) => [Number(item.priorityStr) > internalPriority ? "internal" : item.priorityStr ?? ""],
  serverStatus: (item) => Object.entries(item.serverStatus ?? {}).map(([url, state]) =>
    element("div", [element("span", state, { class: `status ${state}` }), " ", element("code", url)])),
  usedBy: (item) => (item.usedBy ?? []).map((name) => element("div", name)),
  middlewares: (item) => (item.middlewares ?? []).map((name) => element("div", name)),
};

function split(name) {
  const at = name.lastIndexOf("@");
  return at < 0 ? [name, ""] : [name.slice(0, at), name.slice(at + 1)];
}

function element(tag, content = [], attributes = {}) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...[content].flat());
  return node;
}

async function get(path) {
  const response = await fetch(`${api}/${path}`);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return { data: await response.json(), next: Number(response.headers.get("X-Next-Page") ?? 1) };
}

async function all(path) {
  const items = [];
  for (let page = 1; ;) {
    const { data, next } = await get(`${path}?page=${page}&per_page=500`);
    items.push(...data);
    if (next <= page) return items;
    page = next;
  }
}

function cell(key, item) {
  const value = item[key];
  return cells[key]?.(item) ?? [Array.isArray(value) ? value.join(", ") : String(value ?? "")];
}

function table(items, keys, none = "None.") {
  const wanted = search.value.trim().toLowerCase();
  const shown = items.filter((item) => JSON.stringify(item).toLowerCase().includes(wanted));
  if (shown.length === 0) return element("p", items.length ? "Nothing fits the search." : none, { class: "quiet" });
  const head = element("tr", keys.map((key) => element("th", titles[key] ?? key, { scope: "col" })));
  const body = shown.map((item) => element("tr", keys.map((key) => element("td", cell(key, item)))));
  return element("div", element("table", [element("thead", head), element("tbody", body)]), { class: "panel" });
}

async function lists(...wanted) {
  const items = await Promise.all(wanted.map(([path]) => all(path)));
  return wanted.flatMap(([, keys, title], i) => [...(title ? [element("h2", title)] : []), table(items[i], keys)]);
}

function card(title, number, lines, tab) {
  return element("a", [title, element("b", String(number)), ...lines], { class: "card", href: `#${encodeURIComponent(tab)}` });
}

function count(number, word, state) {
  return element("div", `${number} ${word}${number === 1 ? "" : "s"}`, { class: number ? state : "quiet" });
}

async function overview() {
  const [{ data }, { data: wrong }, points] = await Promise.all([get("overview"), get("problems"), all("entrypoints")]);
  const cards = [];
  for (const family of ["http", "tcp", "udp"]) {
    for (const [group, { total, errors, warnings }] of Object.entries(data[family])) {
      if (total === 0 && family !== "http") continue;
      const tab = family === "http" ? group[0].toUpperCase() + group.slice(1) : "TCP and UDP";
      cards.push(card(`${family.toUpperCase()} ${group}`, total, [count(errors, "error", "disabled"), count(warnings, "warning", "warning")], tab));
    }
  }
  const told = wrong.length ? element("div", "see where they stand", { class: "disabled" }) : element("div", "all is well", { class: "enabled" });
  cards.push(card("Problems", wrong.length, [told], "Problems"));
  const providers = (data.providers ?? []).map((name) => element("div", name, { class: "card" }));
  return [
    element("div", cards, { class: "cards" }),
    element("h2", "Entry points"),
    table(points, ["name", "address"]),
    element("h2", "Providers"),
    providers.length ? element("div", providers, { class: "cards" }) : element("p", "None.", { class: "quiet" }),
  ];
}

async function cluster() {
  const { data } = await get("cluster");
  const told = data.store
    ? [`Members meet in ${data.store}. `, data.connected ? "" : element("span", data.error || "Not reached yet.", { class: "disabled" })]
    : ["This gateway is alone."];
  const same = data.sameConfiguration ? element("span", "All serve the same configuration.", { class: "enabled" })
    : element("span", "Configurations differ.", { class: "warning" });
  const members = data.members.map((member) => ({ ...member, leader: member.leader ? "yes" : "", ready: member.ready ? "yes" : "no",
    id: member.self ? `${member.id} (this one)` : member.id }));
  const certificates = data.certificates ?? [];
  return [
    element("p", [...told, " ", same]),
    table(members, ["id", "address", "version", "since", "snapshot", "ready", "leader"]),
    ...(certificates.length ? [element("h2", "Certificates are ordered by"), table(certificates, ["resolver", "leader", "since", "members"])] : []),
  ];
}

async function badge() {
  const { data } = await get("problems");
  const tab = document.querySelector("#tabs a:last-child");
  tab.replaceChildren("Problems", ...(data.length ? [element("b", String(data.length))] : []));
}

let turn = 0;
async function show() {
  const current = Object.keys(tabs).find((name) => `#${encodeURIComponent(name)}` === location.hash) ?? "Overview";
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.hash === `#${encodeURIComponent(current)}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const mine = ++turn;
  let content;
  try {
    [content] = await Promise.all([tabs[current](), badge()]);
  } catch (error) {
    content = [element("p", String(error), { class: "disabled" })];
  }
  // A later click may have been answered before.
  if (mine === turn) view.replaceChildren(...content);
}

document.getElementById("tabs").append(...Object.keys(tabs).map((name) => element("a", name, { href: `#${encodeURIComponent(name)}` })));
addEventListener("hashchange", show);
search.addEventListener("input", show);
setInterval(() => { if (!document.hidden) show(); }, 5000);
get("version").then(({ data }) => {
  document.getElementById("version").textContent = `Version ${data.Version}, running since ${new Date(data.startDate).toLocaleString()}`;
}).catch(() => {});
show();
