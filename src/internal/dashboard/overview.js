// The overview: numbers, states, traffic, entry points, providers and features.
import { all, get } from "./api.js";
import { element } from "./dom.js";
import { GROUPS, capital, heading, link, quiet, table, title } from "./parts.js";
import { href } from "./router.js";
import { numbers, traffic } from "./statistics.js";

function count(number, word, sign, tone) {
  return element("span", { class: number ? tone : "quiet" }, element("span", { "aria-hidden": "true" }, number ? `${sign} ` : ""),
    `${number} ${word}${number === 1 ? "" : "s"}`);
}

function card(name, parts, { total, warnings, errors }) {
  return element("li", {}, element("a", { class: "card", href: href(parts) }, name, element("b", {}, total),
    count(errors, "error", "✕", "bad"), " · ", count(warnings, "warning", "!", "warn")));
}

function cards(data) {
  const shown = [];
  for (const [family, groups] of Object.entries(GROUPS)) {
    for (const group of groups) {
      const numbers = data[family]?.[group];
      if (numbers && (numbers.total > 0 || family === "http")) shown.push(card(title(family, group), [family, group], numbers));
    }
  }
  if (data.certificates) shown.push(card("Certificates", ["certificates"], data.certificates));
  return element("ul", { class: "cards" }, shown);
}

function features(data) {
  const shown = Object.entries(data.features ?? {}).map(([name, value]) => element("li", {},
    `${capital(name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`))}: `, element("strong", {}, value === true ? "on" : value || "off")));
  return element("ul", { class: "panel plain" }, shown);
}

/** Shows the overview. */
export async function overview() {
  const [data, problems, points, traffics] = await Promise.all([get("overview"), get("problems"), all(["entrypoints"]), numbers()]);
  const providers = data.providers ?? [];
  return {
    title: "Overview",
    every: 2000,
    content: [
      problems.length
        ? element("p", { class: "banner bad" }, "✕ ", link(["problems"], `${problems.length} problem${problems.length === 1 ? "" : "s"}`), " in the configuration.")
        : element("p", { class: "banner good" }, "✓ No problems."),
      cards(data),
      ...traffic(traffics),
      heading("Entry points"),
      table("Entry points", [["Name", (point) => link(["entrypoints", point.name], point.name)], ["Address", (point) => element("code", {}, point.address)]], points),
      heading("Providers"),
      providers.length ? element("ul", { class: "panel plain" }, providers.map((name) => element("li", {}, link(["providers", name], name)))) : quiet("None."),
      heading("Features"), features(data),
    ],
  };
}
