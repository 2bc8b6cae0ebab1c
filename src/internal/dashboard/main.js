// Shows what the API says. Everything is put into the page as text, never as markup.
const api = document.body.dataset.api;
const view = document.getElementById("view");
const search = document.getElementById("search");

const tabs = [
  ["Overview", overview],
  ["Routers", () => table("http/routers", ["name", "status", "rule", "service", "entryPoints", "middlewares", "priorityStr"])],
  ["Services", () => table("http/services", ["name", "status", "type", "serverStatus", "usedBy"])],
  ["Middlewares", () => table("http/middlewares", ["name", "status", "type", "usedBy"])],
  ["TCP and UDP", streams],
  ["Problems", problems],
];

const titles = { name: "Name", status: "Status", rule: "Rule", service: "Service", entryPoints: "Entry points", middlewares: "Middlewares", priorityStr: "Priority", type: "Type", serverStatus: "Servers", usedBy: "Used by", using: "Entry points" };

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
  if (key === "status") {
    const parts = [element("span", value, { class: value })];
    for (const error of item.error ?? []) parts.push(element("div", error, { class: value }));
    return parts;
  }
  if (key === "serverStatus") {
    return Object.entries(value ?? {}).map(([url, state]) => element("div", [`${url} `, element("span", state, { class: state })]));
  }
  if (key === "rule") return element("code", value ?? "");
  return Array.isArray(value) ? value.join(", ") : String(value ?? "");
}

function rows(items, keys) {
  const wanted = search.value.toLowerCase();
  const shown = items.filter((item) => JSON.stringify(item).toLowerCase().includes(wanted));
  if (shown.length === 0) return element("p", "None.");
  const head = element("tr", keys.map((key) => element("th", titles[key] ?? key)));
  const body = shown.map((item) => element("tr", keys.map((key) => element("td", cell(key, item)))));
  return element("table", [element("thead", head), element("tbody", body)]);
}

async function table(path, keys) {
  return [rows(await all(path), keys)];
}

async function overview() {
  const [{ data }, points] = await Promise.all([get("overview"), all("entrypoints")]);
  const cards = [];
  for (const family of ["http", "tcp", "udp"]) {
    for (const [group, count] of Object.entries(data[family])) {
      if (count.total === 0 && family !== "http") continue;
      cards.push(element("div", [
        `${family.toUpperCase()} ${group}`,
        element("b", String(count.total)),
        element("span", `${count.errors} errors`, { class: count.errors ? "disabled" : "enabled" }),
        " · ",
        element("span", `${count.warnings} warnings`, { class: count.warnings ? "warning" : "enabled" }),
      ], { class: "card" }));
    }
  }
  return [
    element("div", cards, { class: "cards" }),
    element("h2", "Entry points"),
    rows(points, ["name", "address"]),
    element("h2", "Providers"),
    element("p", (data.providers ?? []).join(", ") || "None."),
  ];
}

async function streams() {
  const parts = [];
  for (const [title, path] of [["TCP routers", "tcp/routers"], ["TCP services", "tcp/services"], ["UDP routers", "udp/routers"], ["UDP services", "udp/services"]]) {
    const keys = path.endsWith("routers") ? ["name", "status", "rule", "service", "using"] : ["name", "status", "type", "usedBy"];
    parts.push(element("h2", title), rows(await all(path), keys));
  }
  return parts;
}

async function problems() {
  const paths = ["http/routers", "http/services", "http/middlewares", "tcp/routers", "udp/routers"];
  const lists = await Promise.all(paths.map(all));
  const bad = lists.flatMap((items, i) => items.filter((item) => item.error).map((item) => ({ kind: paths[i], ...item })));
  return [rows(bad, ["kind", "name", "status"])];
}

let shown = 0;
async function show() {
  const name = decodeURIComponent(location.hash.slice(1)) || tabs[0][0];
  const [current, render] = tabs.find(([tab]) => tab === name) ?? tabs[0];
  for (const button of document.querySelectorAll("#tabs button")) {
    button.toggleAttribute("aria-current", button.textContent === current);
    if (button.textContent === current) button.setAttribute("aria-current", "page");
  }
  const turn = ++shown;
  let content;
  try {
    content = await render();
  } catch (error) {
    content = [element("p", String(error), { class: "disabled" })];
  }
  // A later click may have been answered before.
  if (turn === shown) view.replaceChildren(...content);
}

document.getElementById("tabs").append(...tabs.map(([name]) => {
  const button = element("button", name, { type: "button" });
  button.addEventListener("click", () => { location.hash = encodeURIComponent(name); });
  return button;
}));
addEventListener("hashchange", show);
search.addEventListener("input", show);
setInterval(() => { if (!document.hidden) show(); }, 5000);
get("version").then(({ data }) => { document.getElementById("version").textContent = `Version ${data.Version}, running since ${new Date(data.startDate).toLocaleString()}`; }).catch(() => {});
show();
