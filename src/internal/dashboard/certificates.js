// Certificates: those in use, those that resolvers have or need, and one of them.
import { get, page } from "./api.js";
import { element } from "./dom.js";
import { PER_PAGE } from "./lists.js";
import { options } from "./options.js";
import { choice, heading, left, link, moment, pager, pairs, quiet, search, stateOf, status, table } from "./parts.js";

const OWN = ["name", "status", "notAfter", "notBefore", "sans", "commonName"];
const tone = (time) => (new Date(time) < Date.now() ? "bad" : new Date(time) - Date.now() < 30 * 86_400_000 ? "warn" : "quiet");
const names = (all) => (all ?? []).map((name) => element("div", {}, element("code", {}, name)));
const issuer = (item) => item.issuerOrg || item.issuerCN || "";
const until = (time) => (time ? [moment(time), " ", element("span", { class: tone(time) }, left(time))] : "");

function resolvers(rows) {
  if (rows.length === 0) return [];
  return [heading("From resolvers"), table("Certificates from resolvers", [
    ["Names", (row) => names(row.names)], ["Resolver", (row) => row.resolver], ["Valid until", (row) => until(row.notAfter) || "none yet"],
    ["Next attempt", (row) => moment(row.next)], ["Error", (row) => element("span", { class: "bad" }, row.error || "")],
  ], rows)];
}

const STATES = [["", "all"], ["enabled", "enabled"], ["warning", "warning"], ["expired", "expired"]];

/** Shows the certificates. */
export async function certificates(query) {
  const number = Number(query.page) || 1;
  const [{ data, next }, rows] = await Promise.all([page(["certificates"], { ...query, page: number, per_page: PER_PAGE }), get("certificates", "resolvers")]);
  return {
    title: "Certificates",
    content: [
      element("form", { class: "filters", role: "search" }, search("Search names", query.search ?? ""), choice("Status", "status", query.status ?? "", STATES),
        element("span", { role: "status", class: "quiet", id: "told" }, data.length ? `${data.length} shown` : "Nothing found.")),
      data.length ? table("Certificates in use", [
        ["Name", (item) => link(["certificates", item.name], item.commonName || item.sans?.[0] || item.name.slice(0, 16))],
        ["Status", (item) => status(item.status), "status"],
        ["Names", (item) => names(item.sans)],
        ["Issuer", issuer, "issuer"],
        ["Valid until", (item) => until(item.notAfter), "validUntil"],
      ], data, query) : quiet("No certificates fit."),
      ...pager(number, next),
      ...resolvers(rows),
    ],
  };
}

/** Shows one certificate. */
export async function certificate(fingerprint) {
  const [shown, rows] = await Promise.all([get("certificates", fingerprint), get("certificates", "resolvers")]);
  const row = rows.find((one) => one.names?.length && one.names.every((name) => shown.sans?.includes(name)));
  const name = shown.commonName || shown.sans?.[0] || fingerprint.slice(0, 16);
  return {
    title: `Certificate ${name}`,
    heading: [element("span", { class: "quiet" }, link(["certificates"], "Certificates"), " / "), name],
    content: [
      pairs(
        ["Status", [status(shown.status), stateOf(shown.status)[1] === "warning" && " expires soon"]], ["Names", names(shown.sans)],
        ["Valid from", moment(shown.notBefore)], ["Valid until", until(shown.notAfter)], ["Fingerprint (SHA-256)", element("code", { class: "rule" }, fingerprint)],
        ["Resolver", row?.resolver], ["Next renewal", row && moment(row.next)], ["Error", row?.error && element("span", { class: "bad" }, row.error)],
      ),
      heading("Details"),
      element("div", { class: "panel padded" }, options(shown, OWN)),
    ],
  };
}
