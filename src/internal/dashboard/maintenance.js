// The maintenance of a router, and the button that switches it.
import { element } from "./dom.js";
import { button, confirm } from "./operator.js";
import { quiet, status } from "./parts.js";

/** Returns what a switch does not do, if anything. */
function told({ router, switched, active, durable, problem }) {
  const missing = [
    !active && "It is not active yet: the configuration is being compiled.",
    problem ?? (switched && !durable && "A restart of the gateway ends it: providers.lastState.directory is not set."),
  ].filter(Boolean);
  return missing.length ? [`${router} is ${switched ? "in" : "no longer in"} maintenance.`, ...missing].join(" ") : undefined;
}

function field(id, text, example) {
  const input = element("input", { type: "text", id: `maintenance-${id}`, placeholder: example, autocomplete: "off", spellcheck: "false" });
  return [input, element("label", {}, `${text} `, input)];
}

function switchOn(router) {
  const [retryAfter, retryAfterLabel] = field("retry-after", "Retry-After", "10m");
  const [allow, allowLabel] = field("allow", "Except for", "10.0.0.0/8, 192.0.2.7");
  const [lasts, lastsLabel] = field("for", "Ends after", "2h");
  const body = () => ({
    retryAfter: retryAfter.value.trim() || undefined, for: lasts.value.trim() || undefined,
    allow: allow.value.split(/[\s,]+/).filter(Boolean),
  });
  confirm({
    title: "Maintenance", question: `Answer all requests to ${router} with 503? All fields are optional.`, verb: "Switch on",
    path: ["maintenance", router], method: "PUT", body, told,
    fields: element("div", { class: "filters" }, retryAfterLabel, allowLabel, lastsLabel),
  });
}

const switchOff = (router) => confirm({ title: "Maintenance", question: `Send requests to ${router} to its service again?`, verb: "Switch off", path: ["maintenance", router], method: "DELETE", body: {}, told });

function described({ source, by, since, until, allow = [] }) {
  const who = source === "switch" ? `switched by ${by || "an operator"} at ${since}` : "by its configuration";
  return [status("maintenance"), quiet([who, until && `until ${until}`, allow.length && `except for ${allow.join(", ")}`].filter(Boolean).join(", "))];
}

/** Returns what is known about the maintenance of a router, with a button that switches it. */
export function maintenance({ name, provider, inMaintenance }) {
  // The gateway's own routers cannot be switched.
  if (provider === "internal") return undefined;
  if (!inMaintenance) return button("Switch on", () => switchOn(name), `Switch maintenance of ${name} on`);
  // What the configuration has switched on ends there.
  const isSwitched = inMaintenance.source === "switch";
  return [described(inMaintenance), isSwitched && button("Switch off", () => switchOff(name), `Switch maintenance of ${name} off`)];
}
