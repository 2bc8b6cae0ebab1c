// Parts that several pages share.
import { element } from "./dom.js";
import { href, refine } from "./router.js";

/** What a state is called, and its sign: colour alone does not tell it. */
const STATES = {
  __proto__: null,
  enabled: ["✓", "enabled", "good"], warning: ["!", "warning", "warn"], disabled: ["✕", "disabled", "bad"], expired: ["✕", "expired", "bad"],
  maintenance: ["!", "in maintenance", "warn"],
  UP: ["✓", "up", "good"], DOWN: ["✕", "down", "bad"],
  // Of an explanation.
  up: ["✓", "up", "good"], unproven: ["!", "unproven", "warn"], refused: ["✕", "refused", "bad"], down: ["✕", "down", "bad"],
  passes: ["✓", "passes it on", "good"], responds: ["✕", "responds", "bad"], depends: ["!", "depends", "warn"], notReached: ["–", "not reached", "quiet"],
  chosen: ["✓", "chosen", "good"], matches: ["!", "matches", "warn"], fails: ["✕", "no", "quiet"],
};

/** The families with their lists. */
export const GROUPS = { __proto__: null, http: ["routers", "services", "middlewares"], tcp: ["routers", "services", "middlewares"], udp: ["routers", "services"] };

export const stateOf = (state) => STATES[state] ?? ["?", state ?? "unknown", "quiet"];

export function status(state) {
  const [sign, word, tone] = stateOf(state);
  return element("span", { class: `status ${tone}` }, element("span", { "aria-hidden": "true", class: "sign" }, sign), word);
}

export const link = (parts, text, query) => element("a", { href: href(parts, query) }, text);
export const quiet = (...content) => element("p", { class: "quiet" }, ...content);
export const heading = (text) => element("h2", {}, text);
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const title = (family, group) => `${family.toUpperCase()} ${group}`;

/** Returns name and provider. */
export function split(name) {
  const at = name.lastIndexOf("@");
  return at < 0 ? [name, ""] : [name.slice(0, at), name.slice(at + 1)];
}

/** Returns a name with the provider of the object that refers to it, if it has none of its own. */
export const qualified = (name, owner) => (name.includes("@") ? name : `${name}@${split(owner)[1]}`);

export function named(family, group, name) {
  const [first, provider] = split(name);
  return element("a", { href: href([family, group, name]) }, first, provider && element("span", { class: "provider" }, `@${provider}`));
}

/** Returns a row of a table. */
export const tableRow = (columns, row) => element("tr", { role: "row" }, columns.map(([text, cell], index) => (index === 0
  ? element("th", { role: "rowheader", scope: "row", "data-label": text }, cell(row)) : element("td", { role: "cell", "data-label": text }, cell(row)))));

/**
 * Returns a table, whose roles stay when narrow screens show its rows as blocks. A column is a title, a function that returns a row's cell, and the name by which the API sorts.
 */
export function table(caption, columns, rows, sorted = {}) {
  const head = columns.map(([text, , key]) => {
    if (!key) return element("th", { role: "columnheader", scope: "col" }, text);
    const mine = sorted.sortBy === key;
    const down = mine && sorted.direction !== "desc";
    const button = element("button", { type: "button", id: `sort-${key}` }, text, mine && element("span", { "aria-hidden": "true" }, down ? " ▲" : " ▼"));
    button.addEventListener("click", () => refine({ sortBy: key, direction: down ? "desc" : "", page: "" }));
    return element("th", { role: "columnheader", scope: "col", "aria-sort": mine ? (down ? "ascending" : "descending") : "none" }, button);
  });
  const body = rows.map((row) => tableRow(columns, row));
  return element("div", { class: "panel", role: "region", "aria-label": caption, tabindex: "0" }, element("table", { role: "table" },
    element("caption", { class: "unseen" }, caption), element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, head)), element("tbody", { role: "rowgroup" }, body)));
}

/** Returns pairs of terms and descriptions, without empty ones. */
export function pairs(...all) {
  const shown = all.filter(([, content]) => content !== undefined && content !== "" && content !== null && content?.length !== 0);
  return element("dl", { class: "panel pairs" }, shown.map(([term, content]) => element("div", {}, element("dt", {}, term), element("dd", {}, content))));
}

/** Returns a list of errors, in the tone of the state. */
export const errors = (object) => (object.error?.length
  ? [element("ul", { class: `errors ${stateOf(object.status)[2]}` }, object.error.map((text) => element("li", {}, text)))] : []);

/** Returns a field that searches while one types. */
export function search(label, value) {
  const input = element("input", { type: "search", id: "search", value, "aria-keyshortcuts": "/" });
  let timer;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => refine({ search: input.value, page: "" }), 150);
  });
  return element("label", {}, label, " ", input);
}

export function choice(label, name, value, options) {
  const select = element("select", { id: `choice-${name}` }, options.map(([key, text]) => element("option", { value: key, selected: key === value }, text)));
  select.addEventListener("change", () => refine({ [name]: select.value, page: "" }));
  return element("label", {}, label, " ", select);
}

/** Returns links to the pages before and after. */
export function pager(number, next) {
  const to = (page, text, id) => {
    const button = element("button", { type: "button", id }, text);
    button.addEventListener("click", () => refine({ page: page === 1 ? "" : String(page) }));
    return button;
  };
  if (number === 1 && next <= number) return [];
  return [element("nav", { class: "pager", "aria-label": "Pages" }, number > 1 && to(number - 1, "Previous", "previous"),
    element("span", {}, `Page ${number}`), next > number && to(next, "Next", "next"))];
}

/** Returns days until a time, in words. */
export function left(time) {
  const days = Math.floor((new Date(time) - Date.now()) / 86_400_000);
  return days < 0 ? "expired" : days === 1 ? "1 day left" : `${days} days left`;
}

/** Returns milliseconds in words. */
export const seconds = (milliseconds) => (milliseconds >= 1000 ? `${(milliseconds / 1000).toFixed(2)} s` : `${milliseconds.toFixed(1)} ms`);

/** Returns a number of bytes in words. */
export function bytes(number) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const unit = number < 1024 ? 0 : Math.min(Math.floor(Math.log2(number) / 10), units.length - 1);
  return unit === 0 ? `${number} bytes` : `${(number / 1024 ** unit).toFixed(1)} ${units[unit]}`;
}

/** Returns the names of routers inside each other, which the API joins by an arrow. */
export const nested = (names) => (names ?? "").split(" -> ").filter(Boolean);

export const moment = (time) => (time ? element("time", { datetime: time }, new Date(time).toLocaleString()) : "");
