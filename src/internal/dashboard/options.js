// Options of an object as nested terms.
import { element } from "./dom.js";

const MAX_ITEMS = 100;

function value(option) {
  if (Array.isArray(option)) {
    const shown = option.slice(0, MAX_ITEMS).map((item) => element("li", {}, value(item)));
    if (option.length > MAX_ITEMS) shown.push(element("li", { class: "quiet" }, `and ${option.length - MAX_ITEMS} more`));
    return element("ul", {}, shown);
  }
  if (option !== null && typeof option === "object") return options(option);
  if (typeof option === "boolean") return option ? "yes" : "no";
  return element("code", {}, String(option ?? ""));
}

/** Returns the options of an object, without these keys. */
export function options(object, without = []) {
  const shown = Object.entries(object).filter(([key]) => !without.includes(key));
  if (shown.length === 0) return element("span", { class: "quiet" }, "default");
  return element("dl", { class: "options" }, shown.map(([key, option]) => element("div", {}, element("dt", {}, key), element("dd", {}, value(option)))));
}
