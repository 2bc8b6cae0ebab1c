// Caches of responses: what they hold and have done, and how to remove responses.
import { page } from "./api.js";
import { element } from "./dom.js";
import { button, confirm } from "./operator.js";
import { bytes, heading, link, named, pairs, quiet, split, table } from "./parts.js";
import { bars } from "./statistics.js";

const LISTED = 20;
const STEPS = 30;
const MAX_TAGS = 8;
// What the gateway adds to all requests.
const OWN = /, header x-forwarded-(host|proto|port)\b/g;
/** The outcomes of requests, and what they mean. Answered ones are those that the store has answered. */
const OUTCOMES = [
  ["hit", "a fresh response from the store", true], ["stale", "a stale response from the store", true], ["revalidated", "a stored response that the server has confirmed", true],
  ["miss", "the server has responded"], ["bypass", "the cache had no part in it"],
];

const count = (value) => (value ?? 0).toLocaleString();
const answered = (requests) => OUTCOMES.filter(([, , counts]) => counts).reduce((sum, [outcome]) => sum + (requests[outcome] ?? 0), 0);
const asked = (requests) => answered(requests) + (requests.miss ?? 0);

/** Returns the share of requests that the store has answered; `bypass` does not count. */
const rate = (requests) => (asked(requests) > 0 ? `${((answered(requests) / asked(requests)) * 100).toFixed(1)} %` : "–");

function filled({ bytes: used, maxBytes }) {
  // The disk is not open.
  if (!maxBytes) return "–";
  const share = maxBytes > 0 ? (used / maxBytes) * 100 : 0;
  return `${bytes(used)} of ${bytes(maxBytes)} (${share > 0 && share < 0.1 ? "under 0.1" : share.toFixed(1)} %)`;
}

const plain = (name) => {
  const [first, provider] = split(name);
  return [first, provider && element("span", { class: "provider" }, `@${provider}`)];
};

function problem({ disk }) {
  if (!disk) return "";
  if (disk.problem) return element("span", { class: "bad" }, `✕ ${disk.problem}`);
  return disk.ready ? element("span", { class: "good" }, "✓ ready") : element("span", { class: "warn" }, "! being read");
}

/** Returns how many responses a purge has removed, in words. */
function removed({ purged }) {
  const numbers = Object.values(purged ?? {});
  const sum = numbers.reduce((all, number) => all + number, 0);
  return sum === 1 ? "1 response was removed." : `${count(sum)} responses were removed${numbers.length > 1 ? ` from ${numbers.length} caches` : ""}.`;
}

const WHAT = { __proto__: null, url: ["URL", "the responses of the URL"], prefix: ["beginning of URLs", "all responses whose URLs begin with"], tag: ["tag", "all responses with the tag"], all: ["everything", "all responses"] };

function purge(middleware, which, value) {
  const question = `Remove ${WHAT[which][1]}${which === "all" ? "" : ` ${value}`} from ${middleware ?? "all caches"}?`;
  confirm({ title: "Purge", question, verb: "Purge", path: ["cache", "purge"], body: { middleware, [which]: which === "all" ? true : value }, told: removed });
}

/** Returns a form that removes responses from one cache, or from all. */
function purgeForm(middleware) {
  const value = element("input", { type: "text", id: "purge-value", autocomplete: "off", spellcheck: "false", required: true });
  const which = element("select", { id: "purge-which" }, Object.entries(WHAT).map(([key, [text]]) => element("option", { value: key }, text)));
  const field = element("label", {}, "Value ", value);
  which.addEventListener("change", () => {
    field.hidden = which.value === "all";
    value.required = !field.hidden;
  });
  const form = element("form", { class: "filters", id: "purge" }, element("label", {}, "Remove ", which), field, element("button", { type: "submit" }, "Purge"));
  form.addEventListener("submit", () => purge(middleware, which.value, value.value.trim()));
  return [heading("Purge"), form, quiet("A purge removes all variants from memory and disk, for all routers and clients. Each gateway has its own cache.")];
}

/** Shows the caches. */
export async function caches() {
  const { data: all } = await page(["cache"], { limit: 0 });
  return {
    title: "Caches",
    content: all.length ? [
      table("Caches", [
        ["Cache", (one) => link(["caches", one.middleware], plain(one.middleware))],
        ["Hit rate, 1 min", (one) => rate(one.recent["1m"].requests)], ["Hit rate, 5 min", (one) => rate(one.recent["5m"].requests)], ["Hit rate, total", (one) => rate(one.requests)],
        ["Requests", (one) => count(asked(one.requests) + one.requests.bypass)], ["Memory", (one) => filled(one.memory)], ["Disk", (one) => (one.disk ? filled(one.disk) : "none")], ["State of the disk", problem],
      ], all),
      ...purgeForm(undefined),
    ] : [quiet("No router has a cache (cache).")],
  };
}

function requestTable({ middleware, requests, collapsed, recent }) {
  const columns = [["1 min", recent["1m"]], ["5 min", recent["5m"]], ["Total", { requests, collapsed }]];
  const rows = [
    ["Hit rate", "share of requests that the store has answered, without bypass", (of) => rate(of.requests)],
    ...OUTCOMES.map(([outcome, meaning]) => [outcome, meaning, (of) => count(of.requests[outcome])]),
    ["collapsed", "of these, requests that have waited for the response to another one", (of) => count(of.collapsed)],
  ];
  return table(`Requests to ${middleware}`, [
    ["Outcome", ([name]) => name], ...columns.map(([title, of]) => [title, ([, , value]) => value(of)]), ["Meaning", ([, meaning]) => element("span", { class: "quiet" }, meaning)],
  ], rows);
}

function plot({ middleware, history }) {
  const steps = history.steps.slice(-STEPS);
  const lacking = Array.from({ length: STEPS - steps.length }, () => 0);
  const all = [...lacking, ...steps.map(({ requests }) => asked(requests))];
  const hits = [...lacking, ...steps.map(({ requests }) => answered(requests))];
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  if (sum(all) === 0) return quiet("No requests in the last five minutes.");
  const told = `${middleware}: ${sum(all)} requests in 5 minutes, ${sum(hits)} of them answered by the store`;
  return element("div", { class: "panel plots" }, bars(`at most ${Math.max(...all)} requests in ${history.stepSeconds} seconds`, told, "5 minutes", all, hits, "answered"),
    element("p", { class: "legend quiet" }, element("span", { class: "key requests" }), " requests ", element("span", { class: "key answered" }), ` answered by the store, per ${history.stepSeconds} seconds`));
}

function tiers({ middleware, memory, disk }) {
  const rows = [["Memory", memory], ...(disk ? [["Disk", disk]] : [])];
  return table(`What ${middleware} holds`, [
    ["Where", ([name]) => name], ["Responses", ([, tier]) => (tier.maxObjects ? `${count(tier.objects)} of ${count(tier.maxObjects)}` : count(tier.objects))],
    ["Size", ([, tier]) => filled(tier)], ["Evicted", ([, tier]) => count(tier.evictions)],
  ], rows);
}

function diskState({ disk }) {
  const wrong = (number, text) => number > 0 && element("div", { class: "warn" }, `! ${count(number)} ${text}`);
  return pairs(
    ["Folder", element("code", {}, disk.path)], ["State", problem({ disk })], ["Found at the start", count(disk.recovered)],
    ["Errors", [wrong(disk.failures, "failed writes"), wrong(disk.lost, "responses that the disk did not take"), wrong(disk.corrupt, "damaged files, which were removed")].filter(Boolean)],
  );
}

const whole = (text) => element("span", { class: "whole" }, text);
const time = (value) => (value === null || value === undefined ? "–" : `${count(value)} s`);

function object(middleware, which, rows) {
  const tags = (row) => [row.tags.slice(0, MAX_TAGS).map((tag) => element("div", {}, element("code", { class: "tag" }, tag))), row.tags.length > MAX_TAGS && `and ${row.tags.length - MAX_TAGS} more`];
  return rows.length ? table(`${which} responses of ${middleware}`, [
    ["URL", (row) => [element("code", { class: "rule" }, row.url), element("div", { class: "quiet" }, row.key.slice(row.url.length).replace(OWN, "").replace(/^, /, ""))]], ["Where", (row) => row.tier], ["Size", (row) => whole(bytes(row.bytes))],
    ["Uses", (row) => count(row.uses)], ["Age", (row) => whole(time(row.age))], ["TTL", (row) => element("span", { class: row.ttl < 0 ? "warn whole" : "whole" }, row.ttl < 0 ? `stale since ${time(-row.ttl)}` : time(row.ttl))],
    ["Tags", tags], ["Actions", (row) => button("Purge", () => purge(middleware, "url", row.url), `Purge ${row.url} (${which}, ${row.tier}, ${row.key})`)],
  ], rows) : quiet("Nothing is stored.");
}

/** Shows one cache. */
export async function cache(name) {
  const { data: [one] } = await page(["cache"], { middleware: name, limit: LISTED });
  return {
    title: `Cache ${name}`,
    heading: [element("span", { class: "quiet" }, link(["caches"], "Caches"), " / "), plain(name)],
    content: [
      element("p", {}, "Middleware ", named("http", "middlewares", name)),
      heading("Requests"), plot(one), requestTable(one),
      heading("Stored"), tiers(one),
      ...(one.disk ? [heading("Disk"), diskState(one)] : []),
      heading("Largest"), object(name, "Largest", one.largest),
      heading("Hottest"), object(name, "Hottest", one.hottest),
      ...purgeForm(name),
    ],
  };
}
