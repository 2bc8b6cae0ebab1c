// Shows the page that the address names, and keeps it current.
import { get } from "./api.js";
import { cache, caches } from "./caches.js";
import { certificate, certificates } from "./certificates.js";
import { consumer, consumers } from "./consumers.js";
import { element } from "./dom.js";
import { explain } from "./explain.js";
import { limits } from "./limits.js";
import { list } from "./lists.js";
import { object } from "./object.js";
import { overview } from "./overview.js";
import { cluster, entryPoint, problems, provider } from "./pages.js";
import { GROUPS } from "./parts.js";
import { request } from "./request.js";
import { requests } from "./requests.js";
import { current, href, redirect } from "./router.js";
import { sessions } from "./sessions.js";

const EVERY = 5000;
const view = document.getElementById("view");
const heading = document.getElementById("heading");
const product = document.title;
const links = [
  ["Overview", []], ["Routers", ["http", "routers"]], ["Services", ["http", "services"]], ["Middlewares", ["http", "middlewares"]],
  ["Consumers", ["consumers"]], ["Sessions", ["sessions"]], ["Limits", ["limits"]], ["Caches", ["caches"]], ["Certificates", ["certificates"]], ["Requests", ["requests"]], ["Explain", ["explain"]], ["Cluster", ["cluster"]], ["Problems", ["problems"]],
];
// The second key after `g`.
const KEYS = { __proto__: null, o: [], r: ["http", "routers"], s: ["http", "services"], m: ["http", "middlewares"], u: ["consumers"], n: ["sessions"], t: ["limits"], a: ["caches"], c: ["certificates"], q: ["requests"], x: ["explain"], l: ["cluster"], p: ["problems"] };

const notFound = async () => ({ title: "Not found", content: [element("p", {}, "This page does not exist. ", element("a", { href: "#/" }, "Overview"))] });

function pageOf({ parts: [first, second, third, ...more], query }) {
  if (first === undefined) return overview();
  if (more.length > 0) return notFound();
  if (GROUPS[first]?.includes(second)) return third === undefined ? list(first, second, query) : object(first, second, third);
  if (third !== undefined) return notFound();
  if (second !== undefined) return ({ __proto__: null, caches: cache, certificates: certificate, consumers: consumer, entrypoints: entryPoint, providers: provider, requests: request }[first] ?? notFound)(second);
  return ({ __proto__: null, caches, certificates, cluster, consumers, explain, limits, problems, requests, sessions }[first] ?? notFound)(query);
}

/** Marks the part of the navigation that is shown. */
function mark({ parts }) {
  for (const one of document.querySelectorAll("#tabs a")) {
    const path = one.dataset.path.split("/").filter(Boolean);
    // The lists of all protocols belong to one entry.
    const same = path.length === 2 ? parts[1] === path[1] && parts[0] in GROUPS : path.length === 1 ? parts[0] === path[0] : parts.length === 0;
    if (same) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
}

/** Returns how to find an element again after its page was rendered anew. */
function place(node) {
  if (!node || !view.contains(node)) return undefined;
  const same = (other) => (node.id ? other.id === node.id : other.tagName === node.tagName && other.getAttribute("href") === node.getAttribute("href")
    && other.getAttribute("aria-label") === node.getAttribute("aria-label"));
  return { same, selection: node.type === "search" || node.type === "text" ? [node.value, node.selectionStart, node.selectionEnd] : undefined };
}

function restore(at) {
  const node = at && [...view.querySelectorAll("a, button, input, select, textarea, [tabindex]")].find(at.same);
  if (!node) return;
  if (at.selection) {
    const [text, start, end] = at.selection;
    node.value = text;
    node.setSelectionRange(start, end);
  }
  node.focus({ preventScroll: true });
}

let turn = 0;
let shown = { address: "", parts: [] };
let timer;
let every = EVERY;
let leave;

/** Replaces the parts of the page that have changed: the others keep selections and the places of screen readers. */
function replace(result, address, moved) {
  const nodes = [...element("div", {}, result.content).childNodes];
  const parts = nodes.map((node) => node.outerHTML ?? node.data);
  // A page that keeps itself current is bound to its elements.
  const all = moved || leave || result.leave || shown.address !== address || shown.parts.length !== parts.length;
  const changed = nodes.filter((_, index) => all || shown.parts[index] !== parts[index]);
  leave?.();
  leave = result.leave;
  shown = { address, parts };
  if (changed.length === 0) return;
  const at = moved ? undefined : place(document.activeElement);
  heading.replaceChildren(...[result.heading ?? result.title].flat(Infinity).filter(Boolean));
  if (all) view.replaceChildren(...nodes);
  else nodes.forEach((node, index) => {
    if (!changed.includes(node)) return;
    const old = view.childNodes[index];
    const scrolled = old.scrollLeft;
    old.replaceWith(node);
    if (scrolled) node.scrollLeft = scrolled;
  });
  restore(at);
}

async function show({ moved = false } = {}) {
  redirect();
  const mine = ++turn;
  clearTimeout(timer);
  const address = location.hash;
  const now = current();
  mark(now);
  let result;
  try {
    result = await pageOf(now);
  } catch (error) {
    result = { title: error.status === 404 ? "Not found" : "No data", content: [element("p", { class: "banner bad", role: "alert" }, `✕ ${error.message}`)] };
  }
  // A later page may have been answered before.
  if (mine !== turn) {
    result.leave?.();
    return;
  }
  document.title = `${result.title} · ${product}`;
  replace(result, address, moved);
  view.dataset.shown = address || "#/";
  if (moved) {
    heading.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  every = result.every ?? EVERY;
  schedule();
}

/** Loads the page again after its time, unless nobody sees it. */
function schedule() {
  clearTimeout(timer);
  if (every !== 0 && !document.hidden) timer = setTimeout(refresh, every);
}

const refresh = () => Promise.all([show(), badge()]);

async function badge() {
  try {
    const { length } = await get("problems");
    document.getElementById("badge").textContent = length ? String(length) : "";
    document.getElementById("badge").hidden = length === 0;
  } catch {
    // The page itself tells that the API does not answer.
  }
}

function navigation() {
  document.getElementById("tabs").replaceChildren(...links.map(([name, path]) => element("a", { href: href(path), "data-path": path.join("/") }, name,
    name === "Problems" && element("b", { id: "badge", hidden: true }))));
}

let prefix = false;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const help = document.getElementById("help");
  if (prefix && KEYS[event.key]) location.hash = href(KEYS[event.key]);
  else if (event.key === "/" && document.getElementById("search")) {
    event.preventDefault();
    document.getElementById("search").focus();
  } else if (event.key === "?") help.open ? help.close() : help.showModal();
  prefix = event.key === "g" && !prefix;
});
document.getElementById("keys").addEventListener("click", () => document.getElementById("help").showModal());
document.getElementById("skip").addEventListener("click", (event) => {
  // The address names a page.
  event.preventDefault();
  heading.focus();
});
addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", () => show({ moved: true }));
addEventListener("refined", () => show());
document.addEventListener("visibilitychange", () => {
  // Pages that keep themselves current do this, too.
  if (document.hidden) clearTimeout(timer);
  else if (every !== 0) refresh();
});

navigation();
await Promise.all([show(), badge()]);
get("version").then((data) => {
  document.getElementById("version").textContent = `Version ${data.Version}, running since ${new Date(data.startDate).toLocaleString()}`;
}).catch(() => {});
