// Consumers: who clients are, their keys and other credentials. The API has no secrets.
import { get, page } from "./api.js";
import { element } from "./dom.js";
import { PER_PAGE } from "./lists.js";
import { choice, errors, heading, link, moment, pager, pairs, quiet, search, split, status, table } from "./parts.js";

const STATES = [["", "all"], ["enabled", "enabled"], ["warning", "warning"], ["disabled", "disabled"]];
/** What each kind of credential is called. */
const KINDS = {
  __proto__: null,
  apiKeys: ["API key", "API keys"], jwt: ["token", "tokens"], oidc: ["login", "logins"], basicAuth: ["user of basicAuth", "users of basicAuth"],
  forwardAuth: ["user of forwardAuth", "users of forwardAuth"], certificates: ["certificate", "certificates"],
};
const EXPIRES_SOON = 14 * 86_400_000;

const plain = (name) => {
  const [first, provider] = split(name);
  return [first, provider && element("span", { class: "provider" }, `@${provider}`)];
};
export const consumerLink = (name) => link(["consumers", name], plain(name));

function credentials(item) {
  const all = Object.entries(item.credentials ?? {}).filter(([, list]) => list?.length);
  return all.length === 0 ? "none" : all.map(([kind, list]) => element("div", {}, `${list.length} ${(KINDS[kind] ?? [kind, kind])[list.length === 1 ? 0 : 1]}`));
}

/** Shows the consumers. */
export async function consumers(query) {
  const number = Number(query.page) || 1;
  const { data, next } = await page(["http", "consumers"], { ...query, page: number, per_page: PER_PAGE });
  return {
    title: "Consumers",
    content: [
      element("form", { class: "filters", role: "search" }, search("Search names", query.search ?? ""), choice("Status", "status", query.status ?? "", STATES),
        element("span", { role: "status", class: "quiet", id: "told" }, data.length ? `${data.length} shown` : "Nothing found.")),
      data.length ? table("Consumers", [
        ["Name", (item) => consumerLink(item.name), "name"], ["Status", (item) => [status(item.status), ...errors(item)], "status"],
        ["Groups", (item) => (item.groups ?? []).join(", ")], ["Plan", (item) => item.plan ?? ""], ["Credentials", credentials],
        ["Last use of a key", (item) => moment(item.lastUsed)],
      ], data, query) : quiet(number === 1 && !query.search && !query.status ? "No consumers are defined." : "No consumers fit."),
      ...pager(number, next),
    ],
  };
}

/** Returns what a key is now: a sign, a word and a tone. */
function state(key) {
  const now = Date.now();
  const [sign, word, tone] = key.state === "revoked" ? ["✕", "revoked", "bad"]
    : key.expires && new Date(key.expires) <= now ? ["✕", "expired", "bad"]
      : key.notBefore && new Date(key.notBefore) > now ? ["!", "not valid yet", "warn"]
        : key.state === "grace" ? ["!", "in grace", "warn"]
          : key.expires && new Date(key.expires) - now < EXPIRES_SOON ? ["!", "expires soon", "warn"] : ["✓", "active", "good"];
  return element("span", { class: `status ${tone}` }, element("span", { "aria-hidden": "true", class: "sign" }, sign), word);
}

const lines = (list) => (list ?? []).map((text) => element("div", {}, element("code", {}, text)));

const keyTable = (name, keys) => table(`API keys of ${name}`, [
  ["Id", (key) => (key.id ? element("code", {}, key.id) : element("span", { class: "quiet" }, "issued elsewhere"))], ["State", state], ["Label", (key) => key.label ?? ""],
  ["Valid from", (key) => moment(key.notBefore)], ["Expires", (key) => moment(key.expires)], ["Addresses", (key) => (key.allowedCIDRs?.length ? lines(key.allowedCIDRs) : "all")],
  ["Scopes", (key) => lines(key.scopes)], ["Last use", (key) => moment(key.lastUsed) || element("span", { class: "quiet" }, "none since the start")],
], keys);

/** Returns what identifies a client by a credential other than a key. */
function identifies(kind, one) {
  if (typeof one === "string") return element("code", {}, one);
  if (kind === "certificates") return [one.commonName ? "common name " : one.san ? "alternative name " : "fingerprint ", element("code", {}, one.commonName || one.san || one.sha256)];
  return [element("code", {}, one.subject ? `sub = ${one.subject}` : `${one.claim} = ${one.value}`), one.issuer && [" of ", element("code", {}, one.issuer)]];
}

function used(rows) {
  return table("Quotas", [
    ["Unit", (row) => row.unit], ["Used", (row) => (row.limit ? `${row.used} of ${row.limit} (${Math.floor((row.used / row.limit) * 100)} %)` : row.used)],
    ["Key", (row) => row.key || "all"], ["Since", (row) => moment(row.start)], ["Until", (row) => moment(row.end)],
  ], rows);
}

/** Shows one consumer. */
export async function consumer(name) {
  const [shown, { data: usage }] = await Promise.all([get("http", "consumers", name), page(["usage"], { consumer: name })]);
  const keys = shown.credentials?.apiKeys ?? [];
  const others = Object.entries(shown.credentials ?? {}).filter(([kind]) => kind !== "apiKeys").flatMap(([kind, list]) => list.map((one) => [kind, one]));
  return {
    title: `Consumer ${name}`,
    heading: [element("span", { class: "quiet" }, link(["consumers"], "Consumers"), " / "), plain(name)],
    content: [
      pairs(
        ["Status", [status(shown.status), ...errors(shown)]], ["Defined at", shown.origin && element("code", {}, shown.origin)], ["Groups", (shown.groups ?? []).join(", ")],
        ["Labels", Object.entries(shown.labels ?? {}).map(([label, value]) => element("div", {}, element("code", {}, `${label} = ${value}`)))],
        ["Plan", shown.plan], ["Last use of a key", moment(shown.lastUsed)],
      ),
      heading("API keys"), keys.length ? keyTable(name, keys) : quiet("None."),
      heading("Other credentials"), others.length ? table(`Other credentials of ${name}`, [
        ["Kind", ([kind]) => (KINDS[kind] ?? [kind])[0]], ["Identified by", ([kind, one]) => identifies(kind, one)],
      ], others) : quiet("None."),
      usage.length > 0 && heading("Quotas"), usage.length > 0 && used(usage),
    ],
  };
}
