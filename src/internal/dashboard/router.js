// The address of a page is the part after `#`: a path, and a query with search, filters, order and page.
const OLD = {
  __proto__: null,
  Overview: "/", Routers: "/http/routers", Services: "/http/services", Middlewares: "/http/middlewares",
  "TCP and UDP": "/tcp/routers", Cluster: "/cluster", Problems: "/problems",
};

// Names may contain anything, and `@` stays readable.
const encode = (part) => encodeURIComponent(part).replaceAll("%40", "@");

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Returns the address of a page. Empty values are left out. */
export function href(parts, query = {}) {
  const values = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined && value !== null);
  const text = new URLSearchParams(values).toString();
  return `#/${parts.map(encode).join("/")}${text ? `?${text}` : ""}`;
}

/** Returns the parts of the current path, and its query. */
export function current() {
  const text = location.hash.slice(1);
  const [path, query = ""] = [text.split("?", 1)[0], text.includes("?") ? text.slice(text.indexOf("?") + 1) : ""];
  return { parts: path.split("/").filter(Boolean).map(decode), query: Object.fromEntries(new URLSearchParams(query)) };
}

/** Replaces an address of the former dashboard. */
export function redirect() {
  const now = OLD[decode(location.hash.slice(1))];
  if (now) history.replaceState(null, "", `#${now}`);
}

/** Changes values of the query, without a new entry in the history. */
export function remember(changes) {
  const { parts, query } = current();
  history.replaceState(null, "", href(parts, { ...query, ...changes }));
}

/** Changes values of the query, and shows the page. */
export function refine(changes) {
  remember(changes);
  dispatchEvent(new Event("refined"));
}
