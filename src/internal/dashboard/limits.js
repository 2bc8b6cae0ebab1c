// Limits of routers: what they hold, and whom they refuse most.
import { get } from "./api.js";
import { consumerLink } from "./consumers.js";
import { element } from "./dom.js";
import { heading, moment, named, quiet, table } from "./parts.js";

const MAX_OFFENDERS = 50;
const MAX_QUOTAS = 50;
const count = (value) => (value === null || value === undefined ? "" : value.toLocaleString());
const refused = (value) => element("span", { class: value > 0 ? "bad" : "quiet" }, count(value));

const family = (limit) => (limit.type === "inFlightConn" ? "tcp" : "http");
const router = (limit) => {
  // The middlewares of a service belong to no router.
  const [kind, name] = limit.router.startsWith("service ") ? ["services", limit.router.slice(8)] : ["routers", limit.router];
  return named(family(limit), kind, name);
};
const middleware = (limit) => named(family(limit), "middlewares", limit.middleware);

/** Returns the offenders of all limits and policies, the worst first. */
function offenders(limits) {
  const of = (limit, policy, list) => (list ?? []).map((one) => ({ ...one, limit, policy }));
  const all = limits.flatMap((limit) => [...of(limit, undefined, limit.offenders), ...limit.policies.flatMap((policy) => of(limit, policy, policy.offenders))]);
  return all.sort((one, other) => other.refused - one.refused).slice(0, MAX_OFFENDERS);
}

const policyTable = (limits) => table("Policies", [
  ["Policy", ({ policy }) => [policy.name, policy.mode === "shadow" && element("span", { class: "quiet" }, " (shadow)")]], ["Middleware", ({ limit }) => middleware(limit)], ["Router", ({ limit }) => router(limit)],
  ["Keys", ({ policy }) => count(policy.keys)], ["Admitted", ({ policy }) => count(policy.admitted)], ["Refused", ({ policy }) => refused(policy.mode === "shadow" ? policy.shadow : policy.refused)],
  ["Waited", ({ policy }) => count(policy.queued)], ["Exempt", ({ policy }) => count(policy.exempt)],
], limits.flatMap((limit) => limit.policies.map((policy) => ({ limit, policy }))));

const share = (row) => (row.limit ? row.used / row.limit : 0);

const quotaTable = (rows) => table("Quotas", [
  ["Consumer", (row) => consumerLink(row.consumer)], ["Key", (row) => row.key || "all"], ["Plan", (row) => row.plan],
  ["Used", (row) => element("span", { class: share(row) >= 1 ? "bad" : share(row) >= 0.8 ? "warn" : "" }, `${count(row.used)}${row.limit ? ` of ${count(row.limit)} (${Math.floor(share(row) * 100)} %)` : ""} ${row.unit}`)],
  ["Until", (row) => moment(row.end)],
], rows);

/** Shows the limits. */
export async function limits() {
  const [all, usage] = await Promise.all([get("limits"), get("usage")]);
  const worst = offenders(all);
  const quotas = usage.sort((one, other) => share(other) - share(one)).slice(0, MAX_QUOTAS);
  const policies = all.some((limit) => limit.policies.length > 0);
  return {
    title: "Limits",
    content: [
      heading("Top offenders"),
      worst.length ? table("Top offenders", [
        ["Source", (row) => element("code", {}, row.key || "(empty)")], ["Refused", (row) => refused(row.refused)],
        ["By", (row) => [middleware(row.limit), row.policy && ` policy ${row.policy.name}${row.policy.mode === "shadow" ? " (shadow)" : ""}`]], ["Router", (row) => router(row.limit)],
      ], worst) : quiet("No limit has refused anything."),
      heading("Limits"),
      all.length ? table("Limits", [
        ["Router", router], ["Middleware", middleware], ["Type", (limit) => limit.type], ["Sources", (limit) => count(limit.sources)], ["In flight", (limit) => count(limit.inFlight)],
        ["Waiting", (limit) => count(limit.waiting)], ["Refused", (limit) => (limit.refused === null ? "" : refused(limit.refused))],
      ], all) : quiet("No router has limits."),
      policies && heading("Policies"), policies && policyTable(all),
      quotas.length > 0 && heading("Quotas"), quotas.length > 0 && quotaTable(quotas),
    ],
  };
}
